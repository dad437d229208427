"""Responses: `Response`, with all of its body in memory, and `StreamedResponse`, which is read from
the connection; and the `Attempt`s before them.

Guarantees: no bytes of a server make the text, the lines or the links of a response raise, or stay
in memory after it.
No repr has a query or a control character in it. Only a `StreamedResponse` touches anything: the
`BodySource` it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from dugong.connection.encode import check_size, writable_view
from dugong.connection.head import headers_of
from dugong.connection.peer import NO_PEER, PeerInfo
from dugong.connection.readers import NO_TRAILERS
from dugong.errors import Delivery, DugongError, HTTPStatusError, printable
from dugong.headers import Headers
from dugong.pool.hints import hint_at_attributes
from dugong.pool.links import links_of
from dugong.pool.text import detected_text_of, lines_of, text_of

if TYPE_CHECKING:
    from datetime import timedelta

    from dugong.pool.request import Request

__all__ = ["Attempt", "BodySource", "Received", "Response", "StreamedResponse", "status_text"]

_PIECE = 256 * 1024
_ERROR_PAGE = 64 * 1024


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


class Received:
    """What all kinds of responses say of what has come."""

    __slots__ = (
        "_headers",
        "_minor_version",
        "_seconds",
        "attempts",
        "history",
        "peer",
        "reason",
        "request",
        "status",
    )

    _headers: Headers | bytes
    _minor_version: int
    _seconds: float
    attempts: tuple[Attempt, ...]
    history: tuple[Response, ...]
    peer: PeerInfo
    reason: str
    request: Request
    status: int

    @property
    def headers(self) -> Headers:
        """The header fields."""
        # Two threads may both do this: to store an attribute is atomic, and both store the same.
        headers = self._headers = headers_of(self._headers)
        return headers

    @property
    def url(self) -> str:
        """The URL that has responded: of the last request, if redirects were followed."""
        return self.request.url

    @property
    def http_version(self) -> str:
        """The version of HTTP that the server speaks: "HTTP/1.1", or "HTTP/1.0"."""
        return f"HTTP/1.{self._minor_version}"

    @property
    def elapsed(self) -> timedelta:
        """The time from the dispatch of the request, in its last attempt, to the response.

        That is all of a `Response`, and the head of a `StreamedResponse`. It begins when a
        connection takes the request, so it is without the time in the queue, and with the time
        behind the requests before it on that connection.
        """
        from datetime import timedelta

        return timedelta(seconds=self._seconds)

    @property
    def links(self) -> dict[str, dict[str, str]]:
        """The links of the Link fields (RFC 8288): ``links["next"]["url"]``, for example.

        The keys are the relation types, in lower case. Each link is a dict with its ``url``, as the
        server sent it (`urllib.parse.urljoin` resolves it), and its parameters, such as ``rel`` and
        ``title``. One that has several types stands at each of them, and one that has none at its
        URL. Of several with one type, the last counts.
        """
        return links_of(self.headers.get_all("link", []))


class Response(Received):
    """A response, with all of its body.

    Attributes: `status` is an int, `reason` a str that may be empty, `headers` are `Headers`,
    `body` is bytes, `request` the `Request`, and `attempts` a tuple with each `Attempt` that failed
    before this one. `history` is one with the responses that have led here by redirects or the
    like, which only a `Client` follows. `trailers` are the `Headers` that came behind the body,
    which are mostly none, and never among the `headers` (RFC 9110 §6.5). `peer` is the `PeerInfo`
    of the connection: the address and the certificate of the server. They must not be changed; then
    any thread may read them.
    """

    __slots__ = ("body", "trailers")

    def __init__(
        self,
        status: int,
        reason: str,
        headers: Headers | bytes,
        body: bytes,
        request: Request,
        attempts: tuple[Attempt, ...] = (),
        seconds: float = 0.0,
        minor_version: int = 1,
        trailers: Headers = NO_TRAILERS,
        peer: PeerInfo = NO_PEER,
    ) -> None:
        self.status = status
        self.reason = reason
        # As headers_of() takes them. Stored by each thread that is the first to read `headers`.
        self._headers = headers
        self.body: bytes = body
        self.request = request
        self.attempts = attempts
        self.history: tuple[Response, ...] = ()
        self._seconds = seconds  # from the dispatch of the request until all of this had come
        self._minor_version = minor_version  # the x of HTTP/1.x
        self.trailers: Headers = trailers
        self.peer: PeerInfo = peer

    @property
    def text(self) -> str:
        """The body as text.

        Its charset is that of the byte order mark that it begins with, which is left out; else the
        one that Content-Type names, if Python has a codec of its own for it; else UTF-8. What
        cannot be decoded becomes U+FFFD.
        """
        return text_of(self.body, self.headers)

    def detected_text(self) -> str:
        """Return the body as `text`, but have its charset guessed if nothing names it.

        It is guessed if there is no byte order mark, Content-Type names no charset that Python
        knows, and the body is not UTF-8. That takes about a second for 5 MB.

        Raises ImportError without the package charset-normalizer (``pip install dugong[charset]``).
        """
        return detected_text_of(self.body, self.headers)

    def iter_lines(self) -> Iterator[str]:
        r"""Yield the lines of `text` without their ends.

        Those are ``\n``, ``\r\n`` and ``\r``, and nothing else that `str.splitlines` takes for one.
        """
        body = self.body
        pieces = (body[start : start + _PIECE] for start in range(0, len(body), _PIECE))
        return lines_of(pieces, self.headers)

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


class StreamedResponse(Received):
    """A response whose body is read from the connection as the caller asks for it.

    Attributes: `status`, `reason`, `headers`, `request`, `attempts`, `history` and `peer` as in
    `Response`; `length` is the size of the body in bytes, or None if only its end will tell. It
    serves as a binary file that can be read once: for `shutil.copyfileobj`, `io.TextIOWrapper`,
    `io.BufferedReader` and the like.

    All methods that read raise `ConnectionClosed` if the body is cut short, `ConnectionTimedOut`,
    `InvalidResponse`, and ValueError after the `with` block of `ConnectionPool.stream` was left.
    For one thread at a time.
    """

    __slots__ = ("__weakref__", "_source", "_trailers", "length")

    def __init__(
        self,
        status: int,
        reason: str,
        headers: Headers | bytes,
        request: Request,
        length: int | None,
        source: BodySource,
        attempts: tuple[Attempt, ...] = (),
        seconds: float = 0.0,
        minor_version: int = 1,
        trailers: Callable[[], Headers] = lambda: NO_TRAILERS,
        peer: PeerInfo = NO_PEER,
    ) -> None:
        self.status = status
        self.reason = reason
        self._headers = headers  # as in `Response`
        self.request = request
        self.length: int | None = length
        self.attempts = attempts
        self.history: tuple[Response, ...] = ()
        self._seconds = seconds  # from the dispatch of the request until the head had come
        self._minor_version = minor_version  # the x of HTTP/1.x
        # None once it is closed. Of the thread that reads; closing may come from another.
        self._source: BodySource | None = source
        # Where they come from; once it is closed, what has come. Set by the thread that closes it.
        self._trailers: Callable[[], Headers] | Headers = trailers
        self.peer: PeerInfo = peer

    @property
    def trailers(self) -> Headers:
        """The fields behind the body (RFC 9110 §6.5), once that has been read to its end.

        Mostly there are none. They are never among the `headers`.
        """
        trailers = self._trailers
        return trailers if isinstance(trailers, Headers) else trailers()

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
        source = self._source or self._open_source()
        view = writable_view(buf)
        return source.readinto(view) if view.nbytes else 0

    def __iter__(self) -> Iterator[bytes]:
        """Yield the rest of the body in pieces as they come, of up to 256 KiB."""
        while piece := self._open_source().read(_PIECE):
            yield piece

    def iter_lines(self) -> Iterator[str]:
        r"""Yield the lines of the rest of the body without their ends, each as soon as it has come.

        The charset is as for `Response.text`, and what ends a line as for `Response.iter_lines`. A
        line is kept in memory as a whole, however long the server makes it. The body is read in
        pieces, so what comes behind the lines that were taken cannot be read any more.
        """
        return lines_of(self, self.headers)

    def raise_for_status(self) -> Self:
        """Raise `HTTPStatusError` if the status is 400 or more; return the response otherwise.

        The `response` of the error holds the body: up to 64 KiB are read for that, if not closed.
        """
        if self.status < 400:
            return self
        raise HTTPStatusError(self._whole())

    def _whole(self, most: int = _ERROR_PAGE) -> Response:
        """Return this response with what is read of its body now, up to *most* bytes."""
        page = bytearray()
        source = self._source
        try:
            while source is not None and len(page) < most:
                piece = source.read(most - len(page))
                if not piece:
                    break
                page += piece
        except (DugongError, OSError):
            pass  # the status says more than why its explanation is cut short
        response = Response(
            self.status,
            self.reason,
            self._headers,
            bytes(page),
            self.request,
            self.attempts,
            self._seconds,
            self._minor_version,
            self.trailers,
            self.peer,
        )
        response.history = self.history
        return response

    def close(self) -> None:
        """Read no more. The connection is drained or closed when the `with` block is left."""
        self._trailers = self.trailers  # or it would keep the pool
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

    def _open_source(self) -> BodySource:
        if self._source is None:
            raise ValueError("the streamed response is closed")
        return self._source

    def __repr__(self) -> str:
        length = "of unknown length" if self.length is None else f"{self.length} bytes"
        state = ", closed" if self.closed else ""
        return f"<StreamedResponse {_describe(self)}, {length}{state}>"


hint_at_attributes(Response)
hint_at_attributes(StreamedResponse, streamed=True)


def status_text(response: Response | StreamedResponse) -> str:
    """Return the status and the reason, as in ``404 Not Found``, with no control characters."""
    return printable(f"{response.status} {response.reason}".rstrip())


def _describe(response: Response | StreamedResponse) -> str:
    request = response.request
    return f"{status_text(response)} for {request.method} {request.public_url}"
