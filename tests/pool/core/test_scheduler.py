"""The scheduler: requests come, are given up, expire, and end with their pool."""

from __future__ import annotations

import concurrent.futures
import gc
import sys
import threading
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dugong.errors import (
    ConnectionClosed,
    ConnectionTimedOut,
    Delivery,
    PoolClosed,
    PoolFull,
    StateError,
)
from dugong.pool.core import scheduler as module
from dugong.pool.core.connection import Phase
from dugong.pool.core.host import Host
from dugong.pool.core.job import Place
from dugong.pool.core.scheduler import DRAIN_TIME
from dugong.pool.core.waiting import NoConnectionFree, Patience
from dugong.pool.host_policy import HostPolicy
from tests.support.clock import throw
from tests.support.parts import (
    InterruptedQueue,
    SchedulerRig,
    WouldWait,
    engine_of,
    queue_one,
)
from tests.support.placed import PLACES, Placed
from tests.support.points import Interrupt


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> SchedulerRig:
    """A rig with one connection to each host, and room for three queued requests."""
    throw(monkeypatch, 1.0)
    return SchedulerRig(monkeypatch, max_connections_per_host=1, max_queued=3)


# --- a request in each of its places --------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_a_request_is_running_while_it_is_on_a_connection(rig: SchedulerRig, place: str) -> None:
    placed = Placed(rig, place)
    assert placed.job.place is PLACES[place]
    assert rig.scheduler.is_running(placed.job) is (PLACES[place] is Place.IN_FLIGHT)


# --- a request comes ------------------------------------------------------------------------------


def test_a_request_is_queued_and_served(rig: SchedulerRig) -> None:
    host = rig.host()
    jobs = rig.submit(host, "/a")
    assert (host.queued, rig.core.queued) == (1, 1)
    assert rig.look_for_work(rig.connect(host)) == jobs


def test_a_request_is_queued_behind_others_that_wait_for_the_same_connections(
    rig: SchedulerRig,
) -> None:
    host = rig.host()
    connection, sent = rig.send(host, "/sent", exclusive=True)
    jobs = rig.submit(host, "/a", "/b")
    assert (host.queued, rig.core.queued) == (2, 2)
    assert len(host.connections) == 1
    rig.respond(connection, *sent)
    assert rig.look_for_work(connection) == jobs


def test_a_request_that_comes_behind_others_still_has_an_idle_connection_take_it(
    rig: SchedulerRig,
) -> None:
    host = rig.host()
    idle = rig.idle(host)
    host.append(rig.job(host, "/before"))  # as if the thread that has queued it had not gone on
    rig.core.queued += 1
    rig.submit(host, "/a")
    assert not idle.sender_parked


def test_a_request_is_queued_behind_others_with_the_lock(rig: SchedulerRig) -> None:
    host, locked = queue_one(rig), list[bool]()
    host.queue = InterruptedQueue(host.queue, lambda: locked.append(rig.core.is_locked_here()))
    rig.submit(host, "/a")
    assert locked == [True]
    assert not rig.core.is_nested()


def test_what_a_finalizer_wants_called_while_a_request_is_queued_is_called(
    rig: SchedulerRig,
) -> None:
    host, called = queue_one(rig), list[str]()
    call = partial(rig.scheduler.call_later, partial(called.append, "call"))
    host.queue = InterruptedQueue(host.queue, call)
    rig.submit(host, "/a")
    assert called == ["call"]


def test_a_request_that_comes_behind_others_in_the_middle_of_a_change_is_queued_later(
    rig: SchedulerRig,
) -> None:
    job = rig.job(queue_one(rig), "/a")
    with rig.core.transaction():
        rig.scheduler.submit(job)
        assert job.place is Place.NEW
    rig.maintenance.run_later()
    assert job.place is Place.QUEUED


def test_a_request_that_was_cancelled_is_not_queued_behind_others(rig: SchedulerRig) -> None:
    job = rig.job(queue_one(rig), "/a")
    assert job.future.cancel()
    rig.scheduler.submit(job)
    assert rig.core.queued == 1


def test_a_request_is_not_queued_behind_others_in_a_pool_that_is_being_closed(
    rig: SchedulerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread closes it when it has been looked whether it is closed."""
    host, lock = queue_one(rig), rig.core.lock

    def acquire(blocking: bool = True) -> bool:
        rig.core.closed = True
        return lock.acquire(blocking)

    closing = SimpleNamespace(acquire=acquire, release=lock.release)
    monkeypatch.setattr(rig.core, "lock", closing)
    with pytest.raises(PoolClosed):
        rig.submit(host, "/a")
    assert rig.core.queued == 1


def test_a_request_that_comes_behind_others_has_the_limits_of_its_own(rig: SchedulerRig) -> None:
    job = rig.job(queue_one(rig), "/a")
    job.own_extras().patience = Patience(connect=None, free=2.0)
    rig.scheduler.submit(job)
    rig.forward(2.0)
    assert isinstance(job.future.exception(0), NoConnectionFree)


def test_a_request_that_comes_behind_others_has_a_connection_opened_that_its_host_may_have(
    rig: SchedulerRig,
) -> None:
    host = queue_one(rig)
    policy = HostPolicy(max_connections=2)
    with rig.core.transaction():
        rig.politeness.follow_locked(host, policy)
    rig.submit(host, "/a")
    assert len(host.connections) == 2


def test_a_connection_is_opened_for_each_of_the_first_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = SchedulerRig(monkeypatch, max_connections_per_host=3)
    host = rig.host()
    rig.submit(host, "/a", "/b", "/c", "/d")
    assert len(host.connections) == 3


def test_a_host_that_was_forgotten_is_known_again_with_its_next_request(rig: SchedulerRig) -> None:
    forgotten = rig.host()
    del rig.core.hosts[forgotten.origin]
    known = rig.host()
    assert known is not forgotten
    (job,) = rig.submit(forgotten, "/a")
    assert job.host is known
    assert (known.queued, forgotten.queued) == (1, 0)


def test_no_request_comes_into_a_closed_pool(rig: SchedulerRig) -> None:
    host = rig.host()
    rig.scheduler.close()
    with pytest.raises(PoolClosed):
        rig.submit(host, "/a")


def fill(rig: SchedulerRig) -> Host:
    """Return a host; all room in the queues is taken."""
    host = rig.host()
    rig.send(host, "/sent", exclusive=True)
    rig.submit(host, "/1", "/2", "/3")
    return host


def test_a_request_that_may_not_wait_for_room_is_refused(rig: SchedulerRig) -> None:
    job = rig.job(fill(rig), "/4")
    with pytest.raises(PoolFull, match="3 requests are queued"):
        rig.scheduler.submit(job, block=False)
    assert job.place is Place.NEW


def test_a_request_waits_for_room(rig: SchedulerRig) -> None:
    host = fill(rig)
    job = rig.job(host, "/4")
    with pytest.raises(WouldWait):
        rig.scheduler.submit(job)
    assert rig.core.queued == 3
    rig.scheduler.abandon(next(iter(host.queue)))
    rig.scheduler.submit(job)
    assert job.place is Place.QUEUED


def test_a_request_waits_for_room_no_longer_than_its_deadline(
    rig: SchedulerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = rig.job(fill(rig), "/4")
    job.deadline = 5.0
    waits: list[float | None] = []

    def wait(condition: threading.Condition, timeout: float | None = None) -> None:
        waits.append(timeout)
        rig.clock.now += 3.0

    monkeypatch.setattr(rig.core, "wait", wait)
    with pytest.raises(ConnectionTimedOut, match="3 requests were queued for too long") as caught:
        rig.scheduler.submit(job)
    assert waits == [5.0, 2.0]
    assert caught.value.delivery is Delivery.UNSENT


def test_a_request_that_waits_for_room_is_told_that_the_pool_is_closed(
    rig: SchedulerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = rig.job(fill(rig), "/4")

    def wait(condition: threading.Condition, timeout: float | None = None) -> None:
        rig.core.closed = True

    monkeypatch.setattr(rig.core, "wait", wait)
    with pytest.raises(PoolClosed):
        rig.scheduler.submit(job)


def test_a_request_that_is_cancelled_while_it_waits_for_room_is_not_queued(
    rig: SchedulerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = rig.job(fill(rig), "/4")

    def wait(condition: threading.Condition, timeout: float | None = None) -> None:
        rig.retries.complete_locked(job, None)

    monkeypatch.setattr(rig.core, "wait", wait)
    rig.scheduler.submit(job)
    assert job.future.cancelled()
    assert rig.core.queued == 3


def test_a_request_that_is_cancelled_before_it_is_submitted_is_not_queued(
    rig: SchedulerRig,
) -> None:
    job = rig.job(rig.host(), "/a")
    assert job.future.cancel()
    rig.scheduler.submit(job)
    assert rig.core.queued == 0


def test_what_does_not_wait_for_room_is_told_of_it_once(rig: SchedulerRig) -> None:
    host, told = fill(rig), list[str]()
    rig.scheduler.call_when_room(partial(told.append, "first"))
    rig.scheduler.call_when_room(partial(told.append, "second"))
    assert told == []
    rig.scheduler.abandon(next(iter(host.queue)))
    assert told == ["first", "second"]
    rig.scheduler.abandon(next(iter(host.queue)))
    assert told == ["first", "second"]
    rig.scheduler.call_when_room(partial(told.append, "at once"))
    assert told[2:] == ["at once"]


def test_what_does_not_wait_for_room_is_told_that_the_pool_is_closed(rig: SchedulerRig) -> None:
    told: list[str] = []
    fill(rig)
    rig.scheduler.call_when_room(partial(told.append, "waiting"))
    rig.scheduler.close()
    rig.scheduler.call_when_room(partial(told.append, "late"))
    assert told == ["waiting", "late"]


def test_what_does_not_wait_for_room_is_told_of_it_after_an_interrupt(rig: SchedulerRig) -> None:
    told: list[str] = []
    fill(rig)
    rig.scheduler.call_when_room(partial(told.append, "look again"))
    rig.core.recover(KeyboardInterrupt())
    assert told == ["look again"]


def test_the_deadline_of_a_request_may_begin_before_it_is_submitted(rig: SchedulerRig) -> None:
    host = fill(rig)
    late, early = rig.job(host, "/late"), rig.job(host, "/early")
    for job in (late, early):
        job.deadline = 5.0
        rig.scheduler.begin_deadline(job)
    rig.forward(3.0)
    rig.scheduler.abandon(next(iter(host.queue)))
    rig.scheduler.submit(early, block=False)
    rig.forward(2.0)
    with pytest.raises(ConnectionTimedOut, match="3 requests were queued for too long"):
        late.future.result()
    with pytest.raises(ConnectionTimedOut, match="the deadline passed in the queue of"):
        early.future.result()
    assert rig.core.queued == 2
    rig.scheduler.begin_deadline(late)  # which is done: there is nothing to end
    rig.forward(5.0)


def test_a_callback_does_not_wait_for_room(
    rig: SchedulerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own thread has to go on, so that there is room again."""
    job = rig.job(fill(rig), "/4")
    monkeypatch.setattr(rig.core.threads, "is_own", lambda: True)
    rig.scheduler.submit(job)
    assert rig.core.queued == 4


def test_a_request_that_comes_in_the_middle_of_a_change_is_queued_later(rig: SchedulerRig) -> None:
    host = rig.host()
    job = rig.job(host, "/a")
    with rig.core.transaction():
        rig.scheduler.submit(job)
        assert host.queued == 0
    rig.maintenance.run_later()
    assert job.place is Place.QUEUED
    assert len(host.connections) == 1


def test_its_deadline_counts_from_when_it_came(rig: SchedulerRig) -> None:
    job = rig.job(rig.host(), "/a", deadline=5.0)
    job.deadline = 5.0
    with rig.core.transaction():
        rig.scheduler.submit(job)
    rig.clock.now += 4.0
    rig.maintenance.run_later()
    rig.forward(1.0)
    assert isinstance(job.future.exception(), ConnectionTimedOut)


def test_no_request_is_queued_later_in_a_closed_pool(rig: SchedulerRig) -> None:
    job = rig.job(rig.host(), "/a")
    rig.scheduler.close()
    with rig.core.transaction(), pytest.raises(PoolClosed):
        rig.scheduler.submit(job)


def test_a_request_to_be_queued_later_fails_if_the_pool_is_closed_before(
    rig: SchedulerRig,
) -> None:
    job = rig.job(rig.host(), "/a")
    with rig.core.transaction():
        rig.scheduler.submit(job)
    rig.core.closed = True
    rig.maintenance.run_later()
    assert isinstance(job.future.exception(), PoolClosed)


def test_a_request_to_be_queued_later_is_not_if_it_is_cancelled_before(rig: SchedulerRig) -> None:
    host = rig.host()
    job = rig.job(host, "/a")
    with rig.core.transaction():
        rig.scheduler.submit(job)
    assert rig.scheduler.abandon(job)
    rig.maintenance.run_later()
    assert job.future.cancelled()
    assert host.queued == 0


# --- several requests come ------------------------------------------------------------------------


def test_several_requests_are_queued_in_their_order_and_served(rig: SchedulerRig) -> None:
    hosts = [rig.host(), rig.host(name="other")]
    jobs = [rig.job(hosts[0], "/1"), rig.job(hosts[1], "/2"), rig.job(hosts[0], "/3")]
    assert rig.scheduler.submit_some(jobs) == 3
    assert [list(host.queue) for host in hosts] == [[jobs[0], jobs[2]], [jobs[1]]]
    assert rig.core.queued == 3
    assert [len(host.connections) for host in hosts] == [1, 1]


def test_of_several_requests_as_many_are_queued_as_there_is_room_for(rig: SchedulerRig) -> None:
    host = rig.host()
    jobs = [rig.job(host, f"/{number}") for number in range(5)]
    assert rig.scheduler.submit_some(jobs) == 3
    assert list(host.queue) == jobs[:3]
    assert {job.place for job in jobs[3:]} == {Place.NEW}


def test_the_first_of_several_requests_waits_for_room(rig: SchedulerRig) -> None:
    host = fill(rig)
    jobs = [rig.job(host, "/4"), rig.job(host, "/5")]
    with pytest.raises(WouldWait):
        rig.scheduler.submit_some(jobs)
    rig.scheduler.abandon(next(iter(host.queue)))
    assert rig.scheduler.submit_some(jobs) == 1
    assert [job.place for job in jobs] == [Place.QUEUED, Place.NEW]


def test_none_of_several_requests_comes_into_a_closed_pool(rig: SchedulerRig) -> None:
    host = rig.host()
    rig.scheduler.close()
    with pytest.raises(PoolClosed):
        rig.scheduler.submit_some([rig.job(host, "/1"), rig.job(host, "/2")])
    assert rig.core.queued == 0


def test_each_of_several_requests_has_its_deadline(rig: SchedulerRig) -> None:
    host = rig.host()
    jobs = [rig.job(host, "/1"), rig.job(host, "/2")]
    jobs[1].deadline = 5.0
    rig.scheduler.submit_some(jobs)
    rig.forward(5.0)
    assert not jobs[0].future.done()
    assert isinstance(jobs[1].future.exception(), ConnectionTimedOut)


def test_of_several_requests_in_the_middle_of_a_change_one_is_queued_later(
    rig: SchedulerRig,
) -> None:
    host = rig.host()
    jobs = [rig.job(host, "/1"), rig.job(host, "/2")]
    with rig.core.transaction():
        assert rig.scheduler.submit_some(jobs) == 1
        assert host.queued == 0
    rig.maintenance.run_later()
    assert [job.place for job in jobs] == [Place.QUEUED, Place.NEW]


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
        exiting.setattr(module, "is_finalizing", lambda: True, raising=False)
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


# --- the end of the pool --------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_every_request_ends_when_the_pool_is_closed(rig: SchedulerRig, place: str) -> None:
    placed = Placed(rig, place)
    was_done = placed.job.future.done()
    rig.scheduler.close()
    assert placed.job.future.done()
    if not was_done:
        assert isinstance(placed.job.future.exception(), PoolClosed)
    assert all(job.future.done() for job in placed.others)
    assert (rig.core.queued, placed.host.waiting) == (0, 0)
    assert all(engine.is_aborted for engine in rig.engines)


def test_a_connection_that_no_thread_is_at_work_on_is_closed_with_the_pool(
    rig: SchedulerRig,
) -> None:
    connection = rig.idle(rig.host())
    rig.scheduler.close()
    assert connection.phase is Phase.CLOSED
    assert rig.core.connections == 0


def test_a_pool_may_be_closed_twice(rig: SchedulerRig) -> None:
    Placed(rig, "oldest")
    rig.scheduler.close()
    rig.scheduler.close()


@pytest.mark.parametrize("error", [Interrupt, TimeoutError])
def test_every_request_ends_though_closing_is_interrupted_twice(
    rig: SchedulerRig, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """The first time while all of them end, the second while the first is mended."""
    (job,) = rig.submit(rig.host(), "/a")
    interrupts = [error(), error()]

    def interrupted(*_: object) -> None:
        if interrupts:
            raise interrupts.pop()

    def end() -> None:
        monkeypatch.setattr(rig.maintenance, "wake", interrupted)
        interrupted()

    monkeypatch.setattr(rig.core.threads, "join", lambda deadline: end())
    with pytest.raises(error):
        rig.scheduler.close()
    assert interrupts == []
    rig.maintenance.on_close()
    assert job.future.done()
    log: list[str] = []
    with rig.core.transaction():
        rig.core.follow_up(lambda: log.append("done"))
    assert log == ["done"]


def test_threads_that_go_on_with_interrupted_closes_do_not_wait_for_each_other(
    rig: SchedulerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[object] = []

    def interrupted(deadline: object) -> None:
        raise Interrupt

    def wait(deadline: object) -> None:
        waits.append(deadline)
        while closers:  # it would wait for the other one
            closers.pop().run()

    monkeypatch.setattr(rig.core.threads, "join", interrupted)
    for _ in range(2):
        with pytest.raises(Interrupt):
            rig.scheduler.close()
    closers = list(rig.started)
    assert [closer.name for closer in closers] == ["dugong-close", "dugong-close"]
    monkeypatch.setattr(rig.core.threads, "join", wait)
    closers.pop(0).run()
    assert len(waits) == 1


def test_no_thread_starts_once_the_pool_is_closed(rig: SchedulerRig) -> None:
    rig.scheduler.close()
    with pytest.raises(RuntimeError, match="closed"):
        type(rig.core.threads).start_here(rig.core.threads, lambda: None, "dugong-test")


def test_those_who_wait_for_room_are_woken_when_the_pool_is_closed(
    rig: SchedulerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[str] = []
    monkeypatch.setattr(rig.core.room, "notify_all", lambda: woken.append("all"))
    rig.scheduler.close()
    assert woken == ["all"]


def test_a_pool_is_closed_later_in_the_middle_of_a_change(rig: SchedulerRig) -> None:
    placed = Placed(rig, "oldest")
    with rig.core.transaction():
        rig.scheduler.close()
        assert not rig.core.closed
    rig.maintenance.run_later()
    assert rig.core.closed
    assert isinstance(placed.job.future.exception(), PoolClosed)


def test_a_pool_that_is_forgotten_is_closed_by_the_maintenance_thread(rig: SchedulerRig) -> None:
    rig.maintenance.on_forgotten()
    assert rig.core.closed


def test_a_pool_is_closed_without_a_wait_when_the_interpreter_exits(
    rig: SchedulerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as exiting:
        exiting.setattr(sys, "is_finalizing", lambda: True)
        exiting.setattr(module, "is_finalizing", lambda: True, raising=False)
        rig.scheduler.close()
    assert rig.core.closed


def test_a_caller_waits_between_two_requests_until_the_pool_is_closed(rig: SchedulerRig) -> None:
    rig.scheduler.pause(0.0)
    with pytest.raises(WouldWait):
        rig.scheduler.pause(1000.0)
    rig.core.closed = True
    for seconds in (0.0, 1000.0):
        with pytest.raises(PoolClosed):
            rig.scheduler.pause(seconds)


def test_no_thread_of_the_pool_waits_between_two_requests(rig: SchedulerRig) -> None:
    rig.core.threads.idents[threading.get_ident()] = None
    with pytest.raises(StateError, match="callback"):
        rig.scheduler.pause(1000.0)


# --- what can be seen -----------------------------------------------------------------------------


def test_the_statistics_are_those_of_all_requests(rig: SchedulerRig) -> None:
    Placed(rig, "queued")
    statistics = rig.scheduler.statistics()
    assert (statistics.queued, statistics.in_flight, statistics.connections) == (1, 1, 1)
    assert list(statistics.hosts) == ["http://host"]


def test_the_repr_says_how_much_there_is_to_do(rig: SchedulerRig) -> None:
    Placed(rig, "queued")
    words = "1 hosts, 1 connections (0 idle), 1 queued, 1 in flight"
    assert repr(rig.scheduler) == words
    rig.core.closed = True
    assert repr(rig.scheduler) == f"closed, {words}"


# --- who may wait ---------------------------------------------------------------------------------


def test_no_thread_waits_for_the_connection_that_it_has_borrowed(rig: SchedulerRig) -> None:
    """A finalizer may make another request while one is made."""
    host = rig.host()
    rig.idle(host)
    inner = rig.job(host, "/inner")
    rig.scheduler.check_may_wait_for(inner)
    assert rig.lending.borrow(rig.job(host, "/outer")) is not None
    with pytest.raises(StateError, match="wait for itself"):
        rig.scheduler.check_may_wait_for(inner)
    rig.scheduler.check_may_wait_for(rig.job(rig.host(name="another"), "/"))
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        executor.submit(rig.scheduler.check_may_wait_for, inner).result()
