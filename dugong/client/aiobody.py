"""Request bodies that an event loop makes: async iterables of bytes-like objects.

Guarantees: the iterable is used by one task, in its event loop, alone; one item at a time is handed
to the thread that sends, and the next is not asked for before that was sent. However the sending
ends, the task ends, and closes what it has iterated over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from contextvars import Context, copy_context
from enum import Enum
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple, cast

from dugong.client.aioloop import Loop, Task, Waiter, call_in, running_loop
from dugong.pool.body import BodyLike, gave_nothing, used_up
from dugong.pool.bodybase import BodyMaker, CountedBody, RequestBody
from dugong.pool.failure import BodyInterrupted
from dugong.pool.oneshot import can_be_remembered, is_used, mark_used

__all__ = ["AsyncBody", "blocking_body"]


def blocking_body(body: Any) -> BodyLike | None:
    """Return what a pool can send: *body*, unless that is for the running event loop.

    So is an async iterable of bytes-like objects, and a callable that returns one.
    """
    if isinstance(body, AsyncIterable):
        return AsyncBody(body, running_loop())
    if callable(body) and not hasattr(body, "read") and not isinstance(body, BodyMaker):
        return partial(_made, body, running_loop(), copy_context())
    return cast(BodyLike | None, body)


def _made(make: Callable[[], Any], loop: Loop, context: Context) -> Any:
    # Each sending has a copy: the task of an earlier one may be running in its context.
    return context.copy().run(_made_here, make, loop)


def _made_here(make: Callable[[], Any], loop: Loop) -> Any:
    body = make()
    return AsyncBody(body, loop, is_made=True) if isinstance(body, AsyncIterable) else body


async def _close(source: object) -> None:
    """Close *source*, if it is an async generator or the like."""
    aclose = getattr(source, "aclose", None)
    if aclose is not None:
        await aclose()


class AsyncBody(BodyMaker):
    """What *iterable*, an async iterable for *loop*, gives, as the body of a request.

    It runs in the context (`contextvars`) in which this is made. An async iterator, such as an
    async generator, can be sent once. *is_made* says that a callable has made the iterable: then
    that is closed.
    """

    __slots__ = ("__weakref__", "context", "has_begun", "is_made", "iterable", "loop")

    def __init__(self, iterable: AsyncIterable[Any], loop: Loop, *, is_made: bool = False) -> None:
        # None of these changes.
        self.iterable: AsyncIterable[Any] = iterable
        self.loop: Loop = loop
        self.is_made: bool = is_made
        self.context: Context = copy_context()
        #: A task was begun, which closes what it has used. Owner: the sender.
        self.has_begun: bool = False

    def make_body(self, content_length: int | None) -> RequestBody:
        """Return the body of one request: see `BodyMaker`."""
        if is_used(self) or is_used(self.iterable):
            raise used_up()
        return _AsyncItems(self, content_length)

    def close(self) -> None:
        """Have what a callable has made closed, if it was not sent. For the sender."""
        if not self.has_begun:
            call_in(self.loop, self.close_here)

    def close_here(self) -> None:
        """The same, for the event loop, which may have come to no more than to begin the task."""
        task = self.loop.create_task(_close(self.iterable), context=self.context)
        _closing.add(task)
        task.add_done_callback(_closing.discard)

    def items(self) -> tuple[AsyncIterator[Any], bool]:
        """Return the items, and if there must be any: for a source that may have been used.

        For the event loop. Raises ValueError if it is certain that it was.
        """
        iterable = self.iterable
        # What has been used since the request was made; or __aiter__ gives the same each time.
        if is_used(self) or is_used(iterable) or is_used(items := aiter(iterable)):
            raise used_up()
        mark_used(items)
        is_known = can_be_remembered(items)
        # What gives the same iterator each time can be read only once, as that can.
        if not isinstance(iterable, AsyncIterator) and (is_known or aiter(iterable) is not items):
            return items, False
        mark_used(iterable)
        mark_used(self)
        return items, not is_known


#: Tasks that close what was not sent: a loop may forget what nothing else knows. Each operation is
#: atomic in free-threaded CPython, too.
_closing: set[Task] = set()


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

    @property
    def is_repeatable(self) -> bool:
        return not self._can_be_read_once or can_be_remembered(self._source.iterable)

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
        self._task = task = _IterableTask(source, handed, self._length)
        source.has_begun = True
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

    def __init__(self, source: AsyncBody, handed: SimpleQueue[Any], length: int | None) -> None:
        self._source = source  # never changes
        self._handed = handed  # never changes
        self._length = length  # never changes
        # Owner of these: the loop.
        self._has_begun = False
        self._is_stopped = False
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
        self._is_stopped = True
        if self._task is not None:
            self._task.cancel()

    def _end(self, task: Task) -> None:
        if self._source.is_made and not self._has_begun:
            self._source.close_here()
        self._handed.put(_End(asyncio.CancelledError() if task.cancelled() else task.exception()))

    async def _run(self) -> None:
        self._has_begun = True
        source = self._source
        items, must_give = source.items()
        try:
            async for item in items:
                if self._is_stopped:  # the iterable has gone on though it was cancelled
                    return
                must_give = False
                self._asked = source.loop.create_future()
                self._handed.put(item)
                del item
                await self._asked
            if must_give and self._length is None:
                raise gave_nothing()
        finally:
            await _close(items)
            if source.is_made and source.iterable is not items:
                await _close(source.iterable)
