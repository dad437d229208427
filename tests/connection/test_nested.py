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
from dugong.connection.nested import NestedTlsTransport
from dugong.connection.proxy import Proxy
from dugong.connection.tls import TlsTransport
from dugong.connection.transport import LARGE
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
            needed = transport.recv_into(memoryview(bytearray(1)))
            assert isinstance(needed, PollNeeded)
            waits.set()
            needed.poll(TIMEOUT)
            try:
                transport.recv_into(memoryview(bytearray(1)))
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


class Renegotiating(TlsTransport):
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
        outer.__class__ = TlsTransport


def test_a_server_that_renegotiates_is_given_up(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with (
        nested(lambda peer: peer.until_eof(), server_context, client_context) as transport,
        pytest.raises(OSError, match="renegotiation of TLS within TLS"),
    ):
        transport._feed_record()  # which looks ahead
