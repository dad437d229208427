"""Content codings (RFC 9110 §8.4): which ones are asked for, and how they are undone.

Guarantees: a body is decoded as a whole, or left as its Content-Encoding says. One that is cut
short, broken or followed by other bytes is a `DecodingError`, not an end. Whatever a server sends,
decoding takes small steps: memory is bounded by what the caller takes, and time by the size of the
body and by *max_size*. Touches nothing but the `BodySource` that it reads; the packages for ``br``
and ``zstd`` are imported when such a body comes.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from dugong.connection.framing import list_members
from dugong.errors import ConnectionTimedOut, DecodingError, ResponseTooLarge

if TYPE_CHECKING:
    from dugong.headers import Headers
    from dugong.pool.response import BodySource

__all__ = ["DecodedSource", "accept_encoding", "codings_of", "decode"]

_MAX_CODINGS = 5

#: How many bytes are taken in one step, and given. zlib copies up to as many for each member of a
#: gzip body, so many small members would be slow with larger steps.
_STEP = 32 * 1024

#: What is decoded in one step takes twice its memory.
_SMALL = 1024 * 1024

#: How many bytes may be taken without giving one: a body may go on and on, and decode to nothing.
_MAX_SILENCE = 16 * 1024 * 1024

#: How many frames there may be below another coding, in which a few bytes may stand for very many.
#: Each takes about 10 microseconds.
_MAX_INNER_FRAMES = 10_000

_ZSTD_WINDOW_LOG = 23  # 8 MiB, which RFC 9659 §3 allows

# A package that cannot limit its output is given so little at a time that it gives 1 MiB at most
# (zstd: 4 bytes may stand for a block of 128 KiB), or 32 MiB (br: 10 bytes may, for 16 MiB).
_ZSTANDARD_STEP = 32
_OLD_BROTLI_STEP = 8

_PACKAGES = {
    "br": ("brotli", "brotlicffi"),
    "zstd": ("compression.zstd", "backports.zstd", "zstandard"),
}


def accept_encoding() -> str:
    """Return the value for Accept-Encoding: the codings that can be undone here.

    These are gzip and deflate; br, if ``brotli`` or ``brotlicffi`` is installed; and zstd, if there
    is `compression.zstd` (Python 3.14), ``backports.zstd`` or ``zstandard``. What is installed is
    looked up once. Any thread may call it.
    """
    return ", ".join(_packages())


def codings_of(headers: Headers) -> tuple[str, ...]:
    """Return the content codings of a body, in lower case, in the order they were applied.

    ``identity`` is left out, and ``x-gzip`` is ``gzip`` (RFC 9110 §8.4.1.3). Any thread may call
    it.
    """
    return tuple(
        "gzip" if coding == "x-gzip" else coding
        for value in headers.get_all("content-encoding", [])
        for coding in list_members(value)
        if coding != "identity"
    )


def decode(body: bytes, codings: Sequence[str], max_size: int) -> bytes:
    """Return *body* without its *codings*, which are what `codings_of` returns.

    If one of them cannot be undone here, none is: the body is returned as it is, whatever its size,
    and its Content-Encoding is still right. A body of no bytes stays one, for servers name codings
    of those too. Zero bytes behind the end of gzip are padding.

    Raises `ResponseTooLarge` if the decoded body has more than *max_size* bytes, or if it has with
    only some of its codings undone. Raises `DecodingError` if it is cut short, broken or followed
    by other bytes; if 16 MiB of it decode to nothing; if it has more than five codings, or more
    than 10,000 gzip members or zstd frames below another coding. Any thread may call it.
    """
    if codings == ("gzip",):
        small = _small_gzip(body, max_size)
        if small is not None:
            return small
    pieces = _decoded((body,), codings, max_size)
    whole = io.BytesIO(next(pieces, b""))  # which copies it only if there is a second one
    whole.seek(0, io.SEEK_END)
    whole.writelines(pieces)
    return whole.getvalue()


def _small_gzip(body: bytes, max_size: int) -> bytes | None:
    """Return what most bodies decode to, in one step: one member that is right and small.

    Its last four bytes say how small (RFC 1952 §2.3.1). None if it is anything else.
    """
    size = int.from_bytes(body[-4:], "little")
    if size > _SMALL or size > max_size:
        return None
    stream = zlib.decompressobj(31)
    try:
        # Room for one byte more would have zlib copy it. No room at all is no limit.
        whole = stream.decompress(body, size or 1)
    except zlib.error:
        return None
    return whole if stream.eof and not stream.unused_data else None


class DecodedSource:
    """A `BodySource` of what another one decodes to, as it comes.

    Parameters: *source* has the body; *codings* are what `codings_of` returns; *max_size* is in
    bytes (None, the default: no limit). What they mean, and what is raised, is as in `decode`. More
    than five codings are a `DecodingError` when the object is made.

    The methods also raise what *source* raises. They may be called again after a
    `ConnectionTimedOut`; after anything else, they raise the same again. When they have reached the
    end, so has *source*. They hold up to 64 KiB for each coding (256 KiB for br), and its window:
    32 KiB for gzip and deflate, up to 8 MiB for zstd, 16 MiB for br. With ``zstandard``, or with
    ``brotli`` before 1.2, a bomb may take 2 or 40 MiB more. For one thread at a time.
    """

    __slots__ = ("_failure", "_pieces", "_rest")

    def __init__(
        self, source: BodySource, codings: Sequence[str], max_size: int | None = None
    ) -> None:
        # All of these belong to the thread that reads.
        self._pieces = _decoded(iter(lambda: source.read(_STEP), b""), codings, max_size)
        self._rest = memoryview(b"")  # of the last piece
        self._failure: BaseException | None = None

    def read(self, size: int) -> bytes:
        """Return the next 1 to *size* bytes, as soon as there are any; b"" at the end."""
        return bytes(self._take(size))

    def readinto(self, view: memoryview) -> int:
        """Fill the beginning of *view*, which has room, and return by how much; 0 at the end."""
        part = self._take(view.nbytes)
        view[: part.nbytes] = part
        return part.nbytes

    def _take(self, size: int) -> memoryview:
        if not self._rest:
            self._rest = memoryview(self._next_piece())
        part, self._rest = self._rest[:size], self._rest[size:]
        return part

    def _next_piece(self) -> bytes:
        if self._failure is not None:
            raise self._failure
        try:
            return next(self._pieces, b"")
        except ConnectionTimedOut:
            raise  # by the source, from which nothing was taken
        except BaseException as exc:  # an interrupt may have lost a part
            self._failure = exc
            raise


def _decoded(
    chunks: Iterable[bytes], codings: Sequence[str], max_size: int | None
) -> Iterator[bytes]:
    """Return the pieces of the body that *chunks* are, decoded; as they are if that cannot be."""
    pieces = iter(chunks)
    if not _packages().keys() >= set(codings):
        return pieces
    if len(codings) > _MAX_CODINGS:
        raise DecodingError(f"the body has more than {_MAX_CODINGS} content codings")
    for coding in reversed(codings):
        pieces = _Decoding(pieces, coding, max_size)
    return pieces


class _Decoding:
    """The pieces of a body without its last coding, none of them empty, as an iterator.

    Nothing is lost if *chunks*, which it reads, raise: it may be asked again.
    """

    __slots__ = (
        "_chunk",
        "_chunks",
        "_coding",
        "_frame",
        "_frames",
        "_max_frames",
        "_max_size",
        "_name",
        "_offset",
        "_silence",
        "_size",
    )

    def __init__(self, chunks: Iterator[bytes], name: str, max_size: int | None) -> None:
        self._chunks = chunks
        self._name = name
        self._coding = _coding(name)
        self._max_size = max_size
        self._chunk = b""
        self._offset = 0  # up to which the chunk was taken
        self._frame: _Frame | None = None  # None: another one may begin
        self._frames = 0  # how many have begun
        self._max_frames = _MAX_INNER_FRAMES if isinstance(chunks, _Decoding) else None
        self._size = 0  # of what was given
        self._silence = 0  # how much was taken since

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        while True:
            frame, data = self._frame, b""
            if frame is None or frame.needs_input:
                data = self._take()
                if not data:
                    if frame is not None:
                        raise self._error("is cut short")
                    raise StopIteration
            if frame is None:
                if self._frames:
                    data = data.lstrip(self._coding.padding)
                    if not data:
                        continue
                    if not self._coding.repeats:
                        raise self._error("ends before the body")
                if self._frames == self._max_frames:
                    raise self._error(f"has more than {self._frames} frames")
                frame = self._frame = self._coding.start(data[0])
                self._frames += 1
            piece = self._decompress(frame, data)
            if frame.eof:
                self._give_back(len(frame.unused_data))
                self._frame = None
            if piece:
                return piece

    def _take(self) -> bytes:
        """Return the next bytes of the input; b"" at its end."""
        if self._offset == len(self._chunk):
            self._chunk = next(self._chunks, b"")
            self._offset = 0
        data = self._chunk[self._offset : self._offset + self._coding.step]
        self._offset += len(data)
        self._silence += len(data)
        if self._silence > _MAX_SILENCE:
            raise self._error(f"has {_MAX_SILENCE} bytes that decode to nothing")
        return data

    def _give_back(self, size: int) -> None:
        """Have the last *size* bytes, which were behind a frame, taken again."""
        self._offset -= size
        self._silence -= size

    def _decompress(self, frame: _Frame, data: bytes) -> bytes:
        try:
            piece = frame.decompress(data, _STEP)
        except MemoryError:
            raise
        except Exception as exc:  # each package has a class of its own
            raise self._error("is broken") from exc
        if piece:
            self._silence = 0
            self._size += len(piece)
            if self._max_size is not None and self._size > self._max_size:
                raise ResponseTooLarge(
                    f"the decoded body is larger than max_body_size ({self._max_size} bytes)"
                )
        return piece

    def _error(self, what: str) -> DecodingError:
        return DecodingError(f"the {self._name} coding of the body {what}")


# --- the codings ---------------------------------------------------------------------------------


class _Frame(Protocol):
    """What undoes one frame of a coding. `compression.zstd.ZstdDecompressor` is one as it stands.

    A frame is a member of gzip, or all of a body in a coding that has no such parts.
    """

    @property
    def eof(self) -> bool:
        """Whether the end of the frame was reached, and all of it given."""

    @property
    def needs_input(self) -> bool:
        """Whether there is nothing to give before more is taken."""

    @property
    def unused_data(self) -> bytes:
        """What was taken of the bytes behind the end."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Take *data*, b"" unless `needs_input`, and return about *max_length* bytes at most."""


class _Coding(NamedTuple):
    """How a coding is undone."""

    start: Callable[[int], _Frame]  # given the first byte of the frame
    step: int = _STEP  # how many bytes are taken at a time
    repeats: bool = False  # whether several frames may follow each other
    padding: bytes = b""  # which byte may follow a frame in any number


class _Zlib:
    """A frame of gzip (RFC 1952), zlib (RFC 1950) or raw deflate (RFC 1951)."""

    __slots__ = ("_stream", "eof", "needs_input", "unused_data")

    def __init__(self, wbits: int) -> None:
        self._stream = zlib.decompressobj(wbits)
        self.eof = False
        self.needs_input = True
        self.unused_data = b""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        stream = self._stream
        piece = stream.decompress(data or stream.unconsumed_tail, max_length)
        # A full piece may leave more inside.
        self.needs_input = len(piece) < max_length and not stream.unconsumed_tail
        self.eof = stream.eof
        self.unused_data = stream.unused_data
        return piece


class _Brotli:
    """All of a body in br (RFC 7932). For the packages, bytes behind its end make it broken."""

    __slots__ = ("_stream", "eof", "needs_input")

    unused_data = b""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.eof = False
        self.needs_input = True

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        piece: bytes = self._stream.process(data, output_buffer_limit=max_length)
        # Not can_accept_more_data(): it may be True while there is more to give.
        self.needs_input = not piece
        self.eof = self._stream.is_finished()
        return piece


class _OldBrotli(_Brotli):
    """The same with a package that cannot limit its output."""

    __slots__ = ()

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        piece: bytes = self._stream.process(data)
        self.eof = self._stream.is_finished()
        return piece


class _Zstandard:
    """A frame of zstd, by the package ``zstandard``, which cannot limit its output."""

    __slots__ = ("_stream",)

    needs_input = True

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def eof(self) -> bool:
        return bool(self._stream.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._stream.unused_data)

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return bytes(self._stream.decompress(data))


def _start_deflate(first: int) -> _Zlib:
    """Begin deflate, which is zlib (RFC 9110 §8.4.1.2), or, from some servers, has no header.

    The compression method 8 of zlib would be a stored block without a header, and bits set where
    encoders write zeros up to the next byte (RFC 1951 §3.2.4). So the first byte decides.
    """
    return _Zlib(15 if first & 15 == 8 else -15)


@cache
def _coding(name: str) -> _Coding:
    """Return how to undo a coding, which is one of `_packages`."""
    package = _packages()[name]
    if name == "gzip":
        return _Coding(lambda _: _Zlib(31), repeats=True, padding=b"\0")
    if name == "deflate":
        return _Coding(_start_deflate)
    module = import_module(package)
    if name == "br":
        if hasattr(module.Decompressor, "can_accept_more_data"):
            return _Coding(lambda _: _Brotli(module.Decompressor()))
        return _Coding(lambda _: _OldBrotli(module.Decompressor()), _OLD_BROTLI_STEP)
    if package == "zstandard":

        def start(first: int) -> _Frame:
            # Threads cannot share a context.
            context = module.ZstdDecompressor(max_window_size=1 << _ZSTD_WINDOW_LOG)
            return _Zstandard(context.decompressobj())

        return _Coding(start, _ZSTANDARD_STEP, repeats=True)
    options = {module.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
    return _Coding(lambda _: module.ZstdDecompressor(options=options), repeats=True)


@cache
def _packages() -> dict[str, str]:
    """Return the codings that can be undone here, each with the module that does it."""
    found = {"gzip": "zlib", "deflate": "zlib"}
    for coding, names in _PACKAGES.items():
        name = next(filter(_is_installed, names), None)
        if name is not None:
            found[coding] = name
    return found


def _is_installed(name: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(name) is not None
    except ImportError:  # nor is the package that would have it
        return False
