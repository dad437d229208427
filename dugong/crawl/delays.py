"""Crawl delays: how a pool keeps to what a robots.txt asks for.

Touches the policies of hosts alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dugong.pool.host_policy import HostPolicy
from dugong.pool.pool import ConnectionPool

if TYPE_CHECKING:
    from dugong.client.aio import AsyncClient
    from dugong.client.client import Client
    from dugong.pool.url import Origin

__all__ = ["MAX_DELAY", "keep_to_delay"]

#: The longest crawl delay that is kept to, in seconds: a site that wants more gets this.
MAX_DELAY = 300.0


def keep_to_delay(
    client: Client | AsyncClient | ConnectionPool, origin: Origin, delay: float
) -> None:
    """Have *client* leave *delay* seconds, up to `MAX_DELAY`, between requests to *origin*.

    That is the policy which *host_policy* of the pool gives the origin, unless that leaves more,
    with the delay as *min_interval*; it replaces one that `set_host_policy` has set. Raises what
    *host_policy* raises. Any thread may call it.
    """
    pool = client if isinstance(client, ConnectionPool) else client._pool
    delay = min(delay, MAX_DELAY)
    policy = pool._preparer.policy_of(origin) or HostPolicy()
    if delay > policy.min_interval:
        pool.set_host_policy(origin, policy.replace(min_interval=delay))
