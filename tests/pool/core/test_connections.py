"""The connection manager: when a connection is opened, what it could take, and how it ends."""

from __future__ import annotations

import pytest

from dugong import RetryPolicy
from dugong.errors import (
    ConnectionClosed,
    ConnectionTimedOut,
    Delivery,
    InvalidResponse,
    PoolClosed,
    ResponseTooLarge,
    UnsupportedResponse,
)
from dugong.pool.core.connection import Phase, PooledConnection
from dugong.pool.core.connections import MAX_KNOWN_HOSTS, RELEASE_TIME, REOPEN_TIME, TURN_TIME
from dugong.pool.core.host import Host
from dugong.pool.core.job import Place
from dugong.pool.failure import Abandoned
from tests.support.clock import throw
from tests.support.parts import NO_RETRY, FakeEngine, Rig, make_host


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    throw(monkeypatch, 1.0)
    return Rig(monkeypatch, max_connections_per_host=3)


@pytest.fixture
def single(monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A rig with one connection to each host."""
    throw(monkeypatch, 1.0)
    return Rig(monkeypatch, max_connections_per_host=1)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A rig that may have one connection."""
    return Rig(monkeypatch, max_connections=1)


def engine_of(connection: PooledConnection) -> FakeEngine:
    engine = connection.engine
    assert isinstance(engine, FakeEngine)
    return engine


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
    host.sent, host.answered, host.resent = 7, 5, 1
    for number in range(MAX_KNOWN_HOSTS + 1):
        rig.host(name=f"host{number}")
    assert rig.core.past == [7, 5, 1]


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
    host.retry_after_hold = True
    rig.submit(host, "/a")
    assert not host.connections
    host.retry_after_hold = False
    with rig.core.transaction():
        rig.connections.end_hold_locked(host)
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
        rig.connections.start_sender_again_locked(connection)
    sender = "dugong-host:80-1-send"
    assert rig.started.names == [sender] * 2  # the first start may have been lost
    rig.connect(host)
    with rig.core.transaction():
        rig.connections.start_sender_again_locked(connection)
    assert rig.started.names.count(sender) == 2


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
    assert rig.core.ended == 0  # for it never was one
    assert rig.heard("closed") == ["it could not be connected: refused"]
    left = host.connect_backoff_until - rig.clock.now
    assert left > 0
    rig.forward(left)
    assert len(host.connections) == 1


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


# --- room for the connections of other hosts ------------------------------------------------------


def test_the_longest_idle_connection_makes_room_for_that_of_another_host(small: Rig) -> None:
    first, second = small.host(name="first"), small.host(name="second")
    idle = small.idle(first)
    small.submit(second, "/b")
    assert idle.phase is Phase.CLOSED
    assert engine_of(idle).is_aborted
    assert len(second.connections) == 1
    assert small.heard("closed") == ["it made room for another host"]


def test_a_host_without_room_gets_a_connection_when_another_is_closed(small: Rig) -> None:
    first, second = small.host(name="first"), small.host(name="second")
    connection, _ = small.send(first, "/a")
    small.submit(second, "/b")
    assert not second.connections
    small.lose(connection, Abandoned())
    assert len(second.connections) == 1


def test_a_connection_that_becomes_idle_makes_room_if_a_host_waits_for_some(small: Rig) -> None:
    first, second = small.host(name="first"), small.host(name="second")
    connection, (job,) = small.send(first, "/a")
    small.submit(second, "/b")
    small.respond(connection, job)
    assert connection.is_closing
    assert len(second.connections) == 1


def test_a_connection_that_has_had_its_turn_makes_room_between_responses(small: Rig) -> None:
    first, second = small.host(name="first"), small.host(name="second")
    connection, jobs = small.send(first, "/a")
    small.submit(second, "/b")
    small.submit(first, "/c")  # or else it would make room when it is idle
    small.forward(TURN_TIME)
    assert connection.phase is Phase.DRAINING
    small.respond(connection, *jobs)
    assert small.look_for_work(connection) == []
    assert connection.phase is Phase.CLOSED
    assert len(second.connections) == 1


def test_turns_are_taken_only_as_long_as_a_host_has_no_connection(small: Rig) -> None:
    first, second = small.host(name="first"), small.host(name="second")
    connection, _ = small.send(first, "/a")
    (job,) = small.submit(second, "/b")
    with small.core.transaction():
        second.pop_all()
        small.core.unqueue_locked(1)
        small.retries.complete_locked(job, None)
    small.core.awaiting_connection.clear()
    small.forward(TURN_TIME)
    assert connection.phase is Phase.OPEN
    assert len(small.maintenance.timers) == 0


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


# --- closing --------------------------------------------------------------------------------------


def test_a_connection_is_shut_down_once_the_lock_is_released(rig: Rig) -> None:
    connection = rig.idle(rig.host())
    with rig.core.transaction():
        rig.connections.close_locked(connection)
        assert not engine_of(connection).is_aborted
    assert engine_of(connection).is_aborted


def test_a_connection_is_closed_when_the_last_thread_has_left_it(rig: Rig) -> None:
    host = rig.host()
    connection, _ = rig.send(host, "/a")
    connection.receiving = True
    rig.lose(connection, Abandoned())
    assert connection.phase is Phase.CLOSING
    assert rig.core.connections == 1
    connection.receiving = False
    with rig.core.transaction():
        rig.connections.finish_closing_locked(connection)
        rig.connections.finish_closing_locked(connection)
    assert connection.phase is Phase.CLOSED
    assert (rig.core.connections, rig.core.ended) == (1, 1)  # and a new one, for the request


def test_a_connection_that_is_closed_twice_ends_for_the_first_reason(rig: Rig) -> None:
    connection = rig.idle(rig.host())
    connection.receiving = True
    rig.lose(connection, ConnectionTimedOut("first"))
    rig.lose(connection, ConnectionTimedOut("second"))
    connection.receiving = False
    with rig.core.transaction():
        rig.connections.finish_closing_locked(connection)
    assert rig.heard("closed") == ["first"]
    assert engine_of(connection).calls.count("abort") == 1


def test_both_threads_of_a_connection_that_ends_are_woken(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = rig.idle(rig.host())
    woken: list[str] = []
    monkeypatch.setattr(connection.sender_wakeup, "notify", lambda: woken.append("sender"))
    monkeypatch.setattr(connection.receiver_wakeup, "notify", lambda: woken.append("receiver"))
    rig.lose(connection, ConnectionClosed())
    assert woken == ["sender", "receiver"]


# --- the requests of a connection that ends -------------------------------------------------------


def test_the_requests_of_a_connection_that_ends_go_back_in_their_order(single: Rig) -> None:
    host = single.host()
    connection, jobs = single.send(host, "/a", "/b", "/c")
    connection.exclusive = True
    jobs += single.submit(host, "/d")
    single.lose(connection, Abandoned())
    assert (host.queued, single.core.queued, host.in_flight) == (4, 4, 0)
    assert host.pop_all() == jobs


def test_only_the_first_request_without_a_response_is_charged(single: Rig) -> None:
    host = single.host()
    policy = RetryPolicy(backoff=1.0)
    connection, jobs = single.send(host, "/a", "/b", "/c", retry=policy)
    single.respond(connection, jobs[0])
    single.lose(connection, ConnectionTimedOut("slow"))
    first, second = jobs[1:]
    assert [first.number, second.number] == [2, 1]
    assert [first.place, second.place] == [Place.WAITING, Place.QUEUED]
    assert [first.needs_fresh_connection, second.needs_fresh_connection] == [True, False]
    assert [first.exclusive, second.exclusive] == [False, True]  # it may be the second's fault


def test_no_request_is_charged_for_what_the_pool_has_done(rig: Rig) -> None:
    host = rig.host()
    connection, (job,) = rig.send(host, "/a")
    rig.lose(connection, Abandoned("a request was cancelled"))
    assert (job.place, job.number, job.exclusive) == (Place.QUEUED, 1, False)


def test_a_used_connection_that_is_found_closed_costs_no_wait(rig: Rig) -> None:
    host = rig.host()
    connection = rig.idle(host)
    (job,) = rig.submit(host, "/a", retry=RetryPolicy(backoff=1.0))
    rig.look_for_work(connection)
    rig.look_for_work(connection)
    rig.lose(connection, ConnectionClosed())
    assert job.place is Place.QUEUED
    assert job.needs_fresh_connection
    assert (job.number, job.exclusive) == (2, False)
    assert rig.look_for_work(rig.connect(host)) == [job]


def test_a_fresh_connection_that_ends_costs_a_wait(rig: Rig) -> None:
    host = rig.host()
    connection, (job,) = rig.send(host, "/a", retry=RetryPolicy(backoff=1.0))
    rig.lose(connection, ConnectionClosed())
    assert job.place is Place.WAITING
    rig.forward(1.0)
    assert job.place is Place.QUEUED


def test_a_request_that_was_not_sent_is_not_charged(rig: Rig) -> None:
    host = rig.host()
    connection = rig.idle(host)
    (job,) = rig.submit(host, "/a")
    rig.look_for_work(connection)
    rig.look_for_work(connection)
    engine_of(connection).delivery = Delivery.UNSENT
    rig.lose(connection, ConnectionClosed())
    assert (job.place, job.number) == (Place.QUEUED, 1)


def test_a_fresh_connection_that_ends_before_its_first_request_is_charged_the_second_time(
    rig: Rig,
) -> None:
    host = rig.host()
    connection, (job,) = rig.send(host, "/a", retry=RetryPolicy(backoff=1.0))
    engine_of(connection).delivery = Delivery.UNSENT
    rig.lose(connection, ConnectionClosed())
    assert (job.place, job.number, job.needs_fresh_connection) == (Place.QUEUED, 1, True)
    again = rig.connect(host)
    assert rig.look_for_work(again) == [job]
    rig.look_for_work(again)
    engine_of(again).delivery = Delivery.UNSENT
    rig.lose(again, ConnectionClosed())
    assert (job.place, job.number) == (Place.WAITING, 2)


@pytest.mark.parametrize(
    "error",
    [InvalidResponse("bad"), ResponseTooLarge("large"), UnsupportedResponse("odd")],
    ids=lambda error: type(error).__name__,
)
def test_what_one_response_was_is_not_said_of_the_requests_behind_it(
    single: Rig, error: Exception
) -> None:
    connection, (first, second) = single.send(single.host(), "/a", "/b", retry=NO_RETRY)
    single.lose(connection, error)
    assert type(first.future.exception()) is type(error)
    failed = second.future.exception()
    assert type(failed) is ConnectionClosed
    words = "the connection has ended because of another request"
    assert str(failed) == f"GET http://host/b: {words}: {error}"


def test_a_request_that_was_cancelled_while_its_body_was_sent_ends_with_its_connection(
    rig: Rig,
) -> None:
    connection, (job,) = rig.send(rig.host(), "/a")
    job.cancelled = True
    rig.lose(connection, Abandoned("a request was cancelled"))
    assert job.future.cancelled()


def test_a_request_with_a_fatal_error_fails_with_that(rig: Rig) -> None:
    connection, (job,) = rig.send(rig.host(), "/a")
    job.fatal_error = ValueError("the body is cut short")
    rig.lose(connection, ConnectionClosed())
    assert job.future.exception() is job.fatal_error
    (why,) = rig.heard("gave up")
    assert why.endswith("it cannot be tried again")


def test_a_request_that_is_done_is_not_tried_again(rig: Rig) -> None:
    host = rig.host()
    connection, (job,) = rig.send(host, "/a")
    with rig.core.transaction():
        rig.retries.complete_locked(job, None)
    rig.lose(connection, ConnectionClosed())
    assert job.place is Place.DONE
    assert (host.queued, host.in_flight) == (0, 0)


def test_a_reserved_request_goes_back_with_the_connection_that_ends(rig: Rig) -> None:
    host = rig.host()
    connection, (first,) = rig.send(host, "/a")
    job = rig.job(host, "/exclusive", exclusive=True)
    with rig.core.transaction():
        job.enter_queue()
        job.reserve(connection)
        connection.reserved = job
        rig.core.queued += 1
    rig.lose(connection, Abandoned())
    assert host.pop_all() == [first, job]
    assert rig.core.queued == 2


def test_the_reserved_request_of_a_closed_pool_fails(rig: Rig) -> None:
    host = rig.host()
    connection, (first,) = rig.send(host, "/a")
    job = rig.job(host, "/exclusive", exclusive=True)
    with rig.core.transaction():
        job.enter_queue()
        job.reserve(connection)
        connection.reserved = job
        rig.core.queued += 1
        rig.core.closed = True
    rig.lose(connection, PoolClosed())
    assert isinstance(job.future.exception(), PoolClosed)
    assert isinstance(first.future.exception(), PoolClosed)
    assert rig.core.queued == 0


# --- what an end teaches --------------------------------------------------------------------------


def lose_two(rig: Rig, error: Exception | None, *, by_peer: bool = False) -> Host:
    """Have a connection with two requests in flight end because of *error*; return its host."""
    host = rig.host()
    connection, _ = rig.send(host, "/a", "/b")
    engine_of(connection).was_ended_by_peer = by_peer
    with rig.core.transaction():
        rig.connections.close_locked(connection, "why", error)
    return host


def test_a_pipeline_that_dies_narrows_the_window(single: Rig) -> None:
    host = lose_two(single, ConnectionTimedOut("slow"))
    assert host.pipelining.window == 1
    assert single.heard("learned") == ["a connection ended after 0 responses with 2 to come"]


@pytest.mark.parametrize("error", [Abandoned(), ResponseTooLarge("x"), PoolClosed()])
def test_an_end_that_the_pool_has_made_teaches_nothing(single: Rig, error: Exception) -> None:
    assert lose_two(single, error).pipelining.window == 64
    assert single.heard("learned") == []


def test_an_invalid_response_to_a_pipeline_makes_it_one_at_a_time(single: Rig) -> None:
    host = lose_two(single, InvalidResponse("bad"))
    assert host.pipelining.state(single.clock.now) == "one at a time"


def test_an_end_that_the_server_has_announced_counts_if_requests_were_waiting(single: Rig) -> None:
    host = lose_two(single, None, by_peer=True)
    assert host.pipelining.window == 1


def test_an_end_in_good_order_that_was_not_announced_teaches_nothing(single: Rig) -> None:
    assert lose_two(single, None).pipelining.window == 64
