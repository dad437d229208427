"""A bare socket, which knows in advance what it will be sent: the least that Python can do."""

from __future__ import annotations

import os
import socket

from clients.worker import (
    BATCH,
    BUFFER_SIZE,
    HOST,
    LARGE,
    LARGE_SIZE,
    MEDIUM,
    MEDIUM_SIZE,
    SMALL,
    SMALL_SIZE,
    Round,
    Server,
    in_two_threads,
    main,
)


def get(path: str, port: int) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\n"
        f"Host: {HOST}:{port}\r\nContent-Length: 0\r\nAccept-Encoding: identity\r\n\r\n"
    ).encode()


def connect(port: int) -> socket.socket:
    sock = socket.create_connection((HOST, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def response_size(sock: socket.socket, request: bytes) -> int:
    """Return the size, head and body, of each response to *request*; all have the same size."""
    sock.sendall(request)
    response = b""
    while b"\r\n\r\n" not in response:
        response += sock.recv(65536)
    size = response.index(b"\r\n\r\n") + 4 + SMALL_SIZE
    while len(response) < size:
        response += sock.recv(65536)
    return size


def serial(server: Server) -> Round:
    sock = connect(server.port)
    request = get(SMALL, server.port)
    size = response_size(sock, request)

    def perform(count: int) -> None:
        for _ in range(count):
            sock.sendall(request)
            got = len(sock.recv(65536))
            while got < size:
                got += len(sock.recv(65536))

    return perform


def pipelined(server: Server, per_call: int = 1) -> Round:
    sock = connect(server.port)
    request = get(SMALL, server.port)
    size = response_size(sock, request)
    surplus = 0  # bytes received of the next batch

    def send() -> None:
        for _ in range(BATCH // per_call):
            sock.sendall(request * per_call)

    def receive() -> None:
        nonlocal surplus
        while surplus < BATCH * size:
            surplus += len(sock.recv(65536))
        surplus -= BATCH * size

    return lambda count: in_two_threads(send, receive, count)


def pipelined_in_batches(server: Server) -> Round:
    return pipelined(server, BATCH)


def line(server: Server) -> Round:
    sock = connect(server.line_port)
    request = get(MEDIUM, server.line_port)
    buffer = bytearray(BUFFER_SIZE)

    def receive(size: int) -> None:
        while size:
            size -= sock.recv_into(buffer, min(size, BUFFER_SIZE))

    sock.sendall(request)
    beginning = sock.recv(4096)
    head_size = beginning.index(b"\r\n\r\n") + 4
    receive(head_size + MEDIUM_SIZE - len(beginning))

    def perform(count: int) -> None:
        sock.sendall(request * count)
        receive(count * (head_size + MEDIUM_SIZE))

    return perform


def bulk(server: Server, tls: bool = False) -> Round:
    sock = connect(server.tls_port if tls else server.port)
    if tls:
        sock = server.tls_context().wrap_socket(sock, server_hostname=HOST)
    request = get(LARGE, server.tls_port if tls else server.port)
    buffer = bytearray(BUFFER_SIZE)

    def perform(count: int) -> None:
        for _ in range(count):
            sock.sendall(request)
            got = sock.recv_into(buffer)
            left = buffer.index(b"\r\n\r\n", 0, got) + 4 + LARGE_SIZE - got
            while left:
                left -= sock.recv_into(buffer)

    return perform


def bulk_tls(server: Server) -> Round:
    return bulk(server, tls=True)


def put(port: int) -> bytes:
    return (
        f"PUT {LARGE} HTTP/1.1\r\nHost: {HOST}:{port}\r\nContent-Length: {LARGE_SIZE}\r\n\r\n"
    ).encode()


def up(server: Server) -> Round:
    sock = connect(server.sink_port)
    head = put(server.sink_port)

    def perform(count: int) -> None:
        for _ in range(count):
            with open(server.large_file, "rb") as file:
                sock.sendall(head)
                offset = 0
                while offset < LARGE_SIZE:
                    left = LARGE_SIZE - offset
                    offset += os.sendfile(sock.fileno(), file.fileno(), offset, left)
            assert sock.recv(65536).startswith(b"HTTP/1.1 204")

    return perform


def up_tls(server: Server) -> Round:
    plain = connect(server.tls_sink_port)
    sock = server.tls_context().wrap_socket(plain, server_hostname=HOST)
    head = put(server.tls_sink_port)
    buffer = bytearray(BUFFER_SIZE)
    view = memoryview(buffer)

    def perform(count: int) -> None:
        for _ in range(count):
            with open(server.large_file, "rb", buffering=0) as file:
                sock.sendall(head)
                while got := file.readinto(buffer):
                    sock.sendall(view[:got])
            assert sock.recv(65536).startswith(b"HTTP/1.1 204")

    return perform


main(
    {
        "serial": serial,
        "request": serial,
        "pipelined": pipelined,
        "pipelined-in-batches": pipelined_in_batches,
        "submit": pipelined,
        "submit-in-batches": pipelined_in_batches,
        "map": pipelined,
        "line": line,
        "bulk": bulk,
        "bulk-tls": bulk_tls,
        "down": bulk,
        "down-tls": bulk_tls,
        "up": up,
        "up-tls": up_tls,
    }
)
