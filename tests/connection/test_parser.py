"""From the bytes in a buffer to responses: the fast path does what the careful one does."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dugong import ConnectionClosed, Headers, InvalidResponse, UnsupportedResponse
from dugong.connection.buffer import ReceiveBuffer
from dugong.connection.exchange import Exchange, Special
from dugong.connection.framing import BodyKind
from dugong.connection.head import MAX_HEADER_SIZE, ResponseHead, headers_of
from dugong.connection.parser import ReceivedResponse, ResponseParser, take_head
from dugong.connection.readers import reader_for
from tests.support.responses import INVALID, TRUNCATED, UNDERSTOOD, UNSUPPORTED
from tests.support.transport import (
    BYTEWISE,
    NEXT_MESSAGE,
    Delivery,
    FakeTransport,
    each_delivery,
    read_all,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
DOCUMENTED = (InvalidResponse, UnsupportedResponse)


def filled(data: bytes) -> ReceiveBuffer:
    """Return a buffer in which *data* is waiting, and has others before and behind it."""
    buffer = ReceiveBuffer(70000)
    buffer.grow(70000)
    end = 5 + len(data)
    buffer.data[:end] = b"\r\n\r\n\n" + data
    buffer.start, buffer.end = 5, end
    return buffer


def exchange(method: str = "GET", careful: bool = False) -> Exchange:
    made = Exchange(method, "/")
    made.special = Special() if careful else None
    return made


class Head(NamedTuple):
    """What the parser says of a head, by name."""

    minor_version: int
    status: int
    reason: str
    headers: Headers | bytes
    kind: BodyKind
    length: int | None
    persistent: bool
    said_close: bool


def is_plain(head: Head | None) -> bool:
    """Return True if *head* came along the fast path, which leaves its fields as they are."""
    return head is not None and isinstance(head.headers, bytes)


def take(data: bytes, count: int = 1, method: str = "GET") -> tuple[list[ReceivedResponse], bytes]:
    """Take whole responses for *count* requests; return them, and what was left."""
    buffer = filled(data)
    awaiting = deque(exchange(method) for _ in range(count))
    responses: list[ReceivedResponse] = []
    ResponseParser(buffer).take_whole(awaiting, responses)
    assert len(responses) + len(awaiting) == count
    return responses, buffer.take(65536)


def parsed(buffer: ReceiveBuffer, method: str = "GET", careful: bool = False) -> Head:
    head = ResponseParser(buffer).next_head(exchange(method, careful))
    assert head is not None
    return Head(*head)


def next_head(data: bytes, method: str = "GET", careful: bool = False) -> Head:
    return parsed(filled(data), method, careful)


# --- heads ---------------------------------------------------------------------------------------


@each_delivery
@pytest.mark.parametrize("name", UNDERSTOOD)
def test_a_head_is_taken_once_it_is_there_and_what_follows_is_left(
    name: str, delivery: Delivery
) -> None:
    data = UNDERSTOOD[name].data
    buffer = ReceiveBuffer()
    transport = FakeTransport(delivery.pieces(data), eof=False)
    while (head := take_head(buffer)) is None:
        buffer.fill(transport)
    rest = buffer.take(len(buffer)) + transport.rest()
    assert (data + delivery.trailing).endswith(rest)
    assert isinstance(head, ResponseHead)


@pytest.mark.parametrize("name", TRUNCATED)
def test_a_head_that_is_not_complete_is_waited_for(name: str) -> None:
    data = TRUNCATED[name].partition(b"\r\n\r\n")[0]
    buffer = filled(data)
    for _ in range(2):
        assert take_head(buffer) is None
    assert buffer.take(65536) == data


def test_the_bytes_of_an_invalid_head_are_left() -> None:
    buffer = filled(b"nonsense\r\n\r\n")
    for _ in range(2):
        with pytest.raises(InvalidResponse):
            ResponseParser(buffer).next_head(exchange())
    assert buffer.take(100) == b"nonsense\r\n\r\n"


def test_a_plain_head_takes_the_fast_path() -> None:
    head = next_head(b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 5\r\nC:\r\n\r\n")
    assert is_plain(head)
    assert head[:3] == (1, 200, "OK")
    assert head[4:] == (BodyKind.LENGTH, 5, True, False)
    assert headers_of(head.headers).items() == [("A", "b"), ("Content-Length", "5"), ("C", "")]
    head = next_head(b"HTTP/1.1 204 No\r\n\r\n")
    assert is_plain(head)
    assert head[4:6] == (BodyKind.NONE, 0)


@pytest.mark.parametrize(
    "block",
    [
        b"HTTP/1.1 200 OK\nContent-Length: 5",
        b"HTTP/1.1 200 OK\r\nA: b\nContent-Length: 5",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nA: b\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nA: b\r\n c",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nA : b",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5",
        b"HTTP/1.1 200 OK\r\nA: b",
        b"HTTP/1.1 103 Early\r\nContent-Length: 5",
        b"HTTP/1.1 101 Switching",
    ],
)
def test_any_other_head_is_looked_at_with_care(block: bytes) -> None:
    assert take(block + b"\r\n\r\n12345")[0] == []
    head = next_head(block + b"\r\n\r\n12345")
    assert not is_plain(head)


@pytest.mark.parametrize(
    "block",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: +5",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length : 5",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip",
        b"HTTP/2.0 200 OK\r\nContent-Length: 5",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nA: " + b"a" * 65500,
    ],
    ids=lambda block: repr(block[:40]),
)
def test_what_is_wrong_is_left_to_be_found_with_care(block: bytes) -> None:
    assert take(block + b"\r\n\r\n12345")[0] == []
    with pytest.raises(DOCUMENTED):
        next_head(block + b"\r\n\r\n12345")


def test_a_response_that_means_more_is_looked_at_with_care() -> None:
    head = next_head(OK, careful=True)
    assert not is_plain(head)
    responses: list[ReceivedResponse] = []
    ResponseParser(filled(OK)).take_whole(deque([exchange(careful=True)]), responses)
    assert responses == []


HEADS = st.lists(
    st.sampled_from(
        [
            *(b"A: b", b"C:", b" d", b"Content-Length: 5", b"Keep-Alive: timeout=5", b"odd"),
            *(b"Connection: close", b"Transfer-Encoding: chunked", b"Content-Length : 5"),
            *(b"\r", b"\n", b"\r\n", b"\r\n", b"\r\n\r\n"),
        ]
    ),
    max_size=9,
)


@given(HEADS, st.sampled_from(["GET", "HEAD"]))
def test_the_fast_path_agrees_with_the_careful_one(parts: list[bytes], method: str) -> None:
    data = b"HTTP/1.1 200 OK" + b"".join(parts) + b"\r\n\r\n"
    outcomes = []
    for careful in (False, True):
        buffer = filled(data)
        parser = ResponseParser(buffer)
        try:
            found = parser.next_head(exchange(method, careful))
        except DOCUMENTED as exc:
            outcomes.append((type(exc), str(exc)))
            continue
        assert found is not None
        head = Head(*found)
        fields = headers_of(head.headers).items()
        known = parser.keep_alive_timeout
        outcomes.append((head._replace(headers=Headers(fields)), known, buffer.take(len(buffer))))
    assert outcomes[0] == outcomes[1]


@given(HEADS, st.sampled_from([b"12345", b"5\r\n12345\r\n0\r\n\r\n", b"0\r\n\r\n", b"5 \r\n"]))
def test_a_response_taken_as_a_whole_is_what_the_careful_way_makes_of_it(
    parts: list[bytes], body: bytes
) -> None:
    data = b"HTTP/1.1 200 OK\r\n" + b"".join(parts) + b"\r\n\r\n" + body
    responses, rest = take(data)
    if not responses:
        assert rest == data
        return
    _, status, reason, headers, length, taken = responses[0]
    buffer = filled(data)
    head = parsed(buffer, careful=True)
    assert (head.status, head.reason, head.length) == (status, reason, length)
    assert headers_of(head.headers) == headers_of(headers)
    assert read_all(reader_for(head.kind, head.length, buffer, FakeTransport())) == taken
    assert buffer.take(len(buffer)) == rest


# --- whole responses -----------------------------------------------------------------------------


def test_all_responses_that_have_come_are_taken_for_their_exchanges() -> None:
    buffer = filled(OK + OK.replace(b"ok", b"on") + OK[:-1])
    asked = [exchange() for _ in range(4)]
    awaiting = deque(asked)
    responses: list[ReceivedResponse] = []
    ResponseParser(buffer).take_whole(awaiting, responses)
    assert [(response[0], response[5]) for response in responses] == [
        (asked[0], b"ok"),
        (asked[1], b"on"),
    ]
    assert list(awaiting) == asked[2:]
    assert all(one.persistent for one in asked[:2])
    assert buffer.take(100) == OK[:-1]


def test_no_more_responses_are_taken_than_were_asked_for() -> None:
    responses, rest = take(OK * 3, count=2)
    assert len(responses) == 2
    assert rest == OK


def test_an_exchange_keeps_its_key() -> None:
    key = object()
    buffer = filled(OK)
    responses: list[ReceivedResponse] = []
    ResponseParser(buffer).take_whole(deque([Exchange("GET", "/", key)]), responses)
    assert responses[0][0].key is key


@pytest.mark.parametrize("name", {**INVALID, **UNSUPPORTED, **TRUNCATED})
def test_nothing_that_is_wrong_is_taken_as_a_whole(name: str) -> None:
    data = {**INVALID, **UNSUPPORTED, **TRUNCATED}[name][:65000]
    assert take(data) == ([], data)


# --- Keep-Alive ----------------------------------------------------------------------------------


@pytest.mark.parametrize("careful", [False, True])
def test_the_last_time_that_the_server_has_told_is_known(careful: bool) -> None:
    told = OK.replace(b"\r\n", b"\r\nKeep-Alive: timeout=5, max=100\r\n", 1)
    buffer = filled(told + OK + told.replace(b"=5", b"=7"))
    parser = ResponseParser(buffer)
    known = []
    for _ in range(3):
        if careful:
            parser.next_head(exchange(careful=True))
            buffer.take(2)
        else:
            parser.take_whole(deque([exchange()]), [])
        known.append(parser.keep_alive_timeout)
    assert known == [5.0, 5.0, 7.0]
    parser.reset()
    assert parser.keep_alive_timeout is None


# --- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("excess", [0, 1])
def test_a_head_that_fills_the_buffer_is_measured_like_any_other(excess: int) -> None:
    start, end = b"HTTP/1.1 204 No Content\r\nA: ", b"\r\n\r\n"
    value = b"x" * (MAX_HEADER_SIZE + excess - len(start + end))
    buffer = ReceiveBuffer()
    buffer.grow(65536)
    buffer.data[:] = (start + value + end).ljust(65536)
    buffer.end = MAX_HEADER_SIZE + excess
    if excess:
        with pytest.raises(InvalidResponse, match="longer than"):
            ResponseParser(buffer).next_head(exchange())
    else:
        assert parsed(buffer).status == 204


def test_the_end_of_a_connection_is_for_others_to_find() -> None:
    buffer = ReceiveBuffer()
    assert take_head(buffer) is None
    reader = reader_for(BodyKind.LENGTH, 1, buffer, FakeTransport())
    with pytest.raises(ConnectionClosed):
        read_all(reader)


def test_the_next_message_may_be_there_byte_by_byte() -> None:
    transport = FakeTransport(BYTEWISE.pieces(OK + NEXT_MESSAGE), eof=False)
    buffer = ReceiveBuffer()
    parser = ResponseParser(buffer)
    awaiting = deque([exchange(), exchange()])
    responses: list[ReceivedResponse] = []
    while awaiting:
        buffer.fill(transport)
        parser.take_whole(awaiting, responses)
    assert [response[5] for response in responses] == [b"ok", b"\r\nx"]
