"""How a coroutine of dugong waits: it yields a `PollNeeded`, and a driver resumes it when ready.

This file holds the blocking driver, `eval_coroutine`, and what such coroutines wait with besides;
`dugong.connection.aio` has the driver for asyncio. Guarantees: a driver that stops early closes the
coroutine, so that its clean-up runs.
"""

from __future__ import annotations

import select
import selectors
import socket
from collections.abc import Generator
from math import ceil
from select import POLLIN, POLLOUT
from time import monotonic
from typing import TypeVar, cast

from dugong.errors import ConnectionClosed, ConnectionTimedOut

__all__ = [
    "POLLIN",
    "POLLOUT",
    "Coroutine",
    "PollNeeded",
    "co_interruptible",
    "co_sleep",
    "eval_coroutine",
]

T = TypeVar("T")

_LONGEST_POLL = 2**31 - 1  # milliseconds; poll() takes an int


class PollNeeded:
    """What a coroutine is waiting for: *mask* (`select.POLLIN`, `select.POLLOUT`) on *fd*.

    *timeout* (seconds, or None) asks to be resumed after that time even if nothing happened.
    One thread at a time may poll an object.
    """

    __slots__ = ("_poller", "fd", "mask", "timeout")

    def __init__(self, fd: int, mask: int, timeout: float | None = None) -> None:
        self.fd = fd
        self.mask = mask
        self.timeout = timeout
        self._poller = select.poll()
        self._poller.register(fd, mask)

    def poll(self, timeout: float | None = None) -> bool:
        """Block until the coroutine should be resumed; return False after *timeout* seconds.

        With None, the default, there is no limit.
        """
        if self.timeout is not None and (timeout is None or self.timeout <= timeout):
            self._poller.poll(_milliseconds(self.timeout))
            return True
        return bool(self._poller.poll(None if timeout is None else _milliseconds(timeout)))

    def block(self, timeout: float | None) -> None:
        """Block until the coroutine should be resumed; raise `ConnectionTimedOut` if it is late."""
        if not self.poll(timeout):
            raise ConnectionTimedOut(f"nothing happened for {timeout} seconds")

    def is_ready(self) -> bool:
        """Return True if there would be nothing to wait for."""
        return bool(self._poller.poll(0))

    def __repr__(self) -> str:
        wants = [name for bit, name in ((POLLIN, "in"), (POLLOUT, "out")) if self.mask & bit]
        return f"<PollNeeded fd={self.fd} {'|'.join(wants)}>"


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


def co_interruptible(crt: Coroutine[T], interrupt: int) -> Coroutine[T]:
    """Run *crt* until it is done, or until the descriptor *interrupt* becomes readable.

    Raises `ConnectionClosed` in the second case, and whatever *crt* raises.
    """
    with selectors.DefaultSelector() as either:  # epoll or kqueue: one descriptor for the two
        either.register(interrupt, selectors.EVENT_READ)
        fd = cast(selectors.EpollSelector, either).fileno()
        try:
            while True:
                needed = next(crt)
                events = selectors.EVENT_READ if needed.mask & POLLIN else 0
                events |= selectors.EVENT_WRITE if needed.mask & POLLOUT else 0
                either.register(needed.fd, events)
                yield PollNeeded(fd, POLLIN, needed.timeout)
                interrupted = any(key.fd == interrupt for key, _ in either.select(0))
                either.unregister(needed.fd)
                if interrupted:
                    raise ConnectionClosed("disconnected")
        except StopIteration as exc:
            return cast(T, exc.value)
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
    # A driver has to have a descriptor. Nobody ever writes to this one.
    ours, theirs = socket.socketpair()
    with ours, theirs:
        while (left := end - monotonic()) > 0:
            yield _Pause(ours.fileno(), POLLIN, left)
