"""Http1Session: ending both directions of a connection, and what others may ask about it."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from dugong import BodyFollowing, ConnectionClosed, PollNeeded
from dugong.connection.session import Http1Session
from dugong.connection.transport import PlainTransport
from tests.support.session import CHUNKED, EMPTY, OK, UNTIL_CLOSE, HookedDeque, Line, is_open, run

# --- aborting -------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [OK[:-1], CHUNKED + b"5\r\nab", UNTIL_CLOSE + b"ab"])
def test_a_body_that_is_being_read_when_the_connection_is_aborted_has_no_end(
    line: Line, head: bytes
) -> None:
    line.ask("/a")
    line.peer.sendall(head)
    line.read_response()
    line.readinto()
    reading = line.session.body.co_readinto(memoryview(bytearray(100)))
    next(reading)
    line.session.abort()
    with pytest.raises(ConnectionClosed):
        next(reading)


def test_aborting_an_idle_connection_closes_it_at_once(line: Line) -> None:
    line.ask("/a")
    line.session.abort()
    assert not is_open(line.transport)


def test_aborting_ends_dialling(line: Line) -> None:
    line.shut_gate()
    sending = line.send_request("/a")
    waiting = next(sending)
    line.session.abort()
    assert waiting.poll(0)
    with pytest.raises(ConnectionClosed):
        run(sending)
    assert not line.peers


def test_a_connection_that_comes_after_aborting_is_closed(line: Line) -> None:
    line.dialled = line.session.abort
    with pytest.raises(ConnectionClosed):
        line.ask("/a")
    assert line.peer.recv(1) == b""


def test_nothing_is_dialled_after_aborting(line: Line) -> None:
    aborted = line.session.abort

    class AbortedMeanwhile(PlainTransport):
        def is_quiet(self) -> bool:
            aborted()
            return super().is_quiet()

    line.transport_class = AbortedMeanwhile
    run(line.session.sender.co_connect())
    with pytest.raises(ConnectionClosed):
        line.ask("/a")
    assert len(line.peers) == 1


def test_every_call_fails_after_aborting(line: Line) -> None:
    run(line.send_request("/a", BodyFollowing(1)))
    line.session.abort()
    view = memoryview(bytearray(1))
    for call in (
        line.session.sender.co_write(view),
        line.session.receiver.co_read_response(),
        line.session.body.co_readinto(view),
        line.session.body.co_read(1),
        line.session.body.co_readall(),
        line.session.body.co_discard(),
        line.session.body.co_read_raw(view),
        line.send_request("/b"),
    ):
        with pytest.raises(ConnectionClosed):
            run(call)


# --- what others may ask --------------------------------------------------------------------------


@pytest.mark.parametrize("question", [Http1Session.pending, lambda session: session.unread])
def test_a_response_is_never_overlooked(
    line: Line, question: Callable[[Http1Session], bool]
) -> None:
    """It may be asked for at the moment when it becomes the one whose body is being read."""
    seen: list[bool] = []
    asked = HookedDeque()
    asked.hook = lambda: seen.append(question(line.session))
    line.session.state.awaiting_response = asked
    line.ask("/a")
    line.peer.sendall(OK)
    line.read_response()
    assert seen == [True]


def test_how_long_the_server_keeps_the_connection_is_known_until_the_next_one(line: Line) -> None:
    assert line.session.keep_alive_timeout is None
    for read in (line.read_response, lambda: line.session.receiver.read_responses(5)):
        line.ask("/a", "/b")
        line.peer.sendall(EMPTY.replace(b"\r\n", b"\r\nKeep-Alive: timeout=5\r\n", 1))
        read()
        assert line.session.keep_alive_timeout == 5.0
        line.peer.sendall(EMPTY)
        read()
        assert line.session.keep_alive_timeout == 5.0
        line.peer.close()
        assert line.gets_a_response_over_a_new_connection()
        assert line.session.keep_alive_timeout is None


def test_a_connection_that_ends_behind_the_last_chunk_has_had_its_last_response(line: Line) -> None:
    for streamed in (False, True):
        line.ask("/a", "/b")
        line.peer.sendall(CHUNKED + b"2\r\nok\r\n0\r\n")
        line.peer.shutdown(socket.SHUT_WR)
        if streamed:
            line.read_response()
        else:
            (response,), error = line.session.receiver.read_responses(5)
            assert error is None
            assert response[5] is None
        exchange = line.session.state.incoming
        assert exchange is not None
        assert line.readall() == b"ok"
        assert not exchange.persistent
        assert line.session.state.last_response_reason is not None
        with pytest.raises(ConnectionClosed):
            line.read_response()
        assert line.gets_a_response_over_a_new_connection()


def test_a_connection_that_is_reset_behind_the_last_chunk_is_no_end() -> None:
    class Reset(PlainTransport):
        def recv_into(self, view: memoryview) -> int | PollNeeded:
            got = super().recv_into(view)
            if got == 0:
                raise ConnectionClosed
            return got

    line = Line()
    line.transport_class = Reset
    try:
        line.ask("/a")
        line.peer.sendall(CHUNKED + b"2\r\nok\r\n0\r\n")
        line.peer.shutdown(socket.SHUT_WR)
        line.read_response()
        with pytest.raises(ConnectionClosed):
            line.readall()
    finally:
        line.close()


def test_a_response_is_pending_until_its_body_has_been_read(line: Line) -> None:
    assert not line.session.pending()
    run(line.send_request("/a", BodyFollowing(2)))
    assert not line.session.pending()
    line.write(b"12")
    assert line.session.pending()
    line.peer.sendall(OK)
    line.read_response()
    assert line.session.pending()
    line.readall()
    assert not line.session.pending()
