"""Connections that come to nothing: what the statistics count, and what becomes of the requests."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable

import pytest

from dugong import ConnectionPool, DugongError, Event, RetryPolicy
from tests.support.clock import StoppedClock, throw
from tests.support.loopback import BlackHole
from tests.support.pool import each, name_target, url, wait_for
from tests.support.server import TIMEOUT, Peer, ScriptedServer

#: What may be tried again is, without a wait.
AT_ONCE = RetryPolicy(backoff=0)


def closed_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


# --- what is counted ------------------------------------------------------------------------------


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_connection_that_was_refused_was_not_opened(attempts: int) -> None:
    with ConnectionPool(retry=RetryPolicy(attempts=attempts, backoff=0)) as pool:
        future = pool.submit("GET", f"http://127.0.0.1:{closed_port()}/")
        assert isinstance(future.exception(5), (DugongError, OSError))
        statistics = pool.statistics()
        assert (statistics.opened, statistics.closed, statistics.connections) == (0, 0, 0)


def test_a_connection_that_is_being_opened_was_not_yet(client_context: ssl.SSLContext) -> None:
    with BlackHole() as hole, ConnectionPool(ssl_context=client_context) as pool:
        future = pool.submit("GET", hole.url())
        statistics = pool.statistics()
        assert (statistics.opened, statistics.closed) == (0, 0)
        (host,) = statistics.hosts.values()
        assert [connection.state for connection in host.connections] == ["connecting"]
        future.cancel()


def test_a_connection_whose_handshake_failed_was_not_opened(
    server_context: ssl.SSLContext,
) -> None:
    with (
        ScriptedServer(each(name_target), context=server_context, repeat=True) as server,
        ConnectionPool(retry=None) as pool,  # which does not trust the server
    ):
        future = pool.submit("GET", url(server, scheme="https"))
        assert isinstance(future.exception(5), (DugongError, OSError))
        statistics = pool.statistics()
        assert (statistics.opened, statistics.closed, statistics.connections) == (0, 0, 0)


def test_what_was_opened_is_open_or_has_been_closed(client_context: ssl.SSLContext) -> None:
    with ScriptedServer(each(name_target), repeat=True) as server, ConnectionPool() as pool:
        refused = pool.submit("GET", f"http://127.0.0.1:{closed_port()}/", retry=None)
        assert refused.exception(5) is not None
        pool.get(url(server), headers={"Connection": "close"})
        pool.get(url(server))
        statistics = pool.statistics()
        assert (statistics.opened, statistics.closed, statistics.connections) == (2, 1, 1)


# --- accepted and ended at once -------------------------------------------------------------------

# Something accepts in place of a server that is down: this is an outage, as when nothing accepts,
# and is waited for as that is.


def resets(peer: Peer) -> None:
    peer.reset()


def closes(peer: Peer) -> None:
    peer.cut()


class Flapping:
    """Ends the first *count* connections at once with *how*, and serves those that follow.

    That is, once the pool has told that it has opened them, of which it is to hear as *on_event*.
    `ended` counts them, and `served` is set with the first of those that follow.
    """

    def __init__(self, how: Callable[[Peer], None], count: int) -> None:
        self.ended = threading.Semaphore(0)
        self.served = threading.Event()
        self._opened = threading.Semaphore(0)
        self._how = how
        self._left = count
        self._lock = threading.Lock()

    def __call__(self, peer: Peer) -> None:
        with self._lock:
            end = self._left > 0
            self._left -= end
        if end:
            self._opened.acquire(timeout=TIMEOUT)
            self._how(peer)
            self.ended.release()
        else:
            self.served.set()
            each(name_target)(peer)

    def hear(self, event: Event) -> None:
        if event.kind == "opened":
            self._opened.release()

    def __enter__(self) -> Flapping:
        return self

    def __exit__(self, *exc: object) -> None:
        self._opened.release(1000)  # what was accepted, but is not wanted any more


@pytest.mark.parametrize("how", [resets, closes])
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_connection_that_ends_at_once_is_waited_for_as_one_that_is_refused(
    clock: StoppedClock, monkeypatch: pytest.MonkeyPatch, how: Callable[[Peer], None], method: str
) -> None:
    """So long that six attempts are not used up before a server has been started again."""
    throw(monkeypatch, 0.0)  # by which a wait after a failed response would be none
    # A connection that ended before it was used may be tried once more, for nothing.
    script = Flapping(how, 2)
    policy = RetryPolicy(attempts=6, backoff=10, max_backoff=1000)
    with (
        ScriptedServer(script, repeat=True) as server,
        script,
        ConnectionPool(retry=policy, on_event=script.hear) as pool,
    ):
        future = pool.submit(method, url(server, "/a"))
        assert script.ended.acquire(timeout=3)
        # No other attempt is made before there was a wait, but for the one that costs nothing.
        assert not script.served.wait(0.3)
        for _ in range(3):
            clock.forward(pool, 20.1)
        assert future.result(3).text == "/a"
        wait_for(script.served)


@pytest.mark.parametrize("how", [resets, closes])
def test_an_outage_behind_something_that_accepts_costs_each_request_little(
    clock: StoppedClock, monkeypatch: pytest.MonkeyPatch, how: Callable[[Peer], None]
) -> None:
    """Each is charged for its own connection alone, and waits until its next attempt."""
    throw(monkeypatch, 1.0)
    ended = threading.Semaphore(0)

    def script(peer: Peer) -> None:
        peer.request()
        how(peer)
        ended.release()

    policy = RetryPolicy(attempts=6, backoff=1, max_backoff=2)
    with ScriptedServer(script, repeat=True) as server, ConnectionPool(retry=policy) as pool:
        futures = [pool.submit("GET", url(server, f"/{i}")) for i in range(30)]
        for _ in futures:
            assert ended.acquire(timeout=TIMEOUT)
        assert not ended.acquire(timeout=0.3)
        assert not any(future.done() for future in futures)
