"""Scrapy: a crawl with its own download handler or with that of dugong, with the asyncio reactor.

A round is a whole crawl, from the making of its crawler to the end of its engine. `crawl` is one
from link to link.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import scrapy
from scrapy.crawler import AsyncCrawlerRunner
from scrapy.http import Response
from scrapy.linkextractors import LinkExtractor
from scrapy.utils.reactor import install_reactor

from clients import sites
from clients.worker import SMALL_SIZE, Round, check, main, near_and_far, small_urls

CONCURRENCY = 32
#: Of dugong: the others are pipelined.
CONNECTIONS = 8

QUIET: dict[str, Any] = {"LOG_LEVEL": "ERROR", "TELNETCONSOLE_ENABLED": False}
PLAIN: dict[str, Any] = {
    **QUIET,
    "CONCURRENT_REQUESTS": CONCURRENCY,
    "CONCURRENT_REQUESTS_PER_DOMAIN": CONCURRENCY,
}
HANDLER = "dugong.adapters.scrapy.DugongDownloadHandler"
ADAPTED = {
    **PLAIN,
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


def crawls(loop: asyncio.AbstractEventLoop, settings: dict[str, Any], port: int) -> Round:
    urls = small_urls(port)

    def perform(count: int) -> None:
        runner = AsyncCrawlerRunner(settings)
        crawler = runner.create_crawler(Spider)

        async def crawl() -> None:
            await runner.crawl(crawler, urls=urls[:count])

        loop.run_until_complete(crawl())
        if crawler.spider.received != count:
            raise RuntimeError(f"{crawler.spider.received} of {count} responses")

    return perform


#: Those that Scrapy's documentation advises for many sites ("Broad Crawls").
BROAD: dict[str, Any] = {
    **QUIET,
    "CONCURRENT_REQUESTS": 100,
    "CONCURRENT_REQUESTS_PER_DOMAIN": sites.CONNECTIONS,
    "COOKIES_ENABLED": False,
    "REDIRECT_ENABLED": False,
    "RETRY_ENABLED": False,
    "ROBOTSTXT_OBEY": True,
    "USER_AGENT": sites.AGENT,
}


class SiteSpider(scrapy.Spider):
    """Follows the links of pages to their own sites, from *urls* on."""

    name = "sites"

    async def start(self) -> AsyncIterator[scrapy.Request]:
        self.received: list[tuple[str, int]] = []
        self.extractor = LinkExtractor()
        for url in self.urls:
            yield scrapy.Request(url)

    def parse(self, response: Response) -> Iterator[scrapy.Request]:
        self.received.append((response.url, len(response.body)))
        site = response.urljoin("/")
        for link in self.extractor.extract_links(response):
            if link.url.startswith(site):
                yield scrapy.Request(link.url)


def crawls_sites(loop: asyncio.AbstractEventLoop, port: int) -> Round:
    def perform(count: int) -> None:
        runner = AsyncCrawlerRunner(BROAD)
        crawler = runner.create_crawler(SiteSpider)

        async def crawl() -> None:
            await runner.crawl(crawler, urls=sites.starts(port, count))

        loop.run_until_complete(crawl())
        sites.check(crawler.spider.received, count)

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


main(
    {
        **near_and_far("scrapy", lambda: PLAIN, lambda: ADAPTED, partial(crawls, LOOP)),
        "crawl": lambda server: crawls_sites(LOOP, server.port),
        "crawl-far": lambda server: crawls_sites(LOOP, server.far_port),
    }
)
end()
