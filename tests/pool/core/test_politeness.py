"""The gates of hosts in a pool, without a thread: who waits where, and what ends the wait."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dugong import ConnectionClosed, ConnectionTimedOut, HostPolicy
from dugong.pool.core import connections
from dugong.pool.core.connection import PooledConnection
from dugong.pool.core.host import Host
from dugong.pool.core.job import Job, Place
from dugong.pool.io.bandwidth import Bandwidth
from tests.support.parts import NO_RETRY, Rig, SchedulerRig, make_host, make_response

NOTHING = HostPolicy()


def follow(rig: Rig, host: Host, **policy: Any) -> None:
    """Have *host* treated by such a policy."""
    with rig.core.transaction():
        rig.politeness.set_locked(host.origin, HostPolicy(**policy), NOTHING)


def sent_by(rig: Rig, connection: PooledConnection) -> list[str]:
    """Return the targets of what *connection* sends now."""
    return [job.request.target for job in rig.look_for_work(connection)]


def targets(jobs: list[Job]) -> list[str]:
    return [job.request.target for job in jobs]


# --- what has no limit ----------------------------------------------------------------------------


def test_connections_that_cannot_be_limited_end_once_there_is_a_limit(rig: Rig) -> None:
    host = rig.host()
    first, _ = rig.submit(host, "/a", "/b")
    connection = rig.connect(host)
    assert rig.look_for_work(connection)[0] is first
    follow(rig, host, max_in_flight=100)
    assert not connection.is_draining
    follow(rig, host, download_rate=1000.0)
    follow(rig, host, download_rate=2000.0)
    assert connection.is_draining


def test_connections_that_have_a_limit_get_another(rig: Rig) -> None:
    host = rig.host()
    host.bandwidth = Bandwidth(None, 3000.0)
    rig.submit(host, "/a")
    connection = rig.connect(host)
    for rate in (1000.0, 2000.0, None):
        follow(rig, host, download_rate=rate)
        assert host.bandwidth.download is not None
        assert host.bandwidth.download.rate == (rate or 3000.0)
    assert not connection.is_draining


# --- in the queue ---------------------------------------------------------------------------------


def test_what_waits_is_in_the_queue_and_holds_no_connection(rig: Rig) -> None:
    host = rig.host()
    follow(rig, host, min_interval=5.0)
    rig.submit(host, "/a", "/b", "/c")
    connection = rig.connect(host)
    assert sent_by(rig, connection) == ["/a"]
    assert sent_by(rig, connection) == []
    assert (host.queued, host.in_flight, len(host.connections)) == (2, 1, 1)
    assert connection.reserved is None


def test_a_timer_lets_the_next_one_start(rig: Rig) -> None:
    host = rig.host()
    follow(rig, host, min_interval=5.0)
    first, second, _ = rig.submit(host, "/a", "/b", "/c")
    connection = rig.connect(host)
    assert rig.look_for_work(connection) == [first]
    rig.park(host)
    rig.respond(connection, first)
    rig.forward(4.9)
    assert connection in host.idle
    rig.forward(0.1)
    assert connection not in host.idle
    assert rig.look_for_work(connection) == [second]
    assert len(host.connections) == 1


def test_another_connection_is_opened_if_the_first_is_still_busy(rig: Rig) -> None:
    host = rig.host(window=1)
    follow(rig, host, min_interval=5.0)
    rig.submit(host, "/a", "/b", "/c")
    assert sent_by(rig, rig.connect(host)) == ["/a"]
    rig.park(host)
    rig.forward(5)
    assert len(host.connections) == 2
    assert sent_by(rig, rig.connect(host)) == ["/b"]


def test_only_so_many_connections_are_opened_as_requests_may_start(rig: Rig) -> None:
    host = rig.host()
    follow(rig, host, rate=1.0, burst=2)
    rig.submit(host, "/a", "/b", "/c")
    assert len(host.connections) == 2


def test_a_caller_waits_in_the_queue_like_all_others(rig: Rig) -> None:
    host = rig.host()
    connection = rig.idle(host)
    follow(rig, host, min_interval=5.0)
    rig.forward(5)
    assert rig.lending.borrow(rig.job(host, "/b")) is connection
    assert rig.lending.borrow(rig.job(host, "/c")) is None


def test_other_hosts_are_not_held_up(rig: Rig) -> None:
    slow, other = rig.host(), rig.host(name="other")
    follow(rig, slow, min_interval=5.0)
    rig.submit(slow, *[f"/{i}" for i in range(100)])
    rig.submit(other, "/a", "/b")
    assert (len(slow.connections), len(other.connections)) == (1, 2)


def test_a_host_whose_gate_is_shut_waits_for_no_room(small: Rig) -> None:
    slow, other = small.host(), small.host(name="other")
    follow(small, slow, min_interval=5.0)
    small.submit(slow, "/a", "/b")
    connection, (first,) = small.connect(slow), small.look_for_work(small.latest(slow))
    small.park(slow)
    small.respond(connection, first)
    assert connection in slow.idle
    small.submit(other, "/c")
    assert not slow.connections  # its idle connection has made room
    assert len(other.connections) == 1
    assert list(small.core.awaiting_connection) == []


# --- what counts ----------------------------------------------------------------------------------


def test_a_pipeline_is_no_longer_than_the_rate_allows(rig: Rig) -> None:
    host = rig.host()
    connection = rig.idle(host)
    follow(rig, host, rate=10.0, burst=4, max_connections=1)
    rig.forward(10)
    rig.submit(host, *[f"/{i}" for i in range(9)])
    assert sent_by(rig, connection) == ["/0", "/1", "/2", "/3"]
    assert sent_by(rig, connection) == []
    rig.forward(0.1)
    assert sent_by(rig, connection) == ["/4"]


def test_an_exclusive_request_that_may_not_start_leaves_its_connection(rig: Rig) -> None:
    host = rig.host()
    follow(rig, host, min_interval=5.0, max_connections=1)
    (first,) = rig.submit(host, "/a")
    connection = rig.connect(host)
    assert rig.look_for_work(connection) == [first]
    (exclusive,) = rig.submit(host, "/exclusive", exclusive=True)
    rig.forward(5)
    assert rig.look_for_work(connection) == []
    assert exclusive.place is Place.RESERVED
    follow(rig, host, min_interval=9.0, max_connections=1)
    rig.respond(connection, first)
    assert rig.look_for_work(connection) == []
    assert exclusive.place is Place.QUEUED
    assert connection in host.idle
    assert rig.core.queued == host.queued == 1
    rig.forward(4)
    assert rig.look_for_work(connection) == [exclusive]
    assert rig.core.queued == host.queued == 0


def test_a_request_that_is_tried_again_waits_like_any_other(rig: Rig) -> None:
    host = rig.host()
    follow(rig, host, min_interval=5.0)
    connection, (job,) = rig.send(host, "/a")
    rig.respond(connection, job, status=500)
    rig.forward(1)  # as long as it waits by itself
    assert job.place is Place.QUEUED
    rig.forward(4)
    assert rig.look_for_work(connection) == [job]


def test_a_response_lets_the_next_one_start_if_few_may_be_in_flight(rig: Rig) -> None:
    host = rig.host()
    follow(rig, host, max_in_flight=1)
    first, second, _ = rig.submit(host, "/a", "/b", "/c")
    connection = rig.connect(host)
    assert rig.look_for_work(connection) == [first]
    rig.park(host)
    rig.forward(100)
    assert (host.queued, len(host.connections)) == (2, 1)
    rig.respond(connection, first)
    assert rig.look_for_work(connection) == [second]


def test_what_may_be_in_flight_is_shared_by_the_connections(rig: Rig) -> None:
    host = rig.host()
    follow(rig, host, max_in_flight=2)
    rig.submit(host, "/a", "/b", "/c", "/d")
    assert len(host.connections) == 2
    assert sent_by(rig, rig.connect(host)) == ["/a"]


def test_a_response_on_a_connection_that_ends_lets_another_one_start_the_next(rig: Rig) -> None:
    host = rig.host()
    follow(rig, host, max_in_flight=1)
    connection, (job,) = rig.send(host, "/a")
    rig.submit(host, "/b")
    assert len(host.connections) == 1
    rig.respond(connection, job, persistent=False)
    assert rig.latest(host) is not connection
    assert sent_by(rig, rig.connect(host)) == ["/b"]


# --- policies that change -------------------------------------------------------------------------


def test_a_shorter_interval_counts_for_what_waits_already(rig: Rig) -> None:
    host = rig.host()
    follow(rig, host, min_interval=50.0, max_connections=1)
    rig.submit(host, "/a", "/b")
    connection = rig.connect(host)
    assert sent_by(rig, connection) == ["/a"]
    rig.park(host)
    rig.forward(5)
    follow(rig, host, min_interval=6.0, max_connections=1)
    rig.forward(1)
    assert sent_by(rig, connection) == ["/b"]


@pytest.mark.parametrize("is_answered", [True, False])
def test_a_new_policy_counts_from_the_last_request(rig: Rig, is_answered: bool) -> None:
    host = rig.host()
    connection, jobs = rig.send(host, "/robots.txt")
    if is_answered:
        rig.respond(connection, *jobs)
    follow(rig, host, min_interval=5.0, max_connections=1)
    rig.submit(host, "/a")
    assert connection.sender_parked
    rig.forward(5)
    assert sent_by(rig, connection) == ["/a"]


def test_a_longer_interval_counts_for_what_waits_already(rig: Rig) -> None:
    host = rig.host()
    follow(rig, host, min_interval=5.0, max_connections=1)
    rig.submit(host, "/a", "/b")
    connection = rig.connect(host)
    assert sent_by(rig, connection) == ["/a"]
    rig.park(host)
    follow(rig, host, min_interval=50.0, max_connections=1)
    rig.forward(49)
    assert sent_by(rig, connection) == []
    rig.forward(1)
    assert sent_by(rig, connection) == ["/b"]


def test_a_policy_that_is_taken_back_holds_nothing_up(rig: Rig) -> None:
    host = rig.host()
    follow(rig, host, min_interval=50.0)
    rig.submit(host, "/a", "/b", "/c")
    connection = rig.connect(host)
    assert sent_by(rig, connection) == ["/a"]
    rig.park(host)
    with rig.core.transaction():
        rig.politeness.set_locked(host.origin, None, NOTHING)
    assert len(host.connections) == 3
    assert sent_by(rig, rig.connect(host)) == ["/b"]


def test_a_hold_outlasts_the_policy(rig: Rig) -> None:
    host = rig.host()
    follow(rig, host, min_interval=1.0)
    with rig.core.transaction():
        rig.politeness.hold_locked(host, 9.0, "for this test")
        rig.politeness.set_locked(host.origin, None, NOTHING)
    rig.submit(host, "/a")
    rig.forward(8.9)
    assert not host.connections
    rig.forward(0.1)
    assert len(host.connections) == 1


def test_a_host_without_a_policy_has_no_gate_once_a_hold_is_over(rig: Rig) -> None:
    host = rig.host()
    with rig.core.transaction():
        rig.politeness.hold_locked(host, 5.0, "for this test")
        rig.politeness.hold_locked(host, 9.0, "for this test")
    rig.forward(5)
    assert host.gate is not None
    rig.forward(4)
    assert host.gate is None


def test_connections_that_are_too_many_end_and_the_idle_ones_first(rig: Rig) -> None:
    host = rig.host()
    busy, (job,) = rig.send(host, "/busy")
    idle, (other,) = rig.send(host, "/idle")
    rig.respond(idle, other)
    follow(rig, host, max_connections=1)
    assert list(host.connections) == [busy]
    rig.respond(busy, job)
    assert list(host.connections) == [busy]
    rig.submit(host, "/a", "/b", "/c")
    assert list(host.connections) == [busy]


def test_a_policy_may_allow_more_connections_than_the_pool(rig: Rig) -> None:
    host = rig.host()
    follow(rig, host, max_connections=5)
    rig.submit(host, *[f"/{i}" for i in range(9)])
    assert len(host.connections) == 5


def test_a_policy_says_how_long_pipelines_are(rig: Rig) -> None:
    host = rig.host()
    follow(rig, host, pipeline_depth=2)
    assert host.pipelining.window == 2
    host.pipelining.responded(100, rig.clock.now)
    assert host.pipelining.window == 2
    follow(rig, host)
    host.pipelining.responded(100, rig.clock.now)
    assert host.pipelining.window == 64  # that of the pool


# --- hosts that are forgotten ---------------------------------------------------------------------


@pytest.fixture
def forgetful(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A rig that remembers one host that is not in use."""
    monkeypatch.setattr(connections, "MAX_KNOWN_HOSTS", 1)
    return rig


def test_a_host_is_remembered_as_long_as_its_last_request_counts(forgetful: Rig) -> None:
    rig = forgetful
    host = rig.host()
    follow(rig, host, min_interval=5.0)
    assert host.gate is not None
    host.gate.started(1, rig.clock.now)
    rig.host(name="second")
    assert host.origin in rig.core.hosts
    rig.clock.now += 5
    rig.host(name="third")
    assert host.origin not in rig.core.hosts


def test_a_host_that_is_held_is_remembered(forgetful: Rig) -> None:
    rig = forgetful
    host = rig.host()
    with rig.core.transaction():
        rig.politeness.hold_locked(host, 9.0, "for this test")
    rig.host(name="second")
    assert host.origin in rig.core.hosts


def test_a_policy_that_was_set_is_that_of_a_host_that_is_known_anew(forgetful: Rig) -> None:
    rig = forgetful
    host = rig.host()
    follow(rig, host, max_in_flight=3)
    rig.host(name="second")
    assert host.origin not in rig.core.hosts
    again = rig.host()
    assert again is not host
    assert again.gate is not None
    assert again.gate.policy == HostPolicy(max_in_flight=3)


def test_a_policy_that_was_set_meanwhile_is_that_of_a_host_that_is_known_again(
    forgetful: Rig,
) -> None:
    rig = forgetful
    host = rig.host()
    follow(rig, host, max_in_flight=3)
    rig.host(name="second")
    follow(rig, host, max_in_flight=5)
    assert host.gate is not None
    assert host.gate.policy == HostPolicy(max_in_flight=3)
    assert rig.connections.know(host) is host
    assert host.gate.policy == HostPolicy(max_in_flight=5)


def test_what_is_not_known_yet_may_have_a_policy(rig: Rig) -> None:
    host = make_host()
    follow(rig, host, min_interval=5.0)
    assert not rig.core.hosts
    assert rig.host().gate is not None


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_timer_that_an_interrupt_has_lost_is_set_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = SchedulerRig(monkeypatch)
    host = rig.host()
    follow(rig, host, min_interval=5.0, max_connections=1)
    rig.submit(host, "/a", "/b")
    connection = rig.connect(host)
    assert sent_by(rig, connection) == ["/a"]
    rig.park(host)
    assert host.gate is not None
    assert host.gate.timer is not None
    host.gate.timer.action = None  # it never came to be
    with rig.core.transaction():
        rig.core.repair_locked()
    rig.forward(5)
    assert sent_by(rig, connection) == ["/b"]


def test_a_deadline_that_passes_at_the_gate_says_so(rig: Rig) -> None:
    from dugong.pool.core.holders import describe_holders

    host = rig.host()
    follow(rig, host, min_interval=5.0, max_in_flight=1)
    rig.send(host, "/a")
    said = describe_holders(host, rig.clock.now + 2)
    assert said.startswith("held by its policy, which lets the next request start in 3.0 s; ")
    said = describe_holders(host, rig.clock.now + 6)
    assert said.startswith("held by its policy, which lets 1 be in flight; ")


def test_a_request_is_not_tried_again_if_its_deadline_passes_at_the_gate(rig: Rig) -> None:
    host = rig.host()
    follow(rig, host, min_interval=50.0)
    connection, (job,) = rig.send(host, "/a")
    with rig.core.transaction():
        job.timer = rig.maintenance.timers.add(rig.clock.now + 20, lambda: None)
    rig.respond(connection, job, status=500)
    assert job.future.result().status == 500
    assert "deadline would pass" in rig.heard("gave up")[0]


# --- a rate that is found -------------------------------------------------------------------------


@pytest.fixture
def adaptive(rig: Rig) -> Host:
    """A host with one connection that has responded, and a rate that is found."""
    host = rig.host()
    rig.idle(host)
    follow(rig, host, adaptive=True, max_connections=1)
    return host


def rate_of(host: Host) -> float:
    assert host.gate is not None
    assert host.gate.rate is not None
    return host.gate.rate


@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_makes_the_rate_fall(rig: Rig, adaptive: Host, status: int) -> None:
    (job,) = rig.submit(adaptive, "/a")
    (connection,) = adaptive.connections
    assert rig.look_for_work(connection) == [job]
    rig.respond(connection, job, status=status)
    assert rate_of(adaptive) == pytest.approx(7.0)
    assert rig.heard("learned") == [f"{status} Reason: no more than 7 requests a second"]


@pytest.mark.parametrize("status", [200, 404, 500])
def test_an_error_by_itself_makes_nothing_fall(rig: Rig, adaptive: Host, status: int) -> None:
    (job,) = rig.submit(adaptive, "/a")
    (connection,) = adaptive.connections
    assert rig.look_for_work(connection) == [job]
    rig.respond(connection, job, status=status)
    assert rate_of(adaptive) >= 10.0
    assert rig.heard("learned") == []


def test_a_refusal_to_a_caller_that_does_it_alone_makes_the_rate_fall(
    rig: Rig, adaptive: Host
) -> None:
    job = rig.job(adaptive, "/a")
    connection = rig.lending.borrow(job)
    assert connection is not None
    job.exchange = SimpleNamespace(persistent=True, minor_version=1)
    assert rig.respond_to_caller(connection, job, make_response(job, 429))
    assert rate_of(adaptive) == pytest.approx(7.0)


def test_a_time_out_makes_the_rate_fall(rig: Rig, adaptive: Host) -> None:
    (job,) = rig.submit(adaptive, "/a")
    (connection,) = adaptive.connections
    assert rig.look_for_work(connection) == [job]
    connection.sending = False
    rig.forward(30)
    rig.lose(connection, ConnectionTimedOut("for this test"))
    assert rate_of(adaptive) == pytest.approx(7.0)
    (reason,) = rig.heard("learned")
    assert reason.endswith("for this test: no more than 7 requests a second")


def test_another_end_of_a_connection_makes_nothing_fall(rig: Rig, adaptive: Host) -> None:
    (job,) = rig.submit(adaptive, "/a")
    (connection,) = adaptive.connections
    assert rig.look_for_work(connection) == [job]
    connection.sending = False
    rig.lose(connection, ConnectionClosed())
    assert rate_of(adaptive) == 10.0


def test_requests_start_at_the_rate_that_was_found(rig: Rig, adaptive: Host) -> None:
    jobs = rig.submit(adaptive, "/a", "/b", "/c", retry=NO_RETRY)
    (connection,) = adaptive.connections
    assert rig.look_for_work(connection) == jobs[:1]
    rig.respond(connection, jobs[0], status=429)
    rig.forward(0.1)
    assert rig.look_for_work(connection) == jobs[1:2]
    rig.forward(0.14)
    assert rig.look_for_work(connection) == []
    rig.forward(0.01)
    assert rig.look_for_work(connection) == jobs[2:]
