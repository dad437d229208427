"""Interleavings in which two threads could take the same thing for theirs, or none could."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import pytest

from dugong import Client, ConnectionPool, Request
from dugong.errors import ConnectionClosed, PoolClosed
from dugong.pool.core import connections
from dugong.pool.core.connection import PooledConnection
from dugong.pool.core.connections import ConnectionManager
from dugong.pool.core.lending import Lending
from dugong.pool.core.scheduler import Scheduler
from dugong.pool.core.traffic import Traffic
from dugong.pool.core.waiting import Patience
from dugong.pool.dialer import Dialer
from dugong.pool.url import Origin
from tests.support.byhand import HandServer
from tests.support.fork import holds_in_child
from tests.support.parts import make_host, queue
from tests.support.pool import (
    Held,
    Site,
    discard_rest,
    each,
    name_target,
    open_site,
    signal_after,
    wait_for,
    wait_until_parked,
)
from tests.support.server import TIMEOUT, Peer, ReceivedRequest


def wait_until(site: Site, condition: Callable[[PooledConnection], object]) -> None:
    """Wait until *condition* holds for the only connection."""
    scheduler = site.pool._scheduler
    while True:
        with scheduler._core.lock:
            (host,) = scheduler._core.hosts.values()
            (pipeline,) = host.connections
            if condition(pipeline):
                return


def when_parked(site: Site) -> PooledConnection:
    """Return the only connection, which is idle, with both of its threads waiting for work."""
    wait_until_parked(site.pool)
    (pipeline,) = site.pool._scheduler._core.idle
    return pipeline


def test_a_receiver_that_comes_from_a_callback_leaves_the_connection_to_who_has_borrowed_it() -> (
    None
):
    asked, read_on = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        name_target(peer, peer.request())
        name_target(peer, peer.request())
        request = peer.request()
        asked.set()
        wait_for(read_on)
        name_target(peer, request)

    called, go_on = threading.Event(), threading.Event()

    def callback(future: object) -> None:
        called.set()
        wait_for(go_on)

    with open_site(script, max_connections_per_host=1) as site, ThreadPoolExecutor(1) as executor:
        site.pool.get(site.url("/1"))
        pipeline = when_parked(site)
        future = site.pool.submit("GET", site.url("/2"))
        future.add_done_callback(callback)
        wait_for(called)
        wait_until(site, lambda pipeline: pipeline in pipeline.host.idle)
        direct = executor.submit(site.pool.get, site.url("/3"))
        wait_for(asked)
        assert pipeline.borrower is not None
        go_on.set()
        wait_until(site, lambda pipeline: pipeline.receiver_parked or pipeline.is_closing)
        read_on.set()
        assert direct.result(10).body == b"/3"


def test_a_callback_sees_the_other_responses_of_the_same_batch() -> None:
    """All futures of a batch are done before the first callback is called."""

    def script(peer: Peer) -> None:
        name_target(peer, peer.request())
        for _ in "ab":
            peer.request()
        peer.send(2 * b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        peer.until_eof()

    outcomes: SimpleQueue[object] = SimpleQueue()
    with open_site(script, max_connections_per_host=1) as site:
        site.pool.get(site.url("/1"))
        with site.pool._scheduler._core.lock:
            first = site.pool.submit("GET", site.url("/a"))
            second = site.pool.submit("GET", site.url("/b"))
            second.add_done_callback(outcomes.put)
            first.add_done_callback(lambda _: outcomes.put(second.result()))
        assert outcomes.get(timeout=TIMEOUT) is second.result()
        assert outcomes.get(timeout=TIMEOUT) is second
        assert first.result().body == second.result().body == b"ok"


def raised_by(call: Callable[[], object]) -> Exception | None:
    try:
        call()
    except Exception as exc:
        return exc
    return None


def test_a_connection_is_given_back_by_the_caller_who_has_borrowed_it_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = Held(warm=2)
    given_back = Lending.responded_to_caller
    others: list[Any] = []

    def answered_directly(self: Scheduler, *args: Any) -> Any:
        outcome = given_back(self, *args)
        if not others:
            others.append(executor.submit(site.pool.get, site.url("/3")))
            held.wait()
        return outcome

    monkeypatch.setattr(Lending, "responded_to_caller", answered_directly)
    with open_site(held, max_connections_per_host=1) as site, ThreadPoolExecutor(1) as executor:
        site.pool.get(site.url("/1"))
        pipeline = when_parked(site)
        assert site.pool.get(site.url("/2")).body == b"/2"
        assert pipeline.borrower is not None
        late = site.pool.submit("GET", site.url("/4"))
        assert not late.running()
        held.release()
        assert (others[0].result(10).body, late.result(10).body) == (b"/3", b"/4")


def test_a_caller_whose_response_comes_after_the_end_of_its_connection_closes_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    responded = Lending.responded_to_caller

    def responded_late(self: Lending, *args: Any) -> bool:
        executor.submit(site.pool.close).result(TIMEOUT)
        return responded(self, *args)

    with (
        open_site(each(name_target), max_connections_per_host=1) as site,
        ThreadPoolExecutor(1) as executor,
    ):
        site.pool.get(site.url("/1"))
        when_parked(site)
        monkeypatch.setattr(Lending, "responded_to_caller", responded_late)
        with pytest.raises(PoolClosed):
            site.pool.get(site.url("/2"))
        statistics = site.pool.statistics()
        assert (statistics.connections, statistics.in_flight) == (0, 0)


def read_stream(client: ConnectionPool | Client, url: str, **options: Any) -> bytes:
    with client.stream("GET", url, **options) as response:
        return response.read()


def read_cancellable(pool: ConnectionPool, url: str) -> bytes:
    stream = pool._stream(Request("GET", url))
    stream.canceller()
    with stream as response:
        return response.read()


#: Requests that are made in the thread of the caller, if there is an idle connection.
OF_CALLERS: dict[str, Callable[[ConnectionPool, str], object]] = {
    "request": lambda pool, url: pool.get(url),
    "patient": lambda pool, url: pool._request(Request("GET", url), Patience(9, 9)),
    "stream": read_stream,
    "of a client": lambda pool, url: Client(pool=pool).get(url),
    "stream of a client": lambda pool, url: read_stream(Client(pool=pool), url),
}
#: Requests that are not, for another thread may end them.
OF_THE_POOL: dict[str, Callable[[ConnectionPool, str], object]] = {
    "submitted": lambda pool, url: pool.submit("GET", url).result(),
    "with a deadline": lambda pool, url: pool.get(url, deadline=TIMEOUT),
    "hedged": lambda pool, url: pool.get(url, hedge=9.0),
    "stream with a deadline": lambda pool, url: read_stream(pool, url, deadline=TIMEOUT),
    "stream that can be cancelled": read_cancellable,
}


@pytest.mark.parametrize("kind", [*OF_CALLERS, *OF_THE_POOL])
def test_no_other_thread_can_end_a_request_that_its_caller_makes(kind: str) -> None:
    """Its connection would be given back while the caller is still at work on it."""
    held = Held(warm=1)
    with open_site(held, max_connections_per_host=1) as site, ThreadPoolExecutor(1) as executor:
        site.pool.get(site.url("/1"))
        connection = when_parked(site)
        make = OF_CALLERS.get(kind) or OF_THE_POOL[kind]
        call = executor.submit(make, site.pool, site.url("/2"))
        held.wait()
        job = connection.borrower
        assert (job is not None) is (kind in OF_CALLERS)
        if job is not None:
            # That is, what its future, its timer or its other sending could end.
            assert (job._future, job.timer, job.twin) == (None, None, None)
            assert job not in site.pool._scheduler._core.streamed
        held.release()
        call.result(TIMEOUT)


def test_a_stream_that_outlives_its_own_upload_does_not_keep_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server responds well, but takes no more of the body.

    The reader is told so, and can read the response to its end, still.
    """
    read_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nfir")
        wait_for(read_on)
        peer.send(b"st.")
        peer.reset()

    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(65536)

    sent = signal_after(monkeypatch, Traffic, "_sent_locked")
    with open_site(script, each(name_target), max_connections=1) as site:
        with site.pool.stream("PUT", site.url("/upload"), body=endless()) as response:
            assert response.read(3) == b"fir"
            sent.clear()
            read_on.set()
            wait_for(sent)
            with pytest.raises(ConnectionClosed, match="before the body was sent"):
                response.read()
            assert response.read() == b"st."
        assert site.goes_on()


def test_a_request_is_served_beside_a_stream_though_a_connection_has_failed_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "REOPEN_TIME", 0.05)
    dial = Dialer.__call__
    fail = [True]

    def dial_badly(self: Any, origin: Any, proxy: Any) -> Any:
        if fail:
            fail.clear()
            raise ConnectionRefusedError("for once")
        return dial(self, origin, proxy)

    monkeypatch.setattr(Dialer, "__call__", dial_badly)

    def long(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nfir")
        discard_rest(peer)

    with open_site(long, each(name_target)) as site:
        with pytest.raises(ConnectionRefusedError):
            site.pool.get(site.url("/1"))
        with site.pool.stream("GET", site.url("/stream")):
            assert site.pool.submit("GET", site.url("/2")).result(TIMEOUT).body == b"/2"


def test_what_the_garbage_collector_cancels_may_come_at_any_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A forgotten iterator of map() cancels its requests when it is collected, wherever that is."""
    serve = ConnectionManager.ensure_served_locked

    def collecting_serve(self: Scheduler, host: Any) -> None:
        gc.collect()
        serve(self, host)

    def respond_to_others(peer: Peer, request: ReceivedRequest) -> None:
        if request.target != "/never":
            name_target(peer, request)

    with open_site(each(respond_to_others), repeat=True) as site, ThreadPoolExecutor(1) as executor:
        responses = site.pool.map([site.url("/1"), site.url("/never")])
        assert next(responses).body == b"/1"
        cycle: list[Any] = [responses]
        cycle.append(cycle)
        monkeypatch.setattr(ConnectionManager, "ensure_served_locked", collecting_serve)
        del responses, cycle
        later = executor.submit(lambda: site.pool.submit("GET", site.url("/2")).result(TIMEOUT))
        assert later.result(TIMEOUT).body == b"/2"


def test_a_pool_that_is_closed_in_the_midst_of_a_change_is_closed_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by a signal handler, while the thread that it interrupts holds the lock."""
    serve = ConnectionManager.ensure_served_locked

    def interrupted_serve(self: Scheduler, host: Any) -> None:
        serve(self, host)
        site.pool.close()

    with open_site(discard_rest) as site:
        monkeypatch.setattr(ConnectionManager, "ensure_served_locked", interrupted_serve)
        future = site.pool.submit("GET", site.url())
        with pytest.raises(PoolClosed):
            future.result(TIMEOUT)


def test_a_block_whose_end_is_interrupted_gives_its_connection_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Leaving it waits until the sender has let go of the request's body."""
    asked, go_on = threading.Event(), threading.Event()

    def slow() -> Iterator[bytes]:
        yield b"some"
        asked.set()
        wait_for(go_on)

    def script(peer: Peer) -> None:
        peer.head()
        peer.exactly(4)
        peer.respond(bytes(100_000))
        discard_rest(peer)

    with open_site(script, each(name_target), max_connections=1) as site:

        def interrupted_wait(timeout: float | None = None) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(site.pool._scheduler._core.body_released, "wait", interrupted_wait)
        with (
            pytest.raises(KeyboardInterrupt),
            site.pool.stream("PUT", site.url(), body=slow()),
        ):
            wait_for(asked)
        go_on.set()
        assert site.goes_on()


def test_hosts_that_are_not_used_are_forgotten_though_the_oldest_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "MAX_KNOWN_HOSTS", 3)
    pool = ConnectionPool()
    scheduler = pool._scheduler
    used = scheduler.know(make_host())
    queue(used, "/")
    for number in range(100):
        host = make_host()
        host.origin = Origin("http", f"host{number}", 80)
        scheduler.know(host)
    assert len(scheduler._core.hosts) <= 4
    assert used.origin in scheduler._core.hosts


@pytest.mark.parametrize("why", ["expired", "abandoned"])
def test_who_stands_behind_one_that_is_ended_and_answered_at_once_is_sent_again(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(2, warm=1)
    with open_site(held, each(name_target), max_connections_per_host=1) as site:
        site.pool.get(site.url("/0"))
        first = site.pool.submit("GET", site.url("/1"))
        second = site.pool.submit("GET", site.url("/2"))
        held.wait()
        answered = Traffic.responded

        def too_late(self: Any, pipeline: Any, done: Any, error: Any) -> None:
            monkeypatch.setattr(Traffic, "responded", answered)
            job = pipeline.oldest
            cancellation = site.pool._scheduler.cancellation
            with self._core.transaction():
                if why == "expired":
                    cancellation.expire_locked(job)
                else:
                    cancellation.take_out_locked(job, None)
                    cancellation._end_drain_locked(pipeline, job)
            answered(self, pipeline, done[:1], error)

        monkeypatch.setattr(Traffic, "responded", too_late)
        held.release()
        assert second.result(10).body == b"/2"
        assert first.done()


def test_a_connection_that_is_taken_up_again_after_a_callback_does_not_count_as_idle() -> None:
    """Its sender has nothing to do, calls back, and looks again before it waits."""
    consented, called_back, looked = (threading.Event() for _ in range(3))

    def body(go_on: threading.Event) -> Iterator[bytes]:
        yield b"body"
        wait_for(go_on)

    with HandServer() as server, ConnectionPool() as pool:
        scheduler = pool._scheduler

        def wait_until(condition: Callable[[], object]) -> None:
            while True:
                with scheduler._core.lock:
                    if condition():
                        return

        upload = pool.submit("PUT", server.url("/put"), body=body(consented))
        peer = server.accept()
        peer.head()
        get = pool.submit("GET", server.url("/get"))
        other = server.accept()
        assert other.burst() == ["/get"]
        uploading, getting = next(iter(scheduler._core.hosts.values())).connections
        wait_until(lambda: getting.sender_parked)
        nexts, wakeups = [], list[Any]()

        def call_back(future: object) -> None:
            assert uploading in scheduler._core.idle
            other.responds("/get")
            wait_until(lambda: getting in scheduler._core.idle and getting.receiver_wakeup)
            wakeups.append(getting.receiver_wakeup)
            wakeups[0].notify = lambda n=1: None  # it oversleeps
            nexts.append(pool.submit("PUT", server.url("/next"), body=body(looked)))
            called_back.set()

        upload.add_done_callback(call_back)
        peer.responds("/put")
        wait_until(lambda: not uploading.in_flight)
        consented.set()
        wait_for(called_back)
        peer._until(b"\r\n0\r\n\r\n")
        assert peer.head().target == "/next"
        with scheduler._core.lock:
            idle = list(scheduler._core.idle)
            del wakeups[0].notify
        looked.set()
        assert uploading not in idle
        peer.responds("/next")
        assert [future.result(TIMEOUT).text for future in (upload, get, *nexts)] == [
            "/put",
            "/get",
            "/next",
        ]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_an_upload_that_was_answered_early_is_over_in_a_forked_child() -> None:
    consented = threading.Event()

    def body() -> Iterator[bytes]:
        yield b"body"
        wait_for(consented)

    with HandServer() as server, ConnectionPool() as pool:
        future = pool.submit("PUT", server.url("/put"), body=body())
        peer = server.accept()
        peer.head()
        (pipeline,) = next(iter(pool._scheduler._core.hosts.values())).connections
        peer.responds("/put")
        while pipeline.in_flight:
            pass
        assert holds_in_child(lambda: isinstance(future.exception(5), PoolClosed))
        consented.set()
        assert future.result(TIMEOUT).text == "/put"
