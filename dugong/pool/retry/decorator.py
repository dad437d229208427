"""`retrying`: a function that uses an `HTTPConnection` is called again after passing faults.

Guarantees: what is wrong with the arguments is raised when the function is decorated. Starts no
threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from dugong.pool.retry.policy import RetryPolicy
from dugong.pool.retry.repeating import repeating

__all__ = ["retrying"]

P = ParamSpec("P")
T = TypeVar("T")


def retrying(policy: RetryPolicy) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function that uses an `HTTPConnection`: it is called again after passing faults.

    Such a fault is what `is_temp_network_error` says is one. Then every `HTTPConnection` that is an
    argument (or whose method is decorated), an attribute of one, or a variable from outside that
    the function names is disconnected, so that the next request connects anew; any other is for
    the function to disconnect. The call is repeated after a wait, as *policy* says: its `attempts`,
    `backoff`, `max_backoff` and `should_retry` count. So the function must begin at the beginning,
    and do what may be done twice. When that is over, the exception of the last call is raised,
    whose `attempts` tell of the earlier ones.

    The function may also return a coroutine: that of an ``async def`` function, or one of dugong,
    as the ``co_*`` methods do and generators that yield `PollNeeded`. Neither blocks while it
    waits. Any other generator raises TypeError at what it yields, which would come again otherwise.
    Raises TypeError unless *policy* is a `RetryPolicy` and the function can be called. The result
    may be called by any thread for which the function may be.
    """
    if not isinstance(policy, RetryPolicy):
        raise TypeError(f"retrying takes a RetryPolicy, not {policy!r}")

    def decorate(fn: Callable[P, T]) -> Callable[P, T]:
        return repeating(policy, fn)

    return decorate
