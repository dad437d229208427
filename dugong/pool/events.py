"""What happens in a pool, for the *on_event* of a pool. Touches nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from dugong.errors import printable

if TYPE_CHECKING:
    from dugong.pool.request import Request

__all__ = ["Event", "EventKind"]

EventKind = Literal[
    "opened", "closed", "sent", "answered", "resent", "gave up", "learned", "limited"
]


class Event(NamedTuple):
    """Something that has happened in a pool. ``str(event)`` says it in a line.

    `kind` is one of

    * "opened", "closed": a connection was, or it could not be opened, which is also "closed";
    * "sent": a request was given to a connection;
    * "answered": its response has come, or the head of one that is streamed;
    * "resent": it goes back to the queue, to be sent again, after a failure or because it has
      waited behind a slow response;
    * "gave up": it has failed, or its response is final though it is worth another attempt;
    * "learned": the host has shown how it has to be treated;
    * "limited": the system has no descriptor or no thread for another connection, so that fewer are
      opened for a while. Told once a second at most.

    `when` is in seconds, as `time.time` gives them, `origin` is as in ``https://host:8443``,
    `connection` is a name or "", `request` is None for what concerns the connection or the host,
    and `reason` says why, or what the status of the response is. The text of an event has no query
    in it.
    """

    kind: EventKind
    when: float
    origin: str
    connection: str
    request: Request | None
    reason: str

    def __str__(self) -> str:
        where = f" on {self.connection}" if self.connection else ""
        request = self.request
        what = self.origin if request is None else f"{request.method} {request.public_url}"
        why = f": {printable(self.reason)}" if self.reason else ""
        return f"{self.kind} {what}{where}{why}"
