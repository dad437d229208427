"""`AsyncClient` under trio: what it does under asyncio, it does there, too."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any

import pytest

from dugong import (
    AsyncClient,
    ConnectionClosed,
    ConnectionPool,
    ConnectionTimedOut,
    Event,
    PoolClosed,
    PoolFull,
    Request,
    RetryPolicy,
    StateError,
)
from dugong.client.aioloop import LoopBridge, call_in, running_loop, running_token
from tests.support.aio import Gate, came, open_async
from tests.support.client import Page, Place, moved
from tests.support.pool import wait_until
from tests.support.server import TIMEOUT, Peer, ScriptedServer

trio = pytest.importorskip("trio")
pytest.importorskip("trio.testing")

LARGE = bytes(range(256)) * 8192  # 2 MiB


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run *main* under trio, for some seconds at most."""

    async def bounded() -> None:
        with trio.fail_after(TIMEOUT * 2):
            await main()

    trio.run(bounded)


async def pieces() -> AsyncIterator[bytes]:
    for piece in (b"one ", b"two ", b"three"):
        await trio.lowlevel.checkpoint()
        yield piece


# --- requests ------------------------------------------------------------------------------------


def test_calls_are_awaited() -> None:
    async def main() -> None:
        async with open_async({"/a": moved("/b")}) as (client, [here]):
            assert (await client.get(here.url("/a"))).text == "/b"
            assert (await client.post(here.url("/c"), json={"a": 1})).text == "/c"

    run(main)


def test_many_tasks_have_each_their_own_response() -> None:
    results: dict[int, str] = {}

    async def main() -> None:
        async with open_async({}) as (client, [here]):

            async def get(n: int) -> None:
                results[n] = (await client.get(here.url(f"/{n}"))).text

            async with trio.open_nursery() as nursery:
                for n in range(300):
                    nursery.start_soon(get, n)

    run(main)
    assert results == {n: f"/{n}" for n in range(300)}


def test_what_a_request_fails_with_is_raised() -> None:
    async def main() -> None:
        async with open_async({"/a": moved("ftp://host/")}, retry=None) as (client, [here]):
            with pytest.raises(Exception, match="ftp"):
                await client.get(here.url("/a"))
            await client.aclose()
            with pytest.raises(PoolClosed):
                await client.get(here.url("/b"))

    run(main)


def test_a_cancelled_call_is_cancelled_in_the_pool_and_harms_no_other() -> None:
    async def main() -> None:
        gate = Gate()
        events: list[Event] = []
        options: dict[str, Any] = {"max_connections_per_host": 1, "on_event": events.append}
        async with open_async(gate, **options) as (client, [here]):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.get, here.url("/held"))
                    await came(gate.asked)
                    scope.cancel()
            assert scope.cancelled_caught
            gate.open.set()
            assert (await client.get(here.url("/b"))).text == "/b"
        assert [event.kind for event in events].count("cancelled") == 1

    run(main)


def test_time_outs_of_trio_end_a_call() -> None:
    async def main() -> None:
        gate = Gate()
        async with open_async(gate) as (client, [here]):
            with pytest.raises(trio.TooSlowError), trio.fail_after(0.05):
                await client.get(here.url("/held"))
            gate.open.set()

    run(main)


def test_calls_wait_for_room_without_blocking_the_loop() -> None:
    results: list[str] = []

    async def main() -> None:
        gate = Gate()
        options = {"max_connections_per_host": 1, "pipeline_depth": 1, "max_queued": 2}
        async with open_async(gate, **options) as (client, [here]):

            async def get(target: str) -> None:
                results.append((await client.get(here.url(target))).text)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(get, "/held")
                await came(gate.asked)
                for n in range(10):
                    nursery.start_soon(get, f"/{n}")
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(PoolFull):
                    client.submit("GET", here.url("/x"))
                gate.open.set()

    run(main)
    assert sorted(results) == sorted(["1", *(f"/{n}" for n in range(10))])


# --- many requests -------------------------------------------------------------------------------


async def _targets(here: Place, count: int) -> AsyncIterator[str]:
    for n in range(count):
        await trio.lowlevel.checkpoint()
        yield here.url(f"/{n}")


@pytest.mark.parametrize("is_async", [True, False])
def test_map_and_as_completed_take_iterables(is_async: bool) -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):

            def urls() -> Any:
                urls = [here.url(f"/{n}") for n in range(500)]
                return _targets(here, 500) if is_async else urls

            texts = [response.text async for response in client.map(urls())]
            assert texts == [f"/{n}" for n in range(500)]
            done = [future.result().text async for future in client.as_completed(urls())]
            assert sorted(done) == sorted(texts)

    run(main)


def test_what_is_left_early_is_cancelled() -> None:
    async def main() -> None:
        gate = Gate()
        async with open_async(gate) as (client, [here]):

            async def endless() -> AsyncIterator[str]:
                yield here.url("/first")
                while True:
                    yield here.url("/held")

            async with aclosing(client.map(endless())) as responses:  # type: ignore[type-var]
                async for response in responses:
                    assert response.text == "/first"
                    break
            gate.open.set()
            await came_to_rest(client)

    run(main)


async def came_to_rest(client: AsyncClient) -> None:
    """Wait until nothing is under way."""
    while (now := client.statistics()).queued or now.in_flight:
        await trio.sleep(0.01)


def test_what_the_source_raises_is_raised_behind_what_came_before() -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):

            async def source() -> AsyncIterator[str]:
                yield here.url("/a")
                raise LookupError("mine")

            futures = client.as_completed(source())
            assert (await anext(futures)).result().text == "/a"
            with pytest.raises(LookupError, match="mine"):
                await anext(futures)

    run(main)


def test_a_cancelled_loop_over_responses_ends_its_requests() -> None:
    async def main() -> None:
        gate = Gate()
        async with open_async(gate) as (client, [here]):
            scope = trio.CancelScope()

            async def take() -> None:
                with scope:
                    async for _ in client.map([here.url("/held")] * 5):
                        pytest.fail("nothing has come")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(take)
                await came(gate.asked)
                scope.cancel()
            assert scope.cancelled_caught
            gate.open.set()
            await came_to_rest(client)

    run(main)


# --- streams -------------------------------------------------------------------------------------


def test_a_body_is_read_as_it_comes() -> None:
    async def main() -> None:
        async with open_async({"/a": Page(LARGE)}) as (client, [here]):
            async with client.stream("GET", here.url("/a")) as response:
                start = await response.read(1000)
                rest = [piece async for piece in response]
                assert start + b"".join(rest) == LARGE
            page = Page(b"one\ntwo")
            here.pages["/b"] = page
            async with client.stream("GET", here.url("/b")) as response:
                assert [line async for line in response.aiter_lines()] == ["one", "two"]

    run(main)


def _stalls(came: threading.Event) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        for request in peer.requests():
            if request.target == "/stalls":
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nstart")
                came.set()
                peer.until_eof()
                return
            peer.respond(b"whole")

    return script


def test_a_task_does_not_wait_for_the_connection_of_its_own_stream() -> None:
    async def main() -> None:
        pages = {"/a": Page(bytes(2**20))}
        async with open_async(pages, max_connections_per_host=1) as (client, [here]):
            async with client.stream("GET", here.url("/a")):
                with pytest.raises(StateError, match="wait for itself"):
                    await client.get(here.url("/b"))
            assert (await client.get(here.url("/c"))).text == "/c"

    run(main)


def test_a_cancelled_read_ends_its_connection_and_harms_no_other() -> None:
    async def main() -> None:
        sent = threading.Event()
        with ScriptedServer(_stalls(sent), repeat=True) as server:
            url = f"http://127.0.0.1:{server.port}"
            async with AsyncClient(trust_env=False, retry=None) as client:
                with trio.CancelScope() as scope:
                    async with client.stream("GET", f"{url}/stalls") as response:
                        assert await response.read(5)
                        scope.deadline = trio.current_time() + 0.05
                        await response.read()
                assert scope.cancelled_caught
                with pytest.raises((ConnectionClosed, ValueError)):
                    await response.read()
                assert (await client.get(f"{url}/b")).body == b"whole"

    run(main)


def test_a_stream_that_is_cancelled_before_its_response_is_given_back() -> None:
    async def main() -> None:
        gate = Gate()
        async with open_async(gate, max_connections=1) as (client, [here]):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    async def cancel() -> None:
                        await came(gate.asked)
                        scope.cancel()

                    nursery.start_soon(cancel)
                    async with client.stream("GET", here.url("/held")):
                        pytest.fail("nothing came")
            assert scope.cancelled_caught
            gate.open.set()
            assert (await client.get(here.url("/b"))).text == "/b"

    run(main)


# --- bodies --------------------------------------------------------------------------------------


def test_async_iterables_are_bodies() -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):
            await client.put(here.url("/a"), body=pieces())
            await client.put(here.url("/a"), body=pieces)
            await client.request(Request("PUT", here.url("/a"), body=pieces()))
            assert {request.body for request in here.requests} == {b"one two three"}

    run(main)


def test_a_callable_makes_the_body_of_each_attempt() -> None:
    statuses = iter(["503 Busy", "200 OK"])

    async def main() -> None:
        async with open_async(
            lambda request: Page(request.body, next(statuses)), retry=RetryPolicy(backoff=0)
        ) as (client, [here]):
            assert (await client.put(here.url("/a"), body=pieces)).body == b"one two three"

    run(main)


def test_a_body_runs_in_the_context_of_its_call() -> None:
    variable: contextvars.ContextVar[bytes] = contextvars.ContextVar("variable")

    async def body() -> AsyncIterator[bytes]:
        yield variable.get()

    async def main() -> None:
        variable.set(b"mine")
        async with open_async(lambda request: Page(request.body)) as (client, [here]):
            assert (await client.put(here.url("/a"), body=body())).body == b"mine"
            request = Request("PUT", here.url("/a"), body=body())
            assert [response.body async for response in client.map([request])] == [b"mine"]

    run(main)


@pytest.mark.parametrize("error", [LookupError("mine"), KeyboardInterrupt("mine")])
def test_what_a_body_raises_fails_its_request_alone(error: BaseException) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        raise error

    async def main() -> None:
        async with open_async({}, retry=None) as (client, [here]):
            with pytest.raises((LookupError, RuntimeError), match="mine"):
                await client.put(here.url("/a"), body=body())
            assert (await client.get(here.url("/b"))).text == "/b"

    run(main)


class Stuck:
    """A body that begins, and then has nothing to give."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.ended = threading.Event()

    async def __call__(self) -> AsyncIterator[bytes]:
        try:
            yield b"x"
            self.began.set()
            await trio.sleep_forever()
        finally:
            self.ended.set()


def _until_eof(peer: Peer) -> None:
    peer.until_eof()


def test_a_cancelled_call_ends_the_task_of_its_body() -> None:
    async def main() -> None:
        stuck = Stuck()
        with ScriptedServer(_until_eof) as server:
            async with AsyncClient(trust_env=False) as client:
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        url = f"http://127.0.0.1:{server.port}/"
                        nursery.start_soon(partial(client.put, url, body=stuck()))
                        await came(stuck.began)
                        scope.cancel()
                await came(stuck.ended)

    run(main)


def test_a_run_that_ends_while_a_body_is_sent_fails_its_request() -> None:
    stuck, futures = Stuck(), []
    client = AsyncClient(trust_env=False, retry=None)

    async def main() -> None:
        futures.append(client.submit("PUT", f"http://127.0.0.1:{server.port}/", body=stuck()))
        await came(stuck.began)

    with ScriptedServer(_until_eof) as server:
        run(main)
        with pytest.raises(RuntimeError, match="CancelledError"):
            futures[0].result(TIMEOUT)
        assert stuck.ended.is_set()
        client.close()


def test_deadlines_count_for_all_that_wait_for_room() -> None:
    async def main() -> None:
        gate = Gate()
        options = {"max_connections_per_host": 1, "pipeline_depth": 1, "max_queued": 1}
        async with open_async(gate, **options) as (client, [here]), trio.open_nursery() as nursery:
            nursery.start_soon(client.get, here.url("/held"))
            await came(gate.asked)
            for target in ("/queued", "/waits"):
                nursery.start_soon(client.get, here.url(target))
                await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(ConnectionTimedOut, match="queued for too long"):
                await client.get(here.url("/late"), deadline=0.05)
            gate.open.set()

    run(main)


def test_a_task_that_is_cancelled_while_it_leaves_a_block_ends_its_request() -> None:
    stuck = Stuck()

    def script(peer: Peer) -> None:
        peer.head()
        peer.respond(b"early")
        peer.until_eof()

    async def main() -> None:
        with ScriptedServer(script) as server:
            async with AsyncClient(trust_env=False) as client:
                url = f"http://127.0.0.1:{server.port}/"
                with trio.move_on_after(0.1):
                    async with client.stream("PUT", url, body=stuck()) as response:
                        assert await response.read() == b"early"
                await came(stuck.ended)

    run(main)


def test_what_goes_on_though_it_was_cancelled_is_left() -> None:
    closed = threading.Event()

    async def stubborn(first: Any, second: Any) -> AsyncIterator[Any]:
        try:
            yield first
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                pass
            while True:
                yield second
        finally:
            closed.set()

    async def main() -> None:
        async with open_async({}) as (client, [here]):
            requests = stubborn(here.url("/1"), here.url("/2"))
            async with aclosing(client.as_completed(requests)) as futures:
                assert (await anext(futures)).result().text == "/1"
            await came(closed)
            assert here.targets == ["GET /1"]
            closed.clear()
            with trio.move_on_after(0.1):
                await client.put(here.url("/a"), body=stubborn(b"a", b"b"))
            await came(closed)

    run(main)


def test_what_a_callable_has_made_has_the_context_of_the_call_and_is_closed() -> None:
    closed = threading.Event()
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="lost")

    class Made:
        def __init__(self) -> None:
            self._name = name.get()

        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield f"{self._name} {name.get()}".encode()

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()
            closed.set()

    async def main() -> None:
        async with open_async({}) as (client, [here]):
            name.set("kept")
            await client.put(here.url("/a"), body=Made)
            assert here.requests[0].body == b"kept kept"
            await came(closed)

    run(main)


# --- loops ---------------------------------------------------------------------------------------


def test_asyncio_and_trio_may_use_one_client_at_the_same_time() -> None:
    here = Place({})
    client = AsyncClient(trust_env=False)
    results: list[str] = []

    async def calls(name: str) -> None:
        for n in range(50):
            response = await client.get(here.url(f"/{name}{n}"))
            results.append(response.text)

    with here.server:
        threads = [
            threading.Thread(target=asyncio.run, args=(calls("a"),)),
            threading.Thread(target=trio.run, args=(calls, "t")),
            threading.Thread(target=trio.run, args=(calls, "u")),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        client.close()
    assert sorted(results) == sorted(f"/{name}{n}" for name in "atu" for n in range(50))


_GUEST = """
import asyncio, trio
from dugong import AsyncClient
from dugong.testing import Server

def serve(peer):
    for request in peer.requests():
        peer.respond(request.target.encode())

async def guest(client, url):
    return (await client.get(url + "/guest")).text

async def host(url):
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    async with AsyncClient() as client:
        trio.lowlevel.start_guest_run(
            guest, client, url,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=done.set_result,
        )
        texts = [(await client.get(f"{url}/{n}")).text for n in range(100)]
        print(texts[-1], (await done).unwrap())

with Server(serve, repeat=True) as server:
    asyncio.run(host(f"http://127.0.0.1:{server.port}"))
"""


def test_a_guest_run_is_told_from_its_host() -> None:
    # In a process of its own, for trio keeps a thread for some seconds.
    printed = subprocess.check_output([sys.executable, "-c", _GUEST], timeout=TIMEOUT * 2)
    assert printed.split() == [b"/99", b"/guest"]


def test_a_run_that_is_over_is_not_called() -> None:
    async def make() -> LoopBridge:
        return LoopBridge(pool)

    here = Place({})
    with here.server, ConnectionPool() as pool:
        bridge = trio.run(make)
        assert not call_in(bridge.loop, pytest.fail)
        future = pool.submit("GET", here.url("/a"))
        bridge.when_done(future, pytest.fail)
        assert future.result(TIMEOUT).body == b"/a"
        wait_until(pool, lambda: not bridge._calls)


def test_a_client_is_closed_in_a_scope_that_is_cancelled() -> None:
    async def main() -> None:
        here = Place({})
        with here.server, trio.CancelScope() as scope:
            async with AsyncClient(trust_env=False) as client:
                await client.get(here.url("/a"))
                scope.cancel()
        with pytest.raises(PoolClosed):
            client.submit("GET", here.url("/b"))

    run(main)


def test_without_a_loop_there_is_no_token() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        running_token()


def test_a_call_in_the_loop_that_raises_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        loop = running_loop()

        def fail() -> None:
            raise LookupError("mine")

        assert call_in(loop, fail)
        event = loop.create_event()
        assert call_in(loop, event.set)
        await event.wait()

    run(main)
    assert "mine" in caplog.text


def test_tasks_in_the_background_end_as_those_of_asyncio() -> None:
    async def returns() -> None:
        await trio.lowlevel.checkpoint()

    async def raises() -> None:
        raise LookupError("mine")

    async def main() -> None:
        loop = running_loop()
        ended: list[Any] = []
        task = loop.create_task(returns())
        task.add_done_callback(ended.append)
        await task
        assert ended == [task]
        assert (task.done(), task.cancelled(), task.exception()) == (True, False, None)
        task = loop.create_task(raises())
        with pytest.raises(LookupError, match="mine"):
            await task
        assert isinstance(task.exception(), LookupError)
        for begins in (False, True):
            task = loop.create_task(trio.sleep_forever())
            if begins:
                await trio.testing.wait_all_tasks_blocked()
            task.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert (task.done(), task.cancelled()) == (True, True)

    run(main)
