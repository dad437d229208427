"""How results get from the threads of a pool into an event loop, which is asyncio's or trio's.

Nothing else of `AsyncClient` knows which of the two it is. The `Loop` of asyncio is here, that of
trio in `dugong.client.aiotrio`.

Guarantees: what is handed over is called in the loop, each once, and in the order in which it came;
a loop that is closed is left alone. Any thread may call any method that does not say otherwise.
"""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor, Future
from contextlib import AbstractAsyncContextManager, suppress
from contextvars import Context
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from weakref import WeakValueDictionary, ref

from dugong.errors import PoolFull, StateError
from dugong.pool.core.readers import begin_call

if TYPE_CHECKING:
    from dugong.pool.core.job import Job
    from dugong.pool.future import ResponseFuture
    from dugong.pool.pool import ConnectionPool
    from dugong.pool.response import Response

__all__ = [
    "Bridges",
    "Loop",
    "LoopBridge",
    "Task",
    "Waiter",
    "call_in",
    "running_loop",
    "running_token",
]

T = TypeVar("T")


class Waiter(Awaitable[None], Protocol):
    """What one task waits for, and another call in the loop ends."""

    def done(self) -> bool: ...
    def set_result(self, result: None, /) -> None: ...


class LoopEvent(Protocol):
    """An event that one task waits for."""

    def set(self) -> None: ...
    def clear(self) -> None: ...
    async def wait(self) -> object: ...


class Task(Awaitable[None], Protocol):
    """A task in the background. To wait for it raises what it has raised."""

    def cancel(self) -> object: ...
    def done(self) -> bool: ...
    def cancelled(self) -> bool: ...
    def exception(self) -> BaseException | None: ...
    def add_done_callback(self, callback: Callable[[Any], object], /) -> None: ...


class CallSoon(Protocol):
    """What may be called by any thread; RuntimeError: the loop is closed."""

    def call_soon_threadsafe(self, call: Callable[..., Any], /, *args: Any) -> object: ...


class Loop(CallSoon, Protocol):
    """An event loop: what is used of it. For its thread alone, but for `call_soon_threadsafe`.

    What has the name of a method of `asyncio.AbstractEventLoop` does what that does.
    """

    @property
    def token(self) -> object:
        """What `running_token` returns in this loop."""

    @property
    def cancelled(self) -> type[BaseException]:
        """What is raised in a task that is cancelled."""

    def current_task(self) -> object:
        """Return the task that is running; None if what is running is none."""

    def create_future(self) -> Waiter: ...
    def create_event(self) -> LoopEvent: ...
    def create_lock(self) -> AbstractAsyncContextManager[object]: ...

    def create_task(
        self, coroutine: Coroutine[Any, Any, None], *, context: Context | None = None
    ) -> Task: ...

    def run_in_executor(
        self, executor: Executor, call: Callable[..., T], *args: Any
    ) -> Awaitable[T]:
        """Begin to make a call in another thread; what is returned need not be waited for."""

    async def pause(self) -> None:
        """Let other tasks have their turn."""

    async def shield(self, future: Awaitable[T]) -> T:
        """Wait for what goes on if the task is cancelled."""

    async def settle(self, future: Awaitable[object]) -> None:
        """Wait for the end of what `run_in_executor` has returned, though the task is cancelled."""

    async def run_to_end(self, call: Callable[[], object]) -> None:
        """Make a call in a thread of its own, to its end, and wait for that."""


class AsyncioLoop:
    """*loop* of asyncio, as `Loop` describes it."""

    cancelled: type[BaseException] = asyncio.CancelledError

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.token = loop  # never changes

    def call_soon_threadsafe(self, call: Callable[..., Any], /, *args: Any) -> None:
        self.token.call_soon_threadsafe(call, *args)

    def current_task(self) -> object:
        return asyncio.current_task(self.token)

    def create_future(self) -> asyncio.Future[None]:
        return self.token.create_future()

    def create_event(self) -> asyncio.Event:
        return asyncio.Event()

    def create_lock(self) -> asyncio.Lock:
        return asyncio.Lock()

    def create_task(
        self, coroutine: Coroutine[Any, Any, None], *, context: Context | None = None
    ) -> asyncio.Task[None]:
        return self.token.create_task(coroutine, context=context)

    def run_in_executor(
        self, executor: Executor, call: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future = self.token.run_in_executor(executor, call, *args)
        future.add_done_callback(_note_failure)
        return future

    async def pause(self) -> None:
        await asyncio.sleep(0)

    async def shield(self, future: Awaitable[T]) -> T:
        return await asyncio.shield(future)

    async def settle(self, future: Awaitable[object]) -> None:
        running = asyncio.ensure_future(future)
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running])

    async def run_to_end(self, call: Callable[[], object]) -> None:
        future, thread = begin_call(call)
        await asyncio.wrap_future(future, loop=self.token)
        thread.join()  # at once: it has made the call


def _note_failure(future: asyncio.Future[Any]) -> None:
    """Look at what *future* has failed with, or asyncio would log that nothing did."""
    if not future.cancelled():
        future.exception()


def running_token() -> object:
    """Return what stands for the loop that runs in this thread. RuntimeError: there is none."""
    trio: Any = sys.modules.get("trio")
    if trio is not None:
        try:
            trio.lowlevel.current_task()
            return trio.lowlevel.current_trio_token()
        except (AttributeError, RuntimeError):
            pass  # another thread is importing it, or it does not run here
    return asyncio.get_running_loop()


def running_loop() -> Loop:
    """Return the loop that runs in this thread. Raises RuntimeError if there is none."""
    token: Any = running_token()
    if isinstance(token, asyncio.AbstractEventLoop):
        return AsyncioLoop(token)
    from dugong.client.aiotrio import TrioLoop

    return TrioLoop(token)


def call_in(loop: CallSoon, call: Callable[..., object], *args: Any) -> bool:
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
        self.loop: Loop = running_loop()  # never changes
        self._scheduler = pool._scheduler  # never changes
        self._lock = Lock()
        # What the loop is to call, with what. Any thread appends, with the lock; the loop alone
        # removes, without it. deque.popleft is atomic in free-threaded CPython, too.
        self._calls: deque[tuple[Callable[[Any], object], Future[Any]]] = deque()
        # Those that wait for room in the queues, and what ends the wait of each. Owner: the loop.
        self._line: OrderedDict[ResponseFuture, Waiter] = OrderedDict()

    def when_done(self, future: ResponseFuture, call: Callable[[Any], object]) -> None:
        """Have *call* called in the loop, with *future*, when that is done.

        It must be quick, and not raise. An interrupt of the loop may have it called twice.
        """
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
        calls = self._calls
        try:
            while calls:
                call, future = calls[0]
                call(future)
                calls.popleft()  # only now: an interrupt of the loop loses none
        finally:
            if calls:  # this was interrupted
                call_in(self.loop, self._make_calls)

    async def submit(self, job: Job) -> ResponseFuture:
        """Queue *job*, and return its future. If the queues are full, wait for room.

        No thread waits. Those that wait are queued in their order; if the deadline of *job* passes
        before, its future is done.
        """
        future = job.future
        try:
            if self._line or not self._is_queued(job):
                await self._wait_in_line(job)
        except BaseException:
            future.cancel()
            raise
        return future

    def _is_queued(self, job: Job) -> bool:
        """Return True if there was room for *job*, which is queued then."""
        try:
            self._scheduler.submit(job, block=False)
        except PoolFull:
            return False
        return True

    async def _wait_in_line(self, job: Job) -> None:
        line, future = self._line, job.future
        self._wake_first()  # an interrupt of the loop may have kept it from being told of room
        self._scheduler.begin_deadline(job)
        try:
            turn = line[future] = self.loop.create_future()
            self.when_done(future, self._end_wait)
            while not future.done():
                if next(iter(line)) is future:
                    if self._is_queued(job):
                        break
                    self._scheduler.call_when_room(self._has_room)
                await turn  # room, the end of the one before, or the deadline ends this
                turn = line[future] = self.loop.create_future()
        finally:
            line.pop(future, None)
            self._wake_first()

    def _has_room(self) -> None:
        call_in(self.loop, self._wake_first)

    def _wake_first(self) -> None:
        turn = next(iter(self._line.values()), None)
        if turn is not None:
            _wake(turn)

    def _end_wait(self, future: ResponseFuture) -> None:
        turn = self._line.get(future)
        if turn is not None:
            _wake(turn)

    def reader(self) -> object:
        """Return what stands for the running task where streams are noted; None without a task."""
        task = self.loop.current_task()
        return None if task is None else ref(task)

    async def begin(self, job: Job) -> ResponseFuture:
        """As `submit`, for a task that waits for *job* next.

        Raises StateError, and cancels *job*, if the task would wait for itself.
        """
        future = await self.submit(job)
        reader = self.reader()
        if reader is not None and not future.done():
            try:
                self._scheduler.check_reads_not_all(job, reader)
            except StateError:
                future.cancel()
                raise
        return future

    async def wait(self, future: ResponseFuture) -> None:
        """Wait until *future* is done. Cancels it if the task is cancelled."""
        if self._calls:
            # The loop makes them in a moment; but an interrupt of it may have kept it from that.
            self._make_calls()
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


class Bridges:
    """The bridges between *pool* and the event loops in which it is used: one for each."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool  # never changes
        # Of the loop that has made the last call. Replaced as a whole, which is atomic in
        # free-threaded CPython, too; what waits knows its own.
        self._latest: LoopBridge | None = None
        # Those with calls under way, by the token of their loop. Only the thread of a loop gets and
        # sets what is for that; single operations of a dict are atomic in free-threaded CPython,
        # too. A lock might be left taken in a forked child.
        self._by_token: WeakValueDictionary[object, LoopBridge] = WeakValueDictionary()

    def current(self) -> LoopBridge:
        """Return the one into the running loop."""
        bridge = self._latest
        token = running_token()
        if bridge is None or bridge.loop.token is not token:
            bridge = self._by_token.get(token)  # all that wait for room in a loop are in one line
            if bridge is None:
                bridge = self._by_token[token] = LoopBridge(self._pool)
            self._latest = bridge
        return bridge


def _wake(waiter: Waiter, _future: object = None) -> None:
    if not waiter.done():  # its task was cancelled
        waiter.set_result(None)
