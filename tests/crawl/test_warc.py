"""WARC files: that warcio accepts them, and that what is replayed is what came."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import ssl
import threading
from contextlib import redirect_stdout, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from warcio.archiveiterator import ArchiveIterator
from warcio.cli import main as warcio

from dugong import Client, ConnectionClosed, ConnectionPool, RecordedExchange, Request
from dugong.crawl import WarcWriter
from tests.support.fork import holds_in_child
from tests.support.pool import each, name_target
from tests.support.server import Peer, ScriptedServer

PAGE = b"<p>" + b"hello " * 2000
ZIPPED = gzip.compress(PAGE)

#: What a server responds with, by target.
RESPONSES = {
    "/length": b"HTTP/1.1 200 OK\r\nContent-Length: 12003\r\nX-Odd:  a   \r\n\r\n" + PAGE,
    "/chunks": b"HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;x=y\r\nhello\r\n0006\r\n world\r\n0\r\n\r\n",
    "/trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
    "/gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b"
    % (len(ZIPPED), ZIPPED),
    "/gzip-chunks": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(ZIPPED), ZIPPED),
    "/none": b"HTTP/1.1 204 No Content\r\n\r\n",
    "/not-modified": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
    "/empty": b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
    "/hints": b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "/moved": b"HTTP/1.1 301 Moved\r\nLocation: /length\r\nContent-Length: 0\r\n\r\n",
    "/until-close": b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
}
BODIES = {
    "/length": PAGE,
    "/chunks": b"hello world",
    "/gzip": PAGE,
    "/gzip-chunks": PAGE,
    "/hints": b"ok",
    "/until-close": b"until the end",
}


def serve(peer: Peer) -> None:
    """A script that responds as `RESPONSES` says."""
    for request in peer.requests():
        response = RESPONSES[request.target]
        if request.method == "HEAD":
            response = response.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        peer.send(response)
        if request.target == "/until-close":
            if isinstance(peer.sock, ssl.SSLSocket):
                with suppress(OSError):  # the client need not say that it ends, too
                    peer.sock.unwrap()
            return


class Record(NamedTuple):
    """A record of a file: its fields, its block, and the body that a reader replays."""

    fields: dict[str, str]
    block: bytes
    body: bytes

    @property
    def kind(self) -> str:
        return self.fields["WARC-Type"]

    @property
    def target(self) -> str:
        return "/" + self.fields["WARC-Target-URI"].split("/", 3)[3]


def records(path: Path) -> list[Record]:
    """Return the records of the file *path*."""
    blocks = []
    with path.open("rb") as file:
        for record in ArchiveIterator(file, no_record_parse=True):
            blocks += [record.raw_stream.read()]
    found = []
    with path.open("rb") as file:
        for record, block in zip(ArchiveIterator(file), blocks, strict=True):
            fields = dict(record.rec_headers.headers)
            found.append(Record(fields, block, record.content_stream().read()))
    return found


def assert_accepted(path: Path) -> None:
    """Check that `warcio check` has nothing to say, and that `warcio index` finds all records."""
    said = io.StringIO()
    with redirect_stdout(said), pytest.raises(SystemExit) as exits:
        warcio(["check", str(path)])
    assert (exits.value.code, said.getvalue()) == (0, "")
    index = path.with_suffix(".index")
    fields = "offset,warc-type,warc-target-uri,http:status"
    warcio(["index", "-f", fields, "-o", str(index), str(path)])
    lines = [json.loads(line) for line in index.read_text().splitlines()]
    assert [line["warc-type"] for line in lines] == [record.kind for record in records(path)]
    assert all("http:status" in line for line in lines if line["warc-type"] == "response")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a file is to be."""
    return tmp_path / "pages.warc.gz"


def url(server: ScriptedServer, target: str) -> str:
    return server.url(target)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_file_has_what_was_on_the_wire_and_is_accepted(
    path: Path, tls: bool, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with (
        ScriptedServer(serve, repeat=True, context=server_context if tls else None) as server,
        WarcWriter(path) as warc,
        # Without a rescue, for what is sent twice is recorded twice.
        ConnectionPool(
            ssl_context=client_context, record=warc.write, pipeline_rescue=False
        ) as pool,
    ):
        targets = [target for target in RESPONSES for _ in range(5) if target != "/until-close"]
        assert len(list(pool.map(server.url(target) for target in targets))) == len(targets)
        pool.head(server.url("/length"))
        # By itself: what is sent behind it would reset the connection.
        pool.get(server.url("/until-close"))
        assert warc.exchanges == len(targets) + 2
    assert_accepted(path)
    info, *rest = records(path)
    assert info.kind == "warcinfo"
    responses, requests = rest[::2], rest[1::2]
    assert sorted(response.target for response in responses) == sorted(
        [*targets, "/length", "/until-close"]
    )
    heads = 0
    for response, request in zip(responses, requests, strict=True):
        assert (response.kind, request.kind) == ("response", "request")
        assert request.fields["WARC-Concurrent-To"] == response.fields["WARC-Record-ID"]
        assert request.target == response.target
        on_wire = RESPONSES[response.target].removeprefix(
            b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n"
        )
        method = b"GET"
        if request.block.startswith(b"HEAD"):
            method, on_wire = b"HEAD", on_wire.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
            heads += 1
        elif response.target != "/trailers":  # which warcio takes for a part of the body
            assert response.body == BODIES.get(response.target, b"")
        assert response.block == on_wire
        assert request.block.startswith(
            b"%b %b HTTP/1.1\r\nHost: " % (method, request.target.encode())
        )
    assert heads == 1


def test_a_record_says_whom_when_and_what(path: Path) -> None:
    before = datetime.now(UTC)
    with (
        ScriptedServer(serve) as server,
        WarcWriter(path, info={"operator": "Ä. Nobody"}) as warc,
        ConnectionPool(record=warc.write) as pool,
    ):
        pool.get(server.url("/length#part"), headers={"Cookie": "secret=1"})
    info, response, request = records(path)
    assert info.block.decode().splitlines() == [
        f"software: dugong/{__import__('dugong').__version__}",
        "format: WARC File Format 1.1",
        "operator: Ä. Nobody",
    ]
    assert info.fields["WARC-Filename"] == path.name
    for record in (response, request):
        assert record.fields["WARC-Target-URI"] == server.url("/length")
        assert record.fields["WARC-IP-Address"] == "127.0.0.1"
        assert record.fields["WARC-Warcinfo-ID"] == info.fields["WARC-Record-ID"]
        assert before <= datetime.fromisoformat(record.fields["WARC-Date"]) <= datetime.now(UTC)
        assert {"WARC-Payload-Digest", "WARC-Block-Digest"} <= record.fields.keys()
        assert "WARC-Truncated" not in record.fields
    assert b"Cookie: secret=1\r\n" in request.block
    assert path.read_bytes()[:2] == b"\x1f\x8b"


def test_a_client_changes_nothing_of_what_is_recorded(path: Path) -> None:
    with (
        ScriptedServer(serve) as server,
        WarcWriter(path) as warc,
        Client(record=warc.write, trust_env=False) as client,
    ):
        assert client.get(server.url("/gzip")).body == PAGE
        assert client.get(server.url("/moved")).body == PAGE
    assert_accepted(path)
    responses = records(path)[1::2]
    assert [response.block for response in responses] == [
        RESPONSES[target] for target in ("/gzip", "/moved", "/length")
    ]
    assert responses[0].body == PAGE


def test_an_upload_is_in_the_record_of_its_request(path: Path) -> None:
    with (
        ScriptedServer(each(name_target)) as server,
        WarcWriter(path) as warc,
        ConnectionPool(record=warc.write) as pool,
    ):
        pool.put(server.url("/a"), iter([b"hello", b" world"]))
    assert_accepted(path)
    request = records(path)[2]
    assert request.block.endswith(b"\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")
    assert request.body == b"hello world"


def test_a_request_that_was_refused_is_marked(path: Path) -> None:
    def refuse(peer: Peer) -> None:
        peer.head()
        peer.respond(status="413 Content Too Large")
        peer.until_eof()

    with (
        ScriptedServer(refuse) as server,
        WarcWriter(path) as warc,
        ConnectionPool(record=warc.write) as pool,
    ):
        assert pool.put(server.url(), b"body", expect100=True).status == 413
    assert_accepted(path)
    _, response, request = records(path)
    assert request.fields["WARC-Truncated"] == "unspecified"
    assert "WARC-Truncated" not in response.fields


def test_a_method_of_its_own_is_accepted(path: Path) -> None:
    with (
        ScriptedServer(each(name_target)) as server,
        WarcWriter(path) as warc,
        ConnectionPool(record=warc.write) as pool,
    ):
        pool.request("PROPFIND", server.url("/a"))
    assert_accepted(path)


def test_a_response_that_was_cut_short_is_not_in_the_file(path: Path) -> None:
    def cut(peer: Peer) -> None:
        peer.request()
        peer.send(RESPONSES["/length"][:-1])

    with (
        ScriptedServer(cut) as server,
        WarcWriter(path) as warc,
        ConnectionPool(record=warc.write, retry=None) as pool,
    ):
        with pytest.raises(ConnectionClosed):
            pool.get(server.url())
        assert warc.exchanges == 0
    assert [record.kind for record in records(path)] == ["warcinfo"]


def exchange(target: str = "/length", body: bytes = b"") -> RecordedExchange:
    """Return an exchange as a pool records it."""
    return RecordedExchange(
        Request("GET", f"http://www.example.com{target}"),
        io.BytesIO(b"GET %b HTTP/1.1\r\nHost: www.example.com\r\n\r\n" % target.encode()),
        io.BytesIO(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)),
        datetime.now(UTC),
        None,
        True,
    )


def test_many_threads_write_at_a_time(path: Path) -> None:
    with WarcWriter(path) as warc:

        def write(number: int) -> None:
            for n in range(20):
                warc.write(exchange(f"/{number}/{n}", os.urandom(1000)))

        threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert_accepted(path)
    written = records(path)[1:]
    assert len({response.target for response in written[::2]}) == 160
    assert [response.target for response in written[::2]] == [
        request.target for request in written[1::2]
    ]


@pytest.mark.parametrize(
    ("given", "recorded"),
    [
        ("HTTP://www.example.com", "http://www.example.com/"),
        ("http://[::1]:8080/a?b=c#part", "http://[::1]:8080/a?b=c"),
        ("http://b\xfccher.example/", "http://xn--bcher-kva.example/"),
    ],
)
def test_the_uri_of_a_record_is_that_of_the_request_in_ascii(
    path: Path, given: str, recorded: str
) -> None:
    with WarcWriter(path) as warc:
        warc.write(exchange()._replace(request=Request("GET", given)))
    assert_accepted(path)
    uris = [record.fields["WARC-Target-URI"] for record in records(path)[1:]]
    assert uris == [recorded, recorded]


def test_an_address_that_is_not_known_is_left_out(path: Path) -> None:
    with WarcWriter(path) as warc:
        warc.write(exchange())
    assert all("WARC-IP-Address" not in record.fields for record in records(path))


def test_a_large_exchange_is_compressed_outside_of_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dugong.crawl.warc._IN_MEMORY", 1000)
    body = os.urandom(3_000_000)
    with WarcWriter(path) as warc:
        warc.write(exchange(body=body))
    assert_accepted(path)
    assert records(path)[1].body == body


# --- the file -------------------------------------------------------------------------------------


def test_a_file_that_exists_is_not_touched(path: Path) -> None:
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        WarcWriter(path)
    with pytest.raises(ValueError, match="damaged, or not gzip"):
        WarcWriter(path, append=True)
    assert path.read_bytes() == b"precious"


def test_another_run_appends(path: Path) -> None:
    for target in ("/first", "/second"):
        with WarcWriter(path, append=True) as warc:
            warc.write(exchange(target))
    assert_accepted(path)
    assert [record.kind for record in records(path)] == ["warcinfo", "response", "request"] * 2


@pytest.mark.parametrize("left", [1, 10, -1], ids=["a byte", "a head", "all but a byte"])
def test_what_a_killed_program_has_left_of_a_record_is_cut_off(path: Path, left: int) -> None:
    with WarcWriter(path) as warc:
        warc.write(exchange("/first", PAGE * 100))
        whole = path.stat().st_size
        warc.write(exchange("/second"))
    data = path.read_bytes()
    with path.open("rb") as file:
        last = ArchiveIterator(file)
        offsets = [last.get_record_offset() for _ in last]
    end = len(data) if left < 0 else offsets[3]
    path.write_bytes(data[: end + left])
    with WarcWriter(path, append=True) as warc:
        warc.write(exchange("/third"))
    assert_accepted(path)
    kept = path.read_bytes()
    assert kept.startswith(data[:whole])
    kinds = [record.kind for record in records(path)]
    assert kinds[:3] == ["warcinfo", "response", "request"]
    assert kinds[-3:] == ["warcinfo", "response", "request"]
    assert len(kinds) == (7 if left < 0 else 6)


def test_what_cannot_be_written_is_taken_back_and_reported(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limit = 0

    class Full(io.FileIO):
        """A file on a disk that may be full."""

        def write(self, data: Any) -> int:
            if limit and self.tell() >= limit:
                raise OSError(errno.ENOSPC, "no space left")
            return super().write(memoryview(data)[: limit - self.tell() if limit else None])

    monkeypatch.setattr("dugong.crawl.warc.FileIO", Full)
    warc = WarcWriter(path)
    with ScriptedServer(serve) as server, ConnectionPool(record=warc.write) as pool:
        pool.get(server.url("/length"))
        size = path.stat().st_size
        limit = size + 100
        assert pool.get(server.url("/gzip")).status == 200
        assert path.stat().st_size == size
        assert isinstance(warc.error, OSError)
        assert (warc.error.filename, warc.error.strerror) == (str(path), "no space left")
        limit = 0
        pool.get(server.url("/chunks"))
        assert warc.exchanges == 2
    with pytest.raises(OSError, match="no space left"):
        warc.close()
    assert_accepted(path)
    assert [record.target for record in records(path)[1::2]] == ["/length", "/chunks"]
    assert len(caplog.records) == 1


def test_an_error_of_the_block_is_not_hidden_by_one_of_the_file(path: Path) -> None:
    def fail() -> None:
        with WarcWriter(path) as warc:
            with pytest.raises(ValueError, match="closed"):
                warc.write(exchange()._replace(received=closed_file()))
            raise KeyError

    with pytest.raises(KeyError):
        fail()


def closed_file() -> io.BytesIO:
    file = io.BytesIO()
    file.close()
    return file


def test_nothing_can_be_written_to_a_closed_file(path: Path) -> None:
    warc = WarcWriter(path)
    warc.close()
    warc.close()
    with pytest.raises(ValueError, match="has been closed"):
        warc.write(exchange())


def test_a_forked_child_does_not_write_to_the_file_of_its_parent(path: Path) -> None:
    with WarcWriter(path) as warc:
        size = path.stat().st_size
        assert holds_in_child(lambda: refuses(warc))
        assert path.stat().st_size == size
        warc.write(exchange())
    assert_accepted(path)


def refuses(warc: WarcWriter) -> bool:
    """Return True if *warc* refuses to write, and can be closed though a thread has its lock."""
    with warc._lock:
        try:
            warc.write(exchange())
        except ValueError:
            warc.close()
            return True
    return False


@pytest.mark.parametrize(
    ("info", "error"),
    [({"a": 1}, TypeError), ({"a": "b\r\nc: d"}, ValueError), ({"a: b": "c"}, ValueError)],
)
def test_fields_that_would_break_the_record_are_refused(
    path: Path, info: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        WarcWriter(path, info=info)
    assert not path.exists()
