"""The threads that make calls for event loops."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from functools import partial

import pytest

from dugong.deadline import Deadline
from dugong.pool.core import readers as module
from dugong.pool.core.readers import Readers, begin_call
from dugong.pool.core.threads import Threads
from tests.support.pool import wait_for
from tests.support.server import TIMEOUT


def name_of_thread() -> str:
    return threading.current_thread().name


class Blocked:
    """A call that lasts until `go_on` is set."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.go_on = threading.Event()

    def __call__(self) -> threading.Thread:
        self.began.set()
        wait_for(self.go_on)
        return threading.current_thread()


def end(threads: Threads, readers: Readers) -> None:
    """End *readers*, and see it."""
    readers.close()
    threads.join(Deadline(TIMEOUT))
    assert threads.count == 0


def test_a_call_is_made_in_a_daemon_thread_that_may_wait_for_the_pool() -> None:
    threads = Threads()
    readers = Readers(threads)

    def look(a: int, b: int) -> tuple[str, bool, bool, int]:
        thread = threading.current_thread()
        return thread.name, thread.daemon, threads.is_own(), a + b

    assert readers.submit(look, 1, b=2).result(TIMEOUT) == ("dugong-stream", True, False, 3)
    end(threads, readers)


def test_what_a_call_raises_is_the_outcome() -> None:
    threads = Threads()
    readers = Readers(threads)
    with pytest.raises(ZeroDivisionError):
        readers.submit(divmod, 1, 0).result(TIMEOUT)
    end(threads, readers)


def test_no_call_waits_for_another_one() -> None:
    threads = Threads()
    readers = Readers(threads)
    calls = [Blocked() for _ in range(20)]
    futures = [readers.submit(call) for call in calls]
    for call in calls:
        wait_for(call.began)
    for call in calls:
        call.go_on.set()
    assert len({future.result(TIMEOUT) for future in futures}) == 20
    end(threads, readers)


def test_a_thread_makes_one_call_after_the_other_and_ends_when_none_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = Threads()
    readers = Readers(threads)
    first = readers.submit(threading.current_thread).result(TIMEOUT)
    monkeypatch.setattr(module, "IDLE_TIME", 0.01)
    # At most the first of these is made by another thread: the first one may not wait yet.
    others = [readers.submit(threading.current_thread).result(TIMEOUT) for _ in range(3)]
    for thread in {first, *others}:
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    assert readers.submit(name_of_thread).result(TIMEOUT) == "dugong-stream"
    end(threads, readers)


def test_a_call_that_was_cancelled_before_it_began_is_not_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = Threads()
    readers = Readers(threads)
    held: list[partial[None]] = []
    monkeypatch.setattr(threads, "start", lambda run, *rest: held.append(run))
    future = readers.submit(pytest.fail)
    assert future.cancel()
    readers.close()
    held.pop()()
    with pytest.raises(CancelledError):
        future.result(TIMEOUT)


def test_calls_are_made_though_the_pool_is_closed() -> None:
    threads = Threads()
    readers = Readers(threads)
    end(threads, readers)
    assert readers.submit(name_of_thread).result(TIMEOUT) == "dugong-stream"
    threads.close()
    assert readers.submit(name_of_thread).result(TIMEOUT) == "dugong-stream"
    threads.join(Deadline(TIMEOUT))


def test_where_no_thread_can_be_had_the_call_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads = Threads()
    threads.close()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="closed"):
        Readers(threads).submit(pytest.fail).result(TIMEOUT)


def test_a_call_that_must_be_made_cannot_be_cancelled() -> None:
    call = Blocked()
    future, thread = begin_call(call)
    assert not future.cancel()
    call.go_on.set()
    assert future.result(TIMEOUT) is thread
    assert thread.daemon
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def test_a_rest_ends_when_it_is_over_or_another_thread_ends_it() -> None:
    threads = Threads()
    readers = Readers(threads)
    readers.rest(threading.Event(), 0.001)
    wake = threading.Event()
    future = readers.submit(readers.rest, wake, 1000.0)
    wake.set()
    future.result(TIMEOUT)
    end(threads, readers)


def test_the_end_of_the_pool_ends_all_rests_and_there_are_no_more() -> None:
    class Resting(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            begun.release()
            return super().wait(timeout)

    threads, begun = Threads(), threading.Semaphore(0)
    readers = Readers(threads)
    futures = [readers.submit(readers.rest, Resting(), 1000.0) for _ in range(2)]
    for _ in futures:
        assert begun.acquire(timeout=TIMEOUT)
    readers.close()
    for future in futures:
        future.result(TIMEOUT)
    readers.rest(threading.Event(), 1000.0)
    end(threads, readers)
