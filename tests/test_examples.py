"""The programs in `examples/`, run as a user would run them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from ssl import SSLContext

import pytest

from tests.support.server import Peer, Script, ScriptedServer
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
    def two_responses(peer: Peer) -> None:
        peer.request()
        peer.respond(b"0")
        peer.request()
        peer.respond(b"1", headers="Connection: close\r\n")
        peer.until_eof()

    def the_rest(peer: Peer) -> None:
        for n in (2, 3):
            assert peer.request().target == f"/{n}"
            peer.respond(b"%d" % n)
        peer.until_eof()

    with ScriptedServer(two_responses, the_rest) as server:
        urls = [f"http://{server.host}:{server.port}/{n}" for n in range(4)]
        result = run("pipeline.py", *urls)
    assert result.stderr == ""
    assert result.stdout.splitlines() == [f"200 1 /{n}" for n in range(4)]


def test_pipeline_gives_up_if_a_new_connection_does_not_help() -> None:
    def one_response(peer: Peer) -> None:
        peer.request()
        peer.respond(b"0", headers="Connection: close\r\n")
        peer.until_eof()

    def no_response(peer: Peer) -> None:
        peer.request()

    with ScriptedServer(one_response, no_response) as server:
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


def test_coroutines_fetches_from_all_hosts(site: str, server_context: SSLContext) -> None:
    with ScriptedServer(Site(server_context), repeat=True) as other:
        urls = [f"{site}/hello", f"http://{other.host}:{other.port}/hello", f"{site}/nothing"]
        result = run("coroutines.py", *urls)
    assert result.stderr == ""
    expected = [f"200 14 {urls[0]}", f"200 14 {urls[1]}", f"404 13 {urls[2]}"]
    assert sorted(result.stdout.splitlines()) == sorted(expected)
    assert result.returncode == 0


def test_coroutines_goes_on_after_a_failure(site: str) -> None:
    # The site closes the connection upon the first request for this one.
    result = run("coroutines.py", f"{site}/flaky", f"{site}/flaky")
    failed, fetched = result.stdout.splitlines()
    assert failed.startswith(f"failed {site}/flaky ConnectionClosed")
    assert fetched == f"200 8 {site}/flaky"
    assert result.returncode == 1


def pages(server: ScriptedServer, contents: dict[str, str]) -> Script:
    """Return a script that serves *contents*, in which {} is the start of its URLs."""

    def script(peer: Peer) -> None:
        base = f"http://{server.host}:{server.port}"
        try:
            while True:
                target = peer.head().target
                status = "200 OK" if target in contents else "404 Not Found"
                page = contents.get(target, "").replace("{}", base)
                peer.respond(page.encode(), status=status, headers="Content-Type: text/html\r\n")
        except (EOFError, ConnectionError):
            pass  # the client has gone

    return script


def crawl(contents: dict[str, str], *targets: str) -> subprocess.CompletedProcess[str]:
    """Crawl a site of *contents* from *targets*; what is printed is without the host."""

    def script(peer: Peer) -> None:
        pages(server, contents)(peer)

    with ScriptedServer(script, repeat=True) as server:
        base = f"http://{server.host}:{server.port}"
        result = run("crawl.py", *(base + target for target in targets))
    assert result.stderr == ""
    result.stdout = result.stdout.replace(base, "")
    return result


def test_crawl_follows_links_to_their_end() -> None:
    contents = {
        "/": '<a href="/1">first</a> <a href="{}/2#part">second</a>',
        "/1": '<a href="deep/3">third</a>',
        "/2": '<a href="/">back</a> <a href="/2">here</a> <a>nowhere</a>',
        "/deep/3": '<A HREF="../4?a=\u00e4">fourth</A> <a href="/missing">missing</a>',
        "/4?a=%C3%A4": "",
    }
    result = crawl(contents, "/")
    fetched = [line.split()[2] for line in result.stdout.splitlines()]
    assert sorted(fetched) == sorted([*contents, "/missing"])
    assert result.returncode == 0


def test_crawl_stays_on_the_hosts_it_was_given() -> None:
    contents = {
        "/": '<a href="http://other.invalid/">a</a> <a href="mailto:me@x">b</a> '
        '<a href="http://[">c</a> <a href="https://127.0.0.1:1/">d</a>'
    }
    result = crawl(contents, "/")
    assert result.stdout.splitlines() == [f"200 {len(contents['/'])} /"]


def test_crawl_goes_on_after_a_failure() -> None:
    def script(peer: Peer) -> None:
        while True:
            try:
                target = peer.head().target
            except EOFError:
                return  # the client has gone
            if target == "/broken":
                peer.send(b"nonsense\r\n\r\n")
                return
            peer.respond(b"well")

    with ScriptedServer(script, repeat=True) as server:
        base = f"http://{server.host}:{server.port}"
        result = run("crawl.py", f"{base}/broken", f"{base}/a", f"{base}/b")
    lines = sorted(result.stdout.splitlines())
    assert lines[:2] == [f"200 4 {base}/a", f"200 4 {base}/b"]
    assert lines[2].startswith(f"failed {base}/broken InvalidResponse")
    assert result.returncode == 1


def test_backup_uploads_all_files(site: str, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a b").write_bytes(b"a")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "large").write_bytes(bytes(1_000_000))
    result = run("backup.py", str(tmp_path), f"{site}/store")
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "deep/a b: 201 Created",
        "empty: 201 Created",
        "large: 201 Created",
    ]
    assert result.returncode == 0


def test_backup_sends_again_what_a_server_that_restarts_has_lost(site: str, tmp_path: Path) -> None:
    for name in ("busy", "flaky"):
        (tmp_path / name).write_bytes(bytes(1_000_000))
    result = run("backup.py", str(tmp_path), site)
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "busy: 201 Created (at attempt 2)",
        "flaky: 201 Created (at attempt 2)",
    ]
    assert result.returncode == 0


def test_backup_says_what_was_refused() -> None:
    def script(peer: Peer) -> None:
        try:
            while True:
                request = peer.head()
                assert request.headers["expect"] == "100-continue"
                if request.target == "/good":
                    peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
                    assert peer.exactly(4) == b"good"
                    peer.respond(status="201 Created")
                else:
                    peer.respond(status="413 Content Too Large")
                    assert peer.until_eof() == b""
                    return
        except EOFError:
            pass  # the client has gone

    with (
        ScriptedServer(script, repeat=True) as server,
        tempfile.TemporaryDirectory() as directory,
    ):
        for name in ("bad", "good"):
            (Path(directory) / name).write_text(name)
        result = run("backup.py", directory, f"http://{server.host}:{server.port}")
    assert result.stderr == ""
    assert result.stdout.splitlines() == ["bad: 413 Content Too Large", "good: 201 Created"]
    assert result.returncode == 1
