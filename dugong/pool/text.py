"""The text of a body: in which charset it is, and its lines.

Guarantees: no bytes of a server make anything here raise, or stay in memory afterwards; a body has
the same text whole and in pieces, however it is cut, unless it has an escape sequence of ISO-2022
that does not end. Touches nothing but a bounded cache, which any thread may use.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator

from dugong.connection.cache import BoundedCache
from dugong.headers import Headers

__all__ = ["Lines", "detected_text_of", "lines_of", "text_of"]

# The byte order marks, and what they are those of. The first that fits decides.
_BOMS = (
    (codecs.BOM_UTF8, "utf_8"),
    (codecs.BOM_UTF32_LE, "utf_32_le"),  # begins like that of UTF-16
    (codecs.BOM_UTF32_BE, "utf_32_be"),
    (codecs.BOM_UTF16_LE, "utf_16_le"),
    (codecs.BOM_UTF16_BE, "utf_16_be"),
)
# Without a mark, what is named so is in the order of nearly all computers (WHATWG Encoding §4.2).
_WITHOUT_BOM = {"utf_8_sig": "utf_8", "utf_16": "utf_16_le", "utf_32": "utf_32_le"}

# Codecs of Python that are no charsets, or one that a client must not know (WHATWG HTML §13.2.3.3).
# Some of them take time with the square of the length; UTF-7 does in pieces.
_NOT_CHARSETS = {"idna", "punycode", "raw_unicode_escape", "undefined", "unicode_escape", "utf_7"}
_LONGEST_CHARSET = 40  # characters; no codec of Python has a longer name
_NOT_IN_CODEC = re.compile(r"[^a-z0-9]+")

_LINE_END = re.compile(r"\r\n?|\n")


def text_of(body: bytes, headers: Headers) -> str:
    """Return *body*, which came with *headers*, as text.

    Its charset is that of its byte order mark, which is left out; else the one that Content-Type
    names, if Python has a codec of its own for it; else UTF-8. What cannot be decoded becomes
    U+FFFD.
    """
    codec, skip = _codec_of(body, headers)
    return body[skip:].decode(codec or "utf_8", "replace")


def detected_text_of(body: bytes, headers: Headers) -> str:
    """As `text_of`, but if nothing names a charset, and it is not UTF-8, have it guessed.

    Raises ImportError without the package `charset_normalizer`.
    """
    try:
        from charset_normalizer import from_bytes
    except ImportError as exc:
        raise ImportError(
            "detected_text() needs the package charset-normalizer: pip install dugong[charset]",
            name="charset_normalizer",
        ) from exc

    if _codec_of(body, headers)[0] is None:
        try:
            return body.decode()
        except UnicodeDecodeError:
            guess = from_bytes(body).best()
        if guess is not None:
            return str(guess)
    return text_of(body, headers)


def lines_of(pieces: Iterable[bytes], headers: Headers) -> Iterator[str]:
    r"""Yield the lines of the text of a body that comes in *pieces*, without their ends.

    A line ends with ``\n``, ``\r\n`` or ``\r``; the last one may have no end. Each is given as soon
    as its end has come.
    """
    lines = Lines(headers)
    for piece in pieces:
        yield from lines.feed(piece)
    yield from lines.end()


class Lines:
    """The lines of the text of a body that comes in pieces with *headers*: see `lines_of`."""

    def __init__(self, headers: Headers) -> None:
        self._headers = headers
        self._start = b""  # what came until it was known whether there is a mark
        self._codec = ""  # from then on
        self._decoder: codecs.IncrementalDecoder | None = None
        self._parts: list[str] = []  # of the line that has begun
        self._after_cr = False

    def feed(self, piece: bytes) -> list[str]:
        """Return the lines that end in *piece*."""
        if self._decoder is None:
            self._start += piece
            if any(bom.startswith(self._start) for bom, _ in _BOMS):
                return []
            return self._begin()
        return self._split(self._decode(self._decoder, piece))

    def end(self) -> list[str]:
        """Return what is left at the end of the body."""
        lines = self._begin() if self._decoder is None else []
        assert self._decoder is not None
        lines += self._split(self._decoder.decode(b"", True))
        last = "".join(self._parts)
        return [*lines, last] if last else lines

    def _begin(self) -> list[str]:
        codec, skip = _codec_of(self._start, self._headers)
        self._codec = codec or "utf_8"
        self._decoder = decoder = codecs.getincrementaldecoder(self._codec)("replace")
        return self._split(self._decode(decoder, self._start[skip:]))

    def _decode(self, decoder: codecs.IncrementalDecoder, piece: bytes) -> str:
        """Return the text of *piece*, but for the bytes of a character to be ended."""
        try:
            return decoder.decode(piece)
        except UnicodeError:  # those of ISO-2022 raise it for an escape sequence without an end
            return piece.decode(self._codec, "replace")

    def _split(self, text: str) -> list[str]:
        if not text:
            return []
        # The line before an LF that comes behind a CR has been given at the CR.
        is_told = self._after_cr and text[0] == "\n"
        self._after_cr = text[-1] == "\r"
        first, *rest = _LINE_END.split(text[1:] if is_told else text)
        self._parts.append(first)
        if not rest:
            return []
        lines = ["".join(self._parts), *rest]
        self._parts = [lines.pop()]
        return lines


def _codec_of(body: bytes, headers: Headers) -> tuple[str | None, int]:
    """Return the codec of *body*, None if nothing names one, and how long its mark is, in bytes."""
    for bom, codec in _BOMS:
        if body.startswith(bom):
            return codec, len(bom)
    charset = headers.get_content_charset()
    return (None if charset is None else _known_codecs[charset]), 0


def _python_codec(charset: str) -> str | None:
    """Return the name of Python's own codec for *charset*; None if it has none.

    Of what `codecs.lookup` is asked for, the package `encodings` keeps all names for ever, known or
    not, and in each spelling. So it is asked for nothing but the names of its modules.
    """
    from encodings.aliases import aliases
    from importlib.util import find_spec

    key = _NOT_IN_CODEC.sub("_", charset).strip("_")
    if not key or len(key) > _LONGEST_CHARSET:
        return None
    name = aliases.get(key, key)
    if name in _NOT_CHARSETS or find_spec(f"encodings.{name}") is None:
        return None
    try:
        b" ".decode(name, "replace")
    except LookupError:  # a codec between bytes, or that of another system
        return None
    return _WITHOUT_BOM.get(name, name)


_known_codecs = BoundedCache(_python_codec, max_entries=256)
