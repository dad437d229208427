"""What happens in a pool, for the *on_event* of a pool. Touches nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dugong.errors import printable

if TYPE_CHECKING:
    from dugong.pool.request import Request
    from dugong.pool.response import Response, StreamedResponse

__all__ = ["Event", "EventKind"]

EventKind = Literal[
    "opened",
    "closed",
    "sent",
    "answered",
    "hedged",
    "resent",
    "gave up",
    "cancelled",
    "learned",
    "limited",
]


class Event(NamedTuple):
    """Something that has happened in a pool. ``str(event)`` says it in a line.

    `kind` is one of

    * "opened", "closed": a connection was, or it could not be opened, which is also "closed";
    * "sent": a request was given to a connection;
    * "answered": its response has come, or the head of one that is streamed;
    * "hedged": its response has not begun in time, and it is about to be sent on another connection
      as well;
    * "resent": it goes back to the queue, to be sent again, after a failure or because it has
      waited behind a slow response; or it goes on with its other sending, for this one has failed;
    * "gave up": it has failed, or its response is final, though the policy retries such responses;
    * "cancelled": its caller has cancelled it after it was sent, before its response came, or the
      response to its other sending was faster;
    * "learned": the host has shown how it has to be treated;
    * "limited": the system has no descriptor or no thread for another connection, so that fewer are
      opened for a while. Told once a second at most.

    `when` is in seconds, as `time.time` gives them, `origin` is as in ``https://host:8443``,
    `connection` is a name or "", `request` is None for what concerns the connection or the host,
    and `reason` says why, or what the status of the response is. The text of an event has no query
    in it.

    `outcome` is the response (of which nothing must be read, if it is streamed) or the exception
    that a request is answered, resent or given up with, or None. `since` is set if this event ends
    a connection that was open ("closed"), or the sending of a request: it is when that began, in
    seconds, as `when`. Each sending ends with one event, whatever becomes of the request after it.
    `since` is None if nothing ends. `resends` is how often the request had been sent before.
    `trace` is what `dugong.telemetry` has noted of the call.
    """

    kind: EventKind
    when: float
    origin: str
    connection: str
    request: Request | None
    reason: str
    outcome: Response | StreamedResponse | Exception | None = None
    since: float | None = None
    resends: int = 0
    trace: Any = None

    def __str__(self) -> str:
        where = f" on {self.connection}" if self.connection else ""
        request = self.request
        what = self.origin if request is None else f"{request.method} {request.public_url}"
        why = f": {printable(self.reason)}" if self.reason else ""
        return f"{self.kind} {what}{where}{why}"

    def __repr__(self) -> str:
        return f"<Event {self}>"  # for `trace` may hold anything of the caller's
