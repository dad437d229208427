"""A pool and a scripted server: what the tests of pools have in common."""

from __future__ import annotations

import functools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import pytest

from dugong import ConnectionPool, ResponseFuture, RetryPolicy
from dugong.connection.polling import POLLIN, Coroutine, PollNeeded
from dugong.connection.transport import Transport
from dugong.deadline import Deadline
from dugong.pool.core.connection import PooledConnection
from dugong.pool.io.http1 import Http1Engine
from dugong.pool.url import Origin
from tests.support.server import TIMEOUT, Peer, ReceivedRequest, Script, ScriptedServer

__all__ = [
    "GONE",
    "NO_SECOND_TRY",
    "OpenSite",
    "Site",
    "discard_rest",
    "connections_of",
    "dials",
    "each",
    "lose_connection",
    "name_target",
    "open_site",
    "signal_after",
    "url",
    "wait_for",
    "wait_until",
    "wait_until_parked",
]

#: What a script gets when the client has closed the connection, perhaps with a reset.
GONE = (EOFError, ConnectionError, ssl.SSLError)

#: Requests behind a failed one are sent again, as always; the failed one is not.
NO_SECOND_TRY = RetryPolicy(should_retry=lambda attempt: False)

#: Responds to one request.
Respond = Callable[[Peer, ReceivedRequest], None]


class Site(NamedTuple):
    """A scripted server, and a pool that knows it."""

    server: ScriptedServer
    pool: ConnectionPool
    scheme: str

    def url(self, target: str = "/") -> str:
        """Return the URL of *target* on the server."""
        return url(self.server, target, self.scheme)

    def goes_on(self) -> bool:
        """Return True if the next request gets its own response, from `name_target`."""
        return self.pool.get(self.url("/next")).body == b"/next"


#: Takes what `open_site` takes, but for the contexts.
OpenSite = Callable[..., AbstractContextManager[Site]]


@contextmanager
def open_site(
    *scripts: Script,
    repeat: bool = False,
    server_context: ssl.SSLContext | None = None,
    client_context: ssl.SSLContext | None = None,
    **options: Any,
) -> Iterator[Site]:
    """Start a server of *scripts* and a pool with *options*; with TLS if contexts are given.

    Unless there is a policy among the options, a request that fails has failed (`NO_SECOND_TRY`).
    """
    options.setdefault("retry", NO_SECOND_TRY)
    scheme = "http" if server_context is None else "https"
    with (
        ScriptedServer(*scripts, context=server_context, repeat=repeat) as server,
        ConnectionPool(ssl_context=client_context, **options) as pool,
    ):
        yield Site(server, pool, scheme)


def url(server: ScriptedServer, target: str = "/", scheme: str = "http") -> str:
    """Return the URL of *target* on *server*."""
    return f"{scheme}://{server.host}:{server.port}{target}"


def each(respond: Respond) -> Script:
    """Return a script that calls *respond* for every request, until the client closes."""

    def script(peer: Peer) -> None:
        while True:
            try:
                request = peer.request()
            except GONE:
                return
            respond(peer, request)

    return script


def name_target(peer: Peer, request: ReceivedRequest) -> None:
    """Send a response whose body is the target of the request."""
    peer.respond(request.target.encode())


def discard_rest(peer: Peer) -> None:
    """Receive until the client closes or resets, and keep nothing."""
    try:
        while peer.sock.recv(65536):
            pass
    except GONE:
        pass


def signal_after(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> threading.Event:
    """Return an event that is set whenever the method *name* of the class *owner* has returned."""
    event = threading.Event()
    method = getattr(owner, name)

    @functools.wraps(method)
    def signalling(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        finally:
            event.set()

    monkeypatch.setattr(owner, name, signalling)
    return event


def wait_for(event: threading.Event) -> None:
    """Wait for *event*, which must come in time."""
    assert event.wait(TIMEOUT), "an event that was waited for did not come"


class Held:
    """A script that receives requests, and sends their responses only when `release` is called.

    It responds to *warm* requests at once. Then it receives *count* requests, which are `requests`,
    and sets `arrived`. After `release` it responds to these and to all that follow.
    """

    def __init__(self, count: int = 1, *, warm: int = 0) -> None:
        self.arrived = threading.Event()
        self.requests: list[ReceivedRequest] = []
        self._released = threading.Event()
        self._count = count
        self._warm = warm

    def __call__(self, peer: Peer) -> None:
        for _ in range(self._warm):
            name_target(peer, peer.request())
        while len(self.requests) < self._count:
            self.requests.append(peer.request())
        self.arrived.set()
        wait_for(self._released)
        for request in self.requests:
            name_target(peer, request)
        each(name_target)(peer)

    def release(self) -> None:
        """Let the responses be sent."""
        self._released.set()

    def wait(self) -> None:
        """Wait until the requests have arrived."""
        wait_for(self.arrived)


def wait_until(pool: ConnectionPool, condition: Callable[[], object]) -> None:
    """Wait until *condition*, which is looked at with the lock of *pool* held, becomes true."""
    core = pool._scheduler._core
    deadline = Deadline(TIMEOUT)
    with core.lock:
        while not condition():
            assert deadline.remaining(), f"{pool} does not come to what the test waits for"
            core.room.wait(0.002)  # any condition of the lock: it is free meanwhile


def connections_of(pool: ConnectionPool) -> list[PooledConnection]:
    """Return the connections of *pool* that are not closed."""
    return [c for host in pool._scheduler._core.hosts.values() for c in host.connections]


def dials(pool: ConnectionPool) -> int:
    """Return how often *pool* has tried to connect to its only host."""
    (host,) = pool._scheduler._core.hosts.values()
    return host.numbered


def wait_until_parked(pool: ConnectionPool) -> PooledConnection:
    """Wait until the only connection of *pool* is idle, and both of its threads wait for work."""

    def is_parked() -> bool:
        idle = list(pool._scheduler._core.idle)
        return bool(idle) and all(c.sender_parked and c.receiver_parked for c in idle)

    wait_until(pool, is_parked)
    (connection,) = pool._scheduler._core.idle
    return connection


def get_and_be_idle(pool: ConnectionPool, where: str) -> None:
    """Make a request; return when its connection is idle."""
    pool.get(where)
    wait_until(pool, lambda: pool._scheduler._core.idle)


@contextmanager
def lose_connection(**options: Any) -> Iterator[tuple[ConnectionPool, ResponseFuture]]:
    """Yield a pool, and the future of a request that has lost its connection there.

    It is queued, for the connection that it needs is being opened, which never comes to an end.
    """
    dialling = threading.Event()

    def never(origin: Origin) -> Coroutine[Transport]:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            dialling.set()
            while True:
                yield PollNeeded(ours.fileno(), POLLIN)

    def script(peer: Peer) -> None:
        name_target(peer, peer.request())
        peer.request()

    with ScriptedServer(script) as server, ConnectionPool(**options) as pool:
        pool.get(url(server))
        pool._scheduler._connections._make_engine = lambda host: Http1Engine(
            functools.partial(never, host.origin)
        )
        lost = pool.submit("GET", url(server, "/lost"))
        wait_for(dialling)
        assert pool.statistics().queued == 1
        yield pool, lost
