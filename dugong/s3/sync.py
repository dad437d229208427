"""A directory is stored below a prefix: only the files that differ.

Guarantees: nothing is taken for stored that the server does not have with the same size and MD5,
and nothing is stored that it has. A file that fails does not stop the others. What is left out is
told, and is never but a file of a download of dugong that has not ended. No upload is left
open of a file that is there: not even if it was begun by a process that was killed, and the file
has become small since.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, NamedTuple

from dugong.client.partname import left_among
from dugong.errors import DugongError, InvalidResponse
from dugong.pool.filepart import FilePart
from dugong.pool.many import AtHand
from dugong.s3.checksums import Sums, expected_of, hash_of_etag, sums_of, whole_of
from dugong.s3.errors import S3Error, SyncError, check, may_pass
from dugong.s3.parts import cut
from dugong.s3.service import check_key
from dugong.s3.upload import OpenUpload, abort, open_uploads, store, stored

if TYPE_CHECKING:
    from io import BufferedReader

    from dugong.pool.body import BodyLike
    from dugong.pool.request import Request
    from dugong.s3.service import Fields, Object, Service

__all__ = ["Synced", "sync"]


#: Bytes of a file that is kept in memory until it is stored. There may be a thousand of these.
SMALL = 16 * 2**10
#: Files that are stored by themselves at the same time, each by a thread.
LARGE_AT_ONCE = 4
#: Files that are read before their requests are queued together.
TOGETHER = 64


class Synced(NamedTuple):
    """What `Bucket.sync` has done: the keys of the files that were stored, in the order in which
    they were; how many there were already; and the paths of those that were left out, because they
    are the partial files of downloads.
    """

    stored: list[str]
    unchanged: int
    left_out: list[str]


class _File(NamedTuple):
    path: str
    key: str
    sums: Sums | None = None  # of a file that one request stores


def sync(
    service: Service, directory: str, prefix: str, there: Iterable[Object], part_size: int
) -> Synced:
    """Store what differs in *directory* from *there*; see `Bucket.sync`."""
    with os.scandir(directory):
        pass  # now, so that what cannot be read is no empty directory
    known = {each.key: (each.size, each.etag) for each in there}
    left_open: list[OpenUpload] = []
    # Not every server tells them, nor can each user know them, nor XML have each key.
    with suppress(S3Error, InvalidResponse):
        left_open += open_uploads(service, prefix)
    run = _Sync(service, part_size, known, {each.key for each in left_open})
    requests = AtHand(run.requests(directory, prefix), TOGETHER)
    with closing(service.client.as_completed(requests)) as futures:  # type: ignore[type-var]  # it is a generator
        for future in futures:
            file: _File = future.request.context
            assert file.sums is not None
            try:
                stored(service, file.key, file.sums, check(future.result()))
            except (DugongError, OSError, ValueError) as exc:
                run.failed(file, exc)
            else:
                run.stored.append(file.key)
    if run.left:
        run.store_left()
    run.settled.update(run.stored)
    for upload in left_open:
        if upload.key in run.settled:
            with suppress(DugongError):  # all is stored, and the next sync aborts it
                abort(service, upload.key, upload.id)
    if run.failures:
        raise SyncError(run.stored, run.unchanged, run.failures, run.left_out)
    return Synced(run.stored, run.unchanged, run.left_out)


def _opened(path: str) -> BufferedReader:
    return open(path, "rb")


class _Sync:
    """Finds out what differs from what is *there*: sizes and ETags by keys. For one thread.

    Other threads only store what is left.

    `settled` are the keys, of those in *left_open*, that are there already.
    """

    def __init__(
        self,
        service: Service,
        part_size: int,
        there: dict[str, tuple[int, str]],
        left_open: set[str],
    ) -> None:
        self._service = service
        self._part_size = part_size
        self._there = there
        self._left_open = left_open
        self.settled: set[str] = set()
        self.stored: list[str] = []
        self.unchanged: int = 0
        self.left_out: list[str] = []
        self.failures: dict[str, Exception] = {}
        self.left: list[_File] = []  # to be stored by themselves

    def requests(self, directory: str, prefix: str) -> Iterator[Request]:
        """Yield a request for each file that differs and is small, and note those that are not."""
        for path, key in self._files(directory, prefix):
            try:
                with open(path, "rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    if self._is_there(file, check_key(key), size):
                        self.unchanged += 1
                        if key in self._left_open:
                            self.settled.add(key)
                        continue
                    if size > self._part_size:
                        self.left.append(_File(path, key))
                        continue
                    # What is small is sent with its head, and so can be pipelined.
                    small = file.read(size) if size <= SMALL else None
                    sums = self._service.sums_of(FilePart(file) if small is None else small)
            except (OSError, ValueError) as exc:
                self.failures[path] = exc
                continue
            headers: Fields = sums.fields
            body: BodyLike = small or b""
            if small is None:
                headers = (("Content-Length", str(sums.size)), *headers)
                body = partial(_opened, path)
            context = _File(path, key, sums)
            yield self._service.request("PUT", key, (), headers, body, context=context)

    def _files(self, directory: str, prefix: str) -> Iterator[tuple[str, str]]:
        """Yield the path and the key of each file."""

        def failed(exc: OSError) -> None:
            self.failures[exc.filename] = exc

        for parent, directories, names in os.walk(directory, onerror=failed):
            directories.sort()
            below = os.path.relpath(parent, directory)
            start = prefix if below == os.curdir else f"{prefix}{below}/"
            left = left_among(names, parent)
            self.left_out += (os.path.join(parent, name) for name in sorted(left))
            for name in sorted(set(names) - left):
                path = os.path.join(parent, name)
                # What is a pipe or a device is none, and a link that leads nowhere fails.
                if os.path.isfile(path) or not os.path.exists(path):
                    yield path, start + name

    def _is_there(self, file: BufferedReader, key: str, size: int) -> bool:
        known_size, etag = self._there.get(key, (-1, ""))
        known = hash_of_etag(etag)
        if known_size != size or known is None:
            return False
        if "-" not in known:
            return expected_of(sums_of(FilePart(file), is_signed=False)).etag == known
        _, parts = cut(file, self._part_size)
        return whole_of([sums_of(part, is_signed=False) for part in parts]).etag == known

    def failed(self, file: _File, exc: Exception) -> None:
        """Note that *file* was not stored because of *exc*, or store it once more."""
        # It may have changed since its checksums were calculated, and so may its size.
        if isinstance(exc, ValueError) or (isinstance(exc, DugongError) and may_pass(exc)):
            self.left.append(file)
        else:
            self.failures[file.path] = exc

    def store_left(self) -> None:
        """Store what is to be stored by itself, some files at the same time.

        If that is interrupted, the uploads that are under way end with the part they are at.
        """
        ended = Event()

        def go_on(*_: object) -> None:
            if ended.is_set():
                raise CancelledError

        executor = ThreadPoolExecutor(LARGE_AT_ONCE, "dugong-sync")
        try:
            futures = {executor.submit(self._store, file, go_on): file for file in self.left}
            for future in as_completed(futures):
                file = futures[future]
                try:
                    future.result()
                except (DugongError, OSError, ValueError) as exc:
                    self.failures[file.path] = exc
                else:
                    self.stored.append(file.key)
        finally:
            ended.set()
            executor.shutdown(cancel_futures=True)

    def _store(self, file: _File, go_on: Callable[..., object]) -> None:
        """Store *file* by itself. For any thread."""
        with open(file.path, "rb") as body:
            store(self._service, file.key, body, (), self._part_size, go_on)
