"""An exception of a signal handler at every point of every operation of the core.

Each point within the core is tried in turn (see `tests.support.interrupts`), and later requests
must be served after it.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dugong.errors import ConnectionClosed
from dugong.headers import Headers
from dugong.pool import core as package
from dugong.pool.core.connection import PooledConnection
from dugong.pool.core.job import Job, Place
from dugong.pool.io import caller_runs
from dugong.pool.response import StreamedResponse
from tests.support.clock import throw
from tests.support.interrupts import interrupted_at
from tests.support.parts import FakeEngine, SchedulerRig, make_host, queue_one
from tests.support.points import Interrupt
from tests.support.server import TIMEOUT
from tests.support.uploads import upload

_CORE = os.path.dirname(package.__file__) + os.sep
_MOST = 2000  # points that one operation may have


# --- the operations, as the pool does them --------------------------------------------------------


def fly(rig: SchedulerRig, **options: Any) -> tuple[PooledConnection, Job]:
    """Return a request that is in flight, and its connection."""
    connection, (job,) = rig.send(rig.host(), "/a", **options)
    return connection, job


class Operation:
    """Something that a caller does: `prepare` comes before it, `run` is interrupted.

    `jobs` are the requests that must have ended afterwards.
    """

    def __init__(self, rig: SchedulerRig) -> None:
        self.rig = rig
        self.jobs: list[Job] = []
        self.prepare()

    def prepare(self) -> None:
        """Do what comes before."""

    def run(self) -> None:
        """Do it."""
        raise NotImplementedError

    def has_ended(self, job: Job) -> bool:
        """Return True if *job* has, and its caller has been told."""
        return job.future.done()


class Know(Operation):
    def run(self) -> None:
        self.rig.scheduler.know(make_host(name="another"))


class Statistics(Operation):
    def prepare(self) -> None:
        fly(self.rig)

    def run(self) -> None:
        self.rig.scheduler.statistics()


class Submit(Operation):
    def prepare(self) -> None:
        self.jobs = [self.rig.job(self.rig.host(), "/interrupted")]

    def run(self) -> None:
        try:
            self.rig.scheduler.submit(self.jobs[0])
        except BaseException:
            self.rig.scheduler.abandon(self.jobs[0])
            raise


class SubmitToIdle(Submit):
    def prepare(self) -> None:
        super().prepare()
        self.rig.idle(self.jobs[0].host)


class SubmitBehindOthers(Submit):
    def prepare(self) -> None:
        queue_one(self.rig)
        super().prepare()


class CancelQueued(Operation):
    def prepare(self) -> None:
        host = self.rig.host()
        fly(self.rig, exclusive=True)
        self.jobs = self.rig.submit(host, "/b")

    def run(self) -> None:
        self.rig.scheduler.abandon(self.jobs[0])


class CancelInFlight(CancelQueued):
    def prepare(self) -> None:
        _, job = fly(self.rig)
        self.jobs = [job]


class CancelWaiting(CancelQueued):
    def prepare(self) -> None:
        connection, job = fly(self.rig)
        self.rig.respond(connection, job, status=503)
        self.jobs = [job]


class Request(Operation):
    """A request in the thread of its caller."""

    def prepare(self) -> None:
        host = self.rig.host()
        connection = self.rig.idle(host)
        job = self.rig.job(host, "/borrowed")
        exchange: Any = SimpleNamespace(
            key=job, persistent=True, minor_version=1, trailers=Headers()
        )
        engine = cast(FakeEngine, connection.engine)
        engine.received.append(([(exchange, 200, "OK", b"", 4, b"body")], None))
        engine.sending = lambda: setattr(job, "exchange", exchange)
        self.jobs = [job]

    def run(self) -> None:
        (job,) = self.jobs
        scheduler = self.rig.scheduler

        def make(job: Job) -> None:
            connection = scheduler.lending.borrow(job)
            assert connection is not None
            caller_runs.perform(scheduler.traffic, connection, job)

        scheduler.protect(make, scheduler.abandon, job)

    def has_ended(self, job: Job) -> bool:
        # The interrupt has told its caller, who has no future.
        return job.is_decided or job.place is Place.NEW


class FailedRequest(Request):
    """Its connection ends, and so it goes back to the queue."""

    def has_ended(self, job: Job) -> bool:
        return job.future.done() or job.place is Place.NEW

    def prepare(self) -> None:
        super().prepare()
        (connection,) = self.rig.core.idle
        engine = cast(FakeEngine, connection.engine)
        engine.received.clear()
        engine.received.append(([], ConnectionClosed()))

    def run(self) -> None:
        super().run()
        self.jobs = []  # an interrupt after its end has nothing to take back


class CancelUpload(CancelQueued):
    """Its connection ends when the sender has let go of the body."""

    def prepare(self) -> None:
        job = self.rig.job(self.rig.host(), "/upload")
        job.own_extras().upload = upload()
        self.rig.enqueue(job)
        connection = self.rig.connect(job.host)
        assert self.rig.look_for_work(connection) == [job]
        self.jobs = [job]


class EndStream(Operation):
    """The caller leaves a stream that it has read to its end."""

    complete = True

    def prepare(self) -> None:
        self.connection, job = fly(self.rig, exclusive=True)
        job.exchange = SimpleNamespace(persistent=True, minor_version=1)
        source = cast(Any, SimpleNamespace(close=lambda: None))
        response = StreamedResponse(200, "OK", b"", job.request, None, source, ())
        assert self.rig.lending.hand_over(self.connection, job, response, source)
        self.jobs = [job]

    def run(self) -> None:
        self.rig.lending.end_stream(self.connection, self.jobs[0], self.complete)


class AbortStream(EndStream):
    complete = False


class Close(Operation):
    """The maintenance thread does the work, which no interrupt hits."""

    def prepare(self) -> None:
        self.rig.maintenance.is_running = True
        _, job = fly(self.rig)
        self.jobs = [job, *self.rig.submit(self.rig.host(name="another"), "/b")]

    def run(self) -> None:
        self.rig.scheduler.shutdown.close()


# --- after it -------------------------------------------------------------------------------------


def is_free(rig: SchedulerRig) -> bool:
    """Return True if this thread does not hold the lock."""
    try:
        rig.core.lock.release()
    except RuntimeError:
        return not rig.core.is_locked_here()
    return False


def serve(rig: SchedulerRig) -> None:
    """Have everything happen that the pool's threads would do, and the servers."""
    for _ in range(3):
        rig.maintenance.run_later()
        rig.forward(1.0)
        for host in list(rig.core.hosts.values()):
            for connection in list(host.connections):
                serve_on(rig, connection)


def serve_on(rig: SchedulerRig, connection: PooledConnection) -> None:
    if not (connection.sender_started or connection.sender_parked or connection.is_closing):
        assert rig.traffic.begin_sending(connection)
        if not connection.was_open:
            rig.traffic.connected(connection)
            connection.receiver_started = True
    while rig.look_for_work(connection):
        pass
    if connection.in_flight and not (connection.is_closing or connection.streaming):
        rig.respond(connection, *connection.in_flight)


def problems_after(operation: Operation) -> list[str]:
    """Return what is wrong in the pool after *operation* was interrupted."""
    try:
        return find_problems(operation)
    except Exception as exc:
        return [f"a later call has raised {exc!r}"]


def find_problems(operation: Operation) -> list[str]:
    rig = operation.rig
    found = []
    rig.maintenance.run_later()
    if not rig.core.closed:
        for host in [rig.host(), rig.host(name="another")]:
            (job,) = rig.submit(host, "/later")
            serve(rig)
            if not job.future.done():
                found.append("a later request is not served")
        serve(rig)
        if rig.core.queued:
            found.append(f"{rig.core.queued} requests are queued")
    else:
        rig.maintenance.on_close()
        rig.scheduler.shutdown.close()
    found += [f"{job} has not ended" for job in operation.jobs if not operation.has_ended(job)]
    return found


OPERATIONS: list[type[Operation]] = [
    Know,
    Statistics,
    Submit,
    SubmitToIdle,
    SubmitBehindOthers,
    CancelQueued,
    CancelInFlight,
    CancelWaiting,
    CancelUpload,
    Request,
    FailedRequest,
    EndStream,
    AbortStream,
    Close,
]


def interrupted_again(*args: object) -> None:
    """Stands for what would mend, where the next interrupt comes."""
    raise Interrupt


@pytest.mark.parametrize("again", [False, True], ids=["once", "and again when it is mended"])
@pytest.mark.parametrize("make", OPERATIONS)
def test_an_interrupt_at_any_point_leaves_nothing_that_keeps_requests_from_being_served(
    make: type[Operation], again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of other threads, too: what was interrupted again may never call the pool any more."""
    throw(monkeypatch, 1.0)
    found: dict[str, list[str]] = {}
    for number in range(1, _MOST):
        operation = make(SchedulerRig(monkeypatch, max_connections_per_host=1))
        try:
            with monkeypatch.context() as interrupting:
                if again:
                    interrupting.setattr(operation.rig.core, "recover", interrupted_again)
                with interrupted_at(number, _CORE) as counter:
                    operation.run()
        except Interrupt:
            if not is_free(operation.rig):
                problems = ["the lock is held"]
            else:
                with ThreadPoolExecutor(1) as other:
                    problems = other.submit(problems_after, operation).result(TIMEOUT)
        except Exception as exc:
            problems = [f"it has raised {exc!r}"]
        else:
            problems = []
        if not counter.where:
            break
        if problems:
            found[f"{number} {counter.where}"] = problems
    else:
        pytest.fail("the operation has too many points")
    assert number > 3
    assert found == {}, f"{len(found)} of {number} points"
