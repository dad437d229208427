"""What is slow is sent once more: when, where, and what becomes of the two sendings.

The test plays the threads; see tests/pool/test_hedging.py for whole pools.
"""

from __future__ import annotations

import pytest

from dugong.errors import ConnectionClosed, Delivery
from dugong.pool.core.connection import PooledConnection
from dugong.pool.core.hedging import LOOK_TIME
from dugong.pool.core.host import FREE_HEDGES, HEDGE_SHARE
from dugong.pool.core.job import Job, Place
from dugong.pool.core.rescue import GRACE_TIME
from tests.support.parts import SchedulerRig, engine_of, hold, make_host

HEDGE = 0.5


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> SchedulerRig:
    """A rig with two connections to each host, whose requests may be hedged."""
    rig = SchedulerRig(monkeypatch, max_connections_per_host=2)
    rig.traffic.hedges = True
    return rig


def send(rig: SchedulerRig, count: int = 1) -> tuple[PooledConnection, list[Job]]:
    """Have a new connection send *count* requests that may be hedged."""
    host = rig.host()
    jobs = [rig.job(host, f"/{i}") for i in range(count)]
    for job in jobs:
        job.own_extras().hedge = HEDGE
    rig.enqueue(*jobs)
    connection = rig.connect(host)
    host.in_flight += 100  # so that this one takes all
    assert rig.look_for_work(connection) == jobs
    host.in_flight -= 100
    rig.park(host)
    return connection, jobs


def twin_of(job: Job) -> Job:
    assert job.twin is not None
    return job.twin


def test_what_is_slow_is_reserved_for_a_connection_that_is_opened_for_it(rig: SchedulerRig) -> None:
    slow, (job,) = send(rig)
    rig.forward(HEDGE - 0.1)
    assert job.twin is None
    rig.forward(0.1)
    other = rig.latest(slow.host)
    assert other is not slow
    twin = twin_of(job)
    assert (other.reserved, twin.place, twin.twin) == (twin, Place.RESERVED, job)
    assert twin.future is job.future
    assert rig.core.queued == 1
    rig.connect(slow.host)
    assert rig.look_for_work(other) == [twin]
    assert rig.core.queued == 0
    assert rig.traffic.counts(twin, 200)
    rig.respond(other, twin)
    assert job.future.done()
    assert job.current is twin
    assert job.place is Place.DONE


def test_a_response_that_has_arrived_may_be_received_a_little_later(rig: SchedulerRig) -> None:
    slow, (job,) = send(rig)
    engine_of(slow).arrivals = True
    rig.forward(HEDGE)
    rig.forward(GRACE_TIME - 0.1)
    assert job.twin is None
    rig.forward(0.1)
    assert job.twin is not None


def test_what_has_arrived_is_not_the_response_to_a_request_behind(rig: SchedulerRig) -> None:
    slow, (oldest, behind) = send(rig, 2)
    other = next(iter(slow.host.connections))
    assert rig.traffic.begin_sending(other)
    rig.traffic.connected(other)
    rig.park(slow.host)
    engine_of(slow).arrivals = True
    rig.forward(HEDGE)
    assert oldest.twin is None
    assert twin_of(behind).connection is other


def test_a_connection_that_ends_before_it_has_sent_the_twin_leaves_the_request_alone(
    rig: SchedulerRig,
) -> None:
    slow, (job,) = send(rig)
    rig.forward(HEDGE)
    other = rig.latest(slow.host)
    assert rig.traffic.begin_sending(other)
    rig.traffic.connect_failed(other, ConnectionClosed("refused"))
    assert (job.twin, job.place, job.attempts) == (None, Place.IN_FLIGHT, ())
    assert (rig.core.queued, slow.host.queued, slow.host.hedged) == (0, 0, 0)
    assert rig.traffic.counts(job, 200)
    rig.respond(slow, job)
    assert job.future.result().attempts == ()


def test_a_twin_that_was_not_sent_is_not_when_the_first_response_comes(rig: SchedulerRig) -> None:
    slow, (job,) = send(rig)
    rig.forward(HEDGE)
    other = rig.latest(slow.host)
    assert rig.traffic.counts(job, 200)
    rig.respond(slow, job)
    assert job.future.done()
    assert (other.reserved, rig.core.queued, slow.host.hedged) == (None, 0, 0)
    rig.connect(slow.host)
    assert rig.look_for_work(other) == []
    assert other in slow.host.idle


def test_a_twin_is_not_sent_if_the_gate_has_shut_meanwhile(rig: SchedulerRig) -> None:
    slow, (job,) = send(rig)
    rig.forward(HEDGE)
    other = rig.connect(slow.host)
    hold(slow.host)
    assert rig.look_for_work(other) == []
    assert (job.twin, job.place, other.reserved) == (None, Place.IN_FLIGHT, None)
    assert (rig.core.queued, slow.host.queued, slow.host.hedged) == (0, 0, 0)
    assert rig.traffic.counts(job, 200)
    rig.respond(slow, job)
    assert job.future.done()


def test_only_the_response_that_begins_first_counts(rig: SchedulerRig) -> None:
    slow, (job,) = send(rig)
    rig.forward(HEDGE)
    other = rig.connect(slow.host)
    (twin,) = rig.look_for_work(other)
    assert rig.traffic.counts(twin, 200)
    assert not rig.traffic.counts(job, 200)
    assert (job.twin, twin.twin) == (None, None)


def test_a_response_that_is_to_be_tried_again_does_not_count_while_the_other_may(
    rig: SchedulerRig,
) -> None:
    slow, (job,) = send(rig)
    rig.forward(HEDGE)
    other = rig.connect(slow.host)
    (twin,) = rig.look_for_work(other)
    assert not rig.traffic.counts(job, 503)
    rig.respond(slow, job, status=503)
    assert not job.future.done()
    (attempt,) = twin.attempts
    assert (attempt.status, attempt.connection, attempt.charged) == (503, slow.name, True)
    assert rig.traffic.counts(twin, 503)  # now it is the only one


def test_a_deadline_belongs_to_the_one_that_is_left(rig: SchedulerRig) -> None:
    host = rig.host()
    job = rig.job(host, deadline=5.0)
    job.own_extras().hedge = HEDGE
    rig.enqueue(job)
    slow = rig.connect(host)
    assert rig.look_for_work(slow) == [job]
    rig.park(host)
    rig.forward(HEDGE)
    other = rig.connect(host)
    (twin,) = rig.look_for_work(other)
    rig.park(host)
    timer = job.timer
    assert timer is not None
    rig.lose(slow, ConnectionClosed())
    assert (job.timer, twin.timer) == (None, timer)
    (attempt,) = twin.attempts
    assert attempt.delivery is Delivery.SENT
    rig.forward(5.0)
    assert job.future.exception() is not None


def test_nothing_is_looked_at_once_all_have_their_responses(rig: SchedulerRig) -> None:
    slow, jobs = send(rig, 3)
    rig.respond(slow, *jobs)
    rig.forward(HEDGE)
    hedging = rig.connections.hedging
    assert (hedging._watched, hedging._timer) == ({}, None)
    assert rig.latest(slow.host) is slow


def test_nothing_more_is_sent_behind_what_is_slow(rig: SchedulerRig) -> None:
    slow, (job,) = send(rig)
    slow.host.pipelining.window = 64
    rig.forward(HEDGE)
    other = rig.connect(slow.host)
    assert rig.look_for_work(other) == [twin_of(job)]
    rig.park(slow.host)
    (following,) = rig.submit(slow.host, "/following")
    assert rig.look_for_work(slow) == []
    assert rig.look_for_work(other) == [following]
    assert rig.traffic.counts(job, 200)
    rig.respond(slow, job)
    rig.park(slow.host)
    (next_one,) = rig.submit(slow.host, "/next")
    assert rig.look_for_work(slow) == [next_one]


def test_what_cannot_be_hedged_now_is_looked_at_again(rig: SchedulerRig) -> None:
    slow, (job,) = send(rig)
    slow.host.hedged = FREE_HEDGES  # the budget is used up
    rig.forward(HEDGE)
    assert job.twin is None
    slow.host.hedged = 0
    rig.forward(LOOK_TIME)
    assert job.twin is not None


def test_nothing_is_hedged_while_the_host_is_to_be_left_alone(rig: SchedulerRig) -> None:
    slow, (job,) = send(rig)
    hold(slow.host)
    rig.forward(HEDGE)
    assert job.twin is None


def test_a_budget_is_a_share_of_the_recent_requests() -> None:
    host = make_host()
    host.sent = 100
    assert host.may_hedge(0.0)
    host.hedged = FREE_HEDGES + int(100 * HEDGE_SHARE) - 1
    assert host.may_hedge(0.0)
    host.hedged += 1
    assert not host.may_hedge(0.0)


def test_a_request_is_hedged_once(rig: SchedulerRig) -> None:
    slow, (job,) = send(rig)
    rig.forward(HEDGE)
    other = rig.latest(slow.host)
    assert rig.traffic.begin_sending(other)
    rig.traffic.connect_failed(other, ConnectionClosed("refused"))
    assert job.twin is None
    rig.forward(10 * HEDGE)
    assert job.twin is None
