"""The block of a stream: it gives the connection back, however it is left, or forgotten."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress

import pytest

from dugong import (
    ConnectionClosed,
    ConnectionPool,
    ConnectionTimedOut,
    Delivery,
    Request,
    StateError,
)
from dugong.deadline import Deadline
from dugong.pool.core.lending import Lending
from dugong.pool.core.waiting import Patience
from tests.support.points import Interrupt
from tests.support.pool import GONE, Site, each, name_target, open_site, url
from tests.support.server import TIMEOUT, Peer, ReceivedRequest, ScriptedServer

LONG = bytes(1_000_000)


def serve(peer: Peer, request: ReceivedRequest) -> None:
    if request.target == "/long":
        peer.respond(LONG)
    else:
        name_target(peer, request)


def site() -> AbstractContextManager[Site]:
    """Return a site whose pool may have one connection."""
    return open_site(each(serve), repeat=True, max_connections_per_host=1)


def test_a_stream_can_be_entered_once() -> None:
    with site() as here:
        stream = here.pool.stream("GET", here.url("/1"))
        with stream as response:
            assert response.read() == b"/1"
        with pytest.raises(StateError, match="entered once"), stream:
            pass


def test_the_future_of_a_stream_that_is_entered_in_steps_is_there_before_the_pool_may_make_it() -> (
    None
):
    with site() as here:
        request = Request("GET", here.url("/1"))
        stream = here.pool._stream(request)
        future = stream.begin()._future
        assert future is not None
        here.pool._scheduler.submit(stream._job)
        assert stream.received().read() == b"/1"
        assert future.result().status == 200
        stream.__exit__(None, None, None)


@pytest.mark.parametrize("reads", [False, True])
def test_another_thread_may_cancel_what_waits_for_a_stream(
    reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the thread does not make the request by itself, though there is an idle connection."""
    asked = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.respond(b"")
        peer.request()
        if reads:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1")
        else:
            asked.set()
        with suppress(*GONE):
            peer.until_eof()

    def read() -> None:
        with stream as response:
            assert response.read(1) == b"1"
            asked.set()
            response.read()

    with ScriptedServer(script) as server, ConnectionPool() as pool, ThreadPoolExecutor() as own:
        pool.get(server.url("/"))
        monkeypatch.delattr(Lending, "borrow")
        stream = pool._stream(Request("GET", server.url("/")))
        cancel = stream.canceller()
        future = own.submit(read)
        assert asked.wait(TIMEOUT)
        cancel()
        assert isinstance(future.exception(TIMEOUT), ConnectionClosed if reads else CancelledError)
        cancel()  # has no effect any more


def test_a_stream_that_was_cancelled_before_is_not_entered() -> None:
    with site() as here:
        stream = here.pool._stream(Request("GET", here.url("/1")))
        stream.canceller()()
        with pytest.raises(StateError), stream:
            pass
        assert here.pool.statistics().queued == 0


def test_an_interrupt_of_leaving_ends_the_connection_and_is_not_hidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*args: object) -> None:
        raise Interrupt

    def leave_interrupted(here: Site) -> None:
        with (
            monkeypatch.context() as interrupting,
            here.pool.stream("GET", here.url("/long")) as response,
        ):
            response.read(10)
            interrupting.setattr(Lending, "end_stream", interrupted)

    with site() as here:
        with pytest.raises(Interrupt):
            leave_interrupted(here)
        monkeypatch.undo()
        assert here.pool.get(here.url("/next"), deadline=5).body == b"/next"


def test_a_stream_that_is_forgotten_without_being_left_gives_its_connection_back() -> None:
    """As after an interrupt before the first step of leaving."""
    with site() as here:
        stream = here.pool.stream("GET", here.url("/long"))
        stream.__enter__().read(10)
        del stream
        gc.collect()
        assert here.pool.get(here.url("/next"), deadline=5).body == b"/next"


def test_a_stream_that_is_not_entered_is_forgotten_without_a_request() -> None:
    with site() as here:
        here.pool.stream("GET", here.url("/1"))
        gc.collect()
        assert here.pool.statistics().sent == 0


def test_a_request_in_the_block_that_would_wait_for_its_connection_says_so() -> None:
    with site() as here:
        with here.pool.stream("GET", here.url("/long")) as response:
            with pytest.raises(StateError, match="wait for itself"):
                here.pool.get(here.url("/inside"))
            with (
                pytest.raises(StateError, match="wait for itself"),
                here.pool.stream("GET", here.url("/inside")),
            ):
                pass
            assert len(response.read()) == len(LONG)
        assert here.pool.get(here.url("/next"), deadline=5).body == b"/next"


def test_a_request_in_the_block_is_made_on_another_connection_if_there_may_be_one() -> None:
    with (
        open_site(each(serve), repeat=True, max_connections=2) as here,
        here.pool.stream("GET", here.url("/long")) as response,
    ):
        assert here.pool.get(here.url("/inside"), deadline=5).body == b"/inside"
        assert len(response.read()) == len(LONG)


def test_another_thread_may_wait_for_the_connection_of_a_block() -> None:
    with ThreadPoolExecutor(1) as executor, site() as here:
        with here.pool.stream("GET", here.url("/long")):
            future = here.pool.submit("GET", here.url("/other"), deadline=TIMEOUT)
            other = executor.submit(future.result)
        assert other.result(TIMEOUT).body == b"/other"


def test_what_is_taken_for_a_response_says_what_it_is() -> None:
    with ConnectionPool() as pool:
        stream = pool.stream("GET", "http://127.0.0.1:9/")
        with pytest.raises(AttributeError, match="gives no response yet"):
            _ = stream.status  # type: ignore[attr-defined]  # it has none, of course
        assert "with pool.stream" in repr(stream)


def test_a_stream_waits_for_a_connection_no_longer_than_it_may() -> None:
    with site() as here, ThreadPoolExecutor(1) as executor:
        with here.pool.stream("GET", here.url("/long")) as response:
            stream = here.pool._stream(Request("GET", here.url("/2")), Patience(0.05, 0.05))
            failed = executor.submit(stream.__enter__).exception(TIMEOUT)
            assert isinstance(failed, ConnectionTimedOut)
            assert failed.delivery is Delivery.UNSENT
            assert response.read() == LONG
        stream = here.pool._stream(Request("GET", here.url("/3")), Patience(TIMEOUT, TIMEOUT))
        with stream as response:
            assert response.read() == b"/3"


@pytest.mark.parametrize("is_read", [True, False])
def test_a_pool_is_forgotten_without_the_collector_when_its_streams_were_left(
    is_read: bool,
) -> None:
    forgotten = threading.Event()
    gc.disable()
    try:
        with ScriptedServer(each(serve), repeat=True) as server:
            pool = ConnectionPool()
            with pool.stream("GET", url(server, "/long")) as response:
                if is_read:
                    response.read()
            threads = pool._scheduler._core.threads
            observer = weakref.ref(pool, lambda _: forgotten.set())
            del pool, response
            assert forgotten.wait(TIMEOUT), observer()
            threads.join(Deadline(TIMEOUT))
    finally:
        gc.enable()
