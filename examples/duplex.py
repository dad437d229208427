"""POST standard input while it is read; write the response to standard output while it arrives.

    some-program | python examples/duplex.py URL | another-program

The body is sent in chunks, because its size is unknown. The main thread sends, another receives.
Says on standard error what the status was, and how much was sent and received; the exit status is
0 if the server has accepted it.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

from urls import connection_to, target

from dugong import BodyFollowing, ConnectionClosed, DugongError, HTTPConnection, HTTPResponse


def receive(conn: HTTPConnection) -> tuple[HTTPResponse, int]:
    resp = conn.read_response()
    size = 0
    while data := conn.read(64 * 1024):
        size += len(data)
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    return resp, size


def main(url: str) -> int:
    # In this order: after an exception the connection is closed first, which ends receive(); then
    # the executor waits for its thread.
    with ThreadPoolExecutor(1) as executor, connection_to(url) as conn:
        conn.timeout = None  # either side may pause for any time
        conn.send_request("POST", target(url), body=BodyFollowing())
        receiving = executor.submit(receive, conn)
        sent = 0
        try:
            while data := sys.stdin.buffer.raw.read(64 * 1024):
                conn.write(data)
                sent += len(data)
            conn.write_eof()
        except ConnectionClosed:
            pass  # the response, or the exception of receive(), says why
        resp, received = receiving.result()
    line = f"{resp.status} {resp.reason}: {sent} bytes sent, {received} received"
    print(line, file=sys.stderr)
    return 0 if 200 <= resp.status < 300 else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: duplex.py URL")
    try:
        sys.exit(main(sys.argv[1]))
    except (DugongError, OSError, ValueError) as error:
        sys.exit(f"duplex.py: {error}")
