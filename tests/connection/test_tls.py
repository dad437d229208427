"""TLS: what is checked, which ends are orderly, and two threads over one TLS object."""

from __future__ import annotations

import errno
import gc
import io
import os
import select
import signal
import socket
import ssl
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from random import Random
from typing import Any, cast

import pytest
import trustme

from dugong import (
    BodyFollowing,
    ConnectionClosed,
    ConnectionPool,
    ConnectionTimedOut,
    HTTPConnection,
    PollNeeded,
    TLSError,
    eval_coroutine,
)
from dugong.connection import tls
from dugong.connection.tls import TlsTransport, co_start_tls
from dugong.connection.transport import LARGE
from tests.support.server import TIMEOUT, Peer, ScriptedServer


@pytest.fixture
def resolves_to_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name is an address of the loopback interface."""
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        return real("127.0.0.1", port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def refused_handshake(context: ssl.SSLContext) -> Callable[[Peer], None]:
    """A script in which the client breaks the handshake off."""

    def script(peer: Peer) -> None:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            context.wrap_socket(peer.sock, server_side=True).close()

    return script


# --- what the context decides ---------------------------------------------------------------------


@pytest.mark.usefixtures("resolves_to_loopback")
@pytest.mark.parametrize(
    ("host", "named", "sni"),
    [
        ("localhost", "localhost", "localhost"),
        ("localhost.", "localhost.", "localhost"),  # the dot is the DNS's (RFC 6066 §3)
        (
            "b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.test",
            "xn--bcher-kva.test",
            "xn--bcher-kva.test",
        ),
        ("127.0.0.1", "127.0.0.1", None),  # an address is no name (RFC 6066 §3)
    ],
)
def test_the_name_of_the_server_is_sent(
    host: str, named: str, sni: str | None, authority: trustme.CA, client_context: ssl.SSLContext
) -> None:
    seen: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1", "xn--bcher-kva.test").configure_cert(context)
    context.sni_callback = lambda sock, name, ctx: seen.append(name)

    def script(peer: Peer) -> None:
        assert peer.request().headers["host"] == f"{named}:{server.port}"
        peer.respond()

    with (
        ScriptedServer(script, context=context) as server,
        HTTPConnection(host, server.port, ssl_context=client_context) as conn,
    ):
        conn.send_request("GET", "/")
        conn.read_response()
    assert seen == [sni]


@pytest.mark.usefixtures("resolves_to_loopback")
def test_a_certificate_for_another_host_is_refused(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with ScriptedServer(refused_handshake(server_context)) as server:
        conn = HTTPConnection("other.test", server.port, ssl_context=client_context)
        with pytest.raises(ssl.SSLCertVerificationError, match=r"other\.test"):
            conn.send_request("GET", "/")
        assert not conn.response_pending()


@pytest.mark.usefixtures("resolves_to_loopback")
def test_a_context_may_accept_another_host(
    authority: trustme.CA, server_context: ssl.SSLContext
) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.check_hostname = False
    with (
        ScriptedServer(lambda peer: peer.until_eof(), context=server_context) as server,
        HTTPConnection("other.test", server.port, ssl_context=context) as conn,
    ):
        conn.connect()


def test_an_authority_that_the_context_does_not_trust_is_refused(
    server_context: ssl.SSLContext,
) -> None:
    with ScriptedServer(refused_handshake(server_context)) as server:
        conn = HTTPConnection(*server.address, ssl_context=ssl.create_default_context())
        with pytest.raises(ssl.SSLCertVerificationError):
            conn.connect()


def test_a_context_may_trust_anybody(server_context: ssl.SSLContext) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        ScriptedServer(lambda peer: peer.until_eof(), context=server_context) as server,
        HTTPConnection(*server.address, ssl_context=context) as conn,
    ):
        conn.connect()
        assert conn.get_ssl_peercert() == {}  # as ssl has it: it was not verified
        assert conn.get_ssl_peercert(binary_form=True)


def test_a_context_without_a_common_version_is_an_ssl_error(
    authority: trustme.CA, client_context: ssl.SSLContext
) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(old)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    new = ssl.create_default_context()
    authority.configure_trust(new)
    new.minimum_version = ssl.TLSVersion.TLSv1_3
    with ScriptedServer(refused_handshake(old)) as server:
        conn = HTTPConnection(*server.address, ssl_context=new)
        with pytest.raises(ssl.SSLError):
            conn.connect()


def test_the_certificate_and_the_cipher_can_be_looked_at(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with ScriptedServer(lambda peer: peer.until_eof(), context=server_context) as server:
        conn = HTTPConnection(*server.address, ssl_context=client_context)
        assert conn.get_ssl_peercert() is None
        assert conn.get_ssl_cipher() is None
        conn.connect()
        cert = conn.get_ssl_peercert()
        assert cert is not None
        assert ("DNS", "localhost") in cert["subjectAltName"]
        der = conn.get_ssl_peercert(binary_form=True)
        assert der is not None
        assert ssl.DER_cert_to_PEM_cert(der).startswith("-----BEGIN CERTIFICATE-----")
        cipher = conn.get_ssl_cipher()
        assert cipher is not None
        name, version, bits = cipher
        assert (name[:4], version, bits >= 128) == ("TLS_", "TLSv1.3", True)
        conn.disconnect()
        assert conn.get_ssl_peercert() is None
        assert conn.get_ssl_cipher() is None


def test_without_tls_there_is_no_certificate() -> None:
    with (
        ScriptedServer(lambda peer: peer.until_eof()) as server,
        HTTPConnection(*server.address) as conn,
    ):
        conn.connect()
        assert conn.get_ssl_peercert() is None
        assert conn.get_ssl_cipher() is None


# --- the handshake --------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [Peer.cut, Peer.reset], ids=["eof", "reset"])
def test_an_end_within_the_handshake_is_a_closed_connection(
    end: Callable[[Peer], None], client_context: ssl.SSLContext
) -> None:
    def script(peer: Peer) -> None:
        peer.exactly(5)
        end(peer)

    with ScriptedServer(script) as server:
        conn = HTTPConnection(*server.address, ssl_context=client_context)
        with pytest.raises(ConnectionClosed):
            conn.connect()


def test_a_server_that_does_not_speak_tls_is_an_ssl_error(client_context: ssl.SSLContext) -> None:
    def script(peer: Peer) -> None:
        peer.exactly(5)
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with ScriptedServer(script) as server:
        conn = HTTPConnection(*server.address, ssl_context=client_context)
        with pytest.raises(ssl.SSLError):
            conn.connect()


@pytest.mark.parametrize("response", [b"", b"data"])
def test_a_connection_that_is_reset_before_the_handshake_is_closed(
    response: bytes, client_context: ssl.SSLContext
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = socket.create_connection(listener.getsockname())
        sock.setblocking(False)
        peer, _ = listener.accept()
    peer.sendall(response)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    poller = select.poll()
    poller.register(sock, 0)  # errors and hang-up only
    assert poller.poll(10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a socket that is only found by the garbage collector
        with pytest.raises(ConnectionClosed):
            eval_coroutine(co_start_tls(sock, client_context, "localhost"))
        gc.collect()


def test_a_name_that_tls_cannot_send_is_a_value_error(client_context: ssl.SSLContext) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        peer.until_eof()

    with ScriptedServer(script) as server:
        conn = HTTPConnection(".test", ssl_context=client_context, proxy=server.address)
        with pytest.raises(UnicodeError):
            conn.connect()


# --- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", None),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", None),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", None),
        (b"HTTP/1.1 200 OK\r\n\r\n", None),
    ],
)
@pytest.mark.parametrize("end", [Peer.cut, Peer.reset], ids=["eof", "reset"])
def test_an_end_without_close_notify_ends_no_body(
    end: Callable[[Peer], None],
    response: bytes,
    body: bytes | None,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(response)
        received.wait()  # a reset may overtake what was sent before
        end(peer)

    received = threading.Event()
    with (
        ScriptedServer(script, context=server_context) as server,
        HTTPConnection(*server.address, ssl_context=client_context) as conn,
    ):
        conn.send_request("GET", "/")
        conn.read_response()
        got = b""
        while len(got) < 5 and b"hello" in response:
            got += conn.read(5 - len(got))
        if body is not None:
            assert got + conn.readall() == body
        received.set()
        if body is None:
            with pytest.raises(ConnectionClosed):
                conn.readall()


def test_with_close_notify_the_end_of_the_connection_is_the_end_of_the_body(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        assert isinstance(peer.sock, ssl.SSLSocket)
        try:
            peer.sock.unwrap()
        except OSError:
            pass  # whether the client responses is not the question

    with (
        ScriptedServer(script, context=server_context) as server,
        HTTPConnection(*server.address, ssl_context=client_context) as conn,
    ):
        conn.send_request("GET", "/")
        conn.read_response()
        assert conn.readall() == b"hello"
        assert conn.read(10) == b""


@pytest.mark.parametrize("how", ["disconnect", "Connection: close"])
def test_we_say_close_notify_ourselves(
    how: str, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    # RFC 9112 §9.8: clients MUST send a closure alert before closing the connection.
    def script(peer: Peer) -> None:
        assert isinstance(peer.sock, ssl.SSLSocket)
        peer.sock.suppress_ragged_eofs = False
        peer.request()
        peer.respond(headers=f"{how}\r\n" if ":" in how else "")
        assert peer.until_eof() == b""  # raises SSLEOFError if it is not said

    with ScriptedServer(script, context=server_context) as server:
        conn = HTTPConnection(*server.address, ssl_context=client_context)
        conn.send_request("GET", "/")
        conn.read_response()
        conn.readall()
        if how == "disconnect":
            conn.disconnect()
    conn.disconnect()


# --- an idle connection ---------------------------------------------------------------------------


@pytest.fixture
def idle(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> Iterator[tuple[TlsTransport, ssl.SSLSocket]]:
    """Both ends of a TLS connection; the server's session tickets have arrived."""
    accepted: list[ssl.SSLSocket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            sock, _ = listener.accept()
            accepted.append(server_context.wrap_socket(sock, server_side=True))

        thread = threading.Thread(target=accept)
        thread.start()
        sock = socket.create_connection(listener.getsockname())
        sock.setblocking(False)
        transport = eval_coroutine(co_start_tls(sock, client_context, "localhost"))
        thread.join()
    wait_readable(transport)
    yield transport, accepted[0]
    accepted[0].close()
    transport.close()


def wait_readable(transport: TlsTransport) -> None:
    poller = select.poll()
    poller.register(transport.sock, select.POLLIN)
    assert poller.poll(10_000)


def test_session_tickets_do_not_disturb_an_idle_connection(
    idle: tuple[TlsTransport, ssl.SSLSocket],
) -> None:
    transport, peer = idle
    assert transport.is_quiet()
    assert transport.is_quiet()
    transport.send(b"ping")
    assert peer.recv(10) == b"ping"


def test_an_idle_connection_is_not_replaced_because_of_session_tickets(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    def script(peer: Peer) -> None:
        for _ in range(3):
            peer.request()
            peer.respond()

    with (
        ScriptedServer(script, context=server_context) as server,
        HTTPConnection(*server.address, ssl_context=client_context) as conn,
    ):
        conn.connect()
        transport = conn._session.state.transport
        assert isinstance(transport, TlsTransport)
        wait_readable(transport)
        for _ in range(3):
            conn.send_request("GET", "/")
            conn.read_response()
        assert server.connections == 1


def test_stray_data_is_noticed_behind_session_tickets(
    idle: tuple[TlsTransport, ssl.SSLSocket],
) -> None:
    transport, peer = idle
    assert transport.is_quiet()
    peer.sendall(b"stray")
    wait_readable(transport)
    assert not transport.is_quiet()
    assert not transport.is_quiet()  # four of the five bytes are still there


def test_what_has_arrived_is_seen_until_it_is_received(
    idle: tuple[TlsTransport, ssl.SSLSocket],
) -> None:
    transport, peer = idle
    assert transport.is_quiet()  # the session tickets have been taken
    assert not transport.has_arrivals()
    peer.sendall(b"data")
    wait_readable(transport)
    assert transport.has_arrivals()
    view = memoryview(bytearray(9))
    assert transport.recv_into(view[:1]) == 1
    assert transport.has_arrivals()  # in OpenSSL
    assert transport.recv_into(view) == 3
    assert not transport.has_arrivals()
    transport.close()
    assert not transport.has_arrivals()


def test_a_look_at_what_has_arrived_waits_for_no_other_thread(
    idle: tuple[TlsTransport, ssl.SSLSocket],
) -> None:
    transport, _ = idle
    assert transport.is_quiet()
    with transport._lock:
        assert transport.has_arrivals()


@pytest.mark.parametrize("end", ["close_notify", "eof", "reset"])
def test_the_end_of_an_idle_connection_is_noticed(
    idle: tuple[TlsTransport, ssl.SSLSocket], end: str
) -> None:
    transport, peer = idle
    assert transport.is_quiet()
    if end == "close_notify":
        peer.setblocking(False)
        with pytest.raises(ssl.SSLWantReadError):
            peer.unwrap()
    elif end == "eof":
        socket.socket.shutdown(peer, socket.SHUT_WR)
    else:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.socket.close(peer)
    wait_readable(transport)
    assert not transport.is_quiet()


def test_an_idle_connection_that_was_closed_is_replaced(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.respond()

    with (
        ScriptedServer(script, script, context=server_context) as server,
        HTTPConnection(*server.address, ssl_context=client_context) as conn,
    ):
        conn.send_request("GET", "/")
        conn.read_response()
        transport = conn._session.state.transport
        assert isinstance(transport, TlsTransport)
        while transport.is_quiet():
            wait_readable(transport)
        conn.send_request("GET", "/")
        conn.read_response()
        assert server.connections == 2


# --- what a server says after the handshake -------------------------------------------------------


@pytest.fixture
def wants_certificate(authority: trustme.CA) -> ssl.SSLContext:
    """TLS for a server that wants a certificate of the client: in TLS 1.3, it says so too late."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


CERTIFICATE_REQUIRED = "TLSV13_ALERT_CERTIFICATE_REQUIRED"


def ask(conn: HTTPConnection) -> None:
    """Get a response."""
    conn.send_request("GET", "/")
    conn.read_response()


def test_the_alert_of_a_server_that_wants_a_certificate_is_the_error(
    wants_certificate: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with ScriptedServer(refused_handshake(wants_certificate), repeat=True) as server:
        conn = HTTPConnection(*server.address, ssl_context=client_context)
        conn.connect()
        with pytest.raises(ssl.SSLError) as caught:  # whichever meets with it
            ask(conn)
        assert caught.value.reason == CERTIFICATE_REQUIRED
        conn.disconnect()


def test_an_alert_is_read_though_the_body_could_not_be_sent(
    wants_certificate: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with ScriptedServer(refused_handshake(wants_certificate)) as server:
        conn = HTTPConnection(*server.address, ssl_context=client_context)
        with suppress(ConnectionClosed, ssl.SSLError):  # which may come first
            conn.send_request("PUT", "/", body=BodyFollowing(2**30))
            conn.write(bytes(2**29))
        with pytest.raises(ssl.SSLError) as caught:
            conn.read_response()
        assert caught.value.reason == CERTIFICATE_REQUIRED
        conn.disconnect()


def test_an_early_response_is_whole_though_sending_met_with_the_end(
    idle: tuple[TlsTransport, ssl.SSLSocket],
) -> None:
    transport, peer = idle
    assert transport.is_quiet()
    peer.sendall(b"HTTP/1.1 400 No\r\n\r\n")
    socket.socket.shutdown(peer, socket.SHUT_WR)
    transport.sock.setblocking(False)
    socket.socket.shutdown(transport.sock, socket.SHUT_WR)  # so that sending fails, and no more
    with pytest.raises(ConnectionClosed):
        transport.send(b"data")  # perhaps before the response has come
    wait_readable(transport)
    for _ in range(2):
        with pytest.raises(ConnectionClosed):
            transport.send(b"data")
    assert not transport.is_quiet()
    got = bytearray()
    view = memoryview(bytearray(100))
    while len(got) < 19:
        size = transport.recv_into(view)
        if isinstance(size, PollNeeded):
            assert size.poll(10)
        else:
            got += view[:size]
    assert got == b"HTTP/1.1 400 No\r\n\r\n"


def test_an_idle_connection_that_was_refused_says_why(
    wants_certificate: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with ScriptedServer(refused_handshake(wants_certificate)) as server:
        sock = socket.create_connection(server.address)
        transport = eval_coroutine(co_start_tls(sock, client_context, "localhost"))
        assert transport.refusal is None
        wait_readable(transport)
        assert not transport.is_quiet()
        for _ in range(2):
            assert isinstance(transport.refusal, ssl.SSLError)
            assert transport.refusal.reason == CERTIFICATE_REQUIRED
            with pytest.raises(ssl.SSLError) as caught:
                transport.recv_into(memoryview(bytearray(10)))
            assert caught.value.reason == CERTIFICATE_REQUIRED
            with pytest.raises(ConnectionClosed):
                transport.send(b"data")
        transport.close()


@pytest.mark.parametrize("end", ["close_notify", "eof", "alert"])
def test_the_end_of_a_connection_that_was_used_is_no_refusal(
    idle: tuple[TlsTransport, ssl.SSLSocket], end: str
) -> None:
    transport, peer = idle
    peer.sendall(b"a response")
    view = memoryview(bytearray(100))
    while isinstance(transport.recv_into(view), PollNeeded):
        wait_readable(transport)
    if end == "close_notify":
        peer.setblocking(False)
        with pytest.raises(ssl.SSLWantReadError):
            peer.unwrap()
    elif end == "eof":
        socket.socket.shutdown(peer, socket.SHUT_WR)
    else:
        socket.socket.send(transport.sock, b"this is no TLS record, and is refused")
        with pytest.raises(ssl.SSLError):
            peer.recv(10)
    wait_readable(transport)
    assert not transport.is_quiet()
    assert transport.refusal is None


def test_a_pool_raises_the_alert_and_does_not_try_again(
    wants_certificate: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with (
        ScriptedServer(refused_handshake(wants_certificate), repeat=True) as server,
        ConnectionPool(ssl_context=client_context) as pool,
    ):
        with pytest.raises(TLSError, match="tlsv13 alert certificate required") as caught:
            pool.get(f"https://127.0.0.1:{server.port}/")
        assert caught.value.reason == CERTIFICATE_REQUIRED
        assert caught.value.attempts == ()
        assert server.connections == 1


def test_a_certificate_that_could_not_be_checked_for_want_of_descriptors_is_not_refused(
    server_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def need_descriptor() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(tls, "need_descriptor", need_descriptor)
    with ScriptedServer(refused_handshake(server_context)) as server:
        sock = socket.create_connection(server.address)
        crt = co_start_tls(sock, ssl.create_default_context(), "localhost")
        with pytest.raises(OSError, match="Too many open files"):
            eval_coroutine(crt)


# --- a forked child -------------------------------------------------------------------------------


def test_a_child_that_drops_the_connection_leaves_it_to_the_parent(
    idle: tuple[TlsTransport, ssl.SSLSocket],
) -> None:
    transport, peer = idle
    assert transport.is_quiet()
    transport._lock.acquire()  # as a thread may have it that is not in the child
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(int(TIMEOUT))
            transport.drop()
            transport.drop()
            transport.shutdown()
            transport.close()
            os._exit(0 if transport.sock.fileno() == -1 else 1)
        finally:
            os._exit(2)
    transport._lock.release()
    assert os.waitpid(pid, 0) == (pid, 0)
    transport.send(b"ping")
    assert peer.recv(10) == b"ping"  # and no close_notify before it
    peer.sendall(b"pong")
    view = memoryview(bytearray(10))
    assert receive(transport, view) == 4
    assert bytes(view[:4]) == b"pong"


def test_every_call_is_safe_after_dropping(idle: tuple[TlsTransport, ssl.SSLSocket]) -> None:
    transport, _ = idle
    transport.drop()
    with pytest.raises(ConnectionClosed):
        transport.recv_into(memoryview(bytearray(1)))
    with pytest.raises(ConnectionClosed):
        transport.send(b"data")
    assert not transport.is_quiet()


# --- data -----------------------------------------------------------------------------------------


def test_a_large_view_is_filled_with_as_many_records_as_there_are(
    idle: tuple[TlsTransport, ssl.SSLSocket],
) -> None:
    transport, peer = idle
    data = Random(1).randbytes(100_000)
    view = memoryview(bytearray(200_000))
    sender = threading.Thread(target=peer.sendall, args=(data,))
    sender.start()
    filled = 0
    while filled < len(data):
        got = transport.recv_into(view[filled:])
        if isinstance(got, PollNeeded):
            assert got.poll(10)
        else:
            filled += got
    sender.join()
    assert bytes(view[:filled]) == data


@pytest.mark.parametrize(
    ("size", "block_timeout", "gathers"),
    [(LARGE, TIMEOUT, True), (LARGE - 1, TIMEOUT, False), (LARGE, 0, False)],
    ids=["large", "small view", "impatient"],
)
def test_a_large_view_is_worth_a_moment_of_waiting_for_more_records(
    idle: tuple[TlsTransport, ssl.SSLSocket],
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    block_timeout: float,
    gathers: bool,
) -> None:
    transport, peer = idle
    transport.block_timeout = block_timeout
    view = memoryview(bytearray(size))
    while isinstance(transport.recv_into(view), PollNeeded) and not transport.is_quiet():
        pass  # the session tickets
    peer.sendall(b"first")
    wait_readable(transport)
    poll = PollNeeded.poll
    marks: list[int] = []

    def send_and_poll(wanted: PollNeeded, timeout: float | None = None) -> bool:
        marks.append(low_water_mark(transport))
        peer.sendall(b" and more")
        return poll(wanted, timeout)

    monkeypatch.setattr(PollNeeded, "poll", send_and_poll)
    got = transport.recv_into(view)
    assert isinstance(got, int)
    assert bytes(view[:got]) == (b"first and more" if gathers else b"first")
    assert marks == ([LARGE] if gathers else [])
    assert low_water_mark(transport) == 1


def low_water_mark(transport: TlsTransport) -> int:
    return transport.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


def test_one_call_takes_no_more_than_256_kib(idle: tuple[TlsTransport, ssl.SSLSocket]) -> None:
    # Or the other thread, and the one that asks for the end, would wait for as long as data comes.
    transport, peer = idle
    view = memoryview(bytearray(4 * LARGE))
    sender = threading.Thread(target=peer.sendall, args=(bytes(4 * LARGE),))
    sender.start()
    left = 4 * LARGE
    while left:
        got = transport.recv_into(view)
        if isinstance(got, PollNeeded):
            assert got.poll(10)
        else:
            assert got <= LARGE
            left -= got
    sender.join()


def test_a_small_record_is_read_with_one_call_that_succeeds(
    idle: tuple[TlsTransport, ssl.SSLSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    transport, peer = idle
    transport.block_timeout = TIMEOUT
    view = memoryview(bytearray(8192))

    def received() -> bytes:
        while isinstance(got := transport.recv_into(view), PollNeeded):
            got.block(TIMEOUT)
        return bytes(view[:got])

    peer.sendall(b"first")
    assert received() == b"first"
    read, calls = ssl.SSLObject.read, []

    def count(tls: ssl.SSLObject, *args: Any) -> Any:
        calls.append(args)
        return read(tls, *args)

    monkeypatch.setattr(ssl.SSLObject, "read", count)
    peer.sendall(b"second")
    assert received() == b"second"
    assert len(calls) == 1


@pytest.mark.parametrize("block_timeout", [0, 0.01])
def test_where_nothing_is_left_it_waits_before_it_reads(
    idle: tuple[TlsTransport, ssl.SSLSocket], monkeypatch: pytest.MonkeyPatch, block_timeout: float
) -> None:
    transport, peer = idle
    view = memoryview(bytearray(8192))
    peer.sendall(b"first")
    while isinstance(got := transport.recv_into(view), PollNeeded):
        got.block(TIMEOUT)
    transport.block_timeout = block_timeout
    with monkeypatch.context() as patched:
        patched.delattr(ssl.SSLObject, "read")
        if block_timeout:
            with pytest.raises(ConnectionTimedOut, match="nothing received"):
                transport.recv_into(view)
        else:
            assert isinstance(transport.recv_into(view), PollNeeded)
    peer.sendall(b"second")
    wait_readable(transport)
    assert transport.recv_into(view) == len(b"second")


class Stalled:
    """Stands for a TLS object in which a thread is at work."""

    def __init__(self) -> None:
        self.entered, self.leave = threading.Event(), threading.Event()
        self.unwrapped = False

    def pending(self) -> int:
        return 1

    def read(self, size: int, view: memoryview) -> int:
        self.entered.set()
        assert self.leave.wait(TIMEOUT)
        return size

    def unwrap(self) -> None:
        self.unwrapped = True


def test_a_shutdown_does_not_wait_for_a_thread_that_receives(
    idle: tuple[TlsTransport, ssl.SSLSocket],
) -> None:
    transport, peer = idle
    stalled = Stalled()
    transport._tls = stalled  # type: ignore[assignment]  # as much of it as is needed
    view = memoryview(bytearray(10))
    with ThreadPoolExecutor(1) as executor:
        receiving = executor.submit(transport.recv_into, view)
        assert stalled.entered.wait(TIMEOUT)
        transport.shutdown()  # or this would wait for ever
        assert transport.is_shut
        assert not stalled.unwrapped  # the TLS object is another thread's
        peer.suppress_ragged_eofs = False
        with pytest.raises(ssl.SSLEOFError):
            peer.recv(10)
        stalled.leave.set()
        assert receiving.result(TIMEOUT) == 10
    with pytest.raises(ConnectionClosed, match="disconnected"):
        transport.recv_into(view)


def test_after_our_own_shutdown_nothing_is_received_that_might_have_a_gap(
    idle: tuple[TlsTransport, ssl.SSLSocket],
) -> None:
    transport, peer = idle
    assert transport.is_quiet()
    peer.sendall(b"first")
    wait_readable(transport)
    peer.sendall(b"second")
    transport.shutdown()
    with pytest.raises(ConnectionClosed):
        transport.recv_into(memoryview(bytearray(100)))
    with pytest.raises(ConnectionClosed):
        transport.send(b"data")


def test_what_has_come_before_our_own_shutdown_may_be_kept(
    idle: tuple[TlsTransport, ssl.SSLSocket],
) -> None:
    transport, peer = idle
    assert transport.is_quiet()
    peer.sendall(b"data")
    wait_readable(transport)
    transport.keep_arrivals()
    transport.shutdown()
    view = memoryview(bytearray(3))
    assert [receive(transport, view), receive(transport, view)] == [3, 1]
    for _ in range(2):
        with pytest.raises(ConnectionClosed, match="disconnected"):
            receive(transport, view)
    with pytest.raises(ConnectionClosed):
        transport.send(b"data")


def test_a_send_that_fails_leaves_what_has_come_to_be_received(
    idle: tuple[TlsTransport, ssl.SSLSocket],
) -> None:
    transport, peer = idle
    assert transport.is_quiet()
    peer.sendall(b"data")
    wait_readable(transport)
    transport.sock.shutdown(socket.SHUT_WR)  # as a reset would, for the system keeps what has come
    with pytest.raises(ConnectionClosed):
        transport.send(b"data")
    view = memoryview(bytearray(1))
    received = [view[: receive(transport, view)].tobytes() for _ in range(4)]
    assert b"".join(received) == b"data"


def receive(transport: TlsTransport, view: memoryview) -> int:
    while isinstance(got := transport.recv_into(view), PollNeeded):
        assert got.poll(10)
    return got


def test_data_before_the_end_is_not_lost_with_it(
    idle: tuple[TlsTransport, ssl.SSLSocket],
) -> None:
    transport, peer = idle
    assert transport.is_quiet()
    peer.sendall(b"last words")
    socket.socket.shutdown(peer, socket.SHUT_WR)
    view = memoryview(bytearray(100))
    assert receive(transport, view) == len(b"last words")
    assert bytes(view[:10]) == b"last words"
    wait_readable(transport)
    for _ in range(2):
        with pytest.raises(ConnectionClosed):
            receive(transport, view)


def test_a_good_bye_that_comes_with_data_is_the_end(
    idle: tuple[TlsTransport, ssl.SSLSocket],
) -> None:
    """The peer may wait for ours before it closes, so that nothing else comes."""
    transport, peer = idle
    assert transport.is_quiet()
    peer.sendall(b"last words")
    with suppress(ssl.SSLError):
        peer.setblocking(False)
        peer.unwrap()
    wait_readable(transport)
    view = memoryview(bytearray(100))
    assert receive(transport, view) == len(b"last words")
    for _ in range(2):
        assert transport.recv_into(view) == 0
    assert not transport.is_quiet()


class Full:
    """Stands for a socket that takes nothing, as *sock* does if its buffer is full."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def send(self, data: bytes) -> int:
        raise BlockingIOError


def test_what_openssl_replies_is_sent_when_the_socket_takes_it(
    idle: tuple[TlsTransport, ssl.SSLSocket],
) -> None:
    transport, peer = idle
    assert transport.is_quiet()
    sock, view = transport.sock, memoryview(bytearray(100))
    transport._tls.write(b"reply")  # a handshake message would be written there, too
    transport.sock = cast(socket.socket, Full(sock))
    wanted = transport.recv_into(view)
    assert isinstance(wanted, PollNeeded)
    assert wanted.mask & select.POLLOUT
    peer.sendall(b"data")
    wait_readable(transport)
    assert receive(transport, view) == 4
    transport.sock = sock
    assert isinstance(transport.recv_into(view), PollNeeded)
    assert peer.recv(100) == b"reply"


def test_what_a_failed_call_had_taken_may_be_on_its_way(
    idle: tuple[TlsTransport, ssl.SSLSocket],
) -> None:
    transport, _ = idle
    transport.sock = cast(socket.socket, Full(transport.sock))
    assert isinstance(transport.send(b"data"), PollNeeded)
    assert transport.on_its_way == 4


def test_an_interrupt_that_may_have_lost_a_record_ends_the_connection(
    idle: tuple[TlsTransport, ssl.SSLSocket],
) -> None:
    class Interrupting:
        pending = 0

        def write(self, data: bytes) -> None:
            raise KeyboardInterrupt

    transport, _ = idle
    arrived = transport._arrived
    transport._arrived = cast(ssl.MemoryBIO, Interrupting())
    with pytest.raises(KeyboardInterrupt):
        transport.is_quiet()  # there are session tickets
    transport._arrived = arrived
    assert not transport.is_quiet()
    with pytest.raises(ConnectionClosed):
        transport.send(b"data")


def test_a_certificate_is_refused_though_the_alert_cannot_be_sent(
    server_context: ssl.SSLContext,
) -> None:
    class Mute(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except ssl.SSLCertVerificationError:
                sock.shutdown(socket.SHUT_WR)
                raise

    def serve() -> None:
        accepted, _ = listener.accept()
        with accepted, suppress(OSError):
            server_context.wrap_socket(accepted, server_side=True)

    context = ssl.create_default_context()  # which does not know the authority
    context.sslobject_class = Mute
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        sock = socket.create_connection(listener.getsockname())
        with pytest.raises(ssl.SSLCertVerificationError):
            eval_coroutine(co_start_tls(sock, context, "localhost"))
        thread.join()


def test_no_file_is_sent_without_being_encrypted(
    idle: tuple[TlsTransport, ssl.SSLSocket],
) -> None:
    transport, _ = idle
    assert not transport.can_send_files
    with open(__file__, "rb") as file, pytest.raises(io.UnsupportedOperation):
        transport.send_file(file.fileno(), 0, 10)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_large_bodies_go_both_ways_at_the_same_time(
    version: ssl.TLSVersion, authority: trustme.CA, server_context: ssl.SSLContext
) -> None:
    size = 8 * 2**20
    data = Random(2).randbytes(size)

    def echo(peer: Peer) -> None:
        request = peer.head()
        assert request.headers["content-length"] == str(size)
        peer.send(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
        for _ in range(size // 2**16):
            peer.send(peer.exactly(2**16))

    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.maximum_version = version
    with (
        ScriptedServer(echo, context=server_context) as server,
        HTTPConnection(*server.address, ssl_context=context) as conn,
    ):
        begun = threading.Event()

        def send() -> None:
            conn.send_request("PUT", "/", body=BodyFollowing(size))
            begun.set()
            for start in range(0, size, 300_000):
                conn.write(memoryview(data)[start : start + 300_000])

        sender = threading.Thread(target=send)
        sender.start()
        begun.wait(TIMEOUT)
        conn.read_response()
        digest = sha256()
        buffer = bytearray(200_000)
        total = 0
        while got := conn.readinto(buffer):
            digest.update(memoryview(buffer)[:got])
            total += got
        sender.join()
        assert total == size
        assert digest.digest() == sha256(data).digest()


def test_a_fatal_error_behind_data_is_no_end_of_a_body(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """OpenSSL tells of the error once, together with the data, and of an orderly end after that."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
        socket.socket.send(peer.sock, b"this is no TLS record, and is refused")
        with suppress(OSError):  # the client says what it thinks of that
            peer.sock.recv(1000)

    with (
        ScriptedServer(script, context=server_context) as server,
        HTTPConnection("localhost", server.port, ssl_context=client_context) as conn,
    ):
        conn.timeout = 10
        conn.send_request("GET", "/")
        conn.read_response()
        with pytest.raises((ConnectionClosed, ssl.SSLError)):
            conn.readall()
        with pytest.raises(ConnectionClosed):
            conn.readall()


def test_a_reset_just_before_the_handshake_loses_no_descriptor() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()

    class LateContext(ssl.SSLContext):
        def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
            Peer(accepted).reset()
            poller = select.poll()
            poller.register(sock, 0)
            assert poller.poll(10_000)  # POLLERR
            return super().wrap_bio(*args, **kwargs)

    fd = sock.fileno()
    with pytest.raises(ConnectionClosed) as caught:
        eval_coroutine(co_start_tls(sock, LateContext(ssl.PROTOCOL_TLS_CLIENT), "localhost"))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)  # though what has the exception has the frames, too
    del caught
