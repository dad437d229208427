"""Files that are written beside their place, and get their name when they are whole.

`save` is for a body that is in memory, and `Part` for what comes bit by bit.

Guarantees: a file has all of its bytes once it has its name; until then, what has that name is not
touched. A link that has the name is replaced, not followed; what is no file is not replaced. A file
that replaces another one has its permissions, and so has a `Part` of it. What does not become whole
is removed, but for what a `Part` leaves for a later one. What the state beside a part says is in
it: that was on the disk before it was said, so it is true after a crash of the system, too. One
`Part` at a time uses these, over all processes of the system. No part takes the name of another
file, and no file takes that of a part (`dugong.client.partname`).
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from types import TracebackType
from typing import Final

from dugong.client.partname import (
    check_is_no_part,
    check_is_no_special,
    directory_of,
    hash_of,
    hidden_for,
    may_be_part,
    naming,
    read_state,
    state_of,
    unique_beside,
    visible_for,
)

__all__ = ["CHECKPOINT", "Part", "save"]

#: Seconds between two times that it is noted what of the file is on the disk.
CHECKPOINT = 2.0

_HIDDEN: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_KEPT: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_STATE: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
_PIECE = 1024 * 1024

#: Writes the data of a file to the disk; not all systems can do it without what they know of it.
_sync = getattr(os, "fdatasync", os.fsync)

# The absolute path of the file of each `Part` that is entered. Any thread adds its own, removes it,
# and copies all: each is one operation that is atomic, without the GIL, too.
_files: dict[Part, str] = {}


def save(body: bytes, path: str, names: Iterable[str] | None = None) -> str:
    """Write *body* to the file *path*; return that.

    With *names*, it gets the first of these, in the directory of *path*, that no file has. Raises
    OSError. Does not wait for the disk.
    """
    hidden = unique_beside(path)
    try:
        fd = os.open(hidden, _HIDDEN, 0o666)
        try:
            written = os.write(fd, body)
            while written < len(body):
                written += os.write(fd, body[written:])
        finally:
            os.close(fd)
        return _place(hidden, path, names)
    except BaseException:  # an interrupt, too
        with suppress(OSError):
            os.unlink(hidden)
        raise


def _place(name: str, path: str, names: Iterable[str] | None) -> str:
    """Give the file *name* the name *path*, or one of *names* as `save` does; return its path."""
    directory = directory_of(path)
    if names is None:
        mode = check_is_no_special(path)  # which a privileged process would replace
        if mode is not None:
            with suppress(OSError):  # of a file system that has no permissions
                os.chmod(name, mode)
        if may_be_part(path):
            check_is_no_part(path)
            if not os.path.lexists(path):  # then another thread or process may make a part of it
                with suppress(FileExistsError):
                    return _place(name, path, [path[len(directory) :]])
                check_is_no_part(path)
        os.replace(name, path)
        return path
    for each in names:
        path = directory + each
        try:
            os.link(name, path)  # which never replaces a file
        except FileExistsError:
            continue
        except OSError as exc:
            if exc.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise
            if os.path.lexists(path):  # a file system without links
                continue
            os.rename(name, path)
            return path
        os.unlink(name)
        return path
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)


class Part:
    """The part of a file that there is. A context manager; for one thread.

    Parameters: *path* is that of the file. With *url*, that of which it is a download, what an
    earlier `Part` of the same has left goes on; and what this one has goes on later, if it is known
    which version of the file it is of. Then one `Part` at a time has the *path*, and what there is
    has the name ``PATH.part``; or a hidden one, if it is to be *hidden*, if the system does not
    take that name, or if that is another file, or will be: that of a `Part` of this process that is
    entered, or one of *wanted*. All else is removed when the block is left. With *syncs*, the file
    is on the disk before it gets its name.

    Attributes: *validator* names the version, for an If-Range; "" if no other request can ask for
    the same. *size* is how many bytes the file will have, or None. *received* is how many there
    are.

    All methods raise OSError, which names the file. Entering raises BlockingIOError while another
    `Part` has the path, and FileExistsError if that is the part of another file.
    """

    def __init__(
        self,
        path: str,
        url: str | None = None,
        *,
        hidden: bool = False,
        syncs: bool = True,
        wanted: Container[str] = (),
    ) -> None:
        self.path: str = path  # changes when it is complete, if it gets another name
        self._goes_on = url is not None  # never changes, nor do the following
        self._url = "" if url is None else hash_of(url)
        self._is_hidden = hidden
        self._syncs = syncs
        self._wanted = wanted
        self._name = ""  # once it is entered
        self._fd = -1  # once it is entered
        self._is_blank = False  # whether what is noted is that there is nothing, of this URL
        self._noted = 0.0  # when, as `monotonic` gives it
        self._is_complete = False
        self.validator: str = ""
        self.size: int | None = None
        # What is there: from where to where, in order, with gaps between them.
        self._ranges: list[tuple[int, int]] = []

    def __enter__(self) -> Part:
        if not self.path:  # as of a URL that ends with a slash
            raise FileNotFoundError(errno.ENOENT, "a file needs a name", self.path)
        with suppress(FileNotFoundError):
            os.lstat(self.path)  # a name that the system does not take is an error now
        mode = check_is_no_special(self.path)
        # First this and then the check; `_take` does the opposite. So one of the two sees the other
        # if it is for a part that has this path.
        _files[self] = os.path.abspath(self.path)
        try:
            if not self._goes_on:
                check_is_no_part(self.path)
                self._name = unique_beside(self.path)
                self._fd = os.open(self._name, _HIDDEN, 0o666)
                self._keep_private(mode)
                return self
            self._fd = self._open()
            self._keep_private(mode)
        except BaseException:
            del _files[self]
            raise
        try:
            # Now, under the lock: behind `complete`, it may be that of another `Part`.
            _remove(hidden_for(state_of(self._name)))  # if a run was killed while it noted
            self._read_state()
            if not self._ranges:
                self.begin("", None)
            check_is_no_part(self.path)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self._noted = monotonic()
        return self

    def _keep_private(self, mode: int | None) -> None:
        """Let no other user read the part than the file that it replaces, which has *mode*."""
        if mode is not None:
            with suppress(OSError):  # of a file system that has no permissions
                os.fchmod(self._fd, mode | 0o600)

    def _open(self) -> int:
        """Open the file under its lock, and return the descriptor; set its name."""
        visible, hidden = visible_for(self.path), hidden_for(self.path)
        if not (self._is_hidden or os.path.lexists(hidden)):
            with naming():
                fd = self._take(visible)
            if fd is not None:
                self._name = visible
                return fd
        self._name = hidden
        return self._lock(hidden)

    def _take(self, name: str) -> int | None:
        """Open the file *name* under its lock; return None if it is not, or must not be, a part."""
        if read_state(name) is not None:
            return self._lock(name)
        if os.path.lexists(name):
            return None
        state = state_of(name)
        try:
            save(self._state_with([]), state, [state[len(directory_of(state)) :]])
        except OSError as exc:
            if exc.errno not in (errno.EEXIST, errno.ENAMETOOLONG):
                exc.filename = name
                del exc.filename2  # None would stand in the message
                raise
            # Another process may have begun the same download at the same time.
            return None if read_state(name) is None else self._lock(name)
        try:
            if self._is_wanted(name) or self._is_wanted(state):
                _remove(state)
                return None
            os.close(os.open(name, _KEPT | os.O_EXCL, 0o666))
        except FileExistsError:  # since then
            _remove(state)
            return None
        except BaseException:
            _remove(state)
            raise
        return self._lock(name)

    def _is_wanted(self, name: str) -> bool:
        """Return True if *name* will be the name of another file."""
        return (
            name in self._wanted
            or os.path.abspath(name) in _files.copy().values()
            # Those of another process.
            or os.path.lexists(visible_for(name))
            or os.path.lexists(hidden_for(name))
        )

    def _lock(self, name: str) -> int:
        """Open the part *name* under its lock; return the descriptor."""
        while True:
            fd = os.open(name, _KEPT, 0o666)
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
                raise BlockingIOError(errno.EWOULDBLOCK, text, self.path) from None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

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
        if self._goes_on and self._name != visible_for(self.path):
            self._forget()  # a hidden name is no other file's, whatever is beside it
        elif self._goes_on:
            # Another `Part` that has just ended may have removed it.
            is_noted = self._is_blank and os.path.lexists(state_of(self._name))
            if not is_noted and _is_at(self._name, self._fd):
                self._replace_state(syncs=False)
        with self._errors_named():
            os.ftruncate(self._fd, 0)

    def write(self, offset: int, data: memoryview | bytes) -> int:
        """Write *data*, which begins at *offset* in the file; return how much of it is new."""
        view = memoryview(data)
        end = offset + len(view)
        with self._errors_named():
            while view:
                view = view[os.pwrite(self._fd, view, end - len(view)) :]
        new = self._add(offset, end)
        if monotonic() - self._noted >= CHECKPOINT:
            self._note()
        return new

    def _add(self, start: int, end: int) -> int:
        if self._ranges and self._ranges[-1][1] == start:  # mostly
            self._ranges[-1] = (self._ranges[-1][0], end)
            return end - start
        before = self.received
        merged: list[tuple[int, int]] = []
        for each in sorted([*self._ranges, (start, end)]):
            if merged and each[0] <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], each[1]))
            elif each[0] < each[1]:
                merged.append(each)
        self._ranges = merged
        return self.received - before

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

    def complete(self, names: Iterable[str] | None = None) -> None:
        """Give the file, which is whole, its name: *path*, or one of *names* as `save` does."""
        if self._syncs:
            with self._errors_named():
                os.fsync(self._fd)
        if not _is_at(self._name, self._fd):
            raise OSError(errno.ESTALE, "another file has taken its place", self._name)
        self.path = _place(self._name, self.path, names)
        self._is_complete = True
        self._forget()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        del _files[self]
        try:
            if self._is_complete:
                pass
            elif self._goes_on and self.validator and self._ranges:
                with suppress(OSError):  # what was raised says more; what was noted stays true
                    self._note()
            else:
                if _is_at(self._name, self._fd):
                    _remove(self._name)
                self._forget()
        finally:
            if self._goes_on:  # a forked child may have the file open, and would keep the lock
                fcntl.flock(self._fd, fcntl.LOCK_UN)
            os.close(self._fd)

    # --- what a later run is told -----------------------------------------------------------------

    def _note(self) -> None:
        """Note what there is, once it is on the disk."""
        self._noted = monotonic()
        if not (self._goes_on and self.validator):
            return
        if not _is_at(self._name, self._fd):
            self._forget()  # or a later run would take over what is in another file
            return
        with self._errors_named():
            _sync(self._fd)
            self._replace_state(syncs=True)

    def _state_with(self, ranges: list[tuple[int, int]]) -> bytes:
        """Return what is to be noted, if what is on the disk are *ranges*."""
        import json

        state = {
            "url": self._url,
            "validator": self.validator,
            "size": self.size,
            "ranges": ranges,
        }
        return json.dumps(state).encode()

    def _replace_state(self, *, syncs: bool) -> None:
        state = state_of(self._name)
        new = hidden_for(state)  # which a later run removes, if this one is killed now
        try:
            with open(os.open(new, _STATE, 0o600), "wb") as file:
                file.write(self._state_with(self._ranges))
                file.flush()
                if syncs:
                    os.fsync(file.fileno())
            os.replace(new, state)
        except BaseException:
            _remove(new)
            raise
        self._is_blank = not self._ranges

    def _forget(self) -> None:
        """Have no later run know of what there is."""
        if self._goes_on:
            _remove(state_of(self._name))

    def _read_state(self) -> None:
        """Take over what an earlier run has noted, if it is of the same URL and can be true."""
        state = read_state(self._name)
        try:
            if state is None or state["url"] != self._url:
                return
            self._is_blank = not state["ranges"]
            validator, size = str(state["validator"]), state["size"]
            ranges = [(int(start), int(end)) for start, end in state["ranges"]]
        except (ValueError, TypeError):
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


def _is_at(name: str, fd: int) -> bool:
    """Return True if the open file *fd* is still the one that is called *name*."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(name))
    except FileNotFoundError:
        return False


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
