"""The timers of a pool, and the one thread that keeps them.

Guarantees: a timer's action is done under the lock, soon after its time; many that are due at once
do not keep the lock from others for long. The thread never runs the code of a caller. It is started
when the first timer is set, and again at the next if that start was lost. An action that fails
keeps none of the others from being done.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic

from dugong.pool.core.core import Mending, PoolCore, do_nothing
from dugong.pool.core.locked import locked
from dugong.pool.core.timers import Timer, Timers

__all__ = ["RATE_INTERVAL", "Maintenance"]

#: Seconds over which the speed of a body is measured.
RATE_INTERVAL = 30.0

#: How many things are done before other threads get the lock, though more are due. They take some
#: milliseconds.
SLICE = 100

#: Seconds until the thread looks again if a bug keeps it from looking at the timers.
_PAUSE = 1.0


class Maintenance:
    """Does things at a certain time, or as soon as possible in a thread that nothing interrupts."""

    def __init__(
        self,
        core: PoolCore,
        on_forgotten: Callable[[], object],
        on_close: Callable[[], object],
    ) -> None:
        self._core = core  # never changes
        self._on_forgotten = on_forgotten  # closes the pool; never changes
        self._on_close = on_close  # what the thread does last, once the pool is closed
        self._owner: weakref.ref[object] | None = None  # set before there are threads
        self.reset()

    def reset(self) -> None:
        """Begin with nothing: also for a child process, after a fork."""
        self._timers = Timers()  # guarded by the lock
        self._next_timer = float("inf")  # when the thread looks again; guarded by the lock
        self._running = False  # the thread has begun; guarded by the lock
        # What the thread is to do without the lock; None only wakes it. Unlike a condition, a
        # SimpleQueue may be put to by a finalizer, wherever that runs.
        self._wake: SimpleQueue[Callable[[], object] | Mending | None] = SimpleQueue()
        self._core.have_mended = self._wake.put
        self.slice: int = 0  # the number of this transaction of the thread; guarded by the lock
        owner = self._owner and self._owner()
        if owner is not None:
            self.watch(owner)

    def watch(self, owner: object) -> None:
        """Have the thread call *on_forgotten* once *owner* has been collected."""
        # No signal handler can interrupt this callback: it is no Python function.
        self._owner = weakref.ref(owner, self._wake.put)

    @locked
    def at_locked(self, when: float, action: Callable[[], None]) -> Timer:
        """Have *action* done, under the lock, at the time *when* (`time.monotonic`)."""
        self.start_again_locked()
        if when < self._next_timer:
            self._next_timer = when
            self._wake.put(None)
        return self._timers.add(when, action)

    @locked
    def cancel_locked(self, timer: Timer) -> None:
        """Have *timer* not done, unless it has been."""
        self._timers.cancel(timer)

    def do_later(self, action: Callable[[], object]) -> None:
        """Have *action* done by the thread, without the lock. May be called anywhere."""
        self._wake.put(action)
        if self._core.is_locked_here():
            self.start_again_locked()

    def wake(self) -> None:
        """Have the thread look whether the pool has been closed. May be called anywhere."""
        self._wake.put(None)

    @property
    def is_running(self) -> bool:
        """Whether the thread has begun, and will see that the pool has been closed."""
        return self._running

    @locked
    def start_again_locked(self) -> None:
        """Start the thread when the transaction is left, if its start was lost."""
        if not self._running:
            # If no thread is to be had now, the next timer tries again.
            self._core.follow_up(partial(self.start, do_nothing))

    def start(self, failed: Callable[[RuntimeError], object]) -> None:
        """Start the thread unless it runs; *failed* is called if it cannot be had.

        Called without the lock.
        """
        if not self._running:  # if that is about to change, a second thread ends at once
            self._core.threads.start(self._run, "dugong-maintenance", failed)

    @locked
    def repair_locked(self) -> None:
        """Mend what an interrupt may have left unfinished; have the thread look again."""
        self._timers.repair()
        self._next_timer = -1.0  # it is about to look
        self._wake.put(None)
        self.start_again_locked()

    def _run(self) -> None:
        with self._core.transaction():
            if self._running:
                return
            self._running = True
        self._core.callbacks.spare_this_thread()
        while (left := self._do_what_is_due()) is not None:
            if left == 0:
                time.sleep(0)  # let others have the lock
                continue
            try:
                action = self._wake.get(timeout=None if left == float("inf") else left)
            except Empty:
                continue
            self._do(action)
            del action  # it may refer to a request, and so to the pool, that is done with
            if self._owner is not None and self._owner() is None:
                self._do(self._on_forgotten)
        self._do(self._on_close)
        self._do_the_rest()

    def _do_the_rest(self) -> None:
        """Do what was to be done before the pool was closed."""
        while True:
            try:
                action = self._wake.get_nowait()
            except Empty:
                return
            self._do(action)

    def _do(self, action: Callable[[], object] | Mending | None) -> None:
        if action is None:
            return
        call = partial(self._core.mend, *action) if isinstance(action, tuple) else action
        try:
            call()
        except BaseException as exc:
            self._core.call_failed(call, exc, True)

    def _do_what_is_due(self) -> float | None:
        """Do it for a while; return in how many seconds there is more. None: the pool is closed."""
        core = self._core
        action = None
        try:
            with core.transaction():
                if core.closed:
                    self._running = False
                    return None
                self.slice += 1
                now = monotonic()
                for _ in range(SLICE):
                    action = self._timers.pop_due(now)
                    if action is None:
                        break
                    action()
                else:
                    return 0.0
                due = self._timers.next()
                self._next_timer = due = float("inf") if due is None else due
        except Exception as exc:
            core.call_failed(action or self._do_what_is_due, exc, True)
            return 0.0 if action is not None else _PAUSE
        return max(0.0, due - monotonic())
