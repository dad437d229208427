"""The threads of one pool: all of them are started, known and waited for here.

Guarantees: no thread starts once the pool is closed or the interpreter exits; `join` knows every
thread that was started before. Starting a thread costs the same, however many there are.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from threading import RLock, Thread, current_thread, get_ident

from dugong.deadline import Deadline

__all__ = ["Threads"]


class Threads:
    """Starts the daemon threads of a pool."""

    def __init__(self) -> None:
        self._lock = RLock()  # reentrant only for `is_starting`, which must not wait for it
        #: The thread that starts another one now; guarded by _lock. A thread that reads its own
        #: number there has stored it.
        self.starter = 0
        #: Starts that came up within a start, in a finalizer for example; guarded by _lock.
        self._nested: list[tuple[Callable[[], object], str]] = []
        self._closed = False  # guarded by _lock
        self._threads: dict[Thread, None] = {}  # guarded by _lock
        self._ending: deque[Thread] = deque()  # have done what they were for; guarded by _lock
        # Each thread adds and removes its own key; single operations of a dict are atomic in
        # free-threaded CPython, too.
        self.idents: dict[int, None] = {}

    def start(self, function: Callable[[], object], name: str) -> None:
        """Start a thread. Raises RuntimeError if none can be had, or if the pool is closed."""
        if sys.is_finalizing():
            raise RuntimeError("the interpreter is exiting")
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool has been closed")
            if self.starter == get_ident():
                # `threading` has a lock that is not reentrant: the outer start does this one, too.
                self._nested.append((function, name))
                return
            self._start_one(function, name)
            while self._nested:
                self._start_one(*self._nested.pop())

    def _start_one(self, function: Callable[[], object], name: str) -> None:
        thread = Thread(target=self._run, args=(function,), name=name, daemon=True)
        while self._ending and not self._ending[0].is_alive():
            self._ending.popleft()
        self.starter = get_ident()
        try:
            self._threads[thread] = None
            thread.start()
        except BaseException:
            if not thread.is_alive():
                self._threads.pop(thread, None)
            raise
        finally:
            self.starter = 0

    def _run(self, function: Callable[[], object]) -> None:
        ident = get_ident()
        self.idents[ident] = None
        try:
            function()
        finally:
            # The key may be missing in a child process that was forked in this thread.
            self.idents.pop(ident, None)
            with self._lock:
                self._threads.pop(current_thread(), None)
                self._ending.append(current_thread())

    def is_own(self) -> bool:
        """Return True in a thread that was started here."""
        return get_ident() in self.idents

    def is_starting(self) -> bool:
        """Return True if this very thread is within `start`: it runs a finalizer, for example."""
        return self.starter == get_ident()

    def close(self) -> None:
        """Start no more threads."""
        with self._lock:
            self._closed = True

    def join(self, deadline: Deadline) -> None:
        """Wait until every thread has ended, but not beyond *deadline*."""
        while True:
            with self._lock:  # one that ends may start another, which makes its last calls
                thread = next(iter((*self._threads, *self._ending)), None)
            if thread is None:
                return
            if thread.ident is not None:  # or else its start was interrupted
                thread.join(deadline.remaining())
            if thread.is_alive() and not deadline.remaining():
                return
            with self._lock:
                self._threads.pop(thread, None)
                self._ending = deque(other for other in self._ending if other is not thread)
