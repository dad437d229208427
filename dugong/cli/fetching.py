"""Downloads over a pool, into files.

Guarantees: each download ends once, with a complete file or with an error, and leaves no partial
file. The number of attempts is bounded. The pool retries requests; this module retries a streamed
body that was cut short, which the pool cannot do. Memory does not depend on the size or the number
of the bodies: what is under way is what `Supply` allows for `_MEMORY` bytes.
"""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING

from dugong import (
    ConnectionPool,
    ConnectionTimedOut,
    DugongError,
    Request,
    Response,
    ResponseFuture,
    ResponseTooLarge,
    RetryPolicy,
    StreamedResponse,
)
from dugong.pool.many import Supply, sizes_of

if TYPE_CHECKING:
    import ssl

    from dugong import Attempt

    _Ended = tuple["Download", Future[Response] | Future[None]]

__all__ = ["Download", "fetch"]

_MEMORY = 64 * 1024 * 1024  # bytes of small bodies that are under way
_STREAMS = 8  # threads, each of which receives one large body

# Bytes. A body up to this size is received into memory, so that its request can be pipelined. If
# the response head or the bytes received show that the body is larger, the request is made again
# and the body streamed. That costs a new connection only: the pool does not pipeline requests
# behind a body of this size.
_SMALL = 256 * 1024


def _should_retry(attempt: Attempt) -> bool:
    # The user has said by --timeout how long to wait.
    return not isinstance(attempt.exception, ConnectionTimedOut)


_RETRY = RetryPolicy(attempts=3, should_retry=_should_retry)


class Download:
    """A *request*, the *path* of the file for its body, and its URL as the user wrote it, *text*.

    When it has ended, either `error` says why there is no file, or `size` is that of the file in
    bytes. `large` is set once the body is known to be larger than `_SMALL`.
    """

    __slots__ = ("error", "large", "path", "request", "size", "text")

    def __init__(self, text: str, request: Request, path: str) -> None:
        self.text = text
        self.request = request
        self.path = path
        self.large = False
        self.size = 0
        self.error: str | None = None


class _Failed(Exception):
    """A download failed, and will not be retried."""


def fetch(
    downloads: Iterable[Download], timeout: float, ssl_context: ssl.SSLContext | None = None
) -> Generator[Download, None, None]:
    """Fetch *downloads*, and yield each when it has ended.

    *timeout* (in seconds) and *ssl_context* are those of `ConnectionPool`. Closing the generator
    cancels the downloads that have not ended; they get neither a file nor an error.
    """
    ended: SimpleQueue[_Ended] = SimpleQueue()
    ready: deque[_Ended] = deque()  # taken from `ended`
    under_way = 0
    pool = ConnectionPool(
        timeout=timeout, ssl_context=ssl_context, max_body_size=_SMALL, retry=_RETRY
    )

    def came() -> list[int]:
        while not ended.empty():
            ready.append(ended.get())
        return sizes_of(future for _, future in ready if isinstance(future, ResponseFuture))

    def is_ready() -> bool:
        return bool(ready) or not ended.empty()

    # `with` closes the pool first, which ends the streams; then the executor can wait for them.
    with ThreadPoolExecutor(_STREAMS, "dugong-get") as streams, pool:
        supply = Supply(iter(downloads), _MEMORY, _SMALL)
        while True:
            if under_way <= supply.low:
                for batch in supply.more(under_way, came, is_ready):
                    _start(batch.pop(), pool, streams, ended)
                    under_way += 1
            if not under_way:
                return
            if not ready:
                ready.append(ended.get())  # waits until a download under way ends
            download, future = ready.popleft()
            if _is_to_be_streamed(download, future):
                _start(download, pool, streams, ended)
            else:
                under_way -= 1
                if download.error is None:
                    supply.taken(min(download.size, _SMALL))
                yield download


def _start(
    download: Download,
    pool: ConnectionPool,
    streams: ThreadPoolExecutor,
    ended: SimpleQueue[_Ended],
) -> None:
    if download.large:
        stream = streams.submit(_RETRY.call, _stream, pool, download)
        stream.add_done_callback(lambda future: ended.put((download, future)))
    else:
        pool.submit(download.request).add_done_callback(
            lambda future: ended.put((download, future))
        )


def _is_to_be_streamed(download: Download, future: Future[Response] | Future[None]) -> bool:
    """Finish *download*, unless *future* shows that its body is large."""
    try:
        response = future.result()
        if response is not None:
            _save(download, response, [response.body])
    except ResponseTooLarge:
        download.large = True
        return True
    except (DugongError, OSError, _Failed) as exc:
        download.error = describe(exc)
    return False


def _stream(pool: ConnectionPool, download: Download) -> None:
    """Receive a large body. If it is cut short, raise what says so: the caller retries."""
    with ExitStack() as stack:
        try:
            response = stack.enter_context(pool.stream(download.request))
        except (DugongError, OSError) as exc:
            raise _Failed(describe(exc)) from None  # the pool has retried it already
        _save(download, response, response)


def _save(download: Download, response: Response | StreamedResponse, body: Iterable[bytes]) -> None:
    if response.status >= 300:
        error = f"{response.status} {response.reason}".rstrip()
        if response.status < 400 and (location := response.headers["Location"]):
            error += f", see {location} (redirects are not followed)"
        raise _Failed(error)
    with _PartialFile(download.path) as file:
        for piece in body:
            file.write(piece)
        download.size = file.complete()


class _PartialFile:
    """A file that gets the name *path* once it is complete, and is removed otherwise."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._temporary = os.path.join(
            os.path.dirname(path), f".dugong-{secrets.token_hex(8)}.part"
        )

    def __enter__(self) -> _PartialFile:
        with _file_errors():
            self._file = open(self._temporary, "xb")
        return self

    def write(self, data: bytes) -> None:
        with _file_errors():
            self._file.write(data)

    def complete(self) -> int:
        """Give the file its name; return its size."""
        with _file_errors():
            size = self._file.tell()
            self._file.close()
            os.replace(self._temporary, self._path)
        return size

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None:
            for clean_up in (self._file.close, lambda: os.unlink(self._temporary)):
                try:
                    clean_up()
                except OSError:
                    pass  # the first error is the one to report


@contextmanager
def _file_errors() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise _Failed(f"cannot write the file: {exc.strerror or exc}") from exc


def describe(exc: Exception) -> str:
    """Return what *exc* means in one line."""
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    if isinstance(exc, DugongError):
        return exc.msg  # without the URL, which is named already
    return str(exc) or type(exc).__name__
