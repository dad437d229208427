"""A relay that makes a server 40 ms away: it delays the bytes of each direction by 20 ms.

Called as ``python -m servers.far PORT``, with the port of the server. It passes on what has come in
as few pieces as possible, so that it is not the bottleneck at the rates that are measured.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque

from clients.worker import HOST

#: Seconds by which each byte is delayed.
DELAY = 0.020


class End(asyncio.Protocol):
    """One end of a relayed connection; *other* gets what comes in here, `DELAY` later."""

    def __init__(self) -> None:
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
        self._delayed.append((self._loop.time() + DELAY, data))
        if len(self._delayed) == 1:
            self._loop.call_later(DELAY, self.pass_on)

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


async def serve(port: int) -> None:
    """Relay to *port* until the input ends."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin, ended.set)
    connecting = set()

    def accept() -> End:
        near, far = End(), End()
        near.other, far.other = far, near
        task = loop.create_task(loop.create_connection(lambda: far, HOST, port))
        connecting.add(task)
        task.add_done_callback(connecting.discard)
        return near

    async with await loop.create_server(accept, HOST, 0) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await ended.wait()


asyncio.run(serve(int(sys.argv[1])))
