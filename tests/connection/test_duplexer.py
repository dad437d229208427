"""Duplexer: ending both directions of a connection, and what others may ask about it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dugong import BodyFollowing, ConnectionClosed
from dugong.connection.duplexer import Duplexer
from dugong.connection.exchange import Exchange
from dugong.connection.transport import PlainTransport
from tests.support.duplexer import CHUNKED, OK, UNTIL_CLOSE, Line, is_open, run

# --- aborting -------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [OK[:-1], CHUNKED + b"5\r\nab", UNTIL_CLOSE + b"ab"])
def test_a_body_that_is_being_read_when_the_connection_is_aborted_has_no_end(
    line: Line, head: bytes
) -> None:
    line.ask("/a")
    line.peer.sendall(head)
    line.read_response()
    line.readinto()
    reading = line.duplexer.co_readinto(memoryview(bytearray(100)))
    next(reading)
    line.duplexer.abort()
    with pytest.raises(ConnectionClosed):
        next(reading)


def test_aborting_an_idle_connection_closes_it_at_once(line: Line) -> None:
    line.ask("/a")
    line.duplexer.abort()
    assert not is_open(line.transport)


def test_aborting_ends_dialling(line: Line) -> None:
    line.shut_gate()
    sending = line.send_request("/a")
    waiting = next(sending)
    line.duplexer.abort()
    assert waiting.poll(0)
    with pytest.raises(ConnectionClosed):
        run(sending)
    assert not line.peers


def test_a_connection_that_comes_after_aborting_is_closed(line: Line) -> None:
    line.dialled = line.duplexer.abort
    with pytest.raises(ConnectionClosed):
        line.ask("/a")
    assert line.peer.recv(1) == b""


def test_nothing_is_dialled_after_aborting(line: Line) -> None:
    aborted = line.duplexer.abort

    class AbortedMeanwhile(PlainTransport):
        def is_quiet(self) -> bool:
            aborted()
            return super().is_quiet()

    line.transport_class = AbortedMeanwhile
    run(line.duplexer.co_connect())
    with pytest.raises(ConnectionClosed):
        line.ask("/a")
    assert len(line.peers) == 1


def test_every_call_fails_after_aborting(line: Line) -> None:
    run(line.send_request("/a", BodyFollowing(1)))
    line.duplexer.abort()
    view = memoryview(bytearray(1))
    for call in (
        line.duplexer.co_write(view),
        line.duplexer.co_read_response(),
        line.duplexer.co_readinto(view),
        line.duplexer.co_read(1),
        line.duplexer.co_readall(),
        line.duplexer.co_discard(),
        line.duplexer.co_read_raw(view),
        line.send_request("/b"),
    ):
        with pytest.raises(ConnectionClosed):
            run(call)


# --- what others may ask --------------------------------------------------------------------------


class Watched(Duplexer):
    """Lets the receiver act between two looks at its state."""

    hook: Callable[[], object] | None = None
    _incoming: Exchange | None = None

    @property  # type: ignore[override]
    def incoming(self) -> Exchange | None:
        seen = self._incoming
        hook, self.hook = self.hook, None
        if hook is not None:
            hook()
        return seen

    @incoming.setter
    def incoming(self, exchange: Exchange | None) -> None:
        self._incoming = exchange


@pytest.mark.parametrize("question", [Duplexer.pending, lambda duplexer: duplexer.unread])
def test_an_answer_is_never_overlooked(question: Callable[[Duplexer], bool]) -> None:
    line = Line(Watched)
    line.ask("/a")
    line.peer.sendall(OK)
    assert isinstance(line.duplexer, Watched)
    line.duplexer.hook = line.read_response
    try:
        assert question(line.duplexer)
    finally:
        line.close()


def test_an_answer_is_pending_until_its_body_has_been_read(line: Line) -> None:
    assert not line.duplexer.pending()
    run(line.send_request("/a", BodyFollowing(2)))
    assert not line.duplexer.pending()
    line.write(b"12")
    assert line.duplexer.pending()
    line.peer.sendall(OK)
    line.read_response()
    assert line.duplexer.pending()
    line.readall()
    assert not line.duplexer.pending()
