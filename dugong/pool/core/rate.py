"""How fast the bodies of responses come, and the end of those that come too slowly.

Guarantees: only the time counts in which a thread waits for the server, and not for a limit of the
pool on its own speed; a connection whose body is
slower than the limit ends within two intervals. The thread that reads takes no lock for this.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from dugong.errors import ConnectionTimedOut
from dugong.pool.core import maintenance
from dugong.pool.core.core import PoolCore
from dugong.pool.core.locked import locked

if TYPE_CHECKING:
    from dugong.pool.core.connection import PooledConnection
    from dugong.pool.core.connections import ConnectionManager

__all__ = ["BodyRate", "RateLimit", "measured"]

_What = TypeVar("_What")
_Part = TypeVar("_Part", int, bytes)


class BodyRate:
    """How much of a body has come, and in how many seconds that were spent waiting for it."""

    __slots__ = ("_state", "since")

    def __init__(self) -> None:
        # Bytes, seconds, and since when a thread waits. Replaced as a whole by the thread that
        # reads, so that another one sees what belongs together, in free-threaded CPython, too.
        self._state: tuple[int, float, float | None] = (0, 0.0, None)
        # What `measure` gave at the start of the interval that is looked at, less the seconds that
        # a limit of ours had taken by then; guarded by the lock.
        self.since: tuple[int, float] = (0, 0.0)

    def measure(self) -> tuple[int, float]:
        """Return how many bytes have come until now, in how many seconds. For any thread."""
        received, waited, since = self._state
        return received, waited if since is None else waited + monotonic() - since


def measured(
    rate: BodyRate | None,
    receive: Callable[[_What, float | None], _Part],
    what: _What,
    timeout: float | None,
) -> _Part:
    """Return the part of a body, or its size, that *receive* returns for *what* and *timeout*.

    *rate*, if there is one, is told of the wait for it.
    """
    if rate is None:
        return receive(what, timeout)
    before, waited, _ = rate._state
    received, since = 0, monotonic()
    rate._state = before, waited, since
    try:
        part = receive(what, timeout)
        received = part if isinstance(part, int) else len(part)
        return part
    finally:
        rate._state = before + received, waited + monotonic() - since, None


class RateLimit:
    """Ends connections whose bodies come with less than *min_rate* bytes a second."""

    def __init__(
        self, core: PoolCore, timers: maintenance.Maintenance, connections: ConnectionManager
    ) -> None:
        # None of these changes.
        self._core = core
        self._timers = timers
        self._connections = connections
        self._min_rate = core.limits.min_rate

    @locked
    def watch_locked(self, connection: PooledConnection) -> BodyRate | None:
        """Watch the body that comes in on *connection*; None: it may be as slow as it is."""
        if self._min_rate is None or connection.is_closing:
            return None
        if connection.rate is None:
            connection.rate = BodyRate()
            connection.rate.since = (0, -connection.engine.paused)
            # The timer may be that of an earlier body: then it finds out how long it is too early.
            # To set one for each body would wake the maintenance thread each time.
            if connection.rate_timer is None:
                self._look_later_locked(connection, maintenance.RATE_INTERVAL)
        return connection.rate

    @locked
    def _look_later_locked(self, connection: PooledConnection, delay: float) -> None:
        look = partial(self._look_locked, connection)
        connection.rate_timer = self._timers.at_locked(monotonic() + delay, look)

    @locked
    def _look_locked(self, connection: PooledConnection) -> None:
        """End *connection* if too little of a body has come in an interval of waiting."""
        connection.rate_timer = None
        rate, interval = connection.rate, maintenance.RATE_INTERVAL
        if rate is None or connection.is_closing:
            return
        assert self._min_rate is not None
        received, waited = rate.measure()
        now = (received, waited - connection.engine.paused)  # which is no fault of the server's
        received, waited = now[0] - rate.since[0], now[1] - rate.since[1]
        # The server may wait for the rest of the request before it sends more.
        uploads = connection.uploading is not None
        if uploads or monotonic() - connection.body_released_at < interval:
            rate.since = now
            self._look_later_locked(connection, interval)
        elif waited < interval:
            self._look_later_locked(connection, max(interval - waited, interval / 100))
        elif received >= self._min_rate * waited:
            rate.since = now
            self._look_later_locked(connection, interval)
        else:
            reason = (
                f"{received} bytes of the response body have come in {waited:.3g} s, which is less "
                f"than min_rate ({self._min_rate:g} bytes a second)"
            )
            self._connections.fail_locked(connection, ConnectionTimedOut(reason))
