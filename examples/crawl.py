"""Crawl web sites: fetch pages, and the pages that they link to on the same hosts.

    python examples/crawl.py [--state FILE] [--store DIRECTORY] [--pages N] [--delay S] URL...

Prints the status and the size of each page, or the error, as soon as it is known, and in the end
how many there were. With --state, a crawl that was stopped or killed goes on where it stood. With
--store, writes the pages below DIRECTORY. Keeps to each site's robots.txt and its crawl delay;
follows links and redirects, but never to another host; skips what has rel="nofollow". Fetches from
all hosts at the same time, with at most two connections to each. The exit status is 0 if no page
has failed. `dugong crawl` does the same, and more.
"""

import argparse
import sys
from collections import Counter
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from dugong import Client, DugongError, HostPolicy, Request, Response, RetryPolicy
from dugong.crawl import Frontier, Robots, links

AGENT = "an-example"


def store(page: Response, directory: Path) -> None:
    """Write the body of *page* to a file in *directory* that is named after its URL."""
    name = quote(page.url, safe="")
    if len(name) > 200:  # longer than what file systems take
        name = name[:150] + sha256(page.url.encode()).hexdigest()
    (directory / name).write_bytes(page.body)


def same_hosts(urls: list[str], page: Response) -> list[str]:
    """Return the links of *page* to the hosts of *urls*."""
    origins = {Request("GET", url).origin for url in urls}
    found = []
    for url in links(page):
        try:
            if Request("GET", url).origin in origins:
                found.append(url)
        except ValueError:
            pass  # pages have links of all kinds
    return found


def main(options: argparse.Namespace) -> int:
    count: Counter[str] = Counter()
    if options.store is not None:
        options.store.mkdir(parents=True, exist_ok=True)
    policy = HostPolicy(max_connections=2, min_interval=options.delay)
    with (
        Client(
            headers={"User-Agent": AGENT},
            host_policy=lambda origin: policy,
            follow_redirects=False,  # they are links: a robots.txt may forbid where they lead
            max_body_size=4 * 1024 * 1024,
            retry=RetryPolicy(attempts=3, budget=0.1),
        ) as client,
        Frontier(
            options.state, max_per_host=options.pages, robots=Robots(client, AGENT)
        ) as frontier,
    ):
        frontier.add(options.urls)
        for future in client.as_completed(frontier):
            try:
                page = future.result()
            except DugongError as exc:
                print("failed", future.request.url, repr(exc))
                count["failed"] += 1
                frontier.done(future.request)
                continue
            print(page.status, len(page.body), page.url)
            count["fetched"] += 1
            if options.store is not None and page.status == 200:
                store(page, options.store)
            # Together: what kills the program leaves no page without its links.
            is_redirect = 300 <= page.status < 400
            frontier.done(future.request, same_hosts(options.urls, page), is_redirect=is_redirect)
        print(
            f"{count['fetched']} pages fetched, {count['failed']} failed, "
            f"{frontier.forbidden} forbidden by robots.txt"
        )
    return 1 if count["failed"] or not count["fetched"] else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="crawl.py", description="Crawl web sites.")
    parser.add_argument("urls", nargs="+", metavar="URL")
    parser.add_argument("--state", type=Path, metavar="FILE", help="go on with this")
    parser.add_argument("--store", type=Path, metavar="DIRECTORY")
    parser.add_argument("--pages", type=int, default=10_000, metavar="N", help="of a host, at most")
    parser.add_argument("--delay", type=float, default=0.0, metavar="S", help="between requests")
    try:
        sys.exit(main(parser.parse_args()))
    except ValueError as error:  # one of the URLs
        sys.exit(f"crawl.py: {error}")
