"""What can be read once: iterators, pipes and the like, and whether a request has read them.

Guarantees: what was used is known as long as it lives, and kept alive by nothing here. Any thread
may call anything: each step is one operation of a dict, which is atomic in free-threaded CPython,
too.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from types import AsyncGeneratorType, GeneratorType

__all__ = [
    "Rememberable",
    "RememberableFile",
    "can_be_remembered",
    "is_used",
    "mark_used",
    "rememberable",
]

_used: dict[int, weakref.ref[object]] = {}  # by id(); each entry goes before its object does


class Rememberable(Iterator[object]):
    """Stands for an *iterator* that no weak reference can be made to, such as a `map`."""

    __slots__ = ("__weakref__", "_iterator")

    def __init__(self, iterator: Iterator[object]) -> None:
        self._iterator = iterator

    def __iter__(self) -> Iterator[object]:
        return self._iterator

    def __next__(self) -> object:
        return next(self._iterator)


class RememberableFile:
    """Stands for a *file* that no weak reference can be made to."""

    __slots__ = ("__weakref__", "_file")

    def __init__(self, file: object) -> None:
        self._file = file

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


def can_be_remembered(source: object) -> bool:
    """Return True if `mark_used` has an effect on *source*."""
    try:
        weakref.ref(source)
    except TypeError:
        return False
    return True


def rememberable(source: object) -> object:
    """Return *source*, or what stands for it and can be remembered if it may be read only once."""
    if can_be_remembered(source):
        return source
    if callable(getattr(source, "read", None)):
        return RememberableFile(source)
    return Rememberable(source) if isinstance(source, Iterator) else source


def mark_used(source: object) -> None:
    """Remember that a request takes *source* to its end, or has come to its end."""
    if can_be_remembered(source):
        key = id(source)
        _used[key] = weakref.ref(source, lambda _: _used.pop(key, None))


def is_used(source: object) -> bool:
    """Return True if *source* was marked, or is a generator that has ended."""
    if isinstance(source, GeneratorType) and source.gi_frame is None:
        return True
    if isinstance(source, AsyncGeneratorType) and source.ag_frame is None:
        return True
    known = _used.get(id(source))
    return known is not None and known() is source
