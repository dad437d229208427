"""A port of the loopback that can be opened and shut. Knows neither servers nor proxies."""

from __future__ import annotations

import functools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from tests.support.server import TIMEOUT

__all__ = ["AtGate", "Gate"]

_BUFFER = 32 * 1024  # bytes received ahead: an upload that stalls is not to vanish there


class Gate:
    """A port that refuses connections while it is shut; it is reserved from the beginning.

    *serve* handles each connection, in a thread of its own. `shut` ends all connections: it shuts
    their sockets down, so that *serve* returns. For one thread.
    """

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        # Bound, but not listening: the system gives the port to no other socket. A client's socket
        # with this port would connect to itself.
        self._claim = socket.socket()
        self._claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._claim.bind(("127.0.0.1", 0))
        self.port: int = self._claim.getsockname()[1]
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._threads: list[threading.Thread] = []  # written by the acceptor, while there is one
        self._lock = threading.Lock()  # guards what follows
        self._socks: set[socket.socket] = set()
        self._ending = False

    def open(self) -> None:
        """Let connections in."""
        self._ending = False
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=512)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        accept = functools.partial(self._accept, self._listener)
        self._acceptor = threading.Thread(target=accept, name="gate")
        self._acceptor.start()

    def bar(self) -> None:
        """Let no connection in any more; those that there are stay."""
        if self._listener is None or self._acceptor is None:
            return
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        self._listener = None

    def shut(self) -> None:
        """Let no connection in any more, and end those that there are."""
        self.bar()
        with self._lock:
            self._ending = True
            for sock in self._socks:
                _shut_down(sock)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def close(self) -> None:
        """Shut, and give the port back."""
        self.shut()
        self._claim.close()

    @contextmanager
    def keeping(self, sock: socket.socket) -> Iterator[None]:
        """Have *sock* shut down with the others; close it in the end. For any thread."""
        with self._lock:
            self._socks.add(sock)
            if self._ending:
                _shut_down(sock)
        try:
            yield
        finally:
            with self._lock:
                self._socks.discard(sock)
                sock.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._handle, args=(sock,), name="gate-serve")
            self._threads.append(thread)
            thread.start()

    def _handle(self, sock: socket.socket) -> None:
        sock.settimeout(TIMEOUT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.keeping(sock):
            self._serve(sock)


class AtGate:
    """The user of a `gate`, which is open while the `with` block runs."""

    gate: Gate

    def __enter__(self) -> Self:
        self.gate.open()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.gate.close()


def _shut_down(sock: socket.socket) -> None:
    try:
        # Not as the TLS socket that it may be, which another thread is using.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        pass  # it is not connected any more
