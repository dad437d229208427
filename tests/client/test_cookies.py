"""Cookies: which of them go with which request, what a caller may do with them, and their files."""

from __future__ import annotations

import copy
import pickle
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from enum import Enum
from http.cookiejar import CookieJar, MozillaCookieJar
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dugong.client import cookies as module
from dugong.client.cookies import Cookies
from dugong.connection.head import field_line
from dugong.headers import Headers
from tests.support.transport import cpu_limit

URL = "https://www.example.com/"


def setting(*values: str) -> Headers:
    return Headers([("Content-Type", "text/html"), *(("set-cookie", value) for value in values)])


def stored(*values: str, url: str = URL) -> Cookies:
    cookies = Cookies()
    cookies.store(url, setting(*values))
    return cookies


def sent(cookies: Cookies, url: str = URL) -> str | None:
    return cookies.header_for(url, cross_origin=False)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [1_800_000_000.0]
    monkeypatch.setattr(module, "time", lambda: now[0])
    return iter([now])


# --- what is sent --------------------------------------------------------------------------------


def test_a_cookie_goes_back_to_the_host_that_has_set_it() -> None:
    cookies = stored("a=b; Path=/", "c=d; Path=/")
    assert sent(cookies) == "a=b; c=d"
    assert sent(cookies, "https://www.example.com:8443/x?y#z") == "a=b; c=d"
    assert sent(cookies, "http://WWW.Example.COM") == "a=b; c=d"


def test_there_is_no_field_without_a_cookie() -> None:
    assert sent(Cookies()) is None
    assert sent(stored("a=b"), "https://other.org/") is None
    assert Cookies().header_for(URL, cross_origin=False, extra=Cookies()) is None


@pytest.mark.parametrize(
    "host", ["example.com", "sub.www.example.com", "wwww.example.com", "www.example.com.", "com"]
)
def test_a_cookie_without_a_domain_goes_to_no_other_host(host: str) -> None:
    assert sent(stored("a=b"), f"https://{host}/") is None


@pytest.mark.parametrize(
    ("host", "goes"),
    [
        ("example.com", True),
        ("www.example.com", True),
        ("a.b.example.com", True),
        ("anexample.com", False),
        ("example.com.evil.org", False),
        ("com", False),
    ],
)
def test_a_cookie_with_a_domain_goes_to_the_hosts_below_it(host: str, goes: bool) -> None:
    cookies = stored("a=b; Domain=example.com")
    assert sent(cookies, f"https://{host}/") == ("a=b" if goes else None)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "printer"])
def test_a_host_without_dots_or_an_address_has_cookies_of_its_own(host: str) -> None:
    cookies = stored("a=b", url=f"http://{host}:8080/")
    assert sent(cookies, f"http://{host}/") == "a=b"
    assert sent(cookies, "http://other/") is None


def test_a_secure_cookie_goes_over_tls_only() -> None:
    cookies = stored("a=b; Secure")
    assert sent(cookies, "https://www.example.com/") == "a=b"
    assert sent(cookies, "http://www.example.com/") is None


def test_a_cookie_goes_to_its_path_and_to_what_is_below() -> None:
    cookies = stored("a=b; Path=/x")
    assert sent(cookies, "https://www.example.com/x") == "a=b"
    assert sent(cookies, "https://www.example.com/x/y?z") == "a=b"
    assert sent(cookies, "https://www.example.com/xy") is None
    assert sent(cookies, "https://www.example.com/?/x") is None


def test_the_longest_path_comes_first_and_then_what_was_set_first() -> None:
    cookies = stored("a=1; Path=/", "b=2; Path=/x", "c=3; Domain=example.com; Path=/", "d=4")
    assert sent(cookies, "https://www.example.com/x/") == "b=2; a=1; c=3; d=4"
    cookies.store(URL, setting("a=5; Path=/"))  # which was created before
    assert sent(cookies, "https://www.example.com/x/") == "b=2; a=5; c=3; d=4"


def test_cookies_that_differ_in_domain_or_path_are_sent_all() -> None:
    cookies = stored("a=1; Path=/", "a=2; Path=/x", "a=3; Domain=www.example.com; Path=/")
    assert sent(cookies, "https://www.example.com/x") == "a=2; a=1; a=3"


def test_a_cookie_expires(clock: Iterator[list[float]]) -> None:
    now = next(clock)
    cookies = stored("a=b; Max-Age=10", "c=d")
    assert sent(cookies) == "a=b; c=d"
    now[0] += 10
    assert sent(cookies) == "c=d"
    assert list(cookies) == ["c"]


def test_a_server_deletes_a_cookie_by_one_that_has_expired() -> None:
    cookies = stored("a=b", "c=d")
    cookies.store(URL, setting("a=; Max-Age=0", "c=; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "e=f"))
    assert sent(cookies) == "e=f"
    cookies.store(URL, setting("e=; Max-Age=0", "never=; Max-Age=0"))
    assert sent(cookies) is None
    assert len(cookies) == 0


@pytest.mark.parametrize(
    ("url", "value"),
    [
        ("http://www.example.com/", "a=evil"),
        ("http://www.example.com/", "a=evil; Path=/x"),
        ("http://www.example.com/", "a=; Max-Age=0"),
        ("http://www.example.com/", "a=evil; Domain=example.com"),
        ("http://example.com/", "a=evil; Domain=example.com"),
        ("http://sub.www.example.com/", "a=evil; Domain=www.example.com"),
    ],
)
def test_what_came_without_tls_does_not_stand_for_a_secure_cookie(url: str, value: str) -> None:
    cookies = stored("a=good; Secure; Path=/")
    cookies.store(url, setting(value))
    assert sent(cookies, "https://www.example.com/x") == "a=good"


def test_what_came_without_tls_stands_beside_secure_cookies_of_other_names_and_hosts() -> None:
    cookies = stored("a=1; Secure; Path=/")
    cookies.store("http://www.example.com/", setting("b=2"))
    cookies.store("http://other.org/", setting("a=3; Domain=other.org"))
    assert sent(cookies, "https://www.example.com/") == "a=1; b=2"
    assert sent(cookies, "http://other.org/") == "a=3"


@pytest.mark.parametrize("url", ["", "/a", "ftp://h/", "http://user:secret@h/", "http:///a"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    for call in (lambda: sent(stored("a=b"), url), lambda: stored("a=b", url=url)):
        with pytest.raises(ValueError, match="URL") as caught:
            call()
        assert "secret" not in str(caught.value)


# --- cookies of the caller -----------------------------------------------------------------------


def test_a_cookie_without_a_domain_goes_to_each_origin_that_the_caller_asks_for() -> None:
    cookies = Cookies({"a": "b"})
    assert sent(cookies, "https://www.example.com/x") == "a=b"
    assert sent(cookies, "http://other.org/") == "a=b"


def test_a_cookie_without_a_domain_does_not_follow_a_redirect_to_another_origin() -> None:
    cookies = Cookies({"a": "b"})
    cookies.store(URL, setting("c=d"))
    assert cookies.header_for(URL, cross_origin=True) == "c=d"
    assert cookies.header_for("https://other.org/", cross_origin=True) is None
    extra = Cookies({"e": "f"})
    assert cookies.header_for("https://other.org/", cross_origin=True, extra=extra) == "e=f"


def test_cookies_are_forgotten_for_those_that_a_response_sets() -> None:
    cookies = Cookies({"a": "1", "b": "2"})
    cookies.forget(setting("a=new; Path=/x", " b =gone; Max-Age=0", "c=3"))
    assert dict(cookies) == {}


def test_the_cookies_of_a_call_replace_those_of_the_client() -> None:
    cookies = Cookies({"a": "1", "b": "2"})
    cookies.store(URL, setting("c=3", "d=4"))
    extra = Cookies({"a": "5", "c": "6"})
    assert cookies.header_for(URL, cross_origin=False, extra=extra) == "a=5; c=6; d=4; b=2"
    assert Cookies().header_for(URL, cross_origin=False, extra=extra) == "a=5; c=6"
    assert sorted(cookies.items()) == [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]


def test_what_the_server_has_set_replaces_what_has_no_domain() -> None:
    cookies = Cookies({"session": "old", "other": "1"})
    cookies.store(URL, setting("session=new; Path=/"))
    assert sent(cookies) == "session=new; other=1"
    assert sent(cookies, "https://other.org/") == "session=old; other=1"


@pytest.mark.parametrize("domain", ["example.com", ".example.com", "Example.COM"])
def test_a_cookie_may_be_set_for_a_domain(domain: str) -> None:
    cookies = Cookies()
    cookies.set("a", "b", domain=domain, path="/x")
    assert sent(cookies, "https://example.com/x") == "a=b"
    assert sent(cookies, "https://www.example.com/x/y") == "a=b"
    assert sent(cookies, "https://example.com/") is None
    assert sent(cookies, "https://other.com/x") is None
    assert cookies.get("a", domain=domain, path="/x") == "b"


@pytest.mark.parametrize(
    ("domain", "host"),
    [
        ("localhost", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "[::1]"),
        ("com", "com"),
        ("b\u00fccher.example", "xn--bcher-kva.example"),
    ],
)
def test_a_cookie_may_be_set_for_any_host(domain: str, host: str) -> None:
    cookies = Cookies()
    cookies.set("a", "b", domain=domain)
    assert sent(cookies, f"http://{host}:81/") == "a=b"
    assert sent(cookies, "http://example.com/") is None


@pytest.mark.parametrize(
    ("name", "value", "domain", "path"),
    [
        ("", "secret", "", "/"),
        ("a=b", "secret", "", "/"),
        ("a;", "secret", "", "/"),
        (" a", "secret", "", "/"),
        ("a", "secret; c=d", "", "/"),
        ("a", "secret\r\nX: y", "", "/"),
        ("a", "secret\0", "", "/"),
        ("a", "secret\t", "", "/"),
        ("a", "secret ", "", "/"),
        ("a", "secret\u20ac", "", "/"),
        ("a", "secret" + "x" * 4096, "", "/"),
        ("a", "secret", "", ""),
        ("a", "secret", "", "x"),
        ("a", "secret", "", "/;"),
        ("a", "secret", "", "/\n"),
        ("a", "secret", "a b", "/"),
        ("a", "secret", "http://h/", "/"),
        ("a", "secret", "h:80", "/"),
        ("a", "secret", "user@h", "/"),
        ("a", "secret", "..", "/"),
    ],
)
def test_a_cookie_that_could_not_be_sent_is_refused_without_its_value(
    name: str, value: str, domain: str, path: str
) -> None:
    cookies = Cookies()
    with pytest.raises(ValueError, match="cookie") as caught:
        cookies.set(name, value, domain, path)
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert len(cookies) == 0


@pytest.mark.parametrize(
    "arguments",
    [(b"a", "b"), ("a", b"b"), ("a", 1), ("a", None), ("a", "b", None), ("a", "b", "", None)],
)
def test_a_cookie_that_is_no_text_is_a_type_error(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match="of a cookie must be a str"):
        Cookies().set(*arguments)


def test_a_cookie_is_what_it_is_equal_to() -> None:
    class Text(str, Enum):  # noqa: UP042  # a StrEnum is formatted as what it is equal to
        NAME = "a"
        VALUE = "b"

    assert sent(Cookies({Text.NAME: Text.VALUE})) == "a=b"


# --- as a mapping --------------------------------------------------------------------------------


def pairs_of(pairs: Any) -> Any:
    return dict(pairs).items()


@pytest.mark.parametrize("make", [dict, list, tuple, iter, pairs_of, Cookies, Headers])
def test_cookies_are_the_same_however_they_are_given(make: Callable[[Any], Any]) -> None:
    pairs = [("a", "b"), ("c", "d")]
    cookies = Cookies(make(pairs) if make is not Headers else dict(Headers(pairs).items()))
    assert dict(cookies) == {"a": "b", "c": "d"}
    assert sent(cookies) == "a=b; c=d"


@pytest.mark.parametrize("given_cookies", ["a=b", b"a=b", 7, ["ab"], [("a",)], [("a", "b", "c")]])
def test_cookies_that_are_none_are_a_type_error(given_cookies: Any) -> None:
    with pytest.raises(TypeError, match="mapping or"):
        Cookies(given_cookies)


def test_cookies_are_copied() -> None:
    first = stored("a=b; Max-Age=1000")
    second = Cookies(first)
    first.clear()
    assert sent(second) == "a=b"
    second["c"] = "d"
    assert len(first) == 0


def test_an_update_that_is_refused_changes_nothing() -> None:
    cookies = Cookies({"a": "1"})
    with pytest.raises(ValueError, match="cookie"):
        cookies.update({"a": "2", "b": "x;y"})
    assert dict(cookies) == {"a": "1"}


def test_cookies_are_a_mapping_of_names_to_values() -> None:
    cookies = Cookies({"a": "b"})
    cookies["c"] = "d"
    assert (cookies["a"], cookies.get("c"), len(cookies)) == ("b", "d", 2)
    assert ("a" in cookies, "x" in cookies, bool(cookies), bool(Cookies())) == (
        True, False, True, False,
    )  # fmt: skip
    assert list(cookies) == ["a", "c"]
    assert cookies == {"a": "b", "c": "d"}
    del cookies["a"]
    assert cookies.pop("c") == "d"
    assert not cookies


def test_a_name_that_is_missing_is_a_key_error() -> None:
    cookies = Cookies()
    with pytest.raises(KeyError):
        cookies["a"]
    with pytest.raises(KeyError):
        del cookies["a"]
    assert cookies.get("a") is None
    assert cookies.get("a", "b") == "b"
    cookies.delete("a")


def test_of_several_cookies_of_one_name_the_caller_says_which() -> None:
    cookies = stored("a=1; Path=/", "a=2; Path=/x")
    cookies.set("a", "3")
    with pytest.raises(ValueError, match="several cookies are called 'a'"):
        cookies["a"]
    assert "a" in cookies
    assert list(cookies) == ["a", "a", "a"]
    assert cookies.get("a", path="/x") == "2"
    assert cookies.get("a", domain="") == "3"
    assert cookies.get("a", domain="www.example.com", path="/") == "1"


def test_cookies_are_deleted_by_name_domain_and_path() -> None:
    def names(change: Callable[[Cookies], None]) -> list[str]:
        cookies = stored("a=1; Path=/", "a=2; Path=/x", "b=3; Path=/")
        cookies.set("c", "4")
        change(cookies)
        return list(cookies)

    assert names(lambda cookies: cookies.delete("a")) == ["b", "c"]
    assert names(lambda cookies: cookies.delete("a", path="/x")) == ["a", "b", "c"]
    assert names(lambda cookies: cookies.delete("a", domain="other.org")) == ["a", "a", "b", "c"]
    assert names(lambda cookies: cookies.clear(domain="www.example.com")) == ["c"]
    assert names(lambda cookies: cookies.clear("www.example.com", "/")) == ["a", "c"]
    assert names(lambda cookies: cookies.clear()) == []


def test_a_repr_shows_names_and_domains_and_no_values() -> None:
    cookies = stored("a=secret", "b=secret; Domain=example.com; Path=/x")
    cookies.set("c", "secret")
    assert repr(cookies) == (
        "<Cookies [<Cookie a for www.example.com/>, <Cookie b for .example.com/x>, "
        "<Cookie c for />]>"
    )
    for number in range(30):
        cookies[f"n{number}"] = "secret"
    assert repr(cookies).endswith("<Cookie n16 for />] and 13 more>")
    assert "secret" not in repr(cookies)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_cookies_can_be_pickled(protocol: int) -> None:
    cookies = stored("a=b; Domain=example.com; Secure; HttpOnly; Max-Age=1000", "c=d")
    cookies.set("e", "f")
    other = pickle.loads(pickle.dumps(cookies, protocol))
    assert repr(other) == repr(cookies)
    assert sent(other, "http://www.example.com/") == "c=d; e=f"
    other["g"] = "h"
    assert "g" not in cookies
    assert len(pickle.loads(pickle.dumps(Cookies(), protocol))) == 0


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_is_one_of_its_own(copied: Callable[[Cookies], Cookies]) -> None:
    cookies = stored("a=b")
    other = copied(cookies)
    cookies.clear()
    assert sent(other) == "a=b"


# --- limits --------------------------------------------------------------------------------------


def test_a_domain_keeps_180_cookies_and_the_oldest_give_way() -> None:
    cookies = stored(*(f"a{number}=b" for number in range(200)))
    assert len(cookies) == 180
    assert "a19" not in cookies
    assert {"a20", "a199"} <= set(cookies)


def test_what_has_expired_gives_way_first(clock: Iterator[list[float]]) -> None:
    now = next(clock)
    cookies = stored("old=b", "short=c; Max-Age=5", *(f"a{number}=b" for number in range(178)))
    now[0] += 6
    cookies.store(URL, setting("new=d"))
    assert {"old", "new", "a0"} <= set(cookies)


def test_3000_cookies_are_kept_and_the_domain_that_was_not_used_gives_way() -> None:
    cookies = Cookies({"own": "1"})
    cookies.store("https://used.org/", setting("a=b"))
    cookies.store("https://unused.org/", setting("a=b"))
    for number in range(2997):
        cookies.store(f"https://h{number}.org/", setting("a=b"))
    assert len(cookies) == 3000
    assert sent(cookies, "https://used.org/") == "a=b; own=1"
    cookies.store("https://new.org/", setting("a=b"))
    assert len(cookies) == 3000
    for host, field in (("used", "a=b; own=1"), ("new", "a=b; own=1"), ("unused", "own=1")):
        assert sent(cookies, f"https://{host}.org/") == field


def test_many_fields_that_stand_for_secure_cookies_take_no_time() -> None:
    cookies = Cookies()
    for number in range(1000):
        cookies.store(f"https://h{number}.example.com/", setting("a=b; Secure"))
    with cpu_limit(1):
        cookies.store("http://example.com/", setting(*["b=c; Domain=example.com"] * 20_000))
    assert cookies.get("b") == "c"


def test_the_field_is_never_longer_than_32_kib() -> None:
    cookies = stored(*(f"a{number}={'x' * 4000}" for number in range(20)))
    field = sent(cookies)
    assert field is not None
    assert len(field.split("; ")) == 8
    assert len(field) <= 32 * 1024


# --- jars and files ------------------------------------------------------------------------------


def filled() -> Cookies:
    cookies = stored(
        "a=1; Path=/; Secure; HttpOnly; Max-Age=1000",
        'b="2 3"; Domain=example.com; Path=/x',
        "c=; Path=/; Max-Age=1000",
        "d=gr\u00fcn; Domain=www.example.com",
    )
    cookies.store("http://localhost/", setting("e=5"))
    cookies.store("http://[::1]/", setting("f=6"))
    cookies.set("g", "7", path="/y")
    return cookies


def fields(cookies: Cookies) -> list[Any]:
    urls = ["https://www.example.com/x", "http://sub.example.com/x", "http://www.example.com/"]
    urls += ["http://localhost/", "http://[::1]/", "http://other.org/y"]
    return [sent(cookies, url) for url in urls]


def test_a_jar_has_all_of_the_cookies_and_they_can_be_taken_from_it() -> None:
    cookies = filled()
    jar = cookies.jar
    assert [(c.name, c.domain, c.discard) for c in jar][:2] == [
        ("a", "www.example.com", False),
        ("c", "www.example.com", False),
    ]
    assert isinstance(jar, CookieJar)
    assert repr(Cookies(jar).jar) == repr(jar)
    assert sorted(map(str, fields(Cookies(jar)))) == sorted(map(str, fields(cookies)))
    jar.clear()
    assert len(cookies) == 7


def test_cookies_of_a_jar_that_could_not_be_sent_are_left_out() -> None:
    jar = filled().jar
    for c, name, value in zip(jar, ["", "x", "y;", "z"], ["1", None, "2", "3\r\n"], strict=False):
        c.name, c.value = name, value
    assert len(Cookies(jar)) == 3


def test_cookies_that_are_saved_are_loaded_whole(tmp_path: Path) -> None:
    cookies, path = filled(), tmp_path / "cookies.txt"
    cookies.save(path)
    other = Cookies()
    other.load(str(path))
    assert fields(other) == fields(cookies)
    assert repr(other) == repr(cookies)
    other.save(tmp_path / "again.txt")
    assert (tmp_path / "again.txt").read_bytes() == path.read_bytes()


def test_the_file_is_that_of_mozilla_cookie_jar(tmp_path: Path) -> None:
    cookies, path = filled(), tmp_path / "cookies.txt"
    cookies.save(path)
    jar = MozillaCookieJar(path)
    jar.load(ignore_discard=True)
    assert fields(Cookies(jar)) == fields(cookies)
    jar.save(str(tmp_path / "theirs.txt"), ignore_discard=True)
    other = Cookies()
    other.load(tmp_path / "theirs.txt")
    assert fields(other) == fields(cookies)


def test_what_has_expired_is_neither_saved_nor_loaded(
    tmp_path: Path, clock: Iterator[list[float]]
) -> None:
    now = next(clock)
    cookies = stored("a=b; Max-Age=5", "c=d; Max-Age=50")
    cookies.save(tmp_path / "before")
    now[0] += 6
    cookies.save(tmp_path / "after")
    assert "\ta\t" not in (tmp_path / "after").read_text()
    other = Cookies()
    other.load(tmp_path / "before")
    assert list(other) == ["c"]


def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "cookies.txt"
    path.touch(0o666)
    filled().save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_is_replaced_as_a_whole_and_a_link_is_not_followed(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("untouched")
    link.symlink_to(target)
    filled().save(link)
    assert target.read_text() == "untouched"
    assert not link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "target"]


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        filled().save(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    with pytest.raises(FileNotFoundError):
        filled().save(tmp_path / "missing" / "cookies.txt")


def test_a_file_may_have_a_name_without_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    filled().save("cookies.txt")
    assert (tmp_path / "cookies.txt").exists()


@pytest.mark.parametrize(
    "line",
    [
        "h\tFALSE\t/\tFALSE\t0\ta",
        "h\tFALSE\t/\tFALSE\t0\ta\tsecret\tmore",
        "h\tFALSE\t/\tFALSE\tsoon\ta\tsecret",
        "h\tFALSE\t/\tFALSE\tnan\ta\tsecret",
        "h\tFALSE\t/\tFALSE\t1e999\ta\tsecret",
        "a=secret",
    ],
)
def test_a_file_in_another_format_is_refused_as_a_whole(tmp_path: Path, line: str) -> None:
    path = tmp_path / "cookies.txt"
    path.write_text(f"# comment\n\nh\tFALSE\t/\tFALSE\t\ta\tb\n{line}\n")
    cookies = Cookies()
    with pytest.raises(ValueError, match=r"line 4 of .*cookies\.txt' is not in the") as caught:
        cookies.load(path)
    assert "secret" not in str(caught.value)
    assert len(cookies) == 0


def test_cookies_of_a_file_that_could_not_be_sent_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "cookies.txt"
    start = b"h\tFALSE\t/\tFALSE\t0\t"
    lines = [b"a\tb", b"\tc", b"d\te;f", b"g\t\xff", b"h=\ti", "j\t\u20ac".encode()]
    path.write_bytes(b"".join(start + line + b"\r\n" for line in lines))
    cookies = Cookies()
    cookies.load(path)
    assert sent(cookies, "http://h/") == "a=b"


# --- threads, processes, modules -----------------------------------------------------------------


def run_python(program: str) -> None:
    root = Path(module.__file__).parents[2]
    subprocess.run([sys.executable, "-c", program], check=True, timeout=50, cwd=root)


def test_many_threads_may_use_the_same_cookies() -> None:
    cookies = Cookies({"own": "1"})
    failures: list[BaseException] = []
    start = threading.Barrier(4)

    def use(thread: int) -> None:
        try:
            start.wait()
            for number in range(300):
                host = f"https://h{number % 7}.example.com/"
                cookies.store(host, setting(f"t{thread}=x{number}; Domain=example.com", "a=b"))
                field = sent(cookies, host)
                assert field is not None
                assert f"t{thread}=x{number}" in field
                assert field.endswith("own=1")
                list(cookies), cookies.jar, repr(cookies), copy.copy(cookies)
                cookies.delete("a", domain=f"h{number % 7}.example.com")
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(cookies) == ["own", "t0", "t1", "t2", "t3"]


def test_a_child_of_a_fork_can_use_cookies_that_another_thread_was_using() -> None:
    program = """if True:
        import os, threading
        from dugong.client.cookies import Cookies
        cookies = Cookies({"a": "b"})
        held, done = threading.Event(), threading.Event()
        def hold():
            with cookies._lock:
                held.set()
                done.wait()
        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        child = os.fork()
        if not child:
            os._exit(cookies.header_for("http://h/", cross_origin=False) != "a=b")
        done.set()
        thread.join()
        assert os.waitpid(child, 0)[1] == 0
    """
    run_python(program)


def test_http_cookiejar_is_loaded_only_for_a_jar() -> None:
    program = """if True:
        import sys
        from dugong.client.cookies import Cookies
        from dugong.headers import Headers
        cookies = Cookies({"a": "b"})
        cookies.store("http://h/", Headers([("Set-Cookie", "c=d; Max-Age=5")]))
        assert cookies.header_for("http://h/", cross_origin=False) == "c=d; a=b"
        assert not {"http.cookiejar", "tempfile", "publicsuffixlist"} & sys.modules.keys()
        cookies.jar
        assert "http.cookiejar" in sys.modules
    """
    run_python(program)


# --- whatever servers send -----------------------------------------------------------------------

HOSTS = ["example.com", "www.example.com", "a.www.example.com", "example.org", "com", "localhost"]
HOSTS += ["127.0.0.1", "[::1]", "example.com."]
URLS = st.builds(
    "{}://{}{}".format,
    st.sampled_from(["http", "https"]),
    st.sampled_from(HOSTS),
    st.sampled_from(["", "/", "/x", "/x/y?z"]),
)
ODD_VALUES = st.binary(max_size=60).map(lambda data: data.decode("latin-1"))
VALUES = st.builds(
    "{}={}{}{}{}".format,
    st.sampled_from(["a", "b", "__Host-c", "__Secure-d", ""]),
    st.sampled_from(["1", "", '"2"', "\xff", "3 4"]) | ODD_VALUES,
    st.sampled_from(["", ";Domain=", ";Domain=."]).flatmap(
        lambda start: st.sampled_from(HOSTS).map(lambda host: start and start + host)
    ),
    st.sampled_from(["", ";Path=/", ";Path=/x", ";Max-Age=0", ";Max-Age=9"]),
    st.sampled_from(["", ";Secure"]),
)


def site_of(host: str) -> str:
    """Return the only domain that *host* has in common with others of `HOSTS`; else itself."""
    return "example.com" if host.endswith(".example.com") else host


@given(st.lists(st.tuples(URLS, VALUES | ODD_VALUES), max_size=12))
def test_whatever_servers_set_can_be_sent_and_goes_to_hosts_that_match(
    responses: list[tuple[str, str]],
) -> None:
    cookies = Cookies()
    setters: dict[str, set[str]] = {}  # the sites that have sent each name and value
    for url, value in responses:
        cookies.store(url, setting(value))
        pair = "=".join(part.strip(" \t") for part in value.partition(";")[0].split("=", 1))
        setters.setdefault(pair, set()).add(site_of(url.split("/")[2]))
    for host in HOSTS:
        field = sent(cookies, f"https://{host}/x/y")
        if field is None:
            continue
        field_line("Cookie", field)
        for pair in field.split("; "):
            assert site_of(host) in setters[pair]
