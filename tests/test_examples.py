"""The programs in `examples/`, run as a user would run them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from ssl import SSLContext

import pytest

from tests.support.server import Peer, ScriptedServer
from tests.support.site import Site

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(program: str, *args: str, data: bytes = b"") -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", str(EXAMPLES / program), *args],
        input=data,
        capture_output=True,
        timeout=30,
        check=False,
    )
    return subprocess.CompletedProcess(
        result.args, result.returncode, result.stdout.decode(), result.stderr.decode()
    )


@pytest.fixture
def site(server_context: SSLContext) -> Iterator[str]:
    """The URL of a small web site."""
    with ScriptedServer(Site(server_context), repeat=True) as server:
        yield f"http://{server.host}:{server.port}"


def test_pipeline_fetches_in_order(site: str) -> None:
    result = run("pipeline.py", *(f"{site}/objects/{n}" for n in (1, 22, 333)), f"{site}/nothing")
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "200 9 /objects/1",
        "200 10 /objects/22",
        "200 11 /objects/333",
        "404 13 /nothing",
    ]


def test_pipeline_goes_on_where_a_connection_ended() -> None:
    def two_answers(peer: Peer) -> None:
        peer.request()
        peer.answer(b"0")
        peer.request()
        peer.answer(b"1", headers="Connection: close\r\n")
        peer.until_eof()

    def the_rest(peer: Peer) -> None:
        for n in (2, 3):
            assert peer.request().target == f"/{n}"
            peer.answer(b"%d" % n)
        peer.until_eof()

    with ScriptedServer(two_answers, the_rest) as server:
        urls = [f"http://{server.host}:{server.port}/{n}" for n in range(4)]
        result = run("pipeline.py", *urls)
    assert result.stderr == ""
    assert result.stdout.splitlines() == [f"200 1 /{n}" for n in range(4)]


def test_pipeline_gives_up_if_a_new_connection_does_not_help() -> None:
    def one_answer(peer: Peer) -> None:
        peer.request()
        peer.answer(b"0", headers="Connection: close\r\n")
        peer.until_eof()

    def no_answer(peer: Peer) -> None:
        peer.request()

    with ScriptedServer(one_answer, no_answer) as server:
        urls = [f"http://{server.host}:{server.port}/{n}" for n in range(2)]
        result = run("pipeline.py", *urls)
    assert result.stdout == "200 1 /0\n"
    assert "ConnectionClosed" in result.stderr
    assert result.returncode == 1


def test_upload_sends_the_file(site: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(200_000))
    result = run("upload.py", str(file), f"{site}/store")
    assert (result.stdout, result.stderr) == ("201 Created\nstored 200000 bytes\n", "")
    assert result.returncode == 0


def test_upload_says_why_the_file_was_refused(site: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(200_000))
    result = run("upload.py", str(file), f"{site}/full")
    assert (result.stdout, result.stderr) == ("413 Content Too Large\ndisk full\n", "")
    assert result.returncode == 1


def test_duplex_sends_what_comes_and_writes_what_comes_back(site: str) -> None:
    result = run("duplex.py", f"{site}/upper", data=b"one\ntwo\n")
    assert (result.stdout, result.stderr, result.returncode) == ("ONE\nTWO\n", "", 0)


def test_crawl_fetches_from_all_hosts(site: str, server_context: SSLContext) -> None:
    with ScriptedServer(Site(server_context), repeat=True) as other:
        urls = [f"{site}/hello", f"http://{other.host}:{other.port}/hello", f"{site}/nothing"]
        result = run("crawl.py", *urls)
    assert result.stderr == ""
    expected = [f"200 14 {urls[0]}", f"200 14 {urls[1]}", f"404 13 {urls[2]}"]
    assert sorted(result.stdout.splitlines()) == sorted(expected)
    assert result.returncode == 0


def test_crawl_goes_on_after_a_failure(site: str) -> None:
    # The site closes the connection upon the first request for this one.
    result = run("crawl.py", f"{site}/flaky", f"{site}/flaky")
    failed, fetched = result.stdout.splitlines()
    assert failed.startswith(f"failed {site}/flaky ConnectionClosed")
    assert fetched == f"200 8 {site}/flaky"
    assert result.returncode == 1
