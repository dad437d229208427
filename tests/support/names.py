"""Addresses, and names that resolve to what a test wants."""

from __future__ import annotations

import os
import resource
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

Address = tuple[Any, ...]


def address(sockaddr: tuple[str, int]) -> Address:
    """Return *sockaddr* as getaddrinfo gives it."""
    family = socket.AF_INET6 if ":" in sockaddr[0] else socket.AF_INET
    return (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", sockaddr)


class FakeNames:
    """A resolver. Call it with a name and addresses, or an error; other names stay as they are.

    `asked` are the names that it was asked for, in order.
    """

    def __init__(self) -> None:
        self._known: dict[str, list[Address] | Exception] = {}
        self._real = socket.getaddrinfo
        self.asked: list[str] = []

    def __call__(self, host: str, *response: tuple[str, int] | Exception) -> None:
        if len(response) == 1 and isinstance(response[0], Exception):
            self._known[host] = response[0]
        else:
            self._known[host] = [address(a) for a in response if not isinstance(a, Exception)]

    def getaddrinfo(self, host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        self.asked.append(host)
        response = self._known.get(host)
        if response is None:
            return self._real(host, port, *args, **kwargs)
        if isinstance(response, Exception):
            raise response
        return response


@contextmanager
def unresponsive() -> Iterator[tuple[str, int]]:
    """An address that neither accepts nor refuses: a listener whose backlog is full."""
    with ExitStack() as open_sockets:
        listener = open_sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        connected = True
        while connected:
            filler = open_sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            poller = select.poll()
            poller.register(filler, select.POLLOUT)
            connected = bool(poller.poll(50))
        yield listener.getsockname()


@contextmanager
def refusing() -> Iterator[tuple[str, int]]:
    """An address that refuses: the port is taken, but nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()


@contextmanager
def no_descriptors(spare: int = 0) -> Iterator[None]:
    """Let this process open no more than *spare* descriptors."""
    free = [os.dup(0) for _ in range(spare + 1)]
    for fd in free:
        os.close(fd)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(free), limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
