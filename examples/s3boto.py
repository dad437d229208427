"""Back up a directory to S3 with boto3, whose requests go through a pool of dugong.

    python examples/s3boto.py DIRECTORY BUCKET [ENDPOINT]

Prints what became of each file, and how many are stored; the exit status is 0 if all are. Large
files go up in parts, as boto3 does it. One line makes the difference to any program that uses
boto3: `use_dugong(client)`. Needs the packages boto3 and dugong[botocore].
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import boto3
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from dugong.adapters.botocore import use_dugong

AT_A_TIME = 8


def cannot_read(error: OSError) -> NoReturn:
    sys.exit(f"s3boto.py: {error}")  # or files would be left out without a word


def main(directory: str, bucket: str, endpoint: str | None = None) -> int:
    root = Path(directory)
    if not root.is_dir():
        sys.exit(f"s3boto.py: not a directory: {root}")
    files = sorted(
        path
        for parent, _, names in os.walk(root, onerror=cannot_read)
        for path in (Path(parent, name) for name in names)
        if path.is_file()
    )
    if not files:
        sys.exit(f"s3boto.py: there are no files in {root}")
    client = boto3.client("s3", endpoint_url=endpoint)
    adapter = use_dugong(client)

    def upload(path: Path) -> tuple[bool, str]:
        name = path.relative_to(root).as_posix()
        try:
            client.upload_file(str(path), bucket, name)
        except (Boto3Error, BotoCoreError, ClientError, OSError) as exc:
            return False, f"failed {name} {exc!r}"
        return True, f"stored {name}"

    stored = 0
    try:
        with ThreadPoolExecutor(AT_A_TIME) as executor:
            for is_stored, line in executor.map(upload, files):
                print(line)
                stored += is_stored
    finally:
        adapter.close()
        client.close()
    print(f"stored {stored} of {len(files)} files")
    return 0 if stored == len(files) else 1


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: s3boto.py DIRECTORY BUCKET [ENDPOINT]")
    sys.exit(main(*sys.argv[1:]))
