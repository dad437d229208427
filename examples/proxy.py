"""A reverse proxy: a WSGI application that forwards all requests to another server.

    python examples/proxy.py URL [PORT]

Listens on the loopback interface, and prints where. Bodies are streamed both ways, whatever their
size. What becomes of a request that fails upstream is what the client gets: a 502, or a 504 after
a time-out. If the upstream server refuses an upload half-way, the client gets its response at once.

`ReverseProxy` is an application for any WSGI server that has threads.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import quote
from wsgiref.simple_server import WSGIServer, make_server

from dugong import ConnectionPool, ConnectionTimedOut, DugongError, Request, StreamedResponse

PIECE = 64 * 1024
#: Fields that are for one connection only (RFC 9110 §7.6.1), and Host, which is the upstream's.
HOP_BY_HOP = {
    "connection",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}

StartResponse = Callable[[str, list[tuple[str, str]]], object]


class ReverseProxy:
    """A WSGI application that forwards to the server at *url*, through *pool*."""

    def __init__(self, url: str, pool: ConnectionPool) -> None:
        self._url = url.rstrip("/")
        self._pool = pool

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        path = quote(environ.get("PATH_INFO", ""), safe="/:@!$&'()*+,;=~", encoding="latin-1")
        url = self._url + path
        if environ.get("QUERY_STRING"):
            url += f"?{environ['QUERY_STRING']}"
        length = environ.get("CONTENT_LENGTH") or "0"
        if "HTTP_TRANSFER_ENCODING" in environ or not length.isdecimal():
            return refuse(start_response, "411 Length Required", "the request has no length\n")
        body = pieces(environ["wsgi.input"], int(length)) if length != "0" else None
        opened = ExitStack()
        try:
            resp = opened.enter_context(
                self._pool.stream(method, url, headers=forwarded(environ), body=body)
            )
        except ValueError as exc:  # nothing that HTTP can say
            return refuse(start_response, "400 Bad Request", f"{exc}\n")
        except ConnectionTimedOut as exc:
            return refuse(start_response, "504 Gateway Timeout", f"{exc}\n")
        except DugongError as exc:
            return refuse(start_response, "502 Bad Gateway", f"{exc}\n")
        dropped = HOP_BY_HOP | listed(resp.headers["Connection"])
        kept = [field for field in resp.headers.items() if field[0].lower() not in dropped]
        start_response(f"{resp.status} {resp.reason}", kept)
        return Relay(resp, opened)


def listed(value: str | None) -> set[str]:
    """Return the names that a Connection field lists."""
    return {name.strip().lower() for name in (value or "").split(",")}


def forwarded(environ: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the header fields of the request that go on to the upstream server."""
    fields = {
        name.removeprefix("HTTP_").replace("_", "-").title(): value
        for name, value in environ.items()
        if name.startswith("HTTP_") or (name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value)
    }
    dropped = HOP_BY_HOP | listed(fields.get("Connection")) | {"expect"}
    kept = [(name, value) for name, value in fields.items() if name.lower() not in dropped]
    return [*kept, ("X-Forwarded-For", environ.get("REMOTE_ADDR", "unknown"))]


def pieces(file: Any, left: int) -> Iterator[bytes]:
    """Yield *left* bytes of *file*: a WSGI server need not say where a body ends."""
    while left and (data := file.read(min(PIECE, left))):
        left -= len(data)
        yield data


class Relay:
    """The body of *resp*, which a WSGI server iterates over, and closes even if it does not.

    If the body is cut short, the exception has the server close its connection.
    """

    def __init__(self, resp: StreamedResponse, opened: ExitStack) -> None:
        self._resp = resp
        self._opened = opened

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._resp)

    def close(self) -> None:
        self._opened.close()


def refuse(start_response: StartResponse, status: str, text: str) -> Iterator[bytes]:
    body = text.encode()
    fields = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    start_response(status, fields)
    return iter([body])


class Server(ThreadingMixIn, WSGIServer):
    """The server of the standard library, with a thread for each request."""

    daemon_threads = True


def main(url: str, port: int = 0) -> None:
    Request("GET", url)  # a ValueError, if this is none
    with ConnectionPool(max_connections_per_host=32) as pool:
        server = make_server("127.0.0.1", port, ReverseProxy(url, pool), server_class=Server)
        with server:
            print(f"http://127.0.0.1:{server.server_port} forwards to {url}", flush=True)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                print(pool.statistics())


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: proxy.py URL [PORT]")
    try:
        main(sys.argv[1], *map(int, sys.argv[2:]))
    except (OSError, ValueError) as error:  # there is no such port, or this is no URL
        sys.exit(f"proxy.py: {error}")
