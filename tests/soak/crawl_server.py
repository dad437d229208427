"""The server of the crawl soak: a process that serves the sites, and notes each request.

    python -m tests.soak.crawl_server SEED SITES PAGES SLOW

Prints its port. At the end of its standard input it prints by how many seconds a timer of its own
was late at most, and then what it has seen, a line of JSON for each request, in the order in which
they came: see `Seen`. Serves all connections in one thread.

A request is noted when its head has come, with the time, though the response to one before it is
under way. The User-Agent names the run of the crawler: ``soakbot/2`` is the second one.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, NamedTuple

from tests.soak.crawl_sites import STRANGER, Fault, Page, Site, Web, host_of

__all__ = ["Seen", "fault_response", "main"]

_DRIPS = 10  # pieces of a body that comes slowly,
_DRIP_TIME = 0.1  # seconds apart
_QUOTA = 50  # responses after which some sites close the connection, without a word
_LINGER = 2.0  # seconds for which it reads a connection that it closes, unless the crawler does so
_TICK = 0.02  # seconds
_AGENT = re.compile(rb"\r\nUser-Agent: *\w+/(\d+)", re.IGNORECASE)
_STRANGE = -1  # the number of the site that is none


class Seen(NamedTuple):
    """A request that the server saw.

    *site* and *run* are numbers, -1 if it is none of the sites, or the run is not known. *time* is
    when the head had come (`time.monotonic`), *answered* when all of the response was with the
    system, or None. *fault* is what was wrong with it on purpose, or "". *connection* is a number.
    """

    site: int
    target: str
    run: int
    connection: int
    time: float
    fault: str = ""
    answered: float | None = None


class _Server:
    """What the connections share."""

    def __init__(self, web: Web) -> None:
        self.web = web
        self.seen: list[Seen] = []
        self.times: dict[tuple[int, str], int] = {}  # how often each target was given a response
        self.connections = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.late = 0.0  # seconds

    async def watch_the_time(self) -> None:
        """Find out how late a timer is."""
        while True:
            due = monotonic() + _TICK
            await asyncio.sleep(_TICK)
            self.late = max(self.late, monotonic() - due)

    def next_fault(self, site: Site, target: str) -> Fault | None:
        """Return what is to be wrong with the response to *target* that is due."""
        before = self.times.get((site.number, target), 0)
        self.times[site.number, target] = before + 1
        faults = site.faults(target)
        return faults[before] if before < len(faults) else None


class _Connection(asyncio.Protocol):
    """A connection to *site*; None: to an address that nothing leads to."""

    def __init__(self, server: _Server, site: Site | None) -> None:
        self._server = server
        self._site = site
        self._received = b""
        self._waiting: asyncio.Queue[int] = asyncio.Queue()  # indices of `seen`
        self._can_write = asyncio.Event()
        self._can_write.set()
        server.connections += 1
        self._number = server.connections

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=0)
        self._task = asyncio.get_running_loop().create_task(self._respond_to_all())
        self._server.tasks.add(self._task)
        self._task.add_done_callback(self._server.tasks.discard)

    def data_received(self, data: bytes) -> None:
        now = monotonic()
        *heads, self._received = (self._received + data).split(b"\r\n\r\n")
        for head in heads:
            target = head.split(b" ", 2)[1].decode("latin-1")
            agent = _AGENT.search(head)
            run = int(agent[1]) if agent else -1
            number = _STRANGE if self._site is None else self._site.number
            self._waiting.put_nowait(len(self._server.seen))
            self._server.seen.append(Seen(number, target, run, self._number, now))

    def pause_writing(self) -> None:
        self._can_write.clear()

    def resume_writing(self) -> None:
        self._can_write.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._task.cancel()

    async def _respond_to_all(self) -> None:
        seen = self._server.seen
        responses = 0
        while True:
            index = await self._waiting.get()
            if self._site is None:
                self._transport.abort()
                return
            target = seen[index].target
            fault = self._server.next_fault(self._site, target)
            page = self._site.robots.get(target) or self._site.page(target)
            if fault is None:
                goes_on = await self._send_page(page)
            else:
                seen[index] = seen[index]._replace(fault=fault)
                goes_on = await self._send_fault(page, fault)
            if self._transport.is_closing():
                return
            if goes_on or page.manner == "close":
                seen[index] = seen[index]._replace(answered=monotonic())
            responses += 1
            if not goes_on or (self._site.number % 4 == 0 and responses == _QUOTA):
                await self._close()
                return

    async def _close(self) -> None:
        """Close the connection so that no reset can take what was sent before (RFC 9112 §9.6)."""
        with suppress(OSError):  # the crawler may have reset it
            self._transport.write_eof()
        await asyncio.sleep(_LINGER)  # which ends with the connection
        self._transport.close()

    async def _send(self, data: bytes) -> None:
        """Send *data*; return when the system has it."""
        self._transport.write(data)
        await self._can_write.wait()

    async def _send_page(self, page: Page) -> bool:
        """Send *page*; return whether the connection goes on."""
        if page.manner == "hints":
            await self._send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
        if page.manner == "drip":
            size = -(-len(page.wire) // _DRIPS)
            for at in range(0, len(page.wire), size):
                await asyncio.sleep(_DRIP_TIME)
                await self._send(page.wire[at : at + size])
            return True
        await self._send(page.wire)
        if page.manner == "stall":
            await asyncio.Event().wait()  # which ends with the connection
        if page.manner == "endless":
            chunk = b"" if b"Content-Length" in page.wire else b"10000\r\n"
            while not self._transport.is_closing():
                await self._send(chunk + bytes(2**16) + (b"\r\n" if chunk else b""))
        return page.manner in ("whole", "hints")

    async def _send_fault(self, page: Page, fault: Fault) -> bool:
        """Send a response with *fault*, for *page*; return whether the connection goes on."""
        if fault in ("500", "503", "429"):
            await self._send(fault_response(fault))
            return True
        if fault in ("cut", "cut and reset"):
            await self._send(page.wire[: len(page.wire) * 2 // 3])
        if fault in ("reset", "cut and reset"):
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        return False


def fault_response(fault: str) -> bytes:
    """Return the response with the status *fault*."""
    wait = "Retry-After: 1\r\n" if fault == "503" else ""
    return f"HTTP/1.1 {fault} Fault\r\n{wait}Content-Length: 6\r\n\r\nfault\n".encode()


async def _listen(make: Callable[[], _Connection], where: socket.socket | tuple[str, int]) -> None:
    sock = where if isinstance(where, socket.socket) else socket.create_server(where)
    await asyncio.get_running_loop().create_server(make, sock=sock)


async def _serve(seed: int, sites: int, pages: int, slow: float) -> None:
    loop = asyncio.get_running_loop()
    first = socket.create_server((host_of(0), 0))
    port = first.getsockname()[1]
    server = _Server(Web(seed, sites, pages, port, slow))
    for site in server.web.sites:
        if site.role != "dead":
            listener = first if site.number == 0 else (host_of(site.number), port)
            await _listen(partial(_Connection, server, site), listener)
    await _listen(partial(_Connection, server, None), (STRANGER, port))
    server.tasks.add(loop.create_task(server.watch_the_time()))
    print(port, flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    for task in list(server.tasks):
        task.cancel()
    with suppress(BrokenPipeError):
        print(server.late)
        for seen in server.seen:
            print(json.dumps(seen))


def main(arguments: list[str]) -> int:
    """Serve until standard input ends."""
    seed, sites, pages = map(int, arguments[:3])
    asyncio.run(_serve(seed, sites, pages, float(arguments[3])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
