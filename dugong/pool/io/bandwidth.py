"""Limits on how fast the connections of a pool send and receive.

Guarantees: what all connections of a limit transfer together keeps to its rate but for a moment
(`_CREDIT` and `_AHEAD`); each gets its turn, in the order of the bytes that they have transferred.
Beyond that, nothing is read from a socket, so TCP holds up the server. A wait holds no lock but the
turn of the connection, and ends with the connection. It is no wait for the peer: it does not count
for a timeout. Without a limit, nothing of this is in use. Starts no threads.

What counts are the bytes of HTTP, heads and bodies, before TLS adds its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from threading import RLock
from time import monotonic
from typing import TYPE_CHECKING

from dugong.connection.polling import PollNeeded
from dugong.connection.transport import Transport, TransportLayer

if TYPE_CHECKING:
    from dugong.connection.polling import Coroutine
    from dugong.pool.core.host import Host

__all__ = ["Bandwidth", "BandwidthLimits", "Bucket", "LimitedTransport"]

#: Seconds whose bytes may be made up for, after they were not used: a thread wakes up late.
_CREDIT = 0.04
#: Seconds whose bytes may be transferred ahead of their time, by all connections together.
_AHEAD = 0.025
#: Seconds: a wait that is not longer would cost more than it is worth. The next one will be.
_SHORT = _AHEAD / 4
#: Seconds whose bytes a connection may transfer at least when it has its turn: so many connections
#: do not make so many small steps.
_LEAST = 0.001


class Bucket:
    """Lets *rate* bytes a second pass.

    Any thread may call any method. None waits, and none is at fault in a signal handler or a child
    process.
    """

    def __init__(self, rate: float) -> None:
        #: Any thread may replace it: an attribute that is replaced as a whole needs no lock, in
        #: free-threaded CPython, too.
        self.rate: float = rate
        # Reentrant, for a signal handler may transfer something, too.
        self._lock = RLock()  # a forked child has a new one
        self._process = os.getpid()  # which the lock belongs to
        # When all that has passed is in time; replaced as a whole, with the lock held, so that it
        # can be looked at without it, in free-threaded CPython, too.
        self._free = float("-inf")

    def room(self) -> int:
        """Return how many bytes may be transferred at once by a connection that has its turn.

        That is half of what is left, so that another connection finds room, too.
        """
        ahead = max(0.0, self._free - monotonic())
        return max(1, int(self.rate * max(_LEAST, (_AHEAD - ahead) / 2)))

    def add(self, size: int) -> float:
        """Note that *size* bytes were transferred; return when they are in time (`monotonic`)."""
        if self._process != os.getpid():
            # The lock may belong to a thread of the parent's.
            self._lock, self._process = RLock(), os.getpid()
        with self._lock:
            earliest = monotonic() - _CREDIT
            self._free = max(self._free, earliest) + size / self.rate
            return self._free


class Bandwidth:
    """What some connections share: the rate at which they send, and at which they receive.

    *upload* and *download* are in bytes a second; None: no limit.
    """

    def __init__(self, upload: float | None, download: float | None) -> None:
        self._default = (upload, download)  # never changes
        # Each is replaced as a whole, by one thread at a time, and read by any, in free-threaded
        # CPython, too.
        self.upload: Bucket | None = _bucket(None, upload)
        self.download: Bucket | None = _bucket(None, download)

    def follow(self, upload: float | None, download: float | None) -> None:
        """Keep to these rates from now on; None: to that which this was made with.

        Called by one thread at a time.
        """
        self.upload = _bucket(self.upload, self._default[0] if upload is None else upload)
        self.download = _bucket(self.download, self._default[1] if download is None else download)


def _bucket(bucket: Bucket | None, rate: float | None) -> Bucket | None:
    """Return what keeps to *rate*: that is *bucket*, if there is one, so that its time goes on."""
    if rate is None or bucket is None:
        return None if rate is None else Bucket(rate)
    bucket.rate = rate
    return bucket


class BandwidthLimits:
    """The limits of a pool: *whole* is for all of its connections, *host* for those of each host.

    Both are pairs of a rate to send and a rate to receive, in bytes a second; None: no limit. What
    the policy of a host says comes before *host*.
    """

    def __init__(
        self, whole: tuple[float | None, float | None], host: tuple[float | None, float | None]
    ) -> None:
        # None of these changes.
        self._whole = Bandwidth(*whole)
        self._host_rates = host
        self._exist = any(rate is not None for rate in (*whole, *host))

    def apply_locked(
        self, dial: Callable[[], Coroutine[Transport]], host: Host
    ) -> Callable[[], Coroutine[Transport]]:
        """Return what connects as *dial* does, to *host*, and keeps to the limits."""
        shared = host.bandwidth
        if shared is None:
            policy = None if host.gate is None else host.gate.policy
            rates = (policy.upload_rate, policy.download_rate) if policy else (None, None)
            if not self._exist and rates == (None, None):
                return dial
            shared = host.bandwidth = Bandwidth(*self._host_rates)
            shared.follow(*rates)
        limits = (self._whole, shared)

        def co_dial() -> Coroutine[Transport]:
            return LimitedTransport((yield from dial()), limits)

        return co_dial


class _Pause(PollNeeded):
    """A wait until bytes are in time, or their connection has ended. For one thread.

    No time that is given is too short for it: it is no wait for the peer.
    """

    __slots__ = ("_begun", "has_ended")

    def __init__(self, fd: int) -> None:
        super().__init__(fd, 0)  # for no event: the end of the connection is always reported
        self.has_ended: bool = False  # the connection has, in both directions
        # Seconds, and since when it goes on. Replaced as a whole by the thread that waits, so that
        # others see what belongs together, in free-threaded CPython, too.
        self._begun: tuple[float, float | None] = (0.0, None)

    def block(self, timeout: float | None) -> None:
        total, began = self._begun[0], monotonic()
        self._begun = (total, began)
        try:
            self.know(self.timeout or 0.0)
            self.has_ended = bool(self.poller.poll(self.milliseconds))
        finally:
            self._begun = (total + monotonic() - began, None)

    @property
    def total(self) -> float:
        """How many seconds all waits have taken until now. For any thread."""
        total, began = self._begun
        return total if began is None else total + monotonic() - began


class _Direction:
    """One direction of a connection. For the thread that transfers in it."""

    __slots__ = ("_buckets", "_due", "_find", "held_up_until", "pause")

    def __init__(self, fd: int, find: Callable[[], list[Bucket]]) -> None:
        self._find = find  # returns the limits that there are; never changes
        self._buckets: list[Bucket] = []  # those for what is transferred next
        self._due = 0.0  # when all that was transferred is in time
        self.pause: _Pause = _Pause(fd)  # never changes
        #: When the last wait ends, or has ended; -inf: there was none. Any thread may look at it.
        self.held_up_until: float = float("-inf")

    def room(self) -> int | PollNeeded:
        """Return how many bytes may be transferred now, or what to wait for first."""
        self._buckets = self._find()
        if not self._buckets or self.pause.has_ended:
            return sys.maxsize
        early = self._due - monotonic()
        if early > _SHORT:
            self.held_up_until = self._due
            self.pause.timeout = early
            return self.pause
        return min([bucket.room() for bucket in self._buckets])

    def add(self, size: int) -> None:
        """Note that *size* bytes were transferred."""
        self._due = max([bucket.add(size) for bucket in self._buckets], default=0.0)


def _uploads(limits: tuple[Bandwidth, ...]) -> list[Bucket]:
    return [bucket for limit in limits if (bucket := limit.upload) is not None]


def _downloads(limits: tuple[Bandwidth, ...]) -> list[Bucket]:
    return [bucket for limit in limits if (bucket := limit.download) is not None]


class LimitedTransport(TransportLayer):
    """Transfers over *inner* no faster than all of *limits* allow."""

    __slots__ = ("_offered", "_receiving", "_sending")

    def __init__(self, inner: Transport, limits: tuple[Bandwidth, ...]) -> None:
        super().__init__(inner)
        fd = inner.sock.fileno()
        self._sending = _Direction(fd, partial(_uploads, limits))  # the sending thread's
        self._receiving = _Direction(fd, partial(_downloads, limits))  # the receiving thread's
        #: How many bytes were to be sent before a wait for the socket, which are to be sent still.
        self._offered = 0  # the sending thread's

    def recv_into(self, view: memoryview) -> int | PollNeeded:
        room = self._receiving.room()
        if not isinstance(room, int):
            return room
        got = super().recv_into(view if room >= len(view) else view[:room])
        if isinstance(got, int):
            self._receiving.add(got)
        return got

    def send(self, data: bytes | memoryview) -> int | PollNeeded:
        room: int | PollNeeded = self._offered or self._sending.room()
        if not isinstance(room, int):
            return room
        sent = super().send(data if room >= len(data) else memoryview(data)[:room])
        if isinstance(sent, int):
            self._offered = 0
            self._sending.add(sent)
        else:
            self._offered = room  # TLS wants to be given the same again
        return sent

    @property
    def can_send_files(self) -> bool:
        return self._inner.can_send_files

    def send_file(self, fd: int, offset: int, count: int) -> int | PollNeeded:
        room = self._sending.room()
        if not isinstance(room, int):
            return room
        sent = self._inner.send_file(fd, offset, min(count, room))
        if isinstance(sent, int):
            self._sending.add(sent)
        return sent

    @property
    def paused(self) -> float:
        return self._receiving.pause.total

    @property
    def held_up_until(self) -> float:
        return self._sending.held_up_until
