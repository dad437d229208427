"""dugong's ConnectionPool: the one of this checkout, with all its defaults unless it says so."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from html.parser import HTMLParser
from typing import Any

from clients.worker import (
    BUFFER_SIZE,
    CODED,
    CODED_TEXT,
    HOST,
    LARGE,
    LARGE_SIZE,
    MEDIUM,
    MEDIUM_SIZE,
    ORIGINS,
    PAGE,
    PAGE_TEXT,
    SMALL,
    SMALL_SIZE,
    Round,
    Server,
    check,
    in_threads,
    main,
    small_urls,
)
from dugong import ConnectionPool, Response, ResponseFuture


def submit_all(pool: ConnectionPool, urls: Iterable[str]) -> None:
    """Submit a request for each of the *urls*, then look at each response."""
    futures = [pool.submit("GET", url) for url in urls]
    for future in futures:
        response = future.result()
        check(response.status, len(response.body))


def submit(server: Server, **options: Any) -> Round:
    pool = ConnectionPool(max_connections_per_host=8, **options)
    urls = small_urls(server.port)
    return lambda count: submit_all(pool, urls[:count])


def submit_tls(server: Server) -> Round:
    pool = ConnectionPool(max_connections_per_host=8, ssl_context=server.tls_context())
    urls = small_urls(server.tls_port, scheme="https")
    return lambda count: submit_all(pool, urls[:count])


def submit_on_all_cpus(server: Server) -> Round:
    """As `submit`, and the system may run each thread on another CPU than the others."""
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    return submit(server)


def submit_once(server: Server) -> Round:
    return submit(server, retry=None)


def submit_by_1000(server: Server) -> Round:
    pool = ConnectionPool(max_connections_per_host=8)
    urls = small_urls(server.port)

    def perform(count: int) -> None:
        for start in range(0, count, 1000):
            submit_all(pool, urls[start : start + 1000])

    return perform


def in_order(server: Server) -> Round:
    pool = ConnectionPool(max_connections_per_host=8)
    urls = small_urls(server.port)

    def perform(count: int) -> None:
        for response in pool.map(urls[:count]):
            check(response.status, len(response.body))

    return perform


def by_map(pool: ConnectionPool, urls: Iterable[str]) -> Iterator[Response]:
    return pool.map(urls)


def by_as_completed(pool: ConnectionPool, urls: Iterable[str]) -> Iterator[Response]:
    return (future.result() for future in pool.as_completed(urls))


def with_zlib(server: Server) -> Round:
    pool = ConnectionPool(max_connections_per_host=8, headers={"Accept-Encoding": "gzip, deflate"})
    urls = small_urls(server.port, CODED)

    def perform(count: int) -> None:
        for response in pool.map(urls[:count]):
            text = zlib.decompress(response.body, zlib.MAX_WBITS | 16)
            check(response.status, len(text), len(CODED_TEXT))

    return perform


#: What a client does with the body of a response, and with its number.
Use = Callable[[int, bytes], object]


def files(server: Server) -> tuple[list[str], bytes, Use]:
    def write(number: int, body: bytes) -> None:
        with open(f"{server.scratch}/{number}", "wb") as file:
            file.write(body)

    return small_urls(server.port), bytes(SMALL_SIZE), write


class Links(HTMLParser):
    """Collects the links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href"]


def html(server: Server) -> tuple[list[str], bytes, Use]:
    def parse(number: int, body: bytes) -> None:
        links = Links()
        links.feed(body.decode())
        links.close()
        assert len(links.found) == 30

    return small_urls(server.port, PAGE), PAGE_TEXT.encode(), parse


def used(
    get_many: Callable[[ConnectionPool, Iterable[str]], Iterator[Response]],
    make: Callable[[Server], tuple[list[str], bytes, Use]],
    apart: bool = False,
) -> Callable[[Server], Round]:
    """Get responses, and use the body of each when it comes; or *apart*: use as many afterwards."""

    def work(server: Server) -> Round:
        pool = ConnectionPool(max_connections_per_host=8)
        urls, body, use = make(server)

        def perform(count: int) -> None:
            for number, response in enumerate(get_many(pool, urls[:count])):
                check(response.status, len(response.body), len(body))
                if not apart:
                    use(number, response.body)
            if apart:
                for number in range(count):
                    use(number, body)

        return perform

    return work


def far(server: Server) -> Round:
    pool = ConnectionPool()
    urls = small_urls(server.far_port)
    return lambda count: submit_all(pool, urls[:count])


def farther(server: Server) -> Round:
    pool = ConnectionPool()
    urls = small_urls(server.farther_port)
    return lambda count: submit_all(pool, urls[:count])


def line(server: Server) -> Round:
    pool = ConnectionPool()
    url = f"http://{HOST}:{server.line_port}{MEDIUM}"

    def perform(count: int) -> None:
        for future in [pool.submit("GET", url) for _ in range(count)]:
            assert len(future.result().body) == MEDIUM_SIZE

    return perform


def far_first(server: Server) -> Round:
    urls = small_urls(server.far_port)

    def perform(count: int) -> None:
        with ConnectionPool() as pool:
            submit_all(pool, urls[:count])

    return perform


def request(server: Server, **options: Any) -> Round:
    return one_at_a_time(ConnectionPool(**options), f"http://{HOST}:{server.port}{SMALL}")


def request_tls(server: Server) -> Round:
    pool = ConnectionPool(ssl_context=server.tls_context())
    return one_at_a_time(pool, f"https://{HOST}:{server.tls_port}{SMALL}")


def one_at_a_time(pool: ConnectionPool, url: str) -> Round:
    def perform(count: int) -> None:
        for _ in range(count):
            response = pool.request("GET", url)
            check(response.status, len(response.body))

    return perform


def request_threads(server: Server) -> Round:
    pool = ConnectionPool(max_connections_per_host=8)
    urls = small_urls(server.port)

    def get(url: str) -> None:
        response = pool.request("GET", url)
        check(response.status, len(response.body))

    return lambda count: in_threads(get, urls[:count])


def request_once(server: Server) -> Round:
    return request(server, retry=None)


def down(server: Server, tls: bool = False) -> Round:
    pool = ConnectionPool(ssl_context=server.tls_context() if tls else None)
    url = f"https://{HOST}:{server.tls_port}" if tls else f"http://{HOST}:{server.port}"
    buffer = bytearray(BUFFER_SIZE)

    def perform(count: int) -> None:
        for _ in range(count):
            size = 0
            with pool.stream("GET", url + LARGE) as response:
                while got := response.readinto(buffer):
                    size += got
            assert size == LARGE_SIZE

    return perform


def down_tls(server: Server) -> Round:
    return down(server, tls=True)


def up(server: Server, tls: bool = False) -> Round:
    pool = ConnectionPool(ssl_context=server.tls_context() if tls else None)
    url = f"https://{HOST}:{server.tls_sink_port}" if tls else f"http://{HOST}:{server.sink_port}"

    def perform(count: int) -> None:
        for _ in range(count):
            with open(server.large_file, "rb") as file:
                assert pool.put(url + LARGE, body=file).status == 204

    return perform


def up_tls(server: Server) -> Round:
    return up(server, tls=True)


def queued(server: Server) -> Round:
    silent = socket.create_server((HOST, 0))  # the kernel accepts connections; no response comes
    url = f"http://{HOST}:{silent.getsockname()[1]}/objects"
    pool = ConnectionPool()
    futures: list[ResponseFuture] = []  # outlives the round, as does the server

    def perform(count: int) -> None:
        futures.extend(pool.submit("GET", f"{url}/{number:08}") for number in range(count))
        assert silent.fileno() >= 0
        assert not any(future.done() for future in futures)

    return perform


def hosts(server: Server) -> Round:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    first, *urls = [f"http://{address}:{server.port}{SMALL}" for address in ORIGINS]
    pool = ConnectionPool(max_connections=2 * len(ORIGINS))
    submit_all(pool, [first])  # whatever is there once, for the first of them

    def perform(count: int) -> None:
        submit_all(pool, urls[:count])
        deadline = time.monotonic() + 10
        while threading.active_count() > 2:  # the threads of idle connections end
            assert time.monotonic() < deadline
            time.sleep(0.05)

    return perform


main(
    {
        "submit": submit,
        "submit-once": submit_once,
        "submit-threads": submit_on_all_cpus,
        "submit-threads-pinned": submit,
        "submit-tls": submit_tls,
        "request-tls": request_tls,
        "map": in_order,
        "client-map": in_order,
        "client-gzip": with_zlib,
        "client-get": request,
        "map-files": used(by_map, files),
        "map-files-apart": used(by_map, files, apart=True),
        "completed-files": used(by_as_completed, files),
        "completed-files-apart": used(by_as_completed, files, apart=True),
        "map-html": used(by_map, html),
        "map-html-apart": used(by_map, html, apart=True),
        "request-threads": request_threads,
        "far": far,
        "far-first": far_first,
        "farther": farther,
        "line": line,
        "request": request,
        "request-once": request_once,
        "down": down,
        "down-tls": down_tls,
        "up": up,
        "up-tls": up_tls,
        "queue": submit,
        "queue-by-1000": submit_by_1000,
        "queue-memory": queued,
        "hosts": hosts,
        **{f"python-3.{minor}": submit for minor in (12, 13, 14)},
    }
)
