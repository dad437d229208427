"""Uploads of files: what `Client.upload` does.

Guarantees: if it returns, what was sent is the file as it was at one time, as far as its size and
its time of modification can tell. Starts no threads; opens the file and closes it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from io import FileIO
from typing import TYPE_CHECKING, Any

from dugong.client.calls import UploadOptions, check_options, elaborate
from dugong.client.integrity import ALGORITHMS, field_value
from dugong.errors import IntegrityError
from dugong.pool.body import regular_size
from dugong.pool.bodybase import PIECE
from dugong.pool.checks import check_str
from dugong.pool.progress import progress_of

if TYPE_CHECKING:
    from dugong.client.aiotransfer import StoppableClient
    from dugong.client.client import Client
    from dugong.connection.encode import HeaderPairs
    from dugong.pool.progress import Progress, ProgressCall
    from dugong.pool.request import Request
    from dugong.pool.response import Response

__all__ = ["upload"]

_FIELDS = ("Content-Digest", "Repr-Digest")


def upload(
    client: Client | StoppableClient,
    path: str | os.PathLike[str],
    url: str,
    method: str,
    digest: str | None,
    progress: Progress | ProgressCall | None,
    options: UploadOptions,
) -> Response:
    """Do what `Client.upload` says."""
    check_options(options, UploadOptions)
    if digest is not None:
        check_str("digest", digest)
        if digest not in ALGORITHMS:
            raise ValueError(f"digest must be {' or '.join(ALGORITHMS)}, not {digest!r}")
    sending: dict[str, Any] = {**options, "progress": progress_of(progress, has_body=True)}
    with FileIO(os.fspath(path)) as file:
        size = regular_size(file)
        if size is None or (size == 0 and os.pread(file.fileno(), 1, 0)):
            return _send_stream(client, file, method, url, digest, sending)
        before = _version(file)
        fields: HeaderPairs = ()
        if digest is not None:
            hashed = hashlib.new(ALGORITHMS[digest])
            for _ in _told_of(file, hashed.update):
                client._pause(0)  # which raises if it is stopped
            fields = _fields(digest, hashed.digest())
            file.seek(0)
        sending["headers"] = elaborate(options.get("headers"), fields)
        try:
            response = client.request(method, url, body=file, **sending).raise_for_status()
        except Exception as exc:
            if _version(file) != before:
                raise _changed(getattr(exc, "request", None)) from exc
            raise
        if _version(file) != before:
            raise _changed(response.request)
    return response


def _send_stream(
    client: Client | StoppableClient,
    file: FileIO,
    method: str,
    url: str,
    digest: str | None,
    sending: dict[str, Any],
) -> Response:
    """Send *file*, whose size is not known: a pipe, or one in /proc. It can be read only once."""
    if digest is not None:
        hashed = hashlib.new(ALGORITHMS[digest])
        announced = (("Trailer", ", ".join(_FIELDS)),)
        sending["headers"] = elaborate(sending.get("headers"), announced)
        sending["trailers"] = lambda request: _fields(digest, hashed.digest())
        sending["body"] = _told_of(file, hashed.update)
    else:
        sending["body"] = file
    return client.request(method, url, **sending).raise_for_status()


def _told_of(file: FileIO, update: Callable[[bytes], object]) -> Iterator[bytes]:
    """Yield what *file* has, after *update* has been told of it."""
    while piece := file.read(PIECE):
        update(piece)
        yield piece


def _fields(algorithm: str, value: bytes) -> HeaderPairs:
    return tuple((name, field_value(algorithm, value)) for name in _FIELDS)


def _version(file: FileIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _changed(request: Request | None) -> IntegrityError:
    error = IntegrityError(
        "the file has changed while it was sent, so what the server has may be of two versions"
    )
    error.request = request
    return error
