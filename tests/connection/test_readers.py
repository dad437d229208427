"""Response bodies: where each kind ends, and what it makes of what the server sends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dugong import ConnectionClosed, Headers, InvalidResponse, PollNeeded
from dugong.connection.buffer import ReceiveBuffer
from dugong.connection.framing import BodyKind
from dugong.connection.readers import (
    ChunkedReader,
    LengthReader,
    Reader,
    UntilCloseReader,
    reader_for,
    whole_chunked_body,
)
from tests.support.responses import INVALID, TRUNCATED, UNDERSTOOD
from tests.support.transport import (
    NEXT_MESSAGE,
    WHOLE,
    Delivery,
    FakeTransport,
    cpu_limit,
    drive,
    each_delivery,
    each_split,
    read_all,
)

CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


UNTIL_CLOSE_CHUNKS = {
    name: case.data.removeprefix(CHUNKED_HEAD)
    for name, case in UNDERSTOOD.items()
    if case.data.startswith(CHUNKED_HEAD) and case.until_close
}


def chunked_cases(table: dict[str, bytes]) -> dict[str, bytes]:
    """Return the bodies of those responses in *table* that are nothing but chunked."""
    return {
        name: data.removeprefix(CHUNKED_HEAD)
        for name, data in table.items()
        if data.startswith(CHUNKED_HEAD)
    }


INVALID_CHUNKS = chunked_cases(INVALID)
TRUNCATED_CHUNKS = chunked_cases(TRUNCATED)
GOOD_CHUNKS = chunked_cases(
    {name: case.data for name, case in UNDERSTOOD.items() if not case.until_close}
)


def chunked(
    data: bytes, delivery: Delivery = WHOLE, *, eof: bool = False
) -> tuple[ChunkedReader, ReceiveBuffer, FakeTransport]:
    transport = FakeTransport(delivery.pieces(data), eof=eof)
    buffer = ReceiveBuffer()
    return ChunkedReader(buffer, transport), buffer, transport


def rest(buffer: ReceiveBuffer, transport: FakeTransport) -> bytes:
    return buffer.take(len(buffer)) + transport.rest()


# --- reader_for ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "length", "reader"),
    [
        (BodyKind.LENGTH, 5, LengthReader),
        (BodyKind.CHUNKED, None, ChunkedReader),
        (BodyKind.UNTIL_CLOSE, None, UntilCloseReader),
        (BodyKind.NONE, 0, type(None)),
    ],
)
def test_each_kind_of_body_has_its_reader(kind: BodyKind, length: int | None, reader: type) -> None:
    assert type(reader_for(kind, length, ReceiveBuffer(), FakeTransport())) is reader


# --- LengthReader --------------------------------------------------------------------------------


@each_delivery
@pytest.mark.parametrize("size", [1, 3, 5, 100])
def test_a_body_of_a_length_ends_there(delivery: Delivery, size: int) -> None:
    transport = FakeTransport(delivery.pieces(b"\r\n345"), eof=False)
    buffer = ReceiveBuffer()
    reader = LengthReader(buffer, transport, 5)
    assert read_all(reader, size) == b"\r\n345"
    assert reader.done
    assert drive(lambda: reader.readinto(memoryview(bytearray(5)))) == 0
    assert rest(buffer, transport) == delivery.trailing


def test_a_body_begins_with_what_is_in_the_buffer() -> None:
    transport = FakeTransport([b"12345", b"67890"], eof=False)
    buffer = ReceiveBuffer()
    drive(lambda: buffer.fill(transport))
    assert read_all(LengthReader(buffer, transport, 10)) == b"1234567890"


def test_the_next_response_stays_in_the_buffer() -> None:
    transport = FakeTransport([b"12345" + NEXT_MESSAGE], eof=False)
    buffer = ReceiveBuffer()
    drive(lambda: buffer.fill(transport))
    assert read_all(LengthReader(buffer, transport, 5)) == b"12345"
    assert buffer.take(1000) == NEXT_MESSAGE


def test_a_body_goes_straight_into_the_view_of_the_caller() -> None:
    transport = FakeTransport([b"12345"], eof=False)
    buffer = ReceiveBuffer()
    target = bytearray(5)
    assert drive(lambda: LengthReader(buffer, transport, 5).readinto(memoryview(target))) == 5
    assert target == b"12345"
    assert not any(buffer.data)


@each_split
@pytest.mark.parametrize("got", range(5))
def test_a_body_that_is_cut_short_is_not_an_end(delivery: Delivery, got: int) -> None:
    reader = LengthReader(ReceiveBuffer(), FakeTransport(delivery.pieces(b"12345"[:got])), 5)
    with pytest.raises(ConnectionClosed, match=f"{5 - got} bytes"):
        read_all(reader)
    assert not reader.done
    with pytest.raises(ConnectionClosed):
        read_all(reader)


def test_giving_up_a_wait_loses_nothing() -> None:
    transport = FakeTransport([b"12", b"345"], eof=False)
    reader = LengthReader(ReceiveBuffer(), transport, 5)
    view = memoryview(bytearray(10))
    steps = [reader.readinto(view) for _ in range(4)]
    assert [step for step in steps if isinstance(step, int)] == [2, 3]
    assert len([step for step in steps if isinstance(step, PollNeeded)]) == 2


def test_a_body_that_is_there_as_a_whole_is_taken_at_once() -> None:
    transport = FakeTransport([b"12345" + NEXT_MESSAGE], eof=False)
    buffer = ReceiveBuffer()
    reader = LengthReader(buffer, transport, 5)
    assert reader.take_if_buffered() is None
    drive(lambda: buffer.fill(transport))
    assert reader.take_if_buffered() == b"12345"
    assert reader.done
    assert buffer.take(1000) == NEXT_MESSAGE


# --- UntilCloseReader ----------------------------------------------------------------------------


@each_split
@pytest.mark.parametrize("body", [b"", b"1", b"12\r\n\r\n0\r\n\r\n"])
def test_a_body_without_length_ends_with_the_connection(delivery: Delivery, body: bytes) -> None:
    transport = FakeTransport(delivery.pieces(body))
    buffer = ReceiveBuffer()
    reader = UntilCloseReader(buffer, transport)
    assert read_all(reader) == body
    assert reader.done
    assert reader.readinto(memoryview(bytearray(1))) == 0


def test_a_body_without_length_begins_with_what_is_in_the_buffer() -> None:
    transport = FakeTransport([b"123", b"45"])
    buffer = ReceiveBuffer()
    drive(lambda: buffer.fill(transport))
    assert read_all(UntilCloseReader(buffer, transport), 2) == b"12345"


# --- ChunkedReader -------------------------------------------------------------------------------


@each_delivery
@pytest.mark.parametrize("name", GOOD_CHUNKS)
def test_chunks_are_put_together(name: str, delivery: Delivery) -> None:
    for size in (1, 2, 5, 4096):
        reader, buffer, transport = chunked(GOOD_CHUNKS[name], delivery)
        assert read_all(reader, size) == UNDERSTOOD[name].body
        assert reader.done
        assert rest(buffer, transport) == delivery.trailing


@pytest.mark.parametrize(
    ("section", "fields", "defects"),
    [
        (b"\r\n", [], 0),
        (b"A: b\r\na: c\r\n\r\n", [("A", "b"), ("a", "c")], 0),
        (b"A: b\r\n c\r\n\r\n", [("A", "b c")], 0),
        (b"A: b\nno field\n\n", [("A", "b")], 1),
        (b"Content-Length: 9\r\n\r\n", [("Content-Length", "9")], 0),
    ],
)
@each_delivery
def test_trailers_are_given_once_the_body_has_ended(
    delivery: Delivery, section: bytes, fields: list[tuple[str, str]], defects: int
) -> None:
    reader, buffer, transport = chunked(b"5\r\n12345\r\n0\r\n" + section, delivery)
    assert reader.trailers == Headers()
    assert read_all(reader) == b"12345"
    assert reader.trailers.items() == fields
    assert len(reader.trailers.defects) == defects
    assert rest(buffer, transport) == delivery.trailing


@each_delivery
@pytest.mark.parametrize("name", INVALID_CHUNKS)
def test_malformed_chunks_are_invalid(name: str, delivery: Delivery) -> None:
    reader, *_ = chunked(INVALID_CHUNKS[name], delivery)
    for _ in range(2):  # and stay so
        with pytest.raises(InvalidResponse):
            read_all(reader)
    assert not reader.done


@each_split
@pytest.mark.parametrize("name", TRUNCATED_CHUNKS)
def test_chunks_that_are_cut_short_are_not_an_end(name: str, delivery: Delivery) -> None:
    reader, *_ = chunked(TRUNCATED_CHUNKS[name], delivery, eof=True)
    for _ in range(2):
        with pytest.raises(ConnectionClosed):
            read_all(reader)
    assert not reader.done


@each_split
@pytest.mark.parametrize("name", UNTIL_CLOSE_CHUNKS)
def test_the_end_of_the_connection_may_stand_for_the_last_line_end(
    name: str, delivery: Delivery
) -> None:
    for size in (1, 4096):
        reader, *_ = chunked(UNTIL_CLOSE_CHUNKS[name], delivery, eof=True)
        assert read_all(reader, size) == UNDERSTOOD[name].body
        assert reader.done
        assert reader.closed
        assert reader.readinto(memoryview(bytearray(1))) == 0


def test_a_body_with_all_of_its_line_ends_has_not_closed_the_connection() -> None:
    reader, *_ = chunked(b"5\r\n12345\r\n0\r\n\r\n")
    read_all(reader)
    assert reader.done
    assert not reader.closed


def test_a_chunked_body_that_is_there_as_a_whole_is_taken_at_once() -> None:
    reader, buffer, transport = chunked(b"5\r\n12345\r\n0\r\n\r\n" + NEXT_MESSAGE)
    assert reader.take_if_buffered() is None
    drive(lambda: buffer.fill(transport))
    assert reader.take_if_buffered() == b"12345"
    assert reader.done
    assert buffer.take(1000) == NEXT_MESSAGE


def test_a_chunked_body_that_was_begun_to_be_read_is_read_on() -> None:
    reader, *_ = chunked(b"5\r\n12345\r\n0\r\n\r\n")
    assert drive(lambda: reader.readinto(memoryview(bytearray(2)))) == 2
    assert reader.take_if_buffered() is None
    assert read_all(reader) == b"345"


def test_one_call_reads_across_chunks() -> None:
    reader, *_ = chunked(b"3\r\n123\r\n4\r\n4567\r\n0\r\n\r\n")
    view = memoryview(bytearray(10))
    assert drive(lambda: reader.readinto(view)) == 7
    assert view[:7] == b"1234567"
    assert reader.done


def test_what_is_there_is_given_before_waiting_for_more() -> None:
    transport = FakeTransport([b"3\r\n123\r\n4\r\n", b"4567\r\n0\r\n\r\n"], eof=False)
    reader = ChunkedReader(ReceiveBuffer(), transport)
    view = memoryview(bytearray(10))
    assert drive(lambda: reader.readinto(view)) == 3
    assert isinstance(reader.readinto(view), PollNeeded)


def test_what_came_before_a_malformed_chunk_is_given_first() -> None:
    reader, *_ = chunked(b"3\r\n123\r\nx\r\n")
    view = memoryview(bytearray(10))
    assert drive(lambda: reader.readinto(view)) == 3
    with pytest.raises(InvalidResponse):
        reader.readinto(view)


def test_a_chunk_is_bounded_only_by_what_a_file_can_hold() -> None:
    reader, *_ = chunked(b"7fffffffffffffff\r\n12345", eof=True)
    with pytest.raises(ConnectionClosed):
        read_all(reader)


def test_a_chunk_goes_straight_into_the_view_of_the_caller() -> None:
    transport = FakeTransport([b"5\r\n", b"12345", b"\r\n"], eof=False)
    buffer = ReceiveBuffer()
    reader = ChunkedReader(buffer, transport)
    target = bytearray(5)
    assert drive(lambda: reader.readinto(memoryview(target))) == 5
    assert target == b"12345"
    assert b"12345" not in buffer.data


def test_a_chunk_size_line_may_be_as_long_as_a_line_may_be() -> None:
    line = b"5;" + b"a" * (65535 - 3) + b"\r\n"
    assert read_all(chunked(line + b"12345\r\n0\r\n\r\n")[0]) == b"12345"
    with pytest.raises(InvalidResponse):
        read_all(chunked(b"5;a" + line[2:] + b"12345\r\n0\r\n\r\n")[0])


# --- whole_chunked_body ---------------------------------------------------------------------------


def whole(data: bytes) -> tuple[bytes, int] | None:
    """Take the body from behind, and before, bytes that are not to be looked at."""
    taken = whole_chunked_body(bytearray(b"0\r\n\r\n" + data + b"0\r\n\r\n"), 5, 5 + len(data))
    return taken and (taken[0], taken[1] - 5)


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"0\r\n\r\n", b""),
        (b"00\r\n\r\n", b""),
        (b"5\r\n12345\r\n0\r\n\r\n", b"12345"),
        (b"3\r\n\r\n3\r\n00A\r\n4567890123\r\n0\r\n\r\n", b"\r\n34567890123"),
    ],
)
def test_a_plain_chunked_body_is_taken_as_a_whole(data: bytes, body: bytes) -> None:
    assert whole(data) == whole(data + b"HTTP/1.1") == (body, len(data))
    for end in range(len(data)):
        assert whole(data[:end]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"5;a=b\r\n12345\r\n0\r\n\r\n",
        b"5\r\n12345\r\n0;a\r\n\r\n",
        b"5\r\n12345\r\n0\r\nA: b\r\n\r\n",
        b"5 \r\n12345\r\n0\r\n\r\n",
        b"123456789\r\n12345\r\n0\r\n\r\n",
        *INVALID_CHUNKS.values(),
        *TRUNCATED_CHUNKS.values(),
    ],
)
def test_any_other_chunked_body_is_for_the_reader(data: bytes) -> None:
    assert whole(data) is None


@given(
    st.lists(
        st.sampled_from(
            [
                *(b"0", b"1", b"5", b"0a", b"A", b"\r\n", b"\r\n", b"\n", b"\r", b";", b" ", b"x"),
                *(b"+", b"_", b"-", b"5\r\n12345\r\n", b"0\r\n\r\n", b"A: b\r\n"),
            ]
        ),
        max_size=9,
    )
)
def test_what_is_taken_as_a_whole_is_what_the_reader_makes_of_it(parts: list[bytes]) -> None:
    data = b"".join(parts)
    taken = whole(data)
    if taken is not None:
        reader, buffer, transport = chunked(data)
        assert read_all(reader) == taken[0]
        assert rest(buffer, transport) == data[taken[1] :]


# --- time ----------------------------------------------------------------------------------------


@each_split
def test_a_hundred_thousand_chunks_take_no_long_time(delivery: Delivery) -> None:
    count = 100_000 if delivery is WHOLE else 10_000
    reader, *_ = chunked(b"1\r\nx\r\n" * count + b"0\r\n\r\n", delivery)
    with cpu_limit(3):
        assert read_all(reader) == b"x" * count


@pytest.mark.parametrize(
    "line",
    [b"1" * 60000, b"5" + b" " * 60000, b"5" + b" ;" * 30000, b"5" + b"; " * 30000 + b"\0"],
    ids=lambda line: line[:4],
)
def test_a_hostile_chunk_size_takes_no_long_time(line: bytes) -> None:
    reader, *_ = chunked(line + b"\r\n12345\r\n0\r\n\r\n")
    with cpu_limit(1):
        try:
            assert read_all(reader) == b"12345"
        except InvalidResponse:
            pass


@each_split
@pytest.mark.parametrize("trailer", [b"A: b\r\n" * 10000, b"A: b\n" + b" c\r\n" * 12000])
def test_long_trailers_take_no_long_time(trailer: bytes, delivery: Delivery) -> None:
    reader, *_ = chunked(b"5\r\n12345\r\n0\r\n" + trailer + b"\r\n", delivery)
    with cpu_limit(3):  # also if they come byte by byte
        assert read_all(reader) == b"12345"


def test_every_reader_has_the_same_interface() -> None:
    readers: list[Reader] = [
        LengthReader(ReceiveBuffer(), FakeTransport(), 5),
        ChunkedReader(ReceiveBuffer(), FakeTransport()),
        UntilCloseReader(ReceiveBuffer(), FakeTransport()),
    ]
    assert [reader.done for reader in readers] == [False] * 3
