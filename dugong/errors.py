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
    from dugong.pool.response import Attempt, Response

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
    "printable",
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

    `delivery` is set on whatever a `ConnectionPool` raises for a request (on an OSError, too), and
    so is `attempts`, a tuple with each earlier `Attempt` to send that request.
    """

    msg = "dugong error"
    delivery: Delivery | None = None
    attempts: tuple[Attempt, ...] = ()

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
        self.attempts = response.attempts
        request = response.request
        status = f"{response.status} {printable(response.reason)}".rstrip()
        super().__init__(f"{status} for {request.method} {request.public_url}")

    def __reduce__(self) -> tuple[type[HTTPStatusError], tuple[Response]]:
        return type(self), (self.response,)


# What the operating system says of the way to the peer, or of its own buffers and ports.
_TEMPORARY_ERRNOS = frozenset(
    getattr(errno, name)
    for name in (
        "EADDRNOTAVAIL ECONNABORTED ECONNREFUSED ECONNRESET EHOSTDOWN EHOSTUNREACH EINTR ENETDOWN "
        "ENETRESET ENETUNREACH ENOBUFS ENONET ENOTCONN EPIPE ESHUTDOWN ETIMEDOUT"
    ).split()
    if hasattr(errno, name)  # not every system knows all of them
)

# What OpenSSL says if the records were damaged or cut on the way, or if the peer says so, or has a
# problem of its own. Not what is said of versions, ciphers and certificates that do not go
# together, though damage may look like that, too.
_TEMPORARY_TLS_REASONS = frozenset(
    (
        "BAD_LENGTH BAD_RECORD_TYPE BAD_SIGNATURE DATA_LENGTH_TOO_LONG "
        "DECRYPTION_FAILED_OR_BAD_RECORD_MAC DIGEST_CHECK_FAILED ENCRYPTED_LENGTH_TOO_LONG "
        "EXCESSIVE_MESSAGE_SIZE LENGTH_MISMATCH LENGTH_TOO_LONG LENGTH_TOO_SHORT "
        "NOT_ON_RECORD_BOUNDARY PACKET_LENGTH_TOO_LONG RECORD_LAYER_FAILURE RECORD_LENGTH_MISMATCH "
        "RECORD_TOO_SMALL UNEXPECTED_EOF_WHILE_READING UNEXPECTED_MESSAGE UNEXPECTED_RECORD "
        "SSLV3_ALERT_BAD_RECORD_MAC SSLV3_ALERT_DECOMPRESSION_FAILURE "
        "SSLV3_ALERT_UNEXPECTED_MESSAGE TLSV1_ALERT_DECODE_ERROR TLSV1_ALERT_DECRYPTION_FAILED "
        "TLSV1_ALERT_DECRYPT_ERROR TLSV1_ALERT_INTERNAL_ERROR TLSV1_ALERT_RECORD_OVERFLOW "
        "TLSV1_ALERT_USER_CANCELLED"
    ).split()
)

_TRY_AGAIN = 2  # of <netdb.h>, which the socket module does not tell


def is_temp_network_error(exc: BaseException) -> bool:
    """Return True if *exc* may be the result of a passing network fault.

    True means that the same request may succeed later over a new connection. It says nothing
    about whether the failed one was processed. An exception that says nothing of the network is
    what its cause is (``raise MyError from exc``); one that was only raised while another was
    handled is not. False for every answer that has come, be it 503 (`HTTPStatusError`) or no HTTP
    (`InvalidResponse`), and for what is not meant to be handled, as KeyboardInterrupt. May be
    called from any thread.
    """
    seen: set[int] = set()  # for a cause may have been made to lead back to where it came from
    link: BaseException | None = exc
    while link is not None and id(link) not in seen:
        verdict = _is_temporary(link)
        if verdict is not None:
            return verdict
        seen.add(id(link))
        link = link.__cause__
    return False


def _is_temporary(exc: BaseException) -> bool | None:
    """Return what *exc* itself says of the network; None if that is nothing."""
    if isinstance(exc, ProxyError):
        return exc.status in (408, 429, 500, 502, 503, 504)
    if isinstance(exc, DugongError):
        return isinstance(exc, (ConnectionClosed, ConnectionTimedOut, DNSUnavailable))
    if isinstance(exc, OSError):
        return _is_temporary_os_error(exc)
    return None if isinstance(exc, Exception) else False


def _is_temporary_os_error(exc: OSError) -> bool | None:
    if isinstance(exc, (TimeoutError, ConnectionError)):
        return True
    if isinstance(exc, socket.gaierror):
        return exc.errno == socket.EAI_AGAIN
    if isinstance(exc, socket.herror):
        return exc.errno == _TRY_AGAIN
    # An SSL error exists only if ssl has been loaded, so there is no need to load it to ask.
    ssl = sys.modules.get("ssl")
    if ssl is not None and isinstance(exc, ssl.SSLError):
        ended = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
        return isinstance(exc, ended) or getattr(exc, "reason", None) in _TEMPORARY_TLS_REASONS
    return None if exc.errno is None else exc.errno in _TEMPORARY_ERRNOS


def printable(text: str) -> str:
    """Return *text*, which a peer may have sent, with its control characters escaped."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
