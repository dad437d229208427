"""Credentials of URLs and netrc files, and that no message quotes them."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from dugong.client.credentials import read_netrc, split_userinfo
from tests.support.auth import SECRET, authorization, basic


@pytest.mark.parametrize(
    ("url", "bare", "user", "password"),
    [
        ("http://u:p@h/a?b#c", "http://h/a?b#c", "u", "p"),
        ("https://u@h", "https://h", "u", ""),
        ("HTTP://u:@h:81/", "HTTP://h:81/", "u", ""),
        ("http://:p@h/", "http://h/", "", "p"),
        ("http://u:p:q@h/", "http://h/", "u", "p:q"),
        ("http://u:p@q@h/", "http://h/", "u", "p@q"),
        ("http://u:p@h?x=@y", "http://h?x=@y", "u", "p"),
        ("http://a%40b:%3A%2f@[::1]/", "http://[::1]/", "a@b", ":/"),
        ("http://J%C3%A4s:\u20ac@h/", "http://h/", "J\u00e4s", "\u20ac"),
    ],
)
def test_credentials_are_taken_out_of_a_url(url: str, bare: str, user: str, password: str) -> None:
    found, auth = split_userinfo(url)
    assert found == bare
    assert auth is not None
    assert authorization(auth) == basic(user, password)


@pytest.mark.parametrize(
    "url",
    [
        "http://h/a@b",
        "http://h?a@b",
        "http://h#a@b",
        "/a@b",
        "//u:p@h/",
        "ftp://u:p@h/",
        "mailto:u@h",
        "",
        "http://",
    ],
)
def test_what_has_no_credentials_stays_as_it_is(url: str) -> None:
    assert split_userinfo(url) == (url, None)


def test_an_empty_userinfo_is_none() -> None:
    assert split_userinfo("http://@h/") == ("http://h/", None)


@pytest.mark.parametrize(
    "url", ["http://u:sesame%ff@h/", "http://u%0a:sesame@h/", "http://u%3Av:sesame@h/"]
)
def test_credentials_of_a_url_that_cannot_be_sent_are_refused_without_being_quoted(
    url: str,
) -> None:
    with pytest.raises(ValueError, match=r"UTF-8|control|colon") as caught:
        split_userinfo(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home directory, which is empty."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    return tmp_path


def write(path: Path, text: str, mode: int = 0o600) -> None:
    path.write_text(text)
    path.chmod(mode)


def from_netrc(host: str) -> str | None:
    """Return what is sent to *host*."""
    find = read_netrc()
    auth = None if find is None else find(host)
    return None if auth is None else authorization(auth)


@pytest.mark.parametrize("name", [".netrc", "_netrc"])
def test_netrc_names_the_credentials_of_a_host(home: Path, name: str) -> None:
    write(home / name, "machine h login u password p\nmachine only-login login u\n")
    assert from_netrc("h") == basic("u", "p")
    assert from_netrc("only-login") is None
    assert from_netrc("other") is None


def test_the_default_entry_of_netrc_holds_for_every_other_host(home: Path) -> None:
    write(home / ".netrc", "machine h login u password p\ndefault login d password q\n")
    assert from_netrc("h") == basic("u", "p")
    assert from_netrc("other") == basic("d", "q")


def test_the_environment_names_another_netrc(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home / ".netrc", "machine h login u password p\n")
    write(home / "mine", "machine h login mine password p\n")
    monkeypatch.setenv("NETRC", "~/mine")
    assert from_netrc("h") == basic("mine", "p")
    monkeypatch.setenv("NETRC", str(home / "missing"))
    assert from_netrc("h") is None


def test_no_netrc_is_no_credentials(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert from_netrc("h") is None
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("sesame sesame sesame\n", 0o600),
        ("machine h login u\n password sesame sesame\n", 0o600),
        ("machine h login u password sesame\n", 0o644),
        ("machine h login u:v password sesame\n", 0o600),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_a_netrc_that_is_broken_or_open_to_others_is_logged_without_what_is_in_it(
    home: Path, caplog: pytest.LogCaptureFixture, text: str, mode: int
) -> None:
    write(home / ".netrc", text, mode)
    with caplog.at_level(logging.DEBUG):
        assert from_netrc("h") is None
    assert "the netrc file is not used" in caplog.text
    assert SECRET not in caplog.text


def test_a_netrc_that_is_no_text_is_not_used(home: Path) -> None:
    (home / ".netrc").write_bytes(b"machine h \xff\x00\n")
    (home / ".netrc").chmod(0o600)
    assert from_netrc("h") is None


def test_a_netrc_that_cannot_be_read_is_not_used(home: Path) -> None:
    (home / ".netrc").mkdir()
    assert from_netrc("h") is None


def test_a_netrc_is_as_it_was_when_it_was_read(home: Path) -> None:
    path = home / ".netrc"
    write(path, "machine h login u password p\n")
    find = read_netrc()
    assert find is not None
    path.unlink()
    first = find("h")
    assert first is not None
    assert authorization(first) == basic("u", "p")
    assert find("h") is first


def test_an_entry_that_cannot_be_sent_is_logged_once(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(home / ".netrc", "machine h login u:v password sesame\n")
    find = read_netrc()
    assert find is not None
    assert find("h") is None
    assert find("h") is None
    assert caplog.text.count("the netrc file is not used") == 1
