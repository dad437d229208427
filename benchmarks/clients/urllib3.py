"""urllib3: a pool of as many connections as needed, which is less to do than a PoolManager."""

from __future__ import annotations

import urllib3

from clients.worker import HOST, SMALL, Round, Server, check, in_threads, main


def serial(server: Server) -> Round:
    pool = urllib3.HTTPConnectionPool(HOST, server.port, maxsize=1)

    def perform(count: int) -> None:
        for _ in range(count):
            response = pool.request("GET", SMALL)
            check(response.status, len(response.data))

    return perform


def submit(server: Server) -> Round:
    pool = urllib3.HTTPConnectionPool(HOST, server.port, maxsize=8)

    def get(path: str) -> None:
        response = pool.request("GET", path)
        check(response.status, len(response.data))

    return lambda count: in_threads(get, [f"{SMALL}?{number}" for number in range(count)])


main({"serial": serial, "request": serial, "submit": submit, "request-threads": submit})
