"""What becomes of requests when a thread of the pool meets an exception that it cannot handle.

Such an exception is a bug of dugong. Guarantees: what the thread had in hand fails with an
`InternalError`, whose `__cause__` is that exception; no future is left without an outcome; the pool
goes on. The parts that decide of requests may be what has failed, so they are not asked here: a
request ends, and the counts are made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from dugong.errors import Delivery
from dugong.pool.core.connection import Phase, PooledConnection
from dugong.pool.core.core import PoolCore
from dugong.pool.core.emitting import emit_of
from dugong.pool.core.host import Host
from dugong.pool.core.job import Job, Place
from dugong.pool.core.locked import locked
from dugong.pool.failure import describe, failure, internal_error

if TYPE_CHECKING:
    from dugong.errors import InternalError
    from dugong.pool.core.connections import ConnectionManager
    from dugong.pool.core.maintenance import Maintenance
    from dugong.pool.core.retries import RetryEngine

__all__ = ["Faults"]


class Faults:
    """Fails what threads of a pool had in hand."""

    def __init__(
        self,
        core: PoolCore,
        maintenance: Maintenance,
        retries: RetryEngine,
        connections: ConnectionManager,
    ) -> None:
        #: What `lost_locked` was last told, until `crashed` is; guarded by the lock.
        self._noted: BaseException | None = None
        # None of the others ever changes.
        self._core = core
        self._maintenance = maintenance
        self._retries = retries
        self._connections = connections

    # --- a thread of a connection -----------------------------------------------------------------

    @locked
    def lost_locked(
        self, connection: PooledConnection, jobs: Iterable[Job], exc: BaseException
    ) -> None:
        """Fail *jobs*, which a thread had in hand when *exc* was raised, and goes on to `crashed`.

        In the thread of a caller, *exc* may be that of a signal handler, and the caller gets it.
        """
        if self._core.threads.is_own():
            self._noted = exc
            connection.drain()  # what it took until it has crashed would be blamed for that
            for job in jobs:
                self._fail_locked(internal_error(exc), job)

    def crashed(self, connection: PooledConnection, exc: BaseException, is_sender: bool) -> None:
        """The sender or the receiver of *connection* has raised *exc*, and ends."""
        core, error = self._core, internal_error(exc)
        _log(f"a thread of connection {connection.name}", exc)
        core.recover(exc, is_certain=True)
        with core.transaction():
            if is_sender:
                self._end_sending_locked(connection, error)
            else:
                connection.receiving = False
            is_fruitless = not (connection.in_flight or connection.answered or self._noted is exc)
            self._noted = None
            if is_fruitless:
                # The next connection may meet with the same, so one request is charged with it.
                fail = partial(self._fail_locked, error)
                core.unqueue_locked(connection.host.end_some(1, fail))
            self._end_connection_locked(connection, error)
        core.recover(exc, is_certain=True)

    def crashed_before(self, connection: PooledConnection, exc: BaseException) -> None:
        """A thread has raised *exc* before it was the sender of *connection*, and ends.

        Nothing of the connection is in its hands if another thread is the sender.
        """
        core = self._core
        core.recover(exc, is_certain=True)
        with core.transaction():
            is_sender = not connection.sender_started
            connection.sender_started = True
        if is_sender:
            self.crashed(connection, exc, True)
        else:
            _log(f"a thread of connection {connection.name}", exc)

    @locked
    def _end_sending_locked(self, connection: PooledConnection, error: InternalError) -> None:
        connection.sending = False
        job, connection.uploading = connection.uploading, None
        if job is not None:
            job.fatal_error = error
            if job.extras.upload is not None:
                job.extras.upload.end(error)
            if job not in connection.in_flight:  # its response has waited for this
                self._fail_locked(error, job)
            self._core.body_released.notify_all()

    @locked
    def _end_connection_locked(self, connection: PooledConnection, error: InternalError) -> None:
        is_ended = False
        with suppress(Exception):  # the same may fail here
            self._connections.fail_locked(connection, error)
            is_ended = connection.phase is not Phase.CLOSED  # or all were seen to before
        if not is_ended:
            for job in list(connection.in_flight):
                self._fail_locked(error, job)

    # --- a call that a thread of the pool makes ---------------------------------------------------

    def call_failed(
        self, call: Callable[[], object], exc: BaseException, is_vital: bool = False
    ) -> None:
        """*call* has raised *exc* in a thread of the pool, which goes on.

        What it was about fails: a request, a connection, or all requests to a host. If it was about
        none of these, and *is_vital*, all requests of the pool fail.
        """
        core, error = self._core, internal_error(exc)
        _log(_name_of(call), exc)
        core.recover(exc, is_certain=True)
        parts = _parts_of(call)
        about: list[Job | PooledConnection | Host] = [
            part for part in parts if isinstance(part, (Job, PooledConnection))
        ] or [part for part in parts if isinstance(part, Host)]
        with core.transaction():
            if is_vital and not about:
                about += core.hosts.values()
            for part in about:
                if isinstance(part, Job):
                    self._fail_locked(error, part)
                elif isinstance(part, PooledConnection):
                    self._end_connection_locked(part, error)
                else:
                    self._fail_host_locked(part, error)
        core.recover(exc, is_certain=True)

    @locked
    def _fail_host_locked(self, host: Host, error: InternalError) -> None:
        waiting = [job for job in self._retries.waiting if job.host is host]
        for job in (*host.pop_all(), *waiting):
            self._fail_locked(error, job)
        for connection in list(host.connections):
            for job in list(connection.in_flight):  # or what was being taken back from there
                self._fail_locked(error, job)
            self._end_connection_locked(connection, error)

    # --- one request ------------------------------------------------------------------------------

    @locked
    def _fail_locked(self, error: InternalError, job: Job) -> None:
        """End *job*, wherever it is. The counts are to be made anew."""
        job = job.current
        connection, delivery = job.connection, Delivery.UNSENT
        if job.is_decided:
            return
        upload = job.extras.upload
        is_sending = upload is not None and upload.is_sending
        if is_sending and connection is not None:  # the sender is to let go of it first
            job.fatal_error = job.fatal_error or error
            with suppress(Exception):
                self._connections.fail_locked(connection, error)
            return
        if job.place is Place.IN_FLIGHT:
            delivery = Delivery.ANSWER_STARTED
            if connection is not None and job in connection.in_flight:
                delivery = self._connections.delivery_locked(connection, job)
        if job.twin is not None:
            job.twin.lose_twin()  # which goes on with the future
            return
        own = failure(error, job.max_delivery(delivery), job.request)
        own.attempts = job.attempts  # type: ignore[attr-defined]  # each of ours has it
        self._core.settle_locked(job.future, own)
        job.finish()
        if upload is not None:
            upload.body.release()
        self._retries.waiting.pop(job, None)  # whose timer finds that it waits no more
        if job.timer is not None:
            self._maintenance.cancel_locked(job.timer)
        if job.flow is not None:
            self._core.callbacks.add(job.flow.close)
        name = "" if connection is None else connection.name
        emit_of(self._core, "gave up", job, name, describe(own), own)


def _parts_of(call: object) -> list[object]:
    """Return what *call* is a method of, and what it is to be called with."""
    if isinstance(call, partial):
        return [*_parts_of(call.func), *_parts_of(call.args)]
    if isinstance(call, tuple):
        return [found for part in call for found in _parts_of(part)]
    return [call, getattr(call, "__self__", None)]


def _name_of(call: object) -> str:
    function = call.func if isinstance(call, partial) else call
    return getattr(function, "__qualname__", repr(function))


def _log(where: str, exc: BaseException) -> None:
    import logging

    logging.getLogger(__name__).error("internal error in %s", where, exc_info=exc)
