"""One cookie: what a Set-Cookie field says, when it expires, and where it may be sent."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dugong.client import cookie as module
from dugong.client.cookie import (
    Cookie,
    cookies_of_line,
    domains_of,
    file_line,
    parse_set_cookie,
    path_matches,
    stands_alone,
)
from dugong.connection.head import field_line
from dugong.pool.url import Origin
from tests.support.transport import cpu_limit

NOW = 1_800_000_000.0  # in January 2027
DAY = 86400
HTTPS = Origin("https", "www.example.com", 443)
HTTP = Origin("http", "www.example.com", 80)


def parse(text: str, origin: Origin = HTTPS, path: str = "/") -> Cookie | None:
    return parse_set_cookie(text, origin, path, NOW)


def parsed(text: str, origin: Origin = HTTPS, path: str = "/") -> Cookie:
    cookie = parse(text, origin, path)
    assert cookie is not None
    return cookie


@pytest.fixture
def without_public_suffixes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "publicsuffixlist", None)
    module._public_suffixes.cache_clear()
    yield
    module._public_suffixes.cache_clear()


# --- name and value ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("a=b", "a", "b"),
        (" a\t=  b ", "a", "b"),
        ("a=", "a", ""),
        ("a=b=c==", "a", "b=c=="),
        ('a="b c"', "a", '"b c"'),
        ('a="b', "a", '"b'),
        ("a=b, c=d", "a", "b, c=d"),
        ('a={"b":1}', "a", '{"b":1}'),
        ("a[b]=c", "a[b]", "c"),
        ("a b=c", "a b", "c"),
        ("a=gr\u00fcn", "a", "gr\u00fcn"),
        ("a=b;", "a", "b"),
        ("a=b;;; ;x=y;=z", "a", "b"),
        ("path=/x", "path", "/x"),
    ],
)
def test_name_and_value_are_kept_as_they_stand(text: str, name: str, value: str) -> None:
    cookie = parsed(text)
    assert (cookie.name, cookie.value) == (name, value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ";",
        "a",
        "=b",
        " =b",
        "a; b=c",
        "Secure",
        "a=b\0",
        "a=b\x7f",
        "a=b\r\nX: y",
        "a\tb=c",
        "a=b\tc",
        "a=\u20ac",
        "a=b; Path=/\u20ac",
        "a=b; Path=/\tc",
        "a=b; x=\x01",
    ],
)
def test_what_has_no_name_or_could_not_be_sent_is_refused(text: str) -> None:
    assert parse(text) is None


def test_a_cookie_of_more_than_4096_characters_is_refused() -> None:
    assert len(parsed("a=" + "b" * 4095).value) == 4095
    assert parse("a=" + "b" * 4096) is None
    assert parse("a" * 4096 + "=b") is None


# --- domain --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a=b", "a=b; Domain", "a=b; Domain= ", "a=b; Domain=."])
def test_a_cookie_without_a_domain_is_for_the_host_alone(text: str) -> None:
    cookie = parsed(text)
    assert (cookie.domain, cookie.host_only) == ("www.example.com", True)


@pytest.mark.parametrize(
    ("attributes", "domain"),
    [
        ("Domain=example.com", "example.com"),
        ("Domain=.example.com", "example.com"),
        ("DOMAIN = EXAMPLE.com ", "example.com"),
        ("Domain=www.example.com", "www.example.com"),
        ("Domain=other.org; Domain=example.com", "example.com"),
    ],
)
def test_a_cookie_with_a_domain_is_for_the_hosts_below_it(attributes: str, domain: str) -> None:
    cookie = parsed(f"a=b; {attributes}")
    assert (cookie.domain, cookie.host_only) == (domain, False)


@pytest.mark.parametrize(
    "domain",
    [
        "com",
        ".com",
        "com.",
        "example.com.",
        "other.com",
        "ample.com",
        "sub.www.example.com",
        "..example.com",
        "example.com:443",
        "*.example.com",
        "ex\u00e4mple.com",
        "x" * 1000,
    ],
)
def test_a_cookie_for_a_domain_that_the_host_is_not_in_is_refused(domain: str) -> None:
    assert parse(f"a=b; Domain={domain}") is None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "::ffff:1.2.3.4", "1.0x7f"])
def test_a_single_label_or_an_address_may_name_itself_and_nothing_else(host: str) -> None:
    origin = Origin("http", host, 80)
    for text in ("a=b", f"a=b; Domain={host}"):
        cookie = parsed(text, origin)
        assert (cookie.domain, cookie.host_only) == (host, True)
    for domain in ("0.0.1", "1", "host", "2.3.4", "0x7f", ":1"):
        assert parse(f"a=b; Domain={domain}", origin) is None


def test_a_dot_at_the_end_of_a_host_does_not_open_its_top_level_domain() -> None:
    origin = Origin("https", "example.com.", 443)
    assert parse("a=b; Domain=com.", origin) is None
    assert parse("a=b; Domain=example.com", origin) is None
    assert parsed("a=b; Domain=example.com.", origin).domain == "example.com."


@pytest.mark.usefixtures("without_public_suffixes")
def test_without_a_list_of_public_suffixes_a_single_label_is_one() -> None:
    assert stands_alone("com")
    assert stands_alone("com.")
    assert not stands_alone("co.uk")


def test_no_cookie_is_for_all_below_a_public_suffix() -> None:
    pytest.importorskip("publicsuffixlist")
    assert parse("a=b; Domain=co.uk", Origin("https", "example.co.uk", 443)) is None
    assert parse("a=b; Domain=github.io", Origin("https", "evil.github.io", 443)) is None
    cookie = parsed("a=b; Domain=github.io", Origin("https", "github.io", 443))
    assert (cookie.domain, cookie.host_only) == ("github.io", True)
    assert not parsed("a=b; Domain=example.com").host_only


@pytest.mark.parametrize(
    ("host", "domains"),
    [
        ("www.example.com", ["www.example.com", "example.com", "com"]),
        ("localhost", ["localhost"]),
        ("example.com.", ["example.com.", "com."]),
        ("1.2.3.4", ["1.2.3.4"]),
        ("1.2.3.4.", ["1.2.3.4."]),
        ("::ffff:1.2.3.4", ["::ffff:1.2.3.4"]),
        ("a.4.example", ["a.4.example", "4.example", "example"]),
    ],
)
def test_a_host_matches_itself_and_if_it_is_a_name_what_it_ends_in(
    host: str, domains: list[str]
) -> None:
    assert domains_of(host) == domains


# --- path ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "default"),
    [("/", "/"), ("/a", "/"), ("/a/", "/a"), ("/a/b", "/a"), ("/a/b/c", "/a/b"), ("//", "/")],
)
@pytest.mark.parametrize("attribute", ["", "; Path", "; Path=", "; Path=a/b", "; Path=/x; Path=y"])
def test_without_a_path_a_cookie_is_for_the_folder_of_the_request(
    path: str, default: str, attribute: str
) -> None:
    assert parsed(f"a=b{attribute}", path=path).path == default


def test_a_cookie_may_name_a_path_that_is_not_that_of_the_request() -> None:
    assert parsed("a=b; path = /x/y ", path="/z").path == "/x/y"


def test_what_is_too_long_for_an_attribute_is_none() -> None:
    assert parsed(f"a=b; Path=/{'x' * 1024}", path="/a/b").path == "/a"
    assert parse("a=b", path=f"/{'x' * 2000}/b") is None


@pytest.mark.parametrize(
    ("path", "below", "matches"),
    [
        ("/", "/", True),
        ("/a", "/", True),
        ("/a", "/a", True),
        ("/a/b", "/a", True),
        ("/a/b", "/a/", True),
        ("/ab", "/a", False),
        ("/a", "/a/", False),
        ("/", "/a", False),
        ("/A", "/a", False),
    ],
)
def test_a_path_is_matched_by_whole_segments(path: str, below: str, matches: bool) -> None:
    assert path_matches(path, below) is matches


# --- Secure and prefixes -------------------------------------------------------------------------


def test_a_secure_cookie_is_taken_over_tls_only() -> None:
    assert parsed("a=b; secure").secure
    assert parsed("a=b; Secure=no").secure
    assert parse("a=b; Secure", HTTP) is None
    assert parse("a=b; Secure", Origin("http", "localhost", 80)) is None
    assert not parsed("a=b").secure


@pytest.mark.parametrize(
    "text",
    [
        "__Secure-a=b; Secure",
        "__secure-a=b; Secure; Domain=example.com",
        "__Host-a=b; Secure; Path=/",
        "__Host-a=b; Secure; Path=/; HttpOnly",
    ],
)
def test_a_cookie_that_keeps_the_promise_of_its_prefix_is_taken(text: str) -> None:
    assert parsed(text).secure


@pytest.mark.parametrize(
    "text",
    [
        "__Secure-a=b",
        "__SECURE-a=b",
        "__Host-a=b",
        "__Host-a=b; Secure",
        "__Host-a=b; Path=/",
        "__Host-a=b; Secure; Path=/a",
        "__Host-a=b; Secure; Path=/; Domain=example.com",
        "__hOST-a=b; Secure; Path=/; Domain=www.example.com",
    ],
)
def test_a_cookie_that_breaks_the_promise_of_its_prefix_is_refused(text: str) -> None:
    assert parse(text) is None


def test_httponly_is_kept_for_the_programs_that_read_the_file() -> None:
    assert parsed("a=b; HttpOnly").http_only
    assert not parsed("a=b").http_only


# --- expiry --------------------------------------------------------------------------------------


def test_a_cookie_without_a_date_is_for_the_session() -> None:
    assert parsed("a=b").expires is None


@pytest.mark.parametrize(
    ("attributes", "seconds"),
    [
        ("Max-Age=60", 60),
        ("max-age = 060 ", 60),
        ("Max-Age=1; Max-Age=60", 60),
        ("Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT", 60),
        ("Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=60", 60),
        (f"Max-Age={400 * DAY + 1}", 400 * DAY),
        ("Max-Age=" + "9" * 1000, 400 * DAY),
        ("Max-Age=" + "0" * 1000 + "7", 7),
        ("Expires=Fri, 31 Dec 9999 23:59:59 GMT", 400 * DAY),
    ],
)
def test_max_age_is_in_seconds_and_goes_before_expires(attributes: str, seconds: int) -> None:
    assert parsed(f"a=b; {attributes}").expires == NOW + seconds


@pytest.mark.parametrize("age", ["0", "-1", "00", "-0", "-" + "9" * 1000])
def test_a_max_age_that_is_not_positive_deletes(age: str) -> None:
    later = "Expires=Fri, 31 Dec 9999 23:59:59 GMT"
    assert not parsed(f"a=b; Max-Age={age}; {later}").is_live(NOW)


@pytest.mark.parametrize("age", ["", "x", "+1", "1.5", "1e3", "1 2", "\u00b2"])
def test_a_max_age_that_is_no_number_counts_as_none(age: str) -> None:
    assert parsed(f"a=b; Max-Age={age}").expires is None


@pytest.mark.parametrize(
    "date",
    [
        "Wed, 09 Jun 2027 10:18:14 GMT",
        "Wednesday, 09-Jun-27 10:18:14 GMT",
        "Wed Jun  9 10:18:14 2027",
        "Wed, 9-Jun-2027 10:18:14 GMT",
        "9 june 2027 10:18:14",
        "10:18:14 2027 09 JUN",
        "2027 Jun 9th 10:18:14Z",
        '"09/Jun/2027 10:18:14"',
        "Wed, 09 Jun 2027 10:18:14 +0200",  # the zone is not looked at
    ],
)
def test_a_date_is_read_in_every_format_that_servers_use(date: str) -> None:
    assert parsed(f"a=b; Expires={date}").expires == 1_812_536_294


@pytest.mark.parametrize(
    ("year", "full"), [("70", 1970), ("99", 1999), ("00", 2000), ("27", 2027), ("027", 2027)]
)
def test_a_year_of_two_digits_is_between_1970_and_2069(year: str, full: int) -> None:
    short, long = (parsed(f"a=b; Expires=1 Jan {y} 0:0:0 GMT").expires for y in (year, full))
    assert short == long is not None


@pytest.mark.parametrize(
    "date",
    [
        "",
        "0",
        "never",
        "09 Jun 2027",
        "10:18:14",
        "31 Feb 2027 0:0:0",
        "32 Jan 2027 0:0:0",
        "0 Jan 2027 0:0:0",
        "1 Jan 2027 24:0:0",
        "1 Jan 2027 0:60:0",
        "1 Jan 2027 0:0:60",
        "1 Jan 1600 0:0:0",
        "1 Jan 20270 0:0:0",
        "1 Jan 2027 0:0",
        "1 Jan 2027 000:0:0",
        "x" * 1024,
    ],
)
def test_a_date_that_is_none_leaves_the_cookie_to_the_session(date: str) -> None:
    assert parsed(f"a=b; Expires={date}").expires is None


# --- whatever a server sends ---------------------------------------------------------------------

ODD_TEXT = st.binary(max_size=80).map(lambda data: data.decode("latin-1"))
PIECES = st.sampled_from(
    "a=b ; = a Domain= example.com .com com . Path= / Max-Age= 9 - Expires= Jun 2027 10:18:14 "
    "Secure __Host- \0 \r \n \t \u00fc \u20ac".split(" ")
)


@given(ODD_TEXT | st.lists(PIECES, max_size=20).map(" ".join) | st.text(max_size=40))
def test_whatever_is_sent_gives_a_cookie_that_can_be_sent_or_none(text: str) -> None:
    for origin in (HTTPS, HTTP, Origin("http", "localhost", 80), Origin("http", "::1", 80)):
        cookie = parse(text, origin)
        if cookie is not None:
            field_line("Cookie", f"{cookie.name}={cookie.value}")
            assert ";" not in cookie.name + cookie.value
            assert origin.host == cookie.domain or (
                not cookie.host_only and origin.host.endswith(f".{cookie.domain}")
            )
            again = cookies_of_line(file_line(cookie))
            expires = None if cookie.expires is None else (int(cookie.expires) or None)
            assert again == [cookie._replace(expires=expires)]


@pytest.mark.parametrize("piece", [";", "=", " ", "a=b;", "\t;", "Domain=a.;", "0", "1:", "-"])
def test_a_long_field_takes_no_time(piece: str) -> None:
    text = piece * (60_000 // len(piece))
    with cpu_limit(1):
        for start in ("", "a=", "a=b;", "a=b; Expires=", "a=b; Max-Age="):
            parse(start + text)


def test_a_repr_shows_no_value() -> None:
    assert repr(parsed("a=secret; Domain=example.com; Path=/x")) == "<Cookie a for .example.com/x>"
    assert repr(parsed("a\x9b=secret")) == "<Cookie a\\x9b for www.example.com/>"
