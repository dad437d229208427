"""Requests that end before their response: their caller cancels them, or their deadline passes.

Guarantees: a request that is given up ends once, wherever it is, and takes nothing from the others
on its connection, unless it is the one that they wait for. Nothing here waits.
"""

from __future__ import annotations

import sys
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from dugong.errors import ConnectionTimedOut, Delivery
from dugong.pool.core.core import Outcome, PoolCore
from dugong.pool.core.emitting import emit_of
from dugong.pool.core.holders import describe_holders
from dugong.pool.core.job import Job, Place
from dugong.pool.core.locked import locked
from dugong.pool.failure import Abandoned

if TYPE_CHECKING:
    from dugong.pool.core.connection import PooledConnection
    from dugong.pool.core.connections import ConnectionManager
    from dugong.pool.core.host import Host
    from dugong.pool.core.maintenance import Maintenance
    from dugong.pool.core.retries import RetryEngine
    from dugong.pool.request import Request

__all__ = ["Cancellation", "waited_too_long"]

#: Seconds that the response to a cancelled request may take before its connection is closed.
DRAIN_TIME = 1.0


class Cancellation:
    """What ends the requests of a pool that are given up."""

    def __init__(
        self,
        core: PoolCore,
        maintenance: Maintenance,
        retries: RetryEngine,
        connections: ConnectionManager,
    ) -> None:
        #: A slice of the maintenance thread, and what holds hosts then; guarded by the lock.
        self._holders: tuple[int, dict[Host, str]] = (-1, {})
        # None of the others ever changes.
        self._core = core
        self._maintenance = maintenance
        self._retries = retries
        self._connections = connections

    def abandon(self, job: Job) -> bool:
        """Take *job* out of the pool, because its caller has cancelled it; False if it was done.

        Does not wait: if its body is being sent, its future is cancelled once the sender has
        released that. If its caller was interrupted while making it, ends the connection that was
        lent for that.
        """
        core = self._core
        if core.is_locked_here():
            self._maintenance.do_later(partial(self.abandon, job))
            return True
        if sys.is_finalizing():
            job.future._settle(None)
            return True
        return core.protect(self._abandon, self._abandon, job)  # it may be left halfway

    def _abandon(self, job: Job) -> bool:
        with self._core.transaction():
            return self._abandon_locked(job)

    @locked
    def _abandon_locked(self, job: Job) -> bool:
        job = job.current
        self._connections.hedging.keep_locked(job, "by its caller")
        # A list, for what a signal handler raises while a generator is closed is lost.
        lent = next(iter([c for c in job.host.connections if c.borrower is job]), None)
        was_decided = job.is_decided
        if lent is not None:
            # Its caller was interrupted, when it had its response at the latest, and is at work on
            # the connection no more. For no other thread can cancel what a caller makes by itself:
            # that has no future yet, no deadline and no twin, and a stream that others may cancel
            # borrows nothing. So this is that caller, or the maintenance thread in place of it, and
            # `Lending.responded_to_caller` never finds the connection given back.
            job.cancelled = not was_decided
            self._connections.fail_locked(lent, Abandoned("a request was interrupted"))
            lent.borrower = None
            # The connection may have been handed over to a stream that has not begun.
            lent.streaming = job.place is Place.STREAMING
            self._connections.finish_closing_locked(lent)
        if job.is_decided:
            return not was_decided
        connection = job.connection
        upload = job.extras.upload
        if upload is not None and upload.is_sending:
            job.cancelled = True
            assert connection is not None
            self._connections.fail_locked(connection, Abandoned("a request was cancelled"))
            return True
        is_in_flight = job.place is Place.IN_FLIGHT
        self.take_out_locked(job, None)
        if is_in_flight and connection is not None and not connection.is_closing:
            self.drain_locked(connection, job)
        return True

    @locked
    def drain_locked(self, connection: PooledConnection, job: Job) -> None:
        """Have *connection* closed unless the response to *job*, which is done, comes soon."""
        drain = partial(self._end_drain_locked, connection, job)
        self._maintenance.at_locked(monotonic() + DRAIN_TIME, drain)

    @locked
    def take_out_locked(self, job: Job, outcome: Outcome) -> None:
        """End *job* with *outcome*, wherever it is."""
        place, connection = job.place, job.connection
        self._retries.complete_locked(job, outcome)  # first, so that an interrupt cannot lose it
        if place is Place.NEW:
            self._core.room.notify_all()  # another thread may wait with it
        elif place is Place.WAITING:
            self._retries.forget_waiting_locked(job)
        elif place is Place.QUEUED:
            job.host.withdraw(job)
            self._core.unqueue_locked(1)
        elif place is Place.RESERVED:
            assert connection is not None
            connection.reserved = None
            self._core.unqueue_locked(1)
            self._connections.wake_sender_locked(connection)
        self._retries.reset_connect_backoff_locked(job.host)

    @locked
    def _end_drain_locked(self, connection: PooledConnection, job: Job) -> None:
        """Close a connection that still owes the response to a cancelled *job*."""
        if connection.is_closing or job not in connection.in_flight:
            return
        if connection.oldest is job:
            self._connections.fail_locked(connection, Abandoned("a request was cancelled"))
        else:  # others hold it up
            self.drain_locked(connection, job)

    @locked
    def expire_locked(self, job: Job, is_last: bool = False) -> None:
        """End *job*, for its deadline has passed.

        While others are queued, a request on a connection comes last of those that have expired by
        now. Else its connection would be replaced by another one for requests that end next.
        """
        job = job.current
        host, connection = job.host, job.connection
        if host.queued and job.place is Place.IN_FLIGHT and not is_last:
            expire = partial(self.expire_locked, job, is_last=True)
            job.timer = self._maintenance.at_locked(monotonic(), expire)
            return
        self._connections.hedging.keep_locked(job, "the deadline has passed")
        upload = job.extras.upload
        is_sending = upload is not None and upload.is_sending
        if job.is_decided:
            if job.place is Place.STREAMING and connection is not None:
                doing = "sent on" if is_sending else "read from"
                message = f"the deadline passed while the body was {doing} {connection.name}"
                error = _timed_out(message, Delivery.ANSWER_STARTED, job.request)
                self._connections.fail_locked(connection, error)
            return
        if job.place is Place.NEW:
            self.take_out_locked(job, waited_too_long(self._core, job))
            return
        if job.is_answered:
            message = "the deadline passed between two requests"
            error = _timed_out(message, Delivery.ANSWER_STARTED, job.request)
        elif connection is None or job.place is Place.RESERVED:
            error = _timed_out(
                f"the deadline passed in the queue of {host.name}; {self._holders_locked(host)}",
                job.max_delivery(Delivery.UNSENT),
                job.request,
            )
        else:
            message = f"the deadline passed on connection {connection.name}"
            early = None if upload is None else upload.pending_response
            if early is not None and early.status >= 300:
                # It has its response, and waits only for the sender.
                self._connections.fail_locked(connection, ConnectionTimedOut(message))
                return
            delivery = self._connections.delivery_locked(connection, job)
            error = _timed_out(message, job.max_delivery(delivery), job.request)
            if is_sending or connection.oldest is job:
                job.fatal_error = error
                self._connections.fail_locked(connection, Abandoned(message))
                return
        emit_of(self._core, "gave up", job, "", error.msg, error)
        self.take_out_locked(job, error)

    @locked
    def _holders_locked(self, host: Host) -> str:
        # Many deadlines may pass at once, and the text is the same for all of them.
        if self._holders[0] != self._maintenance.slice:
            self._holders = self._maintenance.slice, {}
        texts = self._holders[1]
        text = texts.get(host)
        if text is None:
            text = texts[host] = describe_holders(host, monotonic())
        return text


def waited_too_long(core: PoolCore, job: Job) -> ConnectionTimedOut:
    """Return the error for *job*, whose deadline has passed while it waited for room."""
    message = f"{core.queued} requests were queued for too long"
    return _timed_out(message, Delivery.UNSENT, job.request)


def _timed_out(message: str, delivery: Delivery, request: Request) -> ConnectionTimedOut:
    error = ConnectionTimedOut(message)
    error.delivery, error.request = delivery, request
    return error
