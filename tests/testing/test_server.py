"""The scripted server, where the tests of everything else do not show it."""

from __future__ import annotations

import socket
import ssl

import pytest

from dugong import ConnectionPool
from dugong.testing import Peer, ReceivedRequest, Server
from tests.support.server import TIMEOUT


def converse(peer: Peer) -> None:
    for request in peer.requests():
        peer.respond(request.target.encode())


def test_a_script_serves_requests_until_the_client_closes() -> None:
    with Server(converse) as server, ConnectionPool() as pool:
        assert [pool.get(server.url(f"/{n}")).text for n in range(3)] == ["/0", "/1", "/2"]


def test_a_server_may_speak_tls(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with Server(converse, context=server_context) as server:
        assert server.url().startswith("https://")
        with ConnectionPool(ssl_context=client_context) as pool:
            assert pool.get(server.url("/path")).text == "/path"


def test_each_connection_has_the_next_script() -> None:
    def refuse(peer: Peer) -> None:
        peer.request()
        peer.respond(status="503 Service Unavailable", headers="Connection: close\r\n")

    with Server(refuse, converse) as server, ConnectionPool(retry=None) as pool:
        assert [pool.get(server.url()).status for _ in range(2)] == [503, 200]
        assert server.connections == 2


def test_what_a_script_raises_is_raised_at_the_end() -> None:
    def fail(peer: Peer) -> None:
        assert peer.request().target == "/right"

    server = Server(fail)
    with pytest.raises(AssertionError, match="/right"), server, ConnectionPool(retry=None) as pool:
        pool.submit("GET", server.url("/wrong")).exception(TIMEOUT)


def test_a_connection_without_a_script_is_an_error() -> None:
    server = Server()
    with pytest.raises(AssertionError, match="more connections"), server, ConnectionPool() as pool:
        pool.submit("GET", server.url(), retry=None).exception(TIMEOUT)


def test_a_connection_that_is_reset_is_the_end_of_its_requests() -> None:
    received: list[ReceivedRequest] = []

    def collect(peer: Peer) -> None:
        received.extend(peer.requests())

    with Server(collect) as server:
        sock = socket.create_connection(server.address)
        sock.sendall(b"GET / HTTP/1.1\r\nHost:host\r\n\r\nGET /half")
        Peer(sock).reset()
    assert len(received) <= 1  # a reset may overtake what was sent before it


def test_the_fields_of_a_request_are_read_with_any_space_around_them() -> None:
    received: list[ReceivedRequest] = []

    def collect(peer: Peer) -> None:
        received.append(peer.head())

    with Server(collect) as server, socket.create_connection(server.address) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost:host\r\nX-Own: \t a: b \r\n\r\n")
        sock.recv(1)
    assert received[0].headers == {"host": "host", "x-own": "a: b"}


def test_the_repr_of_a_request_has_no_query_and_no_header_value() -> None:
    head = b"GET /path?secret HTTP/1.1\r\nCookie: secret\r\n\r\n"
    request = ReceivedRequest("GET", "/path?secret", {"cookie": "secret"}, head, b"secret")
    assert repr(request) == "<ReceivedRequest GET /path?..., 6 bytes>"


def test_the_fields_behind_a_body_in_chunks_are_received_with_it() -> None:
    received: list[ReceivedRequest] = []

    def script(peer: Peer) -> None:
        received.append(peer.request())
        received.append(peer.request())
        peer.respond()

    with Server(script) as server, socket.create_connection(server.address) as sock:
        head = b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        sock.sendall(head + b"2\r\nab\r\n0\r\nX-Sum: 1\r\nX-Size:2\r\n\r\n" + head + b"0\r\n\r\n")
        sock.recv(1)
    assert [request.body for request in received] == [b"ab", b""]
    assert [request.trailers for request in received] == [{"x-sum": "1", "x-size": "2"}, {}]
