"""The signals that end the command: Ctrl-C (SIGINT), SIGHUP and SIGTERM.

Guarantees: from `end_at_once` on, each of them ends the process with the status 128 + its number,
and without a traceback: at once while nothing has begun, or all has ended; else by an exception, so
that no half of a file is left. A signal that is ignored stays ignored. For the main thread.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager

TYPE_CHECKING = False  # as in typing: see `dugong.cli`

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

__all__ = ["Terminated", "end_at_once", "raised"]

_NUMBERS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """The process is to end, with the status that is the only argument."""


def end_at_once() -> None:
    """Have each of the signals that is not ignored, as by nohup, end the process at once.

    An exception would do that, too, but the interpreter loses one that is raised in the middle of
    an import.
    """
    for number in _NUMBERS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end)


@contextmanager
def raised() -> Iterator[None]:
    """Have those that would end the process at once raise a KeyboardInterrupt in the block.

    It is a `Terminated` for all but Ctrl-C.
    """
    ours = [number for number in _NUMBERS if signal.getsignal(number) is _end]
    try:
        for number in ours:
            is_interrupt = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if is_interrupt else _terminate)
        yield
    finally:
        for number in ours:
            signal.signal(number, _end)


def _end(number: int, _: object) -> NoReturn:
    os._exit(128 + number)


def _terminate(number: int, _: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a terminal that is closed may send it twice
    raise Terminated(128 + number)
