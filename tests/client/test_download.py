"""Downloads to files: what comes is what the server has, however often they stop and go on."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import re
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
import trustme

from dugong import (
    Client,
    ConnectionClosed,
    DecodingError,
    HTTPStatusError,
    IntegrityError,
    InvalidResponse,
    PoolClosed,
    Progress,
    RetryPolicy,
)
from dugong.client import download as module
from dugong.client import part
from dugong.pool.core.core import PoolCore
from dugong.pool.core.scheduler import Scheduler
from tests.support.nginx import Nginx, nginx
from tests.support.pool import GONE, discard_rest, wait_for, wait_until
from tests.support.server import TIMEOUT, Peer, ReceivedRequest, ScriptedServer

FILE = Random(1).randbytes(100_000)
OTHER = Random(2).randbytes(100_000)
TAG = '"v1"'
OLD = "Sat, 01 Jan 2000 00:00:00 GMT"
NOW = "Sun, 02 Jan 2000 00:00:00 GMT"
QUICK = RetryPolicy(backoff=0)


class Answer(NamedTuple):
    """What a server responds with: *sent* of the bytes of *body* (None: all), then it closes."""

    status: str
    headers: str
    body: bytes
    sent: int | None = None
    length: int | None = None  # what Content-Length says, if that is not so

    def send(self, peer: Peer) -> bool:
        """Send it; return whether more may come on that connection."""
        length = len(self.body) if self.length is None else self.length
        head = f"HTTP/1.1 {self.status}\r\nContent-Length: {length}\r\n{self.headers}\r\n"
        peer.send(head.encode("latin-1") + self.body[: self.sent])
        return self.sent is None


#: Makes the response to a request; it gets what an honest server would respond.
Twist = Callable[[ReceivedRequest, Answer], Answer]


class Files:
    """A server with one file. *twists* are of the first responses, then it is honest.

    `version`, `body` and `twists` may be changed. `asked` are the Range fields of the requests, and
    `conditions` their If-Range fields; None if there is none.
    """

    def __init__(self, *twists: Twist | None) -> None:
        self.body = FILE
        self.version = f"ETag: {TAG}\r\n"
        self.requests: list[ReceivedRequest] = []
        self.twists = list(twists)
        self._lock = threading.Lock()  # of both lists
        self.server: ScriptedServer  # in the block of `serving`

    @property
    def asked(self) -> list[str | None]:
        return [request.headers.get("range") for request in self.requests]

    @property
    def conditions(self) -> list[str | None]:
        return [request.headers.get("if-range") for request in self.requests]

    def converse(self, peer: Peer) -> None:
        with suppress(*GONE):
            while True:
                request = peer.request()
                with self._lock:
                    self.requests.append(request)
                    twist = self.twists.pop(0) if self.twists else None
                answer = self.honest(request)
                if not (answer if twist is None else twist(request, answer)).send(peer):
                    return

    def honest(self, request: ReceivedRequest) -> Answer:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        condition = request.headers.get("if-range")
        size = len(self.body)
        if asked is None or (condition is not None and f" {condition}\r\n" not in self.version):
            return Answer("200 OK", self.version, self.body)
        first, last = int(asked[1]), min(int(asked[2] or size), size - 1)
        if first >= size:
            return Answer("416 Range Not Satisfiable", f"Content-Range: bytes */{size}\r\n", b"")
        said = f"Content-Range: bytes {first}-{last}/{size}\r\n{self.version}"
        return Answer("206 Partial Content", said, self.body[first : last + 1])


def cut(sent: int) -> Twist:
    """Close after *sent* bytes of the body."""
    return lambda request, answer: answer._replace(sent=sent)


def replaced(old: str, new: str) -> Twist:
    """Say *new* instead of *old* in the headers."""

    def twist(request: ReceivedRequest, answer: Answer) -> Answer:
        assert re.search(old, answer.headers)
        return answer._replace(headers=re.sub(old, new, answer.headers))

    return twist


def whole(request: ReceivedRequest, answer: Answer) -> Answer:
    """Ignore the Range."""
    return Answer("200 OK", f"ETag: {TAG}\r\n", FILE)


def status(text: str) -> Twist:
    return lambda request, answer: Answer(text, "", b"an explanation")


@contextmanager
def serving(*twists: Twist | None, **options: Any) -> Iterator[tuple[Files, Client, str]]:
    files = Files(*twists)
    options.setdefault("retry", QUICK)
    with (
        ScriptedServer(files.converse, repeat=True) as files.server,
        Client(trust_env=False, **options) as client,
    ):
        yield files, client, files.server.url("/file")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def names_beside(path: Path) -> list[str]:
    return sorted(os.listdir(path.parent))


# --- a file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("body", [b"", b"x", FILE], ids=["empty", "a byte", "more"])
def test_a_file_is_what_the_server_has(path: Path, body: bytes, connections: int) -> None:
    with serving() as (files, client, url):
        files.body = body
        got = client.download(url, path, connections=connections)
        assert (got.path, got.size, got.resumed) == (str(path), len(body), 0)
        assert (got.response.url, got.response.headers["ETag"]) == (url, TAG)
        assert got.response.body == b""
    assert path.read_bytes() == body
    assert names_beside(path) == ["file"]


def test_a_file_that_was_there_is_replaced(path: Path) -> None:
    path.write_bytes(b"an older one, which is of no interest")
    with serving() as (_, client, url):
        client.download(url, path)
    assert path.read_bytes() == FILE


@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
def test_a_path_may_be_all_that_is_one(path: Path, kind: Any) -> None:
    with serving() as (_, client, url):
        assert client.download(url, kind(path)).path == str(path)


def test_no_coding_is_asked_for(path: Path) -> None:
    with serving() as (files, client, url):
        client.download(url, path, headers={"Accept-Encoding": "gzip", "X-Own": "1"})
        [request] = files.requests
        assert request.headers["accept-encoding"] == "identity"
        assert request.headers["x-own"] == "1"


def test_headers_may_be_made_for_each_request(path: Path) -> None:
    numbers = iter("12")
    with serving(cut(1000)) as (files, client, url):
        client.download(url, path, headers=lambda request: {"X-Number": next(numbers)})
        assert [each.headers["x-number"] for each in files.requests] == ["1", "2"]
        assert files.asked[1] == "bytes=1000-99999"


def test_options_that_can_be_read_once_are_for_each_request(path: Path) -> None:
    with serving(cut(1000)) as (files, client, url):
        pairs = [("a", "b")]
        client.download(url, path, params=iter(pairs), headers=iter([("X-Own", "1")]))
        assert [each.target for each in files.requests] == ["/file?a=b"] * 2
        assert [each.headers["x-own"] for each in files.requests] == ["1", "1"]


def test_redirects_are_followed(path: Path) -> None:
    def moved(request: ReceivedRequest, answer: Answer) -> Answer:
        return Answer("302 Found", "Location: /elsewhere\r\n", b"")

    with serving(moved) as (_, client, url):
        got = client.download(url, path)
        assert got.response.url == url.replace("/file", "/elsewhere")
        assert [each.status for each in got.response.history] == [302]
    assert path.read_bytes() == FILE


def test_a_body_of_unknown_length_is_whole_at_its_end(path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n")

    told: list[Any] = []
    with ScriptedServer(script) as server, Client(trust_env=False) as client:
        client.download(server.url(), path, progress=lambda *numbers: told.append(numbers))
    assert path.read_bytes() == b"ab"
    assert told[-1][0] == 2


# --- going on within a call -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "validator"),
    [
        (f"ETag: {TAG}\r\n", TAG),
        (f"Last-Modified: {OLD}\r\nDate: {NOW}\r\n", OLD),
    ],
)
def test_a_body_that_is_cut_goes_on_where_it_was_cut(
    path: Path, version: str, validator: str
) -> None:
    with serving(cut(30_000), cut(20_000)) as (files, client, url):
        files.version = version
        got = client.download(url, path)
        assert files.asked == [None, "bytes=30000-99999", "bytes=50000-99999"]
        assert files.conditions == [None, validator, validator]
        assert got.resumed == 0
    assert path.read_bytes() == FILE


@pytest.mark.parametrize(
    "version", ["", f"ETag: W/{TAG}\r\n", f"Last-Modified: {OLD}\r\nDate: {OLD}\r\n"]
)
def test_without_a_name_of_the_version_it_begins_anew(path: Path, version: str) -> None:
    with serving(cut(30_000)) as (files, client, url):
        files.version = version
        client.download(url, path)
        assert files.asked == [None, None]
    assert path.read_bytes() == FILE


REFUSALS: dict[str, Twist] = {
    "all of it": whole,
    "416": lambda request, answer: Answer("416 Range Not Satisfiable", "", b""),
    "412": lambda request, answer: Answer("412 Precondition Failed", "", b""),
    "another part": replaced("bytes 30000-", "bytes 30001-"),
    "an earlier part": lambda request, answer: Answer(
        "206 Partial Content", f"ETag: {TAG}\r\nContent-Range: bytes 0-99999/100000\r\n", FILE
    ),
    "another size": replaced("/100000", "/100001"),
    "another length": lambda request, answer: answer._replace(body=answer.body[:-1]),
    "another version": replaced(TAG, '"v2"'),
    "no version": replaced("ETag", "X-ETag"),
    "no range": replaced("Content-Range", "X-Range"),
    "nonsense": replaced("bytes 30000-99999", "bytes 99999-30000"),
    "several parts": replaced("Content-Range: .*?\r", "Content-Type: multipart/byteranges\r"),
    "a coding": replaced("ETag", "Content-Encoding: gzip\r\nETag"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_what_is_not_what_was_asked_for_is_never_added(path: Path, refusal: str) -> None:
    with serving(cut(30_000), REFUSALS[refusal]) as (files, client, url):
        client.download(url, path)
        assert files.asked[:2] == [None, "bytes=30000-99999"]
        assert files.asked[2:] == ([] if refusal == "all of it" else [None])
    assert path.read_bytes() == FILE


def test_a_file_that_has_changed_meanwhile_begins_anew(path: Path) -> None:
    def change(request: ReceivedRequest, answer: Answer) -> Answer:
        files.body, files.version = OTHER, 'ETag: "v2"\r\n'
        return answer._replace(sent=30_000)

    with serving(change) as (files, client, url):
        got = client.download(url, path)
        assert files.asked == [None, "bytes=30000-99999"]
        assert got.response.headers["ETag"] == '"v2"'
    assert path.read_bytes() == OTHER


def test_a_body_that_is_longer_than_its_head_says_is_an_error(path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        Answer("200 OK", f"ETag: {TAG}\r\n", FILE, sent=30_000).send(peer)
        peer.cut()
        with suppress(*GONE):
            peer.until_eof()

    def longer(peer: Peer) -> None:
        peer.request()
        said = f"Content-Range: bytes 30000-99999/100000\r\nETag: {TAG}\r\n"
        head = f"HTTP/1.1 206 Partial Content\r\nTransfer-Encoding: chunked\r\n{said}\r\n"
        peer.send(head.encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (80_000, bytes(80_000)))
        with suppress(*GONE):
            peer.until_eof()

    with (
        ScriptedServer(script, longer) as server,
        Client(trust_env=False, retry=QUICK) as client,
        pytest.raises(InvalidResponse, match=r"GET http://.*longer than its head says"),
    ):
        client.download(server.url(), path)
    assert not path.exists()


def test_a_server_may_send_less_than_was_asked_for(path: Path) -> None:
    def less(request: ReceivedRequest, answer: Answer) -> Answer:
        said = answer.headers.replace("-99999/", "-39999/")
        return answer._replace(headers=said, body=answer.body[:10_000])

    with serving(cut(30_000), less) as (files, client, url):
        client.download(url, path)
        assert files.asked[2] == "bytes=40000-99999"
    assert path.read_bytes() == FILE


def test_the_attempts_are_those_in_a_row_that_bring_nothing(path: Path) -> None:
    policy = RetryPolicy(attempts=2, backoff=0)
    with serving(*[cut(1000), cut(0)] * 4, retry=policy) as (files, client, url):
        client.download(url, path)
        assert len(files.requests) == 9
    assert path.read_bytes() == FILE


def test_what_brings_nothing_for_too_long_has_failed(path: Path) -> None:
    policy = RetryPolicy(attempts=3, backoff=0)
    with serving(cut(1000), *[cut(0)] * 3, retry=policy) as (files, client, url):
        with pytest.raises(ConnectionClosed):
            client.download(url, path)
        assert len(files.requests) == 4
    assert names_beside(path) == ["file.part", "file.part.state"]


def test_a_body_that_always_begins_anew_is_not_asked_for_for_ever(path: Path) -> None:
    policy = RetryPolicy(attempts=3, backoff=0)
    with serving(*[cut(1000)] * 9, retry=policy) as (files, client, url):
        files.version = ""
        with pytest.raises(ConnectionClosed):
            client.download(url, path)
        assert len(files.requests) == 4  # the first has brought something
    assert names_beside(path) == []


def test_the_policy_is_asked(path: Path) -> None:
    asked: list[Any] = []
    policy = RetryPolicy(backoff=0, should_retry=lambda attempt: bool(asked.append(attempt)))
    with serving(cut(1000), retry=QUICK) as (files, client, url):
        with pytest.raises(ConnectionClosed):
            client.download(url, path, retry=policy)
        assert len(files.requests) == 1
    [attempt] = asked
    assert isinstance(attempt.exception, ConnectionClosed)
    assert attempt.request.url == url


def test_the_waits_between_attempts_are_those_of_the_policy(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(Scheduler, "pause", lambda self, seconds: slept.append(seconds))
    monkeypatch.setattr(RetryPolicy, "delay", lambda self, number: 100.0 + number)
    with serving(cut(1000), cut(0), cut(0), cut(1)) as (_, client, url):
        client.download(url, path)
    assert slept == [101, 101, 102, 101]


def test_a_client_that_is_closed_ends_the_wait_between_two_attempts(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RetryPolicy, "delay", lambda self, number: 1000.0)
    with serving(cut(1000)) as (_, client, url), ThreadPoolExecutor(1) as threads:
        waits = until_it_waits(client, monkeypatch)
        download = threads.submit(client.download, url, path)
        wait_for(waits)
        client.close()
        with pytest.raises(PoolClosed):
            download.result(TIMEOUT)
    assert os.path.getsize(f"{path}.part") == 1000


def until_it_waits(client: Client, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return what is set when a thread waits for *client* to be closed."""
    waits = threading.Event()
    closing = client._pool._scheduler._core.room
    wait = PoolCore.wait

    def noted(core: PoolCore, condition: threading.Condition, timeout: float | None = None) -> None:
        if condition is closing:
            waits.set()
        wait(core, condition, timeout)

    monkeypatch.setattr(PoolCore, "wait", noted)
    return waits


def test_what_is_sent_once_is_not_asked_for_again(path: Path) -> None:
    policy = QUICK.replace(methods=["HEAD"])
    with serving(cut(1000)) as (files, client, url):
        with pytest.raises(ConnectionClosed):
            client.download(url, path, retry=policy)
        assert len(files.requests) == 1


def test_a_deadline_is_for_all_attempts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RetryPolicy, "delay", lambda self, number: 100.0)
    with serving(cut(1000)) as (files, client, url):
        with pytest.raises(ConnectionClosed):
            client.download(url, path, deadline=50)
        assert len(files.requests) == 1


def test_a_server_that_stops_sending_is_asked_again(path: Path) -> None:
    ended = threading.Event()

    def stops(peer: Peer) -> None:
        peer.request()
        Answer("200 OK", f"ETag: {TAG}\r\n", FILE, sent=30_000).send(peer)
        wait_for(ended)

    files = Files()
    with (
        ScriptedServer(stops, files.converse, repeat=True) as server,
        Client(trust_env=False, retry=QUICK, timeout=0.2) as client,
    ):
        client.download(server.url(), path)
        ended.set()
    assert files.asked == ["bytes=30000-99999"]
    assert path.read_bytes() == FILE


def test_a_client_that_is_closed_ends_it(path: Path) -> None:
    with serving(cut(1000)) as (_, client, url), pytest.raises(PoolClosed):
        client.download(url, path, progress=lambda done, total: client.close())


@pytest.mark.parametrize("sent", [30_000, 100_000])
def test_a_body_of_unknown_length_goes_on_with_the_last_byte_that_is_there(
    path: Path, sent: int
) -> None:
    """Only its end, which is cut off, would say that it was whole."""

    def chunks(peer: Peer) -> None:
        peer.request()
        peer.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: %b\r\n\r\n" % TAG.encode()
        )
        peer.send(b"%x\r\n%b\r\n" % (sent, FILE[:sent]))

    files = Files()
    with (
        ScriptedServer(chunks, files.converse, repeat=True) as server,
        Client(trust_env=False, retry=QUICK) as client,
    ):
        client.download(server.url(), path)
    assert files.asked[0] == f"bytes={sent - 1}-"
    assert path.read_bytes() == FILE


# --- what is no file ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["404 Not Found", "500 Internal Server Error", "304 Not Modified"])
@pytest.mark.parametrize("connections", [1, 4])
def test_a_status_that_is_no_success_is_an_error(path: Path, text: str, connections: int) -> None:
    with serving(status(text), retry=None) as (_, client, url):
        with pytest.raises(HTTPStatusError, match=text) as caught:
            client.download(url, path, connections=connections)
        assert caught.value.response.status == int(text[:3])
    assert names_beside(path) == []


def test_a_failure_leaves_what_was_there(path: Path) -> None:
    path.write_bytes(b"an older one")
    with serving(status("404 Not Found")) as (_, client, url), pytest.raises(HTTPStatusError):
        client.download(url, path)
    assert path.read_bytes() == b"an older one"
    assert names_beside(path) == ["file"]


def test_a_part_that_was_not_asked_for_is_an_error(path: Path) -> None:
    def some(request: ReceivedRequest, answer: Answer) -> Answer:
        said = f"Content-Range: bytes 0-9/100000\r\nETag: {TAG}\r\n"
        return Answer("206 Partial Content", said, FILE[:10])

    with serving(some) as (_, client, url), pytest.raises(InvalidResponse, match="a part came"):
        client.download(url, path)
    assert names_beside(path) == []


# --- going on in a later call ---------------------------------------------------------------------


def test_a_download_goes_on_where_an_earlier_one_has_stopped(path: Path) -> None:
    with serving(cut(30_000)) as (files, client, url):
        with pytest.raises(ConnectionClosed):
            client.download(url, path, retry=None)
        got = client.download(url, path)
        assert files.asked == [None, "bytes=30000-99999"]
        assert (got.size, got.resumed) == (100_000, 30_000)
    assert path.read_bytes() == FILE
    assert names_beside(path) == ["file"]


def test_a_file_that_has_changed_since_begins_anew(path: Path) -> None:
    with serving(cut(30_000)) as (files, client, url):
        with pytest.raises(ConnectionClosed):
            client.download(url, path, retry=None)
        files.body, files.version = OTHER, 'ETag: "v2"\r\n'
        got = client.download(url, path)
        assert files.asked == [None, "bytes=30000-99999"]
        assert (got.size, got.resumed) == (100_000, 0)
    assert path.read_bytes() == OTHER


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("changes", [False, True])
def test_a_part_that_is_whole_is_not_trusted_without_a_question(
    path: Path, connections: int, changes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: part.Part, names: object) -> None:
        raise OSError("a fault")

    with serving() as (files, client, url):
        monkeypatch.setattr(part.Part, "complete", fail)
        with pytest.raises(OSError, match="a fault"):
            client.download(url, path, connections=connections)
        monkeypatch.undo()
        assert names_beside(path) == ["file.part", "file.part.state"]
        files.requests.clear()
        if changes:
            files.body, files.version = OTHER[:50_000], 'ETag: "v2"\r\n'
        got = client.download(url, path, connections=connections)
        assert files.asked == ["bytes=99999-99999"]
        assert got.resumed == (0 if changes else 100_000)
        assert path.read_bytes() == files.body


def test_without_resume_nothing_is_left_and_nothing_is_taken(path: Path) -> None:
    with serving(cut(30_000), cut(30_000)) as (files, client, url):
        with pytest.raises(ConnectionClosed):
            client.download(url, path, retry=None)
        with pytest.raises(ConnectionClosed):
            client.download(url, path, retry=None, resume=False)
        assert files.asked == [None, None]
        assert names_beside(path) == ["file.part", "file.part.state"]  # those of the first one
        assert client.download(url, path, resume=False).resumed == 0
    assert path.read_bytes() == FILE


def test_a_part_of_another_url_is_of_no_use(path: Path) -> None:
    with serving(cut(30_000)) as (files, client, url):
        with pytest.raises(ConnectionClosed):
            client.download(url, path, retry=None)
        client.download(f"{url}?other", path)
        assert files.asked == [None, None]
    assert path.read_bytes() == FILE


#: Downloads until it is killed. Says what it has noted.
PROGRAM = """
import sys
from dugong import Client
from dugong.client import download, part
url, path, connections, download.SEGMENT = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
part.CHECKPOINT = 0
note = part.Part._note
def noting(self):
    note(self)
    print(self.received, flush=True)
part.Part._note = noting
with Client(trust_env=False) as client:
    client.download(url, path, connections=connections)
"""


@pytest.mark.parametrize("connections", [1, 3])
def test_what_is_killed_leaves_no_torn_file_and_goes_on(
    path: Path, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed when all has come but one segment, or all up to that."""
    segment = 16_000
    monkeypatch.setattr(module, "SEGMENT", segment)
    killed = threading.Event()
    path.write_bytes(b"an older one")

    def stall(request: ReceivedRequest, answer: Answer) -> Answer:
        if request.headers.get("range", "").startswith(f"bytes={2 * segment}-"):
            wait_for(killed)
            return answer._replace(sent=0)
        return answer

    def stop(peer: Peer) -> None:
        answer = files.honest(peer.request())
        answer._replace(sent=2 * segment).send(peer)
        wait_for(killed)

    files = Files(*[stall] * 9)
    scripts = [stop] if connections == 1 else []
    noted = 2 * segment if connections == 1 else len(FILE) - segment
    with ScriptedServer(*scripts, files.converse, repeat=True) as server:
        url = server.url("/file")
        arguments = [PROGRAM, url, str(path), str(connections), str(segment)]
        with subprocess.Popen(
            [sys.executable, "-c", *arguments], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            try:
                while int(process.stdout.readline()) < noted:
                    pass
            finally:
                process.kill()
        killed.set()
        assert path.read_bytes() == b"an older one"
        files.requests.clear()
        files.twists.clear()
        with Client(trust_env=False) as client:
            got = client.download(url, path, connections=connections)
        assert got.resumed == noted
        last = 3 * segment - 1 if connections > 1 else len(FILE) - 1
        assert files.asked[0] == f"bytes={2 * segment}-{last}"
    assert path.read_bytes() == FILE
    assert names_beside(path) == ["file"]


# --- several connections --------------------------------------------------------------------------


@pytest.fixture
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT", 10_000)


def segment(first: int, size: int = 10_000) -> str:
    return f"bytes={first}-{first + size - 1}"


@pytest.mark.usefixtures("_small_segments")
def test_a_large_file_comes_over_several_connections(path: Path) -> None:
    together = threading.Barrier(3, timeout=10)

    def meet(request: ReceivedRequest, answer: Answer) -> Answer:
        together.wait()
        return answer

    with serving(None, *[meet] * 9) as (files, client, url):
        got = client.download(url, path, connections=3)
        assert files.asked[0] == segment(0)
        assert sorted(filter(None, files.asked)) == [segment(n * 10_000) for n in range(10)]
        assert files.conditions == [None, *[TAG] * 9]
        assert files.server.connections >= 3
        assert got.size == 100_000
    assert path.read_bytes() == FILE


@pytest.mark.usefixtures("_small_segments")
def test_a_segment_has_its_connection_to_itself(path: Path) -> None:
    """Though the server has shown that requests to it can be pipelined."""
    under_way: list[int] = []

    def look(request: ReceivedRequest, answer: Answer) -> Answer:
        pool = client._pool
        wait_until(pool, lambda: pool.statistics().queued + pool.statistics().in_flight >= 3)
        under_way.append(pool.statistics().in_flight)
        return answer

    with serving(*[None] * 6, look, max_connections_per_host=1) as (files, client, url):
        files.body = b"small"
        for response in client.map([url] * 5):
            assert response.body == b"small"
        files.body = FILE
        client.download(url, path, connections=3)
    assert under_way == [1]
    assert path.read_bytes() == FILE


@pytest.mark.usefixtures("_small_segments")
def test_segments_are_retried_one_by_one(path: Path) -> None:
    with serving(None, cut(5000), status("503 Service Unavailable")) as (files, client, url):
        client.download(url, path, connections=2)
        assert len(files.requests) == 12
    assert path.read_bytes() == FILE


@pytest.mark.usefixtures("_small_segments")
def test_what_is_left_over_of_segments_goes_on_later(path: Path) -> None:
    def fails(request: ReceivedRequest, answer: Answer) -> Answer:
        if request.headers["range"] == segment(20_000):
            return Answer("403 Forbidden", "", b"")
        return answer

    with serving(*[fails] * 99) as (files, client, url):
        with pytest.raises(HTTPStatusError, match="403"):
            client.download(url, path, connections=2)
        files.requests.clear()
        files.twists.clear()
        got = client.download(url, path)
        assert 0 < got.resumed < 100_000
        assert not {None, segment(0)} & set(files.asked)
    assert path.read_bytes() == FILE


@pytest.mark.usefixtures("_small_segments")
def test_segments_that_are_under_way_are_cancelled_when_one_fails(path: Path) -> None:
    files = Files()
    held, gone = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        for request in peer.requests():
            answer = files.honest(request)
            if request.headers["range"] == segment(10_000):
                held.set()
                discard_rest(peer)
                gone.set()
                return
            if request.headers["range"] == segment(20_000):
                wait_for(held)
                answer = Answer("403 Forbidden", "", b"")
            answer.send(peer)

    with (
        ScriptedServer(script, repeat=True) as server,
        Client(trust_env=False, retry=QUICK) as client,
    ):
        with pytest.raises(HTTPStatusError, match="403"):
            client.download(server.url(), path, connections=2)
        wait_for(gone)


@pytest.mark.usefixtures("_small_segments")
@pytest.mark.parametrize("refusal", REFUSALS.keys() - {"another part", "nonsense"})
@pytest.mark.parametrize("when", [0, 1, 3])
def test_a_segment_that_is_not_what_was_asked_for_is_never_added(
    path: Path, refusal: str, when: int
) -> None:
    with serving(*[None] * when, REFUSALS[refusal]) as (files, client, url):
        client.download(url, path, connections=3)
        assert files.asked[0] == segment(0)
    assert path.read_bytes() == FILE


@pytest.mark.usefixtures("_small_segments")
@pytest.mark.parametrize("when", [0, 3])
def test_a_segment_that_is_more_than_was_asked_for_is_not_taken(path: Path, when: int) -> None:
    def more(request: ReceivedRequest, answer: Answer) -> Answer:
        first = int(request.headers["range"].removeprefix("bytes=").split("-")[0])
        said = f"Content-Range: bytes {first}-{first + 14_999}/100000\r\nETag: {TAG}\r\n"
        return answer._replace(headers=said, body=FILE[first : first + 15_000])

    with serving(*[None] * when, more) as (files, client, url):
        client.download(url, path, connections=3)
        assert None in files.asked  # one that was cancelled may arrive later
    assert path.read_bytes() == FILE


@pytest.mark.usefixtures("_small_segments")
def test_another_version_that_is_too_large_for_memory_is_streamed(path: Path) -> None:
    def change(request: ReceivedRequest, answer: Answer) -> Answer:
        files.body, files.version = OTHER, 'ETag: "v2"\r\n'
        return answer

    with serving(change, max_body_size=20_000) as (files, client, url):
        client.download(url, path, connections=3)
        assert None in files.asked  # one that was cancelled may arrive later
    assert path.read_bytes() == OTHER


@pytest.mark.usefixtures("_small_segments")
def test_a_file_without_a_name_of_its_version_comes_over_one_connection(path: Path) -> None:
    with serving() as (files, client, url):
        files.version = ""
        client.download(url, path, connections=3)
        assert files.asked == [segment(0), None]
    assert path.read_bytes() == FILE


@pytest.mark.usefixtures("_small_segments")
def test_a_small_file_takes_one_request(path: Path) -> None:
    with serving() as (files, client, url):
        files.body, files.version = b"small", ""
        client.download(url, path, connections=3)
        assert len(files.requests) == 1
    assert path.read_bytes() == b"small"


# --- digests --------------------------------------------------------------------------------------


def repr_digest(body: bytes, field: str = "Repr-Digest", name: str = "sha256") -> str:
    value = b64encode(hashlib.new(name, body).digest()).decode()
    return f"{field}: {name.replace('sha', 'sha-')}=:{value}:\r\n"


def md5(body: bytes) -> str:
    value = hashlib.md5(body, usedforsecurity=False).digest()
    return f"Content-MD5: {b64encode(value).decode()}\r\n"


FIELDS = {
    "Repr-Digest": repr_digest,
    "sha-512": lambda body: repr_digest(body, name="sha512"),
    "Content-Digest": lambda body: repr_digest(body, "Content-Digest"),
    "Content-MD5": md5,
}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("is_right", [True, False])
def test_a_digest_of_the_server_is_verified(path: Path, field: str, is_right: bool) -> None:
    path.write_bytes(b"an older one")
    with serving() as (files, client, url):
        files.version += FIELDS[field](FILE if is_right else OTHER)
        if is_right:
            client.download(url, path)
            assert path.read_bytes() == FILE
            return
        with pytest.raises(IntegrityError, match=rf"^GET {url}: .* digest .*(Digest|MD5)$"):
            client.download(url, path)
    assert path.read_bytes() == b"an older one"
    assert names_beside(path) == ["file"]


@pytest.mark.parametrize("is_right", [True, False])
def test_a_digest_of_the_caller_is_verified(path: Path, is_right: bool) -> None:
    digest = f"sha256:{hashlib.sha256(FILE if is_right else OTHER).hexdigest()}"
    with serving() as (_, client, url):
        if is_right:
            client.download(url, path, digest=digest)
        else:
            with pytest.raises(IntegrityError, match="was given"):
                client.download(url, path, digest=digest)
    assert names_beside(path) == (["file"] if is_right else [])


@pytest.mark.parametrize("is_right", [True, False])
def test_a_digest_behind_the_body_is_verified(path: Path, is_right: bool) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        field = repr_digest(b"ab" if is_right else b"cd").encode()
        peer.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Repr-Digest\r\n\r\n"
            b"2\r\nab\r\n0\r\n%b\r\n" % field
        )

    with ScriptedServer(script) as server, Client(trust_env=False) as client:
        if is_right:
            client.download(server.url(), path)
        else:
            with pytest.raises(IntegrityError, match="Repr-Digest"):
                client.download(server.url(), path)


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.usefixtures("_small_segments")
def test_a_digest_is_of_the_whole_file_however_that_has_come(path: Path, connections: int) -> None:
    def corrupt(request: ReceivedRequest, answer: Answer) -> Answer:
        return answer._replace(body=answer.body[:-1] + b"?")

    for twist in (None, corrupt):
        with serving(cut(5_000), twist) as (files, client, url):
            files.version += repr_digest(FILE)
            if twist is None:
                client.download(url, path, connections=connections)
                assert path.read_bytes() == FILE
            else:
                with pytest.raises(IntegrityError, match="Repr-Digest"):
                    client.download(url, path, connections=connections)
    assert names_beside(path) == ["file"]


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("is_right", [True, False])
@pytest.mark.usefixtures("_small_segments")
def test_the_digest_of_a_part_is_verified(path: Path, connections: int, is_right: bool) -> None:
    def with_digest(request: ReceivedRequest, answer: Answer) -> Answer:
        field = repr_digest(answer.body if is_right else OTHER, "Content-Digest")
        return answer._replace(headers=answer.headers + field + md5(OTHER))

    with serving(cut(5_000), *[with_digest] * 20) as (_, client, url):
        if is_right:
            client.download(url, path, connections=connections)
        else:
            with pytest.raises(IntegrityError, match="Content-Digest"):
                client.download(url, path, connections=connections)
    assert names_beside(path) == (["file"] if is_right else [])


# --- content codings ------------------------------------------------------------------------------


def coded(request: ReceivedRequest, answer: Answer) -> Answer:
    body = gzip.compress(FILE, mtime=0)
    fields = f"ETag: {TAG}\r\nContent-Encoding: gzip\r\n"
    return Answer("200 OK", fields + repr_digest(body) + repr_digest(body, "Content-Digest"), body)


@pytest.mark.parametrize("decode", [True, False])
def test_a_coding_that_was_not_asked_for_is_undone_as_in_a_response(
    path: Path, decode: bool
) -> None:
    with serving(coded, decode=decode) as (_, client, url):
        client.download(url, path)
    assert path.read_bytes() == (FILE if decode else gzip.compress(FILE, mtime=0))


def test_the_digest_of_a_coded_body_is_verified_if_that_stays_as_it_is(path: Path) -> None:
    def wrong(request: ReceivedRequest, answer: Answer) -> Answer:
        right = coded(request, answer)
        return right._replace(headers="Content-Encoding: gzip\r\n" + repr_digest(OTHER))

    with serving(wrong, decode=False) as (_, client, url), pytest.raises(IntegrityError):
        client.download(url, path)
    assert names_beside(path) == []


def test_a_coded_body_that_was_cut_begins_anew(path: Path) -> None:
    def cut_short(request: ReceivedRequest, answer: Answer) -> Answer:
        return coded(request, answer)._replace(sent=50_000)

    with serving(cut_short, coded) as (files, client, url):
        client.download(url, path)
        assert files.asked == [None, None]
    assert path.read_bytes() == FILE


def test_a_coded_body_that_is_not_decoded_goes_on(path: Path) -> None:
    with serving(cut(1000), decode=False) as (files, client, url):
        files.body = gzip.compress(FILE)
        files.version = f"Content-Encoding: gzip\r\nETag: {TAG}\r\n"
        client.download(url, path, headers={"Accept-Encoding": "gzip"})
        assert files.asked == [None, f"bytes=1000-{len(files.body) - 1}"]
        assert {request.headers["accept-encoding"] for request in files.requests} == {"gzip"}
    assert path.read_bytes() == gzip.compress(FILE)


def test_a_coded_body_that_is_broken_makes_no_file(path: Path) -> None:
    def broken(request: ReceivedRequest, answer: Answer) -> Answer:
        return coded(request, answer)._replace(body=b"nonsense")

    with serving(broken) as (_, client, url), pytest.raises(DecodingError):
        client.download(url, path)
    assert names_beside(path) == []


# --- progress -------------------------------------------------------------------------------------


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("kind", ["callable", "Progress"])
@pytest.mark.usefixtures("_small_segments")
def test_the_progress_is_that_of_the_file(path: Path, kind: str, connections: int) -> None:
    told: list[tuple[int, int | None]] = []

    def tell(done: int, total: int | None) -> None:
        assert threading.current_thread() is threading.main_thread()
        told.append((done, total))

    progress: Any = tell if kind == "callable" else Progress(download=tell)
    with serving(cut(5_000)) as (_, client, url):
        client.download(url, path, progress=progress, connections=connections)
    assert (told[0], told[-1]) == ((0, 100_000), (100_000, 100_000))
    assert told == sorted(told)


def test_the_progress_begins_with_what_is_there(path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    with serving(cut(30_000)) as (_, client, url):
        with pytest.raises(ConnectionClosed):
            client.download(url, path, retry=None)
        client.download(url, path, progress=lambda *numbers: told.append(numbers))
    assert (told[0], told[-1]) == ((30_000, 100_000), (100_000, 100_000))


def test_the_progress_of_an_empty_file_is_its_end(path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    with serving() as (files, client, url):
        files.body = b""
        client.download(url, path, progress=lambda *numbers: told.append(numbers))
    assert told == [(0, 0)]


def test_what_progress_raises_ends_the_download(path: Path) -> None:
    def stop(done: int, total: int | None) -> None:
        raise KeyError("enough")

    with serving() as (files, client, url):
        with pytest.raises(KeyError, match="enough"):
            client.download(url, path, progress=stop)
        assert len(files.requests) == 1


# --- the file -------------------------------------------------------------------------------------


def test_a_full_disk_is_an_error_that_names_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pwrite(fd: int, data: Any, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with serving() as (files, client, url):
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", pwrite)
            with pytest.raises(OSError, match="No space") as caught:
                client.download(url, path)
        assert caught.value.filename == f"{path}.part"
        assert len(files.requests) == 1
        assert names_beside(path) == []
        client.download(url, path)  # its connection is not lost
    assert path.read_bytes() == FILE


def test_two_downloads_at_once_do_not_write_to_one_file(path: Path) -> None:
    errors: list[OSError] = []

    def download_again(done: int, total: int | None) -> None:
        try:
            client.download(url, path)
        except BlockingIOError as exc:
            errors.append(exc)

    with serving() as (files, client, url):
        client.download(url, path, progress=download_again)
        assert errors
        assert errors[0].filename == str(path)
        assert len(files.requests) == 1
    assert path.read_bytes() == FILE


@pytest.mark.parametrize("length", [240, 250, 255])
def test_a_file_with_a_long_name_goes_on_in_a_later_run(path: Path, length: int) -> None:
    path = path.with_name("ü" * (length // 2) + "n" * (length % 2))
    with serving(cut(1000), retry=RetryPolicy.never) as (files, client, url):
        with pytest.raises(ConnectionClosed):
            client.download(url, path)
        assert client.download(url, path).resumed == 1000
        assert files.asked == [None, "bytes=1000-99999"]
    assert path.read_bytes() == FILE
    assert names_beside(path) == [path.name]


def test_a_name_that_is_too_long_is_an_error_before_anything_is_sent(path: Path) -> None:
    with serving() as (files, client, url):
        for resume in (True, False):
            with pytest.raises(OSError, match="too long"):
                client.download(url, path.with_name("n" * 256), resume=resume)
        assert files.requests == []


@pytest.mark.parametrize("resume", [True, False])
def test_a_download_does_not_write_to_the_part_of_another(path: Path, resume: bool) -> None:
    errors: list[OSError] = []

    def download_there(done: int, total: int | None) -> None:
        if not errors:
            with pytest.raises(FileExistsError, match="partial file of another") as caught:
                client.download(url, f"{path}.part", resume=resume)
            errors.append(caught.value)

    with serving() as (files, client, url):
        client.download(url, path, progress=download_there)
        assert errors[0].filename == f"{path}.part"
        assert len(files.requests) == 1
        assert names_beside(path) == ["file"]
        client.download(url, f"{path}.part", resume=resume)
    assert path.read_bytes() == path.with_name("file.part").read_bytes() == FILE


@pytest.mark.parametrize("resume", [True, False])
def test_the_part_of_a_download_is_not_where_another_one_writes_to(
    path: Path, resume: bool
) -> None:
    sizes: list[int] = []

    def download_there(done: int, total: int | None) -> None:
        if not sizes:
            sizes.append(client.download(url, path).size)

    with serving() as (_, client, url):
        client.download(url, f"{path}.part", resume=resume, progress=download_there)
    assert path.read_bytes() == path.with_name("file.part").read_bytes() == FILE
    assert names_beside(path) == ["file", "file.part"]


BAD: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "resume": ({"resume": 1}, TypeError),
    "connections": ({"connections": 0}, ValueError),
    "no connections": ({"connections": None}, TypeError),
    "digest": ({"digest": b"sha256:"}, TypeError),
    "no digest": ({"digest": "sha256:nonsense"}, ValueError),
    "progress": ({"progress": 1}, TypeError),
    "an option": ({"body": b""}, TypeError),
    "a hint": ({"verify": False}, TypeError),
    "timeout": ({"timeout": -1}, ValueError),
    "deadline": ({"deadline": 0}, ValueError),
    "range": ({"headers": {"range": "bytes=1-"}}, ValueError),
    "headers": ({"headers": {"a b": "c"}}, ValueError),
}


@pytest.mark.parametrize("case", BAD)
def test_what_makes_no_sense_is_an_error_at_the_call(path: Path, case: str) -> None:
    options, error = BAD[case]
    with serving() as (files, client, url):
        with pytest.raises(error):
            client.download(url, path, **options)
        assert files.requests == []
    assert names_beside(path) == []


def test_a_file_that_cannot_be_made_is_an_error_before_anything_is_sent(path: Path) -> None:
    with serving() as (files, client, url):
        with pytest.raises(FileNotFoundError, match=r"missing/file\.part'$"):
            client.download(url, path.parent / "missing" / "file")
        for resume in (True, False):
            with pytest.raises(FileNotFoundError, match="a file needs a name"):
                client.download(url, "", resume=resume)
        with pytest.raises(IsADirectoryError):
            client.download(url, path.parent)
        with pytest.raises(ValueError, match="base_url"):
            client.download("relative", path)
        assert files.requests == []


# --- a real server --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(
    nginx_path: str, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Nginx]:
    with nginx(nginx_path, tmp_path_factory.mktemp("nginx"), authority) as server:
        (server.root / "large").write_bytes(Random(4).randbytes(1_000_000))
        (server.root / "empty").write_bytes(b"")
        for name in ("large", "empty"):
            os.utime(server.root / name, (1e9, 1e9))
        yield server


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("name", ["large", "empty"])
def test_nginx_has_what_comes(
    real: Nginx, path: Path, name: str, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEGMENT", 100_000)
    with Client(trust_env=False) as client:
        client.download(f"http://127.0.0.1:{real.port}/{name}", path, connections=connections)
    assert path.read_bytes() == (real.root / name).read_bytes()


@pytest.mark.parametrize("connections", [1, 3])
def test_a_download_from_nginx_goes_on(
    real: Nginx, path: Path, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEGMENT", 100_000)
    url = f"http://127.0.0.1:{real.port}/large"

    def stop(done: int, total: int | None) -> None:
        if done:
            raise KeyboardInterrupt

    with Client(trust_env=False) as client:
        monkeypatch.setattr(module.Meter, "add", lambda self, count: self._call(count, 1))
        with pytest.raises(KeyboardInterrupt):
            client.download(url, path, connections=connections, progress=stop)
        monkeypatch.undo()
        got = client.download(url, path, connections=connections)
        assert 0 < got.resumed < got.size
    assert path.read_bytes() == (real.root / "large").read_bytes()
