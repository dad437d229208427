"""Hedges: a request that is slow is sent once more, and has one response whatever becomes of both.

The tests play the server, and the time of the pool stands still but for what they say.
"""

from __future__ import annotations

import asyncio
import select
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest

from dugong import (
    AsyncClient,
    Client,
    ConnectionPool,
    ConnectionTimedOut,
    Delivery,
    PoolClosed,
    Request,
    ResponseFuture,
    RetryPolicy,
)
from dugong.pool.core import host as host_module
from tests.support.byhand import HandPeer, HandServer, named, settle, submit_first, warm_up
from tests.support.clock import Listener, StoppedClock
from tests.support.fork import holds_in_child
from tests.support.pool import connections_of, wait_until
from tests.support.server import TIMEOUT

HEDGE = 0.5
AT_ONCE = RetryPolicy(backoff=0)


def response(status: str, body: str = "", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n{body}".encode()


class Pair:
    """A request that is on two connections: `slow` was first, and `other` has it, too."""

    def __init__(
        self,
        pool: ConnectionPool,
        server: HandServer,
        clock: StoppedClock,
        method: str = "GET",
        **options: Any,
    ) -> None:
        self.pool, self.server = pool, server
        self.slow, self.future = submit_first(pool, server, method, "/a", **options)
        settle(pool)
        clock.forward(pool, HEDGE)
        self.other = server.accept()
        assert self.other.burst() == ["/a"]
        settle(pool)

    def text(self) -> str:
        return self.future.result(TIMEOUT).text

    def goes_on(self, peer: HandPeer) -> bool:
        """Return True if *peer* serves the next request."""
        future = self.pool.submit("GET", self.server.url("/next"))
        assert peer.burst() == ["/next"]
        peer.responds("/next")
        return future.result(TIMEOUT).text == "/next"


def hedged(pool: ConnectionPool) -> int:
    return pool.statistics().hedged


def answered(pool: ConnectionPool) -> int:
    return pool.statistics().answered


def test_the_response_of_the_second_sending_counts_if_it_is_the_first(
    server: HandServer, clock: StoppedClock
) -> None:
    with ConnectionPool(hedge=HEDGE) as pool:
        pair = Pair(pool, server, clock)
        pair.other.responds("/a")
        assert pair.text() == "/a"
        (attempt,) = pair.future.result().attempts
        assert (attempt.charged, attempt.delivery) == (False, Delivery.SENT)
        assert attempt.outcome == "its response has not begun after 0.5 s"
        statistics = pool.statistics()
        assert (statistics.hedged, statistics.sent, statistics.answered) == (1, 2, 1)
        assert "1 hedged" in str(statistics)
        assert next(iter(statistics.hosts.values())).hedged == 1
        pair.slow.responds("/a")  # too late: it is dropped
        wait_until(pool, lambda: not any(c.in_flight for c in connections_of(pool)))
        assert answered(pool) == 1


def test_the_response_of_the_first_sending_counts_if_it_is_the_first(
    server: HandServer, clock: StoppedClock
) -> None:
    with ConnectionPool(hedge=HEDGE) as pool:
        pair = Pair(pool, server, clock)
        pair.slow.responds("/a")
        assert pair.text() == "/a"
        assert pair.future.result().attempts == ()
        assert pair.goes_on(pair.slow)
        pair.other.send(named("/late"))  # a response to the same request, which is dropped
        wait_until(pool, lambda: not any(c.in_flight for c in connections_of(pool)))
        assert pair.text() == "/a"


def test_the_one_that_is_too_late_is_closed_unless_it_comes_soon(
    server: HandServer, clock: StoppedClock
) -> None:
    with ConnectionPool(hedge=HEDGE) as pool:
        pair = Pair(pool, server, clock)
        pair.other.responds("/a")
        assert pair.text() == "/a"
        clock.forward(pool, 1.0)
        assert pair.slow.was_left()
        assert pair.goes_on(pair.other)


def test_the_response_that_begins_first_counts(server: HandServer, clock: StoppedClock) -> None:
    with ConnectionPool(hedge=HEDGE) as pool:
        pair = Pair(pool, server, clock)
        pair.other.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n/")
        wait_until(
            pool, lambda: any(job.is_decided for c in connections_of(pool) for job in c.in_flight)
        )
        pair.slow.send(named("/late"))
        pair.other.send(b"a")
        assert pair.text() == "/a"


def test_a_request_whose_response_has_begun_is_not_hedged(
    server: HandServer, clock: StoppedClock
) -> None:
    with ConnectionPool(hedge=HEDGE) as pool:
        peer, future = submit_first(pool, server, "GET", "/a")
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n/")
        wait_until(
            pool,
            lambda: all(job.response_started for c in connections_of(pool) for job in c.in_flight),
        )
        clock.forward(pool, 2 * HEDGE)
        assert server.is_left_alone()
        peer.send(b"a")
        assert future.result(TIMEOUT).text == "/a"
        assert hedged(pool) == 0


def test_a_request_is_hedged_once(server: HandServer, clock: StoppedClock) -> None:
    with ConnectionPool(hedge=HEDGE) as pool:
        pair = Pair(pool, server, clock)
        clock.forward(pool, 10 * HEDGE)
        assert server.is_left_alone()
        pair.other.responds("/a")
        assert pair.text() == "/a"
        assert hedged(pool) == 1


def test_an_idle_connection_is_used(server: HandServer, clock: StoppedClock) -> None:
    with ConnectionPool(hedge=HEDGE) as pool:
        pair = Pair(pool, server, clock)
        pair.other.responds("/a")
        assert pair.text() == "/a"
        pair.slow.responds("/a")
        settle(pool)
        wait_until(pool, lambda: len(pool._scheduler._core.idle) == 2)
        future = pool.submit("GET", server.url("/b"))
        peers = {peer.sock: peer for peer in (pair.slow, pair.other)}
        (sock,) = select.select(list(peers), [], [], TIMEOUT)[0]
        first = peers.pop(sock)
        (second,) = peers.values()
        assert first.burst() == ["/b"]
        settle(pool)
        clock.forward(pool, HEDGE)
        assert second.burst() == ["/b"]
        second.responds("/b")
        assert future.result(TIMEOUT).text == "/b"
        assert server.is_left_alone()


def test_without_a_connection_that_is_free_nothing_is_hedged(
    server: HandServer, clock: StoppedClock
) -> None:
    with ConnectionPool(hedge=HEDGE, max_connections_per_host=1) as pool:
        peer, future = submit_first(pool, server, "GET", "/a")
        settle(pool)
        clock.forward(pool, 2 * HEDGE)
        assert server.is_left_alone()
        assert peer.is_silent()
        peer.responds("/a")
        assert future.result(TIMEOUT).text == "/a"
        assert hedged(pool) == 0


def test_a_budget_bounds_the_hedges(
    server: HandServer, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_module, "FREE_HEDGES", 1)
    with ConnectionPool(hedge=HEDGE) as pool:
        pair = Pair(pool, server, clock)
        second, future = submit_first(pool, server, "GET", "/b")
        settle(pool)
        clock.forward(pool, 2 * HEDGE)
        assert server.is_left_alone()
        second.responds("/b")
        pair.other.responds("/a")
        assert (future.result(TIMEOUT).text, pair.text()) == ("/b", "/a")
        assert hedged(pool) == 1


REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("POST", {}),
    ("PUT", {"body": b"data"}),
    ("GET", {"body": b"data"}),
    ("DELETE", {}),
    ("GET", {"idempotent": False}),
    ("POST", {"idempotent": True}),
    ("GET", {"hedge": None}),
]


@pytest.mark.parametrize(("method", "options"), REQUESTS)
def test_what_may_not_be_sent_twice_at_once_is_not(
    server: HandServer, clock: StoppedClock, method: str, options: dict[str, Any]
) -> None:
    with ConnectionPool(hedge=HEDGE) as pool:
        peer, future = submit_first(pool, server, method, "/a", **options)
        settle(pool)
        clock.forward(pool, 2 * HEDGE)
        assert server.is_left_alone()
        peer.responds("/a")
        assert future.result(TIMEOUT).text == "/a"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_a_call_may_have_a_time_of_its_own(
    server: HandServer, clock: StoppedClock, method: str
) -> None:
    with ConnectionPool() as pool:
        pair = Pair(pool, server, clock, method, hedge=HEDGE)
        pair.other.send(response("204 No Content"))
        assert pair.future.result(TIMEOUT).status == 204


def test_headers_are_made_for_each_sending(server: HandServer, clock: StoppedClock) -> None:
    made: list[str] = []

    def make(request: Request) -> dict[str, str]:
        made.append(request.url)
        return {"X-Number": str(len(made))}

    with ConnectionPool(hedge=HEDGE) as pool:
        pair = Pair(pool, server, clock, headers=make)
        assert len(made) == 2
        pair.other.responds("/a")
        assert pair.text() == "/a"


# --- one of the two fails -------------------------------------------------------------------------


@pytest.mark.parametrize("is_first", [True, False])
def test_a_connection_that_breaks_leaves_the_request_to_the_other(
    server: HandServer, clock: StoppedClock, is_first: bool
) -> None:
    with ConnectionPool(hedge=HEDGE) as pool:
        pair = Pair(pool, server, clock)
        lost, good = (pair.slow, pair.other) if is_first else (pair.other, pair.slow)
        lost.close()
        wait_until(pool, lambda: len(connections_of(pool)) == 1)
        assert not pair.future.done()
        good.responds("/a")
        assert pair.text() == "/a"
        (attempt,) = pair.future.result().attempts
        assert attempt.charged
        assert "closed" in attempt.outcome
        assert pair.goes_on(good)
        assert pool.statistics().resent == 0


@pytest.mark.parametrize("is_first", [True, False])
def test_a_refusal_leaves_the_request_to_the_other(
    server: HandServer, clock: StoppedClock, is_first: bool
) -> None:
    with ConnectionPool(hedge=HEDGE) as pool:
        pair = Pair(pool, server, clock)
        busy, good = (pair.slow, pair.other) if is_first else (pair.other, pair.slow)
        busy.send(response("500 Oops"))
        wait_until(pool, lambda: sum(len(c.in_flight) for c in connections_of(pool)) == 1)
        assert not pair.future.done()
        good.responds("/a")
        assert pair.text() == "/a"
        (attempt,) = pair.future.result().attempts
        assert (attempt.charged, attempt.status) == (True, 500)


def test_a_response_that_is_no_success_counts_if_it_is_not_to_be_tried_again(
    server: HandServer, clock: StoppedClock
) -> None:
    with ConnectionPool(hedge=HEDGE) as pool:
        pair = Pair(pool, server, clock)
        pair.other.send(response("404 Not Found"))
        assert pair.future.result(TIMEOUT).status == 404


def test_if_both_fail_the_request_is_tried_again(server: HandServer, clock: StoppedClock) -> None:
    with ConnectionPool(hedge=HEDGE, retry=AT_ONCE) as pool:
        pair = Pair(pool, server, clock)
        pair.slow.close()
        wait_until(pool, lambda: len(connections_of(pool)) == 1)
        pair.other.close()
        peer = server.accept()
        assert peer.burst() == ["/a"]
        peer.responds("/a")
        assert pair.text() == "/a"
        assert [attempt.charged for attempt in pair.future.result().attempts] == [True, True]
        assert (pool.statistics().hedged, pool.statistics().resent) == (1, 1)


def test_if_both_fail_and_none_may_be_tried_again_the_last_failure_counts(
    server: HandServer, clock: StoppedClock
) -> None:
    with ConnectionPool(hedge=HEDGE, retry=None) as pool:
        pair = Pair(pool, server, clock)
        pair.other.close()
        wait_until(pool, lambda: len(connections_of(pool)) == 1)
        pair.slow.close()
        error: Any = pair.future.exception(TIMEOUT)
        assert error.delivery is Delivery.SENT
        assert len(error.attempts) == 1


def test_a_connection_that_cannot_be_opened_does_no_harm(
    server: HandServer, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ConnectionPool(hedge=HEDGE) as pool:
        peer, future = submit_first(pool, server, "GET", "/a")
        settle(pool)
        server._listener.close()  # so that no more are accepted
        clock.forward(pool, HEDGE)
        wait_until(pool, lambda: len(connections_of(pool)) == 1)
        peer.responds("/a")
        assert future.result(TIMEOUT).text == "/a"
        assert future.result().attempts == ()
        assert pool.statistics().queued == 0


# --- the request ends otherwise -------------------------------------------------------------------


def test_cancelling_ends_both(server: HandServer, clock: StoppedClock) -> None:
    with ConnectionPool(hedge=HEDGE) as pool:
        pair = Pair(pool, server, clock)
        assert pair.future.cancel()
        with pytest.raises(CancelledError):
            pair.future.result(TIMEOUT)
        clock.forward(pool, 1.0)
        assert pair.slow.was_left()
        assert pair.other.was_left()


def test_a_deadline_ends_both(server: HandServer, clock: StoppedClock) -> None:
    with ConnectionPool(hedge=HEDGE) as pool:
        pair = Pair(pool, server, clock, deadline=2.0)
        clock.forward(pool, 2.0)
        error: Any = pair.future.exception(TIMEOUT)
        assert isinstance(error, ConnectionTimedOut)
        assert error.delivery is Delivery.SENT
        clock.forward(pool, 1.0)
        assert pair.slow.was_left()
        assert pair.other.was_left()


def test_the_deadline_goes_on_with_the_one_that_is_left(
    server: HandServer, clock: StoppedClock
) -> None:
    with ConnectionPool(hedge=HEDGE) as pool:
        pair = Pair(pool, server, clock, deadline=2.0)
        pair.slow.close()
        wait_until(pool, lambda: len(connections_of(pool)) == 1)
        clock.forward(pool, 2.0)
        assert isinstance(pair.future.exception(TIMEOUT), ConnectionTimedOut)
        assert pair.other.was_left()


def test_cancelling_ends_the_one_that_is_left(server: HandServer, clock: StoppedClock) -> None:
    with ConnectionPool(hedge=HEDGE) as pool:
        pair = Pair(pool, server, clock)
        pair.slow.close()
        wait_until(pool, lambda: len(connections_of(pool)) == 1)
        assert pair.future.cancel()
        clock.forward(pool, 1.0)
        assert pair.other.was_left()


def test_closing_the_pool_ends_both(server: HandServer, clock: StoppedClock) -> None:
    with ConnectionPool(hedge=HEDGE) as pool:
        pair = Pair(pool, server, clock)
        pool.close()
        error: Any = pair.future.exception(TIMEOUT)
        assert isinstance(error, PoolClosed)
        assert error.delivery is Delivery.SENT
        assert pair.slow.was_left()
        assert pair.other.was_left()


def test_a_forked_child_finds_both_failed(server: HandServer, clock: StoppedClock) -> None:
    with ConnectionPool(hedge=HEDGE) as pool:
        pair = Pair(pool, server, clock)
        assert holds_in_child(lambda: isinstance(pair.future.exception(1.0), PoolClosed))
        pair.other.responds("/a")
        assert pair.text() == "/a"


def test_events_tell_of_each_sending(
    server: HandServer, clock: StoppedClock, heard: Listener
) -> None:
    with ConnectionPool(hedge=HEDGE, on_event=heard) as pool:
        pair = Pair(pool, server, clock)
        sent = heard.wait_for("sent")
        event = heard.wait_for("hedged")
        assert event.connection == sent.connection
        assert event.request is sent.request
        assert event.reason == "its response has not begun after 0.5 s"
        again = heard.wait_for("sent")
        assert again.connection != sent.connection
        pair.other.responds("/a")
        assert pair.text() == "/a"
        lost = heard.wait_for("cancelled")
        assert (lost.connection, lost.reason) == (sent.connection, "another sending was faster")
        assert lost.since == sent.when
        answered = heard.wait_for("answered")
        assert (answered.connection, answered.resends) == (again.connection, 1)


# --- other ways to make a request -----------------------------------------------------------------


def in_thread(call: Callable[[], str]) -> Callable[[], str]:
    """Begin *call* in a thread; return what waits for its result."""
    results: list[str] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()

    def result() -> str:
        thread.join(TIMEOUT)
        return results[0]

    return result


def fetch_async(url: str) -> str:
    async def fetch() -> str:
        async with AsyncClient(hedge=HEDGE) as client:
            return (await client.get(url)).text

    return asyncio.run(fetch())


def first_of_map(url: str) -> str:
    with ConnectionPool(hedge=HEDGE) as pool:
        return next(pool.map([url])).text


def get_with_client(url: str) -> str:
    with Client(hedge=HEDGE) as client:
        return client.get(url).text


def get_with_option(url: str) -> str:
    with Client() as client:
        return client.submit("GET", url, hedge=HEDGE).result(TIMEOUT).text


def get(url: str) -> str:
    with ConnectionPool() as pool:
        return pool.get(url, hedge=HEDGE).text


CALLS = [fetch_async, first_of_map, get_with_client, get_with_option, get]


@pytest.mark.parametrize("call", CALLS)
def test_every_call_may_be_hedged(
    server: HandServer, monkeypatch: pytest.MonkeyPatch, call: Callable[[str], str]
) -> None:
    monkeypatch.setattr(f"{__name__}.HEDGE", 0.01)
    result = in_thread(lambda: call(server.url("/a")))
    slow = server.accept()
    assert slow.burst() == ["/a"]
    other = server.accept()
    assert other.burst() == ["/a"]
    other.responds("/a")
    assert result() == "/a"


def test_a_redirect_of_a_hedged_request_is_followed_once(
    server: HandServer, clock: StoppedClock
) -> None:
    with ConnectionPool(hedge=HEDGE) as pool, Client(pool=pool) as client:
        future = client.submit("GET", server.url("/a"))
        slow = server.accept()
        assert slow.burst() == ["/a"]
        settle(pool)
        clock.forward(pool, HEDGE)
        other = server.accept()
        assert other.burst() == ["/a"]
        other.send(response("302 Found", headers="Location: /b\r\n"))
        assert other.burst() == ["/b"]
        slow.send(response("302 Found", headers="Location: /c\r\n"))
        wait_until(pool, lambda: sum(len(c.in_flight) for c in connections_of(pool)) == 1)
        other.responds("/b")
        assert future.result(TIMEOUT).text == "/b"
        assert slow.is_silent()


def test_a_stream_is_not_hedged(server: HandServer, clock: StoppedClock) -> None:
    def read() -> str:
        with ConnectionPool(hedge=HEDGE) as pool, pool.stream("GET", server.url("/a")) as got:
            return got.read().decode()

    result = in_thread(read)
    peer = server.accept()
    assert peer.burst() == ["/a"]
    peer.responds("/a")
    assert result() == "/a"


def test_what_waits_behind_a_slow_request_is_hedged_too(
    server: HandServer, clock: StoppedClock
) -> None:
    options: dict[str, Any] = {"max_connections_per_host": 2, "pipeline_rescue": False}
    with ConnectionPool(hedge=HEDGE, **options) as pool:
        peer = warm_up(pool, server, window=8)
        settle(pool)
        futures = [pool.submit("GET", server.url(target)) for target in ("/a", "/b", "/c")]
        second = server.accept()
        at_second = second.burst()
        at_first = peer.targets(3 - len(at_second))
        settle(pool)
        second.responds(*at_second)
        wait_until(pool, lambda: sum(len(c.in_flight) for c in connections_of(pool)) < 3)
        settle(pool)
        clock.forward(pool, HEDGE)
        (again,) = second.burst()
        assert again in at_first
        second.responds(again)
        settled: list[ResponseFuture] = [f for f in futures if f.request.url.endswith(again)]
        assert settled[0].result(TIMEOUT).text == again
        peer.responds(*at_first)
        assert [future.result(TIMEOUT).text for future in futures] == ["/a", "/b", "/c"]


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), ("soon", TypeError)])
def test_what_is_no_time_is_refused(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="hedge"):
        ConnectionPool(hedge=value)
    with pytest.raises(error, match="hedge"):
        Request("GET", "http://a.test/", hedge=value)


def test_a_request_knows_its_hedge() -> None:
    request = Request("GET", "http://a.test/", hedge=HEDGE)
    assert request.hedge == HEDGE
    assert request.replace(hedge=None).hedge is None
