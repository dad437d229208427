"""The bridge from the threads of a pool into an event loop."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from dugong import ConnectionPool, ConnectionTimedOut, PoolClosed, Request, ResponseFuture
from dugong.client.aioloop import LoopBridge, call_in
from tests.support.aio import Gate
from tests.support.client import Place
from tests.support.pool import wait_for, wait_until
from tests.support.server import TIMEOUT


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


def test_a_bridge_goes_on_when_an_interrupt_of_the_loop_has_lost_its_wake_up() -> None:
    here = Place({})
    loop = asyncio.new_event_loop()
    with here.server, ConnectionPool() as pool:

        async def make() -> LoopBridge:
            return LoopBridge(pool)

        bridge = loop.run_until_complete(make())
        called: list[Any] = []

        def interrupt(future: object) -> None:
            called.append(future)
            if len(called) == 1:
                raise KeyboardInterrupt

        first, second, third = (pool.submit("GET", here.url(f"/{n}")) for n in range(3))
        for future in (first, second, third):
            assert future.result().status == 200
        for future in (first, second):
            bridge.when_done(future, interrupt)
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(asyncio.sleep(0))
        assert called == [first, first, second]  # none of them is lost
        # An interrupt between two calls that the loop makes loses one of these.
        call_soon = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *args, **options: None  # type: ignore[assignment, misc, return-value]  # it is lost
        bridge.when_done(third, called.append)
        loop.call_soon_threadsafe = call_soon  # type: ignore[method-assign]  # as before
        assert loop.run_until_complete(get(bridge, pool, here.url("/b"))) == b"/b"
        assert called[3:] == [third]
    loop.close()


async def get(bridge: LoopBridge, pool: ConnectionPool, url: str, **options: Any) -> bytes:
    """Return the body of what a bridge has got, within some seconds."""
    job = pool._prepare(Request("GET", url, **options))
    future = await asyncio.wait_for(bridge.submit(job), TIMEOUT)
    return (await asyncio.wait_for(bridge.result(future), TIMEOUT)).body


class Full:
    """A pool whose queues are full, as long as the server has not responded to the first request.

    The server may respond when `gate.open` is set.
    """

    def __init__(self) -> None:
        self.gate = Gate()
        self.here = Place(self.gate)
        self.pool = ConnectionPool(max_connections_per_host=1, pipeline_depth=1, max_queued=1)
        self.futures: list[ResponseFuture] = []

    def __enter__(self) -> Full:
        self.here.server.__enter__()
        self.futures.append(self.pool.submit("GET", self.here.url("/held")))
        wait_for(self.gate.asked)
        self.futures.append(self.pool.submit("GET", self.here.url("/queued")))
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.gate.open.set()
        self.pool.close()
        self.here.server.__exit__(*exc_info)

    def make_room(self) -> None:
        self.gate.open.set()


def test_what_waits_for_room_is_queued_in_its_order_and_takes_no_thread() -> None:
    async def main() -> None:
        with Full() as full:
            bridge = LoopBridge(full.pool)
            tasks = [
                asyncio.create_task(get(bridge, full.pool, full.here.url(f"/{n}")))
                for n in range(20)
            ]
            await asyncio.sleep(0)
            assert not [t for t in threading.enumerate() if t.name.startswith("asyncio")]
            tasks[0].cancel()
            tasks[7].cancel()
            await asyncio.wait([tasks[0], tasks[7]])
            full.make_room()
            rest = [task for task in tasks if not task.done()]
            await asyncio.gather(*rest)
            expected = [f"GET /{n}" for n in range(20) if n not in (0, 7)]
            assert full.here.targets == ["GET /held", "GET /queued", *expected]

    asyncio.run(main())


def test_deadlines_count_for_all_that_wait_for_room() -> None:
    async def main() -> None:
        with Full() as full:
            bridge = LoopBridge(full.pool)
            first = asyncio.create_task(get(bridge, full.pool, full.here.url("/first")))
            await asyncio.sleep(0)
            with pytest.raises(ConnectionTimedOut, match="queued for too long"):
                await get(bridge, full.pool, full.here.url("/late"), deadline=0.05)
            full.make_room()
            assert await first == b"/first"
            assert "GET /late" not in full.here.targets

    asyncio.run(main())


def test_what_waits_for_room_is_told_that_the_pool_is_closed() -> None:
    async def main() -> None:
        with Full() as full:
            bridge = LoopBridge(full.pool)
            tasks = [
                asyncio.create_task(get(bridge, full.pool, full.here.url("/a"))) for _ in range(3)
            ]
            await asyncio.sleep(0)
            await asyncio.to_thread(full.pool.close)
            for task in tasks:
                with pytest.raises(PoolClosed):
                    await task

    asyncio.run(main())


def test_a_thread_and_a_loop_that_wait_for_room_both_get_it() -> None:
    async def main() -> None:
        with Full() as full:
            bridge = LoopBridge(full.pool)
            mine = asyncio.create_task(get(bridge, full.pool, full.here.url("/mine")))
            other = asyncio.to_thread(full.pool.get, full.here.url("/other"))
            await asyncio.sleep(0)
            full.make_room()
            assert await mine == b"/mine"
            assert (await other).body == b"/other"

    asyncio.run(main())
