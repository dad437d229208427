"""Crawl web sites: fetch pages, and the pages that they link to on the same hosts.

    python examples/crawl.py [--store DIRECTORY] [--pages N] URL...

Prints the status and the size of each page, or the error, as soon as it is known, and in the end
how many there were. With --store, writes the pages below DIRECTORY. Keeps to each site's
robots.txt; follows links and redirects, but never to another host; skips what has
rel="nofollow". Fetches from all hosts at the same time, with at most two connections to each; the
requests to a host are pipelined. The exit status is 0 if no page has failed.
"""

import argparse
import sys
from collections import Counter, deque
from collections.abc import Iterable
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, urldefrag, urljoin
from urllib.robotparser import RobotFileParser

from dugong import ConnectionPool, DugongError, Request, Response, RetryPolicy

AGENT = "an-example"
MAX_PAGE_SIZE = 4 * 1024 * 1024


class Site:
    """One origin: its robots.txt, and the pages that wait until that has come."""

    def __init__(self) -> None:
        self.rules: RobotFileParser | None = None
        self.waiting: list[Request] = []

    def learn(self, robots: Response | None) -> None:
        """The response to the request for robots.txt is *robots*; None if that has failed."""
        self.rules = RobotFileParser()
        if robots is None or robots.status >= 500:
            self.rules.disallow_all = True  # as RFC 9309 wants it: the site may forbid everything
        elif robots.status >= 400:
            self.rules.allow_all = True
        else:
            self.rules.parse(robots.text.splitlines())


class Frontier:
    """The requests to make next: each URL once, if it has the origin of one of the first *urls*.

    The pool calls `next()` again after each page, even after a StopIteration.
    """

    def __init__(self, urls: Iterable[str], most: int) -> None:
        self._queue: deque[Request] = deque()
        self._sites: dict[object, Site] = {}
        self._seen: set[str] = set()
        self._most = most
        self.forbidden = 0
        requests = [Request("GET", url) for url in urls]
        for request in requests:
            if request.origin not in self._sites:
                self._sites[request.origin] = Site()
                robots = urljoin(request.url, "/robots.txt")
                self._queue.append(Request("GET", robots, context="robots"))
        for request in requests:
            self.add(request.url)

    def add(self, url: str) -> None:
        """Add *url*, unless it is known, has another origin, or is invalid."""
        if url in self._seen or len(self._seen) >= self._most:
            return
        try:
            request = Request("GET", url)
        except ValueError:
            return
        site = self._sites.get(request.origin)
        if site is None:
            return
        self._seen.add(url)
        if site.rules is None:
            site.waiting.append(request)
        elif site.rules.can_fetch(AGENT, url):
            self._queue.append(request)
        else:
            self.forbidden += 1

    def learn(self, request: Request, robots: Response | None) -> None:
        """*robots* is the response to *request*, or None."""
        site = self._sites[request.origin]
        site.learn(robots)
        waiting, site.waiting = site.waiting, []
        for each in waiting:
            self._seen.discard(each.url)
            self.add(each.url)

    def __iter__(self) -> "Frontier":
        return self

    def __next__(self) -> Request:
        if not self._queue:
            raise StopIteration
        return self._queue.popleft()


class Links(HTMLParser):
    """Collects the URLs that a page links to."""

    def __init__(self, page: Response) -> None:
        super().__init__()
        self._base = page.url
        self.urls: list[str] = []
        self.feed(page.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        target = found.get("href")
        if not target or "nofollow" in (found.get("rel") or "").lower().split():
            return
        try:
            if tag == "base":
                self._base = urljoin(self._base, target.strip())
            elif tag == "a":
                self.urls.append(absolute(self._base, target))
        except ValueError:
            return  # not a URL


def absolute(base: str, target: str) -> str:
    """Return *target*, which a page at *base* has named, as a URL that can be sent."""
    url = urldefrag(urljoin(base, target.strip())).url
    return quote(url, safe="!#$%&'()*+,/:;=?@[]~")


def links(page: Response) -> list[str]:
    """Return the URLs that *page* leads to."""
    if 300 <= page.status < 400 and page.headers["Location"]:
        return [absolute(page.url, page.headers["Location"])]
    if page.status == 200 and page.headers.get_content_type() == "text/html":
        return Links(page).urls
    return []


def store(page: Response, directory: Path) -> None:
    """Write the body of *page* to a file in *directory* that is named after its URL."""
    name = quote(page.url, safe="")
    if len(name) > 200:  # longer than what file systems take
        name = name[:150] + sha256(page.url.encode()).hexdigest()
    (directory / name).write_bytes(page.body)


def main(urls: list[str], directory: Path | None, most: int) -> int:
    count: Counter[str] = Counter()
    frontier = Frontier(urls, most)
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    with ConnectionPool(
        max_connections_per_host=2,
        max_body_size=MAX_PAGE_SIZE,
        headers={"User-Agent": AGENT},
        retry=RetryPolicy(attempts=3, budget=0.1),
    ) as pool:
        for future in pool.as_completed(frontier):
            exc = future.exception()
            if future.request.context == "robots":
                frontier.learn(future.request, None if exc else future.result())
                continue
            if exc is not None:
                if not isinstance(exc, DugongError):
                    raise exc
                print("failed", future.request.url, repr(exc))
                count["failed"] += 1
                continue
            page = future.result()
            print(page.status, len(page.body), page.url)
            count["fetched"] += 1
            if directory is not None and page.status == 200:
                store(page, directory)
            for url in links(page):
                frontier.add(url)
    print(
        f"{count['fetched']} pages fetched, {count['failed']} failed, "
        f"{frontier.forbidden} forbidden by robots.txt"
    )
    return 1 if count["failed"] or not count["fetched"] else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="crawl.py", description="Crawl web sites.")
    parser.add_argument("urls", nargs="+", metavar="URL")
    parser.add_argument("--store", type=Path, metavar="DIRECTORY")
    parser.add_argument("--pages", type=int, default=10_000, metavar="N", help="at most so many")
    options = parser.parse_args()
    try:
        sys.exit(main(options.urls, options.store, options.pages))
    except ValueError as error:  # one of the URLs
        sys.exit(f"crawl.py: {error}")
