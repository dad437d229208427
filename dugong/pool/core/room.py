"""Room for connections: how many there may be, which host gets the next, and how one is made.

Guarantees: there are never more open connections than *max_connections*; a host that waits for a
connection gets one as soon as there is room; hosts that do not respond to a dial keep no room from
those that do; when the system refuses descriptors or threads, no request fails for it as long as
the pool has other connections, or some time may help.

A connection that is being opened is a *dial*. It holds a place among *max_connections* only while
it is prompt. If it is connected later than that, it waits for a place.
"""

from __future__ import annotations

import sys
from time import monotonic
from typing import Protocol

from dugong.pool.core.connection import Phase, PooledConnection
from dugong.pool.core.core import PoolCore
from dugong.pool.core.dispatch import connection_limit, wants_connection
from dugong.pool.core.emitting import emit
from dugong.pool.core.host import Host
from dugong.pool.core.locked import locked
from dugong.pool.core.maintenance import Maintenance

__all__ = ["Room"]

#: Seconds that a connection may be used while hosts that have none wait for room.
TURN_TIME = 1.0
#: Seconds after which a connection that is being opened holds no place among the others.
PROMPT_TIME = 0.25
#: How many connections may be in the middle of being opened. At most half of the descriptors that
#: the process may have.
MAX_DIALS = 1024
#: Seconds without a new connection after the system has refused a descriptor or a thread; twice as
#: many after each further refusal,
MIN_PAUSE = 0.02
#: and at most as many.
MAX_PAUSE = 1.0
#: Seconds after which a few more connections may be opened again than when the system refused.
RISE_TIME = 1.0
#: Seconds in which no thread can be had, and no connection is left, until requests fail for it.
NO_THREAD_TIME = 0.5


class Users(Protocol):
    """What the room asks of the connection manager."""

    def ensure_all_served_locked(self, host: Host) -> None:
        """See to it that requests which are queued are taken, however many there are."""

    def close_locked(self, connection: PooledConnection, reason: str) -> None:
        """Close *connection* in good order."""

    def retire_locked(self, connection: PooledConnection) -> None:
        """Have *connection* take nothing more and end between responses."""


class Room:
    """The places for connections, and the hosts and connections that wait for one."""

    def __init__(self, core: PoolCore, maintenance: Maintenance, users: Users) -> None:
        self._core = core  # never changes
        self._maintenance = maintenance  # never changes
        self._users = users  # never changes
        self._max_dials = min(MAX_DIALS, max(1, _descriptor_limit() // 2))  # never changes
        self.reset()

    def reset(self) -> None:
        """Begin with nothing: also for a child process, after a fork."""
        # All of these are guarded by the lock.
        self._places = 0  # that connections hold: see `PooledConnection.holds_place`
        self._prompt: dict[PooledConnection, None] = {}  # dials that hold one, the oldest first
        self._slow: dict[PooledConnection, None] = {}  # dials that hold none any more
        #: Connections that are connected, and wait for a place.
        self._connected: dict[PooledConnection, None] = {}
        self._serving = False  # `serve_locked` is running
        self._newest_next = False  # the host that came last is the next to get a place
        self._taking_turns = False  # a timer has connections make room
        self._watching_dials = False  # a timer has dials give their places back
        self._ceiling: int | None = None  # of all connections, after the system has refused one
        self._pause = 0.0  # seconds; the last pause after a refusal
        self._paused_until = 0.0  # `time.monotonic`, as are all times here
        self._starved_since: float | None = None  # refusals go on, and there is no connection
        self._made_room_at = 0.0  # for a refusal
        self._told_at = float("-inf")  # of a refusal

    @locked
    def repair_locked(self) -> None:
        """Mend what an interrupt between two steps has left."""
        self._serving = False
        all_connections = [c for host in self._core.hosts.values() for c in host.connections]
        self._places = sum(connection.holds_place for connection in all_connections)
        for host in self._core.hosts.values():
            host.slow_dials = 0
        for dials in (self._prompt, self._slow, self._connected):
            for connection in list(dials):
                if connection.phase is not Phase.CONNECTING:
                    del dials[connection]
        for connection in self._slow:
            connection.host.slow_dials += 1
        if self._core.awaiting_connection:  # timers may be missing; a second one does no harm
            self._taking_turns = self._watching_dials = False
            self._set_timers_locked()
        if self._ceiling is not None:
            self._maintenance.at_locked(monotonic() + RISE_TIME, self._rise_locked)

    # --- a host wants a connection ----------------------------------------------------------------

    def _is_short(self) -> bool:
        """Return True if a connection has to end before another is opened."""
        core = self._core
        return self._places >= core.limits.max_connections or (
            self._ceiling is not None and core.connections >= self._ceiling
        )

    @locked
    def _may_dial_locked(self) -> bool:
        """Return True if another connection may be opened, or may be if an idle one is closed."""
        now = monotonic()
        self._release_places_locked(now)
        dials = len(self._prompt) + len(self._slow) + len(self._connected)
        return now >= self._paused_until and dials < self._max_dials

    @locked
    def find_locked(self, host: Host) -> bool:
        """Return True if *host* may have another connection; close an idle one if that helps.

        If it may not, it gets one as soon as there is room.
        """
        if self._may_dial_locked():
            if self._is_short():
                self._make_room_locked()  # which another host may take
            if not self._is_short() and self._may_dial_locked():
                return True
        self._core.awaiting_connection[host] = None
        self._set_timers_locked()
        return False

    @locked
    def _make_room_locked(self) -> None:
        """End the longest idle connection, of whatever host."""
        longest = next(iter(self._core.idle), None)
        if longest is not None:
            self._users.close_locked(longest, "it made room for another host")

    @locked
    def serve_locked(self) -> None:
        """Give the room that there is to those who wait for it."""
        core = self._core
        while self._connected and self._places < core.limits.max_connections:
            connection = next(iter(self._connected))
            del self._connected[connection]
            self._take_place(connection)
            connection.notify_sender()
        awaiting = core.awaiting_connection
        if not awaiting or self._serving:
            return
        self._serving = True
        for _ in range(len(awaiting)):
            if not awaiting or not self._may_dial_locked() or (self._is_short() and not core.idle):
                break
            # While some hosts do not respond, those that came last might have to wait for all.
            newest = self._newest_next and bool(self._slow)
            host = next(reversed(awaiting) if newest else iter(awaiting))
            del awaiting[host]
            before = core.connections
            self._users.ensure_all_served_locked(host)
            if core.connections > before:
                self._newest_next = not self._newest_next
        self._serving = False

    @locked
    def is_wanted_locked(self, now: float) -> bool:
        """Return True if a connection that becomes idle would better be closed to make room."""
        if not self._is_short():
            return False
        if self._connected:
            return True
        most = self._core.limits.max_connections_per_host
        awaiting = self._core.awaiting_connection
        while awaiting:
            first = next(iter(awaiting))
            if wants_connection(first, connection_limit(first, most), now):
                return True
            del awaiting[first]
        return False

    @property
    def is_awaited(self) -> bool:
        """Whether a host or a connection waits for room."""
        return bool(self._core.awaiting_connection or self._connected)

    # --- the life of a connection -----------------------------------------------------------------

    def _take_place(self, connection: PooledConnection) -> None:
        connection.holds_place = True
        self._places += 1

    def _give_place_back(self, connection: PooledConnection) -> None:
        if connection.holds_place:
            connection.holds_place = False
            self._places -= 1

    @locked
    def begin_locked(self, connection: PooledConnection) -> None:
        """*connection*, which `find_locked` has allowed, is about to be opened."""
        self._take_place(connection)
        self._prompt[connection] = None

    @locked
    def admit_locked(self, connection: PooledConnection) -> bool:
        """Return True if *connection*, which is connected, may be used.

        If it may not yet, its sender is woken when there is a place for it.
        """
        self._prompt.pop(connection, None)
        if connection.holds_place:
            if self._core.awaiting_connection:
                self.serve_locked()  # there is one dial less
            return True
        self._forget_slow(connection)
        self._connected[connection] = None
        if self._places >= self._core.limits.max_connections:
            self._make_room_locked()
        self.serve_locked()
        if not connection.holds_place:
            self._set_timers_locked()
        return connection.holds_place

    def _forget_slow(self, connection: PooledConnection) -> None:
        if connection in self._slow:
            del self._slow[connection]
            host = connection.host
            host.slow_dials -= 1
            if host.queued and not host.slow_dials:
                self._core.awaiting_connection[host] = None  # it may want more than that one

    @locked
    def opened_locked(self) -> None:
        """A connection has been opened, so the system refuses none now."""
        self._pause = 0.0
        self._starved_since = None

    @locked
    def end_locked(self, connection: PooledConnection) -> None:
        """*connection* has been closed. May be called again."""
        self._prompt.pop(connection, None)
        self._forget_slow(connection)
        self._connected.pop(connection, None)
        self._give_place_back(connection)

    # --- dials that take long ---------------------------------------------------------------------

    @locked
    def _release_places_locked(self, now: float) -> None:
        """Have the dials that are not prompt hold no place any more."""
        while self._prompt:
            oldest = next(iter(self._prompt))
            if oldest.opened_at > now - PROMPT_TIME:
                return
            del self._prompt[oldest]
            self._slow[oldest] = None
            oldest.host.slow_dials += 1
            self._give_place_back(oldest)

    @locked
    def _watch_dials_locked(self) -> None:
        self._watching_dials = False
        self._release_places_locked(monotonic())
        self.serve_locked()
        self._set_timers_locked()

    # --- taking turns -----------------------------------------------------------------------------

    @locked
    def _set_timers_locked(self) -> None:
        """See to it that those who wait for room get some in time."""
        if not self.is_awaited:
            return
        if self._prompt and not self._watching_dials:
            self._watching_dials = True
            oldest = next(iter(self._prompt))
            self._maintenance.at_locked(oldest.opened_at + PROMPT_TIME, self._watch_dials_locked)
        if not self._taking_turns:
            self._taking_turns = True
            self._maintenance.at_locked(monotonic() + TURN_TIME, self._take_turns_locked)

    @locked
    def _take_turns_locked(self) -> None:
        """Have connections that have had their turn make room for hosts that have none."""
        starving = sum(not host.connections for host in self._core.awaiting_connection)
        starving += len(self._connected)
        self._taking_turns = starving > 0
        if not starving:
            return
        now = monotonic()
        if self._is_short():
            had_their_turn = [
                connection
                for host in self._core.hosts.values()
                for connection in host.connections
                if connection.opened_at <= now - TURN_TIME
                and connection.was_open
                and not connection.is_draining
            ]
            # First those of the hosts that have most; of these, the oldest.
            had_their_turn.sort(key=lambda c: (-len(c.host.connections), c.opened_at))
            for connection in had_their_turn[:starving]:
                self._users.retire_locked(connection)
        self._maintenance.at_locked(now + TURN_TIME, self._take_turns_locked)

    # --- the system refuses -----------------------------------------------------------------------

    @locked
    def refused_locked(self, connection: PooledConnection, reason: str) -> None:
        """The system has no descriptor or no thread for *connection*, which is to be closed now.

        An idle connection makes room, and fewer are opened for a while.
        """
        core, now = self._core, monotonic()
        others = core.connections - 1
        was_limited = self._ceiling is not None
        self._ceiling = max(1, others if self._ceiling is None else min(self._ceiling, others))
        if now >= self._paused_until:  # or else it was begun before the last refusal
            self._pause = min(max(2 * self._pause, MIN_PAUSE), MAX_PAUSE)
        self._paused_until = now + self._pause
        if others:
            self._starved_since = None
        elif self._starved_since is None:
            self._starved_since = now
        core.awaiting_connection[connection.host] = None
        self._maintenance.at_locked(self._paused_until, self.serve_locked)
        if not was_limited:
            self._maintenance.at_locked(now + RISE_TIME, self._rise_locked)
        self._set_timers_locked()
        # What ends needs a moment to free its descriptor and its threads.
        if now - self._made_room_at >= MIN_PAUSE * 4 or not was_limited:
            self._made_room_at = now
            self._make_room_locked()
        if now - self._told_at >= RISE_TIME:
            self._told_at = now
            emit(core, "limited", connection.host, connection.name, reason=reason)

    @locked
    def _rise_locked(self) -> None:
        """Allow some more connections than the system did when it refused one."""
        if self._ceiling is None:
            return
        self._ceiling += max(1, self._ceiling // 8)
        if self._ceiling >= self._core.limits.max_connections + self._max_dials:
            self._ceiling = None
        else:
            self._maintenance.at_locked(monotonic() + RISE_TIME, self._rise_locked)
        self.serve_locked()

    @locked
    def gives_up_locked(self) -> bool:
        """Return True if no thread can be had, and nothing of the pool can end to give one back.

        Then what waits for a connection is to fail, and what comes later is tried anew.
        """
        since = self._starved_since
        if since is None or self._core.connections:
            return False
        if self._maintenance.is_running and monotonic() - since < NO_THREAD_TIME:
            return False  # threads that are about to end are still counted
        self._starved_since = None
        self._paused_until = self._pause = 0.0
        return True


def _descriptor_limit() -> int:
    """Return how many descriptors the process may have."""
    import resource  # not for those who only import dugong

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit
