"""dugong.crawl: the loop of the documentation ("A crawler in an hour"), with robots.txt.

A round is a whole crawl, from the making of its client to the end of that.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from clients import sites
from clients.worker import Round, Server, main
from dugong import Client, HostPolicy
from dugong.crawl import Frontier, Robots, links

POLICY = HostPolicy(max_connections=sites.CONNECTIONS)


def crawl(starts: list[str], path: Path | None = None) -> list[tuple[str, int]]:
    """Crawl the sites of *starts*; return the URL and the size of each page."""
    received = []
    with (
        Client(
            headers={"User-Agent": sites.AGENT},
            host_policy=lambda origin: POLICY,
            follow_redirects=False,
        ) as client,
        Frontier(path, robots=Robots(client, sites.AGENT)) as frontier,
    ):
        frontier.add(starts)
        for future in client.as_completed(frontier):
            page = future.result()
            received.append((page.url, len(page.body)))
            site = f"{future.request.origin}/"
            frontier.done(future.request, [url for url in links(page) if url.startswith(site)])
    return received


def in_memory(port: int) -> Round:
    return lambda count: sites.check(crawl(sites.starts(port, count)), count)


def in_file(server: Server) -> Round:
    def perform(count: int) -> None:
        with tempfile.TemporaryDirectory(dir=server.scratch) as directory:
            path = Path(directory) / "crawl.db"
            sites.check(crawl(sites.starts(server.port, count), path), count)

    return perform


main(
    {
        "crawl": lambda server: in_memory(server.port),
        "crawl-in-file": in_file,
        "crawl-far": lambda server: in_memory(server.far_port),
    }
)
