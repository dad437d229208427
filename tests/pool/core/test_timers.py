"""Timers: what is due comes out in time and in order, and what was cancelled does not."""

from __future__ import annotations

import random

import pytest

from dugong.pool.core.timers import Timer, Timers


def names_of_due(timers: Timers, now: float, log: list[str]) -> list[str]:
    while (action := timers.pop_due(now)) is not None:
        action()
    done, log[:] = log[:], []
    return done


def add(timers: Timers, log: list[str], when: float, name: str) -> Timer:
    return timers.add(when, lambda: log.append(name))


def test_nothing_is_due_if_there_is_nothing() -> None:
    timers = Timers()
    assert timers.next() is None
    assert timers.pop_due(1e9) is None
    assert len(timers) == 0


def test_what_is_due_comes_in_the_order_of_its_times() -> None:
    timers, log = Timers(), list[str]()
    for when, name in [(3.0, "c"), (1.0, "a"), (2.0, "b")]:
        add(timers, log, when, name)
    assert timers.next() == 1.0
    assert names_of_due(timers, 2.5, log) == ["a", "b"]
    assert timers.next() == 3.0
    assert len(timers) == 1


def test_something_is_due_at_its_very_time_but_not_before() -> None:
    timers, log = Timers(), list[str]()
    add(timers, log, 1.0, "a")
    assert timers.pop_due(0.999) is None
    assert names_of_due(timers, 1.0, log) == ["a"]


def test_what_was_cancelled_is_not_done() -> None:
    timers, log = Timers(), list[str]()
    first = add(timers, log, 1.0, "a")
    add(timers, log, 2.0, "b")
    timers.cancel(first)
    assert timers.next() == 2.0
    assert len(timers) == 1
    assert names_of_due(timers, 3.0, log) == ["b"]


def test_cancelling_twice_is_cancelling_once() -> None:
    timers, log = Timers(), list[str]()
    timer = add(timers, log, 1.0, "a")
    add(timers, log, 2.0, "b")
    timers.cancel(timer)
    timers.cancel(timer)
    assert len(timers) == 1


def test_cancelling_what_has_been_done_does_nothing() -> None:
    timers, log = Timers(), list[str]()
    timer = add(timers, log, 1.0, "a")
    assert names_of_due(timers, 1.0, log) == ["a"]
    timers.cancel(timer)
    assert len(timers) == 0


def test_an_action_may_add_and_cancel_others() -> None:
    timers, log = Timers(), list[str]()
    doomed = add(timers, log, 2.0, "doomed")

    def act() -> None:
        timers.cancel(doomed)
        add(timers, log, 1.5, "added")

    timers.add(1.0, act)
    assert names_of_due(timers, 3.0, log) == ["added"]


def test_what_was_cancelled_is_forgotten_before_its_time_comes() -> None:
    timers = Timers()
    many = [timers.add(1e9, lambda: None) for _ in range(10_000)]
    timers.add(2e9, lambda: None)
    for timer in many:
        timers.cancel(timer)
    assert len(timers) == 1
    assert len(timers._heap) < 200


@pytest.mark.parametrize("seed", range(3))
def test_whatever_was_not_cancelled_comes_once_and_in_order(seed: int) -> None:
    chance = random.Random(seed)
    timers, log = Timers(), list[str]()
    kept = []
    for i in range(500):
        when = chance.randrange(1000)
        timer = add(timers, log, when, str(i))
        if chance.random() < 0.6:
            timers.cancel(timer)
        else:
            kept.append((when, str(i)))
    assert len(timers) == len(kept)
    due = {name: when for when, name in kept}
    done = names_of_due(timers, 1000, log)
    assert sorted(done) == sorted(due)
    assert [due[name] for name in done] == sorted(due.values())


def test_what_an_exception_has_left_out_of_order_is_mended() -> None:
    """A signal handler may raise it while timers are compared."""
    timers, log = Timers(), list[str]()
    for when in range(10):
        add(timers, log, float(when), str(when))
    timers.cancel(add(timers, log, 3.5, "cancelled"))
    timers._heap.reverse()
    timers._cancelled = 7
    timers.repair()
    assert len(timers) == 10
    assert names_of_due(timers, 100.0, log) == [str(when) for when in range(10)]
