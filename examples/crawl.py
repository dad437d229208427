"""Crawl web sites: fetch pages, and the pages that they link to on the same hosts.

    python examples/crawl.py URL...

Prints the status and the size of each page, or the error, as soon as it is known. Fetches from all
hosts at the same time, with at most two connections to each; the requests to a host are pipelined.
"""

import sys
from collections import deque
from collections.abc import Iterable
from html.parser import HTMLParser
from urllib.parse import quote, urldefrag, urljoin

from dugong import ConnectionPool, Request, Response, RetryPolicy

MAX_PAGES = 10_000


class Frontier:
    """The requests to make next: each URL once, if it has the origin of one of the first *urls*.

    The pool calls `next()` again after each page, even after a StopIteration.
    """

    def __init__(self, urls: Iterable[str]) -> None:
        self._queue = deque(Request("GET", url) for url in urls)
        self._origins = {request.origin for request in self._queue}
        self._seen = {request.url for request in self._queue}

    def add(self, url: str) -> None:
        """Add *url*, unless it is known, has another origin, or is invalid."""
        if url in self._seen or len(self._seen) >= MAX_PAGES:
            return
        try:
            request = Request("GET", url)
        except ValueError:
            return
        if request.origin in self._origins:
            self._seen.add(url)
            self._queue.append(request)

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
        self._page = page
        self.urls: list[str] = []
        self.feed(page.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        target = dict(attrs).get("href")
        if tag == "a" and target:
            try:
                url = urldefrag(urljoin(self._page.url, target.strip())).url
            except ValueError:
                return
            self.urls.append(quote(url, safe="!#$%&'()*+,/:;=?@[]~"))


def main(urls: list[str]) -> int:
    failed = 0
    frontier = Frontier(urls)
    with ConnectionPool(
        max_connections_per_host=2,
        max_body_size=4 * 1024 * 1024,
        headers={"User-Agent": "an-example"},
        retry=RetryPolicy(attempts=3, budget=0.1),
    ) as pool:
        for future in pool.as_completed(frontier):
            if exc := future.exception():
                print("failed", future.request.url, repr(exc))
                failed += 1
                continue
            page = future.result()
            print(page.status, len(page.body), page.url)
            if page.status == 200 and page.headers.get_content_type() == "text/html":
                for url in Links(page).urls:
                    frontier.add(url)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
