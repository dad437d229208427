"""What ends a command, or one of the things that it does, with a line for the user."""

from __future__ import annotations

__all__ = ["Failed", "UsageError"]


class UsageError(Exception):
    """A command line makes no sense; the message says why."""


class Failed(Exception):
    """A transfer failed, and will not be tried again. The message says why."""
