"""HTTP/1.1 as the engine of a connection, over a pair of sockets."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dugong.connection.encode import RequestBuilder
from dugong.connection.exchange import RequestSide, Special
from dugong.connection.polling import Coroutine
from dugong.connection.transport import PlainTransport, Transport
from dugong.connection.writers import ChunkedWriter, LengthWriter
from dugong.errors import (
    ConnectionClosed,
    ConnectionTimedOut,
    Delivery,
    InvalidResponse,
    UnsupportedResponse,
)
from dugong.pool.body import request_body
from dugong.pool.core.job import Job, Upload
from dugong.pool.failure import BodyError
from dugong.pool.io.http1 import Http1Engine
from tests.support.parts import make_connection, make_host, make_job
from tests.support.pool import wait_for
from tests.support.server import TIMEOUT

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def with_length(body: bytes, head: bytes = b"200 OK") -> bytes:
    """Return a response with a Content-Length."""
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (head, len(body), body)


class Line:
    """An engine whose connection is a pair of sockets; `peer` is the other end."""

    def __init__(self) -> None:
        self.refused: Exception | None = None
        self.engine = Http1Engine(self._dial)
        self.host = make_host()
        self.connection = make_connection(self.host)
        self.socket, self.peer = socket.socketpair()
        self.socket.setblocking(False)
        self.peer.settimeout(TIMEOUT)

    def _dial(self) -> Coroutine[Transport]:
        if self.refused is not None:
            raise self.refused
        return PlainTransport(self.socket)
        yield  # a generator

    def job(self, target: str = "/a", body: object = None, expect100: bool = False) -> Job:
        """Return a job, which asks for *target* or puts *body* there."""
        job = make_job(self.host, target)
        if body is not None:
            job.own_extras().upload = Upload(request_body(body), expect100)  # type: ignore[arg-type]
        Job.dispatch([job], self.connection, 0.0)
        return job

    def send(self, *jobs: Job) -> None:
        """Have the engine send the heads of *jobs*."""
        self.engine.send(jobs, None)

    def ask(self, *targets: str) -> list[Job]:
        """Have the engine send a request for each of *targets*; return them."""
        jobs = [self.job(target) for target in targets]
        self.send(*jobs)
        self.received()
        return jobs

    def received(self) -> bytes:
        """Return what the peer has got until now."""
        self.peer.setblocking(False)
        data = b""
        try:
            while piece := self.peer.recv(65536):
                data += piece
        except BlockingIOError:
            pass
        self.peer.settimeout(TIMEOUT)
        return data

    def read_body(self, size: int = 100) -> bytes:
        """Have the engine receive a part of a body; return it."""
        view = memoryview(bytearray(size))
        return bytes(view[: self.engine.readinto(view, 5)])

    def close(self) -> None:
        self.engine.abort()
        self.socket.close()
        self.peer.close()


@pytest.fixture
def line() -> Iterator[Line]:
    """A line that is connected."""
    line = Line()
    line.engine.connect(5)
    yield line
    line.close()
    del line
    gc.collect()


def never(is_waiting: Callable[[], bool]) -> None:
    raise AssertionError("nothing is to be waited for")


# --- connecting -----------------------------------------------------------------------------------


def test_what_goes_wrong_with_connecting_is_raised() -> None:
    line = Line()
    line.refused = ConnectionRefusedError("refused")
    with pytest.raises(ConnectionRefusedError, match="refused"):
        line.engine.connect(5)
    line.close()


def test_a_new_connection_awaits_nothing(line: Line) -> None:
    engine = line.engine
    assert (engine.is_awaiting, engine.has_unread, engine.has_stray_bytes) == (False,) * 3
    assert not engine.was_ended_by_peer
    assert engine.capacity > 10**6


def test_it_is_at_rest_unless_more_has_come_or_the_server_says_another_time(line: Line) -> None:
    assert line.engine.is_at_rest(None)
    assert not line.engine.is_at_rest(5.0)
    line.ask("/a")
    line.peer.sendall(OK.replace(b"OK", b"OK\r\nKeep-Alive: timeout=5"))
    line.engine.receive()
    assert line.engine.is_at_rest(5.0)
    assert not line.engine.is_at_rest(None)
    line.ask("/b")
    line.peer.sendall(OK + OK)
    line.engine.receive()
    assert not line.engine.is_at_rest(5.0)


# --- sending and receiving at once ----------------------------------------------------------------


@pytest.mark.parametrize("head", [None, b"GET /made HTTP/1.1\r\nHost: host\r\n\r\n"])
def test_an_exchange_sends_what_send_would_and_gives_what_receive_would(
    line: Line, head: bytes | None
) -> None:
    line.host.builder = RequestBuilder("host", omit_legacy_headers=True)
    jobs = [line.job("/a"), line.job("/a")]
    for job in jobs:
        job.head = head
    line.send(jobs[0])
    sent = line.received()
    line.peer.sendall(OK)
    ((_, *expected),), _ = line.engine.receive()
    got: list[bytes] = []

    def respond() -> None:
        got.append(line.peer.recv(1000))
        line.peer.sendall(OK)

    peer = threading.Thread(target=respond)
    peer.start()
    ((exchange, *response),), error = line.engine.exchange(jobs[1])
    peer.join()
    assert (got, response, error) == ([sent], expected, None)
    assert exchange is jobs[1].exchange
    assert exchange.key is jobs[1]


# --- sending --------------------------------------------------------------------------------------


def test_the_head_that_was_made_is_what_is_sent(line: Line) -> None:
    line.send(line.job("/a"))
    assert line.received() == b"head of /a"


def test_a_batch_is_sent_in_its_order(line: Line) -> None:
    line.send(line.job("/a"), line.job("/b"), line.job("/c"))
    assert line.received() == b"head of /ahead of /bhead of /c"


def test_a_plain_head_is_made_when_it_is_sent(line: Line) -> None:
    line.host.builder = builder = RequestBuilder("host", omit_legacy_headers=True)
    job = line.job("/a")
    job.head = None
    for _ in range(2):
        line.send(job)
        assert line.received() == builder.build("GET", "/a", None, None, False).head
    assert job.head is None


def test_each_sending_has_an_exchange_of_its_own(line: Line) -> None:
    job = line.job()
    line.send(job)
    first = job.exchange
    first.delivery = Delivery.PARTLY_SENT
    line.send(job)
    assert job.exchange is not first
    assert job.exchange.delivery is Delivery.SENT
    assert job.exchange.key is job


def test_a_request_without_a_body_is_sent_when_its_head_is(line: Line) -> None:
    job = line.job("/a")
    line.send(job)
    exchange = job.exchange
    assert (exchange.method, exchange.path) == ("GET", "http://host/a")
    assert (exchange.request_side, exchange.writer) == (RequestSide.SENT, None)
    assert exchange.special is None


def test_a_request_that_asks_to_close_says_so_to_the_connection(line: Line) -> None:
    job = line.job()
    job.own_extras().close = True
    line.send(job)
    assert job.exchange.special == Special(close=True)


def test_a_response_may_be_waited_for_once_the_sending_has_begun(line: Line) -> None:
    log: list[tuple[bool, bytes]] = []
    line.engine.send(
        [line.job("/a")], lambda: log.append((line.engine.is_awaiting, line.received()))
    )
    assert log == [(True, b"")]


def test_nothing_is_sent_on_a_connection_that_was_aborted(line: Line) -> None:
    line.engine.abort()
    job = line.job()
    with pytest.raises(ConnectionClosed):
        line.send(job)
    assert line.engine.verdict(job, True, None) is Delivery.UNSENT


# --- bodies that go piece by piece ----------------------------------------------------------------


def test_a_body_of_known_length_is_sent_as_it_is(line: Line) -> None:
    job = line.job(body=b"12345")
    line.send(job)
    assert isinstance(job.exchange.writer, LengthWriter)
    assert job.exchange.request_side is RequestSide.BODY
    line.received()
    line.engine.send_body(job, never)
    assert line.received() == b"12345"
    assert job.exchange.request_side is RequestSide.SENT


def test_a_body_of_unknown_length_is_sent_in_chunks(line: Line) -> None:
    job = line.job(body=iter([b"123", b"45"]))
    line.send(job)
    assert isinstance(job.exchange.writer, ChunkedWriter)
    line.received()
    line.engine.send_body(job, never)
    assert line.received() == b"3\r\n123\r\n2\r\n45\r\n0\r\n\r\n"


@pytest.mark.parametrize("expect100", [False, True])
def test_a_body_of_no_bytes_is_neither_written_nor_waited_for(line: Line, expect100: bool) -> None:
    job = line.job(body=b"", expect100=expect100)
    line.send(job)
    assert (job.exchange.request_side, job.exchange.writer) == (RequestSide.SENT, None)
    line.received()
    line.engine.send_body(job, never)
    assert line.received() == b""


@pytest.mark.parametrize("piece", [None, 1000])
def test_a_file_is_sent_as_it_is(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int | None
) -> None:
    if piece is not None:
        monkeypatch.setattr("dugong.pool.io.http1._FILE_PIECE", piece)
    data = bytes(range(256)) * 10
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as file:
        file.seek(100)
        job = line.job(body=file)
        line.send(job)
        line.received()
        line.engine.send_body(job, never)
    assert line.received() == data[100:]
    assert job.exchange.request_side is RequestSide.SENT


def test_a_file_that_has_become_shorter_is_an_error_of_the_body(line: Line, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3000))
    with (tmp_path / "file").open("rb") as file:
        job = line.job(body=file)
        line.send(job)
        os.truncate(tmp_path / "file", 1000)
        with pytest.raises(BodyError) as caught:
            line.engine.send_body(job, never)
    assert isinstance(caught.value.error, ValueError)


class Exit(BaseException):
    """Stands for SystemExit."""


@pytest.mark.parametrize(
    ("raised", "told"), [(OSError("the caller's"), OSError), (Exit("x"), RuntimeError)]
)
def test_what_a_body_raises_is_told_from_what_the_connection_raises(
    line: Line, raised: BaseException, told: type[Exception]
) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"123"
        raise raised

    job = line.job(body=pieces())
    line.send(job)
    with pytest.raises(BodyError) as caught:
        line.engine.send_body(job, never)
    assert type(caught.value.error) is told
    assert raised in (caught.value.error, caught.value.error.__cause__)


# --- 100 (Continue) -------------------------------------------------------------------------------


def begin_expecting(line: Line) -> Job:
    job = line.job(body=b"12345", expect100=True)
    line.send(job)
    assert job.exchange.request_side is RequestSide.CONTINUE
    line.received()
    return job


def test_a_body_that_is_to_be_asked_for_waits_until_it_is(line: Line) -> None:
    job = begin_expecting(line)

    def wait(is_waiting: Callable[[], bool]) -> None:
        assert is_waiting()
        assert line.received() == b""
        line.peer.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        completions, error = line.engine.receive()
        assert [completion[1] for completion in completions] == [100]
        assert error is None
        assert not is_waiting()

    line.engine.send_body(job, wait)
    assert line.received() == b"12345"


@pytest.mark.parametrize("end", ["a time-out", "an end of the peer's"])
def test_it_is_known_that_the_sender_has_ended_the_connection(line: Line, end: str) -> None:
    job = line.job(body=bytes(16_000_000))
    job.timeout = 0.01
    line.send(job)
    assert not line.engine.gave_up_sending
    if end == "a time-out":
        with pytest.raises(ConnectionTimedOut):
            line.engine.send_body(job, lambda is_waiting: None)
    else:
        line.peer.close()
        with pytest.raises(ConnectionClosed):
            line.engine.send_body(job, lambda is_waiting: None)
    assert line.engine.gave_up_sending is (end == "a time-out")


def test_a_body_that_is_not_asked_for_is_sent_in_the_end(line: Line) -> None:
    job = begin_expecting(line)
    waits: list[bool] = []
    line.engine.send_body(job, lambda is_waiting: waits.append(is_waiting()))
    assert waits == [True]
    assert line.received() == b"12345"


def test_a_body_that_is_refused_is_not_sent(line: Line) -> None:
    job = begin_expecting(line)

    def wait(is_waiting: Callable[[], bool]) -> None:
        line.peer.sendall(with_length(b"no", b"413 Too Large"))
        ((_, status, *_, body),), _ = line.engine.receive()
        assert (status, body) == (413, b"no")
        assert not is_waiting()

    with pytest.raises(ConnectionClosed, match="without asking for the body"):
        line.engine.send_body(job, wait)
    assert line.received() == b""


@pytest.mark.parametrize("last", [b"HTTP/1.1 200 OK\r\nConnection: close", b"HTTP/1.0 200 OK"])
def test_a_success_that_is_the_last_response_does_not_end_the_sending(
    line: Line, last: bytes
) -> None:
    def body() -> Iterator[bytes]:
        yield b"12"
        line.peer.sendall(last + b"\r\nContent-Length: 2\r\n\r\nok")
        ((_, status, *_, received),), _ = line.engine.receive()
        assert (status, received) == (200, b"ok")
        yield b"345"

    job = line.job(body=body())
    line.send(job)
    line.received()
    line.engine.send_body(job, never)
    assert line.received() == b"2\r\n12\r\n3\r\n345\r\n0\r\n\r\n"


def test_a_body_is_not_sent_on_a_connection_that_was_aborted_meanwhile(line: Line) -> None:
    job = begin_expecting(line)
    with pytest.raises(ConnectionClosed):
        line.engine.send_body(job, lambda is_waiting: line.engine.abort())
    assert line.received() == b""


# --- receiving ------------------------------------------------------------------------------------


def test_a_response_comes_with_its_request_and_its_body(line: Line) -> None:
    (job,) = line.ask("/a")
    assert line.engine.is_awaiting
    assert line.engine.has_unread
    line.peer.sendall(OK)
    ((exchange, status, reason, _, length, body),), error = line.engine.receive()
    assert exchange is job.exchange
    assert exchange.key is job
    assert (status, reason, length, body) == (200, "OK", 2, b"ok")
    assert (exchange.persistent, exchange.minor_version) == (True, 1)
    assert error is None
    assert not line.engine.has_unread


def test_all_responses_that_have_come_are_received_at_once_in_their_order(line: Line) -> None:
    jobs = line.ask("/a", "/b", "/c")
    line.peer.sendall(b"".join(map(with_length, (b"1", b"22", b""))))
    completions, error = line.engine.receive()
    assert [completion[0].key for completion in completions] == jobs
    assert [completion[5] for completion in completions] == [b"1", b"22", b""]
    assert error is None


def test_what_comes_behind_good_responses_comes_with_them(line: Line) -> None:
    line.ask("/a", "/b")
    line.peer.sendall(OK + b"nonsense\r\n\r\n")
    completions, error = line.engine.receive()
    assert len(completions) == 1
    assert isinstance(error, InvalidResponse)


def test_an_end_without_a_response_is_an_error(line: Line) -> None:
    line.ask("/a")
    line.peer.close()
    completions, error = line.engine.receive()
    assert completions == []
    assert isinstance(error, ConnectionClosed)
    assert line.engine.was_ended_by_peer is False


def test_nothing_received_within_the_timeout_of_the_request_is_an_error(line: Line) -> None:
    job = line.job()
    job.timeout = 0.01
    line.send(job)
    completions, error = line.engine.receive()
    assert completions == []
    assert isinstance(error, ConnectionTimedOut)


@pytest.mark.parametrize(
    ("head", "ended"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", True),
        (b"HTTP/1.0 200 OK\r\n", True),
        (b"HTTP/1.1 200 OK\r\n", False),
    ],
)
def test_a_response_that_is_the_last_of_its_connection_says_so(
    line: Line, head: bytes, ended: bool
) -> None:
    (job,) = line.ask("/a")
    line.peer.sendall(head + b"Content-Length: 0\r\n\r\n")
    line.engine.receive()
    assert job.exchange.persistent is not ended
    assert line.engine.was_ended_by_peer is ended


def test_bytes_that_belong_to_no_response_are_noticed(line: Line) -> None:
    line.ask("/a")
    line.peer.sendall(OK + b"more")
    line.engine.receive()
    assert line.engine.has_stray_bytes


def test_a_thread_that_waits_for_a_response_is_woken_when_the_connection_is_aborted(
    line: Line,
) -> None:
    line.ask("/a")
    waits, errors = threading.Event(), list[Exception | None]()

    def receive() -> None:
        waits.set()
        errors.append(line.engine.receive()[1])

    thread = threading.Thread(target=receive)
    thread.start()
    wait_for(waits)
    line.engine.abort()
    thread.join(TIMEOUT)
    assert [type(error) for error in errors] == [ConnectionClosed]


# --- bodies that are read -------------------------------------------------------------------------


def begin_body(line: Line, length: int | None, beginning: bytes) -> Job:
    """Have the head of a response come, and the *beginning* of its body."""
    (job,) = line.ask("/a")
    framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
    line.peer.sendall(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n%b" % (framing, beginning))
    ((_, _, _, _, known, body),), error = line.engine.receive()
    assert (known, body, error) == (length, None, None)
    assert line.engine.has_unread
    assert not line.engine.is_awaiting
    return job


def test_a_body_that_has_not_come_completely_is_read_in_parts(line: Line) -> None:
    begin_body(line, 6, b"abc")
    assert line.read_body() == b"abc"
    line.peer.sendall(b"def")
    assert line.engine.read(2, 5) == b"de"
    assert line.engine.read(100, 5) == b"f"
    assert line.engine.read(100, 5) == b""
    assert not line.engine.has_unread


def test_a_chunked_body_is_read_in_parts(line: Line) -> None:
    begin_body(line, None, b"3\r\nabc\r\n")
    assert line.read_body() == b"abc"
    line.peer.sendall(b"2\r\nde\r\n0\r\n\r\n")
    assert line.read_body() == b"de"
    assert line.read_body() == b""


@pytest.mark.parametrize(("most", "done"), [(3, True), (2, False)])
def test_the_rest_of_a_body_is_dropped_if_it_is_short(line: Line, most: int, done: bool) -> None:
    begin_body(line, 6, b"abc")
    assert line.read_body() == b"abc"
    line.peer.sendall(b"def")
    assert line.engine.finish_body(most, 5) is done
    assert line.engine.has_unread is not done


def test_a_body_whose_rest_has_no_known_length_is_not_dropped(line: Line) -> None:
    begin_body(line, None, b"3\r\nabc\r\n")
    assert not line.engine.finish_body(1000, 5)


def test_a_body_that_was_read_to_its_end_is_finished(line: Line) -> None:
    begin_body(line, 3, b"ab")
    line.peer.sendall(b"c")
    assert line.read_body() + line.read_body() == b"abc"
    assert line.engine.finish_body(0, 5)


def test_a_body_that_trickles_is_not_waited_for_longer_than_its_time(line: Line) -> None:
    begin_body(line, 100_000, b"abc")
    over = threading.Event()

    def trickle() -> None:
        while not over.wait(0.01):
            line.peer.sendall(b"x")

    thread = threading.Thread(target=trickle)
    thread.start()
    began = time.monotonic()
    try:
        with contextlib.suppress(ConnectionTimedOut):
            assert not line.engine.finish_body(1_000_000, 0.1)
        assert time.monotonic() - began < 5
    finally:
        over.set()
        thread.join()


def test_a_body_that_was_cut_short_is_not_finished(line: Line) -> None:
    begin_body(line, 6, b"abc")
    line.peer.close()
    with pytest.raises(ConnectionClosed, match="3 bytes of body to come"):
        line.engine.finish_body(1000, 5)


# --- how far a request has got --------------------------------------------------------------------


def test_a_request_that_was_not_sent_is_unsent(line: Line) -> None:
    assert line.engine.verdict(line.job(), True, None) is Delivery.UNSENT


def test_a_request_that_was_sent_is_sent(line: Line) -> None:
    first, second = line.ask("/a", "/b")
    for job in (first, second):
        assert line.engine.verdict(job, job is first, ConnectionClosed()) is Delivery.SENT


def test_a_request_behind_the_announced_end_is_disclaimed(line: Line) -> None:
    _, second = line.ask("/a", "/b")
    line.peer.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    line.engine.receive()
    assert line.engine.verdict(second, True, None) is Delivery.DISCLAIMED
    assert line.engine.verdict(second, True, ConnectionClosed()) is Delivery.SENT


def test_only_the_oldest_request_can_have_begun_to_get_its_response(line: Line) -> None:
    first, second = line.ask("/a", "/b")
    line.peer.sendall(b"HTTP/1.1 20")
    line.peer.close()
    _, error = line.engine.receive()
    assert line.engine.verdict(first, True, error) is Delivery.ANSWER_STARTED
    assert line.engine.verdict(second, False, error) is Delivery.SENT


@pytest.mark.parametrize("error", [InvalidResponse("x"), UnsupportedResponse("x")])
def test_a_bad_response_was_a_response(line: Line, error: Exception) -> None:
    (job,) = line.ask("/a")
    assert line.engine.verdict(job, True, error) is Delivery.ANSWER_STARTED


def test_a_response_whose_head_has_come_has_begun(line: Line) -> None:
    (job,) = line.ask("/a")
    job.response_started = True
    assert line.engine.verdict(job, True, ConnectionClosed()) is Delivery.ANSWER_STARTED


def test_a_request_whose_body_was_not_sent_completely_is_partly_sent(line: Line) -> None:
    job = line.job(body=b"12345")
    line.send(job)
    assert line.engine.verdict(job, True, ConnectionClosed()) is Delivery.PARTLY_SENT
    line.engine.send_body(job, never)
    assert line.engine.verdict(job, True, ConnectionClosed()) is Delivery.SENT


def test_of_a_batch_that_was_cut_short_each_request_knows_how_far_it_got(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int | Exception] = [len(b"head of /a") + 3, BrokenPipeError()]

    def send(self: PlainTransport, data: object) -> int:
        step = steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    monkeypatch.setattr(PlainTransport, "send", send)
    jobs = [line.job(target) for target in ("/a", "/b", "/c")]
    with pytest.raises(BrokenPipeError):
        line.send(*jobs)
    verdicts = [line.engine.verdict(job, job is jobs[0], ConnectionClosed()) for job in jobs]
    assert verdicts == [Delivery.SENT, Delivery.PARTLY_SENT, Delivery.UNSENT]


# --- for any thread -------------------------------------------------------------------------------


def test_what_has_arrived_is_seen_until_it_is_received(line: Line) -> None:
    (job,) = line.ask("/a")
    assert not line.engine.has_arrivals(job)
    line.peer.sendall(with_length(b"body")[:-2])
    assert line.engine.has_arrivals(job)
    ((_, *_, body),), _ = line.engine.receive()
    assert body is None
    assert line.engine.has_arrivals(job)  # in the buffer
    assert line.read_body() == b"bo"
    assert not line.engine.has_arrivals(job)
    line.peer.sendall(b"dy")
    assert line.engine.has_arrivals(job)


def test_a_response_that_has_been_received_has_arrived_until_it_is_reported(line: Line) -> None:
    first, second = line.ask("/1", "/2")
    line.peer.sendall(OK)
    line.engine.receive()
    assert line.engine.has_arrivals(first)
    assert not line.engine.has_arrivals(second)
    line.peer.sendall(OK)
    line.engine.receive()
    assert line.engine.has_arrivals(second)


def test_nothing_has_arrived_before_a_request_is_sent_or_after_the_connection_is_closed(
    line: Line,
) -> None:
    unconnected = Line()
    assert not unconnected.engine.has_arrivals(unconnected.job())
    unconnected.close()
    assert not line.engine.has_arrivals(line.job())
    (job,) = line.ask("/a")
    line.peer.sendall(OK)
    line.engine.drop()
    assert not line.engine.has_arrivals(job)


def test_an_aborted_connection_is_shut_down(line: Line) -> None:
    line.engine.abort()
    assert line.peer.recv(100) == b""
    line.engine.abort()  # which does nothing


def test_a_dropped_connection_is_closed_and_not_shut_down(line: Line) -> None:
    """In a forked child: the connection belongs to the parent, which has another descriptor."""
    fd = line.socket.fileno()
    parents = os.dup(fd)
    line.engine.drop()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    with socket.socket(fileno=parents) as parent:
        parent.setblocking(True)
        parent.sendall(b"still here")
        assert line.peer.recv(100) == b"still here"


def test_a_connection_that_was_never_made_has_nothing_to_drop() -> None:
    line = Line()
    line.engine.drop()
    line.close()


def test_memory_that_is_given_back_is_had_again_when_it_is_needed(line: Line) -> None:
    for target in ("/a", "/b"):
        line.ask(target)
        line.peer.sendall(OK)
        ((*_, body),), _ = line.engine.receive()
        assert body == b"ok"
        line.engine.release_memory()
