"""`dugong crawl`: fetches pages, and the pages that they link to.

Guarantees: those of the command's --help. A page that was fetched has its line, and its records in
the WARC file, before it is marked as done; so a crawl that is killed may repeat the last one, and
loses none. Memory does not depend on the number of pages, unless there is no --state. The calling
thread alone writes to standard output.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, NamedTuple

from dugong.cli import streams
from dugong.cli.errors import UsageError
from dugong.cli.progress import Display, can_display
from dugong.cli.settings import Settings, describe, make_client
from dugong.cli.tally import Tally
from dugong.crawl.frontier import Frontier
from dugong.crawl.html import links
from dugong.errors import DugongError, StateError, is_temp_network_error
from dugong.pool.host_policy import HostPolicy
from dugong.pool.request import Request
from dugong.pool.url import known_origins, public_url, split_url

if TYPE_CHECKING:
    from dugong.crawl.warc import WarcWriter
    from dugong.pool.future import ResponseFuture
    from dugong.pool.many import RequestSource

__all__ = ["Crawl", "crawl"]

MAX_SIZE = 32 * 1024 * 1024  # bytes of a page; a larger one fails
#: Bytes a second of a page; a slower one fails, or a server could keep a crawl from ending.
MIN_RATE = 1000.0


class Crawl(NamedTuple):
    """What is to be done. Times are in seconds."""

    settings: Settings
    urls: tuple[str, ...]
    scope: str = "host"
    depth: int | None = None
    pages: int | None = None
    pages_per_host: int | None = None
    delay: float = 0.0
    adaptive: bool = False
    robots: bool = True
    user_agent: str | None = None
    state: str | None = None
    warc: str | None = None


def crawl(what: Crawl) -> int:
    """Do *what* is to be done; return the exit status.

    Raises `UsageError` for what cannot be used, OSError for files that cannot be opened or written,
    and `streams.StreamError`.
    """
    policy = HostPolicy(min_interval=what.delay, adaptive=what.adaptive)
    options: dict[str, Any] = {"decode": True, "follow_redirects": False, "min_rate": MIN_RATE}
    options["host_policy"] = lambda origin: policy
    if what.user_agent is not None:
        options["headers"] = {"User-Agent": what.user_agent}
    with ExitStack() as stack:
        warc = None
        if what.warc is not None:
            warc = stack.enter_context(_open_warc(what.warc, append=what.state is not None))
            options["record"] = warc.write
        client = stack.enter_context(make_client(what.settings, MAX_SIZE, **options))
        robots = None
        if what.robots:
            try:
                from dugong.crawl.robots import Robots
            except ImportError as exc:
                raise UsageError(f"{exc}, or give --no-robots") from exc
            robots = Robots(client, what.user_agent or "dugong")
        try:
            frontier = stack.enter_context(
                Frontier(
                    what.state,
                    max_depth=what.depth,
                    max_per_host=what.pages_per_host,
                    robots=robots,
                )
            )
            frontier.add(what.urls)
        except (ValueError, StateError) as exc:
            raise UsageError(str(exc)) from exc
        run = _Run(what, frontier, warc)
        source: Any = iter(frontier) if what.pages is None else _First(what.pages, iter(frontier))
        with closing(client.as_completed(source)) as futures:  # type: ignore[type-var]  # it is a generator
            return run.to_end(futures)


def _open_warc(path: str, append: bool) -> WarcWriter:
    from dugong.crawl.warc import WarcWriter

    try:
        return WarcWriter(path, append=append)
    except (ImportError, ValueError) as exc:
        raise UsageError(f"--warc {path}: {exc}") from exc


class _First:
    """The first *count* of *requests*: a `RequestSource`."""

    def __init__(self, count: int, requests: RequestSource) -> None:
        self._left = count
        self._requests = requests  # never changes

    def __iter__(self) -> Iterator[str | Request]:
        return self

    def __next__(self) -> str | Request:
        if not self._left:
            raise StopIteration
        request = next(self._requests)
        self._left -= 1
        return request

    def call_when_more(self, call: Callable[[], object], /) -> bool:
        return self._left > 0 and self._requests.call_when_more(call)


class _Run:
    """What is done with the pages of a crawl. For one thread."""

    def __init__(self, what: Crawl, frontier: Frontier, warc: WarcWriter | None) -> None:
        # None of these changes.
        self._what = what
        self._frontier = frontier
        self._warc = warc
        self._is_in_scope = _scope(what.urls, what.scope)
        self._tally = Tally(None)
        self._shows = can_display(what.settings)
        self._announces = not (what.settings.quiet or (self._shows and sys.stdout.isatty()))

    def to_end(self, futures: Iterator[ResponseFuture]) -> int:
        """Take all *futures*; return the exit status."""
        if self._shows:
            with Display(self._tally):
                self._take(futures)
        else:
            self._take(futures)
        held = self._frontier.held
        for origin, why in held.items():
            streams.report(streams.printable(f"dugong: {origin}/robots.txt: {why}"))
        if not self._what.settings.quiet:
            streams.report(self._summary())
        return 1 if self._tally.failed or held else 0

    def _take(self, futures: Iterator[ResponseFuture]) -> None:
        for future in futures:
            self._page(future)
            del future  # or its page stays in memory while the next one is waited for
            if self._warc is not None and self._warc.error is not None:
                raise self._warc.error

    def _page(self, future: ResponseFuture) -> None:
        request = future.request
        try:
            response = future.result()
        except DugongError as exc:
            self._fail(request.url, describe(exc))
            if self._what.state is not None and is_temp_network_error(exc):
                self._frontier.postpone(request)
            else:
                self._frontier.done(request)
            return
        visit = request.context
        is_redirect = 300 <= response.status < 400
        found = [url for url in links(response) if self._is_in_scope(url)]
        if is_redirect and found and not visit.redirects_left:
            self._fail(request.url, f"more than {visit.redirects} redirects in a row")
            self._frontier.done(request)
            return
        self._tally.succeeded += 1
        self._tally.size += len(response.body)
        if self._announces:
            line = f"{response.status} {len(response.body)} {visit.depth} {request.url}"
            streams.write_output(streams.printable(line))
        self._frontier.done(request, found, is_redirect=is_redirect)

    def _fail(self, url: str, why: str) -> None:
        self._tally.failed += 1
        streams.report(streams.printable(f"dugong: {public_url(url)}: {why}"))

    def _summary(self) -> str:
        tally, left = self._tally, len(self._frontier)
        parts = [f"{tally.succeeded:,} fetched", f"{tally.failed:,} failed"]
        if self._frontier.forbidden:
            parts.append(f"{self._frontier.forbidden:,} not allowed by robots.txt")
        if left:
            parts.append(f"{left:,} left" + (" for another run" if self._what.state else ""))
        return ", ".join(parts)


def _scope(urls: tuple[str, ...], scope: str) -> Callable[[str], bool]:
    """Return what says whether a URL is one that is followed."""
    if scope == "all":
        return lambda url: True
    hosts = {_host(url) for url in urls}

    def is_in_scope(url: str) -> bool:
        try:
            host = _host(url)
        except ValueError:
            return False
        if scope == "site":
            labels = host.split(".")
            return any(".".join(labels[n:]) in hosts for n in range(len(labels)))
        return host in hosts

    return is_in_scope


def _host(url: str) -> str:
    return known_origins[split_url(url)[0]].host.removeprefix("www.")
