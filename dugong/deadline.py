"""One monotonic deadline, carried across the many steps of an operation. Touches only the clock."""

from __future__ import annotations

from time import monotonic

from dugong.errors import ConnectionTimedOut

__all__ = ["Deadline"]


class Deadline:
    """A point in time, *seconds* after the object was made (None: never).

    `when` is that point, in seconds as `time.monotonic` gives them, or None. `seconds` is what the
    deadline was made with, for messages. Immutable, so threads may share it.
    """

    __slots__ = ("seconds", "when")

    def __init__(self, seconds: float | None) -> None:
        self.seconds: float | None = seconds
        self.when: float | None = None if seconds is None else monotonic() + seconds

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """Return the deadline that lies *seconds* ahead; None: never."""
        return cls(seconds)

    @classmethod
    def at(cls, when: float | None) -> Deadline:
        """Return the deadline at *when*, which `time.monotonic` will give then; None: never."""
        own = cls(None)
        own.when = when
        return own

    def later_by(self, seconds: float) -> Deadline:
        """Return this deadline, or one that comes so many *seconds* later."""
        if self.when is None or not seconds:
            return self
        later = Deadline.at(self.when + seconds)
        later.seconds = self.seconds
        return later

    @property
    def expired(self) -> bool:
        """True once the time is over."""
        return self.when is not None and monotonic() >= self.when

    def remaining(self) -> float | None:
        """Return the seconds that are left (never negative), or None if there is no limit."""
        return None if self.when is None else max(0.0, self.when - monotonic())

    def check(self, doing: str) -> None:
        """Raise `ConnectionTimedOut`, saying what was being done, if the time is over."""
        if self.expired:
            after = "" if self.seconds is None else f" after {self.seconds:g} s"
            raise ConnectionTimedOut(f"timed out{after} while {doing}")

    def __repr__(self) -> str:
        left = self.remaining()
        return "<Deadline never>" if left is None else f"<Deadline in {left:.3f} s>"
