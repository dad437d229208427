"""What callers do on a connection by themselves: read a body as it comes, or make one request.

Guarantees: while a connection is lent, no thread of the pool sends or receives on it, but for the
sender of the body of a streamed request. It is given back, or ends, whatever interrupts the caller.
While a caller makes a request, it alone gives the connection back, though other threads may end
that at any moment: no other thread knows of the request, so none can cancel it.
"""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from dugong.pool.core.connection import Phase, PooledConnection
from dugong.pool.core.connections import ConnectionManager
from dugong.pool.core.core import PoolCore, do_nothing
from dugong.pool.core.emitting import emit_of
from dugong.pool.core.job import Job, Place
from dugong.pool.core.locked import locked
from dugong.pool.core.maintenance import Maintenance
from dugong.pool.core.progress import Progress
from dugong.pool.core.rate import RateLimit
from dugong.pool.core.retries import RetryEngine
from dugong.pool.failure import Abandoned
from dugong.pool.response import Response, StreamedResponse, status_text

if TYPE_CHECKING:
    from dugong.pool.io.receiver import ConnectionBody

__all__ = ["Lending"]

_DONE, _OPEN = Place.DONE, Phase.OPEN  # members are looked up slowly in their class

#: Of so many responses to lone requests, the time of one is noted. That they are alike is the rule.
_SAMPLED = 8


class Lending:
    """The connections of a pool in the hands of callers."""

    def __init__(
        self,
        core: PoolCore,
        maintenance: Maintenance,
        retries: RetryEngine,
        connections: ConnectionManager,
        progress: Progress,
        rate: RateLimit,
    ) -> None:
        # None of these ever changes.
        self._core = core
        self._maintenance = maintenance
        self._retries = retries
        self._connections = connections
        self._progress = progress
        self._rate = rate

    # --- streams ----------------------------------------------------------------------------------

    def hand_over(
        self,
        connection: PooledConnection,
        job: Job,
        response: StreamedResponse,
        source: ConnectionBody,
    ) -> bool:
        """Let the caller of *job* read the body from the connection; False if it is not wanted."""
        upload = job.extras.upload
        with self._core.transaction():
            is_cut = upload is not None and upload.error is not None
            if job.is_decided or (is_cut and response.status < 300):
                return False
            job.body_source = source
            source.rate = self._rate.watch_locked(connection)
            connection.receiving = False
            connection.host.has_progressed = True
            if connection.host.gate is not None:
                self._connections.responded_locked(connection.host, job, response)
            if self._core.on_event is not None:
                self._progress.emit_answered(connection, job, response)
                if self._retries.may_be_retried(job, response.status):
                    reason = f"{status_text(response)}; its body is too long to be let go of"
                    emit_of(self._core, "gave up", job, connection.name, reason, response)
            self._retries.complete_locked(job, response)
            # Last, or an interrupt of a caller would leave a connection whose stream never ends.
            connection.streaming = True
        return True

    def end_stream(self, connection: PooledConnection, job: Job, complete: bool) -> None:
        """The caller of *job* reads no more; *complete* says if the body was read to its end."""
        try:
            end = partial(self._end_stream, connection, complete)
            self._core.protect(end, do_nothing, job)
        except BaseException:
            self.abort_stream(connection, job)
            raise

    def _end_stream(self, connection: PooledConnection, complete: bool, job: Job) -> None:
        core = self._core
        with core.transaction():
            if job.place is not Place.STREAMING:
                return
            if not complete:
                self._connections.fail_locked(connection, Abandoned())
        # What waits for the sender to let go of the request's body must not keep it from that.
        with core.transaction():
            self._wait_for_sender_locked(job)
            self._end_stream_locked(connection, job, complete)

    @locked
    def _wait_for_sender_locked(self, job: Job) -> None:
        core, upload = self._core, job.extras.upload
        while upload is not None and upload.is_sending and not core.threads.is_own():
            core.wait(core.body_released)

    def wait_for_sender(self, job: Job) -> None:
        """Wait until the sender, which has ended the connection of *job*, has said why."""
        self._core.protect(self._wait_for_sender, do_nothing, job)

    def _wait_for_sender(self, job: Job) -> None:
        with self._core.transaction():
            self._wait_for_sender_locked(job)

    def abort_stream(self, connection: PooledConnection, job: Job) -> None:
        """End the stream of *job*, if it goes on, with its connection; wait for nothing."""
        with self._core.transaction():
            if job.place is Place.STREAMING:
                self._connections.fail_locked(connection, Abandoned())
                self._end_stream_locked(connection, job, complete=False)

    def interrupt_stream(self, job: Job) -> None:
        """Have a thread that waits for the body of *job* fail; the stream is still to be ended."""
        with self._core.transaction():
            if job.place is Place.STREAMING and job.connection is not None:
                self._connections.fail_locked(job.connection, Abandoned())

    @locked
    def _end_stream_locked(self, connection: PooledConnection, job: Job, complete: bool) -> None:
        # The place of the job changes last, so that what an interrupt leaves can be told.
        if job.place is not Place.STREAMING:
            return
        if job.timer is not None:  # only now: the deadline ends the wait for the sender, too
            self._maintenance.cancel_locked(job.timer)
        upload = job.extras.upload
        if upload is not None and not upload.is_sending:
            upload.body.release()
        connection.rate = None
        exchange = job.exchange
        if complete:
            connection.take_off(job)
            self._progress.count_responses_locked(connection, 1)
            connection.exclusive = False
            connection.idle_since = monotonic()
        connection.streaming = False
        job.end_streaming()
        # Both refer to the job, and that to the pool, which would wait for the garbage collector.
        job.body_source = job.connection = None
        if connection.is_closing:
            self._connections.finish_closing_locked(connection)
        elif connection.phase is Phase.WRITE_FAILED:
            self._connections.close_locked(connection)
        else:
            good = exchange.persistent and exchange.minor_version > 0
            self._progress.learn_locked(connection, exchange, int(good))

    # --- one request in the thread of its caller --------------------------------------------------

    def borrow(self, job: Job) -> PooledConnection | None:
        """Return an idle connection on which the calling thread may do *job* by itself.

        None if there is none. The job is in flight then, and the connection is to be given back.
        """
        host = job.host
        core = self._core
        if core.closed:  # which is never unset
            return None
        core.begin()
        try:
            if host.queued or (host.gate is not None and host.is_shut(monotonic())) or core.closed:
                connection = None
            else:
                connection = self._connections.pop_idle_locked(host)
            if connection is None:
                pass
            elif connection.keep_alive is not None and connection.is_stale(monotonic()):
                self._connections.close_locked(connection, "it was idle for too long")
                connection = None
            else:
                # First, for `Scheduler.check_may_wait_for` reads both without the lock.
                connection.borrowed_by = core.owner
                connection.borrower = job
                self._progress.mark_in_flight_locked(connection, (job,))
        except BaseException as exc:
            core.fail(exc)
            raise
        core.end()
        return connection

    def give_back(self, connection: PooledConnection, error: Exception | None = None) -> None:
        """End what `borrow` began; *error* is why the connection cannot be used any more."""
        with self._core.transaction():
            job, connection.borrower = connection.borrower, None
            if job is not None:
                _ = job.future  # which the caller will wait for: see there
                if connection.phase is Phase.CLOSED and not job.is_decided:
                    # A signal handler has forked in the middle of `borrow`, and this is the child:
                    # only its caller knows of the request.
                    self._retries.close_locked(job)
            if error is not None:
                self._connections.fail_locked(connection, error)
            if connection.is_closing:
                self._connections.finish_closing_locked(connection)
            elif connection.phase is Phase.WRITE_FAILED:
                self._connections.close_locked(connection)
            else:
                self._connections.update_availability_locked(connection)
                if connection.host.queued:
                    self._connections.ensure_served_locked(connection.host)

    def responded_to_caller(
        self, connection: PooledConnection, job: Job, response: Response, now: float
    ) -> bool:
        """The caller that has borrowed *connection* has its response *now*, and gives it back.

        Takes the response itself, unless this returns False: then it is too late, and the future of
        *job* says why.
        """
        host = connection.host
        core = self._core
        core.begin()
        try:
            connection.exclusive = False
            connection.idle_since = now
            # As `PooledConnection.take_off`, once more for speed.
            del connection.in_flight[job]
            exchange = job.exchange
            job.exchange = None
            host.answered += 1
            host.in_flight -= 1
            host.has_progressed = True
            if host.gate is not None:
                self._connections.responded_locked(host, job, response)
            in_time = job.place is not _DONE
            if in_time:
                if core.on_event is not None:
                    self._progress.emit_answered(connection, job, response)
                # As `Job.finish`: there is no future to tell, no timer, and no body to release.
                job.place = _DONE
            connection.borrower = None  # last, so that an interrupt leaves it to `abandon`
            if (
                exchange.persistent
                and exchange.minor_version
                and host.pipelining.has_nothing_to_learn()
                and connection.phase is _OPEN
                and connection.idle_timer is not None
                and connection.max_requests is None
                and connection.engine.is_at_rest(connection.keep_alive)
                and not (host.queued or core.awaiting_connection)
            ):
                # What the other branch would come to, at a fraction of its cost: it enters idle.
                host.idle[connection] = core.idle[connection] = None
                if connection.dispatched % _SAMPLED == 0:
                    host.pipelining.took(now - job.dispatched_at, True)
            else:
                host.pipelining.took(now - job.dispatched_at, True)
                good = exchange.persistent and exchange.minor_version > 0
                self._progress.learn_locked(connection, exchange, int(good))
                if connection.is_closing:  # another thread may have begun that, but not ended it
                    self._connections.finish_closing_locked(connection)
                elif host.queued:
                    self._connections.ensure_served_locked(host)
        except BaseException as exc:
            core.fail(exc)
            raise
        core.end()
        return in_time
