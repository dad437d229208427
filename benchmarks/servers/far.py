"""A server that seems 40 ms away: it sends each response that long after the request arrived.

Called as ``python -m servers.far``. It supports only requests without a body, which it counts by
their blank lines. One send has the responses to all requests of one receive, so that the server is
not the bottleneck at the rates that are measured.
"""

from __future__ import annotations

import asyncio
import sys

from clients.worker import HOST, SMALL_SIZE

#: Seconds between a request and its response.
DELAY = 0.040
_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SMALL_SIZE + bytes(SMALL_SIZE)
_BLANK_LINE = b"\r\n\r\n"


class Far(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._rest = b""  # the last bytes received: a blank line may be cut in two

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        self._rest = data[1 - len(_BLANK_LINE) :]
        requests = data.count(_BLANK_LINE)
        if requests:
            loop = asyncio.get_running_loop()
            loop.call_later(DELAY, self._transport.write, _RESPONSE * requests)


async def serve() -> None:
    """Serve until the input ends."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin, ended.set)
    async with await loop.create_server(Far, HOST, 0) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await ended.wait()


asyncio.run(serve())
