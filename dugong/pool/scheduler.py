"""All that is decided in a pool, under its one lock: here, what its callers ask for.

Guarantees: a request is in one place (the queue, one connection, or done), and its future is
resolved once; whoever waits here is woken by what it waits for, by a timer or by `close`.

`dugong.pool.traffic` is for the threads of the connections, `dugong.pool.connections` opens and
ends those, and `dugong.pool.shared` says what is guarded by the lock.
"""

from __future__ import annotations

from functools import partial
from queue import Empty
from threading import get_ident
from time import monotonic

from dugong.errors import (
    ConnectionTimedOut,
    Delivery,
    PoolClosed,
    PoolFull,
    StateError,
)
from dugong.pool.failure import Abandoned, failure
from dugong.pool.host import Host
from dugong.pool.job import Job
from dugong.pool.pipeline import Pipeline
from dugong.pool.shared import Limits
from dugong.pool.statistics import (
    ConnectionStatistics,
    Holding,
    HostStatistics,
    PoolStatistics,
)
from dugong.pool.traffic import Traffic

__all__ = ["Limits", "Scheduler"]

#: Seconds that the answer to a request that was cancelled may take before its connection is closed.
DRAIN_TIME = 1.0
#: Seconds that `close` waits for threads, which name resolution or a caller's body may hold up.
CLOSE_TIME = 5.0


class Scheduler(Traffic):
    """What the requests, connections and timers of a pool are governed by. Knows no pool."""

    # --- requests, from the callers' side ---------------------------------------------------------

    def submit(self, job: Job, block: bool = True) -> None:
        """Queue *job*, whose deadline counts from now.

        Waits if the queues are full and *block* is set, but not beyond the deadline.
        """
        seconds = job.request.deadline
        deadline = None if seconds is None else monotonic() + seconds
        with self.lock:
            if self.closed:
                raise PoolClosed
            if self.queued >= self.limits.max_queued:
                self._wait_for_room(block, deadline)
            if deadline is not None:
                job.timer = self._at(deadline, partial(self._expire, job))
            host = job.host
            if not host.queued and host.unused:
                host = job.host = self._know(host)
            host.append(job)
            # Not before: if Ctrl-C comes in between, it is not taken out of the counts again.
            job.queued = True
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
            if not host.idle or host.queued or host.held:
                return None
            pipeline = self._pop_idle(host)
            pipeline.borrower = job
            self._take_off(pipeline, (job,))
            return pipeline

    def give_back(self, pipeline: Pipeline, error: Exception | None = None) -> None:
        """End what `borrow` began; *error* is why the connection cannot be used any more."""
        with self.lock:
            pipeline.borrower = None
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
        if self.is_inside():
            self.do_later(partial(self.abandon, job))
            return True
        with self.lock:
            if job.done:
                return False
            self._drop(job)
            pipeline = job.pipeline
            lent = next((other for other in job.host.pipelines if other.borrower is job), None)
            if lent is not None:  # its caller was interrupted, when it was answered at the latest
                lent.borrower = None
                self._fail(lent, Abandoned("a request was interrupted"))
            if pipeline is not None and not pipeline.ending:
                if job.sending:
                    self._fail(pipeline, Abandoned("a request was cancelled"))
                else:
                    self._at(monotonic() + DRAIN_TIME, partial(self._end_drain, pipeline, job))
            try:
                while job.sending and not self.is_own_thread():
                    self.let_go.wait()
                job.release()
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
        if self._end_wait(job):
            pass
        elif pipeline is None:
            if job.queued:  # or else it was refused
                job.host.withdraw(job)
                self._unqueue(1)
        elif pipeline.reserved is job:
            pipeline.reserved = None
            self._unqueue(1)
            self._wake_sender(pipeline)
        self._forgive(job.host)

    def _end_drain(self, pipeline: Pipeline, job: Job) -> None:
        """Close a connection that still owes the answer to a cancelled *job*."""
        if pipeline.in_flight and pipeline.in_flight[0] is job and not pipeline.ending:
            self._fail(pipeline, Abandoned("a request was cancelled"))
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
                job.furthest(Delivery.UNSENT),
            )
        else:
            message = f"the deadline passed on connection {pipeline.name}"
            if job.outcome is not None:  # it has been answered, and waits only for the sender
                self._fail(pipeline, ConnectionTimedOut(message))
                return
            error = _timed_out(message, job.furthest(self._delivery(pipeline, job)))
            if job.sending or pipeline.in_flight[0] is job:
                job.error = error
                self._fail(pipeline, Abandoned(message))  # no fault of the host's
                return
        self._drop(job)
        error.attempts = job.attempts
        self._tell("gave up", host, "", job.request, str(error))
        self._deferred.append(partial(job.future._reject, error))

    def check_may_wait(self) -> None:
        """Raise StateError in a thread that would wait for itself."""
        if get_ident() in self._own:
            raise StateError("a callback of the pool cannot wait for the pool")

    def is_running(self, job: Job) -> bool:
        """Return True if *job* has left the queue and is not done."""
        with self.lock:
            pipeline = job.pipeline
            return not job.done and pipeline is not None and pipeline.reserved is not job

    def close(self, wait: bool = True) -> None:
        """End everything; resolve every future. With *wait*, see the threads end, if they do."""
        if self.is_inside():
            self.forget()
            return
        with self.lock:
            self.closed = True
            for host in list(self.hosts.values()):
                for job in host.pop_all():
                    self.queued -= 1
                    self._end_closed(job)
                for pipeline in list(host.pipelines):
                    self._fail(pipeline, PoolClosed())
            self._end_all_waits()
            self.room.notify_all()
        self._wake.put(None)
        self._do_deferred()
        if not wait or self.is_own_thread():
            return
        end = monotonic() + CLOSE_TIME
        with self._starting:
            threads = self._threads
        for thread in threads:
            thread.join(max(0.0, end - monotonic()))
        with self.lock:
            for host in self.hosts.values():
                for pipeline in host.pipelines:
                    late = pipeline.uploading
                    if late is not None and not late.done and late.outcome is not None:
                        self._finish(late, late.outcome)
                    for job in pipeline.in_flight:
                        if not job.done:
                            self._end_closed(job, self._delivery(pipeline, job))
        self._do_deferred()

    def forget(self) -> None:
        """Have everything ended by the maintenance thread. May be called from a finalizer."""
        self.do_later(partial(self.close, wait=False))

    # --- time -------------------------------------------------------------------------------------

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
                later = self._wake.get(timeout=left)
            except Empty:
                later = None
            if later is not None:
                later()

    # --- what can be seen -------------------------------------------------------------------------

    def ledger(self, host: Host) -> str:
        """Return which requests hold which connections of *host*, and since when, in words."""
        now = monotonic()
        lines = []
        if host.held:
            lines.append(f"its server, which wants us to wait {host.held_until - now:.1f} s more")
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
        with self.lock:
            now = monotonic()
            hosts = {str(host.origin): _host_statistics(host, now) for host in self.hosts.values()}
            return PoolStatistics(
                queued=self.queued,
                waiting=len(self.waiting),
                in_flight=sum(host.in_flight for host in hosts.values()),
                connections=self.connections,
                opened=self.opened,
                closed=self.ended,
                sent=self.past[0] + sum(host.sent for host in hosts.values()),
                answered=self.past[1] + sum(host.answered for host in hosts.values()),
                resent=self.past[2] + sum(host.resent for host in hosts.values()),
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
        jobs = list(self.waiting)
        for host in self.hosts.values():
            jobs += [job for job in (*host.suspects, *host.queue) if not job.done]
            for pipeline in host.pipelines:
                jobs += [job for job in pipeline.in_flight if not job.done]
                late = pipeline.uploading  # it may have been answered already
                if late is not None and late.outcome is not None and not late.done:
                    jobs.append(late)
                jobs += [pipeline.reserved] if pipeline.reserved is not None else []
                if pipeline.session.state.transport is not None:
                    pipeline.session.state.transport.drop()
                pipeline.ending = pipeline.settled = True
        deferred = []
        for job in jobs:
            job.done = True
            error = failure(PoolClosed("the request is the parent process's"), Delivery.SENT)
            # Whoever waits for it does so in the parent, and so does what it calls back.
            job.future._audience = None
            deferred.append(partial(job.future._reject, error))
        closed = self.closed
        self.reset()
        self.closed = closed
        self._deferred.extend(deferred)
        self._do_deferred()


def _host_statistics(host: Host, now: float) -> HostStatistics:
    return HostStatistics(
        origin=str(host.origin),
        queued=host.queued + sum(p.reserved is not None for p in host.pipelines),
        waiting=host.waiting,
        held_for=max(0.0, host.held_until - now) if host.held else 0.0,
        in_flight=host.in_flight,
        window=host.lessons.window,
        pipelining=host.lessons.state(now),
        lesson=host.lessons.lesson,
        quota=host.lessons.quota,
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
                    Holding(
                        job.request.method,
                        job.request.url,
                        now - job.since,
                        job.done and not pipeline.streaming,
                    )
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
