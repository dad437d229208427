"""What waits behind a slow request: when it is taken back, and what becomes of it.

The test plays the threads; see tests/pool/test_rescue.py for whole pools.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import cast

import pytest

from dugong import RetryPolicy
from dugong.errors import ConnectionClosed, ConnectionTimedOut, Delivery
from dugong.pool.core.connection import Phase, PooledConnection
from dugong.pool.core.job import Job, Place
from dugong.pool.core.pipelining import MIN_SLOW
from dugong.pool.core.rescue import GRACE_TIME, LOOK_TIME
from dugong.pool.failure import Abandoned
from tests.support.clock import throw
from tests.support.parts import (
    NO_RETRY,
    FakeEngine,
    SchedulerRig,
    StartedThreads,
    engine_of,
    hold,
)

SLOW = MIN_SLOW + LOOK_TIME


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> SchedulerRig:
    """A rig with two connections to each host."""
    throw(monkeypatch, 1.0)
    return SchedulerRig(monkeypatch, max_connections_per_host=2)


class Line:
    """A connection with requests in flight, of which the others wait behind `oldest`.

    There is a second connection to the host, `free`, which is idle unless `is_free` is False.
    """

    def __init__(
        self,
        rig: SchedulerRig,
        *,
        name: str = "host",
        is_free: bool = True,
        behind: int = 3,
        retry: RetryPolicy | None = None,
        deadline: float | None = None,
    ) -> None:
        self.rig = rig
        self.host = rig.host(name=name)
        self.free = rig.idle(self.host)
        (held,) = rig.submit(self.host, "/held")
        assert rig.look_for_work(self.free) == [held]
        self.slow = self._fill(behind, retry, deadline)
        if is_free:
            rig.park(self.host)
            rig.respond(self.free, held)
            assert self.free in self.host.idle

    def _fill(
        self, behind: int, retry: RetryPolicy | None, deadline: float | None
    ) -> PooledConnection:
        targets = [f"/{i}" for i in range(1 + behind)]
        jobs = self.rig.submit(self.host, *targets, retry=retry, deadline=deadline)
        self.oldest, *self.behind = jobs
        connection = self.rig.connect(self.host)
        share, self.host.in_flight = self.host.in_flight, 100  # so that this one takes all
        assert self.rig.look_for_work(connection) == jobs
        self.host.in_flight = share + len(jobs)
        return connection

    def be_slow(self) -> None:
        """Let so much time pass that the oldest request is slow."""
        self.rig.forward(SLOW)

    def taken(self) -> list[Job]:
        """Have the free connection send what it can; return that."""
        return self.rig.look_for_work(self.free)

    def targets_taken(self) -> list[str]:
        return [job.request.target for job in self.taken()]


def targets(jobs: list[Job]) -> list[str]:
    return [job.request.target for job in jobs]


# --- what is taken back ---------------------------------------------------------------------------


def test_requests_behind_a_slow_one_go_to_a_free_connection_in_their_order(
    rig: SchedulerRig,
) -> None:
    line = Line(rig)
    line.be_slow()
    assert line.targets_taken() == targets(line.behind)
    assert line.slow.phase is Phase.DRAINING
    assert line.oldest.place is Place.IN_FLIGHT
    assert (line.host.rescued, line.host.resent) == (3, 3)


def test_a_request_is_slow_from_the_response_before_it_on(rig: SchedulerRig) -> None:
    line = Line(rig)
    rig.forward(0.09)
    rig.respond(line.slow, line.oldest)
    rig.forward(0.09)
    assert line.taken() == []
    rig.forward(SLOW)
    assert line.targets_taken() == targets(line.behind[1:])


def test_the_limit_is_four_times_what_the_host_took(rig: SchedulerRig) -> None:
    line = Line(rig)
    line.host.pipelining.slow_after = 4.0
    rig.forward(3.9)
    assert line.taken() == []
    rig.forward(0.2)
    assert line.targets_taken() == targets(line.behind)


def test_they_wait_while_what_has_arrived_is_still_to_be_received(rig: SchedulerRig) -> None:
    line = Line(rig)
    engine_of(line.slow).arrivals = True
    line.be_slow()
    rig.forward(GRACE_TIME / 2)
    assert line.taken() == []
    engine_of(line.slow).arrivals = False
    rig.forward(LOOK_TIME)
    assert line.targets_taken() == targets(line.behind)


def test_they_wait_for_what_has_arrived_no_longer_than_that(rig: SchedulerRig) -> None:
    line = Line(rig)
    engine_of(line.slow).arrivals = True
    line.be_slow()
    rig.forward(GRACE_TIME - LOOK_TIME - 0.01)
    assert line.taken() == []
    rig.forward(LOOK_TIME + 0.01)
    assert line.targets_taken() == targets(line.behind)


def test_they_wait_until_a_connection_is_free(rig: SchedulerRig) -> None:
    line = Line(rig, is_free=False)
    line.be_slow()
    rig.forward(1.0)
    assert line.host.rescued == 0
    (held,) = line.free.in_flight
    rig.park(line.host)
    rig.respond(line.free, held)
    rig.forward(LOOK_TIME)
    assert line.targets_taken() == targets(line.behind)


def test_an_idle_connection_that_the_server_may_have_closed_is_not_free(rig: SchedulerRig) -> None:
    line = Line(rig)
    cast(FakeEngine, line.free.engine).keep_alive_timeout = 1.0
    line.be_slow()
    assert line.host.rescued == 0


def test_a_host_that_is_to_be_left_alone_is_sent_nothing_again(rig: SchedulerRig) -> None:
    line = Line(rig)
    hold(line.host)
    line.be_slow()
    assert line.host.rescued == 0


@pytest.mark.parametrize(
    "retry",
    [NO_RETRY, RetryPolicy(methods=["PUT"])],
    ids=["one attempt", "not this method"],
)
def test_what_may_not_be_sent_twice_stays(rig: SchedulerRig, retry: RetryPolicy) -> None:
    line = Line(rig, retry=retry)
    line.be_slow()
    rig.forward(10 * SLOW)
    assert line.host.rescued == 0
    assert line.slow.phase is Phase.OPEN
    rig.respond(line.slow, line.oldest, *line.behind)
    assert all(job.future.result().status == 200 for job in line.behind)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda job: setattr(job, "exclusive", True),
        lambda job: setattr(job, "fatal_error", ValueError()),
        lambda job: setattr(job, "cancelled", True),
        lambda job: setattr(job, "was_taken_back", True),
        lambda job: job.future.cancel(),
    ],
    ids=["exclusive", "failed for good", "to be cancelled", "taken back before", "cancelled"],
)
def test_one_that_has_to_stay_does_not_keep_the_others(
    rig: SchedulerRig, spoil: Callable[[Job], object]
) -> None:
    line = Line(rig)
    spoil(line.behind[1])
    line.be_slow()
    assert line.targets_taken() == ["/1", "/3"]


def test_what_is_reserved_goes_to_a_free_connection_too(rig: SchedulerRig) -> None:
    line = Line(rig, is_free=False, behind=0)
    (post,) = rig.submit(line.host, "/post", exclusive=True)
    assert rig.look_for_work(line.slow) == []
    assert line.slow.reserved is post
    (held,) = line.free.in_flight
    rig.park(line.host)
    rig.respond(line.free, held)
    line.be_slow()
    assert line.taken() == [post]
    assert line.slow.reserved is None
    assert (line.slow.phase, line.host.rescued) == (Phase.OPEN, 0)
    assert line.slow in line.host.with_capacity
    assert (rig.core.queued, line.host.queued) == (0, 0)


def count_looks(rig: SchedulerRig) -> int:
    """Return how many timers there are that look for slow requests, and forget those."""
    count = 0
    while rig.maintenance.timers.pop_due(rig.clock.now + LOOK_TIME):
        count += 1
    return count


def test_there_is_one_timer_for_all_connections(rig: SchedulerRig) -> None:
    Line(rig, name="a")
    Line(rig, name="b")
    assert count_looks(rig) == 1


def test_there_is_no_timer_once_nothing_waits(rig: SchedulerRig) -> None:
    line = Line(rig)
    rig.respond(line.slow, line.oldest, *line.behind)
    rig.forward(LOOK_TIME)
    assert count_looks(rig) == 0


def test_there_is_no_timer_as_long_as_no_request_is_behind_another(rig: SchedulerRig) -> None:
    Line(rig, behind=0)
    assert count_looks(rig) == 0


# --- their outcome --------------------------------------------------------------------------------


def test_a_late_response_is_dropped_and_the_connection_closed(rig: SchedulerRig) -> None:
    line = Line(rig)
    line.be_slow()
    again = line.taken()
    rig.respond(line.slow, line.oldest, line.behind[0])
    assert line.oldest.future.result().status == 200
    assert not line.behind[0].future.done()
    assert line.slow.phase is Phase.CLOSED
    rig.respond(line.free, *again, status=201)
    assert [job.future.result().status for job in line.behind] == [201] * 3
    assert (line.host.sent, line.host.resent, line.host.answered) == (9, 3, 6)
    assert (line.host.in_flight, line.host.queued, rig.core.queued) == (0, 0, 0)
    assert line.host.pipelining.lesson is None


def test_the_end_of_the_connection_concerns_the_oldest_request_alone(rig: SchedulerRig) -> None:
    line = Line(rig, retry=RetryPolicy(backoff=0))
    line.be_slow()
    again = line.taken()
    rig.lose(line.slow, ConnectionClosed())
    assert [attempt.charged for attempt in line.oldest.attempts] == [True]
    assert [[attempt.charged for attempt in job.attempts] for job in again] == [[False]] * 3
    assert {job.place for job in again} == {Place.IN_FLIGHT}


def test_the_connection_stays_for_another_response_that_is_wanted(rig: SchedulerRig) -> None:
    line = Line(rig)
    stays = line.behind[1]
    stays.fatal_error = ValueError()  # as good as any reason for it not to be taken back
    line.be_slow()
    rig.respond(line.slow, line.oldest)
    assert line.slow.phase is Phase.DRAINING
    stays.fatal_error = None
    rig.respond(line.slow, line.behind[0], stays)
    assert stays.future.result().status == 200
    assert line.slow.phase is Phase.CLOSED


def test_a_connection_that_nothing_is_wanted_of_is_closed_at_once(rig: SchedulerRig) -> None:
    line = Line(rig)
    line.oldest.future.cancel()
    line.be_slow()
    assert line.slow.phase is Phase.CLOSED
    assert line.targets_taken() == ["/1", "/2"]
    assert rig.look_for_work(rig.connect(line.host)) == [line.behind[2].current]


def test_a_request_that_was_taken_back_can_be_cancelled(rig: SchedulerRig) -> None:
    line = Line(rig)
    line.be_slow()
    queued, running = line.behind[2].future, line.behind[0].future
    assert not running.running()
    assert queued.cancel()
    assert line.targets_taken() == ["/1", "/2"]
    assert running.running()
    assert running.cancel()
    for future in (queued, running):
        with pytest.raises(CancelledError):
            future.result()
    assert (line.host.queued, rig.core.queued) == (0, 0)


def test_its_deadline_goes_on_and_it_counts_as_sent(rig: SchedulerRig) -> None:
    line = Line(rig, deadline=5.0)
    line.be_slow()
    job = line.behind[0].current
    assert job.place is Place.QUEUED
    rig.forward(5.0)
    error = job.future.exception()
    assert isinstance(error, ConnectionTimedOut)
    assert "in the queue" in error.msg
    assert error.delivery is Delivery.SENT


def test_a_response_ends_the_timer_of_its_deadline(rig: SchedulerRig) -> None:
    line = Line(rig, deadline=5.0, behind=1)
    timer = line.behind[0].timer
    assert timer is not None
    line.be_slow()
    rig.respond(line.free, *line.taken())
    assert timer.action is None


def test_a_failure_on_the_other_connection_is_handled_as_any(rig: SchedulerRig) -> None:
    line = Line(rig, retry=RetryPolicy(attempts=2, backoff=0))
    line.be_slow()
    again = line.taken()
    rig.park(line.host)
    rig.lose(line.free, ConnectionClosed())
    assert [[attempt.charged for attempt in job.attempts] for job in again] == [
        [False, True],
        [False, False],
        [False, False],
    ]


def test_a_pool_that_is_closed_fails_all_of_them_once(rig: SchedulerRig) -> None:
    line = Line(rig)
    line.be_slow()
    line.taken()
    rig.lose(line.slow, Abandoned())
    rig.scheduler.shutdown.close()
    for job in (line.oldest, *line.behind):
        assert type(job.future.exception()).__name__ == "PoolClosed"


def test_a_child_process_fails_all_of_them_and_looks_anew(rig: SchedulerRig) -> None:
    line = Line(rig)
    line.be_slow()
    rig.scheduler.recovery.before_fork()
    rig.scheduler.recovery.begin_as_child()
    for job in (line.oldest, *line.behind):
        assert type(job.future.exception()).__name__ == "PoolClosed"
    rig.started = StartedThreads(rig.core)
    rig.core.callbacks.run = rig._run_callbacks  # type: ignore[method-assign]  # as at first
    in_child = Line(rig)
    in_child.be_slow()
    assert in_child.targets_taken() == targets(in_child.behind)


def test_each_of_them_is_an_event(rig: SchedulerRig) -> None:
    line = Line(rig)
    line.be_slow()
    assert rig.heard("resent") == ["it has waited behind a slow response"] * 3


def test_they_are_counted(rig: SchedulerRig) -> None:
    line = Line(rig)
    line.be_slow()
    statistics = rig.scheduler.statistics()
    assert statistics.rescued == statistics.hosts["http://host"].rescued == 3
    assert "3 resent (3 rescued)" in str(statistics)
    holding = next(
        connection.holding
        for connection in statistics.hosts["http://host"].connections
        if connection.name == line.slow.name
    )
    assert [held.abandoned for held in holding] == [False, True, True, True]
