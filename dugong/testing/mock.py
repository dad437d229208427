"""`MockPool`: a pool whose requests are responded to by a function.

Guarantees: all but the network is that of `ConnectionPool`: queueing, pipelining, retries,
deadlines, futures, streams, events and statistics. Touches no socket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dugong.pool.pool import ConnectionPool
from dugong.testing.engine import MockEngine
from dugong.testing.messages import MockRequest, MockResponse, response_of

if TYPE_CHECKING:
    from dugong.pool.body import BodyLike
    from dugong.pool.core.host import Host
    from dugong.pool.dialer import Dialer
    from dugong.pool.io.bandwidth import BandwidthLimits
    from dugong.pool.recording import Record

__all__ = ["MockPool", "Respond"]

#: From a request to its response.
Respond = Callable[[MockRequest], "MockResponse | int | str | dict[str, Any] | BodyLike"]


class MockPool(ConnectionPool):
    """A `ConnectionPool` whose responses come from *respond*, and not from the network.

    *respond* is called with each `MockRequest`, and returns a `MockResponse`; or an int, which is
    the status of an empty response; or the body of a response 200, as `MockResponse` takes it. If
    it raises a `DugongError`, the connection ends with that, and the pool treats the request like
    any other: it retries it, if its policy says so. An error made by `failed` says how far the
    request had got. With any other error, all of it had been sent; or nothing, if the error says
    that the connection could not be opened. Any other exception of *respond* reaches the caller.

    It is called in a thread of the pool or in that of a call, by several threads at a time for
    several connections, so it must not wait: *delay* of a response does that. The requests of one
    connection are responded to one after the other.

    *options* are those of `ConnectionPool`, but for *record*. The pool waits between retries as
    always: to avoid that in a test, give it a *retry* without a backoff.

    Raises TypeError and ValueError as `ConnectionPool`. Guarantees: those of `ConnectionPool`.
    """

    def __init__(self, respond: Respond, **options: Any) -> None:
        if not callable(respond):
            raise TypeError(f"respond must be callable, not {respond!r}")
        self._server = _Server(respond)  # never changes
        super().__init__(**options)

    @property
    def requests(self) -> list[MockRequest]:
        """The requests that have come so far, in the order in which *respond* was asked.

        Each sending of a request is one. Any thread may read it; the list is the caller's.
        """
        return list(self._server.requests)

    def _engine_maker(
        self, dialer: Dialer, bandwidth: BandwidthLimits, record: Record | None
    ) -> Callable[[Host], MockEngine]:
        if record is not None:
            raise ValueError("nothing of a MockPool is on the wire, so there is nothing to record")
        respond = self._server.respond
        return lambda host: MockEngine(respond)


class _Server:
    """What all connections of a pool lead to."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond  # never changes
        # All threads that receive append to it, and any may copy it: both are atomic operations of
        # a list, in free-threaded CPython, too.
        self.requests: list[MockRequest] = []

    def respond(self, request: MockRequest) -> MockResponse:
        self.requests.append(request)
        return response_of(self._respond(request))
