"""What carries the bytes: a connected, non-blocking socket behind four calls that never wait.

Guarantees: `recv_into` and `send` do one step at once or return the `PollNeeded` to wait for; the
end of a connection in any of its forms is 0 from `recv_into` (orderly) or `ConnectionClosed`.
One thread may receive while another sends; `shutdown` may come from any thread.
"""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from typing import BinaryIO

from dugong.connection.polling import POLLIN, POLLOUT, PollNeeded
from dugong.errors import ConnectionClosed

__all__ = ["PlainTransport", "TracingTransport", "Transport", "closed_by_peer"]


class Transport(ABC):
    """A byte stream to the peer. Owns its socket.

    `is_shut` may be set by any thread and is never cleared: nothing more can be sent or received.
    """

    __slots__ = ("is_shut", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.is_shut = False

    @abstractmethod
    def recv_into(self, view: memoryview) -> int | PollNeeded:
        """Receive into *view*, which must not be empty; return how many bytes, 0 at the end."""

    @abstractmethod
    def send(self, data: bytes | memoryview) -> int | PollNeeded:
        """Send the start of *data*; return how many bytes of it were taken."""

    @abstractmethod
    def is_quiet(self) -> bool:
        """Return True if an idle connection is fit for use: open, with nothing to be received.

        Only for a connection that neither thread is using.
        """

    def shutdown(self) -> None:
        """End the connection for both sides and wake whoever waits for it; keep the descriptor."""
        self.is_shut = True
        try:
            # Not self.sock.shutdown: an SSLSocket would pull the TLS object from under its users.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
        except OSError:
            pass  # the peer was faster

    def close(self) -> None:
        """Free the descriptor. Only once nobody waits for it; may be called again."""
        self.is_shut = True
        self.sock.close()


def closed_by_peer(exc: OSError) -> ConnectionClosed:
    """Return the `ConnectionClosed` that stands for *exc*, an error that ends a connection."""
    return ConnectionClosed(f"connection closed unexpectedly: {exc.strerror or exc}")


class PlainTransport(Transport):
    """TCP. `_drained` belongs to the receiving thread."""

    __slots__ = ("_drained", "_want_read", "_want_write")

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._want_read = PollNeeded(sock.fileno(), POLLIN)
        self._want_write = PollNeeded(sock.fileno(), POLLOUT)
        self._drained = False

    def recv_into(self, view: memoryview) -> int | PollNeeded:
        if self._drained and not self.is_shut:
            # The last call emptied the socket. Waiting first is cheaper than failing first.
            self._drained = False
            return self._want_read
        try:
            got = self.sock.recv_into(view)
        except BlockingIOError:
            return self._want_read
        except OSError as exc:
            raise closed_by_peer(exc) from exc
        self._drained = 0 < got < len(view)
        return got

    def send(self, data: bytes | memoryview) -> int | PollNeeded:
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return self._want_write
        except OSError as exc:
            raise closed_by_peer(exc) from exc

    def is_quiet(self) -> bool:
        return not self.is_shut and not self._want_read.poll(0)


class TracingTransport(Transport):
    """Copies what is sent and received over *inner* to a file (see DUGONG_TRACEFILE)."""

    __slots__ = ("_file", "_inner")

    def __init__(self, inner: Transport, path_template: str) -> None:
        super().__init__(inner.sock)
        self._inner = inner
        self._file: BinaryIO = open(path_template % id(inner.sock), "wb", buffering=0)  # noqa: SIM115

    def recv_into(self, view: memoryview) -> int | PollNeeded:
        got = self._inner.recv_into(view)
        if isinstance(got, int):
            self._file.write(view[:got])
        return got

    def send(self, data: bytes | memoryview) -> int | PollNeeded:
        sent = self._inner.send(data)
        if isinstance(sent, int):
            self._file.write(memoryview(data)[:sent])
        return sent

    def is_quiet(self) -> bool:
        return not self.is_shut and self._inner.is_quiet()

    def close(self) -> None:
        super().close()
        self._file.close()


def traced(transport: Transport) -> Transport:
    """Return *transport*, behind a trace if the environment asks for one.

    DUGONG_TRACEFILE names the file; its ``%d`` becomes a number that differs between connections.
    """
    template = os.environ.get("DUGONG_TRACEFILE")
    return TracingTransport(transport, template) if template else transport
