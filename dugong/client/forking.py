"""What a client is made of begins anew in a forked child.

Guarantees: what is known here is told in the child of each fork, as long as it exists, before that
goes on. Any thread may make something known; a finalizer may come at any time.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakValueDictionary

__all__ = ["begin_anew_in_child"]


class _Renewable(Protocol):
    def _begin_in_child(self) -> None:
        """Begin anew: a thread that does not exist in the child may have the lock."""


#: Those that exist, by their id.
_known: WeakValueDictionary[int, _Renewable] = WeakValueDictionary()


def begin_anew_in_child(renewable: _Renewable) -> None:
    """Have *renewable* begin anew in a forked child."""
    _known[id(renewable)] = renewable


def _after_in_child() -> None:
    for renewable in list(_known.values()):
        renewable._begin_in_child()


os.register_at_fork(after_in_child=_after_in_child)
