"""Uploads of files: what arrives is the file, whole and of one version."""

from __future__ import annotations

import hashlib
import os
import ssl
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dugong import Client, ConnectionClosed, HTTPStatusError, IntegrityError, Progress, RetryPolicy
from tests.support.pool import GONE
from tests.support.server import Peer, ReceivedRequest, Script, ScriptedServer

FILE = Random(1).randbytes(300_000)
QUICK = RetryPolicy(backoff=0)


@contextmanager
def serving(*scripts: Script, **options: Any) -> Iterator[tuple[Client, str]]:
    options.setdefault("retry", QUICK)
    with ScriptedServer(*scripts) as server, Client(trust_env=False, **options) as client:
        yield client, server.url("/file")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(FILE)
    return path


class Store:
    """Keeps what is sent, and responds by *status*; *then* is called before it responds."""

    def __init__(
        self, status: str = "201 Created", then: Callable[[], object] = lambda: None
    ) -> None:
        self.requests: list[ReceivedRequest] = []
        self._status = status
        self._then = then

    def __call__(self, peer: Peer) -> None:
        for request in peer.requests():
            self.requests.append(request)
            self._then()
            peer.respond(b"an explanation", self._status, "ETag: stored\r\n")

    @property
    def only(self) -> ReceivedRequest:
        [request] = self.requests
        return request


def in_field(name: str, body: bytes = FILE) -> str:
    digest = hashlib.new(name.replace("-", ""), body).digest()
    return f"{name}=:{b64encode(digest).decode()}:"


@pytest.mark.parametrize("body", [b"", b"x", FILE], ids=["empty", "a byte", "more"])
@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
def test_a_file_is_put(path: Path, body: bytes, kind: Any) -> None:
    path.write_bytes(body)
    store = Store()
    with serving(store) as (client, url):
        response = client.upload(kind(path), url)
    assert (response.status, response.headers["ETag"]) == (201, "stored")
    assert (store.only.method, store.only.body) == ("PUT", body)
    assert store.only.headers["content-length"] == str(len(body))
    assert "content-digest" not in store.only.headers


def test_the_kernel_sends_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []
    sendfile = os.sendfile

    def noting(*args: Any) -> int:
        sent.append(count := sendfile(*args))
        return count

    monkeypatch.setattr(os, "sendfile", noting)
    store = Store()
    with serving(store) as (client, url):
        client.upload(path, url, digest="sha-256")
    assert sum(sent) == len(FILE)
    assert store.only.body == FILE


def test_it_is_encrypted_where_tls_is_spoken(
    path: Path, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    store = Store()
    with (
        ScriptedServer(store, context=server_context) as server,
        Client(trust_env=False, verify=client_context) as client,
    ):
        client.upload(path, server.url("/file"))
    assert store.only.body == FILE


def test_method_and_options_are_those_of_a_request(path: Path) -> None:
    store = Store()
    with serving(store, headers={"X-Client": "1"}) as (client, url):
        client.upload(path, url, "POST", headers={"X-Own": "2"}, params={"a": "b"}, auth=("u", "p"))
    request = store.only
    assert (request.method, request.target) == ("POST", "/file?a=b")
    assert (request.headers["x-client"], request.headers["x-own"]) == ("1", "2")
    assert "authorization" in request.headers


@pytest.mark.parametrize("name", ["sha-256", "sha-512"])
@pytest.mark.parametrize("headers", [None, {"X-Own": "1"}, lambda request: {"X-Own": "1"}])
def test_a_digest_is_sent_before_the_file(path: Path, name: str, headers: Any) -> None:
    store = Store()
    with serving(store) as (client, url):
        client.upload(path, url, digest=name, headers=headers)
    sent = store.only.headers
    assert sent["content-digest"] == sent["repr-digest"] == in_field(name)
    assert sent.get("x-own") == (None if headers is None else "1")


def test_it_is_sent_again_from_its_beginning(path: Path) -> None:
    def cuts(peer: Peer) -> None:
        peer.head()
        peer.exactly(100_000)
        peer.reset()

    def refuses(peer: Peer) -> None:
        peer.request()
        peer.respond(status="503 Service Unavailable", headers="Connection: close\r\n")

    store = Store()
    with serving(cuts, refuses, store, retry=QUICK) as (client, url):
        response = client.upload(path, url, digest="sha-256")
    assert len(response.attempts) == 2
    assert store.only.body == FILE
    assert store.only.headers["repr-digest"] == in_field("sha-256")


def test_a_post_is_not_sent_again(path: Path) -> None:
    def cuts(peer: Peer) -> None:
        peer.request()

    with serving(cuts) as (client, url), pytest.raises(ConnectionClosed):
        client.upload(path, url, "POST")


@pytest.mark.parametrize("text", ["403 Forbidden", "507 Insufficient Storage"])
def test_a_status_that_is_no_success_is_an_error(path: Path, text: str) -> None:
    with serving(Store(text)) as (client, url):
        with pytest.raises(HTTPStatusError, match=text) as caught:
            client.upload(path, url)
        assert caught.value.response.body == b"an explanation"


@pytest.mark.parametrize("kind", ["callable", "Progress"])
def test_the_progress_is_that_of_the_file(path: Path, kind: str) -> None:
    told: list[tuple[int, int | None]] = []
    call: Any = lambda *numbers: told.append(numbers)  # noqa: E731
    with serving(Store()) as (client, url):
        client.upload(path, url, progress=call if kind == "callable" else Progress(upload=call))
    assert (told[0], told[-1]) == ((0, len(FILE)), (len(FILE), len(FILE)))


# --- a file that changes --------------------------------------------------------------------------


def rewrite(path: Path) -> None:
    """Give *path* other bytes, as many, and another time."""
    before = os.stat(path).st_mtime_ns
    with path.open("r+b") as file:
        file.write(b"other")
    os.utime(path, ns=(before, before + 1_000_000))


CHANGES: dict[str, Callable[[Path], object]] = {
    "grows": lambda path: os.truncate(path, len(FILE) + 1),
    "shrinks": lambda path: os.truncate(path, len(FILE) - 1),
    "is rewritten": rewrite,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("text", ["201 Created", "400 Bad Request"])
def test_a_file_that_changes_while_it_is_sent_is_an_error(
    path: Path, change: str, text: str
) -> None:
    store = Store(text, lambda: CHANGES[change](path))
    with serving(store) as (client, url):
        with pytest.raises(IntegrityError, match=rf"^PUT {url}: the file has changed") as caught:
            client.upload(path, url)
        assert isinstance(caught.value.__cause__, HTTPStatusError) == (text[0] == "4")


def test_a_file_that_shrinks_before_it_is_sent_is_the_same_error(path: Path) -> None:
    os.truncate(path, 64 * 1024 * 1024)  # more than the system takes at once

    def script(peer: Peer) -> None:
        peer.head()
        os.truncate(path, 1000)
        with suppress(*GONE):
            peer.until_eof()

    with serving(script) as (client, url):
        with pytest.raises(IntegrityError, match="has changed") as caught:
            client.upload(path, url)
        assert isinstance(caught.value.__cause__, ValueError)


def test_a_file_that_is_replaced_as_a_whole_is_sent_as_it_was(path: Path) -> None:
    def replace() -> None:
        path.with_name("new").write_bytes(b"new")
        os.replace(path.with_name("new"), path)

    store = Store(then=replace)
    with serving(store) as (client, url):
        client.upload(path, url)
    assert store.only.body == FILE
    assert path.read_bytes() == b"new"


# --- a pipe ---------------------------------------------------------------------------------------


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    """A pipe through which the file comes."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def fill() -> None:
        with suppress(BrokenPipeError), pipe.open("wb") as file:
            file.write(FILE)

    thread = threading.Thread(target=fill)
    thread.start()
    yield pipe
    thread.join()


@pytest.mark.parametrize("digest", [None, "sha-256", "sha-512"])
def test_a_pipe_goes_in_chunks_with_its_digest_behind_it(pipe: Path, digest: str | None) -> None:
    store = Store()
    with serving(store) as (client, url):
        client.upload(pipe, url, digest=digest, headers={"X-Own": "1"})
    request = store.only
    assert (request.body, request.headers["transfer-encoding"]) == (FILE, "chunked")
    assert request.headers["x-own"] == "1"
    if digest is None:
        assert (request.headers.get("trailer"), dict(request.trailers)) == (None, {})
    else:
        assert request.headers["trailer"] == "Content-Digest, Repr-Digest"
        value = in_field(digest)
        assert dict(request.trailers) == {"content-digest": value, "repr-digest": value}


@pytest.mark.parametrize("digest", [None, "sha-256"])
def test_a_pipe_is_not_sent_twice(pipe: Path, digest: str | None) -> None:
    def cuts(peer: Peer) -> None:
        peer.head()
        peer.exactly(100_000)
        peer.reset()

    with serving(cuts) as (client, url), pytest.raises(ConnectionClosed):
        client.upload(pipe, url, digest=digest)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="there is no /proc")
def test_a_file_that_does_not_know_its_size_goes_in_chunks() -> None:
    store = Store()
    with serving(store) as (client, url):
        client.upload("/proc/self/status", url, digest="sha-256")
    assert store.only.body.startswith(b"Name:")
    assert store.only.trailers["repr-digest"] == in_field("sha-256", store.only.body)


# --- bad input ------------------------------------------------------------------------------------

BAD: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "digest": ({"digest": "md5"}, ValueError),
    "progress": ({"progress": 1}, TypeError),
    "an option": ({"json": 1}, TypeError),
    "expect100": ({"expect100": 1}, TypeError),
    "headers": ({"headers": {"a b": "c"}}, ValueError),
    "method": ({"method": "P T"}, ValueError),
}


@pytest.mark.parametrize("case", BAD)
def test_what_makes_no_sense_is_an_error_at_the_call(path: Path, case: str) -> None:
    options, error = BAD[case]
    with serving() as (client, url), pytest.raises(error):
        client.upload(path, url, **options)


def test_a_file_that_cannot_be_read_is_an_error_at_the_call(path: Path) -> None:
    with serving() as (client, url):
        with pytest.raises(FileNotFoundError, match="missing"):
            client.upload(path.with_name("missing"), url)
        with pytest.raises(IsADirectoryError):
            client.upload(path.parent, url)
