"""Files for bodies: each gets its name once it is complete.

Guarantees: a file that exists under its name is complete. What is not completed is removed, but for
the part that `Partial` is told to keep. A link that has the name is replaced, not followed.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable
from itertools import count
from types import TracebackType
from typing import Final

__all__ = ["FileError", "Partial", "Version", "save"]

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_ANY: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW

# What begins the names of temporary files, so that no two processes use the same. A forked child
# would have to renew it; the command forks none.
_TOKEN = os.urandom(8).hex()
_numbers = count(1)  # next() of it is atomic, without the GIL, too


class FileError(Exception):
    """A file cannot be written; the message says why."""

    def __init__(self, exc: OSError) -> None:
        super().__init__(f"cannot write the file: {exc.strerror or exc}")


def _temporary_in(directory: str) -> str:
    """Return the path of a new temporary file in *directory*, which is "" or ends with a slash."""
    return f"{directory}.dugong-{_TOKEN}-{next(_numbers)}.part"


def _directory_of(path: str) -> str:
    """Return what *path* begins with, as `_temporary_in` takes it: faster than os.path does."""
    return path[: path.rfind("/") + 1]


def save(body: bytes, path: str, names: Iterable[str] | None = None) -> str:
    """Write the whole *body* to the file *path*; return that.

    With *names*, it gets the first of these, in the directory of *path*, that no file has. Raises
    `FileError`.
    """
    directory = _directory_of(path)
    temporary = _temporary_in(directory)
    try:
        descriptor = os.open(temporary, _NEW, 0o666)
        try:
            written = os.write(descriptor, body)
            while written < len(body):
                written += os.write(descriptor, body[written:])
        finally:
            os.close(descriptor)
        if names is not None:
            return _place_new(temporary, directory, names)
        os.rename(temporary, path)
    except BaseException as exc:  # an interrupt, too
        _remove(temporary)
        if isinstance(exc, OSError):
            raise FileError(exc) from exc
        raise
    return path


def _place_new(temporary: str, directory: str, names: Iterable[str]) -> str:
    """Give the file *temporary* the first of *names* in *directory* that no file has.

    Return its new path. Raises OSError.
    """
    for name in names:
        path = directory + name
        try:
            os.link(temporary, path)  # which never replaces a file
        except FileExistsError:
            continue
        except OSError as exc:
            if exc.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise
            if os.path.lexists(path):  # a file system without links
                continue
            os.rename(temporary, path)
            return path
        os.unlink(temporary)
        return path
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # it is not there, or the first error is the one to report


class Version:
    """What of a body a partial file has: *size* bytes of what has the entity tag *etag*."""

    __slots__ = ("etag", "size")

    def __init__(self, size: int, etag: str) -> None:
        self.size: int = size
        self.etag: str = etag


class Partial:
    """A file for a body that comes in pieces, and may be continued.

    What was written so far goes on after a failure, if it is known which version of the body it is
    of. With *keeps*, it goes on in a later run, too: it is in the file *path* with ``.part``
    appended, beside a file with ``.part.etag`` appended that says of which version of *url* it is.

    A context manager. For one thread.
    """

    def __init__(self, path: str, url: str, keeps: bool) -> None:
        self._path = path
        self._url = url
        self._keeps = keeps
        self._temporary = f"{path}.part" if keeps else _temporary_in(_directory_of(path))
        self._note = f"{self._temporary}.etag"
        self._etag = ""  # "": another version than any
        self._is_placed = False
        self.size = 0

    def __enter__(self) -> Partial:
        try:
            self._descriptor = os.open(self._temporary, _ANY if self._keeps else _NEW, 0o666)
        except OSError as exc:
            raise FileError(exc) from exc
        if self._keeps:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._etag = self._noted()
                self.size = os.fstat(self._descriptor).st_size if self._etag else 0
            except OSError as exc:
                os.close(self._descriptor)
                if exc.errno == errno.EWOULDBLOCK:
                    exc = OSError(errno.EWOULDBLOCK, "another process is writing it")
                raise FileError(exc) from exc
        return self

    @property
    def version(self) -> Version | None:
        """What it has, if that can be continued."""
        return Version(self.size, self._etag) if self.size and self._etag else None

    def begin(self, etag: str) -> None:
        """Begin with the first byte of the version *etag*; "" if it cannot be told from others."""
        try:
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            self.size, self._etag = 0, etag
            if self._keeps:
                _remove(self._note)
                if etag:
                    save(f"{self._url}\n{etag}\n".encode("utf-8", "surrogateescape"), self._note)
        except OSError as exc:
            raise FileError(exc) from exc

    def go_on(self) -> None:
        """Go on with the byte behind those that it has."""
        try:
            os.lseek(self._descriptor, self.size, os.SEEK_SET)
        except OSError as exc:
            raise FileError(exc) from exc

    def write(self, data: memoryview) -> None:
        """Write the next *data*."""
        try:
            written = 0
            while written < len(data):
                written += os.write(self._descriptor, data[written:] if written else data)
        except OSError as exc:
            raise FileError(exc) from exc
        self.size += len(data)

    def complete(self, names: Iterable[str] | None = None) -> str:
        """Give the file its name, and return its path. *names* are as for `save`."""
        try:
            if names is not None:
                path = _place_new(self._temporary, _directory_of(self._path), names)
            else:
                path = self._path
                os.replace(self._temporary, path)
        except OSError as exc:
            raise FileError(exc) from exc
        self._is_placed = True
        if self._keeps:
            _remove(self._note)
        return path

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._is_placed and not (self._keeps and self.version is not None):
            _remove(self._temporary)
            if self._keeps:
                _remove(self._note)
        os.close(self._descriptor)

    def _noted(self) -> str:
        """Return the entity tag of what the file has, if that is of the same URL."""
        try:
            with open(self._note, encoding="utf-8", errors="surrogateescape") as file:
                url, etag = file.read(64 * 1024).splitlines()
        except (FileNotFoundError, ValueError):
            return ""
        return etag if url == self._url else ""
