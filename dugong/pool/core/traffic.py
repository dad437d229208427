"""What the threads of a connection ask the pool, and report to it.

Guarantees: a request is answered once, by the response that is its own; a thread that waits here is
woken by what it waits for, or by the end of the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from threading import Condition
from time import monotonic

from dugong.deadline import Deadline
from dugong.errors import ConnectionClosed, Delivery
from dugong.pool.core.connection import Phase, PooledConnection
from dugong.pool.core.connections import ConnectionManager
from dugong.pool.core.core import PoolCore
from dugong.pool.core.dispatch import take
from dugong.pool.core.faults import Faults
from dugong.pool.core.job import NO_EXTRAS, Job, Place
from dugong.pool.core.lending import Lending
from dugong.pool.core.limits import Limits
from dugong.pool.core.locked import locked
from dugong.pool.core.maintenance import Maintenance
from dugong.pool.core.progress import Progress
from dugong.pool.core.rate import BodyRate, RateLimit
from dugong.pool.core.retries import RetryEngine
from dugong.pool.failure import describe, failure, internal_error, is_bug
from dugong.pool.response import Response

__all__ = ["Traffic"]

_DONE = Place.DONE  # a member is looked up slowly in its class

#: Seconds after which the threads of an idle connection end,
THREAD_IDLE_TIME = 1.0
#: or at once, if the pool has more threads than this.
MANY_THREADS = 384
#: Bytes of a head, and a small body with it, that the system takes at once, whatever the peer does.
SMALL_HEAD = 16 * 1024
#: Seconds that a server is given to ask for a body that was announced with Expect.
CONTINUE_TIME = 1.0


class Traffic:
    """The side of a pool that its senders and receivers see."""

    def __init__(
        self,
        core: PoolCore,
        maintenance: Maintenance,
        retries: RetryEngine,
        connections: ConnectionManager,
        run_receiver: Callable[[Traffic, PooledConnection], object],
    ) -> None:
        # None of these ever changes, but for `hedges`.
        self._core = core
        self._maintenance = maintenance
        self._retries = retries
        self._connections = connections
        self._run_receiver = run_receiver  # the receiver's loop, for a thread
        self.limits: Limits = core.limits
        self.max_body_size: int = core.limits.max_body_size  # a named tuple is slow to look up
        self._rate = rate = RateLimit(core, maintenance, connections)
        self._progress = progress = Progress(core, connections)
        #: What callers do on these connections by themselves.
        self.lending: Lending = Lending(core, maintenance, retries, connections, progress, rate)
        #: Whether the policy of a job has a response of a status tried again. Needs no lock.
        self.may_be_retried: Callable[[Job, int], bool] = retries.may_be_retried
        self.connect_failed: Callable[[PooledConnection, Exception], None] = (
            connections.connect_failed
        )
        #: Is told what threads of connections raise.
        self.faults: Faults = Faults(core, maintenance, retries, connections)
        #: Whether there may be requests to be hedged. Any thread may set it; it is never unset.
        self.hedges = False

    # --- a connection begins, or breaks -----------------------------------------------------------

    def begin_sending(self, connection: PooledConnection) -> bool:
        """The sender of *connection* has started; False: it is not wanted, or a second one."""
        with self._core.transaction():
            if connection.sender_started:
                return False
            if connection.is_closing:
                connection.sending = False
                self._connections.finish_closing_locked(connection)
                return False
            connection.sender_started = True
        return True

    def connected(self, connection: PooledConnection) -> None:
        """The sender of *connection* has connected it."""
        core = self._core
        while True:
            with core.transaction():
                while not connection.is_closing and not self._connections.admit_locked(connection):
                    if core.has_follow_ups:
                        break
                    self._wait_as_sender_locked(connection)
                else:
                    break
        self._connections.opened(connection)

    @locked
    def _wait_as_sender_locked(
        self, connection: PooledConnection, timeout: float | None = None
    ) -> None:
        """Wait until the sender of *connection* is to look again, or for *timeout* seconds."""
        connection.sender_wakeup = wakeup = Condition(self._core.lock)
        try:
            self._core.wait(wakeup, timeout)
        finally:
            connection.sender_wakeup = None

    @locked
    def _wait_as_receiver_locked(self, connection: PooledConnection) -> None:
        """Wait until the receiver of *connection* is to look again, or its thread might end."""
        connection.receiver_wakeup = wakeup = Condition(self._core.lock)
        try:
            self._core.wait(wakeup, THREAD_IDLE_TIME)
        finally:
            connection.receiver_wakeup = None

    def ensure_receiver(self, connection: PooledConnection, batch: Sequence[Job]) -> None:
        """See to it that responses to *batch* are received. For the sender, before it sends.

        If there is no receiver, the sender itself becomes it once it has sent: see `next_batch`.
        But what might have to be sent and received at the same time needs two threads.
        """
        if connection.receiver_started:
            return  # it does not end while a request is in flight
        # Without it, nothing else changes what is in flight.
        if len(connection.in_flight) == 1 and _is_small(batch[0]):
            return
        connection.receiver_started = True
        receive = partial(self._run_receiver, self, connection)
        try:
            self._core.threads.start_here(receive, f"dugong-{connection.name}-recv")
        except RuntimeError:
            connection.receiver_started = False  # no thread can be had: this one does what it can

    def is_own_thread(self) -> bool:
        """Return True in a thread of the pool, where no signal handler raises anything."""
        return self._core.threads.is_own()

    # --- sending ----------------------------------------------------------------------------------

    def next_batch(self, connection: PooledConnection, error: Exception | None) -> list[Job] | None:
        """The sender has let go of its last batch; return the next, or [] if it is to end.

        None if it is to be the receiver from now on, for there is none. *error* is what the last
        batch met with.
        """
        core, connections = self._core, self._connections
        is_first_look = True
        while True:
            with core.transaction():
                if is_first_look:
                    self._sent_locked(connection, error)
                    is_first_look = False
                while not connection.is_closing:
                    connection.sender_parked = False
                    connections.leave_idle_locked(connection)
                    connection.host.with_capacity.pop(connection, None)
                    batch = self._take_batch_locked(connection)
                    if batch:
                        return batch
                    connection.sender_parked = True
                    connections.update_availability_locked(connection)
                    if connection.is_closing:
                        break
                    if self._is_unreceived(connection):
                        connection.sender_started = False
                        connection.receiver_started = True
                        connection.receiver_parked = False
                        if connection.host.queued:
                            connections.ensure_served_locked(connection.host)
                        return None
                    if core.has_follow_ups:
                        break
                    if not self._wait_for_work_locked(connection):
                        return []
                connection.sender_parked = False
                if connection.is_closing:
                    connections.finish_closing_locked(connection)
                    return []
                # What follows the transaction comes first. What that queues, this sender may take.

    @locked
    def _wait_for_work_locked(self, connection: PooledConnection) -> bool:
        """Wait until the sender of *connection* may be wanted; False: its thread is to end."""
        if not self._may_end_threads(connection):
            self._wait_as_sender_locked(connection, THREAD_IDLE_TIME)
            # If it is to end, its place among the idle connections is not to change.
            if not (connection.sender_parked and self._may_end_threads(connection)):
                return True
        connection.sender_started = False
        return False

    def _is_unreceived(self, connection: PooledConnection) -> bool:
        """Return True if a response is due that no thread would receive."""
        is_seen_to = connection.receiver_started or connection.is_lent
        return not is_seen_to and connection.engine.is_awaiting

    def _may_end_threads(self, connection: PooledConnection) -> bool:
        """Return True if the threads of *connection*, which are parked, are not needed for now."""
        return not (connection.in_flight or connection.at_work or connection.is_closing) and (
            monotonic() - connection.idle_since >= THREAD_IDLE_TIME
            or self._core.threads.count > MANY_THREADS
        )

    @locked
    def _take_batch_locked(self, connection: PooledConnection) -> list[Job]:
        host = connection.host
        if not connection.in_flight and connection.is_stale(monotonic()):
            # It may have kept a request while the host was to be left alone.
            self._connections.close_locked(connection, "it was idle for too long")
            return []
        if self.hedges and host.gate is not None:
            self._connections.hedging.keep_to_gate_locked(connection)
        is_closed = self._core.closed or connection.closed_to_more
        batch = [] if is_closed else take(host, connection)
        if batch:
            try:
                self._progress.mark_in_flight_locked(connection, batch)
            except BaseException as exc:
                self.faults.lost_locked(connection, batch, exc)
                raise
            self._core.unqueue_locked(len(batch))
            connection.sending = True
            if self.hedges:
                self._connections.hedging.watch_locked(connection, batch)
            if (upload := batch[-1].extras.upload) is not None:
                connection.uploading = batch[-1]
                upload.begin()
            if connection.exclusive and host.queued:
                self._connections.ensure_all_served_locked(host)  # what stood behind may go now
        if host.gate is not None:
            self._connections.taken_locked(host)
        if len(connection.in_flight) > 1 or connection.reserved is not None:
            self._connections.watch_locked(connection)
        return batch

    @locked
    def _sent_locked(self, connection: PooledConnection, error: Exception | None) -> None:
        connection.sending = False
        job, connection.uploading = connection.uploading, None
        if job is not None:
            try:
                self._released_locked(connection, job, error)
            except BaseException:
                connection.uploading = job  # for `crashed`, which fails it
                raise
        if error is None:
            has_ended = connection.is_draining and connection.engine.was_ended_by_peer
            if has_ended and not connection.in_flight:
                self._connections.close_locked(connection)
            return
        is_closed = isinstance(error, ConnectionClosed)
        if not connection.is_closing:
            connection.fail_writing()
            unread = connection.receiving or connection.engine.has_unread
            if not unread or not is_closed:
                self._connections.fail_locked(connection, error)
        elif not is_closed and type(connection.failure) is ConnectionClosed:
            # All that the receiver knows is that the connection was shut: by us, for this reason.
            error = internal_error(error) if is_bug(error) else error
            connection.failure, connection.close_reason = error, describe(error)

    def leave_out(self, connection: PooledConnection, job: Job, error: Exception) -> None:
        """*job*, which *connection* has taken, fails with *error*, and is not sent."""
        job.fatal_error = error
        with self._core.transaction():
            connection.take_off(job)
            connection.dispatched -= 1
            connection.host.in_flight -= 1
            if not connection.in_flight:
                connection.idle_since = monotonic()
                connection.exclusive = False
            if connection.uploading is job:
                connection.uploading = None
                assert job.extras.upload is not None
                job.extras.upload.end(error)
            if job.is_decided:
                self._core.body_released.notify_all()
                return
            if job.cancelled:
                self._retries.complete_locked(job, None)
                return
            own = failure(error, Delivery.UNSENT, job.request)
            self._retries.give_up_locked(job, own, connection.name, "it cannot be tried again")

    @locked
    def _released_locked(
        self, connection: PooledConnection, job: Job, error: Exception | None
    ) -> None:
        """The sender of *connection* has let go of the body of *job*."""
        upload = job.extras.upload
        assert upload is not None
        upload.end(error)
        connection.body_released_at = monotonic()
        if job.is_decided:
            self._core.body_released.notify_all()
        elif job.cancelled:
            self._retries.complete_locked(job, None)
        elif (response := upload.pending_response) is not None:
            upload.pending_response = None
            if self._end_upload_locked(connection, job, response, error):
                connection.host.has_progressed = True

    @locked
    def _end_upload_locked(
        self,
        connection: PooledConnection,
        job: Job,
        response: Response,
        cause: Exception | None,
    ) -> bool:
        """*response* has come to *job*, and its sender is done; return True if it is the outcome.

        *cause* is why the body was not all sent, if it was not: then a success is no outcome.
        """
        if cause is None or response.status >= 300:
            return self._retries.complete_locked(job, response)
        self._retries.fail_upload_locked(job, response, connection.name, cause)
        return False

    def wake_receiver(self, connection: PooledConnection) -> None:
        """The engine of *connection* has responses to wait for. For its sender."""
        with self._core.transaction():
            if connection.receiver_parked:
                connection.notify_receiver()

    def continue_sending(self, connection: PooledConnection) -> None:
        """The server has asked for the body that it was told to expect."""
        with self._core.transaction():
            connection.notify_sender()

    def wait_for_continue(
        self, connection: PooledConnection, is_waiting: Callable[[], bool]
    ) -> None:
        """Wait while *is_waiting*, for `CONTINUE_TIME` at most, and until the connection ends."""
        with self._core.transaction():
            deadline = Deadline(CONTINUE_TIME)
            while is_waiting() and not connection.is_closing and (left := deadline.remaining()):
                self._wait_as_sender_locked(connection, left)

    def sends_body(self, connection: PooledConnection) -> bool:
        """Return True if the oldest request's body is, or was until now, on its way.

        So may be all of a small request, if it has to wait for a limit of ours.
        """
        with self._core.transaction():
            job = connection.oldest
            upload = job.extras.upload
            if upload is not None and upload.is_sending:
                return True
            until = connection.engine.held_up_until
            if upload is not None:
                until = max(until, connection.body_released_at)
            return job.timeout is not None and monotonic() - until < job.timeout

    # --- receiving --------------------------------------------------------------------------------

    def await_responses(self, connection: PooledConnection) -> bool | None:
        """Wait until there is something to receive; False: the receiver is to end.

        None: it is to be the sender from now on, which is wanted and not there.
        """
        # Stale values do no harm: `receiving` is this very thread's as long as it is True, and what
        # is received from a connection that closes now is its end.
        if connection.receiving and connection.engine.is_awaiting and not connection.is_closing:
            return True  # as it is while there is much to do
        core = self._core
        while True:
            with core.transaction():
                connection.receiving = False
                while not connection.is_closing:
                    connection.receiver_parked = True
                    if connection.engine.is_awaiting and not connection.is_lent:
                        connection.receiver_parked = False
                        connection.receiving = True
                        return True
                    if (
                        connection.phase is Phase.WRITE_FAILED
                        and not connection.sending
                        and not connection.streaming
                    ):
                        self._connections.fail_locked(connection, ConnectionClosed())
                        break
                    if connection.wants_sender:
                        connection.sender_started = True
                        connection.receiver_started = False
                        return None
                    if core.has_follow_ups:
                        break
                    if self._may_end_threads(connection):
                        connection.receiver_started = False
                        return False
                    self._wait_as_receiver_locked(connection)
                    connection.receiver_parked = False
                if connection.is_closing:
                    self._connections.finish_closing_locked(connection)
                    return False

    def counts(self, job: Job, status: int) -> bool:
        """A response to *job*, which may be hedged, begins; return True if it is the one to count.

        If it is, another sending of the request ends. If it is not, or is to be tried again, that
        one may still be.
        """
        with self._core.transaction():
            job.response_started = True
            if not job.is_decided and not self.may_be_retried(job, status):
                self._connections.hedging.keep_locked(job, "another sending was faster")
            return not job.is_decided and job.twin is None

    def responded(
        self,
        connection: PooledConnection,
        done: list[tuple[Job, Response]],
        error: Exception | None,
    ) -> None:
        """Responses have come, in order, and then perhaps an *error*."""
        with self._core.transaction():
            try:
                self._responded_locked(connection, done, error)
            except BaseException as exc:
                # Responses are dealt with one by one: the last that was begun has not been.
                begun = [job for job, _ in done if job not in connection.in_flight]
                lost = [job for job in begun[-1:] if not job.is_decided]
                self.faults.lost_locked(connection, lost, exc)
                raise

    @locked
    def _responded_locked(
        self,
        connection: PooledConnection,
        done: list[tuple[Job, Response]],
        error: Exception | None,
    ) -> None:
        host, exchange, progress = connection.host, None, self._progress
        complete = self._retries.complete_locked
        has_listener = self._core.on_event is not None
        connection.long_response = False
        connection.rate = None
        good = accepted = 0
        progress.count_responses_locked(connection, len(done))
        if done:
            progress.note_time_locked(connection, *done[0])
        in_flight, settlements = connection.in_flight, self._core.settlements
        for job, response in done:
            # As `PooledConnection.take_off`, once more for speed.
            del in_flight[job]
            exchange, job.exchange = job.exchange, None
            if exchange.persistent and exchange.minor_version:
                good += 1
            if host.gate is not None:
                self._connections.responded_locked(host, job, response)
            if job.place is _DONE:
                if job.successor is not None:
                    host.answered -= 1  # its request has, or will have, another response
                continue
            if has_listener:
                progress.emit_answered(connection, job, response)
            if (
                job.extras is NO_EXTRAS
                and response.status < 400
                and job.timer is None
                and (job.flow is None or job.is_accepted)
            ):
                # What `complete_locked` comes to, in fewer steps.
                future = job._future or job.future
                if not future._settle_locked(response):
                    settlements.append((future, response))
                job.place = _DONE  # as `Job.finish`
                accepted += 1
            elif (upload := job.extras.upload) is None:
                accepted += complete(job, response)
            elif upload.is_sending:
                upload.pending_response = response
                if response.status >= 300:  # no more of the body is sent
                    self._core.follow_up(upload.body.interrupt)
            else:
                accepted += self._end_upload_locked(connection, job, response, upload.error)
        if accepted:
            host.has_progressed = True
        if not in_flight:
            connection.idle_since = monotonic()
            # The receiver has to look again, under the lock: others may receive before it does.
            connection.exclusive = connection.receiving = False
        if connection.uploading is not None:
            connection.notify_sender()  # it may wait for 100 (Continue)
        if exchange is not None and not exchange.persistent:
            error = None  # that nothing comes behind the last response is no news
        if error is not None:
            self._connections.fail_locked(connection, error)
        elif exchange is not None:
            progress.learn_locked(connection, exchange, good)

    def begin_body(self, connection: PooledConnection, is_long: bool) -> BodyRate | None:
        """The body of a response is to be received on *connection*, not all of which has come.

        Has nothing sent behind it if it *is_long*. Returns what is to be told how it comes in.
        """
        with self._core.transaction():
            if is_long:
                connection.long_response = True
                connection.host.with_capacity.pop(connection, None)
            return self._rate.watch_locked(connection)


def _is_small(job: Job) -> bool:
    """Return True if the system takes all of *job* at once, though nothing is received."""
    size = len(job.request.url) + len(job.head or b"")
    return job.extras.upload is None and size <= SMALL_HEAD
