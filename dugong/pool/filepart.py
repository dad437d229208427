"""`FilePart`: a part of a file as the body of a request, or of several at a time.

Guarantees: the position of the file does not matter, and is where it was after each read; what is
sent is the bytes of the part, or the request fails. The file is not closed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, cast

from dugong.pool.body import PlainFile, RegularFileBody, check_file, regular_size
from dugong.pool.bodybase import PIECE, BodyMaker, CountedBody, RequestBody
from dugong.pool.checks import check_int
from dugong.pool.sharedfile import SeekableBinary, SharedFile, share

__all__ = ["FilePart"]


class FilePart(BodyMaker):
    """A part of a binary *file*, as a body.

    It begins *offset* bytes (0) after the beginning of the file, and has *length* bytes (None: all
    up to the end that the file has when a request is made). Several requests may send parts of one
    file at the same time, and each can be sent again. Without TLS the kernel sends a file on disk
    (``os.sendfile``). Any other file that can ``tell()`` and ``seek()``, such as a `io.BytesIO`, is
    read under a lock, which all parts of this file share; nothing else may use it meanwhile. The
    file must stay open until the requests are done.

    Raises TypeError for what is no binary file, and for an *offset* or *length* that is no int;
    ValueError if one of these is negative, if the part is not within the file, and if the file is
    closed, is not open for reading or cannot seek; and OSError. All but TypeError may be raised by
    a request as well, if the file has changed. A part never changes; any thread may use it. It can
    be copied and pickled if its file can.

    Attributes: the parameters as they were given.
    """

    __slots__ = ("_shared", "file", "length", "offset")

    def __init__(self, file: SeekableBinary, offset: int = 0, length: int | None = None) -> None:
        check_int("offset", offset, 0)
        if length is not None:
            check_int("length", length, 0)
        if not all(callable(getattr(file, name, None)) for name in ("read", "seek", "tell")):
            kind = type(file).__name__
            raise TypeError(f"a FilePart needs an open binary file that can seek, not {kind}")
        check_file(file)
        # None of these changes.
        self.file: SeekableBinary = file
        self.offset: int = offset
        self.length: int | None = length
        self._shared = share(file)
        self.make_body(None)  # raises now what a request would raise

    def make_body(self, content_length: int | None) -> RequestBody:
        """Return the body of one request: see `BodyMaker`."""
        size = regular_size(self.file)
        if size is not None:
            plain = cast(PlainFile, self.file)
            length = self._length_in(size)
            # As in /proc, where no size is known.
            if size == 0 and os.pread(plain.fileno(), 1, 0):
                raise ValueError("a FilePart needs a file whose size is known")
            return RegularFileBody(plain, self.offset, length)
        return _SharedFileBody(self._shared, self.offset, self._length_in(self._size()))

    def _size(self) -> int:
        """Return how many bytes the file has, which is not on disk."""
        seekable = getattr(self.file, "seekable", None)
        if callable(seekable) and not seekable():
            raise ValueError("a FilePart needs a file that can seek")
        return self._shared.extent()[1]

    def _length_in(self, size: int) -> int:
        """Return how many bytes it has of a file of *size* bytes."""
        length = max(0, size - self.offset) if self.length is None else self.length
        if self.offset + length > size:
            raise ValueError(f"the part ends beyond the end of the file, which has {size} bytes")
        return length

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.file, self.offset, self.length)


class _SharedFileBody(CountedBody):
    """A part of a file that is read under the lock of the file."""

    __slots__ = ("_shared", "_start")

    def __init__(self, shared: SharedFile, start: int, length: int) -> None:
        super().__init__(length)
        self._shared = shared
        self._start = start

    def _items(self) -> Iterator[object]:
        offset = self._start
        end = offset + cast(int, self._length)
        while offset < end and (data := self._shared.read(offset, min(PIECE, end - offset))):
            yield data
            offset += len(data)
