"""The scheduler: requests come, and are waited for."""

from __future__ import annotations

import concurrent.futures
import threading
from functools import partial
from types import SimpleNamespace

import pytest

from dugong.errors import (
    ConnectionTimedOut,
    Delivery,
    PoolClosed,
    PoolFull,
    StateError,
)
from dugong.pool.core.host import Host
from dugong.pool.core.job import Place
from dugong.pool.core.waiting import NoConnectionFree, Patience
from dugong.pool.host_policy import HostPolicy
from tests.support.clock import throw
from tests.support.parts import (
    InterruptedQueue,
    SchedulerRig,
    WouldWait,
    queue_one,
)
from tests.support.placed import PLACES, Placed


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
    rig.scheduler.shutdown.close()
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
    rig.scheduler.shutdown.close()
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
    rig.scheduler.shutdown.close()
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
    rig.scheduler.shutdown.close()
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


# --- a caller waits between two requests ----------------------------------------------------------


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
