"""What there is to be seen of a pool: its statistics, and what holds its connections in words.

Called with the lock held. Changes nothing.
"""

from __future__ import annotations

from dugong.pool.core.core import PoolCore
from dugong.pool.core.host import Host
from dugong.pool.core.job import Place
from dugong.pool.statistics import (
    ConnectionStatistics,
    Holding,
    HostStatistics,
    PoolStatistics,
)

__all__ = ["describe_holders", "pool_statistics"]


def describe_holders(host: Host, now: float) -> str:
    """Return which requests hold which connections of *host*, and since when."""
    lines = []
    if host.retry_after_hold:
        left = host.hold_until - now
        lines.append(f"its server, which has asked to be left alone for {left:.1f} s more")
    for connection in host.connections:
        holders = [
            f"{job.request.method} {job.request.public_url} for {now - job.dispatched_at:.1f} s"
            for job in list(connection.in_flight)[:3]
        ]
        line = f"{connection.name} ({connection.state}): {', '.join(holders) or 'nothing'}"
        more = len(connection.in_flight) - len(holders)
        lines.append(f"{line} and {more} more" if more else line)
    return "held by " + "; ".join(lines) if lines else "no connection is open"


def pool_statistics(core: PoolCore, waiting: int, now: float) -> PoolStatistics:
    """Return the statistics of the pool of *core*, where *waiting* requests wait for a retry."""
    hosts = {str(host.origin): _host_statistics(host, now) for host in core.hosts.values()}
    return PoolStatistics(
        queued=core.queued,
        waiting=waiting,
        in_flight=sum(host.in_flight for host in hosts.values()),
        connections=core.opened - core.ended,
        opened=core.opened,
        closed=core.ended,
        sent=core.past[0] + sum(host.sent for host in hosts.values()),
        answered=core.past[1] + sum(host.answered for host in hosts.values()),
        resent=core.past[2] + sum(host.resent for host in hosts.values()),
        hosts=hosts,
        rescued=core.past_rescued + sum(host.rescued for host in hosts.values()),
    )


def _host_statistics(host: Host, now: float) -> HostStatistics:
    reserved = sum(connection.reserved is not None for connection in host.connections)
    return HostStatistics(
        origin=str(host.origin),
        queued=host.queued + reserved,
        waiting=host.waiting,
        held_for=max(0.0, host.hold_until - now) if host.retry_after_hold else 0.0,
        in_flight=host.in_flight,
        window=host.pipelining.window,
        pipelining=host.pipelining.state(now),
        lesson=host.pipelining.lesson,
        quota=host.pipelining.quota,
        sent=host.sent,
        answered=host.answered,
        resent=host.resent,
        connections=tuple(
            ConnectionStatistics(
                name=connection.name,
                state=connection.state,
                age=now - connection.opened_at,
                sent=connection.dispatched,
                answered=connection.answered,
                holding=tuple(
                    Holding(
                        job.request.method,
                        job.request.url,
                        now - job.dispatched_at,
                        job.place is Place.DONE,
                    )
                    for job in connection.in_flight
                ),
            )
            for connection in host.connections
        ),
        rescued=host.rescued,
    )
