"""Content codings: how they are named, undone as a whole and as they come, and what is refused."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import random
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dugong
from dugong import Headers
from dugong.client.decoding import DecodedSource, accept_encoding, codings_of, decode
from dugong.errors import ConnectionClosed, ConnectionTimedOut, DecodingError, ResponseTooLarge

LIMIT = 64 * 1024 * 1024
MIB = 1024 * 1024
STEP = 32 * 1024  # what is decoded at a time


def deflated(data: bytes, wbits: int = zlib.MAX_WBITS) -> bytes:
    """Return *data* as zlib; with a negative *wbits*, without a header; with more than 15, gzip."""
    stream = zlib.compressobj(wbits=wbits)
    return stream.compress(data) + stream.flush()


def find_compress(*packages: str, **options: int) -> Callable[[bytes], bytes] | None:
    for package in packages:
        try:
            return partial(import_module(package).compress, **options)
        except ImportError:
            continue
    return None


COMPRESS = {
    "gzip": gzip.compress,
    "deflate": deflated,
    "br": find_compress("brotli", "brotlicffi", quality=5),
    "zstd": find_compress("compression.zstd", "backports.zstd", "zstandard"),
}
INSTALLED = [coding for coding, compress in COMPRESS.items() if compress is not None]


def needing(*codings: str) -> pytest.MarkDecorator:
    missing = set(codings) - set(INSTALLED)
    return pytest.mark.skipif(bool(missing), reason=f"no package for {missing}")


#: As a parameter of a test: each coding; those that may have several frames.
CODINGS = [pytest.param(coding, marks=needing(coding)) for coding in COMPRESS]
FRAMED = [pytest.param(coding, marks=needing(coding)) for coding in ("gzip", "zstd")]


def encoded(data: bytes, *codings: str) -> bytes:
    for coding in codings:
        compress = COMPRESS[coding]
        assert compress is not None
        data = compress(data)
    return data


class Pieces:
    """A body that comes in *pieces*; an exception among them is raised."""

    def __init__(self, *pieces: bytes | BaseException) -> None:
        self.pieces = list(pieces)
        self.was_read_to_its_end = False

    def read(self, size: int) -> bytes:
        if not self.pieces:
            self.was_read_to_its_end = True
            return b""
        piece = self.pieces.pop(0)
        if isinstance(piece, BaseException):
            raise piece
        if len(piece) > size:
            self.pieces.insert(0, piece[size:])
        return piece[:size]

    def readinto(self, view: memoryview) -> int:
        raise NotImplementedError


def cut(body: bytes, places: Sequence[int]) -> list[bytes]:
    """Cut *body* at *places*, into pieces that are not empty."""
    ends = sorted({place % (len(body) + 1) for place in places} | {len(body)})
    pieces = [body[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return [piece for piece in pieces if piece]


def bytes_of(body: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in body]


def pieces_of(source: DecodedSource, size: int = LIMIT) -> Iterator[bytes]:
    while piece := source.read(size):
        yield piece


def assert_decodes(body: bytes, codings: Sequence[str], data: bytes) -> None:
    """Assert that *body* decodes to *data*: whole, as a stream, and byte by byte."""
    codings = tuple(codings)
    assert decode(body, codings, LIMIT) == data
    for pieces in ([body], bytes_of(body)):
        assert b"".join(pieces_of(DecodedSource(Pieces(*pieces), codings))) == data


def assert_refused(body: bytes, codings: Sequence[str], match: str) -> None:
    """Assert that decoding *body* raises DecodingError: whole, as a stream, and byte by byte."""
    codings = tuple(codings)
    with pytest.raises(DecodingError, match=match):
        decode(body, codings, LIMIT)
    for pieces in ([body], bytes_of(body)):
        source = DecodedSource(Pieces(*pieces), codings)
        with pytest.raises(DecodingError, match=match):
            list(pieces_of(source))


# --- the fields ----------------------------------------------------------------------------------


def asked_for(*lines: str, path: Path | None = None) -> list[str]:
    """Return what is asked for by an interpreter whose only packages are in *path*."""
    program = "\n".join(
        (
            f"import sys; sys.path[:0] = {[str(Path(dugong.__file__).parents[1]), str(path)]!r}",
            "from dugong.client.decoding import accept_encoding",
            *lines,
            "print(accept_encoding())",
        )
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.strip().split(", ")


def test_only_what_can_be_decoded_is_asked_for() -> None:
    assert accept_encoding().split(", ") == INSTALLED


def test_python_alone_decodes_gzip_and_deflate() -> None:
    zstd = ["zstd"] if sys.version_info >= (3, 14) else []
    assert asked_for() == ["gzip", "deflate", *zstd]


@pytest.mark.parametrize(
    ("package", "coding"),
    [
        ("brotli", "br"),
        ("brotlicffi", "br"),
        ("zstandard", "zstd"),
        ("backports/zstd", "zstd"),
        ("compression/zstd", "zstd"),
    ],
)
def test_a_package_that_is_installed_is_found_and_not_imported(
    package: str, coding: str, tmp_path: Path
) -> None:
    (tmp_path / package).mkdir(parents=True)
    (tmp_path / package / "__init__.py").write_text("raise ZeroDivisionError")
    assert coding in asked_for(path=tmp_path)


@pytest.mark.parametrize(
    ("values", "codings"),
    [
        ([], ()),
        (["gzip"], ("gzip",)),
        (["GZip"], ("gzip",)),
        (["x-gzip"], ("gzip",)),
        (["identity"], ()),
        ([""], ()),
        ([" , ,"], ()),
        (["deflate, gzip"], ("deflate", "gzip")),
        (["deflate,identity,\tgzip ,"], ("deflate", "gzip")),
        (["deflate", "gzip, br"], ("deflate", "gzip", "br")),
        (["foo, gzip;q=1"], ("foo", "gzip;q=1")),
    ],
)
def test_the_codings_of_a_body_are_those_of_all_fields_in_their_order(
    values: list[str], codings: tuple[str, ...]
) -> None:
    fields = [("content-ENCODING", value) for value in values]
    assert codings_of(Headers([("Content-Type", "a/b"), *fields])) == codings


# --- what decodes --------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("size", [0, 1, 1000, STEP - 1, STEP, STEP + 1, 2 * STEP, 300_000])
@pytest.mark.parametrize("make", [bytes, random.Random(1).randbytes])
def test_a_body_decodes(coding: str, size: int, make: Callable[[int], bytes]) -> None:
    data = make(size)
    body = encoded(data, coding)
    assert decode(body, (coding,), LIMIT) == data
    assert b"".join(pieces_of(DecodedSource(Pieces(body), (coding,)))) == data


@pytest.mark.parametrize("coding", CODINGS)
def test_a_body_decodes_byte_by_byte(coding: str) -> None:
    assert_decodes(encoded(b"abc" * 1000, coding), [coding], b"abc" * 1000)


def test_codings_are_undone_in_reverse_order() -> None:
    assert_decodes(encoded(b"abc", "deflate", "gzip"), ["deflate", "gzip"], b"abc")


#: What is repeated how often, and in which codings.
PARTS = st.tuples(st.binary(), st.sampled_from([1, 10, 1000]))
STACKS = st.lists(st.sampled_from(INSTALLED), min_size=1, max_size=2).map(tuple)
PLACES = st.lists(st.integers(0, 2**20), max_size=10)


@given(PARTS, STACKS, PLACES, st.lists(st.sampled_from([1, 7, 1000, STEP, MIB]), min_size=1))
def test_any_split_of_any_coding_decodes_the_same(
    parts: tuple[bytes, int], codings: tuple[str, ...], places: list[int], sizes: list[int]
) -> None:
    data = parts[0] * parts[1]
    body = encoded(data, *codings)
    assert decode(body, codings, LIMIT) == data
    source = DecodedSource(Pieces(*cut(body, places)), codings)
    buffer = memoryview(bytearray(MIB))
    got = bytearray()
    for number, size in enumerate(itertools.cycle(sizes)):
        piece = source.read(size) if number % 2 else buffer[: source.readinto(buffer[:size])]
        assert len(piece) <= size
        if not piece:
            break
        got += piece
    assert got == data


@pytest.mark.parametrize("coding", CODINGS)
def test_no_bytes_decode_to_no_bytes(coding: str) -> None:
    assert_decodes(b"", [coding], b"")
    assert_decodes(b"", [coding, "gzip"], b"")


def test_a_body_without_codings_is_what_it_is() -> None:
    assert_decodes(b"abc", [], b"abc")


@pytest.mark.parametrize("codings", [("foo",), ("foo", "gzip"), ("gzip", "foo"), ("foo",) * 9])
def test_a_body_with_an_unknown_coding_is_left_as_it_is(codings: tuple[str, ...]) -> None:
    body = encoded(b"abc", "gzip")
    assert_decodes(body, codings, body)


@pytest.mark.parametrize("coding", FRAMED)
def test_several_frames_are_one_body(coding: str) -> None:
    parts = [b"a" * 50_000, b"", b"b", b""]
    assert_decodes(b"".join(encoded(part, coding) for part in parts), [coding], b"".join(parts))


@needing("zstd")
def test_a_zstd_frame_that_is_to_be_skipped_is_skipped() -> None:
    skipped = b"\x53\x2a\x4d\x18\x03\0\0\0abc"
    assert_decodes(skipped + encoded(b"x", "zstd") + skipped, ["zstd"], b"x")


@pytest.mark.parametrize("zeros", [1, 511, 100_000])
def test_zeros_behind_gzip_are_padding(zeros: int) -> None:
    assert_decodes(encoded(b"abc", "gzip") + bytes(zeros), ["gzip"], b"abc")


@pytest.mark.parametrize("level", range(10))
def test_deflate_may_lack_its_header(level: int) -> None:
    for data in (b"", b"x", b"abc" * 1000, random.Random(level).randbytes(1000)):
        stream = zlib.compressobj(level, wbits=-15)
        assert_decodes(stream.compress(data) + stream.flush(), ["deflate"], data)


@pytest.mark.parametrize("wbits", range(9, 16))
def test_deflate_may_have_any_window(wbits: int) -> None:
    assert_decodes(deflated(b"abc" * 1000, wbits), ["deflate"], b"abc" * 1000)
    assert_decodes(deflated(b"abc" * 1000, -wbits), ["deflate"], b"abc" * 1000)


def test_threads_may_decode_at_once() -> None:
    data = [random.Random(number).randbytes(10_000) * 10 for number in range(4)]
    codings = INSTALLED * 5
    with ThreadPoolExecutor(len(data)) as threads:
        got = threads.map(
            lambda part: [decode(encoded(part, name), (name,), LIMIT) for name in codings], data
        )
        assert list(got) == [[part] * len(codings) for part in data]


# --- what does not -------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", CODINGS)
def test_a_body_that_is_cut_short_is_an_error_wherever_it_is_cut(coding: str) -> None:
    body = encoded(b"Lorem ipsum dolor sit amet, consectetur", coding)
    for length in range(1, len(body)):
        assert_refused(body[:length], [coding], f"^the {coding} coding of the body is cut short$")


@pytest.mark.parametrize("coding", CODINGS)
def test_a_body_that_is_cut_short_below_another_coding_is_an_error(coding: str) -> None:
    body = encoded(b"Lorem ipsum dolor sit amet, consectetur", coding)
    assert_refused(encoded(body[:-1], "gzip"), [coding, "gzip"], f"the {coding} coding .* short")
    assert_refused(encoded(body, "gzip")[:-1], [coding, "gzip"], "the gzip coding .* short")


@pytest.mark.parametrize("coding", FRAMED)
def test_a_second_frame_that_is_cut_short_is_an_error(coding: str) -> None:
    frame = encoded(b"abc", coding)
    for length in range(1, len(frame)):
        assert_refused(frame + frame[:length], [coding], "is cut short")


@pytest.mark.parametrize("coding", CODINGS)
def test_bytes_behind_the_end_are_an_error(coding: str) -> None:
    assert_refused(encoded(b"abc", coding) + b"GET / HTTP/1.1", [coding], f"the {coding} coding")


@pytest.mark.parametrize("coding", ["deflate", pytest.param("br", marks=needing("br"))])
def test_a_coding_without_frames_has_one_end(coding: str) -> None:
    assert_refused(encoded(b"abc", coding) * 2, [coding], f"the {coding} coding")
    assert_refused(encoded(b"abc", coding) + b"\0", [coding], f"the {coding} coding")


def test_zeros_are_no_padding_before_gzip() -> None:
    assert_refused(bytes(10), ["gzip"], "gzip")
    assert_refused(bytes(1) + encoded(b"abc", "gzip"), ["gzip"], "gzip")


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("body", [b"<html>not compressed at all</html>", b"\xff" * 100])
def test_what_is_not_in_the_coding_is_an_error(coding: str, body: bytes) -> None:
    assert_refused(body, [coding], f"the {coding} coding of the body is")


def test_an_error_has_the_one_of_the_package_as_its_cause() -> None:
    with pytest.raises(DecodingError, match=r"^the gzip coding of the body is broken$") as caught:
        decode(b"secret" * 5, ("gzip",), LIMIT)
    assert isinstance(caught.value.__cause__, zlib.error)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_flipped_bit_never_makes_another_body(coding: str) -> None:
    data = b"Lorem ipsum dolor sit amet, consectetur"
    body = encoded(data, coding)
    for position in range(8 * len(body)):
        flipped = bytearray(body)
        flipped[position // 8] ^= 1 << position % 8
        try:
            got = decode(bytes(flipped), (coding,), LIMIT)
        except DecodingError:
            continue
        assert got == data  # a name or a time in the header has changed


@given(PARTS, STACKS, st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=5))
def test_a_changed_body_decodes_in_one_way_or_is_a_decoding_error(
    parts: tuple[bytes, int], codings: tuple[str, ...], changes: list[tuple[int, int]]
) -> None:
    body = bytearray(encoded(parts[0] * parts[1], *codings))
    for position, byte in changes:
        if body:
            body[position % len(body)] = byte
    source = DecodedSource(Pieces(*bytes_of(body)), codings)
    decoded = set()
    # Not both need to fail: in pieces, libzstd overlooks the wrong size of a frame without content.
    with contextlib.suppress(DecodingError):
        decoded.add(decode(bytes(body), codings, LIMIT))
    with contextlib.suppress(DecodingError):
        decoded.add(b"".join(pieces_of(source)))
    assert len(decoded) <= 1


def test_five_codings_are_undone_and_six_are_refused() -> None:
    assert_decodes(encoded(b"abc", *["gzip"] * 5), ["gzip"] * 5, b"abc")
    with pytest.raises(DecodingError, match="more than 5 content codings"):
        decode(b"", ("gzip",) * 6, LIMIT)
    with pytest.raises(DecodingError, match="more than 5 content codings"):
        DecodedSource(Pieces(), ("gzip",) * 6)


@needing("zstd")
def test_a_zstd_window_of_8_mib_is_allowed_and_no_larger_one() -> None:
    empty_block = b"\x01\0\0"
    frame_with_window = [b"\x28\xb5\x2f\xfd\0" + bytes([(log - 10) << 3]) for log in (23, 24)]
    assert_decodes(frame_with_window[0] + empty_block, ["zstd"], b"")
    assert_refused(frame_with_window[1] + empty_block, ["zstd"], "zstd coding .* broken")


# --- streams -------------------------------------------------------------------------------------


@pytest.mark.parametrize("codings", [("gzip",), ("deflate", "gzip")])
def test_what_has_come_can_be_read_before_the_rest_comes(codings: tuple[str, ...]) -> None:
    streams = [zlib.compressobj(wbits=31 if coding == "gzip" else 15) for coding in codings]

    def flushed(data: bytes) -> bytes:
        for stream in streams:
            data = stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH)
        return data

    source = DecodedSource(
        Pieces(flushed(b"event 1"), flushed(b"event 2"), AssertionError()), codings
    )
    assert [source.read(100), source.read(5), source.read(100)] == [b"event 1", b"event", b" 2"]


def test_a_stream_gives_no_more_than_is_asked_for() -> None:
    source = DecodedSource(Pieces(encoded(b"abcdef", "gzip")), ("gzip",))
    buffer = bytearray(b"....")
    assert source.read(1) == b"a"
    assert (source.readinto(memoryview(buffer)[:3]), buffer) == (3, b"bcd.")
    assert (source.readinto(memoryview(buffer)), buffer) == (2, b"efd.")


def test_after_the_end_there_is_nothing_however_often_it_is_read() -> None:
    body = Pieces(encoded(b"abc", "gzip"))
    source = DecodedSource(body, ("gzip",))
    assert [source.read(9) for _ in range(3)] == [b"abc", b"", b""]
    assert source.readinto(memoryview(bytearray(1))) == 0
    assert body.was_read_to_its_end


@pytest.mark.parametrize("codings", [(), ("gzip",), ("deflate", "gzip")])
def test_a_read_that_timed_out_can_be_repeated(codings: tuple[str, ...]) -> None:
    pieces = []
    for byte in bytes_of(encoded(b"abc", *codings)):
        pieces += [byte, ConnectionTimedOut()]
    source = DecodedSource(Pieces(*pieces), codings)
    got, timeouts = b"", 0
    while True:
        try:
            piece = source.read(2)
        except ConnectionTimedOut:
            timeouts += 1
            continue
        if not piece:
            break
        got += piece
    assert (got, timeouts) == (b"abc", len(pieces) // 2)


@pytest.mark.parametrize("error", [ConnectionClosed, OSError, KeyboardInterrupt])
def test_an_error_of_the_source_stays_one(error: type[BaseException]) -> None:
    source = DecodedSource(Pieces(encoded(b"abc", "gzip")[:-4], error(), b"junk"), ("gzip",))
    assert source.read(9) == b"abc"
    for _ in range(2):
        with pytest.raises(error):
            source.read(9)


@pytest.mark.parametrize("body", [b"junk", encoded(b"", "gzip")[:-1]])
def test_a_body_that_cannot_be_decoded_never_ends(body: bytes) -> None:
    source = DecodedSource(Pieces(body), ("gzip",))
    for _ in range(2):
        with pytest.raises(DecodingError):
            source.read(9)
        with pytest.raises(DecodingError):
            source.readinto(memoryview(bytearray(9)))


# --- size and time -------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("size", [1, 1000, 3 * STEP, 2 * MIB])
def test_a_body_may_be_as_large_as_the_limit_and_no_larger(coding: str, size: int) -> None:
    body = encoded(bytes(size), coding)
    assert len(decode(body, (coding,), size)) == size
    assert sum(map(len, pieces_of(DecodedSource(Pieces(body), (coding,), size)))) == size
    with pytest.raises(ResponseTooLarge, match=rf"larger than max_body_size \({size - 1} bytes\)"):
        decode(body, (coding,), size - 1)
    source = DecodedSource(Pieces(body), (coding,), size - 1)
    for _ in range(2):
        with pytest.raises(ResponseTooLarge):
            list(pieces_of(source))


@cache
def bomb(*codings: str) -> bytes:
    """Return 48 MiB of zeros in the *codings*."""
    stream = zlib.compressobj(wbits=31)
    body = b"".join(stream.compress(bytes(MIB)) for _ in range(48)) + stream.flush()
    return body if codings == ("gzip",) else encoded(decode(body, ("gzip",), LIMIT), *codings)


BOMBS = [
    pytest.param(codings, marks=needing(*codings), id="+".join(codings))
    for codings in (("gzip",), ("deflate",), ("br",), ("zstd",), ("gzip", "gzip"), ("zstd", "br"))
]


def peak_of(call: Callable[[], object]) -> int:
    """Return how much memory *call* takes at most."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("codings", BOMBS)
def test_a_bomb_takes_little_more_memory_than_the_limit(codings: tuple[str, ...]) -> None:
    body = bomb(*codings)
    decode(encoded(b"", *codings), codings, MIB)  # imports what is needed

    def refuse(limit: int) -> None:
        with pytest.raises(ResponseTooLarge):
            decode(body, codings, limit)

    assert peak_of(lambda: refuse(MIB)) < 6 * MIB
    assert peak_of(lambda: refuse(32 * MIB)) < 42 * MIB


@pytest.mark.parametrize("codings", BOMBS)
def test_a_stream_takes_little_memory_however_large_it_is(codings: tuple[str, ...]) -> None:
    source = DecodedSource(Pieces(bomb(*codings)), codings)
    source.read(1)
    size = 0

    def read() -> None:
        nonlocal size
        for piece in pieces_of(source):
            size += len(piece)

    assert peak_of(read) < 5 * MIB
    assert size == 48 * MIB - 1


EMPTY_BLOCK = bytes.fromhex("000000ffff")  # of deflate


def test_a_limit_holds_between_codings_too() -> None:
    body = encoded(EMPTY_BLOCK * MIB, "gzip", "gzip")
    with pytest.raises(ResponseTooLarge):
        decode(body, ("deflate", "gzip", "gzip"), MIB)


def test_a_body_that_stands_for_nothing_is_refused_in_the_end() -> None:
    body = encoded(EMPTY_BLOCK * (4 * MIB), "gzip")
    assert len(body) < 100_000
    source = DecodedSource(Pieces(body), ("deflate", "gzip"))
    with pytest.raises(DecodingError, match=r"the deflate coding .* decode to nothing"):
        source.read(1)


@pytest.mark.parametrize("coding", FRAMED)
def test_a_few_bytes_cannot_stand_for_very_many_frames(coding: str) -> None:
    frame = encoded(b"x", coding)
    assert_decodes(encoded(frame * 10_000, "gzip"), [coding, "gzip"], b"x" * 10_000)
    assert_refused(encoded(frame * 10_001, "gzip"), [coding, "gzip"], "more than 10000 frames")


def seconds(call: Callable[[], object]) -> float:
    """Return how much time of this thread *call* takes: the least of three times."""
    times = []
    for _ in range(3):
        start = time.thread_time()
        call()
        times.append(time.thread_time() - start)
    return min(times)


@pytest.mark.parametrize("coding", FRAMED)
def test_the_time_for_many_frames_grows_with_their_number(coding: str) -> None:
    def seconds_for(frames: int) -> float:
        body = encoded(b"x", coding) * frames
        return seconds(lambda: decode(body, (coding,), LIMIT))

    assert seconds_for(16_000) < 30 * seconds_for(2000)  # and not 64 times


def test_many_pieces_are_decoded_as_they_come() -> None:
    data = random.Random(1).randbytes(50_000)
    pieces = iter(bytes_of(encoded(data, "deflate", "gzip")))

    class ByteByByte(Pieces):
        def read(self, size: int) -> bytes:
            return next(pieces, b"")

    source = DecodedSource(ByteByByte(), ("deflate", "gzip"))
    assert b"".join(pieces_of(source, size=1)) == data
