"""The URLs that a command is given: as arguments, in files, and through pipes as they come.

A line of a file is a URL. Blank lines, and lines that begin with ``#``, are left out, and so is a
byte order mark.

Guarantees: what has come is given without a wait for more, and no more than a few pieces of it are
read ahead. The thread that waits for a pipe or a terminal has ended when `Urls.close` returns.
"""

from __future__ import annotations

import os
import select
import stat
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from errno import EISDIR
from itertools import chain
from queue import Empty, SimpleQueue
from threading import Semaphore, Thread
from typing import BinaryIO

from dugong.cli import streams

__all__ = ["Urls"]

_PIECE = 64 * 1024
_PIECES_AHEAD = 4
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class Urls:
    """An iterator over *arguments*, where ``-`` is standard input, and the lines of *files*.

    Its end says that there is nothing now: more may come, unless `exhausted` is set. Each step may
    raise `streams.StreamError`, for what cannot be read. For one thread.
    """

    def __init__(self, arguments: Sequence[str], files: Sequence[str] = ()) -> None:
        self._notify: Callable[[], object] = lambda: None
        self._parts: deque[Iterator[str] | _Pipe] = deque()
        self._opened: list[_Pipe | BinaryIO] = []
        #: How many there are; None if that is not known.
        self.count: int | None = 0
        try:
            self._add(arguments, files)
        except BaseException:
            self.close()
            raise

    def _add(self, arguments: Sequence[str], files: Sequence[str]) -> None:
        plain: list[str] = []
        for argument in arguments:
            if argument == "-":
                self._parts.append(iter(plain))
                plain = []
                self._add_standard_input()
            else:
                plain.append(argument)
                self.count = None if self.count is None else self.count + 1
        self._parts.append(iter(plain))
        for name in files:
            if name == "-":
                self._add_standard_input()
            else:
                self._add_file(name)

    @property
    def exhausted(self) -> bool:
        """Whether all URLs have been given."""
        return not self._parts

    def notify(self, call: Callable[[], object]) -> None:
        """Have *call* called by another thread when more may be there, from now on."""
        self._notify = call

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        parts = self._parts
        while parts:
            part = parts[0]
            url = next(part, None)
            if url is not None:
                return url
            if isinstance(part, _Pipe) and not part.has_ended:
                break
            parts.popleft()
        raise StopIteration

    def close(self) -> None:
        """End the threads, and close what was opened."""
        for opened in self._opened:
            opened.close()

    def _add_standard_input(self) -> None:
        self.count = None
        if sys.stdin is None:
            raise streams.StreamError("standard input is closed")
        try:
            descriptor = sys.stdin.fileno()
        except OSError:  # a stream that a caller of main() has put there
            self._parts.append(_read_lines(sys.stdin.buffer, "standard input"))
            return
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            self._parts.append(_read_lines(sys.stdin.buffer, "standard input"))
        else:
            self._add_pipe(descriptor, "standard input", closes=False)

    def _add_file(self, name: str) -> None:
        self.count = None
        try:
            # A named pipe would have its reader wait for a writer.
            descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as exc:
            raise _unreadable(name, exc) from exc
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            os.close(descriptor)
            raise _unreadable(name, IsADirectoryError(EISDIR, os.strerror(EISDIR)))
        if stat.S_ISREG(mode):
            file = open(descriptor, "rb")  # noqa: SIM115  # it is closed by close()
            self._opened.append(file)
            self._parts.append(_read_lines(file, name))
        else:
            self._add_pipe(descriptor, name, closes=True)

    def _tell(self) -> None:
        self._notify()

    def _add_pipe(self, descriptor: int, name: str, closes: bool) -> None:
        pipe = _Pipe(descriptor, name, closes, self._tell)
        self._opened.append(pipe)
        self._parts.append(pipe)


def _unreadable(name: str, exc: OSError) -> streams.StreamError:
    return streams.StreamError(f"cannot read {name}: {exc.strerror or exc}")


def _read_lines(file: Iterable[bytes], name: str) -> Iterator[str]:
    """Yield the URLs of *file*, which never has its reader wait for long."""
    lines = iter(file)
    try:
        first = _without_mark(next(lines, b""), name)
        yield from _urls_of(chain((first,), lines))
    except OSError as exc:
        raise _unreadable(name, exc) from exc


def _without_mark(first: bytes, name: str) -> bytes:
    """Return the line *first*, with which *name* begins, without a byte order mark."""
    if first.startswith(_UTF_16_MARKS):
        raise streams.StreamError(f"{name} is in UTF-16: it has to be in UTF-8")
    return first.removeprefix(_BYTE_ORDER_MARK)


def _urls_of(lines: Iterable[bytes]) -> Iterator[str]:
    decode = os.fsdecode
    for line in lines:
        url = decode(line).strip()
        if url and url[0] != "#":
            yield url


class _Pipe:
    """An iterator over the URLs that have come through a pipe or from a terminal.

    Its end says that there is nothing now; `has_ended` says whether more may come. A thread of its
    own waits for them, and calls *notify*.
    """

    def __init__(
        self, descriptor: int, name: str, closes: bool, notify: Callable[[], object]
    ) -> None:
        # None of these changes.
        self._descriptor = descriptor
        self._name = name
        self._closes = closes
        self._notify = notify
        self._stopping, self._stop = os.pipe()  # the first becomes readable when it is to end
        # The URLs of a piece; what went wrong; None at the end. From the thread to the iterator.
        self._pieces: SimpleQueue[list[str] | streams.StreamError | None] = SimpleQueue()
        self._room = Semaphore(_PIECES_AHEAD)  # how many more pieces the thread may read
        # Set by the thread that iterates, before the other is woken to read it.
        self._is_closed = False
        # The others belong to the thread that iterates.
        self._urls: deque[str] = deque()
        self._thread: Thread | None = None
        self.has_ended = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._thread is None and not self.has_ended:
            self._thread = Thread(target=self._run, name="dugong-input", daemon=True)
            self._thread.start()
        while not self._urls:
            try:
                piece = self._pieces.get_nowait()
            except Empty:
                raise StopIteration from None
            self._room.release()
            if isinstance(piece, list):
                self._urls.extend(piece)
                continue
            self.has_ended = True
            if piece is None:
                raise StopIteration
            raise piece
        return self._urls.popleft()

    def close(self) -> None:
        """End the thread, and close what was opened. May be called twice."""
        self.has_ended = True
        if self._is_closed:
            return
        self._is_closed = True
        os.close(self._stop)
        self._room.release()
        if self._thread is not None:
            self._thread.join()  # which neither a pipe nor a terminal delays
        os.close(self._stopping)
        if self._closes:
            os.close(self._descriptor)

    # --- in the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            for lines in self._lines():
                self._put(list(_urls_of(lines)))
            self._put(None)
        except streams.StreamError as exc:
            self._put(exc)
        except OSError as exc:
            self._put(_unreadable(self._name, exc))

    def _put(self, piece: list[str] | streams.StreamError | None) -> None:
        self._pieces.put(piece)
        self._notify()

    def _lines(self) -> Iterator[list[bytes]]:
        """Yield the lines as they come."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        poll.register(self._stopping, select.POLLIN)
        rest = b""
        is_first = True
        while True:
            self._room.acquire()  # ended by the other thread, which takes a piece or closes this
            poll.poll()  # ended by what comes, by the end of that, or by closing this
            if self._is_closed:
                return
            try:
                data = os.read(self._descriptor, _PIECE)
            except BlockingIOError:  # another process that reads there was faster
                self._room.release()
                continue
            *lines, rest = (rest + data).split(b"\n")
            if not data:
                lines, rest = [rest], b""
            if is_first and lines:
                lines[0] = _without_mark(lines[0], self._name)
                is_first = False
            yield lines
            if not data:
                return
