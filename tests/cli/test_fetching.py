"""Downloads over a pool: every one ends once, in a file or in an error."""

from __future__ import annotations

import os
import socket
import threading
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from dugong import RetryPolicy
from dugong.cli import fetching
from dugong.cli.download import Download, Fetching
from dugong.cli.fetching import fetch
from dugong.cli.names import Names
from dugong.cli.settings import Settings
from dugong.cli.sources import Urls
from dugong.client.part import Part
from dugong.pool import many
from dugong.pool.core.scheduler import Scheduler
from tests.support.server import Peer, ReceivedRequest, Script, ScriptedServer

TIMEOUT = 10.0
LARGE = fetching.SMALL + 1


def planned(directory: Path) -> Callable[[str], Download]:
    """Return what plans downloads into files that are called like their targets."""

    def plan(url: str) -> Download:
        return Download(url, url, str(directory / url.rpartition("/")[2]))

    return plan


def urls_of(address: tuple[str, int], *targets: str) -> list[str]:
    return [f"http://{address[0]}:{address[1]}{target}" for target in targets]


def fetch_all(
    address: tuple[str, int],
    directory: Path,
    *targets: str,
    timeout: float = TIMEOUT,
    settings: Settings | None = None,
) -> list[Download]:
    """Fetch *targets*; return their downloads, in that order, once each has ended."""
    urls = urls_of(address, *targets)
    run = Fetching(Settings(timeout=timeout) if settings is None else settings)
    ended = {
        download.text: download
        for batch in fetch(Urls(urls), planned(directory), run)
        for download in batch
    }
    assert len(ended) == len(urls)
    return [ended[url] for url in urls]


def files(directory: Path) -> dict[str, bytes]:
    """Return all files of *directory*, the hidden ones too."""
    return {entry: (directory / entry).read_bytes() for entry in os.listdir(directory)}


def serve(respond: Callable[[Peer, str], object]) -> Script:
    """Return a script that calls *respond* for each target, until the client closes."""

    def script(peer: Peer) -> None:
        try:
            while respond(peer, peer.head().target) is not StopIteration:
                pass
        except (EOFError, ConnectionError):
            pass

    return script


@serve
def echo(peer: Peer, target: str) -> None:
    peer.respond(target.encode())


def half(peer: Peer) -> None:
    """Send only a part of the response to one request."""
    peer.head()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")


def test_each_download_becomes_a_file(tmp_path: Path) -> None:
    targets = [f"/{i}" for i in range(100)]
    with ScriptedServer(echo, repeat=True) as server:
        downloads = fetch_all(server.address, tmp_path, *targets)
    assert [(d.error, d.size) for d in downloads] == [(None, len(target)) for target in targets]
    assert files(tmp_path) == {target[1:]: target.encode() for target in targets}


def test_an_empty_body_becomes_an_empty_file(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.respond()

    with ScriptedServer(script) as server:
        fetch_all(server.address, tmp_path, "/a")
    assert files(tmp_path) == {"a": b""}


def test_a_file_that_was_there_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"something longer than the new one")
    with ScriptedServer(echo) as server:
        fetch_all(server.address, tmp_path, "/a")
    assert files(tmp_path) == {"a": b"/a"}


def test_a_link_that_was_there_is_replaced_and_not_followed(tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    (tmp_path / "outside").write_bytes(b"precious")
    (directory / "a").symlink_to("../outside")
    with ScriptedServer(echo) as server:
        fetch_all(server.address, directory, "/a")
    assert files(directory) == {"a": b"/a"}
    assert (tmp_path / "outside").read_bytes() == b"precious"


def test_nothing_to_fetch_is_an_end(tmp_path: Path) -> None:
    assert list(fetch(Urls([]), planned(tmp_path), Fetching(Settings()))) == []


def test_what_cannot_be_asked_for_is_an_error_and_the_others_are_fetched(tmp_path: Path) -> None:
    with ScriptedServer(echo, repeat=True) as server:
        urls = ["http://127.0.0.1:99999/a", *urls_of(server.address, "/b")]
        batches = fetch(Urls(urls), planned(tmp_path), Fetching(Settings(timeout=TIMEOUT)))
        errors = {download.text: download.error for batch in batches for download in batch}
    assert errors == {
        urls[0]: f"invalid URL {urls[0]!r}: the port of a URL must be a number between 1 and 65535",
        urls[1]: None,
    }
    assert files(tmp_path) == {"b": b"/b"}


# --- how much at once ---------------------------------------------------------------------------


def test_the_requests_to_one_host_are_pipelined(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.respond(peer.head().target.encode())
        behind_each_other = [peer.head().target, peer.head().target]
        for target in behind_each_other:
            peer.respond(target.encode())

    settings = Settings(connections=1, timeout=TIMEOUT)
    with ScriptedServer(script) as server:
        fetch_all(server.address, tmp_path, "/1", "/2", "/3", settings=settings)
    assert files(tmp_path) == {"1": b"/1", "2": b"/2", "3": b"/3"}


@serve
def kibibyte(peer: Peer, target: str) -> None:
    peer.respond(bytes(1024))


def under_way(address: tuple[str, int], directory: Path, count: int) -> list[int]:
    """Fetch *count* URLs; return how many were begun and had not ended, after each batch."""
    begun = ended = 0
    plan = planned(directory)

    def counting(url: str) -> Download:
        nonlocal begun
        begun += 1
        return plan(url)

    urls = urls_of(address, *[f"/{i}" for i in range(count)])
    counts = []
    for batch in fetch(Urls(urls), counting, Fetching(Settings(timeout=TIMEOUT))):
        counts.append(begun - ended)
        ended += len(batch)
    assert (begun, ended) == (count, count)
    return counts


def test_only_so_many_are_under_way_as_memory_is_allowed_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "MEMORY", 2048)
    monkeypatch.setattr(fetching, "SMALL", 1024)
    with ScriptedServer(kibibyte, repeat=True) as server:
        assert max(under_way(server.address, tmp_path, 10)) == 2


def test_small_downloads_are_started_in_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many, "PATIENCE", 60.0)  # a busy machine is no slow source
    monkeypatch.setattr(fetching, "MEMORY", 200 * 1024)
    monkeypatch.setattr(fetching, "SMALL", 1024)
    with ScriptedServer(kibibyte, repeat=True) as server:
        counts = under_way(server.address, tmp_path, 400)
    assert max(counts) == 200


# --- bodies that are too large for memory -------------------------------------------------------


@serve
def large(peer: Peer, target: str) -> None:
    peer.respond(target[-1:].encode() * LARGE)


def test_a_large_body_becomes_a_file(tmp_path: Path) -> None:
    with ScriptedServer(large, repeat=True) as server:
        fetch_all(server.address, tmp_path, "/a")
    assert files(tmp_path) == {"a": b"a" * LARGE}


def test_small_and_large_bodies_do_not_mix(tmp_path: Path) -> None:
    @serve
    def script(peer: Peer, target: str) -> None:
        peer.respond(target[-1:].encode() * (LARGE if int(target[1:]) % 10 == 0 else 10))

    targets = [f"/{i:02}" for i in range(40)]
    with ScriptedServer(script, repeat=True) as server:
        fetch_all(server.address, tmp_path, *targets)
    assert files(tmp_path) == {
        target[1:]: target[-1:].encode() * (LARGE if target.endswith("0") else 10)
        for target in targets
    }


def test_a_large_body_of_unknown_length_becomes_a_file(tmp_path: Path) -> None:
    @serve
    def script(peer: Peer, target: str) -> type[StopIteration]:
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * LARGE)
        return StopIteration

    with ScriptedServer(script, repeat=True) as server:
        fetch_all(server.address, tmp_path, "/a")
    assert files(tmp_path) == {"a": b"x" * LARGE}


def test_a_large_body_is_not_kept_in_memory(tmp_path: Path) -> None:
    piece = bytes(65536)

    @serve
    def script(peer: Peer, target: str) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (512 * len(piece)))
        for _ in range(512):
            peer.send(piece)

    with ScriptedServer(script, repeat=True) as server:
        tracemalloc.start()
        try:
            (download,) = fetch_all(server.address, tmp_path, "/a")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (download.error, download.size) == (None, 512 * 65536)
    assert peak < 4 * 1024 * 1024


def test_a_large_error_page_is_still_an_error(tmp_path: Path) -> None:
    @serve
    def script(peer: Peer, target: str) -> None:
        peer.respond(bytes(LARGE), status="404 Not Found")

    with ScriptedServer(script, repeat=True) as server:
        (download,) = fetch_all(server.address, tmp_path, "/a")
    assert download.error == "404 Not Found"
    assert files(tmp_path) == {}


def test_a_large_body_that_is_cut_short_once_is_fetched_anew(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nhalf" % LARGE)

    with ScriptedServer(script, script, large) as server:
        (download,) = fetch_all(server.address, tmp_path, "/a")
    assert (download.error, download.size) == (None, LARGE)
    assert files(tmp_path) == {"a": b"a" * LARGE}


def test_a_large_body_that_is_cut_short_each_time_is_given_up(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nhalf" % LARGE)

    with ScriptedServer(script, repeat=True) as server:
        (download,) = fetch_all(server.address, tmp_path, "/a")
    assert download.error == f"connection closed with {LARGE - 4} bytes of body to come"
    # The first has shown how large it is, the second has brought something, and three have not.
    assert server.connections == 1 + 1 + 3
    assert files(tmp_path) == {}


def test_a_server_that_has_shown_a_large_body_and_responds_no_more_is_given_up(
    tmp_path: Path,
) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE)

    def no_response(peer: Peer) -> None:
        peer.head()

    with ScriptedServer(script, no_response, repeat=True) as server:
        (download,) = fetch_all(server.address, tmp_path, "/a")
    assert download.error == "connection closed before a response head"
    assert server.connections == 1 + 3


def test_a_large_body_that_is_not_to_be_had_now_is_asked_for_again(tmp_path: Path) -> None:
    responses = iter(["200 OK", "503 Service Unavailable", "200 OK"])

    @serve
    def script(peer: Peer, target: str) -> None:
        status = next(responses)
        peer.respond(b"a" * LARGE if status == "200 OK" else b"later", status=status)

    with ScriptedServer(script, repeat=True) as server:
        fetch_all(server.address, tmp_path, "/a")
    assert files(tmp_path) == {"a": b"a" * LARGE}


def test_a_large_body_that_cannot_be_written_fails_and_the_others_are_fetched(
    tmp_path: Path,
) -> None:
    (tmp_path / "a").mkdir()
    with ScriptedServer(large, repeat=True) as server:
        bad, good = fetch_all(server.address, tmp_path, "/a", "/b")
    assert bad.error == "cannot write the file: Is a directory"
    assert good.error is None
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


# --- bodies that are streamed, and go on ---------------------------------------------------------

BODY = bytes(range(256)) * 40
TAG = 'ETag: "1"\r\n'
ONCE = Settings(timeout=TIMEOUT, retries=0)


class Site:
    """A server with one file, which closes after `cuts[n]` bytes of the body of response n.

    `asked` are the Range and If-Range fields of the requests; `status` is that of all responses, if
    it is not "".
    """

    def __init__(self, *cuts: int | None, headers: str = TAG) -> None:
        self.cuts = list(cuts)
        self.headers = headers
        self.status = ""
        self.asked: list[tuple[str | None, str | None]] = []

    def __call__(self, peer: Peer) -> None:
        with suppress(EOFError, ConnectionError):
            while self.respond(peer, peer.request()):
                pass

    def respond(self, peer: Peer, request: ReceivedRequest) -> bool:
        cut = self.cuts.pop(0) if self.cuts else None
        asked = request.headers.get("range")
        self.asked.append((asked, request.headers.get("if-range")))
        status, first, more = "200 OK", 0, self.headers
        if asked is not None:
            first = int(asked.removeprefix("bytes=").partition("-")[0])
            status = "206 Partial Content"
            more += f"Content-Range: bytes {first}-{len(BODY) - 1}/{len(BODY)}\r\n"
        body = BODY[first:]
        if request.method == "HEAD":
            cut = 0
        head = f"HTTP/1.1 {self.status or status}\r\n{more}Content-Length: {len(body)}\r\n\r\n"
        peer.send(head.encode() + body[:cut])
        return cut is None or request.method == "HEAD"


def stream(server: ScriptedServer, directory: Path, fetching: Fetching) -> Download:
    """Fetch the file of a `Site`, streamed; return the download."""

    def plan(url: str) -> Download:
        download = Download(url, url, str(directory / "a"))
        download.large = True
        return download

    ((download,),) = fetch(Urls([server.url("/a")]), plan, fetching)
    return download


def test_a_body_that_is_cut_short_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    site = Site(1000, 500)
    with ScriptedServer(site, repeat=True) as server:
        download = stream(server, tmp_path, Fetching(Settings(timeout=TIMEOUT)))
    assert (download.error, download.size) == (None, len(BODY))
    assert files(tmp_path) == {"a": BODY}
    assert site.asked == [(None, None), ("bytes=1000-10239", '"1"'), ("bytes=1500-10239", '"1"')]


def test_a_part_is_kept_for_the_next_run(tmp_path: Path) -> None:
    site = Site(1000)
    with ScriptedServer(site, repeat=True) as server:
        first = stream(server, tmp_path, Fetching(ONCE, keeps_parts=True))
        assert first.error == f"connection closed with {len(BODY) - 1000} bytes of body to come"
        assert files(tmp_path)["a.part"] == BODY[:1000]
        second = stream(server, tmp_path, Fetching(ONCE, keeps_parts=True))
    assert (second.error, second.size) == (None, len(BODY))
    assert files(tmp_path) == {"a": BODY}
    assert site.asked == [(None, None), ("bytes=1000-10239", '"1"')]


def test_a_part_of_no_known_version_is_not_kept(tmp_path: Path) -> None:
    with ScriptedServer(Site(1000, headers=""), repeat=True) as server:
        assert stream(server, tmp_path, Fetching(ONCE, keeps_parts=True)).error is not None
    assert files(tmp_path) == {}


@pytest.mark.parametrize("status", ["404 Not Found", "503 Service Unavailable"])
def test_a_failure_keeps_the_part_and_says_the_status(tmp_path: Path, status: str) -> None:
    site = Site(1000)
    with ScriptedServer(site, repeat=True) as server:
        stream(server, tmp_path, Fetching(ONCE, keeps_parts=True))
        site.status = status
        download = stream(server, tmp_path, Fetching(ONCE, keeps_parts=True))
    assert download.error == status
    assert files(tmp_path)["a.part"] == BODY[:1000]


def test_two_runs_do_not_keep_a_part_of_the_same_file(tmp_path: Path) -> None:
    site = Site()
    with (
        ScriptedServer(site, repeat=True) as server,
        Part(str(tmp_path / "a"), server.url("/a")),
    ):
        download = stream(server, tmp_path, Fetching(ONCE, keeps_parts=True))
    why = "another download to this file is under way"
    assert (download.error, site.asked) == (f"cannot write the file: {why}", [])


def test_what_is_no_get_is_not_asked_for_twice(tmp_path: Path) -> None:
    site = Site(1000)
    with ScriptedServer(site, repeat=True) as server:
        fetching = Fetching(Settings(timeout=TIMEOUT), "POST", {"body": b"x"})
        assert stream(server, tmp_path, fetching).error is not None
        assert len(site.asked) == 1
        assert stream(server, tmp_path, fetching).error is None
    assert files(tmp_path) == {"a": BODY}


def test_a_head_becomes_an_empty_file(tmp_path: Path) -> None:
    with ScriptedServer(Site(), repeat=True) as server:
        stream(server, tmp_path, Fetching(Settings(timeout=TIMEOUT), "HEAD"))
    assert files(tmp_path) == {"a": b""}


def test_a_range_of_the_user_is_left_alone(tmp_path: Path) -> None:
    settings = Settings(timeout=TIMEOUT, headers=(("Range", "bytes=1000-"),))
    site = Site(10)
    with ScriptedServer(site, repeat=True) as server:
        assert stream(server, tmp_path, Fetching(settings)).error is None
    assert files(tmp_path) == {"a": BODY[1000:]}
    assert site.asked == [("bytes=1000-", None)] * 2


def test_a_server_may_choose_the_name_of_what_is_streamed(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"old")
    field = "Content-Disposition: attachment; filename=../b\r\n"
    with ScriptedServer(Site(headers=field), repeat=True) as server:
        settings = Settings(timeout=TIMEOUT)
        download = stream(server, tmp_path, Fetching(settings, names=Names()))
    assert download.path == str(tmp_path / "b.1")
    assert files(tmp_path) == {"b": b"old", "b.1": BODY}


def test_a_limit_on_the_rate_lets_the_body_through(tmp_path: Path) -> None:
    with ScriptedServer(Site(), repeat=True) as server:
        stream(server, tmp_path, Fetching(Settings(timeout=TIMEOUT, rate=1e9)))
    assert files(tmp_path) == {"a": BODY}


def test_a_url_that_cannot_be_streamed_is_an_error(tmp_path: Path) -> None:
    fetching = Fetching(Settings(timeout=TIMEOUT), streams_all=True)

    def plan(url: str) -> Download:
        download = Download(url, url, str(tmp_path / "a"))
        download.large = True
        return download

    ((download,),) = fetch(Urls(["http://127.0.0.1:99999/a"]), plan, fetching)
    assert download.error is not None
    assert "port" in download.error


# --- responses that are no success --------------------------------------------------------------


def test_an_error_response_fails_and_the_others_are_fetched(tmp_path: Path) -> None:
    @serve
    def script(peer: Peer, target: str) -> None:
        peer.respond(target.encode(), status="404 Not Found" if target == "/b" else "200 OK")

    with ScriptedServer(script, repeat=True) as server:
        downloads = fetch_all(server.address, tmp_path, "/a", "/b", "/c")
    assert [d.error for d in downloads] == [None, "404 Not Found", None]
    assert files(tmp_path) == {"a": b"/a", "c": b"/c"}


def test_a_server_that_is_busy_is_asked_again(tmp_path: Path) -> None:
    statuses = iter(["503 Service Unavailable", "429 Too Many Requests", "200 OK"])

    @serve
    def script(peer: Peer, target: str) -> None:
        peer.respond(target.encode(), status=next(statuses))

    with ScriptedServer(script, repeat=True) as server:
        fetch_all(server.address, tmp_path, "/a")
    assert files(tmp_path) == {"a": b"/a"}


def test_a_server_that_stays_busy_is_given_up(tmp_path: Path) -> None:
    asked: list[str] = []

    @serve
    def script(peer: Peer, target: str) -> None:
        asked.append(target)
        peer.respond(status="503 Service Unavailable")

    with ScriptedServer(script, repeat=True) as server:
        (download,) = fetch_all(server.address, tmp_path, "/a")
    assert download.error == "503 Service Unavailable"
    assert asked == ["/a"] * 3


def redirect(peer: Peer) -> None:
    peer.head()
    peer.respond(status="301 Moved Permanently", headers="Location: /b\r\n")


def test_a_redirect_is_followed(tmp_path: Path) -> None:
    @serve
    def script(peer: Peer, target: str) -> None:
        if target == "/a":
            peer.respond(status="302 Found", headers="Location: /b\r\n")
        else:
            peer.respond(target.encode())

    with ScriptedServer(script, repeat=True) as server:
        fetch_all(server.address, tmp_path, "/a")
    assert files(tmp_path) == {"a": b"/b"}


def test_a_redirect_that_is_not_to_be_followed_fails_and_says_where_to(tmp_path: Path) -> None:
    settings = Settings(timeout=TIMEOUT, follow_redirects=False)
    with ScriptedServer(redirect) as server:
        (download,) = fetch_all(server.address, tmp_path, "/a", settings=settings)
    assert download.error == "301 Moved Permanently, see /b (redirects are not followed)"


def test_an_invalid_response_fails_and_the_others_are_fetched(tmp_path: Path) -> None:
    @serve
    def script(peer: Peer, target: str) -> None:
        if target == "/a":
            peer.send(b"nonsense\r\n\r\n")
        else:
            peer.respond(target.encode())

    with ScriptedServer(script, repeat=True) as server:
        bad, good = fetch_all(server.address, tmp_path, "/a", "/b")
    assert bad.error == "invalid status line b'nonsense'"
    assert good.error is None
    assert files(tmp_path) == {"b": b"/b"}


# --- connections that end -----------------------------------------------------------------------


@pytest.mark.parametrize("responses", [1, 2, 3, 7])
def test_unanswered_requests_are_sent_again(tmp_path: Path, responses: int) -> None:
    def script(peer: Peer) -> None:
        try:
            for _ in range(responses):
                peer.respond(peer.head().target.encode())
            peer.head()  # is not answered
        except (EOFError, ConnectionError):
            pass  # all that there was has been answered

    targets = [f"/{i}" for i in range(40)]
    with ScriptedServer(script, repeat=True) as server:
        downloads = fetch_all(server.address, tmp_path, *targets)
    assert [d.error for d in downloads] == [None] * 40
    assert files(tmp_path) == {target[1:]: target.encode() for target in targets}


def test_a_server_that_announces_the_end_is_believed(tmp_path: Path) -> None:
    @serve
    def script(peer: Peer, target: str) -> type[StopIteration]:
        peer.respond(target.encode(), headers="Connection: close\r\n")
        return StopIteration

    targets = [f"/{i}" for i in range(20)]
    with ScriptedServer(script, repeat=True) as server:
        fetch_all(server.address, tmp_path, *targets)
    assert files(tmp_path) == {target[1:]: target.encode() for target in targets}


def test_a_server_of_http_1_0_is_understood(tmp_path: Path) -> None:
    @serve
    def script(peer: Peer, target: str) -> type[StopIteration]:
        peer.send(b"HTTP/1.0 200 OK\r\n\r\n" + target.encode())
        return StopIteration

    targets = [f"/{i}" for i in range(20)]
    with ScriptedServer(script, repeat=True) as server:
        fetch_all(server.address, tmp_path, *targets)
    assert files(tmp_path) == {target[1:]: target.encode() for target in targets}


def test_a_server_that_never_responds_is_given_up(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.head()

    with ScriptedServer(script, repeat=True) as server:
        (download,) = fetch_all(server.address, tmp_path, "/a")
    assert download.error == "connection closed before a response head"
    assert server.connections == 3
    assert files(tmp_path) == {}


def test_a_request_that_kills_its_connections_does_not_take_the_others_along(
    tmp_path: Path,
) -> None:
    @serve
    def script(peer: Peer, target: str) -> type[StopIteration] | None:
        if target == "/3":
            return StopIteration
        peer.respond(target.encode())
        return None

    with ScriptedServer(script, repeat=True) as server:
        downloads = fetch_all(server.address, tmp_path, *[f"/{i}" for i in range(20)])
    failed = [d.url[-2:] for d in downloads if d.error is not None]
    assert failed == ["/3"]
    assert len(files(tmp_path)) == 19


def test_a_body_that_is_cut_short_leaves_no_file(tmp_path: Path) -> None:
    with ScriptedServer(half, repeat=True) as server:
        (download,) = fetch_all(server.address, tmp_path, "/a")
    assert download.error == "connection closed with 6 bytes of body to come"
    assert files(tmp_path) == {}


def test_a_body_that_is_cut_short_once_is_fetched_anew(tmp_path: Path) -> None:
    with ScriptedServer(half, echo) as server:
        (download,) = fetch_all(server.address, tmp_path, "/a")
    assert (download.error, download.size) == (None, 2)
    assert files(tmp_path) == {"a": b"/a"}


def test_silence_ends_a_download_at_once_and_the_others_are_fetched(tmp_path: Path) -> None:
    asked: list[str] = []

    @serve
    def script(peer: Peer, target: str) -> None:
        asked.append(target)
        if target == "/a":
            peer.until_eof()
        else:
            peer.respond(target.encode())

    with ScriptedServer(script, repeat=True) as server:
        bad, good = fetch_all(server.address, tmp_path, "/a", "/b", timeout=0.2)
    assert bad.error == "nothing received for 0.2 s (waiting for the response)"
    assert good.error is None
    assert sorted(asked) == ["/a", "/b"]


# --- no connection ------------------------------------------------------------------------------


def test_a_refused_connection_fails_all(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    downloads = fetch_all(address, tmp_path, "/a", "/b")
    error = f"connecting to 127.0.0.1:{address[1]} (Connection refused)"
    assert [d.error for d in downloads] == [error] * 2


# --- files that cannot be written ---------------------------------------------------------------


def test_a_file_that_cannot_be_written_fails_and_the_others_are_fetched(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with ScriptedServer(echo, repeat=True) as server:
        bad, good = fetch_all(server.address, tmp_path, "/a", "/b")
    assert bad.error == "cannot write the file: Is a directory"
    assert good.error is None
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


# --- stopping -----------------------------------------------------------------------------------


def test_closing_it_ends_what_waits_for_a_response(tmp_path: Path) -> None:
    waits = threading.Event()

    @serve
    def script(peer: Peer, target: str) -> None:
        if target == "/a":
            assert waits.wait(TIMEOUT)
            peer.respond()
        else:
            waits.set()
            peer.until_eof()

    with ScriptedServer(script, repeat=True) as server:
        urls = Urls(urls_of(server.address, "/a", "/b"))
        ending = fetch(urls, planned(tmp_path), Fetching(Settings(timeout=TIMEOUT)))
        (first,) = next(ending)
        assert first.url.endswith("/a")
        ending.close()
    assert files(tmp_path) == {"a": b""}


def test_closing_it_within_a_large_body_leaves_no_half_file(tmp_path: Path) -> None:
    streams = threading.Semaphore(0)

    @serve
    def script(peer: Peer, target: str) -> None:
        if target == "/a":
            # Twice, for /b comes a second time to be streamed, and then its file is begun.
            assert streams.acquire(timeout=TIMEOUT)
            assert streams.acquire(timeout=TIMEOUT)
            peer.respond()
        else:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nhalf" % LARGE)
            streams.release()
            peer.until_eof()

    with ScriptedServer(script, repeat=True) as server:
        urls = Urls(urls_of(server.address, "/a", "/b"))
        ending = fetch(urls, planned(tmp_path), Fetching(Settings(timeout=TIMEOUT)))
        (first,) = next(ending)
        assert first.url.endswith("/a")
        ending.close()
    assert files(tmp_path) == {"a": b""}


def test_closing_it_ends_the_wait_for_another_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = threading.Event()
    pause = Scheduler.pause

    def noted(self: Scheduler, seconds: float) -> None:
        assert seconds == 1000
        waits.set()
        pause(self, seconds)

    monkeypatch.setattr(Scheduler, "pause", noted)
    monkeypatch.setattr(RetryPolicy, "delay", lambda self, number: 1000)

    @serve
    def script(peer: Peer, target: str) -> object:
        if target == "/a":
            assert waits.wait(TIMEOUT)
            peer.respond()
            return None
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        return StopIteration

    def plan(url: str) -> Download:
        download = planned(tmp_path)(url)
        download.large = url.endswith("/b")
        return download

    with ScriptedServer(script, repeat=True) as server:
        urls = Urls(urls_of(server.address, "/a", "/b"))
        ending = fetch(urls, plan, Fetching(Settings(timeout=TIMEOUT)))
        (first,) = next(ending)
        assert first.url.endswith("/a")
        ending.close()
    assert files(tmp_path) == {"a": b""}
