"""Against a real nginx: what a script of ours might get wrong in the same way as we do."""

from __future__ import annotations

import gzip
import ssl
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest
import trustme

from dugong import BodyFollowing, ConnectionClosed, HTTPConnection
from tests.support.nginx import Nginx, nginx

SETTINGS = """
    keepalive_requests 100000;
    client_max_body_size 1m;
    location /dav/ {
        dav_methods PUT DELETE;
        create_full_put_path on;
        client_max_body_size 64m;
    }
    location /refused/ { client_max_body_size 1k; dav_methods PUT; }
    location /three/ { keepalive_requests 3; alias ROOT/; }
    location /zipped/ { gzip on; gzip_min_length 1; gzip_types text/plain; alias ROOT/; }
    location /old/ {
        chunked_transfer_encoding off;
        gzip on; gzip_min_length 1; gzip_types text/plain;
        alias ROOT/;
    }
    location /hangs-up/ { client_max_body_size 1k; dav_methods PUT; lingering_time 0; }
    location /moved { return 301 /elsewhere; }
    location /empty { return 204; }
"""


@pytest.fixture(scope="module")
def server(
    nginx_path: str, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Nginx]:
    directory = tmp_path_factory.mktemp("nginx")
    settings = SETTINGS.replace("ROOT", str(directory / "root"))
    with nginx(nginx_path, directory, authority, settings) as server:
        random = Random(3)
        for i in range(50):
            (server.root / f"{i}").write_bytes(random.randbytes(i * 100))
        (server.root / "text.txt").write_bytes(b"all work and no play\n" * 1000)
        (server.root / "large").write_bytes(random.randbytes(16 * 2**20))
        yield server


@pytest.fixture(params=["plain", "tls"])
def conn(
    request: pytest.FixtureRequest, server: Nginx, client_context: ssl.SSLContext
) -> Iterator[HTTPConnection]:
    tls = request.param == "tls"
    with HTTPConnection(
        "127.0.0.1",
        server.tls_port if tls else server.port,
        ssl_context=client_context if tls else None,
    ) as conn:
        conn.timeout = 20
        yield conn


def content(server: Nginx, name: object) -> bytes:
    return Path(server.root / str(name)).read_bytes()


def local_port(conn: HTTPConnection) -> int:
    transport = conn._session.state.transport
    assert transport is not None
    port: int = transport.sock.getsockname()[1]
    return port


def write_pieces(conn: HTTPConnection) -> None:
    """Write a gibibyte."""
    piece = bytes(2**20)
    for _ in range(2**10):
        conn.write(piece)


def test_one_connection_is_kept_for_many_requests(conn: HTTPConnection, server: Nginx) -> None:
    ports = set()
    for i in range(50):
        conn.send_request("GET", f"/{i}")
        ports.add(local_port(conn))
        response = conn.read_response()
        assert (response.status, response.length) == (200, i * 100)
        assert conn.readall() == content(server, i)
    assert len(ports) == 1


def test_thousands_of_requests_are_pipelined_by_two_threads(
    conn: HTTPConnection, server: Nginx
) -> None:
    count = 3000
    bodies = [content(server, i) for i in range(50)]
    conn.connect()
    under_way = threading.Semaphore(0)
    failed: list[BaseException] = []

    def send() -> None:
        try:
            for i in range(count):
                conn.send_request("GET", f"/{i % 50}?{i}")
                under_way.release()
        except BaseException as exc:
            failed.append(exc)
            under_way.release(count)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        for i in range(count):
            under_way.acquire()
            response = conn.read_response()
            assert (response.status, response.path) == (200, f"/{i % 50}?{i}")
            assert conn.readall() == bodies[i % 50]
    finally:
        if failed:
            raise failed[0]
        conn.disconnect()  # so that the sender ends whatever has happened
        sender.join()


def test_a_large_body_arrives_in_our_buffer(conn: HTTPConnection, server: Nginx) -> None:
    conn.send_request("GET", "/large")
    conn.read_response()
    digest = sha256()
    buffer = bytearray(1_000_000)
    while got := conn.readinto(buffer):
        digest.update(memoryview(buffer)[:got])
    assert digest.digest() == sha256(content(server, "large")).digest()


def test_an_upload_that_the_server_asks_for_is_stored(conn: HTTPConnection, server: Nginx) -> None:
    data = Random(4).randbytes(3_000_000)
    conn.send_request("PUT", "/dav/asked", body=BodyFollowing(len(data)), expect100=True)
    assert conn.read_response().status == 100
    conn.write(data)
    response = conn.read_response()
    conn.discard()
    assert response.status in (201, 204)
    assert content(server, "dav/asked") == data


def test_an_upload_that_the_server_refuses_is_not_sent(conn: HTTPConnection) -> None:
    conn.send_request("PUT", "/refused/x", body=BodyFollowing(100_000), expect100=True)
    response = conn.read_response()
    assert response.status == 413
    assert b"413" in conn.readall()
    conn.send_request("GET", "/1")  # over a new connection, which is made silently
    assert conn.read_response().status == 200
    assert len(conn.readall()) == 100


def test_a_refusal_with_which_the_server_hangs_up_can_be_read(conn: HTTPConnection) -> None:
    conn.send_request("PUT", "/hangs-up/x", body=BodyFollowing(2**30))
    with pytest.raises(ConnectionClosed):  # long before a gibibyte is through
        write_pieces(conn)
    response = conn.read_response()
    assert response.status == 413
    assert b"413" in conn.readall()


def test_an_early_refusal_stops_a_sender_in_another_thread(conn: HTTPConnection) -> None:
    conn.connect()
    announced = threading.Event()
    raised: list[BaseException] = []

    def send() -> None:
        try:
            conn.send_request("PUT", "/refused/x", body=BodyFollowing(2**30))
            announced.set()
            write_pieces(conn)
        except BaseException as exc:
            raised.append(exc)

    sender = threading.Thread(target=send)
    sender.start()
    announced.wait()
    response = conn.read_response()
    assert response.status == 413
    assert b"413" in conn.readall()
    sender.join()
    assert isinstance(raised[0], ConnectionClosed)


def test_an_upload_in_chunks_is_stored(conn: HTTPConnection, server: Nginx) -> None:
    random = Random(5)
    pieces = [random.randbytes(size) for size in (1, 10, 0, 100_000, 17, 300_000)]
    conn.send_request("PUT", "/dav/chunked", body=BodyFollowing())
    for piece in pieces:
        conn.write(piece)
    conn.write_eof()
    assert conn.read_response().status in (201, 204)
    conn.discard()
    assert content(server, "dav/chunked") == b"".join(pieces)


def test_a_server_that_ends_the_connection_in_mid_pipeline_responds_to_no_other(
    conn: HTTPConnection, server: Nginx
) -> None:
    for _ in range(3):
        paths = [f"/three/{i}" for i in range(10, 18)]
        try:
            for path in paths:
                conn.send_request("GET", path)
        except ConnectionClosed:
            pass  # it may have ended before the last was sent
        for path in paths[:3]:
            response = conn.read_response()
            assert (response.status, response.path) == (200, path)
            assert conn.readall() == content(server, path.removeprefix("/three/"))
        while conn.response_pending():
            with pytest.raises(ConnectionClosed):
                conn.read_response()


def test_responses_without_a_body_are_told_from_those_with_one(
    conn: HTTPConnection, server: Nginx
) -> None:
    conn.send_request("HEAD", "/text.txt")
    conn.send_request("GET", "/text.txt")
    conn.send_request("HEAD", "/large")
    conn.send_request("GET", "/empty")
    conn.send_request("HEAD", "/no-such-thing")
    conn.send_request("GET", "/1")
    head = conn.read_response()
    assert conn.readall() == b""
    assert conn.read_response().headers["Content-Length"] == head.headers["Content-Length"]
    assert conn.readall() == content(server, "text.txt")
    assert conn.read_response().headers["Content-Length"] == str(16 * 2**20)
    assert conn.read(10) == b""
    assert (conn.read_response().status, conn.readall()) == (204, b"")
    assert (conn.read_response().status, conn.readall()) == (404, b"")
    assert (conn.read_response().status, conn.readall()) == (200, content(server, 1))


def test_what_has_not_changed_has_no_body(conn: HTTPConnection, server: Nginx) -> None:
    conn.send_request("GET", "/text.txt")
    etag = conn.read_response().headers["ETag"]
    assert etag is not None
    conn.discard()
    conn.send_request("GET", "/text.txt", headers={"If-None-Match": etag})
    conn.send_request("GET", "/2")
    assert (conn.read_response().status, conn.readall()) == (304, b"")
    assert (conn.read_response().status, conn.readall()) == (200, content(server, 2))


def test_a_range_is_a_part(conn: HTTPConnection, server: Nginx) -> None:
    conn.send_request("GET", "/large", headers={"Range": "bytes=1000-1999"})
    response = conn.read_response()
    assert (response.status, response.length) == (206, 1000)
    assert conn.readall() == content(server, "large")[1000:2000]


@pytest.mark.parametrize("path", ["/zipped/text.txt", "/text.txt"])
@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_content_codings_are_left_to_the_caller(
    conn: HTTPConnection, server: Nginx, path: str, coding: str
) -> None:
    headers = {"Accept-Encoding": coding} if coding == "gzip" else None
    zipped = coding == "gzip" and path.startswith("/zipped")
    for _ in range(3):
        conn.send_request("GET", path, headers=headers)
    for _ in range(3):
        response = conn.read_response()
        body = conn.readall()
        assert response.headers["Content-Encoding"] == ("gzip" if zipped else None)
        assert response.headers["Transfer-Encoding"] == ("chunked" if zipped else None)
        assert (gzip.decompress(body) if zipped else body) == content(server, "text.txt")


def test_a_body_without_a_length_ends_with_the_connection(
    conn: HTTPConnection, server: Nginx
) -> None:
    for _ in range(2):
        conn.send_request("GET", "/old/text.txt", headers={"Accept-Encoding": "gzip"})
        response = conn.read_response()
        assert response.length is None
        assert "Transfer-Encoding" not in response.headers
        body = conn.readall()
        assert gzip.decompress(body) == content(server, "text.txt")


def test_errors_are_responses_like_others(conn: HTTPConnection) -> None:
    conn.send_request("GET", "/no-such-thing")
    conn.send_request("DELETE", "/1")
    conn.send_request("GET", "/moved")
    assert [(conn.read_response().status, bool(conn.readall())) for _ in range(3)] == [
        (404, True),
        (405, True),
        (301, True),
    ]


def test_a_request_to_close_is_followed_by_a_new_connection(conn: HTTPConnection) -> None:
    ports = set()
    for _ in range(3):
        conn.send_request("GET", "/1", headers={"Connection": "close"})
        ports.add(local_port(conn))
        assert conn.read_response().status == 200
        assert len(conn.readall()) == 100
    assert len(ports) == 3
