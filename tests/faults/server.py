"""The server behind the proxy, which records the requests that it has processed.

A target is ``/NAME/FORM``. The FORM of the response is "length", "chunks" or "close". Its body
(`content`) follows from the method, the target and the body of the request, so each request has a
different response. A request with a body has a header with its digest. If the body does not match,
the server does not process the request, and closes the connection.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from hashlib import sha256

from tests.faults.gate import AtGate, Gate
from tests.support.server import TIMEOUT, Peer, ReceivedRequest

__all__ = ["FORMS", "Book", "Server", "content", "digest"]

FORMS = ("length", "chunks")  # which "close" is not one of, for what is cut there looks whole


def digest(body: bytes) -> str:
    """Return a short digest of *body*."""
    return sha256(body).hexdigest()[:16]


def content(method: str, target: str, digest: str) -> bytes:
    """Return the body of the response to a request with a body of this *digest*."""
    line = f"{method} {target} {digest}\n".encode()
    return line * (3 + sum(line) % 20)


def _response(method: str, target: str, digest: str) -> bytes:
    whole = content(method, target, digest)
    head = f"HTTP/1.1 200 OK\r\nServer: book\r\nFor: {target}\r\n"
    if target.endswith("/length"):
        fields = f"{head}Content-Length: {len(whole)}\r\n\r\n".encode()
        return fields if method == "HEAD" else fields + whole
    if target.endswith("/close"):
        return f"{head}Connection: close\r\n\r\n".encode() + whole
    middle = len(whole) // 3
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (whole[:middle], whole[middle:])
    )
    fields = f"{head}Transfer-Encoding: chunked\r\n\r\n".encode()
    if method == "HEAD":
        return fields
    return fields + chunks + f"0\r\nTrailer-For: {target}\r\n\r\n".encode()


class Book:
    """How often each target was processed, and which requests were damaged. For any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._processed: Counter[str] = Counter()
        self._count = 0
        self.damaged: list[str] = []

    def enter(self, target: str) -> None:
        """A request for *target* is processed now."""
        with self._changed:
            self._processed[target] += 1
            self._count += 1
            self._changed.notify_all()

    def processed(self, target: str) -> int:
        """Return how often a request for *target* was processed."""
        with self._changed:
            return self._processed[target]

    def wait_for_more(self, count: int) -> None:
        """Wait until *count* more requests than now have been processed."""
        with self._changed:
            enough = self._count + count
            assert self._changed.wait_for(lambda: self._count >= enough, TIMEOUT), "no progress"


class Server(AtGate):
    """Serves on the loopback interface while its `with` block runs."""

    def __init__(self) -> None:
        self.book = Book()
        self.gate = Gate(self._serve)
        self.port = self.gate.port

    def start(self) -> None:
        """Take connections."""
        self.gate.open()

    def stop(self) -> None:
        """Drop everything, and refuse connections."""
        self.gate.shut()

    def _serve(self, sock: socket.socket) -> None:
        peer = _Peer(sock)
        try:
            closing = False
            while not closing:
                request = peer.request()
                if not _is_whole(request):
                    raise ValueError(request.target)
                self.book.enter(request.target)
                peer.send(_response(request.method, request.target, digest(request.body)))
                closing = request.target.endswith("/close")
        except (ValueError, AssertionError) as exc:
            self.book.damaged.append(str(exc))
        except (EOFError, OSError):
            pass  # the proxy has closed


class _Peer(Peer):
    """A client. It is asked for a body that it has announced."""

    def head(self) -> ReceivedRequest:
        request = super().head()
        if b"\0" in request.head:
            raise ValueError(request.target)
        if "expect" in request.headers:
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        return request


def _is_whole(request: ReceivedRequest) -> bool:
    claimed = request.headers.get("digest", digest(b""))
    return claimed == digest(request.body)
