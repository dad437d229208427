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


def test_a_deadline_may_come_later(clock: Clock) -> None:
    limit = Deadline(5).later_by(2)
    assert limit.remaining() == 7
    assert limit.seconds == 5
    assert Deadline(None).later_by(2).remaining() is None


def test_checking_before_the_deadline_does_nothing(clock: Clock) -> None:
    limit = Deadline(5)
    clock.now += 4.5
    limit.check("waiting")


def test_checking_at_the_deadline_raises_and_says_what_took_so_long(clock: Clock) -> None:
    limit = Deadline(5)
    clock.now += 5
    with pytest.raises(ConnectionTimedOut, match=r"^timed out after 5 s while shaking hands$"):
        limit.check("shaking hands")


def test_without_a_limit_time_does_not_matter(clock: Clock) -> None:
    limit = Deadline(None)
    clock.now += 1e9
    assert limit.remaining() is None
    limit.check("waiting")


def test_a_deadline_is_a_point_in_time(clock: Clock) -> None:
    limit = Deadline.after(5)
    assert limit.when == clock.now + 5
    clock.now += 2
    assert limit.when == clock.now + 3
    assert repr(limit) == "<Deadline in 3.000 s>"


def test_a_deadline_may_be_made_from_its_point_in_time(clock: Clock) -> None:
    limit = Deadline.at(clock.now + 5)
    assert limit.remaining() == 5
    clock.now += 5
    with pytest.raises(ConnectionTimedOut, match=r"^timed out while waiting$"):
        limit.check("waiting")
    assert Deadline.at(None).remaining() is None


def test_a_deadline_has_expired_once_its_time_has_come(clock: Clock) -> None:
    limit = Deadline.after(5)
    clock.now += 4.5
    assert not limit.expired
    clock.now += 0.5
    assert limit.expired
    assert not Deadline.after(None).expired
    assert Deadline.after(None).when is None
    assert repr(Deadline.after(None)) == "<Deadline never>"


def test_no_time_at_all_is_over_at_once(clock: Clock) -> None:
    limit = Deadline(0)
    assert limit.remaining() == 0
    with pytest.raises(ConnectionTimedOut):
        limit.check("waiting")


def test_the_clock_is_the_monotonic_one() -> None:
    import time

    assert deadline.monotonic is time.monotonic
