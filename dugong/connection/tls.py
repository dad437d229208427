"""TLS over a connected socket. The only file of the library that imports `ssl`.

Guarantees: as `dugong.connection.transport`; in addition, an end without close_notify is never
an orderly one.
"""

from __future__ import annotations

import copy
import socket
import ssl
from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import cast

from dugong.connection.names import need_descriptor
from dugong.connection.polling import POLLIN, POLLOUT, Coroutine, PollNeeded, timed_out
from dugong.connection.transport import LARGE, Transport, closed_by_peer
from dugong.errors import ConnectionClosed

__all__ = ["TlsSession", "TlsTransport", "co_start_tls"]

_LARGEST_RECORD = 16 * 1024  # bytes of data; behind one that is smaller, mostly nothing comes
_CLOSED = (ssl.SSLEOFError, ssl.SSLZeroReturnError)


class TlsSession:
    """What the next connection to the same server may resume (RFC 8446 §2.2, RFC 5246 §7.3).

    A server that is resumed is not verified again, so this is for one host and port. For contexts
    of Python's own class alone: others may look at the certificate, which is not sent again. Any
    thread may use it.
    """

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        # The session, and by what its server was verified. Replaced as a whole by any thread.
        self._kept: tuple[ssl.SSLSession, Verification] | None = None

    def get(self, verification: Verification) -> ssl.SSLSession | None:
        """Return the session if its server was verified by *verification*."""
        kept = self._kept
        return kept[0] if kept is not None and kept[1] == verification else None

    def keep(self, sock: ssl.SSLSocket, verification: Verification) -> None:
        """Keep the session of *sock*, which no other thread may use at this time.

        *verification* is by what its server was verified.
        """
        if sock.session is not None:
            self._kept = sock.session, verification

    def forget(self) -> bool:
        """Forget it; return whether there was any."""
        kept, self._kept = self._kept, None
        return kept is not None


#: By what a server is verified: what can be changed of a context, and the context.
Verification = tuple[ssl.SSLContext, ssl.VerifyMode, bool, ssl.VerifyFlags]


def _verification(context: ssl.SSLContext) -> Verification:
    return context, context.verify_mode, context.check_hostname, context.verify_flags


class TlsTransport(Transport):
    """TLS. Says good-bye (close_notify) before it closes.

    What holds `_lock` never waits: the socket does not block, and a call takes 256 KiB at most.
    """

    __slots__ = (
        "_broken",
        "_drained",
        "_first",
        "_keep_session",
        "_lock",
        "_read_wants",
        "_used",
        "_write_wants",
        "ssl_sock",
    )

    def __init__(
        self,
        ssl_sock: ssl.SSLSocket,
        keep_session: Callable[[ssl.SSLSocket], object] | None = None,
    ) -> None:
        super().__init__(ssl_sock)
        self.ssl_sock = ssl_sock
        self._keep_session = keep_session  # called once there are tickets; never changes
        # Guards the OpenSSL object, which no two threads may enter at once.
        self._lock = Lock()
        self._drained = False  # the last call left nothing in the socket; the receiving thread's
        self._used = False  # something has been received; the receiving thread's
        self._first = b""  # a byte that was read by _alert(); guarded by _lock
        self._broken: Exception | None = None  # why nothing can be received; guarded by _lock
        fd = ssl_sock.fileno()
        # Either direction may need either event, and a PollNeeded is for one thread.
        self._read_wants = PollNeeded(fd, POLLIN), PollNeeded(fd, POLLOUT)
        self._write_wants = PollNeeded(fd, POLLIN), PollNeeded(fd, POLLOUT)

    def recv_into(self, view: memoryview) -> int | PollNeeded:
        if self._drained:
            self._drained = False
            timeout, want_read = self.block_timeout, self._read_wants[0]
            if timeout != 0 and len(view) >= LARGE:
                self._gather(want_read)
            elif self._used:  # or else _alert() may have what comes first
                # Waiting first is cheaper than failing first.
                if timeout == 0:
                    return want_read
                if not want_read.poll(timeout):
                    raise timed_out("received", timeout)
        got = self._receive(view)
        if isinstance(got, int) and got and not self._used:
            self._used = True
            if self._keep_session is not None:
                with self._lock:
                    self._keep_session(self.ssl_sock)
        return got

    def _receive(self, view: memoryview) -> int | PollNeeded:
        # A record is at most 16 KiB: go on while there are more, so that a caller with a large
        # buffer pays its own cost once. But not for long, as the other thread may want to send.
        filled = 0
        limit = min(len(view), LARGE)
        small, is_ready = min(limit, _LARGEST_RECORD), self._read_wants[0].is_ready
        read = self.ssl_sock.read
        with self._lock:
            self._check()
            if self._first:
                view[:1], self._first = self._first, b""
                return 1
            try:
                while filled < limit:
                    got = cast(int, read(limit - filled, cast(bytearray, view[filled:])))
                    if not got:
                        break  # close_notify; comes again at the next call
                    filled += got
                    if self.is_shut:
                        break  # shutdown() does not wait for us
                    if filled == got < small and not is_ready():
                        self._drained = True  # to find that out by reading again costs more
                        break
            except ssl.SSLWantReadError:
                self._drained = True
                return filled or self._read_wants[0]
            except ssl.SSLWantWriteError:
                return filled or self._read_wants[1]
            except (OSError, ValueError) as exc:
                # OpenSSL reports a fatal error once, and may then report an orderly end.
                self._broken = _as_closed(exc)
                if filled:
                    return filled
                self._check()
        return filled

    def _check(self) -> None:
        """Raise the exception for a connection that has ended. With the lock."""
        if self._broken is not None and not (
            self.is_shut and isinstance(self._broken, ConnectionClosed)
        ):
            # A copy, as it may be raised in either thread, and again.
            error = copy.copy(self._broken)
            error.__cause__ = self._broken.__cause__
            raise error
        if self.is_shut:
            # The good-bye may have dropped a record; do not go on behind it.
            raise ConnectionClosed("disconnected")

    def send(self, data: bytes | memoryview) -> int | PollNeeded:
        with self._lock:
            if self.is_shut:
                raise ConnectionClosed("disconnected")
            if self._broken is not None:
                # Whatever it is, the receiver has raised it, or will.
                raise ConnectionClosed(f"nothing can be sent any more: {self._broken}")
            try:
                return self.ssl_sock.send(data)
            except ssl.SSLWantReadError:
                return self._write_wants[0]
            except ssl.SSLWantWriteError:
                return self._write_wants[1]
            except (OSError, ValueError) as exc:
                if self.is_shut:
                    raise ConnectionClosed("disconnected") from exc
                error = self._alert() or _as_closed(exc)
                raise error from error.__cause__

    def _alert(self) -> Exception | None:
        """Return what the peer said before it closed, if that was all it ever said. With the lock.

        It is on its way to the receiver, but a caller that sends first should hear of it, too.
        """
        if self._used or self._first or self._broken is not None:
            return None
        try:
            self._first = self.ssl_sock.read(1)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except (OSError, ValueError) as exc:
            error = _as_closed(exc)
            if isinstance(error, ConnectionClosed):
                return None
            self._broken = error
            return error
        return None

    def shutdown(self) -> None:
        # A thread that holds the lock is not waited for, be it this very one, when a signal handler
        # calls. Then nothing is said: there is no good-bye in the middle of a record.
        if not self._lock.acquire(False):
            super().shutdown()
            return
        try:
            if not self.is_shut:
                self._say_goodbye()
            super().shutdown()
        finally:
            self._lock.release()

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
        if self.is_shut or self._first or self.ssl_sock.pending():
            return False
        if not self._read_wants[0].is_ready():
            return True
        # What is there may be a session ticket; only reading tells.
        try:
            return isinstance(self._receive(memoryview(bytearray(1))), PollNeeded)
        except (OSError, ConnectionClosed):
            return False  # `refusal` has the reason

    @property
    def refusal(self) -> Exception | None:
        # With TLS 1.3, the client is done before the server has seen the client's certificate. What
        # the server thinks of it comes after the handshake, before anything else.
        with self._lock:
            broken = self._broken
        refused = isinstance(broken, ssl.SSLError) and not self._used
        return copy.copy(broken) if refused else None


def _as_closed(exc: OSError | ValueError) -> Exception:
    """Return what to raise for *exc*: a `ConnectionClosed`, or itself if it tells of TLS."""
    # ValueError is what a socket says that another thread has closed. But a certificate error is
    # both, and an OSError first.
    if isinstance(exc, ssl.SSLError):
        eof = isinstance(exc, _CLOSED) or exc.reason == "UNEXPECTED_EOF_WHILE_READING"
        if not eof:
            exc.__traceback__ = None
            return exc
    error = closed_by_peer(exc) if isinstance(exc, OSError) else ConnectionClosed()
    error.__cause__ = exc
    return error


def co_start_tls(
    sock: socket.socket, context: ssl.SSLContext, hostname: str, session: TlsSession | None = None
) -> Coroutine[TlsTransport]:
    """Shake hands over *sock*, which then belongs to the transport that is returned.

    Resumes *session* if it can be, and keeps it up to date.

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
        wrap, keep = context.wrap_socket, None
        if session is not None and type(context) is ssl.SSLContext:
            verification = _verification(context)
            keep = partial(session.keep, verification=verification)
            wrap = partial(wrap, session=session.get(verification))
        ssl_sock = wrap(
            sock,
            server_hostname=hostname,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,
        )
        sock = ssl_sock
        transport = TlsTransport(ssl_sock, keep)
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
        try:
            if isinstance(exc, ssl.SSLCertVerificationError):
                need_descriptor()  # to look for the certificate of the authority with
        finally:
            sock.close()
            if transport is None:
                _close_lost(exc)
        if isinstance(exc, ValueError) and transport is None:
            raise  # the context and the host name do not go together
        error = _as_closed(exc)
        raise error from error.__cause__
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
