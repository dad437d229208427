"""The connections of a pool: when one is opened, what it could take, and how it ends.

Guarantees: as long as a request is queued, somebody is on the way to take it; there are never more
connections than allowed; the requests of a connection that ends are each put back or failed, once.

A connection is ended in two steps: `_fail` or `_end` see to it that whoever is at work on it hears
of it, and the last one to leave settles what becomes of its requests (`_settle_if_unused`).
"""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from time import monotonic

from dugong.connection.exchange import RequestSide
from dugong.errors import (
    ConnectionClosed,
    Delivery,
    DugongError,
    InvalidResponse,
    PoolClosed,
    ResponseTooLarge,
    UnsupportedResponse,
)
from dugong.pool.dispatch import has_room, wants_connection
from dugong.pool.failure import Abandoned, failure, forget_frames, in_words
from dugong.pool.host import Host
from dugong.pool.job import Job
from dugong.pool.pipeline import Pipeline
from dugong.pool.resending import Resending
from dugong.pool.retry import objection

__all__ = ["Connections"]

#: Seconds for which no further connection is opened to a host after one could not be.
REOPEN_TIME = 1.0
#: Seconds after which an idle connection gives its receive buffer back.
RELEASE_TIME = 1.0
#: Seconds that a connection may be used while hosts that have none wait for room.
TURN_TIME = 1.0
#: How many hosts without connections and requests are remembered, for what they have taught us.
MAX_KNOWN_HOSTS = 4096

# They say what has become of one request, and nothing of those behind it.
_ABOUT_ONE_REQUEST = (Abandoned, InvalidResponse, ResponseTooLarge, UnsupportedResponse)


class Connections(Resending):
    """The part of a `dugong.pool.scheduler.Scheduler` that opens and ends connections."""

    @abstractmethod
    def _start_sender(self, pipeline: Pipeline) -> None:
        """Start the sender's thread of *pipeline*. Called without the lock."""

    @abstractmethod
    def _maintain(self) -> None:
        """Do what is to be done at a certain time. For a thread that does nothing else."""

    def know(self, host: Host) -> Host:
        """Remember *host*, and return it, or what is known of the same origin already."""
        with self.lock:
            return self._know(host)

    def _know(self, host: Host) -> Host:
        host = self.hosts.setdefault(host.origin, host)
        self.hosts.move_to_end(host.origin)
        for _ in range(2):  # so that those which are in use, and stay, do not make it ever more
            if len(self.hosts) > MAX_KNOWN_HOSTS:
                self._forget(next(iter(self.hosts.values())))
        return host

    def _forget(self, host: Host) -> None:
        if not host.unused:
            self.hosts.move_to_end(host.origin)
            return
        del self.hosts[host.origin]
        for index, count in enumerate((host.sent, host.answered, host.resent)):
            self.past[index] += count

    def _serve(self, host: Host) -> None:
        """See to it that somebody takes the request that has been queued last."""
        if host.held:
            return
        if host.suspects:
            self._serve_suspect(host)
            if not host.queue:
                return
        if host.idle:
            self._wake_sender(self._pop_idle(host))
            return
        limit = self.limits.max_connections_per_host
        if len(host.pipelines) < limit and wants_connection(host, limit, monotonic()):
            self._open(host)
        if host.roomy:
            self._wake_sender(next(reversed(host.roomy)))

    def _serve_suspect(self, host: Host) -> None:
        """See to it that a connection which has not been used takes the next one that needs it."""
        unused = next((pipeline for pipeline in host.pipelines if not pipeline.sent), None)
        if unused is not None:
            if unused in host.idle:  # or else it will take the request once it is connected
                self._leave_idle(unused)
                self._wake_sender(unused)
        elif wants_connection(host, self.limits.max_connections_per_host, monotonic()):
            self._open(host)
        elif host.idle:
            self._wake_sender(self._pop_idle(host))  # to make room

    def _serve_all(self, host: Host) -> None:
        """See to it that requests which are queued are taken, however many there are."""
        for _ in range(min(host.queued, self.limits.max_connections_per_host)):
            self._serve(host)

    def _enter_idle(self, pipeline: Pipeline) -> None:
        pipeline.idle_since = monotonic()
        pipeline.host.idle[pipeline] = None
        self.idle[pipeline] = None

    def _leave_idle(self, pipeline: Pipeline) -> None:
        pipeline.host.idle.pop(pipeline, None)
        self.idle.pop(pipeline, None)

    def _pop_idle(self, host: Host) -> Pipeline:
        pipeline, _ = host.idle.popitem()  # the one used last
        del self.idle[pipeline]
        return pipeline

    def _wake_sender(self, pipeline: Pipeline) -> None:
        pipeline.host.roomy.pop(pipeline, None)
        if pipeline.sender_parked:
            pipeline.sender_parked = False
            pipeline.work.notify()

    def _open(self, host: Host) -> None:
        if self.closed:
            return
        if self.connections >= self.limits.max_connections:
            self._make_room()
        if self.connections >= self.limits.max_connections:  # still, or again
            self._want(host)
            return
        now = monotonic()
        pipeline = Pipeline(
            host, self.lock, partial(self.dial, host.origin), now, self.limits.max_requests
        )
        host.pipelines[pipeline] = None
        if self.limits.max_age is not None:
            retire = partial(self._retire, pipeline)
            pipeline.age_timer = self._at(now + self.limits.max_age, retire)
        self.connections += 1
        self.opened += 1
        self._deferred.append(partial(self._start_sender, pipeline))

    def _make_room(self) -> None:
        """End the longest idle connection, of whatever host."""
        longest = next(iter(self.idle), None)
        if longest is not None:
            self._end(longest, "it made room for another host")

    def _want(self, host: Host) -> None:
        """Remember that *host* should have a connection, which there is no room for."""
        self.wanting[host] = None
        if not self._taking_turns:
            self._taking_turns = True
            self._at(monotonic() + TURN_TIME, self._take_turns)

    def _take_turns(self) -> None:
        """Have connections that have had their turn make room for hosts that have none."""
        starving = sum(not host.pipelines for host in self.wanting)
        self._taking_turns = starving > 0
        if not starving:
            return
        now = monotonic()
        had_their_turn = [
            pipeline
            for host in self.hosts.values()
            for pipeline in host.pipelines
            if pipeline.opened <= now - TURN_TIME and not pipeline.retiring
        ]
        # First of those who have most; of these, the oldest.
        had_their_turn.sort(key=lambda pipeline: (-len(pipeline.host.pipelines), pipeline.opened))
        for pipeline in had_their_turn[:starving]:
            self._retire(pipeline)
        self._at(now + TURN_TIME, self._take_turns)

    def _somebody_wants(self, now: float) -> bool:
        """Return True if a host still wants a connection that there is no room for."""
        limit = self.limits.max_connections_per_host
        while self.wanting:
            first = next(iter(self.wanting))
            if wants_connection(first, limit, now):
                return True
            del self.wanting[first]
        return False

    def connect_failed(self, pipeline: Pipeline, error: Exception) -> None:
        """*pipeline* could not be connected."""
        host = pipeline.host
        with self.lock:
            pipeline.sending = False
            if len(host.pipelines) == 1:
                self._cannot_reach(host, pipeline.name, error)
            else:
                host.unopenable_until = monotonic() + REOPEN_TIME
                host.trust_suspects()
            self._end(pipeline, f"it could not be connected: {in_words(error)}")
            # The others may be held for long; what is queued until then is not forgotten either.
            self._at(host.unopenable_until, partial(self._serve_all, host))
        forget_frames(error)
        self._do_deferred()

    def _place(self, pipeline: Pipeline) -> None:
        """Note what *pipeline* could take. Called whenever that may have changed."""
        host = pipeline.host
        host.roomy.pop(pipeline, None)
        self._leave_idle(pipeline)
        if not pipeline.sender_parked:
            return
        if pipeline.used_up and not pipeline.in_flight and not pipeline.ending:
            self._end(pipeline, "it was retired")
        if pipeline.closed_to_more or pipeline.reserved is not None:
            return
        room = has_room(host, pipeline)
        if pipeline.in_flight:
            if room:
                host.roomy[pipeline] = None
            return
        now = monotonic()
        if not room:
            host.lessons.quota = None  # the host would have closed the connection
            self._end(pipeline, "the host would have closed it")
        elif self.wanting and (host.held or not host.queued) and self._somebody_wants(now):
            self._end(pipeline, "it made room for another host")
        else:
            self._enter_idle(pipeline)
            if pipeline.idle_timer is None:
                first_look = min(RELEASE_TIME, self.limits.idle_timeout)
                look = partial(self._watch_idle, pipeline)
                pipeline.idle_timer = self._at(now + first_look, look)

    def _retire(self, pipeline: Pipeline) -> None:
        """Have *pipeline*, which has reached its age, take nothing more and end between answers."""
        pipeline.retiring = True
        if not pipeline.ending:
            self._place(pipeline)

    def _watch_idle(self, pipeline: Pipeline) -> None:
        """Have an idle connection give back its memory after a while, and close it after longer."""
        pipeline.idle_timer = None
        if pipeline not in self.idle:
            return
        idle_for = monotonic() - pipeline.idle_since
        idle_timeout = self.limits.idle_timeout
        if idle_for >= idle_timeout:
            self._end(pipeline, "it was idle for too long")
            return
        if idle_for >= RELEASE_TIME:
            pipeline.session.state.buffer.release()
            next_look = pipeline.idle_since + idle_timeout
        else:
            next_look = pipeline.idle_since + min(RELEASE_TIME, idle_timeout)
        pipeline.idle_timer = self._at(next_look, partial(self._watch_idle, pipeline))

    def _end(self, pipeline: Pipeline, reason: str = "the server ended it") -> None:
        """End *pipeline* in good order: what is in flight there will not be answered."""
        if not pipeline.ending:
            pipeline.end_reason = reason
        pipeline.ending = True
        self._leave_idle(pipeline)
        pipeline.host.roomy.pop(pipeline, None)
        pipeline.session.abort()
        pipeline.work.notify()
        pipeline.arrivals.notify()
        self._settle_if_unused(pipeline)

    def _fail(self, pipeline: Pipeline, error: Exception) -> None:
        """End *pipeline* because of *error*."""
        if not pipeline.ending:
            pipeline.failure = error
        self._end(pipeline, in_words(error))

    def _settle_if_unused(self, pipeline: Pipeline) -> None:
        """Decide what becomes of the requests of a connection that has ended."""
        if pipeline.settled or not pipeline.unused:
            return
        pipeline.settled = True
        host = pipeline.host
        del host.pipelines[pipeline]
        if not (host.pipelines or host.unreachable):
            host.unopenable_until = 0.0  # there was no hurry only as long as there were others
        self.connections -= 1
        self.ended += 1
        jobs = list(pipeline.in_flight)
        verdicts = [self._delivery(pipeline, job) for job in jobs]
        pipeline.in_flight.clear()
        host.in_flight -= len(jobs)
        self._learn_from_end(pipeline, verdicts)
        self._tell("closed", host, pipeline.name, reason=pipeline.end_reason)
        back: list[Job] = []
        first = True
        for job, verdict in zip(jobs, verdicts, strict=True):
            if not job.done and self._lost(pipeline, job, verdict, first):
                back.append(job)
            first = False
        for timer in (pipeline.age_timer, pipeline.idle_timer):
            if timer is not None:
                self._timers.cancel(timer)
        forget_frames(pipeline.failure)
        reserved, pipeline.reserved = pipeline.reserved, None
        if reserved is not None and self.closed:
            self._unqueue(1)
            self._end_closed(reserved)
        elif reserved is not None:
            reserved.pipeline = None
            host.put_back([reserved])
        self._queue_again(back)  # before the reserved one, which stood behind them
        while self.wanting and (self.connections < self.limits.max_connections or self.idle):
            wanting = next(iter(self.wanting))
            del self.wanting[wanting]
            self._serve_all(wanting)
        self._serve_all(host)

    def _lost(self, pipeline: Pipeline, job: Job, verdict: Delivery, first: bool) -> bool:
        """See to *job*, whose connection has ended; return True if it goes back to the queue.

        Only the *first* request that was not answered can be why the connection ended; the others
        are not charged. But as nobody knows for sure, they go alone from now on: one that ends its
        connections each time runs out of attempts without taking others along.
        """
        cause = pipeline.failure
        if job.error is not None:
            error = failure(job.error, verdict)
            self._give_up(job, error, pipeline.name, "it cannot be tried again")
            return False
        # An end of our own making is nobody's fault who is left: it concerned one that is done.
        blameless = cause is None or isinstance(cause, Abandoned)
        stale = isinstance(cause, ConnectionClosed) and verdict is not Delivery.ANSWER_STARTED
        charged = first and not blameless
        if stale and verdict is Delivery.UNSENT:
            # An idle connection that the server has closed. If a fresh one ends before its first
            # request, that is not to go on for ever.
            charged = charged and job.suspect and not pipeline.answered
        if not first and isinstance(cause, _ABOUT_ONE_REQUEST):
            cause = ConnectionClosed(
                f"the connection has ended because of another request: {cause}"
            )
        error = failure(cause or ConnectionClosed(), verdict)
        attempt = self._attempt(job, pipeline.name, pipeline.end_reason, verdict, charged)
        attempt = attempt._replace(exception=error)
        job.pipeline = None
        if charged:
            # An idle connection that the server closes at the moment when it is used looks like
            # this. That of a fresh one, or a second time, is not what has happened.
            at_once = stale and bool(pipeline.answered) and not job.suspect
            job.suspect = True
            delay = 0.0 if at_once else job.retry.delay(attempt.number)
            self._consider(job, error, attempt, delay)
            return False
        against = objection(job.retry, job.request, attempt, job.rewindable)
        if self.closed or against is not None:
            self._give_up(job, error, pipeline.name, against or "the pool has been closed")
            return False
        job.alone = job.alone or not (blameless or verdict is Delivery.UNSENT)
        job.suspect = job.suspect or (first and not pipeline.answered and not blameless)
        job.attempts += (attempt._replace(request=None),)
        self._tell("resent", pipeline.host, pipeline.name, job.request, pipeline.end_reason)
        return True

    def _learn_from_end(self, pipeline: Pipeline, verdicts: list[Delivery]) -> None:
        failure, lessons = pipeline.failure, pipeline.host.lessons
        before = lessons.lesson, lessons.quota
        now = monotonic()
        unanswered = sum(verdict is not Delivery.UNSENT for verdict in verdicts)
        if failure is None:
            if pipeline.session.state.last_response_reason is not None:
                lessons.closed(pipeline.answered, unanswered, now)
        elif isinstance(failure, InvalidResponse) and unanswered > 1:
            lessons.broke_the_rules(now)
        elif isinstance(failure, (Abandoned, ResponseTooLarge, PoolClosed)):
            pass  # our own doing
        elif unanswered and isinstance(failure, (DugongError, OSError)):
            lessons.died(pipeline.answered, unanswered, now)
        self._tell_learned(pipeline, *before)

    def _tell_learned(self, pipeline: Pipeline, lesson: str | None, quota: int | None) -> None:
        """Tell what the host has taught us since we knew that *lesson* and *quota*, if anything."""
        lessons = pipeline.host.lessons
        reason = None
        if lessons.quota != quota:
            reason = f"it closes a connection after {lessons.quota} answers"
        elif lessons.lesson != lesson:
            reason = lessons.lesson
        if reason is not None:
            self._tell("learned", pipeline.host, pipeline.name, reason=reason)

    def _delivery(self, pipeline: Pipeline, job: Job) -> Delivery:
        """Return how far *job*, which is in flight on *pipeline*, has got."""
        if job.exchange is None or job.exchange.delivery is Delivery.UNSENT:
            return Delivery.UNSENT
        if pipeline.failure is None and pipeline.session.state.said_close:
            return Delivery.DISCLAIMED  # RFC 9112 §9.6
        bad_answer = isinstance(pipeline.failure, (InvalidResponse, UnsupportedResponse))
        begun = job.answering or bad_answer or pipeline.session.state.buffer
        if begun and job is pipeline.in_flight[0]:
            return Delivery.ANSWER_STARTED
        delivery = job.exchange.delivery
        if delivery is Delivery.SENT and job.exchange.request_side is not RequestSide.SENT:
            return Delivery.PARTLY_SENT  # the head was, but not all of the body
        return delivery
