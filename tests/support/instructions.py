"""Sees each instruction that CPython executes in some code, and may raise there.

By a trace function; or from Python 3.13 on, where trace functions miss instructions, by
`sys.monitoring`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from types import CodeType, FrameType
from typing import Any

__all__ = ["looking_at_instructions"]

_TOOL = 3  # of the numbers that `sys.monitoring` leaves to anyone


@contextmanager
def looking_at_instructions(
    is_meant: Callable[[str], bool], look: Callable[[FrameType], object]
) -> Iterator[None]:
    """Call *look* before each instruction of this thread in files whose name *is_meant* takes.

    What *look* raises is raised there, and ends this.
    """
    begin = _trace if sys.version_info < (3, 13) else _monitor
    end = begin(is_meant, look)
    try:
        yield
    finally:
        end()


def _trace(
    is_meant: Callable[[str], bool], look: Callable[[FrameType], object]
) -> Callable[[], object]:
    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if not is_meant(frame.f_code.co_filename):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            look(frame)
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 wants it before the trace function
    sys.settrace(trace)
    return lambda: sys.settrace(before)


def _monitor(
    is_meant: Callable[[str], bool], look: Callable[[FrameType], object]
) -> Callable[[], object]:
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined]  # there is one by now
    thread = get_ident()

    def end() -> None:
        monitoring.set_events(_TOOL, 0)
        monitoring.free_tool_id(_TOOL)

    def see(code: CodeType, offset: int) -> Any:
        if not is_meant(code.co_filename):
            return monitoring.DISABLE
        if get_ident() == thread and not over:
            try:
                look(sys._getframe(1))
            except BaseException:
                over.append(True)
                raise
        return None

    over: list[bool] = []
    monitoring.use_tool_id(_TOOL, "looking_at_instructions")
    monitoring.register_callback(_TOOL, monitoring.events.INSTRUCTION, see)
    monitoring.restart_events()
    monitoring.set_events(_TOOL, monitoring.events.INSTRUCTION)
    return end
