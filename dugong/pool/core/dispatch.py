"""Which requests go to which connection: decisions without I/O.

Guarantees: requests leave a queue in its order; none leaves it while the gate of the host is shut;
nothing is sent before or behind a request that has to be exclusive; as long as there are requests,
and a connection that is free and may have them, that connection gets some. Called with the pool's
lock held; changes nothing but the queues, the jobs it takes and the connection.
"""

from __future__ import annotations

import sys
from time import monotonic
from typing import TYPE_CHECKING

from dugong.pool.core.connection import Phase

if TYPE_CHECKING:
    from dugong.pool.core.connection import PooledConnection
    from dugong.pool.core.host import Host
    from dugong.pool.core.job import Job

__all__ = [
    "capacity",
    "connection_limit",
    "has_capacity",
    "holding_limit",
    "needs_unused_connection",
    "should_refill",
    "take",
    "wants_connection",
]


def capacity(host: Host, connection: PooledConnection) -> int:
    """Return how many more requests *connection* may have in flight, as far as the rules go."""
    if connection.closed_to_more:
        return 0
    window = min(host.pipelining.window, connection.engine.capacity)
    if not connection.answered and window > 1:
        window //= 2  # the host has shown what it takes, and this connection nothing yet
    left = window - len(connection.in_flight)
    quota = host.pipelining.quota
    if quota is not None:
        left = min(left, quota - connection.dispatched)
    if connection.max_requests is not None:
        left = min(left, connection.max_requests - connection.dispatched)
    return left


def has_capacity(host: Host, connection: PooledConnection) -> bool:
    """Return True if *connection* might take a request that can be pipelined."""
    return capacity(host, connection) > 0


def should_refill(host: Host, connection: PooledConnection) -> bool:
    """Return True if it is time to wake the sender: for a batch, not for each response."""
    return (
        host.queued > 0
        and len(connection.in_flight) <= host.pipelining.window // 2
        and not (host.gate is not None and host.is_shut(monotonic()))
    )


def connection_limit(host: Host, limit: int) -> int:
    """Return how many connections *host* may have, if the pool allows each host *limit*."""
    policy = None if host.gate is None else host.gate.policy
    if policy is None or policy.max_connections is None:
        return limit
    return policy.max_connections


def holding_limit(host: Host, limit: int) -> int:
    """Return how many requests to *host* may hold a connection each, as of `connection_limit`."""
    most = connection_limit(host, limit)
    policy = None if host.gate is None else host.gate.policy
    if policy is None or policy.max_in_flight is None:
        return most
    return min(most, policy.max_in_flight)


def wants_connection(host: Host, limit: int, now: float) -> bool:
    """Return True if *host* should have another connection, of at most *limit*.

    One for each request that may start, before any request is put behind another. But only one at a
    time, as long as the host cannot be reached, and none while it takes long to respond to the
    last.
    """
    have = len(host.connections)
    if not host.queued or have >= limit:
        return False
    startable = host.queued if host.gate is None else host.startable(now)
    return (
        startable > 0
        and (have < startable + host.in_flight or needs_unused_connection(host))
        and now >= host.connect_backoff_until
        and not host.slow_dials
        and not (host.connect_failures and any(map(_is_connecting, host.connections)))
    )


def _is_used(connection: PooledConnection) -> bool:
    return connection.dispatched > 0


def _is_connecting(connection: PooledConnection) -> bool:
    return connection.phase is Phase.CONNECTING


def needs_unused_connection(host: Host) -> bool:
    """Return True if a request needs a connection that has not been used, and there is none.

    It has lost a used one, which the server may have closed just then. Another one that was idle
    for as long would show no more.
    """
    return bool(host.needing_fresh) and all(map(_is_used, host.connections))


def take(host: Host, connection: PooledConnection) -> list[Job]:
    """Remove from the queue of *host*, and return, what *connection* is to send now.

    A request that has lost a connection before is left for one that has not been used; the first
    connection that comes across it makes room for that: it takes nothing more, and ends once it is
    empty. One that has to be exclusive, and that no free connection could have, is reserved by the
    first connection that comes across it, which takes nothing else until it is empty and can send
    that. While the gate of *host* is shut, no request stays with an empty connection.
    """
    startable = sys.maxsize
    if host.gate is not None:
        startable = host.gate.allowed(monotonic(), host.in_flight)
        if not startable:
            reserved = connection.reserved
            if reserved is not None and not connection.in_flight:
                host.put_back([reserved])
                connection.reserved = None
            return []
    if connection.reserved is not None:
        if connection.in_flight or connection.closed_to_more:
            return []
        reserved, connection.reserved = connection.reserved, None
        return [reserved]
    most = capacity(host, connection)
    if most <= 0 or not host.queued:
        return []
    flying = len(connection.in_flight)
    if host.needing_fresh:
        if not connection.dispatched:
            return [host.pop_needing_fresh()]
        making_room = any(other.is_draining and not other.streaming for other in host.connections)
        if needs_unused_connection(host) and not (flying and making_room):
            connection.drain()  # and make room for one
            return []
    # An equal share, so that no request waits behind others while a connection has nothing to do.
    if startable > host.queued:
        startable = host.queued
    share = -(-(startable + host.in_flight) // len(host.connections))
    most = min(most, max(share, 1) - flying, startable)
    batch = host.pop(most)
    if batch and batch[-1].exclusive and (flying or len(batch) > 1):
        job = batch.pop()
        if any(_is_free(host, other) for other in host.connections):
            host.put_back([job])
        else:
            connection.reserved = job
            job.reserve(connection)
    return batch


def _is_free(host: Host, connection: PooledConnection) -> bool:
    """Return True if *connection* has nothing to wait for: it is idle, just woken or connecting."""
    return (
        not connection.in_flight and connection.reserved is None and has_capacity(host, connection)
    )
