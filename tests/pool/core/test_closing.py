"""Closing: how connections end, and what becomes of their requests."""

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
from dugong.pool.core.host import Host
from dugong.pool.core.job import Job, Place
from dugong.pool.failure import Abandoned
from tests.support.parts import NO_RETRY, Rig, engine_of, listen, send_upload
from tests.support.uploads import interrupts

# --- closing --------------------------------------------------------------------------------------


def test_a_connection_is_shut_down_once_the_lock_is_released(rig: Rig) -> None:
    connection = rig.idle(rig.host())
    with rig.core.transaction():
        rig.connections.close_locked(connection)
        assert not engine_of(connection).is_aborted
    assert engine_of(connection).is_aborted


def test_what_waits_for_a_body_is_told_when_its_connection_is_given_up(rig: Rig) -> None:
    connection, job = send_upload(rig)
    with rig.core.transaction():
        rig.connections.fail_locked(connection, Abandoned())
        assert interrupts(job) == 0  # not with the lock
    assert interrupts(job) == 1


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
    assert (rig.core.connections, rig.core.totals.ended) == (1, 1)  # and a new one, for the request


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


def test_both_threads_of_a_connection_that_ends_are_woken(rig: Rig) -> None:
    connection = rig.idle(rig.host())
    woken = listen(connection)
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


def reserve(rig: Rig, connection: PooledConnection) -> Job:
    """Return a request that *connection* has reserved, as it may send nothing behind others."""
    job = rig.job(connection.host, "/exclusive", exclusive=True)
    with rig.core.transaction():
        job.enter_queue()
        job.reserve(connection)
        connection.reserved = job
        rig.core.queued += 1
    return job


def test_a_reserved_request_goes_back_with_the_connection_that_ends(rig: Rig) -> None:
    host = rig.host()
    connection, (first,) = rig.send(host, "/a")
    job = reserve(rig, connection)
    rig.lose(connection, Abandoned())
    assert host.pop_all() == [first, job]
    assert rig.core.queued == 2


def test_the_reserved_request_of_a_closed_pool_fails(rig: Rig) -> None:
    host = rig.host()
    connection, (first,) = rig.send(host, "/a")
    job = reserve(rig, connection)
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
