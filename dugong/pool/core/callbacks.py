"""Runs what callers have given the pool to call: done-callbacks of futures, and *on_event*.

Guarantees: the caller's code runs in the pool's own threads alone, never in the thread of a call to
the pool; it runs in a loop, so that callbacks which cause further callbacks do not nest. A call
that fails keeps none of the others from being made.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, get_ident

from dugong.pool.core.threads import Threads
from dugong.pool.failure import ends_program

__all__ = ["Callbacks"]


class Callbacks:
    """The calls that are to be made, and the thread that makes those which callers have caused."""

    def __init__(
        self,
        threads: Threads,
        failed: Callable[[Callable[[], object], BaseException], object],
    ) -> None:
        self._threads = threads  # never changes
        self._failed = failed  # is told of a call that has raised something; never changes
        #: Those to be made. append and popleft are atomic in free-threaded CPython, too.
        self.calls: deque[Callable[[], object]] = deque()
        self._running: dict[int, None] = {}  # each thread adds and removes its own key
        # The thread of its own: it is woken here. Unlike a condition, a SimpleQueue may be put to
        # by a finalizer, wherever that runs.
        self._wake: SimpleQueue[bool] = SimpleQueue()
        self._spared = 0  # the thread that makes no calls; set once, by itself
        self._start_lock = Lock()
        self._started = False  # the thread runs; guarded by _start_lock

    def add(self, call: Callable[[], object]) -> None:
        """Have *call* made soon. May be called by any thread, with or without the pool's lock."""
        self.calls.append(call)

    def run(self) -> None:
        """See to it that the calls are made: here, if this is a thread of the pool.

        Called without the lock.
        """
        ident = get_ident()
        if ident == self._spared or not self._threads.is_own():
            self._delegate()
        elif ident not in self._running:
            self._make_calls()

    def spare_this_thread(self) -> None:
        """Have the calls that this thread causes made by another one: it has timers to keep."""
        self._spared = get_ident()

    def _delegate(self) -> None:
        if sys.is_finalizing():
            return  # the program that would be called back is over
        self._wake.put(True)
        # Looked at behind that: a thread that ends looks for calls once more when others can see
        # that it has. A stale value starts a second thread, which ends at once.
        if not self._started:
            self._threads.start(self._loop, "dugong-callbacks", self._make_calls_here)

    def _make_calls_here(self, error: RuntimeError) -> None:
        """Make them though this may be the thread of a caller: a lost call could hang another."""
        self._make_calls()

    def _loop(self) -> None:
        with self._start_lock:
            if self._started:
                return
            self._started = True
        try:
            self._make_calls()
            while self._wake.get():
                self._make_calls()
        finally:  # a call may have ended this thread
            with self._start_lock:
                self._started = False
        self._wake.put(False)  # for a thread that is started after this one
        self._make_calls()

    def close(self) -> None:
        """End the thread once the calls have been made; a later call starts it once more."""
        self._wake.put(False)

    def _make_calls(self) -> None:
        ident = get_ident()
        self._running[ident] = None
        try:
            while True:
                try:
                    call = self.calls.popleft()
                except IndexError:
                    return
                try:
                    call()
                except BaseException as exc:
                    if ends_program(exc):
                        raise
                    self._failed(call, exc)
        finally:
            self._running.pop(ident, None)
