"""How a pool connects, and what it says if it cannot."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trustme

from dugong import (
    Client,
    ConnectError,
    ConnectionPool,
    ConnectionTimedOut,
    Delivery,
    DNSUnavailable,
    DugongError,
    HostnameNotResolvable,
    PollNeeded,
    ProxyError,
    RetryPolicy,
    TLSError,
    eval_coroutine,
    is_temp_network_error,
)
from dugong.connection import tls
from dugong.connection.polling import Coroutine
from dugong.connection.proxy import Proxy
from dugong.connection.tls import TlsSession, TlsTransport
from dugong.connection.transport import Transport
from dugong.errors import is_out_of_descriptors, is_tls_refusal
from dugong.pool import dialer as dialer_module
from dugong.pool.dialer import Dialer
from dugong.pool.url import Origin
from tests.support.names import FakeNames, no_descriptors, refusing, unresponsive
from tests.support.proxies import HttpProxy, UnixServer
from tests.support.server import TIMEOUT, Peer, ScriptedServer

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
    dialer = Dialer(context, timeout, connect_timeout)
    origin = Origin("http" if context is None else "https", host, port)
    return eval_coroutine(dialer(origin, None if proxy is None else Proxy(proxy)), 10)


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


def test_a_refused_address_is_a_connect_error_that_is_not_retried() -> None:
    asked = []

    def allow(ip: str, port: int) -> bool:
        asked.append(ip)
        return False

    with ScriptedServer() as server, ConnectionPool(allow_address=allow) as pool:
        with pytest.raises(ConnectError) as caught:
            pool.get(f"http://{server.host}:{server.port}/?secret")
        peer = f"{server.host}:{server.port}"
        assert str(caught.value) == (
            f"GET http://{peer}/: connecting to {peer} (allow_address refuses {server.host})"
        )
    assert caught.value.attempts == ()
    assert caught.value.delivery is Delivery.UNSENT
    assert asked == [server.host]
    assert server.connections == 0


def test_what_a_filter_raises_is_the_cause() -> None:
    def allow(ip: str, port: int) -> bool:
        raise LookupError("not in the table")

    with ConnectionPool(allow_address=allow) as pool, pytest.raises(ConnectError) as caught:
        pool.get("http://127.0.0.1/")
    assert isinstance(caught.value.__cause__, PermissionError)
    assert isinstance(caught.value.__cause__.__cause__, LookupError)
    assert not is_temp_network_error(caught.value)


def ends(host: str, port: int) -> list[str]:
    raise SystemExit


def gives_up(ip: str, port: int) -> bool:
    raise asyncio.CancelledError


class Ending(ssl.SSLContext):
    """Would end the task when it is used."""

    def wrap_bio(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise asyncio.CancelledError


class Failing(ssl.SSLContext):
    def wrap_bio(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError("no such key")


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"resolver": ends}, DNSUnavailable, "localhost"),
        ({"allow_address": gives_up}, ConnectError, "allow_address refuses 127"),
        ({"ssl_context": Ending(ssl.PROTOCOL_TLS_CLIENT)}, ConnectError, "CancelledError"),
        ({"ssl_context": Failing(ssl.PROTOCOL_TLS_CLIENT)}, ConnectError, "no such key"),
    ],
)
def test_what_code_of_the_caller_raises_fails_the_request(
    options: dict[str, Any], error: type[Exception], said: str
) -> None:
    scheme = "https" if "ssl_context" in options else "http"
    with (
        ScriptedServer(lambda peer: peer.until_eof(), repeat=True) as server,
        ConnectionPool(retry=None, **options) as pool,
    ):
        for _ in range(2):
            future = pool.submit("GET", f"{scheme}://localhost:{server.port}/")
            with pytest.raises(error, match=said):
                future.result(TIMEOUT)


def test_a_unix_socket_is_named_in_messages(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with (
        ConnectionPool(unix_socket=path, retry=None) as pool,
        pytest.raises(ConnectError, match=f"connecting to the socket {path} \\(No such file"),
    ):
        pool.get("http://origin.test/")


def test_tls_goes_over_a_unix_socket_by_the_name_in_the_url(
    tmp_path: Path, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    def script(peer: Peer) -> None:
        peer.respond(peer.request().headers["host"].encode())

    with (
        UnixServer(tmp_path / "socket", script, context=server_context),
        ConnectionPool(unix_socket=tmp_path / "socket", ssl_context=client_context) as pool,
    ):
        assert pool.get("https://localhost/").body == b"localhost"


def test_what_a_resolver_says_in_vain_is_tried_again() -> None:
    def resolver(host: str, port: int) -> list[str]:
        asked.append(host)
        if len(asked) == 1:
            raise RuntimeError("no server responds")
        return ["127.0.0.1"]

    asked: list[str] = []
    with (
        ScriptedServer(lambda peer: (peer.request(), peer.respond(b"here"))) as server,
        ConnectionPool(resolver=resolver, retry=RetryPolicy(backoff=0)) as pool,
    ):
        assert pool.get(f"http://origin.test:{server.port}/").body == b"here"
    assert asked == ["origin.test"] * 2


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


@pytest.mark.parametrize("make", [ConnectionPool, Client])
def test_a_zone_is_for_the_system_but_neither_for_host_nor_for_tls(
    make: Any, names: FakeNames, authority: trustme.CA, client_context: ssl.SSLContext
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("fe80::1").configure_cert(context)

    def script(peer: Peer) -> None:
        peer.respond(peer.request().headers["host"].encode())

    with (
        ScriptedServer(script, context=context) as server,
        make(ssl_context=client_context) as sender,
    ):
        names("fe80::1%lo", server.address)
        response = sender.get(f"https://[FE80::1%25lo]:{server.port}/")
        assert response.text == f"[fe80::1]:{server.port}"
    assert "fe80::1%lo" in names.asked


def test_a_dot_at_the_end_of_the_name_of_a_proxy_is_not_for_tls(
    names: FakeNames, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    script = HttpProxy(("127.0.0.1", 1))
    with ScriptedServer(script, context=server_context) as proxy:
        names("localhost.", proxy.address)
        with ConnectionPool(
            ssl_context=client_context, proxy=f"https://localhost.:{proxy.port}"
        ) as pool:
            assert pool.get("http://origin.test/").text == "http://origin.test/"
    assert "localhost." in names.asked


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
    assert Dialer(None, None).timeout is None


# --- the default context --------------------------------------------------------------------------


def test_ssl_is_imported_when_the_first_https_url_needs_it() -> None:
    program = (
        "import sys\n"
        "from dugong.pool.dialer import Dialer\n"
        "dialer = Dialer(None, None)\n"
        "assert 'ssl' not in sys.modules\n"
        "dialer.need_context()\n"
        "assert 'ssl' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_context_that_was_given_is_the_one_that_is_used(client_context: ssl.SSLContext) -> None:
    dialer = Dialer(client_context, None)
    dialer.need_context()
    with ScriptedServer(lambda peer: None) as server, pytest.raises(DugongError):
        eval_coroutine(dialer(Origin("https", *server.address)), 10)


def test_a_context_for_proxies_is_enough_for_http(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[ssl.SSLContext] = []
    monkeypatch.setattr(tls, "default_context", lambda: made.append(client_context))
    with (
        ScriptedServer(HttpProxy(("127.0.0.1", 1)), context=server_context) as proxy,
        ConnectionPool(
            proxy=f"https://localhost:{proxy.port}", proxy_ssl_context=client_context
        ) as pool,
    ):
        assert pool.get("http://origin.test/").text == "http://origin.test/"
    assert made == []


# --- a TLS session is resumed ---------------------------------------------------------------------


def contexts(authority: trustme.CA) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the context of a server, and one of a client that trusts it."""
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "127.0.0.2").configure_cert(theirs)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)
    return theirs, ours


def send_one_byte(peer: Peer) -> None:
    peer.send(b"x")
    peer.until_eof()


def connect(dialer: Dialer, server: ScriptedServer) -> TlsTransport:
    transport = eval_coroutine(dialer(Origin("https", server.host, server.port)), 10)
    assert isinstance(transport, TlsTransport)
    return transport


def receive(transport: TlsTransport) -> None:
    """Receive a byte, and what comes before it, such as a session ticket; close."""
    while isinstance(got := transport.recv_into(memoryview(bytearray(1))), PollNeeded):
        got.block(10)
    transport.close()


def is_resumed(dialer: Dialer, server: ScriptedServer) -> bool:
    """Connect to *server*, receive what it sends, and return whether a session was resumed."""
    transport = connect(dialer, server)
    resumed = transport.ssl_object.session_reused
    receive(transport)
    return bool(resumed)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_next_connection_to_a_host_resumes_the_session(
    authority: trustme.CA, version: ssl.TLSVersion
) -> None:
    theirs, ours = contexts(authority)
    ours.minimum_version = ours.maximum_version = version
    with ScriptedServer(send_one_byte, repeat=True, context=theirs) as server:
        dialer = Dialer(ours, 10)
        assert [is_resumed(dialer, server) for _ in range(3)] == [False, True, True]


def test_no_other_host_is_asked_to_resume_it(authority: trustme.CA) -> None:
    theirs, ours = contexts(authority)
    with (
        ScriptedServer(send_one_byte, context=theirs) as one,
        ScriptedServer(send_one_byte, context=theirs) as other,
    ):
        dialer = Dialer(ours, 10)
        assert [is_resumed(dialer, server) for server in (one, other)] == [False, False]


def test_a_session_is_not_resumed_once_servers_are_verified_in_another_way(
    authority: trustme.CA,
) -> None:
    theirs, ours = contexts(authority)
    ours.check_hostname = False
    ours.verify_mode = ssl.CERT_NONE
    with ScriptedServer(send_one_byte, repeat=True, context=theirs) as server:
        dialer = Dialer(ours, 10)
        assert [is_resumed(dialer, server) for _ in range(2)] == [False, True]
        ours.verify_mode = ssl.CERT_REQUIRED
        assert not is_resumed(dialer, server)


def test_the_verification_that_counts_is_that_of_the_handshake(authority: trustme.CA) -> None:
    theirs, ours = contexts(authority)
    ours.check_hostname = False
    ours.verify_mode = ssl.CERT_NONE
    with ScriptedServer(send_one_byte, repeat=True, context=theirs) as server:
        dialer = Dialer(ours, 10)
        transport = connect(dialer, server)
        ours.verify_mode = ssl.CERT_REQUIRED
        receive(transport)
        assert not is_resumed(dialer, server)


def test_a_context_of_another_make_is_not_asked_to_resume(authority: trustme.CA) -> None:
    class Own(ssl.SSLContext):
        """It might look at the certificate of each connection."""

    theirs, _ = contexts(authority)
    ours = Own(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(ours)
    with ScriptedServer(send_one_byte, repeat=True, context=theirs) as server:
        dialer = Dialer(ours, 10)
        assert [is_resumed(dialer, server) for _ in range(2)] == [False, False]


@pytest.mark.parametrize("fails_once", [True, False])
def test_a_handshake_that_fails_when_a_session_is_resumed_is_made_without(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, fails_once: bool
) -> None:
    theirs, ours = contexts(authority)
    start, calls = tls.co_start_tls, []

    def co_start_tls(
        sock: socket.socket, context: ssl.SSLContext, hostname: str, session: TlsSession
    ) -> Coroutine[TlsTransport]:
        resumed = session.get(tls._verification(context)) is not None
        calls.append(resumed)
        if len(calls) > 1 and (resumed or not fails_once):
            sock.close()
            raise ssl.SSLError("no")
        return (yield from start(sock, context, hostname, session))

    monkeypatch.setattr(tls, "co_start_tls", co_start_tls)
    with ScriptedServer(send_one_byte, repeat=True, context=theirs) as server:
        dialer = Dialer(ours, 10)
        assert not is_resumed(dialer, server)
        if fails_once:
            assert not is_resumed(dialer, server)
        else:
            with pytest.raises(TLSError):
                is_resumed(dialer, server)
    assert calls == [False, True, False]


def test_only_so_many_sessions_are_kept(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialer_module, "_MAX_SESSIONS", 1)
    theirs, ours = contexts(authority)
    with (
        ScriptedServer(send_one_byte, repeat=True, context=theirs) as one,
        ScriptedServer(send_one_byte, repeat=True, context=theirs) as other,
    ):
        dialer = Dialer(ours, 10)
        asked = [one, one, other, one]
        assert [is_resumed(dialer, server) for server in asked] == [False, True, False, False]
