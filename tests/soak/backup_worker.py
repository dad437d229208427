"""The process of the backup soak that may be killed: what a user's program would be.

    python -m tests.soak.backup_worker back-up|restore URL DIRECTORY

URL is that of the bucket. `back-up` stores what differs in DIRECTORY; `restore` fetches what is not
there. Prints how many files were stored or fetched, and how many there were already.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

from dugong import RetryPolicy
from dugong.s3 import Bucket
from tests.soak.backup_files import PART_SIZE

__all__ = ["AT_A_TIME", "KEY", "REGION", "SECRET"]

AT_A_TIME = 8
KEY, SECRET, REGION = "soakkey", "soaksecret", "us-east-1"
PATIENT = RetryPolicy(attempts=100, max_backoff=2.0)  # for a server that is started again


def back_up(bucket: Bucket, directory: str) -> tuple[int, int]:
    synced = bucket.sync(directory)
    return len(synced.stored), synced.unchanged


def restore(bucket: Bucket, directory: str) -> tuple[int, int]:
    futures, there = [], 0
    with ThreadPoolExecutor(AT_A_TIME) as executor:
        for found in bucket.list():
            path = os.path.join(directory, found.key)
            if os.path.exists(path):  # then it is whole, for the directory was empty once
                there += 1
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)
            futures.append(executor.submit(bucket.download, found.key, path))
    for future in futures:
        future.result()
    return len(futures), there


def main(action: str, url: str, directory: str) -> None:
    with Bucket(
        url,
        region=REGION,
        credentials=(KEY, SECRET),
        part_size=PART_SIZE,
        max_connections_per_host=AT_A_TIME,
        pipeline_rescue=False,  # which may send a file a second time
        retry=PATIENT,
        timeout=120,
    ) as bucket:
        done, there = (back_up if action == "back-up" else restore)(bucket, directory)
    print(done, there)


if __name__ == "__main__":
    main(*sys.argv[1:])
