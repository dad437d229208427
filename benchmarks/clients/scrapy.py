"""Scrapy: a crawl with its own download handler or with that of dugong, with the asyncio reactor.

A round is a whole crawl, from the making of its crawler to the end of its engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import scrapy
from scrapy.crawler import AsyncCrawlerRunner
from scrapy.http import Response
from scrapy.utils.reactor import install_reactor

from clients.worker import SMALL_SIZE, Round, Server, check, main, small_urls

CONCURRENCY = 32
#: Of dugong: the others are pipelined.
CONNECTIONS = 8

SETTINGS: dict[str, Any] = {
    "CONCURRENT_REQUESTS": CONCURRENCY,
    "CONCURRENT_REQUESTS_PER_DOMAIN": CONCURRENCY,
    "LOG_LEVEL": "ERROR",
    "TELNETCONSOLE_ENABLED": False,
}
HANDLER = "dugong.adapters.scrapy.DugongDownloadHandler"
ADAPTED = {
    "DOWNLOAD_HANDLERS": {"http": HANDLER, "https": HANDLER},
    "DUGONG_POOL": {"max_connections_per_host": CONNECTIONS},
}


class Spider(scrapy.Spider):
    """Asks for *urls*, and counts the responses."""

    name = "spider"
    received = 0

    async def start(self) -> AsyncIterator[scrapy.Request]:
        for url in self.urls:
            yield scrapy.Request(url, dont_filter=True)

    def parse(self, response: Response) -> None:
        check(response.status, len(response.body), SMALL_SIZE)
        self.received += 1


def crawls(loop: asyncio.AbstractEventLoop, port: int, settings: dict[str, Any]) -> Round:
    urls = small_urls(port)

    def perform(count: int) -> None:
        runner = AsyncCrawlerRunner(SETTINGS | settings)
        crawler = runner.create_crawler(Spider)

        async def crawl() -> None:
            await runner.crawl(crawler, urls=urls[:count])

        loop.run_until_complete(crawl())
        if crawler.spider.received != count:
            raise RuntimeError(f"{crawler.spider.received} of {count} responses")

    return perform


def begin() -> asyncio.AbstractEventLoop:
    """Return the event loop, in which the reactor runs as often as that does."""
    install_reactor("twisted.internet.asyncioreactor.AsyncioSelectorReactor")
    from twisted.internet import reactor

    reactor.startRunning(installSignalHandlers=False)
    return asyncio.get_event_loop()


def end() -> None:
    """End the threads of the reactor, which keep the process from its end."""
    from twisted.internet import reactor

    reactor.fireSystemEvent("shutdown")


LOOP = begin()


def work(port_of: str, settings: dict[str, Any], server: Server) -> Round:
    return crawls(LOOP, getattr(server, port_of), settings)


main(
    {
        "scrapy": partial(work, "port", {}),
        "scrapy-dugong": partial(work, "port", ADAPTED),
        "scrapy-far": partial(work, "far_port", {}),
        "scrapy-far-dugong": partial(work, "far_port", ADAPTED),
    }
)
end()
