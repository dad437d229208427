"""pycurl: one easy handle, used again and again. It is not asked for the header fields."""

from __future__ import annotations

from io import BytesIO

import pycurl

from clients.worker import HOST, SMALL, Round, Server, check, main


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


main({"serial": serial})
