"""Things to be done at a certain time, in that order.

Guarantees: a timer that was cancelled is forgotten soon, not only when its time has come. Has no
lock of its own: the pool's lock guards it. Touches nothing; the caller says what time it is.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

__all__ = ["Timer", "Timers"]

_FEW = 64  # cancelled timers that may stay in the heap


class Timer:
    """Something to be done at the time *when*; `action` is None once that is over."""

    __slots__ = ("action", "when")

    def __init__(self, when: float, action: Callable[[], None]) -> None:
        self.when: float = when
        self.action: Callable[[], None] | None = action

    def __lt__(self, other: Timer) -> bool:
        return self.when < other.when


class Timers:
    """A heap of `Timer`."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []  # guarded by the pool's lock
        self._cancelled = 0  # of those in the heap; guarded by the pool's lock

    def __len__(self) -> int:
        return len(self._heap) - self._cancelled

    def add(self, when: float, action: Callable[[], None]) -> Timer:
        """Have *action* done at the time *when*."""
        timer = Timer(when, action)
        heapq.heappush(self._heap, timer)
        return timer

    def cancel(self, timer: Timer) -> None:
        """Have *timer* not done, unless it has been."""
        if timer.action is None:
            return
        timer.action = None
        self._cancelled += 1
        if self._cancelled > _FEW and self._cancelled > len(self._heap) // 2:
            self._heap = [timer for timer in self._heap if timer.action is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def next(self) -> float | None:
        """Return when the next timer is due, or None if there is none."""
        while self._heap and self._heap[0].action is None:
            heapq.heappop(self._heap)
            self._cancelled -= 1
        return self._heap[0].when if self._heap else None

    def pop_due(self, now: float) -> Callable[[], None] | None:
        """Remove and return an action that is due at the time *now*, or None."""
        when = self.next()
        if when is None or when > now:
            return None
        timer = heapq.heappop(self._heap)
        action, timer.action = timer.action, None
        return action

    def repair(self) -> None:
        """Mend what an exception in the middle of another method has left."""
        self._heap = [timer for timer in self._heap if timer.action is not None]
        heapq.heapify(self._heap)
        self._cancelled = 0
