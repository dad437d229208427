"""`Client`: its arguments, and those of its calls."""

from __future__ import annotations

import http.cookiejar
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from dugong import ConnectionPool, Cookies, Request
from dugong.client.client import Client
from tests.support.client import Page, moved, open_places
from tests.support.server import TIMEOUT, Peer, ScriptedServer

METHODS = ["get", "head", "options", "post", "put", "patch", "delete"]


@pytest.mark.parametrize("method", METHODS)
def test_each_method_has_its_own_call(method: str) -> None:
    with open_places({}) as (client, [here]):
        assert getattr(client, method)(here.url("/a")).status == 200
        assert here.targets == [f"{method.upper()} /a"]


def test_relative_urls_are_below_the_base_url() -> None:
    with open_places({}, below="/v1/") as (client, [here]):
        client.get("items")
        client.get("/items", params={"page": 2})
        client.get(here.url("/other"))
        assert [r.url for r in client.map(["a", "b"])] == [here.url("/v1/a"), here.url("/v1/b")]
        assert here.targets[:3] == ["GET /v1/items", "GET /v1/items?page=2", "GET /other"]


def test_a_relative_url_without_a_base_is_an_error_at_the_call() -> None:
    with Client() as client:
        for call in (client.get, client.stream):
            with pytest.raises(ValueError, match="base_url"):
                call("items") if call == client.get else client.stream("GET", "items")


def test_what_is_not_ascii_is_quoted_once() -> None:
    with open_places({}) as (client, [here]):
        client.get(here.url("/gr\u00fcn und %20?q=\u00e4 b"))
        assert here.targets == ["GET /gr%C3%BCn%20und%20%20?q=%C3%A4%20b"]


def test_parameters_are_appended_to_those_of_the_url() -> None:
    with open_places({}, params={"key": "k"}) as (client, [here]):
        client.get(here.url("/a?x=1#part"), params=[("y", "2"), ("y", "3")])
        assert here.targets == ["GET /a?x=1&key=k&y=2&y=3"]


BODIES: dict[str, tuple[dict[str, Any], str, bytes]] = {
    "json": ({"json": {"a": [1, "\u00e4"]}}, "application/json", '{"a":[1,"\u00e4"]}'.encode()),
    "form": ({"data": {"a": "1 2"}}, "application/x-www-form-urlencoded", b"a=1+2"),
    "body": ({"body": b"raw", "headers": {"Content-Type": "a/b"}}, "a/b", b"raw"),
}


@pytest.mark.parametrize("kind", BODIES)
def test_what_is_sent(kind: str) -> None:
    options, content_type, body = BODIES[kind]
    with open_places({}) as (client, [here]):
        client.post(here.url("/a"), **options)
        [request] = here.requests
        assert (request.headers["content-type"], request.body) == (content_type, body)


def test_files_are_sent_as_parts() -> None:
    with open_places({}) as (client, [here]):
        client.post(here.url("/a"), data={"name": "value"}, files={"f": ("x.txt", b"content")})
        [request] = here.requests
        assert request.headers["content-type"].startswith("multipart/form-data; boundary=")
        assert b'filename="x.txt"' in request.body
        assert int(request.headers["content-length"]) == len(request.body)


def test_a_content_type_of_the_caller_counts_more() -> None:
    with open_places({}) as (client, [here]):
        client.post(here.url("/a"), json=1, headers={"content-type": "application/x+json"})
        assert here.requests[0].headers["content-type"] == "application/x+json"


def test_headers_may_be_made_for_each_sending() -> None:
    with open_places({"/a": moved("/b")}, auth=("u", "p")) as (client, [here]):
        client.get(here.url("/a"), headers=lambda request: {"X-Target": request.target})
        assert [r.headers["x-target"] for r in here.requests] == ["/a", "/b"]
        assert all("authorization" in r.headers for r in here.requests)


@pytest.mark.parametrize("has_pool", [False, True])
def test_a_default_header_that_is_none_is_not_sent(has_pool: bool) -> None:
    headers = {"user-agent": None, "Accept-Encoding": None}
    with open_places({}, headers=headers) as (own, [here]), ConnectionPool() as pool:
        other = Client(pool=pool, headers=headers, trust_env=False)
        client = other if has_pool else own
        client.get(here.url())
        sent = here.requests[0].headers
        assert "user-agent" not in sent
        assert sent["accept-encoding"] == "identity"  # none would stand for all codings
        client.get(here.url(), headers={"User-Agent": "u"})
        assert here.requests[1].headers["user-agent"] == "u"


def test_a_host_that_is_given_is_sent_to_its_own_origin_alone() -> None:
    fields = {"host": "www.example.com:81"}
    with open_places({"/a": moved("/b")}, {}, headers=fields) as (client, [here, there]):
        here.pages["/b"] = moved(there.url("/c"))
        client.get(here.url("/a"))
        client.get(here.url("/d"), headers={"Host": "other"})
    hosts = [request.headers["host"] for request in here.requests]
    assert hosts == ["www.example.com:81", "www.example.com:81", "other"]
    assert [r.headers["host"] for r in there.requests] == [f"127.0.0.1:{there.server.port}"]


@pytest.mark.parametrize(
    "headers",
    [{"Host": "a b"}, {"Host": ""}, [("Host", "a"), ("host", "a")], {"Host": None}],
    ids=repr,
)
def test_a_host_that_cannot_be_sent_is_refused_when_the_client_is_made(headers: Any) -> None:
    with pytest.raises(ValueError, match=r"(?i)host"):
        Client(headers=headers)


@pytest.mark.parametrize("name", [1, "a b", ""])
def test_a_header_that_is_left_out_has_a_name(name: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        Client(headers={name: None})


def test_parameters_of_a_client_are_added_to_requests_for_its_origin() -> None:
    with open_places({}, {}, below="/", params={"key": "1"}) as (client, [here, there]):
        list(client.map([Request("GET", here.url("/a?b=2")), Request("GET", there.url("/c"))]))
        assert here.targets == ["GET /a?b=2&key=1"]
        assert there.targets == ["GET /c"]


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("proxies", "use proxy="),
        ("allow_redirects", "use follow_redirects="),
        ("limits", "use max_connections="),
        ("base_uri", "the options are base_url, headers, .*max_connections_per_host"),
    ],
)
def test_an_unknown_option_of_a_client_is_refused_with_a_hint(option: str, hint: str) -> None:
    options: dict[str, Any] = {option: None}
    with pytest.raises(TypeError, match=f"no option {option!r}: {hint}"):
        Client(**options)


def test_a_request_may_be_given_instead_of_its_parameters() -> None:
    with open_places({"/a": moved("/b")}, headers={"X-Own": "1"}) as (client, [here]):
        request = Request("POST", here.url("/a"), {"X-A": "1"}, b"body")
        response = client.request(request, auth=("u", "p"), follow_redirects=False)
        assert response.status == 302
        [received] = here.requests
        assert {"x-a", "x-own", "authorization"} <= set(received.headers)


@pytest.mark.parametrize("option", ["params", "json", "headers", "timeout", "deadline"])
def test_a_request_says_all_of_it(option: str) -> None:
    with Client() as client:
        request = Request("GET", "http://h.example/")
        with pytest.raises(TypeError, match=option):
            client.request(request, **{option: None})  # type: ignore[misc]  # any name


def test_credentials_of_a_url_are_sent_and_shown_nowhere() -> None:
    with open_places({}) as (client, [here]):
        response = client.get(here.url("/a").replace("http://", "http://user:p%40ss@"))
        assert here.requests[0].headers["authorization"] == "Basic dXNlcjpwQHNz"
        assert "user" not in response.url


def test_cookies_may_be_shared_or_copied() -> None:
    shared = Cookies()
    with Client(cookies=shared) as client:
        assert client.cookies is shared
    with Client(cookies={"a": "1"}) as client:
        assert dict(client.cookies) == {"a": "1"}
    with Client(cookies=http.cookiejar.CookieJar()) as client:
        assert len(client.cookies) == 0


def test_a_pool_that_is_given_is_left_open_and_sends_what_a_client_sends() -> None:
    options: dict[str, Any] = {"headers": {"User-Agent": "u"}}
    options["pool"] = pool = ConnectionPool(headers={"X-Pool": "1"})
    with open_places({}, **options) as (client, [here]), pool:
        client.get(here.url("/a"))
        assert [response.status for response in client.map([here.url("/b")])] == [200]
        client.close()
        assert pool.get(here.url("/c")).status == 200
        sent = [request.headers for request in here.requests]
        assert [headers["user-agent"] for headers in sent[:2]] == ["u", "u"]
        assert all("gzip" in headers["accept-encoding"] for headers in sent[:2])
        assert [headers["x-pool"] for headers in sent] == ["1"] * 3


def test_a_certificate_of_the_client_and_an_authority(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))

    def script(peer: Peer) -> None:
        peer.request()
        peer.respond(b"secure")

    with ScriptedServer(script, context=context) as server, Client(verify=str(path)) as client:
        assert client.get(f"https://127.0.0.1:{server.port}/").body == b"secure"


async def _coroutine(_: object) -> None: ...


BAD_CLIENTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"base_url": "items"}, ValueError, "base_url|absolute|http"),
    ({"base_url": 1}, TypeError, "str"),
    ({"headers": {"X": "a\r\nb"}}, ValueError, "header"),
    ({"params": 1}, TypeError, "params"),
    ({"cookies": 1}, TypeError, "cookies"),
    ({"auth": "user:password"}, TypeError, "auth"),
    ({"follow_redirects": 1}, TypeError, "follow_redirects"),
    ({"max_redirects": -1}, ValueError, "max_redirects"),
    ({"max_redirects": True}, TypeError, "max_redirects"),
    ({"decode": None}, TypeError, "decode"),
    ({"trust_env": 0}, TypeError, "trust_env"),
    ({"verify": None}, TypeError, "verify"),
    ({"cert": 1}, TypeError, "cert"),
    ({"event_hooks": {"answer": []}}, ValueError, "event_hooks"),
    ({"event_hooks": []}, TypeError, "event_hooks"),
    ({"headers": {"Content-Length": "1"}}, ValueError, "content-length"),
    ({"event_hooks": {"request": [1]}}, TypeError, "hook"),
    ({"event_hooks": {"response": print}}, TypeError, "event_hooks.*iterable"),
    ({"event_hooks": {"response": [_coroutine]}}, TypeError, "hook must not be a coroutine"),
    ({"auth": _coroutine}, TypeError, "auth must not be a coroutine"),
    ({"pool": 1}, TypeError, "pool"),
    ({"nonsense": 1}, TypeError, "nonsense"),
    ({"timeout": -1}, ValueError, "timeout"),
    ({"verify": False, "ssl_context": ssl.create_default_context()}, TypeError, "ssl_context"),
]


@pytest.mark.parametrize(("options", "error", "match"), BAD_CLIENTS)
def test_what_makes_no_sense_is_refused(
    options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        Client(**options)


BAD_CALLS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"json": 1, "data": {"a": "1"}}, (TypeError, ValueError), "json"),
    ({"json": object()}, (TypeError, ValueError), "JSON|json"),
    ({"params": 1}, TypeError, "params"),
    ({"cookies": 1}, TypeError, "cookies"),
    ({"auth": 1}, TypeError, "auth"),
    ({"headers": _coroutine}, TypeError, "headers must not be a coroutine"),
    ({"follow_redirects": None}, TypeError, "follow_redirects"),
    ({"allow_redirects": True}, TypeError, "follow_redirects"),
    ({"verify": False}, TypeError, "Client"),
    ({"headers": {"X": "\n"}}, ValueError, "header"),
    ({"deadline": 0}, ValueError, "deadline"),
    ({"nonsense": 1}, TypeError, "nonsense"),
]


@pytest.mark.parametrize("way", ["request", "submit", "stream"])
@pytest.mark.parametrize(("options", "error", "match"), BAD_CALLS)
def test_a_call_that_makes_no_sense_is_refused_before_anything_is_sent(
    options: dict[str, Any], error: Any, match: str, way: str
) -> None:
    with open_places({}) as (client, [here]):
        with pytest.raises(error, match=match):
            getattr(client, way)("POST", here.url("/a"), **options)
        assert here.requests == []


def test_a_method_without_a_url_is_refused() -> None:
    with Client() as client, pytest.raises(TypeError, match="URL"):
        client.request("GET")


def test_what_a_pool_can_give_a_client_cannot_take_twice() -> None:
    with ConnectionPool() as pool:
        for options in ({"timeout": 3}, {"verify": False}, {"cert": "x"}):
            with pytest.raises(TypeError, match="pool"):
                Client(pool=pool, **options)  # type: ignore[arg-type]  # each is an option


def test_statistics_are_those_of_the_pool() -> None:
    with open_places({}) as (client, [here]):
        client.get(here.url("/a"))
        assert client.statistics().answered == 1


def test_a_client_that_is_closed_takes_no_more() -> None:
    from dugong import PoolClosed

    with open_places({}) as (client, [here]):
        client.close()
        with pytest.raises(PoolClosed):
            client.get(here.url("/a"))


def test_a_repr_shows_no_secrets() -> None:
    with Client(headers={"X-Key": "secret"}, auth=("secret", "secret")) as client:
        assert "secret" not in repr(client)


def test_pages_that_are_coded_and_moved_come_as_they_finish() -> None:
    pages = {f"/{number}": moved(f"/to{number}") for number in range(50)}
    with open_places(pages) as (client, [here]):
        done = [f.result(TIMEOUT) for f in client.as_completed([here.url(path) for path in pages])]
        assert {r.text for r in done} == {f"/to{number}" for number in range(50)}


def test_netrc_is_asked_for_hosts_without_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "netrc"
    path.write_text("machine 127.0.0.1 login u password p\n")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))
    with open_places({}, trust_env=True) as (client, [here]):
        client.get(here.url("/a"))
        client.get(here.url("/b"), auth=None)
        client.get(here.url("/c"), headers={"Authorization": "own"})
        sent = [request.headers.get("authorization") for request in here.requests]
        assert sent == ["Basic dTpw", None, "own"]


def test_the_default_entry_of_netrc_is_not_for_where_a_redirect_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "netrc"
    path.write_text("default login u password p\n")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))
    with open_places({}, {}, trust_env=True) as (client, [here, there]):
        here.pages["/a"] = moved(there.url("/b"))
        client.get(here.url("/a"))
        assert "authorization" in here.requests[0].headers
        assert "authorization" not in there.requests[0].headers


def test_parameters_that_can_be_read_once_are_for_all_requests() -> None:
    with open_places({}, params=iter([("key", "k")])) as (client, [here]):
        client.get(here.url("/a"))
        client.get(here.url("/b"))
        assert here.targets == ["GET /a?key=k", "GET /b?key=k"]


def test_a_response_of_a_client_says_what_it_was_decoded_from() -> None:
    page = Page(b"x", headers="Content-Encoding: identity\r\n")
    with open_places({"/a": page}) as (client, [here]):
        assert client.get(here.url("/a")).headers["content-encoding"] == "identity"
