"""Names of files: safe, whatever a server says, and different."""

from __future__ import annotations

import os
from itertools import islice

import pytest

from dugong.cli.names import Names, disposition_name, safe_name


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ('attachment; filename="a.txt"', "a.txt"),
        ("attachment; filename=a.txt", "a.txt"),
        ("attachment; FileName = a.txt ; x=y", "a.txt"),
        ("attachment;filename=a b.txt", "a b.txt"),
        (r'attachment; filename="a\"b;c.txt"', 'a"b;c.txt'),
        ('attachment; x="; filename=no"; filename=yes', "yes"),
        ("inline; filename=a.txt", "a.txt"),
        # RFC 8187
        ("attachment; filename*=UTF-8''%e2%82%ac%20rates", "€ rates"),
        ("attachment; filename*=utf-8'en'a; filename=b", "a"),
        ("attachment; filename=b; filename*=iso-8859-1''%e4", "ä"),
        ("attachment; filename*=UTF-8''%ff; filename=b", "b"),
        ("attachment; filename*=koi8-r''a; filename=b", "b"),
        ("attachment; filename*=a; filename=b", "b"),
        # as servers send it
        ("attachment; filename=\xc3\xa4.txt", "ä.txt"),
        ("attachment; filename=\xe4.txt", "ä.txt"),
        ("attachment; filename=a; filename=b", "a"),
        ("attachment; filename=%61.txt", "%61.txt"),
        # no path parts
        ("attachment; filename=/etc/passwd", "passwd"),
        (r'attachment; filename="..\\..\\boot.ini"', "boot.ini"),
        ("attachment; filename*=UTF-8''..%2f..%2fx", "x"),
        ("attachment; filename*=UTF-8''a%00b%0ac", "a_b_c"),
        # no dotfiles
        ("attachment; filename=.bashrc", "bashrc"),
        ("attachment; filename=...", None),
        ('attachment; filename=". .bashrc"', "bashrc"),
        ('attachment; filename="... \t .. .a b"', "a b"),
        ('attachment; filename="x/. . ."', None),
        ("attachment; filename*=UTF-8''.%C2%A0.%E3%80%80.x", "x"),
        ("attachment; filename=a/", None),
        ("attachment; filename=a/..; filename*=UTF-8''.ssh", "ssh"),
        # no name
        ("", None),
        ("attachment", None),
        ("filename=a", None),
        ('attachment; filename=""', None),
        ("attachment; filename=", None),
        ("attachment; filename", None),
    ],
)
def test_the_name_in_a_content_disposition(field: str, name: str | None) -> None:
    assert disposition_name(field) == name


def test_what_the_system_cannot_encode_is_not_in_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsencode", lambda text: text.encode("latin-1", "surrogateescape"))
    assert safe_name("ä \u4e2d\u6587\udcff") == "ä ___"


def test_a_long_name_is_cut_between_two_characters() -> None:
    name = disposition_name("attachment; filename*=UTF-8''" + "%E2%82%AC" * 300)
    assert name == "€" * 66


def test_a_hostile_field_takes_no_time() -> None:
    assert disposition_name('attachment; filename="' + '\\"' * 30_000) is None
    assert disposition_name("attachment" + "; a" * 30_000) is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a.b-C_9", "a.b-C_9"),
        (".a", ".a"),
        ("a/b\\c\x1bd\ud800", "a_b_c_d_"),
        ("..", None),
        (".", None),
        ("", None),
        ("x" * 300, "x" * 200),
    ],
)
def test_a_name_is_made_safe(text: str, name: str | None) -> None:
    assert safe_name(text) == name


def test_each_name_is_given_once_whatever_its_case() -> None:
    names = Names()
    wanted = ["a", "a", "a.1", "A", "a"]
    assert [names.claim(name) for name in wanted] == ["a", "a.1", "a.1.1", "A.2", "a.3"]


def test_there_is_always_another_name_to_try() -> None:
    names = Names()
    names.claim("a")
    assert list(islice(names.each("a"), 3)) == ["a.1", "a.2", "a.3"]


def test_names_that_some_file_system_takes_for_the_same_are_the_same() -> None:
    names = Names()
    wanted = ["\u00e9t\u00e9", "e\u0301te\u0301", "\u00c9T\u00c9", "E\u0301te\u0301.1", "a", "A"]
    claimed = [names.claim(name) for name in wanted]
    suffixes = ["", ".1", ".2", ".1", "", ".1"]
    assert claimed == [name + suffix for name, suffix in zip(wanted, suffixes, strict=True)]
