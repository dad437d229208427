"""The display of how far a command has got, on a terminal, by `rich` (the extra ``cli``).

Guarantees: without a terminal, and in a command that is done soon, `rich` is not imported. What is
displayed has no control characters of a server. The terminal is left as it was.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from dugong.cli import streams

if TYPE_CHECKING:
    from dugong.cli.settings import Settings
    from dugong.cli.tally import Tally

__all__ = ["Display", "can_display", "size_text", "time_text"]

#: Seconds in which a command may be done before anything is displayed.
PATIENCE = 0.3
_INTERVAL = 0.1  # seconds between two pictures
_WINDOW = 3.0  # seconds of which the rate is the average

_SHOWN = 8  # transfers
_NAME = 40  # characters of the name of a transfer


def can_display(settings: Settings) -> bool:
    """Return whether there is a terminal that the user wants something displayed on."""
    if settings.quiet or settings.verbose or sys.stderr is None or not sys.stderr.isatty():
        return False
    from importlib.util import find_spec

    return find_spec("rich") is not None


class Display:
    """Displays *tally* on the terminal at standard error, while the `with` block runs.

    What is written to `sys.stderr` meanwhile stands above it. *clock* is `time.monotonic`, but for
    tests. One thread may use it; it has one of its own.
    """

    def __init__(self, tally: Tally, clock: Callable[[], float] = time.monotonic) -> None:
        # None of these changes.
        self._tally = tally
        self._clock = clock
        self._began = clock()
        self._ended = Event()
        self._thread = Thread(target=self._run, name="dugong-display", daemon=True)
        # When how many bytes had been transferred; of the thread of the display.
        self._past: deque[tuple[float, int]] = deque([(self._began, 0)])

    def __enter__(self) -> Display:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        if self._ended.wait(PATIENCE):
            return
        try:
            self._show()
        except Exception:
            pass  # a terminal that has gone away, say, is no reason to stop the transfers

    def _show(self) -> None:
        from rich.console import Console
        from rich.live import Live

        live = Live(
            self.picture(),
            console=Console(stderr=True, markup=False, highlight=False),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
        )
        with live:
            while not self._ended.wait(_INTERVAL):
                live.update(self.picture(), refresh=True)

    def picture(self) -> Any:
        """Return what is displayed now, for `rich`."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        transfers = self._tally.transfers()
        head = Text(self._head(sum(transfer.done for transfer in transfers)), overflow="ellipsis")
        table = Table.grid(padding=(0, 2))
        for transfer in transfers[:_SHOWN]:
            done, size = transfer.done, transfer.size
            amount = size_text(done) if size is None else f"{size_text(done)} of {size_text(size)}"
            bar = ProgressBar(total=size, completed=done, width=20, pulse=size is None)
            table.add_row(Text(_shortened(transfer.name)), bar, Text(amount))
        if len(transfers) > _SHOWN:
            table.add_row(Text(f"and {len(transfers) - _SHOWN} more"))
        return Group(head, table) if transfers else head

    def _head(self, under_way: int) -> str:
        """Return the line for all together; *under_way* are the bytes of what has not ended."""
        tally, now = self._tally, self._clock()
        size = tally.size + under_way
        past = self._past
        past.append((now, size))
        while len(past) > 2 and past[1][0] <= now - _WINDOW:
            past.popleft()
        seconds = now - past[0][0]
        rate = max(0, size - past[0][1]) / seconds if seconds else 0.0
        done = f"{tally.succeeded:,}" + ("" if tally.count is None else f" of {tally.count:,}")
        failed = f", {tally.failed:,} failed" if tally.failed else ""
        return (
            f"{done} done{failed}  {size_text(size)}  {size_text(int(rate))}/s"
            f"  {time_text(now - self._began)}"
        )

    def summary(self) -> str:
        """Return a line that says what was done."""
        tally = self._tally
        failed = f", {tally.failed:,} failed" if tally.failed else ""
        seconds = self._clock() - self._began
        return f"{tally.succeeded:,} done{failed}: {size_text(tally.size)} in {seconds:.1f} s"


def size_text(size: int) -> str:
    """Return *size* in bytes as people read it."""
    value = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def time_text(seconds: float) -> str:
    """Return *seconds* as minutes and seconds, or hours, minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _shortened(name: str) -> str:
    name = streams.printable(name)
    if len(name) <= _NAME:
        return name
    half = (_NAME - 3) // 2
    return f"{name[:half]}...{name[-half:]}"
