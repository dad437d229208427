"""The server of the demo: HTTP/1.1 on the loopback interface, with a delay of `DELAY` seconds.

The server sends each response `DELAY` after the request arrived. The delays of several requests
overlap, as on a network link with a long round trip: a client that waits for each response waits
`DELAY` for each of them, and a client that pipelines waits `DELAY` once.

    GET /objects/NAME    `content(NAME)`
    PUT /uploads/NAME    the SHA-256 of the uploaded body, in hex; 413 beyond `MAX_UPLOAD`
    GET /uploads/unasked how many bytes of body arrived after an upload was refused

It runs as a process (``python -m dugong.cli.demo_server``), which writes its port to standard
output, and ends at the end of its standard input (when its parent ends) or after `LIFETIME`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from typing import NamedTuple

__all__ = ["DELAY", "LIFETIME", "MAX_UPLOAD", "DemoServer", "content"]

DELAY = 0.02  # seconds
LIFETIME = 600.0  # seconds
MAX_UPLOAD = 8 * 1024 * 1024
_MAX_OBJECT = 100 * 1024
_MAX_QUEUED = 256

_Responses = asyncio.Queue[tuple[float, bytes] | None]  # when to send it, and its bytes; None: end

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def content(name: str) -> bytes:
    """Return the object called *name*: 0 to 100 KiB, more often small, and always the same."""
    seed = hashlib.sha256(name.encode()).digest()
    fraction = int.from_bytes(seed[:2]) / 0xFFFF
    return hashlib.shake_256(seed).digest(round(_MAX_OBJECT * fraction**3))


class _Request(NamedTuple):
    method: str
    target: str
    headers: dict[str, str]

    @property
    def length(self) -> int:
        return int(self.headers.get("content-length", 0))


class DemoServer:
    """Serves connections; see the top of this file. GET /uploads/unasked returns `unasked`."""

    def __init__(self) -> None:
        self.unasked: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        responses: _Responses = asyncio.Queue(_MAX_QUEUED)
        sending = asyncio.create_task(_send_when_due(responses, writer))
        try:
            await self._receive(reader, responses)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            await responses.put(None)
            await sending
            writer.close()

    async def _receive(self, reader: asyncio.StreamReader, responses: _Responses) -> None:
        loop = asyncio.get_running_loop()
        while True:
            request = _parse(await reader.readuntil(b"\r\n\r\n"))
            expects = "expect" in request.headers
            if request.length > MAX_UPLOAD:
                await responses.put((loop.time() + DELAY, _response("413 Content Too Large")))
                unasked = len(await reader.read())
                if expects and not self.unasked.done():
                    self.unasked.set_result(unasked)
                return
            if expects:
                await responses.put((loop.time() + DELAY, _CONTINUE))
            body = await reader.readexactly(request.length)
            response = await self._respond(request, body)
            await responses.put((loop.time() + DELAY, response))

    async def _respond(self, request: _Request, body: bytes) -> bytes:
        match request.method, request.target.rpartition("/"):
            case "GET", ("/objects", _, name):
                return _response("200 OK", content(name))
            case "PUT", ("/uploads", _, _):
                return _response("201 Created", hashlib.sha256(body).hexdigest().encode())
            case "GET", ("/uploads", _, "unasked"):
                # The client may not have closed the connection of the refused upload yet.
                return _response("200 OK", b"%d" % await self.unasked)
        return _response("404 Not Found")


async def _send_when_due(responses: _Responses, writer: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    client_is_there = True
    while (item := await responses.get()) is not None:
        due, response = item
        await asyncio.sleep(due - loop.time())
        if client_is_there:
            try:
                writer.write(response)
                await writer.drain()
            except ConnectionError:
                client_is_there = False


def _parse(head: bytes) -> _Request:
    request_line, *lines = head.decode("latin-1").rstrip().split("\r\n")
    method, target, _ = request_line.split(" ")
    fields = (line.partition(":") for line in lines)
    return _Request(method, target, {name.lower(): value.strip() for name, _, value in fields})


def _response(status: str, body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def _main() -> None:
    demo_server = DemoServer()
    server = await asyncio.start_server(demo_server.serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    parent_has_gone = asyncio.Event()
    # The parent writes nothing, so standard input is readable only at its end.
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), parent_has_gone.set)
    try:
        await asyncio.wait_for(parent_has_gone.wait(), LIFETIME)
    except TimeoutError:
        pass
    os._exit(0)  # without closing the connections: the client has gone


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    asyncio.run(_main())
