"""niquests: one session. Far away, it multiplexes HTTP/2: all requests are begun, then gathered.
Near, it is used in eight threads."""

from __future__ import annotations

import niquests

from clients.worker import (
    CODED,
    CODED_TEXT,
    SMALL,
    SMALL_SIZE,
    Round,
    Server,
    check,
    in_threads,
    main,
    small_urls,
)


def far(server: Server) -> Round:
    # Without HTTP/1.1 and HTTP/3 it speaks HTTP/2 from the first byte, as CurlMulti does.
    session = niquests.Session(
        multiplexed=True, disable_http1=True, disable_http3=True, pool_maxsize=6
    )
    urls = small_urls(server.far_h2_port)

    def perform(count: int) -> None:
        responses = [session.get(url) for url in urls[:count]]
        session.gather()
        for response in responses:
            check(response.status_code, len(response.content or b""))

    return perform


def threads(server: Server, path: str = SMALL, size: int = SMALL_SIZE) -> Round:
    session = niquests.Session(disable_http2=True, disable_http3=True, pool_maxsize=8)

    def get(url: str) -> None:
        response = session.get(url)
        check(response.status_code, len(response.content or b""), size)

    urls = small_urls(server.port, path)
    return lambda count: in_threads(get, urls[:count])


def coded(server: Server) -> Round:
    return threads(server, CODED, len(CODED_TEXT))


main({"far": far, "client-map": threads, "client-gzip": coded})
