"""`retrying`: a function that uses an `HTTPConnection` is called again after passing faults.

Guarantees: what is wrong with the arguments is raised when the function is decorated. Starts no
threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

from dugong.connection.connection import HTTPConnection
from dugong.pool.checks import check_seconds
from dugong.pool.retry.policy import RetryPolicy
from dugong.pool.retry.repeating import repeating

__all__ = ["retrying"]

P = ParamSpec("P")
T = TypeVar("T")


def retrying(
    policy: RetryPolicy,
    *,
    connections: Iterable[HTTPConnection] = (),
    deadline: float | None = None,
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function that uses an `HTTPConnection`: it is called again after passing faults.

    Such a fault is what `is_temp_network_error` says is one. Then the connections that the function
    may have used are disconnected, so that the next request connects anew, and no response that is
    late is taken for that of the next request. These are *connections*, and each `HTTPConnection`
    that is an argument, the object whose method is called, an attribute of one of these, or a
    variable of an enclosing function that the function uses. A connection that is a global
    variable, or that the function finds in another way, must be in *connections*, or be
    disconnected by the function.

    The call is repeated after a wait, as `attempts`, `backoff`, `max_backoff` and `should_retry` of
    *policy* say. So the function must start from the beginning each time, and do only what is safe
    to do twice. When the attempts are over, the exception of the last call is raised, whose
    `attempts` list the earlier ones; also, without another wait, if the next call would begin more
    than *deadline* seconds after the first one (None: no limit). How long a call takes is up to the
    function, with the `timeout` of its connections.

    The function may also return a coroutine: that of an ``async def`` function, or one of dugong,
    as the ``co_*`` methods do and generators that yield `PollNeeded`. Neither blocks while it
    waits. Any other generator raises TypeError at what it yields, which would come again otherwise.
    Raises TypeError unless *policy* is a `RetryPolicy`, *connections* consist of `HTTPConnection`
    objects, and the function can be called; TypeError or ValueError if *deadline* is no positive
    number. The result may be called by any thread for which the function may be.
    """
    if not isinstance(policy, RetryPolicy):
        raise TypeError(f"retrying takes a RetryPolicy, not {policy!r}")
    if not isinstance(connections, Iterable):
        raise TypeError(f"connections must be an iterable of HTTPConnection, not {connections!r}")
    named = tuple(connections)
    for connection in named:
        if not isinstance(connection, HTTPConnection):
            raise TypeError(f"connections must consist of HTTPConnection, not of {connection!r}")

    if deadline is not None:
        check_seconds("deadline", deadline)

    def decorate(fn: Callable[P, T]) -> Callable[P, T]:
        return repeating(policy, fn, named, deadline)

    return decorate
