"""A response of a pool as a `urllib3.HTTPResponse`, for libraries that are built on urllib3.

Guarantees: a streamed body is read from the connection as urllib3 is asked for it, at most 1 MiB
ahead and without a wait for more than was asked, and its connection is given back when it has been
read to its end, has failed, was closed or is collected. What has come before a failure is given out
before that is raised. An exception of urllib3 has that of dugong as its cause. Needs urllib3 2.2.3.
Starts no threads; a response is for one thread at a time.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, TypeVar

import urllib3
from urllib3 import HTTPHeaderDict, HTTPResponse
from urllib3.exceptions import DecodeError, HTTPError, ProtocolError, ReadTimeoutError, SSLError

from dugong.errors import ConnectionTimedOut, DecodingError, DugongError, TLSError
from dugong.pool.response import Response, StreamedResponse

# What takes the place of urllib3, as urllib3-future does, has its name, and other responses.
if "version_string" not in HTTPResponse.__init__.__code__.co_varnames:
    found = getattr(urllib3, "__version__", "?")
    raise ImportError(
        f"dugong.adapters needs urllib3 2.2.3 or newer, and finds version {found} of what "
        "is called urllib3. If urllib3-future is installed, which takes its place: "
        "pip uninstall urllib3-future; pip install --force-reinstall urllib3",
        name="urllib3",
        path=urllib3.__file__,
    )

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager

__all__ = ["body_error", "entered", "whole"]

_PIECE = 256 * 1024  # bytes that are read at once if the caller names no number
_BUFFER = 1024 * 1024  # bytes that a response receives into at most if the caller names a number

T = TypeVar("T", int, bytes)


class _Response(HTTPResponse):
    """A response whose body comes without chunks: dugong has read those."""

    def supports_chunked_reads(self) -> bool:
        return True

    def read_chunked(
        self, amt: int | None = None, decode_content: bool | None = None
    ) -> Generator[bytes]:
        """Yield the body in pieces of up to *amt* bytes, as they come."""
        if amt != 0:
            while piece := self.read1(amt, decode_content=bool(decode_content)):
                yield piece


class _Body:
    """What urllib3 takes for the `http.client.HTTPResponse` that it reads the body from."""

    def __init__(self, response: Response | StreamedResponse) -> None:
        # All belong to the thread that reads; the first three never change.
        self.msg = response.headers  # with `get_all`, which is all that cookies need
        self.status = response.status
        self.reason = response.reason
        # Nothing was read, nor is it closed: an empty body is an open file, too, until its end was
        # read, or an `io.BufferedReader` would not take it.
        self._is_new = True

    def isclosed(self) -> bool:
        """Return True if nothing more is to be read."""
        return not self._is_new and self._is_over()

    def _is_over(self) -> bool:
        """Return True if nothing more comes."""
        raise NotImplementedError

    @property
    def closed(self) -> bool:
        return self.isclosed()

    def flush(self) -> None:
        """Do nothing, as files do that are read."""


class _WholeBody(_Body):
    """A body that is in memory."""

    def __init__(self, response: Response) -> None:
        super().__init__(response)
        self._left = len(response.body)
        self._file = io.BytesIO(response.body)

    def read(self, amt: int | None = None) -> bytes:
        if amt != 0:
            self._is_new = False
        data = self._file.read(amt)
        self._left -= len(data)
        return data

    read1 = read

    def _is_over(self) -> bool:
        return self._left == 0

    def close(self) -> None:
        self._is_new = False
        self._file = io.BytesIO()
        self._left = 0


class _StreamedBody(_Body):
    """A body that is read in the block of *stream*, which is left at its end.

    What is asked for in pieces is received in larger ones, without a wait for more than was asked.
    """

    def __init__(
        self, response: StreamedResponse, stream: AbstractContextManager[StreamedResponse]
    ) -> None:
        super().__init__(response)
        self._response = response
        self._stream: AbstractContextManager[StreamedResponse] | None = stream
        self._left = response.length  # bytes still to come; None: only the end will tell
        self._failure: Exception | None = None  # to be raised once the buffer is empty
        self._buffer = memoryview(b"")
        self._start = self._end = 0  # of what is in it
        if self._left == 0:
            # Or a caller who knows that there is no body would keep the connection.
            self._leave_quietly()

    def read(self, amt: int | None = None) -> bytes:
        """Return the next *amt* bytes; fewer only at the end of the body, or before a failure."""
        if amt != 0:
            self._is_new = False
        if amt is None or amt > _BUFFER:
            return self._joined(amt)
        while self._end - self._start < amt and self._fill():
            pass
        return self._take(amt)

    def _joined(self, amt: int | None) -> bytes:
        parts = [self._take(amt)]
        missing = _PIECE if amt is None else amt - len(parts[0])
        try:
            while missing and (part := self._receive(self._response.read, missing)):
                parts.append(part)
                if amt is not None:
                    missing -= len(part)
        except Exception as exc:
            if amt is None or not any(parts):
                raise
            self._failure = exc
        return b"".join(parts)

    def read1(self, amt: int | None = None) -> bytes:
        """Return what has come, up to *amt* bytes; wait only if that is nothing."""
        if amt == 0:
            return b""
        self._is_new = False
        return self._take(amt) or self._receive(self._response.read, amt or _PIECE) or b""

    def _take(self, amt: int | None) -> bytes:
        start = self._start
        stop = self._end if amt is None else min(self._end, start + amt)
        self._start = stop
        return self._buffer[start:stop].tobytes()

    def _fill(self) -> bool:
        """Receive more into the buffer; return False if nothing comes behind what it has."""
        has = self._end - self._start
        if has and (self._failure is not None or self._stream is None):
            return False
        if not self._buffer:
            size = _BUFFER if self._left is None else min(_BUFFER, self._left)
            self._buffer = memoryview(bytearray(size))
        if len(self._buffer) - self._end < _PIECE:  # smaller steps would cost more than the copy
            self._buffer[:has] = self._buffer[self._start : self._end]
            self._start, self._end = 0, has
        try:
            got = self._receive(self._response.readinto, self._buffer[self._end :])
        except Exception as exc:
            if not has:
                raise
            self._failure = exc
            return False
        self._end += got or 0
        return bool(got)

    def _receive(self, receive: Callable[[Any], T], what: Any) -> T | None:
        """Return what *receive* returns for *what*: bytes, or how many came. None is the end."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        if self._stream is None:
            return None
        try:
            got = receive(what)
            if self._left is not None:
                self._left -= got if isinstance(got, int) else len(got)
            if not got or self._left == 0:
                self._leave()
        except BaseException as exc:
            self._leave_quietly()
            if isinstance(exc, DugongError):
                raise body_error(exc) from exc
            raise
        return got

    def _is_over(self) -> bool:
        return self._stream is None and self._failure is None and self._start == self._end

    def _leave(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.__exit__(None, None, None)

    def _leave_quietly(self) -> None:
        try:
            self._leave()
        except DugongError:
            pass  # the upload has failed, and who closes a response does not ask for its outcome

    def close(self) -> None:
        """Give the connection back. What is left of the body is drained if that is little."""
        self._is_new = False
        self._failure = None
        self._buffer = memoryview(b"")
        self._start = self._end = 0
        self._leave_quietly()


def body_error(exc: DugongError) -> HTTPError:
    """Return what urllib3 would raise where *exc* has ended the reading of a body.

    A `urllib3.exceptions.ReadTimeoutError`, `SSLError`, `DecodeError`, or else `ProtocolError`. It
    is to be raised from *exc*.
    """
    if isinstance(exc, ConnectionTimedOut):
        # urllib3 has its pool here, which is only there to be named.
        pool: Any = "dugong" if exc.request is None else str(exc.request.origin)
        url = "" if exc.request is None else exc.request.public_url
        return ReadTimeoutError(pool, url, f"Read timed out. ({exc})")
    if isinstance(exc, TLSError):
        return SSLError(exc)
    if isinstance(exc, DecodingError):
        return DecodeError(str(exc), exc)
    return ProtocolError(f"Connection broken: {exc}", exc)


def entered(
    stream: AbstractContextManager[StreamedResponse], decode_content: bool = False
) -> HTTPResponse:
    """Enter the block that `ConnectionPool.stream` has returned; return the response.

    Its body is read from the connection (``preload_content=False``). The block is left when the
    body has been read to its end or has failed, and by `close`. *decode_content* is what urllib3
    takes for reads that do not say it. Raises what entering the block raises, which are exceptions
    of dugong.
    """
    response = stream.__enter__()
    try:
        return _made(response, _StreamedBody(response, stream), decode_content)
    except BaseException as exc:
        stream.__exit__(type(exc), exc, exc.__traceback__)
        raise


def whole(response: Response, decode_content: bool = False) -> HTTPResponse:
    """Return *response*, whose body is in memory; it is read from there as a stream would be."""
    return _made(response, _WholeBody(response), decode_content)


def _made(response: Response | StreamedResponse, body: _Body, decode_content: bool) -> HTTPResponse:
    headers = HTTPHeaderDict()
    sets_cookie = False
    for lower, name, value in response.headers.fields:
        headers.add(name, value)
        sets_cookie = sets_cookie or lower.startswith("set-cookie")
    version = response.http_version
    # urllib3 wants an http.client.HTTPResponse, of which it uses what `_Body` has.
    source: Any = body
    return _Response(
        body=source,
        headers=headers,
        status=response.status,
        version=11 if version == "HTTP/1.1" else 10,
        version_string=version,
        reason=response.reason,
        preload_content=False,
        decode_content=decode_content,
        # To look for cookies takes long, so it is only there if there are some.
        original_response=source if sets_cookie else None,
        request_method=response.request.method,
        request_url=response.request.url,
    )
