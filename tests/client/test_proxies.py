"""Which proxy leads where: mappings, the environment, NO_PROXY; and that credentials stay there."""

from __future__ import annotations

import ipaddress
import re
import ssl
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import example, given
from hypothesis import strategies as st

from dugong import Client, ConnectError, ProxyError
from dugong.client.proxies import NoProxy, ProxyMap, environment_proxies
from dugong.pool.url import Origin
from tests.support.client import Page, moved, open_places
from tests.support.proxies import HttpProxy, SocksProxy, UnixServer
from tests.support.server import Peer, ScriptedServer

HTTP = Origin("http", "origin.test", 80)
HTTPS = Origin("https", "origin.test", 443)


# --- mappings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mapping", "http", "https"),
    [
        ({}, None, None),
        ({"http": "http://a"}, "http://a", None),
        ({"HTTPS": "http://a"}, None, "http://a"),
        ({"all": ("a", 80)}, ("a", 80), ("a", 80)),
        ({"all": "http://a", "http": None}, None, "http://a"),
        ({"all": "http://a", "all://origin.test": "http://b"}, "http://b", "http://b"),
        ({"http": "http://a", "all://origin.test": "http://b"}, "http://a", "http://b"),
        ({"http": "http://a", "http://Origin.Test": "http://b"}, "http://b", None),
        ({"http": "http://a", "http://other.test": "http://b"}, "http://a", None),
        ({"all": "http://a", "https://origin.test": None}, "http://a", None),
    ],
)
def test_the_first_key_that_fits_says_which_proxy(
    mapping: dict[str, Any], http: object, https: object
) -> None:
    proxies = ProxyMap(mapping)
    assert (proxies(HTTP), proxies(HTTPS)) == (http, https)


def test_the_host_of_a_key_may_be_an_address_or_an_idna_name() -> None:
    u_umlaut = "\N{LATIN SMALL LETTER U WITH DIAERESIS}"
    proxies = ProxyMap({"all://[::1]": "http://a", f"all://b{u_umlaut}cher.test": "http://b"})
    assert proxies(Origin("http", "::1", 81)) == "http://a"
    assert proxies(Origin("http", "xn--bcher-kva.test", 80)) == "http://b"


@pytest.mark.parametrize(
    ("mapping", "error"),
    [
        ({"ftp": "http://a"}, ValueError),
        ({"": "http://a"}, ValueError),
        ({"origin.test": "http://a"}, ValueError),
        ({"http://": "http://a"}, ValueError),
        ({"http://origin.test:81": "http://a"}, ValueError),
        ({"http://origin.test:80": "http://a"}, ValueError),
        ({"http://origin.test/": "http://a"}, ValueError),
        ({"http://user:secret@origin.test": "http://a"}, ValueError),
        ({5: "http://a"}, TypeError),
        ({"http": "user:secret@a"}, ValueError),
        ({"http": "ftp://user:secret@a"}, ValueError),
        ({"http": 5}, TypeError),
        ({"http": ["a", "80"]}, TypeError),
    ],
)
def test_a_mapping_that_makes_no_sense_is_refused_without_telling_a_password(
    mapping: Any, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        Client(proxy=mapping)
    assert "secret" not in str(caught.value)


def test_no_repr_tells_a_password() -> None:
    assert "secret" not in repr(ProxyMap({"all": "http://user:secret@proxy.test"}))


# --- the environment ------------------------------------------------------------------------------


def env(monkeypatch: pytest.MonkeyPatch, **variables: str) -> tuple[object, object]:
    """Return the proxies for http and https that *variables* name."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    proxies = environment_proxies()
    return (None, None) if proxies is None else (proxies(HTTP), proxies(HTTPS))


@pytest.mark.parametrize(
    ("variables", "http", "https"),
    [
        ({}, None, None),
        ({"HTTP_PROXY": "http://a"}, "http://a", None),
        ({"HTTPS_PROXY": "http://a"}, None, "http://a"),
        ({"ALL_PROXY": "socks5://a"}, "socks5://a", "socks5://a"),
        ({"http_proxy": "http://a", "HTTP_PROXY": "http://b"}, "http://a", None),
        ({"https_proxy": "http://a", "ALL_PROXY": "http://b"}, "http://b", "http://a"),
        ({"HTTP_PROXY": "proxy.test:3128"}, "http://proxy.test:3128", None),
        ({"HTTP_PROXY": "user:pass@proxy.test"}, "http://user:pass@proxy.test", None),
        ({"HTTP_PROXY": " http://a\n"}, "http://a", None),
        ({"HTTP_PROXY": "", "ALL_PROXY": "http://a"}, None, "http://a"),
        ({"http_proxy": "", "HTTP_PROXY": "http://a"}, None, None),
        ({"ALL_PROXY": "http://a", "NO_PROXY": "*"}, None, None),
        ({"ALL_PROXY": "http://a", "no_proxy": "origin.test:80"}, None, "http://a"),
        ({"ALL_PROXY": "http://a", "no_proxy": "", "NO_PROXY": "*"}, "http://a", "http://a"),
        ({"NO_PROXY": "origin.test"}, None, None),
    ],
)
def test_the_environment_names_proxies(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], http: object, https: object
) -> None:
    assert env(monkeypatch, **variables) == (http, https)


def test_in_cgi_http_proxy_is_the_field_of_a_request_and_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REQUEST_METHOD", "GET")
    assert env(monkeypatch, HTTP_PROXY="http://evil.test") == (None, None)
    assert env(monkeypatch, HTTPS_PROXY="http://a") == (None, "http://a")
    assert env(monkeypatch, http_proxy="http://b") == ("http://b", "http://a")


def test_a_variable_that_makes_no_sense_is_named_without_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "ftp://user:secret@proxy.test")
    with pytest.raises(ValueError, match=r"^the environment variable HTTPS_PROXY: ") as caught:
        Client()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"trust_env": False}, {"proxy": {}}, {"proxy": lambda origin: None}],
    ids=["untrusted", "mapping", "callable"],
)
def test_the_environment_is_asked_only_if_it_is_trusted_and_nothing_is_given(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with open_places({}, **options) as (client, [here]):
        assert client.get(here.url("/page")).text == "/page"


@pytest.mark.parametrize("proxy", [{}, {"all": None}])
def test_a_mapping_without_a_proxy_is_no_proxy_for_a_unix_socket(
    proxy: dict[str, None], tmp_path: Path
) -> None:
    def script(peer: Peer) -> None:
        peer.respond(peer.request().headers["host"].encode())

    path = tmp_path / "socket"
    with UnixServer(path, script), Client(unix_socket=path, proxy=proxy) as client:
        assert client.get("http://origin.test/").text == "origin.test"


def test_a_unix_socket_is_not_behind_a_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")

    def script(peer: Peer) -> None:
        peer.respond(peer.request().headers["host"].encode())

    path = tmp_path / "socket"
    with UnixServer(path, script), Client(unix_socket=path) as client:
        assert client.get("http://origin.test/").text == "origin.test"


def test_the_environment_is_read_when_the_client_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(HttpProxy(("127.0.0.1", 1)), repeat=True) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.host}:{proxy.port}")
        with Client() as client:
            monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
            assert client.get("http://one.test/").text == "http://one.test/"
            assert client.get("http://other.test/").text == "http://other.test/"


def test_the_environment_is_not_for_a_pool_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "nonsense://")
    with open_places({}) as (other, _), Client(pool=other._pool):
        pass
    with open_places({}) as (other, _), pytest.raises(TypeError, match="give the options"):
        Client(pool=other._pool, proxy={"http": "http://a"})


# --- NO_PROXY -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "origin", "expected"),
    [
        ("", HTTP, False),
        ("*", HTTP, True),
        ("a.test, *", HTTP, True),
        ("origin.test", HTTP, True),
        (".origin.test", HTTP, True),
        ("*.origin.test", HTTP, True),
        ("ORIGIN.test.", HTTP, True),
        ("test", HTTP, True),
        ("gin.test", HTTP, False),
        ("www.origin.test", HTTP, False),
        ("a.test\n\torigin.test", HTTP, True),
        ("origin.test:80", HTTP, True),
        ("origin.test:443", HTTP, False),
        ("origin.test:443", HTTPS, True),
        (".test:80", HTTP, True),
        ("origin.test:x", HTTP, False),
        ("http://origin.test", HTTP, False),
        ("origin.test", Origin("http", "origin.test.", 80), True),
        ("origin.test", Origin("http", "a.b.origin.test", 80), True),
        ("xn--bcher-kva.test", Origin("http", "xn--bcher-kva.test", 80), True),
        ("b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.test", HTTP, False),
        ("10.0.0.1", Origin("http", "10.0.0.1", 80), True),
        ("10.0.0.1:81", Origin("http", "10.0.0.1", 80), False),
        ("10.0.0.1:81", Origin("http", "10.0.0.1", 81), True),
        ("0.0.1", Origin("http", "10.0.0.1", 80), False),
        ("10.0.0.0/8", Origin("http", "10.200.0.1", 80), True),
        ("10.9.9.9/8", Origin("http", "10.200.0.1", 80), True),
        ("10.0.0.0/8:81", Origin("http", "10.200.0.1", 80), False),
        ("10.0.0.0/8", Origin("http", "11.0.0.1", 80), False),
        ("10.0.0.0/33", Origin("http", "10.0.0.1", 80), False),
        ("10.0.0.0/8", HTTP, False),
        ("0.0.0.0/0", Origin("http", "::1", 80), False),
        ("::1", Origin("http", "::1", 80), True),
        ("[::1]", Origin("http", "::1", 80), True),
        ("[::1]:81", Origin("http", "::1", 80), False),
        ("[::1]:80", Origin("http", "::1", 80), True),
        ("0:0:0:0:0:0:0:1", Origin("http", "::1", 80), True),
        ("2001:db8::/32", Origin("http", "2001:db8:7::1", 80), True),
        ("2001:db8::/32", Origin("http", "2001:db9::1", 80), False),
        (",, ,.,*.,:80,[]:80,[", HTTP, False),
    ],
)
def test_no_proxy_says_where_none_leads(text: str, origin: Origin, expected: bool) -> None:
    assert NoProxy(text)(origin) is expected


def no_proxy_by_the_book(text: str, origin: Origin) -> bool:
    """The same as `NoProxy`, entry by entry, without a thought of speed."""
    for entry in re.sub(r"\s", ",", text).split(","):
        host, port = entry, str(origin.port)
        if "]:" in entry or entry.count(":") == 1:
            host, _, port = entry.rpartition(":")
        if entry == "*":
            return True
        if port != str(origin.port):
            continue
        if host.startswith("["):
            host = host[1:-1]
        try:
            if ipaddress.ip_address(origin.host) in ipaddress.ip_network(host, strict=False):
                return True
        except ValueError:
            if re.fullmatch(r"[0-9.]+|.*:.*", origin.host):
                continue  # an address is below no name
            name = host.removeprefix("*").removeprefix(".").lower()
            if name and f".{origin.host}".endswith(f".{name}"):
                return True
    return False


_names = st.sampled_from(["a", "b.a", "c.b.a", "a.b", "cb.a"])
_addresses = st.sampled_from(["10.1.2.3", "10.1.2.4", "10.9.9.9", "::1", "2001:db8::1"])
_networks = st.sampled_from(["10.1.2.0/24", "10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0", "::/0"])
_ports = st.sampled_from([80, 443])


@st.composite
def entries(draw: st.DrawFn) -> str:
    """An entry of NO_PROXY."""
    kind = draw(st.sampled_from(["name", "address", "network", "all", "empty"]))
    if kind in ("all", "empty"):
        return {"all": "*", "empty": ""}[kind]
    if kind == "name":
        host = draw(st.sampled_from(["", ".", "*."])) + draw(_names)
        host = draw(st.sampled_from([host, host.upper()]))
    else:
        host = draw(_addresses if kind == "address" else _networks)
    if not draw(st.booleans()):
        return host
    return f"[{host}]:{draw(_ports)}" if ":" in host else f"{host}:{draw(_ports)}"


@given(
    st.lists(entries(), max_size=4),
    st.sampled_from([",", ", ", " ", "\n"]),
    st.builds(Origin, st.just("http"), _names | _addresses, _ports),
)
@example(["10.0.0.0/8:80"], ",", Origin("http", "10.1.2.3", 80))
def test_no_proxy_is_what_a_slow_reading_of_it_says(
    listed: list[str], separator: str, origin: Origin
) -> None:
    text = separator.join(listed)
    assert NoProxy(text)(origin) is no_proxy_by_the_book(text, origin)


@given(st.text(max_size=40), st.builds(Origin, st.just("http"), _names | _addresses, _ports))
def test_no_text_of_no_proxy_is_an_error(text: str, origin: Origin) -> None:
    assert NoProxy(text)(origin) in (True, False)


@pytest.mark.parametrize("key", ["all://origin.test", "all://origin.test."])
@pytest.mark.parametrize("host", ["origin.test", "origin.test."])
def test_a_dot_at_the_end_of_a_name_makes_it_no_other_host(key: str, host: str) -> None:
    proxies = ProxyMap({"all": ("proxy.test", 3128), key: None})
    assert proxies(Origin("http", host, 80)) is None
    assert proxies(Origin("http", f"other.{host}", 80)) is not None


# --- all together ---------------------------------------------------------------------------------


def serve(peer: Peer) -> None:
    """Respond with the target, once it has been seen that no field is the proxy's."""
    request = peer.request()
    assert not {"proxy-authorization", "x-tenant"} & set(request.headers)
    assert b"c2VjcmV0" not in request.head
    peer.respond(request.target.encode())


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("target", ["http", "https"])
def test_http_and_https_go_through_http_and_https_proxies(
    scheme: str,
    target: str,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
) -> None:
    context = server_context if scheme == "https" else None
    with ExitStack() as stack:
        server = stack.enter_context(ScriptedServer(serve, context=server_context))
        script = HttpProxy(server.address)
        proxy = stack.enter_context(ScriptedServer(script, context=context))
        options: dict[str, Any] = {
            "proxy": {"all": f"{scheme}://secret:secret@localhost:{proxy.port}"},
            "proxy_headers": {"X-Tenant": "7"},
            "ssl_context": client_context,
        }
        with Client(**options) as client:
            text = client.get(f"{target}://localhost/page?q").text
    assert text == ("/page?q" if target == "https" else "http://localhost/page?q")
    (request,) = script.requests
    assert request.method == ("CONNECT" if target == "https" else "GET")
    assert request.headers["x-tenant"] == "7"
    assert request.headers["proxy-authorization"] == "Basic c2VjcmV0OnNlY3JldA=="


@pytest.mark.parametrize("scheme", ["socks4", "socks4a", "socks5", "socks5h"])
@pytest.mark.parametrize("target", ["http", "https"])
def test_http_and_https_go_through_socks_in_origin_form(
    scheme: str, target: str, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    context = server_context if target == "https" else None
    with ScriptedServer(serve, context=context) as server:
        script = SocksProxy(server.address)
        with ScriptedServer(script) as proxy:
            options: dict[str, Any] = {
                "proxy": f"{scheme}://secret@{proxy.host}:{proxy.port}",
                "proxy_headers": {"X-Tenant": "7"},
                "ssl_context": client_context,
                "resolver": lambda host, port: ["127.0.0.8"],
            }
            # The proxy is an address, so only the name is resolved here.
            with Client(**options) as client:
                assert client.get(f"{target}://localhost:81/page").text == "/page"
    assert script.asked == [("localhost" if scheme[-1] in "ah" else "127.0.0.8", 81)]


def test_a_redirect_from_behind_a_proxy_does_not_take_its_fields_along() -> None:
    with open_places({}) as (_, [elsewhere]):

        def proxy(request: Any) -> Page:
            assert request.headers["proxy-authorization"] == "Basic c2VjcmV0OnNlY3JldA=="
            return moved(elsewhere.url("/page"))

        with open_places(proxy) as (_, [place]):
            options: dict[str, Any] = {
                "proxy": {"http://origin.test": place.url("").replace("//", "//secret:secret@")},
                "proxy_headers": {"X-Tenant": "7"},
            }
            with Client(**options) as client:
                assert client.get("http://origin.test/").text == "/page"
    (request,) = elsewhere.requests
    assert not {"proxy-authorization", "x-tenant"} & set(request.headers)


@pytest.mark.parametrize("way", ["cert", "none", "proxy_ssl_context", "both", "ssl_context"])
def test_a_certificate_for_servers_is_not_shown_to_a_proxy(
    way: str, authority: trustme.CA, client_context: ssl.SSLContext, tmp_path: Path
) -> None:
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(asking)
    authority.configure_trust(asking)
    asking.verify_mode = ssl.CERT_OPTIONAL
    issued = authority.issue_cert("client@example.test")
    cert, ca = str(tmp_path / "cert.pem"), str(tmp_path / "ca.pem")
    issued.private_key_and_cert_chain_pem.write_to_path(cert)
    authority.cert_pem.write_to_path(ca)
    with_cert = ssl.create_default_context(cafile=ca)
    issued.configure_cert(with_cert)
    options: dict[str, Any] = {
        "cert": {"verify": ca, "cert": cert},
        "none": {"verify": ca, "cert": cert, "proxy_ssl_context": None},
        "proxy_ssl_context": {"ssl_context": with_cert, "proxy_ssl_context": client_context},
        "both": {"verify": ca, "cert": cert, "proxy_ssl_context": with_cert},
        "ssl_context": {"ssl_context": with_cert},
    }[way]
    shown: dict[str, bool] = {}

    def serve_and_note(peer: Peer) -> None:
        shown["server"] = bool(peer.sock.getpeercert())  # type: ignore[attr-defined]  # it is an SSLSocket
        serve(peer)

    def pass_on(peer: Peer) -> None:
        shown["proxy"] = bool(peer.sock.getpeercert())  # type: ignore[attr-defined]  # it is an SSLSocket
        HttpProxy(server.address)(peer)

    with (
        ScriptedServer(serve_and_note, context=asking) as server,
        ScriptedServer(pass_on, context=asking) as proxy,
        Client(proxy=f"https://localhost:{proxy.port}", **options) as client,
    ):
        assert client.get("https://localhost/page").text == "/page"
    assert shown == {"proxy": way in ("both", "ssl_context"), "server": True}


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_no_failure_of_a_proxy_tells_its_password(
    scheme: str, client_context: ssl.SSLContext
) -> None:
    def refuse(peer: Peer) -> None:
        if scheme == "http":
            peer.head()
            peer.respond(status="407 Proxy Authentication Required")
        else:
            SocksProxy(("127.0.0.1", 1), (b"user", b"other"))(peer)

    with ScriptedServer(refuse) as server:
        proxy = f"{scheme}://user:secret@{server.host}:{server.port}"
        with (
            Client(proxy=proxy, ssl_context=client_context) as client,
            pytest.raises(
                ProxyError, match=f"the proxy {server.host}:{server.port} refused the tunnel"
            ) as caught,
        ):
            client.get("https://origin.test/")
    error: BaseException | None = caught.value
    while error is not None:
        assert "secret" not in repr(error) + str(error)
        error = error.__cause__ or error.__context__
    with Client(proxy=f"{scheme}://user:secret@127.0.0.1:1", retry=None) as client:
        with pytest.raises(ConnectError) as refused:
            client.get("http://origin.test/")
        assert "secret" not in f"{refused.value} {client!r} {client.statistics()}"


def test_a_crawler_refuses_private_networks_whatever_a_name_or_a_redirect_says() -> None:
    dialled: list[str] = []

    def allow(ip: str, port: int) -> bool:
        dialled.append(ip)
        return ip == place.server.host and port == place.server.port

    pages = {"/": moved("http://169.254.169.254/latest"), "/name": moved("http://inner.test/")}
    with open_places(pages) as (_, [place]):
        options: dict[str, Any] = {"resolver": lambda host, port: ["10.0.0.1"]}
        with Client(trust_env=False, allow_address=allow, **options) as client:
            for path in ("/", "/name"):
                with pytest.raises(ConnectError, match="allow_address refuses"):
                    client.get(place.url(path))
    assert dialled == [place.server.host, "169.254.169.254", "10.0.0.1"]
