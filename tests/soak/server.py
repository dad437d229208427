"""The server of the soak: a process that listens on many ports, each with other bad manners.

    python -m tests.soak.server CERTIFICATE SEED

Prints the ports by name, as a line of JSON, and ends at the end of its standard input.

There is a port for each kind of `Manners`, plain and with TLS. The port "proxy" is a proxy to all
of them, and closes at times. The port "control" has two targets. ``/ledger`` waits until all other
connections have ended, and returns the requests that the server saw, except those that it has
disclaimed. ``/after/NUMBER`` returns when a late second copy of that response has been sent.
"""

from __future__ import annotations

import json
import random
import socket
import ssl
import sys
import threading
import time

from tests.soak.conversation import KINDS, PATIENCE, Book, Caller, Conversation, Manners
from tests.soak.relay import relay
from tests.support.server import Peer

__all__ = ["Server", "main"]

MOST_UP = 1.5  # seconds for which a server that goes away is there
MOST_AWAY = 0.3  # seconds for which it is not


class Server:
    """All ports, until `stop`."""

    def __init__(self, context: ssl.SSLContext, seed: int) -> None:
        self._context = context
        self._dice = random.Random(seed)
        self._book = Book()
        self._listeners: list[socket.socket] = []
        self.ports: dict[str, int] = {}

    def start(self) -> None:
        """Listen on all ports."""
        self._listen("control", None, None)
        self._listen("proxy", Manners(leaves=True, relays=True), None)
        for kind, manners in KINDS.items():
            self._listen(kind, manners, None)
            self._listen(f"{kind}+tls", manners, self._context)

    def _listen(self, name: str, manners: Manners | None, context: ssl.SSLContext | None) -> None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._listeners.append(listener)
        self.ports[name] = listener.getsockname()[1]
        run = self._come_and_go if manners is not None and manners.leaves else self._accept
        threading.Thread(target=run, args=(listener, manners, context), daemon=True).start()

    def _come_and_go(
        self, listener: socket.socket, manners: Manners, context: ssl.SSLContext | None
    ) -> None:
        """Accept connections, and end them all now and then, and be away for a while."""
        address = listener.getsockname()
        while True:
            connections: list[socket.socket] = []
            # SHUT_RD makes a relay end its connections with a reset. The other kinds of server may
            # be sending a response.
            how = socket.SHUT_RD if manners.relays else socket.SHUT_RDWR
            leave = threading.Timer(
                self._dice.uniform(0.2, MOST_UP), _shut_down, (listener, connections, how)
            )
            leave.daemon = True
            leave.start()
            try:
                self._accept(listener, manners, context, connections)
            except OSError:
                pass
            listener.close()
            leave.join()
            # Bind the port again, so that the system gives it to no other socket. A client's socket
            # with this port would connect to itself.
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            time.sleep(self._dice.uniform(0.01, MOST_AWAY))
            listener.listen(512)

    def _accept(
        self,
        listener: socket.socket,
        manners: Manners | None,
        context: ssl.SSLContext | None,
        accepted: list[socket.socket] | None = None,
    ) -> None:
        """Serve all who come; note them in *accepted*."""
        while True:
            sock, _ = listener.accept()
            if accepted is not None:
                accepted.append(sock.dup())  # for TLS takes over what is in there
            threading.Thread(target=self._serve, args=(sock, manners, context), daemon=True).start()

    def _serve(
        self, sock: socket.socket, manners: Manners | None, context: ssl.SSLContext | None
    ) -> None:
        sock.settimeout(PATIENCE * 2)
        if manners is None:
            with sock:
                self._control(Peer(sock))
            return
        self._book.talk(1)
        dice = random.Random(self._dice.random())
        try:
            if dice.random() < manners.wrong / 5:
                if context is not None:
                    sock.recv(1)
                Peer(sock).reset()
                return
            if context is not None:
                sock = context.wrap_socket(sock, server_side=True)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if manners.relays:
                relay(sock)
                return
            Conversation(Caller(sock), manners, dice, self._book).run()
        except (EOFError, OSError):
            pass
        finally:
            socket.socket.close(sock)
            self._book.talk(-1)

    def _control(self, peer: Peer) -> None:
        target = peer.head().target
        if target == "/ledger":
            peer.respond(json.dumps(self._book.close()).encode())
        else:
            came = self._book.await_repeated(target.removeprefix("/after/"))
            peer.respond(status="200 OK" if came else "504 It has not")


def _shut_down(listener: socket.socket, connections: list[socket.socket], how: int) -> None:
    """End *connections*, in the middle of whatever they are at, and *listener*."""
    listener.shutdown(socket.SHUT_RDWR)
    for sock in connections:
        with sock:
            try:
                sock.shutdown(how)
            except OSError:
                pass  # it has ended already


def main(certificate: str, seed: str) -> None:
    """Serve until the standard input ends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = Server(context, int(seed))
    server.start()
    print(json.dumps(server.ports), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
