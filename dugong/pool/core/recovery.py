"""What becomes of a pool after an interrupt in the middle of a change, and in a forked child.

Guarantees: after an interrupt, the counts are right, and every thread looks again for what there is
to do. In a child process, nothing of the parent's is used or waited for.
"""

from __future__ import annotations

from threading import Condition, RLock

from dugong.errors import Delivery, PoolClosed
from dugong.pool.core.connection import Phase, PooledConnection
from dugong.pool.core.connections import ConnectionManager
from dugong.pool.core.core import PoolCore
from dugong.pool.core.host import Host
from dugong.pool.core.job import Job, Place
from dugong.pool.core.locked import locked
from dugong.pool.core.maintenance import Maintenance
from dugong.pool.core.politeness import Politeness
from dugong.pool.core.retries import RetryEngine
from dugong.pool.failure import failure
from dugong.pool.request import Request

__all__ = ["Recovery"]


class Recovery:
    """Mends the parts of a pool, or has them begin afresh."""

    def __init__(
        self,
        core: PoolCore,
        maintenance: Maintenance,
        retries: RetryEngine,
        connections: ConnectionManager,
        politeness: Politeness,
    ) -> None:
        # None of these ever changes.
        self._core = core
        self._maintenance = maintenance
        self._retries = retries
        self._connections = connections
        self._politeness = politeness

    # --- after an interrupt -----------------------------------------------------------------------

    @locked
    def repair_locked(self) -> None:
        """Make everything that can be derived anew, and have every thread look again."""
        core, connections = self._core, self._connections
        if core.parents_hosts:
            self._forget_parents_locked()
        self._maintenance.repair_locked()
        core.idle.clear()
        for host in core.hosts.values():
            for connection in list(host.connections):
                if connection.phase is Phase.CLOSED:
                    del host.connections[connection]
            host.recount()
            host.idle.clear()
            host.with_capacity.clear()
        self._retries.repair_locked()
        self._politeness.repair_locked()
        hosts = list(core.hosts.values())
        all_connections = [connection for host in hosts for connection in host.connections]
        for connection in all_connections:
            if connection.reserved is not None and connection.reserved.place is not Place.RESERVED:
                connection.reserved = None
        core.connections = len(all_connections)
        core.queued = sum(host.queued for host in hosts)
        core.queued += sum(connection.reserved is not None for connection in all_connections)
        connections.repair_locked()
        for connection in sorted(all_connections, key=lambda c: c.idle_since):
            self._repair_connection_locked(connection)
        for host in hosts:
            connections.ensure_all_served_locked(host)
        core.tell_of_room_locked()

    @locked
    def _repair_connection_locked(self, connection: PooledConnection) -> None:
        connections = self._connections
        if connection.is_closing:
            self._core.follow_up(connection.engine.abort)
            connections.finish_closing_locked(connection)
        elif connection.wants_sender:
            connections.start_sender_locked(connection)  # an interrupt may have lost the start
        else:
            connections.update_availability_locked(connection)
        connection.notify_sender()
        connection.notify_receiver()

    # --- a fork -----------------------------------------------------------------------------------

    def before_fork(self, seconds: float = -1) -> bool:
        """Hold the lock, so that the child does not find the pool in the middle of a change.

        It may do so if a signal handler forks in the middle of a change of its own thread. Return
        False if the lock could not be had within *seconds* (-1: no limit).
        """
        return self._core.lock.acquire(timeout=seconds)

    def after_fork_in_parent(self) -> None:
        """Release what `before_fork` has taken."""
        self._core.lock.release()

    def begin_as_child(self) -> None:
        """Forget all that is the parent's, without a byte on its connections.

        If a signal handler has forked in the middle of a transaction of its thread, it may use the
        pool at once, and may return to the transaction: when that ends, `repair_locked` is called.
        """
        core = self._core
        jobs = list(self._retries.waiting)
        hosts = list(core.hosts.values())
        for host in hosts:
            jobs += _drop(host)
        futures = [future for future, _ in core.unsettled()]
        old_lock, is_closed, was_locked_here = core.lock, core.closed, core.is_locked_here()
        for job in jobs:
            if not job.is_decided:
                futures.append(job.future)
                if not was_locked_here:  # or else it changes its place now
                    job.finish()
        for condition in (core.room, core.body_released):
            _notify_all(condition)  # this thread may go on with its wait
        for part in (core, self._maintenance, self._retries, self._connections):
            part.reset()
        core.closed = is_closed
        core.parents_hosts = hosts
        if not was_locked_here:  # or else it is for the conditions that belong to it
            _release(old_lock)
        for future in futures:
            # What waits for it does so in the parent, but for this thread perhaps.
            future._reject_in_child(_error_in_child(future.request))

    @locked
    def _forget_parents_locked(self) -> None:
        """Fail what was left of a transaction in which a signal handler has forked: see there."""
        hosts, self._core.parents_hosts = self._core.parents_hosts, []
        jobs = [job for job in self._retries.waiting if job.host in hosts]
        for host in hosts:
            if self._core.hosts.get(host.origin) is not host:
                jobs += _drop(host)
                self._core.awaiting_connection.pop(host, None)
        for job in jobs:
            job.timer = None  # it is another's
            if not job.is_decided:
                self._retries.complete_locked(job, _error_in_child(job.request))


def _drop(host: Host) -> list[Job]:
    """Have *host* begin afresh in a forked child; return its requests."""
    for connection in host.connections:
        connection.engine.drop()
        if connection.phase is not Phase.CLOSED:
            connection.begin_closing("it is the parent process's", None)
            connection.finish_closing()
    return host.begin_as_child()


def _error_in_child(request: Request) -> Exception:
    return failure(PoolClosed("the request is the parent process's"), Delivery.SENT, request)


def _notify_all(condition: Condition) -> None:
    try:
        condition.notify_all()
    except RuntimeError:
        pass  # as for `_release`; then nothing waits


def _release(lock: RLock) -> None:
    """Release what `Recovery.before_fork` has taken, if it has."""
    try:
        lock.release()
    except RuntimeError:
        pass  # the fork of another thread went wrong before that
