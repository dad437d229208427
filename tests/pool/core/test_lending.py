"""What callers do on a connection by themselves; the test plays the callers."""

from __future__ import annotations

import sys
from types import FrameType, SimpleNamespace
from typing import Any, cast

import pytest

from dugong.errors import ConnectionClosed, ConnectionTimedOut
from dugong.pool.core.connection import Phase, PooledConnection
from dugong.pool.core.host import Host
from dugong.pool.core.job import Job, Place
from dugong.pool.failure import Abandoned
from dugong.pool.response import StreamedResponse
from tests.support.parts import (
    Rig,
    borrow_again,
    engine_of,
    hold,
    make_response,
    send_upload,
    would_wait,
)
from tests.support.uploads import releases


@pytest.fixture
def rig(single: Rig) -> Rig:
    """A rig with one connection to each host."""
    return single


# --- streams --------------------------------------------------------------------------------------


def begin_stream(
    rig: Rig, host: Host, connection: PooledConnection, job: Job, status: int = 200
) -> bool:
    """Have the caller of *job* read its response; False if it does not want it."""
    job.exchange = SimpleNamespace(persistent=True, minor_version=1)
    source = cast(Any, SimpleNamespace(close=lambda: None))
    response = StreamedResponse(status, "Reason", b"", job.request, None, source, ())
    connection.receiving = True
    return rig.lending.hand_over(connection, job, response, source)


def stream(rig: Rig) -> tuple[Host, PooledConnection, Job]:
    """Return a request whose caller reads the response, and where."""
    host = rig.host()
    connection, (job,) = rig.send(host, "/a", exclusive=True)
    assert begin_stream(rig, host, connection, job)
    return host, connection, job


def test_a_caller_that_streams_has_the_connection(rig: Rig) -> None:
    host, connection, job = stream(rig)
    assert job.place is Place.STREAMING
    assert connection.streaming
    assert not connection.receiving
    assert job.future.done()
    assert host.has_progressed


def test_a_stream_that_is_not_wanted_any_more_is_not_handed_over(rig: Rig) -> None:
    host = rig.host()
    connection, (job,) = rig.send(host, "/a")
    with rig.core.transaction():
        rig.retries.complete_locked(job, None)
    assert not begin_stream(rig, host, connection, job)
    assert not connection.streaming


def test_a_status_worth_another_attempt_is_given_up_on_if_its_body_is_streamed(rig: Rig) -> None:
    host = rig.host()
    connection, (job,) = rig.send(host, "/a", exclusive=True)
    assert begin_stream(rig, host, connection, job, status=503)
    assert rig.heard("gave up") == ["503 Reason; its body is too long to be let go of"]


def test_a_stream_that_was_read_to_its_end_gives_the_connection_back(rig: Rig) -> None:
    host, connection, job = stream(rig)
    rig.lending.end_stream(connection, job, complete=True)
    assert job.place is Place.DONE
    assert connection in host.idle
    assert (host.answered, host.in_flight) == (1, 0)


def test_a_stream_that_was_not_read_to_its_end_ends_the_connection(rig: Rig) -> None:
    host, connection, job = stream(rig)
    rig.lending.end_stream(connection, job, complete=False)
    assert job.place is Place.DONE
    assert connection.phase is Phase.CLOSED
    assert host.in_flight == 0


def test_a_stream_ends_once(rig: Rig) -> None:
    host, connection, job = stream(rig)
    rig.lending.end_stream(connection, job, complete=True)
    rig.lending.end_stream(connection, job, complete=False)
    assert connection in host.idle


def test_a_stream_whose_connection_has_ended_lets_that_be_closed(rig: Rig) -> None:
    _, connection, job = stream(rig)
    rig.lose(connection, ConnectionTimedOut("the deadline passed"))
    assert connection.phase is Phase.CLOSING
    rig.lending.end_stream(connection, job, complete=False)
    assert connection.phase is Phase.CLOSED


def test_a_stream_ends_when_the_sender_has_let_go_of_the_body_of_the_request(rig: Rig) -> None:
    connection, job = send_upload(rig)
    assert begin_stream(rig, job.host, connection, job)
    assert would_wait(lambda: rig.lending.end_stream(connection, job, complete=False))
    # An interrupted wait ends the stream all the same, and leaves the body to the sender.
    assert job.place is Place.DONE
    assert releases(job) == 0
    assert connection.phase is Phase.CLOSING
    rig.look_for_work(connection)
    assert connection.phase is Phase.CLOSED


def test_a_reader_waits_for_a_sender_that_has_failed_until_that_has_said_why(rig: Rig) -> None:
    connection, job = send_upload(rig)
    assert begin_stream(rig, job.host, connection, job)
    assert would_wait(lambda: rig.lending.wait_for_sender(job))
    assert job.place is Place.STREAMING
    late = ConnectionTimedOut("nothing sent")
    rig.look_for_work(connection, late)
    rig.lending.wait_for_sender(job)
    assert job.extras.upload is not None
    assert job.extras.upload.error is late
    assert connection.failure is late


def test_a_stream_that_is_interrupted_is_still_to_be_ended(rig: Rig) -> None:
    _, connection, job = stream(rig)
    rig.lending.interrupt_stream(job)
    assert engine_of(connection).is_aborted
    assert job.place is Place.STREAMING
    rig.lending.end_stream(connection, job, complete=False)
    assert connection.phase is Phase.CLOSED


def test_what_is_no_stream_any_more_is_not_interrupted(rig: Rig) -> None:
    _, connection, job = stream(rig)
    rig.lending.end_stream(connection, job, complete=True)
    rig.lending.interrupt_stream(job)
    assert not engine_of(connection).is_aborted


def test_a_stream_on_a_connection_that_cannot_be_written_to_ends_that(rig: Rig) -> None:
    _, connection, job = stream(rig)
    engine_of(connection).has_unread = True
    rig.look_for_work(connection, ConnectionClosed())
    rig.lending.end_stream(connection, job, complete=True)
    assert connection.phase is Phase.CLOSED


def test_how_long_a_host_takes_is_noted_for_the_first_of_the_responses_that_come(rig: Rig) -> None:
    """From its sending on, or from the response before it on, if that was later."""
    host = rig.host()
    connection, jobs = rig.send(host, "/a", "/b", "/c")
    rig.clock.now += 1.0
    rig.respond(connection, *jobs[:2])
    assert host.pipelining.slow_after == 4.0
    for _ in range(40):
        host.pipelining.took(0.03, True)
    rig.clock.now += 0.4
    rig.respond(connection, jobs[2])
    assert host.pipelining.slow_after == pytest.approx(0.13, rel=0.1)


def test_how_long_an_upload_takes_says_nothing_of_its_host(rig: Rig) -> None:
    connection, job = send_upload(rig)
    before = connection.host.pipelining.slow_after
    assert rig.look_for_work(connection) == []
    rig.clock.now += 100.0
    rig.respond(connection, job)
    assert connection.host.pipelining.slow_after == before


# --- one request in the thread of its caller ------------------------------------------------------


def borrow(rig: Rig) -> tuple[Host, PooledConnection, Job]:
    """Return a request whose caller has borrowed a connection for it."""
    host = rig.host()
    idle = rig.idle(host)
    job = rig.job(host, "/borrowed")
    assert rig.lending.borrow(job) is idle
    job.exchange = SimpleNamespace(persistent=True, minor_version=1)
    return host, idle, job


def test_a_caller_borrows_an_idle_connection(rig: Rig) -> None:
    host, connection, job = borrow(rig)
    assert job.place is Place.IN_FLIGHT
    assert connection.borrower is job
    assert not host.idle
    assert not rig.core.idle
    assert host.in_flight == 1


def test_a_connection_is_at_no_moment_lent_to_the_thread_that_had_it_before(rig: Rig) -> None:
    """Others look without the lock at who has it."""
    host = rig.host()
    idle = rig.idle(host)
    another = idle.borrowed_by = -1
    seen: list[int] = []

    def look(frame: FrameType, event: str, arg: object) -> Any:
        if idle.borrower is not None:
            seen.append(idle.borrowed_by)
        return look

    job = rig.job(host, "/borrowed")
    before = sys.gettrace()
    sys.settrace(look)
    try:
        rig.lending.borrow(job)
    finally:
        sys.settrace(before)
    assert seen
    assert another not in seen


@pytest.mark.parametrize("why", ["none idle", "others queued", "held", "closed"])
def test_a_caller_borrows_no_connection_out_of_turn(rig: Rig, why: str) -> None:
    host = rig.host()
    if why != "none idle":
        rig.idle(host)
    if why == "others queued":
        host.append(rig.job(host, "/queued"))
    if why == "held":
        hold(host)
    rig.core.closed = why == "closed"
    job = rig.job(host, "/a")
    assert rig.lending.borrow(job) is None
    assert job.place is Place.NEW


@pytest.mark.parametrize("window", [64, 3])
def test_how_long_a_host_takes_is_noted_for_a_caller_that_does_it_alone(
    rig: Rig, window: int
) -> None:
    _, connection, job = borrow(rig)
    host = connection.host
    for _ in range(40):
        host.pipelining.took(0.5, True)
    # Of one in eight, once there is nothing to be learned of the host.
    host.pipelining.window = window
    connection.dispatched = 8
    rig.clock.now += 1.0
    rig.respond_to_caller(connection, job)
    assert host.pipelining.slow_after == pytest.approx(4 * (0.5 + 0.5 / 8), rel=0.01)


@pytest.mark.parametrize("window", [64, 3])
def test_a_caller_that_has_its_response_gives_the_connection_back(rig: Rig, window: int) -> None:
    host, connection, job = borrow(rig)
    host.pipelining.window = window
    response = make_response(job)
    assert rig.respond_to_caller(connection, job, response)
    assert job.place is Place.DONE
    assert not job.future.done()  # for the caller has the response, and asks for no future
    assert connection.borrower is None
    assert list(host.idle) == list(rig.core.idle) == [connection]
    assert (host.in_flight, host.answered, connection.answered) == (0, 2, 2)


@pytest.mark.parametrize("earlier", [None, 60.0])
def test_a_limit_that_comes_with_the_response_of_a_caller_is_that_of_its_connection(
    rig: Rig, earlier: float | None
) -> None:
    host, connection, job = borrow(rig)
    engine = engine_of(connection)
    engine.keep_alive_timeout = earlier
    assert rig.respond_to_caller(connection, job)
    job = borrow_again(rig, host)
    engine.keep_alive_timeout = 5.0
    assert rig.respond_to_caller(connection, job)
    rig.clock.now += 4.0
    assert rig.lending.borrow(rig.job(host, "/late")) is None
    assert connection.phase is Phase.CLOSED


def test_a_response_that_comes_too_late_is_not_the_outcome(rig: Rig) -> None:
    host, connection, job = borrow(rig)
    with rig.core.transaction():
        rig.retries.complete_locked(job, None)
    assert not rig.respond_to_caller(connection, job)
    assert job.future.cancelled()
    assert connection in host.idle


def test_a_connection_that_was_shut_meanwhile_is_closed_with_the_response_of_its_caller(
    rig: Rig,
) -> None:
    host, connection, job = borrow(rig)
    rig.lose(connection, Abandoned())
    assert connection.phase is Phase.CLOSING
    assert rig.respond_to_caller(connection, job)
    assert connection.phase is Phase.CLOSED
    assert (rig.core.connections, host.in_flight, list(host.connections)) == (0, 0, [])


def test_what_was_queued_meanwhile_is_served_when_a_connection_is_given_back(rig: Rig) -> None:
    host, connection, job = borrow(rig)
    later = rig.submit(host, "/later")
    rig.respond_to_caller(connection, job)
    assert not connection.sender_parked
    assert rig.look_for_work(connection) == later


def test_a_borrowed_connection_that_has_failed_is_closed_when_it_is_given_back(rig: Rig) -> None:
    _, connection, job = borrow(rig)
    rig.lending.give_back(connection, ConnectionTimedOut("slow"))
    assert connection.phase is Phase.CLOSED
    assert job.place is Place.WAITING


def test_a_borrowed_connection_that_was_shut_is_closed_when_it_is_given_back(rig: Rig) -> None:
    _, connection, _ = borrow(rig)
    rig.lose(connection, Abandoned())
    assert connection.phase is Phase.CLOSING
    rig.lending.give_back(connection)
    assert connection.phase is Phase.CLOSED


def test_a_borrowed_connection_is_idle_again_when_it_is_given_back(rig: Rig) -> None:
    host, connection, job = borrow(rig)
    rig.respond(connection, job)
    assert not host.idle
    rig.lending.give_back(connection)
    assert connection in host.idle


def test_a_borrowed_connection_whose_response_is_the_last_is_closed(rig: Rig) -> None:
    _, connection, job = borrow(rig)
    job.exchange.persistent = False
    assert rig.respond_to_caller(connection, job)
    assert connection.phase is Phase.CLOSED
