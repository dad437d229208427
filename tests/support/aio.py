"""An `AsyncClient` and scripted servers: what the tests of that have in common."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any, NamedTuple

import pytest

from dugong import AsyncClient
from tests.support.client import Page, Place, Serve
from tests.support.server import TIMEOUT, ReceivedRequest

__all__ = ["LIBRARIES", "AsyncPlaces", "Gate", "came", "open_async", "run"]

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


async def came(event: threading.Event) -> None:
    """Wait for *event*, which a script sets."""
    assert await asyncio.to_thread(event.wait, TIMEOUT)


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
