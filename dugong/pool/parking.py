"""What `as_completed` does with requests to hosts that let few start: they keep no others out.

Guarantees: of a host whose gate lets requests start one by one, no more are submitted than keep the
gate busy. The others are parked by host, up to `PARKED` in all, and are submitted in their order.
For one thread at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dugong.pool.core.gate import Gate
    from dugong.pool.core.job import Job
    from dugong.pool.request import Request
    from dugong.pool.url import Origin

__all__ = ["PARKED", "Parking", "gate_of"]

#: How many requests may be parked. For requests to a thousand hosts in any order, all of which let
#: one start in a second, so many give each host a request in 97 of 100 seconds.
PARKED = 32 * 1024

#: Returns the gate of the host of a job. That is looked at once, so without a lock: see there.
gate_of: Callable[[Any], Gate | None] = attrgetter("host.gate")


class Parking:
    """Jobs that were taken from a source, and are not to be submitted yet."""

    def __init__(self) -> None:
        #: How many jobs of hosts with a lead are submitted, and not taken by the consumer yet.
        self.apart: int = 0
        #: How many jobs are parked.
        self.count: int = 0
        # The jobs that are `apart` by request, as often as that was submitted, and by host.
        self._submitted: dict[Request | Origin, int] = {}
        self._parked: dict[Origin, deque[Job]] = {}
        self._free: deque[Origin] = deque()  # hosts, one more job of which may be submitted

    @property
    def is_full(self) -> bool:
        """Whether nothing is to be taken from the source for now."""
        return self.count >= PARKED

    @property
    def has_free(self) -> bool:
        """Whether a job that is parked may be submitted now."""
        return bool(self._free)

    def parks(self, job: Job) -> bool:
        """Park *job*, whose host has a gate, and return True; or False: it is to be submitted."""
        origin = job.request.origin
        if origin not in self._parked:
            lead = _lead_of(job)
            if lead is None:
                return False
            if self._submitted.get(origin, 0) < lead:
                self._note(job.request)
                return False
            self._parked[origin] = deque()
        self._parked[origin].append(job)
        self.count += 1
        return True

    def pop(self) -> Job | None:
        """Remove a parked job and return it: it is to be submitted. None: there is none for now."""
        while self._free:
            origin = self._free[0]
            jobs = self._parked.get(origin)
            if jobs is not None:
                lead = _lead_of(jobs[0])
                if lead is None or self._submitted.get(origin, 0) < lead:
                    return self._leave(origin, jobs)
            self._free.popleft()
        return None

    def _leave(self, origin: Origin, jobs: deque[Job]) -> Job:
        job = jobs.popleft()
        self.count -= 1
        if not jobs:
            del self._parked[origin]
        self._note(job.request)
        return job

    def _note(self, request: Request) -> None:
        self.apart += 1
        for key in (request, request.origin):
            self._submitted[key] = self._submitted.get(key, 0) + 1

    def took(self, request: Request) -> None:
        """The consumer has taken the future of *request*."""
        if request not in self._submitted:
            return  # its host had no lead
        self.apart -= 1
        for key in (request, request.origin):
            self._submitted[key] -= 1
            if not self._submitted[key]:
                del self._submitted[key]
        if request.origin in self._parked:
            self._free.append(request.origin)


def _lead_of(job: Job) -> int | None:
    """Return how many jobs of the host of *job* are submitted at most; None: any number."""
    gate = gate_of(job)
    return None if gate is None else gate.lead
