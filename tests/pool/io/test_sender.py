"""The sender: it connects, lets go of what it has sent, and knows whose fault a failure is."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import weakref
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dugong
from dugong import ConnectError, ConnectionPool, Delivery, ProxyError, TLSError
from dugong.connection import dial
from dugong.connection.transport import PlainTransport
from dugong.pool.io import http1
from tests.support.pool import (
    discard_rest,
    each,
    name_target,
    open_site,
    url,
    wait_for,
    wait_until_parked,
)
from tests.support.server import TIMEOUT, Peer, ReceivedRequest, ScriptedServer

# --- files ----------------------------------------------------------------------------------------


def test_the_descriptor_of_a_file_that_was_closed_is_not_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system gives the number of a closed descriptor to the next file that is opened."""
    monkeypatch.setattr(http1, "_FILE_PIECE", 1000)
    (tmp_path / "ours").write_bytes(b"o" * 3000)
    (tmp_path / "secret").write_bytes(b"s" * 3000)
    received = []

    def script(peer: Peer) -> None:
        peer.head()
        received.append(peer.until_eof())

    sendfile = os.sendfile

    with (
        (tmp_path / "ours").open("rb") as descriptor,
        # So that no other thread can get the number in between.
        open(descriptor.fileno(), "rb", closefd=False) as ours,
        (tmp_path / "secret").open("rb") as secret,
        open_site(script, each(name_target)) as here,
    ):

        def then_closing(out: int, source: int, offset: int, count: int) -> int:
            sent = sendfile(out, source, offset, count)
            if not ours.closed:
                ours.close()
                os.dup2(secret.fileno(), source)
            return sent

        monkeypatch.setattr(os, "sendfile", then_closing)
        with pytest.raises(ValueError, match="closed"):
            here.pool.put(here.url(), ours)
        assert here.goes_on()
    assert received == [b"o" * 1000]


def test_a_file_that_is_closed_while_the_server_does_not_read_is_not_read_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, read_on = threading.Event(), threading.Event()
    received = []
    send_file = PlainTransport.send_file

    def noting(self: PlainTransport, fd: int, offset: int, count: int) -> object:
        sent = send_file(self, fd, offset, count)
        if not isinstance(sent, int):
            full.set()
        return sent

    def script(peer: Peer) -> None:
        received.append(int(peer.head().headers["content-length"]))
        wait_for(read_on)
        discard_rest(peer)

    monkeypatch.setattr(PlainTransport, "send_file", noting)
    path = tmp_path / "body"
    path.touch()
    os.truncate(path, 1 << 34)  # sparse, and more than can be sent in the time of a test
    with path.open("rb") as file, open_site(script, each(name_target)) as here:
        future = here.pool.submit("PUT", here.url(), body=file)
        wait_for(full)
        file.close()
        read_on.set()
        with pytest.raises(ValueError, match="closed"):
            future.result()
        assert here.goes_on()
    assert received == [1 << 34]


# --- letting go -----------------------------------------------------------------------------------


def test_an_idle_connection_keeps_nothing_of_what_was_sent() -> None:
    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield b"bytes"

    with open_site(each(name_target)) as here:
        body = Body()
        kept = [weakref.ref(body)]
        future = here.pool.submit("PUT", here.url(), body=body)
        kept.append(weakref.ref(future))
        assert future.result().body == b"/"
        wait_until_parked(here.pool)
        del body, future
        assert [ref() for ref in kept] == [None, None]


# --- connecting -----------------------------------------------------------------------------------


def closed_port() -> int:
    """Return a port at which nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
        return port


def test_all_that_is_queued_fails_if_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    all_queued = threading.Event()
    resolve = dial.resolve

    def resolve_then(host: str, port: int, **options: Any) -> Any:
        wait_for(all_queued)
        return resolve(host, port)

    monkeypatch.setattr(dial, "resolve", resolve_then)
    with ConnectionPool(retry=None) as pool:
        here = f"http://127.0.0.1:{closed_port()}/"
        futures = [pool.submit("GET", here) for _ in range(20)]
        all_queued.set()
        for future in futures:
            error = future.exception(TIMEOUT)
            assert isinstance(error, ConnectError)
            assert error.delivery is Delivery.UNSENT  # type: ignore[attr-defined]
        assert pool.statistics().opened <= 6


def test_each_request_that_could_not_be_sent_has_an_exception_of_its_own() -> None:
    with ConnectionPool(retry=None) as pool:
        here = f"http://127.0.0.1:{closed_port()}/"
        futures = [pool.submit("GET", here) for _ in range(20)]
        errors = [future.exception(TIMEOUT) for future in futures]
        assert len(set(map(id, errors))) == 20


def test_https_asks_for_a_certificate_that_the_system_trusts(
    server_context: ssl.SSLContext,
) -> None:
    def script(peer: Peer) -> None:
        with pytest.raises(OSError):  # noqa: PT011
            server_context.wrap_socket(peer.sock, server_side=True)

    with ScriptedServer(script) as server, ConnectionPool() as pool:
        with pytest.raises(TLSError, match="the certificate of") as caught:
            pool.get(url(server, scheme="https"))
        assert caught.value.delivery is Delivery.UNSENT
        assert server.connections == 1


def test_a_certificate_that_is_not_trusted_is_not_tried_for_ever(
    server_context: ssl.SSLContext,
) -> None:
    def script(peer: Peer) -> None:
        with pytest.raises(OSError):  # noqa: PT011
            server_context.wrap_socket(peer.sock, server_side=True)

    with ScriptedServer(script, repeat=True) as server, ConnectionPool() as pool:
        futures = [pool.submit("GET", url(server, scheme="https")) for _ in range(50)]
        for future in futures:
            assert isinstance(future.exception(TIMEOUT), TLSError)
        assert server.connections <= 2 * 6


def test_https_asks_for_a_certificate_of_that_very_host(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    def script(peer: Peer) -> None:
        with pytest.raises(OSError):  # noqa: PT011
            server_context.wrap_socket(peer.sock, server_side=True)

    with (
        ScriptedServer(script, host="127.0.0.2") as server,
        ConnectionPool(ssl_context=client_context) as pool,
        pytest.raises(TLSError, match=r"127\.0\.0\.2"),
    ):
        pool.get(url(server, scheme="https"))


# --- proxies --------------------------------------------------------------------------------------

SECRET = "Basic " + b64encode(b"user:secret").decode()


def proxied(server: ScriptedServer, **options: object) -> ConnectionPool:
    """Return a pool that uses *server* as its proxy, with a password."""
    return ConnectionPool(proxy=f"http://user:secret@{server.host}:{server.port}", **options)  # type: ignore[arg-type]


class Seen(list[ReceivedRequest]):
    """The requests that a server has answered."""

    def respond(self, peer: Peer, request: ReceivedRequest) -> None:
        self.append(request)
        name_target(peer, request)


@pytest.mark.parametrize("headers", [None, {"X-Other": "a"}])
def test_a_proxy_is_told_the_whole_url(headers: dict[str, str] | None) -> None:
    seen = Seen()
    with ScriptedServer(each(seen.respond)) as server, proxied(server) as pool:
        response = pool.get("http://origin.invalid:81/path?query#part", headers=headers)
        assert response.body == b"http://origin.invalid:81/path?query"
    assert seen[0].headers["host"] == "origin.invalid:81"
    assert seen[0].headers["proxy-authorization"] == SECRET


def test_an_upload_goes_through_a_proxy_too() -> None:
    seen = Seen()
    with ScriptedServer(each(seen.respond)) as server, proxied(server) as pool:
        response = pool.put("http://origin.invalid/put", iter([b"one", b"two"]))
        assert response.body == b"http://origin.invalid/put"
    assert seen[0].body == b"onetwo"
    assert seen[0].headers["proxy-authorization"] == SECRET


def test_a_proxy_without_a_password_is_sent_none() -> None:
    seen = Seen()
    with (
        ScriptedServer(each(seen.respond)) as server,
        ConnectionPool(proxy=server.address) as pool,
    ):
        pool.get("http://origin.invalid/")
    assert "proxy-authorization" not in seen[0].headers


def tunnel(
    context: ssl.SSLContext, then: Callable[[Peer], None], tunnels: Seen
) -> Callable[[Peer], None]:
    """Return the script of a proxy that is, behind its tunnel, also the server."""

    def script(peer: Peer) -> None:
        tunnels.append(peer.head())
        peer.send(b"HTTP/1.1 200 Here you are\r\n\r\n")
        with context.wrap_socket(peer.sock, server_side=True) as sock:
            then(Peer(sock))

    return script


def test_https_goes_through_a_tunnel_and_the_password_stays_outside(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    outside, inside = Seen(), Seen()
    script = tunnel(server_context, each(inside.respond), outside)
    with ScriptedServer(script) as server, proxied(server, ssl_context=client_context) as pool:
        assert pool.get("https://localhost:4430/a").body == b"/a"
        assert pool.put("https://localhost:4430/b", b"body").body == b"/b"
        assert server.connections == 1
    assert [(request.method, request.target) for request in outside] == [
        ("CONNECT", "localhost:4430")
    ]
    assert outside[0].headers["proxy-authorization"] == SECRET
    assert [request.headers["host"] for request in inside] == ["localhost:4430"] * 2
    assert not any("proxy-authorization" in request.headers for request in inside)


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "502 Bad Gateway"])
def test_a_tunnel_that_is_refused_fails_what_is_queued(
    client_context: ssl.SSLContext, status: str
) -> None:
    def script(peer: Peer) -> None:
        assert peer.head().method == "CONNECT"
        peer.respond(b"no", status)
        discard_rest(peer)

    with (
        ScriptedServer(script, repeat=True) as server,
        proxied(server, ssl_context=client_context, retry=None) as pool,
    ):
        futures = [pool.submit("POST", "https://localhost/", body=b"body") for _ in range(20)]
        for future in futures:
            error = future.exception(TIMEOUT)
            assert isinstance(error, ProxyError)
            assert f"{error.status} {error.reason}" == status
            assert error.delivery is Delivery.UNSENT
        assert server.connections <= 2 * 6


# --- headers --------------------------------------------------------------------------------------


def headers_of(pool_headers: object, method: str = "GET", **options: object) -> dict[str, str]:
    """Return the header fields of a request from a pool with *pool_headers*."""
    seen = Seen()
    with open_site(each(seen.respond), headers=pool_headers) as here:
        here.pool.request(method, here.url(), **options)  # type: ignore[arg-type]
        fields = seen[0].headers
        assert seen[0].head.count(b"\r\n") == len(fields) + 2, "a field was sent twice"
        assert fields.pop("host") == f"{here.server.host}:{here.server.port}"
    return fields


OURS = {"accept-encoding": "identity", "user-agent": f"dugong/{dugong.__version__}"}


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_a_request_without_a_body_says_little(method: str) -> None:
    assert headers_of(None, method) == OURS


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_a_method_that_is_meant_for_a_body_says_that_there_is_none(method: str) -> None:
    assert headers_of(None, method) == OURS | {"content-length": "0"}


def test_a_body_has_a_length_and_no_checksum() -> None:
    assert headers_of(None, "PUT", body=b"body") == OURS | {"content-length": "4"}


def test_the_headers_of_a_pool_are_sent_with_every_request() -> None:
    pool_headers = {"X-One": "1", "X-Two": "2"}
    both = OURS | {"x-one": "1", "x-two": "2"}
    assert headers_of(pool_headers) == both
    assert headers_of(pool_headers, headers={"X-Own": "o"}) == both | {"x-own": "o"}
    assert headers_of(pool_headers, "PUT", body=b"") == both | {"content-length": "0"}


def test_a_request_overrides_the_headers_of_its_pool() -> None:
    pool_headers = [("X-One", "1"), ("X-Two", "2"), ("User-Agent", "crawler")]
    given = {"x-ONE": "other", "user-agent": "this once"}
    assert headers_of(pool_headers, headers=given) == {
        "accept-encoding": "identity",
        "x-one": "other",
        "x-two": "2",
        "user-agent": "this once",
    }


@pytest.mark.parametrize(
    ("pool_headers", "own_headers"),
    [
        ({"User-Agent": "crawler", "Accept-Encoding": "gzip"}, None),
        ({"User-Agent": "crawler"}, {"Accept-Encoding": "gzip"}),
        (None, {"User-Agent": "crawler", "Accept-Encoding": "gzip"}),
    ],
)
def test_what_is_sent_unasked_can_be_changed(
    pool_headers: dict[str, str] | None, own_headers: dict[str, str] | None
) -> None:
    expected = {"accept-encoding": "gzip", "user-agent": "crawler"}
    assert headers_of(pool_headers, headers=own_headers) == expected


def test_a_request_may_name_another_host() -> None:
    seen = Seen()
    with open_site(each(seen.respond)) as here:
        here.pool.get(here.url(), headers={"Host": "other.example"})
    assert seen[0].headers["host"] == "other.example"
    assert seen[0].head.lower().count(b"host:") == 1


@pytest.mark.parametrize(
    "pool_headers",
    [
        {"Host": "a"},
        {"content-length": "0"},
        {"Transfer-Encoding": "chunked"},
        {"Connection": "close"},
        {"Expect": "100-continue"},
        {"X-Bad": "a\r\nb: c"},
        {"X Bad": "a"},
    ],
)
def test_headers_that_cannot_be_for_every_request_are_refused(
    pool_headers: dict[str, str],
) -> None:
    with pytest.raises(ValueError, match=r"every request|header"):
        ConnectionPool(headers=pool_headers)


def test_a_request_that_asks_for_the_end_of_the_connection_gets_it() -> None:
    def script(peer: Peer) -> None:
        request = peer.request()
        assert request.headers["connection"] == "close"
        name_target(peer, request)
        assert peer.until_eof() == b""

    with open_site(script, each(name_target)) as here:
        assert here.pool.get(here.url("/last"), headers={"Connection": "close"}).body == b"/last"
        assert here.goes_on()
