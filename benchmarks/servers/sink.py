"""A server that receives uploads, and responds to each once it has all of it.

Called as ``python -m servers.sink [PEM]``; with the file PEM (certificate and key) it speaks TLS.
Without TLS the kernel discards the bodies, so that the server is never the bottleneck.
"""

from __future__ import annotations

import re
import socket
import ssl
import sys
from threading import Thread

from clients.worker import BUFFER_SIZE, HOST

_LENGTH = re.compile(rb"\r\nContent-Length: *(\d+)\r\n", re.IGNORECASE)
_RESPONSE = b"HTTP/1.1 204 No Content\r\n\r\n"


def accept(listener: socket.socket, context: ssl.SSLContext | None) -> None:
    """Serve each connection in a thread of its own."""
    while True:
        sock, _ = listener.accept()
        Thread(target=serve, args=(sock, context), daemon=True).start()


def serve(sock: socket.socket, context: ssl.SSLContext | None) -> None:
    """Receive one upload after the other."""
    if context is not None:
        sock = context.wrap_socket(sock, server_side=True)
    flags = () if context else (socket.MSG_TRUNC,)
    buffer = bytearray(4 * BUFFER_SIZE)
    with sock:
        while head := sock.recv(BUFFER_SIZE):
            while b"\r\n\r\n" not in head:
                head += sock.recv(BUFFER_SIZE)
            head, _, body = head.partition(b"\r\n\r\n")
            length = _LENGTH.search(head + b"\r\n")
            assert length is not None
            left = int(length[1]) - len(body)
            while left:
                got = sock.recv_into(buffer, min(left, len(buffer)), *flags)
                if not got:
                    return
                left -= got
            sock.sendall(_RESPONSE)


def main() -> None:
    context = None
    if len(sys.argv) > 1:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(sys.argv[1])
    listener = socket.create_server((HOST, 0))
    print(listener.getsockname()[1], flush=True)
    Thread(target=accept, args=(listener, context), daemon=True).start()
    sys.stdin.read()


main()
