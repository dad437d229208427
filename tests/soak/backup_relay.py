"""The relay of the backup soak: it passes requests on to the server of S3, and counts them.

Guarantees: bytes are passed on as they are, one request after the other on each connection. When
either side goes, the other one is closed, and no reset takes what was passed on before. What counts
as stored is what the server itself has responded to with 200, so it does not depend on what a
client believes. `Tally`: for any thread.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from io import BufferedReader
from typing import NamedTuple
from urllib.parse import parse_qs, unquote

__all__ = ["Asked", "Moment", "Relay", "Tally"]

_BUFFER = 256 * 1024
_PATIENCE = 300.0  # seconds without a byte, after which a connection ends
_LINGER = 10.0  # seconds for which a client that the server has left may go on sending


class Asked(NamedTuple):
    """A request for the object *key*.

    *part* is its partNumber or "", *digest* the SHA-256 of its body.
    """

    method: str
    key: str
    query: frozenset[str]
    part: str
    digest: str
    size: int


class Moment(NamedTuple):
    """When something is to happen: as soon as the count of *what* is *after*."""

    what: str
    after: int


class Tally:
    """Counts what has passed.

    `counts` are the bytes "sent" to be stored, and "fetched"; the bytes of what is "stored", each
    content once, until an upload of its key is complete; and the requests, by the names in
    `_name_of`. `again` is what was sent though the same content was stored. `under_way` is the key
    of the last part that was sent.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stored: set[tuple[str, str, str]] = set()
        self._moment: Moment | None = None
        self._is_due: Callable[[], object] | None = None
        self.counts: Counter[str] = Counter()
        self.again: list[str] = []
        self.under_way = ""

    def call_at(self, moment: Moment, call: Callable[[], object]) -> None:
        """Have *call* called, once, at the *moment*, by the thread that passes something on."""
        with self._lock:
            self._moment, self._is_due = moment, call

    def count(self, what: str, number: int) -> None:
        """Count a *number* more of *what*."""
        due = None
        with self._lock:
            self.counts[what] += number
            moment = self._moment
            if moment is not None and moment.what == what and self.counts[what] >= moment.after:
                due, self._moment = self._is_due, None
        if due is not None:
            due()

    def begin(self, asked: Asked) -> None:
        """*asked* is passed on now."""
        self.count(_name_of(asked), 1)
        if asked.method != "PUT":
            return
        with self._lock:
            if asked.part:
                self.under_way = asked.key
            if (asked.key, asked.part, asked.digest) in self._stored:
                self.again.append(f"{asked.key!r} {asked.part}".strip())

    def end(self, asked: Asked, status: int) -> None:
        """The server has responded *status* to *asked*."""
        if status >= 300:
            self.count(f"responses {status}", 1)
        elif asked.method == "PUT" and asked.key:
            with self._lock:
                stored = (asked.key, asked.part, asked.digest)
                size = 0 if stored in self._stored else asked.size
                self._stored.add(stored)
            self.count("stored", size)
        if status < 500 and _name_of(asked) == "completions":
            self._end_upload(asked.key)

    def break_off(self, asked: Asked) -> None:
        """There is no response to *asked*.

        A server that is killed while it completes an upload may have lost all of its parts.
        """
        if _name_of(asked) == "completions":
            with self._lock:
                self._stored -= {each for each in self._stored if each[0] == asked.key and each[1]}

    def _end_upload(self, key: str) -> None:
        """An upload of *key* is complete: if the file changes, all of it has to be sent."""
        with self._lock:
            parts = {each for each in self._stored if each[0] == key and each[1]}
            self._stored -= parts
            whole = (key, "", " ".join(sorted(digest for _, _, digest in parts)))
            if parts and whole in self._stored:
                self.again.append(f"{key!r}")
            self._stored.add(whole)


def _name_of(asked: Asked) -> str:
    if "uploadId" in asked.query and asked.method != "PUT":
        return {"POST": "completions", "DELETE": "aborts"}.get(asked.method, "lists of parts")
    if "uploads" in asked.query:
        return "uploads begun" if asked.method == "POST" else "lists of uploads"
    if asked.part:
        return "parts"
    return asked.method if asked.key else "lists"


class Relay:
    """Listens on the loopback interface at `port`, and connects to *port* there; a context manager.

    *bucket* is the name of the bucket: the keys that *tally* is told of are those in it.
    """

    def __init__(self, port: int, bucket: str, tally: Tally) -> None:
        self._server_port = port
        self._bucket = bucket
        self._tally = tally
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        # One item for each connection, by the acceptor; of the sockets its own thread adds one.
        self._serving: list[tuple[threading.Thread, list[socket.socket]]] = []
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Relay:
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        for thread, sockets in self._serving:
            for sock in sockets:
                with suppress(OSError):  # it is closed
                    sock.shutdown(socket.SHUT_RDWR)
            thread.join()

    def settle(self) -> None:
        """Wait until the server has responded to all that clients have sent, which have gone.

        Where requests are pipelined, it goes on with those that had come when a client was killed.
        """
        for thread, _ in list(self._serving):
            thread.join()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener is shut down
            while True:
                client, _ = self._listener.accept()
                sockets = [client]
                thread = threading.Thread(target=self._serve, args=(sockets,), daemon=True)
                self._serving.append((thread, sockets))
                thread.start()

    def _serve(self, sockets: list[socket.socket]) -> None:
        """Pass requests on until either side goes."""
        with sockets[0] as client, suppress(OSError, EOFError):
            client.settimeout(_PATIENCE)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                self._pass_all(client, sockets)
            finally:
                # Or requests that come would have the system reset the connection (RFC 9112 §9.6).
                client.shutdown(socket.SHUT_WR)
                client.settimeout(_LINGER)
                while client.recv(_BUFFER):
                    pass

    def _pass_all(self, client: socket.socket, sockets: list[socket.socket]) -> None:
        with socket.create_connection(("127.0.0.1", self._server_port), _PATIENCE) as server:
            sockets.append(server)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with client.makefile("rb") as requests, server.makefile("rb") as responses:
                while self._pass_one(client, requests, server, responses):
                    pass

    def _pass_one(
        self,
        client: socket.socket,
        requests: BufferedReader,
        server: socket.socket,
        responses: BufferedReader,
    ) -> bool:
        """Pass a request on, and its response back; return whether another one may follow."""
        tally = self._tally
        line, fields, head = _head(requests)
        asked = self._asked(line, fields)
        tally.begin(asked)
        status = 100
        try:
            server.sendall(head)
            self._pass(requests, server, asked.size, "sent" if asked.method == "PUT" else "told")
            while status < 200:
                line, fields, head = _head(responses)
                status = int(line.split()[1])
                if status >= 200:
                    tally.end(asked, status)
                client.sendall(head)
        except (OSError, EOFError):
            if status < 200:
                tally.break_off(asked)
            raise
        if asked.method == "HEAD" or status in (204, 304):
            return True
        counted = "fetched" if asked.method == "GET" and asked.key else "listed"
        if "chunked" in fields.get("transfer-encoding", ""):
            self._pass_chunks(responses, client)
        elif "content-length" in fields:
            self._pass(responses, client, int(fields["content-length"]), counted)
        else:
            self._pass(responses, client, -1, counted)
            return False
        return True

    def _pass(self, source: BufferedReader, sink: socket.socket, size: int, what: str) -> None:
        """Pass *size* bytes on, or all that come if it is negative. Raises EOFError."""
        buffer = memoryview(bytearray(_BUFFER))
        while size:
            room = buffer if size < 0 else buffer[:size]
            count = source.readinto1(room)
            if not count:
                if size < 0:
                    return
                raise EOFError
            sink.sendall(buffer[:count])
            size -= count if size > 0 else 0
            self._tally.count(what, count)

    def _pass_chunks(self, source: BufferedReader, sink: socket.socket) -> None:
        while True:
            line = source.readline()
            sink.sendall(line)
            size = int(line.partition(b";")[0] or b"0", 16)
            if not size:
                break
            self._pass(source, sink, size + 2, "listed")
        while line not in (b"\r\n", b""):
            line = source.readline()
            sink.sendall(line)

    def _asked(self, line: str, fields: dict[str, str]) -> Asked:
        method, target, _ = line.split(" ")
        path, _, text = target.partition("?")
        query = parse_qs(text, keep_blank_values=True)
        key = unquote(path).removeprefix(f"/{self._bucket}").removeprefix("/")
        size = int(fields.get("content-length", "0"))
        part = query.get("partNumber", [""])[0]
        digest = fields.get("x-amz-content-sha256", "")
        return Asked(method, key, frozenset(query), part, digest, size)


def _head(source: BufferedReader) -> tuple[str, dict[str, str], bytes]:
    """Return the first line of a head, its fields, and all of it as it came. Raises EOFError."""
    lines = []
    while (line := source.readline()) not in (b"\r\n", b""):
        lines.append(line)
    if not line:
        raise EOFError
    fields = {}
    for each in lines[1:]:
        name, _, value = each.decode("latin-1").partition(":")
        fields[name.lower()] = value.strip()
    return lines[0].decode("latin-1").rstrip(), fields, b"".join([*lines, line])
