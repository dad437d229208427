"""A client and scripted servers: what the tests of clients have in common."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

from dugong.client.client import Client
from tests.support.pool import GONE
from tests.support.server import Peer, ReceivedRequest, ScriptedServer

__all__ = ["Page", "Place", "Places", "moved", "open_places"]


class Page(NamedTuple):
    """What a place responds with."""

    body: bytes = b""
    status: str = "200 OK"
    headers: str = ""  # lines, each with its end


#: From a request, and its body, to the response.
Serve = Callable[[ReceivedRequest], Page]


def moved(location: str, status: str = "302 Found", headers: str = "") -> Page:
    """Return a redirect to *location*."""
    return Page(b"elsewhere", status, f"Location: {location}\r\n{headers}")


class Place:
    """A server that responds by *serve*; else by the page of a path, or with the path.

    `requests` are those that it has received.
    """

    def __init__(
        self, serve: Serve | dict[str, Page], context: ssl.SSLContext | None = None
    ) -> None:
        self._serve = serve if callable(serve) else self._look_up
        self.pages = {} if callable(serve) else serve
        self.requests: list[ReceivedRequest] = []
        self.server = ScriptedServer(self._converse, repeat=True, context=context)

    def _look_up(self, request: ReceivedRequest) -> Page:
        path = request.target.partition("?")[0]
        return self.pages.get(path) or Page(path.encode())

    def _converse(self, peer: Peer) -> None:
        with suppress(*GONE):
            while True:
                request = peer.request()
                self.requests.append(request)
                page = self._serve(request)
                body = b"" if request.method == "HEAD" else page.body
                fields = f"{page.headers}Content-Length: {len(page.body)}\r\n"
                peer.send(f"HTTP/1.1 {page.status}\r\n{fields}\r\n".encode("latin-1") + body)

    @property
    def origin(self) -> str:
        """The origin, without a slash."""
        return f"http://{self.server.host}:{self.server.port}"

    def url(self, target: str = "/") -> str:
        """Return the URL of *target* here."""
        return self.origin + target

    @property
    def targets(self) -> list[str]:
        """The methods and targets of what was received."""
        return [f"{request.method} {request.target}" for request in self.requests]


class Places(NamedTuple):
    """A client, and the places that were opened for it."""

    client: Client
    places: list[Place]

    @property
    def here(self) -> Place:
        """The first place."""
        return self.places[0]


@contextmanager
def open_places(
    *serve: Serve | dict[str, Page], below: str | None = None, **options: Any
) -> Iterator[Places]:
    """Start a server for each of *serve*, and a client with *options*.

    *below* is the path of its base_url at the first server; without that, it has none.
    """
    with ExitStack() as stack:
        places = [Place(each) for each in serve]
        for place in places:
            stack.enter_context(place.server)
        options.setdefault("trust_env", False)
        if below is not None:
            options["base_url"] = places[0].url(below)
        yield Places(stack.enter_context(Client(**options)), places)
