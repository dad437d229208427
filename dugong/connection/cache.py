"""A bounded cache of what was worked out before, for what comes again and again.

Guarantees: a lookup gives the right value, cached or not. Any thread may use a cache without a
lock: it is only looked up, added to and cleared, each of which is one atomic operation of a dict,
in free-threaded CPython too. An entry that is lost costs time, not correctness. Touches nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import TypeVar

__all__ = ["MAX_KEY_SIZE", "BoundedCache"]

K = TypeVar("K", bound=Sized)
V = TypeVar("V")

_MAX_ENTRIES = 1024
#: The longest key that is cached, in characters or bytes.
MAX_KEY_SIZE = 256


class BoundedCache(dict[K, V]):
    """``cache[key]`` is what *work_out* returns, or raises, for *key*.

    Keeps up to *max_entries* results, for keys of up to 256 characters or bytes.
    """

    __slots__ = ("_max_entries", "_work_out")

    def __init__(self, work_out: Callable[[K], V], max_entries: int = _MAX_ENTRIES) -> None:
        self._work_out = work_out  # never changes
        self._max_entries = max_entries  # never changes

    def __missing__(self, key: K) -> V:
        value = self._work_out(key)
        if len(key) <= MAX_KEY_SIZE:
            # Several threads may add at once: then there are a few entries more, for a while.
            if len(self) >= self._max_entries:
                self.clear()
            self[key] = value
        return value
