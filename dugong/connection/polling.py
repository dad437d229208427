"""How a coroutine of dugong waits: it yields a `PollNeeded`, and a driver resumes it when ready.

This file holds the blocking driver, `eval_coroutine`; `dugong.connection.aio` has the one for
asyncio. Guarantees: a driver that stops early closes the coroutine, so that its clean-up runs.
"""

from __future__ import annotations

import select
from collections.abc import Generator
from math import ceil
from select import POLLIN, POLLOUT
from typing import TypeVar

from dugong.errors import ConnectionTimedOut

__all__ = ["POLLIN", "POLLOUT", "Coroutine", "PollNeeded", "eval_coroutine"]

T = TypeVar("T")


class PollNeeded:
    """What a coroutine is waiting for: *mask* (`select.POLLIN`, `select.POLLOUT`) on *fd*.

    *timeout* (seconds, or None) asks to be resumed after that time even if nothing happened; a
    driver that ignores it is still correct, only slower to try a host's second address.
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
            self._poller.poll(ceil(self.timeout * 1000))
            return True
        return bool(self._poller.poll(None if timeout is None else ceil(timeout * 1000)))

    def __repr__(self) -> str:
        wants = [name for bit, name in ((POLLIN, "in"), (POLLOUT, "out")) if self.mask & bit]
        return f"<PollNeeded fd={self.fd} {'|'.join(wants)}>"


Coroutine = Generator[PollNeeded, None, T]


def eval_coroutine(crt: Coroutine[T], timeout: float | None = None) -> T:
    """Run the coroutine *crt* in this thread, blocking whenever it waits; return its result.

    Raises `ConnectionTimedOut` if a single wait takes longer than *timeout* seconds (default: no
    limit), and whatever the coroutine raises.
    """
    try:
        while True:
            if not next(crt).poll(timeout):
                raise ConnectionTimedOut(f"nothing happened for {timeout} seconds")
    except StopIteration as exc:
        result: T = exc.value
        return result
    finally:
        crt.close()
