"""How long a request may wait for a connection, if it has limits of its own for that.

Guarantees: a request ends for these limits only while it is queued, and was never on a connection.
All of it happens under the pool's lock, mostly in the maintenance thread.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from dugong.errors import ConnectionTimedOut, Delivery
from dugong.pool.core.connection import Phase
from dugong.pool.core.core import Outcome, PoolCore
from dugong.pool.core.emitting import emit_of
from dugong.pool.core.holders import describe_holders
from dugong.pool.core.job import Job, Place
from dugong.pool.core.locked import locked
from dugong.pool.options import POOL_DEFAULT, PoolDefault

if TYPE_CHECKING:
    from dugong.pool.core.host import Host
    from dugong.pool.core.maintenance import Maintenance
    from dugong.pool.core.timers import Timer

__all__ = ["NoConnectionFree", "Patience", "Waiting"]

#: Seconds after which it is looked again whether a connection is being opened, at the least.
LOOK_TIME = 0.05


class NoConnectionFree(ConnectionTimedOut):
    """All connections that the request could have had were busy for too long."""

    msg: str = "no connection became free"


class Patience:
    """The limits that one request has of its own, in seconds; None: no limit.

    *connect* is for how long it waits while a connection is opened, *free* for one that has no
    other request, and *write* how long sending may go without any progress (default: as long as
    receiving).
    """

    __slots__ = ("connect", "free", "timer", "write")

    def __init__(
        self,
        connect: float | None,
        free: float | None,
        write: float | PoolDefault | None = POOL_DEFAULT,
    ) -> None:
        self.connect: float | None = connect  # never changes
        self.free: float | None = free  # never changes
        self.write: float | PoolDefault | None = write  # never changes
        self.timer: Timer | None = None  # looks at the first two; guarded by the pool's lock


class Waiting:
    """Ends the requests that have waited for too long."""

    def __init__(
        self,
        core: PoolCore,
        maintenance: Maintenance,
        take_out_locked: Callable[[Job, Outcome], None],
    ) -> None:
        # None of these changes.
        self._core = core
        self._maintenance = maintenance
        self._take_out_locked = take_out_locked

    @locked
    def begin_locked(self, job: Job, patience: Patience) -> None:
        """Begin to measure how long *job*, which has been queued now, waits."""
        limits = [limit for limit in (patience.connect, patience.free) if limit is not None]
        if limits:
            now = monotonic()
            look = partial(self._look_locked, job, patience, now, now)
            patience.timer = self._maintenance.at_locked(now + min(limits), look)

    @locked
    def _look_locked(self, job: Job, patience: Patience, since: float, unconnected: float) -> None:
        """End *job* if it has waited for too long; else look again later.

        It waits since *since*; since *unconnected*, no connection was seen to be opened.
        """
        job = job.current
        if job.place not in (Place.QUEUED, Place.RESERVED) or job.attempts:
            return
        host, now = job.host, monotonic()
        opening = [c.opened_at for c in host.connections if c.phase is Phase.CONNECTING]
        limit, other = patience.free, patience.connect
        began = unconnected
        if opening:
            limit, other = other, limit
            began = max(since, min(opening))
            unconnected = now
        if limit is not None and now >= began + limit:
            self._end_locked(job, host, limit, bool(opening))
            return
        # What it waits for may have changed by then.
        times = [now + max(other, LOOK_TIME)] if other is not None else []
        if limit is not None:
            times.append(began + limit)
        look = partial(self._look_locked, job, patience, since, unconnected)
        patience.timer = self._maintenance.at_locked(min(times), look)

    @locked
    def _end_locked(self, job: Job, host: Host, seconds: float, is_opening: bool) -> None:
        what = "no connection to" if is_opening else "no connection was free to"
        message = f"{what} {host.name} within {seconds} s; {describe_holders(host, monotonic())}"
        error = (ConnectionTimedOut if is_opening else NoConnectionFree)(message)
        error.delivery, error.request = Delivery.UNSENT, job.request
        emit_of(self._core, "gave up", job, "", error.msg, error)
        self._take_out_locked(job, error)
