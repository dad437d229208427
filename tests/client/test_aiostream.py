"""Streams under asyncio: what can be read, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import logging
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from dugong import (
    AsyncClient,
    AsyncStreamedResponse,
    ConnectionClosed,
    ConnectionPool,
    DugongError,
    HTTPStatusError,
    PoolClosed,
    RedirectError,
    StateError,
)
from tests.support.aio import Gate, came, open_async
from tests.support.client import Page, moved
from tests.support.pool import GONE
from tests.support.server import TIMEOUT, Peer, ReceivedRequest, ScriptedServer

BODY = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture(autouse=True)
def _lone_threads_end() -> Iterator[None]:
    """What reads and leaves the streams of a closed pool ends just behind that, by itself."""
    yield
    for thread in threading.enumerate():
        if thread.name == "dugong-stream":
            thread.join(TIMEOUT)


@pytest.fixture(autouse=True)
def _asyncio_complains_of_nothing(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    gc.collect()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_body_is_read_in_pieces() -> None:
    async def main() -> None:
        async with (
            open_async({"/a": Page(BODY)}) as (client, [here]),
            client.stream("GET", here.url("/a")) as response,
        ):
            assert isinstance(response, AsyncStreamedResponse)
            start = await response.read(1000)
            assert 0 < len(start) <= 1000
            buffer = bytearray(500)
            size = await response.readinto(buffer)
            pieces = [piece async for piece in response]
            assert start + buffer[:size] + b"".join(pieces) == BODY
            assert await response.read() == await response.read(7) == b""

    asyncio.run(main())


def test_a_task_does_not_wait_for_the_connection_of_its_own_stream() -> None:
    async def main() -> None:
        pages = {"/a": Page(BODY)}
        async with open_async(pages, max_connections_per_host=1) as (client, [here]):
            async with client.stream("GET", here.url("/a")) as response:
                for use in (client.get, client.put):
                    with pytest.raises(StateError, match="wait for itself"):
                        await use(here.url("/b"))
                with pytest.raises(StateError, match="wait for itself"):
                    async with client.stream("GET", here.url("/b")):
                        pass
                other = asyncio.create_task(client.get(here.url("/c")))  # which can wait
                assert await response.read() == BODY
            assert (await other).text == "/c"
            assert (await client.get(here.url("/d"))).text == "/d"

    asyncio.run(main())


def test_a_stream_whose_response_has_come_whole_has_no_connection() -> None:
    async def main() -> None:
        async with (
            open_async({}, max_connections_per_host=1) as (client, [here]),
            client.stream("GET", here.url("/a")) as response,
        ):
            assert (await client.get(here.url("/b"))).text == "/b"
            assert await response.read() == b"/a"

    asyncio.run(main())


def test_the_rest_of_a_body_is_read_at_once() -> None:
    async def main() -> None:
        async with (
            open_async({"/a": Page(BODY)}) as (client, [here]),
            client.stream("GET", here.url("/a")) as response,
        ):
            assert await response.read() == BODY

    asyncio.run(main())


def test_the_lines_of_a_body_come_one_by_one() -> None:
    text = "one\r\ntwo\n\nthr\u00e9e"
    page = Page(text.encode("latin-1"), headers="Content-Type: text/plain; charset=latin-1\r\n")

    async def main() -> None:
        async with (
            open_async({"/a": page}) as (client, [here]),
            client.stream("GET", here.url("/a")) as response,
        ):
            lines = [line async for line in response.aiter_lines()]
            assert lines == ["one", "two", "", "thr\u00e9e"]

    asyncio.run(main())


def test_a_line_comes_as_soon_as_it_is_there() -> None:
    has_come = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n")
        assert has_come.wait(TIMEOUT)
        peer.send(b"3\r\ntwo\r\n0\r\n\r\n")

    async def main() -> None:
        with ScriptedServer(script) as server:
            async with (
                AsyncClient(trust_env=False) as client,
                client.stream("GET", f"http://127.0.0.1:{server.port}/") as response,
            ):
                lines = response.aiter_lines()
                assert await anext(lines) == "one"
                has_come.set()
                assert [line async for line in lines] == ["two"]

    asyncio.run(main())


def test_a_response_says_what_has_come() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(
            b"HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\nLink: </b>; rel=next\r\n\r\n"
            b"1\r\nx\r\n0\r\nX-Sum: 7\r\n\r\n"
        )

    async def main() -> None:
        with ScriptedServer(script) as server:
            url = f"http://127.0.0.1:{server.port}/"
            async with (
                AsyncClient(trust_env=False) as client,
                client.stream("GET", url) as response,
            ):
                assert (response.status, response.reason) == (200, "Fine")
                assert (response.url, response.request.method) == (url, "GET")
                assert (response.length, response.http_version) == (None, "HTTP/1.1")
                assert response.links["next"]["url"] == "/b"
                assert response.attempts == response.history == ()
                assert response.elapsed.total_seconds() > 0
                await response.read()
                assert response.trailers["x-sum"] == "7"
                assert repr(response).startswith("<AsyncStreamedResponse 200 Fine for GET")
                assert response.raise_for_status() is response
                assert await response.raise_for_status() is response
                with pytest.raises(AttributeError, match=r"use read\(\)"):
                    response.content  # type: ignore[attr-defined]  # noqa: B018  # as it says

    asyncio.run(main())


def test_redirects_are_followed() -> None:
    async def main() -> None:
        pages = {"/a": moved("/b"), "/b": moved("/c"), "/c": Page(BODY)}
        async with (
            open_async(pages) as (client, [here]),
            client.stream("GET", here.url("/a")) as response,
        ):
            assert await response.read() == BODY
            assert [each.url for each in response.history] == [here.url("/a"), here.url("/b")]
            assert here.server.connections == 1

    asyncio.run(main())


def test_a_failure_is_raised_when_the_block_is_entered() -> None:
    async def main() -> None:
        async with open_async({"/a": moved("ftp://host/")}) as (client, [here]):
            with pytest.raises(RedirectError):
                await client.stream("GET", here.url("/a")).__aenter__()
            assert (await client.get(here.url("/b"))).text == "/b"

    asyncio.run(main())


def test_a_page_of_an_error_is_read_for_its_exception() -> None:
    async def main() -> None:
        page = Page(b"what went wrong", "500 Internal Server Error")
        async with (
            open_async({"/a": page}, retry=None) as (client, [here]),
            client.stream("GET", here.url("/a")) as response,
        ):
            with pytest.raises(HTTPStatusError) as caught:
                response.raise_for_status()
            assert caught.value.response.body == b"what went wrong"

    asyncio.run(main())


def test_a_status_of_failure_raises_at_once_though_the_body_has_not_come() -> None:
    raised = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\n")
        assert raised.wait(TIMEOUT)
        peer.send(b"page")

    async def main() -> None:
        async with (
            AsyncClient(trust_env=False) as client,
            client.stream("GET", server.url("/a")) as response,
        ):
            with pytest.raises(HTTPStatusError, match="404 Not Found") as caught:
                response.raise_for_status()
            assert caught.value.response.body == b""
            raised.set()
            assert await response.read() == b"page"

    with ScriptedServer(script) as server:
        asyncio.run(main())


def test_a_stream_can_be_entered_once() -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):
            stream = client.stream("GET", here.url("/a"))
            async with stream as response:
                await response.read()
            with pytest.raises(StateError, match="entered once"):
                await stream.__aenter__()

    asyncio.run(main())


def test_nothing_can_be_read_after_the_block() -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):
            async with client.stream("GET", here.url("/a")) as response:
                pass
            with pytest.raises(ValueError, match="closed"):
                await response.read()

    asyncio.run(main())


def test_the_connection_serves_the_next_request_after_the_block() -> None:
    async def main() -> None:
        async with open_async({}) as (client, [here]):
            for _ in range(5):
                async with client.stream("GET", here.url("/a")) as response:
                    await response.read(1)
                await client.get(here.url("/b"))
            assert here.server.connections == 1

    asyncio.run(main())


class Halted:
    """A script that sends the beginning of a body, and waits until its client has gone."""

    def __init__(self) -> None:
        self.gone = threading.Event()

    def __call__(self, peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbeginning")
        with contextlib.suppress(*GONE):
            peer.until_eof()
        self.gone.set()


def test_a_hundred_streams_that_wait_hold_up_nothing() -> None:
    async def main() -> None:
        scripts = [Halted() for _ in range(100)]

        def last(peer: Peer) -> None:
            peer.request()
            peer.respond(b"last")

        with ScriptedServer(*scripts, last) as server:
            async with AsyncClient(max_connections_per_host=101, trust_env=False) as client:
                url = f"http://127.0.0.1:{server.port}/"

                async def read() -> None:
                    async with client.stream("GET", url) as response:
                        await response.read()

                waiting = [asyncio.create_task(read()) for _ in scripts]
                while client.statistics().in_flight < 100:
                    await asyncio.sleep(0.01)
                async with client.stream("GET", url) as response:
                    assert await response.read() == b"last"
                assert await asyncio.to_thread(lambda: "not held up") == "not held up"
                for task in waiting:
                    task.cancel()
                await asyncio.wait(waiting)

    asyncio.run(main())


@pytest.mark.parametrize("coding", ["", "Content-Encoding: gzip\r\n"])
def test_a_body_that_has_come_is_read_without_a_thread_unless_it_is_coded(coding: str) -> None:
    page = Page(gzip.compress(b"body") if coding else b"body", headers=coding)

    async def main() -> None:
        async with open_async({"/a": moved("/b"), "/b": page}) as (client, [here]):
            async with client.stream("GET", here.url("/a")) as response:
                assert await response.read(1) == b"b"
                assert [line async for line in response.aiter_lines()] == ["ody"]
                assert [r.status for r in response.history] == [302]
            readers = [t for t in threading.enumerate() if t.name.startswith("dugong-stream")]
            assert bool(readers) is bool(coding)

    asyncio.run(main())


def test_streams_wait_for_a_connection_without_threads() -> None:
    async def main() -> None:
        gate = Gate()
        async with open_async(gate, max_connections_per_host=1) as (client, [here]):

            async def read(target: str) -> bytes:
                async with client.stream("GET", here.url(target)) as response:
                    return await response.read()

            held = asyncio.create_task(read("/held"))
            await came(gate.asked)
            before = threading.active_count()
            others = [asyncio.create_task(read(f"/{n}")) for n in range(50)]
            await asyncio.sleep(0)
            assert client.statistics().queued == 50
            assert threading.active_count() <= before + 1
            gate.open.set()
            assert await held == b"1"
            assert await asyncio.gather(*others) == [b"/%d" % n for n in range(50)]

    asyncio.run(main())


# --- cancelling -----------------------------------------------------------------------------------


def test_a_task_that_is_cancelled_while_it_reads_ends_the_connection() -> None:
    async def main() -> None:
        script = Halted()
        with ScriptedServer(script) as server:
            async with AsyncClient(trust_env=False) as client:
                left = asyncio.Event()

                async def read() -> None:
                    url = f"http://127.0.0.1:{server.port}/"
                    try:
                        async with client.stream("GET", url) as response:
                            assert await response.read(9) == b"beginning"
                            await response.read()
                    finally:
                        left.set()

                task = asyncio.create_task(read())
                await asyncio.wait([task], timeout=0.1)  # it reads by then, or begins to
                task.cancel()
                await asyncio.wait_for(left.wait(), TIMEOUT)
                await came(script.gone)
                assert task.cancelled() or not task.done()
                await asyncio.wait([task])
                assert client.statistics().in_flight == 0

    asyncio.run(main())


def test_a_read_that_has_timed_out_leaves_a_block_in_order() -> None:
    async def main() -> None:
        script = Halted()
        with ScriptedServer(script) as server:
            async with AsyncClient(trust_env=False) as client:
                async with client.stream("GET", f"http://127.0.0.1:{server.port}/") as response:
                    assert await response.read(9) == b"beginning"
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(0.05):
                            await response.read(1)
                    with pytest.raises(ConnectionClosed):
                        await response.read(1)
                await came(script.gone)
                assert client.statistics().in_flight == 0

    asyncio.run(main())


def test_a_task_that_is_cancelled_before_the_response_cancels_the_request() -> None:
    async def main() -> None:
        gate = Gate()
        options = {"max_connections_per_host": 1, "pipeline_depth": 1}
        async with open_async(gate, **options) as (client, [here]):
            held = asyncio.create_task(client.get(here.url("/held")))
            await came(gate.asked)
            entering = asyncio.create_task(client.stream("GET", here.url("/b")).__aenter__())
            await asyncio.sleep(0)
            assert client.statistics().queued == 1
            entering.cancel()
            await asyncio.wait([entering])
            assert client.statistics().queued == 0
            gate.open.set()
            await held
            assert here.targets == ["GET /held"]

    asyncio.run(main())


def test_a_task_that_is_cancelled_between_two_redirects_leaves_nothing() -> None:
    async def main() -> None:
        asked, go_on = threading.Event(), threading.Event()

        def hook(response: object) -> None:
            asked.set()
            assert go_on.wait(TIMEOUT)

        hooks = {"response": [hook]}
        async with open_async({"/a": moved("/b")}, event_hooks=hooks) as (client, [here]):
            entering = asyncio.create_task(client.stream("GET", here.url("/a")).__aenter__())
            await came(asked)
            entering.cancel()
            await asyncio.wait([entering])
            go_on.set()
            await client.aclose()
            assert client.statistics().in_flight == 0
            assert here.targets == ["GET /a"]

    asyncio.run(main())


def test_a_task_that_is_cancelled_while_it_leaves_has_left() -> None:
    async def main() -> None:
        async with open_async({"/a": Page(BODY)}) as (client, [here]):
            stream = client.stream("GET", here.url("/a"))
            await stream.__aenter__()
            leaving = asyncio.create_task(stream.__aexit__(None, None, None))
            await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.wait([leaving])
            await client.aclose()  # which waits for the threads
            assert client.statistics().in_flight == 0

    asyncio.run(main())


def test_a_block_that_is_left_while_another_task_reads_ends_that() -> None:
    async def main() -> None:
        script = Halted()
        with ScriptedServer(script) as server:
            async with AsyncClient(trust_env=False) as client:
                async with client.stream("GET", f"http://127.0.0.1:{server.port}/") as response:
                    assert await response.read(9) == b"beginning"
                    reading = asyncio.create_task(response.read(1))
                    await asyncio.wait([reading], timeout=0.05)
                with pytest.raises((DugongError, ValueError)):
                    await reading
                await came(script.gone)

    asyncio.run(main())


def test_a_task_that_is_cancelled_while_it_leaves_ends_its_request() -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.respond(b"early")
        with contextlib.suppress(*GONE):
            peer.until_eof()
        gone.set()

    gone = threading.Event()

    async def main() -> None:
        closed, read = asyncio.Event(), asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            try:
                yield b"a"
                await asyncio.sleep(TIMEOUT * 10)
            finally:
                closed.set()

        with ScriptedServer(script) as server:
            async with AsyncClient(trust_env=False) as client:
                url = f"http://127.0.0.1:{server.port}/"

                async def post() -> None:
                    async with client.stream("POST", url, body=body()) as response:
                        assert await response.read() == b"early"
                        read.set()

                task = asyncio.create_task(post())
                await asyncio.wait_for(read.wait(), TIMEOUT)
                await asyncio.wait([task], timeout=0.05)  # it waits for the rest of its body
                task.cancel()
                await asyncio.wait_for(closed.wait(), TIMEOUT)
                await came(gone)
                await asyncio.wait([task])
                assert task.cancelled()

    asyncio.run(main())


def test_a_failure_of_leaving_is_not_logged_if_the_task_was_cancelled() -> None:
    asked, go_on = threading.Event(), threading.Event()

    def hook(response: object) -> None:
        asked.set()
        assert go_on.wait(TIMEOUT)
        raise ZeroDivisionError

    async def main() -> None:
        async with open_async({}, event_hooks={"response": [hook]}) as (client, [here]):
            entering = asyncio.create_task(client.stream("GET", here.url("/a")).__aenter__())
            await came(asked)
            entering.cancel()
            await asyncio.wait([entering])
            go_on.set()

    asyncio.run(main())


def test_no_thread_waits_for_another_one_that_reads_the_same_body() -> None:
    async def main() -> None:
        script = Halted()
        with ScriptedServer(script) as server:
            async with AsyncClient(trust_env=False) as client:
                async with client.stream("GET", f"http://127.0.0.1:{server.port}/") as response:
                    assert await response.read(9) == b"beginning"
                    threads = threading.active_count()
                    reading = [asyncio.create_task(response.read(1)) for _ in range(10)]
                    await asyncio.wait(reading, timeout=0.05)
                    assert threading.active_count() <= threads + 1
                    reading[5].cancel()  # which does not read yet
                    await asyncio.wait([reading[5]])
                    assert not script.gone.is_set()
                results = await asyncio.gather(*reading, return_exceptions=True)
                assert all(isinstance(result, BaseException) for result in results)
                await came(script.gone)

    asyncio.run(main())


# --- the end --------------------------------------------------------------------------------------


def test_closing_the_client_ends_its_streams() -> None:
    async def main() -> None:
        script = Halted()
        with ScriptedServer(script) as server:
            client = AsyncClient(trust_env=False)
            async with client.stream("GET", f"http://127.0.0.1:{server.port}/") as response:
                assert await response.read(9) == b"beginning"
                reading = asyncio.create_task(response.read(1))
                await asyncio.wait([reading], timeout=0.05)
                await client.aclose()
                with pytest.raises(PoolClosed):
                    await reading
                with pytest.raises(DugongError):
                    await response.read(1)

    asyncio.run(main())


def test_a_stream_of_a_given_pool_may_be_left_after_its_client_was_closed() -> None:
    def serve(request: ReceivedRequest) -> Page:
        return Page(BODY)

    async def main() -> None:
        pool = ConnectionPool()
        async with open_async(serve, pool=pool) as (client, [here]):
            async with client.stream("GET", here.url("/a")) as response:
                await client.aclose()
                assert await response.read() == BODY
            pool.close()

    asyncio.run(main())


def test_a_loop_that_ends_while_a_task_reads_is_not_held_up() -> None:
    script = Halted()
    client = AsyncClient(trust_env=False)

    async def main(port: int) -> None:
        async def read() -> None:
            async with client.stream("GET", f"http://127.0.0.1:{port}/") as response:
                await response.read()

        asyncio.get_running_loop().create_task(read())
        while not client.statistics().in_flight:
            await asyncio.sleep(0.001)

    with ScriptedServer(script) as server:
        asyncio.run(main(server.port))
        assert script.gone.wait(TIMEOUT)
        client.close()


INTERRUPTED = """
import asyncio, sys
from dugong import AsyncClient

client = AsyncClient(trust_env=False)

async def read():
    async with client.stream("GET", sys.argv[1]) as response:
        assert await response.read(9) == b"beginning"
        asyncio.get_running_loop().call_later(0.05, interrupt)
        await response.read(1)

def interrupt():
    raise KeyboardInterrupt

asyncio.new_event_loop().run_until_complete(read())
"""


def test_a_thread_that_reads_keeps_no_interpreter_from_exiting() -> None:
    script = Halted()
    with ScriptedServer(script) as server:
        url = f"http://127.0.0.1:{server.port}/"
        process = subprocess.run(
            [sys.executable, "-c", INTERRUPTED, url],
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert "KeyboardInterrupt" in process.stderr
