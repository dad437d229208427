"""SendSide: what may be sent behind what, and when a request body has ended."""

from __future__ import annotations

import pytest

from dugong import BodyFollowing, ConnectionClosed, StateError
from dugong.connection.encode import RequestBuilder
from dugong.connection.exchange import Exchange
from dugong.connection.sending import SendSide
from tests.support.session import (
    EMPTY,
    OK,
    TOO_LARGE,
    Interrupt,
    Line,
    closing,
    is_open,
    run,
)

# --- requests -------------------------------------------------------------------------------------


def test_no_request_is_sent_behind_a_failure_before_all_have_been_told(line: Line) -> None:
    line.ask("/a", "/b")
    line.peer.close()
    with pytest.raises(ConnectionClosed):
        line.read_response()
    with pytest.raises(ConnectionClosed, match="responses that are due"):
        line.ask("/c")
    with pytest.raises(ConnectionClosed):
        line.read_response()
    assert line.gets_a_response_over_a_new_connection()


def test_bytes_that_were_not_requested_are_never_a_response(line: Line) -> None:
    line.ask("/a")
    line.peer.sendall(EMPTY + OK)  # in the buffer, with the response
    line.read_response()
    assert line.gets_a_response_over_a_new_connection()
    line.peer.sendall(OK)  # in the socket, later
    assert line.gets_a_response_over_a_new_connection()


def test_a_request_does_not_disturb_who_reads_raw(line: Line) -> None:
    run(line.session.sender.co_connect())
    reading = line.session.body.co_read_raw(memoryview(bytearray(10)))
    next(reading)
    line.peer.sendall(b"hello")
    line.ask("/a")
    assert len(line.peers) == 1
    assert run(reading) == 5


@pytest.mark.parametrize("blocking", [True, False])
def test_a_request_that_was_interrupted_before_it_was_sent_gets_no_response(
    line: Line, monkeypatch: pytest.MonkeyPatch, blocking: bool
) -> None:
    line.ask("/a")
    line.peer.sendall(EMPTY)
    line.read_response()
    begin_request = SendSide._begin_requests

    def begin_and_stop(sending: SendSide, exchange: Exchange) -> None:
        begin_request(sending, exchange)
        raise Interrupt

    def send() -> None:
        request = RequestBuilder("host").build("GET", "/b", None, None, False)
        if blocking:
            line.session.sender.send_request(*request, 5)
        else:
            run(line.session.sender.co_send_request(*request))

    with monkeypatch.context() as patch:
        patch.setattr(SendSide, "_begin_requests", begin_and_stop)
        with pytest.raises(Interrupt):
            send()
    with pytest.raises(ConnectionClosed):
        line.ask("/c")
    with pytest.raises(ConnectionClosed):
        line.read_response()
    assert line.gets_a_response_over_a_new_connection()


def test_a_connection_that_is_being_aborted_is_not_closed_under_its_users(line: Line) -> None:
    line.ask("/a")
    line.peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
    line.read_response()
    line.session.state.aborted = True  # as far as abort() has come, in another thread
    line.session.state.closing = True
    line.session.state.failure = "disconnected"
    with pytest.raises(ConnectionClosed):
        line.ask("/b")
    assert is_open(line.transport)


def test_two_cannot_send_at_once(line: Line) -> None:
    line.shut_gate()
    sending = line.send_request("/a")
    next(sending)
    for call in (
        line.send_request("/b"),
        line.session.sender.co_connect(),
        line.session.sender.co_write(memoryview(b"x")),
        line.session.sender.co_write_eof(),
    ):
        with pytest.raises(StateError, match="sending"):
            run(call)
    line.open_gate()
    run(sending)
    line.peer.sendall(EMPTY)
    assert line.read_response().path == "/a"


def test_a_send_that_is_given_up_ends_the_connection(line: Line) -> None:
    line.ask("/a")
    sending = line.send_request("/b", b"x" * 10_000_000)
    next(sending)
    sending.close()
    for _ in "ab":
        with pytest.raises(ConnectionClosed):
            line.read_response()
    assert line.gets_a_response_over_a_new_connection()


# --- request bodies -------------------------------------------------------------------------------


def test_a_write_that_is_given_up_ends_the_body(line: Line) -> None:
    run(line.send_request("/a", BodyFollowing(10_000_001)))
    writing = line.session.sender.co_write(memoryview(b"x" * 10_000_000))
    next(writing)
    writing.close()
    with pytest.raises(ConnectionClosed):
        line.write(b"x")
    with pytest.raises(ConnectionClosed):
        line.read_response()
    assert line.gets_a_response_over_a_new_connection()


def test_an_error_that_comes_while_the_body_is_sent_ends_the_body(line: Line) -> None:
    run(line.send_request("/a", BodyFollowing(10_000_001), "PUT"))
    writing = line.session.sender.co_write(memoryview(b"x" * 10_000_000))
    next(writing)
    line.peer.sendall(TOO_LARGE)
    assert line.read_response().status == 413
    assert line.readall() == b"no"
    with pytest.raises(ConnectionClosed):
        run(writing)
    with pytest.raises(ConnectionClosed):
        line.write(b"x")
    assert line.gets_a_response_over_a_new_connection()


def test_a_success_that_comes_while_the_body_is_sent_does_not_end_it(line: Line) -> None:
    run(line.send_request("/a", BodyFollowing(4), "PUT"))
    line.write(b"12")
    line.peer.sendall(OK)
    assert line.read_response().status == 200
    assert line.readall() == b"ok"
    with pytest.raises(StateError, match="not been sent completely"):
        line.ask("/b")
    line.write(b"34")
    line.ask("/b")
    line.peer.sendall(EMPTY)
    assert line.read_response().path == "/b"
    assert len(line.peers) == 1


def test_a_success_that_is_the_last_response_ends_the_body_when_it_has_been_read(
    line: Line,
) -> None:
    run(line.send_request("/a", BodyFollowing(6), "PUT"))
    line.write(b"12")
    line.peer.sendall(closing(OK))
    assert line.read_response().status == 200
    line.write(b"34")
    assert line.readall() == b"ok"
    with pytest.raises(ConnectionClosed):
        line.write(b"56")
    assert line.gets_a_response_over_a_new_connection()


def test_a_request_may_follow_one_whose_body_was_ended_by_the_last_response(line: Line) -> None:
    run(line.send_request("/a", BodyFollowing(6), "PUT"))
    line.peer.sendall(closing(OK))
    assert line.read_response().status == 200
    assert line.readall() == b"ok"
    assert line.gets_a_response_over_a_new_connection()


@pytest.mark.parametrize("expect100", [False, True])
def test_a_request_may_follow_one_whose_response_failed_before_its_body_was_sent(
    line: Line, expect100: bool
) -> None:
    run(line.send_request("/a", BodyFollowing(6), "PUT", expect100=expect100))
    line.peer.close()
    with pytest.raises(ConnectionClosed):
        line.read_response()
    assert line.gets_a_response_over_a_new_connection()


def test_a_refused_body_leaves_no_connection_to_misunderstand_the_next_request(
    line: Line,
) -> None:
    run(line.send_request("/a", BodyFollowing(6), "PUT", expect100=True))
    line.peer.sendall(TOO_LARGE)
    assert line.read_response().status == 413
    with pytest.raises(StateError):
        line.write(b"123456")
    assert line.readall() == b"no"
    assert line.gets_a_response_over_a_new_connection()
