"""Deadlines, time-outs, ages, and the limits on connections: what ends when, and makes room.

Where a test has to wait for a time to pass, that is some hundredths of a second; where it would be
longer, the clock of the pool is put forward instead.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, NoReturn

import pytest

import dugong
from dugong import ConnectionPool, Response, RetryPolicy
from dugong.connection import dial
from dugong.connection.polling import PollNeeded
from dugong.connection.transport import PlainTransport
from dugong.errors import ConnectionClosed, ConnectionTimedOut, Delivery
from dugong.pool.core import (
    connections,
    dispatch,
    maintenance,
    room,
    traffic,
)
from dugong.pool.core.cancellation import Cancellation
from dugong.pool.core.connection import PooledConnection
from dugong.pool.core.host import Host
from dugong.pool.core.job import Job
from dugong.pool.core.traffic import Traffic
from dugong.pool.future import ResponseFuture
from tests.support.clock import DECIDING
from tests.support.pool import (
    NO_SECOND_TRY,
    Held,
    connections_of,
    discard_rest,
    each,
    get_and_be_idle,
    name_target,
    signal_after,
    url,
    wait_for,
    wait_until,
)
from tests.support.server import Peer, ReceivedRequest, Script, ScriptedServer

SOON = 0.03  # seconds


def serve(peer: Peer) -> None:
    """Response each request with its target, for as long as the client wants."""
    with contextlib.suppress(ConnectionError):
        each(name_target)(peer)


def mute(peer: Peer) -> None:
    """Take a request, and never respond."""
    with contextlib.suppress(ConnectionError, EOFError):
        peer.head()
        discard_rest(peer)


class Taken:
    """A script that lets requests through and tells of the *count*th; it does not respond that."""

    def __init__(self, count: int, *, warm: int = 0) -> None:
        self.arrived = threading.Event()
        self._count = count
        self._warm = warm

    def __call__(self, peer: Peer) -> None:
        for _ in range(self._warm):
            name_target(peer, peer.request())
        for _ in range(self._count):
            peer.request()
        self.arrived.set()
        discard_rest(peer)


def timed_out(future: ResponseFuture) -> tuple[str, Delivery | None]:
    """Return what the time-out of *future* says, and how far it had got."""
    error = future.exception(timeout=5)
    assert isinstance(error, ConnectionTimedOut)
    return str(error), error.delivery


class Clock:
    """The clock of the pools, which can be put forward."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return monotonic() + self._ahead

    def forward(self, pool: ConnectionPool, seconds: float) -> None:
        """Let *seconds* pass at once; return when all is done that had to be done by then."""
        self._ahead += seconds
        passed = threading.Event()
        scheduler = pool._scheduler
        with scheduler._core.transaction():
            scheduler._maintenance.at_locked(self(), passed.set)
        scheduler._maintenance.wake()
        wait_for(passed)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (maintenance, *DECIDING):
        monkeypatch.setattr(module, "monotonic", clock)
    return clock


# --- deadline -------------------------------------------------------------------------------------


def test_a_deadline_passes_in_the_queue_and_the_error_names_who_holds_the_connections() -> None:
    held = Held()
    with (
        ScriptedServer(held) as server,
        ConnectionPool(max_connections_per_host=1, pipeline_depth=1) as pool,
    ):
        holder = pool.submit("GET", url(server, "/holder"))
        held.wait()
        message, delivery = timed_out(pool.submit("GET", url(server, "/late"), deadline=SOON))
        assert delivery is Delivery.UNSENT
        assert f"in the queue of 127.0.0.1:{server.port}" in message
        assert f"127.0.0.1:{server.port}-1 (busy): GET {url(server, '/holder')} for 0." in message
        held.release()
        assert holder.result().body == b"/holder"
        assert pool.statistics().queued == 0
        assert pool.statistics().sent == 1


def test_a_deadline_passes_in_the_queue_behind_a_post() -> None:
    held = Held(1, warm=2)
    with ScriptedServer(held) as server, ConnectionPool(max_connections_per_host=1) as pool:
        pool.get(url(server))
        pool.get(url(server))
        get = pool.submit("GET", url(server, "/get"))
        held.wait()
        post = pool.submit("POST", url(server, "/post"), body=b"once", deadline=SOON)
        assert timed_out(post)[1] is Delivery.UNSENT
        behind = pool.submit("GET", url(server, "/behind"))
        held.release()
        assert get.result().body == b"/get"
        assert behind.result().body == b"/behind"
        assert pool.statistics().sent == 4


def test_a_deadline_passes_while_a_name_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = threading.Event()

    def resolve(host: str, port: int, **options: Any) -> NoReturn:
        wait_for(resolved)
        raise dugong.HostnameNotResolvable(host)

    monkeypatch.setattr(dial, "resolve", resolve)
    with ConnectionPool(max_connections_per_host=1) as pool:
        future = pool.submit("GET", "http://server.test/", deadline=SOON)
        message, delivery = timed_out(future)
        resolved.set()
    assert delivery is Delivery.UNSENT
    assert "server.test:80-1 (connecting): nothing" in message


def test_a_deadline_passes_while_shaking_hands(client_context: ssl.SSLContext) -> None:
    with (
        ScriptedServer(discard_rest) as server,
        ConnectionPool(max_connections_per_host=1, ssl_context=client_context) as pool,
    ):
        future = pool.submit("GET", url(server, scheme="https"), deadline=SOON)
        message, delivery = timed_out(future)
    assert delivery is Delivery.UNSENT
    assert "connecting" in message


def test_a_deadline_passes_while_waiting_for_the_response() -> None:
    with (
        ScriptedServer(mute, serve) as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        with pytest.raises(ConnectionTimedOut, match="deadline") as caught:
            pool.get(url(server, "/late"), deadline=SOON)
        assert caught.value.delivery is Delivery.SENT
        assert pool.get(url(server, "/next")).body == b"/next"


def test_a_deadline_passes_though_there_is_always_progress() -> None:
    def drip(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                peer.send(b"x")
                peer.sock.settimeout(0.005)
                with contextlib.suppress(TimeoutError):
                    if not peer.sock.recv(1):
                        return

    with (
        ScriptedServer(drip, serve) as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        with pytest.raises(ConnectionTimedOut, match="deadline") as caught:
            pool.get(url(server, "/late"), deadline=SOON, timeout=5)
        assert caught.value.delivery is Delivery.ANSWER_STARTED
        assert pool.get(url(server, "/next")).body == b"/next"


def test_a_deadline_passes_while_the_body_is_sent() -> None:
    done = threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        wait_for(done)

    with (
        ScriptedServer(script, serve) as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        with pytest.raises(ConnectionTimedOut, match="deadline") as caught:
            pool.put(url(server), bytes(50_000_000), deadline=SOON)
        assert caught.value.delivery in (Delivery.PARTLY_SENT, Delivery.SENT)
        done.set()
        assert pool.get(url(server, "/next")).body == b"/next"


def test_a_deadline_passes_while_waiting_for_100() -> None:
    def script(peer: Peer) -> None:
        peer.head()
        assert discard(peer) == b""

    with (
        ScriptedServer(script, serve) as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        with pytest.raises(ConnectionTimedOut, match="deadline"):
            pool.put(url(server), b"body", expect100=True, deadline=SOON)
        assert pool.get(url(server, "/next")).body == b"/next"


def discard(peer: Peer) -> bytes:
    try:
        return peer.until_eof()
    except ConnectionResetError:
        return b""


def test_a_deadline_passes_after_an_early_response_while_the_body_is_still_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The response is what the caller gets, or the deadline: and the timers of the pool live on."""
    stuck, go_on = threading.Event(), threading.Event()

    def body() -> Iterator[bytes]:
        yield b"first"
        stuck.set()
        wait_for(go_on)
        yield b"second"

    def script(peer: Peer) -> None:
        peer.head()
        wait_for(stuck)
        peer.respond(b"early")
        discard_rest(peer)

    expired = signal_after(monkeypatch, Cancellation, "expire_locked")
    with (
        ScriptedServer(script, mute, serve) as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        future = pool.submit("PUT", url(server), body=body(), deadline=SOON)
        wait_for(expired)
        go_on.set()
        error = future.exception(timeout=5)
        assert error is None or isinstance(error, ConnectionTimedOut)
        late = pool.submit("GET", url(server, "/late"), deadline=SOON)
        assert timed_out(late)


def test_a_deadline_passes_while_a_streamed_body_is_read() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegin")
        discard_rest(peer)

    with (
        ScriptedServer(script, serve) as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        with pool.stream("GET", url(server), deadline=SOON) as response:
            with pytest.raises(ConnectionTimedOut, match="deadline") as caught:
                response.read()
            assert caught.value.delivery is Delivery.ANSWER_STARTED
        assert pool.get(url(server, "/next")).body == b"/next"


def test_a_deadline_of_a_request_within_a_pipeline_does_no_harm_to_the_others() -> None:
    held = Held(3, warm=3)
    with ScriptedServer(held) as server, ConnectionPool(max_connections_per_host=1) as pool:
        for _ in range(3):
            pool.get(url(server))
        futures = [
            pool.submit("GET", url(server, f"/{i}"), deadline=SOON if i == 1 else None)
            for i in range(3)
        ]
        held.wait()
        assert timed_out(futures[1])[1] is Delivery.SENT
        held.release()
        assert futures[0].result().body == b"/0"
        assert futures[2].result().body == b"/2"
        assert pool.get(url(server, "/next")).body == b"/next"
        assert server.connections == 1


def test_a_deadline_of_the_oldest_request_closes_and_the_others_are_sent_again_together() -> None:
    """It is not their connection that failed, so there is no reason to have them go alone."""
    together = Held(2)
    with (
        ScriptedServer(Taken(3, warm=3), together) as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        for _ in range(3):
            pool.get(url(server))
        futures = [
            pool.submit("GET", url(server, f"/{i}"), deadline=SOON if i == 0 else None)
            for i in range(3)
        ]
        assert timed_out(futures[0])[1] is Delivery.SENT
        together.wait()
        together.release()
        assert [future.result().body for future in futures[1:]] == [b"/1", b"/2"]
        for future in futures[1:]:
            (attempt,) = future.result().attempts
            assert not attempt.charged


def test_a_deadline_that_is_met_leaves_nothing_behind() -> None:
    with ScriptedServer(serve) as server, ConnectionPool() as pool:
        for _ in range(5):
            assert pool.get(url(server), deadline=60).status == 200
        assert len(pool._scheduler._maintenance._timers) <= 1  # that of the idle connection


# --- timeout --------------------------------------------------------------------------------------


def test_a_time_out_fails_one_request_and_its_neighbours_are_sent_again_at_no_charge() -> None:
    again: list[str] = []

    def respond(peer: Peer, request: ReceivedRequest) -> None:
        again.append(request.target)
        name_target(peer, request)

    with (
        ScriptedServer(Taken(3, warm=3), each(respond)) as server,
        ConnectionPool(max_connections_per_host=1, retry=NO_SECOND_TRY) as pool,
    ):
        for _ in range(3):
            pool.get(url(server))
        futures = [pool.submit("GET", url(server, f"/{i}"), timeout=SOON) for i in range(3)]
        message, delivery = timed_out(futures[0])
        assert delivery is Delivery.SENT
        assert f"{SOON} s " in message
        assert [future.result().body for future in futures[1:]] == [b"/1", b"/2"]
        assert again == ["/1", "/2"]
        assert pool.statistics().resent == 2


def test_a_time_out_is_an_attempt() -> None:
    with (
        ScriptedServer(mute, mute, serve) as server,
        ConnectionPool(
            max_connections_per_host=1, retry=RetryPolicy(attempts=3, backoff=0)
        ) as pool,
    ):
        response = pool.get(url(server, "/late"), timeout=SOON)
        assert response.body == b"/late"
        assert [type(attempt.exception) for attempt in response.attempts] == [
            ConnectionTimedOut
        ] * 2
        assert [attempt.number for attempt in response.attempts] == [1, 2]


def test_a_request_whose_connection_timed_out_for_another_says_so() -> None:
    with (
        ScriptedServer(Taken(2, warm=2), serve) as server,
        ConnectionPool(max_connections_per_host=1, retry=NO_SECOND_TRY) as pool,
    ):
        pool.get(url(server))
        pool.get(url(server))
        futures = [pool.submit("GET", url(server, f"/{i}"), timeout=SOON) for i in range(2)]
        assert timed_out(futures[0])
        (attempt,) = futures[1].result().attempts
        assert attempt.connection == f"127.0.0.1:{server.port}-1"
        assert attempt.delivery is Delivery.SENT
        assert not attempt.charged
        assert "nothing received" in attempt.outcome


@pytest.mark.parametrize("warm", [0, 1])
def test_each_request_has_its_own_time_out(warm: int) -> None:
    def script(peer: Peer) -> None:
        for _ in range(warm):
            name_target(peer, peer.request())
        mute(peer)

    with (
        ScriptedServer(script, serve) as server,
        ConnectionPool(max_connections_per_host=1, timeout=60, retry=NO_SECOND_TRY) as pool,
    ):
        for _ in range(warm):
            pool.get(url(server))
        with pytest.raises(ConnectionTimedOut) as caught:
            pool.get(url(server, "/late"), timeout=SOON)
        assert caught.value.delivery is Delivery.SENT
        assert pool.get(url(server, "/next")).body == b"/next"


def test_the_pools_time_out_is_for_those_that_have_none() -> None:
    with (
        ScriptedServer(mute) as server,
        ConnectionPool(max_connections_per_host=1, timeout=SOON, retry=NO_SECOND_TRY) as pool,
        pytest.raises(ConnectionTimedOut),
    ):
        pool.get(url(server))


def test_a_time_out_of_none_is_for_ever() -> None:
    held = Held()
    with (
        ScriptedServer(held) as server,
        ConnectionPool(max_connections_per_host=1, timeout=SOON) as pool,
    ):
        future = pool.submit("GET", url(server, "/a"), timeout=None)
        held.wait()
        with pytest.raises(TimeoutError):
            future.result(timeout=3 * SOON)
        held.release()
        assert future.result().body == b"/a"


def test_connecting_has_the_time_out_of_the_pool(client_context: ssl.SSLContext) -> None:
    with (
        ScriptedServer(discard_rest) as server,
        ConnectionPool(
            max_connections_per_host=1,
            timeout=SOON,
            ssl_context=client_context,
            retry=NO_SECOND_TRY,
        ) as pool,
        pytest.raises(ConnectionTimedOut) as caught,
    ):
        pool.get(url(server, scheme="https"), timeout=60)
    assert caught.value.delivery is Delivery.UNSENT


def test_a_response_that_begins_and_goes_no_further_is_a_time_out() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Le")
        discard_rest(peer)

    with (
        ScriptedServer(script, serve) as server,
        ConnectionPool(max_connections_per_host=1, retry=NO_SECOND_TRY) as pool,
    ):
        with pytest.raises(ConnectionTimedOut) as caught:
            pool.get(url(server), timeout=SOON)
        assert caught.value.delivery is Delivery.ANSWER_STARTED
        assert pool.get(url(server, "/next")).body == b"/next"


def test_an_upload_that_makes_progress_is_no_time_out() -> None:
    """Nothing is received for longer than the time-out, but that is because we send."""
    timeouts = threading.Semaphore(0)

    def body() -> Iterator[bytes]:
        for _ in range(3):
            yield b"piece"
            assert timeouts.acquire(timeout=5)  # the receiver has waited in vain meanwhile

    def respond(peer: Peer, request: ReceivedRequest) -> None:
        peer.respond(request.body)

    with ScriptedServer(each(respond)) as server, ConnectionPool() as pool:
        sends_body = pool._scheduler.traffic.sends_body

        def signalling_sends_body(pipeline: Any) -> bool:
            timeouts.release()
            return sends_body(pipeline)

        pool._scheduler.traffic.sends_body = signalling_sends_body  # type: ignore[method-assign]
        response = pool.put(url(server), body(), timeout=SOON)
        assert response.body == b"piecepiecepiece"


def test_an_upload_that_makes_no_progress_is_a_time_out() -> None:
    done = threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        wait_for(done)

    with (
        ScriptedServer(script, serve) as server,
        ConnectionPool(max_connections_per_host=1, retry=NO_SECOND_TRY) as pool,
    ):
        try:
            with pytest.raises(ConnectionTimedOut) as caught:
                pool.put(url(server), bytes(50_000_000), timeout=SOON)
        finally:
            done.set()
        assert caught.value.delivery in (Delivery.PARTLY_SENT, Delivery.SENT)
        assert pool.get(url(server, "/next")).body == b"/next"


def test_a_sender_whose_time_out_ends_the_connection_is_believed_though_the_receiver_is_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    receiver_has_told = signal_after(monkeypatch, Traffic, "responded")
    next_batch = Traffic.next_batch

    def late(self: Any, pipeline: PooledConnection, error: Exception | None) -> list[Job]:
        if error is not None:
            wait_for(receiver_has_told)
        return next_batch(self, pipeline, error)

    monkeypatch.setattr(Traffic, "next_batch", late)
    done = threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        wait_for(done)

    with ScriptedServer(script) as server, ConnectionPool(retry=NO_SECOND_TRY) as pool:
        future = pool.submit("PUT", url(server), body=bytes(50_000_000), timeout=SOON)
        error = future.exception(timeout=5)
        done.set()
    assert isinstance(error, ConnectionTimedOut)


@pytest.mark.parametrize(
    "ask",
    [
        lambda pool, where: pool.get(where, timeout=SOON),
        lambda pool, where: pool.submit("GET", where, timeout=SOON).result(timeout=5),
    ],
    ids=["request", "submit"],
)
def test_a_request_that_cannot_be_sent_is_a_time_out(
    ask: Callable[[ConnectionPool, str], Response], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never_ready(self: PlainTransport, data: object) -> PollNeeded:
        if self.is_shut:
            raise ConnectionClosed("disconnected")
        return self._want_read  # and the server says nothing

    with (
        ScriptedServer(serve) as server,
        ConnectionPool(max_connections_per_host=1, retry=NO_SECOND_TRY) as pool,
    ):
        get_and_be_idle(pool, url(server))
        monkeypatch.setattr(PlainTransport, "send", never_ready)
        with pytest.raises(ConnectionTimedOut) as caught:
            ask(pool, url(server))
        assert caught.value.delivery is Delivery.UNSENT


def test_a_server_that_is_silent_after_an_upload_is_a_time_out() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        discard_rest(peer)

    with ScriptedServer(script) as server, ConnectionPool() as pool:
        with pytest.raises(ConnectionTimedOut) as caught:
            pool.put(url(server), iter([b"body"]), timeout=SOON)
        assert caught.value.delivery is Delivery.SENT


def test_a_streamed_body_that_does_not_go_on_is_a_time_out() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegin")
        discard_rest(peer)

    with (
        ScriptedServer(script, serve) as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        with (
            pool.stream("GET", url(server), timeout=SOON) as response,
            pytest.raises(ConnectionTimedOut),
        ):
            response.read()
        assert pool.get(url(server, "/next")).body == b"/next"


# --- idle connections -----------------------------------------------------------------------------


class Ended:
    """A script that responds, and tells when the client has closed."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, peer: Peer) -> None:
        serve(peer)
        self.event.set()


def test_an_idle_connection_is_closed_after_a_while() -> None:
    ended = Ended()
    with (
        ScriptedServer(ended, serve) as server,
        ConnectionPool(max_connections_per_host=1, idle_timeout=SOON) as pool,
    ):
        began = monotonic()
        pool.get(url(server))
        assert ended.event.wait(5)
        assert SOON <= monotonic() - began < 0.9
        assert pool.get(url(server, "/a")).body == b"/a"
        assert server.connections == 2


def test_a_connection_that_is_used_is_not_idle(clock: Clock) -> None:
    """What was looked at too early is looked at again."""
    ended = Ended()
    with (
        ScriptedServer(ended) as server,
        ConnectionPool(max_connections_per_host=1, idle_timeout=10) as pool,
    ):
        get_and_be_idle(pool, url(server))
        for _ in range(5):
            clock.forward(pool, 6)
            get_and_be_idle(pool, url(server))
        clock.forward(pool, 9)
        assert pool.statistics().connections == 1
        clock.forward(pool, 2)
        assert pool.statistics().connections == 0
        wait_for(ended.event)


def test_an_idle_connection_gives_its_buffer_back_and_can_still_be_used(clock: Clock) -> None:
    with ScriptedServer(serve) as server, ConnectionPool(max_connections_per_host=1) as pool:
        get_and_be_idle(pool, url(server))
        (pipeline,) = pool._scheduler._core.idle
        clock.forward(pool, 1.5)
        assert len(pipeline.engine._session.state.buffer.view) == 0
        assert pool.get(url(server, "/a")).body == b"/a"
        assert server.connections == 1


# --- max_age and max_requests ---------------------------------------------------------------------


@pytest.mark.parametrize("direct", [True, False])
def test_a_connection_that_is_too_old_is_replaced(direct: bool, clock: Clock) -> None:
    ended = Ended()
    with (
        ScriptedServer(ended, serve) as server,
        ConnectionPool(max_connections_per_host=1, max_age=10) as pool,
    ):
        pool.get(url(server, "/1"))
        clock.forward(pool, 9)
        pool.get(url(server, "/2"))
        assert pool.statistics().opened == 1
        clock.forward(pool, 2)
        if direct:
            assert pool.get(url(server, "/3")).body == b"/3"
        else:
            assert pool.submit("GET", url(server, "/3")).result().body == b"/3"
        wait_for(ended.event)
        assert pool.get(url(server, "/4")).body == b"/4"
        assert pool.statistics().opened == 2


def test_a_connection_that_is_too_old_gets_no_more_requests(clock: Clock) -> None:
    """It is retired between responses, even if there is always something in flight on it."""
    held = Held(2, warm=2)
    with (
        ScriptedServer(held, serve) as server,
        ConnectionPool(max_connections_per_host=1, max_age=10) as pool,
    ):
        pool.get(url(server))
        pool.get(url(server))
        first = [pool.submit("GET", url(server, f"/{i}")) for i in range(2)]
        held.wait()
        clock.forward(pool, 11)
        later = [pool.submit("GET", url(server, f"/later/{i}")) for i in range(20)]
        held.release()
        assert [future.result().body for future in first] == [b"/0", b"/1"]
        assert [f.result().body for f in later] == [f"/later/{i}".encode() for i in range(20)]
        assert pool.statistics().opened == 2
        assert [request.target for request in held.requests] == ["/0", "/1"]
        (connection,) = pool.statistics().hosts[f"http://127.0.0.1:{server.port}"].connections
        assert connection.sent >= 18


@pytest.mark.parametrize("how", ["request", "submit"])
def test_a_connection_that_has_done_its_requests_is_replaced(how: str) -> None:
    counts: list[int] = []

    def count(peer: Peer) -> None:
        counts.append(0)
        mine = len(counts) - 1

        def respond(peer: Peer, request: ReceivedRequest) -> None:
            counts[mine] += 1
            name_target(peer, request)

        each(respond)(peer)

    with (
        ScriptedServer(count, repeat=True) as server,
        ConnectionPool(max_connections_per_host=1, max_requests=3) as pool,
    ):
        targets = [f"/{i}" for i in range(9)]
        if how == "request":
            bodies = [pool.get(url(server, target)).body for target in targets]
        else:
            futures = [pool.submit("GET", url(server, target)) for target in targets]
            bodies = [future.result().body for future in futures]
        assert bodies == [target.encode() for target in targets]
    assert counts == [3, 3, 3]


# --- how many connections -------------------------------------------------------------------------


class Count:
    """A script that responds, and knows how many connections there are at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0

    def __call__(self, peer: Peer) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            each(self.respond)(peer)
        except ConnectionError:
            pass
        finally:
            with self._lock:
                self._now -= 1

    def respond(self, peer: Peer, request: ReceivedRequest) -> None:
        name_target(peer, request)


def test_a_host_has_only_so_many_connections() -> None:
    count = Count()
    with (
        ScriptedServer(count, repeat=True) as server,
        ConnectionPool(max_connections_per_host=3, pipeline_depth=1) as pool,
    ):
        futures = [pool.submit("GET", url(server, f"/{i}")) for i in range(100)]
        assert [f.result().body for f in futures] == [f"/{i}".encode() for i in range(100)]
    assert count.most <= 3


@contextlib.contextmanager
def servers(count: int, script: Script) -> Iterator[list[ScriptedServer]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ScriptedServer(script, repeat=True)) for _ in range(count)]


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_many_hosts_share_a_few_connections(limit: int) -> None:
    with servers(12, serve) as many, ConnectionPool(max_connections=limit) as pool:
        with counted_connections() as counts:
            targets = [f"/{i}" for i in range(5)]
            futures = [
                pool.submit("GET", url(server, target)) for target in targets for server in many
            ]
            bodies = [future.result(timeout=10).body.decode() for future in futures]
        assert bodies == [target for target in targets for _ in many]
        assert max(counts) == limit


def test_the_connection_that_is_idle_for_longest_makes_room() -> None:
    with (
        servers(3, serve) as (first, second, third),
        ConnectionPool(max_connections=2, max_connections_per_host=1) as pool,
    ):
        get_and_be_idle(pool, url(first))
        get_and_be_idle(pool, url(second))
        get_and_be_idle(pool, url(first))  # so the other is idle for longer
        pool.get(url(third))
        hosts = pool.statistics().hosts.values()
        assert {host.origin for host in hosts if host.connections} == {
            f"http://127.0.0.1:{server.port}" for server in (third, first)
        }
        assert pool.statistics().closed == 1


def test_a_host_that_wants_more_connections_than_there_may_be_keeps_those_it_has() -> None:
    with (
        ScriptedServer(serve, repeat=True) as server,
        ConnectionPool(max_connections=2, max_connections_per_host=6) as pool,
    ):
        for _ in range(3):
            futures = [pool.submit("GET", url(server, f"/{i}")) for i in range(20)]
            assert [f.result().body for f in futures] == [f"/{i}".encode() for i in range(20)]
        assert pool.statistics().opened == 2


def test_hosts_that_want_a_connection_take_turns() -> None:
    """A host whose connections end, and who wants another at once, waits behind the others."""
    order: list[str] = []

    def closing(name: str) -> Script:
        def script(peer: Peer) -> None:
            peer.request()
            order.append(name)
            if len(order) == 1:
                wait_for(queued)
            peer.respond(headers="Connection: close\r\n")
            discard_rest(peer)

        return script

    queued = threading.Event()
    with (
        ScriptedServer(closing("greedy"), repeat=True) as greedy,
        ScriptedServer(closing("patient"), repeat=True) as patient,
        ConnectionPool(max_connections=1) as pool,
    ):
        futures = [pool.submit("GET", url(greedy)) for _ in range(4)]
        futures += [pool.submit("GET", url(patient)) for _ in range(2)]
        queued.set()
        for future in futures:
            future.result(timeout=10)
    assert order.index("patient") <= 2


def test_a_host_with_an_endless_queue_does_not_keep_all_connections_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Others get their turn while there is still something to be done for it, and so does it."""
    monkeypatch.setattr(room, "TURN_TIME", 0.02)
    enough = threading.Event()
    again = threading.Event()

    def resubmit(_: object) -> None:
        if not enough.is_set():
            pool.submit("GET", url(greedy)).add_done_callback(resubmit)
        else:
            again.set()

    with (
        ScriptedServer(serve, repeat=True) as greedy,
        ScriptedServer(serve, repeat=True) as patient,
        ConnectionPool(max_connections=1) as pool,
    ):
        for _ in range(10):
            pool.submit("GET", url(greedy)).add_done_callback(resubmit)
        try:
            assert pool.get(url(patient, "/a"), deadline=5).body == b"/a"
            assert pool.get(url(patient, "/b"), deadline=5).body == b"/b"
        finally:
            enough.set()
        wait_for(again)


@contextlib.contextmanager
def counted_connections() -> Iterator[list[int]]:
    """A list of how many connections there were whenever one had been opened."""
    counts: list[int] = []
    opened = connections.ConnectionManager.open_locked

    def counting_open(self: connections.ConnectionManager, *args: Any) -> None:
        opened(self, *args)
        counts.append(self._core.connections)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections.ConnectionManager, "open_locked", counting_open)
        yield counts


def test_there_are_never_more_connections_than_allowed_however_many_hosts_want_one() -> None:
    with (
        servers(6, serve) as many,
        counted_connections() as counts,
        ConnectionPool(max_connections=3, max_connections_per_host=2) as pool,
    ):
        futures = []
        for i in range(12):
            method, body = ("POST", b"x") if i % 3 == 2 else ("GET", None)
            futures += [pool.submit(method, url(server), body=body) for server in many]
        for future in futures:
            future.result(timeout=10)
    assert max(counts) == 3


class TwoForOne:
    """A pool that may have two connections, and a host that has both.

    On one of them a GET is in flight, with a POST behind it that has to wait for its response; the
    other has answered its GET when `one_is_idle` returns.
    """

    def __init__(self, pool: ConnectionPool, server: ScriptedServer, *helds: Held) -> None:
        self._helds = helds
        self._pool = pool
        reserved = threading.Event()

        def signalling_take(host: Host, pipeline: PooledConnection) -> list[Job]:
            batch = dispatch.take(host, pipeline)
            if pipeline.reserved is not None:
                self._reserver = pipeline
                reserved.set()
            return batch

        pool.get(url(server))
        pool.get(url(server))
        self.futures = [pool.submit("GET", url(server)) for _ in helds]
        for held in helds:
            held.wait()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(traffic, "take", signalling_take)
            self.futures.append(pool.submit("POST", url(server), body=b"once"))
            wait_for(reserved)
        assert pool.statistics().connections == 2

    def one_is_idle(self) -> None:
        """Let the connection that the POST does not wait for become idle."""
        (other,) = (c for c in connections_of(self._pool) if c is not self._reserver)
        self._helds[0 if self._reserver.name.endswith("-2") else 1].release()
        wait_until(
            self._pool, lambda: (other.sender_parked or other.is_closing) and not other.in_flight
        )

    def end(self) -> None:
        """Let all be answered."""
        for held in self._helds:
            held.release()
        for future in self.futures:
            assert future.result(timeout=5).status == 200


def test_an_idle_connection_makes_room_though_its_host_has_a_post_that_waits_elsewhere() -> None:
    helds = Held(1, warm=2), Held(1)
    with (
        ScriptedServer(*helds, serve, repeat=True) as server,
        servers(1, serve) as (other,),
        ConnectionPool(max_connections=2, max_connections_per_host=2) as pool,
    ):
        two = TwoForOne(pool, server, *helds)
        future = pool.submit("GET", url(other, "/other"))
        two.one_is_idle()
        try:
            assert future.result(timeout=0.5).body == b"/other"
        finally:
            two.end()


def test_making_room_for_one_host_does_not_make_it_for_two() -> None:
    helds = Held(1, warm=2), Held(1)
    with (
        ScriptedServer(*helds, serve, repeat=True) as server,
        servers(2, serve) as (second, third),
        counted_connections() as counts,
        ConnectionPool(max_connections=2, max_connections_per_host=2) as pool,
    ):
        two = TwoForOne(pool, server, *helds)
        futures = [pool.submit("GET", url(second, "/2"))]
        two.one_is_idle()
        futures.append(pool.submit("GET", url(third, "/3")))
        two.end()
        assert [future.result(timeout=5).body for future in futures] == [b"/2", b"/3"]
    assert max(counts) == 2


def test_a_connection_that_has_ended_is_not_kept_until_it_would_have_been_too_old() -> None:
    def close_after_one(peer: Peer) -> None:
        peer.request()
        peer.respond(headers="Connection: close\r\n")

    with ScriptedServer(close_after_one, repeat=True) as server, ConnectionPool(max_age=9) as pool:
        for _ in range(3):
            pool.get(url(server))
            wait_until(pool, lambda: not connections_of(pool))
        assert len(pool._scheduler._maintenance._timers) == 0
