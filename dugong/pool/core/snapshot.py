"""The statistics of a pool, as it is now.

Called with the lock held. Changes nothing. Loaded when statistics are first asked for, because
few programs do.
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

__all__ = ["pool_statistics"]


def pool_statistics(core: PoolCore, waiting: int, now: float) -> PoolStatistics:
    """Return the statistics of the pool of *core*, where *waiting* requests wait for a retry."""
    totals = core.totals
    hosts = {str(host.origin): _host_statistics(host, now) for host in core.hosts.values()}
    return PoolStatistics(
        queued=core.queued,
        waiting=waiting,
        in_flight=sum(host.in_flight for host in hosts.values()),
        connections=totals.opened - totals.ended,
        opened=totals.opened,
        closed=totals.ended,
        sent=totals.sent + sum(host.sent for host in hosts.values()),
        answered=totals.answered + sum(host.answered for host in hosts.values()),
        resent=totals.resent + sum(host.resent for host in hosts.values()),
        hosts=hosts,
        rescued=totals.rescued + sum(host.rescued for host in hosts.values()),
        hedged=totals.hedged + sum(host.hedged for host in hosts.values()),
    )


def _host_statistics(host: Host, now: float) -> HostStatistics:
    gate = host.gate
    reserved = sum(connection.reserved is not None for connection in host.connections)
    return HostStatistics(
        origin=str(host.origin),
        queued=host.queued + reserved,
        waiting=host.waiting,
        held_for=0.0 if gate is None else gate.held_for(now),
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
        opens_in=0.0 if gate is None else max(0.0, gate.opens_at() - now),
        policy=None if gate is None else gate.policy,
        rate=None if gate is None else gate.rate,
        hedged=host.hedged,
    )
