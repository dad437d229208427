"""dugong's ConnectionPool: the one of this checkout, with all its defaults unless it says so."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterable
from typing import Any

from clients.worker import (
    BUFFER_SIZE,
    HOST,
    LARGE,
    LARGE_SIZE,
    ORIGINS,
    SMALL,
    Round,
    Server,
    check,
    main,
    small_urls,
)
from dugong import ConnectionPool, ResponseFuture


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


def far(server: Server) -> Round:
    pool = ConnectionPool()
    urls = small_urls(server.far_port)
    return lambda count: submit_all(pool, urls[:count])


def request(server: Server, **options: Any) -> Round:
    pool = ConnectionPool(**options)
    url = f"http://{HOST}:{server.port}{SMALL}"

    def perform(count: int) -> None:
        for _ in range(count):
            response = pool.request("GET", url)
            check(response.status, len(response.body))

    return perform


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
    return lambda count: submit_all(pool, urls[:count])


main(
    {
        "submit": submit,
        "submit-once": submit_once,
        "map": in_order,
        "far": far,
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
    }
)
