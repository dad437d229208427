"""The names of the files that a `Part` has before it is complete, and whose file a name is.

What goes on in a later run is in ``PATH.part``, or in a hidden file if that name is too long or may
be another file's. What is noted of it is in the same name with ``.state``. A file without a hidden
name is a part if and only if such a state is beside it, which is there before the part is. What
does not go on in a later run has a hidden name that no other file ever has.

Touches no file but those states, and only reads them.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Collection
from contextlib import AbstractContextManager
from itertools import count
from threading import RLock
from typing import Any, Final

__all__ = [
    "check_is_no_part",
    "check_is_no_special",
    "directory_of",
    "hash_of",
    "hidden_for",
    "is_descriptor",
    "is_left",
    "left_among",
    "may_be_part",
    "naming",
    "read_state",
    "state_of",
    "unique_beside",
    "visible_for",
]

_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe would block
_FIELDS: Final = frozenset(("url", "validator", "size", "ranges"))
_LONGEST_STATE = 1024 * 1024
#: Bytes of a name that a hidden one begins with: no file system has a limit below 143.
_LONGEST_STEM = 50

_HIDDEN: Final = re.compile(r"\.(.+)\.([0-9a-f]{16})\.part", re.DOTALL)
_DESCRIPTOR: Final = re.compile(r"/dev/(stdin|stdout|stderr|fd/[0-9]+)|/proc/[^/]+/fd/[0-9]+")
_UNIQUE: Final = re.compile(r"\.dugong-[0-9a-f]{16}-[0-9]+-[0-9]+\.part")

# With the number of the process, no two files have the same unique name.
_token = os.urandom(8).hex()
_numbers = count(1)  # next() of it is atomic, without the GIL, too

_naming = RLock()


def _renew_lock() -> None:
    global _naming  # noqa: PLW0603  # another thread of the parent process may hold it
    _naming = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def naming() -> AbstractContextManager[object]:
    """Return what a download holds while it takes a name for its part, and looks if it may keep it.

    For all threads of this process. Nothing is waited for in it but the file system.
    """
    return _naming


def directory_of(path: str) -> str:
    """Return what *path* begins with, up to the last slash: faster than os.path does."""
    return path[: path.rfind("/") + 1]


def visible_for(path: str) -> str:
    """Return the name that a part of the file *path* has if it can."""
    return f"{path}.part"


def hidden_for(path: str) -> str:
    """Return a hidden name that follows from *path*, is no other file's, and is never too long."""
    directory = directory_of(path)
    name = path[len(directory) :]
    stem = os.fsencode(name)[:_LONGEST_STEM].decode(sys.getfilesystemencoding(), "ignore")
    return f"{directory}.{stem}.{hash_of(name)[:16]}.part"


def unique_beside(path: str) -> str:
    """Return a hidden name beside *path* that no other file ever has."""
    return f"{directory_of(path)}.dugong-{_token}-{os.getpid()}-{next(_numbers)}.part"


def state_of(name: str) -> str:
    """Return the name of the file that says what is in the part *name*."""
    return f"{name}.state"


def read_state(name: str) -> dict[str, Any] | None:
    """Return what is noted of the part *name*; None if that is no part."""
    import json

    try:
        with open(os.open(state_of(name), _READ), encoding="utf-8") as file:
            state = json.loads(file.read(_LONGEST_STATE))
    except (OSError, ValueError, RecursionError):
        return None
    return state if isinstance(state, dict) and state.keys() >= _FIELDS else None


def is_left(path: str) -> bool:
    """Return True if there is a part of the file *path*."""
    return any(
        os.path.lexists(state_of(name)) and read_state(name) is not None
        for name in (visible_for(path), hidden_for(path))
    )


def left_among(names: Collection[str], directory: str) -> set[str]:
    """Return which of *names*, all those in *directory*, are partial files of downloads.

    These have failed, or are under way. No other file is among them: each is a state, or has one
    beside it, or has a name that is unique, or has the digest of a name in its own: that of its
    stem, or of one of *names*. Where nothing shows what it is, a partial file is not among them.
    """
    left: set[str] = set()
    hidden: set[str] = set()
    for name in filter(may_be_part, names):
        path = os.path.join(directory, name)
        if not _is_file(path):
            continue
        match = _HIDDEN.fullmatch(name)
        if (
            _UNIQUE.fullmatch(name)
            or (match is not None and hash_of(match[1])[:16] == match[2])
            or read_state(path.removesuffix(".state")) is not None
        ):
            left.add(name)
        elif match is not None:  # what it begins with may be cut short
            hidden.add(name)
    if hidden:
        known = {hidden_for(each) for name in names for each in (name, state_of(name))}
        left |= known & hidden
    return left


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def may_be_part(path: str) -> bool:
    """Return True if a part, or what is noted of one, can have the name *path*."""
    return path.endswith((".part", ".part.state"))


def check_is_no_part(path: str) -> None:
    """Raise FileExistsError if *path* is a part of another file, or what is noted of one."""
    name = path.removesuffix(".state")
    if may_be_part(path) and read_state(name) is not None:
        with naming():  # what has taken that name may have seen at once that it cannot keep it
            if read_state(name) is not None:
                text = "it is the partial file of another download"
                raise FileExistsError(errno.EEXIST, text, path)


def is_descriptor(path: str) -> bool:
    """Return True if *path* is the name of an open descriptor, whatever that leads to."""
    return _DESCRIPTOR.fullmatch(path) is not None


def check_is_no_special(path: str) -> int | None:
    """Raise OSError if *path* is no file that could be replaced, or a link to what is none.

    Return the permissions of the file that is there; None if there is none.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return None
    if stat.S_ISREG(mode):
        if is_descriptor(path):
            raise OSError(errno.EINVAL, "it is the name of a descriptor", path)
        return mode & 0o777
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise OSError(errno.EINVAL, "it is a device, a pipe or a socket", path)


def hash_of(text: str) -> str:
    """Return what stands for *text*, which may be secret or long."""
    from hashlib import sha256

    return sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
