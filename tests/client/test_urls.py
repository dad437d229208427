"""URLs of a client: joined, resolved as browsers do, quoted once, with parameters; and forms."""

from __future__ import annotations

from enum import Enum
from typing import Any
from urllib.parse import parse_qsl, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dugong import Request
from dugong.client.urls import form, form_pairs, join, quoted, resolve, with_params

# --- join -------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["https://h/v1/", "https://h/v1"])
@pytest.mark.parametrize("url", ["items", "/items"])
def test_a_relative_url_is_put_below_the_base(base: str, url: str) -> None:
    assert join(base, url) == "https://h/v1/items"


@pytest.mark.parametrize("url", ["http://other/x", "HTTPS://other", "ftp://other/x"])
@pytest.mark.parametrize("base", ["", "https://h/v1/"])
def test_an_absolute_url_is_itself(base: str, url: str) -> None:
    assert join(base, url) is url


@pytest.mark.parametrize(
    ("base", "url", "joined"),
    [
        ("https://h/v1/", "?a=1", "https://h/v1/?a=1"),
        ("https://h/v1", "?a=1", "https://h/v1?a=1"),
        ("https://h/v1", "", "https://h/v1"),
        ("https://h/v1", "#part", "https://h/v1#part"),
        ("https://h", "items?a=1", "https://h/items?a=1"),
        ("https://h/v1", "items:search", "https://h/v1/items:search"),
        ("https://h/v1", "to?url=http://x/", "https://h/v1/to?url=http://x/"),
        ("https://h/v1", "../items", "https://h/v1/../items"),
    ],
)
def test_what_is_put_below_the_base_is_not_changed(base: str, url: str, joined: str) -> None:
    assert join(base, url) == joined


@pytest.mark.parametrize("url", ["items", "/items", "", "//other/x", "h:80/x"])
def test_a_relative_url_without_a_base_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"give an absolute one, .* a base_url"):
        join("", url)


def test_a_url_without_a_scheme_cannot_leave_the_base() -> None:
    with pytest.raises(ValueError, match="would leave the base_url"):
        join("https://h/v1", "//other/x")


@pytest.mark.parametrize("base", ["https://h/v1?key=secret", "https://h/v1#secret"])
def test_a_base_with_a_query_or_a_fragment_is_refused(base: str) -> None:
    with pytest.raises(ValueError, match="neither a query nor a fragment") as info:
        join(base, "items")
    assert "secret" not in str(info.value)


@pytest.mark.parametrize("url", [b"http://h/", None, 7])
def test_a_url_that_is_no_text_is_a_type_error(url: Any) -> None:
    for call in (lambda: join("", url), lambda: quoted(url), lambda: with_params(url, "a=1")):
        with pytest.raises(TypeError, match="URL must be a str"):
            call()


# --- resolve ----------------------------------------------------------------------------------

#: RFC 3986 §5.4, with the fragment of http://a/b/c/d;p?q, and the path that an authority has.
EXAMPLES = """
    g http://a/b/c/g            ./g http://a/b/c/g          g/ http://a/b/c/g/
    /g http://a/g               //g http://g/               ?y http://a/b/c/d;p?y
    g?y http://a/b/c/g?y        #s http://a/b/c/d;p?q#s     g#s http://a/b/c/g#s
    g?y#s http://a/b/c/g?y#s    ;x http://a/b/c/;x          g;x http://a/b/c/g;x
    g;x?y#s http://a/b/c/g;x?y#s
    . http://a/b/c/             ./ http://a/b/c/            .. http://a/b/
    ../ http://a/b/             ../g http://a/b/g           ../.. http://a/
    ../../ http://a/            ../../g http://a/g          ../../../g http://a/g
    ../../../../g http://a/g    /./g http://a/g             /../g http://a/g
    g. http://a/b/c/g.          .g http://a/b/c/.g          g.. http://a/b/c/g..
    ..g http://a/b/c/..g        ./../g http://a/b/g         ./g/. http://a/b/c/g/
    g/./h http://a/b/c/g/h      g/../h http://a/b/c/h       g;x=1/./y http://a/b/c/g;x=1/y
    g;x=1/../y http://a/b/c/y   g?y/./x http://a/b/c/g?y/./x
    g?y/../x http://a/b/c/g?y/../x
    g#s/../x http://a/b/c/g#s/../x  http:g http://a/b/c/g
""".split()


@pytest.mark.parametrize(("location", "url"), [*zip(EXAMPLES[::2], EXAMPLES[1::2], strict=True)])
def test_the_examples_of_the_rfc_are_resolved_so(location: str, url: str) -> None:
    assert resolve("http://a/b/c/d;p?q", location) == url


def test_an_empty_location_is_the_same_url() -> None:
    assert resolve("http://a/b?q", "") == "http://a/b?q"
    assert resolve("http://a", "") == "http://a/"


@pytest.mark.parametrize(
    ("location", "url"),
    [
        (" \t/x \t", "http://a/x"),
        ("/x y", "http://a/x%20y"),
        ("/x?y z", "http://a/x?y%20z"),
        ("/\tx", "http://a/x"),
        ("\\x\\y?\\#\\", "http://a/x/y?%5C#%5C"),
        ("\\\\other\\x", "http://other/x"),
        ("/\\other/x", "http://other/x"),
        ("///other/x", "http://other/x"),
        ("http:///other/x", "http://other/x"),
        ("https:other/x", "https://other/x"),
        ("https:/other/x", "https://other/x"),
        ("HTTP://other/x", "http://other/x"),
        ("http:/x", "http://a/x"),
        ("http://other\\@a/x", "http://other/@a/x"),
        ("/%2e%2E/.%2e/x/%2E", "http://a/x/"),
        ("//other", "http://other/"),
        ("//other?x", "http://other/?x"),
        ("?", "http://a/b/c?"),
        ("/x%20y%zz%", "http://a/x%20y%zz%"),
        ('/"<>^`{|}[]', "http://a/%22%3C%3E%5E%60%7B%7C%7D[]"),
    ],
)
def test_a_location_is_read_as_browsers_read_it(location: str, url: str) -> None:
    assert resolve("http://a/b/c?q", location) == url


@pytest.mark.parametrize(
    ("sent", "url"),
    [
        ("/ä?ü#ö".encode(), "http://a/%C3%A4?%C3%BC#%C3%B6"),
        ("/ä".encode("latin-1"), "http://a/%E4"),
        ("/\N{SNOWMAN} ä".encode() + b"\xff", "http://a/%E2%98%83%20%C3%A4%FF"),
    ],
)
def test_bytes_of_a_location_are_quoted_as_the_server_has_sent_them(sent: bytes, url: str) -> None:
    assert resolve("http://a/", sent.decode("latin-1")) == url


def test_a_host_name_in_a_location_is_utf_8() -> None:
    url = resolve("http://a/", "//bücher.example/ä".encode().decode("latin-1"))
    assert url == "http://bücher.example/%C3%A4"
    assert Request("GET", url).origin.host == "xn--bcher-kva.example"


@pytest.mark.parametrize("host", ["\xff", "h\x1b[2J", "h\u202e"])
def test_a_host_name_that_cannot_be_shown_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="host of the URL has characters") as info:
        resolve("http://a/", f"//{host}/x")
    assert host not in str(info.value)


def test_a_fragment_is_inherited_by_a_location_that_has_none() -> None:
    assert resolve("http://a/#old", "/x?y") == "http://a/x?y#old"
    assert resolve("http://a/#old", "//other/x") == "http://other/x#old"
    assert resolve("http://a/#old", "/x#new") == "http://a/x#new"
    assert resolve("http://a/#old", "/x#") == "http://a/x#"


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("mailto:a b@c", "mailto:a%20b@c"),
        ("JavaScript:alert(1)", "javascript:alert(1)"),
        ("file:///etc/passwd", "file:///etc/passwd"),
        ("//user:password@other/", "http://user:password@other/#old"),
    ],
)
def test_other_schemes_and_user_information_are_left_to_the_caller(location: str, url: str) -> None:
    assert resolve("http://a/#old", location) == url


@pytest.mark.parametrize("bad", ["\r", "\n", "\0"])
def test_a_location_with_a_line_break_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="must not hold a CR, LF or NUL") as info:
        resolve("http://a/", f"/x?secret{bad}Host: other")
    assert "secret" not in str(info.value)


@given(location=st.text(st.characters(max_codepoint=255)) | st.text() | st.text("/.\\?#:%2e@h"))
@example("\ud800")
@example("http:")
@example("//")
@example("/" * 9)
def test_any_location_gives_a_url_or_a_value_error(location: str) -> None:
    try:
        url = resolve("http://a/b/c?q#f", location)
    except ValueError:
        return
    scheme, _, rest = url.partition(":")
    assert scheme == scheme.lower()
    if scheme not in ("http", "https"):
        return
    # What follows the authority is good for a request, whatever the authority is.
    target = rest.removeprefix("//").partition("#")[0].partition("/")[2]
    assert Request("GET", f"http://h/{target}").target == f"/{target}"
    path = f"/{target.partition('?')[0]}/"
    assert "/../" not in path
    assert "/./" not in path


# --- quoted -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://h/a/b?c=d&e[]=f#g",
        "http://[::1]:80/",
        "http://h/a%20b%C3%A4",
        "http://h/100%",
        "http://h/%zz?%",
        "items",
        "",
        "http://user:pass@h/~-._!$&'()*+,;=:@/?",
    ],
)
def test_a_url_that_needs_nothing_is_itself(url: str) -> None:
    assert quoted(url) is url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h/a b?c d#e f", "http://h/a%20b?c%20d#e%20f"),
        ("http://h/ä?ö=\N{SNOWMAN}", "http://h/%C3%A4?%C3%B6=%E2%98%83"),
        ("http://h/a%20b c", "http://h/a%20b%20c"),
        ("http://h/\t\x01\x7f", "http://h/%09%01%7F"),
        ('http://h/"<>\\^`{|}', "http://h/%22%3C%3E%5C%5E%60%7B%7C%7D"),
        ("http://bücher.example/ä", "http://bücher.example/%C3%A4"),
        ("http://bücher.example?ä", "http://bücher.example?%C3%A4"),
        ("//bücher.example/ä", "//bücher.example/%C3%A4"),
        ("a b", "a%20b"),
        ("\N{GRINNING FACE}", "%F0%9F%98%80"),
        ("http://h/\udce4", "http://h/%E4"),
    ],
)
def test_what_is_not_legal_is_quoted_and_the_host_left_alone(url: str, expected: str) -> None:
    assert quoted(url) == expected


@pytest.mark.parametrize("bad", ["\r", "\n", "\0"])
@pytest.mark.parametrize("url", ["http://h{}/", "http://h/{}", "http://h/?secret{}", "{}x"])
def test_a_line_break_in_a_url_is_refused(url: str, bad: str) -> None:
    with pytest.raises(ValueError, match="must not hold a CR, LF or NUL") as info:
        quoted(url.format(bad))
    assert "secret" not in str(info.value)


def test_a_surrogate_in_a_url_is_refused() -> None:
    with pytest.raises(ValueError, match="has a lone surrogate") as info:
        quoted("http://h/?secret\ud800")
    assert "secret" not in str(info.value)


@given(st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"])))
def test_a_url_is_quoted_once_and_says_what_it_said(path: str) -> None:
    url = quoted(f"http://h/{path}")
    assert quoted(url) is url
    assert Request("GET", url).url == url
    assert unquote(url) == unquote(f"http://h/{path}")


# --- with_params, and form --------------------------------------------------------------------


class Color(str, Enum):  # noqa: UP042  # unlike a StrEnum, it is formatted as its name
    RED = "red"


class Size(int, Enum):
    LARGE = 3


@pytest.mark.parametrize(
    ("params", "query"),
    [
        ({"a": "b c"}, "a=b+c"),
        ({"a": 1, "b": 1.5}, "a=1&b=1.5"),
        ({"a": True, "b": False, "c": None}, "a=true&b=false&c="),
        ({"a": ["1", 2, None, True]}, "a=1&a=2&a=&a=true"),
        ({"a": ("x", "y")}, "a=x&a=y"),
        ({"a": []}, ""),
        ([("a", "1"), ("b", "2"), ("a", [3, 4])], "a=1&b=2&a=3&a=4"),
        ({"ä": "ö&=+%/?#"}, "%C3%A4=%C3%B6%26%3D%2B%25%2F%3F%23"),
        ({"a": "~-._*\r\n"}, "a=~-._%2A%0D%0A"),
        ({"a": Color.RED, "b": Size.LARGE}, "a=red&b=3"),
        ({}, ""),
        ([], ""),
    ],
)
def test_parameters_and_forms_are_encoded_alike(params: Any, query: str) -> None:
    assert with_params("http://h/", params) == (f"http://h/?{query}" if query else "http://h/")
    assert form(params) == query.encode()


def test_pairs_may_come_from_an_iterator() -> None:
    assert with_params("http://h/", iter({"a": "1"}.items())) == "http://h/?a=1"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h/", "http://h/?a=1"),
        ("http://h", "http://h?a=1"),
        ("http://h/#f", "http://h/?a=1#f"),
        ("http://h/?b=2", "http://h/?b=2&a=1"),
        ("http://h/?b=2#f?g", "http://h/?b=2&a=1#f?g"),
        ("http://h/#f?g", "http://h/?a=1#f?g"),
        ("http://h/?", "http://h/?a=1"),
        ("http://h/?b&", "http://h/?b&a=1"),
        ("", "?a=1"),
    ],
)
def test_parameters_follow_the_query_of_the_url(url: str, expected: str) -> None:
    assert with_params(url, {"a": 1}) == expected


@pytest.mark.parametrize(
    ("params", "query"),
    [
        ("a=b+c&d=%20e", "a=b+c&d=%20e"),
        ("a=b c", "a=b%20c"),
        ("a=ä#//h/ü", "a=%C3%A4%23//h/%C3%BC"),
    ],
)
def test_a_query_that_is_a_str_is_taken_as_encoded(params: str, query: str) -> None:
    assert with_params("http://h/?x#f", params) == f"http://h/?x&{query}#f"


def test_no_parameters_change_nothing() -> None:
    url = "http://h/?#"
    assert with_params(url, {}) is with_params(url, "") is url


@pytest.mark.parametrize("params", [b"a=1", 7, None, {"a": b"secret"}, {"a": {"secret": 1}}])
def test_parameters_of_another_type_are_a_type_error(params: Any) -> None:
    with pytest.raises(TypeError, match="params") as info:
        with_params("http://h/", params)
    assert "secret" not in str(info.value)


@pytest.mark.parametrize(
    "data", ["a=1", b"a=1", {1: "a"}, ["a=1"], [("a", "b", "c")], {"a": {"b"}}]
)
def test_a_form_of_another_type_is_a_type_error(data: Any) -> None:
    with pytest.raises(TypeError, match="data"):
        form(data)


def test_a_parameter_that_is_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="params has a lone surrogate") as info:
        with_params("http://h/", {"a": "secret\ud800"})
    assert "secret" not in str(info.value)
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        with_params("http://h/", "a=\r\nX: y")


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(st.tuples(TEXT, TEXT)))
def test_a_form_is_read_as_it_was_written(pairs: list[tuple[str, str]]) -> None:
    encoded = form(pairs)
    assert parse_qsl(encoded.decode(), keep_blank_values=True) == pairs
    assert form_pairs("data", pairs) == pairs
    url = quoted(with_params("http://h/", pairs))
    assert Request("GET", url).target.partition("?")[2] == encoded.decode()
