"""From a `Request` to a `Job`: what is sent is what was checked, whatever the caller does since."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from dugong import ConnectionClosed, ConnectionPool, PoolClosed, Request, TLSError
from dugong.pool.core.job import NO_EXTRAS
from dugong.pool.url import Origin
from tests.support.pool import Held, each, name_target, open_site
from tests.support.proxies import HttpProxy, UnixServer
from tests.support.refusing import AT_ONCE, dies
from tests.support.server import TIMEOUT, Peer, ReceivedRequest, ScriptedServer


class Broken(dict[str, str]):
    """Headers that cannot be read."""

    def items(self) -> Any:
        raise ZeroDivisionError


@pytest.mark.parametrize("method", ["submit", "request", "stream"])
def test_headers_that_cannot_be_read_raise_at_the_call_and_nothing_is_queued(method: str) -> None:
    with ConnectionPool() as pool:
        with pytest.raises(ZeroDivisionError):
            getattr(pool, method)("GET", "http://127.0.0.1:9/", headers=Broken(A="b"))
        statistics = pool.statistics()
        assert (statistics.queued, statistics.sent, statistics.opened) == (0, 0, 0)


def test_a_dict_that_changes_while_the_request_waits_changes_nothing() -> None:
    received: list[dict[str, str]] = []

    def script(peer: Peer) -> None:
        request = peer.request()
        received.append(request.headers)
        name_target(peer, request)

    held = Held()
    with open_site(held, script, max_connections_per_host=1, pipeline_depth=1) as here:
        first = here.pool.submit("GET", here.url("/first"), headers={"Connection": "close"})
        held.wait()
        headers = {"X-A": "1"}
        second = here.pool.submit("GET", here.url("/second"), headers=headers)
        headers["X-A"] = "2\r\nX-Smuggled: yes"
        headers["X-B"] = "3"
        held.release()
        assert first.result(TIMEOUT).body == b"/first"
        assert second.result(TIMEOUT).body == b"/second"
    assert received[0]["x-a"] == "1"
    assert "x-b" not in received[0]


def test_a_key_that_is_put_into_the_dict_of_an_earlier_post_does_not_have_that_sent_again() -> None:
    headers: dict[str, str] = {}

    def script(peer: Peer) -> None:
        peer.request()
        headers["Idempotency-Key"] = "8e03978e"  # as for the next request

    with open_site(script, retry=AT_ONCE) as here:
        with pytest.raises(ConnectionClosed) as caught:
            here.pool.post(here.url("/pay"), b"100", headers=headers)
        assert caught.value.attempts == ()
        assert here.server.connections == 1


def test_a_key_decides_for_a_request_with_a_callable_for_its_body_too() -> None:
    with open_site(dies, name_target_once, retry=AT_ONCE) as here:
        request = Request("POST", here.url("/a"), {"Idempotency-Key": "1"}, lambda: b"body")
        assert here.pool.request(request).body == b"/a"


def name_target_once(peer: Peer) -> None:
    name_target(peer, peer.request())


@pytest.mark.parametrize("method", ["submit", "request"])
def test_a_generator_that_an_earlier_request_has_used_is_refused_at_the_call(method: str) -> None:
    with open_site(each(name_target)) as here:
        body = (piece for piece in [b"abc"])
        assert here.pool.put(here.url("/a"), body).body == b"/a"
        with pytest.raises(ValueError, match="an earlier request has used it"):
            getattr(here.pool, method)("PUT", here.url("/b"), body=body)
        assert here.goes_on()
        assert here.server.connections == 1


@pytest.mark.parametrize(
    "make", [lambda: (piece for piece in [b"abc"]), lambda: map(bytes, [b"abc"])]
)
def test_a_request_with_a_body_that_was_used_cannot_be_submitted_again(
    make: Callable[[], Any],
) -> None:
    with open_site(each(name_target)) as here:
        request = Request("PUT", here.url("/a"), body=make())
        assert here.pool.request(request).body == b"/a"
        with pytest.raises(ValueError, match="an earlier request has used it"):
            here.pool.submit(request)
        assert here.goes_on()


def test_a_body_that_was_used_while_the_request_waited_fails_it() -> None:
    held = Held()
    with open_site(held, max_connections_per_host=1, pipeline_depth=1) as here:
        first = here.pool.submit("GET", here.url("/first"))
        held.wait()
        body = map(bytes, [b"abc"])
        uploads = [here.pool.submit("PUT", here.url("/put"), body=body) for _ in range(2)]
        held.release()
        assert first.result(TIMEOUT).body == b"/first"
        assert uploads[0].result(TIMEOUT).body == b"/put"
        with pytest.raises(ValueError, match="an earlier request may have used it"):
            uploads[1].result(TIMEOUT)


@pytest.mark.parametrize("options", [{"block": False}, {}])
def test_a_body_that_was_refused_with_its_request_has_not_been_used(
    options: dict[str, Any],
) -> None:
    body = (piece for piece in [b"abc"])
    with open_site(each(name_target)) as here:
        closed = ConnectionPool()
        closed.close()
        with pytest.raises(PoolClosed):
            closed.submit("PUT", here.url("/a"), body=body, **options)
        assert here.pool.put(here.url("/a"), body).body == b"/a"


# --- proxies --------------------------------------------------------------------------------------


def test_a_callable_is_asked_once_a_host_which_proxy_leads_there() -> None:
    asked = []

    def choose(origin: Origin) -> tuple[str, int] | None:
        asked.append(str(origin))
        return server.address if origin.host == "origin.test" else None

    script = HttpProxy(("127.0.0.1", 1))
    with (
        ScriptedServer(script, repeat=True) as server,
        ConnectionPool(proxy=choose) as pool,
    ):
        for _ in range(2):
            url = "http://origin.test:81/page"
            assert pool.get(url).text == url
            direct = f"http://{server.host}:{server.port}"
            assert pool.get(f"{direct}/page").text == "/page"
        assert asked == ["http://origin.test:81", direct]


def test_what_a_callable_returns_or_raises_is_checked_at_the_call() -> None:
    def choose(origin: Origin) -> Any:
        return {"bad.test": "http://user:secret@proxy.test:port"}[origin.host]

    with ConnectionPool(proxy=choose) as pool:
        with pytest.raises(ValueError, match="a proxy URL must look like") as caught:
            pool.submit("GET", "http://bad.test/")
        assert "secret" not in str(caught.value)
        with pytest.raises(KeyError):
            pool.submit("GET", "http://other.test/")
        assert pool.statistics().sent == 0


def test_fields_for_the_proxy_go_to_the_proxy_and_not_to_the_server_behind_it(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    received: list[ReceivedRequest] = []

    def serve(peer: Peer) -> None:
        received.append(peer.request())
        peer.respond()

    fields = {"X-Tenant": "7"}
    with ScriptedServer(serve, context=server_context) as server:
        script = HttpProxy(server.address)
        with (
            ScriptedServer(script, repeat=True) as proxy,
            ConnectionPool(
                proxy=f"http://user:secret@{proxy.host}:{proxy.port}",
                proxy_headers=fields,
                ssl_context=client_context,
            ) as pool,
        ):
            pool.get("https://localhost/")
            pool.get("http://localhost/", headers={"X-A": "b"})
            pool.get("http://localhost/")
    assert [request.method for request in script.requests] == ["CONNECT", "GET", "GET"]
    for request in script.requests:
        assert request.headers["x-tenant"] == "7"
        assert request.headers["proxy-authorization"] == "Basic dXNlcjpzZWNyZXQ="
        assert ("user-agent" in request.headers) is (request.method == "GET")
    assert not {"x-tenant", "proxy-authorization"} & set(received[0].headers)


@pytest.mark.parametrize("target", ["http", "https"])
def test_a_proxy_may_have_a_context_of_its_own(
    target: str, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    other = trustme.CA()
    proxy_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    other.issue_cert("localhost").configure_cert(proxy_context)
    trusting = ssl.create_default_context()
    other.configure_trust(trusting)

    def serve(peer: Peer) -> None:
        peer.request()
        peer.respond(b"https")

    with ScriptedServer(*[serve] * (target == "https"), context=server_context) as server:
        script = HttpProxy(server.address)
        with ScriptedServer(script, context=proxy_context, repeat=True) as proxy:
            options: dict[str, Any] = {
                "proxy": f"https://localhost:{proxy.port}",
                "ssl_context": client_context,
                "retry": None,
            }
            with ConnectionPool(**options) as pool, pytest.raises(TLSError):
                pool.get(f"{target}://localhost/")
            with ConnectionPool(**options, proxy_ssl_context=trusting) as pool:
                assert pool.get(f"{target}://localhost/").body.startswith(target.encode())
    assert [request.method for request in script.requests] == [
        "CONNECT" if target == "https" else "GET"
    ]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"headers": {"X-A": "b"}},
        {"headers": lambda request: {"X-A": "b"}},
        {"method": "PUT", "body": b"small"},
        {"method": "PUT", "body": b"large" * 20_000},
        {"method": "PUT", "body": b"asked", "expect100": True},
        {"method": "PUT", "body": [b"in ", b"chunks"], "trailers": {"X-Sum": "7"}},
    ],
    ids=["plain", "headers", "fresh", "small", "large", "expect100", "trailers"],
)
def test_a_host_that_is_forgotten_before_a_request_is_queued_takes_its_credentials_along(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dugong.pool.core.connections.MAX_KNOWN_HOSTS", 1)
    received: list[ReceivedRequest] = []

    def serve(peer: Peer) -> None:
        request = peer.request()
        received.append(request)
        peer.respond(request.body or request.target.encode())

    with ScriptedServer(serve) as server:
        url = f"http://localhost:{server.port}/page"
        chosen = iter(["http://user:secret@proxy.test", None, None])
        with ConnectionPool(proxy=lambda origin: next(chosen)) as pool:
            request = Request(given.pop("method", "GET"), url, **given)
            job = pool._prepare(request)
            for other in ("http://other.test/", url):  # has the host forgotten, and known anew
                pool._prepare(Request("GET", other))
            response = pool._submit(job, True).result(TIMEOUT)
    (got,) = received
    assert got.target == "/page"
    assert "proxy-authorization" not in got.headers
    assert got.headers.get("x-a") == ("b" if "headers" in given else None)
    assert got.headers.get("trailer") == ("X-Sum" if "trailers" in given else None)
    body = given.get("body", b"/page")
    assert response.body == (b"".join(body) if isinstance(body, list) else body)


def test_headers_and_a_small_body_alone_make_no_extras() -> None:
    with ConnectionPool() as pool:
        url = "http://h.example/"
        request = Request("PUT", url, {"X-A": "b"}, b"body")
        assert pool._prepare(request).extras is NO_EXTRAS
        for given in (
            {"headers": {"Connection": "close"}},
            {"headers": lambda request: None},
            {"progress": lambda done, total: None},
            {"body": [b"piece"]},
        ):
            options: dict[str, Any] = given
            assert pool._prepare(Request("PUT", url, **options)).extras is not NO_EXTRAS


@pytest.mark.parametrize("scheme", ["http", "https", "direct"])
@pytest.mark.parametrize("given", ["default", "call", "fresh"])
def test_credentials_for_a_proxy_go_to_no_server(
    given: str, scheme: str, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    fields = {"Proxy-Authorization": "mine", "User-Agent": "me", "X-A": "b"}
    received: list[ReceivedRequest] = []

    def serve(peer: Peer) -> None:
        received.append(peer.request())
        peer.respond()

    is_https = scheme == "https"
    with ScriptedServer(serve, context=server_context if is_https else None) as server:
        script = HttpProxy(server.address)
        with ScriptedServer(script, repeat=True) as proxy:
            url = f"http://user:secret@{proxy.host}:{proxy.port}"
            headers: Any = {"call": fields, "fresh": lambda request: fields}.get(given)
            with ConnectionPool(
                proxy=lambda origin: None if scheme == "direct" else url,
                proxy_headers={"User-Agent": "for the proxy"},
                headers=fields if given == "default" else None,
                ssl_context=client_context,
            ) as pool:
                where = f"{'https' if is_https else 'http'}://localhost:{server.port}/"
                assert pool.get(where, headers=headers).status == 200
    for request in received:
        assert "proxy-authorization" not in request.headers
        assert (request.headers["user-agent"], request.headers["x-a"]) == ("me", "b")
    for request in script.requests:
        head = request.head.lower()
        assert head.count(b"proxy-authorization") == head.count(b"user-agent") == 1
        assert request.headers["proxy-authorization"] == "Basic dXNlcjpzZWNyZXQ="
        assert request.headers["user-agent"] == "for the proxy"
    assert len(received) == (scheme != "http")
    assert len(script.requests) == (scheme != "direct")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"proxy": 5}, TypeError),
        ({"proxy_ssl_context": True}, TypeError),
        ({"proxy": "ftp://proxy.test"}, ValueError),
        ({"proxy_headers": {"Host": "a"}}, ValueError),
        ({"proxy_headers": {"Content-Length": "5"}}, ValueError),
        ({"proxy_headers": {"X": "a\r\nb"}}, ValueError),
        ({"proxy_headers": "X"}, TypeError),
        ({"proxy": ("proxy.test", 80), "unix_socket": "/run/socket"}, ValueError),
        ({"unix_socket": ""}, ValueError),
        ({"local_address": "localhost"}, ValueError),
        ({"resolver": 5}, TypeError),
        ({"allow_address": 5}, TypeError),
        ({"proxy_ssl_context": "ca.pem"}, TypeError),
    ],
)
def test_a_way_that_makes_no_sense_is_refused(
    options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        ConnectionPool(**options)


def test_the_name_of_the_host_is_that_of_the_url_on_a_unix_socket(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.respond(peer.request().headers["host"].encode())
        if not peer.sock.recv(1, socket.MSG_PEEK):
            return
        script(peer)

    path = tmp_path / "socket"
    with UnixServer(path, script, repeat=True), ConnectionPool(unix_socket=path) as pool:
        assert pool.get("http://one.test/").text == "one.test"
        assert pool.get("http://one.test/?again").text == "one.test"
        assert pool.get("http://other.test:81/").text == "other.test:81"


def test_large_bodies_pass_over_a_unix_socket(tmp_path: Path) -> None:
    body = bytes(range(256)) * 8192
    (tmp_path / "file").write_bytes(body)

    def script(peer: Peer) -> None:
        peer.respond(peer.request().body)

    path = tmp_path / "socket"
    with (
        UnixServer(path, script),
        ConnectionPool(unix_socket=path) as pool,
        (tmp_path / "file").open("rb") as file,
    ):
        assert pool.put("http://origin.test/", body=file).body == body
