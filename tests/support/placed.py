"""A request in each of the places where it may be: see `SchedulerRig`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from dugong import RetryPolicy
from dugong.errors import ConnectionTimedOut
from dugong.pool.core.connection import PooledConnection
from dugong.pool.core.host import Host
from dugong.pool.core.job import Job, Place
from dugong.pool.response import StreamedResponse
from tests.support.parts import SchedulerRig
from tests.support.uploads import upload

__all__ = ["PLACES", "POLICY", "Placed"]

POLICY = RetryPolicy(backoff=1.0)


class Placed:
    """A request that is in *place*, and what is around it."""

    def __init__(self, rig: SchedulerRig, place: str, deadline: float | None = None) -> None:
        self.host: Host = rig.host()
        self.others: list[Job] = []
        options: dict[str, Any] = {"retry": POLICY, "deadline": deadline}
        connection: PooledConnection | None = None
        if place == "queued":
            connection, self.others = rig.send(self.host, "/other", exclusive=True)
            (self.job,) = rig.submit(self.host, "/a", **options)
        elif place == "reserved":
            connection, self.others = rig.send(self.host, "/other")
            (self.job,) = rig.submit(self.host, "/a", exclusive=True, **options)
            assert rig.look_for_work(connection) == []
        elif place == "behind":
            connection, self.others = rig.send(self.host, "/other")
            (self.job,) = rig.submit(self.host, "/a", **options)
            assert rig.look_for_work(connection) == [self.job]
            rig.park(self.host)
        else:
            job = rig.job(self.host, "/a", exclusive=place == "streaming", **options)
            if place in ("sending", "pending"):
                job.own_extras().upload = upload()
            rig.enqueue(job)
            connection = rig.connect(self.host)
            assert rig.look_for_work(connection) == [job]
            self.job = job
            if place not in ("sending", "pending"):
                rig.park(self.host)
        self.connection = connection
        if place == "waiting":
            rig.lose(connection, ConnectionTimedOut("slow"))
        elif place == "streaming":
            self.job.exchange = SimpleNamespace(persistent=True, minor_version=1)
            source = cast(Any, SimpleNamespace(close=lambda: None))
            response = StreamedResponse(200, "OK", b"", self.job.request, None, source, ())
            assert rig.lending.hand_over(connection, self.job, response, source)
        elif place == "pending" or place == "done":
            rig.respond(connection, self.job)


PLACES = {
    "queued": Place.QUEUED,
    "reserved": Place.RESERVED,
    "oldest": Place.IN_FLIGHT,
    "behind": Place.IN_FLIGHT,
    "sending": Place.IN_FLIGHT,
    "pending": Place.IN_FLIGHT,  # its response has come, and its body is still with the sender
    "waiting": Place.WAITING,
    "streaming": Place.STREAMING,
    "done": Place.DONE,
}
