"""A relay that makes a server far away: it delays the bytes of both directions.

Called as ``python -m servers.far PORT DELAY [RATE]``, with the port of the server, the seconds for
each direction, and how many bytes a second the line takes from the server for all connections
together (default: no limit). It passes on what has come in as few pieces as possible, so that it is
not the bottleneck at the rates that are measured. It has the same port on the addresses of `SITES`.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections import deque

from clients.worker import HOST, SITES


class Line:
    """What the bytes of one direction pass, those of all connections one behind the other."""

    def __init__(self, delay: float, rate: float) -> None:
        self._delay = delay
        self._rate = rate
        self._free_at = 0.0

    def arrives(self, size: int, now: float) -> float:
        """Return when *size* bytes arrive that are sent *now*."""
        self._free_at = max(self._free_at, now) + size / self._rate
        return self._free_at + self._delay


class End(asyncio.Protocol):
    """One end of a relayed connection; *other* gets what comes in here, by way of *line*."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._loop = asyncio.get_running_loop()
        self._delayed: deque[tuple[float, bytes]] = deque()  # when to pass on what
        self.other: End | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.pass_on()
        if self.other is not None:
            self.other.pass_on()

    def data_received(self, data: bytes) -> None:
        arrival = self._line.arrives(len(data), self._loop.time())
        self._delayed.append((arrival, data))
        if len(self._delayed) == 1:
            self._loop.call_at(arrival, self.pass_on)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def pass_on(self) -> None:
        """Pass on what has been delayed for long enough; come back for what has not."""
        if not self._delayed or self.other is None or self.other.transport is None:
            return  # then this is called once the other end is connected
        now, due = self._loop.time(), []
        while self._delayed and self._delayed[0][0] <= now + 0.0005:
            due.append(self._delayed.popleft()[1])
        if due:
            self.other.transport.write(b"".join(due))
        if self._delayed:
            self._loop.call_at(self._delayed[0][0], self.pass_on)


async def serve(port: int, delay: float, rate: float) -> None:
    """Relay to *port* until the input ends."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin, ended.set)
    connecting = set()
    up, down = Line(delay, math.inf), Line(delay, rate)

    def accept() -> End:
        near, far = End(up), End(down)
        near.other, far.other = far, near
        task = loop.create_task(loop.create_connection(lambda: far, HOST, port))
        connecting.add(task)
        task.add_done_callback(connecting.discard)
        return near

    async with await loop.create_server(accept, HOST, 0) as server:
        own_port = server.sockets[0].getsockname()[1]
        async with await loop.create_server(accept, SITES, own_port):
            print(own_port, flush=True)
            await ended.wait()


asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2]), float([*sys.argv, math.inf][3])))
