"""Downloads from one origin: over one connection at a time, pipelined, into files.

Guarantees: each download ends once, in a complete file of its name or in an error, and there is
no half file then. Every connection either ends a download or uses up an attempt of one, so there
is an end. Memory does not depend on the size of anything that is downloaded.
"""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from dugong import ConnectionClosed, DugongError, HTTPConnection, __version__
from dugong.cli.pipelining import MAX_DEPTH, pipelined

if TYPE_CHECKING:
    import ssl

    from dugong.cli.url import Origin, Url

__all__ = ["Download", "OriginFetcher"]

_MAX_ATTEMPTS = 3
_BUFFER_SIZE = 256 * 1024
_HEADERS = {"User-Agent": f"dugong/{__version__}"}


class Download:
    """What is to be fetched into the file *path*; *text* is how the user calls it.

    `size` (in bytes) or `error` (why there is no file) say how it ended. They and `attempts`, of
    those that failed for a reason of its own, belong to the fetching thread until then.
    """

    __slots__ = ("attempts", "error", "origin", "path", "size", "target", "text")

    def __init__(self, text: str, url: Url, path: str) -> None:
        self.text = text
        self.origin, self.target = url
        self.path = path
        self.attempts = 0
        self.size = 0
        self.error: str | None = None


class _FileError(Exception):
    """A file could not be written; the network has no part in it."""


class OriginFetcher:
    """Fetches *downloads* from *origin*, handing each to *done* when it has ended.

    *timeout* and *ssl_context* are those of the connections. `run` is for one thread, the
    receiving one; it starts a sending one. `stop` may come from any thread.
    """

    def __init__(
        self,
        origin: Origin,
        downloads: Iterable[Download],
        timeout: float,
        ssl_context: ssl.SSLContext | None,
        done: Callable[[Download], None],
    ) -> None:
        self._origin = origin
        self._todo = deque(downloads)
        self._timeout = timeout
        self._ssl_context = ssl_context
        self._done = done
        self._buffer = memoryview(bytearray(_BUFFER_SIZE))
        self._depth = MAX_DEPTH
        # Written by the fetching thread, read by `stop`.
        self._connection: HTTPConnection | None = None
        # Written by `stop`, read by the fetching thread.
        self._stopped = False

    def stop(self) -> None:
        """Have `run` return soon; what has not ended then is never handed to *done*."""
        self._stopped = True
        if self._connection is not None:
            self._connection.disconnect()

    def run(self) -> None:
        """Fetch everything, or as much as can be had."""
        try:
            while self._todo and not self._stopped:
                try:
                    conn = self._connect()
                except (DugongError, OSError, ValueError) as exc:
                    self._fail_all(describe(exc))
                else:
                    with conn:
                        self._use(conn)
        except Exception as exc:  # a bug; but somebody waits for the end of each
            self._fail_all(f"internal error: {exc!r}")

    def _connect(self) -> HTTPConnection:
        _, host, port = self._origin
        self._connection = conn = HTTPConnection(host, port, self._ssl_context)
        conn.timeout = self._timeout
        conn.connect()
        return conn

    def _use(self, conn: HTTPConnection) -> None:
        """Fetch what can be had over *conn*, and learn from how it ends."""
        targets = [download.target for download in self._todo]
        answered = 0
        try:
            with closing(pipelined(conn, targets, _HEADERS, self._depth)) as sent:
                for _ in sent:
                    self._receive(conn, self._todo[0])
                    self._end_oldest()
                    answered += 1
                    if self._stopped:
                        return
        except _FileError as exc:
            self._end_oldest(str(exc))
        except (DugongError, OSError) as exc:
            if self._stopped:
                return
            # A server that ends its connections makes us repeat no more than it has answered.
            self._depth = max(1, min(self._depth, answered // 2))
            # One that stood behind others may have failed for their sake; it now becomes the first.
            if not answered:
                self._todo[0].attempts += 1
                hopeless = self._todo[0].attempts >= _MAX_ATTEMPTS
                if hopeless or not isinstance(exc, ConnectionClosed):
                    self._end_oldest(describe(exc))

    def _receive(self, conn: HTTPConnection, download: Download) -> None:
        response = conn.read_response()
        if response.status >= 300:
            conn.discard()
            download.error = f"{response.status} {response.reason}".rstrip()
            if response.status < 400 and (location := response.headers["Location"]):
                download.error += f", see {location} (redirects are not followed)"
            return
        with _PartialFile(download.path) as file:
            while got := conn.readinto(self._buffer):
                file.write(self._buffer[:got])
            if self._stopped:
                # The sender may have connected again since, and what we read be of that connection.
                raise ConnectionClosed("stopped")
            download.size = file.complete()

    def _end_oldest(self, error: str | None = None) -> None:
        download = self._todo.popleft()
        if error is not None:
            download.error = error
        self._done(download)

    def _fail_all(self, error: str) -> None:
        while self._todo:
            self._end_oldest(error)


class _PartialFile:
    """A file that gets the name *path* once it is complete, or else is removed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._temporary = os.path.join(
            os.path.dirname(path), f".dugong-{secrets.token_hex(8)}.part"
        )

    def __enter__(self) -> _PartialFile:
        with _file_errors():
            self._file = open(self._temporary, "xb")
        return self

    def write(self, data: memoryview) -> None:
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
        raise _FileError(f"cannot write the file: {exc.strerror or exc}") from exc


def describe(exc: Exception) -> str:
    """Return what *exc* means in one line."""
    if message := getattr(exc, "verify_message", None):
        return f"the certificate was not accepted: {message}"
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return str(exc) or type(exc).__name__
