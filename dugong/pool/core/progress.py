"""What is noted of requests that are sent and of responses that come, and what follows from it.

Guarantees: each request and each response is counted once. What a host has shown decides at once
what its connection takes next, or that it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING

from dugong.pool.core.connection import PooledConnection
from dugong.pool.core.connections import ConnectionManager
from dugong.pool.core.core import PoolCore
from dugong.pool.core.dispatch import should_refill
from dugong.pool.core.emitting import emit_of
from dugong.pool.core.host import Host
from dugong.pool.core.job import Job
from dugong.pool.core.locked import locked
from dugong.pool.response import Response, StreamedResponse, status_text

if TYPE_CHECKING:
    from dugong.pool.io.engine import Exchange

__all__ = ["Progress"]


class Progress:
    """The counts, times and lessons of the connections of a pool."""

    def __init__(self, core: PoolCore, connections: ConnectionManager) -> None:
        self._core = core  # never changes
        self._connections = connections  # never changes

    @locked
    def mark_in_flight_locked(self, connection: PooledConnection, batch: Sequence[Job]) -> None:
        """*connection* is to send *batch*."""
        host = connection.host
        now = monotonic()
        if host.gate is not None:
            host.gate.started(len(batch), now)
            self._refresh_heads_locked(host, batch)
        Job.dispatch(batch, connection, now)
        first = batch[0]
        connection.exclusive = first.exclusive or first.needs_fresh_connection
        count = len(batch)
        if self._core.on_event is not None:
            for job in batch:
                emit_of(self._core, "sent", job, connection.name)
        connection.dispatched += count
        if now >= host.recent_until:
            host.note_time(now)
        host.in_flight += count
        host.sent += count

    @locked
    def _refresh_heads_locked(self, host: Host, batch: Sequence[Job]) -> None:
        """Have what is sent of *batch* say what the policy of *host* wants now."""
        for job in batch:
            if job.head is not None and job.builder is not host.builder:
                self._core.heads.rebuild(job)

    @locked
    def count_responses_locked(self, connection: PooledConnection, count: int) -> None:
        connection.host.answered += count
        connection.host.in_flight -= count

    @locked
    def note_time_locked(
        self, connection: PooledConnection, oldest: Job, response: Response
    ) -> None:
        """Note how long the *response* to *oldest* took, the first of those that have come."""
        host, now, before = connection.host, monotonic(), connection.responded_at
        connection.responded_at = now
        if oldest.extras.upload is None:
            seconds = now - oldest.dispatched_at
            is_alone = oldest.dispatched_at >= before
            host.pipelining.took(seconds if is_alone else now - before, is_alone)
            if host.queued and not is_alone:
                host.pipelining.waited(seconds, len(response.body), now)

    def emit_answered(
        self, connection: PooledConnection, job: Job, response: Response | StreamedResponse
    ) -> None:
        emit_of(self._core, "answered", job, connection.name, status_text(response), response)

    @locked
    def learn_locked(self, connection: PooledConnection, last: Exchange, good: int) -> None:
        """Learn from responses, of which *last* was the last, and go on or end."""
        pipelining, connections = connection.host.pipelining, self._connections
        if good:
            pipelining.responded(good, monotonic())
        before = pipelining.lesson, pipelining.quota
        if not last.minor_version:
            pipelining.old_version(monotonic())
            connections.emit_learned(connection, *before)
        if last.persistent and not connection.in_flight and connection.engine.has_stray_bytes:
            # It has sent more than it was asked for, perhaps a response twice (rule 1).
            pipelining.broke_the_rules(monotonic())
            connections.emit_learned(connection, *before)
            connections.close_locked(connection, "it has sent more than it was asked for")
        elif not last.persistent:
            uploading = connection.uploading
            upload = None if uploading is None else uploading.extras.upload
            early = None if upload is None else upload.pending_response
            if early is not None and early.status < 300:
                connection.drain()  # the sender goes on until all of the body has been sent
            else:
                connections.close_locked(connection)
        elif connection.lost_requests and not connection.is_wanted:
            # The receiver, which is this thread, is done with it: what was taken back may have its
            # place at once.
            connection.receiving = False
            connections.close_locked(connection, "its other requests have been taken back")
        elif connection.sender_parked:
            if connection.reserved is not None:
                if not connection.in_flight:
                    connections.wake_sender_locked(connection)
            elif should_refill(connection.host, connection) and not connection.closed_to_more:
                connections.wake_sender_locked(connection)
            else:
                connections.update_availability_locked(connection)
        host = connection.host
        if host.gate is not None and host.queued:
            connections.ensure_all_served_locked(host)  # there is one less in flight
