"""httpx: its blocking client."""

from __future__ import annotations

import httpx

from clients.worker import HOST, SMALL, Round, Server, check, main


def serial(server: Server) -> Round:
    client = httpx.Client()
    url = f"http://{HOST}:{server.port}{SMALL}"

    def perform(count: int) -> None:
        for _ in range(count):
            response = client.get(url)
            check(response.status_code, len(response.content))

    return perform


main({"serial": serial})
