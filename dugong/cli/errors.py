"""What ends a command with a line for the user."""

from __future__ import annotations

__all__ = ["UsageError"]


class UsageError(Exception):
    """A command line makes no sense; the message says why."""
