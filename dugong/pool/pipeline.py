"""One connection of a pool, and what its two threads and the scheduler know about it.

Guarantees: requests go out and are answered in the order of `in_flight`. Starts no threads itself;
`dugong.pool.sender` and `dugong.pool.receiver` are the two loops.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Condition, Lock, RLock
from typing import TYPE_CHECKING

from dugong.connection.polling import Coroutine
from dugong.connection.session import Http1Session
from dugong.connection.transport import Transport

if TYPE_CHECKING:
    from dugong.pool.host import Host
    from dugong.pool.job import Job
    from dugong.pool.timers import Timer

__all__ = ["Pipeline"]


class Pipeline:
    """A connection and the requests that are under way on it.

    `name`, `host`, `session`, `opened` (when, `time.monotonic`) and `max_requests` never change.
    `receiver_parked` is set by the receiver under the lock and read by the sender without: see
    `wake_receiver`. Everything else is guarded by the lock of the scheduler:

    * `in_flight`: the requests that were taken from the queue and not answered, oldest first. The
      receiving thread alone removes from it, so it may look at it without the lock. `reserved` is
      the next one, if that has to be alone.
    * `sending`, `receiving`, `streaming`: the sender, the receiver, or a caller who reads a body is
      at work on the connection. `borrower`: the request that its caller makes by himself there.
    * `sender_parked`: the sender waits at `work`. The receiver waits at `arrivals`.
    * `connected`; `exclusive`: a request that is to be alone is in flight; `blocked`: a long answer
      is coming in; `retiring`: it is too old; `broken`: nothing more can be sent; `ending`: nor
      received. `failure` is why, unless the connection ends in good order, and `end_reason` says it
      in words; `settled`: its requests have been seen to.
    * `uploading`: whose body the sender has; `let_go_at`: when it last let go of one.
    * `sent`, `answered`: how many; `idle_since`: when it last became idle; `idle_timer`:
      looks whether it still is; `age_timer`: of *max_age*.
    """

    __slots__ = (
        "age_timer",
        "answered",
        "arrivals",
        "blocked",
        "borrower",
        "broken",
        "connected",
        "end_reason",
        "ending",
        "exclusive",
        "failure",
        "host",
        "idle_since",
        "idle_timer",
        "in_flight",
        "let_go_at",
        "max_requests",
        "name",
        "opened",
        "receiver_parked",
        "receiving",
        "reserved",
        "retiring",
        "sender_parked",
        "sending",
        "sent",
        "session",
        "settled",
        "streaming",
        "uploading",
        "work",
    )

    def __init__(
        self,
        host: Host,
        lock: Lock | RLock,
        dial: Callable[[], Coroutine[Transport]],
        opened: float,
        max_requests: int | None,
    ) -> None:
        host.numbered += 1
        self.name = f"{host.name}-{host.numbered}"
        self.host = host
        self.session = Http1Session(dial)
        self.opened = opened
        self.max_requests = max_requests
        self.work = Condition(lock)
        self.arrivals = Condition(lock)
        self.in_flight: deque[Job] = deque()
        self.reserved: Job | None = None
        self.retiring = False
        self.connected = False
        self.sending = True  # for it is connecting
        self.receiving = False
        self.borrower: Job | None = None
        self.streaming = False
        self.uploading: Job | None = None
        self.let_go_at = opened
        self.sender_parked = False
        self.receiver_parked = False
        self.exclusive = False
        self.blocked = False
        self.broken = False
        self.ending = False
        self.settled = False
        self.failure: Exception | None = None
        self.end_reason = ""
        self.sent = 0
        self.answered = 0
        self.idle_since = opened
        self.age_timer: Timer | None = None
        self.idle_timer: Timer | None = None

    @property
    def closed_to_more(self) -> bool:
        """True if no request may be sent, whatever is in flight."""
        return (
            self.ending
            or self.broken
            or self.retiring
            or self.exclusive
            or self.blocked
            or self.borrower is not None
            or self.streaming
        )

    @property
    def used_up(self) -> bool:
        """True if the connection is to end once nothing is in flight, as the caller has asked."""
        return self.retiring or (self.max_requests is not None and self.sent >= self.max_requests)

    @property
    def as_new(self) -> bool:
        """True if nothing is in flight and nothing has happened that an idle connection minds."""
        return (
            self.idle_timer is not None
            and self.max_requests is None
            and not (self.ending or self.broken or self.retiring or self.in_flight)
            and self.session.state.buffer.start == self.session.state.buffer.end
        )

    @property
    def unused(self) -> bool:
        """True if nobody is at work on the connection."""
        at_work = self.sending or self.receiving or self.borrower is not None
        return not (at_work or self.streaming)

    def wake_receiver(self) -> None:
        """Wake the receiver, for there is something to wait for. For the sender.

        The receiver says that it is parked before it looks for the last time, and we look whether
        it is after there is something to see: one of the two notices the other.
        """
        if self.receiver_parked and self.borrower is None:
            with self.arrivals:
                self.arrivals.notify()

    @property
    def state(self) -> str:
        """What the connection is doing, in a word."""
        if self.ending:
            return "ending"
        if not self.connected:
            return "connecting"
        if self.streaming:
            return "streaming"
        return "busy" if self.in_flight else "idle"

    def __repr__(self) -> str:
        return (
            f"<Pipeline {self.name} {self.state}, {len(self.in_flight)} in flight, "
            f"{self.answered} answered>"
        )
