"""URLs: which origin and which target they name, what is refused, and what is shown of them."""

from __future__ import annotations

from typing import Any

import pytest

from dugong.pool.url import Origin, known_origins, parse_origin, public_url, redacted_url, split_url

# --- splitting ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "prefix", "target"),
    [
        ("http://h/a/b", "http://h", "/a/b"),
        ("https://h:81/a?b=c", "https://h:81", "/a?b=c"),
        ("HTTP://H/A", "HTTP://H", "/A"),
        ("http://[::1]:80/", "http://[::1]:80", "/"),
        ("http://h", "http://h", "/"),
        ("http://h?q=/x", "http://h", "/?q=/x"),
        ("http://h?q=1", "http://h", "/?q=1"),
        ("http://h/a?u=http://i/b?c", "http://h", "/a?u=http://i/b?c"),
        ("http://h//a", "http://h", "//a"),
    ],
)
def test_a_url_is_split_where_its_path_begins(url: str, prefix: str, target: str) -> None:
    assert split_url(url) == (prefix, target)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://h/a#b", "/a"),
        ("http://h/a?b#c", "/a?b"),
        ("http://h#a", "/"),
        ("http://h#/a?b", "/"),
        ("http://h?a#/b", "/?a"),
        ("http://h/a#", "/a"),
    ],
)
def test_a_fragment_is_dropped(url: str, target: str) -> None:
    assert split_url(url) == ("http://h", target)


@pytest.mark.parametrize(
    "url", ["", "h/a", "//h/a", "/a", "http:/h", "http:h", " http://h", "ftp://h/", "httpx://h/"]
)
def test_what_does_not_begin_as_a_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="begin with http"):
        split_url(url)


@pytest.mark.parametrize("url", [None, b"http://h/", 7])
def test_a_url_that_is_no_text_is_a_type_error(url: Any) -> None:
    with pytest.raises(TypeError, match="URL must be a str"):
        split_url(url)


# --- origins -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "origin"),
    [
        ("http://h", Origin("http", "h", 80)),
        ("https://h", Origin("https", "h", 443)),
        ("HTTPS://Example.COM:8443", Origin("https", "example.com", 8443)),
        ("http://h:", Origin("http", "h", 80)),
        ("http://h:080", Origin("http", "h", 80)),
        ("http://h:65535", Origin("http", "h", 65535)),
        ("http://127.0.0.1:1", Origin("http", "127.0.0.1", 1)),
        ("http://[::1]", Origin("http", "::1", 80)),
        ("http://[2001:DB8:0::1]:81", Origin("http", "2001:db8::1", 81)),
        ("http://a_b.c-d.example.", Origin("http", "a_b.c-d.example.", 80)),
        ("http://[FE80:0::1%25Eth0.1]:81", Origin("http", "fe80::1%Eth0.1", 81)),
        ("http://[fe80::1%eth0]", Origin("http", "fe80::1%eth0", 80)),
        ("http://WWW.BÜCHER.example", Origin("http", "www.xn--bcher-kva.example", 80)),
    ],
)
def test_an_origin_is_a_scheme_a_host_and_a_port(prefix: str, origin: Origin) -> None:
    assert parse_origin(prefix) == origin


@pytest.mark.parametrize(
    ("origin", "text"),
    [
        (Origin("http", "h", 80), "http://h"),
        (Origin("https", "h", 443), "https://h"),
        (Origin("http", "h", 8080), "http://h:8080"),
        (Origin("https", "h", 80), "https://h:80"),
        (Origin("http", "::1", 80), "http://[::1]"),
        (Origin("https", "::1", 1), "https://[::1]:1"),
        (Origin("https", "fe80::1%eth0", 443), "https://[fe80::1%25eth0]"),
        (Origin("https", "fe80::1%eth0", 1), "https://[fe80::1%25eth0]:1"),
    ],
)
def test_an_origin_is_shown_without_the_port_that_goes_without_saying(
    origin: Origin, text: str
) -> None:
    assert str(origin) == text
    assert parse_origin(text) == origin


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("http://", "no host"),
        ("http://:80", "no host"),
        ("http://h:0", "port"),
        ("http://h:65536", "port"),
        ("http://h:http", "port"),
        ("http://h:-1", "port"),
        ("http://h:+1", "port"),
        ("http://h:1_0", "port"),
        ("http://h: 1", "port"),
        ("http://h:٣", "port"),
        ("http://h:" + "9" * 5000, "port"),
        ("http://h:80:80", "form"),
        ("http://::1", "form"),
        ("http://[::1", "form"),
        ("http://::1]", "form"),
        ("http://[::1]x", "form"),
        ("http://[]", "IPv6"),
        ("http://[h]", "IPv6"),
        ("http://[1.2.3.4]", "IPv6"),
        ("http://[fe80::1%25]", "zone"),
        ("http://[fe80::1%]", "zone"),
        ("http://[fe80::1%25a%62]", "zone"),
        ("http://[fe80::1%25a b]", "zone"),
        ("http://[fe80::1%25" + "a" * 65 + "]", "zone"),
        ("http://[h%25eth0]", "IPv6"),
        ("http://h%25eth0", "host name"),
        ("http://[::1\0]", "IPv6"),
        ("http://a b", "host name"),
        ("http://a\tb", "host name"),
        ("http://h\r\nX: y", "port"),
        ("http://h\r\n", "host name"),
        ("http://a%41", "host name"),
        ("http://a\\b", "host name"),
        ("http://a..b", "host name"),
        ("http://.a", "host name"),
        ("http://.", "host name"),
        ("http://a;b", "host name"),
        ("http://a：80", "host name"),  # noqa: RUF001  # a wide colon, which IDNA makes a plain one
        ("http://℀.example", "host name"),  # which IDNA makes a/c
        ("http://" + "ä" * 70, "host name"),
        ("http://" + "a." * 200, "host name"),
        ("ftp://h", "begin with http"),
        ("http:", "begin with http"),
        ("http", "begin with http"),
    ],
)
def test_an_origin_that_could_not_be_meant_is_refused(prefix: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_origin(prefix)


def test_an_origin_is_parsed_once_however_often_it_is_named() -> None:
    assert known_origins["http://h"] is known_origins["http://h"]


def test_a_crawl_of_many_hosts_does_not_remember_them_all() -> None:
    for number in range(5000):
        assert known_origins[f"http://h{number}"].host == f"h{number}"
    assert 0 < len(known_origins) <= 4096


# --- what is shown -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h/a/b", "http://h/a/b"),
        ("https://h:81/a?token=secret", "https://h:81/a?..."),
        ("http://h/a?", "http://h/a?..."),
        ("http://h/a#secret", "http://h/a"),
        ("http://h/a?b#secret?", "http://h/a?..."),
        ("http://h/a#secret?b", "http://h/a"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
        ("http://user:secret@h/a", "http://...@h/a"),
        ("http://user:sec/ret@h/a", "http://...@h/a"),
        ("http://user:sec?ret@h/a", "http://user:...?..."),
        ("http://secret@[::1]:80/a", "http://...@[::1]:80/a"),
        ("http://user:sec@ret@h:80/", "http://...@h:80/"),
        ("http://user:secret", "http://user:..."),
        ("http://user:sec:ret/a", "http://user:.../a"),
        ("http://user:secret/@h/", "http://...@h/"),
        ("http://[::1]secret/", "http://[::1]:.../"),
        ("user:secret@h/a?b", "...@h/a?..."),
        ("h:80/a", "h:80/a"),
        ("", ""),
        ("http://h/a\r\nX: y", "http://h/a\\r\\nX: y"),
        ("http://h/\x1b[31m", "http://h/\\x1b[31m"),
        ("http://h/" + "a" * 500, "http://h/" + "a" * 191 + "..."),
    ],
)
def test_a_url_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert redacted_url(url) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h/@user/a?token=secret#part", "http://h/@user/a?..."),
        ("http://h/a?", "http://h/a?..."),
        ("http://h?a", "http://h?..."),
        ("http://h/a#b?c", "http://h/a"),
    ],
)
def test_a_valid_url_is_shown_up_to_its_query(url: str, shown: str) -> None:
    assert public_url(url) == shown
