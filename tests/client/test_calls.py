"""From the arguments of a call to its first request, without sending it."""

from __future__ import annotations

from typing import Any

import pytest

from dugong.client.auth import BasicAuth
from dugong.client.calls import CallMaker, ClientOptions, origin_of
from dugong.client.cookies import Cookies
from dugong.client.flow import Settings
from dugong.pool.options import ElaborateHeaders
from dugong.pool.request import Request

URL = "http://h.example/a"


def maker(base_url: str = "", **options: Any) -> CallMaker:
    parameters: dict[str, Any] = {
        "params": None,
        "auth": None,
        "follows": True,
        "everywhere": ElaborateHeaders(()),
        "decodes": True,
    }
    settings = Settings(Cookies(options.pop("cookies", None)), (), 20, (), (), None)
    return CallMaker(settings, base_url, **{**parameters, **options})


def test_a_request_that_is_told_nothing_is_plain() -> None:
    calls = maker()
    assert calls.adds_nothing
    request = calls.plain_request("GET", URL, {})
    assert request is not None
    assert (request.method, request.url, request.headers) == ("GET", URL, None)


@pytest.mark.parametrize(
    "url", ["http://u:p@h/", "http://h/a b", "http://h/\u00e4", "relative", "ftp://h/"]
)
def test_a_url_that_is_not_sent_as_it_is_is_not_plain(url: str) -> None:
    assert maker().plain_request("GET", url, {}) is None


def test_a_request_with_cookies_is_not_plain() -> None:
    for calls in maker(cookies={"a": "1"}), maker(cookies=cookies_of("h.example")):
        assert calls.plain_request("GET", URL, {}) is None
        assert calls.plain_request(Request("GET", URL), None, {}) is None


def test_a_request_without_any_of_the_cookies_is_plain() -> None:
    calls = maker(cookies=cookies_of("other.example"))
    request = Request("GET", URL)
    assert calls.plain_request("GET", URL, {}) is not None
    assert calls.plain_request(request, None, {}) is request


def cookies_of(domain: str) -> Cookies:
    cookies = Cookies()
    cookies.set("a", "1", domain)
    return cookies


def test_a_request_that_is_given_is_sent_itself_if_nothing_is_to_be_added() -> None:
    request = Request("PUT", URL, body=b"b", context=7, timeout=1, idempotent=False)
    assert maker().plain_request(request, None) is request


@pytest.mark.parametrize(
    "options",
    [{"headers": {"Range": "bytes=0-"}}, {"headers": lambda request: None}, {"deadline": 1}],
)
def test_a_request_with_headers_or_a_deadline_is_not_plain(options: dict[str, Any]) -> None:
    assert maker().plain_request(Request("GET", URL, **options), None) is None


def test_what_is_told_more_is_not_plain() -> None:
    calls = maker()
    assert calls.plain_request("GET", URL, {"deadline": 1}) is None
    assert calls.plain_request(Request("GET", URL), None, {"auth": None}) is None
    assert calls.plain_request("GET", None) is None


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": "http://h/"},
        {"params": {"a": "1"}},
        {"auth": BasicAuth("u", "p")},
        {"everywhere": ElaborateHeaders((("User-Agent", "u"),))},
        {"everywhere": ElaborateHeaders((), None, frozenset(("user-agent",)))},
    ],
)
def test_what_is_for_all_requests_is_added_to_each(options: dict[str, Any]) -> None:
    assert not maker(**options).adds_nothing


def test_the_origin_of_a_base_url() -> None:
    assert origin_of("") is None
    assert str(origin_of("https://h.example/v1")) == "https://h.example"


CASES: list[tuple[ClientOptions, dict[str, str]]] = [
    ({}, {"user-agent": "u", "accept-encoding": "gzip"}),
    ({"headers": {"User-Agent": None}}, {"accept-encoding": "gzip"}),
    ({"headers": {"user-AGENT": "own"}}, {"user-agent": "own", "accept-encoding": "gzip"}),
    (
        {"headers": {"Range": "bytes=0-"}},
        {"range": "bytes=0-", "user-agent": "u", "accept-encoding": "identity"},
    ),
]


@pytest.mark.parametrize(("options", "expected"), CASES)
def test_default_headers_are_added_where_the_call_does_not_say_others(
    options: ClientOptions, expected: dict[str, str]
) -> None:
    fields = (("User-Agent", "u"), ("Accept-Encoding", "gzip"))
    calls = maker(everywhere=ElaborateHeaders(fields))
    call = calls.call("GET", URL, options)
    headers = call.request.headers
    assert isinstance(headers, tuple)
    assert {name.lower(): value for name, value in headers} == expected


def test_credentials_of_a_call_are_for_the_origin_that_it_names() -> None:
    own, named = BasicAuth("own", ""), BasicAuth("named", "")
    calls = maker("http://base.example/", auth=own)
    base = origin_of("http://base.example/")
    call = calls.call("GET", "http://h.example/", {})
    assert (call.auth, call.auth_origin, call.own_origin) == (own, base, base)
    call = calls.call("GET", "http://h.example/", {"auth": named})
    assert (call.auth, str(call.auth_origin)) == (named, "http://h.example")
    assert calls.call("GET", "x", {"auth": None}).auth is None
    call = calls.call("GET", "x", {"headers": {"Authorization": "a"}})
    assert call.auth is None
