"""The text of a body: its charset, and its lines."""

from __future__ import annotations

import builtins
import re
import time
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dugong import Headers
from dugong.pool.text import Lines, detected_text_of, lines_of, text_of

NONE = Headers()
LATIN_1 = Headers([("Content-Type", "text/plain; charset=iso-8859-1")])
CYRILLIC = "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 4


def naming(charset: str) -> Headers:
    return Headers([("Content-Type", f'text/plain; charset="{charset}"')])


def bytewise(body: bytes) -> list[bytes]:
    return [body[start : start + 1] for start in range(len(body))]


def lines(*pieces: bytes, headers: Headers = NONE) -> list[str]:
    return list(lines_of(pieces, headers))


# --- the charset ---------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("headers", [NONE, LATIN_1, naming("utf-8-sig"), naming("utf-16")])
def test_a_byte_order_mark_says_more_than_the_headers(codec: str, headers: Headers) -> None:
    body = "\ufeffgrün\n\ufeff".encode(codec)
    assert text_of(body, headers) == "grün\n\ufeff"
    assert lines(*bytewise(body), headers=headers) == ["grün", "\ufeff"]


@pytest.mark.parametrize("body", [b"\xef", b"\xef\xbb", b"\xfe", b"\0\0\xfe", b"\xffa", b"\0\0\0a"])
def test_what_only_begins_like_a_byte_order_mark_is_text(body: bytes) -> None:
    assert text_of(body, LATIN_1) == body.decode("latin-1")
    assert lines(*bytewise(body), headers=LATIN_1) == [body.decode("latin-1")]


@pytest.mark.parametrize("charset", ["utf-16", "utf-32"])
def test_without_a_mark_the_order_is_that_of_nearly_all_computers(charset: str) -> None:
    body = "grün".encode(f"{charset}-le")
    assert text_of(body, naming(charset)) == "grün"
    assert lines(*bytewise(body), headers=naming(charset)) == ["grün"]


CHARSETS = """
    utf-8 utf-8-sig utf-16 utf-16-be utf-32 ascii iso-8859-1 koi8-r windows-1252 shift_jis
    euc-jp gb18030 big5 euc-kr hz iso-2022-jp iso-2022-kr nonsense
""".split()


@given(st.data(), st.sampled_from(CHARSETS))
def test_a_body_has_the_same_text_however_it_is_cut(data: Any, charset: str) -> None:
    # ESC begins what ISO-2022 may never end, and is then not the same whole and in pieces.
    body = data.draw(st.lists(st.binary(max_size=8)).map(b"".join)).replace(b"\x1b", b"\n")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)))))
    pieces = [body[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    headers = naming(charset)
    expected = re.split(r"\r\n|\r|\n", text_of(body, headers))
    if not expected[-1]:
        expected.pop()
    assert lines(*pieces, headers=headers) == expected


@pytest.mark.parametrize(
    ("charset", "text"),
    [("iso-2022-jp", "終わり"), ("iso-2022-jp-2004", "終わり"), ("iso-2022-kr", "끝")],
)
def test_an_escape_sequence_that_never_ends_raises_nothing(charset: str, text: str) -> None:
    never = b"\x1b" + b"$" * 10
    behind = b"\n" + text.encode(charset) + b"\n"
    for pieces in ([never, *bytewise(behind)], bytewise(never + behind)):
        assert lines(*pieces, headers=naming(charset))[-1] == text


# --- lines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", []),
        (b"a", ["a"]),
        (b"a\n", ["a"]),
        (b"\n", [""]),
        (b"\r\n", [""]),
        (b"a\nb\r\nc\rd", ["a", "b", "c", "d"]),
        (b"\n\r\n\r\r\n", ["", "", "", ""]),
        (b"a\r\n\nb", ["a", "", "b"]),
        ("a\x0b\x0c\x1c\x85\u2028b\n".encode(), ["a\x0b\x0c\x1c\x85\u2028b"]),
    ],
)
def test_lines_end_with_lf_cr_or_both_and_with_nothing_else(
    body: bytes, expected: list[str]
) -> None:
    assert lines(body) == lines(*bytewise(body)) == lines(b"", body, b"") == expected


def test_a_line_is_given_as_soon_as_its_end_has_come() -> None:
    taken = []

    def pieces() -> Iterable[bytes]:
        for piece in (b"a\r", b"\nb\n", b"\xef\xbb", b"\xbf\n"):
            taken.append(piece)
            yield piece

    given = lines_of(pieces(), NONE)
    assert (next(given), len(taken)) == ("a", 1)
    assert (next(given), len(taken)) == ("b", 2)
    assert (next(given), len(taken)) == ("\ufeff", 4)


def test_nothing_is_read_before_the_first_line_is_asked_for() -> None:
    pieces = iter([b"a\n"])
    lines_of(pieces, NONE)
    assert next(pieces) == b"a\n"


@pytest.mark.parametrize("charset", [*CHARSETS, "utf-7"])
@pytest.mark.parametrize("begin", [b"", b"+", b"\x1b$B", b"~{"])
def test_a_long_line_in_many_pieces_takes_no_long_time(charset: str, begin: bytes) -> None:
    began = time.process_time()
    assert len(lines(begin, *[b"A"] * 100_000, headers=naming(charset))) == 1
    assert time.process_time() - began < 5


# --- a guess -------------------------------------------------------------------------------------


def test_a_charset_that_nothing_names_is_guessed() -> None:
    pytest.importorskip("charset_normalizer")
    body = CYRILLIC.encode("cp1251")
    assert detected_text_of(body, NONE) == CYRILLIC
    assert detected_text_of(body, naming("nonsense")) == CYRILLIC


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (CYRILLIC.encode("cp1251"), LATIN_1),
        (CYRILLIC.encode(), NONE),
        (CYRILLIC.encode("utf-16"), NONE),
        (b"", NONE),
        (b"\xef\xbb\xbf\xff", NONE),
    ],
)
def test_nothing_is_guessed_that_is_known(body: bytes, headers: Headers) -> None:
    pytest.importorskip("charset_normalizer")
    assert detected_text_of(body, headers) == text_of(body, headers)


def test_what_cannot_be_guessed_either_is_text_all_the_same() -> None:
    pytest.importorskip("charset_normalizer")
    body = bytes(range(256)) * 4
    assert detected_text_of(body, NONE) == text_of(body, NONE)


def test_without_its_package_a_guess_says_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name == "charset_normalizer":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return load(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install dugong\[charset\]"):
        detected_text_of(b"", NONE)


def test_lines_may_be_asked_for_piece_by_piece() -> None:
    pieces = Lines(NONE)
    given = [
        pieces.feed(piece) for piece in (b"\xef\xbb", b"\xbfone", b"\r", b"\ntwo\nth", b"\xe2")
    ]
    assert given == [[], [], ["one"], ["two"], []]
    assert pieces.end() == ["th\ufffd"]
