"""pycurl: easy handles, used again and again. They are not asked for the header fields."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import pycurl

from clients.worker import HOST, SMALL, Round, Server, check, main, small_urls


def serial(server: Server) -> Round:
    curl = pycurl.Curl()
    url = f"http://{HOST}:{server.port}{SMALL}"

    def perform(count: int) -> None:
        for _ in range(count):
            body = BytesIO()
            curl.setopt(pycurl.URL, url)
            curl.setopt(pycurl.WRITEDATA, body)
            curl.perform()
            check(curl.getinfo(pycurl.RESPONSE_CODE), len(body.getvalue()))

    return perform


def together(urls: list[str], connections: int) -> Round:
    """One CurlMulti and a handle for each of the *connections*.

    Collecting a body by ``append`` is a little faster than a BytesIO, and ``perform`` with
    ``select`` a good deal faster than ``socket_action``.
    """
    multi = pycurl.CurlMulti()
    handles = [pycurl.Curl() for _ in range(connections)]

    def perform(count: int) -> None:
        waiting = urls[:count]
        free = list(handles)
        bodies: dict[pycurl.Curl, list[bytes]] = {}
        done_count = 0
        while done_count < count:
            while free and waiting:
                curl = free.pop()
                body: list[bytes] = []
                bodies[curl] = body
                curl.setopt(pycurl.URL, waiting.pop())
                curl.setopt(pycurl.WRITEFUNCTION, body.append)
                multi.add_handle(curl)
            multi.perform()
            more = True
            while more:
                more, done, failed = multi.info_read()
                assert not failed
                for curl in done:
                    multi.remove_handle(curl)
                    check(curl.getinfo(pycurl.RESPONSE_CODE), len(b"".join(bodies[curl])))
                done_count += len(done)
                free += done
            if done_count < count and not (free and waiting):
                multi.select(1.0)

    return perform


def near(connections: int) -> Callable[[Server], Round]:
    return lambda server: together(small_urls(server.port), connections)


def far(server: Server) -> Round:
    return together(small_urls(server.far_port), 6)


main(
    {
        "serial": serial,
        "request": serial,
        "submit-8": near(8),
        "submit-32": near(32),
        "map-8": near(8),
        "map-32": near(32),
        "far-6": far,
    }
)
