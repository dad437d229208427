"""Async iterables as bodies: how they are sent, and how their tasks end."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest

from dugong import AsyncClient, ConnectionTimedOut, PoolClosed, RedirectError, Request, RetryPolicy
from dugong.client.aiobody import blocking_body
from dugong.pool.body import request_body
from dugong.pool.failure import BodyInterrupted
from tests.support.aio import came, open_async
from tests.support.client import Page, moved
from tests.support.server import TIMEOUT, Peer, ScriptedServer

PIECES = [b"one ", bytearray(b"two "), memoryview(b"three")]


async def pieces() -> AsyncIterator[Any]:
    for piece in PIECES:
        await asyncio.sleep(0)
        yield piece


class Again:
    """An async iterable that can be iterated over again and again."""

    def __aiter__(self) -> AsyncIterator[Any]:
        return pieces()


class Stuck:
    """A body that begins, and then has nothing to give."""

    def __init__(self, beginning: bytes = b"x") -> None:
        self.began = threading.Event()
        self.ended = asyncio.Event()
        self._beginning = beginning

    async def __call__(self) -> AsyncIterator[bytes]:
        try:
            yield self._beginning
            self.began.set()
            await asyncio.sleep(TIMEOUT * 10)
        finally:
            self.ended.set()

    async def ends(self) -> None:
        """Wait until its generator was closed."""
        await asyncio.wait_for(self.ended.wait(), TIMEOUT)


@pytest.mark.parametrize("body", [pieces, Again, lambda: pieces, lambda: Again])
def test_an_async_iterable_is_sent_in_chunks(body: Callable[[], Any]) -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):
            await client.put(here.url("/a"), body=body())
            await client.request(Request("PUT", here.url("/a"), body=body()))
            [first, second] = here.requests
            assert first.body == second.body == b"one two three"
            assert first.headers["transfer-encoding"] == "chunked"

    asyncio.run(main())


def test_a_length_that_is_declared_is_kept() -> None:
    async def main() -> None:
        async with open_async({}, retry=None) as (client, [here]):
            await client.put(here.url("/a"), body=pieces(), headers={"Content-Length": "13"})
            assert here.requests[0].headers["content-length"] == "13"
            assert here.requests[0].body == b"one two three"

    asyncio.run(main())


def test_a_body_that_is_too_short_fails_its_request() -> None:
    def script(peer: Peer) -> None:
        peer.until_eof()

    async def main() -> None:
        with ScriptedServer(script) as server:
            async with AsyncClient(trust_env=False) as client:
                with pytest.raises(ValueError, match="1 bytes short"):
                    await client.put(
                        f"http://127.0.0.1:{server.port}/",
                        body=pieces(),
                        headers={"Content-Length": "14"},
                    )

    asyncio.run(main())


def test_other_bodies_are_sent_as_ever() -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):
            for body in (b"a", [b"a"], lambda: b"a", lambda: [b"a"]):
                await client.put(here.url("/a"), body=body)
            assert [request.body for request in here.requests] == [b"a"] * 4

    asyncio.run(main())


def test_streams_and_many_requests_take_async_iterables_too() -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):
            async with client.stream("PUT", here.url("/a"), body=pieces()) as response:
                assert await response.read() == b"/a"
            requests = [Request("PUT", here.url(f"/{n}"), body=pieces()) for n in range(5)]
            assert [r.text async for r in client.map(requests)] == [f"/{n}" for n in range(5)]
            assert {request.body for request in here.requests} == {b"one two three"}

    asyncio.run(main())


def test_an_async_generator_can_be_sent_once() -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):
            body = pieces()
            await client.put(here.url("/a"), body=body)
            with pytest.raises(ValueError, match="read only once"):
                await client.put(here.url("/b"), body=body)
            assert here.targets == ["PUT /a"]

    asyncio.run(main())


class SameEachTime:
    """An async iterable that has one iterator."""

    def __init__(self) -> None:
        self._items = pieces()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._items


class Forgettable:
    """An async iterator that no weak reference can be made to."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = list(reversed(PIECES))

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


class HasForgettable:
    """An async iterable that has one iterator, to which no weak reference can be made."""

    def __init__(self) -> None:
        self._items = Forgettable()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._items


@pytest.mark.parametrize("make", [pieces, SameEachTime, Forgettable, HasForgettable])
def test_what_was_used_up_is_not_sent_as_an_empty_body(make: Callable[[], Any]) -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):
            body = make()
            request = Request("PUT", here.url("/a"), body=body)
            assert (await client.request(request)).status == 200
            for call in (client.request(request), client.put(here.url("/b"), body=body)):
                with pytest.raises(ValueError, match="used it"):
                    await call
            assert {request.body for request in here.requests} <= {b"one two three", b""}

    asyncio.run(main())


@pytest.mark.parametrize("make", [SameEachTime, Forgettable, HasForgettable])
def test_what_was_used_up_is_not_sent_behind_a_redirect(make: Callable[[], Any]) -> None:
    async def main() -> None:
        page = moved("/b", "307 Temporary Redirect")
        async with open_async({"/a": page}, retry=None) as (client, [here]):
            with pytest.raises((RedirectError, ValueError)):
                await client.put(here.url("/a"), body=make())

    asyncio.run(main())


def test_an_async_generator_that_has_ended_is_refused() -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):
            body = pieces()
            assert [piece async for piece in body] == PIECES
            with pytest.raises(ValueError, match="used it"):
                await client.put(here.url("/a"), body=body)
            assert here.requests == []

    asyncio.run(main())


def test_an_iterable_that_is_empty_each_time_is_an_empty_body() -> None:
    async def nothing() -> AsyncIterator[bytes]:
        for item in ():
            yield item

    class Nothing:
        def __aiter__(self) -> AsyncIterator[bytes]:
            return nothing()

    async def main() -> None:
        async with open_async({}) as (client, [here]):
            for body in (nothing(), nothing, Nothing(), Nothing):
                await client.put(here.url("/a"), body=body)
            assert [request.body for request in here.requests] == [b""] * 4

    asyncio.run(main())


@pytest.mark.parametrize("body", [Again, lambda: pieces])
def test_what_can_be_iterated_over_again_is_sent_again(body: Callable[[], Any]) -> None:
    async def main() -> None:
        pages = {"/a": moved("/b", "307 Temporary Redirect")}
        async with open_async(pages) as (client, [here]):
            await client.put(here.url("/a"), body=body())
            assert [request.body for request in here.requests] == [b"one two three"] * 2

    asyncio.run(main())


def test_an_async_generator_cannot_follow_a_redirect() -> None:
    async def main() -> None:
        pages = {"/a": moved("/b", "307 Temporary Redirect")}
        async with open_async(pages) as (client, [here]):
            with pytest.raises(RedirectError, match="read only once"):
                await client.put(here.url("/a"), body=pieces())
            assert here.targets == ["PUT /a"]

    asyncio.run(main())


def test_a_connection_that_is_lost_before_the_body_was_begun_costs_nothing() -> None:
    def lose(peer: Peer) -> None:
        peer.request()
        peer.respond()
        peer.sock.close()

    def serve(peer: Peer) -> None:
        assert peer.request().body == b"one two three"
        peer.respond(b"ok")

    async def main() -> None:
        with ScriptedServer(lose, serve) as server:
            async with AsyncClient(trust_env=False) as client:
                url = f"http://127.0.0.1:{server.port}/"
                await client.get(url)
                assert (await client.put(url, body=Again())).body == b"ok"

    asyncio.run(main())


def test_the_next_item_is_not_asked_for_before_the_last_was_sent() -> None:
    received = threading.Event()
    asked: list[bool] = []

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 10
        await came(received)
        asked.append(True)
        yield b"y"

    def script(peer: Peer) -> None:
        peer.head()
        peer.exactly(len(b"a\r\n") + 10)
        received.set()
        peer.exactly(len(b"\r\n1\r\ny\r\n0\r\n\r\n"))
        peer.respond()

    async def main() -> None:
        with ScriptedServer(script) as server:
            async with AsyncClient(trust_env=False) as client:
                await client.put(f"http://127.0.0.1:{server.port}/", body=body())

    asyncio.run(main())
    assert asked


def test_the_body_runs_in_one_task_with_the_context_of_the_call() -> None:
    name = contextvars.ContextVar("name", default="no context")
    seen: list[object] = []

    async def body() -> AsyncIterator[bytes]:
        async with asyncio.timeout(TIMEOUT):  # which is for one task
            for _ in range(3):
                seen.append((name.get(), asyncio.current_task()))
                yield b"x"

    async def main() -> None:
        async with open_async({}) as (client, [here]):
            name.set("of the call")
            await client.put(here.url("/a"), body=body())

    asyncio.run(main())
    assert len(seen) == 3
    assert len(set(seen)) == 1
    assert seen[0][0] == "of the call"  # type: ignore[index]  # a pair


# --- failures -------------------------------------------------------------------------------------


class BodyFailed(Exception):
    pass


def test_a_callable_has_the_context_of_its_call() -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="lost")

    async def rows() -> AsyncIterator[bytes]:
        yield name.get().encode()

    def make() -> AsyncIterator[bytes]:
        seen.append(name.get())
        name.set("made")  # which what it returns sees, and no other sending
        return rows()

    seen: list[str] = []

    async def main() -> None:
        page = moved("/b", "307 Temporary Redirect")
        async with open_async({"/a": page}) as (client, [here]):
            name.set("kept")
            await client.put(here.url("/b"), body=rows)
            await client.put(here.url("/a"), body=make)
            await client.put(here.url("/b"), body=lambda: [name.get().encode()])
            assert [request.body for request in here.requests] == [
                b"kept",
                b"made",
                b"made",
                b"kept",
            ]
            assert seen == ["kept", "kept"]

    asyncio.run(main())


async def failing() -> AsyncIterator[bytes]:
    yield b"x"
    raise BodyFailed


async def of_text() -> AsyncIterator[Any]:
    yield "text"


@pytest.mark.parametrize(("body", "error"), [(failing, BodyFailed), (of_text, TypeError)])
def test_an_exception_in_the_body_fails_its_request(
    body: Callable[[], Any], error: type[Exception]
) -> None:
    def script(peer: Peer) -> None:
        peer.until_eof()

    async def main() -> None:
        with ScriptedServer(script, repeat=True) as server:
            async with AsyncClient(trust_env=False) as client:
                url = f"http://127.0.0.1:{server.port}/"
                for given in (body(), body):
                    with pytest.raises(error):
                        await client.put(url, body=given)

    asyncio.run(main())


def until_eof(peer: Peer) -> None:
    peer.until_eof()


def test_cancelling_the_call_closes_the_generator() -> None:
    async def main() -> None:
        stuck = Stuck()
        with ScriptedServer(until_eof) as server:
            async with AsyncClient(trust_env=False) as client:
                url = f"http://127.0.0.1:{server.port}/"
                call = asyncio.create_task(client.put(url, body=stuck()))
                await came(stuck.began)
                call.cancel()
                await asyncio.wait([call])
                await stuck.ends()

    asyncio.run(main())


def test_a_deadline_ends_a_body_that_is_stuck() -> None:
    async def main() -> None:
        stuck = Stuck()
        with ScriptedServer(until_eof) as server:
            async with AsyncClient(trust_env=False) as client:
                url = f"http://127.0.0.1:{server.port}/"
                with pytest.raises(ConnectionTimedOut):
                    await client.put(url, body=stuck, deadline=0.2)
                await stuck.ends()

    asyncio.run(main())


def test_closing_the_client_ends_a_body_that_is_stuck() -> None:
    async def main() -> None:
        stuck = Stuck()
        with ScriptedServer(until_eof) as server:
            async with AsyncClient(trust_env=False) as client:
                call = asyncio.create_task(
                    client.put(f"http://127.0.0.1:{server.port}/", body=stuck())
                )
                await came(stuck.began)
            with pytest.raises(PoolClosed):
                await call
            await stuck.ends()

    asyncio.run(main())


def test_a_response_that_refuses_the_body_ends_it() -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.exactly(len(b"1\r\nx\r\n"))
        peer.respond(b"no", status="413 Content Too Large")
        peer.until_eof()

    async def main() -> None:
        stuck = Stuck()
        with ScriptedServer(script) as server:
            async with AsyncClient(trust_env=False) as client:
                url = f"http://127.0.0.1:{server.port}/"
                assert (await client.put(url, body=stuck())).status == 413
                await stuck.ends()

    asyncio.run(main())


def test_a_connection_that_ends_while_the_body_is_waited_for_is_seen_and_retried() -> None:
    def lose(peer: Peer) -> None:
        peer.head()
        peer.exactly(len(b"1\r\nx\r\n"))
        peer.reset()

    def serve(peer: Peer) -> None:
        assert peer.request().body == b"all"
        peer.respond(b"ok")

    async def main() -> None:
        stuck = Stuck()
        bodies = [stuck(), whole()]
        with ScriptedServer(lose, serve) as server:
            async with AsyncClient(trust_env=False, retry=RetryPolicy(attempts=2)) as client:
                url = f"http://127.0.0.1:{server.port}/"
                response = await client.put(url, body=lambda: bodies.pop(0))
                assert response.body == b"ok"
                await stuck.ends()

    async def whole() -> AsyncIterator[bytes]:
        yield b"all"

    asyncio.run(main())


def test_the_end_of_the_loop_fails_a_request_that_nothing_awaits() -> None:
    futures = []
    stuck: list[Stuck] = []
    client = AsyncClient(trust_env=False)

    async def main(port: int) -> None:
        stuck.append(Stuck())
        futures.append(client.submit("PUT", f"http://127.0.0.1:{port}/", body=stuck[0]()))
        await came(stuck[0].began)

    with ScriptedServer(until_eof) as server:
        asyncio.run(main(server.port))
        with pytest.raises(RuntimeError, match="CancelledError"):
            futures[0].result(TIMEOUT)
        assert stuck[0].ended.is_set()
        client.close()


def test_a_loop_that_is_closed_cannot_make_a_body() -> None:
    client = AsyncClient(trust_env=False)

    async def body_of() -> Any:
        return blocking_body(Again())

    body = asyncio.run(body_of())
    with ScriptedServer(until_eof) as server:
        future = client._pool.submit("PUT", f"http://127.0.0.1:{server.port}/", body=body)
        with pytest.raises(RuntimeError, match="event loop that makes the body is closed"):
            future.result(TIMEOUT)
        client.close()


def test_a_large_body_of_small_pieces_arrives_whole() -> None:
    async def body() -> AsyncIterator[bytes]:
        for n in range(2000):
            yield b"%08d" % n

    async def main() -> None:
        async with open_async(lambda request: Page(request.body)) as (client, [here]):
            expected = b"".join([b"%08d" % n for n in range(2000)])
            assert (await client.put(here.url("/a"), body=body())).body == expected

    asyncio.run(main())


# --- how it is closed -----------------------------------------------------------------------------


class Closable:
    """An async iterable that says when it is closed."""

    def __init__(self, closed: asyncio.Event) -> None:
        self._closed = closed

    def __aiter__(self) -> AsyncIterator[bytes]:
        return pieces()

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self._closed.set()


def test_what_a_callable_has_returned_is_closed_when_it_was_sent_and_nothing_else_is() -> None:
    async def main() -> None:
        mine, made = asyncio.Event(), asyncio.Event()
        async with open_async({}) as (client, [here]):
            await client.put(here.url("/a"), body=Closable(mine))
            await client.put(here.url("/a"), body=lambda: Closable(made))
            await asyncio.wait_for(made.wait(), TIMEOUT)
            assert not mine.is_set()

    asyncio.run(main())


def test_what_a_callable_has_returned_is_closed_though_it_was_not_sent() -> None:
    def refuse(peer: Peer) -> None:
        peer.head()
        peer.respond(b"", status="413 Too Large", headers="Connection: close\r\n")

    async def main() -> None:
        closed = asyncio.Event()
        with ScriptedServer(refuse) as server:
            async with AsyncClient(trust_env=False, retry=None) as client:
                url = f"http://127.0.0.1:{server.port}/"
                body = lambda: Closable(closed)  # noqa: E731  # it is a body
                response = await client.put(url, body=body, expect100=True)
                assert response.status == 413
                await asyncio.wait_for(closed.wait(), TIMEOUT)

    asyncio.run(main())


def test_a_task_that_is_stopped_before_it_has_begun_closes_what_a_callable_has_returned() -> None:
    async def main() -> None:
        closed = asyncio.Event()
        made = blocking_body(lambda: Closable(closed))
        body = request_body(made)
        assert body is not None

        def send() -> None:
            body.rewind()
            first = partial(next, body.pieces())
            sender = threading.Thread(target=suppressed, args=(first,))
            sender.start()
            begun.wait(TIMEOUT)
            body.interrupt()
            sender.join(TIMEOUT)
            body.end_sending()

        begun = threading.Event()
        loop = asyncio.get_running_loop()
        call_soon = loop.call_soon_threadsafe

        def note(*args: Any, **options: Any) -> Any:
            begun.set()
            return call_soon(*args, **options)

        loop.call_soon_threadsafe = note  # type: ignore[method-assign]  # it is watched
        send()  # the loop has no turn meanwhile
        await asyncio.wait_for(closed.wait(), TIMEOUT)

    asyncio.run(main())


def suppressed(call: Callable[[], object]) -> None:
    with contextlib.suppress(BodyInterrupted):
        call()


def test_an_iterable_that_goes_on_though_it_was_cancelled_is_left() -> None:
    def refuse(peer: Peer) -> None:
        peer.head()
        peer.exactly(len(b"1\r\na\r\n"))
        peer.respond(b"", status="413 Too Large", headers="Connection: close\r\n")

    async def main() -> None:
        closed = asyncio.Event()

        async def stubborn() -> AsyncIterator[bytes]:
            try:
                yield b"a"
                try:
                    await asyncio.sleep(TIMEOUT * 10)
                except asyncio.CancelledError:
                    pass
                yield b"b"
            finally:
                closed.set()

        with ScriptedServer(refuse) as server:
            async with AsyncClient(trust_env=False, retry=None) as client:
                url = f"http://127.0.0.1:{server.port}/"
                assert (await client.put(url, body=stubborn())).status == 413
                await asyncio.wait_for(closed.wait(), TIMEOUT)

    asyncio.run(main())
