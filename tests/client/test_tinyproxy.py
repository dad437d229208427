"""Through tinyproxy, a proxy that was not written by us."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dugong import Client, ProxyError
from tests.support.client import Page, Place

BODY = bytes(range(256)) * 4096

CONFIGURATION = """
Port {port}
Listen 127.0.0.1
Timeout 60
MaxClients 50
ConnectPort {tunnel}
BasicAuth me secret
LogLevel Info
"""


@contextmanager
def tinyproxy(path: str, directory: Path, tunnel: int) -> Iterator[str]:
    """Run tinyproxy, which makes tunnels to the port *tunnel* only, and yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    configuration = directory / "tinyproxy.conf"
    configuration.write_text(CONFIGURATION.format(port=port, tunnel=tunnel))
    with subprocess.Popen(
        [path, "-d", "-c", str(configuration)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as proxy:
        try:
            assert proxy.stdout is not None
            started = any("accepting connections" in line.lower() for line in proxy.stdout)
            assert started, f"tinyproxy ends with {proxy.wait()}"
            yield f"127.0.0.1:{port}"
        finally:
            proxy.kill()


def pages() -> dict[str, Page]:
    return {"/a": Page(BODY), "/b": Page(b"b")}


@pytest.fixture
def plain() -> Iterator[Place]:
    """A server without TLS."""
    place = Place(pages())
    with place.server:
        yield place


@pytest.fixture
def tls(server_context: ssl.SSLContext) -> Iterator[Place]:
    """A server with TLS."""
    place = Place(pages(), server_context)
    with place.server:
        yield place


@pytest.fixture
def address(tinyproxy_path: str, tmp_path: Path, tls: Place) -> Iterator[str]:
    """The address of a proxy that makes tunnels to the server with TLS only."""
    with tinyproxy(tinyproxy_path, tmp_path, tls.server.port) as address:
        yield address


def test_requests_go_through_it(
    address: str, plain: Place, tls: Place, client_context: ssl.SSLContext
) -> None:
    secure = f"https://localhost:{tls.server.port}"
    urls = [plain.url("/a"), f"{secure}/a", plain.url("/b"), f"{secure}/b"]
    with Client(proxy=f"http://me:secret@{address}", ssl_context=client_context) as client:
        assert [response.body for response in client.map(urls)] == [BODY, BODY, b"b", b"b"]
        assert client.put(f"{secure}/b", body=BODY).status == 200
    for place in (plain, tls):
        assert all("proxy-authorization" not in request.headers for request in place.requests)
    assert tls.requests[-1].body == BODY


def test_a_wrong_password_is_told(address: str, plain: Place, tls: Place) -> None:
    with Client(proxy=f"http://me:wrong@{address}") as client:
        assert client.get(plain.url("/b")).status in (401, 407)  # older ones say 401
        with pytest.raises(ProxyError, match="refused the tunnel") as caught:
            client.get(f"https://localhost:{tls.server.port}/")
    assert caught.value.status in (401, 407)
    assert plain.requests == []
    assert tls.requests == []


def test_a_tunnel_that_it_refuses_is_told(address: str, plain: Place) -> None:
    with (
        Client(proxy=f"http://me:secret@{address}") as client,
        pytest.raises(ProxyError, match="refused the tunnel") as caught,
    ):
        client.get(f"https://localhost:{plain.server.port}/")
    assert caught.value.status == 403
