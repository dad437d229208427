"""The end of a pool: every request ends, whatever interrupts, and no thread is left."""

from __future__ import annotations

import sys

import pytest

from dugong.errors import (
    PoolClosed,
)
from dugong.pool.core.connection import Phase
from tests.support.clock import throw
from tests.support.parts import (
    SchedulerRig,
)
from tests.support.placed import PLACES, Placed
from tests.support.points import Interrupt


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> SchedulerRig:
    """A rig with one connection to each host, and room for three queued requests."""
    throw(monkeypatch, 1.0)
    return SchedulerRig(monkeypatch, max_connections_per_host=1, max_queued=3)


@pytest.mark.parametrize("place", PLACES)
def test_every_request_ends_when_the_pool_is_closed(rig: SchedulerRig, place: str) -> None:
    placed = Placed(rig, place)
    was_done = placed.job.future.done()
    rig.scheduler.shutdown.close()
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
    rig.scheduler.shutdown.close()
    assert connection.phase is Phase.CLOSED
    assert rig.core.connections == 0


def test_a_pool_may_be_closed_twice(rig: SchedulerRig) -> None:
    Placed(rig, "oldest")
    rig.scheduler.shutdown.close()
    rig.scheduler.shutdown.close()


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
        rig.scheduler.shutdown.close()
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
            rig.scheduler.shutdown.close()
    closers = list(rig.started)
    assert [closer.name for closer in closers] == ["dugong-close", "dugong-close"]
    monkeypatch.setattr(rig.core.threads, "join", wait)
    closers.pop(0).run()
    assert len(waits) == 1


def test_no_thread_starts_once_the_pool_is_closed(rig: SchedulerRig) -> None:
    rig.scheduler.shutdown.close()
    with pytest.raises(RuntimeError, match="closed"):
        type(rig.core.threads).start_here(rig.core.threads, lambda: None, "dugong-test")


def test_those_who_wait_for_room_are_woken_when_the_pool_is_closed(
    rig: SchedulerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[str] = []
    monkeypatch.setattr(rig.core.room, "notify_all", lambda: woken.append("all"))
    rig.scheduler.shutdown.close()
    assert woken == ["all"]


def test_a_pool_is_closed_later_in_the_middle_of_a_change(rig: SchedulerRig) -> None:
    placed = Placed(rig, "oldest")
    with rig.core.transaction():
        rig.scheduler.shutdown.close()
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
        rig.scheduler.shutdown.close()
    assert rig.core.closed
