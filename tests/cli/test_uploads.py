"""Uploads of files: what is sent for each, and what is said of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from threading import Thread

import pytest

from dugong.cli.settings import Settings, make_client
from dugong.cli.tally import Tally, Transfer
from dugong.cli.uploads import Upload, Uploader
from tests.support.server import Peer, ReceivedRequest, ScriptedServer

LARGE = 64 * 1024 + 1
ASKED = 1024 * 1024


class Store:
    """A server that keeps what is put."""

    def __init__(self, statuses: dict[str, str] | None = None) -> None:
        self.statuses = statuses or {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[ReceivedRequest] = []

    def __call__(self, peer: Peer) -> None:
        try:
            while True:
                request = peer.head()
                self.requests.append(request)
                if "expect" in request.headers:
                    peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
                if "content-length" in request.headers:
                    body = peer.exactly(int(request.headers["content-length"]))
                else:
                    body = self.chunks(peer)
                status = self.statuses.get(request.target, "201 Created")
                if status[0] == "2":
                    self.objects[request.target] = body
                peer.respond(status=status)
        except (EOFError, ConnectionError):
            pass

    def chunks(self, peer: Peer) -> bytes:
        body = b""
        while size := int(self.line(peer), 16):
            body += peer.exactly(size)
            self.line(peer)
        self.line(peer)
        return body

    def line(self, peer: Peer) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            line += peer.exactly(1)
        return line


def upload(
    store: Store,
    *files: Path | str,
    settings: Settings | None = None,
    method: str = "PUT",
    tally: Tally | None = None,
) -> Tally:
    """Upload *files*, each under its name."""
    settings = (settings or Settings())._replace(timeout=10)
    tally = tally or Tally(len(files))
    with ScriptedServer(store, repeat=True) as server, make_client(settings, 1000) as client:
        base = "http://{}:{}/".format(*server.address)
        uploads = [Upload(str(file), base + Path(file).name) for file in files]
        Uploader(client, settings, tally, method).run(uploads)
    return tally


def made(directory: Path, name: str, size: int) -> Path:
    (directory / name).write_bytes(name[:1].encode() * size)
    return directory / name


@pytest.mark.parametrize("rate", [None, 1e9])
@pytest.mark.parametrize("size", [0, 10, LARGE, ASKED])
def test_the_server_gets_what_is_in_the_file(
    tmp_path: Path, size: int, rate: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store()
    tally = upload(store, made(tmp_path, "a", size), settings=Settings(rate=rate))
    assert store.objects == {"/a": b"a" * size}
    assert ("expect" in store.requests[0].headers) is (size >= ASKED)
    assert (tally.succeeded, tally.failed, tally.size) == (1, 0, size)
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path}/a -> http://127.0.0.1:")
    assert out.endswith(f"/a ({size} bytes)\n")


def test_many_small_files_are_uploaded(tmp_path: Path) -> None:
    store = Store()
    files = [made(tmp_path, f"{i}", i) for i in range(100)]
    assert upload(store, *files).succeeded == 100
    assert store.objects == {f"/{file.name}": file.read_bytes() for file in files}


def test_each_failure_has_its_line_and_the_others_are_uploaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store({"/b": "403 Forbidden \x1b"})
    files = [tmp_path / "missing", made(tmp_path, "b", 5), tmp_path, made(tmp_path, "c", 5)]
    tally = upload(store, *files)
    assert (tally.succeeded, tally.failed) == (1, 3)
    assert sorted(capsys.readouterr().err.splitlines()) == sorted(
        [
            f"dugong: {tmp_path}/missing: No such file or directory",
            f"dugong: {tmp_path}/b: 403 Forbidden \\x1b",
            f"dugong: {tmp_path}: Is a directory",
        ]
    )
    assert store.objects == {"/c": b"ccccc"}


def test_headers_credentials_and_method_are_as_the_user_says(tmp_path: Path) -> None:
    store = Store()
    settings = Settings(headers=(("X-A", "1"),), auth=("ada", "sesame"))
    upload(store, made(tmp_path, "a", LARGE), settings=settings, method="POST")
    (request,) = store.requests
    assert request.method == "POST"
    assert request.headers["x-a"] == "1"
    assert request.headers["authorization"] == "Basic YWRhOnNlc2FtZQ=="


def test_standard_input_is_uploaded_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"input")
    os.close(writing)
    store = Store()
    with open(reading) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert upload(store, "-").succeeded == 1
    assert store.objects == {"/-": b"input"}


def test_all_that_comes_through_a_named_pipe_is_uploaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = Thread(target=pipe.write_bytes, args=(b"p" * LARGE,))
    writer.start()
    store = Store()
    tally = upload(store, pipe)
    writer.join()
    assert store.objects == {"/pipe": b"p" * LARGE}
    assert tally.size == LARGE
    assert capsys.readouterr().out.endswith(f"/pipe ({LARGE} bytes)\n")


@pytest.mark.parametrize("path", ["/proc/version", "/proc/kallsyms"])
def test_all_of_a_file_is_uploaded_though_the_system_says_that_it_is_empty(path: str) -> None:
    if not os.access(path, os.R_OK):
        pytest.skip("the system has no such file")
    with open(path, "rb") as file:
        content = file.read()
    store = Store()
    assert upload(store, path).size == len(content)
    assert list(store.objects.values()) == [content]


def test_a_pipe_is_not_waited_for_after_the_deadline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    store = Store()
    try:
        with open(reading) as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            assert upload(store, "-", settings=Settings(deadline=0.1)).failed == 1
    finally:
        os.close(writing)
    assert "deadline" in capsys.readouterr().err
    assert store.objects == {}


def test_a_large_file_is_a_transfer_that_is_under_way_while_it_is_sent(tmp_path: Path) -> None:
    seen: list[tuple[str, int | None]] = []

    class Watched(Tally):
        def end(self, transfer: Transfer) -> None:
            seen.extend((each.name, each.size) for each in self.transfers())
            super().end(transfer)

    files = [made(tmp_path, "a", LARGE)]
    tally = upload(Store(), *files, tally=Watched(1))
    assert seen == [(str(files[0]), LARGE)]
    assert tally.transfers() == []


def test_nothing_is_sent_after_the_deadline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store()
    tally = upload(store, made(tmp_path, "a", 1), settings=Settings(deadline=1e-9))
    assert (tally.failed, store.requests) == (1, [])
    assert capsys.readouterr().err == f"dugong: {tmp_path}/a: the deadline has passed\n"


def test_quiet_says_nothing_of_a_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upload(Store(), made(tmp_path, "a", 1), settings=Settings(quiet=True))
    assert capsys.readouterr() == ("", "")
