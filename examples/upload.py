"""Upload a file with PUT, after the server has accepted the head of the request (100-continue).

    python examples/upload.py FILE URL

Prints the response; the exit status is 0 if the server has stored the file.
"""

import os
import sys

from urls import connection_to, target

from dugong import BodyFollowing, ConnectionClosed, DugongError


def main(filename: str, url: str) -> int:
    with open(filename, "rb") as file, connection_to(url) as conn:
        size = os.fstat(file.fileno()).st_size
        conn.send_request("PUT", target(url), body=BodyFollowing(size), expect100=True)
        resp = conn.read_response()
        if resp.status == 100:
            try:
                while data := file.read(64 * 1024):
                    conn.write(data)
            except ConnectionClosed:
                pass  # there may be a response that says why
            resp = conn.read_response()
        print(resp.status, resp.reason)
        sys.stdout.flush()
        while data := conn.read(64 * 1024):
            sys.stdout.buffer.write(data)
        return 0 if 200 <= resp.status < 300 else 1


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: upload.py FILE URL")
    try:
        sys.exit(main(*sys.argv[1:]))
    except (DugongError, OSError, ValueError) as error:
        sys.exit(f"upload.py: {error}")
