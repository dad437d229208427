"""A server that follows a script, which says byte by byte what it sends and receives.

    with ScriptedServer(script) as server:
        conn = HTTPConnection(*server.address)

Each connection is handled by the next script, a function that takes a `Peer`; the last script
serves all further connections too if `repeat` is set. What a script raises fails the test.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple

TIMEOUT = 10.0  # seconds that a script may wait for anything


class ReceivedRequest(NamedTuple):
    """A request as it was received; header names are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    head: bytes
    body: bytes


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._received = bytearray()

    def head(self) -> ReceivedRequest:
        """Receive a request head, and leave its body."""
        head = self._until(b"\r\n\r\n")
        request_line, *lines = head[:-4].decode("latin-1").split("\r\n")
        method, target, _ = request_line.split(" ")
        headers = {}
        for line in lines:
            name, value = line.split(": ", 1)
            headers[name.lower()] = value
        return ReceivedRequest(method, target, headers, head, b"")

    def request(self) -> ReceivedRequest:
        """Receive a request with its body."""
        request = self.head()
        if "transfer-encoding" in request.headers:
            body = b""
            while size := int(self._until(b"\r\n")[:-2], 16):
                body += self.exactly(size)
                assert self.exactly(2) == b"\r\n"
            assert self.exactly(2) == b"\r\n"
        else:
            body = self.exactly(int(request.headers.get("content-length", 0)))
        return request._replace(body=body)

    def exactly(self, size: int) -> bytes:
        """Receive *size* bytes."""
        while len(self._received) < size:
            self._receive()
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    def until_eof(self) -> bytes:
        """Receive until the client closes; return what came."""
        try:
            while True:
                self._receive()
        except EOFError:
            data = bytes(self._received)
            self._received.clear()
            return data

    def send(self, data: bytes) -> None:
        """Send *data*."""
        self.sock.sendall(data)

    def send_bytewise(self, data: bytes) -> None:
        """Send *data* one byte at a time, each in a segment of its own if the client is quick."""
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(len(data)):
            self.sock.sendall(data[i : i + 1])

    def respond(self, body: bytes = b"", status: str = "200 OK", headers: str = "") -> None:
        """Send a response with a Content-Length."""
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        self.send(head.encode("latin-1") + body)

    def reset(self) -> None:
        """Close with a TCP reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Not through the SSL object, which would send a close_notify alert first.
        socket.socket.close(self.sock)

    def cut(self) -> None:
        """Close the TCP connection; with TLS, without a close_notify alert."""
        socket.socket.shutdown(self.sock, socket.SHUT_WR)

    def _until(self, end: bytes) -> bytes:
        while end not in self._received:
            self._receive()
        return self.exactly(self._received.find(end) + len(end))

    def _receive(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError("the client has closed the connection")
        self._received += data


Script = Callable[[Peer], None]


class ScriptedServer:
    """Listens on a loopback port while its `with` block runs.

    Parameters: *scripts* are for the first, second, ... connection; *repeat* lets the last one
    serve all that follow; *context* makes it speak TLS; *host* is where to listen.
    `connections` counts the connections that were accepted.
    """

    def __init__(
        self,
        *scripts: Script,
        repeat: bool = False,
        context: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self._scripts = scripts
        self._repeat = repeat
        self._context = context
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self.connections = 0
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.host, self.port = self._listener.getsockname()[:2]
        self.address: tuple[str, int] = (self.host, self.port)
        self._acceptor = threading.Thread(target=self._accept, name="scripted-server")

    def __enter__(self) -> ScriptedServer:
        self._acceptor.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        for thread in self._threads:
            thread.join()
        if self._errors and exc is None:
            raise self._errors[0]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            index = self.connections
            self.connections += 1
            if index >= len(self._scripts) and not (self._repeat and self._scripts):
                self._errors.append(AssertionError("more connections than scripts"))
                sock.close()
                continue
            script = self._scripts[min(index, len(self._scripts) - 1)]
            thread = threading.Thread(
                target=self._serve, args=(sock, script), name=f"scripted-server-{index}"
            )
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, script: Script) -> None:
        sock.settimeout(TIMEOUT)
        try:
            if self._context is not None:
                try:
                    sock = self._context.wrap_socket(sock, server_side=True)
                except (OSError, EOFError):
                    return  # a client may have closed the connection already
            script(Peer(sock))
        except BaseException as exc:
            self._errors.append(exc)
        finally:
            sock.close()
