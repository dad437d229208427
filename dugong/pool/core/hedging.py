"""Hedges: a request whose response is slow to begin is sent once more, on another connection.

Guarantees: a request is sent twice at once only if its caller has asked for that, once at most, and
within the budget of its host; it has one outcome, for the sending whose response begins last is
dropped, and a sending that fails leaves the request to the other one.

The two are twins: jobs for the same future. While both go on, each is on a connection, or the next
request of one. One timer of the pool looks for what is slow, and only while something may be
hedged. So requests are hedged by the maintenance thread, which nothing interrupts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Protocol

from dugong.errors import Delivery
from dugong.pool.core.connection import PooledConnection
from dugong.pool.core.core import PoolCore, do_nothing
from dugong.pool.core.dispatch import connection_limit
from dugong.pool.core.emitting import emit_of
from dugong.pool.core.host import Host
from dugong.pool.core.job import Job, Place
from dugong.pool.core.locked import locked
from dugong.pool.core.maintenance import Maintenance
from dugong.pool.core.rescue import GRACE_TIME
from dugong.pool.core.retries import make_attempt
from dugong.pool.core.timers import Timer
from dugong.pool.response import Attempt

__all__ = ["Hedging"]

#: Seconds between two looks, at least, at the connections that have what may be hedged.
LOOK_TIME = 0.05


class Users(Protocol):
    """What this part asks of the connection manager."""

    def pop_idle_locked(self, host: Host) -> PooledConnection | None:
        """Remove and return an idle connection of *host*, if there is one."""

    def enter_idle_locked(self, connection: PooledConnection) -> None:
        """*connection* could take any request at once."""

    def open_locked(self, host: Host) -> PooledConnection | None:
        """Open another connection to *host*, if there may be one, and return it."""

    def wake_sender_locked(self, connection: PooledConnection) -> None:
        """Have the sender of *connection* look for work."""


class Hedging:
    """Sends slow requests once more, and ends the sending that is not needed."""

    def __init__(self, core: PoolCore, maintenance: Maintenance, users: Users) -> None:
        self._core = core  # never changes
        self._maintenance = maintenance  # never changes
        self._users = users  # never changes
        #: Closes a connection unless the response to a request that is done comes soon. Set once,
        #: before the first request.
        self.drain_locked: Callable[[PooledConnection, Job], object] = do_nothing
        self.reset()

    def reset(self) -> None:
        """Begin with nothing: also for a child process, after a fork."""
        #: Connections that have what may be hedged, or had at the last look; guarded by the lock.
        self._watched: dict[PooledConnection, None] = {}
        self._timer: Timer | None = None  # of the next look; guarded by the lock

    # --- what is slow -----------------------------------------------------------------------------

    @locked
    def watch_locked(self, connection: PooledConnection, batch: Sequence[Job]) -> None:
        """*connection* has taken *batch*: look in time whether some of it are slow."""
        due = min([_due(job) for job in batch if _may_be_hedged(job)], default=None)
        if due is None:
            return
        self._watched[connection] = None
        if self._timer is None or due < self._timer.when:
            self._look_at_locked(due)

    @locked
    def _look_at_locked(self, when: float) -> None:
        if self._timer is not None:
            self._maintenance.cancel_locked(self._timer)
        self._timer = self._maintenance.at_locked(when, self._look_locked)

    @locked
    def _look_locked(self) -> None:
        """Look at all connections that have what may be hedged; hedge what is slow."""
        self._timer = None
        now = monotonic()
        next_look: float | None = None
        for connection in list(self._watched):
            waiting = [job for job in connection.in_flight if _may_be_hedged(job)]
            for job in waiting:
                due = _due(job)
                if due > now or not self._hedge_locked(job, connection, now):
                    next_look = due if next_look is None else min(next_look, due)
            if not waiting:
                del self._watched[connection]
        if next_look is not None:
            self._look_at_locked(max(next_look, now + LOOK_TIME))

    @locked
    def _hedge_locked(self, job: Job, connection: PooledConnection, now: float) -> bool:
        """Send *job*, which is slow on *connection*, once more; return False if that cannot be."""
        host = connection.host
        if self._core.closed or host.is_shut(now) or not host.may_hedge(now):
            return False
        if now < _due(job) + GRACE_TIME and _has_begun(job, connection):
            return False
        other = self._connection_locked(host, now)
        if other is None:
            return False
        assert job.extras.hedge is not None
        reason = f"its response has not begun after {job.extras.hedge:g} s"
        slow = make_attempt(job, connection.name, reason, Delivery.SENT, charged=False)
        twin = job.hedge_with(slow._replace(request=None))
        twin.reserve(other)
        other.reserved = twin
        self._core.queued += 1
        connection.long_response = True  # so that nothing more is sent behind it
        host.with_capacity.pop(connection, None)
        host.hedged += 1
        emit_of(self._core, "hedged", twin, connection.name, reason)
        self._users.wake_sender_locked(other)
        return True

    @locked
    def _connection_locked(self, host: Host, now: float) -> PooledConnection | None:
        """Return a connection of *host* that has nothing to do, or is opened for this."""
        idle = self._users.pop_idle_locked(host)
        if idle is not None:
            if not idle.is_stale(now):
                return idle
            self._users.enter_idle_locked(idle)  # its timer closes it
        limit = connection_limit(host, self._core.limits.max_connections_per_host)
        is_reachable = not (host.connect_failures or host.slow_dials)
        if len(host.connections) >= limit or now < host.connect_backoff_until or not is_reachable:
            return None
        return self._users.open_locked(host)

    # --- one of the two ends ----------------------------------------------------------------------

    @locked
    def keep_locked(self, job: Job, reason: str) -> None:
        """End the twin of *job*, if it has one, because of *reason*."""
        twin = job.twin
        if twin is None:
            return
        place, connection = twin.place, twin.connection
        if connection is not None and twin.sending is not None:
            emit_of(self._core, "cancelled", twin, connection.name, reason)
        job.lose_twin()
        if connection is None:
            return
        if place is Place.RESERVED:
            connection.reserved = None
            connection.host.hedged -= 1  # after all, it was not
            self._core.unqueue_locked(1)
            self._users.wake_sender_locked(connection)
        elif place is Place.IN_FLIGHT and not connection.is_closing:
            self.drain_locked(connection, twin)

    @locked
    def keep_to_gate_locked(self, connection: PooledConnection) -> None:
        """End the twin that *connection* is to send next, if the gate has shut meanwhile."""
        reserved = connection.reserved
        if (
            reserved is not None
            and reserved.twin is not None
            and connection.host.is_shut(monotonic())
        ):
            self.keep_locked(reserved.twin, "another request to the host has started")

    @locked
    def fail_locked(self, job: Job, attempt: Attempt) -> None:
        """*attempt*, the sending of *job*, has failed: its twin goes on alone."""
        twin = job.twin
        assert twin is not None
        # One of the two knows that the other was slow, which is not all there is to say any more.
        known = min(job.attempts, twin.attempts, key=len)
        outcome = attempt.exception or attempt.response
        emit_of(self._core, "resent", job, attempt.connection, attempt.outcome, outcome)
        twin.attempts = (*known, attempt._replace(response=None, request=None))
        twin.lose_twin()


def _may_be_hedged(job: Job) -> bool:
    """Return True if *job*, which is in flight, is to be sent once more if it is slow."""
    return (
        job.extras.hedge is not None
        and not (job.was_hedged or job.response_started or job.cancelled)
        and job.place is Place.IN_FLIGHT
        and job.fatal_error is None
    )


def _has_begun(job: Job, connection: PooledConnection) -> bool:
    """Return True if the response to *job* is there, and the receiver has not come to it."""
    return job is connection.oldest and connection.engine.has_arrivals(job)


def _due(job: Job) -> float:
    """Return when *job* is slow, if its response has not begun by then."""
    return job.dispatched_at + (job.extras.hedge or 0.0)
