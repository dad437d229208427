"""Recovery: a pool after an interrupt in the middle of a change, and in a forked child."""

from __future__ import annotations

import concurrent.futures
import threading

import pytest

from dugong.errors import ConnectionTimedOut, PoolClosed
from dugong.pool.core.connection import Phase
from dugong.pool.core.job import Place
from tests.support.clock import throw
from tests.support.parts import (
    InterruptedQueue,
    SchedulerRig,
    StartedThreads,
    engine_of,
    make_response,
    queue_one,
)
from tests.support.placed import PLACES, POLICY, Placed
from tests.support.points import Interrupt


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> SchedulerRig:
    """A rig with one connection to each host, and room for three queued requests."""
    throw(monkeypatch, 1.0)
    return SchedulerRig(monkeypatch, max_connections_per_host=1, max_queued=3)


# --- after an interrupt ---------------------------------------------------------------------------


def test_all_that_can_be_derived_is_derived_anew_after_an_interrupt(rig: SchedulerRig) -> None:
    first, second = rig.host(name="first"), rig.host(name="second")
    idle = rig.idle(first)
    connection, jobs = rig.send(second, "/a", "/b")
    for host in (first, second):
        host.idle.clear()
        host.queued = host.in_flight = host.waiting = 77
    rig.core.idle.clear()
    rig.core.queued = rig.core.connections = 77
    rig.scheduler.recover(Interrupt())
    assert list(rig.core.idle) == list(first.idle) == [idle]
    assert list(second.with_capacity) == [connection]
    assert (rig.core.queued, rig.core.connections) == (0, 2)
    assert [first.in_flight, second.in_flight] == [0, 2]
    assert [first.waiting, second.waiting] == [0, 0]
    rig.respond(connection, *jobs)
    assert all(job.future.done() for job in jobs)


def test_a_queued_request_is_served_after_an_interrupt(rig: SchedulerRig) -> None:
    host = rig.host()
    job = rig.job(host, "/a")
    host.queue.append(job)
    job.enter_queue()  # and no connection is on its way
    rig.scheduler.recover(Interrupt())
    assert (host.queued, rig.core.queued) == (1, 1)
    assert rig.look_for_work(rig.connect(host)) == [job]


def test_a_request_that_is_in_no_queue_and_does_not_know_it_is_not_counted(
    rig: SchedulerRig,
) -> None:
    host = rig.host()
    host.queue.append(rig.job(host, "/a"))  # `append` was interrupted: the caller was not told
    rig.scheduler.recover(Interrupt())
    assert (host.queued, rig.core.queued) == (0, 0)


def test_a_sender_whose_start_was_lost_is_started_after_an_interrupt(rig: SchedulerRig) -> None:
    host = rig.host()
    rig.submit(host, "/a")
    rig.started.clear()
    rig.scheduler.recover(Interrupt())
    assert rig.started.names == ["dugong-host:80-1-send"]


def test_a_closing_connection_is_closed_after_an_interrupt(rig: SchedulerRig) -> None:
    connection, (job,) = rig.send(rig.host(), "/a", retry=POLICY)
    connection.begin_closing("why", ConnectionTimedOut("slow"))  # and nothing more
    rig.scheduler.recover(Interrupt())
    assert connection.phase is Phase.CLOSED
    assert engine_of(connection).is_aborted
    assert job.place is Place.WAITING


def test_a_wait_that_was_ended_halfway_is_not_counted(rig: SchedulerRig) -> None:
    placed = Placed(rig, "waiting")
    placed.job.enter_queue()
    placed.host.queue.append(placed.job)
    rig.scheduler.recover(Interrupt())
    assert (placed.host.waiting, placed.host.queued) == (0, 1)
    assert rig.scheduler.statistics().waiting == 0


# --- a fork ---------------------------------------------------------------------------------------


def test_a_fork_finds_no_change_half_made(rig: SchedulerRig) -> None:
    taken: list[bool] = []
    rig.scheduler.recovery.before_fork()
    thread = threading.Thread(target=lambda: taken.append(rig.core.lock.acquire(False)))
    thread.start()
    thread.join()
    rig.scheduler.recovery.after_fork_in_parent()
    assert taken == [False]
    assert rig.scheduler.statistics().connections == 0


@pytest.mark.parametrize("place", PLACES)
def test_in_a_child_every_request_has_failed_and_no_connection_is_used(
    rig: SchedulerRig, place: str
) -> None:
    placed = Placed(rig, place)
    was_done = placed.job.future.done()
    rig.scheduler.recovery.before_fork()
    rig.scheduler.recovery.begin_as_child()
    for job in [placed.job] * (not was_done) + placed.others:
        error = job.future.exception()
        assert isinstance(error, PoolClosed)
        assert "parent" in str(error)
    calls = engine_of(placed.connection).calls
    assert calls[-1:] == ["drop"] or placed.connection.phase is Phase.CLOSED
    if place != "waiting":  # its connection had ended before
        assert "abort" not in calls
    assert rig.scheduler.statistics().connections == 0


def test_a_fork_does_not_wait_for_ever_for_a_lock_that_waits_for_it(rig: SchedulerRig) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as executor, rig.core.transaction():
        assert not executor.submit(rig.scheduler.recovery.before_fork, 0.01).result(5)
    assert rig.scheduler.recovery.before_fork(0.01)
    rig.scheduler.recovery.after_fork_in_parent()


def test_a_child_begins_afresh(rig: SchedulerRig, monkeypatch: pytest.MonkeyPatch) -> None:
    Placed(rig, "oldest")
    rig.scheduler.recovery.before_fork()
    rig.scheduler.recovery.begin_as_child()
    statistics = rig.scheduler.statistics()
    assert (statistics.queued, statistics.in_flight, statistics.hosts) == (0, 0, {})
    assert not rig.core.closed


def test_a_pool_that_was_closed_is_closed_in_a_child(rig: SchedulerRig) -> None:
    rig.scheduler.shutdown.close()
    rig.scheduler.recovery.before_fork()
    rig.scheduler.recovery.begin_as_child()
    assert rig.core.closed


def test_a_future_that_was_about_to_end_has_failed_in_a_child(rig: SchedulerRig) -> None:
    placed = Placed(rig, "oldest")
    placed.job.future.add_done_callback(lambda future: None)
    rig.scheduler.recovery.before_fork()
    rig.core.settle_locked(placed.job.future, make_response(placed.job))
    placed.job.finish()
    rig.scheduler.recovery.begin_as_child()
    assert isinstance(placed.job.future.exception(), PoolClosed)


def test_a_child_may_be_forked_in_the_middle_of_a_change(rig: SchedulerRig) -> None:
    """By a signal handler, which uses the pool, and returns to the change in the child."""
    host = rig.host()
    lost = rig.job(host, "/lost")
    with rig.core.transaction():
        rig.scheduler.recovery.before_fork()
        rig.scheduler.recovery.begin_as_child()
        StartedThreads(rig.core)
        (used,) = rig.submit(rig.host(), "/used")
        host.append(lost)  # as the change does that was interrupted
        rig.core.queued += 1
    assert isinstance(lost.future.exception(), PoolClosed)
    assert rig.scheduler.statistics().queued == 1
    connection = rig.connect(used.host)
    assert rig.look_for_work(connection) == [used]


def test_a_child_may_be_forked_while_a_request_is_queued_behind_others(rig: SchedulerRig) -> None:
    """By a signal handler, which returns to the call that queues it in the child."""
    host = queue_one(rig)

    def fork() -> None:
        rig.scheduler.recovery.before_fork()
        rig.scheduler.recovery.begin_as_child()
        StartedThreads(rig.core)

    host.queue = InterruptedQueue(host.queue, fork)
    lost = rig.job(host, "/lost")
    rig.scheduler.submit(lost)
    assert isinstance(lost.future.exception(), PoolClosed)
    assert rig.scheduler.statistics().queued == 0
    (used,) = rig.submit(rig.host(), "/used")
    assert rig.look_for_work(rig.connect(used.host)) == [used]


def test_a_child_that_was_forked_in_a_wait_does_not_go_on_with_it(
    rig: SchedulerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fork(timeout: float | None = None) -> None:
        rig.core.owner = 0  # as while it waits
        rig.scheduler.recovery.before_fork()
        rig.scheduler.recovery.begin_as_child()

    monkeypatch.setattr(rig.core.room, "wait", fork)
    with pytest.raises(PoolClosed, match="parent"), rig.core.transaction():
        type(rig.core).wait(rig.core, rig.core.room)
    StartedThreads(rig.core)
    assert rig.submit(rig.host(), "/a")
