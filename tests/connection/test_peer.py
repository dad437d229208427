"""What a transport leads to, as far as its socket and its TLS know."""

from __future__ import annotations

import socket
import ssl

from dugong.connection.dial import co_dial
from dugong.connection.peer import NO_PEER, PeerInfo, find_peer
from dugong.connection.polling import eval_coroutine
from dugong.connection.transport import PlainTransport
from tests.support.server import TIMEOUT, ScriptedServer


def test_the_address_is_that_of_the_socket() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as sock,
    ):
        port = listener.getsockname()[1]
        assert find_peer(PlainTransport(sock)) == PeerInfo("127.0.0.1", port)


def test_an_address_of_ipv6_has_no_more_than_address_and_port() -> None:
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as listener,
        socket.create_connection(listener.getsockname()[:2]) as sock,
    ):
        port = listener.getsockname()[1]
        assert find_peer(PlainTransport(sock)) == PeerInfo("::1", port)


def test_a_socket_that_has_been_disconnected_leads_nowhere() -> None:
    with socket.socket() as sock:
        assert find_peer(PlainTransport(sock)) == NO_PEER


def test_a_socket_of_the_system_has_no_address() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert find_peer(PlainTransport(ours)) == NO_PEER


def test_tls_has_a_certificate_a_version_and_a_cipher(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with ScriptedServer(lambda peer: peer.until_eof(), context=server_context) as server:
        dial = co_dial("localhost", server.port, client_context, None, TIMEOUT)
        transport = eval_coroutine(dial, TIMEOUT)
        peer = find_peer(transport)
        tls = transport.ssl_object
        assert tls is not None
        cipher = tls.cipher()
        assert cipher is not None
        expected = (tls.getpeercert(binary_form=True), tls.version(), cipher[0])
        assert (peer.certificate, peer.tls_version, peer.cipher) == expected
        transport.close()
