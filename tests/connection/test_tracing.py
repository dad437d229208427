"""DUGONG_TRACEFILE: what is in a trace, what is not, and whose file it is."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dugong import ConnectionClosed, ConnectionPool, HTTPConnection
from dugong.connection.tracing import Masking, TracingTransport, traced
from dugong.connection.transport import PlainTransport
from tests.support.fork import holds_in_child
from tests.support.server import Peer, ScriptedServer


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def plain(pair: tuple[socket.socket, socket.socket]) -> PlainTransport:
    return PlainTransport(pair[0])


# --- what is in it --------------------------------------------------------------------------------


def test_dropping_a_trace_closes_its_file_and_drops_what_it_traces(
    plain: PlainTransport, tmp_path: Path
) -> None:
    transport = TracingTransport(plain, str(tmp_path / "trace"))
    plain._send_lock.acquire()
    transport.drop()
    assert not os.path.exists("/proc/self/fd") or "trace" not in open_files()
    with pytest.raises(ConnectionClosed):
        plain.send(b"data")


def test_without_the_variable_nothing_is_traced(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[socket.socket, socket.socket]
) -> None:
    monkeypatch.delenv("DUGONG_TRACEFILE", raising=False)
    transport = PlainTransport(pair[0])
    assert traced(transport) is transport


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_trace_holds_exactly_what_was_sent_and_received(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tls: bool,
    server_context: Any,
    client_context: Any,
) -> None:
    monkeypatch.setenv("DUGONG_TRACEFILE", str(tmp_path / "100%-%d"))
    sent: list[bytes] = []
    response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"

    def script(peer: Peer) -> None:
        for _ in range(2):
            request = peer.request()
            sent.append(request.head + request.body)
            peer.send(response)

    contexts = (server_context, client_context) if tls else (None, None)
    with (
        ScriptedServer(script, context=contexts[0]) as server,
        HTTPConnection(*server.address, ssl_context=contexts[1]) as conn,
    ):
        for _ in range(2):
            conn.send_request("PUT", "/", body=b"\0binary\xff")
            conn.read_response()
            assert conn.readall() == b"abc"
        (file,) = tmp_path.iterdir()
        assert file.read_bytes() == sent[0] + response + sent[1] + response  # unbuffered


def test_each_connection_has_a_trace_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DUGONG_TRACEFILE", str(tmp_path / "trace-%d"))

    def script(peer: Peer) -> None:
        peer.request()
        peer.respond()

    with (
        ScriptedServer(script, repeat=True) as server,
        HTTPConnection(*server.address) as conn,
    ):
        for i in range(5):
            conn.send_request("GET", f"/{i}")
            conn.read_response()
            conn.disconnect()
    traces = [file.read_bytes() for file in tmp_path.glob("trace-*")]
    assert sorted(trace[:6] for trace in traces) == [b"GET /%d" % i for i in range(5)]


# --- secrets --------------------------------------------------------------------------------------

HEAD = (
    b"GET / HTTP/1.1\r\nHost: h\r\nAuthorization: Basic secret\r\naccept: */*\r\n"
    b"cookie:secret=1\r\nCookie : secret\r\nProxy-AUTHORIZATION:\tBasic\r\n secret\r\n\tsecret\r\n"
    b"Authorization-Info: shown\r\nX-Cookie: shown\r\nCookies: shown\r\n\r\n"
    b"Set-Cookie: secret\nthe body: shown, authorization: shown\nau"
)
MASKED = (
    b"GET / HTTP/1.1\r\nHost: h\r\nAuthorization: <masked>\r\naccept: */*\r\n"
    b"cookie: <masked>\r\nCookie : <masked>\r\nProxy-AUTHORIZATION: <masked>\r\n\r\n\r\n"
    b"Authorization-Info: shown\r\nX-Cookie: shown\r\nCookies: shown\r\n\r\n"
    b"Set-Cookie: <masked>\nthe body: shown, authorization: shown\nau"
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 50, 1000])
def test_the_values_of_secret_fields_are_masked_however_they_are_cut(size: int) -> None:
    masking = Masking()
    shown = b"".join(masking(HEAD[i : i + size]) for i in range(0, len(HEAD), size))
    shown += masking.rest()
    assert shown == MASKED
    assert masking.rest() == b""


def test_each_cut_in_two_gives_the_same() -> None:
    for i in range(len(HEAD)):
        masking = Masking()
        assert masking(HEAD[:i]) + masking(HEAD[i:]) + masking.rest() == MASKED


@pytest.mark.parametrize(
    "data", [b"", b"\0\xff" * 1000, b"\r\n\r\n\n\r", b"a" * 100_000, b"cookie", b"cookie \t x: y"]
)
def test_everything_else_is_shown_as_it_is(data: bytes) -> None:
    masking = Masking()
    assert masking(data) + masking.rest() == data


def test_what_is_kept_back_is_little() -> None:
    masking = Masking()
    shown = sum(len(masking(b" " * 1000)) for _ in range(10)) if masking(b"cookie") == b"" else 0
    assert len(masking.rest()) < 3000
    assert shown > 5000


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_trace_holds_no_credentials(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tls: bool,
    server_context: Any,
    client_context: Any,
) -> None:
    monkeypatch.setenv("DUGONG_TRACEFILE", str(tmp_path / "trace-%d"))

    def script(peer: Peer) -> None:
        assert b"secret" in peer.request().head
        peer.respond(b"body", headers="Set-Cookie: session=secret\r\n")

    headers = {"Authorization": "Bearer secret", "Cookie": "a=secret"}
    contexts = (server_context, client_context) if tls else (None, None)
    scheme = "https" if tls else "http"
    with ScriptedServer(script, script, context=contexts[0]) as server:
        with HTTPConnection(*server.address, ssl_context=contexts[1]) as conn:
            conn.send_request("GET", "/connection", headers=headers)
            conn.read_response()
            assert conn.readall() == b"body"
        with ConnectionPool(ssl_context=contexts[1], headers=headers) as pool:
            pool.get(f"{scheme}://127.0.0.1:{server.port}/pool")
    traces = [file.read_bytes() for file in tmp_path.iterdir()]
    assert len(traces) == 2
    for trace in traces:  # what two threads do may stand there in either order
        assert (b"GET /connection " in trace) is not (b"GET /pool " in trace)
        assert b"secret" not in trace
        assert trace.count(b": <masked>") == 3
        assert b"\r\n\r\nbody" in trace


# --- whose file it is -----------------------------------------------------------------------------


def open_files() -> set[str]:
    """Return the names of the files that this process has open."""
    names = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            names.add(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        except OSError:
            pass  # the descriptor of the listing itself
    return names


def trace_something(path: Path, data: bytes = b"traced") -> None:
    """Trace *data* to *path*."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport = TracingTransport(PlainTransport(ours), str(path))
        transport.send(data)
        transport.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_its_owner_can_read_a_trace(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        trace_something(tmp_path / "trace")
    finally:
        os.umask(old)
    assert mode(tmp_path / "trace") == 0o600


def test_a_trace_that_is_there_goes_on_and_is_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_bytes(b"before, ")
    path.chmod(0o644)
    trace_something(path)
    assert path.read_bytes() == b"before, traced"
    assert mode(path) == 0o600


def test_no_link_is_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    (tmp_path / "symbolic").symlink_to(precious)
    (tmp_path / "hard").hardlink_to(precious)
    (tmp_path / "dangling").symlink_to(tmp_path / "new")
    for name in ("symbolic", "hard", "dangling"):
        with pytest.raises(OSError):  # noqa: PT011  # systems differ in which
            trace_something(tmp_path / name)
    assert precious.read_bytes() == b"precious"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["fifo", "directory"])
def test_what_is_no_file_is_not_written_to(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(OSError):  # noqa: PT011  # systems differ in which
        trace_something(path)


def test_a_forked_child_has_traces_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUGONG_TRACEFILE", str(tmp_path / "trace"))

    def trace(data: bytes) -> bool:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            transport = traced(PlainTransport(ours))
            transport.send(data)
            transport.close()
        return True

    trace(b"parent")
    assert holds_in_child(lambda: trace(b"child"))
    own = tmp_path / "trace"
    (other,) = (path for path in tmp_path.iterdir() if path != own)
    assert own.read_bytes() == b"parent"
    assert other.read_bytes() == b"child"
    assert other.name.startswith("trace.")
