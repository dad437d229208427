"""`get`: many URLs, several origins, files or standard output."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic

import pytest

from dugong.cli.download import Fetching
from dugong.cli.get import get as get_into
from dugong.cli.settings import Settings
from dugong.cli.sources import Urls
from dugong.client.part import Part
from tests.support.pool import GONE
from tests.support.server import Peer, ScriptedServer

TIMEOUT = 10.0


def get(
    urls: list[str], directory: str | None, timeout: float, verify: bool | ssl.SSLContext = True
) -> int:
    return get_into(Urls(urls), Fetching(Settings(timeout=timeout, verify=verify)), directory)


class Echo(BaseHTTPRequestHandler):
    """Responses with the path; 404 below /missing."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        body = self.path.encode()
        self.send_response(404 if self.path.startswith("/missing") else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def http_server(context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Run a real server; give the start of its URLs."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = False  # so that closing waits for them
        scheme = "http"
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
            scheme = "https"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"{scheme}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server() -> Iterator[str]:
    with http_server() as url:
        yield url


def files(directory: Path) -> dict[str, bytes]:
    return {entry: (directory / entry).read_bytes() for entry in os.listdir(directory)}


def refused_url() -> str:
    with ScriptedServer() as server:
        return f"http://127.0.0.1:{server.port}/a"


# --- to files -----------------------------------------------------------------------------------


def test_urls_become_files_and_their_names_are_told(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get([f"{server}/x/a", f"{server}/b?c"], str(tmp_path), TIMEOUT) == 0
    assert files(tmp_path) == {"a": b"/x/a", "b": b"/b?c"}
    out, err = capsys.readouterr()
    assert sorted(out.splitlines(), reverse=True) == [
        f"{server}/x/a -> {tmp_path}/a (4 bytes)",
        f"{server}/b?c -> {tmp_path}/b (4 bytes)",
    ]
    assert err == ""


def test_the_directory_is_made(server: str, tmp_path: Path) -> None:
    assert get([f"{server}/a"], str(tmp_path / "x" / "y"), TIMEOUT) == 0
    assert files(tmp_path / "x" / "y") == {"a": b"/a"}


def test_no_two_files_of_a_run_have_the_same_name(server: str, tmp_path: Path) -> None:
    # Nor differ two names in nothing but their case, which some file systems ignore.
    paths = ["/1/a", "/2/a", "/a.1", "/3/A", "/", "/x/", "/a"]
    assert get([server + path for path in paths], str(tmp_path), TIMEOUT) == 0
    assert files(tmp_path) == {
        "a": b"/1/a",
        "a.1": b"/2/a",
        "a.1.1": b"/a.1",
        "A.2": b"/3/A",
        "index.html": b"/",
        "index.html.1": b"/x/",
        "a.3": b"/a",
    }


def test_no_file_leaves_the_directory(server: str, tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    paths = ["/..", "/%2e%2e%2fescaped", "/%2ftmp%2fescaped", "/a/..%2f..%2fescaped"]
    assert get([server + path for path in paths], str(directory), TIMEOUT) == 0
    assert os.listdir(tmp_path) == ["directory"]
    assert len(files(directory)) == 4


def test_each_failure_has_its_line_and_the_others_are_fetched(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = refused_url()
    urls = [f"{server}/a", "gopher://h/", f"{server}/missing", refused, f"{server}/b"]
    assert get(urls, str(tmp_path), TIMEOUT) == 1
    assert files(tmp_path) == {"a": b"/a", "b": b"/b"}
    assert sorted(capsys.readouterr().err.splitlines()) == sorted(
        [
            "dugong: gopher://h/: a URL must begin with http:// or https://, as in http://host/path",
            f"dugong: {server}/missing: 404 Not Found",
            f"dugong: {refused}: connecting to {refused[7:-2]} (Connection refused)",
        ]
    )


@pytest.mark.parametrize(
    "url", ["http://user:secret@h/a", "http://user:sec/ret@h/a", "http://user:sec\nret@h/a"]
)
def test_a_password_is_not_accepted_and_not_repeated(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get([url], str(tmp_path), TIMEOUT) == 1
    err = capsys.readouterr().err
    assert err.startswith("dugong: http://...@h/a: ")
    assert "sec" not in err
    assert "ret" not in err


def test_what_a_server_sends_cannot_control_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.respond(status="404 \x1b[2J\xe4")

    with ScriptedServer(script) as server:
        url = "http://{}:{}/a".format(*server.address)
        assert get([url], str(tmp_path), TIMEOUT) == 1
    assert capsys.readouterr().err == f"dugong: {url}: 404 \\x1b[2Jä\n"


def test_hosts_are_asked_at_the_same_time(tmp_path: Path) -> None:
    all_are_asked = threading.Barrier(8)

    def script(peer: Peer) -> None:
        target = peer.head().target
        all_are_asked.wait(TIMEOUT)
        peer.respond(target.encode())

    with ExitStack() as stack:
        servers = [stack.enter_context(ScriptedServer(script)) for _ in range(8)]
        urls = [f"http://127.0.0.1:{server.port}/{i}" for i, server in enumerate(servers)]
        assert get(urls, str(tmp_path), TIMEOUT) == 0
    assert files(tmp_path) == {str(i): f"/{i}".encode() for i in range(8)}


def test_nothing_asked_is_nothing_failed(tmp_path: Path) -> None:
    assert get([], str(tmp_path), TIMEOUT) == 0


def test_files_that_are_there_are_not_asked_for_if_parts_are_kept(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "d").mkdir()
    urls = Urls([f"{server}/a", f"{server}/b", f"{server}/d"])
    fetching = Fetching(Settings(timeout=TIMEOUT), keeps_parts=True)
    assert get_into(urls, fetching, str(tmp_path)) == 1
    (tmp_path / "d").rmdir()
    assert files(tmp_path) == {"a": b"old", "b": b"/b"}
    out, err = capsys.readouterr()
    assert f"{server}/a -> {tmp_path}/a (was there)\n" in out
    assert err == f"dugong: {server}/d: cannot write the file: Is a directory\n"


LARGE = 300 * 1024


@pytest.mark.parametrize("suffix", [".part", ".part.state"])
def test_a_file_of_the_run_that_is_called_like_a_part_is_none(tmp_path: Path, suffix: str) -> None:
    """The part of ``a`` is under way until there is ``a.part``."""
    other = tmp_path / f"a{suffix}"

    def converse(peer: Peer) -> None:
        request = peer.head()
        body = request.target.encode() + bytes(LARGE)
        head = f'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: {len(body)}\r\n\r\n'
        with suppress(*GONE):  # as what is found to be large is asked for again
            peer.send(head.encode() + body[:-1000])
            if request.target == "/a":
                end = monotonic() + TIMEOUT
                while not (other.is_file() and other.stat().st_size > LARGE) and monotonic() < end:
                    threading.Event().wait(0.01)
            peer.send(body[-1000:])

    with ScriptedServer(converse, repeat=True) as server:
        urls = Urls([server.url("/a"), server.url(f"/a{suffix}")])
        settings = Settings(timeout=TIMEOUT, connections=4)
        assert get_into(urls, Fetching(settings, keeps_parts=True), str(tmp_path)) == 0
    assert files(tmp_path) == {
        name: f"/{name}".encode() + bytes(LARGE) for name in ("a", f"a{suffix}")
    }


@pytest.mark.parametrize("keeps_parts", [True, False])
@pytest.mark.parametrize("suffix", [".part", ".part.state"])
def test_the_part_of_another_download_is_neither_there_nor_replaced(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str, keeps_parts: bool
) -> None:
    with Part(str(tmp_path / "a"), f"{server}/a") as part:
        part.begin('"1"', 10)
        part.write(0, b"abc")
    before = files(tmp_path)
    urls = Urls([f"{server}/a{suffix}"])
    fetching = Fetching(Settings(timeout=TIMEOUT), keeps_parts=keeps_parts)
    assert get_into(urls, fetching, str(tmp_path)) == 1
    assert files(tmp_path) == before
    why = "cannot write the file: it is the partial file of another download"
    assert capsys.readouterr() == ("", f"dugong: {server}/a{suffix}: {why}\n")


def test_a_part_with_a_hidden_name_goes_on(server: str, tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(b"precious")
    with Part(str(tmp_path / "a"), f"{server}/a") as part:
        part.begin('"1"', 10)
        part.write(0, b"abc")
    fetching = Fetching(Settings(timeout=TIMEOUT), keeps_parts=True)
    assert get_into(Urls([f"{server}/a", f"{server}/b"]), fetching, str(tmp_path)) == 0
    assert files(tmp_path) == {"a": b"/a", "b": b"/b", "a.part": b"precious"}


@pytest.mark.parametrize("size", [5, 300_000])
def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path, size: int) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()

    def converse(peer: Peer) -> None:
        peer.head()
        peer.respond(bytes(size))

    with ScriptedServer(converse, repeat=True) as server:
        fetching = Fetching(Settings(timeout=TIMEOUT), streams_all=True)
        assert get_into(Urls([server.url("/a")]), fetching, None, str(pipe)) == 0
    reader.join()
    assert got == [bytes(size)]
    assert pipe.is_fifo()


def test_a_file_in_place_of_the_directory_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(NotADirectoryError) as caught:
        get(["http://host.invalid/a"], str(tmp_path / "a"), TIMEOUT)
    assert caught.value.filename == str(tmp_path / "a")


def test_quiet_says_nothing_of_a_success(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(timeout=TIMEOUT, quiet=True)
    assert get_into(Urls([f"{server}/a"]), Fetching(settings), str(tmp_path)) == 0
    assert capsys.readouterr() == ("", "")


# --- to standard output -------------------------------------------------------------------------


def test_bodies_go_to_standard_output_in_the_order_of_the_urls(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    responded_2 = threading.Event()

    def slow(peer: Peer) -> None:
        request = peer.head()
        assert responded_2.wait(TIMEOUT)
        peer.respond(request.target.encode(), headers="Connection: close\r\n")

    def fast(peer: Peer) -> None:
        peer.respond(peer.head().target.encode())
        responded_2.set()

    def url(server: ScriptedServer, path: str) -> str:
        return "http://{}:{}{}".format(*server.address, path)

    with ScriptedServer(slow, repeat=True) as one, ScriptedServer(fast) as two:
        urls = [url(one, "/1"), url(two, "/2"), url(one, "/3")]
        assert get(urls, None, TIMEOUT) == 0
    assert capsysbinary.readouterr() == (b"/1/2/3", b"")


def test_nothing_of_a_body_that_was_cut_short_goes_to_standard_output(
    server: str, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    with ScriptedServer(script, repeat=True) as cutting:
        cut = "http://{}:{}/cut".format(*cutting.address)
        assert get([cut, f"{server}/a"], None, TIMEOUT) == 1
    out, err = capsysbinary.readouterr()
    assert out == b"/a"
    assert err.decode() == f"dugong: {cut}: connection closed with 6 bytes of body to come\n"


def test_nothing_is_left_in_the_directory_for_temporary_files(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert get([f"{server}/a", f"{server}/missing"], None, TIMEOUT) == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("target", ["/small", "/large"])
def test_a_body_for_which_there_is_no_room_names_the_directory_and_what_to_do(
    tmp_path: Path, target: str
) -> None:
    body = bytes(20 if target == "/small" else LARGE)
    program = (
        "import resource, sys; from dugong.cli import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)); sys.exit(main())"
    )
    with ScriptedServer(lambda peer: peer.respond(peer.request() and body), repeat=True) as server:
        url = server.url(target)
        # If there are several, a small body is received into memory.
        urls = [url, url] if target == "/small" else [url]
        result = subprocess.run(
            [sys.executable, "-c", program, "get", *urls],
            env=os.environ | {"TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    line = (
        f"dugong: {url}: cannot keep the body in {tmp_path} until it is complete: File too large;"
        " TMPDIR may name another directory, or -o a file\n"
    )
    assert (result.returncode, result.stdout, result.stderr) == (1, "", line * len(urls))
    assert os.listdir(tmp_path) == []


# --- TLS ----------------------------------------------------------------------------------------


def test_https_is_fetched(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, tmp_path: Path
) -> None:
    with http_server(server_context) as server:
        urls = [f"{server}/{i}" for i in range(5)]
        assert get(urls, str(tmp_path), TIMEOUT, client_context) == 0
    assert files(tmp_path) == {str(i): f"/{i}".encode() for i in range(5)}


def test_a_certificate_that_no_authority_has_signed_is_not_accepted(
    server_context: ssl.SSLContext, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with http_server(server_context) as server:
        assert get([f"{server}/a"], str(tmp_path), TIMEOUT) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"dugong: {server}/a: the certificate of 127.0.0.1:")
    assert err.endswith("); --cacert FILE says which authorities are trusted\n")
    assert files(tmp_path) == {}
