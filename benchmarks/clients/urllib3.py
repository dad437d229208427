"""urllib3: a pool of as many connections as needed, which is less to do than a PoolManager."""

from __future__ import annotations

import urllib3

from clients.worker import (
    CODED,
    CODED_TEXT,
    HOST,
    SMALL,
    SMALL_SIZE,
    Round,
    Server,
    check,
    in_threads,
    main,
)


def serial(server: Server) -> Round:
    pool = urllib3.HTTPConnectionPool(HOST, server.port, maxsize=1)

    def perform(count: int) -> None:
        for _ in range(count):
            response = pool.request("GET", SMALL)
            check(response.status, len(response.data))

    return perform


def submit(server: Server, path: str = SMALL, size: int = SMALL_SIZE) -> Round:
    headers = {"Accept-Encoding": "gzip, deflate"} if path == CODED else None
    pool = urllib3.HTTPConnectionPool(HOST, server.port, maxsize=8, headers=headers)

    def get(path: str) -> None:
        response = pool.request("GET", path)
        check(response.status, len(response.data), size)

    return lambda count: in_threads(get, [f"{path}?{number}" for number in range(count)])


def coded(server: Server) -> Round:
    return submit(server, CODED, len(CODED_TEXT))


main(
    {
        "serial": serial,
        "request": serial,
        "submit": submit,
        "request-threads": submit,
        "client-map": submit,
        "client-gzip": coded,
        "client-get": serial,
    }
)
