"""How results get from the threads of a pool into an event loop.

Guarantees: what is handed over is called in the loop, each once, and in the order in which it came;
a loop that is closed is left alone. Any thread may call any method that does not say otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

from dugong.errors import PoolFull

if TYPE_CHECKING:
    from dugong.pool.core.job import Job
    from dugong.pool.future import ResponseFuture
    from dugong.pool.pool import ConnectionPool
    from dugong.pool.response import Response

__all__ = ["LoopBridge", "call_in"]


def call_in(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *args: Any) -> bool:
    """Have *loop* make a call; return False if it is closed. Any thread may call this."""
    try:
        loop.call_soon_threadsafe(call, *args)
    except RuntimeError:
        return False
    return True


class LoopBridge:
    """Brings the futures of *pool* into the running event loop, which it wakes once for many.

    A loop that is woken writes to a socket, and takes the GIL. While it makes some calls, others
    come together, which are made by one wake-up.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self.loop = asyncio.get_running_loop()  # never changes
        self._scheduler = pool._scheduler  # never changes
        self._lock = Lock()
        # What the loop is to call, with what. Guarded by the lock.
        self._calls: list[tuple[Callable[[Any], object], Future[Any]]] = []
        self._line = asyncio.Lock()  # of the task that waits for room; owner: the loop

    def when_done(self, future: ResponseFuture, call: Callable[[Any], object]) -> None:
        """Have *call* called in the loop, with *future*, when that is done."""
        future.add_done_callback(partial(self._put, call))

    def _put(self, call: Callable[[Any], object], future: Future[Response]) -> None:
        with self._lock:
            self._calls.append((call, future))
            if len(self._calls) > 1:
                return  # the loop is about to make them
        if not call_in(self.loop, self._make_calls):
            with self._lock:
                self._calls.clear()

    def _make_calls(self) -> None:
        with self._lock:
            calls, self._calls = self._calls, []
        for call, future in calls:
            call(future)

    async def submit(self, job: Job) -> ResponseFuture:
        """Queue *job*, and return its future. If the queues are full, wait for room.

        One thread waits for the loop; other tasks wait until it has got in.
        """
        future, submit = job.future, self._scheduler.submit
        try:
            try:
                submit(job, block=False)
            except PoolFull:
                async with self._line:
                    await self.loop.run_in_executor(None, submit, job)
        except BaseException:
            future.cancel()  # which ends the wait for room, too
            raise
        return future

    async def wait(self, future: ResponseFuture) -> None:
        """Wait until *future* is done. Cancels it if the task is cancelled."""
        if future.done():
            return
        # It gets no exception: that would not be retrieved if the task is cancelled by then.
        waiter = self.loop.create_future()
        self.when_done(future, partial(_wake, waiter))
        try:
            await waiter
        except BaseException:
            future.cancel()
            raise

    async def result(self, future: ResponseFuture) -> Response:
        """Wait for *future*, and return its response, or raise what the request failed with."""
        try:
            await self.wait(future)
            return future.result()
        finally:
            del future  # whose exception refers to this frame


def _wake(waiter: asyncio.Future[None], _future: object) -> None:
    if not waiter.done():  # its task was cancelled
        waiter.set_result(None)
