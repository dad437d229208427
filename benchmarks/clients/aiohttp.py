"""aiohttp: a task for each connection, which is a little faster than one for each request.

A crawl finds the links by lxml, and asks for no robots.txt.
"""

from __future__ import annotations

import asyncio
from urllib.parse import urldefrag, urljoin

import aiohttp
import lxml.html

from clients import sites
from clients.worker import Round, Server, check, main, small_urls


def by_tasks(urls: list[str], connections: int) -> Round:
    runner = asyncio.Runner()

    async def connect() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections))

    session = runner.run(connect())

    async def perform(count: int) -> None:
        waiting = iter(urls[:count])

        async def task() -> None:
            for url in waiting:
                async with session.get(url) as response:
                    check(response.status, len(await response.read()))

        await asyncio.gather(*(task() for _ in range(connections)))

    return lambda count: runner.run(perform(count))


def submit(server: Server) -> Round:
    return by_tasks(small_urls(server.port), 8)


def far(server: Server) -> Round:
    return by_tasks(small_urls(server.far_port), 6)


class Site:
    """A site that is crawled by a task for each connection."""

    def __init__(self, session: aiohttp.ClientSession, start: str) -> None:
        self.session = session
        self.root = urljoin(start, "/")
        self.known = {start}
        self.waiting: asyncio.Queue[str] = asyncio.Queue()
        self.waiting.put_nowait(start)
        self.received: list[tuple[str, int]] = []

    async def crawl(self) -> None:
        tasks = [asyncio.create_task(self.work()) for _ in range(sites.CONNECTIONS)]
        await self.waiting.join()
        for task in tasks:
            task.cancel()

    async def work(self) -> None:
        while True:
            url = await self.waiting.get()
            async with self.session.get(url, allow_redirects=False) as response:
                text = await response.text()
            self.received.append((url, len(text)))
            for target in lxml.html.document_fromstring(text).xpath("//a/@href"):
                link = urldefrag(urljoin(url, target)).url
                if link.startswith(self.root) and link not in self.known:
                    self.known.add(link)
                    self.waiting.put_nowait(link)
            self.waiting.task_done()


def crawls(port: int) -> Round:
    async def crawl(count: int) -> None:
        connector = aiohttp.TCPConnector(limit=0, limit_per_host=sites.CONNECTIONS)
        agent = {"User-Agent": sites.AGENT}
        jar = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(
            connector=connector, headers=agent, cookie_jar=jar
        ) as session:
            crawled = [Site(session, url) for url in sites.starts(port, count)]
            await asyncio.gather(*(site.crawl() for site in crawled))
        sites.check([page for site in crawled for page in site.received], count)

    return lambda count: asyncio.run(crawl(count))


main(
    {
        "submit": submit,
        "far": far,
        "crawl": lambda server: crawls(server.port),
        "crawl-far": lambda server: crawls(server.far_port),
    }
)
