"""What carries the bytes: a connected socket behind a few calls that wait only if they are told to.

Guarantees: `recv_into` and `send` do one step at once or return the `PollNeeded` to wait for, and
so does `send_file`, for which "at once" may take some ticks of the system's clock; the end of a
connection in any of its forms is 0 from `recv_into` (orderly) or `ConnectionClosed`.
One thread may receive while another sends; `shutdown` may come from any thread.
"""

from __future__ import annotations

import io
import os
import socket
import struct
from abc import ABC, abstractmethod
from threading import Lock, get_ident, main_thread
from typing import TYPE_CHECKING

from dugong.connection.polling import POLLIN, POLLOUT, PollNeeded, timed_out
from dugong.errors import ConnectionClosed, is_temp_network_error

if TYPE_CHECKING:
    import ssl

__all__ = ["LARGE", "PlainTransport", "Transport", "TransportLayer", "closed_by_peer"]

#: Bytes: a body that is read in such parts is worth a moment of waiting for more of it.
LARGE = 256 * 1024
_GATHER_TIME = 0.002  # seconds, so that a slow body is hardly slower for it


class Transport(ABC):
    """A byte stream to the peer. Owns its socket.

    `block_timeout` and `receive_low_water` are offers, which a transport need not take.
    """

    __slots__ = ("block_timeout", "is_shut", "keeps_arrivals", "receive_low_water", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock: socket.socket = sock  # never changes
        # Nothing more can be sent or received, but for what is kept. Set by any thread, in one
        # step; never cleared.
        self.is_shut: bool = False
        # See keep_arrivals(). Set by the sending thread, in one step; never cleared.
        self.keeps_arrivals: bool = False
        # For how many seconds recv_into() may block before it raises ConnectionTimedOut (None: for
        # ever; 0: not at all, the caller is a coroutine). The receiving thread's.
        self.block_timeout: float | None = 0
        # How many bytes are worth waiting for a tick of the system's clock, the next time that
        # recv_into() blocks (1: no more than come first). The receiving thread's.
        self.receive_low_water: int = 1

    @abstractmethod
    def recv_into(self, view: memoryview) -> int | PollNeeded:
        """Receive into *view*, which must not be empty; return how many bytes, 0 at the end."""

    @abstractmethod
    def send(self, data: bytes | memoryview) -> int | PollNeeded:
        """Send the start of *data*; return how many bytes of it were taken."""

    @property
    def on_its_way(self) -> int:
        """How many bytes `send` has not counted yet, though the peer may get them."""
        return 0

    @property
    def can_send_files(self) -> bool:
        """Whether `send_file` may be called. Never changes."""
        return False

    @property
    def paused(self) -> float:
        """For how many seconds receiving has waited for a limit of ours. For any thread."""
        return 0.0

    @property
    def held_up_until(self) -> float:
        """Until when sending waits, or has last waited, for a limit of ours. For any thread.

        That is by `time.monotonic`; -inf if it never has.
        """
        return float("-inf")

    def send_file(self, fd: int, offset: int, count: int) -> int | PollNeeded:
        """Send from the file *fd* the start of the *count* bytes at *offset*, at least one.

        Returns how many were taken, which is 0 only if the file ends before *offset*. Does not
        move the file's own position. Raises OSError, as the system gave it, if it is the file
        that cannot be read, and `io.UnsupportedOperation` unless `can_send_files`.
        """
        raise io.UnsupportedOperation("this transport cannot send files")

    @abstractmethod
    def is_quiet(self) -> bool:
        """Return True if an idle connection is fit for use: open, with nothing to be received.

        Only for a connection that neither thread is using.
        """

    def has_arrivals(self) -> bool:
        """Return True if something has come, or the end, that `recv_into` has not returned yet.

        May be called by any thread, and never waits. Another thread may change it at any moment.
        """
        try:
            # Not by MSG_PEEK, which would take a reset from the receiving thread. If the descriptor
            # has become that of something else, that is no worse than a stale value.
            return PollNeeded(self.sock.fileno(), POLLIN).is_ready()
        except (OSError, ValueError):
            return False  # it is closed, or the system cannot say

    @property
    def ssl_object(self) -> ssl.SSLObject | None:
        """What knows of the certificate and the cipher; None without TLS."""
        return None

    @property
    def refusal(self) -> Exception | None:
        """Why `is_quiet` returned False, if the peer refused the connection before its first use.

        None for any other reason: then another connection may fare better.
        """
        return None

    def keep_arrivals(self) -> None:
        """Have `recv_into` return, after `shutdown`, what the system has received before that.

        Where that is out, it raises `ConnectionClosed`. Some systems, but not Linux, throw it away.
        For the sending thread, which sends nothing more.
        """
        self.keeps_arrivals = True

    def shutdown(self) -> None:
        """End the connection for both sides and wake each thread that waits for it, at once.

        Keeps the descriptor. May be called from any thread, and from a signal handler.
        """
        self.is_shut = True
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer was faster

    def close(self) -> None:
        """Free the descriptor. Only once no thread waits for it; may be called again."""
        self.is_shut = True
        self.sock.close()

    def drop(self) -> None:
        """Free the descriptor without a byte on the wire. For a forked child; may be called again.

        The connection is the parent's, and goes on there. Waits for no lock, as the threads that
        held them are not in this process; afterwards, all of them are free.
        """
        self.is_shut = True
        self.sock.close()

    def _gather(self, want_read: PollNeeded) -> None:
        """Wait a moment for data to gather: a large body costs less in fewer, larger steps.

        For the receiving thread, if it may block and its last call left nothing in the socket.
        """
        self._set_option(socket.SO_RCVLOWAT, LARGE)
        try:
            want_read.poll(_GATHER_TIME)
        finally:
            self._set_option(socket.SO_RCVLOWAT, 1)

    def _set_option(self, option: int, value: int | bytes) -> None:
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, option, value)
        except OSError:
            pass  # the connection has ended; what is received next says how


class TransportLayer(Transport):
    """A transport that does more than *inner*, which it stands before.

    It cannot send files by itself, unless it says so.
    """

    __slots__ = ("_inner",)

    def __init__(self, inner: Transport) -> None:
        super().__init__(inner.sock)
        self._inner = inner  # never changes

    def recv_into(self, view: memoryview) -> int | PollNeeded:
        inner = self._inner
        inner.block_timeout, inner.receive_low_water = self.block_timeout, self.receive_low_water
        self.receive_low_water = 1
        return inner.recv_into(view)

    def send(self, data: bytes | memoryview) -> int | PollNeeded:
        return self._inner.send(data)

    @property
    def on_its_way(self) -> int:
        return self._inner.on_its_way

    def is_quiet(self) -> bool:
        return not self.is_shut and self._inner.is_quiet()

    def has_arrivals(self) -> bool:
        return self._inner.has_arrivals()

    @property
    def paused(self) -> float:
        return self._inner.paused

    @property
    def held_up_until(self) -> float:
        return self._inner.held_up_until

    @property
    def ssl_object(self) -> ssl.SSLObject | None:
        return self._inner.ssl_object

    @property
    def refusal(self) -> Exception | None:
        return self._inner.refusal

    def keep_arrivals(self) -> None:
        self.keeps_arrivals = True
        self._inner.keep_arrivals()

    def shutdown(self) -> None:
        self.is_shut = True
        self._inner.shutdown()

    def close(self) -> None:
        self.is_shut = True
        self._inner.close()

    def drop(self) -> None:
        self.is_shut = True
        self._inner.drop()


def closed_by_peer(exc: OSError) -> ConnectionClosed:
    """Return the `ConnectionClosed` that stands for *exc*, an error that ends a connection."""
    return ConnectionClosed(f"connection closed unexpectedly: {exc.strerror or exc}")


_FILE_STEP = 4 * 1024 * 1024  # bytes; more saves nothing, and keeps others waiting for longer
_DONT_WAIT = int(socket.MSG_DONTWAIT)  # what is an enum takes longer
_HAS_SENDFILE = hasattr(os, "sendfile")
_MOMENT = 1e-6  # seconds; the system rounds it up to a tick of its clock


def _timeval(seconds: float | None) -> bytes:
    """Return *seconds* as the system takes them for a time-out."""
    # 0 is for ever; and more than some decades need not be told from it.
    microseconds = 0 if seconds is None else max(1, round(min(seconds, 1e9) * 1_000_000))
    return struct.pack("@ll", *divmod(microseconds, 1_000_000))


_main_thread = main_thread().ident  # which threading works out anew at each call


def _note_main_thread() -> None:
    global _main_thread  # noqa: PLW0603  # the thread that forks is the main thread of the child
    _main_thread = get_ident()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_main_thread)


class PlainTransport(Transport):
    """TCP. Takes the offer to block, because one system call is cheaper than three."""

    __slots__ = (
        "_drained",
        "_has_send_timeout",
        "_receive_timeout",
        "_send_lock",
        "_want_read",
        "_want_write",
        "_was_reset",
    )

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        sock.setblocking(True)  # MSG_DONTWAIT says where it must not
        self._want_read = PollNeeded(sock.fileno(), POLLIN)  # polled by the receiving thread
        self._want_write = PollNeeded(sock.fileno(), POLLOUT)  # polled by the sending thread
        self._drained = False  # the last call emptied the socket; the receiving thread's
        self._receive_timeout: float | None = None  # of the socket; the receiving thread's
        self._has_send_timeout = False  # the socket has one; the sending thread's
        # A reset is reported once, and if a send hears of it, a receive hears of an end.
        self._send_lock = Lock()
        self._was_reset = False  # a send has heard of a reset; guarded by _send_lock

    @property
    def can_send_files(self) -> bool:
        return _HAS_SENDFILE

    def recv_into(self, view: memoryview) -> int | PollNeeded:
        if self.is_shut:
            return self._receive_kept(view)
        timeout = self.block_timeout
        flags = _DONT_WAIT
        if timeout == 0:
            if self._drained:
                # Waiting first is cheaper than failing first.
                self._drained = False
                return self._want_read
        else:
            if self.receive_low_water > 1:
                got = self._receive_many(view)
                if got is not None:
                    return got
            if len(view) >= LARGE and self._drained:
                self._gather(self._want_read)
            if timeout is None or get_ident() != _main_thread:
                if timeout != self._receive_timeout:
                    self._set_receive_timeout(timeout)
                flags = 0
            elif self._drained:  # or else there is more, as a rule
                # A signal handler that returns makes recv() begin its time anew, and poll() not. It
                # is the main thread that the system interrupts, unless the program has it choose
                # another. For those, one system call less is worth more.
                want_read = self._want_read
                if timeout != want_read.known:
                    want_read.know(timeout)
                if not want_read.poller.poll(want_read.milliseconds):  # as `PollNeeded.poll`
                    raise timed_out("received", timeout)
        try:
            got = self.sock.recv_into(view, 0, flags)
        except BlockingIOError:
            if not flags:
                raise timed_out("received", timeout) from None
            if timeout == 0 or self._drained:
                return self._want_read
            self._drained = True
            return self.recv_into(view)
        except OSError as exc:
            raise closed_by_peer(exc) from exc
        if not got:
            self._check_end()
        self._drained = got < len(view)
        return got

    def _receive_kept(self, view: memoryview) -> int:
        """Receive what had come before the connection was shut, if that is kept."""
        if self.keeps_arrivals:
            try:
                got = self.sock.recv_into(view, 0, _DONT_WAIT)
            except OSError:
                got = 0
            if got:
                return got
        raise ConnectionClosed("disconnected")  # by us, which is no end of a body

    def _check_end(self) -> None:
        """Raise `ConnectionClosed` unless the peer has ended the stream in good order."""
        with self._send_lock:
            pass  # a send that is under way has said now what it found
        if self._was_reset:
            raise ConnectionClosed("connection closed unexpectedly: Connection reset by peer")
        if self.is_shut:
            raise ConnectionClosed("disconnected")

    def _receive_many(self, view: memoryview) -> int | None:
        """Receive once `receive_low_water` bytes have come, or in a moment what there is then.

        Returns None if that is nothing. It takes but one system call during which others may run:
        a second one would mean to wait a second time until they let us go on.
        """
        self._set_option(socket.SO_RCVLOWAT, self.receive_low_water)
        self.receive_low_water = 1
        if self._receive_timeout != _MOMENT:
            self._set_receive_timeout(_MOMENT)
        try:
            got = self.sock.recv_into(view)
        except BlockingIOError:
            got = None
        except OSError as exc:
            raise closed_by_peer(exc) from exc
        finally:
            self._set_option(socket.SO_RCVLOWAT, 1)  # at once, for is_quiet() has to see less, too
        if got == 0:
            self._check_end()
        self._drained = got is None or got < len(view)
        return got

    def _set_receive_timeout(self, seconds: float | None) -> None:
        self._set_option(socket.SO_RCVTIMEO, _timeval(seconds))
        self._receive_timeout = seconds

    def send(self, data: bytes | memoryview) -> int | PollNeeded:
        with self._send_lock:
            try:
                return self.sock.send(data, _DONT_WAIT)
            except BlockingIOError:
                return self._want_write
            except OSError as exc:
                if isinstance(exc, ConnectionResetError):
                    self._was_reset = True
                raise closed_by_peer(exc) from exc

    def send_file(self, fd: int, offset: int, count: int) -> int | PollNeeded:
        if self.is_shut:
            raise ConnectionClosed("disconnected")
        if not self._want_write.is_ready():
            # Waiting first is cheaper than failing first, which takes a tick of the clock; and each
            # signal would make it begin anew.
            return self._want_write
        count = min(count, _FILE_STEP)
        with self._send_lock:
            try:
                if not self._has_send_timeout:
                    # There is no MSG_DONTWAIT for sendfile, and O_NONBLOCK would be for the
                    # receiver, too. What is sent with MSG_DONTWAIT does not heed this.
                    self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(_MOMENT))
                    self._has_send_timeout = True
                return os.sendfile(self.sock.fileno(), fd, offset, count)
            except BlockingIOError:
                return self._want_write
            except OSError as exc:
                if isinstance(exc, ConnectionResetError):
                    self._was_reset = True
                if is_temp_network_error(exc):
                    raise closed_by_peer(exc) from exc
        # No socket says that: the file system, or a sandbox, does not let the kernel send it. If it
        # is the file that is wrong, reading says so, too.
        data = os.pread(fd, min(count, LARGE), offset)
        return self.send(data) if data else 0

    def is_quiet(self) -> bool:
        return not (self.is_shut or self._want_read.poller.poll(0))

    def drop(self) -> None:
        self._send_lock = Lock()
        super().drop()
