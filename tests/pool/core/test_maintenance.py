"""The maintenance thread: timers are kept under the lock, in slices, until the pool is closed."""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from time import monotonic

import pytest

from dugong.deadline import Deadline
from dugong.pool.core import maintenance as module
from dugong.pool.core.core import PoolCore
from dugong.pool.core.maintenance import Maintenance
from dugong.pool.core.timers import Timer
from tests.support.clock import Clock
from tests.support.parts import StartedThreads, make_core
from tests.support.pool import wait_for
from tests.support.server import TIMEOUT


class Bench:
    """A maintenance part with its core; `log` is for the actions of the test."""

    def __init__(self) -> None:
        self.core: PoolCore = make_core()
        self.log: list[str] = []
        self.failures: list[RuntimeError] = []  # of starts
        self.maintenance = Maintenance(self.core, self.forgotten, lambda: self.log.append("closed"))

    def forgotten(self) -> None:
        """Close the pool, as its scheduler does when the thread calls this."""
        self.log.append("forgotten")
        with self.core.transaction():
            self.core.closed = True

    def at(self, when: float, action: Callable[[], None]) -> Timer:
        """Set a timer for the time *when*."""
        with self.core.transaction():
            return self.maintenance.at_locked(when, action)

    def note_at(self, when: float, name: str) -> Timer:
        """Have *name* logged at the time *when*."""
        return self.at(when, lambda: self.log.append(name))

    def pass_by(self) -> None:
        """Return when the thread has done what is due now, and its other actions."""
        passed = threading.Event()
        self.maintenance.wake()  # it looks at its timers between the two
        self.maintenance.do_later(passed.set)
        wait_for(passed)

    def close(self) -> None:
        """Close the pool, and wait for the thread."""
        with self.core.transaction():
            self.core.closed = True
        self.maintenance.wake()
        self.core.threads.join(Deadline(TIMEOUT))


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of the maintenance thread."""
    return Clock(monkeypatch, module)


# --- timers ---------------------------------------------------------------------------------------


def test_an_action_is_done_under_the_lock_in_the_maintenance_thread(bench: Bench) -> None:
    seen: list[tuple[str, bool]] = []
    done = threading.Event()

    def act() -> None:
        seen.append((threading.current_thread().name, bench.core.is_locked_here()))
        done.set()

    bench.at(monotonic() + 0.001, act)
    wait_for(done)
    assert seen == [("dugong-maintenance", True)]


def test_actions_are_done_at_their_times(bench: Bench, clock: Clock) -> None:
    bench.note_at(clock.now + 2, "second")
    bench.note_at(clock.now + 1, "first")
    bench.pass_by()
    assert bench.log == []
    clock.now += 1
    bench.pass_by()
    assert bench.log == ["first"]
    clock.now += 1
    bench.pass_by()
    assert bench.log == ["first", "second"]


def test_a_timer_that_comes_before_the_others_is_kept_as_well(bench: Bench) -> None:
    done = threading.Event()
    bench.at(monotonic() + 3600, lambda: None)
    bench.pass_by()
    bench.at(monotonic() + 0.001, done.set)
    wait_for(done)


def test_a_timer_that_is_cancelled_is_not_kept(bench: Bench, clock: Clock) -> None:
    timer = bench.note_at(clock.now + 1, "cancelled")
    bench.note_at(clock.now + 1, "kept")
    with bench.core.transaction():
        bench.maintenance.cancel_locked(timer)
    clock.now += 1
    bench.pass_by()
    assert bench.log == ["kept"]


def test_an_action_may_set_another_timer(bench: Bench, clock: Clock) -> None:
    def act() -> None:
        bench.maintenance.at_locked(clock.now, lambda: bench.log.append("second"))
        bench.log.append("first")

    bench.at(clock.now, act)
    bench.pass_by()
    assert bench.log == ["first", "second"]


def test_what_an_action_decides_is_done_once_the_lock_is_released(
    bench: Bench, clock: Clock
) -> None:
    def act() -> None:
        bench.core.follow_up(lambda: bench.log.append(str(bench.core.is_locked_here())))

    bench.at(clock.now, act)
    bench.pass_by()
    assert bench.log == ["False"]


def test_many_timers_that_are_due_at_once_let_others_have_the_lock(
    bench: Bench, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []  # the slice of each
    between: list[int] = []  # how many had been done when others could have the lock

    def act() -> None:
        done.append(bench.maintenance.slice)

    def take_turn(seconds: float) -> None:
        with bench.core.transaction():  # as any other thread could
            between.append(len(done))

    monkeypatch.setattr(time, "sleep", take_turn)
    monkeypatch.setattr(module, "SLICE", 3)
    with bench.core.transaction():
        for _ in range(9):
            bench.maintenance.at_locked(clock.now, act)
    bench.pass_by()
    assert between == [3, 6, 9]
    assert [done.count(number) for number in sorted(set(done))] == [3, 3, 3]


def test_few_timers_that_are_due_at_once_are_done_in_one_slice(bench: Bench, clock: Clock) -> None:
    slices: list[int] = []
    with bench.core.transaction():
        for _ in range(10):
            bench.maintenance.at_locked(clock.now, lambda: slices.append(bench.maintenance.slice))
    bench.pass_by()
    assert len(slices) == 10
    assert len(set(slices)) == 1


# --- things to be done later ----------------------------------------------------------------------


def test_what_is_to_be_done_later_is_done_without_the_lock(bench: Bench) -> None:
    bench.maintenance.start(bench.failures.append)
    seen: list[tuple[str, bool]] = []
    bench.maintenance.do_later(
        lambda: seen.append((threading.current_thread().name, bench.core.is_locked_here()))
    )
    bench.pass_by()
    assert seen == [("dugong-maintenance", False)]


def test_it_may_be_asked_for_in_the_middle_of_a_change(bench: Bench) -> None:
    """As by a finalizer; the thread is started if it does not run."""
    done = threading.Event()
    with bench.core.transaction():
        bench.maintenance.do_later(done.set)
    wait_for(done)


def test_it_is_done_in_the_order_in_which_it_was_asked_for(bench: Bench) -> None:
    bench.maintenance.start(bench.failures.append)
    for name in "abc":
        bench.maintenance.do_later(lambda name=name: bench.log.append(name))  # type: ignore[misc]
    bench.pass_by()
    assert bench.log == ["a", "b", "c"]


def test_code_of_callers_that_it_causes_is_called_in_another_thread(
    bench: Bench, clock: Clock
) -> None:
    where: list[str] = []
    called = threading.Event()

    def call() -> None:
        where.append(threading.current_thread().name)
        called.set()

    bench.at(clock.now, lambda: bench.core.callbacks.add(call))
    wait_for(called)
    assert where == ["dugong-callbacks"]
    bench.core.callbacks.close()


# --- the thread -----------------------------------------------------------------------------------


def test_the_thread_starts_with_the_first_timer_once_the_transaction_is_left() -> None:
    bench = Bench()
    started = StartedThreads(bench.core)
    with bench.core.transaction():
        bench.maintenance.at_locked(1.0, lambda: None)
        assert started == []
    assert started.names == ["dugong-maintenance"]


def test_a_start_that_was_lost_is_made_again_with_the_next_timer() -> None:
    bench = Bench()
    started = StartedThreads(bench.core)
    bench.note_at(1.0, "first")  # that thread never begins
    bench.note_at(2.0, "second")
    assert started.names == ["dugong-maintenance"] * 2


def test_a_start_that_is_not_to_be_had_is_tried_again_with_the_next_timer() -> None:
    bench = Bench()
    started = StartedThreads(bench.core)
    started.refused = True
    bench.note_at(1.0, "first")
    started.refused = False
    bench.note_at(2.0, "second")
    assert started.names == ["dugong-maintenance"]


def test_a_start_that_is_not_to_be_had_is_told_to_a_connection_that_needs_it() -> None:
    bench = Bench()
    StartedThreads(bench.core).refused = True
    bench.maintenance.start(bench.failures.append)
    assert [str(error) for error in bench.failures] == ["can't start new thread"]


def test_there_is_one_thread_though_it_was_started_twice(bench: Bench) -> None:
    real, started = bench.core.threads.start, StartedThreads(bench.core)
    bench.note_at(1.0, "first")
    bench.note_at(1.0, "second")
    (one, run), (_, again) = started
    real(run, one, bench.failures.append)
    bench.pass_by()
    assert bench.maintenance.is_running
    again()  # it ends at once
    assert bench.log == ["first", "second"]


def test_no_thread_is_started_while_one_runs(bench: Bench) -> None:
    bench.maintenance.start(bench.failures.append)
    bench.pass_by()
    started = StartedThreads(bench.core)
    bench.note_at(monotonic() + 3600, "never")
    bench.maintenance.start(bench.failures.append)
    assert started == []


def test_the_thread_ends_when_the_pool_is_closed_and_calls_what_is_to_be_done_last() -> None:
    bench = Bench()
    bench.note_at(monotonic() + 3600, "never")
    bench.pass_by()
    assert bench.maintenance.is_running
    bench.close()
    assert bench.log == ["closed"]
    assert not bench.maintenance.is_running


def test_what_was_to_be_done_later_is_done_though_the_pool_is_closed_then() -> None:
    bench = Bench()
    started = StartedThreads(bench.core)
    bench.note_at(1.0, "never")
    bench.core.closed = True
    bench.maintenance.do_later(lambda: bench.log.append("later"))
    started[0].run()
    assert bench.log == ["closed", "later"]


def test_a_timer_that_is_due_when_the_pool_is_closed_is_not_kept(clock: Clock) -> None:
    bench = Bench()
    bench.note_at(clock.now + 1, "never")
    bench.pass_by()
    with bench.core.transaction():
        bench.core.closed = True
        clock.now += 1
    bench.close()
    assert bench.log == ["closed"]


def test_a_closed_pool_is_noticed_by_a_thread_that_has_not_begun() -> None:
    bench = Bench()
    started = StartedThreads(bench.core)
    bench.note_at(1.0, "never")
    bench.core.closed = True
    started[0].run()
    assert bench.log == ["closed"]


def test_it_begins_with_nothing_after_a_reset(bench: Bench, clock: Clock) -> None:
    """As in a forked child, which has none of the threads of its parent."""
    forked = Bench()
    StartedThreads(forked.core)
    forked.note_at(clock.now, "the parent's")
    forked.core.reset()
    forked.maintenance.reset()
    forked.note_at(clock.now, "the child's")
    forked.pass_by()
    assert forked.log == ["the child's"]
    forked.close()


def test_a_thread_is_not_started_once_the_interpreter_exits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as exiting:
        exiting.setattr(sys, "is_finalizing", lambda: True)
        bench.maintenance.start(bench.failures.append)
        assert len(bench.failures) == 1
        bench.note_at(1.0, "never")
    assert not bench.maintenance.is_running


# --- a pool that is forgotten ---------------------------------------------------------------------


class Owner:
    """What is collected when nothing refers to it."""


def test_the_thread_says_that_the_pool_is_forgotten_once_its_owner_is_collected(
    bench: Bench,
) -> None:
    owner = Owner()
    bench.maintenance.watch(owner)
    bench.note_at(monotonic(), "begun")
    bench.pass_by()
    assert bench.log == ["begun"]
    del owner
    bench.core.threads.join(Deadline(TIMEOUT))
    assert bench.log == ["begun", "forgotten", "closed"]


def test_it_says_so_after_a_fork_too(bench: Bench) -> None:
    owner = Owner()
    bench.maintenance.watch(owner)
    bench.maintenance.reset()  # as a child process does
    bench.note_at(monotonic(), "begun")
    bench.pass_by()
    del owner
    bench.core.threads.join(Deadline(TIMEOUT))
    assert bench.log == ["begun", "forgotten", "closed"]


def test_what_an_action_refers_to_is_let_go_of_when_it_is_done(bench: Bench) -> None:
    collected = threading.Event()
    bench.note_at(monotonic(), "begun")
    bench.pass_by()
    owner = Owner()
    watcher = weakref.ref(owner, lambda _: collected.set())
    bench.maintenance.do_later(partial(id, owner))
    del owner
    wait_for(collected)
    assert watcher() is None
