"""How a coroutine of dugong waits: it yields a `PollNeeded`, and a driver resumes it when ready.

This file holds the blocking driver, `eval_coroutine`, and what such coroutines wait with besides;
`dugong.connection.aio` has the driver for asyncio. Guarantees: a driver that stops early closes the
coroutine, so that its clean-up runs.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Generator
from math import ceil
from select import POLLIN, POLLOUT
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from dugong.errors import ConnectionClosed, ConnectionTimedOut

if TYPE_CHECKING:
    from threading import RLock

__all__ = [
    "POLLIN",
    "POLLOUT",
    "Coroutine",
    "Interrupt",
    "PollNeeded",
    "co_interruptible",
    "co_sleep",
    "eval_coroutine",
    "timed_out",
]

T = TypeVar("T")

_LONGEST_POLL = 2**31 - 1  # milliseconds; poll() takes an int


class PollNeeded:
    """What a coroutine is waiting for: *mask* (`select.POLLIN`, `select.POLLOUT`) on *fd*.

    *timeout* (seconds, or None) asks to be resumed after that time even if nothing happened.
    *others* are further (descriptor, mask) pairs: whichever of all is ready first resumes the
    coroutine. Only connecting to a host with several addresses has them, and always with a
    *timeout* of at most 0.25 s, so that a driver which looks at *fd* alone is merely slower.
    One thread at a time may poll an object.
    """

    __slots__ = ("fd", "known", "mask", "milliseconds", "others", "poller", "timeout")

    def __init__(
        self,
        fd: int,
        mask: int,
        timeout: float | None = None,
        others: tuple[tuple[int, int], ...] = (),
    ) -> None:
        self.fd: int = fd
        self.mask: int = mask
        self.timeout: float | None = timeout
        self.others: tuple[tuple[int, int], ...] = others
        self.poller: select.poll = select.poll()  # that all of these are registered with
        # The time of the last `poll`, which is the same each time, as a rule: see `know`.
        self.known: float = 0.0
        self.milliseconds: int = 0
        self.poller.register(fd, mask)
        for other_fd, other_mask in others:
            self.poller.register(other_fd, other_mask)

    def poll(self, timeout: float | None = None) -> bool:
        """Block until the coroutine should be resumed; return False after *timeout* seconds.

        With None, the default, there is no limit.
        """
        if self.timeout is not None and (timeout is None or self.timeout <= timeout):
            self.poller.poll(_milliseconds(self.timeout))
            return True
        if timeout is None:
            return bool(self.poller.poll())
        if timeout != self.known:
            self.know(timeout)
        return bool(self.poller.poll(self.milliseconds))

    def know(self, timeout: float) -> None:
        """Have `milliseconds` be *timeout* as `poller` takes it, and `known` what it is for."""
        self.milliseconds = _milliseconds(timeout)
        self.known = timeout

    def block(self, timeout: float | None) -> None:
        """Block until the coroutine should be resumed; raise `ConnectionTimedOut` if it is late."""
        if not self.poll(timeout):
            raise timed_out("received" if self.mask & POLLIN else "sent", timeout)

    def is_ready(self) -> bool:
        """Return True if there would be nothing to wait for."""
        return bool(self.poller.poll(0))

    def __repr__(self) -> str:
        wants = [name for bit, name in ((POLLIN, "in"), (POLLOUT, "out")) if self.mask & bit]
        return f"<PollNeeded fd={self.fd} {'|'.join(wants)}>"


def timed_out(done: str, timeout: float | None) -> ConnectionTimedOut:
    """Return the error for a wait of *timeout* seconds in which nothing was *done*."""
    return ConnectionTimedOut(f"nothing {done} for {timeout or 0:g} s")


def _milliseconds(seconds: float) -> int:
    # A negative number would wait for ever, and an interval is not to end early.
    return max(0, ceil(min(seconds * 1000, _LONGEST_POLL)))


Coroutine = Generator[PollNeeded, None, T]


def eval_coroutine(crt: Coroutine[T], timeout: float | None = None) -> T:
    """Run the coroutine *crt* in this thread, blocking whenever it waits; return its result.

    Raises `ConnectionTimedOut` if a single wait takes longer than *timeout* seconds (default: no
    limit; the pauses of `retrying` do not count), and whatever the coroutine raises; ValueError if
    *timeout* is negative or no number.
    """
    if timeout is not None and not timeout >= 0:  # which no NaN passes
        raise ValueError(f"timeout must be a number of seconds or None, not {timeout!r}")
    try:
        while True:
            next(crt).block(timeout)
    except StopIteration as exc:
        result: T = exc.value
        return result
    except BaseException:
        if isinstance(crt, Generator):  # or else that is what is wrong
            crt.close()
        raise


class Interrupt:
    """Lets any thread, or a signal handler, end what `co_interruptible` runs in another thread.

    *lock* guards it, and may guard other things, too.
    """

    __slots__ = ("_awaited", "_is_set", "_lock")

    def __init__(self, lock: RLock) -> None:
        # Reentrant, for a signal handler may come while its own thread holds it.
        self._lock = lock
        self._is_set = False  # guarded by _lock; never cleared
        self._awaited: PollNeeded | None = None  # guarded by _lock; its descriptors are open

    def set(self) -> None:
        """Shut down the sockets that are being waited for, which wakes the waiting thread.

        Also ends each wait that would begin later. Never waits. May be called again.
        """
        with self._lock:
            self._is_set = True
            awaited = self._awaited
            if awaited is not None:
                for fd, _ in ((awaited.fd, awaited.mask), *awaited.others):
                    _shut_down(fd)

    def _enter(self, needed: PollNeeded) -> None:
        with self._lock:
            # In this order, for the sake of a signal handler in between.
            self._awaited = needed
            self._check()

    def _leave(self) -> None:
        with self._lock:
            self._awaited = None

    def _check(self) -> None:
        if self._is_set:
            raise ConnectionClosed("disconnected")


def _shut_down(fd: int) -> None:
    """Shut down the socket *fd*, and leave it to its owner."""
    # The family may be another one, which makes no difference to shutdown(). Without one, the
    # socket module would ask the system.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=fd)
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it was not connected. Even so, this has ended its connecting.
    finally:
        sock.detach()


def co_interruptible(crt: Coroutine[T], interrupt: Interrupt) -> Coroutine[T]:
    """Run *crt*, which waits for sockets only, until it is done or *interrupt* is set.

    Raises `ConnectionClosed` in the second case, with the sockets that it was waiting for shut
    down, and whatever *crt* raises. Needs no descriptor of its own.
    """
    try:
        while True:
            interrupt._check()
            needed = next(crt)
            try:
                interrupt._enter(needed)
                yield needed
            finally:
                interrupt._leave()  # before *crt* may close what it was waiting for
    except StopIteration as exc:
        result: T = exc.value
        return result
    finally:
        crt.close()


class _Pause(PollNeeded):
    """Nothing is waited for but the time, so that no time is too long."""

    __slots__ = ()

    def block(self, timeout: float | None) -> None:
        self.poll()


def co_sleep(seconds: float) -> Coroutine[None]:
    """Return after *seconds*, or a little later. The limit of `eval_coroutine` does not count."""
    end = monotonic() + seconds
    # A driver needs a descriptor. Nothing is ever written to this one.
    ours, theirs = socket.socketpair()
    with ours, theirs:
        while (left := end - monotonic()) > 0:
            yield _Pause(ours.fileno(), POLLIN, left)
