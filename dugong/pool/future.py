"""`ResponseFuture`: a `concurrent.futures.Future` that weighs little and is resolved fast.

Guarantees: everything of `concurrent.futures` and `asyncio.wrap_future` works on it; each callback
runs exactly once, each waiter is told exactly once; a future that is done refers to no pool.

A future of the standard library is born with a lock, a queue and two lists. Nearly all of ours are
done before anybody asks, so those things, the *audience*, come into being with the first who has
to wait, adds a callback, or takes `_condition` (the functions of `concurrent.futures` do). These
are the races, and what decides them:

- Two ask at once: `_birth` makes one audience for both. It is one lock for all futures, held for
  two or three steps that call nothing and wait for nothing.
- Somebody asks while the future is resolved: resolving, too, looks for an audience under `_birth`,
  and if there is none, sets the state there and then. So either the audience came first and is
  told, or the state did and is seen by whoever takes the audience's lock.
- `concurrent.futures.wait` takes the locks of its futures, then looks at each state twice and
  relies on it not to change. Hence the state of a future with an audience is set under its lock,
  and the waiters are told before it is released.
- A callback is added while the future is resolved: adding looks at the state under the audience's
  lock. Before the change the callback is in the list, which is run after it; later nothing is added
  to the list, and the adder calls.
- The state is read without a lock: the result is stored before it and the owner is dropped after
  it, so who sees the future done sees its result. It changes once and never back.

No lock is held while the owner or a callback is called, and `_birth` not while another is taken, so
no order of locks is asked of anybody.
"""

from __future__ import annotations

import concurrent.futures
import os
import threading
from collections.abc import Callable
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING
from typing import TYPE_CHECKING, Any, Protocol

from dugong.pool.failure import ends_program

if TYPE_CHECKING:
    from dugong.pool.request import Request
    from dugong.pool.response import Response, StreamedResponse

__all__ = ["Owner", "ResponseFuture"]


class Owner(Protocol):
    """Whoever resolves futures: the pool. All methods are called without a lock, by any thread."""

    def abandon(self, future: ResponseFuture) -> bool:
        """Take the request out of the pool and call ``future._cancel()``; return True.

        Return False if the future has been, or is about to be, resolved by somebody else.
        """

    def is_running(self, future: ResponseFuture) -> bool:
        """Return True if the request has been taken out of its queue, and is not done."""

    def check_may_wait(self) -> None:
        """Raise `StateError` if this is a thread of the pool, which would wait for itself."""


class _Audience:
    """Those who want to know when a future is done.

    `lock` guards the lists and the future's state. It is reentrant, because a signal handler or a
    finalizer may add a callback in the midst of another such call.
    """

    __slots__ = ("callbacks", "lock", "waiters")

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.waiters: list[Any] = []  # that have the methods of _Waiter
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
        self._lock.release()

    add_result = add_exception = add_cancelled = _tell


_birth = threading.Lock()


def _free_birth() -> None:
    if _birth.locked():
        _birth.release()


# A forked child does not have the thread that may have held it.
os.register_at_fork(after_in_child=_free_birth)


def _check_timeout(timeout: object) -> None:
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool):
        raise TypeError(f"timeout must be a number of seconds or None, not {timeout!r}")
    if not timeout <= threading.TIMEOUT_MAX:  # which no NaN passes
        raise ValueError(f"timeout must be finite, not {timeout!r}")


class ResponseFuture(concurrent.futures.Future["Response"]):
    """The answer to a request that was submitted to a pool; a `concurrent.futures.Future`.

    `request` is the `Request`. Any thread may call any method. Different from other futures:
    `cancel` also works while the request is under way, and only the pool resolves it.
    """

    __slots__ = ("_audience", "_exception", "_owner", "_result", "_state", "request")

    def __init__(self, request: Request, owner: Owner) -> None:
        # Not that of the base class, which makes what this class does without.
        self.request = request
        self._owner: Owner | None = owner
        self._state = PENDING
        self._result: Any = None
        self._exception: BaseException | None = None
        self._audience: _Audience | None = None

    def result(self, timeout: float | None = None) -> Response:
        """Return the answer, waiting for it for up to *timeout* seconds (default: no limit).

        Raises whatever the request has failed with, `concurrent.futures.CancelledError` if it was
        cancelled, TimeoutError if it is not done by then (it goes on), `StateError` if it is not
        done and this is a thread of the pool, as in a callback, and TypeError or ValueError if
        *timeout* is no number of seconds. With zero or a negative one, it does not wait.
        """
        self._wait(timeout)
        exc = self._exception
        if exc is None:
            response: Response = self._result
            return response
        try:
            raise exc
        finally:
            # The exception refers to this frame, which must not refer to the exception.
            del self, exc

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the request has failed with, or None if it was answered.

        Waits and raises as `result`.
        """
        self._wait(timeout)
        return self._exception

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
        return self._state == CANCELLED_AND_NOTIFIED

    def running(self) -> bool:
        """Return True if the request is under way on a connection."""
        owner = self._owner
        return owner is not None and owner.is_running(self)

    def done(self) -> bool:
        """Return True if the request was answered, has failed, or was cancelled."""
        return self._state != PENDING

    def add_done_callback(
        self, fn: Callable[[concurrent.futures.Future[Response]], object]
    ) -> None:
        """Have *fn* called with this future when it is done; now if it is done already.

        It is called in the thread that resolves it, mostly one of the pool, where it must not wait
        for another request; what it raises is logged. Raises TypeError if *fn* is not callable.
        """
        if not callable(fn):
            raise TypeError(f"fn must be callable, not {fn!r}")
        audience = self._join()
        with audience.lock:
            if self._state == PENDING:
                audience.callbacks.append(fn)
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

    # The owner calls one of the next three, once, holding no lock that a callback may want. The
    # future of a stream, which the pool keeps to itself, is the only one to hold such a response.

    def _reject(self, exception: BaseException) -> None:
        self._exception = exception
        self._resolve(None)

    def _cancel(self) -> None:
        self._resolve(None, CANCELLED_AND_NOTIFIED)

    def _resolve(self, response: Response | StreamedResponse | None, state: str = FINISHED) -> None:
        self._result = response
        with _birth:
            audience = self._audience
            if audience is None:
                self._state = state
        self._owner = None
        if audience is not None:
            self._tell(audience, state)

    def _tell(self, audience: _Audience, state: str) -> None:
        with audience.lock:
            self._state = state
            for waiter in audience.waiters:
                if state == CANCELLED_AND_NOTIFIED:
                    waiter.add_cancelled(self)
                elif self._exception is None:
                    waiter.add_result(self)
                else:
                    waiter.add_exception(self)
        for callback in audience.callbacks:
            self._call(callback)
        audience.callbacks.clear()

    def _call(self, callback: Callable[[Any], object]) -> None:
        try:
            callback(self)
        except BaseException as exc:
            if ends_program(exc):
                raise
            import logging

            logging.getLogger("concurrent.futures").exception("a callback of %r has failed", self)

    def _wait(self, timeout: float | None) -> None:
        if timeout is not None:
            _check_timeout(timeout)
        if self._state == PENDING:
            self._wait_pending(timeout)
        if self._state == CANCELLED_AND_NOTIFIED:
            raise concurrent.futures.CancelledError

    def _wait_pending(self, timeout: float | None) -> None:
        if timeout is None or timeout > 0:
            owner = self._owner
            if owner is not None:
                owner.check_may_wait()
            waiter = _Waiter()
            audience = self._join()
            with audience.lock:
                if self._state != PENDING:
                    return
                audience.waiters.append(waiter)
            try:
                waiter.wait(timeout)
            finally:
                with audience.lock:
                    audience.waiters.remove(waiter)
        if self._state == PENDING:
            raise TimeoutError(f"{self.request!r} is not done after {timeout} seconds")

    def _join(self) -> _Audience:
        audience = self._audience
        if audience is None:
            new = _Audience()
            with _birth:
                audience = self._audience
                if audience is None:
                    audience = self._audience = new
        return audience

    # What concurrent.futures takes hold of; it does no more with a condition than to lock it. To a
    # type checker they are the attributes of the base class.
    if not TYPE_CHECKING:

        @property
        def _condition(self):
            return self._join().lock

        @property
        def _waiters(self):
            return self._join().waiters

        @property
        def _done_callbacks(self):
            return self._join().callbacks

    def __repr__(self) -> str:
        if self._state == PENDING:
            state = "running" if self.running() else "pending"
        else:
            state = "cancelled" if self.cancelled() else "finished"
        return f"<ResponseFuture {self.request.method} {self.request.public_url} {state}>"
