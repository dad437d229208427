"""Many requests at a time in an event loop: `AsyncClient.map` and `AsyncClient.as_completed`.

Guarantees: each takes only so many requests from its source that there is enough under way (see
`dugong.pool.many`), and gives responses while it waits for the source. When one ends, however that
happens, the requests that it has submitted are done or cancelled, and a source that is an async
generator is closed. For one task at a time.

A *supplier*, a task of its own, takes from the source what is submitted, or parked: what
`as_completed` takes for a host that lets few requests start (see `dugong.pool.parking`). What is
parked is submitted by the consumer, when it has taken another future of the same host: so it needs
no room but what that has left.
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
from dugong.pool.many import Allowance, CallWhenMore, check_is_iterable, more_of
from dugong.pool.parking import Parking, gate_of
from dugong.pool.request import Request
from dugong.pool.response import Response

if TYPE_CHECKING:
    from dugong.client.aioloop import Loop, LoopBridge
    from dugong.pool.core.job import Job
    from dugong.pool.future import ResponseFuture

__all__ = ["Requests", "futures_of"]

_BATCH = 64  # how many are taken from the source before other tasks have their turn

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
        self._parking = Parking()  # what is `apart` there is pending here
        # The supplier goes on when no more than this are under way, but for what is apart.
        self._low = 0
        self._failure: Exception | None = None  # why what is parked could not be submitted
        self._is_over = False  # nothing more is taken from the source

    async def futures(self) -> AsyncGenerator[ResponseFuture, None]:
        supplier = self._bridge.loop.create_task(self._supply())
        try:
            while True:
                self._news.clear()
                if self._parking.has_free:
                    await self._submit_parked()
                future = next(iter(self._pending if self._ordered else self._came), None)
                if future in self._came:
                    self._take(future)
                    yield future
                elif self._is_over and not self._pending:
                    break
                else:
                    del future  # or its body stays in memory
                    await self._news.wait()  # a response, or the end of the source, ends this
            if self._failure is not None:
                raise self._failure
            await supplier  # which raises what the source has raised
        finally:
            if supplier.done() and not supplier.cancelled():
                supplier.exception()  # or asyncio would log that it was never retrieved
            self._failure = None  # which refers to this frame
            self._is_over = True
            supplier.cancel()
            for future in self._pending:
                future.cancel()

    def _take(self, future: ResponseFuture) -> None:
        parking = self._parking
        del self._pending[future]
        if parking.apart:
            parking.took(future.request)
        size = self._came.pop(future)
        if size is not None:  # a failure says nothing about sizes
            self._size -= size
            self._allowance.taken(size)
        if len(self._pending) - parking.apart <= self._low:
            self._room.set()

    async def _submit_parked(self) -> None:
        """Submit what is parked and may be submitted now, as far as there is room."""
        parking = self._parking
        try:
            while self._has_room(1) and (job := parking.pop()) is not None:
                await self._submit(job)
        except Exception as exc:  # the pool is closed: what came before comes first
            self._failure = exc
            self._parking = Parking()
            self._is_over = True

    async def _supply(self) -> None:
        items: AsyncIterator[Any] | None = None
        taken = 0
        try:
            items = aiter(self._source)
            async for item in items:
                if self._is_over:  # the source has gone on though it was cancelled
                    break
                job = self._prepare(item)
                del item
                if self._ordered or gate_of(job) is None or not self._parking.parks(job):
                    await self._submit(job)
                del job
                taken += 1
                if self._parking.is_full or not self._has_room():
                    await self._wait_for_room()
                elif taken % _BATCH == 0:
                    await self._bridge.loop.pause()  # others have waited for the loop
        finally:
            self._is_over = True
            self._news.set()
            if isinstance(items, AsyncGenerator):  # which trio wants to have an end
                await items.aclose()

    async def _submit(self, job: Job) -> None:
        future = await self._bridge.submit(job)
        self._pending[future] = None
        self._bridge.when_done(future, self._note)

    def _most(self, parked: int = 0) -> int:
        """Return how many may be under way, if *parked* more are submitted."""
        apart = self._parking.apart + parked
        return self._allowance.most(len(self._came), self._size, apart)

    def _has_room(self, parked: int = 0) -> bool:
        return len(self._pending) < self._most(parked)

    async def _wait_for_room(self) -> None:
        parking = self._parking
        while parking.is_full or not self._has_room():
            under_way = min(self._most(), len(self._pending))
            self._low = self._allowance.low(under_way - parking.apart)
            self._room.clear()
            await self._room.wait()  # the consumer ends this

    def _note(self, future: ResponseFuture) -> None:
        """Note that *future* is done."""
        if future in self._pending and future not in self._came:
            outcome = future._outcome  # not result(), which would add to the traceback of a failure
            size = len(outcome.body) if isinstance(outcome, Response) else None
            self._came[future] = size
            self._size += size or 0
            self._news.set()
