"""What responses tell of the connection that they have come on: `Response.peer`."""

from __future__ import annotations

import asyncio
import pickle
import ssl
from pathlib import Path

import pytest

from dugong import AsyncClient, ConnectionPool, HTTPConnection, HTTPStatusError, PeerInfo
from dugong.connection.peer import NO_PEER
from dugong.testing import MockPool
from tests.support.pool import OpenSite, each, name_target, open_site
from tests.support.proxies import HttpProxy, UnixServer
from tests.support.server import Peer, ScriptedServer

URL = "http://origin.test/"


def test_a_response_tells_the_address_of_the_server() -> None:
    with open_site(each(name_target)) as here:
        assert here.pool.get(here.url()).peer == PeerInfo("127.0.0.1", here.server.port)


def test_all_responses_of_a_connection_share_what_it_leads_to() -> None:
    with open_site(each(name_target)) as here:
        first = here.pool.get(here.url())
        later = here.pool.submit("GET", here.url()).result()
        with here.pool.stream("GET", here.url()) as streamed:
            assert first.peer is later.peer is streamed.peer


def test_a_response_tells_of_tls_with_the_server(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    contexts = {"server_context": server_context, "client_context": client_context}
    with open_site(each(name_target), repeat=True, **contexts) as here:
        peer = here.pool.get(here.url()).peer
        with HTTPConnection("127.0.0.1", here.server.port, client_context) as conn:
            conn.connect()
            assert peer.certificate == conn.get_ssl_peercert(binary_form=True)
    assert (peer.tls_version, peer.address) == ("TLSv1.3", "127.0.0.1")
    assert peer.cipher is not None
    assert peer.cipher.startswith("TLS_")


def test_a_connection_that_resumes_a_session_has_the_certificate_of_that(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    resumed: list[bool | None] = []

    def script(peer: Peer) -> None:
        assert isinstance(peer.sock, ssl.SSLSocket)
        resumed.append(peer.sock.session_reused)
        peer.request()
        peer.respond(headers="Connection: close\r\n")

    contexts = {"server_context": server_context, "client_context": client_context}
    with open_site(script, repeat=True, **contexts) as here:
        first, second = (here.pool.get(here.url()).peer for _ in range(2))
    assert resumed == [False, True]
    assert first.certificate == second.certificate is not None


def test_there_is_a_certificate_though_it_was_not_verified(server_context: ssl.SSLContext) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    contexts = {"server_context": server_context, "client_context": context}
    with open_site(each(name_target), **contexts) as here:
        assert here.pool.get(here.url()).peer.certificate


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_behind_a_proxy_the_address_is_that_of_the_proxy(
    scheme: str, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with (
        ScriptedServer(each(name_target), context=server_context) as server,
        ScriptedServer(HttpProxy(server.address), context=server_context) as proxy,
        ConnectionPool(proxy=f"https://localhost:{proxy.port}", ssl_context=client_context) as pool,
    ):
        peer = pool.get(f"{scheme}://localhost/").peer
        assert (peer.address, peer.port) == ("127.0.0.1", proxy.port)
        # The certificate of the proxy says nothing of a server without TLS.
        assert (peer.certificate is not None) == (scheme == "https")


def test_a_unix_socket_has_no_address(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with UnixServer(path, each(name_target)), ConnectionPool(unix_socket=path) as pool:
        assert pool.get(URL).peer == PeerInfo()


def test_what_comes_from_no_network_has_no_address() -> None:
    with MockPool(lambda request: b"body") as pool:
        assert pool.get(URL).peer is NO_PEER


def test_a_stream_of_a_client_and_its_error_tell_the_same(site: OpenSite) -> None:
    with (
        site(each(lambda peer, _: peer.respond(b"no", "404 Not Found"))) as here,
        here.pool.stream("GET", here.url()) as response,
    ):
        assert response.peer.port == here.server.port
        with pytest.raises(HTTPStatusError) as caught:
            response.raise_for_status()
        assert caught.value.response.peer is response.peer


def test_a_stream_of_an_async_client_tells_the_same() -> None:
    async def peer_of(url: str) -> PeerInfo:
        async with AsyncClient() as client, client.stream("GET", url) as response:
            return response.peer

    with ScriptedServer(each(name_target)) as server:
        assert asyncio.run(peer_of(f"http://127.0.0.1:{server.port}/")).port == server.port


def test_it_is_known_when_the_connection_has_ended_and_can_be_pickled() -> None:
    with open_site(lambda peer: name_target(peer, peer.request())) as here:
        response = here.pool.get(here.url())
        port = here.server.port
    assert pickle.loads(pickle.dumps(response)).peer == PeerInfo("127.0.0.1", port)
