"""Servers that refuse requests at first, policies for them, and the outcomes of requests."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from dugong import (
    ConnectionPool,
    Response,
    RetryPolicy,
)
from tests.support.byhand import HandPeer
from tests.support.pool import each, name_target
from tests.support.server import TIMEOUT, Peer, ReceivedRequest

__all__ = [
    "AT_ONCE",
    "FOR_EVER",
    "SLOW",
    "TOO_MANY",
    "UNAVAILABLE",
    "Refusing",
    "dies",
    "error_of",
    "one_connection",
    "serve",
    "text_of",
]

#: Without waits, but otherwise the default.
AT_ONCE = RetryPolicy(backoff=0)
#: Before the next attempt there is a wait of 10, 20, ... seconds, by the clock of the test.
SLOW = RetryPolicy(backoff=10)
#: So long that nothing happens while a test runs.
FOR_EVER = RetryPolicy(backoff=10_000, max_backoff=10_000)

UNAVAILABLE = "503 Service Unavailable"
TOO_MANY = "429 Too Many Requests"


class Refusing:
    """A script that responds with each of *statuses* in turn, and then with the targets.

    `requests` are those that were received, on all connections.
    """

    def __init__(self, *statuses: str) -> None:
        self.requests: list[ReceivedRequest] = []
        self.refuse(*statuses)

    def refuse(self, *statuses: str) -> None:
        """Respond with *statuses* from now on, and then with the targets."""
        self._statuses = iter(statuses)

    def __call__(self, peer: Peer) -> None:
        each(self.respond)(peer)

    def respond(self, peer: Peer, request: ReceivedRequest) -> None:
        """Respond to *request* with the next status."""
        self.requests.append(request)
        status = next(self._statuses, None)
        if status is None:
            name_target(peer, request)
        else:
            peer.respond(b"refused", status)


def one_connection(retry: RetryPolicy | None, **options: Any) -> ConnectionPool:
    """Return a pool with one connection, so that requests have to go behind each other."""
    return ConnectionPool(max_connections_per_host=1, timeout=TIMEOUT, retry=retry, **options)


def dies(peer: Peer) -> None:
    """Receive a request, and end the connection."""
    peer.request()
    peer.reset()


def serve(peer: HandPeer, count: int) -> list[str]:
    """Respond to *count* requests, however many arrive at a time; return their targets."""
    served: list[str] = []
    while len(served) < count:
        targets = peer.burst()
        peer.responds(*targets)
        served += targets
    return served


def text_of(future: Future[Response]) -> str:
    """Return the body of the response of *future*."""
    return future.result(TIMEOUT).text


def error_of(future: Future[Response]) -> Any:
    """Return the exception of *future*."""
    error = future.exception(TIMEOUT)
    assert error is not None
    return error
