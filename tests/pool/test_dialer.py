"""How a pool connects, and what it says if it cannot."""

from __future__ import annotations

import errno
import socket
import ssl
import subprocess
import sys

import pytest

from dugong import (
    ConnectError,
    ConnectionPool,
    ConnectionTimedOut,
    DugongError,
    HostnameNotResolvable,
    ProxyError,
    TLSError,
    eval_coroutine,
    is_temp_network_error,
)
from dugong.connection.proxy import Proxy
from dugong.connection.transport import Transport
from dugong.errors import is_out_of_descriptors, is_tls_refusal
from dugong.pool.dialer import Dialer
from dugong.pool.request import Origin
from tests.support.names import FakeNames, no_descriptors, refusing, unresponsive
from tests.support.server import Peer, ScriptedServer

SHORT = 0.05  # seconds, where running into the limit is what is tested


def dial(
    host: str,
    port: int,
    *,
    context: ssl.SSLContext | None = None,
    proxy: tuple[str, int] | str | None = None,
    timeout: float | None = 10,
    connect_timeout: float | None = None,
) -> Transport:
    """Connect as a pool does, with TLS if there is a *context*."""
    dialer = Dialer(None if proxy is None else Proxy(proxy), context, timeout, connect_timeout)
    origin = Origin("http" if context is None else "https", host, port)
    return eval_coroutine(dialer(origin), 10)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> FakeNames:
    """Makes a name resolve to some loopback addresses, or to an error; others stay as they are."""
    names = FakeNames()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    return names


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_refused_connection_is_a_dugong_error_with_its_number_and_address() -> None:
    with refusing() as (host, port), pytest.raises(ConnectError) as caught:
        dial(host, port)
    exc = caught.value
    assert exc.errno == errno.ECONNREFUSED
    assert str(exc) == f"connecting to {host}:{port} (Connection refused)"
    assert isinstance(exc.__cause__, ConnectionRefusedError)
    assert is_temp_network_error(exc)


def test_a_refused_proxy_is_said_to_be_the_proxy() -> None:
    with refusing() as (host, port), pytest.raises(ConnectError) as caught:
        dial("origin.test", 80, proxy=f"http://user:secret@{host}:{port}")
    assert str(caught.value) == f"connecting to the proxy {host}:{port} (Connection refused)"


def test_a_proxy_without_an_address_is_said_to_be_the_proxy(names: FakeNames) -> None:
    names("proxy.test", socket.gaierror(socket.EAI_NONAME, "no such name"))
    with pytest.raises(HostnameNotResolvable, match=r"proxy\.test \(the proxy\)$"):
        dial("origin.test", 80, proxy=("proxy.test", 3128))


def test_a_proxy_that_closes_is_said_to_be_the_proxy(client_context: ssl.SSLContext) -> None:
    with (
        ScriptedServer(lambda peer: (peer.head(), peer.cut())) as server,
        pytest.raises(DugongError, match=f"^the proxy {server.host}:{server.port}: connection clo"),
    ):
        dial("origin.test", 443, context=client_context, proxy=server.address)


def test_a_tunnel_that_is_refused_is_a_proxy_error(client_context: ssl.SSLContext) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.respond(status="407 No")

    with ScriptedServer(script) as server, pytest.raises(ProxyError, match="407 No"):
        dial("origin.test", 443, context=client_context, proxy=server.address)


def test_a_want_of_descriptors_can_be_told() -> None:
    with no_descriptors(), pytest.raises(ConnectError) as caught:
        dial("127.0.0.1", 1)
    assert is_out_of_descriptors(caught.value)


def test_a_certificate_that_is_refused_is_a_tls_error(server_context: ssl.SSLContext) -> None:
    with (
        ScriptedServer(lambda peer: None, context=server_context) as server,
        pytest.raises(TLSError, match=f"the certificate of {server.host}:{server.port}") as caught,
    ):
        dial(*server.address, context=ssl.create_default_context())
    assert "ssl_context=" in str(caught.value)
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
    assert is_tls_refusal(caught.value)


def test_a_name_that_tls_cannot_send_is_a_dugong_error(client_context: ssl.SSLContext) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        peer.until_eof()

    with ScriptedServer(script) as server, pytest.raises(ConnectError, match="connecting to"):
        dial("a" * 64 + ".test", 443, context=client_context, proxy=server.address)


# --- names ----------------------------------------------------------------------------------------


def test_a_name_without_addresses_is_told_at_once_without_asking_for_others(
    names: FakeNames,
) -> None:
    names("gone.test", socket.gaierror(socket.EAI_NONAME, "no such name"))
    with ConnectionPool() as pool, pytest.raises(HostnameNotResolvable) as caught:
        pool.get("http://gone.test/")
    assert caught.value.name == "gone.test"
    assert names.asked == ["gone.test"]


@pytest.mark.parametrize("tunnel", [False, True])
def test_a_dot_at_the_end_is_for_the_dns_and_host_but_not_for_tls(
    tunnel: bool,
    names: FakeNames,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
) -> None:
    def respond(peer: Peer) -> None:
        host = peer.request().headers["host"]
        peer.respond(host.encode())

    def script(peer: Peer) -> None:
        if tunnel:
            assert peer.head().target == f"localhost.:{server.port}"
            peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
            with server_context.wrap_socket(peer.sock, server_side=True) as tls:
                respond(Peer(tls))
        else:
            respond(peer)

    with ScriptedServer(script, context=None if tunnel else server_context) as server:
        names("localhost.", server.address)
        proxy = server.address if tunnel else None
        with ConnectionPool(ssl_context=client_context, proxy=proxy) as pool:
            url = f"https://localhost.:{server.port}/"
            assert pool.get(url).text == f"localhost.:{server.port}"
    assert ("localhost." in names.asked) is not tunnel


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timeout", "connect_timeout"), [(10, SHORT), (SHORT, 10), (None, SHORT), (SHORT, None)]
)
def test_the_shorter_limit_bounds_connecting(
    timeout: float | None, connect_timeout: float | None
) -> None:
    with unresponsive() as (host, port), pytest.raises(ConnectionTimedOut) as caught:
        dial(host, port, timeout=timeout, connect_timeout=connect_timeout)
    assert str(caught.value) == f"timed out after {SHORT:g} s while connecting to {host}:{port}"


def test_without_limits_there_is_none() -> None:
    assert Dialer(None, None, None).timeout is None


# --- the default context --------------------------------------------------------------------------


def test_ssl_is_imported_when_the_first_https_url_needs_it() -> None:
    program = (
        "import sys\n"
        "from dugong.pool.dialer import Dialer\n"
        "dialer = Dialer(None, None, None)\n"
        "assert 'ssl' not in sys.modules\n"
        "dialer.need_context()\n"
        "assert 'ssl' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_context_that_was_given_is_the_one_that_is_used(client_context: ssl.SSLContext) -> None:
    dialer = Dialer(None, client_context, None)
    dialer.need_context()
    with ScriptedServer(lambda peer: None) as server, pytest.raises(DugongError):
        eval_coroutine(dialer(Origin("https", *server.address)), 10)
