"""The parts of a pool without a pool: hosts, connections and jobs that touch no network.

`Rig` puts the parts together around them, without a thread: what would be a thread of the pool is
played by the test, which takes it to where it would wait (`WouldWait`).
"""

from __future__ import annotations

import concurrent.futures
import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from threading import Condition
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest

from dugong import Delivery, Event, Headers, Request, RetryPolicy
from dugong.connection.encode import RequestBuilder
from dugong.connection.peer import NO_PEER
from dugong.deadline import Deadline
from dugong.pool.core import scheduler
from dugong.pool.core.connection import PooledConnection
from dugong.pool.core.connections import ConnectionManager
from dugong.pool.core.core import PoolCore
from dugong.pool.core.gate import Gate
from dugong.pool.core.host import Host
from dugong.pool.core.job import Job, Owner
from dugong.pool.core.limits import Limits
from dugong.pool.core.maintenance import Maintenance
from dugong.pool.core.politeness import Politeness
from dugong.pool.core.retries import RetryEngine
from dugong.pool.core.scheduler import Scheduler
from dugong.pool.core.timers import Timer, Timers
from dugong.pool.core.traffic import Traffic
from dugong.pool.io.engine import Completion, Engine
from dugong.pool.response import Response
from dugong.pool.url import Origin
from tests.support.clock import DECIDING, Clock
from tests.support.server import TIMEOUT
from tests.support.uploads import upload

__all__ = [
    "CLOSED_TO_MORE",
    "FakeEngine",
    "FakeMaintenance",
    "NO_RETRY",
    "Rig",
    "SchedulerRig",
    "StartedThread",
    "StartedThreads",
    "WouldWait",
    "engine_of",
    "finish",
    "fly",
    "hold",
    "in_thread",
    "land",
    "make_connection",
    "make_core",
    "make_host",
    "make_job",
    "make_limits",
    "make_response",
    "queue",
    "queue_needing_fresh",
    "release",
]

NO_RETRY = RetryPolicy.never


# --- hosts and jobs -------------------------------------------------------------------------------


def make_host(window: int = 64, depth: int = 64, name: str = "host") -> Host:
    """Return a host that *window* requests may be in flight to on each connection."""
    host = Host(Origin("http", name, 80), RequestBuilder(name), depth)
    host.pipelining.window = window
    return host


def make_job(
    host: Host,
    target: str = "/",
    exclusive: bool = False,
    pool: object = None,
    retry: RetryPolicy | None = None,
    **options: Any,
) -> Job:
    """Return a job for a GET, with the default policy; *options* are those of its `Request`."""
    request = Request(options.pop("method", "GET"), f"http://{host.origin.host}{target}", **options)
    head = b"head of " + target.encode()
    retry = RetryPolicy() if retry is None else retry
    job = Job(
        request, cast(Owner, getattr(pool, "_scheduler", None)), pool, host, head, 30.0, retry
    )
    job.exclusive = exclusive
    return job


def make_response(
    job: Job, status: int = 200, headers: dict[str, str] | None = None, body: bytes = b"body"
) -> Response:
    """Return a response to *job*."""
    return Response(
        status, "Reason", Headers(list((headers or {}).items())), body, job.request, job.attempts
    )


def hold(host: Host, until: float = math.inf) -> None:
    """Have *host* left alone until then."""
    host.gate = host.gate or Gate()
    host.gate.hold(until)


def release(host: Host) -> None:
    """Have *host*, which has no policy, left alone no more."""
    host.gate = None


def queue(host: Host, *targets: str) -> list[Job]:
    """Queue a job for each of *targets*, exclusive if its name says so; return them."""
    jobs = [make_job(host, target, exclusive="exclusive" in target) for target in targets]
    for job in jobs:
        host.append(job)
    return jobs


def queue_needing_fresh(host: Host, *targets: str) -> list[Job]:
    """Queue a job that needs an unused connection for each of *targets*; return them."""
    jobs = [make_job(host, target) for target in targets]
    for job in jobs:
        job.needs_fresh_connection = True
    host.put_back(jobs)
    return jobs


# --- connections ----------------------------------------------------------------------------------


class FakeEngine:
    """The engine of a connection that touches no network.

    What it says is what the test sets: `capacity`, `is_awaiting`, `has_unread`, `has_stray_bytes`,
    `was_ended_by_peer`, `arrivals`, `delivery` (the verdict on each request, unless `verdicts` has
    one) and `received` (what `receive` returns, in turn; an exception is raised). `calls` are the
    names of the methods that were called, and `sent` the batches that it was given.
    """

    capacity = sys.maxsize
    peer = NO_PEER
    gave_up_sending = False
    keep_alive_timeout: float | None = None
    paused = 0.0
    held_up_until = float("-inf")

    def __init__(self) -> None:
        self.is_awaiting = self.has_unread = False
        self.has_stray_bytes = self.was_ended_by_peer = self.arrivals = False
        self.delivery = Delivery.SENT
        self.verdicts: dict[Job, Delivery] = {}
        self.calls: list[str] = []
        self.sent: list[list[Job]] = []
        self.received: deque[tuple[list[Completion], Exception | None]] = deque()
        self.body = b""  # what `readinto` receives, in pieces of up to 100 bytes
        self.sending: Callable[[], object] = lambda: None  # is called by `send`

    @property
    def is_aborted(self) -> bool:
        """Whether the connection was shut down."""
        return "abort" in self.calls

    def is_at_rest(self, keep_alive: float | None) -> bool:
        return not self.has_stray_bytes and self.keep_alive_timeout == keep_alive

    def connect(self, timeout: float | None) -> None:
        self.calls.append("connect")

    def send(self, batch: Sequence[Job], begun: Callable[[], object] | None) -> None:
        self.calls.append("send")
        self.sent.append(list(batch))
        self.sending()

    def receive(self) -> tuple[list[Completion], Exception | None]:
        self.calls.append("receive")
        return self.received.popleft()

    def exchange(self, job: Job) -> tuple[list[Completion], Exception | None]:
        self.send((job,), None)
        return self.receive()

    def readinto(self, view: memoryview, timeout: float | None) -> int:
        self.calls.append("readinto")
        piece = self.body[: min(len(view), 100)]
        self.body = self.body[len(piece) :]
        view[: len(piece)] = piece
        return len(piece)

    def verdict(self, job: Job, is_oldest: bool, failure: Exception | None) -> Delivery:
        return self.verdicts.get(job, self.delivery)

    def has_arrivals(self, oldest: Job) -> bool:
        return self.arrivals

    def abort(self) -> None:
        self.calls.append("abort")

    def release_memory(self) -> None:
        self.calls.append("release_memory")

    def drop(self) -> None:
        self.calls.append("drop")


def engine_of(connection: PooledConnection) -> FakeEngine:
    """Return the engine of *connection*, as what it is in these tests."""
    engine = connection.engine
    assert isinstance(engine, FakeEngine)
    return engine


def make_connection(
    host: Host,
    in_flight: int = 0,
    max_requests: int | None = None,
    is_open: bool = True,
    answered: int = 1,
) -> PooledConnection:
    """Return a connection of *host*, connecting, or open, with responses and requests in flight."""
    engine = cast(Engine, FakeEngine())
    connection = PooledConnection(host, engine, 0.0, max_requests)
    if is_open:
        connection.open()
        connection.dispatched = answered
    host.connections[connection] = None
    fly(connection, *[make_job(host, f"/flying{i}") for i in range(in_flight)])
    return connection


#: What closes a connection to more requests, by the name of the reason.
CLOSED_TO_MORE: dict[str, Callable[[PooledConnection], object]] = {
    "closing": lambda connection: connection.begin_closing("", None),
    "write failed": lambda connection: connection.fail_writing(),
    "draining": lambda connection: connection.drain(),
    "exclusive": lambda connection: setattr(connection, "exclusive", True),
    "long response": lambda connection: setattr(connection, "long_response", True),
    "borrowed": lambda connection: setattr(connection, "borrower", make_job(connection.host)),
    "streaming": lambda connection: setattr(connection, "streaming", True),
}


def fly(connection: PooledConnection, *jobs: Job) -> None:
    """Put *jobs* in flight."""
    Job.dispatch(jobs, connection, 0.0)
    connection.dispatched += len(jobs)
    connection.host.in_flight += len(jobs)


def land(connection: PooledConnection) -> None:
    """Have responses come to all that is in flight."""
    connection.host.in_flight -= len(connection.in_flight)
    for job in connection.in_flight:
        job.finish()
    connection.in_flight.clear()


def listen(connection: PooledConnection) -> list[str]:
    """Have both threads of *connection* wait; return which of them are told to look again."""
    told: list[str] = []
    for role in ("sender", "receiver"):
        wakeup = SimpleNamespace(notify=partial(told.append, role))
        setattr(connection, f"{role}_wakeup", wakeup)
    return told


# --- the core, without threads --------------------------------------------------------------------


class WouldWait(BaseException):
    """A thread has come to where it would wait."""


class StartedThread(NamedTuple):
    """A thread that was to be started."""

    name: str
    run: Callable[[], object]


class StartedThreads(list[StartedThread]):
    """The threads that *core* was to start, and did not; none are to be had if `refused` is set."""

    def __init__(self, core: PoolCore) -> None:
        super().__init__()
        self.refused = False
        core.threads.start = self._start  # type: ignore[method-assign]  # a fake
        core.threads.start_here = self._start_here  # type: ignore[method-assign]  # a fake

    def _start(
        self,
        function: Callable[[], object],
        name: str,
        failed: Callable[[RuntimeError], object],
    ) -> None:
        try:
            self._start_here(function, name)
        except RuntimeError as exc:
            failed(exc)

    def _start_here(self, function: Callable[[], object], name: str) -> None:
        if self.refused:
            raise RuntimeError("can't start new thread")
        self.append(StartedThread(name, function))

    @property
    def names(self) -> list[str]:
        """The names of the threads."""
        return [thread.name for thread in self]


class FakeMaintenance:
    """Keeps the timers of a pool as the test tells it: see `Rig.forward`.

    `is_running` is what the test sets; then it is to call `on_close` for a pool that was closed.
    """

    def __init__(self, core: PoolCore) -> None:
        self._core = core
        self.is_running = False
        self.on_forgotten = self.on_close = do_nothing
        self.reset()

    def reset(self) -> None:
        """Begin with nothing."""
        self.timers = Timers()
        self.actions: list[Callable[[], object]] = []  # what it is to do without the lock
        self._core.have_mended = lambda mending: self.actions.append(
            partial(self._core.mend, *mending)
        )
        self.slice = 0

    def at_locked(self, when: float, action: Callable[[], None]) -> Timer:
        assert self._core.is_locked_here()
        return self.timers.add(when, action)

    def cancel_locked(self, timer: Timer) -> None:
        assert self._core.is_locked_here()
        self.timers.cancel(timer)

    def do_later(self, action: Callable[[], object]) -> None:
        self.actions.append(action)

    def start(self, *failed: object) -> None:
        """Do nothing."""

    start_again_locked = repair_locked = wake = watch = start

    def run_later(self) -> None:
        """Do what was to be done later."""
        while self.actions:
            self.actions.pop(0)()

    def do_what_is_due(self, now: float) -> None:
        """Do what is due at the time *now*."""
        with self._core.transaction():
            self.slice += 1
            while (action := self.timers.pop_due(now)) is not None:
                action()


_LIMITS: dict[str, Any] = {
    "max_connections_per_host": 6,
    "max_connections": 256,
    "pipeline_depth": 64,
    "timeout": 30.0,
    "max_queued": 1000,
    "max_body_size": 1024,
    "idle_timeout": 60.0,
    "max_age": None,
    "max_requests": None,
    "connect_timeout": 10.0,
    "min_rate": 1.0,
}


def make_limits(**changes: Any) -> Limits:
    """Return limits like those of a pool's defaults, but for *changes*."""
    return Limits(**{name: _LIMITS[name] for name in Limits._fields} | changes)


class _Core(PoolCore):
    """One whose methods can be replaced by a test, for it has no `__slots__`."""


def finish(core: PoolCore) -> None:
    """Wait until the callbacks have been called, and all threads have ended."""
    core.callbacks.close()
    core.threads.join(Deadline(TIMEOUT))


def in_thread(function: Callable[[], object]) -> None:
    """Run *function* in a thread that is not the pool's; raise what it raises."""
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        executor.submit(function).result(TIMEOUT)


def make_core(on_event: Callable[[Event], object] | None = None, **limits: Any) -> PoolCore:
    """Return a core, with *limits* other than the default ones."""
    return _Core(make_limits(**limits), on_event)


def do_nothing(*args: object) -> None:
    """Do nothing."""


def _wait(condition: Condition, timeout: float | None = None) -> None:
    raise WouldWait


class Rig:
    """The parts of a pool, put together, without a thread.

    `started` are the threads that the pool was to start. `clock` is what the parts take for the
    time; `forward` has the maintenance thread do what is due. `events` are those of the pool. The
    thread of the test makes the calls to callers' code, as one of the pool's would.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **limits: Any) -> None:
        self.clock = Clock(monkeypatch, *DECIDING)
        self.events: list[Event] = []
        self.engines: list[FakeEngine] = []
        self._build(make_core(self.events.append, **limits))
        self.pool = SimpleNamespace(_scheduler=SimpleNamespace(check_may_wait_for=do_nothing))

    def _build(self, core: PoolCore) -> None:
        self._have_no_threads(core)
        maintenance = cast(Maintenance, self.maintenance)
        self.politeness = Politeness(core, maintenance)
        self.retries = RetryEngine(core, maintenance, self.politeness)
        self.connections = ConnectionManager(
            core, maintenance, self.retries, self.politeness, self._make_engine, self._run
        )
        self.retries.servers = self.politeness.servers = self.connections
        self.retries.enqueue_locked = self._enqueue_locked
        self.traffic = Traffic(core, maintenance, self.retries, self.connections, do_nothing)
        self.lending = self.traffic.lending

    def respond_to_caller(
        self, connection: PooledConnection, job: Job, response: Response | None = None
    ) -> bool:
        """Have the caller that has borrowed *connection* for *job* get its response now."""
        response = make_response(job) if response is None else response
        return self.lending.responded_to_caller(connection, job, response, self.clock.now)

    def _have_no_threads(self, core: PoolCore) -> None:
        self.core = core
        core.wait = _wait  # type: ignore[method-assign]  # a fake
        core.callbacks.run = self._run_callbacks  # type: ignore[method-assign]  # a fake
        self.started = StartedThreads(core)
        self.maintenance = FakeMaintenance(core)

    def _make_engine(self, host: Host) -> Engine:
        self.engines.append(FakeEngine())
        return cast(Engine, self.engines[-1])

    def _run(self, *args: object) -> None:
        raise AssertionError("the test plays the threads of connections")

    # --- what callers do --------------------------------------------------------------------------

    def host(self, window: int = 64, name: str = "host") -> Host:
        """Return a host that the pool knows."""
        return self.connections.know(make_host(window, name=name))

    def job(self, host: Host, target: str = "/", **options: Any) -> Job:
        """Return a job for *host*; *options* are those of `make_job`."""
        return make_job(host, target, pool=self.pool, **options)

    def submit(self, host: Host, *targets: str, **options: Any) -> list[Job]:
        """Queue a job for each of *targets*, and see to it that a connection takes it."""
        jobs = [self.job(host, target, **options) for target in targets]
        self.enqueue(*jobs)
        return jobs

    def enqueue(self, *jobs: Job) -> None:
        """Queue *jobs*, and see to it that a connection takes them."""
        with self.core.transaction():
            for job in jobs:
                self._enqueue_locked(job)
                self.connections.ensure_served_locked(job.host)

    def _enqueue_locked(self, job: Job) -> None:
        job.host.append(job)
        self.core.queued += 1

    # --- what the threads do ----------------------------------------------------------------------

    def latest(self, host: Host) -> PooledConnection:
        """Return the connection of *host* that was opened last."""
        return next(reversed(host.connections))

    def connect(self, host: Host) -> PooledConnection:
        """Have the latest connection of *host* connected; return it. Both of its threads run."""
        connection = self.latest(host)
        assert self.traffic.begin_sending(connection)
        self.traffic.connected(connection)
        connection.receiver_started = True
        return connection

    def look_for_work(
        self, connection: PooledConnection, error: Exception | None = None
    ) -> list[Job]:
        """Have the sender of *connection* look for work; [] if it ends, or waits for some."""
        try:
            return self.traffic.next_batch(connection, error)
        except WouldWait:
            return []

    def send(self, host: Host, *targets: str, **options: Any) -> tuple[PooledConnection, list[Job]]:
        """Have a new connection send a request for each of *targets*; all senders wait then."""
        jobs = self.submit(host, *targets, **options)
        connection = self.connect(host)
        assert self.look_for_work(connection) == jobs
        self.park(host)
        return connection, jobs

    def park(self, host: Host) -> None:
        """Have the senders of *host* that are connected look for work, find none, and wait."""
        for connection in list(host.connections):
            if connection.was_open and not connection.sender_parked:
                assert self.look_for_work(connection) == []

    def idle(self, host: Host) -> PooledConnection:
        """Return a connection of *host* that has responded once, and is idle."""
        connection, jobs = self.send(host, "/warm")
        self.respond(connection, *jobs)
        return connection

    def respond(
        self,
        connection: PooledConnection,
        *jobs: Job,
        status: int = 200,
        error: Exception | None = None,
        persistent: bool = True,
        minor_version: int = 1,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Have the receiver of *connection* report a response to each of *jobs*, then *error*."""
        done = []
        for job in jobs:
            job.exchange = SimpleNamespace(persistent=persistent, minor_version=minor_version)
            done.append((job, make_response(job, status, headers)))
        self.traffic.responded(connection, done, error)

    def lose(self, connection: PooledConnection, error: Exception) -> None:
        """Have *connection*, on which no thread is at work, end because of *error*."""
        with self.core.transaction():
            self.connections.fail_locked(connection, error)

    def forward(self, seconds: float) -> None:
        """Let *seconds* pass, and have done what is due then."""
        self.clock.now += seconds
        self.maintenance.do_what_is_due(self.clock.now)

    def _run_callbacks(self) -> None:
        calls = self.core.callbacks.calls
        while calls:
            calls.popleft()()

    def heard(self, kind: str) -> list[str]:
        """Return the reasons of the events of this *kind*."""
        return [event.reason for event in self.events if event.kind == kind]


class SchedulerRig(Rig):
    """A rig whose parts are those of a `scheduler`, which callers' requests go through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **limits: Any) -> None:
        self._monkeypatch = monkeypatch
        super().__init__(monkeypatch, **limits)
        self.pool = SimpleNamespace(_scheduler=self.scheduler)

    def _build(self, core: PoolCore) -> None:
        self._have_no_threads(core)
        with self._monkeypatch.context() as building:
            building.setattr(scheduler, "PoolCore", lambda limits, on_event: core)
            building.setattr(scheduler, "Maintenance", self._make_maintenance)
            self.scheduler = Scheduler(
                core.limits, self._make_engine, self._run, self._run, core.on_event
            )
        self.politeness = self.scheduler._politeness
        self.retries = self.scheduler._retries
        self.connections = self.scheduler._connections
        self.traffic = self.scheduler.traffic
        self.lending = self.scheduler.lending

    def _make_maintenance(
        self, core: PoolCore, on_forgotten: Callable[[], object], on_close: Callable[[], object]
    ) -> FakeMaintenance:
        self.maintenance.on_forgotten = on_forgotten
        self.maintenance.on_close = on_close
        return self.maintenance

    def enqueue(self, *jobs: Job) -> None:
        """Submit *jobs*."""
        for job in jobs:
            job.deadline = job.request.deadline
            self.scheduler.submit(job)


class InterruptedQueue(deque[Job]):
    """A queue of *jobs*: *interrupt* is called where a call comes to put another one into it."""

    def __init__(self, jobs: Iterable[Job], interrupt: Callable[[], object]) -> None:
        super().__init__(jobs)
        self._interrupt = interrupt

    def append(self, job: Job) -> None:
        self._interrupt()
        super().append(job)


def queue_one(rig: Rig) -> Host:
    """Return a host with one request in its queue, behind one that holds its only connection."""
    host = rig.host()
    rig.send(host, "/sent", exclusive=True)
    rig.submit(host, "/before")
    return host


def would_wait(function: Callable[[], object]) -> bool:
    """Return True if *function* comes to where it waits."""
    try:
        function()
    except WouldWait:
        return True
    return False


def send_upload(rig: Rig, **options: Any) -> tuple[PooledConnection, Job]:
    """Have a connection send a request with a body; its sender is at that."""
    host = rig.host()
    job = rig.job(host, "/upload", method="PUT", **options)
    job.own_extras().upload = upload()
    job.exclusive = True
    rig.enqueue(job)
    connection = rig.connect(host)
    assert rig.look_for_work(connection) == [job]
    return connection, job


def borrow_again(rig: Rig, host: Host) -> Job:
    """Return another request whose caller has borrowed the connection of *host*."""
    job = rig.job(host, "/again")
    assert rig.lending.borrow(job) is not None
    job.exchange = SimpleNamespace(persistent=True, minor_version=1)
    return job
