"""Files are stored as objects of S3: by `dugong.s3`, s3transfer, rclone and obstore.

Each of them sends up to `AT_ONCE` requests at the same time, and parts of `PART_SIZE`. What only
one of them needs is imported when that is made ready.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

from clients.worker import (
    BUCKET,
    HOST,
    S3_KEY,
    S3_LARGE,
    S3_REGION,
    S3_SECRET,
    S3_SMALL,
    Server,
    Work,
    main,
)

AT_ONCE = 16
PART_SIZE = 16 * 2**20
#: Files that are stored in parts, and parts of each, at the same time.
LARGE_AT_ONCE = 4


class Place(NamedTuple):
    """Where objects are stored, and the directory with the files."""

    port: int
    directory: Path
    are_large: bool

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def files(self) -> list[Path]:
        return sorted(self.directory.iterdir())


#: Stores all files of the place: made before the clock is read.
Store = Callable[[], None]


class Upload:
    """A round: stores all files of a directory in a bucket that is empty before."""

    def __init__(
        self, server: Server, are_large: bool, is_sink: bool, make: Callable[[Place], Store]
    ) -> None:
        port = server.s3_sink_port if is_sink else server.s3_port
        directory = Path(server.scratch) / (S3_LARGE if are_large else S3_SMALL)
        place = Place(port, directory, are_large)
        self._filer_port = 0 if is_sink else server.s3_filer_port
        self._expected = {path.name: path.stat().st_size for path in place.files}
        self._store = make(place)
        self._is_stored = False

    def prepare(self, count: int) -> None:
        """Look whether the round before has stored everything, and empty the bucket."""
        assert count == len(self._expected)
        if not self._filer_port:
            return
        path = f"/buckets/{BUCKET}/"
        if self._is_stored:
            listed = json.loads(self._ask("GET", f"{path}?limit={count + 10}"))["Entries"]
            found = {each["FullPath"].rpartition("/")[2]: each["FileSize"] for each in listed}
            found.pop(".uploads", None)  # where the parts were
            if found != self._expected:
                raise AssertionError(f"{len(found)} objects are stored, or their sizes are wrong")
        self._ask("DELETE", f"{path}?recursive=true&ignoreRecursiveError=true")
        self._ask("POST", path)
        # The server makes its volumes for the first object.
        self._ask("PUT", f"{path}first", b"first")
        self._ask("DELETE", f"{path}first")

    def __call__(self, count: int) -> None:
        self._store()
        self._is_stored = True

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Have the file system of SeaweedFS do something, which needs no signature."""
        connection = HTTPConnection(HOST, self._filer_port, timeout=30)
        try:
            connection.request(method, path, body, {"Accept": "application/json"})
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        if response.status >= 300 and (method, response.status) != ("DELETE", 404):
            raise AssertionError(f"{method} {path}: {response.status} {data[:200]!r}")
        return data


def dugong(place: Place) -> Store:
    from dugong.s3 import Bucket

    bucket = Bucket(
        BUCKET,
        endpoint=place.endpoint,
        region=S3_REGION,
        credentials=(S3_KEY, S3_SECRET),
        part_size=PART_SIZE,
        max_connections_per_host=AT_ONCE,
        trust_env=False,
    )

    def store() -> None:
        assert len(bucket.sync(place.directory).stored) == len(place.files)

    return store


def s3transfer(place: Place) -> Store:
    from boto3.s3.transfer import TransferConfig, create_transfer_manager

    from clients.boto3_client import make_client

    client = make_client(place.port, AT_ONCE)
    config = TransferConfig(PART_SIZE, AT_ONCE, PART_SIZE)

    def store() -> None:
        # What upload_file makes for each file.
        with create_transfer_manager(client, config) as manager:
            for future in [manager.upload(str(path), BUCKET, path.name) for path in place.files]:
                future.result()

    return store


def rclone(place: Place) -> Store:
    remote = (
        f":s3,provider=Other,access_key_id={S3_KEY},secret_access_key={S3_SECRET},"
        f'region={S3_REGION},endpoint="{place.endpoint}":{BUCKET}'
    )
    transfers = LARGE_AT_ONCE if place.are_large else AT_ONCE
    command = [
        *(str(Path(sys.executable).parent / "rclone"), "copy", "--quiet"),
        *(f"--config={place.directory}.none", f"--transfers={transfers}", f"--checkers={AT_ONCE}"),
        # It asks for each object after it is stored, and for the bucket before, unless told not to.
        *("--s3-no-head", "--s3-no-check-bucket", "--s3-disable-checksum"),
        *(f"--s3-chunk-size={PART_SIZE}B", f"--s3-upload-cutoff={PART_SIZE}B"),
        f"--s3-upload-concurrency={AT_ONCE // LARGE_AT_ONCE}",
        *(str(place.directory), remote),
    ]

    def store() -> None:
        subprocess.run(command, check=True)

    return store


def obstore(place: Place) -> Store:
    import obstore
    from obstore.store import S3Store

    to = S3Store(
        BUCKET,
        endpoint=place.endpoint,
        region=S3_REGION,
        access_key_id=S3_KEY,
        secret_access_key=S3_SECRET,
        client_options={"allow_http": True},
    )
    at_once = LARGE_AT_ONCE if place.are_large else AT_ONCE
    parts_at_once = AT_ONCE // LARGE_AT_ONCE

    async def put_all() -> None:
        waiting = iter(place.files)

        async def put_some() -> None:
            for path in waiting:
                await obstore.put_async(
                    to,
                    path.name,
                    path,
                    use_multipart=place.are_large,
                    chunk_size=PART_SIZE,
                    max_concurrency=parts_at_once,
                )

        await asyncio.gather(*(put_some() for _ in range(at_once)))

    return lambda: asyncio.run(put_all())


def upload(make: Callable[[Place], Store], are_large: bool, is_sink: bool) -> Work:
    return lambda server: Upload(server, are_large, is_sink, make)


main(
    {
        f"s3-{size}{sink}-{make.__name__}": upload(make, size == "large", sink != "")
        for size in ("small", "large")
        for sink in ("", "-sink")
        for make in (dugong, s3transfer, rclone, obstore)
    }
)
