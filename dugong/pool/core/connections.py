"""The connections of a pool: when one is opened, and what it could take.

Guarantees: as long as a request is queued, a connection is on the way to take it, or the host waits
for room (`dugong.pool.core.room`). How connections end is in `dugong.pool.core.closing`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Protocol

from dugong.errors import Delivery, DugongError, is_out_of_descriptors
from dugong.pool.core.closing import Closing
from dugong.pool.core.connection import KEEP_ALIVE_MARGIN, PooledConnection
from dugong.pool.core.core import PoolCore
from dugong.pool.core.dispatch import connection_limit, has_capacity, wants_connection
from dugong.pool.core.emitting import emit
from dugong.pool.core.hedging import Hedging
from dugong.pool.core.host import Host
from dugong.pool.core.job import Job
from dugong.pool.core.locked import locked
from dugong.pool.core.maintenance import Maintenance
from dugong.pool.core.politeness import Politeness
from dugong.pool.core.rescue import Rescue
from dugong.pool.core.retries import RetryEngine
from dugong.pool.core.room import Room
from dugong.pool.failure import describe, failure, forget_frames, internal_error, is_bug
from dugong.pool.io.engine import Engine
from dugong.pool.response import Response, StreamedResponse

__all__ = ["ConnectionManager"]

#: Seconds for which no further connection is opened to a host after one could not be.
REOPEN_TIME = 1.0
#: Seconds after which an idle connection gives its receive buffer back.
RELEASE_TIME = 1.0
#: How many hosts without connections and requests are remembered, for what they have shown.
MAX_KNOWN_HOSTS = 4096

_SLICE = 100  # requests that fail before other threads get the lock


class CloseConnection(Protocol):
    """The type of `Closing.close_locked`."""

    def __call__(
        self,
        connection: PooledConnection,
        reason: str = "the server ended it",
        error: Exception | None = None,
    ) -> None:
        """See there."""


class ConnectionManager:
    """Opens and closes the connections of a pool, and knows which could take a request."""

    def __init__(
        self,
        core: PoolCore,
        maintenance: Maintenance,
        retries: RetryEngine,
        politeness: Politeness,
        make_engine: Callable[[Host], Engine],
        run_sender: Callable[[PooledConnection], object],
        pipeline_rescue: bool = True,
    ) -> None:
        self._core = core  # never changes
        #: Of the connections to each host that has no policy for it; never changes.
        self._limit = core.limits.max_connections_per_host
        self._maintenance = maintenance  # never changes
        self._retries = retries  # never changes
        self._politeness = politeness  # never changes
        self._make_engine = make_engine  # makes the engine of a connection; never changes
        self._run_sender = run_sender  # the sender's loop, for a thread; never changes
        self._room = room = Room(core, maintenance, self)  # never changes
        self._closing = closing = Closing(core, maintenance, retries, room, self)  # never changes
        self._rescue = rescue = Rescue(core, maintenance, retries, self)  # never changes
        #: Sends slow requests once more; never changes.
        self.hedging: Hedging = Hedging(core, maintenance, self)
        retries.hedging = self.hedging
        #: What is told that requests wait on a connection behind its oldest one; never changes.
        self.watch_locked: Callable[[PooledConnection], None] = (
            rescue.watch_locked if pipeline_rescue else _ignore
        )
        self.admit_locked: Callable[[PooledConnection], bool] = room.admit_locked
        self.taken_locked: Callable[[Host], None] = politeness.taken_locked
        self.responded_locked: Callable[[Host, Job, Response | StreamedResponse], None] = (
            politeness.responded_locked
        )
        self.timed_out_locked: Callable[[Host, Exception], None] = politeness.timed_out_locked
        self.close_locked: CloseConnection = closing.close_locked
        self.fail_locked: Callable[[PooledConnection, Exception], None] = closing.fail_locked
        self.finish_closing_locked: Callable[[PooledConnection], None] = (
            closing.finish_closing_locked
        )
        self.emit_learned: Callable[[PooledConnection, str | None, int | None], None] = (
            closing.emit_learned
        )
        self.delivery_locked: Callable[[PooledConnection, Job], Delivery] = closing.delivery_locked

    def reset(self) -> None:
        """Begin with nothing: also for a child process, after a fork."""
        self._room.reset()
        self._closing.reset()
        self._rescue.reset()
        self.hedging.reset()

    @locked
    def repair_locked(self) -> None:
        """Mend what an interrupt between two steps has left; the counts are right again."""
        self._room.repair_locked()
        self._closing.repair_locked()

    # --- hosts ------------------------------------------------------------------------------------

    def know(self, host: Host) -> Host:
        """Remember *host*, and return it, or what is known of the same origin already."""
        with self._core.transaction():
            return self.know_locked(host)

    @locked
    def know_locked(self, host: Host) -> Host:
        """As `know`."""
        hosts = self._core.hosts
        known = hosts.get(host.origin)
        if known is None:
            hosts[host.origin] = known = host
            self._politeness.adopt_locked(host)
        host = known
        hosts.move_to_end(host.origin)
        for _ in range(2):  # so that those which are in use, and stay, do not make it ever more
            if len(hosts) > MAX_KNOWN_HOSTS:
                self._forget_locked(next(iter(hosts.values())))
        return host

    @locked
    def _forget_locked(self, host: Host) -> None:
        # What its gate remembers of the last start is to count for the next.
        if not host.is_unused or (host.gate is not None and host.gate.opens_at() > monotonic()):
            self._core.hosts.move_to_end(host.origin)
            return
        del self._core.hosts[host.origin]
        self._core.totals.add(host)

    # --- a request is queued ----------------------------------------------------------------------

    @locked
    def ensure_served_locked(self, host: Host) -> None:
        """See to it that a connection takes the request that has been queued last."""
        limit = self._limit
        if host.gate is not None:
            if host.is_shut(monotonic()):
                self._politeness.wait_locked(host)
                return
            limit = connection_limit(host, limit)
        if host.needing_fresh:
            self._serve_needing_fresh_locked(host, limit)
            if not host.queue:
                return
        while host.idle and (connection := self.pop_idle_locked(host)) is not None:
            if not connection.is_stale(monotonic()):
                self.wake_sender_locked(connection)
                return
            self.close_locked(connection, "it was idle for too long")
        if len(host.connections) < limit and wants_connection(host, limit, monotonic()):
            self.open_locked(host)
        if host.with_capacity:
            self.wake_sender_locked(next(reversed(host.with_capacity)))

    @locked
    def _serve_needing_fresh_locked(self, host: Host, limit: int) -> None:
        """See to it that an unused connection takes the next request that needs one."""
        # A list, for what a signal handler raises while a generator is closed is lost.
        unused = next(iter([c for c in host.connections if not c.dispatched]), None)
        if unused is not None:
            if unused in host.idle:  # or else it will take the request once it is connected
                self.leave_idle_locked(unused)
                self.wake_sender_locked(unused)
        elif wants_connection(host, limit, monotonic()):
            self.open_locked(host)
        elif (idle := self.pop_idle_locked(host)) is not None:
            self.wake_sender_locked(idle)  # to make room

    @locked
    def ensure_all_served_locked(self, host: Host) -> None:
        """See to it that requests which are queued are taken, however many there are."""
        count = min(host.queued, self._limit)
        if host.gate is not None and count:
            most = connection_limit(host, self._limit)
            count = min(max(1, host.startable(monotonic())), most)
        for _ in range(count):
            self.ensure_served_locked(host)

    @locked
    def limit_locked(self, host: Host) -> None:
        """Have *host* keep no more connections than it may have: the idle ones go first."""
        most = connection_limit(host, self._limit)
        connections = [c for c in host.connections if not c.is_draining]
        connections.sort(key=lambda c: c not in host.idle)
        for connection in connections[: max(0, len(connections) - most)]:
            self.retire_locked(connection)

    # --- what a connection could take -------------------------------------------------------------

    @locked
    def enter_idle_locked(self, connection: PooledConnection) -> None:
        """*connection* could take any request at once."""
        connection.host.idle[connection] = None
        self._core.idle[connection] = None

    @locked
    def leave_idle_locked(self, connection: PooledConnection) -> None:
        """*connection* is not idle any more, if it was."""
        connection.host.idle.pop(connection, None)
        self._core.idle.pop(connection, None)

    @locked
    def pop_idle_locked(self, host: Host) -> PooledConnection | None:
        """Remove and return the idle connection of *host* that was used last, if there is one."""
        # A signal handler may fork between any two steps, and in the child none is there any more.
        try:
            connection, _ = host.idle.popitem()
        except KeyError:
            return None
        self._core.idle.pop(connection, None)
        return connection

    @locked
    def wake_sender_locked(self, connection: PooledConnection) -> None:
        """Have the sender of *connection* look for work, if it waits for some, or has ended."""
        connection.host.with_capacity.pop(connection, None)
        if connection.sender_parked:
            connection.sender_parked = False
            if connection.sender_started:
                connection.notify_sender()
            elif connection.receiver_started and connection.receiver_parked:
                connection.notify_receiver()  # it becomes the sender
            else:
                self.start_sender_locked(connection)

    @locked
    def update_availability_locked(self, connection: PooledConnection) -> None:
        """Note what *connection* could take. Called whenever that may have changed."""
        host = connection.host
        host.with_capacity.pop(connection, None)
        self.leave_idle_locked(connection)
        if not connection.sender_parked:
            return
        if connection.used_up and not connection.in_flight and not connection.is_closing:
            self.close_locked(connection, "it was retired")
        if connection.closed_to_more or connection.reserved is not None:
            return
        has_room = has_capacity(host, connection)
        if connection.in_flight:
            if has_room:
                host.with_capacity[connection] = None
            return
        now = monotonic()
        if not has_room:
            host.pipelining.quota = None  # the host would have closed the connection
            self.close_locked(connection, "the host would have closed it")
        elif self._idle_limit(connection) <= 0:
            self.close_locked(connection, "the server does not keep it open for long enough")
        elif (
            self._room.is_awaited
            and (not host.queued or host.is_shut(now))
            and self._room.is_wanted_locked(now)
        ):
            self.close_locked(connection, "it made room for another host")
        else:
            self.enter_idle_locked(connection)
            self._watch_in_time_locked(connection)

    @locked
    def _watch_in_time_locked(self, connection: PooledConnection) -> None:
        """See to it that a timer looks at *connection*, which is idle, in time to close it."""
        limit = self._idle_limit(connection)
        timer = connection.idle_timer
        if timer is not None and timer.when > connection.idle_since + limit:
            self._maintenance.cancel_locked(timer)  # the server has made the time shorter
            timer = None
        if timer is None:
            self._look_at_idle_locked(connection, min(RELEASE_TIME, limit))
        connection.keep_alive = connection.engine.keep_alive_timeout

    def _idle_limit(self, connection: PooledConnection) -> float:
        """Return for how many seconds *connection* may be idle.

        It is closed a second before the server would do so, which a request might not survive.
        """
        limit = self._core.limits.idle_timeout
        kept = connection.engine.keep_alive_timeout
        return limit if kept is None else min(limit, kept - KEEP_ALIVE_MARGIN)

    @locked
    def _watch_idle_locked(self, connection: PooledConnection) -> None:
        """Have an idle connection give back its memory after a while, and close it after longer."""
        connection.idle_timer = None
        if connection not in self._core.idle:
            return
        idle_for = monotonic() - connection.idle_since
        idle_timeout = self._idle_limit(connection)
        if idle_for >= idle_timeout:
            self.close_locked(connection, "it was idle for too long")
            return
        if idle_for >= RELEASE_TIME:
            connection.engine.release_memory()
            self._look_at_idle_locked(connection, idle_timeout)
        else:
            self._look_at_idle_locked(connection, min(RELEASE_TIME, idle_timeout))

    @locked
    def _look_at_idle_locked(self, connection: PooledConnection, idle_for: float) -> None:
        """Have a timer look at *connection* once it has been idle for so many seconds."""
        look = partial(self._watch_idle_locked, connection)
        when = connection.idle_since + idle_for
        connection.idle_timer = self._maintenance.at_locked(when, look)

    # --- opening ----------------------------------------------------------------------------------

    @locked
    def open_locked(self, host: Host) -> PooledConnection | None:
        """Open another connection to *host*, if there may be one, and return it."""
        core, limits = self._core, self._core.limits
        if core.closed or not self._room.find_locked(host):
            return None
        now = monotonic()
        engine = self._make_engine(host)
        connection = PooledConnection(host, engine, now, limits.max_requests)
        host.connections[connection] = None
        if limits.max_age is not None:
            retire = partial(self.retire_locked, connection)
            connection.age_timer = self._maintenance.at_locked(now + limits.max_age, retire)
        core.connections += 1
        self._room.begin_locked(connection)
        self.start_sender_locked(connection)
        return connection

    @locked
    def start_sender_locked(self, connection: PooledConnection) -> None:
        """Have a thread started that is the sender of *connection*, unless it has one by then."""
        self._core.follow_up(partial(self._start_sender, connection))

    def _start_sender(self, connection: PooledConnection) -> None:
        if connection.sender_started:  # stale: the thread ends at once
            return
        if connection.is_closing:
            self._not_started(connection)
            return
        failed = partial(self._start_failed, connection)
        self._maintenance.start(failed)
        run = partial(self._run_sender, connection)
        self._core.threads.start(run, f"dugong-{connection.name}-send", failed)

    def _not_started(self, connection: PooledConnection) -> None:
        """*connection* has been closed before it had a sender."""
        with self._core.transaction():
            if not connection.sender_started:
                connection.sending = False
                self.finish_closing_locked(connection)

    def _start_failed(self, connection: PooledConnection, error: RuntimeError) -> None:
        with self._core.transaction():
            if connection.receiver_started or not connection.wants_sender:
                return  # another thread is the sender, or becomes it, or none is wanted any more
            connection.sending = False  # unless it has begun to, which closing does not wait for
            self._no_thread_locked(connection, error)

    def opened(self, connection: PooledConnection) -> None:
        """*connection*, which has been admitted, can be used, unless it is being closed."""
        core, host = self._core, connection.host
        with core.transaction():
            if not connection.is_closing:
                connection.open()
                connection.idle_since = monotonic()
                core.totals.opened += 1
                emit(core, "opened", host, connection.name)
                self._room.opened_locked()
            if host.connect_failures:
                host.connect_failures = 0
                host.connect_backoff_until = 0.0
                self.ensure_all_served_locked(host)

    @locked
    def retire_locked(self, connection: PooledConnection) -> None:
        """Have *connection* take nothing more and end between responses."""
        connection.drain()
        if not connection.is_closing:
            self.update_availability_locked(connection)

    # --- what could not be opened -----------------------------------------------------------------

    def connect_failed(self, connection: PooledConnection, error: Exception) -> None:
        """*connection* could not be connected."""
        with self._core.transaction():
            connection.sending = False
            if isinstance(error, RuntimeError):
                self._no_thread_locked(connection, error)
            elif is_out_of_descriptors(error):
                self._refused_locked(connection, _refusal(error))
            else:
                if is_bug(error):
                    error = internal_error(error)
                self._failed_locked(connection, error)
        forget_frames(error)

    @locked
    def _failed_locked(self, connection: PooledConnection, error: Exception) -> None:
        host = connection.host
        if connection.is_closing:  # which ended the dial, and says nothing of the host
            self.close_locked(connection)
            return
        if len(host.connections) == 1:
            self._retries.cannot_reach_locked(host, connection.name, error)
        else:
            host.connect_backoff_until = monotonic() + REOPEN_TIME
            host.let_any_connection_serve()
        self.close_locked(connection, f"it could not be connected: {describe(error)}")
        # The others may be held for long; what is queued until then is not forgotten either.
        serve = partial(self.ensure_all_served_locked, host)
        self._maintenance.at_locked(host.connect_backoff_until, serve)

    @locked
    def _refused_locked(self, connection: PooledConnection, reason: str) -> None:
        """The system has no room for *connection*: that is no fault of its host's."""
        if not (connection.is_closing or self._core.closed):
            self._room.refused_locked(connection, reason)
        self.close_locked(connection, f"it could not be connected: {reason}")

    @locked
    def _no_thread_locked(self, connection: PooledConnection, error: RuntimeError) -> None:
        """No thread can be had for *connection*, or none for the timers."""
        self._refused_locked(connection, str(error))
        if self._room.gives_up_locked() or sys.is_finalizing():
            self._core.awaiting_connection[connection.host] = None
            self._fail_awaiting_locked(error)

    @locked
    def _fail_awaiting_locked(self, error: RuntimeError) -> None:
        """Fail what waits for a connection, some requests at a time if there are timers.

        Those that a connection may be opened for by then, after all, are let be.
        """
        own = DugongError(f"no thread can be started for a connection: {error}")
        own.__cause__ = error
        fail = partial(self._fail_job_locked, own)
        awaiting = self._core.awaiting_connection
        left = _SLICE
        while awaiting and not self._core.connections:
            if left <= 0 and self._maintenance.is_running:
                self._maintenance.at_locked(monotonic(), partial(self._fail_awaiting_locked, error))
                return
            host = next(iter(awaiting))
            count = host.end_some(_SLICE, fail)
            left -= max(1, count)
            self._core.unqueue_locked(count)
            if not host.queued:
                del awaiting[host]

    @locked
    def _fail_job_locked(self, error: DugongError, job: Job) -> None:
        own = failure(error, Delivery.UNSENT, job.request)
        self._retries.give_up_locked(job, own, "", describe(error))


def _ignore(connection: PooledConnection) -> None:
    pass


def _refusal(error: BaseException) -> str:
    """Return what the system has said when it refused a descriptor."""
    said = getattr(error, "strerror", None)
    return said or describe(error)
