"""The threads of connections: they end when these are idle, and start again, one for a request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from dugong import ConnectionPool
from dugong.pool.core import traffic
from tests.support.pool import each, name_target, url, wait_for, wait_until
from tests.support.server import TIMEOUT, Peer, ScriptedServer

#: Requests after which others may go behind them.
WARM_UP = 20


def is_of_a_connection(thread: threading.Thread) -> bool:
    return thread.name.endswith(("-send", "-recv"))


class Starts:
    """Notes the threads of connections that are started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        start = threading.Thread.start

        def noting(thread: threading.Thread) -> None:
            if is_of_a_connection(thread):
                self.names.append(thread.name)
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", noting)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Starts:
    return Starts(monkeypatch)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the threads of a connection end as soon as it is idle."""
    monkeypatch.setattr(traffic, "MANY_THREADS", 0)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the threads of a connection end soon after it has become idle."""
    monkeypatch.setattr(traffic, "THREAD_IDLE_TIME", 0.05)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(each(name_target), repeat=True) as server:
        yield server


def until_no_thread_is_left(pool: ConnectionPool) -> None:
    wait_until(pool, lambda: not any(map(is_of_a_connection, threading.enumerate())))


@pytest.mark.usefixtures("soon")
def test_the_threads_of_an_idle_connection_end_and_the_connection_is_used_again(
    server: ScriptedServer,
) -> None:
    with ConnectionPool() as pool:
        pool.get(url(server, "/a"))
        until_no_thread_is_left(pool)
        assert pool.submit("GET", url(server, "/b")).result(TIMEOUT).text == "/b"
        assert pool.statistics().opened == 1


def submitted(pool: ConnectionPool, where: str) -> str:
    return pool.submit("GET", where).result(TIMEOUT).text


def requested(pool: ConnectionPool, where: str) -> str:
    return pool.get(where).text


def with_deadline(pool: ConnectionPool, where: str) -> str:
    return pool.get(where, deadline=TIMEOUT).text


def streamed(pool: ConnectionPool, where: str) -> str:
    with pool.stream("GET", where) as response:
        return response.read().decode()


def uploaded(pool: ConnectionPool, where: str) -> str:
    return pool.put(where, iter([b"x" * 100_000] * 10)).text


def mapped(pool: ConnectionPool, where: str) -> str:
    texts = {response.text for response in pool.map([where] * 300)}
    (text,) = texts
    return text


KINDS = [submitted, requested, with_deadline, streamed, uploaded, mapped]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_request_is_made_though_the_threads_have_ended(
    server: ScriptedServer, kind: Callable[[ConnectionPool, str], str]
) -> None:
    with ConnectionPool(max_connections_per_host=2) as pool:
        for i in range(5):
            assert kind(pool, url(server, f"/{i}")) == f"/{i}"
            until_no_thread_is_left(pool)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("kind", [submitted, with_deadline])
def test_a_request_starts_one_thread_at_most(
    server: ScriptedServer, starts: Starts, kind: Callable[[ConnectionPool, str], str]
) -> None:
    with ConnectionPool() as pool:
        for i in range(10):
            kind(pool, url(server, f"/{i}"))
            until_no_thread_is_left(pool)
        assert len(starts.names) == 10


@pytest.mark.parametrize("kind", [requested, streamed])
def test_a_request_of_an_idle_connection_that_its_caller_makes_starts_none(
    server: ScriptedServer, starts: Starts, kind: Callable[[ConnectionPool, str], str]
) -> None:
    with ConnectionPool() as pool:
        for i in range(10):
            assert kind(pool, url(server, f"/{i}")) == f"/{i}"
            wait_until(pool, lambda: pool._scheduler._core.idle)
        assert len(starts.names) == 1


def test_requests_one_after_the_other_are_made_by_one_thread(
    server: ScriptedServer, starts: Starts
) -> None:
    with ConnectionPool() as pool:
        for i in range(10):
            assert submitted(pool, url(server, f"/{i}")) == f"/{i}"
            wait_until(pool, lambda: pool._scheduler._core.idle)
        assert len(starts.names) == 1


def test_a_request_is_sent_while_the_only_thread_waits_for_a_response(starts: Starts) -> None:
    """The connection is the only one that there may be, and pipelining has begun."""
    received = threading.Event()

    def script(peer: Peer) -> None:
        for _ in range(WARM_UP):
            peer.respond(peer.request().target.encode())
        slow, behind = peer.request(), peer.request()  # which is there before a response
        received.set()
        peer.respond(slow.target.encode())
        peer.respond(behind.target.encode())

    with ScriptedServer(script) as server, ConnectionPool(max_connections_per_host=1) as pool:
        for i in range(WARM_UP):
            submitted(pool, url(server, f"/{i}"))
        slow = pool.submit("GET", url(server, "/slow"))
        wait_until(pool, lambda: slow.running())
        behind = pool.submit("GET", url(server, "/behind"))
        wait_for(received)
        assert (slow.result(TIMEOUT).text, behind.result(TIMEOUT).text) == ("/slow", "/behind")
        assert len(starts.names) == 2
