"""The proxy between the pool and the server: it forwards everything and injects the faults.

One thread handles each connection, one request after the other: its head, its body, its response.
So a fault always hits the same request, however many requests have arrived by then.

A client may also use it as an HTTP proxy, with absolute URLs or a tunnel.
"""

from __future__ import annotations

import re
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import NamedTuple

from tests.faults.faults import Fault, Kind, Phase, Plan, Where
from tests.faults.gate import AtGate, Gate
from tests.support.server import TIMEOUT, Peer, ReceivedRequest

__all__ = ["Proxy", "Struck"]

_GARBAGE = b"\0"
#: It says that it is application data, and is encrypted with no key at all.
_CORRUPT_RECORD = b"\x17\x03\x03\x00\x20" + bytes(32)
_LENGTH = re.compile(rb"Content-Length: (\d+)")
_URL = re.compile(rb"([A-Z]+ )(http://[^/ ]+)")  # where a request begins that is for a proxy
_TUNNEL = b"HTTP/1.1 200 OK\r\n\r\n"


class Struck(NamedTuple):
    """A fault that has happened, and the target that it happened to ("": the connection)."""

    fault: Fault
    target: str


class Proxy(AtGate):
    """Passes on what comes to its `port` to *server_port*, while its `with` block runs.

    With *context*, it speaks TLS to its clients; with *tunnel*, once they have asked for a tunnel.
    `struck` is what has happened.
    """

    def __init__(
        self,
        server_port: int,
        plan: Plan,
        context: ssl.SSLContext | None = None,
        tunnel: bool = False,
    ) -> None:
        self.plan = plan
        self.tunnel = tunnel
        self.context = context
        self.server_port = server_port
        self.struck: list[Struck] = []
        self.silent = False
        self.unanswered = threading.Event()
        self.gate = Gate(lambda sock: _Line(self, sock).run())
        self.port = self.gate.port
        self._lock = threading.Lock()  # guards what follows
        self._connections = 0
        self._to_gather = 0

    def go_away(self) -> None:
        """End all connections, and refuse others until `come_back`."""
        self.gate.shut()

    def come_back(self) -> None:
        """Undo `go_away` or `fall_silent`."""
        self.gate.shut()
        self.silent = False
        self.unanswered.clear()
        self.gate.open()

    def fall_silent(self) -> None:
        """Accept connections, but neither receive nor send anything, until `come_back`."""
        self.silent = True

    def wait_until_silent(self) -> None:
        """Wait until a request has arrived that will get no response."""
        assert self.unanswered.wait(TIMEOUT)

    def gather(self, count: int) -> None:
        """Have the next request wait for others behind it, until *count* have come."""
        with self._lock:
            self._to_gather = count

    def take_gathering(self) -> int:
        """Return for how many requests to wait, once."""
        with self._lock:
            count, self._to_gather = self._to_gather, 0
            return count

    def count_connection(self) -> int:
        """Return the number of a connection that has just been opened."""
        with self._lock:
            self._connections += 1
            return self._connections


class _Over(Exception):
    """The connection has been brought to an end."""


class _End(Peer):
    """One of the two ends of a line. `deaf`: the way there has been cut."""

    deaf = False

    def send(self, data: bytes) -> None:
        if not self.deaf:
            super().send(data)

    def gather(self, count: int) -> None:
        """Wait until the heads of *count* more requests have come."""
        while self._received.count(b"\r\n\r\n") < count:
            self._receive()

    def body_parts(self, headers: dict[str, str]) -> Iterator[tuple[bytes, int]]:
        """Receive the body of a request but for its content.

        Yields what comes before a piece of that, and how many bytes are to be received then.
        """
        if "transfer-encoding" not in headers:
            yield b"", int(headers.get("content-length", 0))
            return
        while (line := self._until(b"\r\n")) != b"0\r\n":
            yield line, int(line, 16) + 2
        yield line, 2

    def interim_parts(self) -> list[tuple[Phase, bytes]]:
        """Receive an interim response, which is one part."""
        return [(Phase.CONTINUE, self._until(b"\r\n\r\n"))]

    def response_parts(self, method: str) -> list[tuple[Phase, bytes]]:
        """Receive the response to a request with *method*, in its parts."""
        head = self._until(b"\r\n\r\n")
        end = head.index(b"\r\n") + 2
        parts = [(Phase.STATUS_LINE, head[:end]), (Phase.HEADER, head[end:])]
        length = _LENGTH.search(head)
        if method == "HEAD":
            pass
        elif b"\r\nConnection: close\r\n" in head:
            return [*parts, (Phase.BODY, self.until_eof())]  # and nothing is between responses
        elif length is not None:
            parts.append((Phase.BODY, self.exactly(int(length[1]))))
        else:
            while (line := self._until(b"\r\n")) != b"0\r\n":
                parts.append((Phase.CHUNK_SIZE, line))
                parts.append((Phase.BODY, self.exactly(int(line, 16) + 2)))
            parts.append((Phase.CHUNK_SIZE, line))
            parts.append((Phase.TRAILER, self._until(b"\r\n\r\n")))
        parts.append((Phase.BETWEEN, b""))
        return parts

    def strike(self, kind: Kind) -> None:
        """Bring the connection to its end."""
        if kind is Kind.RESET:
            self.reset()
        elif kind is Kind.STALL:
            gone = select.poll()
            gone.register(self.sock, select.POLLRDHUP)
            gone.poll(TIMEOUT * 1000)
        elif kind is Kind.CORRUPT:
            socket.socket.sendall(self.sock, _CORRUPT_RECORD)
            self.close_kindly()
        else:
            self.close_kindly()

    def close_kindly(self) -> None:
        """Say that nothing more comes, and wait until the other end has closed, too.

        Who closes while something has not been read resets the connection.
        """
        try:
            if isinstance(self.sock, ssl.SSLSocket):
                _say_goodbye(self.sock)
            self.cut()
            while socket.socket.recv(self.sock, 65536):
                pass
        except OSError:
            pass


def _say_goodbye(sock: ssl.SSLSocket) -> None:
    sock.setblocking(False)
    try:
        sock.unwrap()  # which would wait for theirs
    except OSError:
        pass
    sock.settimeout(TIMEOUT)


class _Line:
    """A connection of a client, and ours to the server."""

    def __init__(self, proxy: Proxy, sock: socket.socket) -> None:
        self._proxy = proxy
        self._client = _End(sock)

    def run(self) -> None:
        """Pass on what comes until it is over."""
        fault = self._proxy.plan.for_connection(self._proxy.count_connection())
        try:
            self._be_silent()
            if fault is not None and fault.phase is Phase.CONNECT:
                self._strike(fault)
            if self._proxy.tunnel:
                self._open_tunnel(fault)
            if self._proxy.context is None:
                self._connect()
            elif fault is not None and fault[1:3] != (Phase.HANDSHAKE, Where.AFTER):
                self._shake_hands_badly(self._proxy.context, fault)
            else:
                self._shake_hands(self._proxy.context, fault)
        except (_Over, EOFError, OSError):
            pass

    def _open_tunnel(self, fault: Fault | None) -> None:
        assert self._client.head().method == "CONNECT"
        self._pass([(Phase.TUNNEL, _TUNNEL)], self._client, fault, "")

    def _shake_hands_badly(self, context: ssl.SSLContext, fault: Fault) -> None:
        client = self._client
        # Without a TLS socket: making one of a connection that the client has reset leaks it.
        flight = _first_flight(client.sock, context)
        middle = int(len(flight) * fault.share)
        client.send(flight[:middle])
        if fault.phase is Phase.HANDSHAKE:  # it has happened already otherwise
            self._strike(fault)
        client.send(flight[middle:])
        client.until_eof()

    def _shake_hands(self, context: ssl.SSLContext, fault: Fault | None) -> None:
        sock = context.wrap_socket(
            self._client.sock, server_side=True, do_handshake_on_connect=False
        )
        with self._proxy.gate.keeping(sock):
            sock.do_handshake()
            self._client.sock = sock
            if fault is not None and fault.phase is Phase.HANDSHAKE:
                self._strike(fault)
            self._connect()

    def _connect(self) -> None:
        sock = socket.create_connection(("127.0.0.1", self._proxy.server_port), TIMEOUT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._proxy.gate.keeping(sock):
            server = _End(sock)
            while True:
                self._exchange(server)

    def _exchange(self, server: _End) -> None:
        client = self._client
        request = client.head()
        self._be_silent()
        client.gather(self._proxy.take_gathering() - 1)
        url = _URL.match(request.head)
        target = request.target if url is None else request.target[len(url[2]) :]
        head = request.head if url is None else url[1] + request.head[url.end() :]
        has_body = "transfer-encoding" in request.headers or (
            request.headers.get("content-length", "0") != "0"
        )
        fault = self._proxy.plan.for_request(target, has_body)
        self._pass([(Phase.REQUEST_HEAD, head)], server, fault, target)
        try:
            if "expect" in request.headers:
                self._pass(server.interim_parts(), client, fault, target)
            self._pass_body(request, server, fault, target)
            response = server.response_parts(request.method)
        except EOFError:
            client.close_kindly()
            raise
        self._pass(response, client, fault, target)
        if response[-1][0] is not Phase.BETWEEN:
            client.close_kindly()
            raise _Over

    def _pass_body(
        self, request: ReceivedRequest, server: _End, fault: Fault | None, target: str
    ) -> None:
        """Pass on the body of *request*; if it is to have the *fault*, its first piece has it."""
        client = self._client
        where = fault.where if fault is not None and fault.needs_body else None
        for line, size in client.body_parts(request.headers):
            server.send(line)
            before = 0
            if fault is not None and where is Where.INSIDE:
                before = int(size * fault.share)
                server.send(client.exactly(before))
                self._strike(fault, target, server)
                where = None
            server.send(client.exactly(size - before))
        if fault is not None and where is Where.AFTER:
            self._strike(fault, target, server)

    def _pass(
        self, parts: list[tuple[Phase, bytes]], to: _End, fault: Fault | None, target: str
    ) -> None:
        """Pass on *parts*, with the *fault* if it hits one of them."""
        data = b"".join(part for _, part in parts)
        if fault is None or fault.phase not in (phase for phase, _ in parts):
            to.send(data)
            return
        hit = [index for index, (phase, _) in enumerate(parts) if phase is fault.phase]
        index = hit[int(len(hit) * fault.share)]
        begin = sum(len(part) for _, part in parts[:index])
        size = len(parts[index][1])
        inside = max(1, int(size * fault.share))
        cut = begin + {Where.BEFORE: 0, Where.INSIDE: inside, Where.AFTER: size}[fault.where]
        to.send(data[:cut])
        self._strike(fault, target, to)
        to.send(data[cut:])

    def _be_silent(self) -> None:
        if self._proxy.silent:
            self._proxy.unanswered.set()
            self._client.strike(Kind.STALL)
            raise _Over

    def _strike(self, fault: Fault, target: str = "", to: _End | None = None) -> None:
        """Have *fault* happen to what is on its way *to* one of the ends, or to the client.

        Raises `_Over` if nothing more is to be passed on.
        """
        client = self._client
        self._proxy.struck.append(Struck(fault, target))
        if fault.kind is Kind.GARBLE:
            (to or client).send(_GARBAGE)
        elif fault.kind is Kind.CUT:
            client.cut()
            client.deaf = True
        else:
            client.strike(fault.kind)
            raise _Over


def _first_flight(sock: socket.socket, context: ssl.SSLContext) -> bytes:
    """Return the first flight of a TLS server: what it sends after the ClientHello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    while not outgoing.pending:
        data = sock.recv(65536)
        if not data:
            raise EOFError
        incoming.write(data)
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
    return outgoing.read()
