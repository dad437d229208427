"""The events of a pool: what *on_event* and other listeners hear of.

Guarantees: a listener is called in the threads of the pool alone, in the order of the events, and
not with the lock held; what it raises is logged, and harms nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from dugong.pool.events import Event, EventKind
from dugong.pool.failure import ends_program

if TYPE_CHECKING:
    from dugong.pool.core.core import PoolCore
    from dugong.pool.core.host import Host
    from dugong.pool.core.job import Job
    from dugong.pool.response import Response, StreamedResponse

__all__ = ["add_listener_locked", "emit", "emit_of"]


def emit(
    core: PoolCore,
    kind: EventKind,
    host: Host,
    connection: str = "",
    reason: str = "",
    since: float | None = None,
) -> None:
    """Have *on_event*, if there is one, called in a thread of the pool.

    *since* is when that was opened which is closed, as `time.monotonic` gives it.
    """
    listener = core.on_event
    if listener is not None:
        now = time.time()
        began = None if since is None else now - (time.monotonic() - since)
        event = Event(kind, now, str(host.origin), connection, None, reason, None, began)
        core.callbacks.add(partial(_notify, listener, event))


def emit_of(
    core: PoolCore,
    kind: EventKind,
    job: Job,
    connection: str,
    reason: str = "",
    outcome: Response | StreamedResponse | Exception | None = None,
) -> None:
    """As `emit`, for an event of *job*. Its sending begins or ends with this, if there is one.

    Called with the lock held.
    """
    listener = core.on_event
    if listener is None:
        return
    now = time.time()
    since, resends = job.sending or (None, 0)
    job.sending = (now, len(job.attempts)) if kind == "sent" else None
    origin = str(job.host.origin)
    event = Event(
        kind,
        now,
        origin,
        connection,
        job.request,
        reason,
        outcome,
        since,
        resends,
        job.extras.trace,
    )
    core.callbacks.add(partial(_notify, listener, event))


def add_listener_locked(core: PoolCore, listener: Callable[[Event], object]) -> None:
    """Have *listener* hear of all further events, beside *on_event*."""
    first = core.on_event
    core.on_event = listener if first is None else partial(_tell_both, first, listener)


def _tell_both(
    first: Callable[[Event], object], second: Callable[[Event], object], event: Event
) -> None:
    try:
        first(event)
    finally:
        second(event)


def _notify(listener: Callable[[Event], object], event: Event) -> None:
    try:
        listener(event)
    except BaseException as exc:
        if ends_program(exc):
            raise
        import logging

        logging.getLogger(__name__).exception("on_event has failed for: %s", event)
