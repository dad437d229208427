"""An `AsyncClient` and scripted servers: what the tests of that have in common."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

import pytest

from dugong import AsyncClient
from dugong.client.aioloop import AsyncioLoop, running_loop
from dugong.pool.core.readers import begin_call
from tests.support.client import Page, Place, Serve
from tests.support.server import TIMEOUT, ReceivedRequest

__all__ = [
    "LIBRARIES",
    "AsyncPlaces",
    "Gate",
    "OwnThreads",
    "came",
    "cancelled",
    "open_async",
    "run",
]

#: What an `AsyncClient` works under.
LIBRARIES = ["asyncio", "trio"]


def run(library: str, main: Callable[[], Awaitable[None]]) -> None:
    """Run *main* under *library*, for some seconds at most; skip the test if there is none."""
    if library == "asyncio":

        async def bounded() -> None:
            async with asyncio.timeout(TIMEOUT * 2):
                await main()

        asyncio.run(bounded())
        return
    trio = pytest.importorskip(library)

    async def bounded_too() -> None:
        with trio.fail_after(TIMEOUT * 2):
            await main()

    trio.run(bounded_too)


class AsyncPlaces(NamedTuple):
    """A client, and the places that were opened for it."""

    client: AsyncClient
    places: list[Place]


@asynccontextmanager
async def open_async(*serve: Serve | dict[str, Page], **options: Any) -> AsyncIterator[AsyncPlaces]:
    """Start a server for each of *serve*, and a client with *options*."""
    with ExitStack() as stack:
        places = [Place(each) for each in serve]
        for place in places:
            # Its scripts may have to wait for what the client does, so it ends behind that.
            stack.enter_context(place.server)
        options.setdefault("trust_env", False)
        async with AsyncClient(**options) as client:
            yield AsyncPlaces(client, places)


class OwnThreads(Executor):
    """Makes each call in a thread of its own."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return begin_call(partial(fn, *args, **kwargs))[0]


async def came(event: threading.Event) -> None:
    """Wait for *event*, which a script sets."""
    # Not in a thread of the library's, which would be left over for some seconds.
    assert await running_loop().run_in_executor(OwnThreads(), event.wait, TIMEOUT)


async def cancelled(call: Callable[[], Awaitable[object]], when: threading.Event) -> None:
    """Make *call*, cancel it *when* that is set, and wait for its end."""
    if isinstance(running_loop(), AsyncioLoop):
        task = asyncio.ensure_future(call())
        await came(when)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        return
    import trio

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await came(when)
        nursery.cancel_scope.cancel()


class Gate:
    """Serves all pages but ``/held``, which waits until `open` is set. `asked` says that it does.

    It is then a page of one byte.
    """

    def __init__(self, serve: Callable[[ReceivedRequest], Page] | None = None) -> None:
        self.asked = threading.Event()
        self.open = threading.Event()
        self._serve = serve

    def __call__(self, request: ReceivedRequest) -> Page:
        if request.target == "/held":
            self.asked.set()
            assert self.open.wait(TIMEOUT)
            return Page(b"1")
        return self._serve(request) if self._serve is not None else Page(request.target.encode())
