"""Callbacks: the code of callers runs in threads of the pool, in a loop."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from dugong.deadline import Deadline
from dugong.pool.core.callbacks import Callbacks
from dugong.pool.core.threads import Threads
from tests.support.pool import wait_for
from tests.support.server import TIMEOUT


class Bench:
    """Callbacks with their threads; `where` are the names of the threads that made calls."""

    def __init__(self) -> None:
        self.threads = Threads()
        self.callbacks = Callbacks(self.threads, self.note_failure)
        self.where: list[str] = []
        self.failed: list[tuple[object, BaseException]] = []

    def note_failure(self, call: Callable[[], object], exc: BaseException) -> None:
        self.failed.append((call, exc))

    def note(self) -> None:
        """Be a call of a caller's code."""
        self.where.append(threading.current_thread().name)

    def cause(self, *calls: Callable[[], object]) -> None:
        """Have *calls* made, because of something that this thread has done."""
        for call in calls:
            self.callbacks.add(call)
        self.callbacks.run()

    def run_in_pool(self, function: Callable[[], object], name: str = "dugong-other") -> None:
        """Run *function* in a thread of the pool."""
        done = threading.Event()

        def run() -> None:
            try:
                function()
            finally:
                done.set()

        self.threads.start(run, name, pytest.fail)
        wait_for(done)

    def finish(self) -> None:
        """Wait until all calls have been made, and all threads have ended."""
        self.callbacks.close()
        self.threads.join(Deadline(TIMEOUT))


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.finish()


def refuse(
    function: Callable[[], object], name: str, failed: Callable[[RuntimeError], object]
) -> None:
    failed(RuntimeError("can't start new thread"))


def test_what_a_caller_causes_is_called_in_a_thread_of_its_own(bench: Bench) -> None:
    bench.cause(bench.note, bench.note)
    bench.cause(bench.note)
    bench.finish()
    assert bench.where == ["dugong-callbacks"] * 3


def test_what_a_caller_causes_does_not_wait_for_the_caller(bench: Bench) -> None:
    """A caller may hold a lock around the call that its callback takes, too."""
    lock, called = threading.Lock(), threading.Event()

    def take_lock() -> None:
        with lock:
            called.set()

    with lock:
        bench.cause(take_lock)
        assert not called.is_set()
    wait_for(called)


def test_all_that_callers_cause_is_called_in_the_same_thread(bench: Bench) -> None:
    idents: list[int] = []
    for _ in range(3):
        called = threading.Event()
        bench.cause(lambda: idents.append(threading.get_ident()), called.set)
        wait_for(called)
    assert len(set(idents)) == 1


def test_what_a_thread_of_the_pool_causes_is_called_there(bench: Bench) -> None:
    bench.run_in_pool(lambda: bench.cause(bench.note))
    assert bench.where == ["dugong-other"]


def test_a_thread_that_is_spared_leaves_its_calls_to_another(bench: Bench) -> None:
    def cause_spared() -> None:
        bench.callbacks.spare_this_thread()
        bench.cause(bench.note)

    bench.run_in_pool(cause_spared)
    bench.finish()
    assert bench.where == ["dugong-callbacks"]


def test_a_call_that_fails_keeps_no_other_from_being_made(bench: Bench) -> None:
    error = NameError("a bug")

    def fail() -> None:
        raise error

    bench.cause(bench.note, fail, bench.note)
    bench.finish()
    assert bench.failed == [(fail, error)]
    assert bench.where == ["dugong-callbacks"] * 2


def test_if_no_thread_is_to_be_had_the_calls_are_made_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.threads, "start", refuse)
    bench.cause(bench.note)
    assert bench.where == [threading.current_thread().name]


def test_a_thread_that_was_not_to_be_had_is_tried_for_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as poor:
        poor.setattr(bench.threads, "start", refuse)
        bench.cause(bench.note)
    bench.cause(bench.note)
    bench.finish()
    assert bench.where == [threading.current_thread().name, "dugong-callbacks"]


def test_nothing_is_called_once_the_interpreter_exits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as exiting:
        exiting.setattr(sys, "is_finalizing", lambda: True)
        bench.cause(bench.note)
    bench.finish()
    assert bench.where == []


# --- one after the other --------------------------------------------------------------------------


def test_calls_are_made_in_their_order(bench: Bench) -> None:
    log: list[int] = []
    bench.cause(*[lambda i=i: log.append(i) for i in range(100)])  # type: ignore[misc]
    bench.finish()
    assert log == list(range(100))


def test_a_call_that_is_caused_by_another_comes_after_it(bench: Bench) -> None:
    log: list[str] = []

    def first() -> None:
        bench.cause(lambda: log.append("second"))
        log.append("first")

    bench.run_in_pool(lambda: bench.cause(first))
    assert log == ["first", "second"]


@pytest.mark.parametrize("in_pool", [True, False])
def test_calls_that_cause_calls_do_not_nest(bench: Bench, in_pool: bool) -> None:
    left = 20 * sys.getrecursionlimit()
    done = threading.Event()

    def again() -> None:
        nonlocal left
        left -= 1
        if left:
            bench.cause(again)
        else:
            done.set()

    if in_pool:
        bench.run_in_pool(lambda: bench.cause(again))
    else:
        bench.cause(again)
    wait_for(done)


def test_a_long_call_keeps_no_other_thread_from_making_calls(bench: Bench) -> None:
    began, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        began.set()
        wait_for(go_on)

    bench.cause(wait)
    wait_for(began)
    bench.run_in_pool(lambda: bench.cause(bench.note))
    assert bench.where == ["dugong-other"]
    go_on.set()


def test_each_call_is_made_once_though_many_threads_cause_some(bench: Bench) -> None:
    made: list[int] = []
    ready = threading.Barrier(8)

    def cause_many(first: int) -> None:
        ready.wait(TIMEOUT)
        for i in range(first, first + 100):
            bench.cause(lambda i=i: made.append(i))  # type: ignore[misc]

    for number in range(4):
        run = lambda first=100 * number: cause_many(first)  # type: ignore[misc]  # noqa: E731
        bench.threads.start(run, "dugong-other", pytest.fail)
    callers = [threading.Thread(target=cause_many, args=(100 * number,)) for number in range(4, 8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    bench.finish()
    assert sorted(made) == list(range(800))


# --- the end --------------------------------------------------------------------------------------


def test_the_thread_ends_once_the_calls_have_been_made(bench: Bench) -> None:
    began, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        began.set()
        wait_for(go_on)

    bench.cause(wait)
    wait_for(began)
    bench.cause(bench.note)
    bench.callbacks.close()
    go_on.set()
    bench.threads.join(Deadline(TIMEOUT))
    assert bench.where == ["dugong-callbacks"]


def test_a_thread_that_starts_after_the_end_makes_its_calls_and_ends(bench: Bench) -> None:
    bench.callbacks.close()
    bench.cause(bench.note)
    bench.threads.join(Deadline(TIMEOUT))
    assert bench.where == ["dugong-callbacks"]


def test_a_call_that_is_caused_after_the_thread_has_ended_is_made(bench: Bench) -> None:
    """Such as those of requests whose threads do not end, which `close` fails at last."""
    bench.cause(bench.note)
    bench.callbacks.close()
    bench.threads.join(Deadline(TIMEOUT))
    bench.cause(bench.note)
    bench.finish()
    assert len(bench.where) == 2
