"""Requests: what their URLs name, what is refused at once, and what they keep."""

from __future__ import annotations

import math
import pickle
import tracemalloc
from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest

from dugong import Headers, RetryPolicy
from dugong.pool import request as request_module
from dugong.pool.request import (
    POOL_DEFAULT,
    Origin,
    Request,
    header_pairs,
    parse_origin,
    split_url,
)

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
    assert Request("GET", url).target == target


@pytest.mark.parametrize(
    "url", ["", "h/a", "//h/a", "/a", "http:/h", "http:h", " http://h", "ftp://h/", "httpx://h/"]
)
def test_what_does_not_begin_as_a_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="begin with http"):
        split_url(url)
    with pytest.raises(ValueError, match="begin with http"):
        Request("GET", url)


@pytest.mark.parametrize("url", [None, b"http://h/", 7])
def test_a_url_that_is_no_text_is_a_type_error(url: Any) -> None:
    with pytest.raises(TypeError, match="URL must be a str"):
        Request("GET", url)


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
        ("http://[fe80::1%25eth0]", "IPv6"),
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


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://user:secret@h/", "user name or password"),
        ("http://secret@h/", "user name or password"),
        ("http://user:secret@[::1]:80/", "user name or password"),
        ("http://user:sec:secret@h:80/", "user name or password"),
        ("http://user:secret/@h/", "port"),
        ("http://user:secret", "port"),
    ],
)
def test_a_password_is_neither_accepted_nor_quoted(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Request("GET", url)
    assert "secret" not in str(caught.value)


def test_an_origin_is_parsed_once_however_often_it_is_named() -> None:
    assert Request("GET", "http://h/a").origin is Request("GET", "http://h/b?c").origin


def test_a_crawl_of_many_hosts_does_not_remember_them_all() -> None:
    for number in range(5000):
        assert Request("GET", f"http://h{number}/").origin.host == f"h{number}"
    assert 0 < len(request_module._known_origins) <= 4096


# --- the request -------------------------------------------------------------------------------


def test_a_method_is_what_it_is_equal_to() -> None:
    class Method(str, Enum):  # noqa: UP042  # a StrEnum is formatted as what it is equal to
        GET = "GET"

    assert f"{Request(Method.GET, 'http://h/').method}" == "GET"


def test_a_request_keeps_what_it_was_given() -> None:
    headers, body = {"A": "b"}, b"body"
    request = Request(
        "PUT",
        "https://h:81/a?b",
        headers,
        body,
        timeout=1.5,
        deadline=2,
        expect100=True,
        idempotent=False,
    )
    assert (request.method, request.url) == ("PUT", "https://h:81/a?b")
    assert request.headers is headers
    assert request.body is body
    assert (request.timeout, request.deadline) == (1.5, 2)
    assert (request.expect100, request.idempotent) == (True, False)
    assert request.origin == Origin("https", "h", 81)
    assert request.target == "/a?b"


def test_a_plain_request_asks_for_nothing_special() -> None:
    request = Request("GET", "http://h/")
    assert (request.headers, request.body) == (None, None)
    assert (request.deadline, request.idempotent) == (None, None)
    assert request.timeout is POOL_DEFAULT
    assert request.expect100 is False


@pytest.mark.parametrize("name", ["timeout", "retry"])
def test_what_the_pool_was_made_with_is_told_from_none(name: str) -> None:
    request = Request("GET", "http://h/", **{name: None})  # type: ignore[arg-type]
    assert getattr(request, name) is None
    assert getattr(Request("GET", "http://h/"), name) is POOL_DEFAULT
    assert repr(POOL_DEFAULT) == "POOL_DEFAULT"


def test_a_request_may_have_a_policy_of_its_own() -> None:
    policy = RetryPolicy(attempts=2)
    assert Request("GET", "http://h/", retry=policy).retry is policy


@pytest.mark.parametrize("retry", [0, 3, True, "never", RetryPolicy, {"attempts": 3}])
def test_a_policy_that_is_none_is_a_type_error(retry: Any) -> None:
    with pytest.raises(TypeError, match="retry must be a RetryPolicy or None"):
        Request("GET", "http://h/", retry=retry)


def test_headers_that_can_be_read_once_are_kept() -> None:
    request = Request("GET", "http://h/", ((name, "x") for name in ("A", "B")))
    assert request.headers == (("A", "x"), ("B", "x"))


@pytest.mark.parametrize(
    "headers", [{}, {"A": "b"}, Headers([("A", "b")]), [("A", "b")], (("A", "b"),), {}.items()]
)
def test_headers_that_can_be_read_again_are_kept_as_they_are(headers: Any) -> None:
    assert Request("GET", "http://h/", headers).headers is headers


@pytest.mark.parametrize("headers", ["A: b", b"A: b", 7, False])
def test_headers_that_could_be_none_are_a_type_error(headers: Any) -> None:
    with pytest.raises(TypeError, match="mapping or"):
        Request("GET", "http://h/", headers)


@pytest.mark.parametrize("method", ["", "GE T", "GET\r\n", "GÄT", "GET:"])
def test_a_method_that_is_no_token_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match="invalid method"):
        Request(method, "http://h/")


@pytest.mark.parametrize("method", [None, b"GET", 7])
def test_a_method_that_is_no_text_is_a_type_error(method: Any) -> None:
    with pytest.raises(TypeError, match="method must be a str"):
        Request(method, "http://h/")


@pytest.mark.parametrize("path", ["/a b", "/ä", "/a\r\nX: y", "/\0", "?a b"])
def test_a_target_that_cannot_be_sent_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="request target"):
        Request("GET", "http://h" + path)


@pytest.mark.parametrize("name", ["timeout", "deadline"])
@pytest.mark.parametrize("value", [0, -1, 0.0, math.nan, math.inf, -math.inf, 10**400])
def test_a_limit_that_is_no_time_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a positive, finite number of seconds"):
        Request("GET", "http://h/", **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["timeout", "deadline"])
@pytest.mark.parametrize("value", ["1", True, (1, 2), 1j])
def test_a_limit_that_is_no_number_is_a_type_error(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a number of seconds"):
        Request("GET", "http://h/", **{name: value})


@pytest.mark.parametrize("name", ["expect100", "idempotent"])
@pytest.mark.parametrize("value", [0, 1, "yes"])
def test_a_yes_or_no_that_is_neither_is_a_type_error(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a bool"):
        Request("PUT", "http://h/", body=b"x", **{name: value})


def test_there_is_nothing_to_expect_without_a_body() -> None:
    with pytest.raises(ValueError, match="expect100 is only allowed with a body"):
        Request("PUT", "http://h/", expect100=True)


@pytest.mark.parametrize("make", [dict, Headers, list, tuple])
def test_headers_are_pairs_however_they_were_given(make: Callable[[Any], Any]) -> None:
    pairs = [("A", "b"), ("C", "d")]
    assert list(header_pairs(make(pairs))) == pairs


# --- what it promises --------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_methods_that_promise_it_are_idempotent(method: str) -> None:
    assert Request(method, "http://h/").is_idempotent


@pytest.mark.parametrize("method", ["POST", "PATCH", "CONNECT", "PROPFIND", "get"])
def test_methods_that_do_not_promise_it_are_not_idempotent(method: str) -> None:
    assert not Request(method, "http://h/").is_idempotent
    assert not Request(method, "http://h/", {"Accept": "*/*"}).is_idempotent


@pytest.mark.parametrize("make", [dict, Headers, list, iter], ids=["dict", "Headers", "list", "it"])
def test_a_key_makes_any_method_idempotent(make: Callable[[Any], Any]) -> None:
    headers = make([("Accept", "*/*"), ("idempotency-KEY", "8e03978e")])
    assert Request("POST", "http://h/", headers).is_idempotent


def test_the_caller_knows_best_what_is_idempotent() -> None:
    assert Request("POST", "http://h/", idempotent=True).is_idempotent
    assert not Request("GET", "http://h/", {"Idempotency-Key": "1"}, idempotent=False).is_idempotent


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_that_says_nothing_leaves_it_to_its_method(method: str) -> None:
    assert Request(method, "http://h/").says_idempotent is None
    assert Request(method, "http://h/", {"Accept": "*/*"}).says_idempotent is None


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_that_says_it_says_so_whatever_its_method(method: str) -> None:
    assert Request(method, "http://h/", {"Idempotency-Key": "1"}).says_idempotent is True
    for said in (True, False):
        request = Request(method, "http://h/", {"Idempotency-Key": "1"}, idempotent=said)
        assert request.says_idempotent is said


# --- as a value --------------------------------------------------------------------------------


def test_requests_are_equal_only_to_themselves() -> None:
    one, other = Request("GET", "http://h/"), Request("GET", "http://h/")
    assert one == one
    assert one != other
    assert len({one, other}) == 2


def test_the_repr_of_a_request() -> None:
    assert repr(Request("GET", "http://h/a#b")) == "<Request GET http://h/a#b>"


@pytest.mark.parametrize("url", ["http://h:81/a", "http://h?a"])
def test_a_request_can_be_pickled(url: str) -> None:
    request = Request("PUT", url, {"A": "b"}, b"x", deadline=3, retry=RetryPolicy(attempts=2))
    copy = pickle.loads(pickle.dumps(request))
    assert (copy.method, copy.url, copy.origin) == ("PUT", url, request.origin)
    assert (copy.target, copy.headers, copy.body) == (request.target, {"A": "b"}, b"x")
    assert copy.timeout is POOL_DEFAULT
    assert copy.retry == RetryPolicy(attempts=2)


def test_a_waiting_request_takes_little_memory_beside_its_url() -> None:
    urls = [f"http://h/a/path/of/some/length/{number}" for number in range(1000)]
    requests = [Request("GET", url) for url in urls]
    tracemalloc.start()
    try:
        requests = [Request("GET", url) for url in urls]
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size / len(requests) < 150
