"""Responses: `Response`, with all of its body in memory, and `StreamedResponse`, which is read from
the connection; and the `Attempt`s before them.

Guarantees: no bytes of a server make `Response.text` raise, or stay in memory after the response.
No repr has a query or a control character in it. Only a `StreamedResponse` touches anything: the
`BodySource` it was given.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from dugong.connection.cache import BoundedCache
from dugong.connection.encode import check_size, writable_view
from dugong.connection.head import headers_of
from dugong.errors import Delivery, DugongError, HTTPStatusError, printable
from dugong.headers import Headers
from dugong.pool.hints import no_attribute

if TYPE_CHECKING:
    from dugong.pool.request import Request

__all__ = ["Attempt", "BodySource", "Response", "StreamedResponse", "status_text"]

_PIECE = 256 * 1024
_ERROR_PAGE = 64 * 1024

# Codecs of Python that are no charsets; some of them take time with the square of the length.
_NOT_CHARSETS = {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined"}
_LONGEST_CHARSET = 40  # characters; no codec of Python has a longer name
_NOT_IN_CODEC = re.compile(r"[^a-z0-9]+")


class Attempt(NamedTuple):
    """An attempt to send a request that has failed.

    `when` it ended is in seconds, as `time.time` gives them; `connection` is the name of the
    connection; `outcome` says what happened; `delivery` how far the request had got (None: it was
    no request of a pool). `number` is 1 for the first; an attempt that was not `charged` was lost
    because of another request, and the next one has its number. `status` is that of a response and
    `exception` what went wrong: one of the two is None, or both if it has waited behind a slow
    response (see *pipeline_rescue*). `response` is that response and `request` the `Request` while
    a `RetryPolicy.should_retry` is asked; neither is kept afterwards.
    """

    when: float
    connection: str
    outcome: str
    delivery: Delivery | None
    number: int = 1
    charged: bool = True
    status: int | None = None
    exception: Exception | None = None
    response: Response | None = None
    request: Request | None = None


class Response:
    """A response, with all of its body.

    Attributes: `status` is an int, `reason` a str that may be empty, `headers` are `Headers`,
    `body` is bytes, `request` the `Request`, and `attempts` a tuple with each `Attempt` that failed
    before this one. They must not be changed; then any thread may read them.
    """

    __slots__ = ("_headers", "attempts", "body", "reason", "request", "status")

    def __init__(
        self,
        status: int,
        reason: str,
        headers: Headers | bytes,
        body: bytes,
        request: Request,
        attempts: tuple[Attempt, ...] = (),
    ) -> None:
        self.status = status
        self.reason = reason
        # As headers_of() takes them. Stored by each thread that is the first to read `headers`.
        self._headers = headers
        self.body = body
        self.request = request
        self.attempts = attempts

    @property
    def headers(self) -> Headers:
        """The header fields."""
        # Two threads may both do this: to store an attribute is atomic, and both store the same.
        headers = self._headers = headers_of(self._headers)
        return headers

    @property
    def url(self) -> str:
        """The URL that was asked for."""
        return self.request.url

    @property
    def text(self) -> str:
        """The body as text, in the charset that Content-Type names.

        It is UTF-8 if Content-Type names none, or one for which Python has no codec of its own.
        What cannot be decoded becomes U+FFFD.
        """
        codec = _known_codecs[self.headers.get_content_charset("utf-8")]
        try:
            return self.body.decode(codec, "replace")
        except (LookupError, ValueError):  # a codec between bytes, for example
            return self.body.decode("utf-8", "replace")

    def json(self, **kwargs: Any) -> Any:
        """Return what the body, which is JSON, stands for. *kwargs* are those of `json.loads`.

        Raises ValueError if it is no JSON, mostly a `json.JSONDecodeError`: also if it is nested so
        deeply that Python cannot read it.
        """
        import json

        try:
            return json.loads(self.body, **kwargs)
        except RecursionError:
            raise json.JSONDecodeError("The JSON is nested too deeply", "", 0) from None

    def raise_for_status(self) -> Self:
        """Raise `HTTPStatusError` if the status is 400 or more; return the response otherwise."""
        if self.status >= 400:
            raise HTTPStatusError(self)
        return self

    if not TYPE_CHECKING:  # to which it would have attributes of any name

        def __getattr__(self, name):
            raise no_attribute(self, name)

    def __getstate__(self) -> object:
        return super().__getstate__()  # defined, or the oldest protocols of pickle refuse slots

    def __repr__(self) -> str:
        return f"<Response {_describe(self)}, {len(self.body)} bytes>"


class BodySource(Protocol):
    """What a `StreamedResponse` reads its body from."""

    def read(self, size: int) -> bytes:
        """Return the next 1 to *size* bytes of the body; b"" at its end, however often asked."""

    def readinto(self, view: memoryview) -> int:
        """Fill the beginning of *view*, which has room, and return by how much; 0 at the end."""


class StreamedResponse:
    """A response whose body is read from the connection as the caller asks for it.

    Attributes: `status`, `reason`, `headers`, `url`, `request` and `attempts` as in `Response`;
    `length` is the size of the body in bytes, or None if only its end will tell. It serves as a
    binary file that can be read once: for `shutil.copyfileobj`, `io.TextIOWrapper`,
    `io.BufferedReader` and the like.

    All methods that read raise `ConnectionClosed` if the body is cut short, `ConnectionTimedOut`,
    `InvalidResponse`, and ValueError after the `with` block of `ConnectionPool.stream` was left.
    For one thread at a time.
    """

    __slots__ = ("_source", "attempts", "headers", "length", "reason", "request", "status")

    def __init__(
        self,
        status: int,
        reason: str,
        headers: Headers,
        request: Request,
        length: int | None,
        source: BodySource,
        attempts: tuple[Attempt, ...] = (),
    ) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.request = request
        self.length = length
        self.attempts = attempts
        # None once it is closed. Of the thread that reads; closing may come from another.
        self._source: BodySource | None = source

    @property
    def url(self) -> str:
        """The URL that was asked for."""
        return self.request.url

    def read(self, n: int | None = -1) -> bytes:
        """Return up to *n* bytes of the body; fewer only says that there were not more yet.

        b"" is the end of the body. With None or a negative number, the default, returns the rest,
        however much that is.
        """
        source = self._open_source()
        if n is not None:
            check_size("n", n)
        if n is None or n < 0:
            return b"".join(self)
        return source.read(n) if n else b""

    def readinto(self, buf: bytearray | memoryview) -> int:
        """Receive the next part of the body straight into *buf*; return the number of bytes.

        0 is the end of the body.
        """
        source = self._open_source()
        view = writable_view(buf)
        return source.readinto(view) if view.nbytes else 0

    def __iter__(self) -> Iterator[bytes]:
        """Yield the rest of the body in pieces as they come, of up to 256 KiB."""
        while piece := self._open_source().read(_PIECE):
            yield piece

    def raise_for_status(self) -> Self:
        """Raise `HTTPStatusError` if the status is 400 or more; return the response otherwise.

        The `response` of the error holds the body: up to 64 KiB are read for that, if not closed.
        """
        if self.status < 400:
            return self
        page = bytearray()
        source = self._source
        try:
            while source is not None and len(page) < _ERROR_PAGE:
                piece = source.read(_ERROR_PAGE - len(page))
                if not piece:
                    break
                page += piece
        except (DugongError, OSError):
            pass  # the status says more than why its explanation is cut short
        response = Response(
            self.status, self.reason, self.headers, bytes(page), self.request, self.attempts
        )
        raise HTTPStatusError(response)

    def close(self) -> None:
        """Read no more. The connection is drained or closed when the `with` block is left."""
        self._source = None

    @property
    def closed(self) -> bool:
        """Whether nothing more can be read."""
        return self._source is None

    def readable(self) -> bool:
        """Return True, as files do."""
        return True

    def writable(self) -> bool:
        """Return False, as files do."""
        return False

    def seekable(self) -> bool:
        """Return False, as files do."""
        return False

    def flush(self) -> None:
        """Do nothing, as files do."""

    if not TYPE_CHECKING:  # to which it would have attributes of any name

        def __getattr__(self, name):
            raise no_attribute(self, name, streamed=True)

    def _open_source(self) -> BodySource:
        if self._source is None:
            raise ValueError("the streamed response is closed")
        return self._source

    def __repr__(self) -> str:
        length = "of unknown length" if self.length is None else f"{self.length} bytes"
        state = ", closed" if self.closed else ""
        return f"<StreamedResponse {_describe(self)}, {length}{state}>"


def status_text(response: Response | StreamedResponse) -> str:
    """Return the status and the reason, as in ``404 Not Found``, with no control characters."""
    return printable(f"{response.status} {response.reason}".rstrip())


def _describe(response: Response | StreamedResponse) -> str:
    request = response.request
    return f"{status_text(response)} for {request.method} {request.public_url}"


def _codec(charset: str) -> str:
    """Return the name of Python's own codec for *charset*; that of UTF-8 if it has none.

    Of what `codecs.lookup` is asked for, the package `encodings` keeps all names for ever, known or
    not, and in each spelling. So it is asked for nothing but the names of its modules.
    """
    from encodings.aliases import aliases
    from importlib.util import find_spec

    key = _NOT_IN_CODEC.sub("_", charset).strip("_")
    if key and len(key) <= _LONGEST_CHARSET:
        name = aliases.get(key, key)
        if name not in _NOT_CHARSETS and find_spec(f"encodings.{name}") is not None:
            return name
    return "utf_8"


_known_codecs = BoundedCache(_codec, max_entries=256)
