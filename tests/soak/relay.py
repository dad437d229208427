"""A proxy of the soak, for one connection: it connects to the target and forwards all bytes.

Guarantees: the client gets a reset if the server's connection was reset, and if the client's
connection is cut on this side (``shutdown(SHUT_RD)``). So no partial response looks complete.
"""

from __future__ import annotations

import selectors
import socket

from tests.support.server import Peer

__all__ = ["relay"]

PATIENCE = 30.0  # seconds without a byte, after which it ends


def relay(client: socket.socket) -> None:
    """Serve *client* until either side ends. Raises EOFError, OSError."""
    peer = Peer(client)
    request = peer.head()
    tunnel = request.method == "CONNECT"
    authority = request.target if tunnel else request.target.split("/")[2]
    try:
        server = socket.create_connection(("127.0.0.1", int(authority.rpartition(":")[2])))
    except OSError:
        if tunnel:
            peer.respond(status="502 It is away")
        return
    with server:
        if tunnel:
            peer.send(b"HTTP/1.1 200 Here it is\r\n\r\n")
        else:
            server.sendall(request.head + peer.exactly(len(peer._received)))
        _pass_on(client, server)


def _pass_on(client: socket.socket, server: socket.socket) -> None:
    other = {client: server, server: client}
    with selectors.DefaultSelector() as ready:
        for sock in other:
            ready.register(sock, selectors.EVENT_READ, other[sock])
        while events := ready.select(PATIENCE):
            for key, _ in events:
                source, sink = key.fileobj, key.data
                assert isinstance(source, socket.socket)
                try:
                    data = source.recv(65536)
                except ConnectionError:
                    data = b""
                    source = client
                if data:
                    sink.sendall(data)
                elif source is client:
                    Peer(client).reset()
                    return
                else:
                    _end(client)
                    return


def _end(client: socket.socket) -> None:
    """Say that nothing more comes, and wait until *client* has closed, too."""
    client.settimeout(2)
    Peer(client).cut()
    while client.recv(65536):
        pass
