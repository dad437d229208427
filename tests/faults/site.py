"""A server, a proxy with faults and a pool; and the right response to each request."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dugong import ConnectionPool, Headers, Request, Response
from tests.faults.faults import NoFaults, Plan
from tests.faults.proxy import Proxy
from tests.faults.server import FORMS, Book, Server, content, digest

__all__ = ["Contexts", "Site", "is_right", "make_request", "open_site"]

#: Of the server and the client; None: without TLS.
Contexts = tuple[ssl.SSLContext, ssl.SSLContext] | None


class Site:
    """A `pool` that reaches a `server` by a `proxy`; `book` is what the server has processed.

    URLs begin with `base`.
    """

    def __init__(self, server: Server, proxy: Proxy, pool: ConnectionPool, base: str) -> None:
        self.server = server
        self.proxy = proxy
        self.pool = pool
        self.book: Book = server.book
        self.base = base

    def request(self, name: object, *args: Any, **kwargs: Any) -> Request:
        """Return a request for the server; see `make_request`."""
        return make_request(self.base, name, *args, **kwargs)

    def processed(self, request: Request) -> int:
        """Return how often the server has processed *request*."""
        return self.book.processed(request.target)

    def goes_on(self) -> bool:
        """Return True if the next request gets its own response."""
        return is_right(self.pool.request(self.request("next")))


def make_request(
    base: str,
    name: object,
    method: str = "GET",
    form: str = FORMS[0],
    body: bytes | None = None,
    *,
    upload: Callable[[bytes], Any] = bytes,
    in_chunks: bool = False,
    **options: Any,
) -> Request:
    """Return a request, with *options*, that the server at *base* understands.

    *upload* makes of *body* what is given to the pool, which is not told its length if it is to be
    sent *in_chunks*.
    """
    url = f"{base}/{name}/{form}"
    if body is None:
        return Request(method, url, **options)
    headers = {"Digest": digest(body)}
    if not in_chunks:
        headers["Content-Length"] = str(len(body))
    return Request(method, url, headers, upload(body), **options)


def is_right(response: Response) -> bool:
    """Return True if *response* is the response to its request, and whole."""
    request = response.request
    said = Headers(request.headers or {})["Digest"] or digest(b"")
    body = content(request.method, request.target, said) if request.method != "HEAD" else b""
    return response.status == 200 and response.body == body


@contextmanager
def open_site(
    plan: Plan | None = None, contexts: Contexts = None, as_proxy: bool = False, **options: Any
) -> Iterator[Site]:
    """Start a server, a proxy with the faults of *plan*, and a pool with *options*.

    With *as_proxy*, the pool knows that it is one.
    """
    server_context, client_context = contexts or (None, None)
    scheme = "http" if contexts is None else "https"
    tunnel = as_proxy and contexts is not None
    with (
        Server() as server,
        Proxy(server.port, plan or NoFaults(), server_context, tunnel) as proxy,
    ):
        base = f"{scheme}://127.0.0.1:{proxy.port}"
        if as_proxy:
            options["proxy"] = ("127.0.0.1", proxy.port)
            base = f"{scheme}://localhost"
        with ConnectionPool(ssl_context=client_context, **options) as pool:
            yield Site(server, proxy, pool, base)
