"""The open files of `dugong.adapters.fsspec.DugongFileSystem`.

Guarantees: a file that is written is sent as a whole, or not at all; a file that is read gives its
connection back when it is closed.
"""

from __future__ import annotations

import io
import tempfile
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from fsspec.asyn import AbstractAsyncStreamedFile
from fsspec.spec import AbstractBufferedFile

from dugong.client.ranges import ContentRange, content_range, strong_validator

if TYPE_CHECKING:
    from dugong.adapters.fsspec import DugongFileSystem
    from dugong.client.aiostream import AsyncStreamedResponse
    from dugong.client.client import Client
    from dugong.pool.response import Response, StreamedResponse

__all__ = [
    "GONE",
    "AsyncFile",
    "RandomFile",
    "StreamedFile",
    "WrittenFile",
    "check_found",
    "found",
    "part_of",
]

#: The statuses of what is not there.
GONE = frozenset((404, 410))
_PARTIAL_CONTENT = 206
_NOT_SATISFIABLE = 416
_IN_MEMORY = 2**20  # bytes of a file that is written, before it is kept in a temporary one

R = TypeVar("R", "Response", "StreamedResponse")


def found(response: R, url: str) -> R:
    """Return *response*, if its status is a success."""
    if response.status in GONE:
        raise FileNotFoundError(url)
    return response.raise_for_status()


async def check_found(response: AsyncStreamedResponse, url: str) -> None:
    """Do the same for a response that is streamed."""
    if response.status in GONE:
        raise FileNotFoundError(url)
    await response.raise_for_status()


def part_of(
    response: Response, url: str, start: int | None, end: int | None, size: int | None = None
) -> bytes:
    """Return the bytes from *start* to *end*, which may be negative, of the file at *url*.

    *response* is that to a request for them. Raises ValueError if it does not have all of them that
    there are. With *size*, that of the file when it was opened, all of them have been there, and it
    is a ValueError, too, if some are not any more, or the file comes whole though they begin later.
    """
    if response.status == _NOT_SATISFIABLE and size is None:
        return b""  # it begins behind the end
    body = found(response, url).body
    came = content_range(response.headers)
    is_part = response.status == _PARTIAL_CONTENT
    if start and size is not None and not is_part and (came is None or came.first == 0):
        raise ValueError(f"{url}: the server sends whole files only; open it with block_size=0")
    if came is not None:
        first, stop = _limits_in(came, start, end)
        if not came.first <= first <= stop <= came.last + 1 == came.first + len(body):
            said = response.headers["Content-Range"]
            raise ValueError(f"{url}: bytes {first}-{stop - 1} were requested, not {said}")
        body = body[first - came.first : stop - came.first]
    elif not is_part:
        body = body[start:end]
    if size is not None:
        first, stop, _ = slice(start, end).indices(size)  # some caches ask for more than there is
        if len(body) < stop - first:
            text = f"bytes {first}-{stop - 1} were requested, and {len(body)} bytes came"
            raise ValueError(f"{url}: {text}")
    return body


def _limits_in(came: ContentRange, start: int | None, end: int | None) -> tuple[int, int]:
    """Return from where to where there is something between *start* and *end*."""
    if came.size is not None:
        first, stop, _ = slice(start, end).indices(came.size)
        return first, max(first, stop)
    # Then the file may end where this part does.
    first = came.first if start is not None and start < 0 else start or 0
    return first, came.last + 1 if end is None or end < 0 else min(end, came.last + 1)


class RandomFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """A file whose size is known, parts of which are read as they are needed.

    All of them are of the version that was read first, as far as the server names it by a strong
    ETag or by Last-Modified.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._lock = Lock()
        # Guarded by the lock. What the first response came from, without the query, and the name of
        # its version.
        self._version: tuple[str, str] | None = None
        super().__init__(*args, **options)  # with some caches, that reads the file

    def _fetch_range(self, start: int, end: int) -> bytes:
        client: Client = self.fs.client._client
        options = dict(self.kwargs)
        headers = {**(options.pop("headers", None) or {}), "Range": f"bytes={start}-{end - 1}"}
        response = client.get(self.path, headers=headers, **options)
        if response.status < 300:
            self._check_version(response)
        return part_of(response, self.path, start, end, self.size)

    def _check_version(self, response: Response) -> None:
        """Raise ValueError if *response* is of another version than what was read before.

        It is no condition of the request (If-Match), for that may be redirected from one mirror to
        another: each names its versions in its own way.
        """
        headers, place = response.headers, response.url.partition("?")[0]
        with self._lock:
            if self._version is None:
                self._version = place, strong_validator(headers)
            first, version = self._version
        if not version or place != first:
            return
        name = "ETag" if version.startswith('"') else "Last-Modified"
        if headers.get(name, version).removeprefix("W/") != version:
            raise ValueError(f"{self.path}: it was replaced while it was open: open it again")


class StreamedFile(AbstractBufferedFile):  # type: ignore[misc]  # see above
    """A file that is read from start to end, as it comes. For one thread at a time."""

    def __init__(self, fs: DugongFileSystem, path: str, **options: Any) -> None:
        self.details: dict[str, Any] = {"name": path, "size": None, "type": "file"}
        super().__init__(fs, path, "rb", cache_type="none", **options)
        client: Client = fs.client._client
        self._stream = client.stream("GET", path, **options)
        self._response = self._stream.__enter__()
        try:
            found(self._response, path)
        except BaseException:
            self._stream.__exit__(None, None, None)
            raise

    def seek(self, loc: int, whence: int = 0) -> int:
        """Stay where the file is. Raises ValueError for any other place."""
        if (loc, whence) not in ((self.loc, io.SEEK_SET), (0, io.SEEK_CUR)):
            raise ValueError("the file can be read from start to end only")
        return int(self.loc)

    def read(self, length: int = -1) -> bytes:
        """Return the next *length* bytes, fewer at the end of the file; all with -1."""
        piece = self._response.read(None if length is None or length < 0 else length)
        self.loc += len(piece)
        return piece

    def close(self) -> None:
        """Give the connection back."""
        if not self.closed:
            self._stream.__exit__(None, None, None)
        super().close()


class WrittenFile(AbstractBufferedFile):  # type: ignore[misc]  # see above
    """A file that is sent as a whole once it is closed; until then it is kept here."""

    def _initiate_upload(self) -> None:
        self._kept = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115  # closed by discard

    def _upload_chunk(self, final: bool = False) -> bool:
        self._kept.write(self.buffer.getvalue())
        if final and self.autocommit:
            self.commit()
        return True

    def commit(self) -> None:
        """Send it."""
        try:
            self._kept.seek(0)
            client: Client = self.fs.client._client
            found(client.put(self.path, body=self._kept, **self.kwargs), self.path)
        finally:
            self.discard()

    def discard(self) -> None:
        """Forget it."""
        self._kept.close()


class AsyncFile(AbstractAsyncStreamedFile):  # type: ignore[misc]  # see above
    """A file that a task reads from start to end."""

    def __init__(self, fs: DugongFileSystem, path: str, **options: Any) -> None:
        self.details: dict[str, Any] = {"name": path, "size": None, "type": "file"}
        super().__init__(fs, path, "rb", cache_type="none")
        self._new_stream = partial(fs.client.stream, "GET", path, **options)
        self._stream = self._new_stream()  # a new one after each that has failed
        self._response: AsyncStreamedResponse | None = None

    async def read(self, length: int = -1) -> bytes:
        """Return the next *length* bytes, fewer at the end of the file; all with -1."""
        if self._response is None:
            response = await self._stream.__aenter__()
            try:
                await check_found(response, self.path)
            except BaseException:
                stream, self._stream = self._stream, self._new_stream()
                await stream.__aexit__(None, None, None)
                raise
            self._response = response
        piece = await self._response.read(length)
        self.loc += len(piece)
        return piece

    async def close(self) -> None:
        """Give the connection back."""
        response, self._response = self._response, None
        if response is not None:
            await self._stream.__aexit__(None, None, None)
        await super().close()
