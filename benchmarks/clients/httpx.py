"""httpx: its blocking client; in eight threads where many requests are to be made.

And in sixteen, with its own transport or with that of dugong.
"""

from __future__ import annotations

import httpx

from clients.worker import (
    CODED,
    CODED_TEXT,
    HOST,
    SMALL,
    SMALL_SIZE,
    THREADS,
    Round,
    Server,
    check,
    in_threads,
    main,
    near_and_far,
    small_urls,
)
from dugong.adapters.httpx import DugongTransport


def serial(server: Server) -> Round:
    client = httpx.Client()
    url = f"http://{HOST}:{server.port}{SMALL}"

    def perform(count: int) -> None:
        for _ in range(count):
            response = client.get(url)
            check(response.status_code, len(response.content))

    return perform


def sixteen(client: httpx.Client, port: int) -> Round:
    def get(url: str) -> None:
        response = client.get(url)
        check(response.status_code, len(response.content), SMALL_SIZE)

    urls = small_urls(port)
    return lambda count: in_threads(get, urls[:count], THREADS)


def adapted() -> httpx.Client:
    return httpx.Client(transport=DugongTransport())


def threads(server: Server, path: str = SMALL, size: int = SMALL_SIZE) -> Round:
    client = httpx.Client()

    def get(url: str) -> None:
        response = client.get(url)
        check(response.status_code, len(response.content), size)

    urls = small_urls(server.port, path)
    return lambda count: in_threads(get, urls[:count])


def coded(server: Server) -> Round:
    return threads(server, CODED, len(CODED_TEXT))


main(
    {
        "serial": serial,
        "client-map": threads,
        "client-gzip": coded,
        "client-get": serial,
        **near_and_far("httpx", httpx.Client, adapted, sixteen),
    }
)
