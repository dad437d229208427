"""Keep-Alive: timeout=N says when a server closes an idle connection.

One that has been idle until a second before that is not used any more, for the server may close it
just then; it is closed.
"""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from dugong import ConnectionPool, RetryPolicy
from tests.support.byhand import HandPeer, HandServer, named, settle
from tests.support.clock import StoppedClock
from tests.support.pool import connections_of, each, name_target, url, wait_until
from tests.support.server import TIMEOUT, Peer, ReceivedRequest, ScriptedServer

SOON = 2.0  # seconds that the client is given for what it does at once


def ask(pool: ConnectionPool, server: HandServer, target: str, peer: HandPeer | None = None) -> Any:
    """Submit a request; return its future, and the connection that it comes on."""
    future = pool.submit("GET", server.url(target))
    peer = peer or server.accept()
    assert peer.burst() == [target]
    return future, peer


def respond(peer: HandPeer, target: str, field: str, version: str = "HTTP/1.1") -> None:
    """Response with *field* (or several, if there are line ends within)."""
    headers = "" if not field else f"{field}\r\n"
    if version == "HTTP/1.0":
        headers += "Connection: keep-alive\r\n"
    peer.send(named(target, headers, version))


def make_idle(
    pool: ConnectionPool, server: HandServer, field: str, version: str = "HTTP/1.1"
) -> HandPeer:
    """Have an idle connection whose only response had *field*."""
    future, peer = ask(pool, server, "/first")
    respond(peer, "/first", field, version)
    assert future.result(TIMEOUT).text == "/first"
    settle(pool)
    return peer


def is_closed(peer: HandPeer) -> bool:
    """Return True if the client closes *peer* soon."""
    peer.sock.settimeout(SOON)
    try:
        return peer.was_left()
    except TimeoutError:
        return False


FIELDS = [
    "Keep-Alive: timeout=5",
    "Keep-Alive: timeout=5, max=100",
    "Keep-Alive: max=100,timeout=5",
    "Keep-Alive: max=100 , timeout=5 ",
    "keep-alive: TIMEOUT=5",
    'Keep-Alive: timeout="5"',
    "Keep-Alive: max=100\r\nKeep-Alive: timeout=5",
    "Connection: keep-alive\r\nKeep-Alive: timeout=5",
]


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("field", FIELDS)
def test_a_connection_is_closed_a_second_before_the_server_would(
    server: HandServer, clock: StoppedClock, field: str, version: str
) -> None:
    with ConnectionPool() as pool:
        peer = make_idle(pool, server, field, version)
        clock.forward(pool, 4.1)
        assert is_closed(peer)
        future, second = ask(pool, server, "/next")
        second.responds("/next")
        assert future.result(TIMEOUT).text == "/next"
        assert future.result().attempts == ()


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("field", FIELDS)
def test_a_connection_is_used_until_a_second_before_the_server_would_close_it(
    server: HandServer, clock: StoppedClock, field: str, version: str
) -> None:
    with ConnectionPool() as pool:
        peer = make_idle(pool, server, field, version)
        clock.forward(pool, 3.9)
        future, _ = ask(pool, server, "/next", peer)
        peer.responds("/next")
        assert future.result(TIMEOUT).text == "/next"


@pytest.mark.parametrize(
    "field",
    [
        "Keep-Alive: timeout",
        "Keep-Alive: timeout=",
        "Keep-Alive: timeout=soon",
        "Keep-Alive: timeout=-5",
        "Keep-Alive: timeout=5s",
        "Keep-Alive: max=5",
        "Keep-Alive: x-timeout=5",
        "Keep-Alive: ,,=,timeout",
        "Keep-Alive: timeout=" + "9" * 5000,
        "Keep-Alive:",
    ],
)
def test_what_says_no_time_is_ignored(server: HandServer, clock: StoppedClock, field: str) -> None:
    with ConnectionPool(idle_timeout=60) as pool:
        peer = make_idle(pool, server, field)
        clock.forward(pool, 50)
        future, _ = ask(pool, server, "/next", peer)
        peer.responds("/next")
        assert future.result(TIMEOUT).text == "/next"


@pytest.mark.parametrize("seconds", [0, 1])
def test_a_connection_that_would_be_closed_within_a_second_is_not_used_again(
    server: HandServer, clock: StoppedClock, seconds: int
) -> None:
    with ConnectionPool() as pool:
        future, peer = ask(pool, server, "/first")
        respond(peer, "/first", f"Keep-Alive: timeout={seconds}")
        assert future.result(TIMEOUT).text == "/first"
        assert is_closed(peer)


def test_the_pools_own_limit_holds_if_it_is_shorter(
    server: HandServer, clock: StoppedClock
) -> None:
    with ConnectionPool(idle_timeout=3) as pool:
        peer = make_idle(pool, server, "Keep-Alive: timeout=60")
        clock.forward(pool, 3.1)
        assert is_closed(peer)


def test_the_time_begins_anew_with_each_response(server: HandServer, clock: StoppedClock) -> None:
    with ConnectionPool() as pool:
        peer = make_idle(pool, server, "Keep-Alive: timeout=5")
        for target in ("/second", "/third", "/fourth"):
            clock.forward(pool, 3)
            future, _ = ask(pool, server, target, peer)
            respond(peer, target, "Keep-Alive: timeout=5")
            assert future.result(TIMEOUT).text == target
            settle(pool)


def test_a_connection_that_is_in_use_is_not_closed(server: HandServer, clock: StoppedClock) -> None:
    """The time is that of an idle connection."""
    with ConnectionPool() as pool:
        peer = make_idle(pool, server, "Keep-Alive: timeout=5")
        future, _ = ask(pool, server, "/slow", peer)
        clock.forward(pool, 10)
        peer.responds("/slow")
        assert future.result(TIMEOUT).text == "/slow"


def test_requests_that_wait_behind_each_other_are_not_disturbed(
    server: HandServer, clock: StoppedClock
) -> None:
    with ConnectionPool(max_connections_per_host=1) as pool:
        peer = make_idle(pool, server, "Keep-Alive: timeout=5")
        futures = [pool.submit("GET", server.url(f"/{i}")) for i in range(4)]
        answered = 0
        while answered < 4:
            for target in peer.burst():
                clock.forward(pool, 3)
                respond(peer, target, "Keep-Alive: timeout=5")
                answered += 1
        assert [future.result(TIMEOUT).text for future in futures] == ["/0", "/1", "/2", "/3"]


class Says:
    """Responses with the target, and a Keep-Alive; counts requests for each connection."""

    def __init__(self, field: str) -> None:
        self._headers = f"{field}\r\n"

    def __call__(self, peer: Peer, request: ReceivedRequest) -> None:
        peer.respond(request.target.encode(), headers=self._headers)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("how", ["get", "submit", "stream", "post"])
def test_however_a_request_was_made_its_connection_is_not_used_too_late(
    clock: StoppedClock,
    how: str,
    secure: bool,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
) -> None:
    script = each(Says("Keep-Alive: timeout=5"))
    with (
        ScriptedServer(
            script, each(name_target), context=server_context if secure else None
        ) as server,
        ConnectionPool(ssl_context=client_context, retry=None) as pool,
    ):

        def make(target: str) -> bytes:
            where = url(server, target, "https" if secure else "http")
            if how == "get":
                return pool.get(where).body
            if how == "post":
                return pool.post(where, b"body").body
            if how == "submit":
                return pool.submit("GET", where).result().body
            with pool.stream("GET", where) as response:
                return response.read()

        # The second by the thread that asks, if that can be, on the connection of the first.
        for target in ("/a", "/b"):
            assert make(target) == target.encode()
            settle(pool)
        assert server.connections == 1
        clock.forward(pool, 4.1)
        assert make("/c") == b"/c"
        assert server.connections == 2


def test_a_request_comes_too_late_though_no_timer_has_looked(
    server: HandServer, clock: StoppedClock
) -> None:
    """What counts is the time at which a connection is taken, not that at which one looks."""
    with ConnectionPool(retry=RetryPolicy.never) as pool:
        make_idle(pool, server, "Keep-Alive: timeout=5")
        clock.now += 4.1  # and nothing is woken
        future, second = ask(pool, server, "/next")
        second.responds("/next")
        assert future.result(TIMEOUT).text == "/next"


class SaysInTurn:
    """Responses with the target; the n-th response to be sent has the n-th of *fields*."""

    def __init__(self, *fields: str) -> None:
        self._fields = iter(fields)

    def __call__(self, peer: Peer, request: ReceivedRequest) -> None:
        field = next(self._fields)
        peer.respond(request.target.encode(), headers=f"{field}\r\n" if field else "")


@pytest.mark.parametrize("earlier", ["", "Keep-Alive: timeout=60"], ids=["none", "longer"])
@pytest.mark.parametrize("how", ["get", "submit", "stream"])
def test_a_limit_counts_from_the_response_on_that_it_comes_with(
    clock: StoppedClock, how: str, earlier: str
) -> None:
    """It may come first, or be shorter, when the connection has been idle several times before."""
    script = each(SaysInTurn(earlier, earlier, earlier, "Keep-Alive: timeout=5", earlier))
    # Nothing is left to learn of the host with a depth of 1, so that each response is taken alike.
    with (
        ScriptedServer(script, script) as server,
        ConnectionPool(retry=None, pipeline_depth=1) as pool,
    ):

        def make(target: str) -> bytes:
            if how == "get":
                return pool.get(url(server, target)).body
            if how == "submit":
                return pool.submit("GET", url(server, target)).result().body
            with pool.stream("GET", url(server, target)) as response:
                return response.read()

        for target in ("/1", "/2", "/3", "/4"):
            assert make(target) == target.encode()
            settle(pool)
        assert server.connections == 1
        clock.now += 4.1  # and nothing is woken
        assert make("/5") == b"/5"
        assert server.connections == 2


@pytest.mark.parametrize("earlier", ["", "Keep-Alive: timeout=60"], ids=["none", "longer"])
def test_a_connection_is_closed_in_time_though_its_server_has_said_so_late(
    server: HandServer, clock: StoppedClock, earlier: str
) -> None:
    with ConnectionPool(pipeline_depth=1) as pool:
        peer = make_idle(pool, server, earlier)
        clock.forward(pool, 1.1)  # so that the next look at it is a long way off
        future, _ = ask(pool, server, "/next", peer)
        respond(peer, "/next", "Keep-Alive: timeout=5")
        assert future.result(TIMEOUT).text == "/next"
        settle(pool)
        clock.forward(pool, 4.1)
        assert is_closed(peer)


def test_a_request_that_was_held_back_goes_on_no_connection_that_was_idle_for_too_long(
    server: HandServer, clock: StoppedClock
) -> None:
    """It has to be alone, so that it was kept for that connection while the host was held."""
    with ConnectionPool(max_connections_per_host=1, retry=RetryPolicy(attempts=2)) as pool:
        peer = make_idle(pool, server, "Keep-Alive: timeout=5")
        first, _ = ask(pool, server, "/first", peer)
        alone = pool.submit("POST", server.url("/alone"), body=b"")
        wait_until(pool, lambda: all(c.reserved for c in connections_of(pool)))
        refusal = "HTTP/1.1 503 Busy\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n"
        peer.send(refusal.encode())
        wait_until(pool, lambda: not any(c.in_flight for c in connections_of(pool)))
        clock.forward(pool, 30.1)
        second = server.accept()
        for _ in range(2):
            (target,) = second.burst()
            second.responds(target)
        assert first.result(TIMEOUT).text == "/first"
        assert alone.result(TIMEOUT).text == "/alone"
        assert alone.result().attempts == ()
        assert peer.was_left()
