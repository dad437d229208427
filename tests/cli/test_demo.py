"""`demo`: what it says when all is well, and that it notices when it is not."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from dugong import ConnectionPool, HTTPConnection
from dugong.cli.demo import (
    CheckFailed,
    accepted_upload,
    all_pipelined,
    demo,
    one_by_one,
    pooled,
    refused_upload,
    run,
)
from dugong.cli.demo_server import MAX_UPLOAD
from tests.support.server import Peer, Script, ScriptedServer

SHA256_OF_A = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"


def test_everything_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo(40) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [re.split(r"  +", line) for line in lines[3:8]]
    assert [row[:2] for row in rows] == [
        ["GET, one at a time", "40"],
        ["GET, pipelined", "40"],
        ["GET, a pool of 6 connections", "40"],
        ["upload accepted after 100-continue", "1"],
        ["upload refused before its body", "1"],
    ]
    for row in rows[1:3]:
        assert re.fullmatch(r"\d+x as fast", row[-1])
    assert "FAILED" not in "".join(lines)


def test_every_step_that_fails_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    def script(peer: Peer) -> None:
        try:
            peer.head()
        except EOFError:
            return  # the pool was closed before it had used this connection
        peer.respond(status="503 Not Today")

    with ScriptedServer(script, repeat=True) as server:
        assert run(*server.address, objects=2) == 1
    out = capsys.readouterr().out
    failed = [line for line in out.splitlines() if line.startswith("FAILED: ")]
    assert failed == [
        "FAILED: GET, one at a time: /objects/0: status is 503, not 200",
        "FAILED: GET, pipelined: /objects/0: status is 503, not 200",
        "FAILED: GET, a pool of 6 connections: /objects/0: status is 503, not 200",
        "FAILED: upload accepted after 100-continue: status before the body is 503, not 100",
        "FAILED: upload refused before its body: status before the body is 503, not 413",
    ]
    assert "Every body had" not in out


def test_a_connection_that_ends_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    def script(peer: Peer) -> None:
        try:
            peer.head()
        except EOFError:
            pass  # the pool was closed before it had used this connection

    with ScriptedServer(script, repeat=True) as server:
        assert run(*server.address, objects=2) == 1
    assert capsys.readouterr().out.count("FAILED: ") == 5


@pytest.mark.parametrize("fetch", [one_by_one, all_pipelined])
def test_every_object_is_fetched_and_compared(
    fetch: Callable[[HTTPConnection, dict[str, str]], int],
) -> None:
    def script(peer: Peer) -> None:
        for i in range(10):
            assert peer.head().target == f"/{i}"
            peer.respond(b"a")

    digests = {f"/{i}": SHA256_OF_A for i in range(10)}
    with ScriptedServer(script) as server, HTTPConnection(*server.address) as conn:
        assert fetch(conn, digests) == 10


@pytest.mark.parametrize("fetch", [one_by_one, all_pipelined])
def test_a_wrong_body_is_noticed(
    fetch: Callable[[HTTPConnection, dict[str, str]], int],
) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.respond(b"a")
        peer.head()
        peer.respond(b"b")
        peer.until_eof()

    digests = {f"/{i}": SHA256_OF_A for i in range(3)}
    with (
        ScriptedServer(script) as server,
        HTTPConnection(*server.address) as conn,
        pytest.raises(CheckFailed, match=r"^/1: SHA-256 is 3e23e816.*, not ca978112"),
    ):
        fetch(conn, digests)


def test_the_pool_fetches_and_compares_every_object() -> None:
    def script(peer: Peer) -> None:
        try:
            while peer.head():
                peer.respond(b"a")
        except EOFError:
            pass  # the pool has been closed

    digests = {f"/{i}": SHA256_OF_A for i in range(50)}
    with ScriptedServer(script, repeat=True) as server, ConnectionPool() as pool:
        assert pooled(pool, "http://{}:{}".format(*server.address), digests) == 50


def test_a_wrong_body_out_of_the_pool_is_noticed() -> None:
    def script(peer: Peer) -> None:
        try:
            while target := peer.head().target:
                peer.respond(b"b" if target == "/7" else b"a")
        except (EOFError, ConnectionError):
            pass  # the pool has been closed

    digests = {f"/{i}": SHA256_OF_A for i in range(10)}
    with (
        ScriptedServer(script, repeat=True) as server,
        ConnectionPool() as pool,
        pytest.raises(CheckFailed, match=r"^/7: SHA-256 is 3e23e816.*, not ca978112"),
    ):
        pooled(pool, "http://{}:{}".format(*server.address), digests)


def wrong_digest(peer: Peer) -> None:
    head = peer.head()
    peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    peer.exactly(int(head.headers["content-length"]))
    peer.respond(b"0" * 64, status="201 Created")


def no_100_response(peer: Peer) -> None:
    peer.head()
    peer.respond(SHA256_OF_A.encode(), status="201 Created")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (wrong_digest, "SHA-256 that the server found is 0000"),
        (no_100_response, "status before the body is 201, not 100"),
    ],
)
def test_an_upload_that_went_wrong_is_noticed(script: Script, message: str) -> None:
    with (
        ScriptedServer(script) as server,
        HTTPConnection(*server.address) as conn,
        pytest.raises(CheckFailed, match=message),
    ):
        accepted_upload(conn)


def refuse(peer: Peer) -> None:
    assert int(peer.head().headers["content-length"]) > MAX_UPLOAD
    peer.respond(status="413 Content Too Large")
    assert peer.until_eof() == b""


def test_a_refused_upload_sends_no_body_and_the_connection_serves_the_next() -> None:
    def next_request(peer: Peer) -> None:
        assert peer.head().target == "/uploads/unasked"
        peer.respond(b"0")

    with ScriptedServer(refuse, next_request) as server:
        with HTTPConnection(*server.address) as conn:
            assert refused_upload(conn) == 0
        assert server.connections == 2


def test_a_body_that_was_sent_though_refused_is_noticed() -> None:
    def next_request(peer: Peer) -> None:
        peer.head()
        peer.respond(b"17")

    with (
        ScriptedServer(refuse, next_request) as server,
        HTTPConnection(*server.address) as conn,
        pytest.raises(CheckFailed, match="number of bytes sent after the refusal is b'17'"),
    ):
        refused_upload(conn)
