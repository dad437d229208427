"""Measures dugong beside its peers and prints how they compare: see README.md.

In each round every client does the same work, in an order that is turned round each time; a ratio
is formed within each round, and the median of these is what counts. So whatever slows the machine
down for a while slows both sides of a ratio, or is an outlier.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable
from statistics import median, quantiles
from typing import NamedTuple

from rig import HERE, ROUND_LIMIT, Rig, RigError

ROOT = HERE.parent
OLD_PYTHON = HERE / ".venv-3.8" / "bin" / "python"


class Measure(NamedTuple):
    """What is made of a round: *value* of (seconds by the clock, of CPU, number of requests)."""

    name: str
    value: Callable[[float, float, int], float]
    text: Callable[[float], str]
    more_is_better: bool


RATE = Measure("rate", lambda wall, _, count: count / wall, lambda x: f"{x:,.0f}/s", True)
CPU = Measure("CPU", lambda _, cpu, count: cpu / count, lambda x: f"{x * 1e6:.1f} us", False)
CPU_GIB = Measure("CPU a GiB", lambda _, cpu, n: cpu / n * 2, lambda x: f"{x:.3f} s", False)
TIME = Measure("time", lambda wall, _, count: wall / count, lambda x: f"{x * 1e3:.2f} ms", False)


class Line(NamedTuple):
    """One line of the table. The ratio is ours by the peer's; None: there is nothing to hold."""

    measure: Measure
    peer: str
    floor: float | None = None
    target: float | None = None


class Work(NamedTuple):
    """Something that all clients of the *lines* do: *count* requests in each of *rounds*."""

    name: str
    title: str
    count: int
    rounds: int
    lines: list[Line]

    @property
    def clients(self) -> list[str]:
        return ["dugong", *dict.fromkeys(line.peer for line in self.lines)]


WORKS = [
    Work(
        "serial",
        "1 KiB GETs, one at a time",
        400,
        21,
        [
            Line(RATE, "raw socket", None, 0.8),
            Line(RATE, "pycurl", 1.0),
            Line(RATE, "http.client", 1.5),
            Line(RATE, "urllib3"),
            Line(RATE, "httpx"),
            Line(RATE, "dugong 3.8.2"),
            Line(CPU, "pycurl", 0.9, 0.6),
            Line(CPU, "raw socket"),
            Line(CPU, "http.client"),
            Line(CPU, "urllib3"),
            Line(CPU, "httpx"),
            Line(CPU, "dugong 3.8.2"),
        ],
    ),
    Work(
        "pipelined",
        "1 KiB GETs, pipelined by two threads",
        4096,
        11,
        [
            Line(RATE, "dugong 3.8.2", 8.0),
            Line(RATE, "raw socket", None, 0.6),
            Line(RATE, "raw socket, 64 a call"),
            Line(CPU, "dugong 3.8.2"),
            Line(CPU, "raw socket"),
        ],
    ),
    Work("bulk", "512 MiB down by readinto", 1, 21, [Line(CPU_GIB, "raw socket", 1.1, 1.02)]),
    Work(
        "bulk-tls", "512 MiB down by readinto, TLS", 1, 15, [Line(CPU_GIB, "raw socket", 1.1, 1.02)]
    ),
    Work("import", "import", 1, 31, [Line(TIME, "http.client", 1.5, 1.0)]),
]

#: Performs one round of a work; returns the seconds by the clock and of CPU.
Participant = Callable[[], tuple[float, float]]

_PROGRAMS = {
    "dugong": "dugong",
    "dugong 3.8.2": "dugong",
    "raw socket": "raw",
    "raw socket, 64 a call": "raw",
    "http.client": "http_client",
    "pycurl": "pycurl",
    "urllib3": "urllib3",
    "httpx": "httpx",
}


def participant(rig: Rig, work: Work, name: str) -> Participant:
    """Make the client called *name* ready for *work*; raise `RigError` if it does not work."""
    if work.name == "import":
        return lambda: time_of_import(name)
    if name == "dugong 3.8.2":
        client = rig.client(_PROGRAMS[name], OLD_PYTHON, PYTHONPATH="")
    else:
        client = rig.client(_PROGRAMS[name], PYTHONPATH=str(ROOT))
    work_name = "pipelined-in-batches" if name.endswith("64 a call") else work.name

    def perform() -> tuple[float, float]:
        took = client.perform(work_name, work.count)
        return took["wall"], took["cpu"]

    return perform


def time_of_import(module: str) -> tuple[float, float]:
    """Import *module* in a fresh interpreter that knows nothing but the standard library and us."""
    program = (
        "import sys, time; sys.path.insert(0, sys.argv[1]);"
        "cpu, wall = time.process_time(), time.perf_counter();"
        f"import {module};"
        "print(time.perf_counter() - wall, time.process_time() - cpu)"
    )
    command = [sys.executable, "-I", "-c", program, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=ROUND_LIMIT)
    wall, cpu = map(float, done.stdout.split())
    return wall, cpu


def run(rig: Rig, work: Work, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Perform *rounds* of *work*; return what each took, for each client that works."""
    ready: dict[str, Participant] = {}
    for name in work.clients:
        try:
            perform = participant(rig, work, name)
            perform()  # not counted: connects, and fills what caches there are
            ready[name] = perform
        except RigError as exc:
            if name == "dugong":
                raise
            print(f"{exc}: left out", file=sys.stderr)
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in ready}
    order = list(ready)
    for _ in range(rounds):
        for name in order:
            took[name].append(ready[name]())
        order.reverse()
    return took


def verdict(line: Line, ratio: float) -> str:
    """Return what *ratio* means for the floor and the target of *line*."""

    def holds(limit: float | None) -> bool:
        return limit is not None and (
            ratio >= limit if line.measure.more_is_better else ratio <= limit
        )

    if holds(line.target):
        return "target met"
    if holds(line.floor):
        return "floor met" if line.target else "met"
    if line.floor or line.target:
        return "below the floor" if line.floor else "below the target"
    return ""


def table(work: Work, took: dict[str, list[tuple[float, float]]]) -> list[tuple[str, ...]]:
    """Return the lines of the table for *work*."""
    rows = []
    for line in work.lines:
        if line.peer not in took:
            continue
        measure = line.measure
        ours, theirs = (
            [measure.value(wall, cpu, work.count) for wall, cpu in took[name]]
            for name in ("dugong", line.peer)
        )
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        ratio = median(ratios)
        low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else [ratio] * 3
        sign = ">=" if measure.more_is_better else "<="
        rows.append(
            (
                f"{work.title}: {measure.name}",
                measure.text(median(ours)),
                line.peer,
                measure.text(median(theirs)),
                f"{ratio:.2f} ({low:.2f}-{high:.2f})",
                f"{sign} {line.floor}" if line.floor else "",
                f"{sign} {line.target}" if line.target else "",
                verdict(line, ratio),
            )
        )
    return rows


_HEAD = ("work", "ours", "peer", "the peer's", "ratio", "floor", "target", "verdict")
_WIDTHS = (47, 10, 21, 10, 18, 7, 7, 0)


def print_row(cells: tuple[str, ...]) -> None:
    print("  ".join(cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True)).rstrip())


def stop_once_told() -> None:
    """Have SIGTERM and SIGINT end the program by way of its clean-up, which is not disturbed."""

    def stop(*_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        sys.exit("stopped")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/run", description="Compare dugong's speed.")
    parser.add_argument(
        "--only",
        action="append",
        choices=[work.name for work in WORKS],
        help="measure this work only (may be repeated)",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of each work")
    parser.add_argument("--quick", action="store_true", help="a third of the rounds")
    options = parser.parse_args()
    stop_once_told()

    works = [work for work in WORKS if not options.only or work.name in options.only]
    try:
        with Rig() as rig:
            print(f"{rig.cpus}; ratios are medians of paired rounds (with their quartiles)\n")
            print_row(_HEAD)
            for work in works:
                rounds = options.rounds or (work.rounds // 3 if options.quick else work.rounds)
                for row in table(work, run(rig, work, max(1, rounds))):
                    print_row(row)
                sys.stdout.flush()
    except RigError as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
