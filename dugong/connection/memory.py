"""A bounded memory of what was worked out before, for what comes again and again.

Guarantees: what is looked up is right, remembered or not. Any thread may use it, as it is only ever
read, added to and cleared, single operations of a dict that need no lock; an entry that is lost
costs time, not correctness. Touches nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import TypeVar

__all__ = ["LONGEST", "Memory"]

K = TypeVar("K", bound=Sized)
V = TypeVar("V")

_MOST = 1024
#: The longest key that is remembered, in characters or bytes.
LONGEST = 256


class Memory(dict[K, V]):
    """``memory[key]`` is what *work_out* returns, or raises, for *key*.

    Remembers up to *most* results, for keys of up to 256 characters or bytes.
    """

    __slots__ = ("_most", "_work_out")

    def __init__(self, work_out: Callable[[K], V], most: int = _MOST) -> None:
        self._work_out = work_out
        self._most = most

    def __missing__(self, key: K) -> V:
        value = self._work_out(key)
        if len(key) <= LONGEST:
            if len(self) >= self._most:
                self.clear()
            self[key] = value
        return value
