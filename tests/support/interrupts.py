"""Raises an exception at the nth point at which a signal handler could raise one.

Python runs signal handlers after calls, when a function is entered, and when a loop begins anew.
What sees each instruction stands for the handler, so that every point of an operation can be tried,
one after the other. It can only raise at the start of the next instruction, so the few points are
left out at which that is within another ``try`` than the one before.
"""

from __future__ import annotations

import dis
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import CodeType, FrameType

from tests.support.instructions import looking_at_instructions
from tests.support.session import Interrupt

__all__ = ["interrupted_at", "points_of"]

#: After these instructions, CPython looks for signals.
_CHECKING = ("CALL", "RESUME", "JUMP_BACKWARD")


@cache
def _checks(code: CodeType) -> frozenset[int]:
    """Return the offsets of the instructions of *code* behind which signals are looked for."""
    return frozenset(
        instruction.offset
        for instruction in dis.get_instructions(code)
        if instruction.opname.startswith(_CHECKING)
    )


@cache
def _handlers(code: CodeType) -> list[tuple[range, int]]:
    """Return which offsets of *code* have which exception handler (see CPython's InternalDocs)."""
    data = iter(code.co_exceptiontable)
    handlers: list[tuple[range, int]] = []

    def number(first: int) -> int:
        value = first & 63
        while first & 64:
            first = next(data)
            value = value << 6 | first & 63
        return value

    for byte in data:
        start, length, target, _ = (number(byte), *(number(next(data)) for _ in range(3)))
        handlers.append((range(2 * start, 2 * (start + length)), target))
    return handlers


def _handler_of(code: CodeType, offset: int) -> int | None:
    return next((target for where, target in _handlers(code) if offset in where), None)


class _Counter:
    """Counts the points that are passed in code below *folder*, and raises at one of them.

    `where` says where that was; it is empty if there are not so many points.
    """

    def __init__(self, folder: str, point: int) -> None:
        self.folder = folder
        self.left = point
        self.passed = 0
        self.where = ""
        self._last: dict[FrameType, int] = {}

    def is_meant(self, filename: str) -> bool:
        return self.folder in filename

    def look(self, frame: FrameType) -> None:
        last = self._last.get(frame)
        self._last[frame] = frame.f_lasti
        code = frame.f_code
        if (
            last is not None
            and last in _checks(code)
            and _handler_of(code, last) == _handler_of(code, frame.f_lasti)
        ):
            self.passed += 1
            self.left -= 1
            if self.left == 0:
                self.where = f"{os.path.basename(code.co_filename)}:{frame.f_lineno}"
                raise Interrupt

    def forget(self) -> None:
        """Forget the frames."""
        self._last.clear()


@contextmanager
def interrupted_at(point: int, folder: str = "/dugong/connection/") -> Iterator[_Counter]:
    """Raise `Interrupt` at *point*, counted from 1, of what the block does in code of *folder*."""
    counter = _Counter(folder, point)
    try:
        with looking_at_instructions(counter.is_meant, counter.look):
            yield counter
    finally:
        counter.forget()


def points_of(operation: Callable[[], object], folder: str = "/dugong/connection/") -> int:
    """Return how many points *operation* has."""
    with interrupted_at(0, folder) as counter:
        operation()
    return counter.passed
