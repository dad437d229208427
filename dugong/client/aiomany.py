"""Many requests at a time in an event loop: `AsyncClient.map` and `AsyncClient.as_completed`.

Guarantees: each takes only so many requests from its source that there is enough under way (see
`dugong.pool.many`), and gives responses while it waits for the source. When one ends, however that
happens, the requests that it has submitted are done or cancelled, and a source that is an async
generator is closed. For one task at a time.
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
)
from functools import partial
from typing import TYPE_CHECKING, Any

from dugong.client.aioloop import call_in
from dugong.pool.many import AHEAD, Allowance, CallWhenMore, check_is_iterable, more_of
from dugong.pool.request import Request
from dugong.pool.response import Response

if TYPE_CHECKING:
    from dugong.client.aioloop import Loop, LoopBridge
    from dugong.pool.core.job import Job
    from dugong.pool.future import ResponseFuture

__all__ = ["Requests", "futures_of"]

_BATCH = 64  # how many are submitted before other tasks have their turn

Requests = Iterable[str | Request] | AsyncIterable[str | Request]


def futures_of(
    requests: Requests,
    prepare: Callable[[Any], Job],
    bridge: LoopBridge,
    max_size: int,
    ordered: bool,
) -> AsyncGenerator[ResponseFuture, None]:
    """Return the futures of *requests*, each when it is done; with *ordered*, in their order.

    *prepare* makes the job of a request. Raises TypeError if *requests* are no iterable.
    """
    if not isinstance(requests, AsyncIterable):
        check_is_iterable(requests)
        items = iter(requests)
        more = more_of(items)
        requests = _each(items) if more is None else _each_in_time(items, more, bridge.loop)
    return _UnderWay(requests, prepare, bridge, max_size, ordered).futures()


async def _each(items: Iterator[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


async def _each_in_time(
    items: Iterator[Any], call_when_more: CallWhenMore, loop: Loop
) -> AsyncIterator[Any]:
    """Yield each of *items*, a `RequestSource`, and wait for more."""
    news = loop.create_event()
    tell = partial(call_in, loop, news.set)
    while True:
        news.clear()
        for item in items:
            yield item
        if not call_when_more(tell):
            break
        await news.wait()  # the source ends this


class _UnderWay:
    """What has been submitted and was not taken by the consumer yet. Owner: an event loop."""

    def __init__(
        self,
        source: AsyncIterable[Any],
        prepare: Callable[[Any], Job],
        bridge: LoopBridge,
        max_size: int,
        ordered: bool,
    ) -> None:
        # None of these changes.
        self._source = source
        self._prepare = prepare
        self._bridge = bridge
        self._allowance = Allowance(max_size)
        self._ordered = ordered
        self._news = bridge.loop.create_event()  # for the consumer
        self._room = bridge.loop.create_event()  # for the supplier
        self._pending: dict[ResponseFuture, None] = {}  # in the order of the source
        # Those that are done, with the sizes of their bodies; None for a failure.
        self._came: dict[ResponseFuture, int | None] = {}
        self._size = 0  # bytes of all of these
        self._low = AHEAD  # the supplier goes on when no more than this are under way
        self._is_over = False  # nothing more is submitted
        self._is_stopped = False  # nothing more is wanted

    async def futures(self) -> AsyncGenerator[ResponseFuture, None]:
        supplier = self._bridge.loop.create_task(self._supply())
        try:
            while True:
                self._news.clear()
                future = next(iter(self._pending if self._ordered else self._came), None)
                if future in self._came:
                    self._take(future)
                    yield future
                elif self._is_over and not self._pending:
                    break
                else:
                    del future  # or its body stays in memory
                    await self._news.wait()  # a response, or the end of the source, ends this
            await supplier  # which raises what the source has raised
        finally:
            if supplier.done() and not supplier.cancelled():
                supplier.exception()  # or asyncio would log that nobody was told of it
            self._is_stopped = True
            supplier.cancel()
            for future in self._pending:
                future.cancel()

    def _take(self, future: ResponseFuture) -> None:
        del self._pending[future]
        size = self._came.pop(future)
        if size is not None:  # a failure says nothing about sizes
            self._size -= size
            self._allowance.taken(size)
        if len(self._pending) <= self._low:
            self._room.set()

    async def _supply(self) -> None:
        items: AsyncIterator[Any] | None = None
        try:
            items = aiter(self._source)
            async for item in items:
                if self._is_stopped:  # the source has gone on though it was cancelled
                    break
                future = await self._bridge.submit(self._prepare(item))
                self._pending[future] = None
                self._bridge.when_done(future, self._note)
                del item, future
                most = self._allowance.most(len(self._came), self._size)
                if len(self._pending) >= most:
                    self._low = self._allowance.low(most)
                    self._room.clear()
                    await self._room.wait()  # the consumer ends this
                elif len(self._pending) % _BATCH == 0:
                    await self._bridge.loop.pause()  # others have waited for the loop
        finally:
            self._is_over = True
            self._news.set()
            if isinstance(items, AsyncGenerator):  # which trio wants to have an end
                await items.aclose()

    def _note(self, future: ResponseFuture) -> None:
        """Note that *future* is done."""
        if future in self._pending and future not in self._came:
            outcome = future._outcome  # not result(), which would add to the traceback of a failure
            size = len(outcome.body) if isinstance(outcome, Response) else None
            self._came[future] = size
            self._size += size or 0
            self._news.set()
