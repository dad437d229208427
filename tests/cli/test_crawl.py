"""`dugong crawl`: which pages it fetches, what it says of them, and how it goes on."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from warcio.archiveiterator import ArchiveIterator

from dugong import Client
from dugong.cli import main, streams
from tests.support.pool import GONE
from tests.support.server import Peer, ReceivedRequest, ScriptedServer

HTML = "Content-Type: text/html; charset=utf-8\r\n"


class Site:
    """A site of *pages*, each of which has the targets or URLs that it links to.

    `{}` in one is the URL of the site. A str in their place is where the page redirects to.
    """

    def __init__(self, pages: dict[str, list[str] | str], robots: str | None = None) -> None:
        self.pages = pages
        self.robots = robots
        self.requests: list[ReceivedRequest] = []  # appended to by scripts, which is atomic
        self.server = ScriptedServer(self._serve, repeat=True)

    def _serve(self, peer: Peer) -> None:
        with suppress(*GONE):
            for request in peer.requests():
                self.requests.append(request)
                self.respond(peer, request.target)

    def respond(self, peer: Peer, target: str) -> None:
        if target == "/robots.txt" and self.robots is not None:
            peer.respond(self.robots.encode())
        elif target not in self.pages:
            peer.respond(status="404 Not Found")
        elif isinstance(found := self.pages[target], str):
            peer.respond(status="302 Found", headers=f"Location: {found}\r\n")
        else:
            links = "".join(f'<a href="{link}">' for link in found).replace("{}", self.url(""))
            peer.respond(links.encode(), headers=HTML)

    def url(self, target: str = "/", host: str | None = None) -> str:
        return f"http://{host or self.server.host}:{self.server.port}{target}"

    @property
    def targets(self) -> list[str]:
        """What was asked for, sorted, without robots.txt."""
        targets = [request.target for request in self.requests]
        return sorted(target for target in targets if target != "/robots.txt")


@contextmanager
def serving(pages: dict[str, list[str] | str], robots: str | None = None) -> Iterator[Site]:
    site = Site(pages, robots)
    with site.server:
        yield site


def crawl(*arguments: str) -> int:
    return main(["crawl", "--retries", "0", "--timeout", "10", *arguments])


TREE: dict[str, list[str] | str] = {
    "/": ["/a", "/b", "mailto:me@host", "http://other.invalid/"],
    "/a": ["/", "/a/1"],
    "/a/1": ["/a/2"],
    "/a/2": [],
    "/b": ["/missing", "{}/b#part"],
}


def test_each_page_that_is_linked_to_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(TREE) as site:
        assert crawl(site.url()) == 0
        lines = capsys.readouterr().out.replace(site.url(""), "").splitlines()
        assert sorted(line.split()[3] for line in lines) == sorted([*TREE, "/missing"])
        assert sorted(line for line in lines if not line.startswith("200")) == ["404 0 2 /missing"]
        assert "200 0 3 /a/2" in lines
        assert site.targets == sorted([*TREE, "/missing"])


def test_the_last_line_says_how_many_there_were(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(TREE, "User-agent: *\nDisallow: /a/\n") as site:
        assert crawl(site.url()) == 0
        err = capsys.readouterr().err
        assert err == "4 fetched, 0 failed, 1 not allowed by robots.txt\n"
        assert "/a/1" not in site.targets


def test_quiet_says_nothing_of_what_has_been_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(TREE) as site:
        assert crawl("-q", site.url()) == 0
    assert capsys.readouterr() == ("", "")


def test_robots_txt_is_left_alone_if_told_so() -> None:
    with serving(TREE, "User-agent: *\nDisallow: /\n") as site:
        assert crawl("--no-robots", site.url()) == 0
        assert len(site.requests) == 6


def test_the_user_agent_is_sent_and_its_rules_count() -> None:
    robots = "User-agent: fishbot\nDisallow: /a\n\nUser-agent: *\nDisallow: /\n"
    with serving(TREE, robots) as site:
        assert crawl("-A", "fishbot/1.0 (+http://fish.example/)", site.url()) == 0
        assert site.targets == ["/", "/b", "/missing"]
        agents = {request.headers["user-agent"] for request in site.requests}
        assert agents == {"fishbot/1.0 (+http://fish.example/)"}


def test_links_are_followed_to_a_depth() -> None:
    with serving(TREE) as site:
        assert crawl("--depth", "1", site.url()) == 0
        assert site.targets == ["/", "/a", "/b"]


def test_a_redirect_is_followed_and_is_no_link_of_the_depth() -> None:
    pages: dict[str, list[str] | str] = {"/": "/new", "/new": ["/x"], "/x": []}
    with serving(pages) as site:
        assert crawl("--depth", "0", site.url()) == 0
        assert site.targets == ["/", "/new"]


def test_a_redirect_that_turns_in_a_circle_comes_to_its_end() -> None:
    with serving({"/": "/x", "/x": "/"}) as site:
        assert crawl(site.url()) == 0
        assert site.targets == ["/", "/x"]


class Hops(Site):
    """A site on which each page redirects to the next one, for ever, or *last* redirects."""

    def __init__(self, last: int | None = None) -> None:
        super().__init__({"/20?secret": []})
        self._last = last

    def respond(self, peer: Peer, target: str) -> None:
        number = int(target[1:].partition("?")[0] or 0)
        if number == self._last:
            super().respond(peer, target)
        else:
            peer.respond(status="302 Found", headers=f"Location: /{number + 1}?secret\r\n")


@pytest.mark.parametrize("stops", [[], ["--pages", "7"]], ids=["at once", "in several runs"])
def test_redirects_without_an_end_come_to_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stops: list[str]
) -> None:
    site = Hops()
    options = ["--no-robots", "--state", str(tmp_path / "state"), *stops, site.url()]
    with site.server:
        statuses = [crawl(*options) for _ in range(4)]
        assert len(site.targets) == 21
    assert statuses == ([0, 0, 1, 0] if stops else [1, 0, 0, 0])
    out, err = capsys.readouterr()
    assert [line.split()[:3] for line in out.splitlines()] == [["302", "0", "0"]] * 20
    failures = [line for line in err.splitlines() if line.startswith("dugong: ")]
    assert failures == [f"dugong: {site.url('/20?...')}: more than 20 redirects in a row"]


def test_a_page_behind_so_many_redirects_is_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    site = Hops(20)
    with site.server:
        assert crawl("--no-robots", "--depth", "0", site.url()) == 0
    assert f"200 0 0 {site.url('/20?secret')}" in capsys.readouterr().out


def test_redirects_with_links_between_them_are_in_no_row() -> None:
    pages: dict[str, list[str] | str] = {}
    for number in range(30):
        pages[f"/{number}"] = f"/{number}/page"
        pages[f"/{number}/page"] = [f"/{number + 1}"]
    with serving(pages) as site:
        assert crawl("--no-robots", site.url("/0")) == 0
        assert len(site.targets) == 61


def test_only_so_many_pages_are_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    with serving({"/": [f"/{n}" for n in range(50)]}) as site:
        assert crawl("--pages", "7", site.url()) == 0
        assert len(site.targets) == 7
    assert capsys.readouterr().err == "7 fetched, 0 failed, 44 left\n"


def test_a_trap_is_left() -> None:
    """A page that links to another below it, and so on without an end."""

    class Trap(Site):
        def respond(self, peer: Peer, target: str) -> None:
            peer.respond(f'<a href="{target}x/">'.encode(), headers=HTML)

    site = Trap({})
    with site.server:
        assert crawl("--no-robots", site.url()) == 0
        assert 10 < len(site.targets) < 100


def test_a_host_has_only_so_many_pages() -> None:
    class Endless(Site):
        def respond(self, peer: Peer, target: str) -> None:
            number = int(target[1:] or 0)
            peer.respond(f'<a href="/{number + 1}">'.encode(), headers=HTML)

    site = Endless({})
    with site.server:
        assert crawl("--no-robots", "--pages-per-host", "20", site.url()) == 0
        assert len(site.targets) == 20


@pytest.mark.parametrize(
    ("scope", "hosts"),
    [
        ("host", ["www.site.example", "site.example"]),
        ("site", ["www.site.example", "site.example", "a.site.example"]),
        ("all", ["www.site.example", "site.example", "a.site.example", "notsite.example"]),
    ],
)
def test_links_are_followed_within_a_scope(scope: str, hosts: list[str]) -> None:
    """By a proxy, which is asked for all hosts."""
    pages: dict[str, list[str] | str] = {
        "http://www.site.example/": "http://site.example/",
        "http://site.example/": ["http://a.site.example/", "http://notsite.example/"],
    }
    with serving(pages) as site:
        options = ["-x", site.url(""), "--no-robots", "--scope", scope]
        assert crawl(*options, "http://www.site.example/") == 0
        assert site.targets == sorted(f"http://{host}/" for host in hosts)


def test_requests_to_a_host_are_apart() -> None:
    with serving({"/": ["/1", "/2"]}) as site:
        began = monotonic()
        assert crawl("--no-robots", "--delay", "0.1", site.url()) == 0
        assert monotonic() - began >= 0.2


@pytest.mark.parametrize("options", [[], ["--adaptive"]])
def test_a_rate_is_found_if_it_is_to_be(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    class Busy(Site):
        def respond(self, peer: Peer, target: str) -> None:
            peer.respond(status="503 Service Unavailable")

    site = Busy({})
    with site.server:
        assert crawl("--no-robots", "--verbose", *options, site.url()) == 0
    is_found = "503 Service Unavailable: no more than" in capsys.readouterr().err
    assert is_found is bool(options)


def test_a_crawl_delay_of_robots_txt_counts() -> None:
    with serving({"/": ["/1"]}, "User-agent: *\nCrawl-delay: 0.1\n") as site:
        began = monotonic()
        assert crawl(site.url()) == 0
        assert monotonic() - began >= 0.2


def test_a_page_that_cannot_be_fetched_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(Site):
        def respond(self, peer: Peer, target: str) -> None:
            if target.startswith("/broken"):
                peer.send(b"nonsense\r\n\r\n")
                raise ConnectionError
            super().respond(peer, target)

    site = Broken({"/": ["/broken?secret", "/b"], "/b": []})
    with site.server:
        assert crawl(site.url()) == 1
        out, err = capsys.readouterr()
        assert len(out.splitlines()) == 2
        first, last = err.splitlines()
        assert first.startswith(f"dugong: {site.url('/broken?...')}: ")
        assert last == "2 fetched, 1 failed"


@pytest.mark.parametrize(
    "arguments",
    [
        ["http://"],
        ["example.com"],
        ["http://host/", "http://user:secret@host/"],
        ["http://host/", "--pages", "0"],
        ["http://host/", "--depth", "-1"],
        ["http://host/", "--scope", "world"],
        ["http://host/", "--delay", "-1"],
        ["http://host/", "--cacert", "/nowhere"],
    ],
)
def test_a_wrong_command_line_is_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        crawl(*arguments)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert (out, "secret" in err, "usage:" in err) == ("", False, True)


def test_a_state_that_is_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("text" * 1000)
    with pytest.raises(SystemExit):
        crawl("--state", str(path), "http://host/")
    assert crawl("--state", str(tmp_path / "no" / "state"), "http://host/") == 1


def test_a_crawl_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    state = ["--state", str(tmp_path / "state")]
    with serving(TREE) as site:
        assert crawl(*state, "--pages", "2", site.url()) == 0
        assert len(site.targets) == 2
        assert crawl(*state, site.url()) == 0
        assert site.targets == sorted([*TREE, "/missing"])
        assert crawl(*state, site.url()) == 0
        assert len(site.targets) == 6


def test_pages_of_a_host_that_is_down_wait_for_another_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Down(Site):
        is_down = True

        def respond(self, peer: Peer, target: str) -> None:
            if self.is_down:
                peer.respond(status="500 Internal Server Error")
            else:
                super().respond(peer, target)

    site = Down({"/": []})
    state = str(tmp_path / "state")
    with site.server:
        assert crawl("--state", state, site.url()) == 1
        assert site.targets == []
        assert capsys.readouterr().err.splitlines() == [
            f"dugong: {site.url('/robots.txt')}: 500 Internal Server Error",
            "0 fetched, 0 failed, 1 left for another run",
        ]
        site.is_down = False
        assert crawl("--state", state, site.url()) == 0
        assert site.targets == ["/"]


def test_a_host_that_is_not_there_is_said_to_be_so(capsys: pytest.CaptureFixture[str]) -> None:
    with serving({}) as site:
        url = site.url()
    assert crawl(url) == 1
    line, summary = capsys.readouterr().err.splitlines()
    assert line.startswith(f"dugong: {url}robots.txt: ")
    assert "refused" in line
    assert summary == "0 fetched, 0 failed, 1 left"


def test_a_page_that_failed_for_a_moment_waits_for_another_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(Site):
        is_broken = True

        def respond(self, peer: Peer, target: str) -> None:
            if target == "/a" and self.is_broken:
                raise ConnectionError
            super().respond(peer, target)

    site = Broken({"/": ["/a"], "/a": []})
    state = str(tmp_path / "state")
    with site.server:
        assert crawl("--state", state, site.url()) == 1
        err = capsys.readouterr().err.splitlines()
        assert err[-1] == "1 fetched, 1 failed, 1 left for another run"
        site.is_broken = False
        assert crawl("--state", state, site.url()) == 0
        assert site.targets[-1] == "/a"


def test_a_page_that_comes_too_slowly_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float | None] = []

    class Recorded(Client):
        def __init__(self, **options: Any) -> None:
            rates.append(options["min_rate"])
            super().__init__(**options)

    monkeypatch.setattr("dugong.cli.settings.Client", Recorded)
    with serving({"/": []}) as site:
        assert crawl(site.url()) == 0
    assert rates == [1000.0]


def test_without_protego_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "dugong.crawl.robots", None)
    with pytest.raises(SystemExit):
        crawl("http://host/")
    assert "--no-robots" in capsys.readouterr().err


def test_ctrl_c_leaves_a_state_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(text: str) -> None:
        raise KeyboardInterrupt

    state = ["--state", str(tmp_path / "state")]
    with serving(TREE) as site:
        with monkeypatch.context() as patch:
            patch.setattr(streams, "write_output", interrupted)
            assert crawl(*state, site.url()) == 130
        assert crawl(*state, site.url()) == 0
        assert Counter(site.targets) == Counter(["/", "/", "/a", "/a/1", "/a/2", "/b", "/missing"])


def responses_in(path: Path) -> list[tuple[str, bytes]]:
    with path.open("rb") as file:
        return [
            (record.rec_headers.get_header("WARC-Target-URI"), record.content_stream().read())
            for record in ArchiveIterator(file)
            if record.rec_type == "response"
        ]


def test_what_is_fetched_is_archived(tmp_path: Path) -> None:
    path = tmp_path / "pages.warc.gz"
    with serving({"/": ["/1"], "/1": []}) as site:
        assert crawl("--warc", str(path), site.url()) == 0
        assert sorted(responses_in(path)) == [
            (site.url("/"), b'<a href="/1">'),
            (site.url("/1"), b""),
            (site.url("/robots.txt"), b""),
        ]
        assert crawl("--warc", str(path), site.url()) == 1  # it is there, and not overwritten
        assert len(responses_in(path)) == 3


def test_bodies_are_decoded_before_links_are_looked_for() -> None:
    class Compressed(Site):
        def respond(self, peer: Peer, target: str) -> None:
            body = gzip.compress(b'<a href="/1">')
            peer.respond(body, headers=f"{HTML}Content-Encoding: gzip\r\n")

    site = Compressed({})
    with site.server:
        assert crawl("--no-robots", site.url()) == 0
        assert site.targets == ["/", "/1"]


def test_a_crawl_that_is_killed_goes_on_and_loses_nothing(tmp_path: Path) -> None:
    """It is killed at each fiftieth request, until there are no more."""
    pages = 120
    children: list[subprocess.Popen[bytes]] = []
    asked: list[Counter[str]] = []
    lock = threading.Lock()

    class Deadly(Site):
        def respond(self, peer: Peer, target: str) -> None:
            with lock:
                asked[-1][target] += 1
                if asked[-1].total() == 50:
                    children[-1].kill()
            super().respond(peer, target)

    site = Deadly(
        {
            f"/{n}": [f"/{other}" for other in (2 * n, 2 * n + 1, n // 3) if 1 <= other <= pages]
            for n in range(1, pages + 1)
        }
    )
    out, warc = tmp_path / "out", tmp_path / "pages.warc.gz"
    options = ["--state", tmp_path / "state", "--warc", warc, "--retries", "0"]
    printed: list[set[str]] = []  # after each run
    with site.server, out.open("wb") as file:
        for _ in range(30):
            with lock:
                asked.append(Counter())
                child = subprocess.Popen(
                    [sys.executable, "-m", "dugong", "crawl", *options, site.url("/1")],
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                    stdout=file,
                    stderr=subprocess.PIPE,
                )
                children.append(child)
            _, err = child.communicate(timeout=30)
            lines = [line.split()[3] for line in out.read_text().splitlines()]
            printed.append({line.removeprefix(site.url("")) for line in lines})
            if child.returncode == 0:
                break
            assert err == b""
        else:
            pytest.fail("it does not come to its end")
    assert len(children) >= 3
    assert printed[-1] == site.pages.keys()
    assert len(lines) <= pages + len(children) - 1  # the last line of a run may come again
    for run, before in enumerate(printed[:-1]):
        again = asked[run + 1].keys() & before
        assert len(again) <= 1, "only the last one may have been under way"
    archived = {url for url, _ in responses_in(warc)}
    assert archived >= {site.url(target) for target in site.pages}
