"""A small soak of a crawl, and whether its verdict would notice what is wrong."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
from collections.abc import Callable
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from tests.soak.crawl_archive import Record, cut_problems, digest_of, record_of, records_in
from tests.soak.crawl_server import Seen, fault_response
from tests.soak.crawl_sites import DEPTH, HOPS, STRANGER, Page, Web
from tests.soak.crawl_verdict import TOLERANCE, Evidence, Run, Verdict, reach

ROOT = Path(__file__).parent.parent.parent
WEB = Web(seed=7, count=4, pages=40, port=80)


@pytest.mark.timeout(200)  # if the machine is busy; it takes about ten seconds
def test_a_small_crawl_that_is_killed_balances() -> None:
    command = [sys.executable, "-m", "tests.soak.crawl", "--seed", "565", "--sites", "5"]
    command += ["--pages", "100", "--kills", "1", "--slow", "0.05"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("the crawl balances\n")
    assert "run 1 was killed after" in done.stdout


# --- the sites ------------------------------------------------------------------------------------


def body_of(page: Page) -> bytes:
    """Return the body of *page*, as the parser of the standard library and gzip see it."""

    class Socket:
        def makefile(self, mode: str) -> io.BytesIO:
            return io.BytesIO(page.wire)

    socket: Any = Socket()
    with HTTPResponse(socket) as response:
        response.begin()
        body = response.read()
    return gzip.decompress(body) if response.getheader("Content-Encoding") == "gzip" else body


def test_a_page_has_the_size_and_the_links_that_it_is_said_to_have() -> None:
    manners = set()
    for url, (_, page) in reach(Web(1, 8, 200, 80), set()).pages.items():
        if page.outcome != "page" or page.manner == "drip":
            continue
        body = body_of(page)
        assert len(body) == page.size, url
        manners.add(page.manner)
        if not page.is_redirect:
            assert body.lower().count(b"<p><a") == len(page.links), url
    assert manners == {"whole", "hints", "close"}


def test_nothing_depends_on_the_way_to_a_page() -> None:
    """All links to a page, but those to where a site begins, come from pages that are as deep."""
    web = Web(1, 8, 200, 80)
    pages = reach(web, set()).pages
    for url, (depth, page) in pages.items():
        for link in page.links:
            if link in pages and link != url and link not in web.starts:
                found = pages[link][0] - (not page.is_redirect)
                assert found == depth or "/loop/" in link, (url, link)


def test_traps_are_cut_off_by_their_depth() -> None:
    pages = reach(WEB, set()).pages
    months = [url for url in pages if url.startswith(f"{WEB.normal[0].origin}/calendar/")]
    assert len([url for url in months if url.count("/") == 4]) == DEPTH


# --- a crawl in which all is well -----------------------------------------------------------------


def endless_targets(origin: str) -> list[str]:
    """Return as many targets as are taken in of the endless site."""
    found = ["/"]
    for target in found:
        place = WEB.split(origin + target)
        assert place is not None
        for url in place[0].page(target).links:
            link = url.removeprefix(origin)
            if link not in found and len(found) < WEB.limit:
                found.append(link)
    return found


class Made:
    """A crawl in two runs, the first of which was killed, in which all is well."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.lines: list[list[str]] = [[], []]
        self.errors: list[list[str]] = [[], []]
        self.records: list[Record] = []
        self.time = 1000.0
        endless = next(site.origin for site in WEB.sites if site.role == "endless")
        self.reach = reach(WEB, {endless + target for target in endless_targets(endless)})
        pages = list(self.reach.pages.items())
        middle = len(pages) // 2
        for run in (1, 2):
            self.record("warcinfo", "")
            self.ask_robots(run)
            for url, (depth, page) in pages[:middle] if run == 1 else pages[middle - 1 :]:
                self.fetch(run, url, depth, page)
        left = {url for url, (_, page) in pages if page.outcome == "waits"}
        self.errors[1] = self.errors[1] + [
            f"dugong: {url}: cut" for url in left if not any(url in e for e in self.errors[1])
        ]
        held = {url.partition("/p/")[0].rstrip("/") for url in self.reach.waiting}
        self.errors[1] += [f"dugong: {origin}/robots.txt: 503" for origin in sorted(held)]
        self.errors[1].append("the summary")
        runs = [Run(n + 1, n == 0, n, self.lines[n], self.errors[n]) for n in (0, 1)]
        self.evidence = Evidence(WEB, self.seen, runs, self.records, left | self.reach.waiting)

    def record(self, kind: str, url: str, block: bytes = b"") -> None:
        at = len(self.records)
        self.records.append(Record(at, kind, url, block.partition(b"\r\n")[0], digest_of(block)))

    def ask(self, run: int, url: str, block: bytes | None, fault: str = "") -> None:
        place = WEB.split(url)
        assert place is not None
        self.time += max(0.05, place[0].crawl_delay or 0)
        answered = None if block is None else self.time
        number = place[0].number
        self.seen.append(Seen(number, place[1], run, number, self.time, fault, answered))
        if block is not None:
            self.record("response", url, block)
            self.record("request", url, f"GET {place[1]} HTTP/1.1".encode())

    def ask_robots(self, run: int) -> None:
        for site in WEB.sites:
            if site.role == "dead":
                continue
            for target, page in site.robots.items():
                if run == 1 and site.faults(target):
                    self.ask(run, site.origin + target, fault_response("503"), "503")
                    self.time += 1
                self.ask(run, site.origin + target, page.wire)

    def fetch(self, run: int, url: str, depth: int, page: Page) -> None:
        is_whole = page.outcome in ("page", "unusable")
        self.ask(run, url, page.wire if is_whole else None)
        if page.outcome == "page":
            self.lines[run - 1].append(f"{page.status} {page.size} {depth} {url}")
        else:
            self.errors[run - 1].append(f"dugong: {url}: it is bad")


@pytest.fixture(scope="module")
def good() -> Evidence:
    return Made().evidence


def problems_of(evidence: Evidence) -> list[str]:
    return Verdict(evidence).problems


def test_a_crawl_in_which_all_is_well_has_no_problem(good: Evidence) -> None:
    assert problems_of(good) == []


# --- what is wrong with one -----------------------------------------------------------------------

#: A page.
NORMAL = WEB.normal[-1]
TARGET = NORMAL.target(7)
URL = NORMAL.origin + TARGET
ENDLESS = next(site for site in WEB.sites if site.role == "endless")
CLOSED = next(site for site in WEB.sites if site.role == "closed")
SLOW = next(site for site in WEB.sites if site.role == "slow")


def with_run(evidence: Evidence, number: int, **changes: Any) -> Evidence:
    runs = [run._replace(**changes) if run.number == number else run for run in evidence.runs]
    return evidence._replace(runs=runs)


def with_line(evidence: Evidence, change: Callable[[str], list[str]]) -> Evidence:
    """Return *evidence* with the line of the page changed."""
    for run in evidence.runs:
        lines = [
            new
            for line in run.lines
            for new in (change(line) if line.endswith(f" {URL}") else [line])
        ]
        evidence = with_run(evidence, run.number, lines=lines)
    return evidence


def with_records(evidence: Evidence, change: Callable[[Record], list[Record]]) -> Evidence:
    """Return *evidence* with the records of the page changed."""
    records = [
        new
        for record in evidence.records
        for new in (change(record) if record.url == URL else [record])
    ]
    return evidence._replace(records=records)


def with_request(
    evidence: Evidence, site: int, target: str, run: int = 2, at: float = 0
) -> Evidence:
    """Return *evidence* with a request more, at the end, or at a time."""
    last = evidence.seen[-1].time
    new = Seen(site, target, run, 99, at or last + 10, "", (at or last + 10) + 0.01)
    return evidence._replace(seen=sorted([*evidence.seen, new], key=lambda seen: seen.time))


def lost(good: Evidence) -> Evidence:
    changed = with_records(with_line(good, lambda line: []), lambda record: [])
    return changed._replace(seen=[s for s in good.seen if s.target != TARGET])


def fetched_twice(good: Evidence) -> Evidence:
    seen = []
    for each in good.seen:
        seen.append(each)
        if (each.site, each.target) == (NORMAL.number, TARGET):
            seen.append(each)
    return good._replace(seen=seen)


def fetched_again(good: Evidence) -> Evidence:
    done = next(s for s in good.seen if s.run == 1 and s.site == ENDLESS.number and s.target == "/")
    return with_request(good, done.site, done.target)


def hurried(good: Evidence) -> Evidence:
    """The slow site is asked a tenth too early, again and again."""
    first = next(s.time for s in good.seen if s.site == SLOW.number)
    count = 0
    seen = []
    for each in good.seen:
        if each.site == SLOW.number and each.run == 2:
            seen.append(each._replace(time=first + 5000 + count * WEB.slow * 0.9))
            count += 1
        else:
            seen.append(each)
    return good._replace(seen=seen)


def not_left_alone(good: Evidence) -> Evidence:
    last = good.seen[-1].time + 10
    busy = Seen(NORMAL.number, TARGET, 2, 1, last, "503", last)
    again = Seen(NORMAL.number, TARGET, 2, 1, last + 0.5, "", last + 0.51)
    return good._replace(seen=[*good.seen, busy, again])


WRONG: dict[str, tuple[Callable[[Evidence], Evidence], str]] = {
    "a page is lost": (lost, f"{URL} was not fetched"),
    "a page is not in the archive": (
        lambda good: with_records(good, lambda record: []),
        f"{URL} is not in the archive",
    ),
    "a page is twice in the archive": (
        lambda good: with_records(good, lambda record: [record, record]),
        f"{URL} is 2 times in the archive, and was sent 1 times",
    ),
    "a body has changed": (
        lambda good: with_records(good, lambda record: [record._replace(digest=digest_of(b""))]),
        f"the archive has a response to {URL} that was never sent",
    ),
    "a request is not in the archive": (
        lambda good: with_records(
            good, lambda record: [record] if record.kind == "response" else []
        ),
        f"the archive has no request for {URL}",
    ),
    "a response is in the archive as that of another URL": (
        lambda good: with_records(good, lambda record: [record._replace(url=f"{URL}?")]),
        f"the archive has {URL}?, which was not to be fetched",
    ),
    "the archive cannot be read": (
        lambda good: good._replace(records=[]),
        f"{URL} is not in the archive",
    ),
    "a run is not in the archive": (
        lambda good: good._replace(records=good.records[1:]),
        "the archive is of 1 runs, not 2",
    ),
    "a page is fetched twice": (fetched_twice, f"{URL} was fetched twice in run 1"),
    "a page is fetched twice, on two connections": (
        lambda good: with_request(
            good,
            NORMAL.number,
            TARGET,
            1,
            next(s.time for s in good.seen if s.target == TARGET) + 1,
        ),
        f"{URL} was fetched twice in run 1",
    ),
    "a page that was done is fetched again": (fetched_again, "was asked for again by run 2"),
    "a page is printed twice": (
        lambda good: with_line(good, lambda line: [line, line]),
        f"{URL} has two lines",
    ),
    "a size is wrong": (
        lambda good: with_line(good, lambda line: [line.replace("200 ", "200 1")]),
        f"{URL} is 200 1",
    ),
    "a line is cut off": (
        lambda good: with_line(good, lambda line: ["200 1"]),
        "run 1 has written '200 1'",
    ),
    "what is not allowed is asked for": (
        lambda good: with_request(good, NORMAL.number, "/private/1"),
        "/private/1 is not allowed by robots.txt, and was asked for",
    ),
    "a site without a robots.txt is asked": (
        lambda good: with_request(good, CLOSED.number, "/"),
        f"{CLOSED.origin}/ was asked for without a robots.txt",
    ),
    "a link that says nofollow is followed": (
        lambda good: with_request(good, NORMAL.number, "/unlinked/1"),
        "/unlinked/1 was asked for, and no link within the rules leads there",
    ),
    "a trap is followed too deep": (
        lambda good: with_request(good, NORMAL.number, f"/calendar/{DEPTH + 1}"),
        "no link within the rules leads there",
    ),
    "redirects in a row are followed too far": (
        lambda good: with_request(good, NORMAL.number, f"/hop/{HOPS + 1}"),
        f"/hop/{HOPS + 1} was asked for, and no link within the rules leads there",
    ),
    "another site is asked": (
        lambda good: with_request(good, -1, f"http://{STRANGER}/"),
        "a site that is out of scope was asked for",
    ),
    "of an endless site, one page too many is fetched": (
        lambda good: with_request(good, ENDLESS.number, "/hop/1000"),
        f"{WEB.limit + 1} pages were fetched, not {WEB.limit}",
    ),
    "a request comes too early": (
        lambda good: with_request(
            good,
            SLOW.number,
            "/",
            2,
            [s.time for s in good.seen if s.site == SLOW.number][-1] + 0.3,
        ),
        "s too early, of an interval of 0.5 s",
    ),
    "requests come a little too early, again and again": (
        hurried,
        "s too early, of an interval of 0.5 s",
    ),
    "a Retry-After is not kept to": (not_left_alone, "was asked 0.50 s after its Retry-After: 1"),
    "a URL has gone from the frontier": (
        lambda good: good._replace(left=good.left - {f"{CLOSED.origin}/"}),
        f"{CLOSED.origin}/ has gone from the frontier",
    ),
    "a URL is left in the frontier": (
        lambda good: good._replace(left=good.left | {URL}),
        f"{URL} is left in the frontier",
    ),
    "an error is not said": (
        lambda good: with_run(with_run(good, 1, errors=[]), 2, errors=["the summary"]),
        "cannot be fetched, and no line says so",
    ),
    "it is not said that a robots.txt cannot be had": (
        lambda good: with_run(
            good, 2, errors=[line for line in good.runs[1].errors if "robots.txt" not in line]
        ),
        f"{CLOSED.origin}/robots.txt cannot be had, and no line of run 2 says so",
    ),
    "the crawler says something else": (
        lambda good: with_run(good, 1, errors=["Traceback"]),
        "run 1 has written an error: Traceback",
    ),
    "a run does not end": (
        lambda good: with_run(good, 2, status=-1),
        "run 2 has ended with the status -1",
    ),
    "a run takes too much": (
        lambda good: with_run(good, 2, threads=1000),
        "run 2 had 1000 threads",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_verdict_notices_that(good: Evidence, wrong: str) -> None:
    change, problem = WRONG[wrong]
    found = problems_of(change(good))
    assert any(problem in each for each in found), found


def test_what_is_as_late_as_the_machine_is_no_problem(good: Evidence) -> None:
    times = [seen.time for seen in good.seen if seen.site == SLOW.number]
    early = with_request(good, SLOW.number, "/", 2, times[-1] + 0.3)
    early = early._replace(late=0.3 - TOLERANCE)
    assert not any("too early" in each for each in problems_of(early))


# --- the archive ----------------------------------------------------------------------------------


def member(kind: str, block: bytes = b"") -> bytes:
    head = f"WARC/1.1\r\nWARC-Type: {kind}\r\nContent-Length: {len(block)}\r\n\r\n"
    return gzip.compress(head.encode() + block + b"\r\n\r\n")


def test_a_file_has_its_records(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(member("warcinfo") + member("response", b"x" * 100_000))
    first, second = records_in(path)
    assert (first.kind, second.kind) == ("warcinfo", "response")
    assert second.digest == digest_of(b"x" * 100_000)


def test_a_file_that_is_not_whole_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(member("warcinfo") + member("response", b"text")[:-1])
    with pytest.raises(ValueError, match="there is no record"):
        list(records_in(path))


def test_a_member_that_is_no_record_is_noticed() -> None:
    with pytest.raises(ValueError, match="there is no record at 5"):
        record_of(5, b"WARC/1.1\r\nContent-Length: 1\r\n\r\nab\r\n\r\n")


INFO, RESPONSE = member("warcinfo"), member("response", b"text")
TORN = RESPONSE[:20]


@pytest.mark.parametrize(
    ("whole", "problem"),
    [
        (INFO + RESPONSE + INFO, ""),
        (INFO + RESPONSE + INFO + RESPONSE, ""),
        (INFO + RESPONSE, "does not go on"),
        (INFO + RESPONSE + RESPONSE, "does not go on"),
        (INFO + RESPONSE + TORN, "does not go on"),
        (INFO + RESPONSE + TORN + INFO, "does not go on"),
        (INFO + INFO, "has changed"),
        (INFO + member("response", b"test") + INFO, "has changed"),
    ],
)
def test_what_was_whole_at_a_kill_stays_and_nothing_of_the_rest(
    tmp_path: Path, whole: bytes, problem: str
) -> None:
    cut, file = tmp_path / "cut", tmp_path / "whole"
    cut.write_bytes(INFO + RESPONSE + TORN)
    file.write_bytes(whole)
    found = cut_problems(file, cut)
    assert len(found) == bool(problem)
    assert all(problem in each for each in found)
