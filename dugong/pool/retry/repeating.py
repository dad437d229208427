"""How a function is called again and again: for `retrying`, and `RetryPolicy.call`.

Guarantees: what is called again finds its connections disconnected. Each waits in the way of its
function: blocking, as a coroutine of dugong, or as one of asyncio. Starts no threads.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from dugong.connection.connection import HTTPConnection
from dugong.connection.polling import Coroutine, PollNeeded, co_sleep
from dugong.deadline import Deadline
from dugong.errors import is_temp_network_error
from dugong.pool.failure import describe
from dugong.pool.response import Attempt

__all__ = ["Policy", "repeating"]

P = ParamSpec("P")
T = TypeVar("T")


class Policy(Protocol):
    """What is asked of a `RetryPolicy` here."""

    @property
    def attempts(self) -> int: ...
    @property
    def should_retry(self) -> Callable[[Attempt], bool] | None: ...
    def delay(self, number: int) -> float: ...


def repeating(
    policy: Policy,
    fn: Callable[P, T],
    connections: tuple[HTTPConnection, ...] = (),
    deadline: float | None = None,
) -> Callable[P, T]:
    """Return a function that calls *fn*, which may use *connections*, as `retrying` says.

    Raises TypeError if *fn* cannot be called.
    """
    if not callable(fn):
        raise TypeError(f"fn must be callable, not {fn!r}")
    wrap = _wrap_async if inspect.iscoroutinefunction(fn) else _wrap
    return cast(
        Callable[P, T],
        functools.wraps(fn)(wrap(partial(_Calls, policy, fn, connections, deadline))),
    )


def _wrap(begin: Callable[..., _Calls]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        calls = begin(args, kwargs)
        while True:
            try:
                result = calls.call()
            except Exception as exc:
                if not calls.go_on(exc):
                    raise
            else:
                return calls.repeating(result)
            time.sleep(calls.delay)

    return wrapper


def _wrap_async(begin: Callable[..., _Calls]) -> Callable[..., Any]:
    # An ``async def`` function, as *fn* is one, or frameworks would call it in another way.
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        calls = begin(args, kwargs)
        return await calls.repeat(calls.call())

    return wrapper


class _Calls:
    """The attempts at one call. `delay` is how long to wait before the next, in seconds."""

    def __init__(
        self,
        policy: Policy,
        fn: Callable[..., Any],
        connections: tuple[HTTPConnection, ...],
        deadline: float | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self._policy = policy
        self._named = connections
        self._deadline = Deadline(deadline)
        self._earlier: tuple[Attempt, ...] = ()
        self.call = partial(fn, *args, **kwargs)
        self.delay = 0.0

    def repeating(self, result: Any) -> Any:
        """Return *result*, that of the first call; if it is a coroutine, one that repeats it."""
        if isinstance(result, Generator):
            return self.co_repeat(result)
        return self.repeat(result) if inspect.iscoroutine(result) else result

    async def repeat(self, crt: Awaitable[T]) -> T:
        """Await *crt*, the coroutine of the first call, and those of the calls that follow."""
        from asyncio import sleep

        while True:
            try:
                return await crt
            except Exception as exc:
                if not self.go_on(exc):
                    raise
            await sleep(self.delay)
            crt = self.call()

    def co_repeat(self, crt: Coroutine[T]) -> Coroutine[T]:
        """Run *crt*, the coroutine of the first call, and those of the calls that follow."""
        while True:
            try:
                return (yield from _checked(crt))
            except Exception as exc:
                if not self.go_on(exc):
                    raise
            yield from co_sleep(self.delay)
            crt = self.call()

    def go_on(self, exc: Exception) -> bool:
        """Handle the end of a call by *exc*; return whether there is to be another call."""
        policy = self._policy
        number = len(self._earlier) + 1
        connections = self._connections()
        names = ", ".join(f"{conn.hostname}:{conn.port}" for conn in connections)
        delivery = getattr(exc, "delivery", None)
        attempt = Attempt(time.time(), names, describe(exc), delivery, number, exception=exc)
        temporary = is_temp_network_error(exc)
        if temporary:
            for connection in connections:
                connection.disconnect()
        if (
            not temporary
            or number >= policy.attempts
            or (policy.should_retry is not None and not policy.should_retry(attempt))
        ):
            return self._ends_with(exc)
        self.delay = policy.delay(number)
        left = self._deadline.remaining()
        if left is not None and left <= self.delay:
            return self._ends_with(exc)
        _forget_frames(exc)
        self._earlier += (attempt,)
        return True

    def _ends_with(self, exc: Exception) -> bool:
        exc.attempts = self._earlier  # type: ignore[attr-defined]  # any exception has a dict
        return False

    def _connections(self) -> list[HTTPConnection]:
        """Return the connections that the function may have used: see `retrying`."""
        fn: Any = self.call
        held: list[object] = list(self._named)
        while isinstance(fn, partial):
            held += [*fn.args, *fn.keywords.values()]
            fn = fn.func
        held.append(getattr(fn, "__self__", None))
        held += [value for item in held for value in tuple(getattr(item, "__dict__", {}).values())]
        for cell in getattr(fn, "__closure__", None) or ():
            with suppress(ValueError):  # a variable that is not set
                held.append(cell.cell_contents)
        return list(dict.fromkeys(item for item in held if isinstance(item, HTTPConnection)))


def _checked(crt: Coroutine[T]) -> Coroutine[T]:
    """Run *crt*; raise TypeError if it turns out to be no coroutine of dugong."""
    try:
        while True:
            needed = next(crt)
            if not isinstance(needed, PollNeeded):
                raise TypeError(f"a generator that yields {needed!r} is no coroutine of dugong")
            yield needed
    except StopIteration as exc:
        return cast(T, exc.value)
    finally:
        crt.close()


def _forget_frames(exc: BaseException | None) -> None:
    """Let go of the frames that *exc* was raised in, which refer to what keeps *exc*."""
    while exc is not None and exc.__traceback__ is not None:  # or else we have been there
        exc.__traceback__ = None
        exc = exc.__cause__ or exc.__context__
