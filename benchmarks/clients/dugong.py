"""dugong: the one of this checkout, or 3.8.2 if it is run in the virtual environment of that."""

from __future__ import annotations

from queue import SimpleQueue

import dugong
from clients.worker import (
    BATCH,
    BUFFER_SIZE,
    HOST,
    LARGE,
    LARGE_SIZE,
    SMALL,
    Round,
    Server,
    check,
    in_two_threads,
    main,
)


def serial(server: Server) -> Round:
    connection = dugong.HTTPConnection(HOST, server.port)

    def perform(count: int) -> None:
        for _ in range(count):
            connection.send_request("GET", SMALL)
            response = connection.read_response()
            check(response.status, len(connection.readall()))

    return perform


def pipelined(server: Server) -> Round:
    connection = dugong.HTTPConnection(HOST, server.port)
    sent: SimpleQueue[None] = SimpleQueue()  # for each batch: there is something to receive

    def send() -> None:
        for _ in range(BATCH):
            connection.send_request("GET", SMALL)
        sent.put(None)

    def receive() -> None:
        sent.get()
        for _ in range(BATCH):
            response = connection.read_response()
            check(response.status, len(connection.readall()))

    return lambda count: in_two_threads(send, receive, count)


def bulk(server: Server, tls: bool = False) -> Round:
    port, context = (server.tls_port, server.tls_context()) if tls else (server.port, None)
    connection = dugong.HTTPConnection(HOST, port, context)
    buffer = bytearray(BUFFER_SIZE)

    def perform(count: int) -> None:
        for _ in range(count):
            connection.send_request("GET", LARGE)
            connection.read_response()
            size = 0
            while got := connection.readinto(buffer):
                size += got
            assert size == LARGE_SIZE

    return perform


def bulk_tls(server: Server) -> Round:
    return bulk(server, tls=True)


main({"serial": serial, "pipelined": pipelined, "bulk": bulk, "bulk-tls": bulk_tls})
