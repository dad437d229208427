"""The connections of a pool: when one is opened, what it could take, and how it ends.

Guarantees: as long as a request is queued, a connection is on the way to take it; there are never
more connections than allowed; the requests of a connection that ends are each put back or failed,
once.

A connection is closed in two steps: `close_locked` has it shut down, so that the threads at work on
it leave, and the last of them decides what becomes of its requests (`finish_closing_locked`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic

from dugong.errors import (
    ConnectionClosed,
    Delivery,
    DugongError,
    InvalidResponse,
    PoolClosed,
    ResponseTooLarge,
    UnsupportedResponse,
)
from dugong.pool.core.connection import Phase, PooledConnection
from dugong.pool.core.core import PoolCore, locked
from dugong.pool.core.dispatch import has_capacity, wants_connection
from dugong.pool.core.host import Host
from dugong.pool.core.job import Job, Place
from dugong.pool.core.maintenance import Maintenance
from dugong.pool.core.retries import RetryEngine, make_attempt
from dugong.pool.failure import Abandoned, describe, failure, forget_frames
from dugong.pool.io.engine import Engine
from dugong.pool.request import Origin

__all__ = ["ConnectionManager"]

#: Seconds for which no further connection is opened to a host after one could not be.
REOPEN_TIME = 1.0
#: Seconds after which an idle connection gives its receive buffer back.
RELEASE_TIME = 1.0
#: Seconds before the end of ``Keep-Alive: timeout=`` from which on a connection is not used.
KEEP_ALIVE_MARGIN = 1.0
#: Seconds that a connection may be used while hosts that have none wait for room.
TURN_TIME = 1.0
#: How many hosts without connections and requests are remembered, for what they have shown.
MAX_KNOWN_HOSTS = 4096

# They say what has become of one request, and nothing of those behind it.
_ABOUT_ONE_REQUEST = (Abandoned, InvalidResponse, ResponseTooLarge, UnsupportedResponse)


class ConnectionManager:
    """Opens and closes the connections of a pool, and knows which could take a request."""

    def __init__(
        self,
        core: PoolCore,
        maintenance: Maintenance,
        retries: RetryEngine,
        make_engine: Callable[[Origin], Engine],
        run_sender: Callable[[PooledConnection], object],
    ) -> None:
        self._core = core  # never changes
        self._maintenance = maintenance  # never changes
        self._retries = retries  # never changes
        self._make_engine = make_engine  # makes the engine of a connection; never changes
        self._run_sender = run_sender  # the sender's loop, for a thread; never changes
        self.reset()

    def reset(self) -> None:
        """Begin with nothing: also for a child process, after a fork."""
        self._taking_turns = False  # a timer has connections make room; guarded by the lock
        #: Connections that are CLOSED, and their requests not seen to yet; guarded by the lock.
        self._finishing: dict[PooledConnection, None] = {}

    # --- hosts ------------------------------------------------------------------------------------

    def know(self, host: Host) -> Host:
        """Remember *host*, and return it, or what is known of the same origin already."""
        with self._core.transaction():
            return self.know_locked(host)

    @locked
    def know_locked(self, host: Host) -> Host:
        """As `know`."""
        hosts = self._core.hosts
        host = hosts.setdefault(host.origin, host)
        hosts.move_to_end(host.origin)
        for _ in range(2):  # so that those which are in use, and stay, do not make it ever more
            if len(hosts) > MAX_KNOWN_HOSTS:
                self._forget_locked(next(iter(hosts.values())))
        return host

    @locked
    def _forget_locked(self, host: Host) -> None:
        if not host.is_unused:
            self._core.hosts.move_to_end(host.origin)
            return
        del self._core.hosts[host.origin]
        for index, count in enumerate((host.sent, host.answered, host.resent)):
            self._core.past[index] += count

    # --- a request is queued ----------------------------------------------------------------------

    @locked
    def ensure_served_locked(self, host: Host) -> None:
        """See to it that a connection takes the request that has been queued last."""
        if host.retry_after_hold:
            return
        if host.needing_fresh:
            self._serve_needing_fresh_locked(host)
            if not host.queue:
                return
        while host.idle:
            connection = self.pop_idle_locked(host)
            if not connection.is_stale(monotonic()):
                self.wake_sender_locked(connection)
                return
            self.close_locked(connection, "it was idle for too long")
        limit = self._core.limits.max_connections_per_host
        if len(host.connections) < limit and wants_connection(host, limit, monotonic()):
            self._open_locked(host)
        if host.with_capacity:
            self.wake_sender_locked(next(reversed(host.with_capacity)))

    @locked
    def _serve_needing_fresh_locked(self, host: Host) -> None:
        """See to it that an unused connection takes the next request that needs one."""
        unused = next((c for c in host.connections if not c.dispatched), None)
        if unused is not None:
            if unused in host.idle:  # or else it will take the request once it is connected
                self.leave_idle_locked(unused)
                self.wake_sender_locked(unused)
        elif wants_connection(host, self._core.limits.max_connections_per_host, monotonic()):
            self._open_locked(host)
        elif host.idle:
            self.wake_sender_locked(self.pop_idle_locked(host))  # to make room

    @locked
    def ensure_all_served_locked(self, host: Host) -> None:
        """See to it that requests which are queued are taken, however many there are."""
        for _ in range(min(host.queued, self._core.limits.max_connections_per_host)):
            self.ensure_served_locked(host)

    @locked
    def end_hold_locked(self, host: Host) -> None:
        """The host may be asked again."""
        for connection in host.connections:
            if connection.reserved is not None:  # `ensure_all_served_locked` sees to the others
                self.wake_sender_locked(connection)
        self.ensure_all_served_locked(host)

    # --- what a connection could take -------------------------------------------------------------

    @locked
    def enter_idle_locked(self, connection: PooledConnection) -> None:
        """*connection* could take any request at once."""
        connection.idle_since = monotonic()
        connection.host.idle[connection] = None
        self._core.idle[connection] = None

    @locked
    def leave_idle_locked(self, connection: PooledConnection) -> None:
        """*connection* is not idle any more, if it was."""
        connection.host.idle.pop(connection, None)
        self._core.idle.pop(connection, None)

    @locked
    def pop_idle_locked(self, host: Host) -> PooledConnection:
        """Remove and return the idle connection of *host* that was used last."""
        connection, _ = host.idle.popitem()
        del self._core.idle[connection]
        return connection

    @locked
    def wake_sender_locked(self, connection: PooledConnection) -> None:
        """Have the sender of *connection* look for work, if it waits for some."""
        connection.host.with_capacity.pop(connection, None)
        if connection.sender_parked:
            connection.sender_parked = False
            connection.sender_wakeup.notify()

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
        awaiting = self._core.awaiting_connection
        if not has_room:
            host.pipelining.quota = None  # the host would have closed the connection
            self.close_locked(connection, "the host would have closed it")
        elif self._idle_limit(connection) <= 0:
            self.close_locked(connection, "the server does not keep it open for long enough")
        elif awaiting and (host.retry_after_hold or not host.queued) and self._is_room_wanted(now):
            self.close_locked(connection, "it made room for another host")
        else:
            self.enter_idle_locked(connection)
            if connection.idle_timer is None:
                first_look = min(RELEASE_TIME, self._idle_limit(connection))
                look = partial(self._watch_idle_locked, connection)
                connection.idle_timer = self._maintenance.at_locked(now + first_look, look)

    def _idle_limit(self, connection: PooledConnection) -> float:
        """Return for how many seconds *connection* may be idle.

        It is closed a second before the server would do so, which a request might not survive.
        """
        limit = self._core.limits.idle_timeout
        kept = connection.engine.keep_alive_timeout
        if kept is not None:
            connection.idle_limit = kept - KEEP_ALIVE_MARGIN
            limit = min(limit, connection.idle_limit)
        return limit

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
            next_look = connection.idle_since + idle_timeout
        else:
            next_look = connection.idle_since + min(RELEASE_TIME, idle_timeout)
        look = partial(self._watch_idle_locked, connection)
        connection.idle_timer = self._maintenance.at_locked(next_look, look)

    # --- opening ----------------------------------------------------------------------------------

    @locked
    def _open_locked(self, host: Host) -> None:
        core, limits = self._core, self._core.limits
        if core.closed:
            return
        if core.connections >= limits.max_connections:
            self._make_room_locked()
        if core.connections >= limits.max_connections:  # still, or again
            self._await_room_locked(host)
            return
        now = monotonic()
        engine = self._make_engine(host.origin)
        connection = PooledConnection(host, core.lock, engine, now, limits.max_requests)
        host.connections[connection] = None
        if limits.max_age is not None:
            retire = partial(self._retire_locked, connection)
            connection.age_timer = self._maintenance.at_locked(now + limits.max_age, retire)
        core.connections += 1
        core.follow_up(partial(self._start_sender, connection))

    @locked
    def start_sender_again_locked(self, connection: PooledConnection) -> None:
        """Start the sender of *connection*, whose start an interrupt may have lost."""
        self._core.follow_up(partial(self._start_sender, connection))

    def _start_sender(self, connection: PooledConnection) -> None:
        if connection.sender_started or connection.is_closing:  # stale: the thread ends at once
            return
        failed = partial(self._start_failed, connection)
        self._maintenance.start(failed)
        run = partial(self._run_sender, connection)
        self._core.threads.start(run, f"dugong-{connection.name}-send", failed)

    def _start_failed(self, connection: PooledConnection, error: RuntimeError) -> None:
        """No thread can be had for *connection*, or none for the timers."""
        with self._core.transaction():
            if connection.is_closing:
                connection.sending = connection.sender_started  # which the sender unsets itself
                self.finish_closing_locked(connection)
                return
        self.connect_failed(connection, error)

    @locked
    def _make_room_locked(self) -> None:
        """End the longest idle connection, of whatever host."""
        longest = next(iter(self._core.idle), None)
        if longest is not None:
            self.close_locked(longest, "it made room for another host")

    @locked
    def _await_room_locked(self, host: Host) -> None:
        """Remember that *host* should have a connection, which there is no room for."""
        self._core.awaiting_connection[host] = None
        if not self._taking_turns:
            self._taking_turns = True
            self._maintenance.at_locked(monotonic() + TURN_TIME, self._take_turns_locked)

    @locked
    def _take_turns_locked(self) -> None:
        """Have connections that have had their turn make room for hosts that have none."""
        starving = sum(not host.connections for host in self._core.awaiting_connection)
        self._taking_turns = starving > 0
        if not starving:
            return
        now = monotonic()
        had_their_turn = [
            connection
            for host in self._core.hosts.values()
            for connection in host.connections
            if connection.opened_at <= now - TURN_TIME and not connection.is_draining
        ]
        # First those of the hosts that have most; of these, the oldest.
        had_their_turn.sort(key=lambda c: (-len(c.host.connections), c.opened_at))
        for connection in had_their_turn[:starving]:
            self._retire_locked(connection)
        self._maintenance.at_locked(now + TURN_TIME, self._take_turns_locked)

    def _is_room_wanted(self, now: float) -> bool:
        """Return True if a host still wants a connection that there is no room for."""
        limit = self._core.limits.max_connections_per_host
        awaiting = self._core.awaiting_connection
        while awaiting:
            first = next(iter(awaiting))
            if wants_connection(first, limit, now):
                return True
            del awaiting[first]
        return False

    @locked
    def _retire_locked(self, connection: PooledConnection) -> None:
        """Have *connection* take nothing more and end between responses."""
        connection.drain()
        if not connection.is_closing:
            self.update_availability_locked(connection)

    def connect_failed(self, connection: PooledConnection, error: Exception) -> None:
        """*connection* could not be connected."""
        host = connection.host
        with self._core.transaction():
            connection.sending = False
            if len(host.connections) == 1:
                self._retries.cannot_reach_locked(host, connection.name, error)
            else:
                host.connect_backoff_until = monotonic() + REOPEN_TIME
                host.let_any_connection_serve()
            self.close_locked(connection, f"it could not be connected: {describe(error)}")
            # The others may be held for long; what is queued until then is not forgotten either.
            serve = partial(self.ensure_all_served_locked, host)
            self._maintenance.at_locked(host.connect_backoff_until, serve)
        forget_frames(error)

    # --- closing ----------------------------------------------------------------------------------

    @locked
    def close_locked(
        self,
        connection: PooledConnection,
        reason: str = "the server ended it",
        error: Exception | None = None,
    ) -> None:
        """Close *connection*, in good order or because of *error*: no further response comes."""
        if connection.phase is Phase.CLOSED:
            return  # a forked child has dropped it, and its conditions belong to the old lock
        if connection.begin_closing(reason, error):
            self._core.follow_up(connection.engine.abort)
        self.leave_idle_locked(connection)
        connection.host.with_capacity.pop(connection, None)
        connection.sender_wakeup.notify()
        connection.receiver_wakeup.notify()
        self.finish_closing_locked(connection)

    @locked
    def fail_locked(self, connection: PooledConnection, error: Exception) -> None:
        """Close *connection* because of *error*."""
        self.close_locked(connection, describe(error), error)

    @locked
    def finish_closing_locked(self, connection: PooledConnection) -> None:
        """Decide what becomes of the requests of a closing connection, once no thread uses it."""
        if connection.phase is not Phase.CLOSING or connection.at_work:
            return
        self._finishing[connection] = None
        connection.finish_closing()
        self._see_to_requests_locked(connection)

    @locked
    def repair_locked(self) -> None:
        """Mend what an interrupt between two steps has left; the counts are right again."""
        if self._core.awaiting_connection:  # the timer may be missing; a second one does no harm
            self._taking_turns = True
            self._maintenance.at_locked(monotonic() + TURN_TIME, self._take_turns_locked)
        for connection in list(self._finishing):
            if connection.phase is not Phase.CLOSED:
                del self._finishing[connection]  # it has not begun
                continue
            # It counts off what it finds.
            connection.host.in_flight += len(connection.in_flight)
            self._core.connections += 1
            self._see_to_requests_locked(connection)

    @locked
    def _see_to_requests_locked(self, connection: PooledConnection) -> None:
        """Decide what becomes of the requests of a closed connection. May be done again."""
        core, host = self._core, connection.host
        host.connections.pop(connection, None)
        if not (host.connections or host.connect_failures):
            host.connect_backoff_until = 0.0  # there was no hurry only as long as there were others
        core.connections -= 1
        jobs = list(connection.in_flight)
        verdicts = [self.delivery_locked(connection, job) for job in jobs]
        host.in_flight -= len(jobs)
        self._learn_from_end_locked(connection, verdicts)
        core.emit("closed", host, connection.name, reason=connection.close_reason)
        for timer in (connection.age_timer, connection.idle_timer, connection.rate_timer):
            if timer is not None:
                self._maintenance.cancel_locked(timer)
        reserved = connection.reserved
        if reserved is None or reserved.place is not Place.RESERVED:
            pass
        elif core.closed:
            core.unqueue_locked(1)
            self._retries.close_locked(reserved)
        else:
            host.put_back([reserved])
        connection.reserved = None
        back: list[Job] = []
        for index, (job, verdict) in enumerate(zip(jobs, verdicts, strict=True)):
            is_lost = job.place is Place.IN_FLIGHT
            if is_lost and self._requeue_or_fail_locked(connection, job, verdict, index == 0):
                back.append(job)
        self._retries.requeue_locked(back)  # before the reserved one, which stood behind them
        for job in jobs:
            connection.take_off(job)
        core.ended += connection.was_open
        del self._finishing[connection]
        forget_frames(connection.failure)
        awaiting = core.awaiting_connection
        while awaiting and (core.connections < core.limits.max_connections or core.idle):
            next_host = next(iter(awaiting))
            del awaiting[next_host]
            self.ensure_all_served_locked(next_host)
        self.ensure_all_served_locked(host)

    @locked
    def _requeue_or_fail_locked(
        self, connection: PooledConnection, job: Job, verdict: Delivery, first: bool
    ) -> bool:
        """See to *job*, whose connection has ended; return True if it goes back to the queue.

        Only the *first* request that was not answered can be why the connection ended; the others
        are not charged. As that is not sure, they are exclusive from now on: a request that ends
        its connections each time runs out of attempts without taking others along.
        """
        cause = connection.failure
        if job.cancelled:
            self._retries.complete_locked(job, None)
            return False
        if job.fatal_error is not None:
            error = failure(job.fatal_error, verdict, job.request)
            self._retries.give_up_locked(job, error, connection.name, "it cannot be tried again")
            return False
        # The pool has ended the connection for a request that is done: that blames none of these.
        blameless = cause is None or isinstance(cause, Abandoned)
        stale = isinstance(cause, ConnectionClosed) and verdict is not Delivery.ANSWER_STARTED
        charged = first and not blameless
        if stale and verdict is Delivery.UNSENT:
            # An idle connection that the server has closed. If a fresh one ends before its first
            # request, that is not to go on for ever.
            charged = charged and job.needs_fresh_connection and not connection.answered
        if not first and isinstance(cause, _ABOUT_ONE_REQUEST):
            reason = describe(cause)
            cause = ConnectionClosed(
                f"the connection has ended because of another request: {reason}"
            )
        error = failure(cause or ConnectionClosed(), verdict, job.request)
        attempt = make_attempt(job, connection.name, connection.close_reason, verdict, charged)
        attempt = attempt._replace(exception=error)
        if charged:
            # An idle connection that the server closes at the moment when it is used looks like
            # this. That of a fresh one, or a second time, is not what has happened.
            at_once = stale and bool(connection.answered) and not job.needs_fresh_connection
            job.needs_fresh_connection = True
            delay = 0.0 if at_once else job.retry.delay(attempt.number)
            self._retries.complete_locked(job, error, attempt, delay)
            return False
        if not self._retries.requeues_uncharged_locked(job, error, attempt):
            return False
        job.exclusive = job.exclusive or not (blameless or verdict is Delivery.UNSENT)
        if first and not connection.answered and not blameless:
            job.needs_fresh_connection = True
        return True

    # --- what an end says -------------------------------------------------------------------------

    @locked
    def _learn_from_end_locked(
        self, connection: PooledConnection, verdicts: list[Delivery]
    ) -> None:
        failure, pipelining = connection.failure, connection.host.pipelining
        before = pipelining.lesson, pipelining.quota
        now = monotonic()
        unanswered = sum(verdict is not Delivery.UNSENT for verdict in verdicts)
        if failure is None:
            if connection.engine.was_ended_by_peer:
                pipelining.closed(connection.answered, unanswered, now)
        elif isinstance(failure, InvalidResponse) and unanswered > 1:
            pipelining.broke_the_rules(now)
        elif isinstance(failure, (Abandoned, ResponseTooLarge, PoolClosed)):
            pass  # our own doing
        elif unanswered and isinstance(failure, (DugongError, OSError)):
            pipelining.died(connection.answered, unanswered, now)
        self.emit_learned(connection, *before)

    def emit_learned(
        self, connection: PooledConnection, lesson: str | None, quota: int | None
    ) -> None:
        """Tell what the host has shown since that *lesson* and *quota* were known, if anything."""
        pipelining = connection.host.pipelining
        reason = None
        if pipelining.quota != quota:
            reason = f"it closes a connection after {pipelining.quota} responses"
        elif pipelining.lesson != lesson:
            reason = pipelining.lesson
        if reason is not None:
            self._core.emit("learned", connection.host, connection.name, reason=reason)

    @locked
    def delivery_locked(self, connection: PooledConnection, job: Job) -> Delivery:
        """Return how far *job*, which is in flight on *connection*, has got."""
        is_oldest = job is next(iter(connection.in_flight), None)
        return connection.engine.verdict(job, is_oldest, connection.failure)
