"""Request bodies that an event loop makes: async iterables of bytes-like objects.

Guarantees: the iterable is used by one task, in its event loop, alone; one item at a time is handed
to the thread that sends, and the next is not asked for before that was sent. However the sending
ends, the task ends, and closes what it has iterated over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from contextvars import copy_context
from enum import Enum
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple, cast

from dugong.client.aioloop import Loop, Task, Waiter, call_in, running_loop
from dugong.pool.body import BodyLike, used_up
from dugong.pool.bodybase import BodyMaker, CountedBody, RequestBody
from dugong.pool.failure import BodyInterrupted
from dugong.pool.oneshot import is_used, mark_used

__all__ = ["AsyncBody", "blocking_body"]


def blocking_body(body: Any) -> BodyLike | None:
    """Return what a pool can send: *body*, unless that is for the running event loop.

    So is an async iterable of bytes-like objects, and a callable that returns one.
    """
    if isinstance(body, AsyncIterable):
        return AsyncBody(body, running_loop())
    if callable(body) and not hasattr(body, "read") and not isinstance(body, BodyMaker):
        return partial(_made, body, running_loop())
    return cast(BodyLike | None, body)


def _made(make: Callable[[], Any], loop: Loop) -> Any:
    body = make()
    return AsyncBody(body, loop) if isinstance(body, AsyncIterable) else body


class AsyncBody(BodyMaker):
    """What *iterable*, an async iterable for *loop*, gives, as the body of a request.

    It runs in the context (`contextvars`) in which this is made. An async iterator, such as an
    async generator, can be sent once.
    """

    __slots__ = ("context", "iterable", "loop")

    def __init__(self, iterable: AsyncIterable[Any], loop: Loop) -> None:
        # None of these changes.
        self.iterable = iterable
        self.loop = loop
        self.context = copy_context()

    def make_body(self, content_length: int | None) -> RequestBody:
        """Return the body of one request: see `BodyMaker`."""
        if is_used(self.iterable):
            raise used_up()
        return _AsyncItems(self, content_length)


class _Interrupted(Enum):
    """What stands for an item if nothing more is to be sent."""

    INTERRUPTED = "the connection has been given up"


class _End(NamedTuple):
    """Comes behind the last item; *error* is what the iterable has raised."""

    error: BaseException | None


class _AsyncItems(CountedBody):
    __slots__ = ("_handed", "_source", "_task")

    def __init__(self, source: AsyncBody, length: int | None) -> None:
        super().__init__(length)
        self._source = source  # never changes
        # From the task to the sender; another one for each sending. Any thread may put.
        self._handed: SimpleQueue[Any] = SimpleQueue()
        self._task: _IterableTask | None = None  # unless it has ended; owner: the sender

    @property
    def _can_be_read_once(self) -> bool:
        return isinstance(self._source.iterable, AsyncIterator)

    @property
    def rewindable(self) -> bool:
        return not (self._taken and self._can_be_read_once)

    def rewind(self) -> None:
        super().rewind()
        self._handed = SimpleQueue()

    def interrupt(self) -> None:
        self._handed.put(_Interrupted.INTERRUPTED)

    def end_sending(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            call_in(self._source.loop, task.stop)

    def _items(self) -> Iterator[object]:
        source, handed = self._source, self._handed
        if self._can_be_read_once:
            if is_used(source.iterable):
                raise used_up()
            mark_used(source.iterable)
        self._task = task = _IterableTask(source, handed)
        go_on = task.start
        while True:
            if not call_in(source.loop, go_on):
                self._task = None
                raise RuntimeError("the event loop that makes the body is closed")
            item = handed.get()  # the task, its end, or interrupt() ends this wait
            if item is _Interrupted.INTERRUPTED:
                raise BodyInterrupted
            if isinstance(item, _End):
                self._task = None
                if item.error is not None:
                    raise item.error
                return
            yield item
            del item  # before the next one is made
            go_on = task.go_on


class _IterableTask:
    """Hands over the items of the iterable of *source*. For its event loop alone."""

    def __init__(self, source: AsyncBody, handed: SimpleQueue[Any]) -> None:
        self._source = source  # never changes
        self._handed = handed  # never changes
        # Owner of these: the loop.
        self._task: Task | None = None
        self._asked: Waiter | None = None  # done when the sender wants another item

    def start(self) -> None:
        source = self._source
        self._task = source.loop.create_task(self._run(), context=source.context)
        # Not in the coroutine, which is never begun if it is cancelled before.
        self._task.add_done_callback(self._end)

    def go_on(self) -> None:
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(None)

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _end(self, task: Task) -> None:
        self._handed.put(_End(asyncio.CancelledError() if task.cancelled() else task.exception()))

    async def _run(self) -> None:
        items = aiter(self._source.iterable)
        try:
            async for item in items:
                self._asked = self._source.loop.create_future()
                self._handed.put(item)
                del item
                await self._asked
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()
