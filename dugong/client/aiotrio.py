"""trio as a `dugong.client.aioloop.Loop`. Imported when an `AsyncClient` is used under trio.

What asyncio does by tasks in the background, trio does by system tasks: they belong to the run, and
end with it. An `AsyncClient` ends its own before that, when the request or the iterator that needs
one ends.

Guarantees: nothing that is called in the loop, and no task, ends the run of trio by what it raises.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Executor, Future
from contextlib import AbstractAsyncContextManager
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar

import trio

from dugong.pool.core.readers import begin_call

__all__ = ["TrioLoop"]

T = TypeVar("T")


class TrioLoop:
    """The run of trio that *token* is of."""

    cancelled: type[BaseException] = trio.Cancelled

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self.token = token  # never changes

    def call_soon_threadsafe(self, call: Callable[..., object], *args: Any) -> None:
        self.token.run_sync_soon(_call, call, args)

    def current_task(self) -> object:
        return trio.lowlevel.current_task()

    def create_future(self) -> TrioFuture[None]:
        return TrioFuture()

    def create_event(self) -> TrioEvent:
        return TrioEvent()

    def create_lock(self) -> AbstractAsyncContextManager[object]:
        lock: AbstractAsyncContextManager[object] = trio.Lock()
        return lock

    def create_task(
        self, coroutine: Coroutine[Any, Any, None], *, context: Context | None = None
    ) -> TrioTask:
        return TrioTask(coroutine, copy_context() if context is None else context)

    def run_in_executor(
        self, executor: Executor, call: Callable[..., T], *args: Any
    ) -> TrioFuture[T]:
        # Not in a thread of trio's, which a task would have to wait for from the beginning.
        return self._brought_here(executor.submit(call, *args))

    def _brought_here(self, outcome: Future[T]) -> TrioFuture[T]:
        future: TrioFuture[T] = TrioFuture()
        outcome.add_done_callback(lambda outcome: self._hand_over(outcome, future))
        return future

    def _hand_over(self, outcome: Future[T], future: TrioFuture[T]) -> None:
        try:
            self.call_soon_threadsafe(future.take, outcome)
        except trio.RunFinishedError:
            pass  # and so is what has waited

    async def pause(self) -> None:
        await trio.lowlevel.checkpoint()

    async def shield(self, future: Awaitable[T]) -> T:
        # If the task is cancelled, what runs in a thread goes on, as under asyncio.
        return await future

    async def settle(self, future: Awaitable[object]) -> None:
        assert isinstance(future, TrioFuture)
        with trio.CancelScope(shield=True):
            await future.wait()

    async def run_to_end(self, call: Callable[[], object]) -> None:
        with trio.CancelScope(shield=True):
            future, thread = begin_call(call)
            await self._brought_here(future)
            thread.join()  # at once: it has made the call


def _call(call: Callable[..., object], args: tuple[Any, ...]) -> None:
    try:
        call(*args)
    except Exception:
        logging.getLogger(__name__).exception("a call in the loop of trio has failed")


class TrioEvent:
    """As `asyncio.Event`: a `trio.Event` that can be cleared. For the loop alone."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        self._event.set()

    def clear(self) -> None:
        if self._event.is_set():
            self._event = trio.Event()

    async def wait(self) -> None:
        await self._event.wait()


class TrioFuture(Generic[T]):
    """What a task waits for, as `asyncio.Future`. For the loop alone."""

    def __init__(self) -> None:
        self._done = trio.Event()
        self._outcome: Future[T] = Future()  # whose methods do not wait, once it is done

    def done(self) -> bool:
        return bool(self._done.is_set())

    def set_result(self, result: T) -> None:
        self._outcome.set_result(result)
        self._done.set()

    def take(self, outcome: Future[T]) -> None:
        """End as *outcome* has."""
        self._outcome = outcome
        self._done.set()

    async def wait(self) -> None:
        """Wait for the end, whatever it is."""
        await self._done.wait()

    def __await__(self) -> Generator[Any, Any, T]:
        yield from self._done.wait().__await__()
        return self._outcome.result()


class TrioTask(TrioFuture[None]):
    """A *coroutine* that runs in the background, in *context*, as `asyncio.Task`."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], context: Context) -> None:
        super().__init__()
        self._scope = trio.CancelScope()
        self._callbacks: list[Callable[[TrioTask], object]] = []
        trio.lowlevel.spawn_system_task(self._run, coroutine, context=context)

    async def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        outcome = self._outcome
        try:
            with self._scope:
                if self._scope.cancel_called:  # before it has begun
                    coroutine.close()
                    return
                try:
                    await coroutine
                except trio.Cancelled:
                    raise
                except BaseException as exc:
                    outcome.set_exception(exc)
                else:
                    outcome.set_result(None)
        finally:
            if not outcome.done():
                outcome.cancel()
            self._done.set()
            for callback in self._callbacks:
                _call(callback, (self,))

    def cancel(self) -> None:
        self._scope.cancel()

    def cancelled(self) -> bool:
        return self._outcome.cancelled()

    def exception(self) -> BaseException | None:
        return self._outcome.exception()

    def add_done_callback(self, callback: Callable[[TrioTask], object]) -> None:
        """Have *callback* called with this task at its end, which must not have come yet."""
        self._callbacks.append(callback)
