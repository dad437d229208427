"""One connection of the soak's server: right responses in many forms, and wrong ones.

The target of a request, ``/NUMBER/SIZE``, says how large the body of the response has to be. Each
response has the `response_line` of its request in its head and throughout its body, so that it
cannot be taken for the response to another request. If the request was not processed, the response
has a header "Refused".
"""

from __future__ import annotations

import random
import select
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

from tests.support.server import Peer, ReceivedRequest

__all__ = [
    "EARLY",
    "KINDS",
    "PATIENCE",
    "Book",
    "Caller",
    "Conversation",
    "Manners",
    "response_line",
    "digest",
    "filling",
]

PATIENCE = 15.0  # seconds that anything here waits, so that everything ends
STALL = 3.0  # seconds for which a stalled connection is kept

#: Statuses by which a server says that it has not processed the request.
DISCLAIMING = (425, 429)

#: Instead of a digest: the body had not been read.
EARLY = "early"


class Manners(NamedTuple):
    """How a port behaves.

    Probabilities, for each response: `says_close`: that the server announces the end of the
    connection, and closes it; `closes`: that it closes it without announcing that; `wrong`: that
    the response is invalid or cut short; `busy`: that it is 503 or the like, with a Retry-After.
    `old`: speaks HTTP/1.0. `doubles`: sends a response twice where nothing else is outstanding.
    `leaves`: closes the port at times, with all connections, and opens it again.
    `relays`: is a proxy.
    """

    says_close: float = 0.0
    closes: float = 0.0
    wrong: float = 0.0
    busy: float = 0.0
    old: bool = False
    doubles: bool = False
    leaves: bool = False
    relays: bool = False


KINDS = {
    "honest": Manners(),
    "polite": Manners(says_close=0.1),
    "quiet": Manners(closes=0.05),
    "old": Manners(old=True, says_close=0.3),
    "double": Manners(doubles=True),
    "late": Manners(doubles=True),
    "busy": Manners(busy=0.2, says_close=0.02),
    "away": Manners(leaves=True),
    "rough": Manners(says_close=0.05, closes=0.05, wrong=0.1),
}


def response_line(method: str, target: str, digest: str) -> str:
    """Return the line that identifies the response to a request whose body has this *digest*."""
    return f"{method} {target} {digest}"


def digest(body: bytes) -> str:
    """Return a short digest of *body*."""
    return sha256(body).hexdigest()[:16]


def filling(line: str, size: int) -> bytes:
    """Return a body of *size* bytes that says *line* again and again."""
    text = line.encode() + b"\n"
    return (text * (size // len(text) + 1))[:size]


# By these, a server says that it has no time, and maybe when it will have some.
_BUSY = (408, 425, 429, 429, 503, 503, 504)
_RETRY_AFTER = (
    "0",
    "1",
    "120",
    "9" * 30,
    "-1",
    "soon",
    "1.5",
    "\xb2",
    "Wed, 21 Oct 2015 07:28:00 GMT",
    "Fri, 31 Dec 9999 23:59:60 GMT",
    "Sunday, 31-Feb-99 24:61:61 GMT",
)


class Book:
    """What the server has seen since it was last asked. Any thread may call any method."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._seen: Counter[str] = Counter()
        self._taken: Counter[str] = Counter()
        self._repeated: set[str] = set()
        self._talking = 0

    def saw(self, number: str) -> None:
        """The head of a request has arrived."""
        with self._changed:
            self._seen[number] += 1

    def disclaimed(self, number: str) -> None:
        """The response says that the request was not processed; so it may arrive again."""
        with self._changed:
            self._seen[number] -= 1

    def took(self, number: str) -> None:
        """The whole of a request has arrived, and its response is sent next."""
        with self._changed:
            self._taken[number] += 1

    def repeated(self, number: str) -> None:
        """The late second copy of a response has been sent."""
        with self._changed:
            self._repeated.add(number)
            self._changed.notify_all()

    def await_repeated(self, number: str) -> bool:
        """Wait for that; return False if it does not happen."""
        with self._changed:
            return self._changed.wait_for(lambda: number in self._repeated, PATIENCE)

    def talk(self, change: int) -> None:
        """A connection has begun (1) or ended (-1)."""
        with self._changed:
            self._talking += change
            self._changed.notify_all()

    def close(self) -> dict[str, object]:
        """Wait for all connections to end, return what was seen, and begin anew."""
        with self._changed:
            self._changed.wait_for(lambda: not self._talking, PATIENCE)
            entries = {"seen": self._seen, "taken": self._taken, "talking": self._talking}
            self._seen, self._taken, self._repeated = Counter(), Counter(), set()
            return entries


class _Over(Exception):
    """The connection has been brought to an end."""


class Caller(Peer):
    """A client, on one connection."""

    def head(self) -> ReceivedRequest:
        """Receive a request head, which may be one for a proxy."""
        request = super().head()
        if request.target.startswith("http://"):
            return request._replace(target="/" + request.target.split("/", 3)[3])
        return request

    def body(self, request: ReceivedRequest) -> bytes:
        """Receive the body of *request*."""
        if "transfer-encoding" not in request.headers:
            return self.exactly(int(request.headers.get("content-length", 0)))
        pieces = []
        while size := int(self._until(b"\r\n")[:-2], 16):
            pieces.append(self.exactly(size))
            self.exactly(2)
        self.exactly(2)
        return b"".join(pieces)

    @property
    def has_next(self) -> bool:
        """Whether another request has come, or at least its head."""
        return b"\r\n\r\n" in self._received

    def close_kindly(self) -> None:
        """Say that nothing more comes, and wait until the client has closed, too.

        Who closes while something has not been read resets the connection, and takes away what the
        client has not read.
        """
        self.sock.settimeout(2)
        try:
            if isinstance(self.sock, ssl.SSLSocket):
                self.sock.unwrap()
        except (OSError, ValueError):
            pass
        try:
            self.cut()
            while socket.socket.recv(self.sock, 65536):
                pass
        except OSError:
            pass
        raise _Over


class _Response(NamedTuple):
    """A response in bytes. `until_close`: it ends with the connection; `last`: that ends then."""

    head: bytes
    body: bytes
    until_close: bool
    last: bool


class Conversation:
    """One connection."""

    def __init__(self, caller: Caller, manners: Manners, dice: random.Random, book: Book) -> None:
        self._caller = caller
        self._manners = manners
        self._dice = dice
        self._book = book
        self._unsent = b""

    def run(self) -> None:
        """Response requests until it is over."""
        try:
            while True:
                self._respond_next()
        except (_Over, EOFError, OSError, ValueError):
            pass

    def _chance(self, probability: float) -> bool:
        return self._dice.random() < probability

    def _respond_next(self) -> None:
        caller, manners = self._caller, self._manners
        request = caller.head()
        number = request.target.split("/")[1]
        self._book.saw(number)
        wrong = self._chance(manners.wrong)
        headers = request.headers
        if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
            self._before_body(request, wrong)
        body = caller.body(request)
        if self._chance(manners.busy):
            response = self._refuse(request, digest(body), self._dice.choice((500, 502, *_BUSY)))
        else:
            response = self._make(request, digest(body), 200)
            self._book.took(number)
        if wrong:
            self._do_wrong(response)
        self._unsent += response.head + response.body
        if manners.doubles and self._double(request, response, number):
            return
        if caller.has_next and not response.last and self._chance(0.8):
            return  # it goes with the next one
        self._flush()
        if response.last:
            caller.close_kindly()
        if self._chance(manners.closes):
            caller.close_kindly()

    def _before_body(self, request: ReceivedRequest, wrong: bool) -> None:
        """Do what comes before the body of *request* is read, such as an early response."""
        self._flush()
        if wrong and self._chance(0.3):
            self._stall()
        if wrong and self._chance(0.3):
            self._caller.reset()
            raise _Over
        if self._chance(0.1):
            response = self._make(request, EARLY, 413, ["Refused: yes"])
            self._unsent += response.head + response.body
            self._flush()
            self._caller.close_kindly()
        if self._chance(self._manners.busy):
            response = self._refuse(request, EARLY, self._dice.choice(_BUSY), last=True)
            self._unsent += response.head + response.body
            self._flush()
            self._caller.close_kindly()
        if "expect" in request.headers and self._chance(0.8):
            self._unsent += b"HTTP/1.1 100 Continue\r\n\r\n"
            self._flush()

    def _refuse(
        self, request: ReceivedRequest, digest: str, status: int, last: bool = False
    ) -> _Response:
        """Return a response that says that the request was not processed."""
        if status in DISCLAIMING:
            self._book.disclaimed(request.target.split("/")[1])
        fields = ["Refused: yes"]
        if self._chance(0.7):
            fields.append(f"Retry-After: {self._dice.choice(_RETRY_AFTER)}")
        return self._make(request, digest, status, fields, last)

    def _make(
        self,
        request: ReceivedRequest,
        digest: str,
        status: int,
        fields: Sequence[str] = (),
        last: bool = False,
    ) -> _Response:
        dice, old = self._dice, self._manners.old
        line = response_line(request.method, request.target, digest)
        size = int(request.target.split("/")[2].split("?")[0])
        if status == 200:
            status = dice.choice((200, 200, 200, 200, 200, 200, 201, 404, 503, 204, 304))
            if status == 503 and request.target.endswith("?late"):
                status = 200  # or it would come again, perhaps before the copy that is to be late
        bodiless = status in (204, 304)
        until_close = not bodiless and self._chance(self._manners.says_close / 2)
        last = last or until_close or status == 413 or self._chance(self._manners.says_close)
        lines = [f"HTTP/1.{0 if old else 1} {status} Whatever", f"Responds-To: {line}", *fields]
        body = b"" if bodiless else filling(line, size)
        if last and not (old and self._chance(0.5)):
            lines.append(dice.choice(("Connection: close", "connection:  CLOSE ")))
        elif old and not last:
            lines.append("Connection: keep-alive")
        if not bodiless and not until_close:
            if not old and self._chance(0.4):
                lines.append("Transfer-Encoding: chunked")
                body = self._in_chunks(body)
            else:
                lines.append(f"Content-Length: {len(body)}")
        dice.shuffle(shuffled := lines[1:])
        head = "\r\n".join([lines[0], *shuffled, "", ""]).encode()
        if not old and self._chance(0.05):
            head = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + head
        if request.method == "HEAD":
            body = b""
        return _Response(head, body, until_close, last)

    def _in_chunks(self, body: bytes) -> bytes:
        dice = self._dice
        pieces = []
        longest = dice.choice((10, 1000, 100_000)) if len(body) < 10_000 else 100_000
        while body:
            size = dice.randint(1, longest)
            piece, body = body[:size], body[size:]
            extension = dice.choice((b"", b"", b";x=1"))
            pieces.append(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece))
        trailer = dice.choice((b"", b"", b"X-Trailer: 1\r\n"))
        return b"".join(pieces) + b"0\r\n" + trailer + b"\r\n"

    def _flush(self) -> None:
        """Send what there is: at once, in parts, byte by byte, late."""
        data, self._unsent = self._unsent, b""
        how = self._dice.random()
        if how < 0.05:
            time.sleep(self._dice.random() * 0.02)
        elif how < 0.08 and len(data) < 600:
            self._caller.send_bytewise(data)
            return
        elif how < 0.3:
            for _ in range(self._dice.randint(1, 4)):
                size = self._dice.randrange(len(data) + 1)
                self._caller.send(data[:size])
                data = data[size:]
                time.sleep(self._dice.choice((0, 0, 0.002)))
        self._caller.send(data)

    def _double(self, request: ReceivedRequest, response: _Response, number: str) -> bool:
        """Send a response twice, or with other bytes behind it; return False if it is unfit."""
        whole = response.head + response.body
        if response.last or self._unsent != whole or len(whole) > 4000:
            return False
        if request.target.endswith("?alone") and self._chance(0.5):
            # In one segment: after the response has been seen, there may be another request.
            stray = self._dice.choice((whole, whole * 2, whole[:20], b"\r\n", b"0\r\n\r\n"))
            self._unsent = b""
            self._caller.send(whole + stray)
            return True
        if request.target.endswith("?late"):
            self._flush()
            try:
                self._caller.send(self._dice.choice((whole, b"\r\n", b"HTTP/1.1 408 Bye\r\n\r\n")))
                if self._chance(0.2):
                    self._caller.cut()
            finally:
                self._book.repeated(number)
            return True
        return False

    def _do_wrong(self, response: _Response) -> None:
        """Send *response* in part or garbled, or nothing, and end the connection."""
        caller, dice = self._caller, self._dice
        whole = response.head + response.body
        if self._chance(0.3):
            caller.send(self._unsent + self._garbled(response))
            caller.close_kindly()
        encrypted = isinstance(caller.sock, ssl.SSLSocket)
        end = dice.choice(("close", "cut", "reset", "stall"))
        # That a body is not whole which ends with the connection can be seen only if that does not
        # end as it should.
        hidden = response.until_close and not (end == "reset" or (end == "cut" and encrypted))
        sent = dice.randrange(len(response.head if hidden else whole))
        caller.send(self._unsent + whole[: dice.choice((0, sent, sent))])
        if end == "close":
            caller.close_kindly()
        elif end == "stall":
            self._stall()
        elif end == "cut":
            caller.cut()
            self._stall()
        caller.reset()
        raise _Over

    def _stall(self) -> None:
        """Do nothing until the client has closed."""
        gone = select.poll()
        gone.register(self._caller.sock, select.POLLRDHUP)
        gone.poll(STALL * 1000)
        raise _Over

    def _garbled(self, response: _Response) -> bytes:
        """Return an invalid response, with a valid one behind it as a bait."""
        dice = self._dice
        bait = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbait"
        rest = response.head.partition(b" ")[2]
        heads = [
            b"HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n",
            b"\0\xff\r\n" * 20,
            b"SSH-2.0-OpenSSH_9.9\r\n",
            b"HTTP/2.0 " + rest,
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0x4\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno\0colon\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000 + b"\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        ]
        if response.body:  # without one, it does not matter how that would have been framed
            coded = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: %b\r\n\r\n"
            heads += [coded % b"rot13", coded % b"chunked, gzip", coded % b"chunked" + b"zz\r\n"]
            heads += [coded % b"chunked" + b"5\r\n1234567\r\n0\r\n\r\n"]
        return dice.choice(heads) + bait * dice.randrange(3)
