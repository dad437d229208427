"""How the connections of a pool end, and what becomes of their requests.

Guarantees: the requests of a connection that ends are each put back or failed, once.

A connection is closed in two steps: `close_locked` has it shut down, so that the threads at work on
it leave, and the last of them decides what becomes of its requests (`finish_closing_locked`).
"""

from __future__ import annotations

from time import monotonic
from typing import Protocol

from dugong.errors import (
    ConnectionClosed,
    ConnectionTimedOut,
    Delivery,
    DugongError,
    InvalidResponse,
    PoolClosed,
    ResponseTooLarge,
    UnsupportedResponse,
)
from dugong.pool.core.connection import Phase, PooledConnection
from dugong.pool.core.core import PoolCore
from dugong.pool.core.emitting import emit
from dugong.pool.core.host import Host
from dugong.pool.core.job import Job, Place
from dugong.pool.core.locked import locked
from dugong.pool.core.maintenance import Maintenance
from dugong.pool.core.retries import RetryEngine, make_attempt
from dugong.pool.core.room import Room
from dugong.pool.failure import (
    Abandoned,
    describe,
    failure,
    forget_frames,
    internal_error,
    is_bug,
)

__all__ = ["Closing"]

# They say what has become of one request, and nothing of those behind it.
_ABOUT_ONE_REQUEST = (Abandoned, InvalidResponse, ResponseTooLarge, UnsupportedResponse)


class Users(Protocol):
    """What this part asks of the connection manager."""

    def ensure_all_served_locked(self, host: Host) -> None:
        """See to it that requests which are queued are taken, however many there are."""

    def leave_idle_locked(self, connection: PooledConnection) -> None:
        """*connection* is not idle any more, if it was."""

    def timed_out_locked(self, host: Host, error: Exception) -> None:
        """A request has timed out with *error* on a connection of *host*."""


class Closing:
    """Closes connections, and sees to their requests."""

    def __init__(
        self,
        core: PoolCore,
        maintenance: Maintenance,
        retries: RetryEngine,
        room: Room,
        users: Users,
    ) -> None:
        self._core = core  # never changes
        self._maintenance = maintenance  # never changes
        self._retries = retries  # never changes
        self._room = room  # never changes
        self._users = users  # never changes
        self.reset()

    def reset(self) -> None:
        """Begin with nothing: also for a child process, after a fork."""
        #: Connections that are CLOSED, and their requests not seen to yet; guarded by the lock.
        self._finishing: dict[PooledConnection, None] = {}

    @locked
    def close_locked(
        self,
        connection: PooledConnection,
        reason: str = "the server ended it",
        error: Exception | None = None,
    ) -> None:
        """Close *connection*, in good order or because of *error*: no further response comes."""
        if connection.phase is Phase.CLOSED:
            return  # a forked child has dropped it, and its conditions belong to the old lock
        if connection.begin_closing(reason, error):
            self._core.follow_up(connection.engine.abort)
            uploading = connection.uploading
            if uploading is not None and uploading.extras.upload is not None:
                # Behind that: a body that is not waited for yet finds the connection ended.
                self._core.follow_up(uploading.extras.upload.body.interrupt)
        self._users.leave_idle_locked(connection)
        connection.host.with_capacity.pop(connection, None)
        connection.notify_sender()
        connection.notify_receiver()
        self.finish_closing_locked(connection)

    @locked
    def fail_locked(self, connection: PooledConnection, error: Exception) -> None:
        """Close *connection* because of *error*."""
        # What a signal handler raises in the thread of a caller is none.
        if is_bug(error) and self._core.threads.is_own():
            error = internal_error(error)
        self.close_locked(connection, describe(error), error)

    @locked
    def finish_closing_locked(self, connection: PooledConnection) -> None:
        """Decide what becomes of the requests of a closing connection, once no thread uses it."""
        if connection.phase is not Phase.CLOSING or connection.at_work:
            return
        self._finishing[connection] = None
        connection.finish_closing()
        self._see_to_requests_locked(connection)

    @locked
    def repair_locked(self) -> None:
        """Mend what an interrupt between two steps has left; the counts are right again."""
        for connection in list(self._finishing):
            if connection.phase is not Phase.CLOSED:
                del self._finishing[connection]  # it has not begun
                continue
            # It counts off what it finds.
            connection.host.in_flight += len(connection.in_flight)
            self._core.connections += 1
            self._see_to_requests_locked(connection)

    @locked
    def _see_to_requests_locked(self, connection: PooledConnection) -> None:
        """Decide what becomes of the requests of a closed connection. May be done again."""
        core, host = self._core, connection.host
        host.connections.pop(connection, None)
        if not (host.connections or host.connect_failures):
            host.connect_backoff_until = 0.0  # there was no hurry only as long as there were others
        core.connections -= 1
        self._room.end_locked(connection)
        jobs = list(connection.in_flight)
        verdicts = [self.delivery_locked(connection, job) for job in jobs]
        host.in_flight -= len(jobs)
        self._learn_from_end_locked(connection, verdicts)
        if jobs and host.gate is not None and isinstance(connection.failure, ConnectionTimedOut):
            self._users.timed_out_locked(host, connection.failure)
        if jobs and _is_fruitless(connection) and verdicts[0] is not Delivery.ANSWER_STARTED:
            host.note_fruitless_end()
        since = connection.opened_at if connection.was_open else None
        emit(core, "closed", host, connection.name, connection.close_reason, since)
        for timer in (connection.age_timer, connection.idle_timer, connection.rate_timer):
            if timer is not None:
                self._maintenance.cancel_locked(timer)
        reserved = connection.reserved
        if reserved is None or reserved.place is not Place.RESERVED:
            pass
        elif reserved.twin is not None:  # which goes on
            core.unqueue_locked(1)
            host.hedged -= 1  # it was not sent
            reserved.twin.lose_twin()
        elif core.closed:
            core.unqueue_locked(1)
            self._retries.close_locked(reserved)
        else:
            host.put_back([reserved])
        connection.reserved = None
        back: list[Job] = []
        for index, (job, verdict) in enumerate(zip(jobs, verdicts, strict=True)):
            is_lost = job.place is Place.IN_FLIGHT
            if is_lost and self._requeue_or_fail_locked(connection, job, verdict, index == 0):
                back.append(job)
        self._retries.requeue_locked(back)  # before the reserved one, which stood behind them
        for job in jobs:
            connection.take_off(job)
        core.totals.ended += connection.was_open
        del self._finishing[connection]
        forget_frames(connection.failure)
        if self._room.is_awaited:
            self._room.serve_locked()
        self._users.ensure_all_served_locked(host)

    @locked
    def _requeue_or_fail_locked(
        self, connection: PooledConnection, job: Job, verdict: Delivery, first: bool
    ) -> bool:
        """See to *job*, whose connection has ended; return True if it goes back to the queue.

        Only the *first* request that was not answered can be why the connection ended; the others
        are not charged. As that is not sure, they are exclusive from now on: a request that ends
        its connections each time runs out of attempts without taking others along.
        """
        cause = connection.failure
        if job.cancelled:
            self._retries.complete_locked(job, None)
            return False
        if job.fatal_error is not None:
            error = failure(job.fatal_error, verdict, job.request)
            self._retries.give_up_locked(job, error, connection.name, "it cannot be tried again")
            return False
        # The pool has ended the connection for a request that is done: that blames none of these.
        blameless = cause is None or isinstance(cause, Abandoned)
        stale = isinstance(cause, ConnectionClosed) and verdict is not Delivery.ANSWER_STARTED
        charged = first and not blameless
        if stale and verdict is Delivery.UNSENT:
            # An idle connection that the server has closed. If a fresh one ends before its first
            # request, that is not to go on for ever.
            charged = charged and job.needs_fresh_connection and not connection.answered
        if not first and isinstance(cause, _ABOUT_ONE_REQUEST):
            reason = describe(cause)
            cause = ConnectionClosed(
                f"the connection has ended because of another request: {reason}"
            )
        error = failure(cause or ConnectionClosed(), verdict, job.request)
        attempt = make_attempt(job, connection.name, connection.close_reason, verdict, charged)
        attempt = attempt._replace(exception=error)
        if charged:
            # An idle connection that the server closes at the moment when it is used looks like
            # this. That of a fresh one, or a second time, is not what has happened.
            at_once = stale and bool(connection.answered) and not job.needs_fresh_connection
            job.needs_fresh_connection = True
            delay = 0.0
            if not at_once:
                # What accepts in place of a server that is down costs no more attempts than a
                # server that cannot be reached.
                policy = job.retry
                wait = policy.outage_delay if connection.host.is_fruitless else policy.delay
                delay = wait(attempt.number)
            self._retries.complete_locked(job, error, attempt, delay)
            return False
        if not self._retries.requeues_uncharged_locked(job, error, attempt):
            return False
        job.exclusive = job.exclusive or not (blameless or verdict is Delivery.UNSENT)
        if first and not connection.answered and not blameless:
            job.needs_fresh_connection = True
        return True

    # --- what an end says -------------------------------------------------------------------------

    @locked
    def _learn_from_end_locked(
        self, connection: PooledConnection, verdicts: list[Delivery]
    ) -> None:
        failure, pipelining = connection.failure, connection.host.pipelining
        before = pipelining.lesson, pipelining.quota
        now = monotonic()
        unanswered = sum(verdict is not Delivery.UNSENT for verdict in verdicts)
        if failure is None:
            if connection.engine.was_ended_by_peer:
                pipelining.closed(connection.answered, unanswered, now)
        elif isinstance(failure, InvalidResponse) and unanswered > 1:
            pipelining.broke_the_rules(now)
        elif isinstance(failure, (Abandoned, ResponseTooLarge, PoolClosed)):
            pass  # our own doing
        elif unanswered and isinstance(failure, (DugongError, OSError)):
            pipelining.died(connection.answered, unanswered, now)
        self.emit_learned(connection, *before)

    def emit_learned(
        self, connection: PooledConnection, lesson: str | None, quota: int | None
    ) -> None:
        """Tell what the host has shown since that *lesson* and *quota* were known, if anything."""
        pipelining = connection.host.pipelining
        reason = None
        if pipelining.quota != quota:
            reason = f"it closes a connection after {pipelining.quota} responses"
        elif pipelining.lesson != lesson:
            reason = pipelining.lesson
        if reason is not None:
            emit(self._core, "learned", connection.host, connection.name, reason=reason)

    @locked
    def delivery_locked(self, connection: PooledConnection, job: Job) -> Delivery:
        """Return how far *job*, which is in flight on *connection*, has got."""
        is_oldest = job is next(iter(connection.in_flight), None)
        delivery = connection.engine.verdict(job, is_oldest, connection.failure)
        if delivery is Delivery.UNSENT and connection.sending:
            return Delivery.SENT  # the sender has it, and may send it at any moment
        return delivery


def _is_fruitless(connection: PooledConnection) -> bool:
    """Return True if the server has ended *connection* before its first response."""
    error = connection.failure
    return (
        not connection.answered
        and isinstance(error, ConnectionClosed)
        and not isinstance(error, Abandoned)
    )
