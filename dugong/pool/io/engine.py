"""What a pool knows of a protocol: the engine of one connection.

An engine sends requests and receives responses; it decides nothing about which, when or again.
HTTP/1.1 (`dugong.pool.io.http1`) is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from dugong.connection.peer import PeerInfo
from dugong.errors import Delivery
from dugong.headers import Headers

if TYPE_CHECKING:
    from dugong.pool.core.job import Job

__all__ = ["Completion", "Engine", "Exchange"]


class Exchange(Protocol):
    """The engine's record of one sending of a request."""

    key: Job  # the request; never changes
    persistent: bool  # the connection goes on behind the response; once that has come
    minor_version: int  # the x of the HTTP/1.x of the response; once that has come
    trailers: Headers  # behind the body of the response; once that has been read


#: (exchange, status, reason, header fields as a `Response` takes them, length of the body or None
#: if that is not known, the body or None if it is still to be read). A status below 200 is the 100
#: that the request was waiting for.
Completion = tuple[Exchange, int, str, Headers | bytes, int | None, bytes | None]


class Engine(Protocol):
    """One connection. One thread may send while another receives.

    `abort`, `verdict`, `has_arrivals` and the properties may be used by any thread, and never wait.
    """

    @property
    def capacity(self) -> int:
        """How many requests may be in flight at most, as far as the protocol goes."""

    @property
    def peer(self) -> PeerInfo:
        """What the connection leads to, once `connect` has returned."""

    @property
    def is_awaiting(self) -> bool:
        """Whether a response is due, to a request that `send` has begun to send."""

    @property
    def has_unread(self) -> bool:
        """Whether a response is due, or the rest of one is to be read."""

    @property
    def has_stray_bytes(self) -> bool:
        """Whether something was received that has not been read."""

    @property
    def was_ended_by_peer(self) -> bool:
        """Whether the last response has said, or shown, that none comes behind it."""

    @property
    def keep_alive_timeout(self) -> float | None:
        """For how many seconds the server keeps an idle connection open, if it has said so."""

    @property
    def paused(self) -> float:
        """For how many seconds receiving has waited for a limit of ours, all waits together."""

    @property
    def held_up_until(self) -> float:
        """Until when sending waits, or has last waited, for a limit of ours; -inf: never.

        By `time.monotonic`.
        """

    @property
    def gave_up_sending(self) -> bool:
        """Whether the sending thread has ended the connection, for it could not send a request.

        It is on its way to say why.
        """

    def is_at_rest(self, keep_alive: float | None) -> bool:
        """Return True if `has_stray_bytes` is False, and `keep_alive_timeout` is *keep_alive*."""

    # --- for the thread that sends ---

    def connect(self, timeout: float | None) -> None:
        """Connect, blocking; *timeout* is in seconds. Raises what went wrong."""

    def send(self, batch: Sequence[Job], begun: Callable[[], None] | None) -> None:
        """Send requests in one go, blocking, but for bodies that go piece by piece.

        Only the last may have such a body. *begun* is called once a response may come.
        """

    def send_body(
        self, job: Job, wait_for_continue: Callable[[Callable[[], bool]], object]
    ) -> None:
        """Send the body of *job*, which `send` has sent, piece by piece, blocking.

        *wait_for_continue* waits until what it is given returns False, or some time has passed. A
        response below 300 does not end this, even if it is the last of the connection. Raises
        `ConnectionClosed` if another one does, or a final response instead of 100 (Continue).
        """

    # --- for the thread that receives ---

    def receive(self) -> tuple[list[Completion], Exception | None]:
        """Receive a response, blocking, and all others that have come with it, in order.

        Only the last may have a body that is still to be read. The exception is what came behind.
        """

    def readinto(self, view: memoryview, timeout: float | None) -> int:
        """Receive the next part of the body that is to be read into *view*; 0 is its end."""

    def read(self, size: int, timeout: float | None) -> bytes:
        """Receive up to *size* bytes of the body that is to be read; b"" is its end."""

    def finish_body(self, most: int, timeout: float | None) -> bool:
        """Read the rest of the body, if it is known to be at most *most* bytes; drop it.

        That may take up to *timeout* seconds. Returns whether all of the body has been read, so
        that the next response may follow.
        """

    # --- for a thread that does both ---

    def exchange(self, job: Job) -> tuple[list[Completion], Exception | None]:
        """Send *job*, which has no body that goes piece by piece, and receive its response.

        The same as `send`, whose exceptions it raises, and then `receive`, on an idle connection.
        If nothing went wrong, there is one completion: that of the final response.
        """

    # --- for any thread ---

    def verdict(self, job: Job, is_oldest: bool, failure: Exception | None) -> Delivery:
        """Return how far *job* has got; *is_oldest* says that its response comes next.

        *failure* is why the connection has ended, if it has.
        """

    def has_arrivals(self, oldest: Job) -> bool:
        """Return True if something has come that the receiving thread has not reported yet.

        *oldest* is the request whose response comes next. A part of that which has been received is
        nothing of the kind, but all of it is. Another thread may change this at any moment.
        """

    def abort(self) -> None:
        """End the connection; a thread that waits for it gets `ConnectionClosed`."""

    def release_memory(self) -> None:
        """Give memory back. Only while no request is in flight."""

    def drop(self) -> None:
        """Close the descriptors without a byte on the wire: in a forked child."""
