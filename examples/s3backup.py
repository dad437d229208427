"""Back up a directory to S3, or to what speaks its language, without boto3.

    python examples/s3backup.py DIRECTORY URL

URL is that of the bucket, perhaps with a prefix: https://s3.eu-central-1.amazonaws.com/bucket/docs.
Uploads only files that have changed since the last time, by their size and their SHA-256, which is
stored with each. Prints what was uploaded and what failed, and how many files there were; the exit
status is 0 if all of them are stored. Credentials and region are those that the AWS command line
finds.

Each attempt to send a request has a signature of its own, because headers may be made afresh for
each sending: a request that waited in the queue, or for a busy server, is not refused because its
signature is old. The server verifies the SHA-256 of each body. Needs the package botocore, for
credentials and signatures alone.
"""

import hashlib
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import botocore.session
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from dugong import ConnectionPool, DugongError, Request, RetryPolicy

AT_A_TIME = 8
PATIENT = RetryPolicy(attempts=12, max_backoff=30)
#: Where the SHA-256 of a file is stored.
DIGEST = "x-amz-meta-sha256"
EMPTY = hashlib.sha256(b"").hexdigest()


class Signature(S3SigV4Auth):
    """Makes the header fields of a request: a callable for *headers*, asked before each sending.

    *digest* is the SHA-256 of the body. *fields* are sent and signed, too.
    """

    def __init__(
        self,
        credentials: Credentials,
        region: str,
        digest: str = EMPTY,
        fields: dict[str, str] | None = None,
    ) -> None:
        super().__init__(credentials, "s3", region)
        self._digest = digest
        self._fields = fields or {}

    def payload(self, request: AWSRequest) -> str:
        return self._digest

    def __call__(self, request: Request) -> dict[str, str]:
        signed = AWSRequest(request.method, request.url, self._fields)
        self.add_auth(signed)
        return {name: str(value) for name, value in signed.headers.items()}


class Backup:
    """Stores the files of the directory *root* below *url*. Any thread may call `store`."""

    def __init__(self, root: Path, url: str, credentials: Credentials, region: str) -> None:
        self._root = root
        self._url = url.rstrip("/")
        self._account = credentials, region
        self._pool = ConnectionPool(max_connections_per_host=AT_A_TIME, retry=PATIENT, timeout=60)

    def __enter__(self) -> "Backup":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    def store(self, path: Path) -> str:
        """Store the file *path*, and return what became of it, a word to begin with."""
        name = path.relative_to(self._root).as_posix()
        url = f"{self._url}/{quote(name, safe='/~')}"
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                if self._is_stored(url, path.stat().st_size, digest):
                    return "unchanged"
                file.seek(0)
                signature = Signature(*self._account, digest, {DIGEST: digest})
                # The server sees the head first, and may refuse it before the body is sent.
                resp = self._pool.put(url, file, headers=signature, expect100=True)
                resp.raise_for_status()
        except (DugongError, OSError) as exc:  # an OSError is that of the file
            return f"failed {name}: {exc!r}"
        return f"uploaded {name}"

    def _is_stored(self, url: str, size: int, digest: str) -> bool:
        resp = self._pool.head(url, headers=Signature(*self._account))
        if resp.status == 404:
            return False
        resp.raise_for_status()
        return resp.headers["Content-Length"] == str(size) and resp.headers[DIGEST] == digest


def main(directory: str, url: str) -> int:
    root = Path(directory)
    if not root.is_dir():
        sys.exit(f"s3backup.py: not a directory: {root}")
    files = sorted(path for path in root.rglob("*") if path.is_file())
    if not files:
        sys.exit(f"s3backup.py: there are no files in {root}")
    session = botocore.session.get_session()
    credentials = session.get_credentials()
    if credentials is None:
        sys.exit("s3backup.py: there are no credentials: set AWS_ACCESS_KEY_ID, for example")
    region = session.get_config_variable("region") or "us-east-1"

    count: Counter[str] = Counter()
    # In this order: after an exception the pool is closed first, which ends the uploads; then the
    # executor waits for its threads.
    with (
        ThreadPoolExecutor(AT_A_TIME) as executor,
        Backup(root, url, credentials, region) as backup,
    ):
        for line in executor.map(backup.store, files):
            count[line.split()[0]] += 1
            if line != "unchanged":
                print(line)
    print(
        f"{count['uploaded']} files uploaded, {count['unchanged']} unchanged, "
        f"{count['failed']} failed"
    )
    return 1 if count["failed"] else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: s3backup.py DIRECTORY URL")
    sys.exit(main(*sys.argv[1:]))
