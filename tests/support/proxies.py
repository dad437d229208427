"""Proxies that lead to one server, and a server on a Unix socket, for `ScriptedServer`.

with ScriptedServer(HttpProxy(server.address), repeat=True) as proxy: ...
"""

from __future__ import annotations

import select
import socket
import ssl
from pathlib import Path
from typing import Any

from tests.support.server import TIMEOUT, Peer, ReceivedRequest, Script, ScriptedServer

__all__ = ["HttpProxy", "SocksProxy", "UnixServer"]


def relay(client: socket.socket, upstream: socket.socket) -> None:
    """Send what comes from either to the other, until one of them has ended."""
    other = {client: upstream, upstream: client}
    while True:
        pending = [sock for sock in other if isinstance(sock, ssl.SSLSocket) and sock.pending()]
        for sock in pending or select.select(list(other), [], [], TIMEOUT)[0]:
            data = sock.recv(65536)
            if not data:
                return
            other[sock].sendall(data)


class HttpProxy:
    """A script: responds to absolute-form itself, and relays a tunnel to *upstream*.

    `requests` are those that it has received.
    """

    def __init__(self, upstream: tuple[str, int]) -> None:
        self._upstream = upstream
        self.requests: list[ReceivedRequest] = []

    def __call__(self, peer: Peer) -> None:
        try:
            while True:
                request = peer.request()
                self.requests.append(request)
                if request.method != "CONNECT":
                    peer.respond(request.target.encode())
                    continue
                peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
                with socket.create_connection(self._upstream, TIMEOUT) as upstream:
                    relay(peer.sock, upstream)
                return
        except (EOFError, OSError):
            pass  # the client has gone, as it may at any time


class SocksProxy:
    """A script: speaks SOCKS 4, 4a and 5, and relays each tunnel to *upstream*.

    *credentials* are the user name and password that it wants, *reply* the code that it replies
    with. `asked` are the hosts and ports that it was asked for, and `users` what it was told.
    """

    def __init__(
        self,
        upstream: tuple[str, int],
        credentials: tuple[bytes, bytes] | None = None,
        reply: int | None = None,
    ) -> None:
        self._upstream = upstream
        self._credentials = credentials
        self._reply = reply
        self.asked: list[tuple[str, int]] = []
        self.users: list[tuple[bytes, bytes]] = []

    def __call__(self, peer: Peer) -> None:
        try:
            accepted = self._speak_4(peer) if peer.exactly(1) == b"\4" else self._speak_5(peer)
            if accepted:
                with socket.create_connection(self._upstream, TIMEOUT) as upstream:
                    relay(peer.sock, upstream)
        except (EOFError, OSError):
            pass  # the client has gone, as it may at any time

    def _speak_4(self, peer: Peer) -> bool:
        assert peer.exactly(1) == b"\1"
        port = int.from_bytes(peer.exactly(2), "big")
        address = peer.exactly(4)
        self.users.append((self._until_nul(peer), b""))
        host = socket.inet_ntoa(address)
        if address[:3] == b"\0\0\0" and address[3]:
            host = self._until_nul(peer).decode()
        self.asked.append((host, port))
        code = self._reply or 90
        peer.send(bytes((0, code)) + bytes(6))
        return code == 90

    def _until_nul(self, peer: Peer) -> bytes:
        data = b""
        while (byte := peer.exactly(1)) != b"\0":
            data += byte
        return data

    def _speak_5(self, peer: Peer) -> bool:
        methods = peer.exactly(peer.exactly(1)[0])
        if self._credentials is None:
            peer.send(b"\5\0" if 0 in methods else b"\5\xff")
        elif 2 not in methods:
            peer.send(b"\5\xff")
            return False
        else:
            peer.send(b"\5\2")
            assert peer.exactly(1) == b"\1"
            user = peer.exactly(peer.exactly(1)[0])
            told = (user, peer.exactly(peer.exactly(1)[0]))
            self.users.append(told)
            peer.send(b"\1\0" if told == self._credentials else b"\1\1")
            if told != self._credentials:
                return False
        assert peer.exactly(3) == b"\5\1\0"
        kind = peer.exactly(1)[0]
        if kind == 3:
            host = peer.exactly(peer.exactly(1)[0]).decode()
        elif kind == 1:
            host = socket.inet_ntoa(peer.exactly(4))
        else:
            host = socket.inet_ntop(socket.AF_INET6, peer.exactly(16))
        self.asked.append((host, int.from_bytes(peer.exactly(2), "big")))
        code = self._reply or 0
        peer.send(bytes((5, code, 0, 3, 4)) + b"name" + bytes(2))
        return code == 0


class UnixServer(ScriptedServer):
    """A `ScriptedServer` that listens on the Unix socket *path*."""

    def __init__(self, path: Path, *scripts: Script, **options: Any) -> None:
        super().__init__(*scripts, **options)
        self._listener.close()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
