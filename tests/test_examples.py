"""The programs in `examples/`, run as a user would run them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from ssl import SSLContext

import pytest

from dugong import ConnectionPool
from tests.support.client import Page, Place
from tests.support.s3 import S3Site
from tests.support.server import Peer, ReceivedRequest, Script, ScriptedServer
from tests.support.site import Site

EXAMPLES = Path(__file__).parent.parent / "examples"


#: What each program needs besides dugong.
PACKAGES = {
    "many.py": ["rich"],
    "s3backup.py": ["botocore"],
    "s3boto.py": ["boto3", "dugong.adapters.botocore"],
}


def needs(program: str) -> None:
    """Skip the test if what *program* needs is not installed."""
    for module in PACKAGES.get(program, []):
        pytest.importorskip(module, exc_type=ImportError)


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
        "4 responses over 1 connections",
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
    lines = [f"200 1 /{n}" for n in range(4)]
    assert result.stdout.splitlines() == [*lines, "4 responses over 2 connections"]


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
    assert re.fullmatch(r"pipeline\.py: .*connect.*\n", result.stderr), result.stderr
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
    assert (result.stdout, result.returncode) == ("ONE\nTWO\n", 0)
    assert result.stderr == "200 OK: 8 bytes sent, 8 received\n"


def test_coroutines_fetches_from_all_hosts(site: str, server_context: SSLContext) -> None:
    with ScriptedServer(Site(server_context), repeat=True) as other:
        urls = [f"{site}/hello", f"http://{other.host}:{other.port}/hello", f"{site}/nothing"]
        result = run("coroutines.py", *urls)
    assert result.stderr == ""
    expected = [f"200 14 {urls[0]}", f"200 14 {urls[1]}", f"404 13 {urls[2]}"]
    *lines, summary = result.stdout.splitlines()
    assert sorted(lines) == sorted(expected)
    assert summary == "3 fetched from 2 hosts, 0 failed"
    assert result.returncode == 0


def test_coroutines_goes_on_after_a_failure(site: str) -> None:
    # The site closes the connection upon the first request for this one.
    result = run("coroutines.py", f"{site}/flaky", f"{site}/flaky")
    failed, fetched, summary = result.stdout.splitlines()
    assert failed.startswith(f"failed {site}/flaky ConnectionClosed")
    assert fetched == f"200 8 {site}/flaky"
    assert summary == "1 fetched from 1 hosts, 1 failed"
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


def crawl(
    contents: dict[str, str], *targets: str, options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Crawl a site of *contents* from *targets*; what is printed is without the host."""

    def script(peer: Peer) -> None:
        pages(server, contents)(peer)

    with ScriptedServer(script, repeat=True) as server:
        base = f"http://{server.host}:{server.port}"
        result = run("crawl.py", *options, *(base + target for target in targets))
    assert result.stderr == ""
    result.stdout = result.stdout.replace(base, "")
    return result


def fetched_by(result: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the targets that a crawler has fetched, sorted."""
    return sorted(line.split()[2] for line in result.stdout.splitlines()[:-1])


def test_crawl_follows_links_to_their_end() -> None:
    contents = {
        "/": '<a href="/1">first</a> <a href="{}/2#part">second</a>',
        "/1": '<a href="deep/3">third</a>',
        "/2": '<a href="/">back</a> <a href="/2">here</a> <a>nowhere</a>',
        "/deep/3": '<A HREF="../4?a=\u00e4">fourth</A> <a href="/missing">missing</a>',
        "/4?a=%C3%A4": "",
    }
    result = crawl(contents, "/")
    assert fetched_by(result) == sorted([*contents, "/missing"])
    assert result.stdout.splitlines()[-1] == (
        "6 pages fetched, 0 failed, 0 forbidden by robots.txt"
    )
    assert result.returncode == 0


def test_crawl_stays_on_the_hosts_it_was_given() -> None:
    contents = {
        "/": '<a href="http://other.invalid/">a</a> <a href="mailto:me@x">b</a> '
        '<a href="http://[">c</a> <a href="https://127.0.0.1:1/">d</a>'
    }
    result = crawl(contents, "/")
    assert fetched_by(result) == ["/"]


def test_crawl_keeps_to_robots_txt_and_nofollow() -> None:
    contents = {
        "/robots.txt": "User-agent: *\nDisallow: /private/\n",
        "/": '<a href="/private/1">a</a> <a href="/open">b</a> <a rel="nofollow" href="/ad">c</a>',
        "/open": "",
        "/private/1": "",
        "/ad": "",
    }
    result = crawl(contents, "/")
    assert fetched_by(result) == ["/", "/open"]
    assert result.stdout.splitlines()[-1].endswith("1 forbidden by robots.txt")


def test_crawl_follows_redirects_on_the_host() -> None:
    def script(peer: Peer) -> None:
        try:
            while True:
                target = peer.head().target
                if target == "/old":
                    peer.respond(status="301 Moved", headers="Location: /new#part\r\n")
                elif target == "/away":
                    peer.respond(status="302 Found", headers="Location: http://a.invalid/\r\n")
                else:
                    peer.respond(status="404 Not Found" if target == "/robots.txt" else "200 OK")
        except (EOFError, ConnectionError):
            pass  # the client has gone

    with ScriptedServer(script, repeat=True) as server:
        result = run("crawl.py", server.url("/old"), server.url("/away"))
    assert fetched_by(result) == sorted(server.url(each) for each in ("/old", "/away", "/new"))


def test_crawl_stores_what_it_has_fetched(tmp_path: Path) -> None:
    contents = {"/": '<a href="/1">first</a>', "/1": "the first"}
    directory = tmp_path / "pages"
    options = ["--store", str(directory), "--pages", "2"]
    crawl(contents, "/", options=options)
    texts = [path.read_text() for path in sorted(directory.iterdir())]
    assert sorted(texts) == sorted(contents.values())


def test_crawl_goes_on_with_its_state(tmp_path: Path) -> None:
    contents = {"/": '<a href="/1">first</a>', "/1": "the first"}
    server: ScriptedServer

    def script(peer: Peer) -> None:
        pages(server, contents)(peer)

    with ScriptedServer(script, repeat=True) as server:
        options = ["--state", str(tmp_path / "state"), server.url("/")]
        assert len(run("crawl.py", *options).stdout.splitlines()) == 3
        assert run("crawl.py", *options).stdout.startswith("0 pages fetched")


def test_crawl_says_which_url_is_none() -> None:
    result = run("crawl.py", "example.com")
    assert result.stderr.startswith("crawl.py: invalid URL 'example.com'")
    assert result.returncode == 1


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
    *lines, summary = result.stdout.splitlines()
    lines.sort()
    assert summary == "2 pages fetched, 1 failed, 0 forbidden by robots.txt"
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
        "stored 3 of 3 files, 1000001 bytes",
    ]
    assert result.returncode == 0


def test_backup_takes_names_that_are_no_text_and_a_url_with_a_slash(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff")).write_bytes(b"a")
    requests: list[str] = []

    def script(peer: Peer) -> None:
        requests.append(peer.head().target)
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        peer.exactly(1)
        peer.respond(status="201 Created")

    with ScriptedServer(script) as server:
        result = run("backup.py", str(tmp_path), f"http://{server.host}:{server.port}/x/")
    assert requests == ["/x/%FF"]
    assert (result.stdout.splitlines()[-1], result.stderr) == ("stored 1 of 1 files, 1 bytes", "")
    assert result.returncode == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable for this user")
@pytest.mark.parametrize("program", ["backup.py", "s3boto.py"])
def test_a_backup_leaves_no_directory_out_that_cannot_be_read(program: str, tmp_path: Path) -> None:
    needs(program)
    (tmp_path / "a").touch()
    (tmp_path / "b").mkdir(0)
    result = run(program, str(tmp_path), "http://127.0.0.1:1")
    (tmp_path / "b").chmod(0o700)
    assert result.stdout == ""
    assert re.fullmatch(rf"{program}: .*Permission denied.*\n", result.stderr)
    assert result.returncode == 1


def test_many_reads_what_editors_write(site: str, tmp_path: Path) -> None:
    (tmp_path / "urls").write_bytes(b"\xef\xbb\xbf" + f"{site}/hello\r\n".encode())
    result = run("many.py", str(tmp_path / "urls"))
    assert json.loads(result.stdout)["status"] == 200
    (tmp_path / "urls").write_bytes(b"\xff\xfe")
    result = run("many.py", str(tmp_path / "urls"))
    assert (result.stdout, result.returncode) == ("", 1)
    assert re.fullmatch(r"many\.py: .*decode.*\n", result.stderr)


def test_backup_sends_again_what_a_server_that_restarts_has_lost(site: str, tmp_path: Path) -> None:
    for name in ("busy", "flaky"):
        (tmp_path / name).write_bytes(bytes(1_000_000))
    result = run("backup.py", str(tmp_path), site)
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "busy: 201 Created (at attempt 2)",
        "flaky: 201 Created (at attempt 2)",
        "stored 2 of 2 files, 2000000 bytes",
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
    assert result.stdout.splitlines() == [
        "bad: 413 Content Too Large",
        "good: 201 Created",
        "stored 1 of 2 files, 4 bytes",
    ]
    assert result.returncode == 1


@pytest.mark.parametrize("program", ["backup.py", "s3backup.py", "s3boto.py"])
def test_a_backup_of_nothing_fails(program: str, tmp_path: Path) -> None:
    needs(program)
    missing = tmp_path / "missing"
    for directory, said in [
        (missing, f"{program}: not a directory: {missing}\n"),
        (tmp_path, f"{program}: there are no files in {tmp_path}\n"),
    ]:
        result = run(program, str(directory), "http://127.0.0.1:1")
        assert (result.stdout, result.stderr, result.returncode) == ("", said, 1)


@pytest.mark.parametrize(
    "program", sorted(path.name for path in EXAMPLES.glob("*.py") if path.name != "urls.py")
)
def test_a_program_without_arguments_says_how_it_is_called(program: str) -> None:
    needs(program)
    result = run(program)
    assert result.stdout == ""
    assert result.stderr.startswith(f"usage: {program} ")
    assert result.returncode != 0


@pytest.mark.parametrize("program", "backup coroutines crawl duplex pipeline proxy upload".split())
def test_what_is_no_url_is_an_error_in_one_line(program: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    what = {"backup": [str(tmp_path)], "upload": [str(tmp_path / "file")]}
    result = run(f"{program}.py", *what.get(program, []), "example.com")
    assert result.stdout == ""
    assert re.fullmatch(rf"{program}\.py: .*example\.com.*\n", result.stderr)
    assert result.returncode == 1


@pytest.mark.parametrize("program", "duplex pipeline upload".split())
def test_a_refused_connection_is_an_error_in_one_line(program: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    what = {"upload": [str(tmp_path / "file")]}
    result = run(f"{program}.py", *what.get(program, []), "http://127.0.0.1:1/")
    assert result.stdout == ""
    assert re.fullmatch(rf"{program}\.py: .*Connection refused\n", result.stderr)
    assert result.returncode == 1


def test_upload_says_that_there_is_no_such_file(site: str, tmp_path: Path) -> None:
    result = run("upload.py", str(tmp_path / "missing"), f"{site}/store")
    assert result.stdout == ""
    assert result.stderr.startswith("upload.py: [Errno 2] No such file")
    assert result.returncode == 1


def test_many_writes_a_line_of_json_for_each_url(site: str, tmp_path: Path) -> None:
    needs("many.py")
    urls = [f"{site}/objects/{n}" for n in range(2000)]
    file = tmp_path / "urls"
    file.write_text("\n".join(urls) + "\n\n")
    result = run("many.py", str(file))
    outcomes = [json.loads(line) for line in result.stdout.splitlines()]
    assert sorted(each["url"] for each in outcomes) == sorted(urls)
    assert {each["status"] for each in outcomes} == {200}
    assert sum(each["size"] for each in outcomes) == sum(len(f"object {n}\n") for n in range(2000))
    assert result.stderr == "2000 of 2000 requests had a good response\n"
    assert result.returncode == 0


def test_many_says_what_has_failed_and_how_far_it_had_got(site: str) -> None:
    needs("many.py")
    urls = [f"{site}/nothing", "http://127.0.0.1:1/"]
    result = run("many.py", "-", data="\n".join(urls).encode())
    outcomes = {each["url"]: each for each in map(json.loads, result.stdout.splitlines())}
    assert outcomes[urls[0]]["status"] == 404
    assert outcomes[urls[1]]["delivery"] == "UNSENT"
    assert result.stderr == "0 of 2 requests had a good response\n"
    assert result.returncode == 1


class Bucket:
    """A script for a server that stores objects as S3 does. `stored` has the bodies, by target."""

    def __init__(self) -> None:
        # Each is used by the thread of one connection at a time, for one target.
        self.stored: dict[str, bytes] = {}

    def __call__(self, peer: Peer) -> None:
        try:
            while True:
                self._respond(peer, peer.head())
        except (EOFError, ConnectionError):
            pass  # the client has gone

    def _respond(self, peer: Peer, request: ReceivedRequest) -> None:
        if "expect" in request.headers:
            peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.stored[request.target] = peer.exactly(int(request.headers["content-length"]))
        peer.respond()


@pytest.fixture
def _credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "KEY",
        "AWS_SECRET_ACCESS_KEY": "SECRET",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_DEFAULT_REGION": "eu-north-1",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("_credentials")
def test_s3backup_stores_signed_files_and_only_those_that_have_changed(tmp_path: Path) -> None:
    needs("s3backup.py")
    root = tmp_path / "files"
    (root / "deep").mkdir(parents=True)
    contents = {"deep/a b": b"a", "empty": b"", "busy": bytes(1_000_000)}
    for name, content in contents.items():
        (root / name).write_bytes(content)
    site = S3Site()
    site.faults.append(
        lambda request: (
            Page(status="503 Slow Down", headers="Retry-After: 1\r\n")
            if request.target.endswith("busy")
            else None
        )
    )
    place = Place(site)
    with place.server:
        first = run("s3backup.py", str(root), place.url("/bucket"), "pre")
        (root / "empty").write_bytes(b"no more")
        second = run("s3backup.py", str(root), place.url("/bucket"), "pre")
    assert first.stderr == ""
    assert first.stdout.splitlines() == [
        "uploaded pre/busy",
        "uploaded pre/deep/a b",
        "uploaded pre/empty",
        "3 files uploaded, 0 unchanged, 0 failed",
    ]
    assert second.stdout.splitlines() == [
        "uploaded pre/empty",
        "1 files uploaded, 2 unchanged, 0 failed",
    ]
    assert (first.returncode, second.returncode) == (0, 0)
    assert {key: stored.body for key, stored in site.objects.items()} == {
        "pre/deep/a b": b"a",
        "pre/empty": b"no more",
        "pre/busy": bytes(1_000_000),
    }
    assert site.refused == []  # as it verifies signatures
    # The second attempt came a second later, so its signature is another one.
    refused, accepted = (
        each.headers["authorization"]
        for each in place.requests
        if (each.method, each.target) == ("PUT", "/bucket/pre/busy")
    )
    assert refused != accepted


@pytest.mark.usefixtures("_credentials")
def test_s3backup_says_what_was_refused(tmp_path: Path) -> None:
    needs("s3backup.py")
    root = tmp_path / "files"
    root.mkdir()
    (root / "bad").write_bytes(b"a file")
    (root / "good").write_bytes(b"a file")
    site = S3Site()
    site.faults.append(
        lambda request: Page(status="403 Forbidden") if request.target.endswith("bad") else None
    )
    place = Place(site)
    with place.server:
        result = run("s3backup.py", str(root), place.url("/bucket"))
    url = place.url("/bucket/bad")
    assert result.stdout.splitlines() == [
        "uploaded good",
        f"failed {root / 'bad'}: 403 Forbidden for PUT {url}",
        "1 files uploaded, 0 unchanged, 1 failed",
    ]
    assert result.returncode == 1


@pytest.mark.usefixtures("_credentials")
def test_s3backup_says_why_it_cannot_begin(tmp_path: Path) -> None:
    needs("s3backup.py")
    (tmp_path / "file").write_bytes(b"a file")
    place = Place(lambda request: Page(status="403 Forbidden"))
    with place.server:
        result = run("s3backup.py", str(tmp_path), place.url("/bucket"))
    assert result.stderr == f"s3backup.py: 403 Forbidden for GET {place.url('/bucket/')}\n"
    assert result.returncode == 1


@pytest.mark.usefixtures("_credentials")
def test_s3boto_stores_files(tmp_path: Path) -> None:
    needs("s3boto.py")
    root = tmp_path / "files"
    root.mkdir()
    (root / "a").write_bytes(b"first")
    (root / "b").write_bytes(b"second")
    bucket = Bucket()
    with ScriptedServer(bucket, repeat=True) as server:
        result = run("s3boto.py", str(root), "bucket", server.url().rstrip("/"))
    assert sorted(result.stdout.splitlines()) == ["stored 2 of 2 files", "stored a", "stored b"]
    assert result.returncode == 0
    assert bucket.stored.keys() == {"/bucket/a", "/bucket/b"}


@contextmanager
def reverse_proxy(upstream: str) -> Iterator[str]:
    """Run the reverse proxy for *upstream*; yield its URL."""
    command = [sys.executable, "-X", "dev", "-W", "error", str(EXAMPLES / "proxy.py"), upstream]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[0]
        finally:
            process.terminate()


def test_the_proxy_forwards_both_ways(site: str) -> None:
    with reverse_proxy(site) as proxy, ConnectionPool() as pool:
        resp = pool.get(f"{proxy}/echo?q=a%20b", headers={"X-Colour": "blue"})
        assert resp.json()["target"] == "/echo?q=a%20b"
        headers = resp.json()["headers"]
        assert (headers["x-colour"], headers["x-forwarded-for"]) == ("blue", "127.0.0.1")
        assert headers["host"] == site.removeprefix("http://")

        assert len(pool.get(f"{proxy}/video").body) == 256 * 1200
        assert pool.head(f"{proxy}/hello").headers["Content-Length"] == "14"
        assert pool.get(f"{proxy}/nothing").status == 404
        resp = pool.put(f"{proxy}/store", bytes(1_000_000))
        assert (resp.status, resp.text) == (201, "stored 1000000 bytes\n")


def test_the_proxy_says_what_became_of_a_request(site: str) -> None:
    with reverse_proxy(site) as proxy, ConnectionPool(retry=None) as pool:
        resp = pool.put(f"{proxy}/full", bytes(50_000_000))
        assert (resp.status, resp.text) == (413, "disk full\n")
        resp = pool.post(f"{proxy}/dropped", b"an order")
        assert resp.status == 502
        assert "clos" in resp.text
        resp = pool.post(f"{proxy}/upper", iter([b"of unknown length"]))
        assert resp.status == 411
