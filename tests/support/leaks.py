"""Finds what a test has left behind: threads and open descriptors."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_FDS = "/proc/self/fd"


def _open_descriptors() -> dict[str, str]:
    if not os.path.isdir(_FDS):
        return {}
    found = {}
    for fd in os.listdir(_FDS):
        try:
            found[fd] = os.readlink(f"{_FDS}/{fd}")
        except OSError:
            pass  # the descriptor of the listing itself
    return found


@contextmanager
def no_leaks() -> Iterator[None]:
    """Raise AssertionError if threads, sockets, pipes or epolls are left over at the end."""
    threads = set(threading.enumerate())
    descriptors = set(_open_descriptors().values())
    yield
    gc.collect()
    gc.freeze()  # what is left is no garbage, and not to be looked at again after each test
    left = [thread for thread in threading.enumerate() if thread not in threads]
    assert not left, f"threads left over: {left}"
    new = set(_open_descriptors().values()) - descriptors
    leaked = [name for name in new if name.startswith(("socket:", "pipe:", "anon_inode:"))]
    assert not leaked, f"descriptors left over: {leaked}"
