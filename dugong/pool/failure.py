"""An exception for each request, with the verdict how far that one got. Touches nothing."""

from __future__ import annotations

import copy

from dugong.errors import Delivery, DugongError

__all__ = ["failure", "forget_frames"]


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


def forget_frames(error: BaseException | None) -> None:
    """Let go of the frames that *error* was raised in, which refer to whoever keeps the error.

    Not of those of a caller's body.
    """
    while isinstance(error, (DugongError, OSError)):
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
