"""A session over socket pairs, and the responses that its peer may give.

Its calls are generators, so most of what two threads could do to each other is played in one
thread: a call is taken to where it waits with `next`, and something else happens then. Where a
thread switch must fall between two statements, a hook on something that they touch stands for it.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from dugong import BodyFollowing
from dugong.connection.encode import RequestBuilder
from dugong.connection.exchange import Exchange, HTTPResponse
from dugong.connection.polling import POLLIN, Coroutine, PollNeeded, eval_coroutine
from dugong.connection.session import Http1Session
from dugong.connection.transport import PlainTransport, Transport
from tests.support.points import Interrupt

T = TypeVar("T")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\n"
TOO_LARGE = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"


def closing(response: bytes) -> bytes:
    """Return *response* with a field that makes it the last of its connection."""
    return response.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)


def interrupted(*args: object) -> None:
    raise Interrupt


def run(crt: Coroutine[T]) -> T:
    return eval_coroutine(crt, 5)


def is_open(transport: Transport) -> bool:
    return transport.sock.fileno() >= 0


class Line:
    """A session whose connections are socket pairs; `peers` are their other ends, in order."""

    def __init__(self, kind: type[Http1Session] = Http1Session) -> None:
        self.peers: list[socket.socket] = []
        self.transport_class: type[Transport] = PlainTransport
        self.gate: tuple[socket.socket, socket.socket] | None = None
        self.refused = False  # dialling fails
        self.dialled: Callable[[], None] = lambda: None  # is called when dialling has succeeded
        self.session = kind(self._dial)

    def _dial(self) -> Coroutine[Transport]:
        if self.gate is not None:
            yield PollNeeded(self.gate[0].fileno(), POLLIN)
        if self.refused:
            raise ConnectionRefusedError
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.settimeout(5)
        self.peers.append(theirs)
        self.dialled()
        return self.transport_class(ours)

    def shut_gate(self) -> None:
        """Let dialling wait from now on."""
        self.gate = socket.socketpair()

    def open_gate(self) -> None:
        """Let dialling go on."""
        assert self.gate is not None
        self.gate[1].send(b"x")

    @property
    def peer(self) -> socket.socket:
        """The other end of the latest connection."""
        return self.peers[-1]

    @property
    def transport(self) -> Transport:
        assert self.session.state.transport is not None
        return self.session.state.transport

    def send_request(
        self,
        path: str = "/",
        body: bytes | BodyFollowing | None = None,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        expect100: bool = False,
    ) -> Coroutine[None]:
        """Build a request, and return the coroutine that sends it."""
        request = RequestBuilder("host").build(method, path, headers, body, expect100)
        return self.session.sender.co_send_request(*request)

    def ask(self, *paths: str) -> None:
        """Send a GET for each of *paths*."""
        for path in paths:
            run(self.send_request(path))

    def read_response(self) -> HTTPResponse:
        return run(self.session.receiver.co_read_response())

    def readall(self) -> bytes:
        return run(self.session.body.co_readall())

    def readinto(self, size: int = 100) -> bytes:
        view = memoryview(bytearray(size))
        return bytes(view[: run(self.session.body.co_readinto(view))])

    def write(self, data: bytes) -> int:
        return run(self.session.sender.co_write(memoryview(data)))

    def gets_a_response_over_a_new_connection(self) -> bool:
        """Make an exchange from beginning to end."""
        connections = len(self.peers)
        self.ask("/new")
        self.peer.sendall(OK)
        return (
            self.read_response().path == "/new"
            and self.readall() == b"ok"
            and self.readall() == b""
            and len(self.peers) == connections + 1
        )

    def close(self) -> None:
        self.session.abort()
        for sock in (*self.peers, *(self.gate or ())):
            sock.close()


class HookedDeque(deque[Exchange]):
    """A pipeline that lets the other side act right after an exchange has left it."""

    hook: Callable[[], None] | None = None

    def popleft(self) -> Exchange:
        exchange = super().popleft()
        hook, self.hook = self.hook, None
        if hook is not None:
            hook()
        return exchange
