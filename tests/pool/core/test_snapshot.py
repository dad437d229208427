"""What there is to be seen of a pool."""

from __future__ import annotations

from dugong import HostPolicy
from dugong.pool.core.core import PoolCore
from dugong.pool.core.gate import Gate
from dugong.pool.core.host import Host
from dugong.pool.core.snapshot import pool_statistics
from dugong.pool.statistics import Holding
from tests.support.parts import fly, hold, make_connection, make_core, make_host, make_job, queue

NOW = 100.0


def core_with(*hosts: Host) -> PoolCore:
    """Return a core that knows *hosts*."""
    core = make_core()
    for host in hosts:
        core.hosts[host.origin] = host
    return core


def test_a_pool_without_hosts_has_only_its_past() -> None:
    core = core_with()
    totals = core.totals
    totals.sent, totals.answered, totals.resent, totals.rescued = 7, 5, 2, 1
    totals.opened, totals.ended = 3, 2
    statistics = pool_statistics(core, 4, NOW)
    assert (statistics.sent, statistics.answered, statistics.resent) == (7, 5, 2)
    assert statistics.rescued == 1
    assert (statistics.opened, statistics.closed, statistics.waiting) == (3, 2, 4)
    assert statistics.hosts == {}


def test_the_sums_are_those_of_all_hosts_and_the_past() -> None:
    first, second = make_host(), make_host(name="second")
    for host in (first, second):
        make_connection(host, in_flight=2)
        host.sent, host.answered, host.resent, host.rescued = 10, 8, 3, 2
    core = core_with(first, second)
    totals = core.totals
    totals.sent = totals.answered = totals.resent = 100
    totals.rescued = 50
    statistics = pool_statistics(core, 0, NOW)
    assert list(statistics.hosts) == ["http://host", "http://second"]
    assert statistics.in_flight == 4
    assert (statistics.sent, statistics.answered, statistics.resent) == (120, 116, 106)
    assert statistics.rescued == 54


def test_a_host_shows_how_it_is_treated() -> None:
    host = make_host(window=1)
    host.pipelining.broke_the_rules(NOW)
    hold(host, NOW + 7)
    host.waiting = 3
    queue(host, "/a", "/b")
    (shown,) = pool_statistics(core_with(host), 3, NOW).hosts.values()
    assert (shown.queued, shown.waiting, shown.held_for, shown.window) == (2, 3, 7.0, 1)
    assert (shown.pipelining, shown.lesson) == ("one at a time", "it has sent what is no response")


def test_a_hold_that_is_over_but_was_not_ended_yet_lasts_for_no_time() -> None:
    host = make_host()
    hold(host, NOW - 1)
    (shown,) = pool_statistics(core_with(host), 0, NOW).hosts.values()
    assert shown.held_for == 0.0


def test_a_reserved_request_counts_as_queued() -> None:
    host = make_host()
    connection = make_connection(host)
    connection.reserved = make_job(host)
    queue(host, "/a")
    (shown,) = pool_statistics(core_with(host), 0, NOW).hosts.values()
    assert shown.queued == 2


def test_a_connection_shows_what_holds_it_oldest_first() -> None:
    host = make_host()
    connection = make_connection(host)
    jobs = [make_job(host, "/done"), make_job(host, "/waits")]
    fly(connection, *jobs)
    jobs[0].finish()
    connection.dispatched = 5
    (shown,) = pool_statistics(core_with(host), 0, NOW).hosts["http://host"].connections
    assert (shown.name, shown.state, shown.age) == ("host:80-1", "busy", 100.0)
    assert (shown.sent, shown.answered) == (5, 3)
    assert shown.holding == (
        Holding("GET", "http://host/done", 100.0, True),
        Holding("GET", "http://host/waits", 100.0, False),
    )


def test_statistics_do_not_change_with_the_pool() -> None:
    host = make_host()
    core = core_with(host)
    before = pool_statistics(core, 0, NOW)
    make_connection(host, in_flight=2)
    queue(host, "/a")
    assert before.hosts["http://host"].connections == ()
    assert before.hosts["http://host"].in_flight == 0


def test_a_host_shows_its_policy_and_when_the_next_request_may_start() -> None:
    host = make_host()
    (shown,) = pool_statistics(core_with(host), 0, NOW).hosts.values()
    assert (shown.policy, shown.opens_in) == (None, 0.0)
    policy = HostPolicy(min_interval=5.0)
    host.gate = Gate()
    host.gate.follow(policy)
    (shown,) = pool_statistics(core_with(host), 0, NOW).hosts.values()
    assert (shown.policy, shown.opens_in) == (policy, 0.0)
    host.gate.started(1, NOW - 2)
    (shown,) = pool_statistics(core_with(host), 0, NOW).hosts.values()
    assert shown.opens_in == 3.0
