"""Request bodies: what may be one, how long it is, and how to get at its bytes, once or again.

Guarantees: never one byte more than `length`, and fewer only with an exception; never is what an
earlier request has used up taken for an empty body. What the caller gave is not copied as a whole,
and not closed; what a callable of his returned is closed. `request_body` takes nothing from it. The
rest is for one thread at a time: the sender.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Protocol, cast

from dugong.pool.bodybase import (
    PIECE,
    BodyMaker,
    CountedBody,
    RequestBody,
    cut,
    cut_short,
    view_if_bytes_like,
)
from dugong.pool.oneshot import can_be_remembered, is_used, mark_used
from dugong.pool.sharedfile import SharedFile, share

__all__ = [
    "BodyLike",
    "PlainFile",
    "ReadableBinary",
    "RegularFileBody",
    "RequestBody",
    "can_be_sent_again",
    "check_file",
    "cut_short",
    "gave_nothing",
    "regular_size",
    "request_body",
    "used_up",
]


class ReadableBinary(Protocol):
    """What is needed of a binary file: ``read(n)`` gives at most n bytes, b"" at the end."""

    def read(self, size: int, /) -> bytes: ...


# What their descriptor holds is what their read() gives. It is not so for a GzipFile, nor for a
# subclass that counts what is read.
PlainFile = io.FileIO | io.BufferedReader | io.BufferedRandom
_PLAIN_FILES = (io.FileIO, io.BufferedReader, io.BufferedRandom)

BytesLike = bytes | bytearray | memoryview
_Once = BytesLike | ReadableBinary | Iterable[BytesLike] | BodyMaker
BodyLike = _Once | Callable[[], _Once]


def request_body(body: BodyLike | None, content_length: int | None = None) -> RequestBody | None:
    """Return what is to be sent for *body*: None, if it is None.

    It may be bytes-like; a binary file, or anything that has ``read(n)``, which is sent from where
    it stands; an iterable of bytes-like objects; a `BodyMaker`; or a callable that returns one of
    these, which is called before each sending, and whose result is closed if it can be.
    *content_length* is what the caller says of its size, in bytes. It must be true, which is found
    out now if the size is known, and else while the body is sent.

    Raises TypeError for what cannot be a body; ValueError for a file that cannot be read, for what
    can be read once and an earlier request has used, and for a *content_length* that is wrong; and
    OSError. May be called from any thread.
    """
    if content_length is not None and content_length < 0:
        raise ValueError(f"Content-Length must not be negative: {content_length}")
    made = None if body is None else _made_of(body, content_length)
    length = 0 if made is None else made.length
    if content_length is not None and content_length != length:
        raise ValueError(f"Content-Length {content_length} contradicts a body of {length} bytes")
    return made


def can_be_sent_again(body: BodyLike | None) -> bool:
    """Return True if another request with *body*, which was sent, would send the same bytes.

    Not so for a file that cannot be sought, such as a pipe, and for an iterator, unless nothing was
    taken of it: a response may have come before that.
    """
    try:
        made = request_body(body)
    except ValueError:
        return False
    return made is None or made.is_repeatable


def used_up() -> ValueError:
    """Return the error for a body that is gone."""
    return ValueError(
        "the body can be read only once, and an earlier request has used it: give each request its "
        "own, or a callable that makes one"
    )


def gave_nothing() -> ValueError:
    """Return the error for a body that may be gone, as it is empty."""
    return ValueError(
        "the body has given nothing, so an earlier request may have used it: give each request its "
        "own, and b'' for an empty body"
    )


def _not_empty(items: Iterator[object]) -> Iterator[object]:
    """Yield *items*, which may have been used; raise ValueError for none."""
    empty = True
    for item in items:
        empty = False
        yield item
    if empty:
        raise gave_nothing()


def _made_of(body: object, content_length: int | None) -> RequestBody:
    if type(body) is bytes:
        return _Bytes(body)
    if isinstance(body, str):
        raise TypeError("the body is a str; encode it first")
    if isinstance(body, BodyMaker):
        return body.make_body(content_length)
    if (data := view_if_bytes_like(body)) is not None:
        return _Bytes(data)
    if callable(getattr(body, "read", None)):
        return _made_of_file(cast(ReadableBinary, body), content_length)
    if isinstance(body, Iterable) and not isinstance(body, Mapping):
        if is_used(body):
            raise used_up()
        return _Items(body, content_length)
    if callable(body):
        return _Made(body, content_length)
    raise TypeError(
        "the body must be bytes-like, a binary file, an iterable of bytes-like objects, or a "
        f"callable that returns one, not {type(body).__name__}"
    )


class _Bytes(RequestBody):
    """In memory. There may be many thousands of these, waiting."""

    __slots__ = ("_bytes",)

    def __init__(self, data: bytes | memoryview) -> None:
        self._bytes = data  # not a view of it: that would be larger than most bodies

    @property
    def length(self) -> int:
        return len(self._bytes)

    @property
    def data(self) -> memoryview:
        return memoryview(self._bytes)

    def release(self) -> None:
        if isinstance(self._bytes, memoryview):
            self._bytes.release()  # else a bytearray could not change its size

    def pieces(self) -> Iterator[memoryview]:
        return cut(self.data)


class _Items(CountedBody):
    """An iterable of bytes-like objects."""

    __slots__ = ("_iterable",)

    def __init__(self, iterable: Iterable[object], length: int | None) -> None:
        super().__init__(length)
        self._iterable = iterable

    @property
    def rewindable(self) -> bool:
        return not self._taken or not isinstance(self._iterable, Iterator)

    @property
    def is_repeatable(self) -> bool:
        return not isinstance(self._iterable, Iterator) or can_be_remembered(self._iterable)

    def _items(self) -> Iterator[object]:
        iterable = self._iterable
        # What has been used since the request was made; or __iter__ gives the same each time.
        if is_used(iterable) or is_used(items := iter(iterable)):
            raise used_up()
        mark_used(items)
        is_known = can_be_remembered(items)
        # What gives the same iterator each time can be read only once, as that can.
        if isinstance(iterable, Iterator) or (not is_known and iter(iterable) is items):
            mark_used(iterable)
            if self._length is None and not is_known:
                return _not_empty(items)
        return items


class _Made(RequestBody):
    """Whatever a callable returns, made afresh for each sending."""

    __slots__ = ("_body", "_given", "_length", "_make")

    def __init__(self, make: Callable[[], object], length: int | None) -> None:
        self._make = make
        self._length = length
        self._given: object = None
        self._body: RequestBody | None = None

    @property
    def length(self) -> int | None:
        return self._length

    def declare(self, length: int | None) -> None:
        self._length = length

    @property
    def file_range(self) -> tuple[int, int, int] | None:
        # Without a length it goes in chunks, which the file is no part of.
        if self._body is None or self._length is None:
            return None
        return self._body.file_range

    def rewind(self) -> None:
        self._given = self._make()
        if self._given is None or callable(self._given):
            raise TypeError(f"the callable for the body has returned {self._given!r}")
        body = _made_of(self._given, self._length)
        if self._length is not None and body.length != self._length:
            raise ValueError(
                f"Content-Length {self._length} contradicts a body of {body.length} bytes"
            )
        self._body = body

    def end_sending(self) -> None:
        if self._body is not None:
            self._body.end_sending()
            self._body = None  # before what it has a view of is closed
        given, self._given = self._given, None
        close = getattr(given, "close", None)
        if callable(close):
            close()

    def interrupt(self) -> None:
        body = self._body
        if body is not None:
            body.interrupt()

    def pieces(self) -> Iterator[memoryview]:
        assert self._body is not None
        return self._body.pieces()


class _Stream(CountedBody):
    """A file that can be read once: a pipe, or anything that only has ``read(n)``."""

    __slots__ = ("_file", "_turn")

    def __init__(self, file: ReadableBinary, length: int | None) -> None:
        super().__init__(length)
        self._file = file
        self._turn: SharedFile | None = None  # while no other body may read it

    @property
    def rewindable(self) -> bool:
        return not self._taken

    @property
    def is_repeatable(self) -> bool:
        return False

    def _items(self) -> Iterator[object]:
        if is_used(self._file):
            raise used_up()
        turn = share(self._file)
        if not turn.begin_alone():
            raise ValueError(
                "another request is reading the body: send one part of it after the other, or give "
                "each request its own"
            )
        self._turn = turn
        if self._length is not None:
            return self._reads()  # more requests may follow, each with its part of the file
        mark_used(self._file)
        return self._reads() if can_be_remembered(self._file) else _not_empty(self._reads())

    def _reads(self) -> Iterator[object]:
        file = self._file
        # What has come through a pipe is sent now, not when there are 256 KiB of it.
        read: Callable[[int], object] = file.read1 if type(file) is io.BufferedReader else file.read
        left = self._length
        while left is None or left > 0:
            data = read(PIECE if left is None else min(left, PIECE))
            if data is None:
                raise _nothing_now()
            if not data:
                mark_used(file)
                break
            yield data
            if left is not None:
                left -= len(cast(bytes, data))

    def end_sending(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.end_alone()


class _Seekable(CountedBody):
    """A file that can be sent again: a BytesIO, or whatever else can tell and seek."""

    __slots__ = ("_is_open", "_shared", "_start")

    def __init__(self, shared: SharedFile, start: int, length: int) -> None:
        super().__init__(length)
        self._shared = shared  # never changes
        self._start = start  # never changes
        self._is_open = False  # it is being read

    def rewind(self) -> None:
        if not self._is_open:
            self._shared.begin_reading_on(self._start)
            self._is_open = True

    def _items(self) -> Iterator[object]:
        self.rewind()  # what a callable has returned was not
        offset = self._start
        end = offset + cast(int, self._length)
        while offset < end:
            data = self._shared.read_on(offset, min(PIECE, end - offset))
            if data is None:
                raise _nothing_now()
            if not data:
                break
            yield data
            offset += len(data)

    def end_sending(self) -> None:
        # If the file cannot be sought any more, the next request with it will find that out.
        if self._is_open:
            self._is_open = False
            with suppress(OSError, ValueError):
                self._shared.end_reading_on()


class RegularFileBody(CountedBody):
    """A part of a file on disk. Never uses the file's position, so that many may share the file."""

    __slots__ = ("_file", "_start")

    def __init__(self, file: PlainFile, start: int, length: int) -> None:
        super().__init__(length)
        self._file = file
        self._start = start

    @property
    def file_range(self) -> tuple[int, int, int] | None:
        count = cast(int, self._length)
        return (self._file.fileno(), self._start, count) if count else None

    def _items(self) -> Iterator[object]:
        offset = self._start
        end = offset + cast(int, self._length)
        buffer = memoryview(bytearray(min(PIECE, end - offset)))
        while offset < end:
            view = buffer[: end - offset]
            got = os.preadv(self._file.fileno(), [view], offset)
            if not got:
                break
            yield view[:got]
            offset += got


def _stream(file: ReadableBinary, content_length: int | None) -> _Stream:
    if is_used(file):
        raise used_up()
    return _Stream(file, content_length)


def _nothing_now() -> ValueError:
    return ValueError("the body is a non-blocking file, and has nothing to read now")


def check_file(file: ReadableBinary) -> None:
    """Raise TypeError if *file* is in text mode, and ValueError if it is not open for reading."""
    # A wrapper of a text file is known by its encoding, which no binary file has.
    if isinstance(file, io.TextIOBase) or isinstance(getattr(file, "encoding", None), str):
        raise TypeError("the body is a file in text mode; open it in binary mode")
    readable = getattr(file, "readable", None)
    if callable(readable) and not readable():
        raise ValueError("the body is a file that is not open for reading")


def regular_size(file: object) -> int | None:
    """Return the size in bytes of a regular file whose descriptor holds what it gives; else None.

    What has been written to it is counted.
    """
    status = _plain_status(file)
    return None if status is None or not stat.S_ISREG(status.st_mode) else status.st_size


def _plain_status(file: object) -> os.stat_result | None:
    if type(file) not in _PLAIN_FILES:
        return None
    plain = cast(PlainFile, file)
    raw = plain if isinstance(plain, io.FileIO) else plain.raw
    if type(raw) is not io.FileIO:
        return None
    plain.flush()
    return os.fstat(plain.fileno())


def _made_of_file(file: ReadableBinary, content_length: int | None) -> RequestBody:
    check_file(file)
    status = _plain_status(file)
    if status is None or stat.S_ISBLK(status.st_mode):
        return _made_of_seekable(file) or _stream(file, content_length)
    # The end of a disk can be sought; that of /dev/zero, too, though it has none.
    if not stat.S_ISREG(status.st_mode):
        return _stream(file, content_length)
    plain = cast(PlainFile, file)
    start = plain.tell()
    length = max(0, status.st_size - start)
    # As in /proc, where no size is known. When it has been read to its end, it looks empty.
    if length == 0 and (is_used(file) or os.pread(plain.fileno(), 1, start)):
        return _stream(file, content_length)
    return RegularFileBody(plain, start, length)


def _made_of_seekable(file: object) -> _Seekable | None:
    """Return a body that ends where *file* does, or None if it cannot be sought."""
    seekable = getattr(file, "seekable", None)
    if callable(seekable) and not seekable():
        return None
    shared = share(file)
    try:
        start, size = shared.extent()
    except (AttributeError, OSError):
        return None
    return _Seekable(shared, start, max(0, size - start))
