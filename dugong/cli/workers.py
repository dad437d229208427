"""A few threads that do what takes long.

Guarantees: `Workers.close` returns when all of them have ended, which is as soon as what they do
ends.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Generic, TypeVar

__all__ = ["Workers"]

T = TypeVar("T")


class Workers(Generic[T]):
    """Up to *count* threads, started as they are needed, that call *work* with what is `put`.

    *work* must raise nothing. One thread may call the methods.
    """

    def __init__(self, count: int, name: str, work: Callable[[T], object]) -> None:
        # None of these changes.
        self._count = count
        self._name = name
        self._work = work
        # What is to be done; None ends a thread. In a tuple, so that it may be None itself.
        self._waiting: SimpleQueue[tuple[T] | None] = SimpleQueue()
        self._lock = Lock()
        self._free = 0  # threads that have nothing to do, less what has none; guarded by the lock
        self._threads: list[Thread] = []  # of the thread that calls the methods

    def put(self, item: T) -> None:
        """Have *work* called with *item* when a thread is free."""
        with self._lock:
            self._free -= 1
            starts = self._free < 0 and len(self._threads) < self._count
            if starts:
                self._free += 1
        self._waiting.put((item,))
        if starts:
            name = f"{self._name}-{len(self._threads) + 1}"
            thread = Thread(target=self._run, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:  # ended by close()
            self._work(item[0])
            with self._lock:
                self._free += 1

    def close(self) -> None:
        """Drop what no thread has begun with, and wait until the threads have ended."""
        try:
            while True:
                self._waiting.get_nowait()
        except Empty:
            pass
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Workers[T]:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
