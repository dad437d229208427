"""Back up a directory to S3, or to what speaks its language, without boto3.

    python examples/s3backup.py DIRECTORY BUCKET [PREFIX]

BUCKET is the name of a bucket of Amazon's, or the URL of one: https://s3.example.com/backups.
Uploads only files that differ from what is there, by their size and MD5. Prints what was uploaded
and what failed, and how many files there were; the exit status is 0 if all of them are stored.
Credentials and region are those that the AWS command line finds.

Each attempt to send a request has a signature of its own: a request that waited in the queue, or
for a busy server, is not refused because its signature is old. If this program is killed, it goes
on with the parts of large files that are stored when it is started again. Needs dugong[s3].
"""

import sys
from pathlib import Path

from dugong import DugongError, RetryPolicy
from dugong.s3 import Bucket, SyncError

AT_A_TIME = 8
PATIENT = RetryPolicy(attempts=12, max_backoff=30)


def main(directory: str, name: str, prefix: str = "") -> int:
    root = Path(directory)
    if not root.is_dir():
        sys.exit(f"s3backup.py: not a directory: {root}")
    if not any(path.is_file() for path in root.rglob("*")):
        sys.exit(f"s3backup.py: there are no files in {root}")
    failures: dict[str, Exception] = {}
    try:
        with Bucket(name, retry=PATIENT, max_connections_per_host=AT_A_TIME) as bucket:
            stored, unchanged, left_out = bucket.sync(root, prefix)
    except SyncError as exc:
        stored, unchanged, left_out = exc.stored, exc.unchanged, exc.left_out
        failures = exc.failures
    except (DugongError, ValueError) as exc:  # there are no credentials, or there is no such bucket
        sys.exit(f"s3backup.py: {exc}")
    for key in sorted(stored):
        print(f"uploaded {key}")
    for path in left_out:
        print(f"left out {path}, which is a partial file of a download")
    for path, failure in failures.items():
        print(f"failed {path}: {failure}")
    print(f"{len(stored)} files uploaded, {unchanged} unchanged, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: s3backup.py DIRECTORY BUCKET [PREFIX]")
    sys.exit(main(*sys.argv[1:]))
