"""http.client of the standard library."""

from __future__ import annotations

from http.client import HTTPConnection

from clients.worker import HOST, SMALL, Round, Server, check, main


def serial(server: Server) -> Round:
    connection = HTTPConnection(HOST, server.port)

    def perform(count: int) -> None:
        for _ in range(count):
            connection.request("GET", SMALL)
            response = connection.getresponse()
            check(response.status, len(response.read()))

    return perform


main({"serial": serial})
