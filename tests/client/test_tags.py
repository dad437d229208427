"""The tags of pages that lead somewhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dugong.client.tags import tags


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("<a>", [("a", {})]),
        ("<A HREF=x>", [("a", {"href": "x"})]),
        ("<area><base><meta>", [("area", {}), ("base", {}), ("meta", {})]),
        ("<a/><a /><a / >", 3 * [("a", {})]),
        ("<abbr><basefont><article><metadata><b></a>", []),
        ("<p><div class=x>a < b<a href=x>", [("a", {"href": "x"})]),
        ("<><5 a><<a>", [("a", {})]),
        ("<a\n>\t<a\f>", 2 * [("a", {})]),
    ],
)
def test_tags_are_found(text: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert list(tags(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("""b="x" c='y' d=z""", {"b": "x", "c": "y", "d": "z"}),
        ("""b = "x" c\n=\n'y' d= z""", {"b": "x", "c": "y", "d": "z"}),
        ("""b="x"c='y'd""", {"b": "x", "c": "y", "d": ""}),
        ("b=x B=y b", {"b": "x"}),
        ("b='>' c", {"b": ">", "c": ""}),
        ("b='\"' c=\"'\"", {"b": '"', "c": "'"}),
        ("b=x\"y' c", {"b": "x\"y'", "c": ""}),
        ("b=x/y/", {"b": "x/y/"}),
        ("b=", {"b": ""}),
        ("b=''", {"b": ""}),
        ("=b=c", {"=b": "c"}),
        ("b==c", {"b": "=c"}),
        ("/b//c/", {"b": "", "c": ""}),
        ("b=a=c&d", {"b": "a=c&d"}),
        ("\"b'=c", {"\"b'": "c"}),
    ],
)
def test_attributes_are_those_that_browsers_see(text: str, expected: dict[str, str]) -> None:
    assert list(tags(f"<a {text}>")) == [("a", expected)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("?a=1&amp;b=2", "?a=1&b=2"),
        ("?a=1&b=2&copy=3&copying", "?a=1&b=2&copy=3&copying"),
        ("&copy;&copy &COPY", "©© ©"),
        ("&#47;&#x2F;&#X2f &#47", "/// /"),
        ("&;&#;&#x;&unknown;&", "&;&#;&#x;&unknown;&"),
        (f"&#{'1' * 5000};", "\ufffd"),
    ],
)
def test_references_are_replaced(text: str, expected: str) -> None:
    assert list(tags(f"<a href='{text}'>")) == [("a", {"href": expected})]


@pytest.mark.parametrize(
    "text",
    [
        "<!-- <a href=b> -->",
        "<!-- <a href=b> --!>",
        "<!--><!---><!-- > <a href=b> -->",
        "<!-- -- > <a href=b> -->",
        "<script><a href=b></script>",
        "<SCRIPT type=x><a href=b></scripts><a href=b></Script >",
        "<style><a href=b></style><title><a href=b></title/>",
        "<textarea></textareas><a href=b></textarea x='<a href=b>'>",
        "<p title='<a href=b>'><p title=\"<a href=b>\"></p title='<a href=b>'>",
        "<!doctype <a><?php <a></5 <a>",
    ],
)
def test_what_only_looks_like_a_tag_is_none(text: str) -> None:
    assert list(tags(f"{text}<a href=c>")) == [("a", {"href": "c"})]


def test_an_element_that_is_closed_by_its_own_tag_has_no_text() -> None:
    assert list(tags("<svg><title/><script/><a>")) == [("a", {})]


def test_elements_with_similar_names_have_no_text() -> None:
    assert list(tags("<scripts><a></scripts><titles><a>")) == 2 * [("a", {})]


@pytest.mark.parametrize(
    "text",
    [
        "<a", "<a ", "<a href", "<a href=", "<a href='b", '<a href="b>', "<a href='b' c=", "</a",
        "<!--", "<!-", "</", "<?", "<p title='", "<script>", "<script></script", "<title><a>",
    ],
)  # fmt: skip
def test_what_the_end_cuts_off_is_no_tag(text: str) -> None:
    assert list(tags(f"<a>{text}")) == [("a", {})]


@pytest.mark.parametrize(
    ("begin", "repeated", "end"),
    [
        ("", "<", ""), ("", "<a", ""), ("", "</a", ""), ("", "<a ", "<"), ("", "<!--", ""),
        ("", "<?", ""), ("", "<a b='", ""), ("", "<script>", ""), ("<script>", "</script", ""),
        ("<script>", "<", ""), ("<a", " ", ""), ("<a", " b", "'"), ("<a", " b=", '"'),
        ("<a", " b ='c'", "="), ("<a", "/", ""), ("<a ", "=", ""), ("<!--", "-", ""),
        ("<a b='", "&amp", "'>"), ("<a b='&#", "1", "'>"), ("<a b='", "&a", "'>"),
    ],
)  # fmt: skip
def test_no_text_takes_long(begin: str, repeated: str, end: str) -> None:
    """If the time grew with the square of the length, this would take minutes."""
    assert len(list(tags(begin + 200_000 * repeated + end))) <= 200_000


@given(st.text(alphabet="<>/!-?= \n'\"&;#abscriptx", max_size=60))
def test_any_text_is_taken(text: str) -> None:
    for name, attributes in tags(text):
        assert name in ("a", "area", "base", "meta")
        assert all(key == key.lower() for key in attributes)
