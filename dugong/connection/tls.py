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
from typing import Any

from dugong.connection.forking import apart_from_forks
from dugong.connection.names import need_descriptor
from dugong.connection.polling import POLLIN, POLLOUT, Coroutine, PollNeeded, timed_out
from dugong.connection.transport import LARGE, Transport, closed_by_peer
from dugong.errors import ConnectionClosed, TLSError

__all__ = ["TlsSession", "TlsTransport", "co_start_tls", "default_context"]

# Bytes that are received at a time, at least: more if there is a large view for them. The buffers
# of a connection keep their memory as long as it lives, so only large bodies make them large.
_PIECE = 16 * 1024
_HEADER_SIZE = 5  # bytes of a record: its type, the version, the length of what follows
_TICKETS = 8  # how often an idle connection may have something to be read that is no data
_CLOSED = (ssl.SSLEOFError, ssl.SSLZeroReturnError)


def default_context() -> ssl.SSLContext:
    """Return a context that verifies as the system does. Raises OSError if no descriptor is left.

    Certificates that could not be read for want of one would be left out without a word.
    """
    need_descriptor()
    context = ssl.create_default_context()
    need_descriptor()
    context.set_alpn_protocols(["http/1.1"])
    return context


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

    def keep(self, tls: ssl.SSLObject, verification: Verification) -> None:
        """Keep the session of *tls*, which no other thread may use at this time.

        *verification* is by what its server was verified.
        """
        if tls.session is not None:
            self._kept = tls.session, verification

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

    OpenSSL reads from one buffer and writes to another, and this class moves the bytes between them
    and the socket. OpenSSL itself would make two system calls to receive a record of 16 KiB and one
    to send it; here, a system call takes as much as there is.

    What holds `_lock` never waits: the socket does not block, and a call takes 256 KiB at most.
    """

    __slots__ = (
        "_arrived",
        "_broken",
        "_departing",
        "_drained",
        "_ended",
        "_first",
        "_is_mute",
        "_keep_session",
        "_lock",
        "_taken",
        "_tls",
        "_unsent",
        "_used",
        "_want_both",
        "_want_read",
        "_write_wants",
    )

    def __init__(
        self,
        sock: socket.socket,
        wrap: Callable[[ssl.MemoryBIO, ssl.MemoryBIO], ssl.SSLObject],
        keep_session: Callable[[ssl.SSLObject], object] | None = None,
    ) -> None:
        super().__init__(sock)
        self._keep_session = keep_session  # called once there are tickets; never changes
        # Guards the OpenSSL object and its buffers, which no two threads may enter at once.
        self._lock = Lock()
        self._arrived, self._departing = ssl.MemoryBIO(), ssl.MemoryBIO()  # guarded by _lock
        self._tls = wrap(self._arrived, self._departing)  # guarded by _lock
        self._unsent: bytes | memoryview = b""  # of what OpenSSL has written; guarded by _lock
        self._is_mute = False  # nothing can be sent any more; guarded by _lock
        self._taken = 0  # bytes of the caller's data that are on their way; guarded by _lock
        self._drained = False  # the last call left nothing to be read; the receiving thread's
        self._used = False  # something has been received; the receiving thread's
        self._first = b""  # a byte that was read by _alert(); guarded by _lock
        self._ended = False  # the peer has said close_notify; guarded by _lock
        self._broken: Exception | None = None  # why nothing can be received; guarded by _lock
        fd = sock.fileno()
        # These two are polled by the receiving thread.
        self._want_read, self._want_both = PollNeeded(fd, POLLIN), PollNeeded(fd, POLLIN | POLLOUT)
        # The sending thread may need either event.
        self._write_wants = PollNeeded(fd, POLLIN), PollNeeded(fd, POLLOUT)

    @property
    def ssl_object(self) -> ssl.SSLObject | None:
        return self._tls

    def co_shake_hands(self) -> Coroutine[None]:
        """Make the connection fit for data. Before anything else is called."""
        try:
            while True:
                is_done = True
                try:
                    apart_from_forks(self._tls.do_handshake)
                except ssl.SSLWantReadError:
                    is_done = False
                while not self._flush():
                    yield self._write_wants[1]
                if is_done:
                    return
                if not self._feed(_PIECE):
                    yield self._want_read
        except ssl.SSLError:
            self._say_alert()
            raise
        except OSError as exc:
            # What the peer said before it closed tells more than that it did.
            error = self._alert() or exc
            raise error from error.__cause__

    def recv_into(self, view: memoryview) -> int | PollNeeded:
        if self._drained:
            timeout, want_read = self.block_timeout, self._want_read
            if timeout != 0 and len(view) >= LARGE:
                self._gather(want_read)
            elif self._used:  # or else _alert() may have what comes first
                # Waiting first is cheaper than failing first.
                if timeout == 0:
                    self._drained = False
                    return want_read
                if not want_read.poll(timeout):
                    raise timed_out("received", timeout)
        got = self._receive(view)
        if isinstance(got, int) and got and not self._used:
            self._used = True
            if self._keep_session is not None:
                with self._lock:
                    self._keep_session(self._tls)
        return got

    def _receive(self, view: memoryview) -> int | PollNeeded:
        # A record is at most 16 KiB: go on while there are more, so that a caller with a large
        # buffer pays its own cost once. But not for long, as the other thread may want to send.
        filled = 0
        limit = min(len(view), LARGE)
        piece = max(_PIECE, limit)
        tls: Any = self._tls  # typeshed does not know what `read` does with a buffer
        arrived = self._arrived
        is_emptied = False
        is_empty = self._drained  # OpenSSL gives nothing more without having more
        moved = 0
        self._drained = False
        with self._lock:
            self._check()
            if self._first:
                view[:1], self._first = self._first, b""
                return 1
            if self._ended:
                return 0
            try:
                while filled < limit and moved <= 2 * LARGE:  # not all of it has to be data
                    # To find out by reading that there is nothing costs more.
                    if is_empty or not (arrived.pending or tls.pending()):
                        # Behind little, mostly nothing comes.
                        is_over = is_emptied and (
                            0 < filled < _PIECE or not self._want_read.is_ready()
                        )
                        fed = 0 if is_over else self._feed(piece)
                        if not fed:
                            self._drained = True
                            break
                        moved += fed
                        is_emptied, is_empty = fed < piece, False
                    try:
                        got: int = tls.read(limit - filled, view[filled:] if filled else view)
                    except ssl.SSLWantReadError:
                        is_empty = True
                        continue
                    if not got:
                        self._ended = True
                        return filled
                    filled += got
                    is_empty = not arrived.pending  # it gives as much of a record as *view* takes
                    if self.is_shut:
                        break  # shutdown() does not wait for us
                # The reply to a key update, say. A sender that is at work sends it with its data.
                is_left = not self._is_mute and (self._unsent or self._departing.pending)
                if is_left and not (self._flush() or self._taken):
                    self._drained = False
                    return filled or self._want_both
            except (OSError, ValueError) as exc:
                # OpenSSL reports a fatal error once, and may then report an orderly end.
                self._broken = self._as_raised(exc)
                self._say_alert()
                if filled:
                    return filled
                self._check()
            except BaseException:
                self._interrupted()
                raise
        return filled or self._want_read

    def _interrupted(self) -> None:
        """Let nothing follow what an interrupt may have lost, or may have sent twice."""
        self._broken = ConnectionClosed("interrupted")
        self._unsent = b""

    def _check(self) -> None:
        """Raise the exception for a connection that has ended. With the lock."""
        if self._broken is not None and not (
            self.is_shut and isinstance(self._broken, ConnectionClosed)
        ):
            # A copy, as it may be raised in either thread, and again.
            error = copy.copy(self._broken)
            error.__cause__ = self._broken.__cause__
            raise error
        if self.is_shut and (self._broken is not None or not self.keeps_arrivals):
            # The good-bye may have dropped a record; do not go on behind it.
            raise ConnectionClosed("disconnected")

    def _feed(self, size: int) -> int:
        """Give OpenSSL up to *size* bytes that have come. With the lock.

        Returns how many there were, and *size* for the end of the stream.
        """
        try:
            data = self.sock.recv(size)
        except BlockingIOError:
            return 0
        if not data:
            self._arrived.write_eof()
            return size
        self._arrived.write(data)
        return len(data)

    def _feed_record(self) -> int:
        """As `_feed`, but a record alone: what comes behind it is for the receiver, which waits."""
        try:
            header = self.sock.recv(_HEADER_SIZE, socket.MSG_PEEK)
        except BlockingIOError:
            return 0
        return self._feed(_HEADER_SIZE + int.from_bytes(header[3:], "big"))

    def _flush(self) -> bool:
        """Send what OpenSSL has written; return False if not all of it could be. With the lock."""
        while self._unsent or self._departing.pending:
            data = self._unsent or self._departing.read()
            self._unsent = data  # and stays that, if it cannot be sent
            try:
                sent = self.sock.send(data)
            except BlockingIOError:
                return False
            self._unsent = b"" if sent == len(data) else memoryview(data)[sent:]
        return True

    def send(self, data: bytes | memoryview) -> int | PollNeeded:
        """Send the start of *data*; if more has to be waited for, it has to be the same again."""
        with self._lock:
            if self.is_shut:
                raise ConnectionClosed("disconnected")
            if self._broken is not None:
                # Whatever it is, the receiver has raised it, or will.
                raise ConnectionClosed(f"nothing can be sent any more: {self._broken}")
            try:
                while data and not self._taken:
                    try:
                        some = data if len(data) <= LARGE else memoryview(data)[:LARGE]
                        self._taken = self._tls.write(some)
                    except ssl.SSLWantReadError:  # renegotiation (RFC 5246 §7.4.1.1)
                        if not self._flush():
                            return self._write_wants[1]
                        if not self._feed_record():
                            return self._write_wants[0]
                if not self._flush():
                    return self._write_wants[1]
            except (OSError, ValueError) as exc:
                self._is_mute = True  # what has come can be received still
                if self.is_shut:
                    raise ConnectionClosed("disconnected") from exc
                error = self._alert() or self._as_raised(exc)
                raise error from error.__cause__
            except BaseException:
                self._interrupted()
                raise
            taken, self._taken = self._taken, 0
            return taken

    @property
    def on_its_way(self) -> int:
        with self._lock:
            return self._taken

    def _alert(self) -> Exception | None:
        """Return what the peer said before it closed, if that was all it ever said. With the lock.

        It is on its way to the receiver, but a caller that sends first should hear of it, too.
        """
        if self._used or self._first or self._broken is not None:
            return None
        try:
            self._feed(_PIECE)
            self._first = self._tls.read(1)
            self._ended = not self._first
        except ssl.SSLWantReadError:
            return None
        except (OSError, ValueError) as exc:
            error = self._as_raised(exc)
            if isinstance(error, ConnectionClosed):
                return None
            self._broken = error
            return error
        return None

    def keep_arrivals(self) -> None:
        with self._lock:
            self._is_mute = True
            self.keeps_arrivals = True

    def shutdown(self) -> None:
        # A thread that holds the lock is not waited for, be it this very one, when a signal handler
        # calls. Then nothing is said: there is no good-bye in the middle of a record.
        if self._lock.locked():
            super().shutdown()
            return
        with self._lock:  # or an interrupt could leave it taken; no holder keeps it for long
            if not (self.is_shut or self.keeps_arrivals):
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
            self._tls.unwrap()  # writes close_notify, as RFC 9112 §9.8 wants
        except (OSError, ValueError):
            pass  # in nearly all cases: that the peer's has not come, which we do not wait for
        self._say_alert()

    def _say_alert(self) -> None:
        """Send the alert that OpenSSL has written, if the socket takes it. With the lock."""
        try:
            self._flush()
        except (OSError, ValueError):
            pass  # the peer was faster

    def is_quiet(self) -> bool:
        if self.is_shut or self._first or self._ended or self._broken is not None:
            return False
        if not self._drained and self._tls.pending():
            return False
        # What is there may be session tickets; only reading tells.
        for _ in range(_TICKETS):
            if not self._has_come():
                return True
            try:
                if not isinstance(self._receive(memoryview(bytearray(1))), PollNeeded):
                    return False
            except (OSError, ConnectionClosed):
                return False  # `refusal` has the reason
        return False

    def _has_come(self) -> bool:
        """Return True if there is something that was not decrypted yet. While it is idle."""
        return bool(self._arrived.pending) or self._want_read.is_ready()

    def has_arrivals(self) -> bool:
        if not self._lock.acquire(blocking=False):
            return True  # a thread is at work on it, most likely the receiving one
        try:
            has_read = bool(self._arrived.pending or self._tls.pending())
        finally:
            self._lock.release()
        return has_read or super().has_arrivals()

    @property
    def has_ended(self) -> bool:
        """True if the receiver has taken all there will ever be: an end is next, or an error."""
        with self._lock:
            return self._ended or self._broken is not None

    @property
    def refusal(self) -> Exception | None:
        # With TLS 1.3, the client is done before the server has seen the client's certificate. What
        # the server thinks of it comes after the handshake, before anything else.
        with self._lock:
            broken = self._broken
        refused = not (broken is None or isinstance(broken, ConnectionClosed) or self._used)
        return copy.copy(broken) if refused else None

    def _as_raised(self, exc: OSError | ValueError) -> Exception:
        """Return what to raise for *exc*: a `ConnectionClosed`, or itself if it tells of TLS."""
        # ValueError is what a socket says that another thread has closed. But a certificate error
        # is both, and an OSError first.
        if isinstance(exc, (ssl.SSLError, TLSError)):
            eof = isinstance(exc, _CLOSED) or exc.reason == "UNEXPECTED_EOF_WHILE_READING"
            if not eof:
                exc.__traceback__ = None
                return exc
        error = closed_by_peer(exc) if isinstance(exc, OSError) else ConnectionClosed()
        error.__cause__ = exc
        return error


def co_start_tls(
    sock: socket.socket,
    context: ssl.SSLContext,
    hostname: str,
    session: TlsSession | None = None,
    kind: Callable[..., TlsTransport] | None = None,
) -> Coroutine[TlsTransport]:
    """Shake hands over *sock*, which then belongs to the transport that is returned.

    Resumes *session* if it can be, and keeps it up to date. *kind* is called for the transport.

    Raises `ConnectionClosed`, `ssl.SSLError` (`ssl.SSLCertVerificationError` if the certificate
    does not satisfy *context*); the socket is closed then.
    """
    wrap, keep = partial(context.wrap_bio, server_hostname=hostname), None
    if session is not None and type(context) is ssl.SSLContext:
        verification = _verification(context)
        keep = partial(session.keep, verification=verification)
        wrap = partial(wrap, session=session.get(verification))
    try:
        hostname.encode("idna")
        sock.setblocking(False)
        # ValueError if the two do not go together
        transport = (kind or TlsTransport)(sock, wrap, keep)
    except BaseException:
        sock.close()
        raise
    try:
        yield from transport.co_shake_hands()
    except (OSError, ValueError) as exc:
        try:
            if isinstance(exc, ssl.SSLCertVerificationError):
                need_descriptor()  # to look for the certificate of the authority with
        finally:
            sock.close()
        error = transport._as_raised(exc)
        raise error from error.__cause__
    except BaseException:
        sock.close()
        raise
    return transport
