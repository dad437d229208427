"""What holds the connections of a host, in words, for the messages of requests that had to wait.

Called with the pool's lock held. Changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dugong.pool.core.host import Host

__all__ = ["describe_holders"]


def describe_holders(host: Host, now: float) -> str:
    """Return which requests hold which connections of *host*, and since when."""
    lines = []
    gate = host.gate
    if gate is not None and host.is_shut(now):
        left = max(0.0, gate.opens_at() - now)
        if host.is_held(now):
            left = gate.held_for(now)
            lines.append(f"its server, which has asked to be left alone for {left:.1f} s more")
        elif left:
            lines.append(f"its policy, which lets the next request start in {left:.1f} s")
        else:
            lines.append(f"its policy, which lets {host.in_flight} be in flight")
    for connection in host.connections:
        holders = [
            f"{job.request.method} {job.request.public_url} for {now - job.dispatched_at:.1f} s"
            for job in list(connection.in_flight)[:3]
        ]
        line = f"{connection.name} ({connection.state}): {', '.join(holders) or 'nothing'}"
        more = len(connection.in_flight) - len(holders)
        lines.append(f"{line} and {more} more" if more else line)
    return "held by " + "; ".join(lines) if lines else "no connection is open"
