"""The points at which something may interrupt a thread, and what is done at one of them.

A point is where CPython looks for signals: where a Python function begins or a generator goes on,
where a loop jumps back, and behind each call. Before a call that may block counts too, since that
one is given up when a handler raises. Nothing is raised elsewhere, for no signal handler runs there
(the exit of ``with lock:`` cannot be interrupted before the lock has been released).

Signal handlers run in the main thread, so exceptions are raised there; finalizers run in the
threads of the pool, too. What counts is the code of dugong, and what the standard library runs for
it in Python (threading, contextlib, weakref, queue, concurrent.futures).
"""

from __future__ import annotations

import dis
import functools
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, NamedTuple

__all__ = ["Interrupt", "Interrupter", "Point", "where"]

_DUGONG = os.sep + "dugong" + os.sep
_STDLIB = tuple(
    os.sep + name
    for name in (
        "threading.py",
        "contextlib.py",
        "weakref.py",
        "queue.py",
        os.path.join("futures", "_base.py"),
    )
)
_MAY_BLOCK = frozenset(
    "acquire recv recv_into send sendall sendmsg sendfile connect poll select get put join".split()
)


class Point(NamedTuple):
    """Where something may be raised: the *kind* of point, a file, a line and a function."""

    kind: str
    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.kind} {self.file}:{self.line} in {self.function}"


class _Code:
    """What has to be known of a code object: its calls and jumps, and what handles exceptions."""

    def __init__(self, code: CodeType) -> None:
        instructions = list(dis.get_instructions(code))
        names = {i.offset: i.opname for i in instructions}
        self.calls = {at for at, name in names.items() if name.startswith("CALL")}
        self.calls -= {at for at in self.calls if names[at].startswith("CALL_INTRINSIC")}
        self.resumes = {at for at, name in names.items() if name == "RESUME"}
        self.start = min(self.resumes, default=0)
        self._handlers = dis.Bytecode(code).exception_entries
        # CPython 3.12 looks once it has jumped, so what is raised is handled as at the target. That
        # cannot be done here if the jump itself has another handler.
        self.jumps = {
            i.offset
            for i in instructions
            if i.opname.startswith("JUMP_BACKWARD")
            and self.handler(i.offset) == self.handler(int(i.argval))
        }

    def handler(self, at: int) -> int | None:
        """Return where an exception at the offset *at* is handled."""
        for entry in self._handlers:
            if entry.start <= at < entry.end:
                target: int = entry.target
                return target
        return None


_code_of = functools.cache(_Code)


@functools.cache
def _in_scope(filename: str) -> bool:
    return _DUGONG in filename or filename.endswith(_STDLIB)


class Interrupt(BaseException):
    """Stands for KeyboardInterrupt, which pytest takes for its own."""


class Interrupter:
    """Lists the points of what its `with` block does in `points`, and does *act* at number *at*.

    With None as *at*, nothing is done. If *everywhere* is set, the points of threads that are begun
    meanwhile count, too.
    """

    def __init__(
        self,
        at: int | None = None,
        act: Callable[[], object] = lambda: None,
        everywhere: bool = False,
    ) -> None:
        self.points: list[Point] = []
        self.acted_in = ""
        self._at = at
        self._act = act
        self._everywhere = everywhere
        self._last_c_call: tuple[FrameType, int] | None = None

    def __enter__(self) -> Interrupter:
        if self._everywhere:
            threading.setprofile(self._profile)
            threading.settrace(self._trace)
        sys.setprofile(self._profile)
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        sys.setprofile(None)
        threading.settrace(None)  # type: ignore[arg-type]  # it may be, as for sys
        threading.setprofile(None)

    def _reached(self, kind: str, frame: FrameType) -> None:
        code = frame.f_code
        is_own = _DUGONG in code.co_filename
        file = (os.path.relpath if is_own else os.path.basename)(code.co_filename)
        self.points.append(Point(kind, file, frame.f_lineno or 0, code.co_qualname))
        if self._at is not None and len(self.points) > self._at and not self.acted_in:
            self.acted_in = where(frame)
            tracers = sys.gettrace(), sys.getprofile()
            sys.settrace(None)
            sys.setprofile(None)
            self._act()
            sys.setprofile(tracers[1])
            sys.settrace(tracers[0])

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        if not _in_scope(code.co_filename):
            return None
        if _DUGONG not in code.co_filename and not _called_by_dugong(frame):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        of = _code_of(code)
        if frame.f_lasti <= of.start:
            self._reached("entry of", frame)
            return _FrameTracer(self, of, resumed=False)
        return _FrameTracer(self, of, resumed=True)

    def _profile(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_call" and arg.__name__ in _MAY_BLOCK and self._counts(frame):
            self._reached(f"before {arg.__name__}() in", frame)
        elif event == "c_return" and self._counts(frame):
            self._last_c_call = frame, frame.f_lasti
            self._reached(f"after {arg.__name__}() in", frame)

    def _counts(self, frame: FrameType) -> bool:
        return isinstance(frame.f_trace, _FrameTracer)

    def is_c_call(self, frame: FrameType, at: int) -> bool:
        """Return True if the call at the offset *at* was that of a C function, which is known."""
        return self._last_c_call == (frame, at)


class _FrameTracer:
    """The local trace function of one frame."""

    def __init__(self, interrupter: Interrupter, code: _Code, resumed: bool) -> None:
        self._interrupter = interrupter
        self._code = code
        self._resumed = resumed
        self._last = -1

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if event != "opcode":
            return self
        at, code, last = frame.f_lasti, self._code, self._last
        if at in code.resumes:
            return self
        self._last = at
        if self._resumed:
            self._resumed = False
            self._interrupter._reached("resuming of", frame)
        elif (
            last in code.calls
            and code.handler(last) == code.handler(at)
            and not self._interrupter.is_c_call(frame, last)
        ):
            self._interrupter._reached("after a call in", frame)
        if at in code.jumps:
            self._interrupter._reached("loop in", frame)
        return self


def where(frame: FrameType | None) -> str:
    """Return where *frame* is, and who has called it."""
    return " < ".join(
        f"{os.path.basename(f.f_code.co_filename)}:{f.f_lineno} {f.f_code.co_name}"
        for f in itertools.islice(_callers(frame), 6)
    )


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _called_by_dugong(frame: FrameType) -> bool:
    caller = frame.f_back
    while caller is not None and caller.f_code.co_filename.endswith(_STDLIB):
        caller = caller.f_back
    return caller is not None and _DUGONG in caller.f_code.co_filename
