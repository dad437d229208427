"""SOCKS: what the proxy is told, what its replies mean, and that nothing else is received."""

from __future__ import annotations

import socket
import ssl
from base64 import b64encode

import pytest

from dugong import (
    ConnectionClosed,
    HTTPConnection,
    InvalidResponse,
    ProxyError,
    eval_coroutine,
    is_temp_network_error,
)
from dugong.connection.proxy import Proxy
from dugong.connection.socks import co_socks
from dugong.connection.transport import PlainTransport
from tests.support.names import FakeNames
from tests.support.proxies import SocksProxy
from tests.support.server import Peer, ScriptedServer

CREDENTIALS = (b"us:er", b"p@ss")


def respond(peer: Peer) -> None:
    request = peer.request()
    assert "proxy-authorization" not in request.headers
    assert b64encode(b":".join(CREDENTIALS)) not in request.head
    peer.respond(f"{request.target} of {request.headers['host']}".encode())


def get(conn: HTTPConnection) -> bytes:
    with conn:
        conn.send_request("GET", "/page")
        conn.read_response()
        return conn.readall()


def ask(proxy: str, *replies: bytes, host: str = "origin.test", port: int = 80) -> bytes:
    """Have *proxy* reply with *replies*; return what it was sent."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(b"".join(replies))
        theirs.shutdown(socket.SHUT_WR)
        transport = PlainTransport(ours)
        try:
            eval_coroutine(co_socks(transport, host, port, Proxy(proxy)), 10)
        finally:
            transport.close()
        return theirs.recv(65536)


# --- what the proxy is told -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "host", "asked"),
    [
        ("socks4", "origin.test", "127.9.9.9"),
        ("socks4a", "origin.test", "origin.test"),
        ("socks5", "origin.test", "127.9.9.9"),
        ("socks5h", "origin.test", "origin.test"),
        ("socks4a", "127.0.0.8", "127.0.0.8"),
        ("socks5h", "127.0.0.8", "127.0.0.8"),
        ("socks5", "::8", "::8"),
        ("socks5h", "::8", "::8"),
        ("socks5h", "b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.test", "xn--bcher-kva.test"),
    ],
)
def test_a_name_is_resolved_here_or_there_as_the_scheme_says(
    scheme: str, host: str, asked: str, names: FakeNames
) -> None:
    names("origin.test", ("127.9.9.9", 80))
    with ScriptedServer(respond) as server:
        script = SocksProxy(server.address)
        with ScriptedServer(script) as proxy:
            url = f"{scheme}://{proxy.host}:{proxy.port}"
            body = get(HTTPConnection(host, 81, proxy=url))
    assert script.asked == [(asked, 81)]
    assert body.startswith(b"/page of ")
    assert ("origin.test" in names.asked) is (asked == "127.9.9.9")


def test_of_several_addresses_a_proxy_is_told_one_of_ipv4(names: FakeNames) -> None:
    names("origin.test", ("::9", 80), ("127.9.9.9", 80))
    with ScriptedServer(respond) as server:
        script = SocksProxy(server.address)
        with ScriptedServer(script) as proxy:
            get(HTTPConnection("origin.test", proxy=f"socks5://{proxy.host}:{proxy.port}"))
    assert script.asked == [("127.9.9.9", 80)]


@pytest.mark.parametrize("scheme", ["socks4a", "socks5h"])
def test_tls_is_with_the_server_behind_the_proxy(
    scheme: str, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with ScriptedServer(respond, context=server_context) as server:
        script = SocksProxy(server.address)
        with ScriptedServer(script) as proxy:
            url = f"{scheme}://{proxy.host}:{proxy.port}"
            conn = HTTPConnection("localhost", ssl_context=client_context, proxy=url)
            assert get(conn) == b"/page of localhost"
    assert script.asked == [("localhost", 443)]


def test_credentials_are_for_the_proxy_that_asks_for_them() -> None:
    with ScriptedServer(respond) as server:
        script = SocksProxy(server.address, credentials=CREDENTIALS)
        with ScriptedServer(script) as proxy:
            url = f"socks5h://us%3Aer:p%40ss@{proxy.host}:{proxy.port}"
            get(HTTPConnection("origin.test", proxy=url))
    assert script.users == [CREDENTIALS]


def test_a_proxy_that_does_not_ask_is_not_told_the_credentials() -> None:
    sent = ask("socks5://user:secret@proxy.test", b"\5\0", b"\5\0\0\1" + bytes(6))
    assert sent == b"\5\2\0\2" + b"\5\1\0\3\x0borigin.test\0\x50"


def test_socks4_has_a_user_name_alone() -> None:
    sent = ask("socks4a://user@proxy.test", b"\0\x5a" + bytes(6))
    assert sent == b"\4\1\0\x50\0\0\0\1user\0origin.test\0"


def test_socks4_reaches_no_ipv6_address() -> None:
    with pytest.raises(OSError, match="SOCKS4 reaches no IPv6 address"):
        ask("socks4://proxy.test", host="::1")


@pytest.mark.parametrize("scheme", ["socks4", "socks4a"])
@pytest.mark.parametrize("host", ["0.0.0.1", "0.0.0.255"])
def test_socks4_reaches_no_address_that_stands_for_a_name(scheme: str, host: str) -> None:
    with pytest.raises(OSError, match=f"SOCKS4 does not reach {host}"):
        ask(f"{scheme}://proxy.test", host=host)


def test_a_name_that_is_too_long_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(ValueError, match="too long"):
        ask("socks5h://proxy.test", host="a" * 256)


# --- what the proxy replies -----------------------------------------------------------------------


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize(
    ("proxy", "replies"),
    [
        ("socks4://proxy.test", [b"\0\x5a" + bytes(6)]),
        ("socks4://proxy.test", [b"\4\x5a" + bytes(6)]),
        ("socks5://proxy.test", [b"\5\0", b"\5\0\0\1" + bytes(6)]),
        ("socks5://proxy.test", [b"\5\0", b"\5\0\0\4" + bytes(18)]),
        ("socks5://proxy.test", [b"\5\0", b"\5\0\0\3\0" + bytes(2)]),
        ("socks5://proxy.test", [b"\5\0", b"\5\0\0\3\xff" + bytes(257)]),
        ("socks5://a:b@proxy.test", [b"\5\2", b"\1\0", b"\5\0\0\1" + bytes(6)]),
    ],
)
def test_what_comes_behind_the_reply_is_the_servers(
    proxy: str, replies: list[bytes], bytewise: bool
) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        transport = PlainTransport(ours)
        data = b"".join(replies) + b"HTTP/1.1 "
        crt = co_socks(transport, "127.0.0.1", 80, Proxy(proxy))
        if bytewise:
            sent = 0
            for _ in crt:
                theirs.sendall(data[sent : sent + 1])
                sent += 1
            theirs.sendall(data[sent:])
        else:
            theirs.sendall(data)
            eval_coroutine(crt, 10)
        assert ours.recv(100) == b"HTTP/1.1 "
        transport.close()


@pytest.mark.parametrize(
    ("proxy", "replies", "status", "reason", "is_temporary"),
    [
        ("socks4", [b"\0\x5b" + bytes(6)], 91, "request rejected or failed", True),
        ("socks4", [b"\0\x5d" + bytes(6)], 93, "the user name is not that of identd", False),
        ("socks5", [b"\5\xff"], 255, "it wants credentials", False),
        ("socks5", [b"\5\0\5\1"], 1, "general failure", True),
        ("socks5", [b"\5\0\5\2"], 2, "not allowed by its rules", False),
        ("socks5", [b"\5\0\5\5\0\1" + bytes(6)], 5, "connection refused", True),
        ("socks5", [b"\5\0\5\x63"], 99, "no reason that RFC 1928 knows", False),
    ],
)
def test_a_refusal_says_why(
    proxy: str, replies: list[bytes], status: int, reason: str, is_temporary: bool
) -> None:
    with pytest.raises(ProxyError) as caught:
        ask(f"{proxy}://proxy.test", *replies, host="127.0.0.1")
    assert (caught.value.status, caught.value.reason) == (status, reason)
    assert str(caught.value) == f"the proxy refused the tunnel: {status} {reason}"
    assert is_temp_network_error(caught.value) is is_temporary


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        ([b"\5\xff"], "it does not take a password"),
        ([b"\5\2\1\1"], "the user name or the password is wrong"),
    ],
)
def test_refused_credentials_are_not_told(replies: list[bytes], reason: str) -> None:
    with pytest.raises(ProxyError, match=f"255 {reason}$") as caught:
        ask("socks5h://user:secret@proxy.test", *replies)
    assert not is_temp_network_error(caught.value)


@pytest.mark.parametrize(
    ("proxy", "replies", "error"),
    [
        ("socks4", b"HTTP/1.1 400 Bad Request\r\n\r\n", InvalidResponse),
        ("socks4", b"\0\x59" + bytes(6), InvalidResponse),
        ("socks5", b"HTTP/1.1 400 Bad Request\r\n\r\n", InvalidResponse),
        ("socks5", b"\5\2", InvalidResponse),  # which was not offered
        ("socks5", b"\5\1", InvalidResponse),
        ("socks5", b"\5\0\4\0", InvalidResponse),
        ("socks5", b"\5\0\5\0\0\2", InvalidResponse),
        ("socks5", b"\5\0\5\0\0\3\5nam", ConnectionClosed),
        ("socks5", b"\5", ConnectionClosed),
        ("socks4", b"", ConnectionClosed),
    ],
)
def test_nonsense_is_no_tunnel(proxy: str, replies: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        ask(f"{proxy}://proxy.test", replies, host="127.0.0.1")


def test_what_a_proxy_does_wrong_is_said_to_be_the_proxys() -> None:
    with ScriptedServer(lambda peer: (peer.exactly(3), peer.send(b"SSH-2.0"))) as server:
        conn = HTTPConnection("127.0.0.1", proxy=f"socks5://{server.host}:{server.port}")
        with pytest.raises(InvalidResponse, match=f"^the proxy {server.host}:{server.port}: the"):
            conn.connect()
