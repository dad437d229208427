"""One text for each URL, by RFC 3986."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dugong import Request
from dugong.crawl import normalized


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://host", "http://host/"),
        ("HTTP://Host.Example/", "http://host.example/"),
        ("http://host:80/", "http://host/"),
        ("http://host:/", "http://host/"),
        ("https://host:443/a", "https://host/a"),
        ("http://host:443/a", "http://host:443/a"),
        ("http://[0:0::1]:80/", "http://[::1]/"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://host/a#part", "http://host/a"),
        ("http://host#part", "http://host/"),
        ("http://host/a/./b/../c", "http://host/a/c"),
        ("http://host/a/..", "http://host/"),
        ("http://host/a/.", "http://host/a/"),
        ("http://host/../../a", "http://host/a"),
        ("http://host/a/%2e%2E/b", "http://host/b"),
        ("http://host/.well-known/x", "http://host/.well-known/x"),
        ("http://host/a.b/c..d", "http://host/a.b/c..d"),
        ("http://host/%7euser/%41-%5f", "http://host/~user/A-_"),
        ("http://host/%c3%a4%2f", "http://host/%C3%A4%2F"),
        ("http://host/%%32e/%2%65", "http://host/%%32e/%2%65"),
        ("http://host/%a2%65%2541", "http://host/%A2e%2541"),
        ("http://host/ä b", "http://host/%C3%A4%20b"),
        ("http://host/100%", "http://host/100%"),
        ("http://host?q=1", "http://host/?q=1"),
        ("http://host/?", "http://host/?"),
        ("http://host/?b=2&a=1&b=%7e%2f/../x", "http://host/?b=2&a=1&b=~%2F/../x"),
        ("http://host//a//", "http://host//a//"),
        ("http://host/Path;p=1/A", "http://host/Path;p=1/A"),
    ],
)
def test_a_url_has_one_normal_form(url: str, expected: str) -> None:
    assert normalized(url) == expected
    assert normalized(expected) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host/a",
        "/a",
        "mailto:me@host",
        "javascript:alert(1)",
        "http://",
        "http://[::1/",
        "http://a b/",
        "http://host:0/",
        "http://user:secret@host/?key=secret",
        "http://host/\r\nX: secret",
    ],
)
def test_what_cannot_be_requested_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="invalid URL") as caught:
        normalized(url)
    assert "secret" not in str(caught.value).replace("X: secret", "")


@pytest.mark.parametrize("url", [None, b"http://host/", 1])
def test_a_url_is_a_str(url: Any) -> None:
    with pytest.raises(TypeError):
        normalized(url)


@given(st.text(alphabet="aB.%%%2356e/?#&=~ä :+[", max_size=20))
def test_the_normal_form_of_a_normal_form_is_that_itself(rest: str) -> None:
    url = normalized(f"http://host/{rest}")
    assert normalized(url) == url
    Request("GET", url)
