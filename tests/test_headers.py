"""Headers and CaseInsensitiveDict."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from email.message import Message
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dugong.headers import CaseInsensitiveDict, Headers
from tests.support.transport import cpu_limit

FIELDS = [("Set-Cookie", "a=1"), ("Content-Length", "5"), ("set-cookie", "b=2"), ("X-Empty", "")]


@pytest.fixture
def headers() -> Headers:
    return Headers(FIELDS)


# --- Headers -------------------------------------------------------------------------------------


def test_headers_have_no_defects_unless_the_parser_notes_some() -> None:
    assert Headers([("A", "b")]).defects == ()
    parsed = Headers._from_parsed((("a", "A", "b"),), ("odd",))
    assert parsed.defects == ("odd",)
    assert parsed == Headers([("A", "b")])
    for copied in (copy.copy(parsed), pickle.loads(pickle.dumps(parsed))):
        assert (copied, copied.defects) == (parsed, parsed.defects)


def test_a_field_is_found_whatever_its_case(headers: Headers) -> None:
    assert headers["content-length"] == headers["CONTENT-LENGTH"] == "5"


def test_a_missing_field_reads_as_none(headers: Headers) -> None:
    assert headers["Missing"] is None
    assert headers.get("Missing") is None
    assert headers.get("Missing", "default") == "default"


def test_the_first_of_several_fields_is_the_one_that_is_read(headers: Headers) -> None:
    assert headers["Set-Cookie"] == headers.get("SET-COOKIE") == "a=1"


def test_all_of_several_fields_can_be_read(headers: Headers) -> None:
    assert headers.get_all("set-COOKIE") == ["a=1", "b=2"]
    assert headers.get_all("Missing") is None
    assert headers.get_all("Missing", []) == []


def test_an_empty_field_is_not_a_missing_one(headers: Headers) -> None:
    assert headers["X-Empty"] == ""
    assert headers.get("X-Empty", "default") == ""
    assert headers.get_all("X-Empty") == [""]
    assert "x-empty" in headers


def test_membership_ignores_case_and_foreign_types(headers: Headers) -> None:
    assert "set-COOKIE" in headers
    assert "missing" not in headers
    assert 5 not in headers


def test_order_repeats_and_case_are_kept(headers: Headers) -> None:
    assert headers.items() == FIELDS
    assert headers.keys() == list(headers) == [name for name, _ in FIELDS]
    assert headers.values() == [value for _, value in FIELDS]
    assert len(headers) == 4


def test_a_header_without_fields_is_false() -> None:
    assert not Headers()
    assert Headers(FIELDS)


@pytest.mark.parametrize(
    "make",
    [Headers, list, lambda fields: Headers(Headers(fields)), iter],
    ids=["itself", "list", "headers", "iterator"],
)
def test_headers_are_made_from_pairs(make: Callable[[Any], Any], headers: Headers) -> None:
    assert Headers(make(FIELDS)) == headers


def test_headers_are_made_from_a_mapping() -> None:
    assert Headers({"A": "1", "b": "2"}).items() == [("A", "1"), ("b", "2")]


def test_headers_cannot_be_changed(headers: Headers) -> None:
    with pytest.raises(TypeError):
        headers["A"] = "b"  # type: ignore[index]
    with pytest.raises(TypeError):
        del headers["Content-Length"]  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        headers.extra = 1  # type: ignore[attr-defined]


def test_headers_are_equal_if_only_the_case_of_names_differs() -> None:
    assert Headers([("A", "1"), ("B", "2")]) == Headers([("a", "1"), ("b", "2")])
    assert hash(Headers([("A", "1")])) == hash(Headers([("a", "1")]))
    assert Headers([("A", "x")]) != Headers([("A", "X")])
    assert Headers([("A", "1"), ("B", "2")]) != Headers([("B", "2"), ("A", "1")])
    assert Headers([("A", "1")]) != {"A": "1"}


def test_headers_can_be_pickled_and_shown(headers: Headers) -> None:
    assert pickle.loads(pickle.dumps(headers)).items() == FIELDS
    assert repr(Headers([("A", "1")])) == "Headers([('A', '1')])"


@given(st.lists(st.tuples(st.text(), st.text())), st.text())
def test_no_text_makes_headers_raise(fields: list[tuple[str, str]], name: str) -> None:
    headers = Headers([*fields, ("Content-Type", name)])
    assert headers.items()[:-1] == fields
    headers.get(name)
    headers.get_all(name)
    headers.get_content_type()
    headers.get_content_charset()
    repr(headers)


AS_IN_EMAIL = {
    "text/html": ("text/html", None),
    "TEXT/HTML; Charset=UTF-8": ("text/html", "utf-8"),
    "text/html;charset=utf-8": ("text/html", "utf-8"),
    "text/html ; charset = utf-8 ": ("text/html", "utf-8"),
    "text/html; charset='utf-8'": ("text/html", "'utf-8'"),
    'text/html; charset="utf-8"': ("text/html", "utf-8"),
    'text/html; charset="a\\"b"': ("text/html", 'a"b'),
    "text/html; boundary=x; charset=latin-1; charset=utf-8": ("text/html", "latin-1"),
    'text/html; boundary="; charset=no"; charset=utf-8': ("text/html", "utf-8"),
    'text/html; boundary="\\"; charset=no"; charset=utf-8': ("text/html", "utf-8"),
    "text/html;; charset=utf-8": ("text/html", "utf-8"),
    "text/html; flag; charset=utf-8": ("text/html", "utf-8"),
    "text/html; mycharset=no": ("text/html", None),
    "application/vnd.a+json; charset=utf-8": ("application/vnd.a+json", "utf-8"),
    "": ("text/plain", None),
    "text": ("text/plain", None),
    "; charset=utf-8": ("text/plain", "utf-8"),
}

OUR_OWN = {
    "text/html; charset": ("text/html", None),
    "text/": ("text/plain", None),
    "/html": ("text/plain", None),
    "text/ht ml": ("text/plain", None),
    "text/html/x": ("text/plain", None),
    "text/html, text/plain": ("text/plain", None),
    "t\xe4xt/html": ("text/plain", None),
    "text/html; charset=": ("text/html", None),
    'text/html; charset=""': ("text/html", None),
    'text/html; a="b" c; charset=utf-8': ("text/html", "utf-8"),
    "text/html; a=b c=d; charset=utf-8": ("text/html", "utf-8"),
    'text/html; charset="utf-8': ("text/html", None),
    'text/html; a="b; charset=utf-8': ("text/html", None),
}


@pytest.mark.parametrize(("value", "expected"), [*AS_IN_EMAIL.items(), *OUR_OWN.items()])
def test_content_type_and_charset(value: str, expected: tuple[str, str | None]) -> None:
    headers = Headers([("content-TYPE", value)])
    assert (headers.get_content_type(), headers.get_content_charset()) == expected


@pytest.mark.parametrize("value", AS_IN_EMAIL)
def test_content_type_and_charset_are_those_of_the_email_package(value: str) -> None:
    message = Message()
    message["Content-Type"] = value
    headers = Headers([("Content-Type", value)])
    assert headers.get_content_type() == message.get_content_type()
    assert headers.get_content_charset() == message.get_content_charset()


def test_a_missing_content_type() -> None:
    assert Headers().get_content_type() == "text/plain"
    assert Headers().get_content_charset() is None
    assert Headers().get_content_charset("latin-1") == "latin-1"
    assert Headers([("Content-Type", "a/b")]).get_content_charset("latin-1") == "latin-1"


@pytest.mark.parametrize(
    "value",
    [
        "text/html" + ";" * 60000,
        "text/html;" + " " * 60000 + "x",
        "text/html;" + "a" * 60000,
        'text/html; a="' + "\\" * 60000,
        'text/html; a="' + "b" * 60000,
        "text/html" + '; a="' * 15000,
        "text/html" + "; a=b" * 15000,
        "a" * 60000,
        "a/" * 30000,
    ],
    ids=lambda value: value[:24],
)
def test_a_hostile_content_type_takes_no_long_time(value: str) -> None:
    headers = Headers([("Content-Type", value)])
    with cpu_limit(1):
        headers.get_content_type()
        headers.get_content_charset()


# --- CaseInsensitiveDict -------------------------------------------------------------------------


def test_keys_ignore_case_but_keep_how_they_were_last_set() -> None:
    data = CaseInsensitiveDict({"Content-Type": "a"})
    data["CONTENT-type"] = "b"
    assert data["content-TYPE"] == "b"
    assert list(data) == ["CONTENT-type"]
    assert len(data) == 1
    del data["content-type"]
    assert not data


def test_a_missing_key_raises() -> None:
    data: CaseInsensitiveDict[str] = CaseInsensitiveDict()
    with pytest.raises(KeyError):
        data["a"]
    with pytest.raises(KeyError):
        del data["a"]
    assert data.get("a") is None


@pytest.mark.parametrize(
    "data",
    [
        CaseInsensitiveDict({"A": 1, "b": 2}),
        CaseInsensitiveDict([("a", 0), ("A", 1), ("b", 2)]),
        CaseInsensitiveDict({"A": 1}, b=2),
        CaseInsensitiveDict(CaseInsensitiveDict(A=1, b=2)),
        CaseInsensitiveDict({"A": 1, "b": 2}).copy(),
    ],
)
def test_ways_to_make_one(data: CaseInsensitiveDict[int]) -> None:
    assert dict(data) == {"A": 1, "b": 2}
    assert list(data.lower_items()) == [("a", 1), ("b", 2)]


def test_a_copy_is_independent() -> None:
    data = CaseInsensitiveDict({"a": 1})
    copy = data.copy()
    copy["b"] = 2
    assert "b" not in data


def test_equality_ignores_the_case_of_keys() -> None:
    data = CaseInsensitiveDict({"A": 1})
    assert data == CaseInsensitiveDict({"a": 1})
    assert data == {"a": 1}
    assert data != {"a": 2}
    assert data != {"a": 1, "b": 2}
    assert data != [("a", 1)]


def test_keys_of_other_types_are_not_in_it() -> None:
    data = CaseInsensitiveDict({"1": 1})
    assert 1 not in data
    assert data != {1: 1}


def test_it_is_a_mutable_mapping() -> None:
    data = CaseInsensitiveDict({"A": 1})
    assert data.setdefault("a", 5) == 1
    assert data.pop("a") == 1
    data.update({"B": 2}, c=3)
    assert data.popitem()[1] in (2, 3)
    data.clear()
    assert data == {}


def test_it_is_not_hashable_but_can_be_shown_and_pickled() -> None:
    data = CaseInsensitiveDict({"A": 1})
    with pytest.raises(TypeError):
        hash(data)
    assert repr(data) == "CaseInsensitiveDict({'A': 1})"
    assert pickle.loads(pickle.dumps(data)) == data


# --- what a repr shows ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("Set-Cookie", "id=secret", "..."),
        ("authorization", "Basic secret", "..."),
        ("Proxy-Authenticate", "Basic secret", "..."),
        ("X-Amz-Security-Token", "secret", "..."),
        ("X-Api-Key", "secret", "..."),
        ("Location", "http://h/a?secret", "http://h/a?..."),
        ("Location", "http://h/a", "http://h/a"),
        ("Content-Type", "text/plain; a=?", "text/plain; a=?"),
    ],
)
def test_a_repr_hides_what_may_be_secret(name: str, value: str, shown: str) -> None:
    assert repr(Headers([(name, value)])) == f"Headers([({name!r}, {shown!r})])"
    assert (
        repr(CaseInsensitiveDict({name: value})) == f"CaseInsensitiveDict({{{name!r}: {shown!r}}})"
    )
    assert Headers([(name, value)]).items() == [(name, value)]
