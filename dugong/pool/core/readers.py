"""Threads that make calls for event loops, which must not wait: those read streams, and move files.

Guarantees: a call never waits for another one; there are as many threads as calls at a time, and
those that have had none for a second end. A thread that is left keeps no interpreter from exiting.
What is called may wait for the pool, as in a thread of a caller.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import ParamSpec, TypeVar

from dugong.pool.core.threads import Threads

__all__ = ["Readers", "begin_call"]

#: Seconds for which a thread waits for its next call.
IDLE_TIME = 1.0

_NAME = "dugong-stream"

P = ParamSpec("P")
T = TypeVar("T")


class Readers(Executor):
    """The threads of a pool that make such calls, each when it comes."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads  # never changes
        # For the threads that wait: a call, or None to end. Put under the lock; any thread takes.
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._lock = Lock()  # a forked child has other readers
        self._idle = 0  # threads that wait, less what is put for them; guarded by the lock
        self._is_closed = False  # guarded by the lock; never unset
        self._rests: set[Event] = set()  # what ends each `rest`; guarded by the lock

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Begin to call *fn*; return the future of what it returns. Any thread may call this.

        If no thread can be had, the future has a RuntimeError.
        """
        future: Future[T] = Future()
        call = partial(_make, future, partial(fn, *args, **kwargs))
        with self._lock:
            has_thread = self._idle > 0
            if has_thread:
                self._idle -= 1
                self._calls.put(call)
        if not has_thread:
            # A pool that is closed starts no more threads, but blocks are still to be left.
            start_alone = partial(_start_alone, future, call)
            self._threads.start(partial(self._run, call), _NAME, start_alone)
        return future

    def rest(self, wake: Event, seconds: float) -> None:
        """Wait until *wake* is set, which the end of the pool does, too; *seconds* at most."""
        with self._lock:
            if self._is_closed:
                return
            self._rests.add(wake)
        try:
            wake.wait(seconds)
        finally:
            with self._lock:
                self._rests.discard(wake)

    def close(self) -> None:
        """End the threads that have nothing to do, now and later, and all rests."""
        with self._lock:
            self._is_closed = True
            for wake in self._rests:
                wake.set()
            for _ in range(self._idle):
                self._calls.put(None)
            self._idle = 0

    def _run(self, first: Callable[[], object]) -> None:
        self._threads.act_for_callers()
        call: Callable[[], object] | None = first
        del first  # or what it has read stays in memory
        while call is not None:
            call()
            del call
            call = self._next()

    def _next(self) -> Callable[[], object] | None:
        with self._lock:
            if self._is_closed:
                return None
            self._idle += 1
        try:
            return self._calls.get(timeout=IDLE_TIME)
        except Empty:
            pass
        with self._lock:
            try:
                return self._calls.get_nowait()  # it came in the last moment
            except Empty:
                self._idle -= 1
                return None


def begin_call(call: Callable[[], T]) -> tuple[Future[T], Thread]:
    """Begin to make *call* in a thread of its own, of no pool; it is made even if it is cancelled.

    Returns its future, and the thread, which ends at once when that is done. Raises RuntimeError if
    no thread can be had.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()
    outcome = partial(_take_outcome, future, call)
    thread = Thread(target=outcome, name="dugong-call", daemon=True)
    thread.start()
    return future, thread


def _make(future: Future[T], call: Callable[[], T]) -> None:
    """Make *call*, unless *future* was cancelled, and end that."""
    if future.set_running_or_notify_cancel():
        _take_outcome(future, call)


def _take_outcome(future: Future[T], call: Callable[[], T]) -> None:
    try:
        result = call()
    except BaseException as exc:
        future.set_exception(exc)
        del future  # which the exception refers to, by way of this frame
    else:
        future.set_result(result)


def _start_alone(future: Future[T], call: Callable[[], object], error: RuntimeError) -> None:
    try:
        Thread(target=call, name=_NAME, daemon=True).start()
    except RuntimeError:
        if future.set_running_or_notify_cancel():
            future.set_exception(error)
