"""Bodies are cut into parts."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dugong import FilePart
from dugong.pool.body import request_body
from dugong.s3 import parts
from dugong.s3.parts import cut

DATA = bytes(range(256)) * 10


def read(body: Any) -> bytes:
    made = request_body(body)
    assert made is not None
    made.rewind()
    return b"".join(bytes(piece) for piece in made.pieces())


def unseekable(data: bytes) -> Any:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    return Pipe(data)


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 2560])
def test_parts_are_the_whole(size: int, tmp_path: Path) -> None:
    data = DATA[:size]
    (tmp_path / "file").write_bytes(b"before" + data)
    with open(tmp_path / "file", "rb") as file:
        file.seek(6)
        for body, known in (
            (data, size),
            (memoryview(data), size),
            (io.BytesIO(data), size),
            (file, size),
            (unseekable(data or b"x"), None),
            ([data[:700], data[700:]], None),
            (lambda: io.BytesIO(data), None),
        ):
            total, cut_ = cut(body, 1000)
            pieces = list(cut_)
            expected = data or (b"x" if known is None and hasattr(body, "read") else b"")
            assert total == known
            assert [len(read(each)) for each in pieces[:-1]] == [1000] * (len(pieces) - 1)
            assert b"".join(read(each) for each in pieces) == expected
            # Each can be read again, in any order.
            assert b"".join(read(each) for each in pieces) == expected
        assert file.tell() == 6


def test_a_file_that_can_seek_is_not_read() -> None:
    total, cut_ = cut(io.BytesIO(DATA), 1000)
    assert total == 2560
    assert [(each.offset, each.length) for each in cut_ if isinstance(each, FilePart)] == [
        (0, 1000),
        (1000, 1000),
        (2000, 560),
    ]


def test_a_stream_is_read_when_a_part_is_asked_for() -> None:
    given = []

    def pieces() -> Iterator[bytes]:
        for n in range(10):
            given.append(n)
            yield bytes(400)

    _, cut_ = cut(pieces(), 1000)
    assert given == []
    next(cut_)
    assert given == [0, 1, 2]


def test_parts_are_larger_if_there_would_be_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MAX_PARTS", 3)
    data = bytes(3 * 2**20 + 5)
    _, cut_ = cut(data, 1000)
    assert [len(read(each)) for each in cut_] == [2**21, 2**20 + 5]
    _, cut_ = cut(data[:3000], 1000)
    assert [len(read(each)) for each in cut_] == [1000] * 3


@pytest.mark.parametrize("body", [7, "text", io.StringIO("text")])
def test_what_is_no_body_has_no_parts(body: Any) -> None:
    with pytest.raises(TypeError):
        list(cut(body, 1000)[1])
