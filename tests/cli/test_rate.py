"""A limit on the rate of all transfers together."""

from __future__ import annotations

import threading

import pytest

from dugong.cli.rate import Throttle


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_comes_at_once_is_too_early() -> None:
    throttle = Throttle(1000.0, Clock())
    assert throttle.delay(500) == pytest.approx(0.5)
    assert throttle.delay(1000) == pytest.approx(1.5)


def test_what_comes_late_may_not_come_faster_afterwards() -> None:
    clock = Clock()
    throttle = Throttle(1000.0, clock)
    throttle.delay(1000)
    clock.now += 100
    assert throttle.delay(1000) == pytest.approx(1.0)


def test_without_a_limit_all_passes_at_once() -> None:
    throttle = Throttle(None)
    assert not throttle.is_limited
    assert throttle.delay(10**15) == 0
    assert throttle.passes(10**15)


@pytest.mark.parametrize(
    ("rate", "piece"), [(None, 262144), (1.0, 1024), (80_000.0, 10_000), (1e9, 262144)]
)
def test_the_pieces_are_as_small_as_the_rate_needs(rate: float | None, piece: int) -> None:
    assert Throttle(rate).piece == piece


def test_the_end_wakes_what_waits() -> None:
    throttle = Throttle(1.0)
    outcomes: list[bool] = []
    thread = threading.Thread(target=lambda: outcomes.append(throttle.passes(10**9)))
    thread.start()
    throttle.end()
    thread.join()
    assert outcomes == [False]
    assert throttle.rest(10**6)


def test_what_is_in_time_passes() -> None:
    assert Throttle(1e9).passes(1)
