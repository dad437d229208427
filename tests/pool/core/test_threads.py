"""The threads of a pool: they are started, known and waited for."""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue

import pytest

from dugong.deadline import Deadline
from dugong.pool.core import threads as module
from dugong.pool.core.threads import Threads
from tests.support.points import Interrupt
from tests.support.pool import wait_for
from tests.support.server import TIMEOUT


def do_nothing() -> None:
    pass


def start(threads: Threads, function: Callable[[], object], name: str = "dugong-test") -> None:
    """Have a thread started, which must not fail."""
    threads.start(function, name, pytest.fail)


def test_a_thread_runs_its_function_under_its_name_and_keeps_no_program_alive() -> None:
    threads = Threads()
    seen: list[tuple[str, bool]] = []

    def look() -> None:
        thread = threading.current_thread()
        seen.append((thread.name, thread.daemon))

    start(threads, look, "dugong-test")
    threads.join(Deadline(TIMEOUT))
    assert seen == [("dugong-test", True)]


def test_a_thread_knows_that_it_belongs_to_its_pool_and_to_no_other() -> None:
    threads, others = Threads(), Threads()
    seen: list[bool] = []
    start(threads, lambda: seen.extend([threads.is_own(), others.is_own()]))
    threads.join(Deadline(TIMEOUT))
    assert seen == [True, False]
    assert not threads.is_own()


def test_a_thread_that_acts_for_callers_is_no_thread_of_the_pool_but_waited_for() -> None:
    threads = Threads()
    seen: list[bool] = []

    def act() -> None:
        threads.act_for_callers()
        seen.append(threads.is_own())

    start(threads, act)
    threads.join(Deadline(TIMEOUT))
    assert seen == [False]
    assert threads.count == 0


def test_a_thread_whose_function_fails_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads()
    failed = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda args: failed.set())

    def fail() -> None:
        raise Interrupt

    start(threads, fail, "dugong-test")
    threads.join(Deadline(TIMEOUT))
    wait_for(failed)


def test_a_thread_that_a_caller_wants_is_started_by_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`Thread.start` waits, and an interrupt of that could leave a lock taken for ever."""
    threads = Threads()
    started_by: list[bool] = []
    thread_start = threading.Thread.start

    def note(self: threading.Thread) -> None:
        started_by.append(threads.is_own())
        thread_start(self)

    monkeypatch.setattr(threading.Thread, "start", note)
    start(threads, do_nothing)
    threads.join(Deadline(TIMEOUT))
    assert started_by == [True]


def test_a_start_that_an_interrupt_has_lost_is_made_with_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads, log = Threads(), list[str]()

    def interrupted(*args: object) -> int:
        raise Interrupt

    with monkeypatch.context() as interrupting:
        interrupting.setattr(module, "start_new_thread", interrupted)
        with pytest.raises(Interrupt):
            start(threads, lambda: log.append("first"))
    threads.join(Deadline(TIMEOUT))  # which waits for nothing that does not come
    assert log == []
    start(threads, lambda: log.append("second"))
    threads.join(Deadline(TIMEOUT))
    assert sorted(log) == ["first", "second"]


# --- none are started any more --------------------------------------------------------------------


def failures_of(threads: Threads) -> list[str]:
    """Have a thread started; return why that has failed."""
    failures: list[str] = []
    threads.start(do_nothing, "dugong-test", lambda error: failures.append(str(error)))
    threads.join(Deadline(TIMEOUT))
    return failures


def test_no_thread_starts_once_the_pool_is_closed() -> None:
    threads = Threads()
    threads.close()
    assert failures_of(threads) == ["the pool has been closed"]
    with pytest.raises(RuntimeError, match="closed"):
        threads.start_here(do_nothing, "dugong-test")


def test_no_thread_starts_once_the_interpreter_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads()
    with monkeypatch.context() as exiting:
        exiting.setattr(sys, "is_finalizing", lambda: True)
        assert failures_of(threads) == ["the interpreter is exiting"]
        with pytest.raises(RuntimeError, match="exiting"):
            threads.start_here(do_nothing, "dugong-test")


def refuse(*args: object) -> int:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("at", ["the thread", "the one that starts it"])
def test_a_thread_that_is_not_to_be_had_is_told_of_and_not_waited_for(
    at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = Threads()
    with monkeypatch.context() as poor:
        if at == "the thread":
            poor.setattr(threading.Thread, "start", refuse)
        else:
            poor.setattr(module, "start_new_thread", refuse)
        assert failures_of(threads) == ["can't start new thread"]
    assert failures_of(threads) == []


# --- within a start -------------------------------------------------------------------------------


def test_a_start_within_a_start_is_made_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finalizer may run there; `threading` has a lock that is not reentrant."""
    threads, log = Threads(), list[str]()
    thread_start = threading.Thread.start
    starts: list[str] = []

    def start_another(self: threading.Thread) -> None:
        if not starts:
            starts.append("nested")
            start(threads, lambda: log.append("inner"), "dugong-inner")
            assert len(starts) == 1
        starts.append(self.name)
        thread_start(self)

    monkeypatch.setattr(threading.Thread, "start", start_another)
    start(threads, lambda: log.append("outer"), "dugong-outer")
    threads.join(Deadline(TIMEOUT))
    assert starts == ["nested", "dugong-outer", "dugong-inner"]
    assert sorted(log) == ["inner", "outer"]


def test_a_start_by_a_thread_of_the_pool_is_made_by_that(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, starters = Threads(), list[tuple[str, str]]()
    thread_start = threading.Thread.start

    def note(self: threading.Thread) -> None:
        if threading.get_ident() in known:
            starters.append((known[threading.get_ident()], self.name))
        thread_start(self)

    known: dict[int, str] = {}

    def outer() -> None:
        known[threading.get_ident()] = "outer"
        start(threads, do_nothing, "dugong-inner")
        threads.start_here(do_nothing, "dugong-at-once")

    monkeypatch.setattr(threading.Thread, "start", note)
    start(threads, outer, "dugong-outer")
    threads.join(Deadline(TIMEOUT))
    assert starters == [("outer", "dugong-inner"), ("outer", "dugong-at-once")]


# --- waiting for them -----------------------------------------------------------------------------


def test_waiting_ends_with_the_last_thread() -> None:
    threads = Threads()
    go_on, log = threading.Event(), list[int]()

    def run(number: int) -> None:
        wait_for(go_on)
        log.append(number)

    for number in range(5):
        start(threads, partial(run, number), f"dugong-{number}")
    go_on.set()
    threads.join(Deadline(TIMEOUT))
    assert sorted(log) == list(range(5))


def test_a_thread_that_is_started_by_one_that_ends_is_waited_for_as_well() -> None:
    threads = Threads()
    log: list[str] = []

    def first() -> None:
        start(threads, lambda: log.append("second"), "dugong-second")
        log.append("first")

    start(threads, first, "dugong-first")
    threads.join(Deadline(TIMEOUT))
    assert sorted(log) == ["first", "second"]


def test_a_thread_that_has_ended_is_forgotten_when_another_one_ends() -> None:
    threads = Threads()
    running = SimpleQueue[tuple[threading.Thread, threading.Event]]()

    def run() -> None:
        go_on = threading.Event()
        running.put((threading.current_thread(), go_on))
        wait_for(go_on)

    for _ in range(2):
        start(threads, run)
    forgotten: list[object] = []
    for _ in range(2):
        thread, go_on = running.get(timeout=TIMEOUT)
        weakref.finalize(thread, forgotten.append, thread.name)
        go_on.set()
        thread.join(TIMEOUT)
        del thread
    assert len(forgotten) == 1


def test_waiting_does_not_go_on_beyond_its_deadline() -> None:
    threads = Threads()
    go_on = threading.Event()
    for _ in range(3):
        start(threads, lambda: wait_for(go_on), "dugong-stuck")
    began = time.monotonic()
    threads.join(Deadline(0.05))
    assert 0.04 <= time.monotonic() - began < TIMEOUT / 2
    go_on.set()
    threads.join(Deadline(TIMEOUT))
