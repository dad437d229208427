"""What becomes of a crawl delay."""

from __future__ import annotations

import pytest

from dugong import Client, ConnectionPool, HostPolicy, Request
from dugong.crawl.delays import MAX_DELAY, keep_to_delay
from dugong.pool.url import Origin

URL = "http://host.example/"
ORIGIN = Request("GET", URL).origin
WIDE = HostPolicy(min_interval=5, max_connections=2)


def policy_after(client: Client | ConnectionPool, pool: ConnectionPool, delay: float) -> object:
    """Return the policy that *pool*, which is that of *client*, has for the host then."""
    policies: dict[Origin, HostPolicy | None] = {}
    pool.set_host_policy = lambda origin, policy: policies.update({origin: policy})  # type: ignore[method-assign, assignment]  # to see it
    keep_to_delay(client, ORIGIN, delay)
    return policies.get(ORIGIN)


def test_a_delay_is_the_interval_of_the_host() -> None:
    with ConnectionPool() as pool:
        assert policy_after(pool, pool, 2) == HostPolicy(min_interval=2)


def test_the_pool_of_a_client_keeps_to_it() -> None:
    with ConnectionPool() as pool, Client(pool=pool) as client:
        assert policy_after(client, pool, 2) == HostPolicy(min_interval=2)


@pytest.mark.parametrize(("delay", "policy"), [(7, WIDE.replace(min_interval=7)), (3, None)])
def test_the_policy_of_the_pool_stays_but_for_a_shorter_interval(
    delay: float, policy: HostPolicy | None
) -> None:
    with ConnectionPool(host_policy=lambda origin: WIDE) as pool:
        assert policy_after(pool, pool, delay) == policy


def test_a_delay_without_measure_is_cut() -> None:
    with ConnectionPool() as pool:
        assert policy_after(pool, pool, 1e9) == HostPolicy(min_interval=MAX_DELAY)
