"""Many hosts on one port of the loopback interface: those that respond, and those that never do.

All of 127.0.0.0/8 is this machine, so one listener is as many hosts as a test wants.
"""

from __future__ import annotations

import select
import socket
from types import TracebackType

from tests.support.server import Script, ScriptedServer

__all__ = ["BlackHole", "ManyHosts", "host_address"]


def host_address(index: int) -> str:
    """Return the address of the *index*-th host."""
    return f"127.{1 + index // 62500}.{1 + index // 250 % 250}.{1 + index % 250}"


def _keep_to_loopback(listener: socket.socket) -> None:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")


class ManyHosts(ScriptedServer):
    """A scripted server that is as many hosts as are asked for; *script* serves each connection."""

    def __init__(self, script: Script) -> None:
        super().__init__(script, repeat=True, host="0.0.0.0")
        _keep_to_loopback(self._listener)
        self._listener.listen(512)

    def url(self, index: int, target: str = "/") -> str:
        """Return the URL of *target* on the *index*-th host."""
        return f"http://{host_address(index)}:{self.port}{target}"


class BlackHole:
    """Hosts that respond to no SYN: the queue of their listener is full; nothing is accepted."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._fillers: list[socket.socket] = []
        _keep_to_loopback(self._listener)
        self._listener.bind(("0.0.0.0", 0))
        self._listener.listen(0)
        self.port = self._listener.getsockname()[1]

    def url(self, index: int = 0, target: str = "/", scheme: str = "http") -> str:
        """Return the URL of *target* on the *index*-th host."""
        return f"{scheme}://{host_address(index)}:{self.port}{target}"

    def __enter__(self) -> BlackHole:
        connected = True
        while connected:
            filler = socket.socket()
            self._fillers.append(filler)
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            connected = bool(select.select([], [filler], [], 0.2)[1])
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for sock in (self._listener, *self._fillers):
            sock.close()
