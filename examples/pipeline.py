"""Fetch many URLs of one host over one connection, pipelined.

    python examples/pipeline.py URL...

Prints the status, the size and the target of each response, and in the end how many connections
there were. When the connection ends, the program connects again and sends the remaining requests.
"""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event

from urls import connection_to, origin, target

from dugong import DugongError, HTTPConnection, HTTPResponse, is_temp_network_error


def fetch_all(conn: HTTPConnection, targets: Sequence[str]) -> Iterator[tuple[HTTPResponse, bytes]]:
    """Yield the response to each of *targets* and its body, in order."""
    sent: SimpleQueue[str | None] = SimpleQueue()
    stop = Event()

    def send() -> None:
        try:
            for path in targets:
                if stop.is_set():
                    break
                conn.send_request("GET", path)
                sent.put(path)
        finally:
            sent.put(None)

    with ThreadPoolExecutor(1) as executor:
        sending = executor.submit(send)
        try:
            while sent.get() is not None:
                resp = conn.read_response()
                yield resp, conn.readall()
            sending.result()  # raises what send() raised
        finally:
            stop.set()
            if not sending.done():
                conn.disconnect()  # ends a send_request() that waits


def main(urls: Sequence[str]) -> None:
    if len({origin(url) for url in urls}) != 1:
        sys.exit("usage: pipeline.py URL..., all of one host")
    targets = [target(url) for url in urls]
    connections = 1
    with connection_to(urls[0]) as conn:
        done = 0
        while done < len(targets):
            before = done
            try:
                for resp, body in fetch_all(conn, targets[done:]):
                    print(resp.status, len(body), resp.path)
                    done += 1
            except Exception as exc:
                # A GET may be sent again, but not for ever if it is what breaks the connection.
                if done == before or not is_temp_network_error(exc):
                    raise
                conn.disconnect()
            connections += done < len(targets)
    print(f"{done} responses over {connections} connections")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (DugongError, OSError, ValueError) as error:
        sys.exit(f"pipeline.py: {error}")
