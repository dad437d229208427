"""What happens to a POST when something goes wrong, with each client and its defaults.

The server is a script; it counts the requests that it has received whole. Nothing is timed.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from clients.worker import HOST
from rig import HERE

ROOT = HERE.parent
CLIENTS = ("dugong", "requests", "httpx", "aiohttp", "pycurl")

#: Seconds that a server needs to start again.
RESTART_TIME = 0.5
LIMIT = 30
LARGE = 64_000_000
SMALL = 1000
#: What the server reads of an upload that it has refused: so many bytes, at these intervals.
PIECE = 65536
PIECE_TIME = 0.001


class Case:
    """A server that goes wrong in one way.

    `received` is how many whole POSTs it has got, and `uploaded` how many bytes of bodies. To be
    used in ``with``, which ends its thread; `begin` starts it.
    """

    def __init__(self, name: str) -> None:
        self._late = name == "restart"
        self._accepts = name == "restart"
        self._refuses = name == "refused"  # and goes on reading, as nginx does
        # Set by the thread; read when that has ended.
        self.received = 0
        self.uploaded = 0
        self._listener = socket.socket()
        self._listener.bind((HOST, 0))  # a connection to it is refused until it listens
        self.url = f"http://{HOST}:{self._listener.getsockname()[1]}/order"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Case:
        if not self._late:
            self._listener.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._listener.close()

    def begin(self) -> None:
        """The client is about to send."""
        self._thread.start()

    def _serve(self) -> None:
        if self._late and not self._ended.wait(RESTART_TIME):
            self._listener.listen()
        self._listener.settimeout(0.1)  # when it looks whether it is to end
        while not self._ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(LIMIT)
                with suppress(OSError):
                    while self._one(connection):
                        pass

    def _one(self, connection: socket.socket) -> bool:
        head = b""
        while b"\r\n\r\n" not in head:
            data = connection.recv(4096)
            if not data:
                return False
            head += data
        head, _, rest = head.partition(b"\r\n\r\n")
        if head.startswith(b"GET"):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            return True
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        if self._refuses:
            connection.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
        got = len(rest)
        while got < length:
            data = connection.recv(PIECE)
            if not data:
                break
            got += len(data)
            if self._refuses:
                time.sleep(PIECE_TIME)
        self.uploaded += got
        if got < length:
            return False
        self.received += 1
        if self._accepts:
            connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
        return self._accepts


def outcome(client: str, name: str) -> dict[str, Any] | None:
    """Return what *client* makes of the case called *name*; None if it cannot be run here."""
    size = LARGE if name == "refused" else SMALL
    with Case(name) as case:
        primed = str(name != "restart")
        client_process = subprocess.Popen(
            [sys.executable, "-m", "clients.post", client, case.url, str(size), primed],
            cwd=HERE,
            env={"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        with client_process:
            assert client_process.stdout is not None
            if client_process.stdout.readline() != "ready\n":
                return None
            case.begin()
            said = client_process.stdout.read()  # its end: the client has time-outs
    result: dict[str, Any] = json.loads(said)
    return result | {"received": case.received, "uploaded": case.uploaded}


def outcomes() -> dict[str, dict[str, Any]]:
    """Return what becomes of a POST in each case, by client."""
    return {
        name: {client: found for client in CLIENTS if (found := outcome(client, name)) is not None}
        for name in ("restart", "refused", "dropped")
    }
