"""Responses of a pool as those of urllib3."""

from __future__ import annotations

import gc
import gzip
import importlib
import io
import sys
import threading
from typing import Any

import pytest

from dugong import ConnectionClosed, ConnectionPool, ConnectionTimedOut
from tests.support.server import Peer, Script, ScriptedServer

urllib3 = pytest.importorskip("urllib3")
module = pytest.importorskip("dugong.adapters.urllib3_response")
ProtocolError = urllib3.exceptions.ProtocolError
ReadTimeoutError = urllib3.exceptions.ReadTimeoutError

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def respond_with(data: bytes) -> Script:
    def script(peer: Peer) -> None:
        for _ in peer.requests():
            peer.send(data)

    return script


def response(body: bytes, headers: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


@pytest.mark.parametrize("adapter", ["requests", "botocore"])
def test_what_takes_the_place_of_urllib3_is_named_when_an_adapter_is_imported(
    monkeypatch: pytest.MonkeyPatch, adapter: str
) -> None:
    pytest.importorskip(adapter)

    class OtherResponse:
        """As that of urllib3-future."""

        def __init__(self, body: object, headers: object, status: int, version: int) -> None: ...

    monkeypatch.setattr(urllib3, "HTTPResponse", OtherResponse)
    monkeypatch.setattr(urllib3, "__version__", "2.25.904")
    for name in ("urllib3_response", adapter):
        monkeypatch.delitem(sys.modules, f"dugong.adapters.{name}", raising=False)
    with pytest.raises(ImportError, match=r"2\.25\.904 .* urllib3-future is installed") as caught:
        importlib.import_module(f"dugong.adapters.{adapter}")
    assert caught.value.name == "urllib3"


@pytest.mark.parametrize("streamed", [True, False])
def test_status_headers_and_body_are_those_of_the_response(streamed: bool) -> None:
    headers = "X-Two: a\r\nSet-Cookie: c=1\r\nX-Two: b\r\nSet-Cookie: d=2\r\n"
    with (
        ScriptedServer(respond_with(response(b"body", headers))) as server,
        ConnectionPool() as pool,
    ):
        if streamed:
            got = module.entered(pool.stream("GET", server.url("/a?b")))
        else:
            got = module.whole(pool.get(server.url("/a?b")))
        assert (got.status, got.reason, got.version) == (200, "OK", 11)
        assert got.headers["x-two"] == "a, b"
        assert got.headers.getlist("set-cookie") == ["c=1", "d=2"]
        assert got.url == server.url("/a?b")
        assert not got.closed
        assert got.read(3) == b"bod"
        assert got.read(3) == b"y"
        assert got.closed
        assert got.read(3) == b""


@pytest.mark.parametrize("streamed", [True, False])
def test_an_empty_body_is_an_open_file_until_its_end_was_read(streamed: bool) -> None:
    with ScriptedServer(respond_with(response(b""))) as server, ConnectionPool() as pool:

        def empty() -> Any:
            if streamed:
                return module.entered(pool.stream("GET", server.url()))
            return module.whole(pool.get(server.url()))

        assert io.BufferedReader(empty()).read() == b""
        assert list(empty().stream(10)) == list(empty().stream(None)) == []
        for read in (lambda got: got.read(), lambda got: got.read1(5), lambda got: got.close()):
            got = empty()
            assert pool.statistics().in_flight == 0
            assert not got.closed
            assert got.read(0) == b""
            assert not got.closed
            read(got)
            assert got.closed


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("amt", [None, 1, 7, 100_000])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_coded_body_is_decoded_by_urllib3(streamed: bool, amt: int | None, chunked: bool) -> None:
    text = bytes(range(256)) * 100
    coded = gzip.compress(text)
    data = response(coded, "Content-Encoding: gzip\r\n")
    if chunked:
        data = CHUNKED[:-2] + b"Content-Encoding: gzip\r\n\r\n"
        for start in range(0, len(coded), 50):
            piece = coded[start : start + 50]
            data += b"%x\r\n%s\r\n" % (len(piece), piece)
        data += b"0\r\n\r\n"
    with ScriptedServer(respond_with(data)) as server, ConnectionPool() as pool:
        if streamed:
            got = module.entered(pool.stream("GET", server.url()))
        else:
            got = module.whole(pool.get(server.url()))
        pieces = list(got.stream(amt, decode_content=True))
        assert b"".join(pieces) == text
        assert amt is None or max(map(len, pieces)) <= amt
        assert got.closed


def test_a_body_that_is_not_decoded_is_given_as_it_is() -> None:
    coded = gzip.compress(b"text")
    with (
        ScriptedServer(respond_with(response(coded, "Content-Encoding: gzip\r\n"))) as server,
        ConnectionPool() as pool,
    ):
        assert module.entered(pool.stream("GET", server.url())).read() == coded
        assert module.entered(pool.stream("GET", server.url()), True).read() == b"text"
        assert module.entered(pool.stream("GET", server.url()), True).data == b"text"


def test_a_chunked_body_is_given_as_it_comes() -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED + b"5\r\nfirst\r\n")
        assert go_on.wait(10)
        peer.send(b"6\r\nsecond\r\n0\r\n\r\n")

    with ScriptedServer(script) as server, ConnectionPool() as pool:
        got = module.entered(pool.stream("GET", server.url()))
        pieces = got.stream(512)
        assert next(pieces) == b"first"
        go_on.set()
        assert list(pieces) == [b"second"]


def test_a_body_without_chunks_comes_in_pieces_of_the_size_that_is_asked_for() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send_bytewise(response(b"0123456789"))

    with ScriptedServer(script) as server, ConnectionPool() as pool:
        got = module.entered(pool.stream("GET", server.url()))
        assert list(got.stream(4)) == [b"0123", b"4567", b"89"]


@pytest.mark.parametrize("cut", [response(b"0123456789")[:-6], CHUNKED + b"a\r\n0123"])
def test_what_has_come_before_the_cut_is_given_out(cut: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(cut)

    with ScriptedServer(script) as server, ConnectionPool() as pool:
        got = module.entered(pool.stream("GET", server.url()))
        assert got.read(8) == b"0123"
        assert not got.closed
        with pytest.raises(ProtocolError, match="Connection broken") as caught:
            got.read(8)
        assert isinstance(caught.value.__cause__, ConnectionClosed)
        assert got.closed
        assert pool.statistics().connections == 0


@pytest.mark.parametrize("amt", [1000, 300_000, 1_000_000, 2_000_000, 5_000_000])
@pytest.mark.parametrize("chunked", [True, False])
def test_pieces_of_any_size_are_whole_up_to_the_cut(amt: int, chunked: bool) -> None:
    body = bytes(range(250)) * 10_000

    def script(peer: Peer) -> None:
        peer.request()
        if chunked:
            peer.send(CHUNKED)
        else:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n")
        for start in range(0, len(body), 70_000):
            piece = body[start : start + 70_000]
            peer.send(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)

    with ScriptedServer(script) as server, ConnectionPool() as pool:
        got = module.entered(pool.stream("GET", server.url()))
        pieces: list[bytes] = []
        with pytest.raises(ProtocolError):
            pieces.extend(iter(lambda: got.read(amt), b""))
        assert b"".join(pieces) == body
        assert {len(piece) for piece in pieces[:-1]} <= {amt}
        assert got.closed


def test_what_has_come_is_given_out_without_a_wait_for_more() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(response(bytes(100_000))[:-50_000])
        peer.until_eof()

    with ScriptedServer(script) as server, ConnectionPool() as pool:
        got = module.entered(pool.stream("GET", server.url()))
        assert [len(got.read(10_000)) for _ in range(4)] == [10_000] * 4
        assert len(got.read1()) <= 10_000
        got.close()
        assert got.closed


def test_reading_all_of_a_body_that_is_cut_fails() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(response(b"0123456789")[:-6])

    with ScriptedServer(script) as server, ConnectionPool() as pool:
        got = module.entered(pool.stream("GET", server.url()))
        with pytest.raises(ProtocolError):
            got.read()


def test_a_body_that_does_not_come_is_a_read_timeout() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(response(b"0123456789")[:-6])
        peer.until_eof()

    with ScriptedServer(script) as server, ConnectionPool() as pool:
        got = module.entered(pool.stream("GET", server.url("/path?secret"), timeout=0.05))
        with pytest.raises(ReadTimeoutError, match="Read timed out") as caught:
            got.read()
        assert isinstance(caught.value.__cause__, ConnectionTimedOut)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_response_that_was_read_gives_its_connection_back(method: str) -> None:
    body = b"" if method == "HEAD" else b"body"
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + body
    with (
        ScriptedServer(respond_with(data)) as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        for _ in range(3):
            got = module.entered(pool.stream(method, server.url()))
            if method == "GET":
                assert got.read(4) == body
        assert server.connections == 1


def test_a_response_that_is_closed_or_collected_gives_its_connection_back() -> None:
    with (
        ScriptedServer(respond_with(response(b"body"))) as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        got = module.entered(pool.stream("GET", server.url()))
        got.close()
        assert got.closed
        got = module.entered(pool.stream("GET", server.url()))
        del got
        gc.collect()
        assert module.entered(pool.stream("GET", server.url())).read() == b"body"


def test_a_large_body_in_memory_is_not_copied_for_each_piece() -> None:
    body = bytes(3_000_000)
    with ScriptedServer(respond_with(response(body))) as server, ConnectionPool() as pool:
        got = module.whole(pool.get(server.url()))
        assert sum(map(len, got.stream(10))) == len(body)  # takes minutes if it is
