"""The facade of a pool's insides, for its callers: queue a request, abandon it, close, look.

Guarantees: a request is in one place (`Place`), and its future ends once; a caller that waits here
is woken by what it waits for, by a timer or by `close`. An exception that a signal handler raises
between any two steps leaves nothing behind that keeps later requests from being served.
"""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING

from dugong.deadline import Deadline
from dugong.errors import (
    ConnectionTimedOut,
    Delivery,
    DugongError,
    PoolClosed,
    PoolFull,
    StateError,
)
from dugong.pool.core.connection import PooledConnection
from dugong.pool.core.connections import ConnectionManager
from dugong.pool.core.core import (
    Exclusively,
    Heads,
    Limits,
    Nested,
    Outcome,
    PoolCore,
    Protect,
    do_nothing,
    locked,
)
from dugong.pool.core.dispatch import holding_limit
from dugong.pool.core.holders import describe_holders
from dugong.pool.core.host import Host
from dugong.pool.core.job import NO_EXTRAS, Job, Place
from dugong.pool.core.maintenance import SLICE as _SLICE
from dugong.pool.core.maintenance import Maintenance
from dugong.pool.core.politeness import Politeness
from dugong.pool.core.readers import Readers
from dugong.pool.core.recovery import Recovery
from dugong.pool.core.retries import RetryEngine
from dugong.pool.core.traffic import Traffic
from dugong.pool.core.waiting import Waiting
from dugong.pool.events import Event
from dugong.pool.failure import Abandoned, failure
from dugong.pool.io.engine import Engine
from dugong.pool.request import Request

if TYPE_CHECKING:
    from collections import OrderedDict

    from dugong.pool.core.lending import Lending
    from dugong.pool.host_policy import HostPolicy
    from dugong.pool.statistics import PoolStatistics
    from dugong.pool.url import Origin

__all__ = ["Scheduler"]

#: Seconds that the response to a cancelled request may take before its connection is closed.
DRAIN_TIME = 1.0
#: Seconds that `close` waits for threads, which name resolution or a caller's body may hold up.
CLOSE_TIME = 5.0

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
        #: A slice of the maintenance thread, and what holds hosts then; guarded by the lock.
        self._holders: tuple[int, dict[Host, str]] = (-1, {})
        # None of the others ever changes.
        self._core = core = PoolCore(limits, on_event)
        self._maintenance = Maintenance(
            core, partial(self.close, wait=False), self._fail_everything
        )
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
        self._waiting = Waiting(core, self._maintenance, self._take_out_locked)
        self._run_sender = run_sender
        self._retries.servers = politeness.servers = self._connections
        self._retries.enqueue_locked = self._enqueue_locked
        self.recovery: Recovery = Recovery(
            core, self._maintenance, self._retries, self._connections, politeness
        )
        core.repair_locked = self.recovery.repair_locked
        core.call_failed = self.traffic.faults.call_failed
        self._connections.hedging.drain_locked = self._drain_locked
        self.limits = limits
        self._most_connections = limits.max_connections_per_host
        # To look a method up takes longer.
        self._queue_blocking, self._queue_quickly = self._queue, self._queue_behind
        self.hosts: OrderedDict[Origin, Host] = core.hosts
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

    def add_listener(self, listener: Callable[[Event], object]) -> None:
        """Have *listener* hear of all further events, beside *on_event*."""
        with self._core.transaction():
            self._core.add_listener_locked(listener)

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
            core.end(type(exc), exc)
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
                raise self._waited_too_long(job)
            core.wait(core.room, left)
            if core.closed:
                raise PoolClosed
            if job.is_decided:
                return

    def _waited_too_long(self, job: Job) -> ConnectionTimedOut:
        message = f"{self._core.queued} requests were queued for too long"
        return _timed_out(message, Delivery.UNSENT, job.request)

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

    # --- a request is given up --------------------------------------------------------------------

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
        self._take_out_locked(job, None)
        if is_in_flight and connection is not None and not connection.is_closing:
            self._drain_locked(connection, job)
        return True

    @locked
    def _drain_locked(self, connection: PooledConnection, job: Job) -> None:
        """Have *connection* closed unless the response to *job*, which is done, comes soon."""
        drain = partial(self._end_drain_locked, connection, job)
        self._maintenance.at_locked(monotonic() + DRAIN_TIME, drain)

    @locked
    def _take_out_locked(self, job: Job, outcome: Outcome) -> None:
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
            self._drain_locked(connection, job)

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
        if job.is_decided:
            if job.place is Place.STREAMING and connection is not None:
                upload = job.extras.upload
                is_sending = upload is not None and upload.is_sending
                doing = "sent on" if is_sending else "read from"
                message = f"the deadline passed while the body was {doing} {connection.name}"
                error = _timed_out(message, Delivery.ANSWER_STARTED, job.request)
                self._connections.fail_locked(connection, error)
            return
        if job.place is Place.NEW:
            self._take_out_locked(job, self._waited_too_long(job))
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
            upload = job.extras.upload
            early = None if upload is None else upload.pending_response
            if early is not None and early.status >= 300:
                # It has its response, and waits only for the sender.
                self._connections.fail_locked(connection, ConnectionTimedOut(message))
                return
            delivery = self._connections.delivery_locked(connection, job)
            error = _timed_out(message, job.max_delivery(delivery), job.request)
            is_sending = upload is not None and upload.is_sending
            if is_sending or connection.oldest is job:
                job.fatal_error = error
                self._connections.fail_locked(connection, Abandoned(message))
                return
        self._core.emit_of("gave up", job, "", error.msg, error)
        self._take_out_locked(job, error)

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

    def begin_stream(self, job: Job, stream: object) -> None:
        """The calling thread is about to wait for *job*, and to read the body of its response.

        If its *stream* is forgotten without having been left, `end_stream` is called later.
        """
        forgotten = partial(_forgotten, self, job)
        self._core.streamed[job] = get_ident(), weakref.ref(stream, forgotten)

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
        core = self._core
        core.check_may_wait()
        core.check_not_entering()
        job = job.current
        if job.place is Place.IN_FLIGHT:
            return
        ident, limits = get_ident(), core.limits
        # What this thread has counts among these. So where there is room, it need not be looked
        # for, which takes longer the more streams there are.
        is_full = core.connections >= limits.max_connections
        limit = holding_limit(job.host, limits.max_connections_per_host)
        if not is_full and len(job.host.connections) < limit:
            return
        mine = [
            other.host
            for other, (thread, stream) in list(core.streamed.items())
            if thread == ident and other is not job and stream() is not None
        ]
        # Without the lock: what this thread has borrowed it alone can give back. Copying a dict is
        # atomic in free-threaded CPython, too.
        hosts = [job.host]
        if is_full:
            hosts = list(core.hosts.values())
        for host in hosts:
            connections = list(host.connections)
            mine += [host for c in connections if c.borrower and c.borrowed_by == ident]
        if len(mine) >= limits.max_connections or mine.count(job.host) >= limit:
            raise StateError(
                "this thread uses all connections that this request could have, for streams or "
                "another request: it would wait for itself"
            )

    def is_running(self, job: Job) -> bool:
        """Return True if *job* is on a connection, and not done."""
        # Attributes that are replaced as a whole need no lock, in free-threaded CPython, too.
        return job.current.place is Place.IN_FLIGHT

    # --- the end ----------------------------------------------------------------------------------

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

    def close(self, wait: bool = True) -> None:
        """End everything; every future ends. With *wait*, see the threads end, if they do.

        The maintenance thread does the work, so that an interrupt of the caller leaves none undone.
        """
        core = self._core
        if core.is_locked_here():
            self.do_later(partial(self.close, wait=False))
            return
        if sys.is_finalizing():  # the threads have been stopped, and the sockets are closed soon
            core.closed = True
            return
        core.protect(self._close, self._close_elsewhere, wait)

    def _close(self, wait: bool) -> None:
        core = self._core
        with core.transaction():
            core.closed = True
            core.tell_of_room_locked()
            is_maintained = self._maintenance.is_running
        self._maintenance.wake()
        if not is_maintained:
            self._fail_everything()
        if wait and not core.threads.is_own():
            self._see_threads_end()

    def _close_elsewhere(self, wait: bool) -> None:
        """Go on with what was interrupted, without a wait."""
        self._close(wait=False)
        if wait:
            self._core.threads.start(self._be_closer, "dugong-close", lambda error: None)

    def _be_closer(self) -> None:
        """See the threads end in place of a caller, unless another thread does: one is enough.

        Two of them would wait for each other.
        """
        with self._core.transaction():
            if self._core.has_closer:
                return
            self._core.has_closer = True
        self._see_threads_end()

    def _see_threads_end(self) -> None:
        """Wait for all other threads of the pool that is closed; fail what those keep that stay."""
        core = self._core
        core.threads.join(Deadline(CLOSE_TIME))
        self._fail_what_is_late()
        core.threads.close()

    def _fail_everything(self) -> None:
        """Fail all requests and close all connections; the pool is closed."""
        core = self._core
        with core.transaction():
            hosts = list(core.hosts.values())
            for host in hosts:
                for connection in list(host.connections):
                    self._connections.fail_locked(connection, PoolClosed())
        for host in hosts:
            while self._fail_some_queued(host):
                time.sleep(0)  # let others have the lock
        while self._fail_some_waiting():
            time.sleep(0)
        core.callbacks.close()
        core.readers.close()

    def _fail_some_queued(self, host: Host) -> bool:
        """Fail some of the requests of a closed pool; return False if there are none left."""
        with self._core.transaction():
            count = host.end_some(_SLICE, self._retries.close_locked)
            self._core.queued -= count
        return count > 0

    def _fail_some_waiting(self) -> bool:
        with self._core.transaction():
            return self._retries.fail_some_waiting_locked(_SLICE)

    def _fail_what_is_late(self) -> None:
        """Fail the requests of connections whose threads do not end."""
        with self._core.transaction():
            for host in self._core.hosts.values():
                for connection in host.connections:
                    late = connection.uploading
                    upload = None if late is None else late.extras.upload
                    response = None if upload is None else upload.pending_response
                    if late is not None and response is not None and not late.is_decided:
                        if response.status >= 300:
                            self._retries.complete_locked(late, response, final=True)
                        else:  # which says nothing of the rest of the body
                            self._retries.close_locked(late, Delivery.PARTLY_SENT)
                    for job in list(connection.in_flight):
                        if not job.is_decided:
                            delivery = self._connections.delivery_locked(connection, job)
                            self._retries.close_locked(job, delivery)

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


def _timed_out(message: str, delivery: Delivery, request: Request) -> ConnectionTimedOut:
    error = ConnectionTimedOut(message)
    error.delivery, error.request = delivery, request
    return error
