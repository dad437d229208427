"""The threads of a pool: they are started, known and waited for."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from dugong.deadline import Deadline
from dugong.pool.core.threads import Threads
from tests.support.pool import wait_for
from tests.support.server import TIMEOUT


class Interrupt(BaseException):
    """Stands for KeyboardInterrupt, which pytest takes for its own."""


def do_nothing() -> None:
    pass


def is_starting(threads: Threads) -> bool:
    """Return True if this very thread is within a start."""
    return threads.starter == threading.get_ident()


def test_a_thread_runs_its_function_under_its_name_and_keeps_no_program_alive() -> None:
    threads = Threads()
    seen: list[tuple[str, bool]] = []

    def look() -> None:
        thread = threading.current_thread()
        seen.append((thread.name, thread.daemon))

    threads.start(look, "dugong-test")
    threads.join(Deadline(TIMEOUT))
    assert seen == [("dugong-test", True)]


def test_a_thread_knows_that_it_belongs_to_its_pool_and_to_no_other() -> None:
    threads, others = Threads(), Threads()
    seen: list[bool] = []
    threads.start(lambda: seen.extend([threads.is_own(), others.is_own()]), "dugong-test")
    threads.join(Deadline(TIMEOUT))
    assert seen == [True, False]
    assert not threads.is_own()


def test_a_thread_whose_function_fails_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads()
    failed = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda args: failed.set())

    def fail() -> None:
        raise Interrupt

    threads.start(fail, "dugong-test")
    threads.join(Deadline(TIMEOUT))
    wait_for(failed)


# --- none are started any more --------------------------------------------------------------------


def test_no_thread_starts_once_the_pool_is_closed() -> None:
    threads = Threads()
    threads.close()
    with pytest.raises(RuntimeError, match="closed"):
        threads.start(do_nothing, "dugong-test")


def test_no_thread_starts_once_the_interpreter_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads()
    with monkeypatch.context() as exiting:
        exiting.setattr(sys, "is_finalizing", lambda: True)
        with pytest.raises(RuntimeError, match="exiting"):
            threads.start(do_nothing, "dugong-test")
    threads.join(Deadline(TIMEOUT))


def test_a_thread_that_is_not_to_be_had_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads()

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as poor:
        poor.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            threads.start(do_nothing, "dugong-test")
    assert not is_starting(threads)
    threads.join(Deadline(TIMEOUT))


def test_a_thread_whose_start_is_interrupted_once_it_runs_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = Threads()
    start = threading.Thread.start
    go_on, log = threading.Event(), list[str]()

    def start_and_be_interrupted(self: threading.Thread) -> None:
        start(self)
        raise Interrupt

    def run() -> None:
        wait_for(go_on)
        log.append("has run")

    with monkeypatch.context() as interrupting:
        interrupting.setattr(threading.Thread, "start", start_and_be_interrupted)
        with pytest.raises(Interrupt):
            threads.start(run, "dugong-test")
    threads.join(Deadline(0))
    assert log == []
    go_on.set()
    threads.join(Deadline(TIMEOUT))
    assert log == ["has run"]


# --- within a start -------------------------------------------------------------------------------


def test_what_runs_within_a_start_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finalizer may run there: it must not wait for what this thread is about to do."""
    threads = Threads()
    start = threading.Thread.start
    seen: list[bool] = []

    def look_and_start(self: threading.Thread) -> None:
        seen.append(is_starting(threads))
        start(self)
        seen.append(is_starting(threads))

    monkeypatch.setattr(threading.Thread, "start", look_and_start)
    threads.start(lambda: seen.append(is_starting(threads)), "dugong-test")
    threads.join(Deadline(TIMEOUT))
    assert sorted(seen) == [False, True, True]
    assert not is_starting(threads)


def test_another_thread_is_not_within_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, seen = Threads(), list[bool]()
    start = threading.Thread.start

    def ask_elsewhere(self: threading.Thread) -> None:
        other = threading.Thread(target=lambda: seen.append(is_starting(threads)))
        start(other)
        other.join()
        start(self)

    monkeypatch.setattr(threading.Thread, "start", ask_elsewhere)
    threads.start(do_nothing, "dugong-test")
    threads.join(Deadline(TIMEOUT))
    assert seen == [False]


def test_a_start_within_a_start_is_made_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finalizer may run there; `threading` has a lock that is not reentrant."""
    threads, log = Threads(), list[str]()
    start = threading.Thread.start
    starts: list[str] = []

    def start_another(self: threading.Thread) -> None:
        if not starts:
            starts.append("nested")
            threads.start(lambda: log.append("inner"), "dugong-inner")
            assert len(starts) == 1
        starts.append(self.name)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", start_another)
    threads.start(lambda: log.append("outer"), "dugong-outer")
    threads.join(Deadline(TIMEOUT))
    assert starts == ["nested", "dugong-outer", "dugong-inner"]
    assert sorted(log) == ["inner", "outer"]


# --- waiting for them -----------------------------------------------------------------------------


def test_waiting_ends_with_the_last_thread() -> None:
    threads = Threads()
    go_on, log = threading.Event(), list[int]()

    def run(number: int) -> None:
        wait_for(go_on)
        log.append(number)

    for number in range(5):
        threads.start(lambda number=number: run(number), f"dugong-{number}")  # type: ignore[misc]
    go_on.set()
    threads.join(Deadline(TIMEOUT))
    assert sorted(log) == list(range(5))


def test_a_thread_that_is_started_by_one_that_ends_is_waited_for_as_well() -> None:
    threads = Threads()
    log: list[str] = []

    def first() -> None:
        threads.start(lambda: log.append("second"), "dugong-second")
        log.append("first")

    threads.start(first, "dugong-first")
    threads.join(Deadline(TIMEOUT))
    assert sorted(log) == ["first", "second"]


def test_waiting_does_not_go_on_beyond_its_deadline() -> None:
    threads = Threads()
    go_on = threading.Event()
    for _ in range(3):
        threads.start(lambda: wait_for(go_on), "dugong-stuck")
    began = time.monotonic()
    threads.join(Deadline(0.05))
    assert 0.04 <= time.monotonic() - began < TIMEOUT / 2
    go_on.set()
    threads.join(Deadline(TIMEOUT))
