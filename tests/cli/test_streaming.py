"""Large bodies: cut short, continued, of another version."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dugong.cli.download import Download, Fetching
from dugong.cli.fetching import fetch
from dugong.cli.names import Names
from dugong.cli.settings import Settings
from dugong.cli.sources import Urls
from tests.support.server import Peer, ReceivedRequest, ScriptedServer

BODY = bytes(range(256)) * 40

Respond = Callable[[Peer, ReceivedRequest], object]


def serving(*responses: Respond) -> tuple[list[ReceivedRequest], Callable[[Peer], None]]:
    """Return the requests that come, and a script that gives each of *responses* to one."""
    requests: list[ReceivedRequest] = []
    left = iter(responses)

    def script(peer: Peer) -> None:
        try:
            while True:
                request = peer.head()
                requests.append(request)
                if next(left)(peer, request) is StopIteration:
                    return
        except (EOFError, ConnectionError):
            pass

    return requests, script


def cut(size: int, headers: str = 'ETag: "1"\r\n', first: int = 0) -> Respond:
    """Return what sends *size* bytes of what is behind *first*, and ends the connection."""

    def respond(peer: Peer, request: ReceivedRequest) -> object:
        status, more = "200 OK", headers
        if first:
            status = "206 Partial Content"
            more += f"Content-Range: bytes {first}-{len(BODY) - 1}/{len(BODY)}\r\n"
        length = len(BODY) - first
        head = f"HTTP/1.1 {status}\r\n{more}Content-Length: {length}\r\n\r\n"
        peer.send(head.encode() + BODY[first : first + size])
        return StopIteration

    return respond


def rest(headers: str = 'ETag: "1"\r\n') -> Respond:
    """Return what sends what was asked for."""

    def respond(peer: Peer, request: ReceivedRequest) -> None:
        first = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
        content_range = f"Content-Range: bytes {first}-{len(BODY) - 1}/{len(BODY)}\r\n"
        peer.respond(BODY[first:], status="206 Partial Content", headers=headers + content_range)

    return respond


def whole(headers: str = 'ETag: "2"\r\n', body: bytes = BODY) -> Respond:
    return lambda peer, request: peer.respond(body, headers=headers)


def status(line: str, headers: str = "") -> Respond:
    return lambda peer, request: peer.respond(status=line, headers=headers)


def receive(
    directory: Path,
    *responses: Respond,
    keeps_parts: bool = False,
    names: Names | None = None,
    settings: Settings | None = None,
) -> tuple[Download, list[ReceivedRequest]]:
    requests, script = serving(*responses)
    with ScriptedServer(script, repeat=True) as server:
        url = "http://{}:{}/a".format(*server.address)

        def plan(text: str) -> Download:
            download = Download(text, text, str(directory / "a"))
            download.large = True
            if keeps_parts and "a.part" in os.listdir(directory):
                adopt(directory, url)
            return download

        fetching = Fetching(settings or Settings(timeout=10), keeps_parts=keeps_parts, names=names)
        ((download,),) = fetch(Urls([url]), plan, fetching)
    return download, requests


def adopt(directory: Path, url: str) -> None:
    """Have the part that another server has sent be that of *url*: its port differs."""
    note = directory / "a.part.etag"
    note.write_text(f"{url}\n{note.read_text().splitlines()[1]}\n")


def ranges(requests: list[ReceivedRequest]) -> list[tuple[str | None, str | None]]:
    return [(r.headers.get("range"), r.headers.get("if-range")) for r in requests]


def files(directory: Path) -> dict[str, bytes]:
    return {entry: (directory / entry).read_bytes() for entry in os.listdir(directory)}


def test_a_body_that_is_cut_short_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    download, requests = receive(tmp_path, cut(1000), cut(500, first=1000), rest())
    assert (download.error, download.size) == (None, len(BODY))
    assert files(tmp_path) == {"a": BODY}
    assert ranges(requests) == [
        (None, None),
        ("bytes=1000-", '"1"'),
        ("bytes=1500-", '"1"'),
    ]


@pytest.mark.parametrize("headers", ["", 'ETag: W/"1"\r\n', "ETag: nonsense\r\n"])
def test_without_a_strong_etag_it_begins_again(tmp_path: Path, headers: str) -> None:
    _, requests = receive(tmp_path, cut(1000, headers), whole())
    assert files(tmp_path) == {"a": BODY}
    assert ranges(requests) == [(None, None)] * 2


def test_another_version_is_received_from_its_beginning(tmp_path: Path) -> None:
    receive(tmp_path, cut(1000), whole(body=b"new"))
    assert files(tmp_path) == {"a": b"new"}


@pytest.mark.parametrize(
    "wrong",
    [
        status("416 Range Not Satisfiable", "Content-Range: bytes */3\r\n"),
        rest('ETag: "2"\r\n'),
        lambda peer, request: peer.respond(
            b"x", status="206 Partial Content", headers="Content-Range: bytes 7-7/10240\r\n"
        ),
        lambda peer, request: peer.respond(b"x", status="206 Partial Content"),
    ],
    ids=["416", "another version", "another range", "no range"],
)
def test_a_part_that_does_not_fit_is_not_joined(tmp_path: Path, wrong: Respond) -> None:
    download, requests = receive(tmp_path, cut(1000), wrong, whole())
    assert download.error is None
    assert files(tmp_path) == {"a": BODY}
    assert ranges(requests)[2] == (None, None)


def test_a_part_without_an_end_is_no_whole(tmp_path: Path) -> None:
    def short(peer: Peer, request: ReceivedRequest) -> None:
        headers = f'ETag: "1"\r\nContent-Range: bytes 1000-1001/{len(BODY)}\r\n'
        peer.respond(BODY[1000:1002], status="206 Partial Content", headers=headers)

    download, _ = receive(tmp_path, cut(1000), short)
    assert download.error == f"the server has sent 1002 of {len(BODY)} bytes"
    assert files(tmp_path) == {}


def test_a_part_is_kept_for_the_next_run(tmp_path: Path) -> None:
    once = Settings(timeout=10, retries=0)
    download, _ = receive(tmp_path, cut(1000), keeps_parts=True, settings=once)
    assert download.error is not None
    assert files(tmp_path)["a.part"] == BODY[:1000]
    download, requests = receive(tmp_path, rest(), keeps_parts=True)
    assert (download.error, download.size) == (None, len(BODY))
    assert files(tmp_path) == {"a": BODY}
    assert ranges(requests) == [("bytes=1000-", '"1"')]


@pytest.mark.parametrize(
    "respond", [status("503 Service Unavailable"), status("404 Not Found")], ids=["503", "404"]
)
def test_a_failure_keeps_the_part(tmp_path: Path, respond: Respond) -> None:
    once = Settings(timeout=10, retries=0)
    receive(tmp_path, cut(1000), keeps_parts=True, settings=once)
    download, _ = receive(tmp_path, respond, keeps_parts=True, settings=once)
    assert download.error is not None
    assert files(tmp_path)["a.part"] == BODY[:1000]


def test_a_part_of_an_unknown_version_is_not_kept(tmp_path: Path) -> None:
    once = Settings(timeout=10, retries=0)
    receive(tmp_path, cut(1000, headers=""), keeps_parts=True, settings=once)
    assert files(tmp_path) == {}


def test_a_range_of_the_user_is_left_alone(tmp_path: Path) -> None:
    settings = Settings(timeout=10, headers=(("Range", "bytes=0-1"),))

    def respond(peer: Peer, request: ReceivedRequest) -> None:
        headers = f'ETag: "1"\r\nContent-Range: bytes 0-1/{len(BODY)}\r\n'
        peer.respond(BODY[:2], status="206 Partial Content", headers=headers)

    download, requests = receive(tmp_path, respond, settings=settings)
    assert download.error is None
    assert files(tmp_path) == {"a": BODY[:2]}
    assert ranges(requests) == [("bytes=0-1", None)]


def test_a_server_may_choose_the_name(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"old")
    field = "Content-Disposition: attachment; filename=../b\r\n"
    download, _ = receive(tmp_path, whole(field), names=Names())
    assert download.path == str(tmp_path / "b.1")
    assert files(tmp_path) == {"b": b"old", "b.1": BODY}


def test_a_limit_on_the_rate_is_kept_and_ends_with_the_run(tmp_path: Path) -> None:
    settings = Settings(timeout=10, rate=1e9)
    receive(tmp_path, whole(), settings=settings)
    assert files(tmp_path) == {"a": BODY}
