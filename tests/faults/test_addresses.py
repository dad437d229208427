"""Names that do not resolve for a while, and hosts of which one address is dead."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from dugong import ConnectionPool, Delivery, DNSUnavailable
from tests.faults.server import Server
from tests.faults.site import is_right, make_request

BASE = "http://books.test"
HANG = 10.0  # seconds

Address = tuple[Any, ...]


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def address(port: int) -> Address:
    """Return an address as `socket.getaddrinfo` does."""
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))


def resolve_to(monkeypatch: pytest.MonkeyPatch, lookup: Callable[[], list[Address]]) -> None:
    """Let *lookup* return the addresses of every name."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: lookup())


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_names_that_do_not_resolve_for_a_while(
    method: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([socket.EAI_AGAIN] * 2)

    def lookup() -> list[Address]:
        for code in failures:
            raise socket.gaierror(code, "try again")
        return [address(server.port)]

    resolve_to(monkeypatch, lookup)
    with ConnectionPool(max_connections_per_host=1) as pool:
        futures = [pool.submit(make_request(BASE, number, method)) for number in range(10)]
        responses = [future.result(HANG) for future in futures]
    assert all(is_right(response) for response in responses)
    assert all(server.book.processed(response.request.target) == 1 for response in responses)
    first = responses[0].attempts
    assert [type(attempt.exception) for attempt in first] == [DNSUnavailable] * 2
    assert [attempt.delivery for attempt in first] == [Delivery.UNSENT] * 2


def refusing() -> socket.socket:
    """Return a socket whose port refuses connections."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


def silent() -> socket.socket:
    """Return a socket whose port ignores connection attempts, because its backlog is full."""
    return socket.create_server(("127.0.0.1", 0), backlog=0)


@pytest.mark.parametrize("dead", [refusing, silent])
def test_one_of_two_addresses_is_dead(
    dead: Callable[[], socket.socket], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(dead()) as sock, closing(socket.socket()) as waiting:
        port = sock.getsockname()[1]
        if dead is silent:
            waiting.connect(("127.0.0.1", port))
        resolve_to(monkeypatch, lambda: [address(port), address(server.port)])
        with ConnectionPool() as pool:
            futures = [pool.submit(make_request(BASE, number)) for number in range(100)]
            responses = [future.result(HANG) for future in futures]
    assert all(is_right(response) for response in responses)
    assert all(response.attempts == () for response in responses)
