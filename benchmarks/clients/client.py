"""dugong's Client: the one of this checkout, with all its defaults unless it says so."""

from __future__ import annotations

from clients.worker import (
    CODED,
    CODED_TEXT,
    SMALL,
    SMALL_SIZE,
    Round,
    Server,
    check,
    main,
    small_urls,
)
from dugong import Client


def by_map(server: Server, path: str, size: int) -> Round:
    client = Client(max_connections_per_host=8, trust_env=False)
    urls = small_urls(server.port, path)

    def perform(count: int) -> None:
        for response in client.map(urls[:count]):
            check(response.status, len(response.body), size)

    return perform


def plain(server: Server) -> Round:
    return by_map(server, SMALL, SMALL_SIZE)


def coded(server: Server) -> Round:
    return by_map(server, CODED, len(CODED_TEXT))


def one_at_a_time(server: Server) -> Round:
    client = Client(trust_env=False)
    [url] = small_urls(server.port)[:1]

    def perform(count: int) -> None:
        for _ in range(count):
            response = client.get(url)
            check(response.status, len(response.body))

    return perform


main({"client-map": plain, "client-gzip": coded, "client-get": one_at_a_time})
