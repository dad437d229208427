"""The facade of a pool's insides, for its callers: queue a request, wait for it, look.

Guarantees: a request is in one place (`Place`), and its future ends once; a caller that waits here
is woken by what it waits for, by a timer or by `close`. An exception that a signal handler raises
between any two steps leaves nothing behind that keeps later requests from being served.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING

from dugong.errors import (
    Delivery,
    DugongError,
    PoolClosed,
    PoolFull,
    StateError,
)
from dugong.pool.core.cancellation import Cancellation, waited_too_long
from dugong.pool.core.connection import PooledConnection
from dugong.pool.core.connections import ConnectionManager
from dugong.pool.core.core import Exclusively, Heads, Nested, PoolCore, Protect, do_nothing
from dugong.pool.core.dispatch import holding_limit
from dugong.pool.core.emitting import add_listener_locked
from dugong.pool.core.host import Host
from dugong.pool.core.job import NO_EXTRAS, Job, Place
from dugong.pool.core.limits import Limits
from dugong.pool.core.locked import locked
from dugong.pool.core.maintenance import Maintenance
from dugong.pool.core.politeness import Politeness
from dugong.pool.core.readers import Readers
from dugong.pool.core.recovery import Recovery
from dugong.pool.core.retries import RetryEngine
from dugong.pool.core.shutdown import Shutdown
from dugong.pool.core.traffic import Traffic
from dugong.pool.core.waiting import Waiting
from dugong.pool.events import Event
from dugong.pool.failure import failure
from dugong.pool.io.engine import Engine

if TYPE_CHECKING:
    from collections import OrderedDict

    from dugong.pool.core.lending import Lending
    from dugong.pool.host_policy import HostPolicy
    from dugong.pool.statistics import PoolStatistics
    from dugong.pool.url import Origin

__all__ = ["Scheduler"]

_NEW, _QUEUED = Place.NEW, Place.QUEUED  # members are looked up slowly in their class

#: A loop of one of a connection's threads.
Loop = Callable[[Traffic, PooledConnection], object]


class Scheduler:
    """What the requests, connections and timers of a pool are governed by. Knows no pool."""

    def __init__(
        self,
        limits: Limits,
        make_engine: Callable[[Host], Engine],
        run_sender: Loop,
        run_receiver: Loop,
        on_event: Callable[[Event], object] | None = None,
        pipeline_rescue: bool = True,
    ) -> None:
        # None of these ever changes.
        self._core = core = PoolCore(limits, on_event)
        self._maintenance = Maintenance(core, self._when_forgotten, self._when_closed)
        self._politeness = politeness = Politeness(core, self._maintenance)
        self._retries = RetryEngine(core, self._maintenance, politeness)
        self._connections = ConnectionManager(
            core,
            self._maintenance,
            self._retries,
            politeness,
            make_engine,
            self._send,
            pipeline_rescue,
        )
        self.traffic: Traffic = Traffic(
            core, self._maintenance, self._retries, self._connections, run_receiver
        )
        self.lending: Lending = self.traffic.lending
        self.cancellation: Cancellation = Cancellation(
            core, self._maintenance, self._retries, self._connections
        )
        self.shutdown: Shutdown = Shutdown(
            core, self._maintenance, self._retries, self._connections
        )
        self._waiting = Waiting(core, self._maintenance, self.cancellation.take_out_locked)
        self._run_sender = run_sender
        self._retries.servers = politeness.servers = self._connections
        self._retries.enqueue_locked = self._enqueue_locked
        self.recovery: Recovery = Recovery(
            core, self._maintenance, self._retries, self._connections, politeness
        )
        core.repair_locked = self.recovery.repair_locked
        core.call_failed = self.traffic.faults.call_failed
        self._connections.hedging.drain_locked = self.cancellation.drain_locked
        self.limits = limits
        self._most_connections = limits.max_connections_per_host
        # To look a method up takes longer.
        self._queue_blocking, self._queue_quickly = self._queue, self._queue_behind
        self.hosts: OrderedDict[Origin, Host] = core.hosts
        self.abandon: Callable[[Job], bool] = self.cancellation.abandon
        self.expire_locked: Callable[[Job], None] = self.cancellation.expire_locked
        self.check_may_wait: Callable[[], None] = core.check_may_wait
        self.is_locked_here: Callable[[], bool] = core.is_locked_here
        self.is_nested: Callable[[], bool] = core.is_nested
        self.exclusively: Exclusively = core.exclusively
        self.call_later: Callable[[Callable[[], object]], None] = core.call_later
        self.do_later: Callable[[Callable[[], object]], None] = self._maintenance.do_later
        self.close_when_forgotten: Callable[[object], None] = self._maintenance.watch
        self.recover: Callable[[BaseException], None] = core.recover
        self.protect: Protect = core.protect

    @property
    def readers(self) -> Readers:
        """The threads that make calls for event loops: others in a forked child."""
        return self._core.readers

    def _send(self, connection: PooledConnection) -> None:
        self._run_sender(self.traffic, connection)

    # The maintenance thread makes these two calls. What they call knows it, and is made after it.

    def _when_forgotten(self) -> None:
        self.shutdown.close(wait=False)

    def _when_closed(self) -> None:
        self.shutdown.fail_everything()

    def add_listener(self, listener: Callable[[Event], object]) -> None:
        """Have *listener* hear of all further events, beside *on_event*."""
        with self._core.transaction():
            add_listener_locked(self._core, listener)

    def know(self, host: Host) -> Host:
        """Remember *host*, and return it, or what is known of the same origin already."""
        return self._core.protect(self._connections.know, do_nothing, host)

    def have_heads_made(self, heads: Heads) -> None:
        """Have *heads* make what is sent of requests. To be called once, before the first."""
        self._core.heads = heads

    # --- policies of hosts ------------------------------------------------------------------------

    def is_set_by_hand(self, origin: Origin) -> bool:
        """Return whether a policy was set by hand for the host of *origin*."""
        return origin in self._politeness.set_by_hand

    def set_policy(self, origin: Origin, policy: HostPolicy | None, otherwise: HostPolicy) -> None:
        """Have the host of *origin* treated by *policy*; None: by *otherwise*, as if never set.

        In a finalizer or a signal handler, that is done later.
        """
        change = partial(self._set_policy, policy, otherwise)
        try:
            self._core.protect(change, do_nothing, origin)
        except Nested:
            self.do_later(partial(change, origin))

    def _set_policy(self, policy: HostPolicy | None, otherwise: HostPolicy, origin: Origin) -> None:
        with self._core.transaction():
            self._politeness.set_locked(origin, policy, otherwise)

    def follow_policy(self, host: Host, policy: HostPolicy) -> None:
        """Have *host*, which nothing knows yet, treated by *policy*."""
        self._core.protect(partial(self._follow_policy, policy), do_nothing, host)

    def _follow_policy(self, policy: HostPolicy, host: Host) -> None:
        with self._core.transaction():
            self._politeness.follow_locked(host, policy)

    # --- a request comes --------------------------------------------------------------------------

    def submit(self, job: Job, block: bool = True) -> None:
        """Queue *job*, whose deadline counts from now.

        Waits if the queues are full and *block* is set, but not beyond the deadline.
        """
        core = self._core
        try:
            # It is never unset. Callers that go on would take the lock from what closes the pool.
            if core.closed:
                raise PoolClosed
            # A number that is out of date by now does no harm: both ways come to the same.
            if job.host.queued and core.protect(self._queue_quickly, do_nothing, job):
                return
            queue = self._queue_blocking if block else partial(self._queue, block=False)
            core.protect(queue, do_nothing, job)
        except Nested:  # in a finalizer, or a signal handler
            if core.closed:
                raise failure(PoolClosed(), Delivery.UNSENT, job.request) from None
            deadline = None if job.deadline is None else monotonic() + job.deadline
            self._maintenance.do_later(partial(self._submit_later, job, deadline))
        except DugongError as exc:
            exc.request = job.request
            raise

    def _queue_behind(self, job: Job) -> bool:
        """Queue *job* if no more than that is to be done; else return False, with nothing done.

        So it is for most requests of a caller that submits many: others are queued, all connections
        of the host are at work, and no other thread has the lock. This comes to the same as
        `_queue`, in half as many steps.
        """
        core, host, ident = self._core, job.host, get_ident()
        if (
            job.extras is not NO_EXTRAS
            or job.deadline is not None
            or core.owner == ident
            or not core.lock.acquire(False)
        ):
            return False
        core.owner = ident
        is_plain = (
            host.queued > 0
            and host.gate is None
            and not (host.idle or host.with_capacity)
            and len(host.connections) >= self._most_connections
            and core.queued < core.max_queued
            and job.place is _NEW
            and not core.closed
        )
        if is_plain:
            host.queue.append(job)
            job.place = _QUEUED
            host.queued += 1
            core.queued += 1
        core.owner = 0
        try:
            core.lock.release()
        except RuntimeError:
            core.leave_in_child()
        if core.calls:
            core.callbacks.run()
        return is_plain

    def _queue(self, job: Job, block: bool = True) -> None:
        core = self._core
        deadline = None if job.deadline is None else monotonic() + job.deadline
        core.begin()
        try:
            if core.closed:
                raise PoolClosed
            if core.queued >= core.max_queued:
                self._wait_for_room_locked(job, block, deadline)
            if job.place is _NEW:  # else it was cancelled before
                self._enqueue_locked(job, deadline)
                self._connections.ensure_served_locked(job.host)
        except BaseException as exc:
            core.fail(exc)
            raise
        core.end()

    def submit_some(self, jobs: Sequence[Job]) -> int:
        """Queue the first of *jobs* as `submit` does, and with it those for which there is room.

        Returns how many that were, at least one. If it raises, some may be queued.
        """
        count = 0
        if len(jobs) > 1:
            try:
                count = self._core.protect(self._queue_some, do_nothing, jobs)
            except Nested:
                pass
        if not count:
            self.submit(jobs[0])
            count = 1
        return count

    def _queue_some(self, jobs: Sequence[Job]) -> int:
        core = self._core
        with core.transaction():
            return 0 if core.closed else self._queue_some_locked(jobs)

    @locked
    def _queue_some_locked(self, jobs: Sequence[Job]) -> int:
        core = self._core
        queued = jobs[: max(0, core.max_queued - core.queued)]
        for job in queued:
            self._enqueue_locked(job, None if job.deadline is None else monotonic() + job.deadline)
        for host in dict.fromkeys([job.host for job in queued]):
            self._connections.ensure_all_served_locked(host)
        return len(queued)

    def _submit_later(self, job: Job, deadline: float | None) -> None:
        with self._core.transaction():
            if job.is_decided:
                pass
            elif self._core.closed:
                self._retries.close_locked(job)
            else:
                self._enqueue_locked(job, deadline)
                self._connections.ensure_served_locked(job.host)

    @locked
    def _enqueue_locked(self, job: Job, deadline: float | None = None) -> None:
        if job.fatal_error is not None and job.place is _NEW:
            error = failure(job.fatal_error, Delivery.UNSENT, job.request)
            self._retries.complete_locked(job, error)
            return
        if deadline is not None and job.timer is None:
            job.timer = self._maintenance.at_locked(deadline, job.expire)
        core, host = self._core, job.host
        if not host.queued and host.is_unused:
            known = self._connections.know_locked(host)
            if known is not host:  # which was forgotten, and the other may have another proxy
                host = job.host = known
                if job.head is not None:  # or else it is made when it is sent
                    core.heads.rebuild(job)
        host.append(job)
        core.queued += 1
        if job.extras.patience is not None and not job.attempts:
            self._waiting.begin_locked(job, job.extras.patience)

    @locked
    def _wait_for_room_locked(self, job: Job, block: bool, deadline: float | None) -> None:
        core = self._core
        if not block:
            raise PoolFull(f"{core.queued} requests are queued")
        # A callback that submits must not keep the thread from working that makes room.
        while core.queued >= core.max_queued and not core.threads.is_own():
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                raise waited_too_long(core, job)
            core.wait(core.room, left)
            if core.closed:
                raise PoolClosed
            if job.is_decided:
                return

    # What must not wait here, as an event loop, submits with *block* unset, waits in its own way,
    # and submits again.

    def call_when_room(self, call: Callable[[], object]) -> None:
        """Have *call* called once when there may be room in the queues, or the pool is closed.

        That may be now. Any thread may call it, so it must be quick, and must not raise.
        """
        self._core.protect(self._call_when_room, do_nothing, call)

    def _call_when_room(self, call: Callable[[], object]) -> None:
        core = self._core
        with core.transaction():
            core.room_calls.append(call)
            if core.closed or core.queued < core.max_queued:
                core.tell_of_room_locked()

    def begin_deadline(self, job: Job) -> None:
        """Have the deadline of *job* count from now: it is a new one, and waits for room."""
        if job.deadline is not None:
            begin = partial(self._begin_deadline, monotonic() + job.deadline)
            self._core.protect(begin, do_nothing, job)

    def _begin_deadline(self, deadline: float, job: Job) -> None:
        with self._core.transaction():
            if job.timer is None and not job.is_decided:
                job.timer = self._maintenance.at_locked(deadline, job.expire)

    # --- a caller waits for a request, and reads its response -------------------------------------

    def begin_stream(self, job: Job, stream: object, reader: object = None) -> None:
        """*reader* is about to wait for *job*, and to read the body of its response.

        It is a weak reference to a task of an event loop; None: the calling thread. If *stream* is
        forgotten without having been left, `end_stream` is called later.
        """
        forgotten = partial(_forgotten, self, job)
        reader = get_ident() if reader is None else reader
        self._core.streamed[job] = reader, weakref.ref(stream, forgotten)

    def end_stream(self, job: Job) -> None:
        """Cancel *job*, or end the stream of its response with its connection; wait for nothing."""
        self.abandon(job)
        if job.place is Place.STREAMING and job.connection is not None:
            self.lending.abort_stream(job.connection, job)
        self.forget_stream(job)

    def forget_stream(self, job: Job) -> None:
        """Forget what `begin_stream` has noted: the stream was left."""
        self._core.streamed.pop(job, None)

    def check_may_wait_for(self, job: Job) -> None:
        """Raise StateError if this thread must not wait for *job*, as it would wait for itself.

        So it would in the block of a stream, if that has the only connection that *job* could have;
        and in a finalizer or a signal handler that runs while this very thread makes a request by
        itself, on that connection.
        """
        self._core.check_may_wait()
        self._core.check_not_entering()
        self.check_reads_not_all(job, get_ident())

    def check_reads_not_all(self, job: Job, reader: object) -> None:
        """Raise StateError if *reader*, as in `begin_stream` or a thread, would wait for itself."""
        core = self._core
        job = job.current
        if job.place is Place.IN_FLIGHT:
            return
        limits = core.limits
        # What the reader has counts among these. So where there is room, it need not be looked
        # for, which takes longer the more streams there are.
        is_full = core.connections >= limits.max_connections
        limit = holding_limit(job.host, limits.max_connections_per_host)
        if not is_full and len(job.host.connections) < limit:
            return
        mine = [
            other.host
            for other, (its_reader, stream) in list(core.streamed.items())
            if its_reader == reader
            and other is not job
            and other.current.place is not Place.DONE  # or its connection has been given back
            and stream() is not None
        ]
        # Without the lock: what a thread has borrowed it alone can give back. Copying a dict is
        # atomic in free-threaded CPython, too.
        hosts = [job.host]
        if is_full:
            hosts = list(core.hosts.values())
        for host in hosts:
            connections = list(host.connections)
            mine += [host for c in connections if c.borrower and c.borrowed_by == reader]
        if len(mine) >= limits.max_connections or mine.count(job.host) >= limit:
            raise StateError(
                "this thread or task uses all connections that this request could have, for "
                "streams or another request: it would wait for itself"
            )

    def is_running(self, job: Job) -> bool:
        """Return True if *job* is on a connection, and not done."""
        # Attributes that are replaced as a whole need no lock, in free-threaded CPython, too.
        return job.current.place is Place.IN_FLIGHT

    # --- a caller waits between two requests ------------------------------------------------------

    def pause(self, seconds: float) -> None:
        """Wait so long between two requests of a caller. Raises `PoolClosed` if the pool is, first.

        Raises StateError in a thread that must not wait for the pool.
        """
        self._core.check_may_wait()
        self._core.protect(self._pause, do_nothing, monotonic() + seconds)

    def _pause(self, end: float) -> None:
        core = self._core
        with core.transaction():
            while not core.closed and (left := end - monotonic()) > 0:
                core.wait(core.room, left)  # which closing wakes
            if core.closed:
                raise PoolClosed

    # --- what can be seen -------------------------------------------------------------------------

    def statistics(self) -> PoolStatistics:
        """Return what there is to be seen now."""
        from dugong.pool.core.snapshot import pool_statistics

        def look(core: PoolCore) -> PoolStatistics:
            with core.transaction():
                return pool_statistics(core, len(self._retries.waiting), monotonic())

        return self._core.protect(look, do_nothing, self._core)

    def __repr__(self) -> str:
        core = self._core
        state = "closed, " if core.closed else ""
        # Without the lock, for a debugger: the numbers may not belong together.
        in_flight = sum(host.in_flight for host in list(core.hosts.values()))
        return (
            f"{state}{len(core.hosts)} hosts, {core.connections} connections "
            f"({len(core.idle)} idle), {core.queued} queued, {in_flight} in flight"
        )


def _forgotten(scheduler: Scheduler, job: Job, stream: object) -> None:
    if job in scheduler._core.streamed:
        scheduler.do_later(partial(scheduler.end_stream, job))
