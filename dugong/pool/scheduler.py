"""The one lock of a pool, and all that is decided under it.

Guarantees: a request is in one place (the queue, one connection, or done), and its future is
resolved once; whoever waits here is woken by what it waits for, by a timer or by `close`; nothing
blocks while the lock is held. Futures are resolved and threads started after it has been released.

A connection is ended in two steps: `_fail` or `_end` see to it that whoever is at work on it hears
of it, and the last one to leave settles what becomes of its requests (`_settle`).
"""

from __future__ import annotations

import copy
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from threading import Condition, Lock, Thread
from time import monotonic
from typing import NamedTuple

from dugong.connection.exchange import Exchange, HTTPResponse, RequestSide
from dugong.connection.polling import Coroutine
from dugong.connection.transport import Transport
from dugong.errors import (
    ConnectionClosed,
    ConnectionTimedOut,
    Delivery,
    InvalidResponse,
    PoolClosed,
    PoolFull,
    ResponseTooLarge,
    StateError,
)
from dugong.pool import receiver, sender
from dugong.pool.dispatch import has_room, should_refill, take, wants_connection
from dugong.pool.host import Host
from dugong.pool.job import Job
from dugong.pool.pipeline import Pipeline
from dugong.pool.request import Origin
from dugong.pool.response import Attempt, Response, StreamedResponse
from dugong.pool.statistics import (
    ConnectionStatistics,
    Holding,
    HostStatistics,
    PoolStatistics,
)
from dugong.pool.timers import Timer, Timers

__all__ = ["Limits", "Scheduler"]

#: Seconds that a server is given to ask for a body that was announced with Expect.
CONTINUE_TIME = 1.0
#: Seconds that the answer to a request that was cancelled may take before its connection is closed.
DRAIN_TIME = 1.0
#: Seconds for which no further connection is opened to a host after one could not be.
REOPEN_TIME = 1.0
#: Seconds after which an idle connection gives its receive buffer back.
RELEASE_TIME = 1.0
#: Seconds that `close` waits for threads, which name resolution or a caller's body may hold up.
CLOSE_TIME = 5.0
#: How many hosts without connections and requests are remembered, for what they have taught us.
MAX_KNOWN_HOSTS = 4096


class Limits(NamedTuple):
    """The numbers of a pool; times are in seconds, None is no limit."""

    max_connections_per_host: int
    max_connections: int
    pipeline_depth: int
    timeout: float | None
    max_queued: int
    max_body_size: int
    idle_timeout: float
    max_age: float | None
    max_requests: int | None


class Scheduler:
    """The hosts, queues, connections and timers of a pool. Knows no `ConnectionPool`.

    `limits` and `dial` (how to connect to an origin) never change. Guarded by `lock`: everything
    else. `idle` has the idle connections of all hosts, the longest idle first; `wanting` the hosts
    that would open a connection if there were not too many already. `_deferred` is what is to be
    done once the lock has been released; any thread may add to it and take from it.
    """

    def __init__(self, limits: Limits, dial: Callable[[Origin], Coroutine[Transport]]) -> None:
        self.limits = limits
        self.dial = dial
        self.reset()

    def reset(self) -> None:
        """Begin with nothing, not even a lock: also for a child process, after a fork."""
        self.lock = Lock()
        self.hosts: OrderedDict[Origin, Host] = OrderedDict()
        self.queued = 0
        self.connections = 0
        self.idle: dict[Pipeline, None] = {}
        self.wanting: dict[Host, None] = {}
        self.room = Condition(self.lock)  # in the queues, for submit()
        self.let_go = Condition(self.lock)  # of a body, for cancel()
        self.closed = False
        self.opened = 0
        self.ended = 0
        self._deferred: deque[Callable[[], object]] = deque()
        self._threads: dict[int, Thread] = {}
        self._timers = Timers()
        # Whatever comes wakes the maintenance thread; True ends it. Unlike a condition, it may be
        # put to from a finalizer, wherever that runs.
        self._wake: SimpleQueue[bool] = SimpleQueue()
        self._next_timer = float("inf")
        self._maintained = False

    # --- requests, from the callers' side ---------------------------------------------------------

    def submit(self, job: Job, block: bool, deadline: float | None) -> None:
        """Queue *job*; wait if the queues are full and *block* is set, but not beyond *deadline*.

        *deadline* is a point in time, which then also bounds the whole of the job.
        """
        with self.lock:
            if self.closed:
                raise PoolClosed
            if self.queued >= self.limits.max_queued:
                self._wait_for_room(block, deadline)
            if deadline is not None:
                job.timer = self._at(deadline, partial(self._expire, job))
            host = job.host
            if host.unused:
                host = job.host = self._know(host)
            host.append(job)
            self.queued += 1
            self._serve(host)
        if self._deferred:
            self._do_deferred()

    def _wait_for_room(self, block: bool, deadline: float | None) -> None:
        if not block:
            raise PoolFull(f"{self.queued} requests are queued")
        # A callback that submits must not keep the thread from working that makes room.
        while self.queued >= self.limits.max_queued and not self.is_own_thread():
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                raise _timed_out(
                    f"{self.queued} requests were queued for too long", Delivery.UNSENT
                )
            self.room.wait(left)
            if self.closed:
                raise PoolClosed

    def borrow(self, job: Job) -> Pipeline | None:
        """Return an idle connection on which the calling thread may do *job* by itself.

        None if there is none. The job is in flight then, and the connection is to be given back.
        """
        host = job.host
        with self.lock:
            if self.closed:
                raise PoolClosed
            if not host.idle or host.queued:
                return None
            pipeline = self._pop_idle(host)
            pipeline.borrowed = True
            self._take_off(pipeline, [job])
            return pipeline

    def give_back(self, pipeline: Pipeline, error: Exception | None = None) -> None:
        """End what `borrow` began; *error* is why the connection cannot be used any more."""
        with self.lock:
            pipeline.borrowed = False
            if error is not None:
                self._fail(pipeline, error)
            elif pipeline.ending or pipeline.broken:
                self._end(pipeline)
            else:
                self._place(pipeline)
                if pipeline.host.queued:
                    self._serve(pipeline.host)
        if self._deferred:
            self._do_deferred()

    def abandon(self, job: Job) -> bool:
        """Take *job* out of the pool, because its caller has cancelled it; False if it was done."""
        with self.lock:
            if job.done:
                return False
            self._drop(job)
            pipeline = job.pipeline
            if pipeline is not None and not pipeline.ending:
                if job.sending:
                    self._fail(pipeline, receiver.Abandoned("a request was cancelled"))
                else:
                    self._at(monotonic() + DRAIN_TIME, partial(self._end_drain, pipeline, job))
            try:
                while job.sending and not self.is_own_thread():
                    self.let_go.wait()
            finally:
                self._deferred.append(job.future._cancel)
        self._do_deferred()
        return True

    def _drop(self, job: Job) -> None:
        """Decide that nobody waits for *job* any more, wherever it is."""
        job.done = True
        if job.timer is not None:
            self._timers.cancel(job.timer)
        pipeline = job.pipeline
        if pipeline is None:
            job.host.withdraw()
            self._unqueue(1)
        elif pipeline.reserved is job:
            pipeline.reserved = None
            job.host.queued -= 1
            self._unqueue(1)
            self._wake_sender(pipeline)

    def _unqueue(self, count: int) -> None:
        full = self.queued >= self.limits.max_queued
        self.queued -= count
        if full and self.queued < self.limits.max_queued:
            self.room.notify_all()

    def _end_drain(self, pipeline: Pipeline, job: Job) -> None:
        """Close a connection that still owes the answer to a cancelled *job*."""
        if pipeline.in_flight and pipeline.in_flight[0] is job and not pipeline.ending:
            self._fail(pipeline, receiver.Abandoned("a request was cancelled"))
        elif job in pipeline.in_flight:  # it is not its turn yet: others hold it up
            self._at(monotonic() + DRAIN_TIME, partial(self._end_drain, pipeline, job))

    def _expire(self, job: Job) -> None:
        """End *job*, for its deadline has passed."""
        host, pipeline = job.host, job.pipeline
        if job.done:
            if pipeline is not None and pipeline.streaming and pipeline.in_flight[0] is job:
                message = f"the deadline passed while the body was read from {pipeline.name}"
                self._fail(pipeline, _timed_out(message, Delivery.ANSWER_STARTED))
            return
        if pipeline is None or pipeline.reserved is job:
            error = _timed_out(
                f"the deadline passed in the queue of {host.name}; {self.ledger(host)}",
                Delivery.UNSENT,
            )
            self._drop(job)
            self._deferred.append(partial(job.future._reject, error))
            return
        message = f"the deadline passed on connection {pipeline.name}"
        error = _timed_out(message, self._delivery(pipeline, job, job is pipeline.in_flight[0]))
        if job.sending or (pipeline.in_flight and pipeline.in_flight[0] is job):
            job.error = error
            self._fail(pipeline, error)
        else:
            self._drop(job)
            self._deferred.append(partial(job.future._reject, error))

    def is_own_thread(self) -> bool:
        """Return True in one of the pool's own threads, where its callbacks run."""
        return threading.get_ident() in self._threads

    def check_may_wait(self) -> None:
        """Raise StateError in a thread that would wait for itself."""
        if self.is_own_thread():
            raise StateError("a callback of the pool cannot wait for the pool")

    def is_running(self, job: Job) -> bool:
        """Return True if *job* has left the queue and is not done."""
        with self.lock:
            pipeline = job.pipeline
            return not job.done and pipeline is not None and pipeline.reserved is not job

    # --- connections, from the queues' side -------------------------------------------------------

    def know(self, host: Host) -> Host:
        """Remember *host*, and return it, or what is known of the same origin already."""
        with self.lock:
            return self._know(host)

    def _know(self, host: Host) -> Host:
        host = self.hosts.setdefault(host.origin, host)
        self.hosts.move_to_end(host.origin)
        if len(self.hosts) > MAX_KNOWN_HOSTS:
            oldest = next(iter(self.hosts.values()))
            if oldest.unused:
                del self.hosts[oldest.origin]
        return host

    def _serve(self, host: Host) -> None:
        """See to it that somebody takes the request that has been queued last."""
        if host.idle:
            self._wake_sender(self._pop_idle(host))
            return
        limit = self.limits.max_connections_per_host
        if len(host.pipelines) < limit and wants_connection(host, limit, monotonic()):
            self._open(host)
        if host.roomy:
            self._wake_sender(next(reversed(host.roomy)))

    def _serve_all(self, host: Host) -> None:
        """See to it that requests which are queued are taken, however many there are."""
        for _ in range(min(host.queued, self.limits.max_connections_per_host)):
            self._serve(host)

    def _pop_idle(self, host: Host) -> Pipeline:
        pipeline, _ = host.idle.popitem()
        del self.idle[pipeline]
        return pipeline

    def _wake_sender(self, pipeline: Pipeline) -> None:
        pipeline.host.roomy.pop(pipeline, None)
        if pipeline.sender_parked:
            pipeline.sender_parked = False
            pipeline.work.notify()

    def _open(self, host: Host) -> None:
        if self.connections >= self.limits.max_connections and not self._make_room(host):
            self.wanting[host] = None
            return
        now = monotonic()
        pipeline = Pipeline(
            host, self.lock, partial(self.dial, host.origin), now, self.limits.max_requests
        )
        host.pipelines[pipeline] = None
        self.connections += 1
        self.opened += 1
        if not self._maintained:
            self._maintained = True
            self._deferred.append(partial(self._start, self._maintain, "dugong-maintenance"))
        self._deferred.append(partial(self._start_sender, pipeline))

    def _make_room(self, host: Host) -> bool:
        """End the longest idle connection. It is not one of *host*, which would have used it."""
        longest = next(iter(self.idle), None)
        if longest is None:
            return False
        self._end(longest)
        return True

    def _start(self, function: Callable[[], object], name: str) -> None:
        def run() -> None:
            self._threads[threading.get_ident()] = threading.current_thread()
            try:
                function()
            finally:
                del self._threads[threading.get_ident()]

        Thread(target=run, name=name, daemon=True).start()

    def _start_sender(self, pipeline: Pipeline) -> None:
        try:
            self._start(partial(sender.run, self, pipeline), f"dugong-{pipeline.name}-send")
        except RuntimeError as exc:
            self.connect_failed(pipeline, exc)

    def _place(self, pipeline: Pipeline) -> None:
        """Note what *pipeline* could take. Called whenever that may have changed."""
        host = pipeline.host
        host.roomy.pop(pipeline, None)
        if pipeline in host.idle:
            del host.idle[pipeline], self.idle[pipeline]
        if not pipeline.sender_parked or pipeline.closed_to_more or pipeline.reserved is not None:
            return
        room = has_room(host, pipeline)
        if pipeline.in_flight:
            if room:
                host.roomy[pipeline] = None
            return
        now = monotonic()
        max_age = self.limits.max_age
        if not room or (max_age is not None and now - pipeline.opened > max_age):
            if not room:
                host.lessons.quota = None
            self._end(pipeline)
        elif self.wanting and not host.queued:
            self._end(pipeline)
        else:
            pipeline.idle_since = now
            host.idle[pipeline] = None
            self.idle[pipeline] = None
            if not pipeline.watched:
                pipeline.watched = True
                self._at(now + RELEASE_TIME, partial(self._watch_idle, pipeline))

    def _watch_idle(self, pipeline: Pipeline) -> None:
        """Have an idle connection give back its memory after a while, and close it after longer."""
        if pipeline not in self.idle:
            pipeline.watched = False
            return
        idle_for = monotonic() - pipeline.idle_since
        idle_timeout = self.limits.idle_timeout
        if idle_for >= idle_timeout:
            self._end(pipeline)
            return
        if idle_for >= RELEASE_TIME:
            pipeline.duplexer.buffer.release()
            next_look = pipeline.idle_since + idle_timeout
        else:
            next_look = pipeline.idle_since + min(RELEASE_TIME, idle_timeout)
        self._at(next_look, partial(self._watch_idle, pipeline))

    # --- requests, from the connections' side -----------------------------------------------------

    def connected(self, pipeline: Pipeline) -> None:
        """The sender of *pipeline* has connected it."""
        receive = partial(receiver.run, self, pipeline)
        try:
            self._start(receive, f"dugong-{pipeline.name}-recv")
        except RuntimeError as exc:
            with self.lock:
                self._fail(pipeline, exc)
        with self.lock:
            pipeline.connected = True

    def connect_failed(self, pipeline: Pipeline, error: Exception) -> None:
        """*pipeline* could not be connected."""
        host = pipeline.host
        with self.lock:
            pipeline.sending = False
            host.unopenable_until = monotonic() + REOPEN_TIME
            alone = len(host.pipelines) == 1
            while alone and (job := host.pop()) is not None:
                self._unqueue(1)
                self._finish(job, _failure(error, Delivery.UNSENT))
            self._end(pipeline)
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
                    break
                pipeline.sender_parked = True
                self._place(pipeline)
                if self._deferred or pipeline.ending:
                    # Not with the lock in hand.
                    pipeline.sender_parked = False
                    self.lock.release()
                    self._do_deferred()
                    self.lock.acquire()
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
            elif job.outcome is not None:
                self._finish(job, job.outcome)
        if error is not None and not pipeline.ending:
            pipeline.broken = True
            unread = pipeline.receiving or pipeline.duplexer.unread
            if not unread or not isinstance(error, ConnectionClosed):
                self._fail(pipeline, error)

    def _take_off(self, pipeline: Pipeline, batch: list[Job]) -> None:
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
        pipeline.sent += count
        host.in_flight += count
        host.sent += count

    def await_arrivals(self, pipeline: Pipeline) -> bool:
        """Wait until there is something to receive; False: the receiver is to end."""
        duplexer = pipeline.duplexer
        if pipeline.receiving and duplexer.pipeline and not (pipeline.ending or pipeline.streaming):
            return True  # which is the case as long as there is much to do
        with self.lock:
            pipeline.receiving = False
            while not pipeline.ending:
                pipeline.receiver_parked = True
                if duplexer.pipeline and not pipeline.borrowed and not pipeline.streaming:
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
        host = pipeline.host
        resolved: list[tuple[Job, Response]] = []
        with self.lock:
            pipeline.blocked = False
            good = 0
            for job, response in done:
                pipeline.in_flight.popleft()
                exchange = job.exchange
                assert exchange is not None
                if exchange.persistent and exchange.minor_version:
                    good += 1
                if job.done:
                    continue
                if job.sending:
                    job.outcome = response
                    continue
                job.done = True
                if job.timer is not None:
                    self._timers.cancel(job.timer)
                resolved.append((job, response))
            count = len(done)
            host.in_flight -= count
            host.answered += count
            pipeline.answered += count
            if not pipeline.in_flight:
                pipeline.exclusive = False
            if pipeline.uploading is not None:
                pipeline.work.notify()  # at the gate, perhaps
            if error is not None:
                self._fail(pipeline, error)
            elif done:
                assert exchange is not None
                self._learn(pipeline, exchange, good)
        for job, response in resolved:
            job.future._resolve(response)
        if self._deferred:
            self._do_deferred()

    def _learn(self, pipeline: Pipeline, last: Exchange, good: int) -> None:
        """Draw the lessons of answers, of which *last* was the last, and go on or end."""
        host = pipeline.host
        if good:
            host.lessons.answered(good, monotonic())
        if not last.minor_version:
            host.lessons.old_version(monotonic())
        if not last.persistent:
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

    def hand_over(self, pipeline: Pipeline, job: Job, head: HTTPResponse) -> bool:
        """Let the caller of *job* read the body from the connection; False if nobody wants it."""
        with self.lock:
            if job.done:
                return False
            job.done = True
            pipeline.streaming = True
            job.reading = receiver.ConnectionBody(self, pipeline, job)
            response = StreamedResponse(
                head.status, head.reason, head.headers, job.request, head.length, job.reading
            )
        job.future._resolve(response)
        return True

    def end_stream(self, pipeline: Pipeline, job: Job, complete: bool) -> None:
        """The caller of *job* reads no more; *complete* says if the body was read to its end."""
        host = pipeline.host
        with self.lock:
            if job.timer is not None:
                self._timers.cancel(job.timer)
            exchange = job.exchange
            assert exchange is not None
            if complete and not pipeline.ending:
                while job.sending:
                    self.let_go.wait()
            pipeline.streaming = False
            if complete:
                pipeline.in_flight.popleft()
                host.in_flight -= 1
                host.answered += 1
                pipeline.answered += 1
                pipeline.exclusive = False
            if pipeline.ending:
                self._settle_if_unused(pipeline)
            elif complete:
                self._learn(pipeline, exchange, int(exchange.persistent and exchange.minor_version))
            else:
                self._fail(pipeline, receiver.Abandoned())
        self._do_deferred()

    # --- the end of a connection ------------------------------------------------------------------

    def _end(self, pipeline: Pipeline) -> None:
        """End *pipeline* in good order: what is in flight there will not be answered."""
        pipeline.ending = True
        if pipeline in pipeline.host.idle:
            del pipeline.host.idle[pipeline], self.idle[pipeline]
        pipeline.host.roomy.pop(pipeline, None)
        pipeline.duplexer.abort()
        pipeline.work.notify()
        pipeline.arrivals.notify()
        self._settle_if_unused(pipeline)

    def _fail(self, pipeline: Pipeline, error: Exception) -> None:
        """End *pipeline* because of *error*."""
        if not pipeline.ending:
            pipeline.failure = error
        self._end(pipeline)

    def _settle_if_unused(self, pipeline: Pipeline) -> None:
        """Decide what becomes of the requests of a connection that has ended."""
        if pipeline.settled or not pipeline.unused:
            return
        pipeline.settled = True
        host = pipeline.host
        del host.pipelines[pipeline]
        self.connections -= 1
        self.ended += 1
        jobs = list(pipeline.in_flight)
        pipeline.in_flight.clear()
        host.in_flight -= len(jobs)
        verdicts = [self._delivery(pipeline, job, job is jobs[0]) for job in jobs]
        self._learn_from_end(pipeline, verdicts)
        back: list[Job] = []
        first = True
        for job, verdict in zip(jobs, verdicts, strict=True):
            if job.done:
                pass
            elif self._may_go_back(pipeline, job, verdict, first):
                back.append(job)
            else:
                error = job.error or pipeline.failure or ConnectionClosed()
                self._finish(job, _failure(error, verdict))
            first = False
        now = time.time()
        reason = str(pipeline.failure or "the server ended the connection")
        for job, verdict in zip(jobs, verdicts, strict=True):
            job.attempts += (Attempt(now, pipeline.name, reason, verdict),)
        host.resent += len(back)
        if pipeline.reserved is not None:
            back.append(pipeline.reserved)
            pipeline.reserved = None
            host.queued -= 1
            self.queued -= 1
        for job in back:
            job.pipeline = None
        host.put_back(back)
        self.queued += len(back)
        self._serve_all(host)
        while self.wanting and (self.connections < self.limits.max_connections or self.idle):
            wanting = next(iter(self.wanting))
            del self.wanting[wanting]
            self._serve_all(wanting)

    def _may_go_back(self, pipeline: Pipeline, job: Job, verdict: Delivery, first: bool) -> bool:
        """Decide whether *job* goes back to the queue, which charges it nothing.

        Only the *first* request that was not answered can be why the connection ended.
        """
        if self.closed or job.error is not None:
            return False
        harmless = verdict is Delivery.UNSENT or job.request.is_idempotent
        if not harmless or pipeline.failure is None or not first:
            return harmless
        # An idle connection that the server closes at the moment when it is used looks like this.
        # That of a fresh one, or a second time, is not what has happened.
        if (
            not pipeline.answered
            or job.suspect
            or not isinstance(pipeline.failure, ConnectionClosed)
        ):
            return False
        if verdict is Delivery.ANSWER_STARTED or isinstance(pipeline.failure, receiver.Abandoned):
            return False
        job.suspect = verdict is not Delivery.UNSENT
        return True

    def _learn_from_end(self, pipeline: Pipeline, verdicts: list[Delivery]) -> None:
        failure, lessons = pipeline.failure, pipeline.host.lessons
        now = monotonic()
        unanswered = sum(verdict is not Delivery.UNSENT for verdict in verdicts)
        if failure is None:
            if pipeline.duplexer.ended is not None:
                lessons.closed(pipeline.answered, unanswered, now)
        elif isinstance(failure, InvalidResponse) and unanswered > 1:
            lessons.broke_the_rules(now)
        elif unanswered and not isinstance(
            failure, (receiver.Abandoned, ResponseTooLarge, PoolClosed)
        ):
            lessons.died(pipeline.answered, unanswered, now)

    def _delivery(self, pipeline: Pipeline, job: Job, oldest: bool) -> Delivery:
        """Return how far *job*, which *pipeline* has, got."""
        if job.exchange is None:
            return Delivery.UNSENT
        if oldest and (job.answering or pipeline.duplexer.buffer):
            return Delivery.ANSWER_STARTED
        return job.exchange.delivery

    def _finish(self, job: Job, outcome: Response | StreamedResponse | Exception) -> None:
        """Decide the outcome of *job*."""
        job.done = True
        if job.timer is not None:
            self._timers.cancel(job.timer)
        future = job.future
        if isinstance(outcome, Exception):
            self._deferred.append(partial(future._reject, outcome))
        else:
            self._deferred.append(partial(future._resolve, outcome))

    def close(self, wait: bool = True) -> None:
        """End everything; resolve every future. With *wait*, see the threads end, if they do."""
        with self.lock:
            self.closed = True
            for host in list(self.hosts.values()):
                while (job := host.pop()) is not None:
                    self.queued -= 1
                    self._finish(job, _failure(PoolClosed(), Delivery.UNSENT))
                for pipeline in list(host.pipelines):
                    self._fail(pipeline, PoolClosed())
            self.room.notify_all()
        self._wake.put(True)
        self._do_deferred()
        if not wait:
            return
        end = monotonic() + CLOSE_TIME
        for ident, thread in list(self._threads.items()):
            if ident != threading.get_ident():
                thread.join(max(0.0, end - monotonic()))
        with self.lock:
            for host in self.hosts.values():
                for pipeline in host.pipelines:
                    for job in pipeline.in_flight:
                        if not job.done:
                            verdict = self._delivery(pipeline, job, job is pipeline.in_flight[0])
                            self._finish(job, _failure(PoolClosed(), verdict))
        self._do_deferred()

    def forget(self) -> None:
        """Have everything ended by the maintenance thread. May be called from a finalizer."""
        self._wake.put(True)

    # --- time -------------------------------------------------------------------------------------

    def _at(self, when: float, action: Callable[[], None]) -> Timer:
        """Have *action* done, under the lock, at the time *when*."""
        if when < self._next_timer:
            self._next_timer = when
            self._wake.put(False)
        return self._timers.add(when, action)

    def _maintain(self) -> None:
        """Do what is to be done at a certain time, until the pool is closed."""
        while True:
            with self.lock:
                if self.closed:
                    return
                now = monotonic()
                while (action := self._timers.pop_due(now)) is not None:
                    action()
                due = self._timers.next()
                self._next_timer = float("inf") if due is None else due
            self._do_deferred()
            try:
                left = None if due is None else max(0.0, due - monotonic())
                if self._wake.get(timeout=left):
                    self.close(wait=False)
            except Empty:
                pass

    def _do_deferred(self) -> None:
        """Do what had to wait until the lock was released."""
        while True:
            try:
                action = self._deferred.popleft()
            except IndexError:
                return
            action()

    # --- what can be seen -------------------------------------------------------------------------

    def ledger(self, host: Host) -> str:
        """Return which requests hold which connections of *host*, and since when, in words."""
        now = monotonic()
        lines = []
        for pipeline in host.pipelines:
            holders = [
                f"{job.request.method} {job.request.url} for {now - job.since:.1f} s"
                for job in pipeline.in_flight
            ]
            lines.append(
                f"{pipeline.name} ({pipeline.state}): {', '.join(holders[:3]) or 'nothing'}"
            )
            if len(holders) > 3:
                lines[-1] += f" and {len(holders) - 3} more"
        return "held by " + "; ".join(lines) if lines else "no connection is open"

    def statistics(self) -> PoolStatistics:
        """Return what there is to be seen now."""
        now = monotonic()
        with self.lock:
            hosts = {str(host.origin): _host_statistics(host, now) for host in self.hosts.values()}
            return PoolStatistics(
                queued=self.queued,
                in_flight=sum(host.in_flight for host in hosts.values()),
                connections=self.connections,
                opened=self.opened,
                closed=self.ended,
                sent=sum(host.sent for host in hosts.values()),
                answered=sum(host.answered for host in hosts.values()),
                resent=sum(host.resent for host in hosts.values()),
                hosts=hosts,
            )

    def __repr__(self) -> str:
        state = "closed, " if self.closed else ""
        in_flight = sum(host.in_flight for host in list(self.hosts.values()))
        return (
            f"{state}{len(self.hosts)} hosts, {self.connections} connections "
            f"({len(self.idle)} idle), {self.queued} queued, {in_flight} in flight"
        )

    # --- after a fork -----------------------------------------------------------------------------

    def begin_as_child(self) -> None:
        """Forget all that is the parent's, without a byte on its connections."""
        deferred = []
        for host in self.hosts.values():
            jobs = [job for job in host.queue if not job.done]
            for pipeline in host.pipelines:
                jobs += [job for job in pipeline.in_flight if not job.done]
                jobs += [pipeline.reserved] if pipeline.reserved is not None else []
                if pipeline.duplexer.transport is not None:
                    pipeline.duplexer.transport.drop()
            for job in jobs:
                job.done = True
                error = _failure(PoolClosed("the request is the parent process's"), Delivery.SENT)
                # Whoever waits for it does so in the parent, and so does what it calls back.
                job.future._audience = None
                deferred.append(partial(job.future._reject, error))
        self.reset()
        self._deferred.extend(deferred)
        self._do_deferred()


def _host_statistics(host: Host, now: float) -> HostStatistics:
    return HostStatistics(
        origin=str(host.origin),
        queued=host.queued,
        in_flight=host.in_flight,
        window=host.lessons.window,
        pipelining=host.lessons.state(now),
        lesson=host.lessons.lesson,
        sent=host.sent,
        answered=host.answered,
        resent=host.resent,
        connections=tuple(
            ConnectionStatistics(
                name=pipeline.name,
                state=pipeline.state,
                age=now - pipeline.opened,
                sent=pipeline.sent,
                answered=pipeline.answered,
                holding=tuple(
                    Holding(job.request.method, job.request.url, now - job.since, job.done)
                    for job in pipeline.in_flight
                ),
            )
            for pipeline in host.pipelines
        ),
    )


def _timed_out(message: str, delivery: Delivery) -> ConnectionTimedOut:
    error = ConnectionTimedOut(message)
    error.delivery = delivery
    return error


def _failure(error: Exception, delivery: Delivery) -> Exception:
    """Return *error* as an exception of one request's own."""
    try:
        own = copy.copy(error)
    except Exception:  # a class that cannot be copied, from a caller's body
        own = error
    own.__traceback__ = None
    own.__cause__ = error.__cause__
    own.delivery = delivery  # type: ignore[attr-defined]  # OSErrors have a dict, too
    return own
