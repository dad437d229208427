"""Standard input, output and error of the command, which may be closed, full or gone.

Guarantees: what cannot be read or written is a `StreamError` with one line for the user, never a
traceback, also when Python flushes once more at its exit. Error messages go to standard error or
are lost; they never go to standard output. After `reserve_descriptors()` no socket or file of the
command gets the number of a standard stream.
"""

from __future__ import annotations

import errno
import os
import sys

TYPE_CHECKING = False  # as in typing: see `dugong.cli`

if TYPE_CHECKING:
    from typing import IO

__all__ = [
    "ReaderGone",
    "StreamError",
    "copy_to_output",
    "flush_output",
    "printable",
    "report",
    "require_output",
    "reserve_descriptors",
    "write_output",
]


_PIECE = 256 * 1024


class StreamError(Exception):
    """A standard stream cannot be used; the message says which, and why."""


class ReaderGone(StreamError):
    """The program that was reading standard output has closed its end of the pipe."""


def reserve_descriptors() -> None:
    """Open the null device in place of each standard stream that is closed.

    Otherwise the first socket would get the number 2, say, and whatever writes to descriptor 2
    (a C library, a child process) would write to a server.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # open() returns the lowest number that is free, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def require_output() -> None:
    """Raise `StreamError` if standard output is closed."""
    if sys.stdout is None:
        raise StreamError("standard output is closed")


def write_output(text: str) -> None:
    """Write *text* and a line end to standard output; escape what its encoding lacks."""
    require_output()
    encoding = sys.stdout.encoding
    try:
        # In one piece, though Python may be told not to buffer: what is killed leaves whole lines.
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        sys.stdout.flush()
    except OSError as exc:
        raise _output_error(exc) from exc


def copy_to_output(path: str) -> None:
    """Write the bytes of the file *path* to standard output."""
    require_output()
    with open(path, "rb") as file:
        try:
            while piece := file.read(_PIECE):
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        except OSError as exc:
            raise _output_error(exc) from exc


def flush_output() -> None:
    """Write what is left in the buffer of standard output, after a write was interrupted."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError as exc:
            raise _output_error(exc) from exc


def report(message: str) -> None:
    """Write the line *message* to standard error, or do nothing if that cannot be written."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()
    except OSError:
        _discard_buffered(sys.stderr)


def _output_error(exc: OSError) -> StreamError:
    _discard_buffered(sys.stdout)
    if exc.errno == errno.EPIPE:
        return ReaderGone("the reader of standard output has closed it")
    return StreamError(f"cannot write to standard output: {exc.strerror or exc}")


def _discard_buffered(stream: IO[str]) -> None:
    """Let what *stream* holds go to the null device.

    Python flushes standard output and standard error when it exits. If that failed, it would
    print an "Exception ignored" and exit with status 120.
    """
    devnull = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, stream.fileno())
    except OSError:
        pass  # a stream without a descriptor, which a test or a caller of main() has put there
    finally:
        os.close(devnull)


def printable(text: str) -> str:
    """Return *text* with all unprintable characters escaped: they could control a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
