"""How fast bodies come: what is measured, and the end of connections whose bodies are too slow."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dugong.errors import ConnectionTimedOut
from dugong.pool.core import rate as module
from dugong.pool.core.connection import Phase, PooledConnection
from dugong.pool.core.job import Job
from dugong.pool.core.maintenance import RATE_INTERVAL
from dugong.pool.core.rate import BodyRate, measured
from tests.support.parts import NO_RETRY, Rig


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A rig whose bodies have to come with 10 bytes a second."""
    return make_rig(monkeypatch, 10.0)


def make_rig(monkeypatch: pytest.MonkeyPatch, min_rate: float | None) -> Rig:
    rig = Rig(monkeypatch, min_rate=min_rate)
    monkeypatch.setattr(module, "monotonic", lambda: rig.clock.now)
    return rig


def begin(rig: Rig) -> tuple[PooledConnection, Job, BodyRate]:
    """Have the body of a response come in."""
    connection, (job,) = rig.send(rig.host(), "/a", retry=NO_RETRY)
    rig.forward(2 * RATE_INTERVAL)  # so that the connection is no new one
    rate = rig.traffic.begin_body(connection, is_long=False)
    assert rate is not None
    return connection, job, rate


def receive(rate: BodyRate, count: int, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Wait for *count* bytes, which come when *meanwhile* has returned."""

    def wait(what: None, timeout: float | None) -> int:
        meanwhile()
        return count

    assert measured(rate, wait, None, None) == count


def test_only_the_time_of_waiting_counts(rig: Rig) -> None:
    _, _, rate = begin(rig)
    receive(rate, 5, lambda: rig.forward(2))
    rig.forward(100)
    assert rate.measure() == (5, 2.0)

    def look() -> None:
        rig.forward(1)
        assert rate.measure() == (5, 3.0)

    receive(rate, 0, look)


def test_the_time_of_a_wait_that_fails_counts(rig: Rig) -> None:
    _, _, rate = begin(rig)

    def fail(what: None, timeout: float | None) -> int:
        rig.forward(2)
        raise ConnectionTimedOut

    with pytest.raises(ConnectionTimedOut):
        measured(rate, fail, None, None)
    rig.forward(100)
    assert rate.measure() == (0, 2.0)


def test_a_body_that_comes_too_slowly_ends_its_connection(rig: Rig) -> None:
    connection, job, rate = begin(rig)
    receive(rate, 299)

    def wait() -> None:
        rig.forward(RATE_INTERVAL - 0.1)
        assert connection.phase is Phase.OPEN
        rig.forward(0.1)
        assert connection.phase is Phase.CLOSED

    receive(rate, 0, wait)
    error = job.future.exception()
    assert isinstance(error, ConnectionTimedOut)
    assert "min_rate (10 bytes a second)" in str(error)
    assert len(rig.maintenance.timers) == 0


def test_the_time_in_which_a_limit_of_ours_holds_it_up_does_not_count(rig: Rig) -> None:
    connection, _, rate = begin(rig)
    receive(rate, 50)
    receive(rate, 0, lambda: rig.forward(RATE_INTERVAL))
    assert connection.phase is Phase.CLOSED
    connection, _, rate = begin(rig)
    receive(rate, 50)

    def wait() -> None:
        rig.forward(RATE_INTERVAL)
        assert connection.phase is Phase.OPEN
        rig.forward(RATE_INTERVAL)
        assert connection.phase is Phase.CLOSED

    connection.engine.paused = RATE_INTERVAL - 5  # type: ignore[misc]  # the test sets it
    receive(rate, 0, wait)


def test_a_body_that_is_fast_enough_goes_on(rig: Rig) -> None:
    connection, job, rate = begin(rig)
    for _ in range(5):
        receive(rate, 300)
        receive(rate, 0, lambda: rig.forward(RATE_INTERVAL))
    assert connection.phase is Phase.OPEN
    rig.respond(connection, job)
    assert connection.rate is None
    rig.forward(1.0)
    assert connection.phase is Phase.OPEN


def test_a_body_that_slows_down_ends_its_connection(rig: Rig) -> None:
    """What came long ago does not count."""
    connection, _, rate = begin(rig)
    receive(rate, 1_000_000)

    def wait() -> None:
        rig.forward(RATE_INTERVAL)
        assert connection.phase is Phase.OPEN
        rig.forward(RATE_INTERVAL)
        assert connection.phase is Phase.CLOSED

    receive(rate, 0, wait)


def test_a_reader_that_takes_its_time_is_waited_for(rig: Rig) -> None:
    connection, _, rate = begin(rig)
    receive(rate, 0)
    rig.forward(RATE_INTERVAL)
    rig.forward(RATE_INTERVAL)

    def wait() -> None:
        rig.forward(RATE_INTERVAL - 1)
        assert connection.phase is Phase.OPEN
        rig.forward(RATE_INTERVAL)
        assert connection.phase is Phase.CLOSED

    receive(rate, 0, wait)


def test_a_server_that_is_still_sent_something_has_no_rate(rig: Rig) -> None:
    connection, job, rate = begin(rig)

    def wait() -> None:
        connection.uploading = job
        rig.forward(RATE_INTERVAL)
        rig.forward(RATE_INTERVAL - 1)
        connection.uploading = None
        connection.body_released_at = rig.clock.now
        rig.forward(1)
        assert connection.phase is Phase.OPEN
        rig.forward(RATE_INTERVAL)
        assert connection.phase is Phase.CLOSED

    receive(rate, 0, wait)


@pytest.mark.parametrize(
    "end",
    [
        lambda rig, connection, job: rig.respond(connection, job),
        lambda rig, connection, job: rig.lose(connection, ConnectionTimedOut()),
    ],
    ids=["response", "loss"],
)
def test_a_body_that_is_over_is_not_watched_any_more(
    rig: Rig, end: Callable[[Rig, PooledConnection, Job], None]
) -> None:
    connection, job, rate = begin(rig)
    receive(rate, 1, lambda: end(rig, connection, job))
    rig.forward(1000)
    assert len(rig.maintenance.timers) == 0


def test_many_bodies_one_after_the_other_have_one_timer(rig: Rig) -> None:
    """And the time of each counts from its own beginning."""
    connection, job, _ = begin(rig)
    timer = connection.rate_timer
    rig.forward(RATE_INTERVAL - 1)
    rig.respond(connection, job)
    (job,) = rig.submit(connection.host, "/b", retry=NO_RETRY)
    assert rig.look_for_work(connection) == [job]
    rate = rig.traffic.begin_body(connection, is_long=False)
    assert rate is not None
    assert connection.rate_timer is timer
    rig.park(connection.host)

    def wait() -> None:
        rig.forward(1)  # the timer finds that it is too early for this one
        rig.forward(RATE_INTERVAL - 1.1)
        assert connection.phase is Phase.OPEN
        rig.forward(0.1)
        assert connection.phase is Phase.CLOSED

    receive(rate, 0, wait)


def test_without_a_limit_no_body_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make_rig(monkeypatch, None)
    connection, _ = rig.send(rig.host(), "/a")
    assert rig.traffic.begin_body(connection, is_long=True) is None
    assert connection.long_response
    rig.forward(1000)
    assert connection.phase is Phase.OPEN
