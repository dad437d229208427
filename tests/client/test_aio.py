"""`AsyncClient`: its calls, and what becomes of them when tasks, loops and the client end."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import socket
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dugong import (
    AsyncClient,
    Client,
    ConnectError,
    ConnectionPool,
    HostPolicy,
    PoolClosed,
    PoolFull,
    Request,
)
from dugong.client.aioloop import LoopBridge
from tests.support.aio import Gate, came, open_async
from tests.support.client import Page, Place, moved
from tests.support.fork import holds_in_child
from tests.support.pool import wait_for, wait_until
from tests.support.server import TIMEOUT, ReceivedRequest

METHODS = ["get", "head", "options", "post", "put", "patch", "delete"]


@pytest.fixture(autouse=True)
def _asyncio_complains_of_nothing(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    gc.collect()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_the_policy_of_a_host_can_be_set() -> None:
    async def main() -> None:
        async with open_async({}, host_policy=lambda origin: None) as (client, [here]):
            policy = HostPolicy(headers={"X-A": "1"})
            client.set_host_policy(here.origin, policy)
            await client.get(here.url("/a"))
            assert here.requests[0].headers["x-a"] == "1"
            assert client.statistics().hosts[here.origin].policy == policy

    asyncio.run(main())


#: What an `AsyncClient` does without, by method and parameter, and why.
WITHOUT = {("submit", "block"): "it never waits, or the event loop would"}
#: What else it has, and why.
BESIDE = {
    "aclose": "close() blocks",
    "cookies": "it is an attribute of the instance there",
}


def public(cls: type) -> dict[str, Any]:
    return {name: value for name, value in vars(cls).items() if not name.startswith("_")}


def test_it_has_all_that_a_client_has() -> None:
    ours, theirs = public(AsyncClient), public(Client)
    assert ours.keys() - theirs.keys() == BESIDE.keys()
    assert theirs.keys() - ours.keys() == set()
    assert inspect.signature(AsyncClient) == inspect.signature(Client)


@pytest.mark.parametrize("name", sorted(public(Client)))
def test_its_methods_take_what_those_of_a_client_take(name: str) -> None:
    taken = dict(inspect.signature(getattr(Client, name)).parameters)
    for method, parameter in WITHOUT:
        if method == name:
            del taken[parameter]
    own = dict(inspect.signature(getattr(AsyncClient, name)).parameters)
    if "requests" in own:  # which may be async, too
        own["requests"] = own["requests"].replace(annotation=taken["requests"].annotation)
    assert own == taken


@pytest.mark.parametrize("method", METHODS)
def test_each_method_has_its_own_call(method: str) -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):
            assert (await getattr(client, method)(here.url("/a"))).status == 200
            assert here.targets == [f"{method.upper()} /a"]

    asyncio.run(main())


def test_a_call_does_what_that_of_a_client_does() -> None:
    async def main() -> None:
        pages = {"/a": moved("/b", headers="Set-Cookie: c=1\r\n")}
        async with open_async(pages, headers={"X-Own": "1"}, auth=("u", "p")) as (client, [here]):
            response = await client.post(here.url("/a"), json={"a": 1}, params={"q": 2})
            assert (response.text, len(response.history)) == ("/b", 1)
            assert here.targets == ["POST /a?q=2", "GET /b"]
            assert here.requests[1].headers["cookie"] == "c=1"
            assert client.cookies["c"] == "1"
            assert client.statistics().answered == 2

    asyncio.run(main())


def test_a_request_may_be_given_instead_of_its_parameters() -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):
            request = Request("PUT", here.url("/a"), body=b"x", context=7)
            response = await client.request(request)
            assert response.request.context == 7
            assert here.targets == ["PUT /a"]

    asyncio.run(main())


def test_submit_returns_a_concurrent_future_at_once() -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):
            future = client.submit("GET", here.url("/a"))
            assert (await asyncio.wrap_future(future)).text == "/a"

    asyncio.run(main())


BAD_CALLS: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"nonsense": 1}, TypeError),
    ({"json": 1, "body": b""}, ValueError),
    ({"deadline": 0}, ValueError),
    ({"headers": {"X": "\n"}}, ValueError),
]


@pytest.mark.parametrize(("options", "error"), BAD_CALLS)
def test_a_call_that_makes_no_sense_is_refused(
    options: dict[str, Any], error: type[Exception]
) -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):
            with pytest.raises(error):
                await client.post(here.url("/a"), **options)
            with pytest.raises(error):
                client.stream("POST", here.url("/a"), **options)
            assert here.requests == []

    asyncio.run(main())


def test_what_makes_no_sense_as_a_client_is_refused() -> None:
    with pytest.raises(TypeError, match="nonsense"):
        AsyncClient(nonsense=1)
    with pytest.raises(ValueError, match="timeout"):
        AsyncClient(timeout=-1)


def test_a_failure_is_raised_where_the_call_is_awaited() -> None:
    async def main() -> None:
        async with open_async({"/a": moved("/a")}) as (client, [here]):
            with pytest.raises(Exception, match="redirects lead back"):
                await client.get(here.url("/a"))

    asyncio.run(main())


class Token:
    """What a weak reference can be made to."""


def test_a_failure_is_gone_when_its_exception_is() -> None:
    async def main() -> None:
        async with AsyncClient(retry=None, trust_env=False) as client:
            token = Token()
            with socket.create_server(("127.0.0.1", 0)) as free:
                url = f"http://127.0.0.1:{free.getsockname()[1]}/"
            is_alive = weakref.ref(token)
            try:
                await client.get(url, context=token)
            except ConnectError:
                pass
            del token
            await asyncio.sleep(0)  # what called back is gone after that
            await asyncio.to_thread(wait_until, client._pool, lambda: is_alive() is None)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


# --- cancelling -----------------------------------------------------------------------------------


def test_cancelling_a_task_cancels_its_request_and_no_other() -> None:
    async def main() -> None:
        gate = Gate()
        async with open_async(gate, max_connections_per_host=1) as (client, [here]):
            held = asyncio.create_task(client.get(here.url("/held")))
            await came(gate.asked)
            others = [asyncio.create_task(client.get(here.url(f"/{n}"))) for n in range(20)]
            await asyncio.sleep(0)
            for task in (held, *others[::2]):
                task.cancel()
            await asyncio.wait([held, *others[::2]])
            assert all(task.cancelled() for task in (held, *others[::2]))
            gate.open.set()
            texts = [response.text for response in await asyncio.gather(*others[1::2])]
            assert texts == [f"/{n}" for n in range(1, 20, 2)]

    asyncio.run(main())


def test_a_request_of_a_cancelled_task_leaves_the_queue() -> None:
    async def main() -> None:
        gate = Gate()
        async with open_async(gate, max_connections_per_host=1, pipeline_depth=1) as (
            client,
            [here],
        ):
            held = asyncio.create_task(client.get(here.url("/held")))
            await came(gate.asked)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.get(here.url("/never")), 0.01)
            assert client.statistics().queued == 0
            gate.open.set()
            await held
            assert here.targets == ["GET /held"]

    asyncio.run(main())


def test_a_task_that_is_cancelled_when_its_response_has_come_harms_nothing() -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):
            for _ in range(50):
                task = asyncio.create_task(client.get(here.url("/a")))
                other = asyncio.create_task(client.get(here.url("/b")))
                await asyncio.sleep(0)
                while not client.statistics().answered:
                    await asyncio.sleep(0)
                task.cancel()
                assert (await other).text == "/b"
                await asyncio.wait([task])

    asyncio.run(main())


def test_a_failure_that_comes_when_the_task_is_cancelled_is_not_logged() -> None:
    go_on = threading.Event()

    def serve(request: ReceivedRequest) -> Page:
        wait_for(go_on)
        return moved("ftp://host/")

    async def main() -> None:
        async with open_async(serve) as (client, [here]):
            task = asyncio.create_task(client.get(here.url("/a")))
            await asyncio.sleep(0)
            go_on.set()
            bridge = client._bridged()
            wait_until(client._pool, lambda: bridge._calls)  # the loop has no turn meanwhile
            task.cancel()
            await asyncio.wait([task])

    asyncio.run(main())


# --- full queues ----------------------------------------------------------------------------------


def test_a_call_waits_for_room_without_blocking_the_loop() -> None:
    async def main() -> None:
        gate = Gate()
        options = {"max_connections_per_host": 1, "pipeline_depth": 1, "max_queued": 2}
        async with open_async(gate, **options) as (client, [here]):
            held = asyncio.create_task(client.get(here.url("/held")))
            await came(gate.asked)
            calls = [asyncio.create_task(client.get(here.url(f"/{n}"))) for n in range(10)]
            await asyncio.sleep(0)
            with pytest.raises(PoolFull):
                client.submit("GET", here.url("/x"))
            calls[5].cancel()
            gate.open.set()
            await held
            await asyncio.wait(calls)
            assert [task.cancelled() for task in calls].index(True) == 5
            assert all(task.cancelled() or task.result().status == 200 for task in calls)

    asyncio.run(main())


def test_the_call_that_waits_for_room_can_be_cancelled() -> None:
    async def main() -> None:
        gate = Gate()
        options = {"max_connections_per_host": 1, "pipeline_depth": 1, "max_queued": 1}
        async with open_async(gate, **options) as (client, [here]):
            held = asyncio.create_task(client.get(here.url("/held")))
            await came(gate.asked)
            queued = asyncio.create_task(client.get(here.url("/queued")))
            waits = asyncio.create_task(client.get(here.url("/waits")))
            await asyncio.sleep(0)
            assert client.statistics().queued == 1
            waits.cancel()
            await asyncio.wait([waits])
            gate.open.set()
            await asyncio.gather(held, queued)
            assert (await client.get(here.url("/b"))).text == "/b"

    asyncio.run(main())


# --- the end --------------------------------------------------------------------------------------


def test_calls_that_are_under_way_fail_when_the_client_is_closed() -> None:
    async def main() -> None:
        gate = Gate()
        async with open_async(gate) as (client, [here]):
            calls = [asyncio.create_task(client.get(here.url("/held"))) for _ in range(3)]
            await came(gate.asked)
            await client.aclose()
            gate.open.set()
            for call in calls:
                with pytest.raises(PoolClosed):
                    await call
            with pytest.raises(PoolClosed):
                await client.get(here.url("/b"))

    asyncio.run(main())


def test_a_pool_that_was_given_is_not_closed() -> None:
    async def main(pool: ConnectionPool, url: str) -> None:
        async with (
            AsyncClient(pool=pool, trust_env=False) as client,
            client.stream("GET", url) as response,
        ):
            await response.read()

    here = Place({})
    with here.server, ConnectionPool() as pool:
        asyncio.run(main(pool, here.url("/a")))
        assert pool.get(here.url("/b")).body == b"/b"


def test_a_client_may_be_closed_without_a_loop() -> None:
    client = AsyncClient()
    client.close()
    client.close()


def test_several_loops_may_use_one_client_at_the_same_time() -> None:
    here = Place({})
    client = AsyncClient(trust_env=False)
    results: list[str] = []

    async def calls(name: str) -> None:
        for n in range(50):
            pair = (client.get(here.url(f"/{name}{n}")), client.get(here.url(f"/{name}-{n}")))
            results.extend(response.text for response in await asyncio.gather(*pair))

    with here.server:
        threads = [threading.Thread(target=lambda n=n: asyncio.run(calls(n))) for n in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        client.close()
    assert len(set(results)) == 300


def test_a_loop_after_another_may_use_one_client() -> None:
    here = Place({})
    client = AsyncClient(trust_env=False)
    with here.server:
        for _ in range(3):
            assert asyncio.run(client.get(here.url("/a"))).text == "/a"
        client.close()


def test_a_loop_that_is_closed_while_calls_are_under_way_leaves_nothing_behind() -> None:
    gate = Gate()
    here = Place(gate)
    client = AsyncClient(trust_env=False)

    async def main() -> None:
        for _ in range(3):
            asyncio.get_running_loop().create_task(client.get(here.url("/held")))
        await came(gate.asked)

    with here.server:
        asyncio.run(main())
        assert client.statistics().queued == 0
        gate.open.set()
        client.close()


def test_a_loop_that_is_closed_without_an_end_of_its_tasks_is_left_alone() -> None:
    gate = Gate()
    here = Place(gate)
    client = AsyncClient(trust_env=False)
    futures = []

    async def main() -> None:
        # As a call does, but with no task that asyncio could complain of.
        bridge = client._bridged()
        for target in ("/held", "/b"):
            futures.append(await bridge.submit(client._prepare("GET", here.url(target), {})))
            bridge.when_done(futures[-1], pytest.fail)
        await came(gate.asked)

    with here.server:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        gate.open.set()
        assert futures[0].result(TIMEOUT).body == b"1"
        client.close()


def test_the_threads_of_the_loop_may_all_be_busy() -> None:
    async def main() -> None:
        gate, go_on = Gate(), threading.Event()
        options = {"max_connections_per_host": 1, "pipeline_depth": 1, "max_queued": 1}
        async with open_async(gate, **options) as (client, [here]):
            held = asyncio.create_task(client.get(here.url("/held")))
            await came(gate.asked)
            executor = ThreadPoolExecutor(1)
            asyncio.get_running_loop().set_default_executor(executor)
            busy = asyncio.create_task(asyncio.to_thread(go_on.wait, TIMEOUT))
            calls = [asyncio.create_task(client.get(here.url(f"/{n}"))) for n in range(10)]
            await asyncio.sleep(0)
            gate.open.set()
            responses = await asyncio.wait_for(asyncio.gather(held, *calls), TIMEOUT / 2)
            assert {response.status for response in responses} == {200}
            async with client.stream("GET", here.url("/b")) as response:
                assert await response.read() == b"/b"
            await asyncio.wait_for(client.aclose(), TIMEOUT / 2)
            assert not busy.done()
            go_on.set()
            await busy

    asyncio.run(main())


def test_loops_that_take_turns_have_one_bridge_each_as_long_as_they_use_it() -> None:
    async def main() -> None:
        gate = Gate()
        async with open_async(gate) as (client, [here]):
            call = asyncio.create_task(client.get(here.url("/held")))
            await came(gate.asked)
            own = client._bridged()

            async def other() -> weakref.ref[LoopBridge]:
                bridge = client._bridged()
                assert bridge is not own
                assert bridge is client._bridged()
                return weakref.ref(bridge)

            others = await asyncio.to_thread(asyncio.run, other())
            assert client._bridged() is own
            assert others() is None
            gate.open.set()
            await call

    asyncio.run(main())


def test_a_forked_child_may_use_calls_and_streams() -> None:
    here = Place(lambda request: Page(bytes(1_000_000)))
    client = AsyncClient(trust_env=False)

    async def main() -> bool:
        response = await client.get(here.url("/a"))
        async with client.stream("GET", here.url("/b")) as streamed:
            return await streamed.read() == response.body

    with here.server:
        assert asyncio.run(main())
        assert holds_in_child(lambda: asyncio.run(asyncio.wait_for(main(), TIMEOUT)))
        assert asyncio.run(main())
        client.close()


def test_a_repr_shows_no_secrets() -> None:
    client = AsyncClient(headers={"X-Key": "secret"}, auth=("secret", "secret"))
    assert "secret" not in repr(client)
    client.close()


def test_pages_come_decoded() -> None:
    import gzip

    async def main() -> None:
        page = Page(gzip.compress(b"text"), headers="Content-Encoding: gzip\r\n")
        async with open_async({"/a": page}) as (client, [here]):
            assert (await client.get(here.url("/a"))).body == b"text"
            async with client.stream("GET", here.url("/a")) as response:
                assert await response.read() == b"text"

    asyncio.run(main())
