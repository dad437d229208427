"""ReceiveSide: which respond belongs to whom, and which bodies have an end."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque

import pytest

from dugong import (
    BUFFER_SIZE,
    MAX_HEADER_SIZE,
    ConnectionClosed,
    ConnectionTimedOut,
    InvalidResponse,
    StateError,
)
from dugong.connection.encode import RequestBuilder
from dugong.connection.exchange import Exchange
from dugong.connection.polling import PollNeeded
from dugong.connection.transport import PlainTransport
from tests.support.session import (
    CHUNKED,
    EMPTY,
    OK,
    HookedDeque,
    Interrupt,
    Line,
    closing,
    interrupted,
    run,
)

# --- responses ------------------------------------------------------------------------------------


def test_responses_belong_to_the_requests_in_their_order(line: Line) -> None:
    line.ask("/a", "/b", "/c")
    line.peer.sendall(OK + EMPTY + OK)
    for path, body in (("/a", b"ok"), ("/b", b""), ("/c", b"ok")):
        assert line.read_response().path == path
        assert line.readall() == body
    assert len(line.peers) == 1


def test_giving_up_the_wait_for_a_response_loses_nothing(line: Line) -> None:
    line.ask("/a")
    line.peer.sendall(OK[:20])
    receiving = line.session.receiver.co_read_response()
    next(receiving)
    receiving.close()
    line.peer.sendall(OK[20:])
    assert line.read_response().path == "/a"
    assert line.readall() == b"ok"


def test_all_responses_that_have_come_are_taken_at_once_whatever_their_bodies(line: Line) -> None:
    line.ask("/a", "/b", "/c", "/d")
    line.peer.sendall(OK + CHUNKED + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n" + EMPTY + OK)
    responses, error = line.session.receiver.read_responses(5)
    assert error is None
    assert [body for *_, body in responses] == [b"ok", b"abc", b"", b"ok"]


@pytest.mark.parametrize("start", [b"", OK + b"HTTP/1.1 200 OK\r\n"], ids=["first", "second"])
def test_a_head_that_comes_byte_by_byte_has_to_be_whole_in_time(line: Line, start: bytes) -> None:
    line.ask("/a", "/b")
    if start:
        line.peer.sendall(start)
        responses, error = line.session.receiver.read_responses(5)
        assert (len(responses), error) == (1, None)
    over = threading.Event()

    def trickle() -> None:
        line.peer.sendall(OK[:10])
        while not over.wait(0.01):
            line.peer.sendall(b"x")

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        responses, error = line.session.receiver.read_responses(0.2)
    finally:
        over.set()
        thread.join()
    assert responses == []
    assert isinstance(error, ConnectionTimedOut)
    assert "head" in str(error)


def test_a_head_may_take_its_time_after_an_interim_response(line: Line) -> None:
    """Each head has the time for itself."""
    line.ask("/a")
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"

    def send() -> None:
        for piece in (interim[:20], interim[20:] + interim[:20], interim[20:] + OK[:20], OK[20:]):
            line.peer.sendall(piece)
            time.sleep(0.2)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        responses, error = line.session.receiver.read_responses(0.5)
    finally:
        thread.join()
    assert error is None
    assert [body for *_, body in responses] == [b"ok"]


def test_a_chunked_body_that_has_not_come_completely_is_read_when_it_does(line: Line) -> None:
    line.ask("/a", "/b")
    line.peer.sendall(OK + CHUNKED + b"2\r\nab\r\n1\r\nc")
    responses, error = line.session.receiver.read_responses(5)
    assert error is None
    assert [body for *_, body in responses] == [b"ok", None]
    line.peer.sendall(b"\r\n0\r\n\r\n")
    assert line.readall() == b"abc"


def test_the_length_of_a_chunked_body_is_not_known_though_all_of_it_has_come(line: Line) -> None:
    line.ask("/a")
    line.peer.sendall(CHUNKED + b"2\r\nab\r\n0\r\n\r\n")
    assert line.session.receiver.read_response(5).length is None
    assert line.readinto(1) == b"a"
    assert line.readall() == b"b"
    assert line.readall() == b""


class Marking(PlainTransport):
    """Notes the low-water mark of each receiving; one response comes before each."""

    marks: list[int]
    peer: socket.socket

    def recv_into(self, view: memoryview) -> int | PollNeeded:
        self.marks.append(self.receive_low_water)
        self.peer.sendall(OK)
        return super().recv_into(view)


def marks_of(line: Line, due: int, reads: int) -> list[int]:
    """Return the low-water mark of each of *reads*; the first finds *due* responses due."""
    line.transport_class = Marking
    line.ask(*["/a"] * due)
    transport = line.transport
    assert isinstance(transport, Marking)
    transport.marks, transport.peer = [], line.peer
    for _ in range(reads):
        responses, error = line.session.receiver.read_responses(5)
        assert error is None
        assert [body for *_, body in responses] == [b"ok"]
    return transport.marks


def test_many_responses_are_waited_for_if_few_have_come_time_and_again(line: Line) -> None:
    assert marks_of(line, due=99, reads=5) == [1, 1, 1, 1, 12 * len(OK)]


def test_if_they_do_not_come_they_are_not_waited_for_again_for_a_while(line: Line) -> None:
    marks = marks_of(line, due=200, reads=80)
    assert [index for index, mark in enumerate(marks) if mark > 1] == [4, 4 + 1 + 64 + 4]


def test_few_that_are_due_are_taken_as_they_come(line: Line) -> None:
    assert marks_of(line, due=23, reads=10) == [1] * 10


def test_no_more_bytes_are_waited_for_than_half_a_buffer_has(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = OK.replace(b"Content", b"X: " + bytes(5000).replace(b"\0", b"x") + b"\r\nContent")
    monkeypatch.setattr("tests.connection.test_receiving.OK", large)
    assert marks_of(line, due=99, reads=5)[4] == BUFFER_SIZE // 2


@pytest.mark.parametrize(
    "last",
    [
        closing(EMPTY),
        closing(OK),
        OK.replace(b"1.1", b"1.0"),
        CHUNKED.replace(b"\r\n", b"\r\nContent-Length: 5\r\n", 1) + b"0\r\n\r\n",
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_nothing_behind_a_last_response_is_a_response(
    line: Line, last: bytes, at_once: bool
) -> None:
    class Slow(PlainTransport):
        """Leaves in the socket what follows the response."""

        def recv_into(self, view: memoryview) -> int | PollNeeded:
            return super().recv_into(view[: len(last)])

    if not at_once:
        line.transport_class = Slow
    line.ask("/a", "/b", "/c")
    line.peer.sendall(last + OK)
    assert line.read_response().path == "/a"
    line.readall()
    for _ in "bc":
        with pytest.raises(ConnectionClosed):
            line.read_response()
    line.transport_class = PlainTransport
    assert line.gets_a_response_over_a_new_connection()


def test_nothing_that_comes_out_of_a_tunnel_is_a_response(line: Line) -> None:
    run(line.send_request("host:443", method="CONNECT"))
    line.ask("/b")
    line.peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + OK)
    assert line.read_response().status == 200
    with pytest.raises(ConnectionClosed, match="protocol"):
        line.read_response()


def test_a_request_sent_while_the_protocol_changes_gets_no_response(line: Line) -> None:
    line.session.state.awaiting_response = HookedDeque()
    run(line.send_request("host:443", method="CONNECT"))
    request = RequestBuilder("host").build("GET", "/b", None, None, False)
    # The sender has found the connection in order, and gets as far as this after the response.
    line.session.state.awaiting_response.hook = lambda: line.session.state.awaiting_response.append(
        request.exchange
    )
    line.peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    assert line.read_response().status == 200
    line.peer.sendall(OK)
    with pytest.raises(ConnectionClosed, match="protocol"):
        line.read_response()


@pytest.mark.parametrize("response", [b"HTTP/1.1 200 OK\r\n\r\n", b"nonsense\r\n\r\n"])
def test_the_end_of_a_connection_does_not_touch_the_next(line: Line, response: bytes) -> None:
    # The sender may open the next one as soon as the last exchange has left the pipeline.
    line.session.state.awaiting_response = HookedDeque()
    run(line.send_request("host:443", method="CONNECT"))
    line.session.state.awaiting_response.hook = lambda: line.ask("/next")
    line.peer.sendall(response)
    try:
        line.read_response()
    except InvalidResponse:
        pass
    line.peer.sendall(OK)
    assert line.read_response().path == "/next"
    assert line.readall() == b"ok"


def test_each_of_the_requests_that_were_lost_is_reported(line: Line) -> None:
    line.ask("/a", "/b", "/c")
    line.peer.sendall(OK)
    line.peer.close()
    assert line.read_response().path == "/a"
    assert line.readall() == b"ok"
    for _ in "bc":
        with pytest.raises(ConnectionClosed):
            line.read_response()
    assert line.gets_a_response_over_a_new_connection()


def test_no_response_follows_an_invalid_one(line: Line) -> None:
    line.ask("/a", "/b")
    line.peer.sendall(b"nonsense\r\n\r\n" + OK)
    with pytest.raises(InvalidResponse):
        line.read_response()
    with pytest.raises(ConnectionClosed):
        line.read_response()
    assert line.gets_a_response_over_a_new_connection()


def test_an_interrupted_response_is_not_taken_up_again(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.ask("/a", "/b")
    line.peer.sendall(EMPTY + EMPTY)
    with monkeypatch.context() as patch:
        patch.setattr("dugong.connection.parser.response_framing", interrupted)
        with pytest.raises(Interrupt):
            line.read_response()
    # The head of /a is gone: what comes next must not be given to it.
    with pytest.raises(ConnectionClosed):
        line.read_response()


class InterruptedDeque(deque[Exchange]):
    """A pipeline in which Ctrl-C is pressed just before an exchange leaves it."""

    def popleft(self) -> Exchange:
        interrupted()
        return super().popleft()


@pytest.mark.parametrize("response", [OK, EMPTY])
def test_after_an_interrupt_no_response_is_given_to_the_request_before_its_own(
    line: Line, response: bytes
) -> None:
    line.session.state.awaiting_response = InterruptedDeque()
    line.ask("/a", "/b")
    line.peer.sendall(response + OK)
    with pytest.raises(Interrupt):
        line.session.receiver.read_response(5)
    line.session.state.awaiting_response = deque(line.session.state.awaiting_response)
    for _ in "ab":
        with pytest.raises(ConnectionClosed):
            line.session.receiver.read_response(5)
        with pytest.raises(ConnectionClosed):
            line.readall()
    assert line.gets_a_response_over_a_new_connection()


def test_reading_with_nothing_asked_changes_nothing(line: Line) -> None:
    with pytest.raises(StateError):
        line.read_response()
    line.ask("/a")
    line.peer.sendall(OK)
    line.read_response()
    with pytest.raises(StateError):
        line.read_response()
    assert line.readall() == b"ok"
    with pytest.raises(StateError):
        line.read_response()


def test_two_cannot_receive_at_once(line: Line) -> None:
    line.ask("/a")
    receiving = line.session.receiver.co_read_response()
    next(receiving)
    view = memoryview(bytearray(1))
    for call in (
        line.session.receiver.co_read_response(),
        line.session.body.co_readinto(view),
        line.session.body.co_read(1),
        line.session.body.co_readall(),
        line.session.body.co_discard(),
        line.session.body.co_read_raw(view),
    ):
        with pytest.raises(StateError, match="receiving"):
            run(call)
    for blocking in (
        lambda: line.session.receiver.read_response(5),
        lambda: line.session.body.readinto(view, 5),
        line.session.body.take_body,
    ):
        with pytest.raises(StateError, match="receiving"):
            blocking()
    line.peer.sendall(OK)
    assert run(receiving).path == "/a"
    assert line.readall() == b"ok"


@pytest.mark.parametrize("excess", [0, 1])
def test_a_head_that_fills_the_buffer_is_measured_like_any_other(line: Line, excess: int) -> None:
    start, end = b"HTTP/1.1 204 No Content\r\nA: ", b"\r\n\r\n"
    value = b"x" * (MAX_HEADER_SIZE + excess - len(start + end))
    line.ask("/a")
    line.session.state.buffer.grow(BUFFER_SIZE)
    line.session.state.buffer.data[:] = (start + value + end).ljust(BUFFER_SIZE)
    line.session.state.buffer.end = MAX_HEADER_SIZE + excess
    if excess:
        with pytest.raises(InvalidResponse, match="longer than"):
            line.session.receiver.read_response(5)
    else:
        assert line.session.receiver.read_response(5).status == 204


# --- recording ------------------------------------------------------------------------------------


class Ends:
    """A recorder: notes where in what has been received it is told that a response ends."""

    def __init__(self, received: bytes) -> None:
        self._received = received
        self.interim: list[bytes] = []
        self.ended: list[tuple[str, bytes]] = []

    def interim_ended(self, behind: int) -> None:
        self.interim.append(self._received[-behind:])

    def response_ended(self, exchange: Exchange, behind: int) -> None:
        self.ended.append((exchange.path, self._received[len(self._received) - behind :]))


def test_a_recorder_is_told_where_each_response_ends(line: Line) -> None:
    no_content = b"HTTP/1.1 204 No Content\r\n\r\n"
    chunked = CHUNKED + b"2;x\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"
    early = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    received = OK + no_content + early + chunked + closing(OK) + b"stray"
    line.session.state.recorder = ends = Ends(received)
    line.ask("/a", "/b", "/c", "/d")
    line.peer.sendall(received)
    for _ in "abcd":
        line.read_response()
        line.readall()
    assert ends.interim == [chunked + closing(OK) + b"stray"]
    assert ends.ended == [
        ("/a", no_content + early + chunked + closing(OK) + b"stray"),
        ("/b", early + chunked + closing(OK) + b"stray"),
        ("/c", closing(OK) + b"stray"),
        ("/d", b"stray"),
    ]


def test_a_recorder_is_told_of_no_response_that_was_cut_short(line: Line) -> None:
    line.session.state.recorder = ends = Ends(OK[:-1])
    line.ask("/a")
    line.peer.sendall(OK[:-1])
    line.peer.shutdown(socket.SHUT_WR)
    line.read_response()
    with pytest.raises(ConnectionClosed):
        line.readall()
    assert ends.ended == []
