"""urllib3: a pool of one connection, which is less to do for it than a PoolManager."""

from __future__ import annotations

import urllib3

from clients.worker import HOST, SMALL, Round, Server, check, main


def serial(server: Server) -> Round:
    pool = urllib3.HTTPConnectionPool(HOST, server.port, maxsize=1)

    def perform(count: int) -> None:
        for _ in range(count):
            response = pool.request("GET", SMALL)
            check(response.status, len(response.data))

    return perform


main({"serial": serial})
