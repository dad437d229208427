"""What a request fails with, and how far it had got then; what becomes of callbacks that fail.

Guarantees: what the network, a peer or the system has done to a request is a `DugongError` of that
request's own. What the caller's body has raised stays the caller's. Touches nothing.
"""

from __future__ import annotations

import copy
import sys
from contextlib import suppress
from threading import current_thread, main_thread
from typing import TYPE_CHECKING

from dugong.connection.names import netloc
from dugong.errors import (
    ConnectError,
    ConnectionClosed,
    ConnectionTimedOut,
    Delivery,
    DugongError,
    InternalError,
    TLSError,
    printable,
)
from dugong.pool.response import status_text

if TYPE_CHECKING:
    from dugong.pool.request import Request
    from dugong.pool.response import Response

__all__ = [
    "Abandoned",
    "BodyError",
    "BodyInterrupted",
    "as_exception",
    "connect_error",
    "describe",
    "ends_program",
    "failure",
    "forget_frames",
    "incomplete_upload",
    "internal_error",
    "is_bug",
    "is_of_tls",
]


class Abandoned(ConnectionClosed):
    """A connection ends because no request wants what is coming in: no fault of the host's."""

    msg: str = "the response that was coming in has been abandoned"


class BodyInterrupted(ConnectionClosed):
    """The body of a request is not waited for any more, for its connection is not used any more."""

    msg: str = "the connection has been given up while the body was waited for"


class BodyError(Exception):
    """The caller's body has failed, with an *error* that may look like one of the connection.

    Or something else of the caller's that is needed for sending: *culprit* names it.
    """

    def __init__(self, error: Exception, culprit: str = "the body of a request") -> None:
        super().__init__(f"{culprit} has failed: {error!r}")
        self.error = error
        self.culprit = culprit


def as_exception(exc: BaseException, culprit: str) -> Exception:
    """Return what a request fails with because *culprit*, code of the caller's, has raised *exc*.

    What is meant to end the program would only end this thread.
    """
    if isinstance(exc, Exception):
        return exc
    error = RuntimeError(f"{culprit} has raised {exc!r}")
    error.__cause__ = exc
    return error


def failure(error: Exception, delivery: Delivery, request: Request | None = None) -> Exception:
    """Return *error*, with the verdict *delivery*, as an exception of one request's own.

    What the network has done may concern many requests, so each gets a copy, with its *request*.
    An `ssl.SSLError` becomes a `TLSError`. What a caller's body has raised is not copied: the
    `error` of a `BodyError`, and any other exception that is not ours, such as an OSError of the
    caller's file. But what another request has failed with is copied, and keeps its verdict. (What
    the system says of a connection is a `ConnectionClosed` or `ConnectError` by now, from the
    transport or the dialer.)
    """
    own: Exception
    if isinstance(error, BodyError):
        own = _of_its_own(error, request)
    elif isinstance(error, DugongError):
        own = copy.copy(error)
        own.__context__ = None
    elif is_of_tls(error):
        server = "the server"
        if request is not None:
            server = netloc(request.origin.host, request.origin.port)
        own = _tls_error(error, server)
        own.__cause__ = error
    else:
        own = error
    if isinstance(own, ConnectionTimedOut) and own is not error and own.msg[:7] == "nothing":
        own.msg = _with_phase(own.msg, delivery)
        own.args = (own.msg,)
    with suppress(AttributeError, TypeError):  # a caller's exception may be frozen
        own.delivery = delivery  # type: ignore[attr-defined]  # any exception has a dict
        if request is not None and (isinstance(own, DugongError) or not hasattr(own, "request")):
            own.request = request  # type: ignore[attr-defined]
    return own


def _of_its_own(error: BodyError, request: Request | None) -> Exception:
    """Return what the caller's body has raised; a copy, if it is what another request failed with.

    So it may be if the body is, or depends on, the response to that.
    """
    theirs = error.error
    if not isinstance(theirs, DugongError) or theirs.request is None or theirs.request is request:
        return theirs
    own = copy.copy(theirs)
    own.__cause__ = theirs
    own.msg = f"{error.culprit} has raised an exception: {theirs}"
    own.args = (own.msg,)
    return own


def is_bug(error: BaseException) -> bool:
    """Return True if *error*, which was raised where no code of a caller runs, is a bug of ours."""
    return not isinstance(error, (DugongError, OSError, BodyError, MemoryError))


def internal_error(exc: BaseException) -> InternalError:
    """Return what a request fails with because of the bug that has raised *exc*."""
    # Not what it says: that may be a part of a request.
    kind = type(exc).__name__
    error = InternalError(f"internal error ({kind}): please report this bug of dugong")
    error.__cause__ = exc
    return error


def incomplete_upload(
    response: Response, reason: Exception
) -> ConnectionClosed | ConnectionTimedOut:
    """Return what a request fails with that got *response*, a success, but was not sent to its end.

    *reason* is what kept the rest of its body from being sent.
    """
    text = f"the server responded {status_text(response)} before the body was sent as a whole"
    kind = ConnectionTimedOut if isinstance(reason, ConnectionTimedOut) else ConnectionClosed
    error = kind(f"{text}, and the rest could not be sent: {describe(reason)}")
    error.response = response
    return error


def _with_phase(msg: str, delivery: Delivery) -> str:
    """Return *msg*, and what a request that has got so far was waiting for."""
    has_begun = delivery is Delivery.ANSWER_STARTED
    if "received" not in msg:
        phase = "sending the request" + (", whose response has begun" if has_begun else "")
    else:
        phase = "in the middle of the response" if has_begun else "waiting for the response"
    return msg if msg[-1:] == ")" else f"{msg} ({phase})"


def connect_error(error: BaseException, server: str, peer: str) -> ConnectError | TLSError:
    """Return what a pool raises from *error*, which connecting to *server* has ended with.

    *server* is its host and port; *peer* is what a socket was to be connected to, as `peer_of`
    calls it.
    """
    if is_of_tls(error):
        return _tls_error(error, server)
    number = error.errno if isinstance(error, OSError) else None
    said = (isinstance(error, OSError) and error.strerror) or describe(error)
    if isinstance(error, OSError) and error.filename is not None:
        said = f"{said}: {error.filename!r}"
    return ConnectError(f"connecting to {peer} ({said})", number)


def is_of_tls(error: BaseException) -> bool:
    """Return True if *error* is an `ssl.SSLError`."""
    # An SSL error exists only if ssl has been loaded, so there is no need to load it to ask.
    ssl = sys.modules.get("ssl")
    return ssl is not None and isinstance(error, ssl.SSLError)


_HINTS = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate of the client: give an "
    "ssl_context= that has loaded one",
    "WRONG_VERSION_NUMBER": "it may not speak TLS on this port",
}


def _tls_error(error: BaseException, server: str) -> TLSError:
    """Return the `TLSError` for *error*, an `ssl.SSLError` on a connection to *server*."""
    reason: str | None = getattr(error, "reason", None)
    verdict: str | None = getattr(error, "verify_message", None)
    if verdict is not None:
        verdict = printable(verdict.rstrip("."))
        msg = (
            f"the certificate of {server} is refused ({verdict}); the ssl_context= of the pool "
            "says which certificates are accepted"
        )
    else:
        said = describe(error) if reason is None else reason.lower().replace("_", " ")
        hint = f"; {_HINTS[reason]}" if reason in _HINTS else ""
        msg = f"TLS with {server} has failed ({said}){hint}"
    return TLSError(msg, reason)


def describe(error: BaseException) -> str:
    """Return what *error* says, without the request it concerns; its name if it says nothing."""
    text = error.msg if isinstance(error, DugongError) else str(error)
    return text or type(error).__name__


def forget_frames(error: BaseException | None) -> None:
    """Let go of the frames that *error* was raised in, which would keep connections in memory.

    Not of those of a caller's body, which are the caller's.
    """
    if isinstance(error, BodyError):
        error.__traceback__ = error.__cause__ = error.__context__ = None
    seen: set[int] = set()  # for such a chain may lead back to where it began
    while isinstance(error, (DugongError, OSError)) and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def ends_program(exc: BaseException) -> bool:
    """Return True if *exc*, which a callback has raised in this thread, is to be let through.

    Ctrl-C belongs to the program. A thread of the pool has other requests to see to.
    """
    return not isinstance(exc, Exception) and current_thread() is main_thread()
