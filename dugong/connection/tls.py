"""TLS over a connected socket. The only file of the library that imports `ssl`.

Guarantees: as `dugong.connection.transport`; in addition, an end without close_notify is never
an orderly one.
"""

from __future__ import annotations

import socket
import ssl
from threading import Lock
from typing import cast

from dugong.connection.polling import POLLIN, POLLOUT, Coroutine, PollNeeded
from dugong.connection.transport import LARGE, Transport, closed_by_peer
from dugong.errors import ConnectionClosed

__all__ = ["TlsTransport", "co_start_tls"]

_CLOSED = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError)


class TlsTransport(Transport):
    """TLS. Says good-bye (close_notify) before it closes.

    `_lock` guards the OpenSSL object, which no two threads may enter at once; as the socket never
    blocks, it is held only for the time of the encryption.
    """

    __slots__ = ("_broken", "_drained", "_lock", "_read_wants", "_write_wants", "ssl_sock")

    def __init__(self, ssl_sock: ssl.SSLSocket) -> None:
        super().__init__(ssl_sock)
        self.ssl_sock = ssl_sock
        self._lock = Lock()
        self._drained = False  # owner: the receiving thread
        self._broken: str | None = None  # why nothing can be received any more; guarded by _lock
        fd = ssl_sock.fileno()
        # Either direction may need either event, and a PollNeeded is for one thread.
        self._read_wants = PollNeeded(fd, POLLIN), PollNeeded(fd, POLLOUT)
        self._write_wants = PollNeeded(fd, POLLIN), PollNeeded(fd, POLLOUT)

    def recv_into(self, view: memoryview) -> int | PollNeeded:
        # A record is at most 16 KiB: go on while there are more, so that a caller with a large
        # buffer pays its own cost once.
        filled = 0
        read = self.ssl_sock.read
        if self._drained and len(view) >= LARGE and self.block_timeout != 0:
            self._gather(self._read_wants[0])
        self._drained = False
        with self._lock:
            if self.is_shut:
                # The good-bye may have dropped a record; do not go on behind it.
                raise ConnectionClosed("disconnected")
            if self._broken is not None:
                raise ConnectionClosed(self._broken)
            try:
                while filled < len(view):
                    got = read(len(view) - filled, cast(bytearray, view[filled:]))
                    if not got:
                        break  # close_notify; comes again at the next call
                    filled += cast(int, got)
            except ssl.SSLWantReadError:
                self._drained = True
                return filled or self._read_wants[0]
            except ssl.SSLWantWriteError:
                return filled or self._read_wants[1]
            except (OSError, ValueError) as exc:
                # OpenSSL reports a fatal error once, and may then report an orderly end.
                self._broken = f"connection closed unexpectedly: {exc}"
                if filled:
                    return filled
                raise _as_closed(exc) from exc
        return filled

    def send(self, data: bytes | memoryview) -> int | PollNeeded:
        with self._lock:
            if self.is_shut:
                raise ConnectionClosed("disconnected")
            if self._broken is not None:
                raise ConnectionClosed(self._broken)
            try:
                return self.ssl_sock.send(data)
            except ssl.SSLWantReadError:
                return self._write_wants[0]
            except ssl.SSLWantWriteError:
                return self._write_wants[1]
            except (OSError, ValueError) as exc:
                raise _as_closed(exc) from exc

    def shutdown(self) -> None:
        with self._lock:
            if not self.is_shut:
                self._say_goodbye()
            super().shutdown()

    def close(self) -> None:
        with self._lock:
            if not self.is_shut:
                self._say_goodbye()
            super().close()

    def drop(self) -> None:
        self._lock = Lock()
        super().drop()

    def _say_goodbye(self) -> None:
        try:
            self.ssl_sock.unwrap()  # sends close_notify, as RFC 9112 §9.8 wants
        except (OSError, ValueError):
            pass  # in nearly all cases: that the peer's has not come, which we do not wait for

    def is_quiet(self) -> bool:
        if self.is_shut or self.ssl_sock.pending():
            return False
        if not self._read_wants[0].is_ready():
            return True
        # What is there may be a session ticket; only reading tells.
        try:
            return isinstance(self.recv_into(memoryview(bytearray(1))), PollNeeded)
        except (OSError, ConnectionClosed):
            return False


def _as_closed(exc: OSError | ValueError) -> Exception:
    # ValueError is what a socket says that another thread has closed. But a certificate error is
    # both, and an OSError first.
    if not isinstance(exc, OSError):
        return ConnectionClosed()
    if isinstance(exc, _CLOSED):
        return closed_by_peer(exc)
    if isinstance(exc, ssl.SSLError):
        eof = exc.reason == "UNEXPECTED_EOF_WHILE_READING"
        return closed_by_peer(exc) if eof else exc
    return closed_by_peer(exc)


def co_start_tls(
    sock: socket.socket, context: ssl.SSLContext, hostname: str
) -> Coroutine[TlsTransport]:
    """Shake hands over *sock*, which then belongs to the transport that is returned.

    Raises `ConnectionClosed`, `ssl.SSLError` (`ssl.SSLCertVerificationError` if the certificate
    does not satisfy *context*); the socket is closed then.
    """
    transport = None
    try:
        # Both of these would also fail in wrap_socket, but there the descriptor is lost.
        hostname.encode("idna")
        sock.getpeername()
        # Without suppress_ragged_eofs=False, a cut connection would look like an orderly end.
        sock.setblocking(False)
        ssl_sock = context.wrap_socket(
            sock,
            server_hostname=hostname,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,
        )
        sock = ssl_sock
        transport = TlsTransport(ssl_sock)
        fd = ssl_sock.fileno()
        while True:
            try:
                ssl_sock.do_handshake()
                return transport
            except ssl.SSLWantReadError:
                yield PollNeeded(fd, POLLIN)
            except ssl.SSLWantWriteError:
                yield PollNeeded(fd, POLLOUT)
    except (OSError, ValueError) as exc:
        sock.close()
        if transport is None:
            _close_lost(exc)
        if isinstance(exc, ValueError) and transport is None:
            raise  # the context and the host name do not go together
        raise _as_closed(exc) from exc
    except BaseException:
        sock.close()
        raise


def _close_lost(exc: BaseException) -> None:
    """Close the socket that `ssl` had taken over when it met with *exc*: only the frames know it.

    That happens if the server resets the connection in the moment before.
    """
    traceback = exc.__traceback__
    while traceback is not None:
        lost = traceback.tb_frame.f_locals.get("self")
        if isinstance(lost, ssl.SSLSocket):
            lost.close()
        traceback = traceback.tb_next
