"""The arguments of `dugong crawl`, and what they mean."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from dugong.cli.values import number, positive, seconds_or_none

if TYPE_CHECKING:
    from dugong.cli.settings import Settings

__all__ = ["CRAWL", "add_crawl", "crawl"]

CRAWL = """\
Fetch pages, and the pages that they link to, from many sites at once.

For each page there is a line: its status, its size in bytes, how many links led to it, and its URL;
or a line on standard error if it cannot be fetched. Pages are not kept, unless --warc is given.
Redirects are followed as links are, up to 20 in a row. The robots.txt of each host is kept to, with
its crawl delay, and so are rel="nofollow" and its kin. Each URL is fetched once, in the normal form
of RFC 3986.

With --state a crawl that was stopped or killed goes on where it stood: give the same command again.
URLs of hosts that cannot be reached, or whose robots.txt cannot be had, wait for such a later run.
"""


def add_crawl(crawl: argparse.ArgumentParser) -> None:
    """Add what the command has besides the options of all that send requests."""
    add = crawl.add_argument
    add("urls", nargs="+", metavar="URL", help="where to begin")
    add(
        "--scope",
        choices=("host", "site", "all"),
        default="host",
        help="follow links to the hosts of the URLs, with www. and without (host, the default); to "
        "these and the hosts below them (site); or to all hosts (all)",
    )
    add("--depth", type=number, metavar="N", help="follow up to N links from a URL that was given")
    add("--pages", type=positive, metavar="N", help="fetch up to N pages, and stop")
    add(
        "--pages-per-host",
        type=positive,
        default=100_000,
        metavar="N",
        help="take in up to N URLs of a host (default: 100000)",
    )
    add(
        "--delay",
        type=seconds_or_none,
        default=0.0,
        metavar="SECONDS",
        help="leave so many seconds between two requests to a host (default: 0), or what its "
        "robots.txt asks for, if that is more",
    )
    add(
        "--adaptive",
        action="store_true",
        help="find out how many requests a second each host takes, and send it a little less: it "
        "gets fewer if it responds 429 or 503, or slowly",
    )
    add("--no-robots", action="store_true", help="ask for no robots.txt: for your own sites")
    add(
        "-A",
        "--user-agent",
        metavar="TEXT",
        help="send TEXT as User-Agent; what a robots.txt says to its name counts",
    )
    add("--state", metavar="FILE", help="keep what is known in FILE, and go on with it")
    add(
        "--warc",
        metavar="FILE",
        help="write all that is sent and received to FILE (WARC), behind what is there if --state "
        "is given",
    )


def crawl(arguments: argparse.Namespace, settings: Settings) -> int:
    """Do what *arguments* say; return the exit status."""
    from dugong.cli.crawl import Crawl, crawl

    return crawl(
        Crawl(
            settings,
            tuple(arguments.urls),
            arguments.scope,
            arguments.depth,
            arguments.pages,
            arguments.pages_per_host,
            arguments.delay,
            arguments.adaptive,
            not arguments.no_robots,
            arguments.user_agent,
            arguments.state,
            arguments.warc,
        )
    )
