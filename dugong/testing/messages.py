"""What a `MockPool` is asked and what it responds: `MockRequest`, `MockResponse` and `failed`.

Guarantees: a `MockResponse` that exists has a status and header fields that a server could send. It
never changes, so it may be the response to many requests, in any thread. No repr has a query, a
header value or a body in it. Touches nothing.
"""

from __future__ import annotations

from http import HTTPStatus
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING, Any, NamedTuple

from dugong.connection.framing import parse_content_length
from dugong.connection.readers import NO_TRAILERS
from dugong.errors import (
    ConnectError,
    ConnectionClosed,
    Delivery,
    DNSUnavailable,
    DugongError,
    HostnameNotResolvable,
    ProxyError,
    TLSError,
)
from dugong.headers import Headers
from dugong.pool.body import request_body
from dugong.pool.checks import check_not_negative
from dugong.pool.options import checked_headers

if TYPE_CHECKING:
    from dugong.connection.encode import HeaderPairs, HeadersLike
    from dugong.pool.body import BodyLike, RequestBody
    from dugong.pool.request import Request

__all__ = ["MockRequest", "MockResponse", "failed", "response_of", "verdict_on"]

_NO_BODY = frozenset((204, 304))  # RFC 9110 §6.4.1

_OF_CONNECTING = (ConnectError, DNSUnavailable, HostnameNotResolvable, ProxyError, TLSError)


class MockRequest(NamedTuple):
    """A request as a `MockPool` has sent it.

    `method` and `url` are those of the request, `headers` all `Headers` that were sent, those that
    the pool and the client have added among them, `body` is all of the body, as bytes, `request`
    the `Request`, and `trailers` the `Headers` behind the body.
    """

    method: str
    url: str
    headers: Headers
    body: bytes
    request: Request
    trailers: Headers = NO_TRAILERS

    @property
    def target(self) -> str:
        """The path and the query of the URL, as they stand there."""
        return self.request.target

    def __repr__(self) -> str:
        return f"<MockRequest {self.method} {self.request.public_url}, {len(self.body)} bytes>"


class MockResponse:
    """A response of a `MockPool`. It never changes, and may be used more than once.

    Parameters: *status* is from 200 to 599. *headers* are as of a `Request`; a Content-Length is
    added if the length of the body is known. *body* is a str, which is sent as UTF-8; a dict, which
    is sent as JSON; or what the body of a `Request` may be. Of these, an iterable is read as the
    response is, so it may wait, or raise a `DugongError` in the middle of the body; and what can be
    read only once is for one response. The response comes after *delay* seconds, in which nothing
    is received: a *timeout* below that ends it. *trailers* are the fields behind the body.

    Raises TypeError and ValueError if these make no sense.
    """

    __slots__ = ("_body", "delay", "headers", "status", "trailers")

    def __init__(
        self,
        status: int = 200,
        headers: HeadersLike | None = None,
        body: BodyLike | str | dict[str, Any] = b"",
        *,
        delay: float = 0.0,
        trailers: HeadersLike | None = None,
    ) -> None:
        if not isinstance(status, int) or isinstance(status, bool):
            raise TypeError(f"status must be an int, not {status!r}")
        if not 200 <= status <= 599:
            raise ValueError(f"status must be from 200 to 599, not {status}")
        check_not_negative("delay", delay, "seconds", TIMEOUT_MAX)
        # None of these changes.
        self.status: int = status
        self.delay: float = delay
        self.headers: HeaderPairs = () if headers is None else checked_headers(headers)
        self.trailers: Headers = Headers(() if trailers is None else checked_headers(trailers))
        media_type = None
        if isinstance(body, str):
            body, media_type = body.encode(), "text/plain; charset=utf-8"
        elif isinstance(body, dict):
            import json

            body, media_type = json.dumps(body).encode(), "application/json"
        if media_type is not None and "content-type" not in self._names:
            self.headers += (("Content-Type", media_type),)
        if body is None:
            raise TypeError("the body is None: an empty one is b''")
        request_body(body)
        self._body = body

    @property
    def _names(self) -> set[str]:
        return {name.lower() for name, _ in self.headers}

    @property
    def reason(self) -> str:
        """The reason phrase of the status in RFC 9110 §15; "" if it has none."""
        try:
            return HTTPStatus(self.status).phrase
        except ValueError:
            return ""

    def message_for(self, method: str) -> tuple[Headers, RequestBody]:
        """Return the header fields and the body of the response to a request with *method*.

        Raises ValueError if the body has been used up, or is not what a Content-Length says.
        """
        announced = Headers(self.headers)["content-length"]
        if self.status in _NO_BODY or (method == "HEAD" and announced is not None):
            return Headers(self.headers), _body_of(b"")
        body = _body_of(self._body, None if announced is None else parse_content_length(announced))
        added: HeaderPairs = ()
        if announced is None and body.length is not None:
            added = (("Content-Length", str(body.length)),)
        return Headers(self.headers + added), _body_of(b"") if method == "HEAD" else body

    def __repr__(self) -> str:
        return f"<MockResponse {self.status} {self.reason}".rstrip() + ">"


def _body_of(body: BodyLike, length: int | None = None) -> RequestBody:
    made = request_body(body, length)
    assert made is not None
    return made


def response_of(given: object) -> MockResponse:
    """Return the response that *given*, which a caller has returned, stands for.

    It is a `MockResponse`, a status, or a body. Raises TypeError and ValueError as `MockResponse`.
    """
    if isinstance(given, MockResponse):
        return given
    if isinstance(given, int):
        return MockResponse(given)
    if given is None:
        raise TypeError("respond has returned None, and not a response")
    return MockResponse(body=given)  # type: ignore[arg-type]  # which refuses what is no body


def failed(delivery: Delivery, error: DugongError | None = None) -> DugongError:
    """Return *error*, to be raised by the *respond* of a `MockPool`, with the verdict *delivery*.

    *error* is what ends the connection: by default, a `ConnectionClosed`. Any thread may call it.
    Raises TypeError if the two are something else.
    """
    if not isinstance(delivery, Delivery):
        raise TypeError(f"delivery must be a Delivery, not {delivery!r}")
    if error is None:
        error = ConnectionClosed()
    if not isinstance(error, DugongError):
        raise TypeError(f"error must be a DugongError, not {error!r}")
    error.delivery = delivery
    return error


def verdict_on(error: DugongError) -> Delivery:
    """Return how far a request got that *error* has been raised for.

    If `failed` has not said it, the connection could not be opened, or all of it was sent.
    """
    if error.delivery is not None:
        return error.delivery
    return Delivery.UNSENT if isinstance(error, _OF_CONNECTING) else Delivery.SENT
