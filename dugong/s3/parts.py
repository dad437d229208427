"""A body is cut into parts, each of which can be read more than once.

Guarantees: memory holds nothing of a file that can seek, and one part of anything else. What the
caller gave is not closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from dugong.pool.body import request_body
from dugong.pool.bodybase import view_if_bytes_like
from dugong.pool.filepart import FilePart
from dugong.pool.sharedfile import SeekableBinary

if TYPE_CHECKING:
    from dugong.pool.body import BodyLike

__all__ = ["MAX_PARTS", "cut"]

MAX_PARTS = 10_000  #: of an object
_MIB = 2**20


def cut(body: BodyLike, part_size: int) -> tuple[int | None, Iterator[BodyLike]]:
    """Return how large *body* is, if that is known, and its parts, each to be read repeatedly."""
    data = view_if_bytes_like(body)
    if data is not None:
        return len(data), _parts_in_memory(data, _size_of_parts(len(data), part_size))
    file = cast(SeekableBinary, body)
    if callable(getattr(body, "read", None)) and _can_seek(file):
        start = file.tell()
        whole = FilePart(file, start).make_body(None).length or 0
        return whole, _parts_of_file(file, start, whole, _size_of_parts(whole, part_size))
    return None, _parts_of_stream(body, part_size)


def _size_of_parts(size: int, part_size: int) -> int:
    """Return how large the parts of *size* bytes are: larger than *part_size* if they must be."""
    if size <= part_size * MAX_PARTS:
        return part_size
    return -(-size // MAX_PARTS // _MIB) * _MIB


def _can_seek(file: SeekableBinary) -> bool:
    seekable = getattr(file, "seekable", None)
    if callable(seekable):
        return bool(seekable())
    return hasattr(file, "seek") and hasattr(file, "tell")


def _parts_in_memory(data: memoryview, part_size: int) -> Iterator[BodyLike]:
    for start in range(0, len(data), part_size):
        yield data[start : start + part_size]


def _parts_of_file(
    file: SeekableBinary, start: int, size: int, part_size: int
) -> Iterator[BodyLike]:
    for offset in range(0, size, part_size):
        yield FilePart(file, start + offset, min(part_size, size - offset))


def _parts_of_stream(body: BodyLike, part_size: int) -> Iterator[BodyLike]:
    made = request_body(body)
    assert made is not None
    made.rewind()
    try:
        part = bytearray()
        for piece in made.pieces():
            start = 0
            while start < len(piece):
                end = start + part_size - len(part)
                part += piece[start:end]
                start = end
                if len(part) == part_size:
                    yield bytes(part)
                    part.clear()
        if part:
            yield bytes(part)
    finally:
        made.end_sending()
