"""Whether a crawl balances: what the server saw, what the crawler said and what it has archived.

Guarantees: touches nothing, and asks neither dugong nor the server. What is compared with is made
by `tests.soak.crawl_sites`.

What has to hold:

* Everything that links lead to within the rules is asked for, nothing else is.
* Each page has its line on standard output, and its response is in the archive as it was sent. Each
  page that cannot be fetched has a line on standard error, and is not in the archive if its
  response was not whole. So has each robots.txt that cannot be had, in each run that has ended.
* A page is asked for again only if the response before was a fault, or did not come, or may have
  been lost to a reset; or if it was under way when the crawler was killed: of what had its line by
  then, that is the last page alone. A crawler that is late itself may take a response for slow, and
  what it has sent behind that back (`pipeline_rescue`). It gives up that connection then, and this
  is one request in twenty at most, and twenty more.
* Requests to a site are as far apart as they are to be. Of all requests of a run to a site, none
  comes earlier than the interval allows, counted from each one before it, but for `TOLERANCE` and
  as much as a timer of the server was late at most. One that was late itself is followed too early;
  what is too early again and again adds up, and is noticed. After a 503 the site is left alone for
  as long as its Retry-After says.
* What is left in the frontier is what cannot be fetched for now.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from tests.soak.crawl_archive import Record, digest_of
from tests.soak.crawl_server import Seen, fault_response
from tests.soak.crawl_sites import DEPTH, INTERVAL, Page, Site, Web

__all__ = ["Evidence", "Reach", "Run", "Verdict", "reach"]

TOLERANCE = 0.1  # seconds that a request may be too early
LOST_TIME = 1.0  # seconds for which a response may be with the system, and not with the crawler
UNDER_WAY = 0.3  # seconds after which a request that was sent before a response has come
MOST_ATTEMPTS = 6  # of a page that cannot be fetched, in a run: three, and those not charged
MOST_MEMORY = 500  # MiB
MOST_UNDER_WAY = 1024  # requests that a crawler may have to make again after it was killed

_TAKEN_BACK = "again, taken back though it had a response"


class Run(NamedTuple):
    """A run of the crawler, which has ended, or was killed.

    *lines* and *errors* are what it has written; *memory* (in MiB) and *threads* are the most that
    it was seen with.
    """

    number: int
    was_killed: bool
    status: int
    lines: list[str]
    errors: list[str]
    memory: float = 0.0
    threads: int = 0
    seconds: float = 0.0


class Evidence(NamedTuple):
    """All that is known of a crawl.

    *left* is what its frontier has not done, *late* by how many seconds a timer was late at most.
    """

    web: Web
    seen: list[Seen]
    runs: list[Run]
    records: list[Record]
    left: set[str]
    late: float = 0.0


class Reach(NamedTuple):
    """What a crawl is to fetch, with how many links lead there, and what it is to leave alone."""

    pages: dict[str, tuple[int, Page]]
    waiting: set[str]  # the robots.txt of their sites cannot be had
    forbidden: set[str]


def reach(web: Web, asked: set[str]) -> Reach:
    """Return what links lead to. Of endless sites, only what was *asked* for."""
    pages: dict[str, tuple[int, Page]] = {}
    waiting: set[str] = set()
    forbidden: set[str] = set()
    found = deque((url, 0) for url in web.starts)
    while found:
        url, depth = found.popleft()
        place = web.split(url)
        if place is None or depth > DEPTH or url in pages:
            continue
        site, target = place
        if site.role in ("closed", "dead"):
            waiting.add(url)
        elif not site.allows(target):
            forbidden.add(url)
        elif site.role != "endless" or url in asked:
            page = site.page(target)
            pages[url] = depth, page
            if page.is_redirect:
                found.extendleft((link, depth) for link in page.links)
            elif page.outcome == "page":
                found.extend((link, depth + 1) for link in page.links)
    return Reach(pages, waiting, forbidden)


class Verdict:
    """What is wrong with a crawl, in `problems`, and what it was like, in `counts`."""

    def __init__(self, evidence: Evidence) -> None:
        self.problems: list[str] = []
        self.counts: Counter[str] = Counter()
        self.earliest = 0.0  # seconds: by how much a request has come too early
        self._evidence = evidence
        self._web = evidence.web
        self._killed = {run.number for run in evidence.runs if run.was_killed}
        self._by_url: dict[str, list[Seen]] = defaultdict(list)
        self._by_site: dict[tuple[int, int], list[Seen]] = defaultdict(list)
        self._last: dict[int, Seen] = {}  # by connection
        self._before: dict[Seen, Seen] = {}  # what came before it on its connection
        for seen in evidence.seen:
            if seen.connection in self._last:
                self._before[seen] = self._last[seen.connection]
            self._last[seen.connection] = seen
            if 0 <= seen.site < len(self._web.sites):
                self._by_url[self._url(seen)].append(seen)
                self._by_site[seen.site, seen.run].append(seen)
        self.reach = reach(self._web, set(self._by_url))
        self._pages = {url: page for url, (_, page) in self.reach.pages.items()}
        # When a page had its line, by its run and its place in that: the last of each run.
        self._told: dict[str, list[tuple[int, bool]]] = defaultdict(list)
        self._check_rules()
        self._check_lines()
        self._check_errors()
        self._check_doubles()
        self._check_intervals()
        self._check_archive()
        self._check_end()

    def _say(self, problem: str) -> None:
        self.problems.append(problem)

    def _url(self, seen: Seen) -> str:
        return self._web.sites[seen.site].origin + seen.target

    def _place(self, url: str) -> tuple[Site, str]:
        place = self._web.split(url)
        assert place is not None
        return place

    # --- what was asked for -----------------------------------------------------------------------

    def _check_rules(self) -> None:
        """Look for what should not have been asked for, and for traps that were not left."""
        runs = {run.number for run in self._evidence.runs}
        for seen in self._evidence.seen:
            if seen.site < 0:
                self._say(f"a site that is out of scope was asked for {seen.target}")
                continue
            if seen.run not in runs:
                self._say(f"{self._url(seen)} was asked for without the name of the crawler")
            site = self._web.sites[seen.site]
            url = self._url(seen)
            if url in self.reach.pages or seen.target in site.robots:
                continue
            if url in self.reach.forbidden:
                self._say(f"{url} is not allowed by robots.txt, and was asked for")
            elif url in self.reach.waiting:
                self._say(f"{url} was asked for without a robots.txt")
            else:
                self._say(f"{url} was asked for, and no link within the rules leads there")
        for site in self._web.sites:
            asked = {s.target for s in self._evidence.seen if s.site == site.number}
            count = len(asked - site.robots.keys())
            if site.role == "endless" and count != self._web.limit:
                self._say(f"of {site.origin} {count} pages were fetched, not {self._web.limit}")
            if count > self._web.limit:
                self._say(f"of {site.origin} {count} pages were fetched")

    def _check_doubles(self) -> None:
        """Look for what was asked for twice without need."""
        resets = {
            seen.connection: seen.time
            for seen in self._evidence.seen
            if seen.fault in ("reset", "cut and reset")
        }
        again: Counter[int] = Counter()  # by the run that was killed
        for url, asked in self._by_url.items():
            page = self._pages.get(url)
            is_robots = self._place(url)[1] in self._place(url)[0].robots
            for before, seen in pairwise(asked):
                if before.run == seen.run:
                    why = self._need(before, seen, resets) or self._late_need(before, seen)
                    may_fail = page is not None and page.outcome in ("failed", "waits")
                    if why:
                        self.counts[why] += 1
                    elif not may_fail and not is_robots:
                        self._say(f"{url} was fetched twice in run {seen.run}")
                elif not is_robots and (page is None or page.outcome != "waits"):
                    again[before.run] += 1
                    told = self._told.get(url, [])
                    if any(run < seen.run and not is_last for run, is_last in told):
                        self._say(f"{url} was done, and was asked for again by run {seen.run}")
            if page is None or page.outcome not in ("failed", "waits"):
                continue
            for run, times in Counter(s.run for s in asked if s.answered is not None).items():
                if times > MOST_ATTEMPTS:
                    self._say(f"{url} was asked for {times} times by run {run}, in vain")
        if self.counts[_TAKEN_BACK] > 20 + len(self._evidence.seen) / 20:
            self._say(f"{self.counts[_TAKEN_BACK]} requests were taken back")
        for run, count in again.items():
            self.counts["fetched again after a kill"] += count
            if count > MOST_UNDER_WAY or run not in self._killed:
                self._say(f"{count} pages of run {run} were fetched again")

    @staticmethod
    def _need(before: Seen, seen: Seen, resets: dict[int, float]) -> str:
        """Return why *seen* was made after *before*; "" if there was no need."""
        if before.fault:
            return "again after a fault"
        if before.answered is None:
            return "again, for the connection was lost"
        if before.answered > seen.time:
            return "again, from behind a slow response"
        if before.connection in resets:
            since = resets[before.connection] - before.answered
            if -LOST_TIME < since < LOST_TIME:
                return "again, for a reset has taken the response"
        return ""

    def _late_need(self, before: Seen, seen: Seen) -> str:
        """Return why there seemed to be a need for a crawler or a server that was late."""
        for one in (before, seen):  # which may have been the second one
            is_behind = one in self._before or not one.answered
            if is_behind and self._last[one.connection].time <= seen.time:
                return _TAKEN_BACK
        return ""

    def _check_intervals(self) -> None:
        for (number, run), asked in self._by_site.items():
            site = self._web.sites[number]
            robots = max((n for n, s in enumerate(asked) if s.target in site.robots), default=0)
            times = [seen.time for seen in asked]
            self._check_times(site, run, times, INTERVAL)
            if site.crawl_delay is not None:
                self._check_times(site, run, times[robots:], site.crawl_delay)
            for busy in asked:
                if busy.fault != "503" or busy.answered is None:
                    continue
                begin, end = (
                    busy.answered + UNDER_WAY,
                    busy.answered + 1 - TOLERANCE - self._evidence.late,
                )
                for time in times:
                    if begin < time < end:
                        after = time - busy.answered
                        self._say(f"{site.origin} was asked {after:.2f} s after its Retry-After: 1")

    def _check_times(self, site: Site, run: int, times: list[float], interval: float) -> None:
        allowed, early = -math.inf, 0.0
        for time in times:
            early = max(early, allowed - time)
            allowed = max(allowed, time) + interval
        self.earliest = max(self.earliest, early)
        if early > TOLERANCE + self._evidence.late:
            self._say(
                f"run {run} has asked {site.origin} {early:.2f} s too early, "
                f"of an interval of {interval} s"
            )

    # --- what the crawler says --------------------------------------------------------------------

    def _check_lines(self) -> None:
        """Look at the lines of the pages."""
        for run in self._evidence.runs:
            for place, line in enumerate(run.lines, 1):
                self._check_line(run, line, place == len(run.lines))
        for url, page in self._pages.items():
            told = self._told.get(url, [])
            if page.outcome == "page" and not told:
                self._say(f"{url} was not fetched")
            self.counts["pages"] += page.outcome == "page" and bool(told)
            for run_number, is_last in told[:-1]:
                if not is_last or run_number not in self._killed:
                    self._say(f"{url} has two lines on standard output")

    def _check_line(self, run: Run, line: str, is_last: bool) -> None:
        try:
            status, size, depth, url = line.split(" ")
        except ValueError:
            self._say(f"run {run.number} has written {line!r}")
            return
        page = self._pages.get(url)
        if page is None or page.outcome != "page":
            self._say(f"run {run.number} says that it has fetched {url}")
            return
        self._told[url].append((run.number, is_last and run.was_killed))
        expected = f"{page.status} {page.size} {self.reach.pages[url][0]}"
        if f"{status} {size} {depth}" != expected:
            self._say(f"{url} is {status} {size} {depth} on standard output, and {expected}")

    def _check_errors(self) -> None:
        """Look at the lines of what has failed."""
        failed: dict[str, list[int]] = defaultdict(list)
        robots = {f"{self._place(url)[0].origin}/robots.txt" for url in self.reach.waiting}
        for run in self._evidence.runs:
            lines = run.errors if run.was_killed else run.errors[:-1]  # without the summary
            held = set()
            for line in lines:
                _, name, rest = line.partition("dugong: ")
                url = rest.partition(": ")[0]
                if name and url in robots and url not in held and not run.was_killed:
                    held.add(url)
                    continue
                page = self._pages.get(url)
                if not name or page is None or page.outcome == "page":
                    self._say(f"run {run.number} has written an error: {line}")
                else:
                    failed[url].append(run.number)
            for url in () if run.was_killed else robots - held:
                self._say(f"{url} cannot be had, and no line of run {run.number} says so")
        ended = [run.number for run in self._evidence.runs if not run.was_killed]
        for url, page in self._pages.items():
            if page.outcome == "page":
                continue
            self.counts["pages that cannot be fetched"] += 1
            told = failed[url]
            most = 1 + sum(run in self._killed for run in told)
            if not told or (page.outcome == "waits" and not set(ended) <= set(told)):
                self._say(f"{url} cannot be fetched, and no line says so")
            if page.outcome != "waits" and len(told) > most:
                self._say(f"{url} cannot be fetched, and {len(told)} lines say so")

    # --- what it has kept -------------------------------------------------------------------------

    def _check_archive(self) -> None:
        """Look at the records of the WARC file."""
        found: dict[str, Counter[bytes]] = defaultdict(Counter)
        records = self._evidence.records
        for record, following in zip(records, [*records[1:], None], strict=False):
            if record.kind == "response":
                found[record.url][record.digest] += 1
                line = f"GET {self._target(record.url)} HTTP/1.1".encode()
                if following is not None and following.kind == "warcinfo":
                    self.counts["records without a request, cut off by a kill"] += 1
                elif following is None or following[1:4] != ("request", record.url, line):
                    self._say(f"the archive has no request for {record.url}")
        starts = sum(record.kind == "warcinfo" for record in records)
        if starts != len(self._evidence.runs):
            self._say(f"the archive is of {starts} runs, not {len(self._evidence.runs)}")
        for url in self._pages.keys() | found.keys():
            self._check_page(url, found.get(url, Counter()))

    def _target(self, url: str) -> str:
        place = self._web.split(url)
        return "" if place is None else place[1]

    def _check_page(self, url: str, found: Counter[bytes]) -> None:
        """Compare the responses in the archive with those that were sent."""
        place = self._web.split(url)
        if place is None:
            self._say(f"the archive has {url}")
            return
        site, target = place
        page = site.robots.get(target) or self._pages.get(url)
        if page is None:
            self._say(f"the archive has {url}, which was not to be fetched")
            return
        asked = self._by_url.get(url, [])
        right = digest_of(page.wire)
        most = sum(not seen.fault for seen in asked)
        if page.outcome in ("page", "unusable"):
            copies = found.pop(right, 0)
            if not copies and target not in site.robots:
                self._say(f"{url} is not in the archive")
            if copies > most:
                self._say(f"{url} is {copies} times in the archive, and was sent {most} times")
            self.counts["copies in the archive"] += copies
        for fault in ("500", "503", "429"):
            sent = [s for s in asked if s.fault == fault and s.answered is not None]
            # That was received for which the connection had another request behind it.
            received = sum(
                s.run not in self._killed and self._last[s.connection].time > s.time for s in sent
            )
            copies = found.pop(digest_of(fault_response(fault)), 0)
            if not received <= copies <= len(sent):
                self._say(f"the {fault} of {url} is {copies} times in the archive, not {len(sent)}")
        if found:
            self._say(f"the archive has a response to {url} that was never sent")

    def _check_end(self) -> None:
        """Look at what is left over, and at what the crawler has taken."""
        waiting = {url for url, page in self._pages.items() if page.outcome == "waits"}
        expected = waiting | self.reach.waiting
        self._differ("is left in the frontier", self._evidence.left - expected)
        self._differ("has gone from the frontier", expected - self._evidence.left)
        most_threads = 4 * len(self._web.sites) + 10
        for run in self._evidence.runs:
            if not run.was_killed and run.status != 1:  # some pages cannot be fetched
                self._say(f"run {run.number} has ended with the status {run.status}")
            if run.threads > most_threads:
                self._say(f"run {run.number} had {run.threads} threads")
            if run.memory > MOST_MEMORY:
                self._say(f"run {run.number} took {run.memory:.0f} MiB")

    def _differ(self, what: str, urls: Iterable[str]) -> None:
        for url in urls:
            self._say(f"{url} {what}")
