"""TLS with a proxy, and TLS in TLS: the connection to a server, within the one to its proxy.

Guarantees: as `dugong.connection.tls`. Only an end that the server has said itself is an orderly
one. What TLS with the proxy fails with is a `TLSError` that says so.
"""

from __future__ import annotations

import errno
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from dugong.connection.polling import POLLIN, PollNeeded
from dugong.connection.tls import TlsSession, TlsTransport, co_start_tls
from dugong.errors import ConnectionClosed, TLSError, printable

if TYPE_CHECKING:
    import ssl

    from dugong.connection.polling import Coroutine

__all__ = [
    "NestedTlsTransport",
    "ProxyTlsTransport",
    "co_start_nested_tls",
    "co_start_proxy_tls",
]


class ProxyTlsTransport(TlsTransport):
    """TLS with a proxy, which *peer* names: nothing that it says of itself is the server's."""

    __slots__ = ("_peer",)

    def __init__(self, peer: str, *args: Any) -> None:
        super().__init__(*args)
        self._peer = peer  # never changes

    @property
    def ssl_object(self) -> None:
        return None

    def _as_raised(self, exc: OSError | ValueError) -> Exception:
        error = super()._as_raised(exc)
        if isinstance(error, ConnectionClosed):
            return error
        reason: str | None = getattr(error, "reason", None)
        verdict: str | None = getattr(error, "verify_message", None)
        said = printable(verdict or reason or str(error))
        hint = ""
        if verdict is not None or reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED":
            hint = "; proxy_ssl_context= says which certificates are accepted, and shown"
        named = TLSError(f"TLS with {self._peer} has failed ({said}){hint}", reason)
        named.__cause__ = error
        return named


class _Tunnel:
    """Stands for the socket of the inner TLS: what it is sent and receives goes over *outer*.

    What waits for it waits for the socket of *outer*. So `recv` leaves nothing in *outer* that has
    come, or else as many bytes as were asked for, behind which the inner TLS asks again.
    """

    def __init__(self, outer: TlsTransport) -> None:
        self.outer = outer  # never changes

    def recv(self, size: int, flags: int = 0) -> memoryview:
        """Receive up to *size* bytes; raise BlockingIOError if there are none, but no end."""
        if flags:
            raise _no_renegotiation()
        view = memoryview(bytearray(size))
        filled = 0
        error: OSError | None = None
        while filled < size and error is None:
            try:
                got = self.outer.recv_into(view[filled:])
            except ConnectionClosed as closed:
                error = _as_os_error(closed)
            except OSError as exc:
                error = exc
            else:
                if isinstance(got, PollNeeded):
                    error = BlockingIOError()
                elif got == 0:
                    break
                else:
                    filled += got
        if error is not None and not filled:
            raise error  # or else *outer* raises it again
        return view[:filled]

    def send(self, data: bytes | memoryview) -> int:
        """Send the start of *data*; raise BlockingIOError if not a byte of it can be."""
        error = None
        try:
            sent = self.outer.send(data)
        except ConnectionClosed as exc:
            error = _as_os_error(exc)
        if error is not None:  # raised out here, as it may be the cause of the other
            raise error
        if not isinstance(sent, PollNeeded):
            return sent
        if sent.mask & POLLIN:  # the inner TLS would wait for the wrong event
            raise _no_renegotiation()
        raise BlockingIOError

    def fileno(self) -> int:
        return self.outer.sock.fileno()

    def getpeername(self) -> Any:
        return self.outer.sock.getpeername()

    def setblocking(self, flag: bool) -> None:
        """Do nothing: *outer* never blocks."""

    def setsockopt(self, *option: Any) -> None:
        self.outer.sock.setsockopt(*option)

    def shutdown(self, how: int) -> None:
        self.outer.shutdown()

    def close(self) -> None:
        self.outer.close()


def _no_renegotiation() -> OSError:
    return OSError(errno.EPROTO, "renegotiation of TLS within TLS")


def _as_os_error(exc: ConnectionClosed) -> OSError:
    """Return *exc* as a socket would have said it."""
    if isinstance(exc.__cause__, OSError):
        return exc.__cause__
    return OSError(errno.ECONNABORTED, exc.msg)


class NestedTlsTransport(TlsTransport):
    """TLS over a connection that is TLS already."""

    __slots__ = ("_outer",)

    def __init__(self, sock: socket.socket, *args: Any) -> None:
        super().__init__(sock, *args)
        self._outer = cast(_Tunnel, sock).outer  # never changes

    def _receive(self, view: memoryview) -> int | PollNeeded:
        while True:
            got = super()._receive(view)
            if not self._outer.has_ended:
                return got
            # The socket does not tell of the end, which the outer one has taken with other data.
            self._drained = False
            if got is not self._want_read:
                return got

    def keep_arrivals(self) -> None:
        self._outer.keep_arrivals()
        super().keep_arrivals()

    def is_quiet(self) -> bool:
        # That there is nothing to read for the outer one is not asked: session tickets of this one,
        # which may come at any time, would be data of that.
        return super().is_quiet() and not (self._outer.is_shut or self._outer.has_ended)

    def _has_come(self) -> bool:
        # The socket does not tell what has come, and is still to be decrypted by the outer one.
        return super()._has_come() or self._outer.has_arrivals()

    def has_arrivals(self) -> bool:
        return super().has_arrivals() or self._outer.has_arrivals()

    def drop(self) -> None:
        self._outer.drop()  # first, so that it does not say good-bye when it is closed
        super().drop()


def co_start_proxy_tls(
    sock: socket.socket, context: ssl.SSLContext, hostname: str, peer: str
) -> Coroutine[TlsTransport]:
    """As `co_start_tls`, with the proxy *hostname*, which messages call *peer*.

    Raises `TLSError` instead of `ssl.SSLError`.
    """
    return co_start_tls(sock, context, hostname, None, partial(ProxyTlsTransport, peer))


def co_start_nested_tls(
    outer: TlsTransport,
    context: ssl.SSLContext,
    hostname: str,
    session: TlsSession | None = None,
) -> Coroutine[TlsTransport]:
    """As `co_start_tls`, over *outer*, which then belongs to the transport that is returned."""
    tunnel = cast(socket.socket, _Tunnel(outer))
    return co_start_tls(tunnel, context, hostname, session, NestedTlsTransport)
