"""The exception tree of dugong; each class says what a caller may do next.

Guarantees: every exception that dugong raises for what a peer or the network did is either a
`DugongError` or an `OSError` (which includes `ssl.SSLError`) that the operating system gave.
`ValueError` and `TypeError` mean that a call was wrong; nothing was sent.
"""

from __future__ import annotations

import errno
import socket
import sys
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dugong.pool.response import Response

__all__ = [
    "ConnectionClosed",
    "ConnectionTimedOut",
    "DNSUnavailable",
    "Delivery",
    "DugongError",
    "ExcessBodyData",
    "HTTPStatusError",
    "HostnameNotResolvable",
    "InvalidResponse",
    "PoolClosed",
    "PoolFull",
    "ProxyError",
    "ResponseTooLarge",
    "StateError",
    "UnsupportedResponse",
    "is_temp_network_error",
]


class Delivery(Enum):
    """How far a request got before it failed, which decides whether it may be sent again.

    `UNSENT` and `DISCLAIMED` may be repeated whatever the method; the others only if the request is
    idempotent (RFC 9110 §9.2.2).
    """

    UNSENT = "not one byte of it was sent"
    PARTLY_SENT = "a part of it was sent"
    SENT = "all of it was sent, and nothing of an answer came"
    ANSWER_STARTED = "an answer had begun"
    DISCLAIMED = "the server said that it has not processed it"


class DugongError(Exception):
    """Base class of all exceptions that dugong defines. `msg` says what happened.

    `delivery` is set on whatever a `ConnectionPool` raises for a request (on an OSError, too).
    """

    msg = "dugong error"
    delivery: Delivery | None = None

    def __init__(self, msg: str | None = None) -> None:
        if msg is not None:
            self.msg = msg
        super().__init__(self.msg)


class ConnectionClosed(DugongError):
    """The connection ended before the message did.

    The connection cannot be used again before `HTTPConnection.disconnect()`, except that
    `HTTPConnection.read_response()` may still return an answer that arrived before the end.
    The request may or may not have been processed: repeat it only if it is idempotent.
    """

    msg = "connection closed unexpectedly"


class ConnectionTimedOut(DugongError):
    """Nothing happened on the connection for `HTTPConnection.timeout` seconds.

    A call that had not taken or sent anything may be made again to go on waiting; otherwise
    disconnect.
    """

    msg = "send/recv timeout exceeded"


class StateError(DugongError):
    """The call does not fit what the connection is doing. It did nothing; the caller has a bug."""

    msg = "invalid state for this call"


class ExcessBodyData(DugongError):
    """More body was written than announced. None of that call's data was sent: write less."""

    msg = "more body data than announced"


class InvalidResponse(DugongError):
    """The server broke RFC 9112. Nothing after this can be trusted: disconnect."""

    msg = "server sent an invalid response"


class UnsupportedResponse(DugongError):
    """A valid answer in a form dugong does not speak, such as HTTP/2 or an unknown transfer coding.

    The raw bytes can be read with `HTTPConnection.read_raw()`; then disconnect.
    """

    msg = "server sent a response in an unsupported form"


class _NameError(DugongError):
    def __init__(self, hostname: str) -> None:
        self.name = hostname
        super().__init__(f"{self.msg}: {hostname}")

    def __reduce__(self) -> tuple[type[_NameError], tuple[str]]:
        return type(self), (self.name,)


class HostnameNotResolvable(_NameError):
    """Name resolution works, but this name (`name`) has no address. Trying again will not help."""

    msg = "host name has no address"


class DNSUnavailable(_NameError):
    """`name` could not be resolved because name resolution is not working. Try again later."""

    msg = "name resolution is unavailable"


class ProxyError(DugongError, ConnectionError):
    """The proxy refused the tunnel; nothing reached the server. `status` and `reason` say why."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(f"proxy refused the tunnel: {status} {reason}".rstrip())

    def __reduce__(self) -> tuple[type[ProxyError], tuple[int, str]]:
        return type(self), (self.status, self.reason)


class PoolClosed(DugongError):
    """The pool was closed before the request was done. `delivery` says how far it had got."""

    msg = "the pool has been closed"
    delivery = Delivery.UNSENT


class PoolFull(DugongError):
    """As many requests are queued as the pool takes. Nothing was sent: wait for some to be done."""

    msg = "too many requests are queued"
    delivery = Delivery.UNSENT


class ResponseTooLarge(DugongError):
    """The body is larger than `max_body_size`. Use `ConnectionPool.stream`, or raise the limit."""

    msg = "the response body is too large"


class HTTPStatusError(DugongError):
    """What `Response.raise_for_status` raises for 4xx and 5xx. `response` is all of the answer."""

    def __init__(self, response: Response) -> None:
        self.response = response
        request = response.request
        super().__init__(
            f"{response.status} {response.reason} for {request.method} {request.url}".strip()
        )

    def __reduce__(self) -> tuple[type[HTTPStatusError], tuple[Response]]:
        return type(self), (self.response,)


_TEMPORARY_ERRNOS = frozenset(
    getattr(errno, name)
    for name in (
        "ECONNABORTED ECONNREFUSED ECONNRESET EHOSTDOWN EHOSTUNREACH EINTR ENETDOWN ENETRESET "
        "ENETUNREACH ENOTCONN EPIPE ESHUTDOWN ETIMEDOUT"
    ).split()
    if hasattr(errno, name)
)


def is_temp_network_error(exc: BaseException) -> bool:
    """Return True if *exc* may be the result of a passing network fault.

    True means that the same request may succeed later over a new connection. It says nothing
    about whether the failed one was processed. May be called from any thread.
    """
    if isinstance(exc, (ConnectionClosed, ConnectionTimedOut, DNSUnavailable)):
        return True
    if isinstance(exc, ProxyError):
        return exc.status in (408, 429, 500, 502, 503, 504)
    if isinstance(exc, socket.gaierror):
        return exc.errno == socket.EAI_AGAIN
    if isinstance(exc, (TimeoutError, ConnectionError)):
        return True
    # An SSL error exists only if ssl has been loaded, so there is no need to load it to ask.
    ssl = sys.modules.get("ssl")
    if ssl is not None and isinstance(exc, ssl.SSLError):
        return isinstance(exc, (ssl.SSLEOFError, ssl.SSLZeroReturnError))
    return isinstance(exc, OSError) and exc.errno in _TEMPORARY_ERRNOS
