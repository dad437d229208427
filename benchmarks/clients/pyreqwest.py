"""pyreqwest: its blocking client in eight threads, which is faster than the other in tasks."""

from __future__ import annotations

from pyreqwest.client import SyncClientBuilder

from clients.worker import Round, Server, check, in_threads, main, small_urls


def submit(server: Server) -> Round:
    client = SyncClientBuilder().max_connections(8).build()
    urls = small_urls(server.port)

    def get(url: str) -> None:
        response = client.get(url).build().send()
        check(response.status, len(response.bytes()))

    return lambda count: in_threads(get, urls[:count])


main({"submit": submit})
