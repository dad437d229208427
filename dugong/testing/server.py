"""`Server`: a server on the loopback interface that follows a script, byte by byte.

Guarantees: nothing is sent or received but what the script says. A server ends with its `with`
block, with all its threads and sockets: a script that waits for a client raises after `TIMEOUT`
seconds. Touches sockets of the loopback interface; starts a thread, and one for each connection.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from dugong.connection.head import public_target
from dugong.connection.names import netloc

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

__all__ = ["TIMEOUT", "Peer", "ReceivedRequest", "Script", "Server"]

#: Seconds that a script may wait for anything.
TIMEOUT = 10.0


class ReceivedRequest(NamedTuple):
    """A request as a `Peer` has received it.

    `headers` is a dict with the names in lower case, `head` the bytes that it was read from, and
    `body` is b"" if the body has not been received with it. `trailers` are the fields behind a body
    in chunks, like `headers`.
    """

    method: str
    target: str
    headers: dict[str, str]
    head: bytes
    body: bytes
    trailers: Mapping[str, str] = MappingProxyType({})

    def __repr__(self) -> str:
        target = public_target(self.target)
        return f"<ReceivedRequest {self.method} {target}, {len(self.body)} bytes>"


class Peer:
    """The server's end of one connection, for the script that serves it.

    All methods block. Those that receive raise EOFError when the client has closed the connection,
    and TimeoutError after `TIMEOUT` seconds; all of them raise OSError. `sock` is the socket: an
    `ssl.SSLSocket` if the server speaks TLS. For one thread at a time.
    """

    def __init__(self, sock: socket.socket) -> None:
        # Both belong to the thread of the script.
        self.sock = sock
        self._received = bytearray()

    def head(self) -> ReceivedRequest:
        """Receive a request head, and leave its body."""
        head = self._until(b"\r\n\r\n")
        request_line, *lines = head[:-4].decode("latin-1").split("\r\n")
        method, target, _ = request_line.split(" ")
        return ReceivedRequest(method, target, _fields(lines), head, b"")

    def request(self) -> ReceivedRequest:
        """Receive a request with its body."""
        request = self.head()
        if "transfer-encoding" in request.headers:
            body = b""
            while size := int(self._until(b"\r\n")[:-2], 16):
                body += self.exactly(size)
                assert self.exactly(2) == b"\r\n"
            lines = []
            while line := self._until(b"\r\n")[:-2]:
                lines.append(line.decode("latin-1"))
            return request._replace(body=body, trailers=_fields(lines))
        body = self.exactly(int(request.headers.get("content-length", 0)))
        return request._replace(body=body)

    def requests(self) -> Iterator[ReceivedRequest]:
        """Yield each request with its body, until the client has closed the connection.

        A reset, and silence for `TIMEOUT` seconds, are no exceptions here, but the end, too.
        """
        while True:
            try:
                request = self.request()
            except (EOFError, OSError):
                return
            yield request

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
        """Send a response with a Content-Length; *headers* are lines, each with its CRLF."""
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


#: What a server does on one connection.
Script = Callable[[Peer], object]


class Server:
    """A server that listens on a free port of the loopback interface while its `with` block runs.

    Parameters: each of *scripts*, which are called with a `Peer`, serves one connection, in the
    order in which these are accepted, in a thread of its own; the connection is closed at its end.
    With *repeat*, the last script serves all further connections, too; otherwise another connection
    is an AssertionError. With *context*, an `ssl.SSLContext` for a server, the server speaks TLS.
    *host* is the address to listen at.

    Leaving the block waits for the scripts, and raises the first exception that one of them has
    raised, unless the block itself has raised one. So close the clients first, or a script that
    waits for them raises TimeoutError.

    Attributes: *host*, *port*, and *address*, which is both; *connections*, how many were accepted.
    Any thread may read them.
    """

    def __init__(
        self,
        *scripts: Script,
        repeat: bool = False,
        context: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self._scripts = scripts  # never changes
        self._repeat = repeat  # never changes
        self._context = context  # never changes
        # These belong to the acceptor, until it has ended; any thread may read the number.
        self._threads: list[threading.Thread] = []
        self.connections: int = 0
        # Each thread appends to it, which is atomic, in free-threaded CPython, too; looked at when
        # they have ended.
        self._errors: list[BaseException] = []
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.host: str
        self.port: int
        self.host, self.port = self._listener.getsockname()[:2]
        self.address: tuple[str, int] = (self.host, self.port)
        self._acceptor = threading.Thread(target=self._accept, name="scripted-server")

    def url(self, target: str = "/") -> str:
        """Return the URL of *target* on this server."""
        scheme = "http" if self._context is None else "https"
        return f"{scheme}://{netloc(self.host, self.port)}{target}"

    def __enter__(self) -> Server:
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


def _fields(lines: Iterable[str]) -> dict[str, str]:
    """Return what *lines* say, with the names in lower case."""
    fields = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields[name.lower()] = value.strip(" \t")
    return fields
