"""Request bodies in pieces: what goes on the wire for each."""

from __future__ import annotations

from typing import Any

import pytest

from dugong import BodyFollowing, ExcessBodyData, StateError
from dugong.connection.writers import ChunkedWriter, LengthWriter, Writer


def framed(writer: Writer, data: bytes) -> bytes:
    return b"".join(writer.frame(memoryview(data)))


# --- BodyFollowing -------------------------------------------------------------------------------


def test_a_body_that_follows_has_a_length_or_none() -> None:
    assert BodyFollowing().length is None
    assert BodyFollowing(0).length == 0
    assert BodyFollowing(length=5).length == 5


def test_a_length_cannot_be_negative() -> None:
    with pytest.raises(ValueError, match="-1"):
        BodyFollowing(-1)


@pytest.mark.parametrize("length", ["5", 5.0, b"5"])
def test_a_length_is_an_int(length: Any) -> None:
    with pytest.raises(TypeError):
        BodyFollowing(length)


def test_the_repr_shows_the_length() -> None:
    assert repr(BodyFollowing(5)) == "BodyFollowing(5)"
    assert repr(BodyFollowing()) == "BodyFollowing()"


# --- LengthWriter --------------------------------------------------------------------------------


def test_a_body_with_a_length_goes_out_as_it_is() -> None:
    writer = LengthWriter(5)
    assert framed(writer, b"12") == b"12"
    assert not writer.complete
    assert framed(writer, b"345") == b"345"
    assert writer.complete
    assert writer.end() == ()


def test_a_large_piece_is_not_copied() -> None:
    data = memoryview(bytearray(100))
    (sent,) = LengthWriter(100).frame(data)
    assert sent is data


def test_an_empty_piece_sends_nothing() -> None:
    writer = LengthWriter(5)
    assert writer.frame(memoryview(b"")) == ()
    assert writer.remaining == 5


def test_more_than_announced_is_refused_and_changes_nothing() -> None:
    writer = LengthWriter(5)
    framed(writer, b"12")
    with pytest.raises(ExcessBodyData, match="4 bytes, but only 3"):
        writer.frame(memoryview(b"3456"))
    assert framed(writer, b"345") == b"345"
    with pytest.raises(ExcessBodyData):
        writer.frame(memoryview(b"6"))


def test_a_body_cannot_be_ended_before_it_is_complete() -> None:
    writer = LengthWriter(5)
    framed(writer, b"12")
    with pytest.raises(StateError, match="3 bytes"):
        writer.end()
    assert framed(writer, b"345") == b"345"


# --- ChunkedWriter -------------------------------------------------------------------------------


def test_each_piece_is_a_chunk_and_the_end_is_an_empty_one() -> None:
    writer = ChunkedWriter()
    assert framed(writer, b"12345") == b"5\r\n12345\r\n"
    assert framed(writer, b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert not writer.complete
    assert b"".join(writer.end()) == b"0\r\n\r\n"
    assert writer.complete


def test_an_empty_piece_does_not_end_a_chunked_body() -> None:
    writer = ChunkedWriter()
    assert framed(writer, b"") == b""
    assert not writer.complete


def test_a_piece_is_not_copied_to_make_a_chunk_of_it() -> None:
    data = memoryview(bytearray(100))
    assert any(part is data for part in ChunkedWriter().frame(data))


def test_what_is_written_can_be_read_back() -> None:
    from tests.support.transport import receive

    writer = ChunkedWriter()
    body = b"".join(framed(writer, b"x" * size) for size in (1, 9, 10, 15, 16, 17, 255, 4096))
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    received = receive(head + body + b"".join(writer.end()), eof=False)
    assert received.body == b"x" * (1 + 9 + 10 + 15 + 16 + 17 + 255 + 4096)


# --- trailers ------------------------------------------------------------------------------------


def test_trailers_stand_behind_the_last_chunk() -> None:
    writer = ChunkedWriter()
    assert writer.end(b"X-Sum: 1\r\n") == (b"0\r\nX-Sum: 1\r\n\r\n",)
    assert writer.complete


def test_a_body_with_a_length_has_no_trailers() -> None:
    writer = LengthWriter(2)
    framed(writer, b"12")
    with pytest.raises(StateError, match="in chunks only"):
        writer.end(b"X-Sum: 1\r\n")
    assert writer.end() == ()
