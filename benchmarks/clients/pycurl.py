"""pycurl: easy handles, used again and again. They are not asked for the header fields."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import pycurl

from clients.worker import (
    HOST,
    LARGE,
    LARGE_SIZE,
    SMALL,
    Round,
    Server,
    check,
    main,
    small_urls,
)

#: Bytes that libcurl asks for at a time: its maximum, with which it is fastest.
UPLOAD_SIZE = 2 * 1024 * 1024


def verifying(server: Server) -> pycurl.Curl:
    """Return a handle that knows the authority of the servers' certificate."""
    curl = pycurl.Curl()
    curl.setopt(pycurl.CAINFO, server.ca_file)
    return curl


def serial(server: Server) -> Round:
    return one_at_a_time(pycurl.Curl(), f"http://{HOST}:{server.port}{SMALL}")


def serial_tls(server: Server) -> Round:
    return one_at_a_time(verifying(server), f"https://{HOST}:{server.tls_port}{SMALL}")


def one_at_a_time(curl: pycurl.Curl, url: str) -> Round:
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
    return perform_with(pycurl.CurlMulti(), [pycurl.Curl() for _ in range(connections)], urls)


def perform_with(multi: pycurl.CurlMulti, handles: list[pycurl.Curl], urls: list[str]) -> Round:
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


def upload(curl: pycurl.Curl, url: str, file_name: str) -> Round:
    curl.setopt(pycurl.UPLOAD, True)
    curl.setopt(pycurl.UPLOAD_BUFFERSIZE, UPLOAD_SIZE)
    curl.setopt(pycurl.HTTPHEADER, ["Expect:"])
    curl.setopt(pycurl.INFILESIZE_LARGE, LARGE_SIZE)
    curl.setopt(pycurl.URL, url)

    def perform(count: int) -> None:
        for _ in range(count):
            with open(file_name, "rb", buffering=0) as file:
                curl.setopt(pycurl.READFUNCTION, file.read)
                curl.perform()
            assert curl.getinfo(pycurl.RESPONSE_CODE) == 204

    return perform


def up(server: Server) -> Round:
    return upload(pycurl.Curl(), f"http://{HOST}:{server.sink_port}{LARGE}", server.large_file)


def up_tls(server: Server) -> Round:
    url = f"https://{HOST}:{server.tls_sink_port}{LARGE}"
    return upload(verifying(server), url, server.large_file)


def near(connections: int) -> Callable[[Server], Round]:
    return lambda server: together(small_urls(server.port), connections)


def near_tls(server: Server) -> Round:
    handles = [verifying(server) for _ in range(8)]
    return perform_with(pycurl.CurlMulti(), handles, small_urls(server.tls_port, scheme="https"))


def far(server: Server) -> Round:
    return together(small_urls(server.far_port), 6)


def farther(server: Server) -> Round:
    return together(small_urls(server.farther_port), 6)


def multiplexed(urls: list[str]) -> Round:
    """Six connections of HTTP/2, with 100 streams on each."""
    multi = pycurl.CurlMulti()
    multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_MULTIPLEX)
    multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, 6)
    multi.setopt(pycurl.M_MAX_CONCURRENT_STREAMS, 100)
    handles = [pycurl.Curl() for _ in range(600)]
    for curl in handles:
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE)
    return perform_with(multi, handles, urls)


def far_h2(server: Server) -> Round:
    return multiplexed(small_urls(server.far_h2_port))


def farther_h2(server: Server) -> Round:
    return multiplexed(small_urls(server.farther_h2_port))


def far_h2_first(server: Server) -> Round:
    urls = small_urls(server.far_h2_port)

    def perform(count: int) -> None:
        multiplexed(urls)(count)

    return perform


main(
    {
        "serial": serial,
        "request": serial,
        "up": up,
        "up-tls": up_tls,
        "submit-8": near(8),
        "submit-tls-8": near_tls,
        "request-tls": serial_tls,
        "submit-32": near(32),
        "map-8": near(8),
        "map-32": near(32),
        "far-6": far,
        "far-h2": far_h2,
        "far-first-h2": far_h2_first,
        "farther-6": farther,
        "farther-h2": farther_h2,
    }
)
