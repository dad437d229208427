"""One monotonic deadline, carried across the many steps of an operation. Touches only the clock."""

from __future__ import annotations

from time import monotonic

from dugong.errors import ConnectionTimedOut

__all__ = ["Deadline"]


class Deadline:
    """A point in time that lies *timeout* seconds after the object was made (None: never).

    Immutable, so it may be shared by threads.
    """

    __slots__ = ("_at",)

    def __init__(self, timeout: float | None) -> None:
        self._at = None if timeout is None else monotonic() + timeout

    def remaining(self) -> float | None:
        """Return the seconds that are left (never negative), or None if there is no limit."""
        return None if self._at is None else max(0.0, self._at - monotonic())

    def check(self, doing: str) -> None:
        """Raise `ConnectionTimedOut`, saying what was being done, if the time is over."""
        if self._at is not None and monotonic() >= self._at:
            raise ConnectionTimedOut(f"timed out while {doing}")
