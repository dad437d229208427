"""A server that the test drives call by call, so that the test reads like a dialogue.

    future = pool.submit("GET", server.url("/a"))
    peer = server.accept()
    assert peer.burst() == ["/a"]
    peer.responses("/a")

The body of a response is the target of its request, so that a wrong one is noticed: see `named`.
"""

from __future__ import annotations

import select
import socket
from types import TracebackType
from typing import Any

from dugong import ConnectionPool, ResponseFuture
from tests.support.pool import connections_of, wait_until
from tests.support.server import TIMEOUT, Peer

__all__ = ["HandPeer", "HandServer", "named", "settle", "submit_first", "warm_up"]


def named(target: str, headers: str = "", version: str = "HTTP/1.1") -> bytes:
    """Return the bytes of a response whose body is *target*."""
    head = f"{version} 200 OK\r\nContent-Length: {len(target)}\r\n{headers}\r\n"
    return (head + target).encode()


class HandPeer(Peer):
    """The server's end of one connection."""

    def burst(self) -> list[str]:
        """Receive a request, and all others that have come with it; return their targets."""
        targets = [self.request().target]
        while self._received:
            targets.append(self.request().target)
        return targets

    def targets(self, count: int) -> list[str]:
        """Receive *count* requests, in however many pieces they come; return their targets."""
        targets: list[str] = []
        while len(targets) < count:
            targets += self.burst()
        return targets

    def responds(self, *targets: str) -> None:
        """Send a response to each of *targets*, all with one call."""
        self.send(b"".join(map(named, targets)))

    def is_silent(self) -> bool:
        """Return True if nothing has come that was not received, not even an end."""
        return not self._received and not select.select([self.sock], [], [], 0)[0]

    def was_left(self) -> bool:
        """Receive until the client closes, which it may do with a reset; True if nothing came."""
        try:
            return self.until_eof() == b""
        except ConnectionResetError:
            return not self._received

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()


class HandServer:
    """Listens on a loopback port while its `with` block runs; then closes all it has accepted."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(TIMEOUT)
        self._peers: list[HandPeer] = []
        self.port = self._listener.getsockname()[1]

    def url(self, target: str = "/") -> str:
        """Return the URL of *target* here."""
        return f"http://127.0.0.1:{self.port}{target}"

    def accept(self) -> HandPeer:
        """Accept a connection."""
        sock, _ = self._listener.accept()
        sock.settimeout(TIMEOUT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._peers.append(HandPeer(sock))
        return self._peers[-1]

    def is_left_alone(self) -> bool:
        """Return True if no connection waits to be accepted."""
        return not select.select([self._listener], [], [], 0)[0]

    def __enter__(self) -> HandServer:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.close()
        for peer in self._peers:
            peer.close()


def settle(pool: ConnectionPool) -> None:
    """Wait until no sender of *pool* has anything to do: what it was going to send, it has sent."""
    wait_until(pool, lambda: all(c.sender_parked for c in connections_of(pool)))


def warm_up(pool: ConnectionPool, server: HandServer, window: int = 4) -> HandPeer:
    """Have *pool* learn that *window* requests may be in flight; return its only connection."""
    peer = None
    for target in (f"/warm{i}" for i in range(1, window)):
        future = pool.submit("GET", server.url(target))
        peer = peer or server.accept()
        assert peer.burst() == [target]
        peer.responds(target)
        assert future.result(TIMEOUT).text == target
    assert peer is not None
    return peer


def submit_first(
    pool: ConnectionPool, server: HandServer, method: str, target: str, **options: Any
) -> tuple[HandPeer, ResponseFuture]:
    """Submit a request for which *pool* opens a connection; return that, and the future.

    The server has received the request by then, and sent no response.
    """
    future = pool.submit(method, server.url(target), **options)
    peer = server.accept()
    assert peer.burst() == [target]
    return peer, future
