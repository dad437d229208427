"""Requests sent by a thread of their own, ahead of the responses."""

from __future__ import annotations

from contextlib import closing

import pytest

from dugong import ConnectionClosed, HTTPConnection
from dugong.cli.pipelining import pipelined
from tests.support.server import Peer, ScriptedServer


def nothing_comes(peer: Peer) -> None:
    """Fail if the client sends anything within a moment."""
    timeout = peer.sock.gettimeout()
    peer.sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        peer.exactly(1)
    peer.sock.settimeout(timeout)


def test_targets_come_in_order_with_their_responses() -> None:
    def script(peer: Peer) -> None:
        for _ in range(20):
            peer.respond(peer.head().target.encode())

    targets = [f"/{i}" for i in range(20)]
    with ScriptedServer(script) as server, HTTPConnection(*server.address) as conn:
        for target in pipelined(conn, targets):
            assert conn.read_response().path == target
            assert conn.readall() == target.encode()


def test_the_connection_lives_on_when_all_has_been_answered() -> None:
    def script(peer: Peer) -> None:
        for _ in range(2):
            peer.head()
            peer.respond()

    with ScriptedServer(script) as server, HTTPConnection(*server.address) as conn:
        for _ in range(2):
            for _ in pipelined(conn, ["/"]):
                conn.read_response()


def test_the_first_request_goes_alone() -> None:
    def script(peer: Peer) -> None:
        peer.head()
        nothing_comes(peer)
        peer.respond()
        peer.head()
        peer.respond()

    with ScriptedServer(script) as server, HTTPConnection(*server.address) as conn:
        for _ in pipelined(conn, ["/1", "/2"]):
            conn.read_response()


def test_each_response_lets_one_more_be_in_flight() -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.respond()
        for _ in range(4):  # 2, 3, 4 and 5 unanswered requests before each of these responses
            peer.head()
            peer.head()
            peer.respond()
        for _ in range(4):
            peer.respond()

    with ScriptedServer(script) as server, HTTPConnection(*server.address) as conn:
        for _ in pipelined(conn, [f"/{i}" for i in range(9)]):
            conn.read_response()


def test_no_more_than_the_greatest_depth_are_in_flight() -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.respond()
        peer.head()
        for _ in range(3):
            peer.head()
            nothing_comes(peer)
            peer.respond()
        peer.respond()

    with ScriptedServer(script) as server, HTTPConnection(*server.address) as conn:
        for _ in pipelined(conn, [f"/{i}" for i in range(5)], max_depth=2):
            conn.read_response()


def test_with_a_depth_of_one_each_request_waits_for_the_last_response() -> None:
    def script(peer: Peer) -> None:
        for _ in range(3):
            peer.head()
            nothing_comes(peer)
            peer.respond()

    with ScriptedServer(script) as server, HTTPConnection(*server.address) as conn:
        for _ in pipelined(conn, ["/1", "/2", "/3"], max_depth=1):
            conn.read_response()


def test_a_request_that_cannot_be_sent_raises_after_the_responses_before_it() -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.respond()

    with ScriptedServer(script) as server, HTTPConnection(*server.address) as conn:
        sent = pipelined(conn, ["/1", "not a target", "/3"])
        assert next(sent) == "/1"
        conn.read_response()
        with pytest.raises(ValueError, match="invalid request target"):
            next(sent)


def test_closing_it_early_ends_the_connection_and_its_thread() -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.respond()
        assert b"/2" in peer.until_eof()

    with ScriptedServer(script) as server, HTTPConnection(*server.address) as conn:
        with closing(pipelined(conn, [f"/{i}" for i in range(1, 100)])) as sent:
            next(sent)
            conn.read_response()
            next(sent)  # so /2 has been sent
        with pytest.raises(ConnectionClosed):
            conn.read_response()
