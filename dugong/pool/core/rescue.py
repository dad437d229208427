"""Head of line: requests that wait behind a slow one are sent again on a connection that is free.

Guarantees: a request is taken back once at most, and only if it may be sent twice; it has one
outcome, for what still comes in for it on the slow connection is dropped. That connection takes
nothing more. It is closed as soon as no response is left on it that a caller waits for, so the
response to the slow request itself is not lost. One timer of the pool looks for slow requests, and
only while requests wait behind others.

Requests are taken back by a timer, so by the maintenance thread, which nothing interrupts.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Protocol

from dugong.errors import Delivery
from dugong.pool.core.connection import PooledConnection
from dugong.pool.core.core import PoolCore
from dugong.pool.core.emitting import emit_of
from dugong.pool.core.host import Host
from dugong.pool.core.job import Job, Place
from dugong.pool.core.locked import locked
from dugong.pool.core.maintenance import Maintenance
from dugong.pool.core.retries import RetryEngine, make_attempt
from dugong.pool.core.timers import Timer
from dugong.pool.response import Attempt
from dugong.pool.retry.policy import retry_refusal_reason

__all__ = ["GRACE_TIME", "LOOK_TIME", "Rescue"]

#: Seconds between two looks, at most, at the connections on which requests wait behind others,
LOOK_TIME = 0.05
#: and at least.
_MIN_LOOK_TIME = 0.01
#: Seconds from when a response is slow, during which requests stay behind it as long as something
#: has arrived that the receiver has not come to: then it is this process that is slow.
GRACE_TIME = 1.0

_REASON = "it has waited behind a slow response"


class Users(Protocol):
    """What this part asks of the connection manager."""

    def ensure_all_served_locked(self, host: Host) -> None:
        """See to it that requests which are queued are taken, however many there are."""

    def retire_locked(self, connection: PooledConnection) -> None:
        """Have *connection* take nothing more and end between responses."""

    def update_availability_locked(self, connection: PooledConnection) -> None:
        """Note what *connection* could take."""

    @property
    def close_locked(self) -> Callable[[PooledConnection, str], object]:
        """Closes a connection in good order, for a reason."""


class Rescue:
    """Takes back what waits behind a slow response."""

    def __init__(
        self,
        core: PoolCore,
        maintenance: Maintenance,
        retries: RetryEngine,
        users: Users,
    ) -> None:
        self._core = core  # never changes
        self._maintenance = maintenance  # never changes
        self._retries = retries  # never changes
        self._users = users  # never changes
        self.reset()

    def reset(self) -> None:
        """Begin with nothing: also for a child process, after a fork."""
        #: Connections on which requests wait behind others, or did at the last look; guarded by the
        #: lock.
        self._watched: dict[PooledConnection, None] = {}
        self._timer: Timer | None = None  # of the next look; guarded by the lock

    @locked
    def watch_locked(self, connection: PooledConnection) -> None:
        """Requests wait on *connection* behind its oldest one: look whether that is slow."""
        self._watched[connection] = None
        if self._timer is None:
            self._look_at_locked(monotonic() + LOOK_TIME)

    @locked
    def _look_at_locked(self, when: float) -> None:
        self._timer = self._maintenance.at_locked(when, self._look_locked)

    @locked
    def _look_locked(self) -> None:
        """Look at all connections on which requests wait; rescue those if that is possible."""
        self._timer = None
        now = monotonic()
        next_look = now + LOOK_TIME
        for connection in list(self._watched):
            if not _holds_up(connection):
                del self._watched[connection]
            elif (slow_at := _slow_at(connection)) > now:
                next_look = min(next_look, slow_at)
            elif _has_free(connection.host, now) and not (
                now < slow_at + GRACE_TIME and connection.engine.has_arrivals(connection.oldest)
            ):
                # What may not be taken back now may not be later either.
                del self._watched[connection]
                self._rescue_locked(connection)
        if self._watched:
            self._look_at_locked(max(next_look, now + _MIN_LOOK_TIME))

    @locked
    def _rescue_locked(self, connection: PooledConnection) -> None:
        """Put what waits on *connection* behind its oldest request back into the queue."""
        host, reserved = connection.host, connection.reserved
        if reserved is not None and reserved.twin is None:  # nothing of it has been sent
            connection.reserved = None
            host.put_back([reserved])
        behind = list(connection.in_flight)[1:]
        # It may be on its way this very moment, so it counts as sent.
        attempts = [
            (job, make_attempt(job, connection.name, _REASON, Delivery.SENT, charged=False))
            for job in behind
            if _may_be_taken(job)
        ]
        taken = [(job, attempt) for job, attempt in attempts if _may_be_sent_again(job, attempt)]
        if taken:
            connection.lost_requests = True
            self._users.retire_locked(connection)
            host.rescued += len(taken)
            successors = [job.take_back() for job, _ in taken]
            for job, (_, attempt) in zip(successors, taken, strict=True):
                job.attempts += (attempt._replace(request=None),)
                emit_of(self._core, "resent", job, connection.name, _REASON)
            self._retries.requeue_locked(successors)
            if not connection.is_wanted:  # its oldest request was cancelled
                self._users.close_locked(connection, "its requests were cancelled or taken back")
        else:
            self._users.update_availability_locked(connection)
        self._users.ensure_all_served_locked(host)


def _may_be_taken(job: Job) -> bool:
    """Return True if *job*, which waits behind another, may leave its connection."""
    return (
        job.place is Place.IN_FLIGHT
        and job.fatal_error is None
        and not (job.was_taken_back or job.exclusive or job.cancelled or job.twin is not None)
    )


def _may_be_sent_again(job: Job, attempt: Attempt) -> bool:
    return retry_refusal_reason(job.retry, job.request, attempt, job.is_rewindable) is None


def _holds_up(connection: PooledConnection) -> bool:
    """Return True if requests wait on *connection* behind another one, and may be taken back."""
    if connection.is_closing or connection.lost_requests:
        return False
    count = len(connection.in_flight)
    return count > 1 or (count == 1 and connection.reserved is not None)


def _slow_at(connection: PooledConnection) -> float:
    """Return when the oldest request of *connection* is slow, if it has no response by then.

    Its time begins when the response before it has come, for until then it has waited, too.
    """
    begun = max(connection.oldest.dispatched_at, connection.responded_at)
    return begun + connection.host.pipelining.slow_after


def _has_free(host: Host, now: float) -> bool:
    """Return True if a connection of *host* could take a request at once."""
    return not host.is_shut(now) and any(not other.is_stale(now) for other in host.idle)
