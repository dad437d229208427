"""How fast the bodies of responses come, and the end of those that come too slowly.

Guarantees: only the time counts in which a thread waits for the server; a connection whose body is
slower than the limit ends within two intervals. The thread that reads takes no lock for this.
"""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from dugong.errors import ConnectionTimedOut
from dugong.pool.core import maintenance
from dugong.pool.core.core import PoolCore, locked

if TYPE_CHECKING:
    from dugong.pool.core.connection import PooledConnection
    from dugong.pool.core.connections import ConnectionManager
    from dugong.pool.core.timers import Timer

__all__ = ["BodyRate", "RateLimit"]


class BodyRate:
    """How much of a body has come, and in how many seconds that were spent waiting for it."""

    __slots__ = ("_state", "timer")

    def __init__(self) -> None:
        # Bytes, seconds, and since when a thread waits. Replaced as a whole by the thread that
        # reads, so that another one sees what belongs together, in free-threaded CPython, too.
        self._state: tuple[int, float, float | None] = (0, 0.0, None)
        self.timer: Timer | None = None  # looks at it again; guarded by the pool's lock

    def begin_wait(self) -> None:
        """The thread that reads waits for the server from now on."""
        received, waited, _ = self._state
        self._state = (received, waited, monotonic())

    def end_wait(self, received: int) -> None:
        """It has *received* so many bytes."""
        before, waited, since = self._state
        if since is not None:
            waited += monotonic() - since
        self._state = (before + received, waited, None)

    def measure(self) -> tuple[int, float]:
        """Return how many bytes have come until now, in how many seconds. For any thread."""
        received, waited, since = self._state
        return received, waited if since is None else waited + monotonic() - since


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
            rate = connection.rate = BodyRate()
            self._look_later_locked(connection, rate, rate.measure(), maintenance.RATE_INTERVAL)
        return connection.rate

    @locked
    def end_locked(self, connection: PooledConnection) -> None:
        """The body has come, or is not read any more."""
        rate, connection.rate = connection.rate, None
        if rate is not None and rate.timer is not None:
            self._timers.cancel_locked(rate.timer)

    @locked
    def _look_later_locked(
        self, connection: PooledConnection, rate: BodyRate, since: tuple[int, float], delay: float
    ) -> None:
        look = partial(self._look_locked, connection, rate, since)
        rate.timer = self._timers.at_locked(monotonic() + delay, look)

    @locked
    def _look_locked(
        self, connection: PooledConnection, rate: BodyRate, since: tuple[int, float]
    ) -> None:
        """End *connection* if too little has come since *since*, an interval of waiting ago."""
        rate.timer = None
        if connection.rate is not rate or connection.is_closing:
            return
        assert self._min_rate is not None
        interval = maintenance.RATE_INTERVAL
        now = rate.measure()
        received, waited = now[0] - since[0], now[1] - since[1]
        # The server may wait for the rest of the request before it sends more.
        uploads = connection.uploading is not None
        if uploads or monotonic() - connection.body_released_at < interval:
            self._look_later_locked(connection, rate, now, interval)
        elif waited < interval:
            left = max(interval - waited, interval / 100)
            self._look_later_locked(connection, rate, since, left)
        elif received >= self._min_rate * waited:
            self._look_later_locked(connection, rate, now, interval)
        else:
            reason = (
                f"{received} bytes of the response body have come in {waited:.3g} s, which is less "
                f"than min_rate ({self._min_rate:g} bytes a second)"
            )
            self._connections.fail_locked(connection, ConnectionTimedOut(reason))
