"""Threads that do what takes long."""

from __future__ import annotations

import threading
from queue import SimpleQueue

from dugong.cli.workers import Workers

TIMEOUT = 10.0


def test_each_item_is_worked_on_once() -> None:
    done: SimpleQueue[int] = SimpleQueue()
    with Workers(3, "work", done.put) as workers:
        for number in range(100):
            workers.put(number)
        assert sorted(done.get(timeout=TIMEOUT) for _ in range(100)) == list(range(100))
    assert done.empty()


def test_so_many_are_at_work_at_the_same_time_and_no_more() -> None:
    meet = threading.Barrier(3)
    seen: SimpleQueue[int] = SimpleQueue()

    def work(number: int) -> None:
        meet.wait(TIMEOUT)
        seen.put(threading.active_count())

    before = threading.active_count()
    with Workers(3, "work", work) as workers:
        for number in range(6):
            workers.put(number)
        assert max(seen.get(timeout=TIMEOUT) for _ in range(6)) == before + 3


def test_closing_drops_what_was_not_begun_and_waits_for_the_rest() -> None:
    begun = threading.Event()
    may_end = threading.Event()
    done: list[int] = []

    def work(number: int) -> None:
        begun.set()
        assert may_end.wait(TIMEOUT)
        done.append(number)

    workers = Workers(1, "work", work)
    workers.put(1)
    workers.put(2)
    assert begun.wait(TIMEOUT)
    threading.Timer(0.05, may_end.set).start()  # when close() waits, most likely
    workers.close()
    assert done == [1]


def test_nothing_to_do_starts_no_thread() -> None:
    before = threading.active_count()
    with Workers(3, "work", print):
        assert threading.active_count() == before
