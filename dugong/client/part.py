"""`Part`: the file of a download that is under way, ``PATH.part``, and what is known of it.

Guarantees: the file gets its name, *path*, once it has all bytes and they are on the disk; until
then, what has that name is not touched. What ``PATH.part.state`` says is in ``PATH.part``: that was
on the disk before it was said, so it is true after a crash of the system, too. One `Part` at a time
uses the files, over all processes of the system.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from time import monotonic
from types import TracebackType
from typing import Any, Final

__all__ = ["CHECKPOINT", "Part", "move", "open_locked", "remove"]

#: Seconds between two times that it is noted what of the file is on the disk.
CHECKPOINT = 2.0

_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
_PIECE = 1024 * 1024
_LONGEST_STATE = 1024 * 1024

#: Writes the data of a file to the disk; not all systems can do it without what they know of it.
_sync = getattr(os, "fdatasync", os.fsync)


class Part:
    """The part of a file that there is. A context manager; for one thread.

    Parameters: *path* is that of the file; *url* what it is a download of. With *resume*, what an
    earlier `Part` has left goes on, and what this one has goes on later, if it is known which
    version of the file it is of. What cannot go on is removed when the block is left.

    Attributes: *validator* names the version, for an If-Range; "" if no other request can ask for
    the same. *size* is how many bytes the file will have, or None. *received* is how many there
    are.

    All methods raise OSError, which names the file. Entering raises BlockingIOError while another
    `Part` uses it.
    """

    def __init__(self, path: str, url: str, resume: bool) -> None:
        self.path = path  # never changes
        self._url = sha256(url.encode("utf-8", "surrogateescape")).hexdigest()  # it may be secret
        self._resume = resume  # never changes
        self._name = f"{path}.part"
        self._state_name = f"{self._name}.state"
        self._new_state_name = f"{self._state_name}.new"
        self._fd = -1  # once it is entered
        self._noted = 0.0  # when, as `monotonic` gives it
        self._is_complete = False
        self.validator: str = ""
        self.size: int | None = None
        # What is there: from where to where, in order, with gaps between them.
        self._ranges: list[tuple[int, int]] = []

    def __enter__(self) -> Part:
        if os.path.isdir(self.path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self.path)
        self._fd = open_locked(self._name, self.path)
        try:
            if self._resume:
                self._read_state()
            if not self._ranges:
                self.begin("", None)
        except BaseException:
            os.close(self._fd)
            raise
        self._noted = monotonic()
        return self

    # --- what there is ----------------------------------------------------------------------------

    @property
    def received(self) -> int:
        """How many bytes there are."""
        return sum(end - start for start, end in self._ranges)

    @property
    def end(self) -> int:
        """Where the last of what there is ends."""
        return self._ranges[-1][1] if self._ranges else 0

    @property
    def is_whole(self) -> bool:
        """Whether all bytes are there."""
        return self.size is not None and not self.gaps()

    def gaps(self) -> list[tuple[int, int | None]]:
        """Return from where to where there is nothing; the last end is None if it is not known."""
        starts = [0, *(end for _, end in self._ranges)]
        ends = [*(start for start, _ in self._ranges), self.size]
        return [gap for gap in zip(starts, ends, strict=True) if gap[0] != gap[1]]

    def begin(self, validator: str, size: int | None) -> None:
        """Begin with nothing, of the version that *validator* names."""
        self._ranges.clear()
        self.validator, self.size = validator, size
        self._forget()
        with self._errors_named():
            os.ftruncate(self._fd, 0)

    def write(self, offset: int, data: memoryview | bytes) -> None:
        """Write *data*, which begins at *offset* in the file."""
        view = memoryview(data)
        end = offset + len(view)
        with self._errors_named():
            while view:
                view = view[os.pwrite(self._fd, view, end - len(view)) :]
        self._add(offset, end)
        if monotonic() - self._noted >= CHECKPOINT:
            self._note()

    def _add(self, start: int, end: int) -> None:
        merged: list[tuple[int, int]] = []
        for each in sorted([*self._ranges, (start, end)]):
            if merged and each[0] <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], each[1]))
            elif each[0] < each[1]:
                merged.append(each)
        self._ranges = merged

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from *start* to *end*, which are there."""
        while start < end:
            with self._errors_named():
                piece = os.pread(self._fd, min(_PIECE, end - start), start)
            if not piece:
                raise OSError(errno.EIO, "the file has been cut", self._name)
            yield piece
            start += len(piece)

    # --- its end ----------------------------------------------------------------------------------

    def complete(self) -> None:
        """Give the file its name; it is whole."""
        with self._errors_named():
            os.fsync(self._fd)
        move(self._fd, self._name, self.path)
        self._is_complete = True
        self._forget()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._is_complete:
                pass
            elif self._resume and self.validator and self._ranges:
                with suppress(OSError):  # what was raised says more; what was noted stays true
                    self._note()
            else:
                self._forget()
                remove(self._fd, self._name)
        finally:
            # A forked child may have the file open, and would keep the lock.
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            os.close(self._fd)

    # --- what a later run is told -----------------------------------------------------------------

    def _note(self) -> None:
        """Note what there is, once it is on the disk."""
        self._noted = monotonic()
        if not (self._resume and self.validator):
            return
        if not _is_at(self._name, self._fd):
            self._forget()  # or a later run would take over what is in another file
            return
        state = {
            "url": self._url,
            "validator": self.validator,
            "size": self.size,
            "ranges": self._ranges,
        }
        with self._errors_named():
            _sync(self._fd)
            fd = os.open(self._new_state_name, _NEW, 0o600)
            with open(fd, "w", encoding="utf-8") as file:
                json.dump(state, file)
                file.flush()
                os.fsync(fd)
            os.replace(self._new_state_name, self._state_name)

    def _forget(self) -> None:
        """Have no later run know of what there is."""
        _remove(self._state_name)
        _remove(self._new_state_name)  # if a run was killed in the middle of noting

    def _read_state(self) -> None:
        """Take over what an earlier run has noted, if it is of the same URL and can be true."""
        try:
            with open(self._state_name, encoding="utf-8") as file:
                state: Any = json.loads(file.read(_LONGEST_STATE))
            if state["url"] != self._url:
                return
            validator, size = str(state["validator"]), state["size"]
            ranges = [(int(start), int(end)) for start, end in state["ranges"]]
        except (FileNotFoundError, ValueError, TypeError, KeyError, RecursionError):
            return
        edges = [edge for each in ranges for edge in each]
        limit = os.fstat(self._fd).st_size
        is_size = size is None or (type(size) is int and edges[-1:] <= [size])
        are_ranges = edges == sorted(set(edges)) and min(edges, default=0) >= 0
        if validator and is_size and are_ranges and edges[-1:] <= [limit]:
            self.validator, self.size, self._ranges = validator, size, ranges

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            if exc.filename is None:
                exc.filename = self._name
            raise


def open_locked(name: str, path: str) -> int:
    """Open the file *name*, which is to be *path* once it is whole, under a lock; return its fd.

    It may be there, from a process that was killed. Raises BlockingIOError if it is in use.
    """
    while True:
        fd = os.open(name, _FLAGS, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # What had the lock may have given the file its name since, or removed it.
            if _is_at(name, fd):
                return fd
        except OSError as exc:
            os.close(fd)
            if exc.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            text = "another download to this file is under way"
            raise BlockingIOError(errno.EWOULDBLOCK, text, path) from None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def move(fd: int, name: str, path: str) -> None:
    """Have the open file *name* be called *path*. Raises OSError if *name* is another one now."""
    if not _is_at(name, fd):
        raise OSError(errno.ESTALE, "another file has taken its place", name)
    os.replace(name, path)


def remove(fd: int, name: str) -> None:
    """Remove the open file *name*, unless that is another one now."""
    if _is_at(name, fd):
        _remove(name)


def _is_at(name: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(name))
    except FileNotFoundError:
        return False


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
