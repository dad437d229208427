"""`sync`: only what differs is uploaded."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dugong import Headers
from dugong.cli.errors import UsageError
from dugong.cli.settings import Settings
from dugong.cli.sync import md5_of, sync
from dugong.client.part import Part
from tests.support.server import Peer, ScriptedServer

SETTINGS = Settings(timeout=10)
MD5_OF_A = "0cc175b9c0f1b6a831c399e269772661"

Tags = Callable[[bytes], str]


def etag(body: bytes) -> str:
    return f'ETag: "{hashlib.md5(body).hexdigest()}"\r\n'


def content_md5(body: bytes) -> str:
    return f"Content-MD5: {base64.b64encode(hashlib.md5(body).digest()).decode()}\r\n"


def no_md5(body: bytes) -> str:
    return f'ETag: "{len(body)}"\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n'


class Store:
    """A server with objects."""

    def __init__(self, objects: dict[str, bytes] | None = None, tags: Tags = etag) -> None:
        self.objects = objects or {}
        self.tags = tags
        self.put: list[str] = []
        self.refused: set[str] = set()

    def __call__(self, peer: Peer) -> None:
        try:
            while True:
                request = peer.head()
                target = request.target
                if request.method == "PUT":
                    self.objects[target] = peer.exactly(int(request.headers["content-length"]))
                    self.put.append(target)
                    peer.respond(status="201 Created")
                elif target in self.refused:
                    peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\n")
                elif target not in self.objects:
                    peer.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\n")
                else:
                    body = self.objects[target]
                    head = f"Content-Length: {len(body)}\r\n{self.tags(body)}\r\n"
                    peer.send(f"HTTP/1.1 200 OK\r\n{head}".encode())
        except (EOFError, ConnectionError):
            pass


def run(store: Store, directory: Path, target: str = "/x", **options: bool) -> int:
    with ScriptedServer(store, repeat=True) as server:
        url = "http://{}:{}".format(*server.address)
        return sync(str(directory), url + target, SETTINGS, **options)


def fill(directory: Path, files: dict[str, bytes]) -> None:
    for name, body in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)


def test_all_is_uploaded_at_first_and_nothing_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"a": b"1", "sub/b c": b"22", "sub/deeper/.c": b"", "large": bytes(100_000)}
    fill(tmp_path, files)
    (tmp_path / "empty").mkdir()
    store = Store()
    assert run(store, tmp_path) == 0
    assert store.objects == {
        "/x/a": b"1",
        "/x/sub/b%20c": b"22",
        "/x/sub/deeper/.c": b"",
        "/x/large": bytes(100_000),
    }
    assert capsys.readouterr().out.endswith("\n4 uploaded, 0 were there\n")
    store.put.clear()
    assert run(store, tmp_path) == 0
    assert store.put == []
    assert capsys.readouterr().out == "0 uploaded, 4 were there\n"


@pytest.mark.parametrize("target", ["/x?key=a/b", "/x/?key=a/b"])
def test_a_query_is_that_of_each_object(tmp_path: Path, target: str) -> None:
    fill(tmp_path, {"a": b"1", "sub/b": b"22"})
    store = Store()
    assert run(store, tmp_path, target) == 0
    assert store.objects == {"/x/a?key=a/b": b"1", "/x/sub/b?key=a/b": b"22"}


@pytest.mark.parametrize("tags", [etag, content_md5])
def test_what_has_another_size_or_another_md5_is_uploaded(tmp_path: Path, tags: Tags) -> None:
    fill(tmp_path, {"same": b"1", "longer": b"22", "other": b"3"})
    store = Store({"/x/same": b"1", "/x/longer": b"2", "/x/other": b"4", "/x/gone": b""}, tags)
    assert run(store, tmp_path) == 0
    assert sorted(store.put) == ["/x/longer", "/x/other"]
    assert "/x/gone" in store.objects


def test_without_an_md5_it_is_uploaded(tmp_path: Path) -> None:
    fill(tmp_path, {"a": b"1"})
    store = Store({"/x/a": b"1"}, no_md5)
    assert run(store, tmp_path) == 0
    assert store.put == ["/x/a"]


@pytest.mark.parametrize(("changed", "uploads"), [(784111776, 0), (784111778, 1)])
def test_without_an_md5_the_times_may_decide(tmp_path: Path, changed: int, uploads: int) -> None:
    fill(tmp_path, {"a": b"1"})
    os.utime(tmp_path / "a", (changed, changed))
    store = Store({"/x/a": b"1"}, no_md5)
    assert run(store, tmp_path, by_time=True) == 0
    assert len(store.put) == uploads


def test_each_failure_has_its_line_and_the_others_are_uploaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path, {"a": b"1", "b": b"2"})
    (tmp_path / "dangling").symlink_to("nothing")
    store = Store()
    store.refused.add("/x/a")
    assert run(store, tmp_path) == 1
    assert store.put == ["/x/b"]
    assert sorted(capsys.readouterr().err.splitlines()) == [
        f"dugong: {tmp_path}/a: 403 Forbidden",
        f"dugong: {tmp_path}/dangling: No such file or directory",
    ]


def test_the_partial_files_of_downloads_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path, {"a": b"1", "b.part": b"2", "sub/.part": b"3"})
    with Part(str(tmp_path / "sub" / "c"), "http://host/c") as part:
        part.begin('"1"', 2)
        part.write(0, b"c")
    store = Store()
    assert run(store, tmp_path) == 0
    assert sorted(store.put) == ["/x/a", "/x/b.part", "/x/sub/.part"]
    out = capsys.readouterr().out
    assert out.endswith("\n3 uploaded, 0 were there, 2 of unfinished downloads left out\n")


def test_links_to_files_are_followed_and_those_to_directories_are_not(tmp_path: Path) -> None:
    fill(tmp_path, {"outside/b": b"2", "inside/a": b"1"})
    (tmp_path / "inside" / "file").symlink_to("../outside/b")
    (tmp_path / "inside" / "directory").symlink_to("../outside")
    os.mkfifo(tmp_path / "inside" / "pipe")
    store = Store()
    assert run(store, tmp_path / "inside") == 0
    assert sorted(store.put) == ["/x/a", "/x/file"]


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sync(str(tmp_path / "missing"), "http://h/", SETTINGS)


def test_a_wrong_url_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        sync(str(tmp_path), "gopher://h/", SETTINGS)


@pytest.mark.parametrize(
    ("headers", "md5"),
    [
        ({"ETag": f'"{MD5_OF_A}"'}, MD5_OF_A),
        ({"ETag": f'"{MD5_OF_A.upper()}"'}, MD5_OF_A),
        ({"ETag": MD5_OF_A}, MD5_OF_A),
        ({"ETag": f'W/"{MD5_OF_A}"'}, None),
        ({"ETag": f'"{MD5_OF_A}-3"'}, None),
        ({"ETag": '"6b08e6ef-400"'}, None),
        ({"Content-MD5": "DMF1ucDxtqgxw5niaXcmYQ=="}, MD5_OF_A),
        ({"Content-MD5": "nonsense!", "ETag": f'"{MD5_OF_A}"'}, MD5_OF_A),
        ({"Content-MD5": "ä"}, None),
        ({}, None),
    ],
)
def test_the_md5_that_a_server_tells(headers: dict[str, str], md5: str | None) -> None:
    assert md5_of(Headers(headers.items())) == md5
