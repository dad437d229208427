"""What a request fails with, and how far it had got then; what becomes of callbacks that fail.
Touches nothing.
"""

from __future__ import annotations

import copy
from threading import current_thread, main_thread

from dugong.errors import ConnectionClosed, Delivery, DugongError

__all__ = ["Abandoned", "BodyError", "ends_program", "failure", "forget_frames", "in_words"]


class Abandoned(ConnectionClosed):
    """A connection ends because nobody wants what is coming in: no fault of the host's."""

    msg = "the answer that was coming in has been abandoned"


class BodyError(Exception):
    """The caller's body has failed, with an *error* that may look like one of the connection."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"the body of a request could not be read: {error!r}")
        self.error = error


def failure(error: Exception, delivery: Delivery) -> Exception:
    """Return *error*, with the verdict *delivery*, as an exception of one request's own.

    What the network has done may concern many requests; each gets a copy. What a caller's body has
    raised is that caller's, and is left as it is.
    """
    own = error
    if isinstance(error, (DugongError, OSError)):
        own = copy.copy(error)
        own.__cause__ = error.__cause__
        own.__traceback__ = None
    own.delivery = delivery  # type: ignore[attr-defined]  # any exception has a dict
    return own


def in_words(error: BaseException) -> str:
    """Return what *error* says, or its name if it says nothing."""
    return str(error) or type(error).__name__


def forget_frames(error: BaseException | None) -> None:
    """Let go of the frames that *error* was raised in, which refer to whoever keeps the error.

    Not of those of a caller's body, which are the caller's.
    """
    if isinstance(error, BodyError):
        error.__traceback__ = error.__cause__ = error.__context__ = None
    seen: set[int] = set()  # for such a chain may lead back to where it began
    while isinstance(error, (DugongError, OSError)) and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def ends_program(exc: BaseException) -> bool:
    """Return True if *exc*, which a callback has raised in this thread, is to be let through.

    Ctrl-C belongs to the program. A thread of the pool has other requests to see to.
    """
    return not isinstance(exc, Exception) and current_thread() is main_thread()
