"""Cancelling, wherever a request is: each request beside it gets its own response."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from queue import SimpleQueue
from typing import Any

import pytest

from dugong import ConnectionPool
from dugong.errors import PoolClosed
from dugong.pool.core import cancellation
from dugong.pool.core.traffic import Traffic
from dugong.pool.future import ResponseFuture
from tests.support.pool import (
    Held,
    discard_rest,
    each,
    lose_connection,
    name_target,
    signal_after,
    url,
    wait_for,
)
from tests.support.server import TIMEOUT, Peer, ReceivedRequest, ScriptedServer


def serve(peer: Peer) -> None:
    """Response each request with its target, for as long as the client wants."""
    with contextlib.suppress(ConnectionError):
        each(name_target)(peer)


def is_cancelled(future: ResponseFuture) -> bool:
    """Return True if *future* says in all ways that it is cancelled."""
    with pytest.raises(CancelledError):
        future.result(timeout=0)
    with pytest.raises(CancelledError):
        future.exception(timeout=0)
    return future.cancelled() and future.done() and not future.running()


@pytest.fixture
def quick_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is abandoned is drained for a moment only."""
    monkeypatch.setattr(cancellation, "DRAIN_TIME", 0.01)


class Flight:
    """A pool with one connection, on which the requests for *targets* are in flight."""

    def __init__(self, pool: ConnectionPool, server: ScriptedServer, held: Held, count: int):
        self.pool = pool
        for _ in range(3):
            pool.get(url(server, "/warm"))
        self.futures = [pool.submit("GET", url(server, f"/{i}")) for i in range(count)]
        held.wait()


# --- before it is sent ----------------------------------------------------------------------------


def test_a_request_in_the_queue_is_withdrawn_and_never_sent() -> None:
    held = Held()
    with (
        ScriptedServer(held) as server,
        ConnectionPool(max_connections_per_host=1, pipeline_depth=1) as pool,
    ):
        first = pool.submit("GET", url(server, "/1"))
        held.wait()
        second, third = (pool.submit("GET", url(server, target)) for target in ("/2", "/3"))
        assert not second.running()
        assert second.cancel()
        assert is_cancelled(second)
        assert pool.statistics().queued == 1
        held.release()
        assert first.result().body == b"/1"
        assert third.result().body == b"/3"
        assert pool.statistics().sent == 2


def test_all_of_a_long_queue_may_be_withdrawn() -> None:
    held = Held()
    with ScriptedServer(held) as server, ConnectionPool(max_connections_per_host=1) as pool:
        first = pool.submit("GET", url(server, "/1"))
        held.wait()
        queued = [pool.submit("GET", url(server, f"/{i}")) for i in range(1000)]
        assert all(future.cancel() for future in queued)
        assert pool.statistics().queued == 0
        last = pool.submit("GET", url(server, "/last"))
        held.release()
        assert first.result().body == b"/1"
        assert last.result().body == b"/last"
        assert pool.statistics().sent == 2


def test_a_request_that_is_withdrawn_while_connecting_leaves_the_connection_to_others() -> None:
    handshake = threading.Event()

    def script(peer: Peer) -> None:
        wait_for(handshake)
        serve(peer)

    with ScriptedServer(script) as server, ConnectionPool(max_connections_per_host=1) as pool:
        first = pool.submit("GET", url(server, "/1"))
        first.cancel()
        handshake.set()
        assert pool.get(url(server, "/2")).body == b"/2"
        assert pool.statistics().opened == 1


def test_a_request_that_has_lost_its_connection_is_withdrawn() -> None:
    with lose_connection() as (pool, lost):
        assert lost.cancel()
        assert is_cancelled(lost)
        assert pool.statistics().queued == 0
        (host,) = pool._scheduler._core.hosts.values()
        assert not host.needing_fresh


def test_a_post_that_waits_for_an_empty_connection_is_withdrawn() -> None:
    held = Held(1, warm=3)
    with ScriptedServer(held) as server, ConnectionPool(max_connections_per_host=1) as pool:
        flight = Flight(pool, server, held, 1)
        post = pool.submit("POST", url(server, "/post"), body=b"once")
        behind = pool.submit("GET", url(server, "/behind"))
        assert post.cancel()
        assert is_cancelled(post)
        held.release()
        assert flight.futures[0].result().body == b"/0"
        assert behind.result().body == b"/behind"
        assert pool.statistics().sent == 5


# --- in flight ------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [{0}, {1}, {2}, {0, 1}, {1, 2}, {0, 2}, {0, 1, 2}])
def test_the_neighbours_of_a_cancelled_request_get_their_own_responses(which: set[int]) -> None:
    held = Held(3, warm=3)
    with ScriptedServer(held) as server, ConnectionPool(max_connections_per_host=1) as pool:
        flight = Flight(pool, server, held, 3)
        assert all(flight.futures[i].cancel() for i in which)
        assert all(is_cancelled(flight.futures[i]) for i in which)
        held.release()
        for i, future in enumerate(flight.futures):
            if i not in which:
                assert future.result().body == f"/{i}".encode()
        # What was abandoned has been drained, and was no request's response.
        assert pool.get(url(server, "/next")).body == b"/next"
        assert server.connections == 1
        assert pool.statistics().resent == 0


@pytest.mark.usefixtures("quick_drain")
@pytest.mark.parametrize("which", [{0}, {0, 1}, {0, 2}])
def test_if_no_response_comes_the_neighbours_are_sent_again(which: set[int]) -> None:
    arrived = threading.Event()
    again: list[str] = []

    def mute(peer: Peer) -> None:
        for _ in range(3):
            name_target(peer, peer.request())
        for _ in range(3):
            peer.request()
        arrived.set()
        discard_rest(peer)

    def respond(peer: Peer, request: ReceivedRequest) -> None:
        again.append(request.target)
        name_target(peer, request)

    with (
        ScriptedServer(mute, each(respond)) as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        for _ in range(3):
            pool.get(url(server))
        futures = [pool.submit("GET", url(server, f"/{i}")) for i in range(3)]
        wait_for(arrived)
        assert all(futures[i].cancel() for i in which)
        others = [i for i in range(3) if i not in which]
        assert [futures[i].result().body for i in others] == [f"/{i}".encode() for i in others]
        assert again == [f"/{i}" for i in others]
        assert pool.statistics().resent == len(others)
        assert pool.statistics().hosts[f"http://127.0.0.1:{server.port}"].lesson is None


@pytest.mark.usefixtures("quick_drain")
def test_an_abandoned_post_is_closed_and_not_sent_again() -> None:
    arrived = threading.Event()

    def mute(peer: Peer) -> None:
        peer.request()
        arrived.set()
        discard_rest(peer)

    with (
        ScriptedServer(mute, serve) as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        post = pool.submit("POST", url(server, "/post"), body=b"once")
        wait_for(arrived)
        assert post.cancel()
        assert pool.get(url(server, "/next")).body == b"/next"
        assert pool.statistics().resent == 0


def test_a_response_that_is_too_long_to_be_drained_ends_the_connection() -> None:
    begun, cancelled = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + bytes(300_000))
        begun.set()
        wait_for(cancelled)
        with contextlib.suppress(ConnectionError):
            peer.send(bytes(9_700_000))
        discard_rest(peer)

    with (
        ScriptedServer(script, serve) as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        future = pool.submit("GET", url(server, "/long"))
        wait_for(begun)
        assert future.cancel()
        cancelled.set()
        assert pool.get(url(server, "/next")).body == b"/next"
        assert server.connections == 2


@pytest.mark.usefixtures("quick_drain")
def test_a_drip_of_an_abandoned_response_is_not_waited_for() -> None:
    begun = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsome")
        begun.set()
        discard_rest(peer)

    with (
        ScriptedServer(script, serve) as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        future = pool.submit("GET", url(server, "/long"))
        wait_for(begun)
        assert future.cancel()
        assert pool.get(url(server, "/next")).body == b"/next"


# --- while its body is sent -----------------------------------------------------------------------


class Endless:
    """A body without end; `sending` tells that its bytes are asked for, and `last` which were."""

    def __init__(self) -> None:
        self.sending = threading.Event()
        self.touched = 0

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.touched += 1
            yield bytes(10_000)
            self.sending.set()


def test_an_upload_is_stopped_and_its_body_is_released() -> None:
    body = Endless()
    with (
        ScriptedServer(discard_rest, serve) as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        future = pool.submit("PUT", url(server), body=body)
        wait_for(body.sending)
        assert future.running()
        assert future.cancel()
        with pytest.raises(CancelledError):
            future.result(TIMEOUT)
        touched = body.touched
        assert pool.get(url(server, "/next")).body == b"/next"
        assert body.touched == touched


def test_an_upload_that_the_server_does_not_read_is_stopped() -> None:
    arrived, done = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        arrived.set()
        wait_for(done)

    with (
        ScriptedServer(script, serve) as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        future = pool.submit("PUT", url(server), body=bytes(50_000_000))
        wait_for(arrived)
        assert future.cancel()
        assert pool.get(url(server, "/next")).body == b"/next"
        done.set()


def test_an_upload_that_waits_for_100_is_stopped() -> None:
    arrived = threading.Event()

    def script(peer: Peer) -> None:
        assert peer.head().headers["expect"] == "100-continue"
        arrived.set()
        assert peer.until_eof() == b""

    with (
        ScriptedServer(script, serve) as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        future = pool.submit("PUT", url(server), body=b"body", expect100=True)
        wait_for(arrived)
        assert future.cancel()
        assert pool.get(url(server, "/next")).body == b"/next"


def test_cancelling_does_not_wait_for_the_body_but_the_future_does() -> None:
    stuck, go_on = threading.Event(), threading.Event()
    over: list[str] = []

    def body() -> Iterator[bytes]:
        yield b"first"
        stuck.set()
        wait_for(go_on)
        over.append("body")
        yield b"second"

    with (
        ScriptedServer(discard_rest) as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        future = pool.submit("PUT", url(server), body=body())
        future.add_done_callback(lambda _: over.append("future"))
        wait_for(stuck)
        assert future.cancel()
        assert future.cancel()  # again, to the same effect
        assert not future.done()
        go_on.set()
        with pytest.raises(CancelledError):
            future.result(TIMEOUT)
    assert over == ["body", "future"]
    assert is_cancelled(future)


def test_a_callback_may_cancel_an_upload_and_does_not_wait() -> None:
    """In a thread of the pool, which might be the one to be waited for."""
    held = Held()
    body = Endless()
    with (
        ScriptedServer(held) as server,
        ScriptedServer(discard_rest) as other,
        ConnectionPool() as pool,
    ):
        first = pool.submit("GET", url(server))
        held.wait()
        upload = pool.submit("PUT", url(other), body=body)
        wait_for(body.sending)
        first.add_done_callback(lambda _: upload.cancel())
        held.release()
        with pytest.raises(CancelledError):
            upload.result(timeout=5)


# --- too late, twice, at the same time ------------------------------------------------------------


def test_what_is_done_cannot_be_cancelled() -> None:
    with ScriptedServer(serve) as server, ConnectionPool() as pool:
        future = pool.submit("GET", url(server, "/a"))
        assert future.result().body == b"/a"
        assert not future.cancel()
        assert not future.cancelled()
        assert future.result().body == b"/a"


def test_what_has_failed_cannot_be_cancelled() -> None:
    pool = ConnectionPool()
    with ScriptedServer(discard_rest) as server:
        future = pool.submit("GET", url(server))
        pool.close()
        assert not future.cancel()
        assert isinstance(future.exception(), PoolClosed)


@pytest.mark.parametrize("in_flight", [True, False])
def test_a_request_may_be_cancelled_twice(in_flight: bool) -> None:
    held = Held()
    with (
        ScriptedServer(held) as server,
        ConnectionPool(max_connections_per_host=1, pipeline_depth=1) as pool,
    ):
        first = pool.submit("GET", url(server, "/1"))
        held.wait()
        second = pool.submit("GET", url(server, "/2"))
        future, other = (first, second) if in_flight else (second, first)
        called: SimpleQueue[Future[Any]] = SimpleQueue()
        future.add_done_callback(called.put)
        assert future.cancel()
        assert future.cancel()
        assert called.get(timeout=TIMEOUT) is future
        assert called.empty()
        held.release()
        assert other.result().body == (b"/2" if in_flight else b"/1")
        assert pool.statistics().queued == 0
        assert pool.get(url(server, "/3")).body == b"/3"


def test_two_threads_may_cancel_at_once() -> None:
    held = Held(3, warm=3)
    with ScriptedServer(held) as server, ConnectionPool(max_connections_per_host=1) as pool:
        flight = Flight(pool, server, held, 3)
        together = threading.Barrier(2)
        results: list[bool] = []

        def cancel() -> None:
            together.wait()
            results.append(flight.futures[1].cancel())

        threads = [threading.Thread(target=cancel) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [True, True]
        held.release()
        assert flight.futures[0].result().body == b"/0"
        assert flight.futures[2].result().body == b"/2"


def test_cancelling_in_the_moment_of_the_response_is_one_or_the_other() -> None:
    """Whichever is first; and the next request gets its own response."""
    outcomes = set()
    with ScriptedServer(serve, repeat=True) as server, ConnectionPool() as pool:
        pool.get(url(server))
        for i in range(200):
            future = pool.submit("GET", url(server, f"/{i}"))
            if i % 2:
                concurrent.futures.wait([future], timeout=0.0001)
            cancelled = future.cancel()
            outcomes.add(cancelled)
            if cancelled:
                assert is_cancelled(future)
            else:
                assert future.result().body == f"/{i}".encode()
            assert pool.get(url(server, f"/after/{i}")).body == f"/after/{i}".encode()


def test_a_response_that_was_parsed_is_not_given_to_a_request_that_was_cancelled_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The response is there, but the pool has not been told of it when the caller cancels."""
    with ScriptedServer(serve) as server, ConnectionPool(max_connections_per_host=1) as pool:
        answered = Traffic.responded
        results: list[bool] = []

        def cancel_first(self: Traffic, *args: Any) -> None:
            if not results:
                results.append(future.cancel())
            answered(self, *args)

        submitted = threading.Event()

        def wait_and_cancel(self: Traffic, *args: Any) -> None:
            wait_for(submitted)
            cancel_first(self, *args)

        monkeypatch.setattr(Traffic, "responded", wait_and_cancel)
        future = pool.submit("GET", url(server, "/a"))
        submitted.set()
        with pytest.raises(CancelledError):
            future.result(timeout=5)
        assert results == [True]
        assert pool.get(url(server, "/b")).body == b"/b"
        assert server.connections == 1


# --- with what else there is for futures ----------------------------------------------------------


def test_concurrent_futures_can_wait_for_them() -> None:
    held = Held()
    with (
        ScriptedServer(held) as slow,
        ScriptedServer(serve) as quick,
        ConnectionPool(max_connections_per_host=1, pipeline_depth=1) as pool,
    ):
        late = pool.submit("GET", url(slow, "/late"))
        held.wait()
        queued = pool.submit("GET", url(slow, "/queued"))
        early = pool.submit("GET", url(quick, "/early"))
        done, pending = concurrent.futures.wait(
            [late, queued, early], return_when=concurrent.futures.FIRST_COMPLETED
        )
        assert (done, pending) == ({early}, {late, queued})
        queued.cancel()
        held.release()
        done, pending = concurrent.futures.wait([late, queued, early])
        assert (done, pending) == ({late, queued, early}, set())


def test_concurrent_futures_give_them_as_they_are_completed() -> None:
    held = Held()
    with (
        ScriptedServer(held) as slow,
        ScriptedServer(serve) as quick,
        ConnectionPool(max_connections_per_host=1, pipeline_depth=1) as pool,
    ):
        late = pool.submit("GET", url(slow, "/late"))
        held.wait()
        early = pool.submit("GET", url(quick, "/early"))
        completed = concurrent.futures.as_completed([late, early])
        assert next(completed) is early
        held.release()
        assert next(completed) is late


def test_a_future_can_be_awaited() -> None:
    async def main(pool: ConnectionPool, server: ScriptedServer) -> list[bytes]:
        futures = [pool.submit("GET", url(server, f"/{i}")) for i in range(10)]
        responses = await asyncio.gather(*map(asyncio.wrap_future, futures))
        return [response.body for response in responses]

    with ScriptedServer(serve, repeat=True) as server, ConnectionPool() as pool:
        bodies = asyncio.run(main(pool, server))
    assert bodies == [f"/{i}".encode() for i in range(10)]


def test_cancelling_what_is_awaited_cancels_the_request() -> None:
    held = Held(3, warm=3)

    async def main(flight: Flight) -> None:
        awaited = [asyncio.wrap_future(future) for future in flight.futures]
        awaited[1].cancel()
        await asyncio.sleep(0)  # asyncio tells us in the next round of its loop
        assert is_cancelled(flight.futures[1])
        held.release()
        assert (await awaited[0]).body == b"/0"
        assert (await awaited[2]).body == b"/2"

    with ScriptedServer(held) as server, ConnectionPool(max_connections_per_host=1) as pool:
        asyncio.run(main(Flight(pool, server, held, 3)))


def test_a_time_out_of_what_is_awaited_cancels_the_request() -> None:
    held = Held()

    async def main(future: ResponseFuture) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(future), 0.01)

    with ScriptedServer(held) as server, ConnectionPool(max_connections_per_host=1) as pool:
        future = pool.submit("GET", url(server))
        held.wait()
        asyncio.run(main(future))
        assert is_cancelled(future)
        held.release()
        assert pool.get(url(server, "/next")).body == b"/next"
        assert server.connections == 1


def test_a_request_that_timed_out_in_result_goes_on() -> None:
    held = Held()
    with ScriptedServer(held) as server, ConnectionPool() as pool:
        future = pool.submit("GET", url(server, "/a"))
        with pytest.raises(TimeoutError):
            future.result(timeout=0.01)
        held.wait()
        held.release()
        assert future.result().body == b"/a"


def test_a_cancelled_request_is_shown_as_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held()
    with ScriptedServer(held) as server, ConnectionPool(max_connections_per_host=1) as pool:
        future = pool.submit("GET", url(server, "/a"))
        held.wait()
        future.cancel()
        (connection,) = pool.statistics().hosts[f"http://127.0.0.1:{server.port}"].connections
        (holding,) = connection.holding
        assert holding.abandoned
        assert holding.url == url(server, "/a")
        answered = signal_after(monkeypatch, Traffic, "responded")
        held.release()
        wait_for(answered)
        assert pool.statistics().in_flight == 0
