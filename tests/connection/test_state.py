"""What two directions share: each wait of one for the other ends, and descriptors live as long."""

from __future__ import annotations

import socket

import pytest

from dugong import ConnectionClosed, ConnectionTimedOut, StateError
from tests.support.session import EMPTY, OK, Line, closing, is_open, run

# --- one side waits for the other -----------------------------------------------------------------


def test_a_receiver_waits_while_the_sender_dials(line: Line) -> None:
    line.shut_gate()
    sending = line.send_request("/a")
    next(sending)
    receiving = line.session.receiver.co_read_response()
    waiting = next(receiving)
    assert not waiting.poll(0)
    line.open_gate()
    run(sending)
    assert waiting.poll(0)
    line.peer.sendall(OK)
    assert run(receiving).path == "/a"
    assert line.readall() == b"ok"


def test_a_receiver_waits_while_the_sender_replaces_the_connection(line: Line) -> None:
    line.ask("/a")
    line.peer.sendall(closing(EMPTY))
    line.read_response()
    line.shut_gate()
    sending = line.send_request("/b")
    next(sending)
    receiving = line.session.receiver.co_read_response()
    next(receiving)
    line.open_gate()
    run(sending)
    line.peer.sendall(EMPTY)
    assert run(receiving).path == "/b"


def test_a_blocking_receiver_waits_for_the_sender_as_long_as_it_may(line: Line) -> None:
    line.shut_gate()
    sending = line.send_request("/a")
    next(sending)
    with pytest.raises(ConnectionTimedOut):
        line.session.receiver.read_response(0.001)
    line.open_gate()
    run(sending)
    line.peer.sendall(OK)
    assert line.session.receiver.read_response(5).path == "/a"
    assert line.readall() == b"ok"


def test_a_receiver_that_was_woken_for_nothing_waits_again(line: Line) -> None:
    line.shut_gate()
    sending = line.send_request("/a")
    next(sending)
    receiving = line.session.receiver.co_read_response()
    next(receiving)
    assert not next(receiving).poll(0)
    receiving.close()
    sending.close()


def test_a_receiver_that_waits_hears_that_dialling_has_failed(line: Line) -> None:
    line.shut_gate()
    line.refused = True
    sending = line.send_request("/a")
    next(sending)
    receiving = line.session.receiver.co_read_response()
    waiting = next(receiving)
    line.open_gate()
    with pytest.raises(ConnectionRefusedError):
        run(sending)
    assert waiting.poll(0)
    with pytest.raises(StateError):
        run(receiving)


def test_a_receiver_that_waits_hears_that_dialling_was_given_up(line: Line) -> None:
    line.shut_gate()
    sending = line.send_request("/a")
    next(sending)
    receiving = line.session.receiver.co_read_response()
    waiting = next(receiving)
    sending.close()
    assert waiting.poll(0)
    with pytest.raises(StateError):
        run(receiving)


def test_a_receiver_that_waits_hears_that_the_connection_was_aborted(line: Line) -> None:
    line.shut_gate()
    sending = line.send_request("/a")
    next(sending)
    receiving = line.session.receiver.co_read_response()
    waiting = next(receiving)
    line.session.abort()
    assert waiting.poll(0)
    with pytest.raises(ConnectionClosed):
        run(receiving)
    sending.close()


def test_a_receiver_does_not_wait_if_the_request_comes_at_this_moment(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.shut_gate()
    sending = line.send_request("/a")
    next(sending)
    line.open_gate()
    socketpair = socket.socketpair

    def and_then_send() -> tuple[socket.socket, socket.socket]:
        monkeypatch.undo()
        pair = socketpair()
        run(sending)
        line.peer.sendall(EMPTY)
        return pair

    monkeypatch.setattr("dugong.connection.state.socket.socketpair", and_then_send)
    assert line.read_response().path == "/a"


def test_a_receiver_that_is_slow_to_wake_does_not_hold_up_the_sender(line: Line) -> None:
    line.shut_gate()
    sending = line.send_request("/0")
    next(sending)
    receiving = line.session.receiver.co_read_response()
    next(receiving)
    line.open_gate()
    run(sending)
    for i in range(1, 2000):  # far more than wake-ups fit into a socket pair
        line.ask(f"/{i}")
        line.peer.recv(1000)
    line.peer.sendall(EMPTY)
    assert run(receiving).path == "/0"


# --- descriptors ----------------------------------------------------------------------------------


def test_aborting_keeps_a_descriptor_for_which_a_thread_waits(line: Line) -> None:
    line.ask("/a")
    receiving = line.session.receiver.co_read_response()
    waiting = next(receiving)
    sending = line.send_request("/b", b"x" * 10_000_000)
    next(sending)
    line.session.abort()
    assert is_open(line.transport)
    assert waiting.poll(0)
    with pytest.raises(ConnectionClosed):
        run(receiving)
    assert is_open(line.transport)
    with pytest.raises(ConnectionClosed):
        run(sending)
    assert not is_open(line.transport)


def test_a_coroutine_that_is_given_up_after_aborting_closes_the_descriptor(line: Line) -> None:
    line.ask("/a")
    receiving = line.session.receiver.co_read_response()
    next(receiving)
    line.session.abort()
    assert is_open(line.transport)
    receiving.close()
    assert not is_open(line.transport)


def test_the_last_response_wakes_a_sender_and_keeps_its_descriptor(line: Line) -> None:
    line.ask("/a")
    sending = line.send_request("/b", b"x" * 10_000_000)
    waiting = next(sending)
    line.peer.sendall(closing(OK))
    line.read_response()
    line.readall()
    assert is_open(line.transport)
    assert waiting.poll(0)
    with pytest.raises(ConnectionClosed):
        run(sending)
    assert not is_open(line.transport)
