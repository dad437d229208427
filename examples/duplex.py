"""POST standard input as it comes; write the answer to standard output as it comes.

    some-program | python examples/duplex.py URL | another-program

The body goes up in chunks, for nobody knows its size. The main thread sends, another receives.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

from urls import connection_to, target

from dugong import BodyFollowing, ConnectionClosed, HTTPConnection


def receive(conn: HTTPConnection) -> int:
    resp = conn.read_response()
    while data := conn.read(64 * 1024):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    return resp.status


def main(url: str) -> int:
    # In this order, so that after an exception the receiver is woken before it is waited for.
    with ThreadPoolExecutor(1) as executor, connection_to(url) as conn:
        conn.timeout = None  # either side may be silent for as long as it likes
        conn.send_request("POST", target(url), body=BodyFollowing())
        receiving = executor.submit(receive, conn)
        try:
            while data := sys.stdin.buffer.raw.read(64 * 1024):
                conn.write(data)
            conn.write_eof()
        except ConnectionClosed:
            pass  # the answer, or the receiver's exception, says why
        return 0 if 200 <= receiving.result() < 300 else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: duplex.py URL")
    sys.exit(main(sys.argv[1]))
