"""The server of the demo: HTTP/1.1 on the loopback interface, made to look `DELAY` seconds away.

An answer leaves `DELAY` after its request came, and the requests that come meanwhile have their
`DELAY` pass at the same time, as on a long line. So a client that waits for each answer pays for
each, and one that pipelines pays once.

    GET /objects/NAME    `content(NAME)`
    PUT /uploads/NAME    the SHA-256 of what was uploaded, in hex; 413 beyond `MAX_UPLOAD`
    GET /uploads/unasked how many bytes followed an upload that was refused before its body

A process of its own (``python -m dugong.cli.demo_server``): writes its port to standard output,
and ends when standard input does, that is with its parent, or after `LIFETIME`.
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

_Answers = asyncio.Queue[tuple[float, bytes] | None]  # when to send, and what; None ends it

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
    """Serves connections; see the top of this file. `unasked` is told by GET /uploads/unasked."""

    def __init__(self) -> None:
        self.unasked: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        answers: _Answers = asyncio.Queue(_MAX_QUEUED)
        sending = asyncio.create_task(_send_when_due(answers, writer))
        try:
            await self._receive(reader, answers)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            await answers.put(None)
            await sending
            writer.close()

    async def _receive(self, reader: asyncio.StreamReader, answers: _Answers) -> None:
        loop = asyncio.get_running_loop()
        while True:
            request = _parse(await reader.readuntil(b"\r\n\r\n"))
            expects = "expect" in request.headers
            if request.length > MAX_UPLOAD:
                await answers.put((loop.time() + DELAY, _answer("413 Content Too Large")))
                unasked = len(await reader.read())
                if expects and not self.unasked.done():
                    self.unasked.set_result(unasked)
                return
            if expects:
                await answers.put((loop.time() + DELAY, _CONTINUE))
            body = await reader.readexactly(request.length)
            answer = await self._answer(request, body)
            await answers.put((loop.time() + DELAY, answer))

    async def _answer(self, request: _Request, body: bytes) -> bytes:
        match request.method, request.target.rpartition("/"):
            case "GET", ("/objects", _, name):
                return _answer("200 OK", content(name))
            case "PUT", ("/uploads", _, _):
                return _answer("201 Created", hashlib.sha256(body).hexdigest().encode())
            case "GET", ("/uploads", _, "unasked"):
                # The end of that other connection may be on its way still.
                return _answer("200 OK", b"%d" % await self.unasked)
        return _answer("404 Not Found")


async def _send_when_due(answers: _Answers, writer: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    client_is_there = True
    while (item := await answers.get()) is not None:
        due, answer = item
        await asyncio.sleep(due - loop.time())
        if client_is_there:
            try:
                writer.write(answer)
                await writer.drain()
            except ConnectionError:
                client_is_there = False


def _parse(head: bytes) -> _Request:
    request_line, *lines = head.decode("latin-1").rstrip().split("\r\n")
    method, target, _ = request_line.split(" ")
    fields = (line.partition(":") for line in lines)
    return _Request(method, target, {name.lower(): value.strip() for name, _, value in fields})


def _answer(status: str, body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def _main() -> None:
    demo_server = DemoServer()
    server = await asyncio.start_server(demo_server.serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    parent_has_gone = asyncio.Event()
    # Nothing is ever written to it, so all that can be read is its end.
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), parent_has_gone.set)
    try:
        await asyncio.wait_for(parent_has_gone.wait(), LIFETIME)
    except TimeoutError:
        pass
    os._exit(0)  # no farewell to those connected: there is nobody to hear it


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    asyncio.run(_main())
