"""Proxies: their arguments, absolute-form, tunnels, and that credentials stay with them."""

from __future__ import annotations

import ssl
from base64 import b64decode
from typing import Any

import pytest

from dugong import ConnectionClosed, HTTPConnection, InvalidResponse, ProxyError
from dugong.connection.proxy import Proxy
from tests.support.proxies import HttpProxy, SocksProxy
from tests.support.server import Peer, ScriptedServer

# --- proxy arguments ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proxy", "host", "port"),
    [
        (("proxy.test", 3128), "proxy.test", 3128),
        (("::1", 3128), "::1", 3128),
        ("http://proxy.test", "proxy.test", 80),
        ("http://proxy.test:3128/", "proxy.test", 3128),
        ("http://[::1]:3128", "::1", 3128),
        ("HTTP://user:pass@proxy.test:3128", "proxy.test", 3128),
        ("https://proxy.test", "proxy.test", 443),
        ("socks4://proxy.test", "proxy.test", 1080),
        ("socks5h://user:pass@proxy.test:3128", "proxy.test", 3128),
    ],
)
def test_a_proxy_is_a_pair_or_a_url(proxy: Any, host: str, port: int) -> None:
    parsed = Proxy(proxy)
    assert (parsed.host, parsed.port) == (host, port)


@pytest.mark.parametrize(
    ("url", "credentials"),
    [
        ("http://user:pass@proxy.test", b"user:pass"),
        ("http://user@proxy.test", b"user:"),
        ("http://us%20er:p%40ss%3aword@proxy.test", b"us er:p@ss:word"),
        ("http://user:p%C3%A9%FF@proxy.test", b"user:p\xc3\xa9\xff"),
        ("http://user:p\N{LATIN SMALL LETTER E WITH ACUTE}@proxy.test", b"user:p\xc3\xa9"),
    ],
)
def test_credentials_are_percent_decoded(url: str, credentials: bytes) -> None:
    authorization = Proxy(url).authorization
    assert authorization is not None
    scheme, _, encoded = authorization.partition(" ")
    assert (scheme, b64decode(encoded)) == ("Basic", credentials)


def test_without_credentials_there_is_no_authorization() -> None:
    assert Proxy("http://proxy.test").authorization is None
    assert Proxy(("proxy.test", 80)).authorization is None


def test_fields_are_for_the_proxy_and_may_replace_its_credentials() -> None:
    fields = [("X-Tenant", "7")]
    assert Proxy("http://proxy.test", fields).fields == b"X-Tenant: 7\r\n"
    with_both = Proxy("http://user:pass@proxy.test", fields).fields
    assert with_both == b"Proxy-Authorization: Basic dXNlcjpwYXNz\r\nX-Tenant: 7\r\n"
    fields = [("proxy-authorization", "Bearer t")]
    own = Proxy("http://user:pass@proxy.test", fields).fields
    assert own == b"proxy-authorization: Bearer t\r\n"


@pytest.mark.parametrize(
    ("proxy", "error"),
    [
        (("proxy.test",), TypeError),
        (("proxy.test", 80, 1), TypeError),
        (("proxy.test", "80"), TypeError),
        ((b"proxy.test", 80), TypeError),
        (b"http://user:secret@proxy.test", TypeError),
        (3128, TypeError),
        (("proxy.test", 0), ValueError),
        (("proxy.test", 65536), ValueError),
        (("proxy\r\n.test", 80), ValueError),
        (("", 80), ValueError),
        ("proxy.test:3128", ValueError),
        ("ftp://user:secret@proxy.test", ValueError),
        ("socks://user:secret@proxy.test", ValueError),
        ("socks4://user:secret@proxy.test", ValueError),
        ("socks4://secret%00@proxy.test", ValueError),
        ("socks5://:secret@proxy.test", ValueError),
        (f"socks5://user:{'secret' * 43}@proxy.test", ValueError),
        (f"socks5h://{'secret' * 43}@proxy.test", ValueError),
        ("http://", ValueError),
        ("http://user:secret@proxy.test:0", ValueError),
        ("http://user:secret@proxy.test:port", ValueError),
        ("http://user:secret@proxy.test:99999", ValueError),
        ("http://user:secret@proxy.test/path", ValueError),
        ("http://user:secret@proxy.test?query", ValueError),
        ("http://user:secret?@proxy.test", ValueError),
        ("http://user:secret#@proxy.test", ValueError),
        ("http://user:secret/@proxy.test", ValueError),
        ("http://user:[secret]@proxy.test", ValueError),
        ("http://user:secret\N{ACCOUNT OF}@proxy.test", ValueError),
        ("http://user:secret@[::1", ValueError),
    ],
)
def test_an_invalid_proxy_is_refused_without_telling_its_password(
    proxy: Any, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        HTTPConnection("origin.test", proxy=proxy)
    assert "secret" not in str(caught.value)


def test_no_repr_tells_the_password() -> None:
    url = "http://user:secret@proxy.test:3128"
    assert repr(Proxy(url)) == "<Proxy http://proxy.test:3128>"
    assert repr(Proxy("socks5://user:secret@[::1]")) == "<Proxy socks5://[::1]:1080>"
    assert "secret" not in repr(HTTPConnection("origin.test", proxy=url))


# --- http through a proxy -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "method", "path", "target", "host"),
    [
        (("o.test", None), "GET", "/a?b=c", "http://o.test/a?b=c", "o.test"),
        (("o.test", 80), "GET", "/", "http://o.test/", "o.test"),
        (("o.test", 8080), "GET", "/", "http://o.test:8080/", "o.test:8080"),
        (("o.test", 443), "GET", "/", "http://o.test:443/", "o.test:443"),
        (("::1", 80), "GET", "/", "http://[::1]/", "[::1]"),
        (("fe80::1%eth0", 8080), "GET", "/", "http://[fe80::1]:8080/", "[fe80::1]:8080"),
        (("o.test", None), "OPTIONS", "*", "http://o.test", "o.test"),
        (("o.test", 8080), "OPTIONS", "*", "http://o.test:8080", "o.test:8080"),
        (("o.test", None), "GET", "http://p.test/x", "http://p.test/x", "o.test"),
    ],
)
def test_a_proxy_is_given_the_absolute_form(
    origin: tuple[str, int | None], method: str, path: str, target: str, host: str
) -> None:
    def script(peer: Peer) -> None:
        request = peer.request()
        assert (request.method, request.target) == (method, target)
        assert request.headers["host"] == host
        assert "proxy-authorization" not in request.headers
        peer.respond()

    with (
        ScriptedServer(script) as server,
        HTTPConnection(*origin, proxy=server.address) as conn,
    ):
        conn.send_request(method, path)
        response = conn.read_response()
        assert (response.method, response.path) == (method, path)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_user_name_that_would_be_read_as_another_is_refused(scheme: str) -> None:
    with pytest.raises(ValueError, match="must have no colon") as caught:
        Proxy(f"{scheme}://us%3Aer:secret@proxy.test")
    assert "secret" not in str(caught.value)


def test_each_request_to_a_proxy_carries_the_credentials() -> None:
    def script(peer: Peer) -> None:
        for _ in range(2):
            encoded = peer.request().headers["proxy-authorization"].removeprefix("Basic ")
            assert b64decode(encoded) == b"us@er:p:ss"
            peer.respond()

    with ScriptedServer(script) as server:
        proxy = f"http://us%40er:p%3Ass@{server.host}:{server.port}"
        with HTTPConnection("origin.test", proxy=proxy) as conn:
            conn.send_request("GET", "/")
            conn.read_response()
            conn.send_request("PUT", "/", headers={"X": "y"}, body=b"body")
            conn.read_response()


def test_a_field_with_other_credentials_is_not_sent_beside_those_of_the_proxy() -> None:
    def script(peer: Peer) -> None:
        assert peer.request().head.lower().count(b"proxy-authorization") == 1
        peer.respond()

    with ScriptedServer(script) as server:
        proxy = f"http://user:secret@{server.host}:{server.port}"
        with HTTPConnection("origin.test", proxy=proxy) as conn:
            conn.send_request("GET", "/", {"proxy-authorization": "mine"})
            conn.read_response()


# --- https through a proxy ----------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_credentials_for_a_proxy_do_not_go_through_its_tunnel(
    scheme: str, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    context = server_context if scheme == "http" else None

    def script(peer: Peer) -> None:
        request = peer.request()
        assert "proxy-authorization" not in request.headers
        assert request.headers["x"] == "y"
        peer.respond()

    with ScriptedServer(script, context=context) as server:
        way = HttpProxy(server.address) if scheme == "http" else SocksProxy(server.address)
        with (
            ScriptedServer(way) as proxy,
            HTTPConnection(
                "localhost",
                ssl_context=client_context if scheme == "http" else None,
                proxy=f"{scheme}://{proxy.host}:{proxy.port}",
            ) as conn,
        ):
            conn.send_request("GET", "/", {"Proxy-Authorization": "mine", "X": "y"})
            assert conn.read_response().status == 200


def test_a_connection_without_a_proxy_sends_what_it_is_given() -> None:
    def script(peer: Peer) -> None:
        assert peer.request().headers["proxy-authorization"] == "mine"
        peer.respond()

    with ScriptedServer(script) as server, HTTPConnection(*server.address) as conn:
        conn.send_request("GET", "http://origin.test/", {"Proxy-Authorization": "mine"})
        assert conn.read_response().status == 200


@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 3])
@pytest.mark.parametrize(
    ("origin", "target"),
    [("localhost", "localhost:443"), ("localhost.", "localhost.:443"), ("::1", "[::1]:443")],
)
def test_the_origin_behind_a_tunnel_does_not_see_the_credentials(
    origin: str,
    target: str,
    interim: bytes,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
) -> None:
    def script(peer: Peer) -> None:
        connect = peer.head()
        assert (connect.method, connect.target) == ("CONNECT", target)
        assert set(connect.headers) == {"host", "proxy-authorization"}
        assert connect.headers["host"] == target
        assert connect.headers["proxy-authorization"] == "Basic dXNlcjpwYXNz"
        # A successful response to CONNECT has no body, whatever it says (RFC 9110 §9.3.6).
        peer.send(interim + b"HTTP/1.1 200 Established\r\nContent-Length: 5\r\n\r\n")
        with server_context.wrap_socket(peer.sock, server_side=True) as tls:
            inner = Peer(tls)
            request = inner.request()
            assert request.target == "/private"
            assert not [name for name in request.headers if name.startswith("proxy")]
            assert b"dXNlcjpwYXNz" not in request.head
            inner.respond(b"hello")

    with ScriptedServer(script) as server:
        proxy = f"http://user:pass@{server.host}:{server.port}"
        with HTTPConnection(origin, ssl_context=client_context, proxy=proxy) as conn:
            conn.send_request("GET", "/private")
            conn.read_response()
            assert conn.readall() == b"hello"


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "302 Found", "502 "])
def test_a_refused_tunnel_says_why(status: str) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.respond(b"explanation", status=status)
        peer.until_eof()  # the socket is closed, or this would time out

    with ScriptedServer(script) as server:
        context = ssl.create_default_context()
        conn = HTTPConnection("origin.test", ssl_context=context, proxy=server.address)
        with pytest.raises(ProxyError) as caught:
            conn.send_request("GET", "/")
        assert f"{caught.value.status} {caught.value.reason}" == status
        said = f"the proxy {server.host}:{server.port} refused the tunnel: {status}"
        assert str(caught.value) == said.rstrip()
        assert not conn.response_pending()


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nsmuggled", InvalidResponse),
        (b"SSH-2.0-OpenSSH\r\n", InvalidResponse),
        (b"HTTP/1.1 abc OK\r\n\r\n", InvalidResponse),
        (b"HTTP/1.1 200 OK\r\nbro\rken\r\n\r\n", InvalidResponse),
        (b"HTTP/1.1 200 OK\r\n", ConnectionClosed),
        (b"", ConnectionClosed),
    ],
)
def test_nonsense_from_a_proxy_is_no_tunnel(response: bytes, error: type[Exception]) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(response)
        peer.cut()
        peer.until_eof()

    with ScriptedServer(script) as server:
        context = ssl.create_default_context()
        conn = HTTPConnection("origin.test", ssl_context=context, proxy=server.address)
        with pytest.raises(error):
            conn.connect()


def test_a_proxy_that_sends_only_interim_responses_is_given_up() -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 1000)
        peer.until_eof()

    with ScriptedServer(script) as server:
        context = ssl.create_default_context()
        conn = HTTPConnection("origin.test", ssl_context=context, proxy=server.address)
        with pytest.raises(InvalidResponse):
            conn.connect()
