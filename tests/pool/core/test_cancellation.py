"""Requests that end before their response: cancelled by their caller, or by their deadline."""

from __future__ import annotations

import gc
import sys
from typing import Any, cast

import pytest

from dugong.errors import (
    ConnectionClosed,
    ConnectionTimedOut,
    Delivery,
)
from dugong.pool.core import cancellation as module
from dugong.pool.core.cancellation import DRAIN_TIME
from dugong.pool.core.connection import Phase
from dugong.pool.core.host import Host
from dugong.pool.core.job import Place
from tests.support.clock import throw
from tests.support.parts import (
    SchedulerRig,
    engine_of,
)
from tests.support.placed import Placed


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> SchedulerRig:
    """A rig with one connection to each host, and room for three queued requests."""
    throw(monkeypatch, 1.0)
    return SchedulerRig(monkeypatch, max_connections_per_host=1, max_queued=3)


# --- a request is given up ------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["queued", "reserved", "oldest", "behind", "waiting"])
def test_a_request_is_cancelled_wherever_it_is(rig: SchedulerRig, place: str) -> None:
    placed = Placed(rig, place)
    assert rig.scheduler.abandon(placed.job)
    assert placed.job.future.cancelled()
    assert placed.job.place is Place.DONE
    assert (placed.host.queued, rig.core.queued, placed.host.waiting) == (0, 0, 0)
    assert not rig.scheduler.abandon(placed.job)


@pytest.mark.parametrize("place", ["streaming", "done"])
def test_a_request_that_is_decided_is_not_cancelled(rig: SchedulerRig, place: str) -> None:
    placed = Placed(rig, place)
    assert not rig.scheduler.abandon(placed.job)
    assert not placed.job.future.cancelled()


@pytest.mark.parametrize("place", ["sending", "pending"])
def test_a_request_whose_body_is_being_sent_is_cancelled_when_the_sender_lets_go_of_it(
    rig: SchedulerRig, place: str
) -> None:
    placed = Placed(rig, place)
    assert rig.scheduler.abandon(placed.job)
    assert not placed.job.future.done()
    assert placed.connection.phase is Phase.CLOSING
    rig.look_for_work(placed.connection)
    assert placed.job.future.cancelled()
    assert placed.connection.phase is Phase.CLOSED


@pytest.mark.parametrize("place", ["queued", "reserved", "behind"])
def test_a_cancelled_request_leaves_the_others_alone(rig: SchedulerRig, place: str) -> None:
    placed = Placed(rig, place)
    rig.scheduler.abandon(placed.job)
    rig.respond(placed.connection, *placed.others)
    assert [job.future.result().status for job in placed.others] == [200]


def test_the_sender_of_a_connection_whose_reserved_request_is_cancelled_looks_for_others(
    rig: SchedulerRig,
) -> None:
    placed = Placed(rig, "reserved")
    later = rig.submit(placed.host, "/later")
    assert rig.look_for_work(placed.connection) == []
    rig.scheduler.abandon(placed.job)
    assert not placed.connection.sender_parked
    assert rig.look_for_work(placed.connection) == later


def test_the_response_to_a_cancelled_request_is_waited_for_a_while(rig: SchedulerRig) -> None:
    placed = Placed(rig, "oldest")
    rig.scheduler.abandon(placed.job)
    rig.respond(placed.connection, placed.job)
    assert placed.connection in placed.host.idle
    rig.forward(DRAIN_TIME)
    assert placed.connection.phase is Phase.OPEN


def test_a_connection_that_owes_a_cancelled_request_its_response_is_closed_after_a_while(
    rig: SchedulerRig,
) -> None:
    placed = Placed(rig, "oldest")
    rig.scheduler.abandon(placed.job)
    rig.forward(DRAIN_TIME)
    assert placed.connection.phase is Phase.CLOSED


def test_a_connection_on_which_others_hold_up_a_cancelled_request_goes_on(
    rig: SchedulerRig,
) -> None:
    placed = Placed(rig, "behind")
    rig.scheduler.abandon(placed.job)
    rig.forward(DRAIN_TIME)
    assert placed.connection.phase is Phase.OPEN
    rig.respond(placed.connection, *placed.others)
    rig.forward(DRAIN_TIME)
    assert placed.connection.phase is Phase.CLOSED


def test_a_request_whose_caller_was_interrupted_on_a_borrowed_connection_ends_that(
    rig: SchedulerRig,
) -> None:
    host = rig.host()
    connection = rig.idle(host)
    job = rig.job(host, "/a")
    assert rig.lending.borrow(job) is connection
    assert rig.scheduler.abandon(job)
    assert connection.phase is Phase.CLOSED
    assert job.future.cancelled()


def test_a_request_is_cancelled_later_in_the_middle_of_a_change(rig: SchedulerRig) -> None:
    placed = Placed(rig, "queued")
    with rig.core.transaction():
        assert rig.scheduler.abandon(placed.job)
        assert placed.job.place is Place.QUEUED
    rig.maintenance.run_later()
    assert placed.job.future.cancelled()


def test_a_request_is_cancelled_at_once_when_the_interpreter_exits(
    rig: SchedulerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = Placed(rig, "queued")
    with monkeypatch.context() as exiting:
        exiting.setattr(sys, "is_finalizing", lambda: True)
        assert rig.scheduler.abandon(placed.job)
    assert placed.job.future.cancelled()


# --- a deadline passes ----------------------------------------------------------------------------

EXPIRED = {
    # what the exception says, how far the request has got, and what becomes of the connection
    "queued": ("in the queue of host:80; held by host:80-1", Delivery.UNSENT, Phase.OPEN),
    "reserved": ("in the queue of host:80; held by host:80-1", Delivery.UNSENT, Phase.OPEN),
    "oldest": ("on connection host:80-1", Delivery.SENT, Phase.CLOSED),
    "behind": ("on connection host:80-1", Delivery.SENT, Phase.OPEN),
}


@pytest.mark.parametrize("place", EXPIRED)
def test_a_request_fails_when_its_deadline_passes(rig: SchedulerRig, place: str) -> None:
    placed = Placed(rig, place, deadline=5.0)
    rig.forward(4.9)
    assert not placed.job.future.done()
    rig.forward(0.1)
    error = placed.job.future.exception()
    assert isinstance(error, ConnectionTimedOut)
    words, delivery, phase = EXPIRED[place]
    assert words in str(error)
    assert (error.delivery, placed.connection.phase) == (delivery, phase)
    assert (placed.host.queued, rig.core.queued) == (0, 0)


def test_a_request_that_its_sender_is_about_to_send_counts_as_sent(rig: SchedulerRig) -> None:
    host = rig.host()
    host.pipelining.window = 4
    (first,) = rig.submit(host, "/a")
    (job,) = rig.submit(host, "/b", deadline=5.0)
    connection = rig.connect(host)
    engine_of(connection).delivery = Delivery.UNSENT
    assert rig.look_for_work(connection) == [first, job]
    rig.forward(5.0)
    error = job.future.exception()
    assert isinstance(error, ConnectionTimedOut)
    assert error.delivery is Delivery.SENT


def test_a_request_that_waits_for_a_retry_fails_when_its_deadline_passes(
    rig: SchedulerRig,
) -> None:
    placed = Placed(rig, "waiting", deadline=1.5)
    rig.forward(1.0)
    assert placed.job.place is Place.QUEUED
    rig.forward(0.5)
    error = placed.job.future.exception()
    assert isinstance(error, ConnectionTimedOut)
    assert error.delivery is Delivery.SENT  # as far as it has ever got
    assert len(cast(Any, error).attempts) == 1


def test_a_request_whose_body_is_being_sent_fails_when_the_sender_lets_go_of_it(
    rig: SchedulerRig,
) -> None:
    placed = Placed(rig, "sending", deadline=5.0)
    rig.forward(5.0)
    assert not placed.job.future.done()
    assert placed.connection.phase is Phase.CLOSING
    rig.look_for_work(placed.connection, ConnectionClosed())
    assert isinstance(placed.job.future.exception(), ConnectionTimedOut)


def test_a_success_that_came_before_the_deadline_is_none_if_the_body_is_still_with_the_sender(
    rig: SchedulerRig,
) -> None:
    placed = Placed(rig, "pending", deadline=5.0)
    rig.forward(5.0)
    rig.look_for_work(placed.connection, ConnectionClosed())
    error = placed.job.future.exception()
    assert isinstance(error, ConnectionTimedOut)
    assert "the deadline passed" in str(error)
    assert error.delivery is Delivery.PARTLY_SENT


def test_a_body_that_is_being_read_ends_when_the_deadline_passes(rig: SchedulerRig) -> None:
    placed = Placed(rig, "streaming", deadline=5.0)
    rig.forward(5.0)
    assert placed.connection.phase is Phase.CLOSING
    error = placed.connection.failure
    assert isinstance(error, ConnectionTimedOut)
    assert "while the body was read" in str(error)
    assert error.delivery is Delivery.ANSWER_STARTED


@pytest.mark.parametrize("place", ["oldest", "streaming"])
def test_a_deadline_has_no_effect_once_the_response_was_read(rig: SchedulerRig, place: str) -> None:
    placed = Placed(rig, place, deadline=5.0)
    if place == "streaming":
        rig.lending.end_stream(placed.connection, placed.job, complete=True)
    else:
        rig.respond(placed.connection, placed.job)
    rig.forward(5.0)
    assert placed.connection.phase is Phase.OPEN
    assert placed.job.future.exception() is None


def test_requests_whose_deadlines_pass_at_once_are_told_the_same_and_it_is_made_once(
    rig: SchedulerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = [rig.host(name=name) for name in "ab"]
    for host in hosts:
        rig.send(host, "/other", exclusive=True)
    jobs = [rig.submit(host, "/", deadline=5.0)[0] for host in (*hosts, hosts[0])]
    describe, made = module.describe_holders, list[Host]()

    def count(host: Host, now: float) -> str:
        made.append(host)
        return describe(host, now)

    monkeypatch.setattr(module, "describe_holders", count)
    rig.forward(5.0)
    words = [str(job.future.exception()).partition(": ")[2] for job in jobs]
    for name, text in zip("aba", words, strict=True):
        assert text.startswith(f"the deadline passed in the queue of {name}:80; held by {name}:80-")
    assert words[2] == words[0]
    assert made == hosts


def test_no_connection_is_opened_for_requests_whose_deadlines_have_passed_as_well(
    rig: SchedulerRig,
) -> None:
    host = rig.host()
    _, sent = rig.send(host, "/sent", exclusive=True, deadline=5.0)
    queued = rig.submit(host, "/a", "/b", deadline=5.0)
    rig.forward(5.1)
    for job in (*sent, *queued):
        assert isinstance(job.future.exception(), ConnectionTimedOut)
    assert len(rig.engines) == 1


def test_a_request_whose_deadline_has_passed_makes_way_for_one_that_is_queued(
    rig: SchedulerRig,
) -> None:
    host = rig.host()
    _, (sent,) = rig.send(host, "/sent", exclusive=True, deadline=5.0)
    queued = rig.submit(host, "/a")
    rig.forward(5.1)
    assert isinstance(sent.future.exception(), ConnectionTimedOut)
    assert rig.look_for_work(rig.connect(host)) == queued


def test_a_deadline_is_two_objects_for_the_garbage_collector(
    rig: SchedulerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rig.core, "max_queued", 1000)
    host = rig.host()

    def objects_of_a_request(deadline: float | None) -> float:
        before = len(gc.get_objects())
        rig.submit(host, *map(str, range(100)), deadline=deadline)
        return (len(gc.get_objects()) - before) / 100

    gc.disable()
    try:
        rig.submit(host, "/first")
        without = objects_of_a_request(None)
        assert objects_of_a_request(5.0) - without < 2.5
    finally:
        gc.enable()
