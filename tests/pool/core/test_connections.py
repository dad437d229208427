"""The connection manager: when a connection is opened, what it could take, and how it ends."""

from __future__ import annotations

import pytest

from dugong import RetryPolicy
from dugong.errors import ConnectionClosed, PoolClosed
from dugong.pool.core.connection import Phase
from dugong.pool.core.connections import MAX_KNOWN_HOSTS, RELEASE_TIME, REOPEN_TIME
from dugong.pool.core.job import Place
from tests.support.parts import NO_RETRY, Rig, engine_of, hold, make_host, release

# --- hosts ----------------------------------------------------------------------------------------


def test_a_host_that_is_known_stays_the_same(rig: Rig) -> None:
    first = rig.connections.know(make_host())
    assert rig.connections.know(make_host()) is first


def test_hosts_without_use_are_forgotten_the_longest_unused_first(rig: Rig) -> None:
    kept = rig.host(name="kept")
    rig.submit(kept, "/a")
    for number in range(MAX_KNOWN_HOSTS + 10):
        rig.host(name=f"host{number}")
    names = [host.origin.host for host in rig.core.hosts.values()]
    assert len(names) == MAX_KNOWN_HOSTS
    assert "kept" in names
    assert "host0" not in names
    assert names[-1] == f"host{MAX_KNOWN_HOSTS + 9}"


def test_the_counts_of_a_host_that_is_forgotten_are_kept(rig: Rig) -> None:
    host = rig.host(name="forgotten")
    host.sent, host.answered, host.resent, host.rescued = 7, 5, 2, 1
    for number in range(MAX_KNOWN_HOSTS + 1):
        rig.host(name=f"host{number}")
    totals = rig.core.totals
    assert (totals.sent, totals.answered, totals.resent, totals.rescued) == (7, 5, 2, 1)


# --- opening --------------------------------------------------------------------------------------


def test_a_request_opens_a_connection_whose_sender_is_started(rig: Rig) -> None:
    host = rig.host()
    rig.submit(host, "/a")
    connection = rig.latest(host)
    assert connection.phase is Phase.CONNECTING
    assert rig.started.names == ["dugong-host:80-1-send"]
    assert rig.core.connections == 1


def test_each_request_opens_a_connection_up_to_the_limit(rig: Rig) -> None:
    host = rig.host()
    rig.submit(host, "/a", "/b", "/c", "/d", "/e")
    assert len(host.connections) == 3
    assert len(rig.started) == 3


def test_an_idle_connection_takes_a_request_before_one_is_opened(rig: Rig) -> None:
    host = rig.host()
    connection = rig.idle(host)
    jobs = rig.submit(host, "/a")
    assert len(host.connections) == 1
    assert not connection.sender_parked
    assert rig.look_for_work(connection) == jobs


def test_the_connection_that_was_used_last_is_used_first(rig: Rig) -> None:
    host = rig.host()
    (first, (a,)), (second, (b,)) = rig.send(host, "/a"), rig.send(host, "/b")
    rig.respond(second, b)
    rig.respond(first, a)
    rig.submit(host, "/c")
    assert not first.sender_parked
    assert second.sender_parked


def test_a_connection_with_capacity_is_woken_if_no_other_can_be_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(monkeypatch, max_connections_per_host=1)
    host = rig.host()
    connection, _ = rig.send(host, "/a")
    jobs = rig.submit(host, "/b")
    assert not connection.sender_parked
    assert rig.look_for_work(connection) == jobs


def test_nothing_is_opened_while_a_host_is_held(rig: Rig) -> None:
    host = rig.host()
    hold(host)
    rig.submit(host, "/a")
    assert not host.connections
    release(host)
    with rig.core.transaction():
        rig.connections.ensure_all_served_locked(host)
    assert len(host.connections) == 1


def test_nothing_is_opened_once_the_pool_is_closed(rig: Rig) -> None:
    host = rig.host()
    rig.core.closed = True
    rig.submit(host, "/a")
    assert not host.connections


def test_a_request_that_needs_an_unused_connection_opens_one_though_another_is_idle(
    rig: Rig,
) -> None:
    host = rig.host()
    used = rig.idle(host)
    job = rig.job(host, "/a")
    job.needs_fresh_connection = True
    with rig.core.transaction():
        rig.retries.requeue_locked([job])
        rig.connections.ensure_all_served_locked(host)
    assert used.sender_parked
    assert rig.look_for_work(rig.connect(host)) == [job]


def test_if_there_is_no_room_for_an_unused_connection_a_used_one_makes_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(monkeypatch, max_connections_per_host=1)
    host = rig.host()
    used = rig.idle(host)
    job = rig.job(host, "/a")
    job.needs_fresh_connection = True
    with rig.core.transaction():
        rig.retries.requeue_locked([job])
        rig.connections.ensure_all_served_locked(host)
    assert rig.look_for_work(used) == []
    assert used.phase is Phase.CLOSED
    assert rig.look_for_work(rig.connect(host)) == [job]


def test_a_sender_that_was_started_already_is_not_started_again(rig: Rig) -> None:
    host = rig.host()
    rig.submit(host, "/a")
    connection = rig.latest(host)
    with rig.core.transaction():
        rig.connections.start_sender_locked(connection)
    sender = "dugong-host:80-1-send"
    assert rig.started.names == [sender] * 2  # the first start may have been lost
    rig.connect(host)
    with rig.core.transaction():
        rig.connections.start_sender_locked(connection)
    assert rig.started.names.count(sender) == 2


def test_a_connection_that_is_closed_before_its_sender_starts_is_gone(rig: Rig) -> None:
    host = rig.host()
    with rig.core.transaction():
        rig.connections.open_locked(host)
        (connection,) = host.connections
        rig.connections.close_locked(connection)
    assert connection.phase is Phase.CLOSED
    assert rig.started.names == []


def test_if_no_thread_is_to_be_had_the_connection_has_failed(rig: Rig) -> None:
    host = rig.host()
    rig.started.refused = True
    (job,) = rig.submit(host, "/a", retry=NO_RETRY)
    assert "can't start new thread" in str(job.future.exception())
    assert not host.connections
    assert rig.core.connections == 0


# --- not opened -----------------------------------------------------------------------------------


def test_a_connection_that_cannot_be_connected_is_closed_and_its_host_left_alone(
    rig: Rig,
) -> None:
    host = rig.host()
    (job,) = rig.submit(host, "/a", retry=RetryPolicy(backoff=1.0))
    rig.connections.connect_failed(rig.latest(host), ConnectionRefusedError("refused"))
    assert not host.connections
    assert job.place is Place.QUEUED
    assert rig.core.totals.ended == 0  # for it never was one
    assert rig.heard("closed") == ["it could not be connected: refused"]
    left = host.connect_backoff_until - rig.clock.now
    assert left > 0
    rig.forward(left)
    assert len(host.connections) == 1


def test_a_dial_that_the_pool_has_ended_says_nothing_of_the_host(rig: Rig) -> None:
    host = rig.host()
    (job,) = rig.submit(host, "/a", retry=NO_RETRY)
    connection = rig.latest(host)
    assert rig.traffic.begin_sending(connection)
    with rig.core.transaction():
        connection.sending = True
        rig.connections.fail_locked(connection, PoolClosed())
    rig.connections.connect_failed(connection, ConnectionClosed("disconnected"))
    assert job.place is Place.QUEUED
    assert connection.phase is Phase.CLOSED
    assert host.connect_failures == 0


def test_if_another_connection_is_open_the_requests_stay_for_that(rig: Rig) -> None:
    host = rig.host()
    rig.send(host, "/a")
    (job,) = rig.submit(host, "/b")
    rig.connections.connect_failed(rig.latest(host), ConnectionRefusedError("refused"))
    assert job.number == 1
    assert host.connect_backoff_until == rig.clock.now + REOPEN_TIME
    rig.forward(REOPEN_TIME)
    assert len(host.connections) == 2


def test_a_host_that_is_reached_again_is_not_left_alone_any_more(rig: Rig) -> None:
    host = rig.host()
    jobs = rig.submit(host, "/a", "/b", retry=RetryPolicy(backoff=1.0))
    for connection in list(host.connections):
        rig.connections.connect_failed(connection, ConnectionRefusedError())
    rig.forward(host.connect_backoff_until - rig.clock.now)
    assert len(host.connections) == 1  # one at a time
    rig.connect(host)
    assert len(host.connections) == 2
    assert (host.connect_failures, host.connect_backoff_until) == (0, 0.0)
    assert {job.number for job in jobs} == {2}


# --- idle connections -----------------------------------------------------------------------------


def test_an_idle_connection_gives_its_memory_back_and_is_closed_later(rig: Rig) -> None:
    host = rig.host()
    connection = rig.idle(host)
    rig.forward(RELEASE_TIME)
    assert "release_memory" in engine_of(connection).calls
    rig.forward(60.0 - RELEASE_TIME - 0.1)
    assert connection.phase is Phase.OPEN
    rig.forward(0.1)
    assert connection.phase is Phase.CLOSED
    assert rig.heard("closed") == ["it was idle for too long"]
    assert len(rig.maintenance.timers) == 0


def test_a_connection_that_is_used_in_between_is_idle_from_then_on(rig: Rig) -> None:
    host = rig.host()
    connection = rig.idle(host)
    rig.forward(RELEASE_TIME)
    rig.forward(50.0)
    jobs = rig.submit(host, "/a")
    assert rig.look_for_work(connection) == jobs
    rig.look_for_work(connection)
    rig.respond(connection, *jobs)
    rig.forward(10.0)
    assert connection.phase is Phase.OPEN
    rig.forward(50.0)
    assert connection.phase is Phase.CLOSED


def test_a_connection_that_was_not_used_in_between_is_idle_from_its_last_response_on(
    rig: Rig,
) -> None:
    """Its sender may be woken for a request that another one takes."""
    connection = rig.idle(rig.host())
    rig.forward(50.0)
    with rig.core.transaction():
        rig.connections.leave_idle_locked(connection)
        rig.connections.wake_sender_locked(connection)
    assert rig.look_for_work(connection) == []
    rig.forward(10.0)
    assert connection.phase is Phase.CLOSED


@pytest.mark.parametrize("earlier", [None, 60.0, 10.0])
def test_a_connection_is_closed_in_time_though_its_server_has_said_so_late(
    rig: Rig, earlier: float | None
) -> None:
    host = rig.host()
    connection, jobs = rig.send(host, "/first")
    engine_of(connection).keep_alive_timeout = earlier
    rig.respond(connection, *jobs)
    rig.forward(RELEASE_TIME)
    jobs = rig.submit(host, "/second")
    assert rig.look_for_work(connection) == jobs
    rig.park(host)
    engine_of(connection).keep_alive_timeout = 5.0
    rig.respond(connection, *jobs)
    rig.forward(3.9)
    assert connection.phase is Phase.OPEN
    rig.forward(0.1)
    assert connection.phase is Phase.CLOSED
    assert len(rig.maintenance.timers) == 0


def test_a_connection_that_is_too_old_ends_between_responses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(monkeypatch, max_age=10.0)
    host = rig.host()
    connection, jobs = rig.send(host, "/a")
    rig.forward(10.0)
    assert connection.phase is Phase.DRAINING
    rig.respond(connection, *jobs)
    assert connection.phase is Phase.CLOSED
    assert jobs[0].future.result().status == 200
    assert rig.heard("closed") == ["it was retired"]


def test_an_idle_connection_that_is_too_old_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, max_age=10.0)
    connection = rig.idle(rig.host())
    rig.forward(10.0)
    assert connection.phase is Phase.CLOSED


def test_a_connection_that_has_had_its_requests_ends_between_responses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(monkeypatch, max_requests=1)
    host = rig.host()
    connection, jobs = rig.send(host, "/a")
    rig.respond(connection, *jobs)
    assert connection.phase is Phase.CLOSED


def test_a_connection_that_the_host_would_close_by_its_quota_is_closed(single: Rig) -> None:
    host = single.host()
    for _ in range(2):
        host.pipelining.closed(2, 0, single.clock.now)
    assert host.pipelining.quota == 2
    connection, jobs = single.send(host, "/a", "/b")
    single.respond(connection, *jobs)
    assert connection.phase is Phase.CLOSED
    assert host.pipelining.quota is None  # which was wrong: the host has not closed it
    assert single.heard("closed") == ["the host would have closed it"]
