"""The receive buffer: bytes come out once and in order, in fixed memory."""

from __future__ import annotations

import random

import pytest

from dugong import PollNeeded
from dugong.connection.buffer import BUFFER_SIZE, ReceiveBuffer
from tests.support.transport import FakeTransport, drive


def filled(data: bytes, capacity: int = 16) -> ReceiveBuffer:
    buffer = ReceiveBuffer(capacity)
    transport = FakeTransport([data])
    drive(lambda: buffer.fill(transport))
    return buffer


def test_a_new_buffer_is_empty_and_has_no_memory() -> None:
    buffer = ReceiveBuffer()
    assert len(buffer) == 0
    assert not buffer
    assert len(buffer.data) == 0


def test_a_small_response_needs_little_memory() -> None:
    buffer = filled(bytes(2000), BUFFER_SIZE)
    assert 2000 < len(buffer.data) <= BUFFER_SIZE // 8


@pytest.mark.parametrize("taken", [0, 1, 5000, 8192])
def test_a_buffer_that_was_filled_to_the_brim_grows(taken: int) -> None:
    data = random.Random(1).randbytes(BUFFER_SIZE)
    transport = FakeTransport([data[:20_000], data[20_000:]])
    buffer = ReceiveBuffer()
    assert drive(lambda: buffer.fill(transport)) == 8192
    assert buffer.take(taken) == data[:taken]
    assert drive(lambda: buffer.fill(transport)) == 20_000 - 8192
    assert len(buffer.data) == BUFFER_SIZE
    while len(buffer) + taken < len(data):
        drive(lambda: buffer.fill(transport))
    assert buffer.take(BUFFER_SIZE) == data[taken:]
    assert len(buffer.data) == BUFFER_SIZE


def test_growing_leaves_what_there_is() -> None:
    buffer = filled(b"hello", BUFFER_SIZE)
    buffer.take(1)
    buffer.grow(BUFFER_SIZE)
    assert len(buffer.data) == BUFFER_SIZE
    buffer.grow(1)
    assert len(buffer.data) == BUFFER_SIZE
    assert buffer.take(10) == b"ello"


def test_a_buffer_does_not_grow_beyond_its_capacity() -> None:
    buffer = ReceiveBuffer(16)
    buffer.grow(17)
    assert len(buffer.data) == 16


def test_a_buffer_that_was_released_begins_with_little_again() -> None:
    buffer = filled(bytes(2000), BUFFER_SIZE)
    buffer.grow(BUFFER_SIZE)
    buffer.release()
    assert (len(buffer), len(buffer.data)) == (0, 0)
    transport = FakeTransport([b"hello"])
    assert drive(lambda: buffer.fill(transport)) == 5
    assert len(buffer.data) <= BUFFER_SIZE // 8
    assert buffer.take(10) == b"hello"


def test_filling_waits_for_the_transport_and_reports_how_much_came() -> None:
    buffer = ReceiveBuffer()
    transport = FakeTransport([b"hello"])
    assert isinstance(buffer.fill(transport), PollNeeded)
    assert len(buffer) == 0
    assert buffer.fill(transport) == 5
    assert buffer.peek(10) == b"hello"


def test_filling_at_the_end_of_the_connection_leaves_what_there_is() -> None:
    buffer = filled(b"hello")
    assert buffer.fill(FakeTransport()) == 0
    assert buffer.take(10) == b"hello"


def test_looking_does_not_take() -> None:
    buffer = filled(b"hello")
    assert buffer.peek(2) == b"he"
    assert buffer.peek(100) == b"hello"
    assert len(buffer) == 5


def test_taking_removes() -> None:
    buffer = filled(b"hello")
    assert buffer.take(2) == b"he"
    assert buffer.take(0) == b""
    assert buffer.take(100) == b"llo"
    assert buffer.take(100) == b""


@pytest.mark.parametrize("size", [0, 1, 5, 9])
def test_reading_into_a_view_moves_what_fits(size: int) -> None:
    buffer = filled(b"hello")
    target = bytearray(b"." * size)
    assert buffer.readinto(memoryview(target)) == min(size, 5)
    assert target == b"hello....."[: min(size, 5)] + b"." * (size - 5)
    assert buffer.take(100) == b"hello"[size:]


def test_clearing_forgets_everything() -> None:
    buffer = filled(b"hello")
    buffer.scanned = 3
    buffer.clear()
    assert (len(buffer), buffer.scanned) == (0, 0)
    assert buffer.take(100) == b""


@pytest.mark.parametrize("take", [ReceiveBuffer.take, lambda b, n: b.readinto(bytearray(n))])
def test_a_note_of_what_was_searched_is_void_once_bytes_are_taken(take) -> None:  # type: ignore[no-untyped-def]
    buffer = filled(b"hello")
    buffer.scanned = 5
    take(buffer, 2)
    assert buffer.scanned == 0


def test_a_buffer_whose_start_has_been_taken_has_room_again() -> None:
    buffer = filled(b"0123456789abcdef")
    buffer.take(10)
    transport = FakeTransport([b"ghijkl"])
    assert drive(lambda: buffer.fill(transport)) == 6
    assert buffer.take(100) == b"abcdefghijkl"


def test_nothing_is_received_beyond_the_capacity() -> None:
    buffer = ReceiveBuffer(16)
    transport = FakeTransport([b"0123456789" * 2])
    assert drive(lambda: buffer.fill(transport)) == 16
    assert transport.rest() == b"6789"


def test_bytes_come_out_in_order_whatever_is_taken_when() -> None:
    chance = random.Random(1)
    data = chance.randbytes(20000)
    transport = FakeTransport([data])
    buffer = ReceiveBuffer(64)
    out = b""
    while len(out) < len(data):
        if len(buffer) < 64 and transport.rest():
            drive(lambda: buffer.fill(transport))
        out += buffer.take(chance.randrange(64))
    assert out == data
    assert len(buffer.data) == 64
