"""A small web site, which the examples of the documentation and of `examples/` use.

    with ScriptedServer(Site(context), repeat=True) as server: ...

It is also a proxy: it responds to absolute-form requests itself, and is itself the server at the
other end of a tunnel, with *context* for TLS. A tunnel requires credentials. What is for a client
is in `tests.support.pages`.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from tests.support.pages import PAGE_MAKERS
from tests.support.server import Peer, ReceivedRequest

POEM = "Der Kühlschrank, ach,\nsteht still und wach.\n"

#: Pages with links, and where these lead to.
PAGES = {
    "/": ("/fish", "/birds", "mailto:me@example.com"),
    "/fish": ("/", "/fish/cod", "/fish/eel"),
    "/birds": ("/", "/birds/dodo", "http://www.example.com/fish#eel"),
    "/fish/cod": ("/fish",),
    "/fish/eel": ("/fish",),
}


class Site:
    """A script for `tests.support.server.ScriptedServer`, for any number of connections."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._asked: set[str] = set()
        self._stored: dict[str, int] = {}  # target -> size of the uploaded body

    def __call__(self, peer: Peer) -> None:
        try:
            while self._respond(peer, peer.head()):
                pass
        except (EOFError, ConnectionError, TimeoutError, ssl.SSLError):
            pass  # the client has gone, as it may at any time, or is idle

    def _respond(self, peer: Peer, request: ReceivedRequest) -> bool:
        """Respond to *request*, whose body is not read yet; return True if another may follow."""
        target = request.target.removeprefix("http://www.example.com")
        if request.method == "CONNECT":
            return self._tunnel(peer, request)
        if (make_page := PAGE_MAKERS.get(target.partition("?")[0])) is not None:
            page = make_page(request._replace(target=target, body=_body(peer, request)))
            head = (
                f"HTTP/1.1 {page.status}\r\nContent-Length: {len(page.body)}\r\n{page.headers}\r\n"
            )
            if target.startswith("/unreliable.iso") and self._is_first(target):
                peer.send(head.encode() + page.body[:600_000])
                return False
            peer.send(head.encode() + (b"" if request.method == "HEAD" else page.body))
            return True
        if request.method in ("PUT", "POST"):
            return self._take_upload(peer, request, target)
        if request.method == "HEAD":
            size = 14 if target == "/hello" else self._stored.get(target)
            status = "404 Not Found" if size is None else "200 OK"
            peer.send(f"HTTP/1.1 {status}\r\nContent-Length: {size or 0}\r\n\r\n".encode())
        elif target == "/hello":
            peer.respond(b"Hello, world!\n", headers="Content-Type: text/plain; charset=utf-8\r\n")
        elif target == "/poem":
            content_type = "Content-Type: text/plain; charset=iso-8859-1\r\n"
            peer.respond(POEM.encode("latin-1"), headers=content_type)
        elif target.startswith("/objects/"):
            peer.respond(f"object {target.removeprefix('/objects/')}\n".encode())
        elif target in PAGES:
            links = "".join(f'<a href="{link}">{link}</a>\n' for link in PAGES[target])
            peer.respond(links.encode(), headers="Content-Type: text/html; charset=utf-8\r\n")
        elif target == "/old":
            peer.send(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n")
        elif target == "/video":
            peer.respond(bytes(range(256)) * 1200)
        elif target == "/slow":
            peer.until_eof()
            return False
        elif target == "/crash" or (target.startswith("/flaky") and self._is_first(target)):
            return False
        elif target == "/down" or (target == "/busy" and self._is_first(target)):
            peer.respond(status="503 Service Unavailable", headers="Retry-After: 1\r\n")
        elif target.startswith(("/flaky", "/busy")):
            peer.respond(b"at last\n")
        else:
            peer.respond(b"no such page\n", status="404 Not Found")
        return True

    def _is_first(self, target: str) -> bool:
        """Return True if this is the first request for *target*."""
        first = target not in self._asked
        self._asked.add(target)
        return first

    def _take_upload(self, peer: Peer, request: ReceivedRequest, target: str) -> bool:
        if target == "/full":
            # Before the body, and without waiting for it.
            peer.respond(b"disk full\n", status="413 Content Too Large")
            return False
        if target == "/busy" and self._is_first(target):
            peer.respond(status="503 Service Unavailable")
            return False
        if "expect" in request.headers:
            peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if target == "/crash" or (target.startswith("/flaky") and self._is_first(target)):
            peer.exactly(min(1000, int(request.headers.get("content-length", 1000))))
            return False
        if target == "/upper":
            # While the body still arrives.
            peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for data in _chunks(peer):
                peer.send(b"%x\r\n%b\r\n" % (len(data), data.upper()))
            peer.send(b"0\r\n\r\n")
        else:
            size = len(_body(peer, request))
            if target == "/limited" and self._is_first(target):
                peer.respond(status="429 Too Many Requests", headers="Retry-After: 1\r\n")
                return True
            self._stored[target] = size
            if target == "/dropped" or ("?complete" in target and self._is_first(target)):
                return False
            if target.endswith("?uploads"):
                peer.respond(b"u1\n")
                return True
            text = f"stored {size} bytes\n".encode()
            if "x-amz-date" in request.headers:
                text = b""  # as from S3: anything else is an error to boto3
            peer.respond(text, status="201 Created")
        return True

    def _tunnel(self, peer: Peer, request: ReceivedRequest) -> bool:
        if "proxy-authorization" not in request.headers:
            peer.respond(status="407 Proxy Authentication Required")
            return True
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        with self._context.wrap_socket(peer.sock, server_side=True) as inner:
            self(Peer(inner))
        return False


def _body(peer: Peer, request: ReceivedRequest) -> bytes:
    if "transfer-encoding" in request.headers:
        return b"".join(_chunks(peer))
    return peer.exactly(int(request.headers.get("content-length", 0)))


def _chunks(peer: Peer) -> Iterator[bytes]:
    while size := int(_line(peer), 16):
        yield peer.exactly(size)
        peer.exactly(2)
    while _line(peer) != b"\r\n":
        pass  # a trailer


def _line(peer: Peer) -> bytes:
    line = b""
    while not line.endswith(b"\r\n"):
        line += peer.exactly(1)
    return line
