"""An exception out of a signal handler, at each point of what a session does."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from dugong import BodyFollowing, ConnectionClosed, Delivery
from dugong.connection.encode import RequestBuilder
from dugong.connection.exchange import Exchange
from dugong.connection.transport import PlainTransport
from dugong.connection.writers import LengthWriter
from tests.support.interrupts import interrupted_at, points_of
from tests.support.session import Interrupt, Line, run

BUILDER = RequestBuilder("host")


class Responding(PlainTransport):
    """Its peer responds to each request, at once, with the request's target."""

    peer: socket.socket
    chunked = False
    uploaded = b""  # and all else that was sent, over all connections

    def send(self, data: bytes | memoryview) -> int:
        sent = super().send(data)
        assert sent == len(data)
        Responding.uploaded = Responding.uploaded + bytes(data)
        for line in bytes(data).split(b"\r\n"):
            if line.startswith((b"GET ", b"PUT ")):
                target = line.split()[1]
                if self.chunked:
                    response = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
                else:
                    response = b"Content-Length: %d\r\n\r\n%b"
                self.peer.sendall(b"HTTP/1.1 200 OK\r\n" + response % (len(target), target))
        return sent


class RespondingInChunks(Responding):
    chunked = True


@contextmanager
def responding(kind: type[Responding] = Responding) -> Iterator[Line]:
    """Return a line that has been used once."""
    line = Line()
    Responding.uploaded = b""

    def dialled() -> None:
        kind.peer = line.peer

    line.dialled = dialled
    line.transport_class = kind
    try:
        exchange_blocking(line, "/first")
        yield line
    finally:
        line.close()


def send(line: Line, target: str) -> None:
    request = BUILDER.build("GET", target, None, None, False)
    line.session.sender.send_request(*request, 5)


def read(line: Line) -> None:
    """Read a response, which has to be that to its own request."""
    response = line.session.receiver.read_response(5)
    body = line.session.body.take_body()
    assert (line.readall() if body is None else body) == response.path.encode()


def exchange_blocking(line: Line, target: str = "/next") -> None:
    send(line, target)
    read(line)


def exchange_as_coroutines(line: Line) -> None:
    run(line.send_request("/next"))
    response = line.read_response()
    assert line.readinto(2) + line.readall() == response.path.encode()


def pipeline_blocking(line: Line) -> None:
    for target in ("/a", "/bb", "/ccc"):
        send(line, target)
    for _ in range(3):
        read(line)


def exchange_in_batches(line: Line) -> None:
    targets = ("/a", "/bb", "/ccc")
    exchanges = [Exchange("GET", target, target.encode()) for target in targets]
    heads = [f"GET {target} HTTP/1.1\r\n\r\n".encode() for target in targets]
    before = len(Responding.uploaded)
    try:
        line.session.sender.send_requests(exchanges, heads, 5, None)
    except BaseException:
        nothing_sent = len(Responding.uploaded) == before
        assert nothing_sent or exchanges[0].delivery is not Delivery.UNSENT
        raise
    left = len(exchanges)
    while left:
        responses, error = line.session.receiver.read_responses(5)
        assert error is None or isinstance(error, ConnectionClosed)
        assert [response[5] for response in responses] == [
            response[0].key for response in responses
        ]
        if error is not None:
            raise error
        left -= len(responses)


def exchange_at_once(line: Line) -> None:
    exchange = Exchange("GET", "/next", b"/next")
    before = len(Responding.uploaded)
    try:
        responses, error = line.session.exchange(exchange, b"GET /next HTTP/1.1\r\n\r\n", 5)
    except BaseException:
        nothing_sent = len(Responding.uploaded) == before
        assert nothing_sent or exchange.delivery is not Delivery.UNSENT
        raise
    assert error is None
    assert [(response[0], response[5]) for response in responses] == [(exchange, b"/next")]


def upload(line: Line) -> None:
    run(line.send_request("/next", BodyFollowing(5), "PUT"))
    line.write(b"12")
    line.write(b"345")
    run(line.session.sender.co_write_eof())
    assert Responding.uploaded.endswith(b"12345")
    read(line)


def upload_in_chunks(line: Line) -> None:
    run(line.send_request("/next", BodyFollowing(), "PUT"))
    line.write(b"12345")
    run(line.session.sender.co_write_eof())
    assert Responding.uploaded.endswith(b"5\r\n12345\r\n0\r\n\r\n")
    read(line)


def finish_upload(line: Line, exchange: Exchange) -> None:
    """Write what is missing: a piece of which nothing was sent can be written again."""
    if isinstance(exchange.writer, LengthWriter):
        line.write(b"12345"[5 - exchange.writer.remaining :])
        assert Responding.uploaded.endswith(b"12345")
    else:
        run(line.session.sender.co_write_eof())
        assert Responding.uploaded.endswith(b"\r\n0\r\n\r\n")


def read_in_parts(line: Line) -> None:
    send(line, "/next")
    response = line.session.receiver.read_response(5)
    view = memoryview(bytearray(2))
    body = b""
    while got := line.session.body.readinto(view, 5):
        body += view[:got]
    assert body == response.path.encode()


OPERATIONS: list[Callable[[Line], None]] = [
    exchange_blocking,
    exchange_as_coroutines,
    pipeline_blocking,
    exchange_in_batches,
    exchange_at_once,
    upload,
    upload_in_chunks,
    read_in_parts,
]


@pytest.mark.parametrize("kind", [Responding, RespondingInChunks])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_interrupt_at_any_point_confuses_nothing(
    operation: Callable[[Line], None], kind: type[Responding]
) -> None:
    for _ in range(2):  # the second time, all that can be cached is
        with responding(kind) as line:
            points = points_of(lambda: operation(line))
    assert points > 20
    for point in range(1, points + 1):
        with responding(kind) as line:
            with pytest.raises(Interrupt), interrupted_at(point):
                operation(line)
            assert not line.session.state.send_turn.locked(), point
            assert not line.session.state.receive_turn.locked(), point
            check_what_is_left(line)


def check_what_is_left(line: Line) -> None:
    """What can still be read belongs to its request, and then the session works as before."""
    session = line.session
    outgoing = session.sender.outgoing
    if outgoing is not None and not session.state.closing:
        finish_upload(line, outgoing)
    state = session.state
    while state.awaiting_response or (state.incoming is not None and state.failure is None):
        try:
            if state.incoming is not None and state.failure is None:
                path = state.incoming.path
                assert path.encode().endswith(line.readall())
            else:
                session.receiver.read_response(5)
        except ConnectionClosed:
            pass
    for _ in "ab":
        exchange_blocking(line)
