"""Downloads from one origin: every one ends once, in a file or in an error."""

from __future__ import annotations

import os
import socket
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from dugong.cli.fetching import Download, OriginFetcher
from dugong.cli.url import Origin, Url, parse_url
from tests.support.server import Peer, Script, ScriptedServer

TIMEOUT = 10.0


def fetch(
    address: tuple[str, int], directory: Path, *targets: str, timeout: float = TIMEOUT
) -> list[Download]:
    """Fetch *targets*, each into a file of the name; return the downloads as they ended."""
    host, port = address
    ended: list[Download] = []
    downloads = [
        Download(url, parse_url(url), str(directory / target.lstrip("/")))
        for target in targets
        for url in [f"http://{host}:{port}{target}"]
    ]
    OriginFetcher(Origin("http", host, port), downloads, timeout, None, ended.append).run()
    assert set(ended) == set(downloads)
    assert len(ended) == len(downloads)
    return ended


def files(directory: Path) -> dict[str, bytes]:
    """Return all files of *directory*, the hidden ones too."""
    return {entry: (directory / entry).read_bytes() for entry in os.listdir(directory)}


def echo(answers: int, then: Callable[[Peer], None] | None = None) -> Script:
    """Return a script that answers with the targets, so many times."""

    def script(peer: Peer) -> None:
        for _ in range(answers):
            peer.answer(peer.head().target.encode())
        if then is not None:
            then(peer)

    return script


def test_each_download_becomes_a_file(tmp_path: Path) -> None:
    targets = [f"/{i}" for i in range(20)]
    with ScriptedServer(echo(20)) as server:
        ended = fetch(server.address, tmp_path, *targets)
    assert [(d.error, d.size) for d in ended] == [(None, len(target)) for target in targets]
    assert files(tmp_path) == {target[1:]: target.encode() for target in targets}


def test_an_empty_body_becomes_an_empty_file(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.answer()

    with ScriptedServer(script) as server:
        fetch(server.address, tmp_path, "/a")
    assert files(tmp_path) == {"a": b""}


def test_a_file_that_was_there_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"something longer than the new one")
    with ScriptedServer(echo(1)) as server:
        fetch(server.address, tmp_path, "/a")
    assert files(tmp_path) == {"a": b"/a"}


def test_a_link_that_was_there_is_replaced_and_not_followed(tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    (tmp_path / "outside").write_bytes(b"precious")
    (directory / "a").symlink_to("../outside")
    with ScriptedServer(echo(1)) as server:
        fetch(server.address, directory, "/a")
    assert files(directory) == {"a": b"/a"}
    assert (tmp_path / "outside").read_bytes() == b"precious"


def test_a_body_is_not_kept_in_memory(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (512 * 65536))
        piece = bytes(65536)
        for _ in range(512):
            peer.send(piece)

    with ScriptedServer(script) as server:
        tracemalloc.start()
        try:
            (download,) = fetch(server.address, tmp_path, "/a")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert download.size == 512 * 65536
    assert peak < 4 * 1024 * 1024


# --- answers that are no success ----------------------------------------------------------------


def test_an_error_answer_fails_and_the_others_use_the_same_connection(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.answer(peer.head().target.encode())
        peer.head()
        peer.answer(b"the page that says so", status="404 Not Found")
        peer.answer(peer.head().target.encode())

    with ScriptedServer(script) as server:
        ended = fetch(server.address, tmp_path, "/a", "/b", "/c")
    assert [d.error for d in ended] == [None, "404 Not Found", None]
    assert files(tmp_path) == {"a": b"/a", "c": b"/c"}


def test_a_redirect_fails_and_says_where_to(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.answer(status="301 Moved Permanently", headers="Location: /b\r\n")

    with ScriptedServer(script) as server:
        (download,) = fetch(server.address, tmp_path, "/a")
    assert download.error == "301 Moved Permanently, see /b (redirects are not followed)"


def test_an_invalid_answer_fails_and_the_others_are_fetched(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"nonsense\r\n\r\n")

    with ScriptedServer(script, echo(1)) as server:
        bad, good = fetch(server.address, tmp_path, "/a", "/b")
    assert bad.error == "invalid status line b'nonsense'"
    assert good.error is None
    assert files(tmp_path) == {"b": b"/b"}


def test_an_invalid_answer_behind_others_gets_a_connection_of_its_own(tmp_path: Path) -> None:
    def then_nonsense(peer: Peer) -> None:
        peer.head()
        peer.send(b"nonsense\r\n\r\n")

    with ScriptedServer(echo(1, then_nonsense), echo(1)) as server:
        ended = fetch(server.address, tmp_path, "/a", "/b")
    assert [d.error for d in ended] == [None, None]


# --- connections that end -----------------------------------------------------------------------


@pytest.mark.parametrize("answers", [1, 2, 3, 7])
def test_unanswered_requests_are_sent_again(tmp_path: Path, answers: int) -> None:
    def script(peer: Peer) -> None:
        try:
            for _ in range(answers):
                peer.answer(peer.head().target.encode())
            peer.head()  # is not answered
        except EOFError:
            pass  # all that there was has been answered

    targets = [f"/{i}" for i in range(20)]
    with ScriptedServer(script, repeat=True) as server:
        ended = fetch(server.address, tmp_path, *targets)
    assert [d.error for d in ended] == [None] * 20
    assert files(tmp_path) == {target[1:]: target.encode() for target in targets}
    assert server.connections <= 20


def test_a_server_that_announces_the_end_is_believed(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.answer(peer.head().target.encode(), headers="Connection: close\r\n")
        peer.until_eof()

    targets = [f"/{i}" for i in range(10)]
    with ScriptedServer(script, repeat=True) as server:
        fetch(server.address, tmp_path, *targets)
    assert files(tmp_path) == {target[1:]: target.encode() for target in targets}


def test_a_server_of_http_1_0_is_asked_one_at_a_time(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.send(b"HTTP/1.0 200 OK\r\n\r\n" + peer.head().target.encode())
        peer.cut()
        peer.until_eof()

    targets = [f"/{i}" for i in range(10)]
    with ScriptedServer(script, repeat=True) as server:
        fetch(server.address, tmp_path, *targets)
    assert files(tmp_path) == {target[1:]: target.encode() for target in targets}
    assert server.connections <= 11  # at most one request was sent in vain


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.head()

    with ScriptedServer(script, repeat=True) as server:
        ended = fetch(server.address, tmp_path, "/a", "/b")
    assert all(d.error is not None and d.error.startswith("connection closed") for d in ended)
    assert server.connections == 6
    assert files(tmp_path) == {}


def test_a_request_that_kills_its_connections_does_not_take_the_others_along(
    tmp_path: Path,
) -> None:
    def script(peer: Peer) -> None:
        try:
            while (target := peer.head().target) != "/3":
                peer.answer(target.encode())
        except EOFError:
            pass

    with ScriptedServer(script, repeat=True) as server:
        ended = fetch(server.address, tmp_path, *[f"/{i}" for i in range(8)])
    assert [d.target for d in ended if d.error is not None] == ["/3"]
    assert len(files(tmp_path)) == 7


def test_a_body_that_is_cut_short_leaves_no_file(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    with ScriptedServer(script, repeat=True) as server:
        (download,) = fetch(server.address, tmp_path, "/a")
    assert download.error == "connection closed with 6 bytes of body to come"
    assert files(tmp_path) == {}


def test_a_body_that_is_cut_short_once_is_fetched_anew(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    with ScriptedServer(script, echo(1)) as server:
        (download,) = fetch(server.address, tmp_path, "/a")
    assert (download.error, download.size) == (None, 2)
    assert files(tmp_path) == {"a": b"/a"}


def test_an_error_page_that_is_cut_short_once_does_not_spoil_the_next_attempt(
    tmp_path: Path,
) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 500 Sorry\r\nContent-Length: 10\r\n\r\nhalf")

    with ScriptedServer(script, echo(1)) as server:
        (download,) = fetch(server.address, tmp_path, "/a")
    assert download.error is None


def test_silence_ends_a_download_and_the_others_are_fetched(tmp_path: Path) -> None:
    def silence(peer: Peer) -> None:
        peer.head()
        peer.until_eof()

    with ScriptedServer(silence, echo(1)) as server:
        bad, good = fetch(server.address, tmp_path, "/a", "/b", timeout=0.2)
    assert bad.error == "nothing happened for 0.2 seconds"
    assert good.error is None


# --- no connection ------------------------------------------------------------------------------


def test_a_refused_connection_fails_all(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    ended = fetch(address, tmp_path, "/a", "/b")
    assert [d.error for d in ended] == ["Connection refused"] * 2


def test_a_host_name_that_cannot_be_fails_all(tmp_path: Path) -> None:
    ended: list[Download] = []
    origin = Origin("http", "a b", 80)
    downloads = [Download(t, Url(origin, t), str(tmp_path / t[1:])) for t in ("/a", "/b")]
    OriginFetcher(origin, downloads, TIMEOUT, None, ended.append).run()
    assert [d.error for d in ended] == ["invalid host name 'a b'"] * 2


# --- files that cannot be written ---------------------------------------------------------------


def test_a_file_that_cannot_be_written_fails_and_the_others_are_fetched(tmp_path: Path) -> None:
    def then_wait(peer: Peer) -> None:
        assert peer.until_eof() == b""

    (tmp_path / "a").mkdir()
    with ScriptedServer(echo(1, then_wait), echo(1)) as server:
        ended = fetch(server.address, tmp_path, "/a", "/b")
    assert ended[0].error == "cannot write the file: Is a directory"
    assert ended[1].error is None
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


# --- stopping -----------------------------------------------------------------------------------


def test_stopping_ends_it_while_it_waits_for_an_answer(tmp_path: Path) -> None:
    waits = threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        waits.set()
        peer.until_eof()

    ended: list[Download] = []
    with ScriptedServer(script) as server:
        url = parse_url("http://{}:{}/a".format(*server.address))
        download = Download("/a", url, str(tmp_path / "a"))
        fetcher = OriginFetcher(url.origin, [download], TIMEOUT, None, ended.append)
        thread = threading.Thread(target=fetcher.run)
        thread.start()
        assert waits.wait(TIMEOUT)
        fetcher.stop()
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    assert ended == []


def test_stopping_within_a_body_leaves_no_half_file(tmp_path: Path) -> None:
    fetchers: list[OriginFetcher] = []

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nhalf")
        fetchers[0].stop()
        try:
            peer.until_eof()
        except ConnectionResetError:
            pass  # the client has not read all

    with ScriptedServer(script) as server:
        url = parse_url("http://{}:{}/a".format(*server.address))
        download = Download("/a", url, str(tmp_path / "a"))
        fetchers.append(OriginFetcher(url.origin, [download], TIMEOUT, None, lambda _: None))
        fetchers[0].run()
    assert files(tmp_path) == {}


def test_once_stopped_it_does_not_connect(tmp_path: Path) -> None:
    with ScriptedServer() as server:
        url = parse_url("http://{}:{}/a".format(*server.address))
        download = Download("/a", url, str(tmp_path / "a"))
        fetcher = OriginFetcher(url.origin, [download], TIMEOUT, None, lambda _: None)
        fetcher.stop()
        fetcher.run()
        assert server.connections == 0
