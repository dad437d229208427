"""SendSide all of something, and receiving one response head."""

from __future__ import annotations

import pytest

from dugong import ConnectionClosed, InvalidResponse, PollNeeded, UnsupportedResponse
from dugong.connection.buffer import ReceiveBuffer
from dugong.connection.head import ResponseHead
from dugong.connection.wire import co_send_all, receive_head
from tests.support.responses import INVALID, TRUNCATED, UNDERSTOOD
from tests.support.transport import (
    BYTEWISE,
    NEXT_MESSAGE,
    WHOLE,
    Delivery,
    FakeTransport,
    Starved,
    cpu_limit,
    drive,
    each_delivery,
    each_split,
    run,
)

GOOD = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"
PARSED = ResponseHead(1, 200, "OK", (("a", "A", "b"),))


def received(data: bytes, delivery: Delivery = WHOLE) -> tuple[ResponseHead, bytes]:
    """Return the head at the start of *data*, and what was left behind it."""
    transport = FakeTransport(delivery.pieces(data), eof=False)
    buffer = ReceiveBuffer()
    head = drive(lambda: receive_head(transport, buffer))
    return head, buffer.take(len(buffer)) + transport.rest()


# --- co_send_all ---------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", [None, 1, 2, 5, 100])
@pytest.mark.parametrize("make", [bytes, memoryview])
def test_everything_is_sent_however_little_is_taken_at_once(
    accept: int | None, make: type[bytes | memoryview]
) -> None:
    transport = FakeTransport(accept=accept)
    run(co_send_all(transport, make(b"12345")))
    assert transport.sent == b"12345"


def test_nothing_to_send() -> None:
    transport = FakeTransport()
    run(co_send_all(transport, b""))
    assert transport.sent == b""


def test_a_sender_waits_for_the_transport() -> None:
    transport = FakeTransport(accept=3)
    coroutine = co_send_all(transport, b"12345")
    assert isinstance(next(coroutine), PollNeeded)
    assert transport.sent == b""
    assert isinstance(next(coroutine), PollNeeded)
    assert transport.sent == b"123"
    with pytest.raises(StopIteration):
        next(coroutine)
    assert transport.sent == b"12345"


# --- receive_head --------------------------------------------------------------------------------


@each_delivery
@pytest.mark.parametrize("name", UNDERSTOOD)
def test_a_head_is_received_and_what_follows_is_left(name: str, delivery: Delivery) -> None:
    data = UNDERSTOOD[name].data
    _, rest = received(data, delivery)
    assert (data + delivery.trailing).endswith(rest)


@each_delivery
@pytest.mark.parametrize(
    "data",
    [
        GOOD,
        b"HTTP/1.1 200 OK\nA: b\n\n",
        b"HTTP/1.1 200 OK\r\nA: b\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n\n",
        b"HTTP/1.1 200 OK\nA: b\r\n\r\n",
        b"HTTP/1.1 200 OK\nA:\n b\n\n",
        b"HTTP/1.1 200 OK\nA:\r\n\tb\n\r\n",
    ],
)
@pytest.mark.parametrize(
    "body", [b"", b"\r\n", b"\n", b"\r\n\r\n", b"x\n\ny", b"x\r\n\r\ny", b" y"]
)
def test_a_head_ends_at_its_blank_line_whatever_the_body(
    data: bytes, body: bytes, delivery: Delivery
) -> None:
    assert received(data + body, delivery) == (PARSED, body + delivery.trailing)


def test_heads_come_one_after_the_other() -> None:
    transport = FakeTransport([GOOD * 3 + b"HTTP/1.1 204 No\n\n"], eof=False)
    buffer = ReceiveBuffer()
    for _ in range(3):
        assert drive(lambda: receive_head(transport, buffer)) == PARSED
    assert drive(lambda: receive_head(transport, buffer)) == ResponseHead(1, 204, "No", ())
    assert not buffer


def test_giving_up_the_wait_loses_nothing() -> None:
    transport = FakeTransport(BYTEWISE.pieces(GOOD), eof=False)
    buffer = ReceiveBuffer()
    waits = 0
    while isinstance(head := receive_head(transport, buffer), PollNeeded):
        waits += 1
    assert head == PARSED
    assert waits == len(GOOD)


@each_split
@pytest.mark.parametrize("name", [name for name in TRUNCATED if b"\r\n\r\n" not in TRUNCATED[name]])
def test_a_head_that_is_cut_short_is_a_closed_connection(name: str, delivery: Delivery) -> None:
    transport = FakeTransport(delivery.pieces(TRUNCATED[name]))
    buffer = ReceiveBuffer()
    with pytest.raises(ConnectionClosed, match="within" if TRUNCATED[name] else "before"):
        drive(lambda: receive_head(transport, buffer))


@pytest.mark.parametrize(
    "data", [b"S", b"HTTQ", b"HTTP1", b"\r\n", b"\0", b"http/1.1", b" HTTP/1.1"]
)
def test_what_cannot_become_a_head_is_not_waited_for(data: bytes) -> None:
    with pytest.raises(InvalidResponse, match="status line"):
        received(data)


@pytest.mark.parametrize("length", range(1, len(GOOD)))
def test_what_may_become_a_head_is_waited_for(length: int) -> None:
    with pytest.raises(Starved):
        received(GOOD[:length])


@each_split
@pytest.mark.parametrize(
    "data", [INVALID["space before colon"], b"HTTP/2.0 200 OK\r\n\r\n"], ids=["invalid", "HTTP/2"]
)
def test_the_bytes_of_a_bad_head_stay_in_the_buffer(data: bytes, delivery: Delivery) -> None:
    transport = FakeTransport(delivery.pieces(data), eof=False)
    buffer = ReceiveBuffer()
    with pytest.raises((InvalidResponse, UnsupportedResponse)):
        drive(lambda: receive_head(transport, buffer))
    assert buffer.take(1000) + transport.rest() == data


def head_of(size: int, line_end: bytes) -> bytes:
    """Return a head of *size* bytes in lines of 100."""
    head = b"HTTP/1.1 200 OK" + line_end
    line = b"A: " + b"a" * (97 - len(line_end)) + line_end
    head += line * ((size - len(head) - 200) // len(line))
    return head + b"A: " + b"a" * (size - len(head) - 3 - 2 * len(line_end)) + line_end * 2


@each_delivery
@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
def test_a_head_may_be_as_large_as_the_limit(line_end: bytes, delivery: Delivery) -> None:
    data = head_of(65535, line_end)
    with cpu_limit(3):  # also if it comes byte by byte
        head, rest = received(data, delivery)
    assert len(head.fields) > 600
    assert rest == delivery.trailing


@each_delivery
@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
def test_a_head_may_not_be_larger_than_the_limit(line_end: bytes, delivery: Delivery) -> None:
    with pytest.raises(InvalidResponse, match="longer than 65535"):
        received(head_of(65536, line_end), delivery)


def test_a_large_head_fits_behind_other_responses() -> None:
    transport = FakeTransport([GOOD + head_of(65535, b"\r\n") + NEXT_MESSAGE], eof=False)
    buffer = ReceiveBuffer()
    assert drive(lambda: receive_head(transport, buffer)) == PARSED
    assert len(drive(lambda: receive_head(transport, buffer)).fields) > 600
    assert drive(lambda: receive_head(transport, buffer)).status == 299


# --- time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "middle",
    [
        b"\r" * 60000,
        b"\r\n " * 20000,
        b"\n\t" * 30000,
        b"\r\n" + b" " * 60000,
        b"\r\n" + b"A:\r\n" * 15000,
        b" " * 60000 + b"x",
    ],
    ids=lambda middle: repr(middle[:6]),
)
def test_a_hostile_head_takes_no_long_time(middle: bytes) -> None:
    data = b"HTTP/1.1 200 OK\r\nA: b" + middle + b"\r\n\r\n"
    with cpu_limit(1):
        try:
            received(data)
        except InvalidResponse:
            pass


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
def test_many_small_heads_together_take_no_long_time(line_end: bytes) -> None:
    one = line_end.join([b"HTTP/1.1 200 OK", b"Content-Length: 0", b"", b""])
    count = 5000
    transport = FakeTransport([one * count], eof=False)
    buffer = ReceiveBuffer()
    with cpu_limit(2):
        for _ in range(count):
            drive(lambda: receive_head(transport, buffer))
