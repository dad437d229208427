"""`ResponseFuture`: a `concurrent.futures.Future` that weighs little and is resolved fast.

Guarantees: everything of `concurrent.futures` and `asyncio.wrap_future` works on it; each callback
runs exactly once, each waiter is told; the first outcome counts; a future that is done refers to no
pool. No lock of a future is taken by a thread that has the lock of the pool, and neither is held
while a callback is called.

A future of the standard library begins with a lock, a queue and two lists. Nearly all of ours are
done before another thread asks, so those things, the *observers*, are made by the first thread that
has to wait, adds a callback, or takes `_condition` (the functions of `concurrent.futures` do). What
decides all races is that this happens under the lock of the pool, where outcomes are decided:

- If there are no observers when the outcome is decided, it is stored in `_outcome` under the lock
  of the pool, and that was all.
- Otherwise the lock of the pool is released first. Then the outcome is stored under the lock of the
  observers, and the waiters are told before that is released. For `concurrent.futures.wait` takes
  the locks of its futures, then looks at each state twice and relies on it not to change.
- A callback is added under the lock of the observers, while there is no outcome. So it is in the
  queue before the outcome is stored, and the thread that settled the future finds it there; or the
  adder sees the outcome, and calls.

`_outcome` is one object, stored once: a thread that reads it sees the outcome or nothing.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from dugong.errors import StateError
from dugong.pool.failure import ends_program

if TYPE_CHECKING:
    from dugong.pool.request import Request
    from dugong.pool.response import Response, StreamedResponse

__all__ = ["Owner", "ResponseFuture"]


T = TypeVar("T")


class Owner(Protocol):
    """What resolves futures: the pool. All methods are called without a lock, by any thread."""

    def abandon(self, future: ResponseFuture) -> bool:
        """Take the request out of the pool and call ``future._cancel()``; return True.

        Return False if another thread has resolved the future, or is about to.
        """

    def is_running(self, future: ResponseFuture) -> bool:
        """Return True if the request has been taken out of its queue, and is not done."""

    def check_may_wait(self) -> None:
        """Raise `StateError` if this is a thread of the pool, which would wait for itself."""

    def exclusively(self, action: Callable[[], T]) -> T:
        """Return what *action* returns, called with the lock held under which outcomes are decided.

        Not to be called by a thread that has that lock.
        """

    def is_nested(self) -> bool:
        """Return True if this thread has that lock: this is a finalizer, or a signal handler."""

    def call_later(self, call: Callable[[], object]) -> None:
        """Have *call* made where callbacks are, once the lock has been released."""


class _Observers:
    """What wants to know when a future is done."""

    __slots__ = ("callbacks", "lock", "untold", "waiters")

    def __init__(self, is_done: bool) -> None:
        # Guards the waiters, and the future's `_outcome`. It is reentrant, because a signal handler
        # or a finalizer may add a callback in the midst of another such call.
        self.lock = threading.RLock()
        self.waiters: list[Any] = []  # with the methods of _Waiter; guarded by `lock`
        # Those still to be told, once there is an outcome; guarded by `lock`.
        self.untold: list[Any] | None = [] if is_done else None
        # Appended to under `lock`, while there is no outcome. Taken from without: that is atomic.
        self.callbacks: list[Callable[[Any], object]] = []


class _Waiter:
    """One thread in `result` or `exception`, as a waiter in the terms of `concurrent.futures`."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, timeout: float | None) -> None:
        """Return when the future is done, or after *timeout* seconds."""
        self._lock.acquire(timeout=-1 if timeout is None else timeout)

    def _tell(self, future: object) -> None:
        if self._lock.locked():
            self._lock.release()

    add_result = add_exception = add_cancelled = _tell


class _ConditionOfFinalizers:
    """For a generator of `concurrent.futures.as_completed` that is closed by a nested finalizer.

    All it does is to remove its waiter, which is safe without the lock of the observers: that must
    not be taken with the lock of the pool. Whatever would wait takes it by `acquire`.
    """

    def __enter__(self) -> None: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def acquire(self) -> None:
        raise StateError("the pool is in the middle of a change: nothing can observe it now")


_CONDITION_OF_FINALIZERS = _ConditionOfFinalizers()


class _Cancelled(Enum):
    """The outcome of a future that was cancelled."""

    CANCELLED = CANCELLED_AND_NOTIFIED


_CANCELLED = _Cancelled.CANCELLED
# Where an instance keeps its observers: no attribute has such a name.
_OBSERVERS = "the observers of the future"

if TYPE_CHECKING:
    #: What a request ends with.
    _Outcome = Response | StreamedResponse | BaseException | _Cancelled


def _check_timeout(timeout: object) -> None:
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool):
        raise TypeError(f"timeout must be a number of seconds or None, not {timeout!r}")
    if not timeout <= threading.TIMEOUT_MAX:  # which no NaN passes
        raise ValueError(f"timeout must be finite, not {timeout!r}")


class ResponseFuture(concurrent.futures.Future["Response"]):
    """The response to a request that was submitted to a pool; a `concurrent.futures.Future`.

    `request` is the `Request`. Any thread may call any method. Different from other futures:
    `cancel` also works while the request is under way, and only the pool resolves it.
    """

    __slots__ = ("_observers", "_outcome", "_owner", "request")

    def __init__(self, request: Request, owner: Owner) -> None:
        # Not that of the base class, which makes what this class does without.
        self.request: Request = request  # never changes
        # None once the future is done. Any thread may read it, and set it to None.
        self._owner: Owner | None = owner
        # Stored once, under the lock of the owner.
        self._observers: _Observers | None = None
        # Stored once: under the lock of the owner, or if there are observers, under theirs.
        self._outcome: _Outcome | None = None

    def result(self, timeout: float | None = None) -> Response:
        """Return the response, waiting for it for up to *timeout* seconds (default: no limit).

        Raises the exception with which the request failed, `concurrent.futures.CancelledError` if
        it was cancelled, TimeoutError if it is not done by then (it goes on), `StateError` if it is
        not done and this is a thread of the pool, as in a callback, and TypeError or ValueError if
        *timeout* is no number of seconds. With zero or a negative one, it does not wait.
        """
        outcome: Any = self._outcome
        if timeout is not None or outcome is None:
            outcome = self._wait(timeout)
        if outcome is _CANCELLED:
            raise concurrent.futures.CancelledError
        if not isinstance(outcome, BaseException):
            response: Response = outcome
            return response
        try:
            raise outcome
        finally:
            # The exception refers to this frame, which must not refer to the exception.
            del self, outcome

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the request has failed with, or None if there is a response.

        Waits and raises as `result`.
        """
        outcome = self._wait(timeout)
        if outcome is _CANCELLED:
            raise concurrent.futures.CancelledError
        return outcome if isinstance(outcome, BaseException) else None

    def cancel(self) -> bool:
        """Withdraw the request, or abandon it if it has been sent; return True.

        Return False if it is done, and so not cancelled. The server may have acted on a request
        that had been sent.
        """
        owner = self._owner
        if owner is not None and owner.abandon(self):
            return True
        return self.cancelled()

    def cancelled(self) -> bool:
        """Return True if the request was cancelled."""
        return self._outcome is _CANCELLED

    def running(self) -> bool:
        """Return True if the request is under way on a connection."""
        owner = self._owner
        return owner is not None and owner.is_running(self)

    def done(self) -> bool:
        """Return True if there is a response, or the request has failed or was cancelled."""
        return self._outcome is not None

    def add_done_callback(
        self, fn: Callable[[concurrent.futures.Future[Response]], object]
    ) -> None:
        """Have *fn* called with this future when it is done; now if it is done already.

        It is called in a thread of the pool, or in this one if the future is done. In a thread of
        the pool it must not wait for a request: what would wait raises `StateError`, but for
        `concurrent.futures.wait` and `concurrent.futures.as_completed`, which cannot know, and
        would hang. What *fn* raises is logged. Raises TypeError if *fn* is not callable.
        """
        if not callable(fn):
            raise TypeError(f"fn must be callable, not {fn!r}")
        if self._outcome is None:
            owner = self._owner
            if owner is not None and owner.is_nested():
                owner.call_later(partial(self.add_done_callback, fn))
                return
            observers = self._observe()
            with observers.lock:
                if self._outcome is None:
                    observers.callbacks.append(fn)
                    return
        self._call(fn)

    def set_running_or_notify_cancel(self) -> bool:
        """Raise `concurrent.futures.InvalidStateError`: only the pool does this."""
        raise concurrent.futures.InvalidStateError("only the pool runs a ResponseFuture")

    def set_result(self, result: object) -> None:
        """Raise `concurrent.futures.InvalidStateError`: only the pool does this."""
        raise concurrent.futures.InvalidStateError("only the pool resolves a ResponseFuture")

    def set_exception(self, exception: object) -> None:
        """Raise `concurrent.futures.InvalidStateError`: only the pool does this."""
        raise concurrent.futures.InvalidStateError("only the pool resolves a ResponseFuture")

    # What the owner does. The future of a stream, which the pool keeps to itself, is the only one
    # whose response is streamed.

    def _settle_locked(self, result: Response | StreamedResponse | BaseException | None) -> bool:
        """Store the outcome, with the lock of the owner held; return False if that is not enough.

        Then something observes, and `_settle` has to be called without the lock.
        """
        if self._observers is not None:
            return False
        # Nothing is called until it is stored, so no finalizer or signal handler comes between.
        if self._outcome is None:
            self._outcome = _CANCELLED if result is None else result
        self._owner = None
        return True

    def _settle(self, result: Response | StreamedResponse | BaseException | None) -> bool:
        """Store the outcome, if there is none yet, and tell those that wait; call nothing.

        *result* is None if the request was cancelled. The first outcome counts; all later calls
        have no effect. When this returns, the future is done. Returns whether there are callbacks
        to run. May be called by any thread that has not got the lock of the owner: the code of no
        caller runs in it.
        """
        settle = partial(self._settle_locked, result)
        if self._observers is None and self._exclusively(settle):
            return False
        observers = self._observers
        assert observers is not None
        with observers.lock:
            if self._outcome is None:
                self._outcome = _CANCELLED if result is None else result
            if observers.untold is None:
                observers.untold = observers.waiters.copy()
            if observers.untold:
                self._tell(observers.untold, self._outcome)
        self._owner = None
        return bool(observers.callbacks)

    def _tell(self, waiters: list[Any], outcome: _Outcome) -> None:
        # If an interrupt ends this, the next call of _settle() goes on with it.
        while waiters:
            waiter = waiters[-1]
            if outcome is _CANCELLED:
                waiter.add_cancelled(self)
            elif isinstance(outcome, BaseException):
                waiter.add_exception(self)
            else:
                waiter.add_result(self)
            waiters.pop()

    def _run_callbacks(self) -> None:
        """Run the callbacks of a future that is done, one after the other, each once.

        To be called without a lock, by a thread of the pool. What one raises is logged.
        """
        callbacks = self._observe().callbacks
        while callbacks:
            try:
                callback = callbacks.pop(0)
            except IndexError:
                return  # another thread has taken the last
            self._call(callback)

    def _resolve(self, response: Response | StreamedResponse) -> None:
        """Settle with *response*, and run the callbacks."""
        if self._settle(response):
            self._run_callbacks()

    def _reject(self, exception: BaseException) -> None:
        """Settle with *exception*, and run the callbacks."""
        if self._settle(exception):
            self._run_callbacks()

    def _cancel(self) -> None:
        """Settle as cancelled, and run the callbacks."""
        if self._settle(None):
            self._run_callbacks()

    def _forget_observers(self) -> None:
        """Forget what observes the future: in a forked child, which has the locks but no waiters.

        To be called while the child has one thread.
        """
        self._observers = None
        self.__dict__.pop(_OBSERVERS, None)

    def _reject_in_child(self, exception: BaseException) -> None:
        """Settle with *exception* in a forked child, while that has one thread.

        If a signal handler has forked, this thread may be the one that waits for the future.
        """
        known = self._observers
        self._forget_observers()
        self._settle(exception)
        if known is not None:
            known.lock = threading.RLock()  # a thread of the parent's may have had the old one
            for waiter in known.waiters:
                if isinstance(waiter, _Waiter):
                    waiter.add_exception(self)

    def _check_may_wait(self) -> None:
        """Raise `StateError` if this thread would wait for itself."""
        owner = self._owner
        if owner is not None:
            owner.check_may_wait()

    def _call(self, callback: Callable[[Any], object]) -> None:
        try:
            callback(self)
        except BaseException as exc:
            if ends_program(exc):
                raise
            import logging

            logging.getLogger("concurrent.futures").exception("a callback of %r has failed", self)

    def _wait(self, timeout: float | None) -> _Outcome:
        if timeout is not None:
            _check_timeout(timeout)
        outcome = self._outcome
        return self._wait_pending(timeout) if outcome is None else outcome

    def _wait_pending(self, timeout: float | None) -> _Outcome:
        if timeout is None or timeout > 0:
            self._check_may_wait()
            waiter = _Waiter()
            observers = self._observe()
            with observers.lock:
                if self._outcome is not None:
                    return self._outcome
                observers.waiters.append(waiter)
            try:
                waiter.wait(timeout)
            finally:
                with observers.lock:
                    observers.waiters.remove(waiter)
        if self._outcome is None:
            raise TimeoutError(f"{self.request!r} is not done after {timeout} seconds")
        return self._outcome

    def _observe(self) -> _Observers:
        """Return the observers of the future, which are made by the first call.

        Raises `StateError` in a thread that has the lock of the owner.
        """
        owner = self._owner
        if owner is not None and owner.is_nested():
            raise StateError("the pool is in the middle of a change: nothing can observe it now")
        return self._observers or self._exclusively(self._make_observers)

    def _exclusively(self, action: Callable[[], T]) -> T:
        """Return what *action* returns, with the lock of the owner held if there is one."""
        owner = self._owner
        return action() if owner is None else owner.exclusively(action)

    def _make_observers(self) -> _Observers:
        made = _Observers(self._outcome is not None)
        # Atomic, in free-threaded CPython, too: once it is done, it has no owner.
        observers: _Observers = self.__dict__.setdefault(_OBSERVERS, made)
        self._observers = observers
        return observers

    # What concurrent.futures takes hold of; it does no more with a condition than to lock it. To a
    # type checker they are the attributes of the base class.
    if not TYPE_CHECKING:

        @property
        def _condition(self):
            owner = self._owner
            if self._observers is not None and owner is not None and owner.is_nested():
                return _CONDITION_OF_FINALIZERS
            return self._observe().lock

        @property
        def _waiters(self):
            return (self._observers or self._observe()).waiters

        @property
        def _done_callbacks(self):
            return self._observe().callbacks

        @property
        def _state(self):
            outcome = self._outcome
            if outcome is None:
                return PENDING
            return CANCELLED_AND_NOTIFIED if outcome is _CANCELLED else FINISHED

        @property
        def _result(self):
            outcome = self._outcome
            if outcome is _CANCELLED or isinstance(outcome, BaseException):
                return None
            return outcome

        @property
        def _exception(self):
            outcome = self._outcome
            return outcome if isinstance(outcome, BaseException) else None

    def __repr__(self) -> str:
        if self._outcome is None:
            state = "running" if self.running() else "pending"
        else:
            state = "cancelled" if self.cancelled() else "finished"
        return f"<ResponseFuture {self.request.method} {self.request.public_url} {state}>"
