"""Many requests at a time under asyncio: in order and as they finish, and how much is under way."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from dugong import AsyncClient, HostPolicy, HTTPStatusError, PoolClosed, RedirectError, Request
from dugong.pool import many, parking
from dugong.pool.many import AHEAD
from dugong.testing import MockPool, MockRequest
from tests.support.aio import LIBRARIES, Gate, came, open_async, run
from tests.support.client import Page, moved
from tests.support.server import TIMEOUT


@pytest.fixture(autouse=True)
def _asyncio_complains_of_nothing(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    gc.collect()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def each(items: Any) -> AsyncIterator[Any]:
    for item in items:
        yield item


@pytest.mark.parametrize("kind", [list, iter, each])
def test_responses_come_in_the_order_of_their_requests(kind: Any) -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):
            urls = [here.url(f"/{n}") for n in range(3000)]
            assert [r.url async for r in client.map(kind(urls))] == urls

    asyncio.run(main())


@pytest.mark.parametrize("kind", [list, iter, each])
def test_futures_come_when_they_are_done(kind: Any) -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):
            urls = [here.url(f"/{n}") for n in range(3000)]
            missing = set(urls)
            async for future in client.as_completed(kind(urls)):
                assert future.done()
                missing.remove(future.request.url)
            assert missing == set()

    asyncio.run(main())


@pytest.mark.parametrize("kind", [list, each])
def test_nothing_gives_nothing(kind: Any) -> None:
    async def main() -> None:
        async with AsyncClient() as client:
            assert [r async for r in client.map(kind([]))] == []
            assert [r async for r in client.as_completed(kind([]))] == []

    asyncio.run(main())


def test_a_future_says_which_request_it_is_for() -> None:
    async def main() -> None:
        async with open_async({"/2": moved("/b")}) as (client, [here]):
            requests = [Request("GET", here.url(f"/{n}")) for n in range(9)]
            assert {f.request async for f in client.as_completed(requests)} == set(requests)

    asyncio.run(main())


def test_a_response_that_is_held_up_holds_up_no_others() -> None:
    async def main() -> None:
        gate = Gate()
        async with open_async(gate, gate, pipeline_depth=1) as (client, [here, there]):
            urls = [here.url("/held"), *[there.url(f"/{n}") for n in range(5)]]
            done = []
            async for future in client.as_completed(urls):
                done.append(future.request.target)
                if len(done) == 5:
                    gate.open.set()
            assert done[-1] == "/held"

    asyncio.run(main())


def test_responses_come_while_an_async_source_has_nothing() -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):
            have_come = asyncio.Event()

            async def source() -> AsyncIterator[str]:
                for n in range(3):
                    yield here.url(f"/{n}")
                await have_come.wait()  # for ever, if nothing were given before there is more
                yield here.url("/last")

            texts = []
            async for response in client.map(source()):
                texts.append(response.text)
                if len(texts) == 3:
                    have_come.set()
            assert texts == ["/0", "/1", "/2", "/last"]

    asyncio.run(main())


class Growing:
    """A source that has what was put into it, and is over when there is `last`."""

    def __init__(self, *urls: str) -> None:
        self.urls = list(urls)
        self.last: str | None = None
        self.call: Any = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if not self.urls:
            raise StopIteration
        return self.urls.pop(0)

    def call_when_more(self, call: Any, /) -> bool:
        if self.last is not None:
            return False
        self.call = call
        return True


@pytest.mark.parametrize("name", ["map", "as_completed"])
def test_a_source_that_may_have_more_is_waited_for(name: str) -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):
            source = Growing(here.url("/1"))
            results = getattr(client, name)(source)
            await anext(results)
            waiting = asyncio.ensure_future(anext(results))
            while source.call is None:
                await asyncio.sleep(0)
            source.last = here.url("/2")
            source.urls.append(source.last)
            await asyncio.to_thread(source.call)  # any thread may
            result = await waiting
            assert (result if name == "map" else result.result()).text == "/2"
            assert [each async for each in results] == []

    asyncio.run(main())


def test_an_endless_source_is_taken_from_only_as_far_as_needed() -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):
            numbers = itertools.count()
            source = (here.url(f"/{n}") for n in numbers)
            async with aclosing(client.map(source)) as responses:
                count = 0
                async for _ in responses:
                    count += 1
                    if count == 3 * AHEAD:
                        break
            assert next(numbers) <= 4 * AHEAD + 1

    asyncio.run(main())


def test_few_large_bodies_are_under_way_at_a_time() -> None:
    async def main() -> None:
        async with open_async(lambda request: Page(bytes(100_000))) as (client, [here]):
            begun = 0

            def source() -> Iterator[str]:
                nonlocal begun
                for n in range(100):
                    begun += 1
                    yield here.url(f"/{n}")

            taken = 0
            async for _ in client.as_completed(source(), max_ahead_size=1_000_000):
                taken += 1
                assert begun - taken <= 12  # ten, one that is taken, and one that waits
            assert taken == 100

    asyncio.run(main())


# --- hosts that let few requests start ------------------------------------------------------------

NEVER = HostPolicy(min_interval=1000.0)  # but for the first request, and one that waits


def ok(request: MockRequest) -> str:
    return request.target


def policy_of(origin: Any) -> HostPolicy | None:
    return NEVER if origin.host.startswith("slow") else None


def urls(name: str, count: int) -> list[str]:
    return [f"http://{name}/{i}" for i in range(count)]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("kind", [list, iter, each])
def test_thousands_of_requests_to_a_slow_host_do_not_keep_others_out(
    kind: Any, library: str
) -> None:
    async def main() -> None:
        async with AsyncClient(pool=pool) as client:
            source = urls("slow", 2 * AHEAD) + urls("fast", 2 * AHEAD)
            async with aclosing(client.as_completed(kind(source))) as done:
                got = {(await anext(done)).request.url for _ in range(2 * AHEAD + 1)}
                assert got == {"http://slow/0", *urls("fast", 2 * AHEAD)}
                assert client.statistics().queued <= 2

    with MockPool(ok, host_policy=policy_of) as pool:
        run(library, main)


def test_more_slow_hosts_than_may_be_under_way_keep_no_others_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with AsyncClient(pool=pool) as client:
            slow = [f"http://slow{host}/{i}" for i in range(5) for host in range(50)]
            async with aclosing(client.as_completed(slow + urls("fast", 100))) as done:
                got = {(await anext(done)).request.url for _ in range(150)}
                assert got == {*slow[:50], *urls("fast", 100)}

    monkeypatch.setattr(many, "AHEAD", 16)
    with MockPool(ok, host_policy=policy_of) as pool:
        run("asyncio", main)


@pytest.mark.parametrize("library", LIBRARIES)
def test_each_request_comes_once_and_those_of_a_host_in_their_order(library: str) -> None:
    policy = HostPolicy(min_interval=0.01, max_connections=1)
    got: list[str] = []

    async def main() -> None:
        async with AsyncClient(pool=pool) as client:
            order = [f"http://{host}/{i}" for i in range(20) for host in "ab"]
            done = client.as_completed(each(order))
            got.extend([future.request.url async for future in done])

    with MockPool(ok, host_policy=lambda origin: policy) as pool:
        run(library, main)
    assert [url for url in got if "//a" in url] == [f"http://a/{i}" for i in range(20)]
    assert [url for url in got if "//b" in url] == [f"http://b/{i}" for i in range(20)]
    assert len(got) == 40


def test_what_is_parked_is_submitted_while_an_async_source_has_nothing() -> None:
    policy = HostPolicy(max_in_flight=1)

    async def main() -> None:
        async with AsyncClient(pool=pool) as client:
            have_come = asyncio.Event()

            async def source() -> AsyncIterator[str]:
                for url in urls("a", 100):
                    yield url
                await have_come.wait()  # for ever, unless all of these come before there is more

            count = 0
            async for _ in client.as_completed(source()):
                count += 1
                if count == 100:
                    have_come.set()
            assert count == 100

    with MockPool(ok, host_policy=lambda origin: policy) as pool:
        run("asyncio", main)


@pytest.mark.parametrize("kind", [iter, each])
def test_no_more_is_taken_from_the_source_than_may_be_parked(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = itertools.count()

    async def main() -> None:
        async with AsyncClient(pool=pool) as client:
            source = (f"http://slow/{i}" for i in numbers)
            async with aclosing(client.as_completed(kind(source))) as done:
                assert (await anext(done)).result().text == "/0"
        assert next(numbers) <= 104  # two are submitted, and another one when one of them is taken
        assert pool.statistics().queued == 0

    monkeypatch.setattr(parking, "PARKED", 100)
    with MockPool(ok, host_policy=policy_of) as pool:
        run("asyncio", main)


def test_what_was_full_is_filled_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = HostPolicy(min_interval=0.001, max_connections=1)
    got: list[str] = []

    async def main() -> None:
        async with AsyncClient(pool=pool) as client:
            async for future in client.as_completed(each(urls("a", 500))):
                got.append(future.result().request.url)
                await asyncio.sleep(0)  # so that the source is looked at between any two steps

    monkeypatch.setattr(parking, "PARKED", 3)
    with MockPool(ok, host_policy=lambda origin: policy) as pool:
        run("asyncio", main)
    assert got == urls("a", 500)


def test_what_the_source_raises_comes_behind_all_that_was_parked() -> None:
    async def source() -> AsyncIterator[str]:
        for url in urls("slow", 10):
            yield url
        raise SourceFailed

    async def main() -> None:
        async with AsyncClient(pool=pool) as client:
            done = client.as_completed(source())
            got = [(await anext(done)).result().text]
            client.set_host_policy("http://slow", HostPolicy())
            got += [(await anext(done)).result().text for _ in range(9)]
            assert sorted(got) == [f"/{i}" for i in range(10)]
            with pytest.raises(SourceFailed):
                await anext(done)

    with MockPool(ok, host_policy=policy_of) as pool:
        run("asyncio", main)


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_is_parked_ends_with_the_pool(library: str) -> None:
    """All futures come, and then it is said that there are no more."""

    async def main() -> None:
        async with (
            AsyncClient(pool=pool) as client,
            aclosing(client.as_completed(urls("slow", 100))) as done,
        ):
            assert (await anext(done)).result().text == "/0"
            pool.close()
            assert isinstance((await anext(done)).exception(), PoolClosed)
            with pytest.raises(PoolClosed):
                await anext(done)

    with MockPool(ok, host_policy=policy_of) as pool:
        run(library, main)


def test_what_is_parked_is_bounded_by_the_sizes_of_bodies_once_it_is_submitted() -> None:
    policy = HostPolicy(rate=1e6, burst=1000)

    async def main() -> None:
        async with AsyncClient(pool=pool) as client:
            requests = (Request("GET", f"http://a/{i}") for i in itertools.count())
            async with aclosing(client.as_completed(requests, max_ahead_size=10_000)) as done:
                for taken in range(200):
                    await anext(done)
                    assert len(pool.requests) - taken <= 12

    with MockPool(lambda request: bytes(1000), host_policy=lambda origin: policy) as pool:
        run("asyncio", main)


def test_map_keeps_the_order_though_a_host_is_slow() -> None:
    policy = HostPolicy(min_interval=0.01)

    async def main() -> None:
        async with AsyncClient(pool=pool) as client:
            order = [f"http://{host}/{i}" for i in range(10) for host in "ab"]
            assert [response.url async for response in client.map(order)] == order

    with MockPool(ok, host_policy=lambda origin: policy if origin.host == "a" else None) as pool:
        run("asyncio", main)


# --- failures -------------------------------------------------------------------------------------


def test_a_failure_is_raised_when_it_is_its_turn_and_the_rest_is_cancelled() -> None:
    async def main() -> None:
        gate = Gate(lambda request: moved("ftp://host/") if request.target == "/1" else Page(b"x"))
        async with open_async(gate) as (client, [here]):
            urls = [here.url(target) for target in ("/0", "/1", "/held", "/3")]
            responses = client.map(urls)
            assert (await anext(responses)).body == b"x"
            with pytest.raises(RedirectError):
                await anext(responses)
            gate.open.set()
            assert client.statistics().queued == 0

    asyncio.run(main())


def test_a_failure_is_a_future_of_as_completed() -> None:
    async def main() -> None:
        async with open_async({"/1": moved("ftp://host/")}) as (client, [here]):
            futures = client.as_completed([here.url(f"/{n}") for n in range(3)])
            errors = [type(f.exception()) async for f in futures]
            assert sorted(map(str, errors)) == sorted(map(str, [RedirectError, *[type(None)] * 2]))

    asyncio.run(main())


class SourceFailed(Exception):
    pass


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("call", ["map", "as_completed"])
def test_what_the_source_raises_is_raised_behind_all_that_came_before(
    call: str, is_async: bool
) -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):

            def source() -> Iterator[str]:
                yield from [here.url(f"/{n}") for n in range(5)]
                raise SourceFailed

            results = getattr(client, call)(each(source()) if is_async else source())
            for _ in range(5):
                await anext(results)
            with pytest.raises(SourceFailed):
                await anext(results)

    asyncio.run(main())


def test_what_cannot_be_a_request_is_raised_when_it_is_its_turn() -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):
            responses = client.map([here.url("/a"), "no URL"])
            assert (await anext(responses)).text == "/a"
            with pytest.raises(ValueError, match="base_url"):
                await anext(responses)

    asyncio.run(main())


@pytest.mark.parametrize("call", ["map", "as_completed"])
def test_arguments_that_make_no_sense_are_refused_at_the_call(call: str) -> None:
    async def main() -> None:
        async with AsyncClient() as client:
            for bad in ("http://host/", 7, Request("GET", "http://host/")):
                with pytest.raises(TypeError, match="iterable"):
                    getattr(client, call)(bad)
            with pytest.raises(ValueError, match="max_ahead_size"):
                getattr(client, call)([], max_ahead_size=0)

    asyncio.run(main())


# --- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["map", "as_completed"])
def test_what_is_under_way_is_cancelled_when_its_consumer_is(call: str) -> None:
    async def main() -> None:
        gate = Gate()
        async with open_async(gate, max_connections_per_host=1) as (client, [here]):
            urls = [here.url("/held"), *[here.url(f"/{n}") for n in range(100)]]

            async def consume() -> None:
                async for _ in getattr(client, call)(urls):
                    pass

            consumer = asyncio.create_task(consume())
            await came(gate.asked)
            consumer.cancel()
            await asyncio.wait([consumer])
            assert client.statistics().queued == 0
            gate.open.set()

    asyncio.run(main())


def test_what_is_under_way_is_cancelled_when_its_consumer_leaves() -> None:
    async def main() -> None:
        gate = Gate()
        async with open_async(gate, max_connections_per_host=1, pipeline_depth=1) as (
            client,
            [here],
        ):
            urls = [here.url("/a"), here.url("/held"), *[here.url(f"/{n}") for n in range(9)]]
            async with aclosing(client.as_completed(urls)) as futures:
                await anext(futures)
                await came(gate.asked)
                assert client.statistics().queued
            assert client.statistics().queued == 0
            gate.open.set()

    asyncio.run(main())


def test_a_source_that_goes_on_though_it_was_cancelled_is_left() -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):
            closed = asyncio.Event()

            async def stubborn() -> AsyncIterator[str]:
                try:
                    yield here.url("/1")
                    try:
                        await asyncio.sleep(TIMEOUT * 10)
                    except asyncio.CancelledError:
                        pass
                    while True:
                        yield here.url("/2")
                finally:
                    closed.set()

            async with aclosing(client.as_completed(stubborn())) as futures:
                assert (await anext(futures)).result().text == "/1"
            await asyncio.wait_for(closed.wait(), TIMEOUT)
            assert here.targets == ["GET /1"]

    asyncio.run(main())


def test_a_consumer_that_goes_without_a_word_leaves_no_task_that_asyncio_complains_of() -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):
            async for _ in client.map(here.url(f"/{n}") for n in itertools.count()):
                break

    asyncio.run(main())


def test_futures_end_with_the_client() -> None:
    async def main() -> None:
        gate = Gate()
        async with open_async(gate) as (client, [here]):
            futures = client.as_completed([here.url("/held")])
            waiting = asyncio.ensure_future(anext(futures))
            await came(gate.asked)
            await client.aclose()
            gate.open.set()
            assert isinstance((await waiting).exception(), PoolClosed)
            await futures.aclose()

    asyncio.run(main())


def test_full_queues_only_slow_it_down() -> None:
    async def main() -> None:
        options = {"max_connections_per_host": 1, "pipeline_depth": 1, "max_queued": 3}
        async with open_async({}, **options) as (client, [here]):
            urls = [here.url(f"/{n}") for n in range(50)]
            assert [r.url async for r in client.map(urls)] == urls

    asyncio.run(main())


def test_a_status_of_failure_is_a_response() -> None:
    async def main() -> None:
        async with open_async({"/a": Page(b"", "404 Not Found")}) as (client, [here]):
            async for response in client.map([here.url("/a")]):
                with pytest.raises(HTTPStatusError):
                    response.raise_for_status()

    asyncio.run(main())


def test_a_source_that_is_a_generator_is_closed_when_its_consumer_leaves() -> None:
    closed = asyncio.Event()

    async def main() -> None:
        async with open_async({}) as (client, [here]):

            async def source() -> AsyncIterator[str]:
                try:
                    while True:
                        yield here.url("/a")
                finally:
                    closed.set()

            async with aclosing(client.map(source())) as responses:  # type: ignore[type-var]
                await anext(responses)
            await asyncio.wait_for(closed.wait(), TIMEOUT)

    asyncio.run(main())


def test_a_source_that_cannot_begin_is_raised() -> None:
    class Broken:
        def __aiter__(self) -> AsyncIterator[str]:
            raise LookupError("mine")

    async def main() -> None:
        async with AsyncClient() as client:
            with pytest.raises(LookupError, match="mine"):
                await anext(client.map(Broken()))

    asyncio.run(main())
