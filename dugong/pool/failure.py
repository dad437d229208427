"""An exception for each request, with the verdict how far that one got. Touches nothing."""

from __future__ import annotations

import copy

from dugong.errors import Delivery

__all__ = ["failure"]


def failure(error: Exception, delivery: Delivery) -> Exception:
    """Return *error* as an exception of one request's own."""
    try:
        own = copy.copy(error)
    except Exception:  # a class that cannot be copied, from a caller's body
        own = error
    own.__traceback__ = None
    own.__cause__ = error.__cause__
    own.delivery = delivery  # type: ignore[attr-defined]  # OSErrors have a dict, too
    return own
