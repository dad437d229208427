"""What the *record* of a pool is given: the bytes of each exchange, as they were on the wire."""

from __future__ import annotations

import gzip
import io
import logging
import os
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dugong import (
    Client,
    ConnectionClosed,
    ConnectionPool,
    RecordedExchange,
    Request,
    RetryPolicy,
)
from dugong.pool.io import recording
from tests.support.fork import holds_in_child
from tests.support.pool import GONE, Site, each, name_target, open_site, wait_for
from tests.support.proxies import UnixServer
from tests.support.server import Peer, ReceivedRequest, ScriptedServer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\nX-Odd:   kept as it is  \r\n\r\n"
HEADS_ONLY = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ntransfer-ENCODING: chunked\r\n\r\n"
    b"3;name=value\r\nabc\r\n0004\r\ndefg\r\n0\r\nX-Trailer: yes\r\n\r\n"
)
PLAIN_CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.0 200 OK\r\n\r\nuntil the end"


class Kept(NamedTuple):
    """A `RecordedExchange`, and what was in its files."""

    exchange: RecordedExchange
    sent: bytes
    received: bytes


class Tape:
    """Keeps what a pool records."""

    def __init__(self) -> None:
        self.kept: list[Kept] = []

    def __call__(self, exchange: RecordedExchange) -> None:
        self.kept.append(Kept(exchange, exchange.sent.read(), exchange.received.read()))

    @property
    def sent(self) -> list[bytes]:
        return [kept.sent for kept in self.kept]

    @property
    def received(self) -> list[bytes]:
        return [kept.received for kept in self.kept]


@contextmanager
def recorded(*scripts: Any, **options: Any) -> Iterator[tuple[Site, Tape]]:
    """A server of *scripts*, and a pool that records on a tape."""
    tape = Tape()
    with open_site(*scripts, record=tape, **options) as site:
        yield site, tape


def answering(*responses: bytes) -> Any:
    """A script that sends one of *responses* to each request."""

    def script(peer: Peer) -> None:
        for response in responses:
            peer.request()
            peer.send(response)

    return script


def test_a_request_and_its_response_are_recorded_as_they_were_on_the_wire() -> None:
    heads: list[bytes] = []

    def script(peer: Peer) -> None:
        heads.append(peer.request().head)
        peer.send(OK)

    before = datetime.now(UTC)
    with recorded(script) as (site, tape):
        response = site.pool.get(site.url("/a?b=c"), headers={"X-Case": "Kept", "Cookie": "a=b"})
        (kept,) = tape.kept  # before the caller has the response
        assert response.body == b"ok"
    assert (kept.sent, kept.received) == (heads[0], OK)
    assert b"Cookie: a=b\r\n" in kept.sent
    assert kept.exchange.request is response.request
    assert before <= kept.exchange.started <= datetime.now(UTC)
    assert kept.exchange.started.utcoffset() == timedelta(0)
    assert kept.exchange.peer[:2] == site.server.address
    assert kept.exchange.is_request_whole
    assert kept.exchange.sent.closed
    assert kept.exchange.received.closed


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
def test_pipelined_responses_are_told_apart(
    tls: bool,
    bytewise: bool,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
) -> None:
    responses = [OK, CHUNKED, NO_CONTENT, HEADS_ONLY, PLAIN_CHUNKS, OK, CHUNKED, OK]
    methods = ["GET", "GET", "GET", "HEAD", "GET", "GET", "PUT", "GET"]
    heads: list[bytes] = []

    def script(peer: Peer) -> None:
        name_target(peer, peer.request())
        heads.extend(peer.request().head for _ in responses)
        data = b"".join(responses)
        if bytewise:
            peer.send_bytewise(data)
        else:
            peer.send(data)

    contexts: dict[str, Any] = {}
    if tls:
        contexts = {"server_context": server_context, "client_context": client_context}
    options = {"max_connections_per_host": 1, "pipeline_depth": 100}
    with recorded(script, **contexts, **options) as (site, tape):
        site.pool.get(site.url("/warm"))
        for host in site.pool._scheduler._core.hosts.values():
            host.pipelining.window = len(responses)
        futures = [site.pool.submit(method, site.url(f"/{n}")) for n, method in enumerate(methods)]
        bodies = [future.result().body for future in futures]
        assert bodies == [b"ok", b"abcdefg", b"", b"", b"abc", b"ok", b"abcdefg", b"ok"]
    kept = {each.exchange.request.target: each for each in tape.kept}
    assert [kept[f"/{n}"].received for n in range(len(responses))] == responses
    assert [kept[f"/{n}"].sent for n in range(len(responses))] == heads
    assert len(tape.kept) == len(responses) + 1


def test_a_body_that_ends_with_the_connection_is_whole() -> None:
    with recorded(answering(UNTIL_CLOSE)) as (site, tape):
        assert site.pool.get(site.url()).body == b"until the end"
    assert tape.received == [UNTIL_CLOSE]


def test_what_comes_behind_the_last_response_is_not_recorded() -> None:
    last = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    with recorded(answering(last + b"stray")) as (site, tape):
        assert site.pool.get(site.url()).body == b"ok"
    assert tape.received == [last]


def test_interim_responses_are_left_out() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
    with recorded(answering(interim + OK)) as (site, tape):
        site.pool.get(site.url())
    assert tape.received == [OK]


def test_a_content_coding_is_recorded_as_it_came() -> None:
    body = gzip.compress(b"hello" * 100)
    response = (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b") % (
        len(body),
        body,
    )
    tape = Tape()
    with (
        ScriptedServer(answering(response)) as server,
        Client(record=tape, trust_env=False) as client,
    ):
        assert client.get(f"http://{server.host}:{server.port}/").body == b"hello" * 100
    assert tape.received == [response]


def test_each_hop_of_a_redirect_is_an_exchange() -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n"
    tape = Tape()
    with (
        ScriptedServer(answering(moved, OK)) as server,
        Client(record=tape, trust_env=False) as client,
    ):
        assert client.get(f"http://{server.host}:{server.port}/here").body == b"ok"
    assert tape.received == [moved, OK]
    assert [kept.exchange.request.target for kept in tape.kept] == ["/here", "/there"]


# --- requests with a body -------------------------------------------------------------------------


def read_raw(peer: Peer, end: bytes, raw: list[bytes]) -> None:
    """Receive a request that ends with *end*; add its bytes to *raw*."""
    data = b""
    while not data.endswith(end):
        data += peer.exactly(1)
    raw.append(data)


@pytest.mark.parametrize("kind", ["bytes", "file", "chunks"])
def test_the_body_of_a_request_is_recorded_with_its_framing(kind: str) -> None:
    raw: list[bytes] = []

    def script(peer: Peer) -> None:
        read_raw(peer, b"0\r\nX-Sum: 1\r\n\r\n" if kind == "chunks" else b"the end", raw)
        peer.send(OK)

    options: dict[str, Any] = {}
    with tempfile.TemporaryFile() as file, recorded(script) as (site, tape):
        body: Any = b"to the end"
        if kind == "chunks":
            body, options["trailers"] = iter([b"to ", b"the end"]), {"X-Sum": "1"}
        elif kind == "file":
            file.write(body)
            file.seek(0)
            body = file
        site.pool.put(site.url(), body, **options)
        assert tape.sent == raw
    assert tape.kept[0].exchange.is_request_whole


def test_a_body_that_was_asked_for_is_recorded_without_the_100() -> None:
    raw: list[bytes] = []

    def script(peer: Peer) -> None:
        read_raw(peer, b"\r\n\r\n", raw)
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        read_raw(peer, b"body", raw)
        peer.send(OK)

    with recorded(script) as (site, tape):
        site.pool.put(site.url(), b"body", expect100=True)
    assert tape.sent == [b"".join(raw)]
    assert tape.received == [OK]


def test_a_body_that_was_refused_is_recorded_as_far_as_it_was_sent() -> None:
    refused = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n"
    raw: list[bytes] = []

    def script(peer: Peer) -> None:
        read_raw(peer, b"\r\n\r\n", raw)
        peer.send(refused)
        with_rest = peer.until_eof()
        assert with_rest == b""

    with recorded(script) as (site, tape):
        assert site.pool.put(site.url(), b"body", expect100=True).status == 413
    (kept,) = tape.kept
    assert (kept.sent, kept.received) == (raw[0], refused)
    assert not kept.exchange.is_request_whole


def test_an_early_response_is_recorded_when_the_request_has_ended() -> None:
    responded, is_recorded = threading.Event(), threading.Event()
    raw: list[bytes] = []

    def pieces() -> Iterator[bytes]:
        yield b"first"
        wait_for(responded)
        assert not is_recorded.is_set()
        yield b"last"

    def script(peer: Peer) -> None:
        read_raw(peer, b"first\r\n", raw)
        peer.send(OK)
        read_raw(peer, b"0\r\n\r\n", raw)

    tape = Tape()

    def record(exchange: RecordedExchange) -> None:
        tape(exchange)
        is_recorded.set()

    with open_site(script, record=record) as site:
        with site.pool.stream("POST", site.url(), body=pieces()) as response:
            assert response.read() == b"ok"
            responded.set()
        wait_for(is_recorded)
    assert tape.sent == [b"".join(raw)]
    assert tape.received == [OK]
    assert tape.kept[0].exchange.is_request_whole


# --- what is not recorded -------------------------------------------------------------------------


def test_an_attempt_without_a_response_is_not_recorded() -> None:
    policy = RetryPolicy(attempts=3, backoff=0)
    unavailable = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"

    def silent(peer: Peer) -> None:
        peer.request()

    with recorded(silent, answering(unavailable, OK), retry=policy) as (site, tape):
        assert len(site.pool.get(site.url()).attempts) == 2
    assert tape.received == [unavailable, OK]


@pytest.mark.parametrize(
    "part",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", PLAIN_CHUNKS[:-7], OK[:20]],
    ids=["length", "chunks", "head"],
)
def test_a_response_that_was_cut_short_is_not_recorded(part: bytes) -> None:
    with recorded(answering(part)) as (site, tape):
        with pytest.raises(ConnectionClosed):
            site.pool.get(site.url())
        assert tape.kept == []


def test_a_stream_is_recorded_once_it_has_been_read() -> None:
    body = os.urandom(100_000)
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + body
    with (
        recorded(answering(response)) as (site, tape),
        site.pool.stream("GET", site.url()) as stream,
    ):
        first = stream.read(10)
        assert tape.kept == []
        assert first + stream.read() == body
        assert tape.received == [response]


def test_a_stream_that_was_left_early_is_not_recorded() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nbeginning")
        with pytest.raises(GONE):
            peer.exactly(1)

    with recorded(script) as (site, tape), site.pool.stream("GET", site.url()) as stream:
        assert stream.read(3) == b"beg"
    assert tape.kept == []


# --- large messages, and what goes wrong ----------------------------------------------------------


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_a_large_message_is_not_in_memory(
    monkeypatch: pytest.MonkeyPatch, is_streamed: bool
) -> None:
    monkeypatch.setattr(recording, "_IN_MEMORY", 10_000)
    body = os.urandom(3_000_000)
    length = b"Content-Length: %d\r\n\r\n" % len(body)
    response = b"HTTP/1.1 200 OK\r\n" + length + body
    in_memory: list[bool] = []
    tape = Tape()

    def record(exchange: RecordedExchange) -> None:
        in_memory.append(isinstance(exchange.sent, io.BytesIO))
        in_memory.append(isinstance(exchange.received, io.BytesIO))
        tape(exchange)

    def script(peer: Peer) -> None:
        assert peer.request().body == body
        peer.send(response)
        name_target(peer, peer.request())

    with open_site(script, record=record) as site:
        if is_streamed:
            with site.pool.stream("PUT", site.url(), body=body) as stream:
                assert stream.read() == body
        else:
            assert site.pool.put(site.url(), body).body == body
        assert site.goes_on()
    assert in_memory == [False, False, True, True]
    assert tape.sent[0].endswith(b"\r\n\r\n" + body)
    assert tape.received[0] == response


def test_what_record_raises_is_logged_and_disturbs_no_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(exchange: RecordedExchange) -> None:
        raise OSError("no space left")

    with open_site(each(name_target), record=fail) as site:
        assert site.pool.get(site.url("/a?secret")).body == b"/a?secret"
        assert site.goes_on()
    first, _ = caplog.records
    assert first.levelno == logging.ERROR
    assert "could not be recorded" in first.message
    assert "secret" not in first.message


def no_file(**options: Any) -> io.FileIO:
    raise OSError("no space left")


class FullDisk(io.FileIO):
    """A file of which only the beginning can be written."""

    def __init__(self, **options: Any) -> None:
        super().__init__(os.devnull, "w+")
        self.room = 1500

    def write(self, data: Any) -> int:
        if not self.room:
            raise OSError("no space left")
        taken = super().write(data[: self.room])
        self.room -= taken
        return taken


@pytest.mark.parametrize("file", [no_file, FullDisk])
def test_a_message_that_could_not_be_kept_is_logged_and_disturbs_no_request(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, file: Any
) -> None:
    monkeypatch.setattr(recording, "TemporaryFile", file)
    monkeypatch.setattr(recording, "_IN_MEMORY", 1000)
    body = b"x" * 200_000

    def respond(peer: Peer, request: ReceivedRequest) -> None:
        peer.respond(body if request.target == "/large" else request.target.encode())

    with recorded(each(respond)) as (site, tape):
        assert site.pool.get(site.url("/large")).body == body
        assert site.goes_on()
    assert [kept.exchange.request.target for kept in tape.kept] == ["/next"]
    (record,) = caplog.records
    assert "no space left" in str(record.exc_info)


def test_the_address_of_a_socket_without_one_is_not_known(tmp_path: Path) -> None:
    tape = Tape()
    with (
        UnixServer(tmp_path / "socket", each(name_target)),
        ConnectionPool(record=tape, unix_socket=tmp_path / "socket") as pool,
    ):
        pool.get("http://name.example/")
    assert tape.kept[0].exchange.peer.address is None


def test_the_address_of_a_proxy_is_not_that_of_the_server() -> None:
    tape = Tape()
    with (
        ScriptedServer(each(name_target)) as proxy,
        ConnectionPool(record=tape, proxy=(proxy.host, proxy.port)) as pool,
    ):
        pool.get("http://name.example/a")
    assert tape.sent[0].startswith(b"GET http://name.example/a HTTP/1.1\r\n")
    assert tape.kept[0].exchange.peer is None


def test_a_forked_child_writes_nothing_to_what_its_parent_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recording, "_IN_MEMORY", 100)
    release = threading.Event()
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2000

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(response[:1000])
        wait_for(release)
        peer.send(response[1000:])

    with (
        recorded(script, each(name_target)) as (site, tape),
        site.pool.stream("GET", site.url()) as stream,
    ):
        beginning = stream.read(500)
        assert holds_in_child(lambda: site.pool.get(site.url("/child")).body == b"/child")
        release.set()
        assert len(beginning + stream.read()) == 2000
    assert tape.received == [response]


def test_record_has_to_be_callable() -> None:
    with pytest.raises(TypeError, match="record must be callable"):
        ConnectionPool(record="file.warc")  # type: ignore[arg-type]


def test_without_record_nothing_is_copied() -> None:
    with open_site(each(name_target)) as site:
        site.pool.get(site.url())
        (connection,) = site.pool._scheduler._core.idle
        transport = connection.engine._session.state.transport
    assert type(transport).__name__ == "PlainTransport"


def test_a_cancelled_request_leaves_its_neighbours_as_they_were() -> None:
    arrived, release = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        name_target(peer, peer.request())
        request = peer.request()
        arrived.set()
        wait_for(release)
        name_target(peer, request)
        each(name_target)(peer)

    with recorded(script, max_connections_per_host=1) as (site, tape):
        site.pool.get(site.url("/first"))
        cancelled = site.pool.submit(Request("GET", site.url("/cancelled")))
        wait_for(arrived)
        assert cancelled.cancel()
        following = site.pool.submit("GET", site.url("/following"))
        release.set()
        assert following.result().body == b"/following"
    by_target = {kept.exchange.request.target: kept.received for kept in tape.kept}
    for target, received in by_target.items():
        assert received.endswith(target.encode())
    assert {"/first", "/following"} <= by_target.keys()
