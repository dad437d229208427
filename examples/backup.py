"""PUT all files of a directory, several at a time, asking the server about each first.

    python examples/backup.py DIRECTORY URL

Prints the answer for each file; the exit status is 0 if the server took all of them. Each file goes
from the disk to the network without being read into memory; one that the server refuses is not
sent at all. It survives a server that restarts or is busy, and a network that is away for a minute:
what has failed is sent again, from its beginning.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

from dugong import ConnectionPool, DugongError, RetryPolicy

AT_A_TIME = 4
PATIENT = RetryPolicy(attempts=12, max_backoff=30)


def main(directory: str, url: str) -> int:
    root = Path(directory)

    def upload(path: Path) -> tuple[bool, str]:
        name = path.relative_to(root).as_posix()
        try:
            with path.open("rb") as file:
                answer = pool.put(
                    f"{url}/{quote(name)}", file, expect100=True, timeout=60, deadline=3600
                )
        except (DugongError, OSError) as exc:
            return False, f"{name}: {exc!r}"
        line = f"{name}: {answer.status} {answer.reason}"
        if answer.attempts:
            line += f" (at attempt {len(answer.attempts) + 1})"
        return 200 <= answer.status < 300, line

    files = sorted(path for path in root.rglob("*") if path.is_file())
    # In this order, so that after an exception the uploads are ended before they are waited for.
    with (
        ThreadPoolExecutor(AT_A_TIME) as executor,
        ConnectionPool(max_connections_per_host=AT_A_TIME, retry=PATIENT) as pool,
    ):
        good = True
        for taken, line in executor.map(upload, files):
            print(line)
            good = good and taken
    return 0 if good else 1


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: backup.py DIRECTORY URL")
    sys.exit(main(*sys.argv[1:]))
