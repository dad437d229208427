"""The exception tree of dugong; each class says what a caller may do next.

Guarantees: what an `HTTPConnection` raises for what a peer or the network did is either a
`DugongError` or an `OSError` (which includes `ssl.SSLError`) that the operating system gave; what a
`ConnectionPool` raises for it is always a `DugongError`. `ValueError` and `TypeError` mean that a
call was wrong; nothing was sent. Exceptions survive `pickle` and `copy` with all that they hold.
"""

from __future__ import annotations

import copy
import errno
import os
import socket
import sys
from collections.abc import Iterator
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from dugong.pool.request import Request
    from dugong.pool.response import Attempt, Response, StreamedResponse

__all__ = [
    "ConnectError",
    "ConnectionClosed",
    "ConnectionTimedOut",
    "DNSUnavailable",
    "DecodingError",
    "Delivery",
    "DugongError",
    "ExcessBodyData",
    "HTTPStatusError",
    "HostnameNotResolvable",
    "IntegrityError",
    "InternalError",
    "InvalidResponse",
    "PoolClosed",
    "PoolFull",
    "ProxyError",
    "RedirectError",
    "ResponseTooLarge",
    "StateError",
    "TLSError",
    "TooManyRedirects",
    "UnsupportedResponse",
    "is_out_of_descriptors",
    "is_temp_network_error",
    "is_tls_refusal",
    "printable",
]

E = TypeVar("E", bound="DugongError")


class Delivery(Enum):
    """How far a request got before it failed, which decides whether it may be sent again.

    `UNSENT` and `DISCLAIMED` may be repeated whatever the method; the others only if the request is
    idempotent (RFC 9110 §9.2.2).
    """

    UNSENT = "not one byte of it was sent"
    PARTLY_SENT = "a part of it was sent"
    SENT = "all of it was sent, and nothing of a response came"
    ANSWER_STARTED = "a response had begun"
    DISCLAIMED = "the server said that it has not processed it"


class DugongError(Exception):
    """Base class of all exceptions that dugong defines. `msg` says what happened.

    `delivery` is set on each exception that a `ConnectionPool` raises for a request, and so are
    `request`, the `Request`, and `attempts`, a tuple with each earlier `Attempt` to send it. The
    text then begins with the method and the URL of the request, without the query.
    """

    msg: str = "dugong error"
    delivery: Delivery | None = None
    attempts: tuple[Attempt, ...] = ()
    request: Request | None = None
    _asked = ""  # what names the request in the text, if `request` could not be pickled

    def __init__(self, msg: str | None = None) -> None:
        if msg is not None:
            self.msg = msg
        super().__init__(self.msg)

    def __str__(self) -> str:
        asked = self._name_of_request()
        return f"{asked}: {self.msg}" if asked else self.msg

    def _name_of_request(self) -> str:
        return self._asked if self.request is None else _name_of(self.request)

    # An exception is copied by its state, not by calling its class: a class may take what it likes.

    def __reduce__(self) -> tuple[Any, ...]:
        state = self.__dict__.copy()
        links = {"__cause__": self.__cause__} if self.__cause__ is not None else {}
        # What a caller has given may be anything: a file, a generator, a lambda.
        if state.get("request") is not None and not _can_pickle(state["request"]):
            state["_asked"] = self._name_of_request()
            del state["request"]
        if "attempts" in state and not _can_pickle(state["attempts"]):
            del state["attempts"]
        if state.get("response") is not None:
            state["response"] = _picklable(state["response"])
        if links and not _can_pickle(self.__cause__):
            links = {}
        return _rebuilt, (type(self), self.args, _slots_of(self) | links, state)

    def __copy__(self: E) -> E:
        links = {"__cause__": self.__cause__, "__context__": self.__context__}
        slots = _slots_of(self) | links
        slots["__suppress_context__"] = self.__suppress_context__
        return _rebuilt(type(self), self.args, slots, self.__dict__.copy())

    def __deepcopy__(self: E, memo: dict[int, Any]) -> E:
        own = copy.copy(self)
        memo[id(self)] = own
        own.args = copy.deepcopy(self.args, memo)
        for name, value in self.__dict__.items():
            # These never change, and may hold what cannot be copied.
            if name not in ("request", "response", "attempts"):
                setattr(own, name, copy.deepcopy(value, memo))
        return own


def _rebuilt(
    cls: type[E], args: tuple[Any, ...], slots: dict[str, Any], state: dict[str, Any]
) -> E:
    """Make an exception of the class *cls* from what it was made of."""
    exc = cls.__new__(cls, *args)
    exc.args = args
    for name, value in slots.items():
        setattr(exc, name, value)
    exc.__dict__.update(state)
    return exc


def _slots_of(exc: BaseException) -> dict[str, Any]:
    """Return what an OSError holds beside its dictionary."""
    if not isinstance(exc, OSError):
        return {}
    return {name: getattr(exc, name) for name in ("errno", "strerror", "filename", "filename2")}


def _can_pickle(value: object) -> bool:
    import pickle

    try:
        pickle.dumps(value)
    except Exception:  # whatever an object of the caller's raises
        return False
    return True


def _picklable(response: Response) -> Response:
    """Return *response*, or, if that cannot be pickled, one whose request has no body."""
    if _can_pickle(response):
        return response
    request = type(response.request)(response.request.method, response.request.url)
    attempts = response.attempts if _can_pickle(response.attempts) else ()
    return type(response)(
        response.status, response.reason, response.headers, response.body, request, attempts
    )


def _name_of(request: Request) -> str:
    """Return what names *request* in a message: no query, which may hold a signature."""
    path = request.target.partition("?")[0]
    return f"{request.method} {request.origin}{path if path[:1] == '/' else ''}"


def printable(text: str) -> str:
    """Return *text* of a peer's without what could control a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class ConnectionClosed(DugongError):
    """The connection ended before the message did.

    The connection cannot be used again before `HTTPConnection.disconnect()`, except that
    `HTTPConnection.read_response()` may still return a response that arrived before the end.
    The request may or may not have been processed: repeat it only if it is idempotent.

    `response` is None, or the `Response` that a pool had received, with a status below 300, before
    the body of the request could be sent as a whole.
    """

    msg: str = "connection closed unexpectedly"
    response: Response | None = None


class ConnectionTimedOut(DugongError):
    """Nothing happened on the connection for `HTTPConnection.timeout` seconds.

    A call that had not taken or sent anything may be made again to go on waiting; otherwise
    disconnect.

    `response` is as that of `ConnectionClosed`.
    """

    msg: str = "send/recv timeout exceeded"
    response: Response | None = None


class StateError(DugongError):
    """The call does not fit what the connection is doing. It did nothing; the caller has a bug."""

    msg: str = "invalid state for this call"


class ExcessBodyData(DugongError):
    """More body was written than announced. None of that call's data was sent: write less."""

    msg: str = "more body data than announced"


class InvalidResponse(DugongError):
    """The server broke RFC 9112. Nothing after this can be trusted: disconnect."""

    msg: str = "server sent an invalid response"


class UnsupportedResponse(DugongError):
    """A valid response in a form dugong does not speak, such as HTTP/2 or an unknown coding.

    The raw bytes can be read with `HTTPConnection.read_raw()`; then disconnect.
    """

    msg: str = "server sent a response in an unsupported form"


class ConnectError(DugongError, OSError):
    """The system could not open a connection. Nothing was sent.

    `errno` says why, and `__cause__` is what the system raised, as an `HTTPConnection` does.
    """

    msg: str = "the connection could not be opened"

    def __init__(self, msg: str | None = None, number: int | None = None) -> None:
        super().__init__(msg)
        if number is not None:
            self.errno: int | None = number
            self.strerror: str | None = os.strerror(number)


class TLSError(DugongError, OSError):
    """TLS has failed: the certificate, the handshake, or a record that came later.

    `reason` is that of the `ssl.SSLError` which is the `__cause__`, such as
    ``CERTIFICATE_VERIFY_FAILED``, or None. An `HTTPConnection` raises the `ssl.SSLError`, but for
    TLS with a proxy.
    """

    msg: str = "TLS has failed"
    reason: str | None = None

    def __init__(self, msg: str | None = None, reason: str | None = None) -> None:
        super().__init__(msg)
        self.reason = reason


class _NameError(DugongError):
    def __init__(self, hostname: str) -> None:
        self.name = hostname
        super().__init__(f"{self.msg}: {hostname}")


class HostnameNotResolvable(_NameError):
    """Name resolution works, but this name (`name`) has no address. Trying again will not help."""

    msg: str = "host name has no address"


class DNSUnavailable(_NameError):
    """`name` could not be resolved because name resolution is not working. Try again later."""

    msg: str = "name resolution is unavailable"


class ProxyError(DugongError, ConnectionError):
    """The proxy refused the tunnel; nothing reached the server. `status` and `reason` say why.

    *status* is that of the response to CONNECT, or below 256 the code that a SOCKS proxy replied
    with: 255 if it refused the credentials, or that there were none.
    """

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(f"the proxy refused the tunnel: {status} {printable(reason)}".rstrip())


class PoolClosed(DugongError):
    """The pool was closed before the request was done. `delivery` says how far it had got."""

    msg: str = "the pool has been closed"
    delivery: Delivery | None = Delivery.UNSENT


class InternalError(DugongError):
    """A bug of dugong has ended the request. `__cause__` is what was raised: please report it.

    Another attempt is likely to meet the same bug, so there is none. Other requests go on.
    """

    msg: str = "internal error"


class PoolFull(DugongError):
    """As many requests are queued as the pool takes. Nothing was sent: wait for some to be done."""

    msg: str = "too many requests are queued"
    delivery: Delivery | None = Delivery.UNSENT


class ResponseTooLarge(DugongError):
    """The body is larger than `max_body_size`. Use `ConnectionPool.stream`, or raise the limit.

    `size` is its size in bytes, as the head of the response announced it. If `is_announced` is
    False, nothing did, and `size` is how much had come. It is None for a body that was decoded.
    """

    msg: str = "the response body is too large"
    size: int | None = None
    is_announced: bool = False


class DecodingError(DugongError):
    """The body is not what its Content-Encoding says: cut short, broken, or followed by more.

    So it was sent; nothing is wrong with the connection.
    """

    msg: str = "the body is not in the coding that Content-Encoding names"


class IntegrityError(DugongError):
    """What was transferred is not what it should be.

    Either a download does not have the digest that the server has sent or the caller has given:
    then there is no file, and the next download begins anew. Or a file has changed while it was
    uploaded: then the server may have stored a mixture of two versions, so upload it again.
    """

    msg: str = "what was transferred is not what it should be"


class HTTPStatusError(DugongError):
    """What `Response.raise_for_status` raises for 4xx and 5xx. `response` is that response."""

    def __init__(self, response: Response) -> None:
        self.response = response
        self.attempts: tuple[Attempt, ...] = response.attempts
        self.request: Request | None = response.request
        super().__init__(f"{response.status} {printable(response.reason)}".rstrip())

    def __str__(self) -> str:
        return f"{self.msg} for {self._name_of_request()}"


class RedirectError(DugongError):
    """A redirect cannot be followed. `response` is the response that says it, a 3xx."""

    msg: str = "a redirect cannot be followed"
    response: Response | StreamedResponse | None = None


class TooManyRedirects(RedirectError):
    """More redirects than `max_redirects` came, or they lead back to where they have been."""

    msg: str = "too many redirects"


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

# What OpenSSL says if one of the two ends does not want the other: its certificate, or its lack of
# one; its versions, ciphers or extensions. WRONG_VERSION_NUMBER is none of these: so it says of
# whatever is no TLS, which may be one byte that was garbled, or a balancer that has an error page.
_TLS_REFUSALS = frozenset(
    (
        "CA_KEY_TOO_SMALL CA_MD_TOO_WEAK CERTIFICATE_VERIFY_FAILED DH_KEY_TOO_SMALL "
        "EE_KEY_TOO_SMALL INAPPROPRIATE_FALLBACK NO_CIPHERS_AVAILABLE NO_PROTOCOLS_AVAILABLE "
        "NO_SHARED_CIPHER NO_SUITABLE_SIGNATURE_ALGORITHM SSLV3_ALERT_BAD_CERTIFICATE "
        "SSLV3_ALERT_CERTIFICATE_EXPIRED SSLV3_ALERT_CERTIFICATE_REVOKED "
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN SSLV3_ALERT_HANDSHAKE_FAILURE SSLV3_ALERT_NO_CERTIFICATE "
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE TLSV13_ALERT_CERTIFICATE_REQUIRED "
        "TLSV13_ALERT_MISSING_EXTENSION TLSV1_ALERT_ACCESS_DENIED "
        "TLSV1_ALERT_INAPPROPRIATE_FALLBACK TLSV1_ALERT_INSUFFICIENT_SECURITY "
        "TLSV1_ALERT_NO_APPLICATION_PROTOCOL TLSV1_ALERT_PROTOCOL_VERSION TLSV1_ALERT_UNKNOWN_CA "
        "TLSV1_ALERT_UNKNOWN_PSK_IDENTITY TLSV1_BAD_CERTIFICATE_STATUS_RESPONSE "
        "TLSV1_CERTIFICATE_UNOBTAINABLE TLSV1_UNRECOGNIZED_NAME TLSV1_UNSUPPORTED_EXTENSION "
        "UNSAFE_LEGACY_RENEGOTIATION_DISABLED UNSUPPORTED_PROTOCOL UNSUPPORTED_SSL_VERSION "
        "VERSION_TOO_LOW"
    ).split()
)

# Of a tunnel: of SOCKS5 (a failure, an outage, a refused connection, a lost packet), SOCKS4, HTTP.
_TEMPORARY_REFUSALS = frozenset((1, 3, 4, 5, 6, 91, 408, 429, 500, 502, 503, 504))

_NO_DESCRIPTORS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

_TRY_AGAIN = 2  # of <netdb.h>, which the socket module does not tell


def is_temp_network_error(exc: BaseException) -> bool:
    """Return True if *exc* may be the result of a passing network fault.

    True means that the same request may succeed later over a new connection. It says nothing
    about whether the failed one was processed. An exception that says nothing of the network is
    what its cause is (``raise MyError from exc``); one that was only raised while another was
    handled is not. False for every response that has come, be it 503 (`HTTPStatusError`) or no HTTP
    (`InvalidResponse`), and for what is not meant to be handled, as KeyboardInterrupt. May be
    called from any thread.
    """
    for link in _chain(exc):
        verdict = _is_temporary(link)
        if verdict is not None:
            return verdict
    return False


def is_tls_refusal(exc: BaseException) -> bool:
    """Return True if *exc* says that the two ends of a TLS connection do not go together.

    That is: the certificate of one of them, or the want of one, or their versions of TLS. Another
    attempt would end in the same way. *exc* is an `ssl.SSLError`, a `TLSError`, or has such a
    cause; for everything else this is False. May be called from any thread.
    """
    ssl = sys.modules.get("ssl")
    for link in _chain(exc):
        if isinstance(link, TLSError) or (ssl is not None and isinstance(link, ssl.SSLError)):
            return getattr(link, "reason", None) in _TLS_REFUSALS or (
                ssl is not None and isinstance(link, ssl.SSLCertVerificationError)
            )
    return False


def is_out_of_descriptors(exc: BaseException) -> bool:
    """Return True if *exc* says that the process or the system has no room for another socket.

    That is EMFILE, ENFILE, ENOBUFS or ENOMEM, of an OSError, a `ConnectError` or their causes.
    Nothing is wrong with the host then: the same will succeed once other descriptors have been
    closed. May be called from any thread.
    """
    return any(
        type(link).__module__ not in ("ssl", "socket")  # which have numbers of their own
        and isinstance(link, OSError)
        and link.errno in _NO_DESCRIPTORS
        for link in _chain(exc)
    )


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """Yield *exc*, its cause, and so on."""
    seen: set[int] = set()  # for a cause may have been made to lead back to where it came from
    link: BaseException | None = exc
    while link is not None and id(link) not in seen:
        yield link
        seen.add(id(link))
        link = link.__cause__


def _is_temporary(exc: BaseException) -> bool | None:
    """Return what *exc* itself says of the network; None if that is nothing."""
    if isinstance(exc, ProxyError):
        return exc.status in _TEMPORARY_REFUSALS
    if isinstance(exc, (ConnectError, TLSError)):
        # It says the same as its cause, which an unpickled one may lack.
        return None if exc.__cause__ is not None else _is_temporary_os_error(exc)
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
    if isinstance(exc, TLSError):
        return exc.reason in _TEMPORARY_TLS_REASONS
    # An SSL error exists only if ssl has been loaded, so there is no need to load it to ask.
    ssl = sys.modules.get("ssl")
    if ssl is not None and isinstance(exc, ssl.SSLError):
        ended = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
        return isinstance(exc, ended) or getattr(exc, "reason", None) in _TEMPORARY_TLS_REASONS
    return None if exc.errno is None else exc.errno in _TEMPORARY_ERRNOS
