"""Deadlines. The clock is ours, so nothing waits."""

from __future__ import annotations

import pytest

from dugong import deadline
from dugong.deadline import Deadline
from dugong.errors import ConnectionTimedOut
from tests.support.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch, deadline)


def test_the_remaining_time_is_what_is_left_of_the_whole(clock: Clock) -> None:
    limit = Deadline(5)
    assert limit.remaining() == 5
    clock.now += 2
    assert limit.remaining() == 3


def test_the_remaining_time_is_never_negative(clock: Clock) -> None:
    limit = Deadline(5)
    clock.now += 7
    assert limit.remaining() == 0


def test_checking_before_the_deadline_does_nothing(clock: Clock) -> None:
    limit = Deadline(5)
    clock.now += 4.5
    limit.check("waiting")


def test_checking_at_the_deadline_raises_and_says_what_took_so_long(clock: Clock) -> None:
    limit = Deadline(5)
    clock.now += 5
    with pytest.raises(ConnectionTimedOut, match="timed out while shaking hands"):
        limit.check("shaking hands")


def test_without_a_limit_time_does_not_matter(clock: Clock) -> None:
    limit = Deadline(None)
    clock.now += 1e9
    assert limit.remaining() is None
    limit.check("waiting")


def test_no_time_at_all_is_over_at_once(clock: Clock) -> None:
    limit = Deadline(0)
    assert limit.remaining() == 0
    with pytest.raises(ConnectionTimedOut):
        limit.check("waiting")


def test_the_clock_is_the_monotonic_one() -> None:
    import time

    assert deadline.monotonic is time.monotonic
