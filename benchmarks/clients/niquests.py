"""niquests: one session, which multiplexes HTTP/2; all requests are begun, then gathered."""

from __future__ import annotations

import niquests

from clients.worker import Round, Server, check, main, small_urls


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


main({"far": far})
