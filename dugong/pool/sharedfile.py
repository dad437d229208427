"""Files that several bodies read: by position, at the same time; if they cannot seek, in turns.

Guarantees: a read by position gives what is at its offset, whatever else dugong reads from the
file; when all has been read, the file stands where it stood. Touches the files, each under its
lock. Any thread may call anything.
"""

from __future__ import annotations

import os
from threading import RLock
from typing import Any, Protocol
from weakref import WeakValueDictionary

from dugong.pool.oneshot import RememberableFile

__all__ = ["SeekableBinary", "SharedFile", "share"]


class SeekableBinary(Protocol):
    """What is needed of a binary file to read a part of it."""

    def read(self, size: int, /) -> bytes: ...
    def tell(self) -> int: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...


class SharedFile:
    """A file that is read by position, and the lock for it. Methods raise what the file raises."""

    __slots__ = ("__weakref__", "_file", "_home", "_users", "lock")

    def __init__(self, file: SeekableBinary) -> None:
        self._file = file  # never changes; guarded by the lock
        # Reentrant, for a signal handler or a finalizer may send the file while its thread does; a
        # forked child has a new one.
        self.lock = RLock()
        # Both are guarded by the lock.
        self._users = 0  # what has begun to read on, and not ended it
        self._home = 0  # where the file will stand when they have

    def extent(self) -> tuple[int, int]:
        """Return where the file stands, or will stand without users, and how many bytes it has."""
        with self.lock:
            position = self._file.tell()
            if not self._users:
                self._home = position
            self._users += 1  # for what interrupts this, and asks the same
            try:
                self._file.seek(0, os.SEEK_END)
                size = self._file.tell()
            finally:
                try:
                    self._file.seek(position)
                finally:
                    self._users -= 1
            return self._home, size

    def read(self, offset: int, size: int) -> bytes:
        """Return up to *size* bytes that begin at *offset*, and leave the file where it stands."""
        with self.lock:
            position = self._file.tell()
            try:
                self._file.seek(offset)
                return self._file.read(size)
            finally:
                self._file.seek(position)

    # To seek back is as slow as to read all before, if the file is compressed. So what reads much
    # of a file does it once, at its end.

    def begin_reading_on(self, start: int) -> None:
        """Call `read_on` from now on, beginning with *start*."""
        with self.lock:
            self._file.seek(start)
            if not self._users:
                self._home = start
            self._users += 1

    def read_on(self, offset: int, size: int) -> bytes:
        """Return up to *size* bytes that begin at *offset*; the file stands behind them then."""
        with self.lock:
            if self._file.tell() != offset:  # at the beginning, and if there are others
                self._file.seek(offset)
            return self._file.read(size)

    def end_reading_on(self) -> None:
        """Call `read_on` no more. The last to do so has the file stand where the first began."""
        with self.lock:
            self._users -= 1
            if not self._users:
                self._file.seek(self._home)

    # What cannot seek is for one at a time.

    def begin_alone(self) -> bool:
        """Return True if nothing else reads from the file, nor may until `end_alone`."""
        with self.lock:
            if self._users:
                return False
            self._users = 1
            return True

    def end_alone(self) -> None:
        """Let others read from the file."""
        with self.lock:
            self._users = 0

    def begin_in_child(self) -> None:
        """Go on in a forked child, without the threads of its parent."""
        self.lock = RLock()
        self._users = 0


#: By the id() of the file, which lives as long as its entry. Guarded by `_lock`; an entry goes by
#: itself when no part of the file is left.
_shared_files: WeakValueDictionary[int, SharedFile] = WeakValueDictionary()
_lock = RLock()  # reentrant, for a finalizer may make a part; a forked child has a new one


def share(file: Any) -> SharedFile:
    """Return what all that read from *file* have in common."""
    if isinstance(file, RememberableFile):
        file = file._file  # each request has another one that stands for it
    mine = SharedFile(file)
    with _lock:
        return _shared_files.setdefault(id(file), mine)


def _after_fork_in_child() -> None:
    """Replace the locks, for the threads that may hold them do not exist."""
    global _lock  # noqa: PLW0603
    _lock = RLock()
    for shared in _shared_files.values():
        shared.begin_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
