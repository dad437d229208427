"""The traffic on the connections of a pool: what their senders and receivers ask and report.

Guarantees: a request is answered once, by the answer that is its own; whoever waits here is woken
by what it waits for, or by the end of the connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from dugong.connection.exchange import Exchange, RequestSide
from dugong.errors import ConnectionClosed, DugongError
from dugong.pool import receiver, sender
from dugong.pool.connections import Connections
from dugong.pool.dispatch import should_refill, take
from dugong.pool.failure import Abandoned, in_words
from dugong.pool.job import Job
from dugong.pool.pipeline import Pipeline
from dugong.pool.response import Response, StreamedResponse, status_text

if TYPE_CHECKING:
    from dugong.pool.receiver import ConnectionBody

__all__ = ["Traffic"]

#: Seconds that a server is given to ask for a body that was announced with Expect.
CONTINUE_TIME = 1.0


class Traffic(Connections):
    """The part of a `dugong.pool.scheduler.Scheduler` for the threads of its connections."""

    def _start_sender(self, pipeline: Pipeline) -> None:
        try:
            self._start_maintenance()
            self._start(partial(sender.run, self, pipeline), f"dugong-{pipeline.name}-send")
        except RuntimeError as exc:
            self.connect_failed(pipeline, exc)

    def _start_maintenance(self) -> None:
        with self.lock:
            if self._maintained:
                return
            self._maintained = True
        try:
            self._start(self._maintain, "dugong-maintenance")
        except RuntimeError:
            self._maintained = False
            raise

    def connected(self, pipeline: Pipeline) -> bool:
        """The sender of *pipeline* has connected it; False: it cannot be used."""
        receive = partial(receiver.run, self, pipeline)
        try:
            self._start(receive, f"dugong-{pipeline.name}-recv")
        except RuntimeError as exc:
            self.connect_failed(pipeline, exc)
            return False
        host = pipeline.host
        with self.lock:
            pipeline.connected = True
            self._tell("opened", host, pipeline.name)
            if host.unreachable:
                host.unreachable = 0
                host.unopenable_until = 0.0
                self._serve_all(host)
        self._do_deferred()
        return True

    def crashed(self, pipeline: Pipeline, exc: BaseException) -> None:
        """One of the threads of *pipeline* has met with what it cannot handle: a bug of ours."""
        error = DugongError(f"internal error: {exc!r}")
        error.__cause__ = exc
        with self.lock:
            pipeline.sending = pipeline.receiving = False
            if pipeline.uploading is not None:
                pipeline.uploading.sending = False
            self._fail(pipeline, error)
        self._do_deferred()

    def next_batch(self, pipeline: Pipeline, error: Exception | None) -> list[Job]:
        """The sender has let go of its last batch; return the next, or [] if it is to end.

        *error* is what the last batch met with.
        """
        host = pipeline.host
        with self.lock:
            self._sent(pipeline, error)
            while not pipeline.ending:
                batch = [] if pipeline.closed_to_more else take(host, pipeline)
                if batch:
                    self._take_off(pipeline, batch)
                    self._unqueue(len(batch))
                    pipeline.sending = True
                    if batch[-1].upload is not None:
                        pipeline.uploading = batch[-1]
                        pipeline.uploading.sending = True
                    if pipeline.exclusive and host.queued:
                        self._serve_all(host)  # what stood behind it may go now
                    break
                pipeline.sender_parked = True
                self._place(pipeline)
                if self._deferred or pipeline.ending:
                    # Not with the lock in hand.
                    pipeline.sender_parked = False
                    self.lock.release()
                    self._do_deferred()
                    self.lock.acquire()
                    self._leave_idle(pipeline)  # as long as it may still find something to do
                    host.roomy.pop(pipeline, None)
                    continue
                pipeline.work.wait()
                pipeline.sender_parked = False
            else:
                batch = []
                self._settle_if_unused(pipeline)
        if self._deferred:
            self._do_deferred()
        return batch

    def _sent(self, pipeline: Pipeline, error: Exception | None) -> None:
        pipeline.sending = False
        job, pipeline.uploading = pipeline.uploading, None
        if job is not None:
            job.sending = False
            pipeline.let_go_at = monotonic()
            if job.done:
                self.let_go.notify_all()
            elif (outcome := job.outcome) is not None:
                job.outcome = None
                if self._is_outcome(job, outcome, pipeline.name):
                    pipeline.host.accepted += 1
                    self._finish(job, outcome)
        if error is None:
            return
        closed = isinstance(error, ConnectionClosed)
        if not pipeline.ending:
            pipeline.broken = True
            unread = pipeline.receiving or pipeline.session.unread
            if not unread or not closed:
                self._fail(pipeline, error)
        elif not closed and type(pipeline.failure) is ConnectionClosed:
            # All that the receiver knows is that the connection was shut: by us, for this reason.
            pipeline.failure, pipeline.end_reason = error, in_words(error)

    def _take_off(self, pipeline: Pipeline, batch: Sequence[Job]) -> None:
        host = pipeline.host
        now = monotonic()
        for job in batch:
            job.pipeline = pipeline
            job.since = now
            job.answering = False
            job.exchange = None
        first = batch[0]
        pipeline.exclusive = first.alone or first.suspect
        pipeline.in_flight.extend(batch)
        count = len(batch)
        if self.on_event is not None:
            for job in batch:
                self._tell("sent", host, pipeline.name, job.request)
        pipeline.sent += count
        host.note_time(now)
        host.in_flight += count
        host.sent += count

    def await_arrivals(self, pipeline: Pipeline) -> bool:
        """Wait until there is something to receive; False: the receiver is to end."""
        session = pipeline.session
        if (
            pipeline.receiving
            and session.state.awaiting_response
            and not (pipeline.ending or pipeline.streaming)
        ):
            return True  # which is the case as long as there is much to do
        with self.lock:
            pipeline.receiving = False
            while not pipeline.ending:
                pipeline.receiver_parked = True
                lent = pipeline.borrower is not None or pipeline.streaming
                if session.state.awaiting_response and not lent:
                    pipeline.receiver_parked = False
                    pipeline.receiving = True
                    return True
                if pipeline.broken and not pipeline.sending and not pipeline.streaming:
                    self._fail(pipeline, ConnectionClosed())
                    break
                pipeline.arrivals.wait()
                pipeline.receiver_parked = False
            self._settle_if_unused(pipeline)
        self._do_deferred()
        return False

    def answered(
        self, pipeline: Pipeline, done: list[tuple[Job, Response]], error: Exception | None
    ) -> None:
        """Answers have come, in order, and then perhaps an *error*."""
        resolved: list[tuple[Job, Response]] = []
        with self.lock:
            borrowed = pipeline.borrower is not None  # which it may be by another soon
            pipeline.blocked = False
            good = 0
            self._count_answers(pipeline, len(done))
            for job, response in done:
                pipeline.in_flight.popleft()
                exchange = job.exchange
                assert exchange is not None
                if exchange.persistent and exchange.minor_version:
                    good += 1
                if job.done:
                    continue
                if self.on_event is not None:
                    self._tell_answered(pipeline, job, response)
                if job.sending:
                    job.outcome = response
                    continue
                if response.status >= 400 and not self._is_outcome(job, response, pipeline.name):
                    continue
                job.done = True
                if job.timer is not None:
                    self._timers.cancel(job.timer)
                if job.upload is not None:
                    job.release()
                resolved.append((job, response))
            pipeline.host.accepted += len(resolved)
            if not pipeline.in_flight:
                # The receiver has to look again, under the lock: others may receive before it does.
                pipeline.exclusive = pipeline.receiving = False
            if pipeline.uploading is not None:
                pipeline.work.notify()  # at the gate, perhaps
            if done and exchange is not None and not exchange.persistent:
                error = None  # that nothing comes behind the last answer is no news
            if error is not None:
                self._fail(pipeline, error)
            elif done:
                assert exchange is not None
                self._learn(pipeline, exchange, good)
        for job, response in resolved:
            job.future._resolve(response)
        # Who has borrowed the connection gives it back first: what is called may want to use it.
        if self._deferred and not borrowed:
            self._do_deferred()

    def answered_directly(
        self, pipeline: Pipeline, job: Job, exchange: Exchange, response: Response
    ) -> bool:
        """The thread that has borrowed *pipeline* for *job* has its answer, and gives it back.

        Returns False if it is too late: the future of *job* says why.
        """
        host = pipeline.host
        with self.lock:
            pipeline.borrower = None
            pipeline.exclusive = False
            pipeline.in_flight.popleft()
            self._count_answers(pipeline, 1)
            host.accepted += 1
            done, job.done = job.done, True
            if self.on_event is not None and not done:
                self._tell_answered(pipeline, job, response)
            lessons = host.lessons
            if (
                exchange.persistent
                and exchange.minor_version
                and lessons.nothing_to_learn
                and pipeline.as_new
                and not (host.queued or self.wanting)
            ):
                # As _learn and _place would have it, which would be most of the cost.
                self._enter_idle(pipeline)
            else:
                good = exchange.persistent and exchange.minor_version > 0
                self._learn(pipeline, exchange, int(good))
                if host.queued and not pipeline.ending:
                    self._serve(host)
        if self._deferred:
            self._do_deferred()
        if not done:
            job.future._owner = None  # who is nobody's any more
        return not done

    def _tell_answered(
        self, pipeline: Pipeline, job: Job, response: Response | StreamedResponse
    ) -> None:
        reason = status_text(response)
        self._tell("answered", pipeline.host, pipeline.name, job.request, reason)

    def _count_answers(self, pipeline: Pipeline, count: int) -> None:
        pipeline.answered += count
        pipeline.host.answered += count
        pipeline.host.in_flight -= count

    def _learn(self, pipeline: Pipeline, last: Exchange, good: int) -> None:
        """Draw the lessons of answers, of which *last* was the last, and go on or end."""
        host = pipeline.host
        lessons = host.lessons
        if good:
            lessons.answered(good, monotonic())
        before = lessons.lesson, lessons.quota
        if not last.minor_version:
            lessons.old_version(monotonic())
            self._tell_learned(pipeline, *before)
        if last.persistent and not pipeline.in_flight and pipeline.session.state.buffer:
            # It has sent more than it was asked for, perhaps an answer twice (rule 1).
            lessons.broke_the_rules(monotonic())
            self._tell_learned(pipeline, *before)
            self._end(pipeline, "it has sent more than it was asked for")
        elif not last.persistent:
            self._end(pipeline)
        elif pipeline.sender_parked:
            if pipeline.reserved is not None:
                if not pipeline.in_flight:
                    self._wake_sender(pipeline)
            elif should_refill(host, pipeline) and not pipeline.closed_to_more:
                self._wake_sender(pipeline)
            else:
                self._place(pipeline)

    def sends_body(self, pipeline: Pipeline) -> bool:
        """Return True if the oldest request's body is, or was until now, on its way."""
        with self.lock:
            job = pipeline.in_flight[0]
            timeout = job.timeout
            return job.upload is not None and (
                job.sending or (timeout is not None and monotonic() - pipeline.let_go_at < timeout)
            )

    def block(self, pipeline: Pipeline) -> None:
        """A long answer is coming in on *pipeline*: have nothing sent behind it."""
        with self.lock:
            pipeline.blocked = True
            pipeline.host.roomy.pop(pipeline, None)

    def open_gate(self, pipeline: Pipeline) -> None:
        """The server has asked for the body that it was told to expect."""
        with self.lock:
            pipeline.work.notify()

    def wait_at_gate(self, pipeline: Pipeline, exchange: Exchange) -> None:
        """Wait for an answer to *exchange*, for `CONTINUE_TIME`, or for the connection's end."""
        with self.lock:
            end = monotonic() + CONTINUE_TIME
            while (
                exchange.request_side is RequestSide.CONTINUE
                and not pipeline.ending
                and (left := end - monotonic()) > 0
            ):
                pipeline.work.wait(left)

    def hand_over(
        self, pipeline: Pipeline, job: Job, answer: StreamedResponse, source: ConnectionBody
    ) -> bool:
        """Let the caller of *job* read the body from the connection; False if nobody wants it."""
        with self.lock:
            if job.done:
                return False
            job.done = True
            job.reading = source
            pipeline.streaming = True
            pipeline.receiving = False
            pipeline.host.accepted += 1
            if self.on_event is not None:
                self._tell_answered(pipeline, job, answer)
                if self.may_not_be_outcome(job, answer.status):
                    reason = f"{status_text(answer)}; its body is too long to be let go of"
                    self._tell("gave up", pipeline.host, pipeline.name, job.request, reason)
        job.future._resolve(answer)
        if self._deferred:
            self._do_deferred()
        return True

    def end_stream(self, pipeline: Pipeline, job: Job, complete: bool) -> None:
        """The caller of *job* reads no more; *complete* says if the body was read to its end."""
        with self.lock:
            if job.timer is not None:
                self._timers.cancel(job.timer)
            exchange = job.exchange
            assert exchange is not None
            if not complete:
                self._fail(pipeline, Abandoned())
            try:
                # Until whoever reads the request's body has let go of it, unless that is us.
                while job.sending and not self.is_own_thread():
                    self.let_go.wait()
                job.release()
            finally:  # also if the wait is interrupted
                pipeline.streaming = False
                if complete:
                    pipeline.in_flight.popleft()
                    self._count_answers(pipeline, 1)
                    pipeline.exclusive = False
                if pipeline.ending:
                    self._settle_if_unused(pipeline)
                elif pipeline.broken:
                    self._end(pipeline)
                else:
                    good = exchange.persistent and exchange.minor_version > 0
                    self._learn(pipeline, exchange, int(good))
        self._do_deferred()
