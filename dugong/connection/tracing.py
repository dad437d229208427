"""DUGONG_TRACEFILE: a copy of what goes over a connection, for those who look for a fault.

Guarantees: only its owner can read the file; no link is followed to another file; the values of the
fields that hold credentials are not in it; a forked child writes to a file of its own.
"""

from __future__ import annotations

import os
import re
import stat
from itertools import count
from typing import TYPE_CHECKING

from dugong.connection.copying import CopyingTransport

if TYPE_CHECKING:
    from dugong.connection.transport import Transport

__all__ = ["Masking", "TracingTransport", "traced"]

#: Their values are not traced.
SECRET_FIELDS = ("authorization", "proxy-authorization", "cookie", "set-cookie")

_MASK = b" <masked>"
_SECRET = re.compile(rf"({'|'.join(SECRET_FIELDS)})[ \t]*:".encode(), re.IGNORECASE)
_SECRET_NAMES = [f"{name}:".encode() for name in SECRET_FIELDS]

# Any thread takes the next number. If two threads were to get the same, which no guarantee of
# free-threaded CPython rules out, both connections would append to one file.
_connection_numbers = count(1)
_process = os.getpid()  # the process in which these numbers are counted


class Masking:
    """Takes a byte stream in pieces, and gives it back without the values of secret fields.

    A field is what looks like one, wherever it stands, and however it is cut into pieces: also in
    a body, and with a value that is folded (RFC 9112 §5.2).
    """

    def __init__(self) -> None:
        self._kept = b""  # the start of a line, which may become the name of a secret field
        self._at_start = True  # of a line
        self._after_cr = False  # which the end of a line may be cut behind
        self._in_secret = False  # in the value of a secret field, or at the line behind it

    def __call__(self, data: bytes) -> bytes:
        """Return what may be written now that *data* has come."""
        data, self._kept = self._kept + data, b""
        shown: list[bytes] = []
        for line in _lines(data):
            self._take(line, shown)
        return b"".join(shown)

    def _take(self, line: bytes, shown: list[bytes]) -> None:
        ended = line.endswith(b"\n")
        if self._at_start and self._in_secret:
            self._in_secret = line[:1] in (b" ", b"\t")  # a folded value goes on
        if self._at_start and not self._in_secret:
            match = _SECRET.match(line)
            if match is not None:
                shown.append(match[0] + _MASK)
                self._in_secret = True
            elif not ended and _may_become_secret(line):
                self._kept = line
                return
        if not self._in_secret:
            shown.append(line)
        elif ended:
            crlf = line.endswith(b"\r\n") or (line == b"\n" and self._after_cr)
            shown.append(b"\r\n" if crlf else b"\n")
        self._after_cr = line.endswith(b"\r")
        self._at_start = ended

    def rest(self) -> bytes:
        """Return what has been kept back, when nothing more will come."""
        kept, self._kept = self._kept, b""
        return kept


def _lines(data: bytes) -> list[bytes]:
    """Split *data* behind each LF."""
    lines = [line + b"\n" for line in data.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def _may_become_secret(start: bytes) -> bool:
    """Return True if a line that begins with *start* may turn out to be a secret field."""
    start = start.lower()
    name = start.rstrip(b" \t")
    return any(
        secret.startswith(start) or (name == secret[:-1] and len(start) < 1000)
        for secret in _SECRET_NAMES
    )


class TracingTransport(CopyingTransport):
    """Copies what is sent and received over *inner* to the file *path*."""

    __slots__ = ("_fd", "_received", "_sent")

    def __init__(self, inner: Transport, path: str) -> None:
        super().__init__(inner)
        self._received = Masking()  # the receiving thread's
        self._sent = Masking()  # the sending thread's
        self._fd = _open(path)  # -1 once closed, by the last thread that uses the transport

    def note_sent(self, data: memoryview) -> None:
        self._write(self._sent(bytes(data)))

    def note_received(self, data: memoryview) -> None:
        self._write(self._received(bytes(data)))

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view and self._fd >= 0:
            view = view[os.write(self._fd, view) :]

    def close(self) -> None:
        super().close()
        self._write(self._sent.rest() + self._received.rest())
        self._close_file()

    def drop(self) -> None:
        super().drop()
        self._close_file()

    def _close_file(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _open(path: str) -> int:
    """Open the file *path* to append to it, if it is ours alone. Raises OSError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise PermissionError(f"the trace {path!r} is not a regular file with one name")
        if status.st_uid != os.geteuid():
            raise PermissionError(f"the trace {path!r} belongs to another user")
        if stat.S_IMODE(status.st_mode) & 0o077:
            os.fchmod(fd, 0o600)
    except BaseException:
        os.close(fd)
        raise
    return fd


def traced(transport: Transport) -> Transport:
    """Return *transport*, behind a trace if the environment asks for one.

    DUGONG_TRACEFILE names the file; its ``%d`` becomes a number that differs between connections. A
    forked child puts a dot and the number of its process behind the name. Raises OSError.
    """
    template = os.environ.get("DUGONG_TRACEFILE")
    if not template:
        return transport
    path = template.replace("%d", str(next(_connection_numbers)))
    if os.getpid() != _process:
        path = f"{path}.{os.getpid()}"
    return TracingTransport(transport, path)
