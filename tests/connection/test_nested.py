"""TLS in TLS: an https server behind an https proxy."""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
import trustme

from dugong import (
    ConnectionClosed,
    ConnectionTimedOut,
    HTTPConnection,
    PollNeeded,
    TLSError,
    eval_coroutine,
)
from dugong.connection.dial import co_dial
from dugong.connection.nested import NestedTlsTransport, ProxyTlsTransport
from dugong.connection.proxy import Proxy
from dugong.connection.tls import TlsTransport
from dugong.connection.transport import LARGE
from tests.support import proxies
from tests.support.proxies import HttpProxy
from tests.support.server import TIMEOUT, Peer, Script, ScriptedServer

BODY = Random(12).randbytes(3_000_000)


def url_of(server: ScriptedServer) -> str:
    return f"https://user:secret@localhost:{server.port}"


@contextmanager
def nested(
    script: Script, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> Iterator[TlsTransport]:
    """A transport to *script*, which speaks TLS, behind a proxy that speaks TLS."""
    with (
        ScriptedServer(script, context=server_context) as server,
        ScriptedServer(HttpProxy(server.address), context=server_context) as proxy,
    ):
        transport = eval_coroutine(
            co_dial(
                "localhost",
                443,
                client_context,
                Proxy(url_of(proxy)),
                TIMEOUT,
                proxy_context=client_context,
            ),
            TIMEOUT,
        )
        assert isinstance(transport, NestedTlsTransport)
        try:
            yield transport
        finally:
            transport.close()


def receive(transport: TlsTransport, size: int, step: int = LARGE) -> bytes:
    """Receive *size* bytes as a coroutine would: never blocking but where it is told to wait."""
    received = bytearray()
    view = memoryview(bytearray(step))
    while len(received) < size:
        got = transport.recv_into(view[: size - len(received)])
        if isinstance(got, PollNeeded):
            assert got.poll(TIMEOUT)
        else:
            assert got
            received += view[:got]
    return bytes(received)


def send(transport: TlsTransport, data: bytes) -> None:
    view = memoryview(data)
    while view:
        sent = transport.send(view)
        if isinstance(sent, PollNeeded):
            assert sent.poll(TIMEOUT)
        else:
            view = view[sent:]


def assert_not_quiet(transport: TlsTransport) -> None:
    """Fail if *transport* is quiet though nothing more comes from the socket."""
    while transport.is_quiet():
        assert PollNeeded(transport.sock.fileno(), select.POLLIN).poll(TIMEOUT)


def echo(size: int) -> Script:
    def script(peer: Peer) -> None:
        peer.send(peer.exactly(size))
        peer.until_eof()

    return script


@pytest.mark.parametrize("step", [1000, 16 * 1024, 100_001, LARGE, 4 * LARGE])
def test_large_bodies_pass_both_ways_at_once(
    step: int, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    def script(peer: Peer) -> None:
        for _ in range(0, len(BODY), 100_000):
            peer.send(peer.exactly(100_000))
        peer.until_eof()

    with nested(script, server_context, client_context) as transport:
        sender = threading.Thread(target=send, args=(transport, BODY))
        sender.start()
        assert receive(transport, len(BODY), step) == BODY
        sender.join()


@pytest.mark.parametrize("block_timeout", [0, TIMEOUT])
def test_small_messages_are_not_waited_for_when_they_have_come(
    block_timeout: float, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with nested(echo(50), server_context, client_context) as transport:
        transport.block_timeout = block_timeout
        send(transport, bytes(range(50)))
        for expected in range(50):  # in records of both layers that have come together
            assert receive(transport, 1) == bytes((expected,))


def test_a_connection_is_quiet_until_something_comes(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with nested(echo(5), server_context, client_context) as transport:
        send(transport, b"hello")
        assert receive(transport, 5) == b"hello"
        assert transport.is_quiet()

    def script(peer: Peer) -> None:
        peer.send(peer.exactly(5) + b"stray")
        peer.until_eof()

    with nested(script, server_context, client_context) as transport:
        send(transport, b"hello")
        assert receive(transport, 5) == b"hello"
        assert_not_quiet(transport)


def test_session_tickets_may_come_at_any_time(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are no data; but those of the inner connection are data of the outer one."""
    released = threading.Event()
    relay, is_quiet = proxies.relay, TlsTransport.is_quiet

    def relay_tickets_late(client: socket.socket, upstream: socket.socket) -> None:
        upstream.sendall(client.recv(65536))
        client.sendall(upstream.recv(65536))
        upstream.sendall(client.recv(65536))  # now the client is done with the handshake
        assert released.wait(TIMEOUT)
        relay(client, upstream)

    def look_and_release(transport: TlsTransport) -> bool:
        was_quiet = is_quiet(transport)
        if isinstance(transport, NestedTlsTransport):
            released.set()
            assert PollNeeded(transport.sock.fileno(), select.POLLIN).poll(TIMEOUT)
        return was_quiet

    monkeypatch.setattr(proxies, "relay", relay_tickets_late)
    with nested(Peer.until_eof, server_context, client_context) as transport:
        with monkeypatch.context() as patched:
            patched.setattr(TlsTransport, "is_quiet", look_and_release)
            assert transport.is_quiet()
        assert transport.is_quiet()


def test_what_the_outer_one_has_decrypted_is_not_quiet(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    sent = threading.Event()

    def script(peer: Peer) -> None:
        peer.send(BODY[:LARGE] + b"stray")
        sent.set()
        peer.until_eof()

    with nested(script, server_context, client_context) as transport:
        assert sent.wait(TIMEOUT)
        assert receive(transport, LARGE) == BODY[:LARGE]
        assert_not_quiet(transport)


def test_an_end_that_the_server_has_not_said_is_no_end(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        peer.cut()  # after which the proxy says good-bye, and the server has not

    with (
        ScriptedServer(script, context=server_context) as server,
        ScriptedServer(HttpProxy(server.address), context=server_context) as proxy,
        HTTPConnection("localhost", ssl_context=client_context, proxy=url_of(proxy)) as conn,
    ):
        conn.send_request("GET", "/")
        conn.read_response()
        with pytest.raises(ConnectionClosed):
            conn.readall()


def test_a_good_bye_of_the_server_is_an_end(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nall")
        peer.sock.unwrap()  # type: ignore[attr-defined]  # it is an SSLSocket

    with (
        ScriptedServer(script, context=server_context) as server,
        ScriptedServer(HttpProxy(server.address), context=server_context) as proxy,
        HTTPConnection("localhost", ssl_context=client_context, proxy=url_of(proxy)) as conn,
    ):
        conn.send_request("GET", "/")
        conn.read_response()
        assert conn.readall() == b"all"


def test_what_has_come_before_our_own_shutdown_may_be_kept(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    is_over = threading.Event()

    def script(peer: Peer) -> None:
        peer.send(b"hello")
        is_over.wait(TIMEOUT)

    with nested(script, server_context, client_context) as transport:
        assert receive(transport, 1) == b"h"
        transport.keep_arrivals()
        transport.shutdown()
        assert receive(transport, 4) == b"ello"
        for _ in range(2):
            with pytest.raises(ConnectionClosed, match="disconnected"):
                receive(transport, 1)
        is_over.set()


def test_the_connection_that_a_forked_child_drops_goes_on(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with nested(echo(5), server_context, client_context) as transport:
        child = _fork(transport.drop)
        assert os.waitpid(child, 0)[1] == 0
        send(transport, b"hello")
        assert receive(transport, 5) == b"hello"


def _fork(function: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        try:
            function()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def test_shutdown_ends_the_wait_of_another_thread(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with nested(lambda peer: peer.until_eof(), server_context, client_context) as transport:
        waits = threading.Event()
        errors: list[Exception] = []

        def wait() -> None:
            try:
                # More than once, for the server may send a ticket.
                while isinstance(
                    needed := transport.recv_into(memoryview(bytearray(1))), PollNeeded
                ):
                    waits.set()
                    needed.poll(TIMEOUT)
            except ConnectionClosed as exc:
                errors.append(exc)

        thread = threading.Thread(target=wait)
        thread.start()
        assert waits.wait(TIMEOUT)
        transport.shutdown()
        thread.join()
        assert len(errors) == 1
        with pytest.raises(ConnectionClosed):
            transport.send(b"more")


# --- the end of the outer one ---------------------------------------------------------------------


class ByHand:
    """The server's end of TLS, of which a test sends the records itself."""

    def __init__(
        self,
        context: ssl.SSLContext,
        receive: Callable[[], bytes],
        send: Callable[[bytes], object],
    ) -> None:
        self._receive, self._send = receive, send
        self._arrived, self._departing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._departing, server_side=True)
        self._run(self._tls.do_handshake)

    def _run(self, call: Callable[[], bytes | None]) -> bytes | None:
        while True:
            try:
                result = call()
            except ssl.SSLWantReadError:
                self._flush()
                self._arrived.write(self._receive())
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        if self._departing.pending:
            self._send(self._departing.read())

    def receive(self) -> bytes:
        return self._run(lambda: self._tls.read(65536)) or b""

    def send(self, data: bytes) -> None:
        self._send(self.records(data))

    def records(self, data: bytes) -> bytes:
        """Return *data* as it is to be sent."""
        self._tls.write(data)
        return self._departing.read()

    def good_bye(self) -> bytes:
        with pytest.raises(ssl.SSLWantReadError):  # for that of the client
            self._tls.unwrap()
        return self._departing.read()


@pytest.mark.parametrize("block_timeout", [0, TIMEOUT])
@pytest.mark.parametrize("size", [4, 40_000, LARGE, 2 * LARGE + 1])
@pytest.mark.parametrize("ends_well", [True, False])
def test_what_comes_with_the_end_of_the_outer_one_is_received_and_then_the_end(
    ends_well: bool,
    size: int,
    block_timeout: float,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
) -> None:
    def script(peer: Peer) -> None:
        outer = ByHand(server_context, lambda: peer.sock.recv(65536), peer.send)
        outer.receive()
        outer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        inner = ByHand(server_context, outer.receive, outer.send)
        last = outer.records(inner.records(BODY[:size]))
        end = outer.good_bye() if ends_well else b"\x17\3\3\0\x20" + bytes(32)
        peer.send(last + end)
        peer.until_eof()

    with ScriptedServer(script) as proxy:
        crt = co_dial(
            "localhost",
            443,
            client_context,
            Proxy(url_of(proxy)),
            TIMEOUT,
            proxy_context=client_context,
        )
        transport = eval_coroutine(crt, TIMEOUT)
        assert isinstance(transport, NestedTlsTransport)
        transport.block_timeout = block_timeout
        received: list[bytes] = []
        try:
            for _ in range(2):
                with pytest.raises(ConnectionClosed if ends_well else TLSError) as caught:
                    receive_on(transport, received)
            assert b"".join(received) == BODY[:size]
            assert not transport.is_quiet()
        finally:
            transport.close()
        if not ends_well:
            assert f"TLS with the proxy localhost:{proxy.port} has failed" in str(caught.value)


def receive_on(transport: TlsTransport, received: list[bytes]) -> None:
    """Receive all that comes into *received*, with more room than it needs."""
    view = memoryview(bytearray(LARGE))
    while got := transport.recv_into(view):
        if isinstance(got, PollNeeded):
            assert got.poll(TIMEOUT)
        else:
            received.append(bytes(view[:got]))


def test_the_causes_of_an_error_have_an_end(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        peer.exactly(10)
        peer.reset()

    with ScriptedServer(script, context=server_context) as proxy:
        conn = HTTPConnection("localhost", ssl_context=client_context, proxy=url_of(proxy))
        with pytest.raises(ConnectionClosed) as caught:
            conn.connect()
    causes: list[BaseException] = []
    link: BaseException | None = caught.value
    while link is not None:
        assert link not in causes
        causes.append(link)
        link = link.__cause__
    assert len(causes) > 1


def test_what_has_arrived_is_seen_until_it_is_received(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with nested(echo(4), server_context, client_context) as transport:
        send(transport, b"data")
        # What comes first may be session tickets.
        while isinstance(needed := transport.recv_into(memoryview(bytearray(1))), PollNeeded):
            assert needed.poll(TIMEOUT)
        assert needed == 1
        assert transport.has_arrivals()
        assert receive(transport, 3) == b"ata"
        assert not transport.has_arrivals()
        with transport._outer._lock:  # type: ignore[attr-defined]  # of NestedTlsTransport
            assert transport.has_arrivals()


# --- the certificate of the client ----------------------------------------------------------------


@pytest.mark.parametrize("tunnel", [True, False])
def test_a_context_for_the_proxy_shows_it_no_certificate_that_is_for_the_server(
    tunnel: bool, authority: trustme.CA, client_context: ssl.SSLContext
) -> None:
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(asking)
    authority.configure_trust(asking)
    asking.verify_mode = ssl.CERT_OPTIONAL
    ours = ssl.create_default_context()
    authority.configure_trust(ours)
    authority.issue_cert("client@example.test").configure_cert(ours)
    shown: list[tuple[str, bool]] = []

    def serve(peer: Peer) -> None:
        shown.append(("server", bool(peer.sock.getpeercert())))  # type: ignore[attr-defined]  # it is an SSLSocket
        peer.request()
        peer.respond()

    def pass_on(peer: Peer) -> None:
        shown.append(("proxy", bool(peer.sock.getpeercert())))  # type: ignore[attr-defined]  # it is an SSLSocket
        HttpProxy(server.address)(peer)

    with (
        ScriptedServer(*[serve] * tunnel, context=asking) as server,
        ScriptedServer(pass_on, context=asking) as proxy,
        HTTPConnection(
            "localhost",
            ssl_context=ours if tunnel else None,
            proxy=url_of(proxy),
            proxy_ssl_context=client_context,
        ) as conn,
    ):
        request(conn)
    assert shown == [("proxy", False), ("server", True)][: 1 + tunnel]


def test_a_context_for_the_proxy_must_be_one() -> None:
    context: Any = "ca.pem"
    with pytest.raises(TypeError, match="proxy_ssl_context must be"):
        HTTPConnection("localhost", proxy_ssl_context=context)


# --- TLS with the proxy alone ---------------------------------------------------------------------


def test_what_the_proxy_says_of_itself_is_not_taken_for_the_servers(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dugong.connection.tls.default_context", lambda: client_context)
    with (
        ScriptedServer(HttpProxy(("127.0.0.1", 1)), context=server_context) as proxy,
        HTTPConnection("origin.test", proxy=url_of(proxy)) as conn,
    ):
        conn.connect()
        assert conn.get_ssl_cipher() is None
        assert conn.get_ssl_peercert() is None


def request(conn: HTTPConnection) -> None:
    conn.send_request("GET", "/")
    conn.read_response()


@pytest.mark.parametrize("tunnel", [True, False])
def test_a_proxy_that_wants_a_certificate_is_said_to_be_the_proxy(
    tunnel: bool,
    authority: trustme.CA,
    client_context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dugong.connection.tls.default_context", lambda: client_context)
    strict = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(strict)
    authority.configure_trust(strict)
    strict.verify_mode = ssl.CERT_REQUIRED

    def script(peer: Peer) -> None:
        with pytest.raises(ssl.SSLError):
            strict.wrap_socket(peer.sock, server_side=True).close()

    with ScriptedServer(script) as proxy:
        context = client_context if tunnel else None
        conn = HTTPConnection("localhost", ssl_context=context, proxy=url_of(proxy))
        with pytest.raises(TLSError, match=f"TLS with the proxy localhost:{proxy.port}") as caught:
            request(conn)
        conn.disconnect()
    assert caught.value.reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    assert "proxy_ssl_context=" in str(caught.value)


# --- the handshakes -------------------------------------------------------------------------------


def test_a_certificate_of_the_proxy_that_is_refused_is_said_to_be_the_proxys(
    server_context: ssl.SSLContext,
) -> None:
    def script(peer: Peer) -> None:
        with pytest.raises(ssl.SSLError):
            server_context.wrap_socket(peer.sock, server_side=True).close()

    with ScriptedServer(script) as proxy:
        conn = HTTPConnection("localhost", proxy=url_of(proxy))
        with pytest.raises(TLSError, match=f"the proxy localhost:{proxy.port} has failed") as e:
            conn.connect()
    assert e.value.reason == "CERTIFICATE_VERIFY_FAILED"
    assert "secret" not in str(e.value)


def test_a_certificate_of_the_server_that_is_refused_is_an_ssl_error(
    authority: trustme.CA, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.test").configure_cert(other)
    with (
        ScriptedServer(lambda peer: None, context=other) as server,
        ScriptedServer(HttpProxy(server.address), context=server_context) as proxy,
    ):
        conn = HTTPConnection("localhost", ssl_context=client_context, proxy=url_of(proxy))
        with pytest.raises(ssl.SSLCertVerificationError):
            conn.connect()


def test_a_proxy_that_does_not_speak_tls_is_said_to_be_the_proxy(
    client_context: ssl.SSLContext,
) -> None:
    with ScriptedServer(lambda peer: peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as proxy:
        conn = HTTPConnection("localhost", ssl_context=client_context, proxy=url_of(proxy))
        with pytest.raises(TLSError, match="TLS with the proxy"):
            conn.connect()


def test_the_time_for_connecting_bounds_the_handshake_with_the_proxy(
    client_context: ssl.SSLContext,
) -> None:
    with ScriptedServer(lambda peer: peer.until_eof()) as proxy:
        conn = HTTPConnection("localhost", ssl_context=client_context, proxy=url_of(proxy))
        conn.timeout = 0.05
        with pytest.raises(ConnectionTimedOut, match="shaking hands with the proxy"):
            conn.connect()


def test_http_goes_through_tls_to_the_proxy_in_absolute_form(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dugong.connection.tls.default_context", lambda: client_context)
    script = HttpProxy(("127.0.0.1", 1))
    with (
        ScriptedServer(script, context=server_context) as proxy,
        HTTPConnection("origin.test", proxy=url_of(proxy)) as conn,
    ):
        conn.send_request("GET", "/page")
        conn.read_response()
        assert conn.readall() == b"http://origin.test/page"
    assert script.requests[0].headers["proxy-authorization"] == "Basic dXNlcjpzZWNyZXQ="


def test_an_interrupted_handshake_leaves_no_descriptor(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        ScriptedServer(HttpProxy(silent.getsockname()), context=server_context) as proxy,
    ):
        conn = HTTPConnection("localhost", ssl_context=client_context, proxy=url_of(proxy))
        conn.timeout = 0.3
        with pytest.raises(ConnectionTimedOut, match="shaking hands with localhost:443"):
            conn.connect()


# --- renegotiation --------------------------------------------------------------------------------


class Renegotiating(ProxyTlsTransport):
    """Waits for the peer before it sends, as TLS 1.2 does in a renegotiation."""

    __slots__ = ()

    def send(self, data: bytes | memoryview) -> PollNeeded:
        return self._want_read


def test_a_proxy_that_renegotiates_is_given_up_and_does_not_keep_a_processor_busy(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with nested(lambda peer: peer.until_eof(), server_context, client_context) as transport:
        outer = transport._outer  # type: ignore[attr-defined]  # of a nested one
        outer.__class__ = Renegotiating
        with pytest.raises(ConnectionClosed, match="renegotiation of TLS within TLS"):
            transport.send(b"data")
        outer.__class__ = ProxyTlsTransport


def test_a_server_that_renegotiates_is_given_up(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with (
        nested(lambda peer: peer.until_eof(), server_context, client_context) as transport,
        pytest.raises(OSError, match="renegotiation of TLS within TLS"),
    ):
        transport._feed_record()  # which looks ahead
