"""URLs as people write them, and the file names made of them."""

from __future__ import annotations

import os

import pytest

from dugong.cli.url import checked_url, file_name, without_password
from dugong.pool.request import Request
from dugong.pool.url import Origin


def requested(text: str) -> Request:
    """Return what a client asks for."""
    return Request("GET", checked_url(text))


@pytest.mark.parametrize(
    ("text", "origin", "target"),
    [
        ("http://h/a/b", Origin("http", "h", 80), "/a/b"),
        ("https://h/a", Origin("https", "h", 443), "/a"),
        ("HTTP://H:81/A", Origin("http", "h", 81), "/A"),
        ("http://h", Origin("http", "h", 80), "/"),
        ("http://h?q=1", Origin("http", "h", 80), "/?q=1"),
        ("http://[::1]:8080/a", Origin("http", "::1", 8080), "/a"),
    ],
)
def test_a_url_says_what_to_ask_and_whom(text: str, origin: Origin, target: str) -> None:
    request = requested(text)
    assert (request.origin, request.target) == (origin, target)


def test_a_host_name_that_is_not_ascii_becomes_one_that_is() -> None:
    assert requested("http://b\xfccher.example/").origin.host == "xn--bcher-kva.example"


def test_a_fragment_is_dropped() -> None:
    assert requested("http://h/a?b#c").target == "/a?b"


@pytest.mark.parametrize(
    ("written", "target"),
    [
        ("/a b", "/a%20b"),
        ("/ä?ö", "/%C3%A4?%C3%B6"),
        ("/%2Fa%20b", "/%2Fa%20b"),
        ("/a;b=c,d@e:f~!$&'()*+", "/a;b=c,d@e:f~!$&'()*+"),
        ('/<">{}|^`\\', "/%3C%22%3E%7B%7D%7C%5E%60%5C"),
        (os.fsdecode(b"/\xff"), "/%FF"),
    ],
)
def test_what_cannot_stand_in_a_target_is_encoded_and_nothing_else(
    written: str, target: str
) -> None:
    assert requested("http://h" + written).target == target


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h/a",
        "//h/a",
        "ftp://h/a",
        "file:///etc/passwd",
        "http:///a",
        "http:a",
        "http://h:port/",
        "http://h:99999/",
        "http://[::1/",
        "http://a b/",
        os.fsdecode(b"http://\xff/"),
        "http://user:password@h/",
        "http://user@h/",
    ],
)
def test_anything_but_an_http_url_without_credentials_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        checked_url(text)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("/a/b.tar.gz", "b.tar.gz"),
        ("/a/b?c=/d", "b"),
        ("/%C3%A4%20b", "ä b"),
        ("/", "index.html"),
        ("/a/", "index.html"),
        ("/a/?b", "index.html"),
        ("", "index.html"),
        ("/%E2%82", "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_a_file_is_called_like_the_last_segment_of_the_path(target: str, name: str) -> None:
    assert file_name(f"http://h{target}") == name


@pytest.mark.parametrize(
    "target",
    [
        "/..",
        "/.",
        "/%2e%2e",
        "/%2E",
        "/..%2f..%2fetc%2fpasswd",
        "/%2fetc%2fpasswd",
        "/..%5c..%5cx",
        "/a%00b",
        "/a%0ab",
        "/%1b[31m",
        "/%ff%fe",
        "/" + "a" * 5000,
        "/" + "%E2%82%AC" * 300,
    ],
)
def test_a_file_name_never_leaves_its_directory(target: str) -> None:
    name = file_name(f"http://h{target}")
    assert name not in ("", ".", "..")
    assert not set(name) & set("/\\\0\n\x1b")
    assert len(os.fsencode(name)) <= 200


def test_a_message_has_no_password() -> None:
    assert without_password("http://user:secret@h/a@b") == "http://...@b"
    assert without_password("http://h/a") == "http://h/a"
