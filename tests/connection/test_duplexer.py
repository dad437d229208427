"""Duplexer: the two directions of a connection, step by step.

Its calls are generators, so most of what two threads could do to each other is played here in one
thread: a call is taken to where it waits with `next`, and something else happens then. Where a
thread switch must fall between two statements, a hook on something that they touch stands for it.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from dugong import BodyFollowing, ConnectionClosed, InvalidResponse, StateError
from dugong.connection.duplexer import Duplexer
from dugong.connection.exchange import Exchange, HTTPResponse
from dugong.connection.polling import POLLIN, Coroutine, PollNeeded, eval_coroutine
from dugong.connection.request import RequestBuilder
from dugong.connection.transport import PlainTransport, Transport

T = TypeVar("T")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
TOO_LARGE = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"


def closing(answer: bytes) -> bytes:
    """Return *answer* with a field that makes it the last of its connection."""
    return answer.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)


class Interrupt(BaseException):
    """Stands for KeyboardInterrupt, which pytest takes for its own."""


def interrupted(*args: object) -> None:
    raise Interrupt


def run(crt: Coroutine[T]) -> T:
    return eval_coroutine(crt, 5)


def is_open(transport: Transport) -> bool:
    return transport.sock.fileno() >= 0


class Line:
    """A duplexer whose connections are socket pairs; `peers` are their other ends, in order."""

    def __init__(self, kind: type[Duplexer] = Duplexer) -> None:
        self.peers: list[socket.socket] = []
        self.transport_class: type[Transport] = PlainTransport
        self.gate: tuple[socket.socket, socket.socket] | None = None
        self.refused = False  # dialling fails
        self.dialled: Callable[[], None] = lambda: None  # is called when dialling has succeeded
        self.duplexer = kind(self._dial)

    def _dial(self) -> Coroutine[Transport]:
        if self.gate is not None:
            yield PollNeeded(self.gate[0].fileno(), POLLIN)
        if self.refused:
            raise ConnectionRefusedError
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.settimeout(5)
        self.peers.append(theirs)
        self.dialled()
        return self.transport_class(ours)

    def shut_gate(self) -> None:
        """Let dialling wait from now on."""
        self.gate = socket.socketpair()

    def open_gate(self) -> None:
        """Let dialling go on."""
        assert self.gate is not None
        self.gate[1].send(b"x")

    @property
    def peer(self) -> socket.socket:
        """The other end of the latest connection."""
        return self.peers[-1]

    @property
    def transport(self) -> Transport:
        assert self.duplexer.transport is not None
        return self.duplexer.transport

    def send_request(
        self,
        path: str = "/",
        body: bytes | BodyFollowing | None = None,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        expect100: bool = False,
    ) -> Coroutine[None]:
        """Build a request, and return the coroutine that sends it."""
        request = RequestBuilder("host").build(method, path, headers, body, expect100)
        return self.duplexer.co_send_request(*request)

    def ask(self, *paths: str) -> None:
        """Send a GET for each of *paths*."""
        for path in paths:
            run(self.send_request(path))

    def read_response(self) -> HTTPResponse:
        return run(self.duplexer.co_read_response())

    def readall(self) -> bytes:
        return run(self.duplexer.co_readall())

    def readinto(self, size: int = 100) -> bytes:
        view = memoryview(bytearray(size))
        return bytes(view[: run(self.duplexer.co_readinto(view))])

    def write(self, data: bytes) -> int:
        return run(self.duplexer.co_write(memoryview(data)))

    def gets_an_answer_over_a_new_connection(self) -> bool:
        """Make an exchange from beginning to end."""
        connections = len(self.peers)
        self.ask("/new")
        self.peer.sendall(OK)
        return (
            self.read_response().path == "/new"
            and self.readall() == b"ok"
            and self.readall() == b""
            and len(self.peers) == connections + 1
        )

    def close(self) -> None:
        self.duplexer.abort()
        for sock in (*self.peers, *(self.gate or ())):
            sock.close()


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.close()


class HookedDeque(deque[Exchange]):
    """A pipeline that lets the other side act right after an exchange has left it."""

    hook: Callable[[], None] | None = None

    def popleft(self) -> Exchange:
        exchange = super().popleft()
        hook, self.hook = self.hook, None
        if hook is not None:
            hook()
        return exchange


# --- answers and requests -------------------------------------------------------------------------


def test_answers_belong_to_the_requests_in_their_order(line: Line) -> None:
    line.ask("/a", "/b", "/c")
    line.peer.sendall(OK + EMPTY + OK)
    for path, body in (("/a", b"ok"), ("/b", b""), ("/c", b"ok")):
        assert line.read_response().path == path
        assert line.readall() == body
    assert len(line.peers) == 1


def test_giving_up_the_wait_for_an_answer_loses_nothing(line: Line) -> None:
    line.ask("/a")
    line.peer.sendall(OK[:20])
    receiving = line.duplexer.co_read_response()
    next(receiving)
    receiving.close()
    line.peer.sendall(OK[20:])
    assert line.read_response().path == "/a"
    assert line.readall() == b"ok"


def test_giving_up_a_read_before_any_data_loses_nothing(line: Line) -> None:
    line.ask("/a")
    line.peer.sendall(OK[:-2])
    line.read_response()
    for reading in (line.duplexer.co_readall(), line.duplexer.co_read(10)):
        next(reading)
        reading.close()
    line.peer.sendall(OK[-2:])
    assert line.readall() == b"ok"


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
def test_nothing_behind_a_last_answer_is_an_answer(line: Line, last: bytes, at_once: bool) -> None:
    class Slow(PlainTransport):
        """Leaves in the socket what follows the answer."""

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
    assert line.gets_an_answer_over_a_new_connection()


def test_nothing_that_comes_out_of_a_tunnel_is_an_answer(line: Line) -> None:
    run(line.send_request("host:443", method="CONNECT"))
    line.ask("/b")
    line.peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + OK)
    assert line.read_response().status == 200
    with pytest.raises(ConnectionClosed, match="protocol"):
        line.read_response()


def test_a_request_sent_while_the_protocol_changes_gets_no_answer(line: Line) -> None:
    line.duplexer.pipeline = HookedDeque()
    run(line.send_request("host:443", method="CONNECT"))
    request = RequestBuilder("host").build("GET", "/b", None, None, False)
    # The sender has found the connection in order, and gets as far as this after the answer.
    line.duplexer.pipeline.hook = lambda: line.duplexer.pipeline.append(request.exchange)
    line.peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    assert line.read_response().status == 200
    line.peer.sendall(OK)
    with pytest.raises(ConnectionClosed, match="protocol"):
        line.read_response()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\n\r\n", b"nonsense\r\n\r\n"])
def test_the_end_of_a_connection_does_not_touch_the_next(line: Line, answer: bytes) -> None:
    # The sender may open the next one as soon as the last exchange has left the pipeline.
    line.duplexer.pipeline = HookedDeque()
    run(line.send_request("host:443", method="CONNECT"))
    line.duplexer.pipeline.hook = lambda: line.ask("/next")
    line.peer.sendall(answer)
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
    assert line.gets_an_answer_over_a_new_connection()


def test_no_answer_follows_an_invalid_one(line: Line) -> None:
    line.ask("/a", "/b")
    line.peer.sendall(b"nonsense\r\n\r\n" + OK)
    with pytest.raises(InvalidResponse):
        line.read_response()
    with pytest.raises(ConnectionClosed):
        line.read_response()
    assert line.gets_an_answer_over_a_new_connection()


def test_no_request_is_sent_behind_a_failure_before_all_have_been_told(line: Line) -> None:
    line.ask("/a", "/b")
    line.peer.close()
    with pytest.raises(ConnectionClosed):
        line.read_response()
    with pytest.raises(ConnectionClosed, match="answers that are due"):
        line.ask("/c")
    with pytest.raises(ConnectionClosed):
        line.read_response()
    assert line.gets_an_answer_over_a_new_connection()


def test_bytes_that_nobody_asked_for_are_never_an_answer(line: Line) -> None:
    line.ask("/a")
    line.peer.sendall(EMPTY + OK)  # in the buffer, with the answer
    line.read_response()
    assert line.gets_an_answer_over_a_new_connection()
    line.peer.sendall(OK)  # in the socket, later
    assert line.gets_an_answer_over_a_new_connection()


def test_an_interrupted_answer_is_not_taken_up_again(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.ask("/a", "/b")
    line.peer.sendall(EMPTY + EMPTY)
    with monkeypatch.context() as patch:
        patch.setattr("dugong.connection.receiving.response_framing", interrupted)
        with pytest.raises(Interrupt):
            line.read_response()
    # The head of /a is gone: what comes next must not be given to it.
    with pytest.raises(ConnectionClosed):
        line.read_response()


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


# --- bodies that are cut short --------------------------------------------------------------------


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
    reading = line.duplexer.co_readall()
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

        patch.setattr("dugong.connection.receiving.bytes", no_memory, raising=False)
        with pytest.raises(MemoryError):
            line.readall()
    with pytest.raises(ConnectionClosed):
        line.readall()


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
    assert run(line.duplexer.co_read_raw(view)) == 1
    assert bytes(view) == b"o"
    with pytest.raises(ConnectionClosed):
        line.readall()
    with pytest.raises(ConnectionClosed):
        line.read_response()


def test_a_connection_that_was_read_from_raw_takes_no_request(line: Line) -> None:
    line.ask("/a")
    line.peer.sendall(EMPTY + OK[:1])
    line.read_response()
    assert run(line.duplexer.co_read_raw(memoryview(bytearray(10)))) == 1
    assert line.gets_an_answer_over_a_new_connection()


# --- one side waits for the other -----------------------------------------------------------------


def test_a_receiver_waits_while_the_sender_dials(line: Line) -> None:
    line.shut_gate()
    sending = line.send_request("/a")
    next(sending)
    receiving = line.duplexer.co_read_response()
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
    receiving = line.duplexer.co_read_response()
    next(receiving)
    line.open_gate()
    run(sending)
    line.peer.sendall(EMPTY)
    assert run(receiving).path == "/b"


def test_a_receiver_that_was_woken_for_nothing_waits_again(line: Line) -> None:
    line.shut_gate()
    sending = line.send_request("/a")
    next(sending)
    receiving = line.duplexer.co_read_response()
    next(receiving)
    assert not next(receiving).poll(0)
    receiving.close()
    sending.close()


def test_a_receiver_that_waits_hears_that_dialling_has_failed(line: Line) -> None:
    line.shut_gate()
    line.refused = True
    sending = line.send_request("/a")
    next(sending)
    receiving = line.duplexer.co_read_response()
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
    receiving = line.duplexer.co_read_response()
    waiting = next(receiving)
    sending.close()
    assert waiting.poll(0)
    with pytest.raises(StateError):
        run(receiving)


def test_a_receiver_that_waits_hears_that_the_connection_was_aborted(line: Line) -> None:
    line.shut_gate()
    sending = line.send_request("/a")
    next(sending)
    receiving = line.duplexer.co_read_response()
    waiting = next(receiving)
    line.duplexer.abort()
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

    monkeypatch.setattr("dugong.connection.receiving.socket.socketpair", and_then_send)
    assert line.read_response().path == "/a"


def test_a_receiver_that_is_slow_to_wake_does_not_hold_up_the_sender(line: Line) -> None:
    line.shut_gate()
    sending = line.send_request("/0")
    next(sending)
    receiving = line.duplexer.co_read_response()
    next(receiving)
    line.open_gate()
    run(sending)
    for i in range(1, 2000):  # far more than wake-ups fit into a socket pair
        line.ask(f"/{i}")
        line.peer.recv(1000)
    line.peer.sendall(EMPTY)
    assert run(receiving).path == "/0"


def test_two_cannot_send_at_once(line: Line) -> None:
    line.shut_gate()
    sending = line.send_request("/a")
    next(sending)
    for call in (
        line.send_request("/b"),
        line.duplexer.co_connect(),
        line.duplexer.co_write(memoryview(b"x")),
        line.duplexer.co_write_eof(),
    ):
        with pytest.raises(StateError, match="sending"):
            run(call)
    line.open_gate()
    run(sending)
    line.peer.sendall(EMPTY)
    assert line.read_response().path == "/a"


def test_two_cannot_receive_at_once(line: Line) -> None:
    line.ask("/a")
    receiving = line.duplexer.co_read_response()
    next(receiving)
    view = memoryview(bytearray(1))
    for call in (
        line.duplexer.co_read_response(),
        line.duplexer.co_readinto(view),
        line.duplexer.co_read(1),
        line.duplexer.co_readall(),
        line.duplexer.co_discard(),
        line.duplexer.co_read_raw(view),
    ):
        with pytest.raises(StateError, match="receiving"):
            run(call)
    line.peer.sendall(OK)
    assert run(receiving).path == "/a"
    assert line.readall() == b"ok"


def test_a_request_does_not_disturb_who_reads_raw(line: Line) -> None:
    run(line.duplexer.co_connect())
    reading = line.duplexer.co_read_raw(memoryview(bytearray(10)))
    next(reading)
    line.peer.sendall(b"hello")
    line.ask("/a")
    assert len(line.peers) == 1
    assert run(reading) == 5


# --- request bodies -------------------------------------------------------------------------------


def test_a_send_that_is_given_up_ends_the_connection(line: Line) -> None:
    line.ask("/a")
    sending = line.send_request("/b", b"x" * 10_000_000)
    next(sending)
    sending.close()
    for _ in "ab":
        with pytest.raises(ConnectionClosed):
            line.read_response()
    assert line.gets_an_answer_over_a_new_connection()


def test_a_write_that_is_given_up_ends_the_body(line: Line) -> None:
    run(line.send_request("/a", BodyFollowing(10_000_001)))
    writing = line.duplexer.co_write(memoryview(b"x" * 10_000_000))
    next(writing)
    writing.close()
    with pytest.raises(ConnectionClosed):
        line.write(b"x")
    with pytest.raises(ConnectionClosed):
        line.read_response()
    assert line.gets_an_answer_over_a_new_connection()


def test_an_error_that_comes_while_the_body_is_sent_ends_the_body(line: Line) -> None:
    run(line.send_request("/a", BodyFollowing(10_000_001), "PUT"))
    writing = line.duplexer.co_write(memoryview(b"x" * 10_000_000))
    next(writing)
    line.peer.sendall(TOO_LARGE)
    assert line.read_response().status == 413
    assert line.readall() == b"no"
    with pytest.raises(ConnectionClosed):
        run(writing)
    with pytest.raises(ConnectionClosed):
        line.write(b"x")
    assert line.gets_an_answer_over_a_new_connection()


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


def test_a_success_that_is_the_last_answer_ends_the_body_when_it_has_been_read(line: Line) -> None:
    run(line.send_request("/a", BodyFollowing(6), "PUT"))
    line.write(b"12")
    line.peer.sendall(closing(OK))
    assert line.read_response().status == 200
    line.write(b"34")
    assert line.readall() == b"ok"
    with pytest.raises(ConnectionClosed):
        line.write(b"56")
    assert line.gets_an_answer_over_a_new_connection()


def test_a_request_may_follow_one_whose_body_was_ended_by_the_last_answer(line: Line) -> None:
    run(line.send_request("/a", BodyFollowing(6), "PUT"))
    line.peer.sendall(closing(OK))
    assert line.read_response().status == 200
    assert line.readall() == b"ok"
    assert line.gets_an_answer_over_a_new_connection()


@pytest.mark.parametrize("expect100", [False, True])
def test_a_request_may_follow_one_whose_answer_failed_before_its_body_was_sent(
    line: Line, expect100: bool
) -> None:
    run(line.send_request("/a", BodyFollowing(6), "PUT", expect100=expect100))
    line.peer.close()
    with pytest.raises(ConnectionClosed):
        line.read_response()
    assert line.gets_an_answer_over_a_new_connection()


def test_a_refused_body_leaves_no_connection_to_misunderstand_the_next_request(
    line: Line,
) -> None:
    run(line.send_request("/a", BodyFollowing(6), "PUT", expect100=True))
    line.peer.sendall(TOO_LARGE)
    assert line.read_response().status == 413
    with pytest.raises(StateError):
        line.write(b"123456")
    assert line.readall() == b"no"
    assert line.gets_an_answer_over_a_new_connection()


# --- aborting, and descriptors --------------------------------------------------------------------


def test_aborting_an_idle_connection_closes_it_at_once(line: Line) -> None:
    line.ask("/a")
    line.duplexer.abort()
    assert not is_open(line.transport)


def test_aborting_keeps_a_descriptor_for_which_somebody_waits(line: Line) -> None:
    line.ask("/a")
    receiving = line.duplexer.co_read_response()
    waiting = next(receiving)
    sending = line.send_request("/b", b"x" * 10_000_000)
    next(sending)
    line.duplexer.abort()
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
    receiving = line.duplexer.co_read_response()
    next(receiving)
    line.duplexer.abort()
    assert is_open(line.transport)
    receiving.close()
    assert not is_open(line.transport)


def test_the_last_answer_wakes_a_sender_and_keeps_its_descriptor(line: Line) -> None:
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
