"""How long a request may wait for a connection, if it has limits of its own for that."""

from __future__ import annotations

import pytest

from dugong.errors import ConnectionTimedOut, Delivery
from dugong.pool.core.job import Job, Place
from dugong.pool.core.waiting import LOOK_TIME, NoConnectionFree, Patience
from tests.support.clock import throw
from tests.support.parts import SchedulerRig
from tests.support.placed import PLACES, Placed


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> SchedulerRig:
    """A rig with one connection to each host."""
    throw(monkeypatch, 1.0)
    return SchedulerRig(monkeypatch, max_connections_per_host=1)


def submit(rig: SchedulerRig, patience: Patience, target: str = "/") -> Job:
    """Submit a request with *patience*, to the same host each time."""
    job = rig.job(rig.host(), target)
    job.own_extras().patience = patience
    rig.enqueue(job)
    return job


def error_of(job: Job) -> ConnectionTimedOut:
    """Return what *job* has failed with, which has not been sent."""
    error = job.future.exception(0)
    assert isinstance(error, ConnectionTimedOut)
    assert (error.delivery, error.request) == (Delivery.UNSENT, job.request)
    return error


@pytest.mark.parametrize("place", PLACES)
def test_a_request_ends_unless_it_is_or_was_on_a_connection(rig: SchedulerRig, place: str) -> None:
    job = Placed(rig, place).job
    before, was_done = job.place, job.future.done()
    job.own_extras().patience = Patience(5, 5)
    with rig.core.transaction():
        rig.scheduler._waiting.begin_locked(job, job.extras.patience)
    rig.forward(5)
    if before not in (Place.QUEUED, Place.RESERVED):
        assert job.future.done() is was_done
        return
    assert type(error_of(job)) is NoConnectionFree
    assert not job.host.queued
    assert rig.core.queued == 0
    assert rig.heard("gave up") == [error_of(job).msg]


def test_a_request_waits_for_a_connection_to_be_opened(rig: SchedulerRig) -> None:
    job = submit(rig, Patience(connect=3, free=1))
    rig.forward(2.9)
    assert not job.future.done()
    rig.forward(0.1)
    error = error_of(job)
    assert type(error) is ConnectionTimedOut
    assert error.msg.startswith("no connection to host:80 within 3 s; held by host:80-1 (conn")


def test_a_request_waits_for_a_connection_to_be_free(rig: SchedulerRig) -> None:
    rig.send(rig.host(), "/other", exclusive=True)
    job = submit(rig, Patience(connect=1, free=3))
    rig.forward(2.9)
    assert not job.future.done()
    rig.forward(0.1)
    error = error_of(job)
    assert type(error) is NoConnectionFree
    assert "no connection was free to host:80 within 3 s" in error.msg
    assert "GET http://host/other" in error.msg


@pytest.mark.parametrize("patience", [Patience(None, None), Patience(None, 1)])
def test_what_has_no_limit_waits_as_long_as_a_connection_is_opened(
    rig: SchedulerRig, patience: Patience
) -> None:
    job = submit(rig, patience)
    rig.forward(1000)
    assert not job.future.done()
    rig.connect(job.host)
    rig.forward(0.9)  # as if the sender, which is to take it now, had to wait for the processor
    assert not job.future.done()


def test_the_time_to_connect_begins_when_a_connection_is_opened(rig: SchedulerRig) -> None:
    """It is measured though it had passed before, while the request waited for another one."""
    connection, (other,) = rig.send(rig.host(), "/other", exclusive=True)
    job = submit(rig, Patience(connect=3, free=None))
    rig.forward(10)
    rig.lose(connection, ConnectionTimedOut("slow"))  # so that another connection is opened
    assert rig.latest(job.host) is not connection
    rig.forward(2.9)
    assert not job.future.done()
    rig.forward(3)
    assert type(error_of(job)) is ConnectionTimedOut
    assert not other.future.done()


def test_a_limit_that_is_next_to_nothing_does_not_keep_the_thread_busy(rig: SchedulerRig) -> None:
    job = submit(rig, Patience(connect=None, free=1e-6))
    rig.forward(1)
    assert not job.future.done()
    assert job.extras.patience is not None
    assert job.extras.patience.timer is not None
    assert job.extras.patience.timer.when == rig.clock.now + LOOK_TIME


@pytest.mark.parametrize("streamed", [False, True])
def test_a_request_that_is_done_leaves_no_timer(rig: SchedulerRig, streamed: bool) -> None:
    job = submit(rig, Patience(5, 5))
    assert len(rig.maintenance.timers) == 1
    if streamed:
        job.future.cancel()
    else:
        rig.look_for_work(connection := rig.connect(job.host))
        rig.respond(connection, job)
    assert job.future.done()
    assert job.extras.patience is not None
    assert job.extras.patience.timer is not None
    assert job.extras.patience.timer.action is None


def test_a_request_that_is_tried_again_has_no_limit_any_more(rig: SchedulerRig) -> None:
    job = submit(rig, Patience(5, 5))
    rig.look_for_work(connection := rig.connect(job.host))
    rig.park(job.host)
    rig.lose(connection, ConnectionTimedOut("slow"))
    rig.forward(1000)
    assert job.attempts
    assert not job.future.done()


def test_sending_has_the_limit_of_receiving_unless_it_has_its_own(rig: SchedulerRig) -> None:
    job = rig.job(rig.host())
    assert job.write_timeout == job.timeout == 30
    job.own_extras().patience = Patience(1, 1)
    assert job.write_timeout == 30
    for seconds in (2, None):
        job.own_extras().patience = Patience(1, 1, write=seconds)
        assert job.write_timeout == seconds
