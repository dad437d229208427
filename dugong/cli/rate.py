"""A limit on how many bytes a second all transfers of a command have together."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, Lock

__all__ = ["Throttle"]

_LARGEST = 256 * 1024
_SMALLEST = 1024


class Throttle:
    """Lets *rate* bytes a second pass, or any number if that is None.

    *clock* is `time.monotonic`, but for tests. Any thread may call any method.
    """

    def __init__(self, rate: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        # None of these changes.
        self._rate = rate
        self._clock = clock
        self._ended = Event()
        #: How many bytes are to be transferred at once.
        self.piece: int = _LARGEST
        if rate is not None:
            self.piece = max(_SMALLEST, min(_LARGEST, int(rate / 8)))
        self._lock = Lock()
        self._free = 0.0  # when the next byte may pass; guarded by the lock

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit."""
        return self._rate is not None

    def delay(self, size: int) -> float:
        """Note that *size* more bytes were transferred; return how many seconds too early."""
        if self._rate is None:
            return 0.0
        with self._lock:
            now = self._clock()
            self._free = max(self._free, now) + size / self._rate
            return self._free - now

    def passes(self, size: int) -> bool:
        """Wait until *size* more bytes, which were transferred, are in time; return True.

        Return False at once when `end` is called.
        """
        return self._rate is None or not self.rest(self.delay(size))

    def rest(self, seconds: float) -> bool:
        """Wait for *seconds*; return True at once when `end` is called."""
        return self._ended.wait(seconds)

    def end(self) -> None:
        """Have nothing wait any more."""
        self._ended.set()
