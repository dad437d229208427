"""Reading bodies: which of them have an end."""

from __future__ import annotations

import pytest

from dugong import ConnectionClosed
from dugong.connection.bodies import BodySide
from tests.support.session import (
    CHUNKED,
    EMPTY,
    OK,
    UNTIL_CLOSE,
    Interrupt,
    Line,
    interrupted,
    run,
)

# --- bodies that are there -----------------------------------------------------------------------


@pytest.mark.parametrize("received", [OK[:-1], CHUNKED + b"2;a\r\nok\r\n0\r\n\r\n"])
def test_a_body_is_not_taken_before_it_is_known_to_be_complete(line: Line, received: bytes) -> None:
    assert line.session.body.take_body() is None
    line.ask("/a")
    line.peer.sendall(received)
    line.read_response()
    assert line.session.body.take_body() is None
    line.peer.sendall(OK[len(received) :])
    assert line.readall() == b"ok"


def test_a_body_that_is_here_is_not_taken_after_the_connection_was_aborted(line: Line) -> None:
    line.ask("/a")
    line.peer.sendall(OK)
    line.read_response()
    line.session.abort()
    assert line.session.body.take_body() is None
    with pytest.raises(ConnectionClosed):
        line.readall()


# --- bodies that are cut short --------------------------------------------------------------------


def test_giving_up_a_read_before_any_data_loses_nothing(line: Line) -> None:
    line.ask("/a")
    line.peer.sendall(OK[:-2])
    line.read_response()
    for reading in (line.session.body.co_readall(), line.session.body.co_read(10)):
        next(reading)
        reading.close()
    line.peer.sendall(OK[-2:])
    assert line.readall() == b"ok"


def test_a_body_until_the_end_has_none_if_the_sender_has_ended_the_connection(line: Line) -> None:
    line.ask("/a")
    sending = line.send_request("/b", b"x" * 10_000_000)
    next(sending)
    line.peer.sendall(UNTIL_CLOSE + b"ab")
    line.read_response()
    assert line.readinto() == b"ab"
    sending.close()  # as when it has timed out
    with pytest.raises(ConnectionClosed):
        line.readinto()


def test_a_body_that_was_cut_short_has_no_end_later_either(line: Line) -> None:
    line.ask("/a")
    line.peer.sendall(OK[:-1])
    line.peer.close()
    line.read_response()
    assert line.readinto() == b"o"
    for _ in range(2):
        with pytest.raises(ConnectionClosed):
            line.readinto()
    line.ask("/b")  # by the sending thread, which knows nothing of it
    with pytest.raises(ConnectionClosed):
        line.readinto()
    line.peer.sendall(OK)
    assert line.read_response().path == "/b"
    assert line.readall() == b"ok"
    assert line.readinto() == b""


def test_a_body_of_which_a_part_was_lost_has_no_end(line: Line) -> None:
    line.ask("/a")
    line.peer.sendall(CHUNKED + b"2\r\nab\r\n")
    line.read_response()
    reading = line.session.body.co_readall()
    next(reading)
    reading.close()  # as when it has timed out
    line.peer.sendall(b"2\r\ncd\r\n0\r\n\r\n")
    with pytest.raises(ConnectionClosed):
        line.readall()
    line.ask("/b")
    with pytest.raises(ConnectionClosed):
        line.readall()


@pytest.mark.parametrize("rest", [b"", b"0\r\n\r\n"])
def test_a_body_that_did_not_fit_into_memory_has_no_end(
    line: Line, monkeypatch: pytest.MonkeyPatch, rest: bytes
) -> None:
    line.ask("/a")
    line.peer.sendall(CHUNKED + b"2\r\nab\r\n" + rest)
    line.read_response()
    with monkeypatch.context() as patch:

        def no_memory(*args: object) -> bytes:
            raise MemoryError

        patch.setattr("dugong.connection.bodies.bytes", no_memory, raising=False)
        with pytest.raises(MemoryError):
            line.readall()
    with pytest.raises(ConnectionClosed):
        line.readall()


@pytest.mark.parametrize("call", ["take_body", "readinto", "co_readinto", "co_read"])
def test_a_body_that_was_taken_by_an_interrupted_read_does_not_look_complete(
    line: Line, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    line.ask("/a")
    line.peer.sendall(OK)
    line.read_response()
    session, view = line.session, memoryview(bytearray(10))
    read = {
        "take_body": session.body.take_body,
        "readinto": lambda: session.body.readinto(view, 5),
        "co_readinto": lambda: run(session.body.co_readinto(view)),
        "co_read": lambda: run(session.body.co_read(9)),
    }[call]
    with monkeypatch.context() as patch:
        patch.setattr(BodySide, "finish", interrupted)
        with pytest.raises(Interrupt):
            read()
    with pytest.raises(ConnectionClosed):
        line.readall()
    assert line.gets_a_response_over_a_new_connection()


def test_an_interrupted_read_is_not_taken_up_again(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.ask("/a")
    line.peer.sendall(CHUNKED + b"2\r\nab\r\n0\r\n\r\n")
    line.read_response()
    with monkeypatch.context() as patch:
        patch.setattr("dugong.connection.readers.ChunkedReader.readinto", interrupted)
        with pytest.raises(Interrupt):
            line.readinto()
    with pytest.raises(ConnectionClosed):
        line.readinto()


def test_a_body_that_was_read_from_raw_has_no_end(line: Line) -> None:
    line.ask("/a", "/b")
    line.peer.sendall(OK + OK)
    line.read_response()
    view = memoryview(bytearray(1))
    assert run(line.session.body.co_read_raw(view)) == 1
    assert bytes(view) == b"o"
    with pytest.raises(ConnectionClosed):
        line.readall()
    with pytest.raises(ConnectionClosed):
        line.read_response()


def test_a_connection_that_was_read_from_raw_takes_no_request(line: Line) -> None:
    line.ask("/a")
    line.peer.sendall(EMPTY + OK[:1])
    line.read_response()
    assert run(line.session.body.co_read_raw(memoryview(bytearray(10)))) == 1
    assert line.gets_a_response_over_a_new_connection()
