"""The threads of one pool: all of them are started, known and waited for here.

Guarantees: no thread starts once the pool is closed or the interpreter exits; `join` knows every
thread that was started before. Starting a thread costs the same, however many there are.

`threading.Thread.start` waits for the new thread, and an exception of a signal handler in that wait
can leave a lock of `threading` taken for ever. So it is called in threads of the pool alone, which
no signal handler interrupts: a caller begins a short-lived thread by means of `_thread`, in a
single call, and that starts the thread which is wanted.
"""

from __future__ import annotations

import sys
import time
from _thread import LockType, allocate_lock, start_new_thread
from collections import deque
from collections.abc import Callable
from threading import RLock, Thread, current_thread, get_ident
from time import monotonic

from dugong.deadline import Deadline

__all__ = ["Threads"]

#: Seconds for which what is to be started is left to a thread that was begun to start others.
_STARTER_TIME = 0.5
#: Seconds to wait, one after the other, before it is tried again to begin such a thread.
_PAUSES = (0.001, 0.01, 0.05)

#: What a thread does, its name, and what is called if it cannot be had.
Start = tuple[Callable[[], object], str, Callable[[RuntimeError], object]]


class Threads:
    """Starts the daemon threads of a pool."""

    def __init__(self) -> None:
        # Reentrant: a finalizer that runs while a thread holds it may have a thread started.
        self._lock = RLock()
        #: To be started. append and popleft are atomic in free-threaded CPython, too.
        self._pending: deque[Start] = deque()
        # In these, each thread adds and removes its own key; single operations of a dict are
        # atomic in free-threaded CPython, too.
        self.idents: dict[int, None] = {}  # the threads of the pool
        self._starting: dict[int, None] = {}  # those that are starting others now
        #: A lock for each thread that was begun only to start others, released when it has.
        self._starters: dict[LockType, None] = {}
        #: Those that will look again for what is pending, and when they were begun
        #: (`time.monotonic`).
        self._looking: dict[LockType, float] = {}
        self._closed = False  # guarded by _lock
        self._threads: dict[Thread, None] = {}  # guarded by _lock
        self._ending: deque[Thread] = deque()  # have done what they were for; guarded by _lock

    def start(
        self,
        function: Callable[[], object],
        name: str,
        failed: Callable[[RuntimeError], object],
    ) -> None:
        """Start a thread soon. May be called anywhere, also by a finalizer.

        *failed* is called if no thread can be had, or the pool is closed, or the interpreter exits:
        in this thread, or in one of the pool's.
        """
        self._pending.append((function, name, failed))
        if self.is_own():
            self._start_pending()
        elif sys.is_finalizing():
            self._fail_pending(RuntimeError("the interpreter is exiting"))
        else:
            self._start_elsewhere()

    def start_here(self, function: Callable[[], object], name: str) -> None:
        """Start a thread now. Raises RuntimeError where `start` calls *failed*.

        To be called in threads of the pool alone, but not by finalizers.
        """
        ident = get_ident()
        self._starting[ident] = None
        try:
            self._start_one(function, name)
        finally:
            self._starting.pop(ident, None)
            self._start_pending()

    def _start_elsewhere(self) -> None:
        """Have a thread begun that starts what is pending.

        One is enough, which looks again when it has ended. More of them might take what the system
        allows of threads. If none can be had, one that is about to end may make room.
        """
        for pause in (*_PAUSES, None):
            if not self._pending or self._is_starter_looking():
                return
            try:
                self._begin_starter()
            except RuntimeError as exc:
                if pause is None:
                    self._fail_pending(exc)
                else:
                    time.sleep(pause)
            else:
                return

    def _is_starter_looking(self) -> bool:
        # One that takes long may run a callback; or an interrupt has kept it from being begun.
        since = monotonic() - _STARTER_TIME
        # Not any(), which closes its generator: what a signal handler raises there is lost.
        return max(list(self._looking.values()), default=since) > since

    def _begin_starter(self) -> None:
        over = allocate_lock()
        over.acquire()
        self._starters[over] = None
        self._looking[over] = monotonic()
        try:
            start_new_thread(self._run_starter, (over,))
        except BaseException:
            self._looking.pop(over, None)
            self._starters.pop(over, None)
            raise

    def _run_starter(self, over: LockType) -> None:
        ident = get_ident()
        self.idents[ident] = None
        try:
            self._start_pending()
            self._looking.pop(over, None)
            self._start_pending()  # what has come before that
        finally:
            self._looking.pop(over, None)
            self._starters.pop(over, None)
            over.release()
            self.idents.pop(ident, None)

    def _start_pending(self) -> None:
        ident = get_ident()
        # A finalizer that runs within a start leaves its own to that: `threading` has a lock that
        # is not reentrant. It may have come at the very end.
        while self._pending and ident not in self._starting:
            self._starting[ident] = None
            try:
                while (start := self._next()) is not None:
                    function, name, failed = start
                    try:
                        self._start_one(function, name)
                    except RuntimeError as exc:
                        failed(exc)
            finally:
                self._starting.pop(ident, None)

    def _fail_pending(self, error: RuntimeError) -> None:
        while (start := self._next()) is not None:
            start[2](error)

    def _next(self) -> Start | None:
        try:
            return self._pending.popleft()
        except IndexError:
            return None

    def _start_one(self, function: Callable[[], object], name: str) -> None:
        if sys.is_finalizing():
            raise RuntimeError("the interpreter is exiting")
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool has been closed")
            thread = Thread(target=self._run, args=(function,), name=name, daemon=True)
            self._threads[thread] = None
            try:
                thread.start()
            except BaseException:
                self._threads.pop(thread, None)
                raise

    def _run(self, function: Callable[[], object]) -> None:
        ident = get_ident()
        self.idents[ident] = None
        try:
            function()
        finally:
            with self._lock:
                self._threads.pop(current_thread(), None)
                while self._ending and not self._ending[0].is_alive():
                    self._ending.popleft()
                self._ending.append(current_thread())
            # Last, for a finalizer that runs here must not wait. The key may be missing in a child
            # process that was forked in this thread.
            self.idents.pop(ident, None)

    @property
    def count(self) -> int:
        """How many threads there are."""
        return len(self.idents)

    def is_own(self) -> bool:
        """Return True in a thread that was started here."""
        return get_ident() in self.idents

    def act_for_callers(self) -> None:
        """Have this thread, which was started here, count as one of a caller's: it may wait."""
        self.idents.pop(get_ident(), None)

    def close(self) -> None:
        """Start no more threads."""
        with self._lock:
            self._closed = True

    def join(self, deadline: Deadline) -> None:
        """Wait until every other thread has ended, but not beyond *deadline*."""
        while True:
            starter = next(iter(list(self._starters)), None)
            if starter is not None:
                left = deadline.remaining()
                if not starter.acquire(timeout=-1 if left is None else left):
                    return
                starter.release()
                continue
            with self._lock:  # one that ends may start another, which makes its last calls
                known = (*self._threads, *self._ending)
            others = [thread for thread in known if thread.ident != get_ident()]
            if not others:
                return
            thread = others[0]
            thread.join(deadline.remaining())
            if thread.is_alive() and not deadline.remaining():
                return
            with self._lock:
                self._threads.pop(thread, None)
                self._ending = deque(other for other in self._ending if other is not thread)
