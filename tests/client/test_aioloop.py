"""The bridge from the threads of a pool into an event loop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dugong import ConnectionPool
from dugong.client.aioloop import LoopBridge, call_in
from tests.support.client import Place
from tests.support.pool import wait_until


def test_many_results_at_once_wake_the_loop_once() -> None:
    async def main() -> None:
        here = Place({})
        with here.server, ConnectionPool() as pool:
            bridge = LoopBridge(pool)
            woken: list[Any] = []
            loop = asyncio.get_running_loop()
            call_soon = loop.call_soon_threadsafe

            def counted(*args: Any, **options: Any) -> Any:
                woken.append(args)
                return call_soon(*args, **options)

            loop.call_soon_threadsafe = counted  # type: ignore[method-assign]  # it is counted
            futures = [pool.submit("GET", here.url(f"/{n}")) for n in range(100)]
            called: list[Any] = []
            for future in futures:
                bridge.when_done(future, called.append)
            wait_until(pool, lambda: len(bridge._calls) == 100)  # the loop has no turn meanwhile
            await asyncio.sleep(0)
            assert sorted(map(id, called)) == sorted(map(id, futures))
            assert len(woken) == 1

    asyncio.run(main())


def test_what_was_done_before_is_told_of_too() -> None:
    async def main() -> None:
        here = Place({})
        with here.server, ConnectionPool() as pool:
            bridge = LoopBridge(pool)
            future = pool.submit("GET", here.url("/a"))
            future.result()
            called: list[Any] = []
            bridge.when_done(future, called.append)
            assert called == []  # not in the midst of this call
            await asyncio.sleep(0)
            assert called == [future]

    asyncio.run(main())


def test_a_loop_that_is_closed_is_not_called() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    assert not call_in(loop, pytest.fail)


def test_a_bridge_into_a_loop_that_is_closed_keeps_nothing() -> None:
    here = Place({})
    with here.server, ConnectionPool() as pool:

        async def make() -> LoopBridge:
            return LoopBridge(pool)

        bridge = asyncio.run(make())
        for _ in range(2):
            future = pool.submit("GET", here.url("/a"))
            bridge.when_done(future, pytest.fail)
            assert future.result().body == b"/a"
        wait_until(pool, lambda: not bridge._calls)
