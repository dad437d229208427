"""Http1Session: ending both directions of a connection, and what others may ask about it."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from dugong import (
    BodyFollowing,
    ConnectionClosed,
    ConnectionTimedOut,
    Delivery,
    PollNeeded,
    StateError,
)
from dugong.connection.exchange import Exchange
from dugong.connection.receiving import ReceivedResponses
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


# --- one request and its response at once ---------------------------------------------------------

GET = b"GET /a HTTP/1.1\r\n\r\n"


def exchange(line: Line, *parts: bytes, timeout: float = 5) -> tuple[Exchange, ReceivedResponses]:
    """Make an exchange over a used connection, in which the peer responds in *parts*."""
    left = list(parts)

    class Responding(PlainTransport):
        def recv_into(self, view: memoryview) -> int | PollNeeded:
            if left:
                line.peer.sendall(left.pop(0))
            return super().recv_into(view)

    use_once(line)
    line.session.state.transport = Responding(line.transport.sock)
    own = Exchange("GET", "/a")
    received = line.session.exchange(own, GET, timeout)
    assert line.peer.recv(1000) == GET
    return own, received


def use_once(line: Line) -> None:
    line.ask("/first")
    line.peer.sendall(EMPTY)
    line.read_response()
    line.peer.recv(1000)


@pytest.mark.parametrize("cut", range(1, len(OK)))
def test_an_exchange_gives_the_response_however_it_comes(line: Line, cut: int) -> None:
    own, (responses, error) = exchange(line, OK[:cut], OK[cut:])
    (response,) = responses
    assert error is None
    assert response[:2] == (own, 200)
    assert (response[5] or line.readall()) == b"ok"
    assert not line.session.pending()


def test_an_exchange_skips_an_interim_response(line: Line) -> None:
    own, (responses, error) = exchange(line, b"HTTP/1.1 103 Early Hints\r\n\r\n", OK)
    assert error is None
    assert [(response[0], response[1], response[5]) for response in responses] == [
        (own, 200, b"ok")
    ]


def test_an_exchange_gives_one_response_and_shows_that_more_has_come(line: Line) -> None:
    own, (responses, error) = exchange(line, OK + OK)
    assert error is None
    assert [response[0] for response in responses] == [own]
    assert len(line.session.state.buffer) == len(OK)
    with pytest.raises(ConnectionClosed):
        line.session.exchange(Exchange("GET", "/b"), GET, 5)


def test_an_exchange_to_which_nothing_comes_times_out(line: Line) -> None:
    own, (responses, error) = exchange(line, timeout=0.05)
    assert not responses
    assert isinstance(error, ConnectionTimedOut)
    assert own.delivery is Delivery.SENT


def test_nothing_is_sent_over_a_connection_that_the_peer_has_closed(line: Line) -> None:
    use_once(line)
    line.peer.shutdown(socket.SHUT_WR)
    own = Exchange("GET", "/a")
    with pytest.raises(ConnectionClosed):
        line.session.exchange(own, GET, 5)
    assert own.delivery is Delivery.UNSENT
    line.session.abort()
    assert line.peer.recv(1) == b""


def test_nothing_is_exchanged_while_something_else_is_under_way(line: Line) -> None:
    state = line.session.state

    def is_refused(match: str) -> None:
        with pytest.raises(StateError, match=match):
            line.session.exchange(Exchange("GET", "/a"), GET, 5)

    line.ask("/first")
    is_refused("due")
    line.peer.sendall(OK)
    line.read_response()
    is_refused("due")
    line.readall()
    for turn, doing in ((state.send_turn, "sending"), (state.receive_turn, "receiving")):
        with turn:
            is_refused(doing)


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
