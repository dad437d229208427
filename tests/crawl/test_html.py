"""Where pages lead to."""

from __future__ import annotations

from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dugong import Headers
from dugong.crawl import links
from dugong.testing import MockPool, MockResponse

URL = "http://host/dir/page?q"


def links_of(text: str | bytes, status: int = 200, url: str = URL, **headers: str) -> list[str]:
    headers.setdefault("content_type", "text/html; charset=utf-8")
    fields = {name.replace("_", "-"): value for name, value in headers.items() if value}
    body = text.encode() if isinstance(text, str) else text
    with MockPool(lambda _: MockResponse(status, body=body, headers=fields)) as pool:
        return links(pool.get(url))


def page(text: str, url: str = URL) -> Any:
    """Return what `links` needs of a response."""
    response = type("", (), {})()
    response.status, response.url, response.body = 200, url, text.encode()
    response.headers = Headers({"Content-Type": "text/html"})
    return response


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('<a href="a">', ["http://host/dir/a"]),
        ("<A HREF=/a>", ["http://host/a"]),
        ('<a href="//other/x">', ["http://other/x"]),
        ('<a href="https://other">', ["https://other"]),
        ('<a href="?x">', ["http://host/dir/page?x"]),
        ('<a href="../b/./c">', ["http://host/b/c"]),
        ('<a href=" a&amp;b\n c ">', ["http://host/dir/a&b%20c"]),
        ('<a href="ä?ö#ü">', ["http://host/dir/%C3%A4?%C3%B6#%C3%BC"]),
        ('<area href="a"><a name="b"><a>', ["http://host/dir/a"]),
        ('<a href="a" rel="x NOFOLLOW"><a rel href="b">', ["http://host/dir/b"]),
        ('<a href="a"><a href="a">', 2 * ["http://host/dir/a"]),
        ('<a href="/b/../c?/../d">', ["http://host/c?/../d"]),
        ('<base href="mailto:x"><a href="/a">', ["/a"]),
        (
            '<base href="https://other/x/y"><a href="/a"><a href="b">',
            ["https://other/a", "https://other/x/b"],
        ),
        ('<base href="/x/"><base href="/y/"><a href="a">', ["http://host/x/a"]),
        ('<a href="http://["><a href="mailto:me@host">', ["mailto:me@host"]),
        ('<meta name="robots" content="noindex, NoFollow"><a href="a">', []),
        ('<meta name="robots" content="none"><a href="a">', []),
        ('<meta name="robots" content="noindex"><meta><a href="a">', ["http://host/dir/a"]),
        ('<!-- <a href="a"> --><script><a href="b"></script>', []),
        ("<a href='a", []),
    ],
)
def test_a_page_leads_to_its_links(text: str, expected: list[str]) -> None:
    assert links_of(text) == expected


@pytest.mark.parametrize(
    ("meta", "letter"),
    [
        ("<meta charset=latin-1>", "%C3%A4"),
        ('<META HTTP-EQUIV=Content-Type content="text/html; charset=ISO-8859-1">', "%C3%A4"),
        ('<meta charset="iso-8859-7"><meta charset=latin-1>', "%CE%B4"),
        ("<!-- <meta charset=iso-8859-7> --><meta charset=latin-1>", "%C3%A4"),
        ("<meta charset=utf-16>", "%EF%BF%BD"),
        ("<meta charset=no-such>", "%EF%BF%BD"),
        ("<meta charset>", "%EF%BF%BD"),
        ("<meta content='text/html; charset=latin-1'>", "%EF%BF%BD"),
        (f"<!-- {'x' * 1024} --><meta charset=latin-1>", "%EF%BF%BD"),
    ],
)
def test_the_charset_that_a_page_names_counts(meta: str, letter: str) -> None:
    page = f'{meta}<a href="ä">'.encode("latin-1")
    assert links_of(page, content_type="text/html") == [f"http://host/dir/{letter}"]
    found = links_of(page, content_type="text/html; charset=iso-8859-5")
    assert found == ["http://host/dir/%D1%84"]


def test_the_charset_of_a_page_counts() -> None:
    found = links_of('<a href="ä">'.encode("latin-1"), content_type="text/html; charset=latin-1")
    assert found == ["http://host/dir/%C3%A4"]


def test_xhtml_is_read_too() -> None:
    assert links_of('<a href="/a"/>', content_type="application/xhtml+xml") == ["http://host/a"]


@pytest.mark.parametrize("content_type", ["", "text/plain", "image/png"])
def test_what_is_no_page_leads_nowhere(content_type: str) -> None:
    assert links_of('<a href="/a">', content_type=content_type) == []


def test_an_error_leads_nowhere() -> None:
    assert links_of('<a href="/a">', status=404) == []


@given(
    st.text("ab:/.?#%=&-", max_size=12).map(lambda text: text.replace("//", "/a/")),
    st.sampled_from([URL, "http://host", "http://host/", "http://host/a/../b/c?d/e#f"]),
)
def test_links_are_joined_as_the_standard_library_does(target: str, base: str) -> None:
    (found,) = links(page(f"<a href='{target}'>", base))
    # That drops an empty query and an empty fragment, which makes no other URL of it here.
    assert urlsplit(found) == urlsplit(urljoin(base.partition("#")[0], target))


@pytest.mark.parametrize(
    ("location", "expected"),
    [("/new", ["http://host/new"]), ("https://other/", ["https://other/"]), ("", [])],
)
def test_a_redirect_leads_where_it_says(location: str, expected: list[str]) -> None:
    assert links_of('<a href="/a">', status=301, location=location) == expected


@given(st.text(alphabet="<>a href='/\"=&#;!-x\n", max_size=40))
def test_no_page_makes_it_fail(text: str) -> None:
    links(page(text))
