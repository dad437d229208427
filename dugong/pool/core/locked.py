"""Methods of the parts of a pool that are to be called with its lock held.

Guarantees: under ``python -X dev``, a call without the lock is an AssertionError; without that, the
mark costs nothing.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    from dugong.pool.core.core import PoolCore

__all__ = ["locked"]


class _HasCore(Protocol):
    @property
    def _core(self) -> PoolCore: ...


P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=_HasCore)


def locked(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Mark *method*, whose name ends in ``_locked``: it is called with the lock held.

    Under ``python -X dev``, a call without the lock is an AssertionError, but for what goes on in a
    child that was forked in the middle of a transaction.
    """
    if not sys.flags.dev_mode:
        return method

    def checked(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        core = self._core
        is_locked = core.is_locked_here() or core.parents_hosts
        assert is_locked, f"{method.__name__} was called without the lock"
        return method(self, *args, **kwargs)

    functools.update_wrapper(checked, method)
    return checked
