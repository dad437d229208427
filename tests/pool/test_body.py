"""Request bodies: what may be one, what is known of it, and its bytes, once and again."""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import mmap
import os
import socket
import tempfile
import tracemalloc
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dugong.pool.body import (
    BodyLike,
    RequestBody,
    can_be_sent_again,
    cut_short,
    request_body,
)
from dugong.pool.oneshot import rememberable

PIECE = 256 * 1024  # bytes; the largest piece there is
INVERSE = bytes(range(255, -1, -1))
LARGE = Random(4).randbytes(2 * PIECE + 1000)


def made_of(body: BodyLike, content_length: int | None = None) -> RequestBody:
    made = request_body(body, content_length)
    assert made is not None
    return made


def send(body: RequestBody) -> bytes:
    """Do as the sender does: use each piece before the next is asked for."""
    sent = bytearray()
    try:
        body.rewind()
        for piece in body.pieces():
            assert 0 < piece.nbytes <= PIECE
            assert (piece.format, piece.ndim) == ("B", 1)
            sent += piece
    finally:
        body.end_sending()
    return bytes(sent)


class OnlyReads:
    """Has nothing of a file but ``read(n)``."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int, /) -> bytes:
        return self._file.read(size)


class Seeks(OnlyReads):
    """A file by its methods only, as the wrappers of `tempfile` are."""

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that holds LARGE."""
    path = tmp_path / "file"
    path.write_bytes(LARGE)
    return path


# --- in memory ------------------------------------------------------------------------------------


def test_no_body_is_none() -> None:
    assert request_body(None, None) is None
    assert request_body(None, 0) is None


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_is_in_memory_is_known_and_not_copied(kind: Callable[[bytes], Any]) -> None:
    data = kind(LARGE)
    body = made_of(data)
    assert body.length == len(LARGE)
    assert body.data is not None
    assert body.data.obj is memoryview(data).obj
    assert body.file_range is None
    pieces = list(body.pieces())
    assert [piece.nbytes for piece in pieces] == [PIECE, PIECE, 1000]
    assert all(piece.obj is memoryview(data).obj for piece in pieces)
    assert send(body) == send(body) == LARGE


def test_an_empty_body_has_length_zero() -> None:
    body = made_of(b"")
    assert body.length == 0
    assert body.data is not None
    assert body.data.nbytes == 0
    assert send(body) == b""


def test_the_length_is_in_bytes_whatever_the_items_are() -> None:
    numbers = array("i", [1, 2, 3])
    body = made_of(memoryview(numbers))
    assert body.length == 3 * numbers.itemsize
    assert send(body) == numbers.tobytes()


def test_a_mapped_file_is_in_memory(path: Path) -> None:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        body = made_of(mapped)
        assert body.data is not None
        assert send(body) == LARGE
        del body


def test_a_bytearray_cannot_change_its_size_while_it_is_a_body() -> None:
    data = bytearray(b"data")
    body = made_of(data)
    with pytest.raises(BufferError):
        data.clear()
    del body
    data.clear()


def test_a_body_that_waits_is_hardly_larger_than_its_bytes() -> None:
    data = b"data"
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        bodies = [made_of(data) for _ in range(1000)]
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert (after - before) / len(bodies) < 80


# --- regular files --------------------------------------------------------------------------------


@pytest.fixture(params=[0, -1], ids=["unbuffered", "buffered"])
def file(request: pytest.FixtureRequest, path: Path) -> Iterator[Any]:
    with open(path, "rb", buffering=request.param) as file:
        yield file


def test_a_file_is_a_body_from_where_it_stands_to_its_end(file: Any) -> None:
    assert file.read(10) == LARGE[:10]
    body = made_of(file)
    assert body.length == len(LARGE) - 10
    assert body.data is None
    assert body.file_range == (file.fileno(), 10, len(LARGE) - 10)
    assert send(body) == LARGE[10:]


def test_sending_does_not_move_a_file_that_others_may_use_meanwhile(file: Any) -> None:
    file.seek(5)
    first = made_of(file)
    first.rewind()
    begun = first.pieces()
    assert next(begun) == LARGE[5 : 5 + PIECE]
    assert file.tell() == 5
    file.seek(7)
    assert send(made_of(file)) == LARGE[7:]
    assert next(begun) == LARGE[5 + PIECE : 5 + 2 * PIECE]
    assert send(first) == send(first) == LARGE[5:]


def test_the_pieces_of_a_file_share_one_buffer(file: Any) -> None:
    assert len({id(piece.obj) for piece in made_of(file).pieces()}) == 1


def test_an_empty_file_is_an_empty_body(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with open(tmp_path / "empty", "rb") as file:
        body = made_of(file)
        assert body.length == 0
        assert body.file_range is None
        assert send(body) == b""


def test_behind_the_end_of_a_file_there_is_nothing(file: Any) -> None:
    file.seek(len(LARGE) + 10)
    assert made_of(file).length == 0


def test_a_file_that_grows_is_sent_as_it_was(path: Path, file: Any) -> None:
    body = made_of(file)
    with open(path, "ab") as other:
        other.write(b"more")
    assert send(body) == LARGE


def test_a_file_that_shrinks_is_an_error_that_says_by_how_much(path: Path, file: Any) -> None:
    body = made_of(file)
    os.truncate(path, len(LARGE) - 1234)
    with pytest.raises(ValueError, match="1234 bytes"):
        send(body)


def test_what_was_written_to_a_file_and_not_flushed_is_sent(tmp_path: Path) -> None:
    with open(tmp_path / "file", "w+b") as file:
        file.write(b"0123456789")
        file.seek(0)
        file.read(4)
        file.seek(0)
        file.write(b"x")
        file.seek(0)  # which stays within the buffer, and does not flush
        assert send(made_of(file)) == b"x123456789"


def test_a_file_is_not_closed(file: Any) -> None:
    body = made_of(file)
    send(body)
    del body
    assert not file.closed


def test_a_file_that_was_closed_before_it_was_sent_is_an_error(file: Any) -> None:
    body = made_of(file)
    begun = body.pieces()
    next(begun)
    file.close()
    with pytest.raises(ValueError, match="closed"):
        next(begun)
    with pytest.raises(ValueError, match="closed"):
        send(body)
    with pytest.raises(ValueError, match="closed"):
        _ = body.file_range


@pytest.mark.skipif(not os.path.exists("/proc/version"), reason="there is no /proc")
def test_a_file_that_has_bytes_but_no_size_is_not_taken_for_an_empty_one() -> None:
    with open("/proc/version", "rb") as file:
        body = made_of(file)
        assert body.length is None
        assert body.file_range is None
        assert send(body) == Path("/proc/version").read_bytes()


# --- other files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [io.BytesIO, Seeks])
def test_a_file_that_can_seek_is_sent_again_from_where_it_stood(
    kind: Callable[[bytes], Any],
) -> None:
    file = kind(LARGE)
    file.seek(10)
    body = made_of(file)
    assert file.tell() == 10
    assert body.length == len(LARGE) - 10
    assert body.data is None
    assert body.file_range is None
    file.seek(3)
    assert send(body) == LARGE[10:]
    assert send(body) == LARGE[10:]
    assert file.tell() == 10


@pytest.mark.parametrize("kind", [io.BytesIO, Seeks])
def test_a_file_is_left_where_it_stood_however_far_it_was_sent(
    kind: Callable[[bytes], Any],
) -> None:
    file = kind(LARGE)
    file.seek(10)
    body = made_of(file)
    body.rewind()
    next(body.pieces())
    body.end_sending()
    assert send(made_of(file)) == LARGE[10:]


@pytest.mark.parametrize("kind", [io.BytesIO, Seeks])
def test_several_bodies_of_one_file_may_be_sent_at_the_same_time(
    kind: Callable[[bytes], Any],
) -> None:
    file = kind(LARGE)
    file.seek(10)
    bodies = [made_of(file), made_of(file)]
    for body in bodies:
        body.rewind()
    sendings = [body.pieces() for body in bodies]
    firsts = [bytes(next(sending)) for sending in sendings]
    late = made_of(file)  # when the file stands in its middle
    assert late.length == len(LARGE) - 10
    for body, sending, first in zip(bodies, sendings, firsts, strict=True):
        assert first + b"".join(map(bytes, sending)) == LARGE[10:]
        body.end_sending()
    assert send(late) == LARGE[10:]
    assert file.tell() == 10


def test_that_a_file_cannot_be_left_where_it_stood_harms_nothing_that_was_sent() -> None:
    file = io.BytesIO(LARGE)
    body = made_of(file)
    body.rewind()
    sent = b"".join(bytes(piece) for piece in body.pieces())
    file.close()
    body.end_sending()
    assert sent == LARGE


def test_the_size_of_a_compressed_file_is_not_that_of_its_contents(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "file", "wb") as file:
        file.write(bytes(LARGE))
    with gzip.open(tmp_path / "file", "rb") as file:
        body = made_of(file)
        assert body.length == len(LARGE)
        assert body.file_range is None
        assert send(body) == LARGE


class _Inverting:
    """What ``read(n)`` gives is not what the descriptor holds."""

    def read(self, size: int | None = -1, /) -> bytes:
        data: bytes = super().read(size)  # type: ignore[misc]
        return data.translate(INVERSE)


class InvertingFile(_Inverting, io.FileIO):
    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class InvertingReader(_Inverting, io.BufferedReader):
    pass


@pytest.mark.parametrize(
    "kind",
    [
        InvertingFile,
        lambda path: InvertingReader(io.FileIO(path)),
        lambda path: io.BufferedReader(InvertingFile(path)),
    ],
    ids=["raw", "buffered", "raw below"],
)
def test_a_subclass_that_gives_other_bytes_than_the_disk_is_read(
    kind: Callable[[Path], Any], path: Path
) -> None:
    with kind(path) as file:
        body = made_of(file)
        assert body.length == len(LARGE)
        assert body.file_range is None
        assert send(body) == LARGE.translate(INVERSE)


def test_a_file_that_says_it_cannot_seek_is_not_sought() -> None:
    class Unseekable(io.BytesIO):
        def seekable(self) -> bool:
            return False

    body = made_of(Unseekable(LARGE))
    assert body.length is None
    assert send(body) == LARGE
    assert not body.rewindable
    with pytest.raises(ValueError, match="rewound"):
        body.rewind()


def test_temporary_files_are_files() -> None:
    with (
        tempfile.NamedTemporaryFile() as named,
        tempfile.TemporaryFile() as unnamed,
        tempfile.SpooledTemporaryFile() as spooled,
    ):
        for file in (named, unnamed, spooled):
            file.write(b"data")
            file.seek(1)
            body = made_of(file)
            assert body.length == 3
            assert send(body) == send(body) == b"ata"


def test_what_only_reads_has_no_known_length_and_is_sent_once() -> None:
    body = made_of(OnlyReads(LARGE))
    assert body.length is None
    assert body.data is None
    assert body.file_range is None
    body.rewind()
    body.rewind()  # nothing has been taken yet
    assert send(body) == LARGE
    assert not body.rewindable
    with pytest.raises(ValueError, match="rewound"):
        body.rewind()


def test_what_has_come_through_a_pipe_is_sent_though_there_is_no_more_yet() -> None:
    receiver, sender = os.pipe()
    with open(receiver, "rb") as file, open(sender, "wb", buffering=0) as writer:
        body = made_of(file)
        assert body.length is None
        pieces = body.pieces()
        writer.write(b"first")
        assert bytes(next(pieces)) == b"first"
        writer.write(b"second")
        assert bytes(next(pieces)) == b"second"
        writer.close()
        assert next(pieces, None) is None
        assert not body.rewindable
        with pytest.raises(ValueError, match="rewound"):
            body.rewind()


def test_no_more_than_the_declared_length_is_read_of_a_stream() -> None:
    receiver, sender = os.pipe()
    with open(receiver, "rb", buffering=0) as file, open(sender, "wb", buffering=0) as writer:
        writer.write(b"0123456789")
        assert send(made_of(file, 4)) == b"0123"
        assert file.read(10) == b"456789"


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="there is no /dev/zero")
def test_a_device_that_never_ends_is_no_empty_file() -> None:
    with open("/dev/zero", "rb") as file:
        assert made_of(file).length is None
        assert send(made_of(file, PIECE + 1)) == bytes(PIECE + 1)


def test_a_stream_that_ends_before_its_declared_length_is_an_error() -> None:
    body = made_of(OnlyReads(b"0123456789"), 17)
    assert body.length == 17
    with pytest.raises(ValueError, match="7 bytes"):
        send(body)


def test_a_file_that_would_block_is_not_taken_for_one_that_has_ended() -> None:
    receiver, sender = os.pipe()
    os.set_blocking(receiver, False)
    with (
        open(receiver, "rb", buffering=0) as file,
        open(sender, "wb"),
        pytest.raises(ValueError, match="non-blocking"),
    ):
        send(made_of(file))


def test_a_socket_can_be_passed_on() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("rb") as file:
        theirs.sendall(b"data")
        theirs.shutdown(socket.SHUT_WR)
        body = made_of(file)
        assert body.length is None
        assert send(body) == b"data"


# --- iterables ------------------------------------------------------------------------------------


def test_an_iterable_has_no_known_length_unless_it_is_declared() -> None:
    assert made_of([b"ab", b"c"]).length is None
    assert made_of([b"ab", b"c"], 3).length == 3
    assert made_of([b"ab", b"c"]).data is None
    assert made_of([b"ab", b"c"]).file_range is None


@pytest.mark.parametrize("length", [None, 10])
def test_the_items_of_an_iterable_are_sent_as_they_come(length: int | None) -> None:
    asked: list[int] = []

    def items() -> Iterator[bytes]:
        for i in range(1, 5):
            asked.append(i)
            yield bytes([i]) * i

    body = made_of(items(), length)
    body.rewind()
    assert asked == []
    for sent, piece in enumerate(body.pieces(), 1):
        assert piece == bytes([sent]) * sent
        assert asked == list(range(1, sent + 1))
    assert asked == [1, 2, 3, 4]


def test_all_kinds_of_bytes_may_be_mixed_and_empty_ones_are_left_out() -> None:
    items: list[bytes | bytearray | memoryview]
    items = [b"", b"a", bytearray(b"b"), memoryview(b""), memoryview(b"xcx")[1:2], b""]
    assert send(made_of(items)) == b"abc"


def test_a_large_item_is_cut() -> None:
    assert send(made_of([LARGE])) == LARGE  # which looks at the size of each piece


def test_what_can_be_iterated_again_can_be_sent_again() -> None:
    body = made_of([b"ab", b"c"])
    body.rewind()
    assert bytes(next(body.pieces())) == b"ab"
    assert send(body) == send(body) == b"abc"


def test_an_iterator_that_was_begun_cannot_be_sent_again() -> None:
    body = made_of(iter([b"ab", b"c"]))
    body.rewind()
    body.rewind()
    assert bytes(next(body.pieces())) == b"ab"
    assert not body.rewindable
    with pytest.raises(ValueError, match="rewound"):
        body.rewind()


def test_an_iterator_may_reuse_its_buffer() -> None:
    def items() -> Iterator[bytearray]:
        buffer = bytearray()
        for i in range(3):
            buffer.clear()  # impossible while anybody has a view of it
            buffer.extend(b"%d" % i * PIECE * 2)
            yield buffer

    assert send(made_of(items())) == b"0" * PIECE * 2 + b"1" * PIECE * 2 + b"2" * PIECE * 2


def test_an_iterable_that_ends_before_its_declared_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="4 bytes"):
        send(made_of([b"ab", b"", b"c"], 7))


@pytest.mark.parametrize("items", [[b"ab", b"cd"], [b"abc", b"", b"d"], [b"abcd"]], ids=str)
def test_of_an_iterable_that_goes_on_no_more_is_sent_than_was_declared(items: list[bytes]) -> None:
    sent = 0
    with pytest.raises(ValueError, match="longer than its length of 3"):  # noqa: PT012
        for piece in made_of(items, 3).pieces():
            sent += piece.nbytes
    assert sent <= 3


@pytest.mark.parametrize("items", [["text"], [b"a", 1], [None], "t"], ids=str)
def test_an_item_that_is_not_bytes_is_a_type_error(items: Iterable[Any]) -> None:
    with pytest.raises(TypeError, match="not a bytes-like object"):
        send(made_of(iter(items)))


def test_what_an_iterable_raises_comes_through() -> None:
    def items() -> Iterator[bytes]:
        yield b"a"
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        send(made_of(items()))


# --- what was used by an earlier request ----------------------------------------------------------


class Iterating:
    """An iterator of a class of its own."""

    def __init__(self) -> None:
        self._items = iter([b"ab", b"c"])

    def __iter__(self) -> Iterating:
        return self

    def __next__(self) -> bytes:
        return next(self._items)


class Same:
    """No iterator, but it can be iterated only once."""

    def __init__(self, items: Iterator[bytes]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[bytes]:
        return self._items


def pipe_with(data: bytes) -> Any:
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    return open(reader, "rb")


REMEMBERED: dict[str, Callable[[], Any]] = {
    "a generator": lambda: (item for item in [b"ab", b"c"]),
    "an iterator": Iterating,
    "a pipe": lambda: pipe_with(b"abc"),
    "a reader": lambda: OnlyReads(b"abc"),
    "a socket": lambda: socket_with(b"abc"),
}


@contextlib.contextmanager
def closing(body: Any) -> Iterator[Any]:
    yield body
    if hasattr(body, "close"):
        body.close()


def socket_with(data: bytes) -> Any:
    here, there = socket.socketpair()
    with here, there:
        there.sendall(data)
        return here.makefile("rb")


@pytest.mark.parametrize("kind", REMEMBERED)
def test_what_was_used_up_is_refused_at_once(kind: str) -> None:
    with closing(REMEMBERED[kind]()) as body:
        assert send(made_of(body)) == b"abc"
        with pytest.raises(ValueError, match="an earlier request has used it"):
            request_body(body)
        with pytest.raises(ValueError, match="an earlier request has used it"):
            request_body(body, 3)


@pytest.mark.parametrize("kind", REMEMBERED)
def test_what_was_used_up_after_the_request_was_made_is_not_sent_as_an_empty_body(
    kind: str,
) -> None:
    with closing(REMEMBERED[kind]()) as body:
        first, second = made_of(body), made_of(body)
        assert send(first) == b"abc"
        with pytest.raises(ValueError, match="an earlier request has used it"):
            send(second)


@pytest.mark.parametrize("kind", ["a generator", "an iterator", "a pipe"])
def test_what_another_request_has_begun_is_refused(kind: str) -> None:
    with closing(REMEMBERED[kind]()) as body:
        pieces = made_of(body).pieces()
        next(pieces)
        with pytest.raises(ValueError, match="an earlier request has used it"):
            request_body(body)


def test_a_generator_that_has_ended_is_refused_whatever_has_used_it() -> None:
    body = (item for item in [b"ab", b"c"])
    assert list(body) == [b"ab", b"c"]
    with pytest.raises(ValueError, match="an earlier request has used it"):
        request_body(body)


def test_a_generator_that_the_caller_has_begun_is_sent_from_there() -> None:
    body = (item for item in [b"ab", b"c"])
    next(body)
    assert send(made_of(body)) == b"c"


def test_what_is_not_sent_is_not_used() -> None:
    body = (item for item in [b"ab", b"c"])
    made_of(body).release()
    assert send(made_of(body)) == b"abc"


@pytest.mark.parametrize(
    "make",
    [
        lambda: map(bytes, [b"ab", b"c"]),
        lambda: iter([b"ab", b"c"]),
        lambda: itertools.chain([b"ab"], [b"c"]),
    ],
)
def test_what_cannot_be_remembered_must_give_something(make: Callable[[], Any]) -> None:
    body = make()
    assert send(made_of(body)) == b"abc"
    with pytest.raises(ValueError, match="an earlier request may have used it"):
        send(made_of(body))
    assert send(made_of(body, 0)) == b""


def test_what_stands_for_an_iterator_is_remembered() -> None:
    body: Any = rememberable(map(bytes, [b"ab", b"c"]))
    assert send(made_of(body)) == b"abc"
    with pytest.raises(ValueError, match="an earlier request has used it"):
        request_body(body)


@pytest.mark.parametrize(
    "items",
    [lambda: (item for item in [b"ab", b"c"]), lambda: map(bytes, [b"ab", b"c"])],
    ids=["a generator", "what cannot be remembered"],
)
def test_an_iterable_that_gives_the_same_iterator_again_cannot_be_sent_again(
    items: Callable[[], Iterator[bytes]],
) -> None:
    body = Same(items())
    assert send(made_of(body)) == b"abc"
    with pytest.raises(ValueError, match="an earlier request has used it"):
        send(made_of(body))


def test_an_iterable_that_gives_an_iterator_which_was_used_must_give_something() -> None:
    items = map(bytes, [b"ab", b"c"])
    assert list(items) == [b"ab", b"c"]
    with pytest.raises(ValueError, match="an earlier request may have used it"):
        send(made_of(Same(items)))


@pytest.mark.parametrize("body", [[], (), {}.keys()])
def test_an_iterable_that_is_empty_each_time_is_an_empty_body(body: Any) -> None:
    assert send(made_of(body)) == send(made_of(body)) == b""


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="there is no /proc")
@pytest.mark.parametrize("buffering", [-1, 0])
def test_a_file_of_unknown_size_that_was_used_up_is_refused_at_once(buffering: int) -> None:
    with open("/proc/self/stat", "rb", buffering) as body:
        assert send(made_of(body))
        with pytest.raises(ValueError, match="an earlier request has used it"):
            request_body(body)


def test_a_callable_that_returns_what_was_used_up_makes_no_empty_body() -> None:
    items = (item for item in [b"ab", b"c"])
    body = made_of(lambda: items)
    assert send(body) == b"abc"
    with pytest.raises(ValueError, match="an earlier request has used it"):
        send(body)


@pytest.mark.parametrize("kind", ["a pipe", "a reader", "a socket"])
def test_requests_may_share_a_stream_if_each_says_how_much_is_its_own(kind: str) -> None:
    with closing(REMEMBERED[kind]()) as body:
        assert send(made_of(body, 2)) == b"ab"
        assert send(made_of(body, 1)) == b"c"
        with pytest.raises(ValueError, match="1 bytes short"):
            send(made_of(body, 1))
        with pytest.raises(ValueError, match="an earlier request has used it"):
            request_body(body)


@pytest.mark.parametrize("kind", ["a pipe", "a reader", "a socket"])
def test_requests_do_not_take_their_parts_of_a_stream_at_the_same_time(kind: str) -> None:
    with closing(REMEMBERED[kind]()) as stream:
        first, second, third = (made_of(stream, 1) for _ in range(3))
        first.rewind()
        assert [bytes(piece) for piece in first.pieces()] == [b"a"]
        with pytest.raises(ValueError, match="another request is reading the body"):
            send(second)
        first.end_sending()
        assert send(third) == b"b"


def test_a_file_that_can_be_sought_is_sent_from_where_it_stands_even_at_its_end() -> None:
    body = io.BytesIO(b"abc")
    assert send(made_of(body)) == send(made_of(body)) == b"abc"
    body.seek(0, os.SEEK_END)
    assert send(made_of(body)) == b""


@pytest.mark.parametrize(
    "body", [b"abc", [b"ab", b"c"], io.BytesIO(b"abc"), Seeks(b"abc"), lambda: iter([b"abc"])]
)
def test_another_request_can_send_again_what_gives_the_same_each_time(body: Any) -> None:
    assert can_be_sent_again(body)
    assert send(made_of(body)) == b"abc"
    assert can_be_sent_again(body)
    assert send(made_of(body)) == b"abc"


def test_no_body_can_be_sent_again() -> None:
    assert can_be_sent_again(None)


def test_whether_a_body_can_be_sent_again_does_not_call_it() -> None:
    def make() -> bytes:
        raise AssertionError("called")

    assert can_be_sent_again(make)


@pytest.mark.parametrize("kind", REMEMBERED)
def test_another_request_cannot_send_again_what_was_used(kind: str) -> None:
    with closing(REMEMBERED[kind]()) as body:
        assert send(made_of(body)) == b"abc"
        assert not can_be_sent_again(body)


@pytest.mark.parametrize("kind", ["a generator", "an iterator"])
def test_another_request_can_send_an_iterator_of_which_nothing_was_taken(kind: str) -> None:
    body = REMEMBERED[kind]()
    made_of(body)
    assert can_be_sent_again(body)


@pytest.mark.parametrize("kind", ["a pipe", "a reader", "a socket"])
def test_another_request_cannot_send_a_stream_for_what_was_taken_of_it_is_not_known(
    kind: str,
) -> None:
    with closing(REMEMBERED[kind]()) as body:
        assert not can_be_sent_again(body)


def test_another_request_cannot_send_an_iterator_that_cannot_be_remembered() -> None:
    assert not can_be_sent_again(map(bytes, [b"abc"]))


def test_another_request_cannot_send_a_file_that_was_closed(path: Path) -> None:
    with open(path, "rb") as file:
        assert can_be_sent_again(file)
    assert not can_be_sent_again(file)


# --- callables ------------------------------------------------------------------------------------


class Factory:
    """Makes a file with *data* whenever it is called, and keeps them all."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.made: list[io.BytesIO] = []

    def __call__(self) -> io.BytesIO:
        self.made.append(io.BytesIO(self._data))
        return self.made[-1]


def test_a_callable_is_not_called_before_its_body_is_sent() -> None:
    make = Factory(b"data")
    body = made_of(make)
    assert (body.length, body.data, body.file_range, body.rewindable) == (None, None, None, True)
    assert make.made == []


def test_a_callable_is_called_before_each_sending_and_its_result_closed_afterwards() -> None:
    make = Factory(LARGE)
    body = made_of(make)
    for count in (1, 2):
        body.rewind()
        assert len(make.made) == count
        assert b"".join(map(bytes, body.pieces())) == LARGE
        assert not make.made[-1].closed
        body.end_sending()
        assert make.made[-1].closed
        assert body.rewindable


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"data",
        lambda: bytearray(b"data"),
        lambda: io.BytesIO(b"data"),
        lambda: OnlyReads(b"data"),
        lambda: [b"da", b"ta"],
        lambda: (piece for piece in [b"da", b"ta"]),
    ],
)
@pytest.mark.parametrize("length", [None, 4])
def test_a_callable_may_return_whatever_is_a_body(make: Any, length: int | None) -> None:
    body = made_of(make, length)
    assert body.length == length
    assert [send(body), send(body)] == [b"data", b"data"]


def test_a_file_that_a_callable_opens_is_one_for_the_system_only_if_its_length_is_known(
    path: Path,
) -> None:
    for length in (None, len(LARGE)):
        body = made_of(lambda: path.open("rb"), length)
        body.rewind()
        given = None if body.file_range is None else body.file_range[1:]
        assert given == (None if length is None else (0, length))
        body.end_sending()
        assert body.file_range is None


@pytest.mark.parametrize("length", [0, 3, 5])
@pytest.mark.parametrize(
    "make", [lambda: b"data", lambda: io.BytesIO(b"data")], ids=["bytes", "a file"]
)
def test_a_length_that_contradicts_what_a_callable_returns_is_an_error_when_it_does(
    make: Any, length: int
) -> None:
    body = made_of(make, length)
    with pytest.raises(ValueError, match=f"Content-Length {length} contradicts a body of 4 bytes"):
        send(body)


@pytest.mark.parametrize(
    ("items", "match"), [([b"dat"], "1 bytes short of"), ([b"data", b"s"], "longer than")]
)
def test_a_length_that_contradicts_the_items_of_what_a_callable_returns_is_one_too(
    items: list[bytes], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        send(made_of(lambda: iter(items), 4))


@pytest.mark.parametrize(
    ("result", "match"),
    [
        (None, "the callable for the body has returned None"),
        (len, "has returned <built-in function len>"),
        ("text", "encode it first"),
        ({"a": b"b"}, "not dict"),
    ],
)
def test_what_cannot_be_a_body_is_a_type_error_when_a_callable_returns_it(
    result: Any, match: str
) -> None:
    with pytest.raises(TypeError, match=match):
        send(made_of(lambda: result))


def test_what_a_callable_returned_is_closed_even_if_it_is_no_body() -> None:
    class Unreadable:
        closed = False

        def close(self) -> None:
            self.closed = True

    given = Unreadable()
    with pytest.raises(TypeError):
        send(made_of(lambda: given))  # type: ignore[arg-type, return-value]
    assert given.closed


def test_what_a_callable_raises_comes_through_and_it_may_be_called_again() -> None:
    results: list[Callable[[], bytes]] = [lambda: b"data", lambda: b"%d" % (1 // 0)]
    body = made_of(lambda: results.pop()())
    with pytest.raises(ZeroDivisionError):
        send(body)
    assert body.rewindable
    assert send(body) == b"data"


def test_what_was_not_made_need_not_be_closed() -> None:
    made_of(Factory(b"data")).end_sending()


def test_what_can_be_read_or_iterated_is_not_called() -> None:
    class CallableFile(io.BytesIO):
        def __call__(self) -> bytes:
            raise AssertionError("this is a file")

    class CallableList(list[bytes]):
        def __call__(self) -> bytes:
            raise AssertionError("this is a list")

    assert send(made_of(CallableFile(b"data"))) == b"data"
    assert send(made_of(CallableList([b"da", b"ta"]))) == b"data"


def test_what_the_caller_gave_himself_is_not_closed_after_it_was_sent() -> None:
    file = io.BytesIO(b"data")
    send(made_of(file))
    assert not file.closed


# --- what cannot be a body ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "text",
        {"a": b"b"},
        5,
        object(),
        io.StringIO("text"),
        memoryview(b"abcd")[::2],
    ],
    ids=lambda body: type(body).__name__,
)
def test_what_cannot_be_a_body_is_a_type_error_at_once(body: Any) -> None:
    with pytest.raises(TypeError):
        request_body(body, None)


def test_a_file_in_text_mode_is_a_type_error_at_once(path: Path) -> None:
    with open(path) as plain, tempfile.NamedTemporaryFile("w+") as wrapped:
        for file in (plain, wrapped):
            with pytest.raises(TypeError, match="binary mode"):
                request_body(file, None)  # type: ignore[arg-type]


def test_what_reads_text_is_a_type_error_when_it_is_read() -> None:
    class Text:
        def read(self, size: int, /) -> Any:
            return "text"

    with pytest.raises(TypeError, match="str"):
        send(made_of(Text()))


@pytest.mark.parametrize("buffering", [0, -1])
def test_a_file_that_cannot_be_read_is_an_error_at_once(tmp_path: Path, buffering: int) -> None:
    with (
        open(tmp_path / "file", "wb", buffering=buffering) as file,
        pytest.raises(ValueError, match="not open for reading"),
    ):
        request_body(file, None)


def test_a_closed_file_is_an_error_at_once(path: Path) -> None:
    with open(path, "rb") as file:
        pass
    with pytest.raises(ValueError, match="closed"):
        request_body(file, None)


@pytest.mark.parametrize("length", [0, 3, 5])
def test_a_content_length_that_contradicts_the_body_is_an_error(
    tmp_path: Path, length: int
) -> None:
    (tmp_path / "file").write_bytes(b"data")
    with open(tmp_path / "file", "rb") as file:
        for body in (b"data", bytearray(b"data"), io.BytesIO(b"data"), file):
            with pytest.raises(ValueError, match=f"Content-Length {length} contradicts"):
                request_body(body, length)
            assert made_of(body, 4).length == 4


def test_a_content_length_without_a_body_is_an_error() -> None:
    with pytest.raises(ValueError, match="contradicts"):
        request_body(None, 1)


def test_a_negative_content_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="negative"):
        request_body([b"data"], -1)


def test_the_error_for_what_is_missing_says_how_much() -> None:
    assert "5 bytes" in str(cut_short(5))
