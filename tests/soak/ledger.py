"""The ledger of a soak: what was asked for, what came of it, and whether it balances.

Guarantees: any thread may call any method. Knows no pool.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Ask", "Ledger"]

_MANY = 20  # problems that are worth printing


class Ask(NamedTuple):
    """A request: which one, and whether the server may see it only once.

    Not counted is what the server has disclaimed.
    """

    number: str
    kind: str
    once: bool


class Ledger:
    """The outcome of each `Ask`, in a word, and the problems that were found.

    The words: "answered" (it got the right response); "refused" (the response says so); "failed"
    and why, or "unsent" if the exception says that nothing was sent; "cancelled"; "left" (a stream,
    before its end); "dropped" (by an iterator that was left).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, Ask] = {}
        self._ended: list[tuple[Ask, str]] = []
        self.submitted = 0
        self.outcomes: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.problems: list[str] = []

    def submit(self, ask: Ask) -> None:
        """*ask* is handed to a pool."""
        with self._lock:
            self.submitted += 1
            self._open[ask.number] = ask

    def end(self, ask: Ask, outcome: str, why: str = "") -> None:
        """*ask* is over."""
        with self._lock:
            if self._open.pop(ask.number, None) is None:
                self.problems.append(f"{ask} has ended twice, now as {outcome} {why}")
                return
            self._ended.append((ask, outcome))
            self.outcomes[f"{outcome} {why}".strip()] += 1

    def problem(self, what: str) -> None:
        """Something is wrong."""
        with self._lock:
            self.problems.append(what)

    @property
    def open(self) -> list[Ask]:
        """What is not over."""
        with self._lock:
            return list(self._open.values())

    def balance(self, seen: Mapping[str, int], taken: Mapping[str, int]) -> None:
        """Compare with how often the server saw, and took whole, each request; begin anew."""
        with self._lock:
            ended, self._ended = self._ended, []
            still, self._open = list(self._open.values()), {}
        for ask in still:
            self.problem(f"nothing has become of {ask}")
        for ask, outcome in ended:
            times = seen.get(ask.number, 0)
            if ask.once and times > 1:
                self.problem(f"{ask}, {outcome}, was sent {times} times")
            if outcome == "unsent" and times:
                self.problem(f"{ask} was said not to have been sent, and came {times} times")
            if outcome in ("answered", "left") and not times:
                self.problem(f"{ask} is {outcome}, and was never asked")
            if outcome == "answered" and ask.once and taken.get(ask.number, 0) != 1:
                self.problem(f"{ask} has succeeded without having come once, and whole")
        if len(ended) + len(still) < len(seen):
            self.problem(f"{len(seen)} requests came, and only {len(ended)} were made")

    def __str__(self) -> str:
        lines = [f"{self.submitted:9} submitted"]
        lines += [f"{count:9} {what}" for what, count in sorted(self.outcomes.items())]
        lines += [f"{count:9} events: {kind}" for kind, count in sorted(self.events.items())]
        lines += [f"PROBLEM: {what}" for what in self.problems[:_MANY]]
        if len(self.problems) > _MANY:
            lines.append(f"and {len(self.problems) - _MANY} more")
        return "\n".join(lines)
