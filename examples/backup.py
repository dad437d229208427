"""Upload all files of a directory with PUT, several at a time.

    python examples/backup.py DIRECTORY URL

Prints the status of each response, and what was stored in all; the exit status is 0 if the server
has stored all files. Files are sent from the disk to the network without being read into memory.
The server gets the head of each request first (100-continue), and a file that it refuses is not
sent. The program survives a server that restarts or is busy, and a network that is down for a
minute: it retries failed uploads.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

from dugong import ConnectionPool, DugongError, RetryPolicy

AT_A_TIME = 4
PATIENT = RetryPolicy(attempts=12, max_backoff=30)


def cannot_read(error: OSError) -> NoReturn:
    sys.exit(f"backup.py: {error}")  # or files would be left out without a word


def main(directory: str, url: str) -> int:
    root = Path(directory)

    def upload(path: Path) -> tuple[int | None, str]:
        """Return how many bytes were stored, or None, and a line that says so."""
        name = path.relative_to(root).as_posix()
        target = f"{url.rstrip('/')}/{quote(os.fsencode(name))}"
        try:
            with path.open("rb") as file:
                resp = pool.put(target, file, expect100=True, timeout=60, deadline=3600)
        except (DugongError, OSError) as exc:  # an OSError is that of the file
            return None, f"{name}: {exc!r}"
        line = f"{name}: {resp.status} {resp.reason}"
        if resp.attempts:
            line += f" (at attempt {len(resp.attempts) + 1})"
        return path.stat().st_size if 200 <= resp.status < 300 else None, line

    if not root.is_dir():
        sys.exit(f"backup.py: not a directory: {root}")
    files = sorted(
        path
        for parent, _, names in os.walk(root, onerror=cannot_read)
        for path in (Path(parent, name) for name in names)
        if path.is_file()
    )
    if not files:
        sys.exit(f"backup.py: there are no files in {root}")
    stored = []
    # In this order: after an exception the pool is closed first, which ends the uploads; then the
    # executor waits for its threads.
    with (
        ThreadPoolExecutor(AT_A_TIME) as executor,
        ConnectionPool(max_connections_per_host=AT_A_TIME, retry=PATIENT) as pool,
    ):
        for size, line in executor.map(upload, files):
            print(line.encode(errors="backslashreplace").decode())  # for names that are no text
            if size is not None:
                stored.append(size)
    print(f"stored {len(stored)} of {len(files)} files, {sum(stored)} bytes")
    return 0 if len(stored) == len(files) else 1


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: backup.py DIRECTORY URL")
    try:
        sys.exit(main(*sys.argv[1:]))
    except ValueError as error:  # this is no URL
        sys.exit(f"backup.py: {error}")
