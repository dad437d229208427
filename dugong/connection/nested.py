"""TLS in TLS: the connection to a server, within the one to its proxy.

Guarantees: as `dugong.connection.tls`. Only an end that the server has said itself is an orderly
one.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any, cast

from dugong.connection.polling import POLLIN, PollNeeded
from dugong.connection.tls import TlsSession, TlsTransport, co_start_tls
from dugong.errors import ConnectionClosed

if TYPE_CHECKING:
    import ssl

    from dugong.connection.polling import Coroutine

__all__ = ["NestedTlsTransport", "co_start_nested_tls"]


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
        while filled < size:
            try:
                got = self.outer.recv_into(view[filled:])
            except ConnectionClosed as exc:
                if filled:
                    break  # it is raised again
                raise _as_os_error(exc) from exc
            if isinstance(got, PollNeeded):
                if not filled:
                    raise BlockingIOError
                break
            if got == 0:
                break
            filled += got
        return view[:filled]

    def send(self, data: bytes | memoryview) -> int:
        """Send the start of *data*; raise BlockingIOError if not a byte of it can be."""
        try:
            sent = self.outer.send(data)
        except ConnectionClosed as exc:
            raise _as_os_error(exc) from exc
        if not isinstance(sent, PollNeeded):
            return sent
        if sent.mask & POLLIN:  # the inner TLS would wait for the wrong event
            raise _no_renegotiation()
        raise BlockingIOError

    def fileno(self) -> int:
        return self.outer.sock.fileno()

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

    def is_quiet(self) -> bool:
        # The socket does not tell what has come, and is still to be decrypted by the outer one.
        return super().is_quiet() and self._outer.is_quiet()

    def drop(self) -> None:
        self._outer.drop()  # first, so that it does not say good-bye when it is closed
        super().drop()


def co_start_nested_tls(
    outer: TlsTransport,
    context: ssl.SSLContext,
    hostname: str,
    session: TlsSession | None = None,
) -> Coroutine[TlsTransport]:
    """As `co_start_tls`, over *outer*, which then belongs to the transport that is returned."""
    tunnel = cast(socket.socket, _Tunnel(outer))
    return co_start_tls(tunnel, context, hostname, session, NestedTlsTransport)
