"""The policies of the hosts of a pool, and what waits at their gates.

Guarantees: what waits for the gate of its host (`dugong.pool.core.gate`) is in the queue of that
host, and holds no connection, thread or place. A timer looks when the gate opens by time, and a
response when it opens by that. A policy that was set by hand is kept, though its host is forgotten.
"""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from dugong.pool.core.core import PoolCore
from dugong.pool.core.emitting import emit
from dugong.pool.core.gate import Gate
from dugong.pool.core.host import Host
from dugong.pool.core.locked import locked
from dugong.pool.core.maintenance import Maintenance
from dugong.pool.failure import describe
from dugong.pool.response import status_text

if TYPE_CHECKING:
    from dugong.pool.core.adaptive import Adaptive
    from dugong.pool.core.connection import PooledConnection
    from dugong.pool.core.job import Job
    from dugong.pool.host_policy import HostPolicy
    from dugong.pool.response import Response, StreamedResponse
    from dugong.pool.url import Origin

__all__ = ["HOLDING", "Politeness"]

#: Statuses by which a host says that it is asked too much.
HOLDING = frozenset((429, 503))


class Servers(Protocol):
    """What this part asks of the connection manager."""

    def ensure_all_served_locked(self, host: Host) -> None:
        """See to it that requests which are queued are taken, however many there are."""

    def limit_locked(self, host: Host) -> None:
        """Have *host* keep no more connections than it may have."""

    def retire_locked(self, connection: PooledConnection) -> None:
        """Have *connection* take nothing more and end between responses."""


class Politeness:
    """Keeps the gates of hosts."""

    def __init__(self, core: PoolCore, maintenance: Maintenance) -> None:
        self._core = core  # never changes
        self._maintenance = maintenance  # never changes
        self.servers: Servers  # set once, before the first request
        #: The policies that were set by hand; guarded by the lock. One look-up without it is
        #: atomic, in free-threaded CPython, too.
        self.set_by_hand: dict[Origin, HostPolicy] = {}

    @locked
    def repair_locked(self) -> None:
        """Mend what an interrupt between two steps has left."""
        for host in self._core.hosts.values():
            if host.gate is not None:
                host.gate.timer = None  # it may be missing; a second one does no harm

    # --- policies ---------------------------------------------------------------------------------

    @locked
    def set_locked(self, origin: Origin, policy: HostPolicy | None, otherwise: HostPolicy) -> None:
        """Have the host of *origin* treated by *policy*; None: by *otherwise*, as if never set."""
        if policy is None:
            self.set_by_hand.pop(origin, None)
        else:
            self.set_by_hand[origin] = policy
        host = self._core.hosts.get(origin)
        if host is not None:
            self.follow_locked(host, policy or otherwise)
            self.servers.limit_locked(host)
            self._look_again_locked(host)

    @locked
    def adopt_locked(self, host: Host) -> None:
        """*host* has just become known, or known again: what was set by hand meanwhile counts."""
        policy = self.set_by_hand.get(host.origin)
        if policy is not None and (host.gate is None or host.gate.policy is not policy):
            self.follow_locked(host, policy)

    @locked
    def follow_locked(self, host: Host, policy: HostPolicy) -> None:
        """Treat *host* by *policy* from now on."""
        gate = host.gate
        if gate is None:
            gate = Gate()
            for connection in host.connections:
                # Its last request has started by then: without a gate, nothing has noted when.
                dispatched = [job.dispatched_at for job in connection.in_flight]
                gate.started(0, max([connection.idle_since, *dispatched]))
        before = gate.policy
        if policy.headers != (() if before is None else before.headers):
            self._core.heads.equip(host, policy.headers)
        if policy.pipeline_depth != (None if before is None else before.pipeline_depth):
            host.pipelining.set_depth(policy.pipeline_depth or self._core.limits.pipeline_depth)
        gate.follow(policy)
        host.gate = gate
        rates = policy.upload_rate, policy.download_rate
        if host.bandwidth is not None:
            host.bandwidth.follow(*rates)
        elif rates != (None, None):
            for connection in [each for each in host.connections if not each.is_draining]:
                self.servers.retire_locked(connection)  # it cannot be limited any more

    # --- a host that asks to be left alone --------------------------------------------------------

    @locked
    def hold_locked(self, host: Host, seconds: float, reason: str) -> None:
        """Send nothing more to *host* for so many *seconds*."""
        now = monotonic()
        if not host.is_held(now):
            host.progresses = host.has_progressed
            host.has_progressed = False
            emit(self._core, "learned", host, reason=reason)
        gate = host.gate = host.gate or Gate()
        gate.hold(now + seconds)
        self.wait_locked(host)

    # --- a rate that is found ---------------------------------------------------------------------

    @locked
    def responded_locked(self, host: Host, job: Job, response: Response | StreamedResponse) -> None:
        """*response* to *job* has come from *host*, which has a gate."""
        gate = host.gate
        if gate is None or gate.adaptive is None:
            return
        now, why = monotonic(), None
        if response.status in HOLDING:
            wait = job.retry.wanted_delay(response.headers)
            if gate.refused(job.dispatched_at, now, wait or 0.0):
                why = status_text(response)
        else:
            why = gate.accepted(job.dispatched_at, now, host.in_flight)
        if why is not None:
            self._emit_fall(host, gate.adaptive, why)

    @locked
    def timed_out_locked(self, host: Host, error: Exception) -> None:
        """A request has timed out with *error* on a connection of *host*."""
        gate = host.gate
        if gate is not None and gate.adaptive is not None:
            now = monotonic()
            if gate.refused(now, now):
                self._emit_fall(host, gate.adaptive, describe(error))

    def _emit_fall(self, host: Host, adaptive: Adaptive, why: str) -> None:
        reason = f"{why}: no more than {adaptive.rate:.3g} requests a second"
        emit(self._core, "learned", host, reason=reason)

    # --- what waits -------------------------------------------------------------------------------

    @locked
    def wait_locked(self, host: Host) -> None:
        """Requests wait at the gate of *host*, which is shut: look when it opens."""
        gate = host.gate
        assert gate is not None
        now = monotonic()
        when = gate.wait(now)
        if gate.timer is not None:
            if gate.timer.when <= when:
                return  # it will look again, if that is too early
            self._maintenance.cancel_locked(gate.timer)
            gate.timer = None
        if when > now:  # or else it is a response that opens the gate
            gate.timer = self._maintenance.at_locked(when, partial(self._look_again_locked, host))

    @locked
    def _look_again_locked(self, host: Host) -> None:
        """See whether the gate of *host* is open."""
        gate = host.gate
        if gate is None:
            return
        if gate.timer is not None:
            self._maintenance.cancel_locked(gate.timer)
            gate.timer = None
        if host.is_held(monotonic()):
            self.wait_locked(host)
            return
        if gate.policy is None:
            host.gate = None
        self.servers.ensure_all_served_locked(host)

    @locked
    def taken_locked(self, host: Host) -> None:
        """A connection has taken what it may from the queue of *host*, which has a gate."""
        gate = host.gate
        assert gate is not None
        if not host.queued:
            gate.pass_by()
        elif host.is_shut(monotonic()):
            self.wait_locked(host)
