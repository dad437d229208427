"""Interrupts each operation of a pool at every point where a signal handler may raise.

    python -m tests.support.pool_interrupts [--samples N] [--tls] [OPERATION ...]

An operation is run once to list its points, and then once more for each of them, with a pool of its
own, where an exception is raised at that point, as a signal handler does: KeyboardInterrupt and, as
a handler of SIGALRM may, TimeoutError; one of the two, if there are but samples. With ``--reenter
CALL``, nothing is raised: the pool is called there, as `__del__` of an object may that is collected
at that point, in whatever thread this is. What has to hold afterwards is said in `Trial.check`.
What does not hold is printed, one line for each point, and the exit status is 1.

What a point is: see `tests.support.points`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NamedTuple

from dugong import (
    ConnectionPool,
    ConnectionTimedOut,
    PoolClosed,
    PoolStatistics,
    Request,
    ResponseFuture,
    RetryPolicy,
    StateError,
)
from tests.support.points import Interrupter, Point, where
from tests.support.server import Peer, ScriptedServer

__all__ = ["OPERATIONS", "REENTRIES", "attempt", "main"]

PATIENCE = 5.0  # seconds: the deadline of the requests that follow an interrupt
LIMIT = 12.0  # seconds that the interrupted operation may take

# --- the server -----------------------------------------------------------------------------------


class Server:
    """Serves any number of connections; what it has held back is sent when it is told to."""

    def __init__(self, scheme: str, context: Any = None) -> None:
        self.scheme = scheme
        self.released = threading.Event()
        self._scripted = ScriptedServer(self._serve, repeat=True, context=context)
        self._scripted.__enter__()  # for as long as the process lives

    def url(self, target: str = "/") -> str:
        """Return the URL of *target*."""
        return f"{self.scheme}://127.0.0.1:{self._scripted.port}{target}"

    def _serve(self, peer: Peer) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                request = peer.request()
                if request.target == "/long":
                    peer.respond(bytes(400_000))
                    continue
                if request.target == "/held":
                    self.released.wait(60)
                peer.respond(request.target.encode())


# --- the operations -------------------------------------------------------------------------------


class Trial:
    """One run of an operation: a pool, what was submitted to it, and who waits for that.

    `pool` is None where making it is the operation. Each `waiters` thread waits for one of
    `futures`.
    """

    def __init__(self, server: Server, options: dict[str, Any], patience: float) -> None:
        self.server = server
        self.patience = patience
        self.options = options
        self.pool: ConnectionPool | None = None
        self.futures: list[ResponseFuture] = []
        self.waiters: list[threading.Thread] = []
        self.closing = False
        self.holding = False  # the only connection waits for a response that is held back
        self.objections: list[str] = []

    def make(self, **options: Any) -> ConnectionPool:
        """Make the pool."""
        self.pool = ConnectionPool(**self.options, **options)
        return self.pool

    def warm(self, **options: Any) -> ConnectionPool:
        """Make the pool, with one idle connection."""
        pool = self.make(max_connections_per_host=1, **options)
        for _ in range(2):
            pool.get(self.server.url("/warm"))
        self.wait_until(lambda statistics: _states(statistics) == ["idle"])
        return pool

    def hold(self, pool: ConnectionPool) -> None:
        """Have the only connection of *pool* wait for a response, and another request for that."""
        self.holding = True
        for _ in range(2):
            self.futures.append(pool.submit("POST", self.server.url("/held"), body=b"held"))
        self.wait_until(lambda statistics: (statistics.in_flight, statistics.queued) == (1, 1))

    def wait_in_threads(self) -> None:
        """Have a thread wait for each of the futures."""
        for future in self.futures:
            waiter = threading.Thread(target=future.exception, daemon=True)
            waiter.start()
            self.waiters.append(waiter)

    def wait_until(self, condition: Callable[[PoolStatistics], object]) -> PoolStatistics:
        """Wait until *condition* holds for the statistics of the pool, and return these."""
        assert self.pool is not None
        end = time.monotonic() + self.patience
        while not condition(statistics := self.pool.statistics()):
            if time.monotonic() > end:
                raise Broken(f"the statistics do not come to rest: {_numbers(statistics)}")
            threading.Event().wait(0.002)
        return statistics

    @property
    def deadline(self) -> float:
        """The deadline of what a finalizer waits for, which may be held back."""
        return 0.1 if self.holding else self.patience

    def reenter(self, call: str) -> Callable[[], None]:
        """Return what a finalizer does: *call*, one of `REENTRIES`."""

        def act() -> None:
            pool = self.pool
            if pool is None:
                return
            try:
                with contextlib.suppress(StateError, PoolClosed):  # what would wait may say so
                    REENTRIES[call](self, pool)
            except Exception as exc:
                if not (self.holding and isinstance(exc, ConnectionTimedOut)):
                    self.objections.append(f"{call} has failed: {exc!r}")

        return act

    def check(self) -> None:
        """Raise `Broken` unless the pool is as it should be after an interrupt.

        It serves requests; its futures are resolved; its statistics come
        to rest, with nothing queued or in flight and not a connection too many; and it can be
        closed, with nothing left.
        """
        if self.objections:
            raise Broken(self.objections[0])
        if self.pool is None:
            self.pool = ConnectionPool(**self.options)
        pool = self.pool
        if self.closing and self._is_closed():
            self._check_resolved()
        else:
            if not self.server.released.is_set():
                self._serves_another_host()
            self.server.released.set()
            self._serves()
            if not self.closing:
                self._check_resolved()
            rest = self.wait_until(
                lambda s: (
                    not (s.queued or s.waiting or s.in_flight)
                    and set(_states(s)) <= {"idle"}
                    and s.connections == len(_states(s)) == s.opened - s.closed
                )
            )
            most = self.options.get("max_connections_per_host", 2)
            if rest.connections > max(2, most) * len(rest.hosts):
                raise Broken(f"too many connections: {_numbers(rest)}")
        pool.close()
        self._check_resolved()

    def _serves(self) -> None:
        assert self.pool is not None
        url = self.server.url("/next")
        try:
            for _ in range(2):
                if self.pool.get(url, deadline=self.patience).body != b"/next":
                    raise Broken("a later request got the response to another one")
            future = self.pool.submit("GET", url, deadline=self.patience)
            future.result(self.patience + 1)
        except Exception as exc:
            raise Broken(f"a later request was not served: {exc!r:.150}") from exc

    def _serves_another_host(self) -> None:
        assert self.pool is not None
        url = self.server.url("/other").replace("127.0.0.1", "127.0.0.2")
        if self.server.scheme == "http":
            with contextlib.suppress(OSError):  # macOS has no such address
                self.pool.get(url, deadline=self.patience, retry=None)

    def _is_closed(self) -> bool:
        assert self.pool is not None
        try:
            self.pool.submit("GET", self.server.url("/next")).cancel()
        except PoolClosed:
            return True
        return False

    def _check_resolved(self) -> None:
        end = time.monotonic() + self.patience
        for waiter in self.waiters:
            waiter.join(max(0.0, end - time.monotonic()))
            if waiter.is_alive():
                raise Broken("a thread waits for ever for a future")
        for future in self.futures:
            try:
                future.exception(max(0.0, end - time.monotonic()))
            except TimeoutError:
                raise Broken(f"never resolved: {future!r}") from None
            except BaseException:
                pass  # it was cancelled


def _states(statistics: PoolStatistics) -> list[str]:
    return [line.state for host in statistics.hosts.values() for line in host.connections]


def _numbers(statistics: PoolStatistics) -> str:
    return (
        f"{statistics.queued} queued, {statistics.waiting} waiting, {statistics.in_flight} in "
        f"flight, {statistics.connections} connections ({statistics.opened} opened, "
        f"{statistics.closed} closed): {', '.join(_states(statistics)) or 'none'}"
    )


class Broken(Exception):
    """Something does not hold that should."""


class Operation(NamedTuple):
    """What is interrupted: *run* in a `Trial` that *prepare* has got ready."""

    prepare: Callable[[Trial], object]
    run: Callable[[Trial], object]


def _submit(trial: Trial, **options: Any) -> None:
    assert trial.pool is not None
    future = trial.pool.submit("GET", trial.server.url("/it"), **options)
    trial.futures.append(future)
    future.result()


def _consume(trial: Trial, how: str) -> None:
    assert trial.pool is not None
    iterator = getattr(trial.pool, how)([trial.server.url(f"/{i}") for i in range(3)])
    # Closed here, for the traceback of the interrupt would keep it.
    with contextlib.closing(iterator) as items:
        for _ in items:
            pass


def _stream(trial: Trial, target: str, size: int) -> None:
    assert trial.pool is not None
    with trial.pool.stream("GET", trial.server.url(target)) as response:
        response.read(size)


def _begin_closing(trial: Trial) -> None:
    trial.hold(trial.make(max_connections_per_host=1, pipeline_depth=1))
    trial.wait_in_threads()
    trial.closing = True


def _hold(trial: Trial) -> None:
    trial.hold(trial.make(max_connections_per_host=1, pipeline_depth=1))


def _add_callback_and_wait(trial: Trial) -> None:
    assert trial.pool is not None
    future = trial.pool.submit("GET", trial.server.url("/it"))
    trial.futures.append(future)
    future.add_done_callback(lambda future: None)
    future.running()
    future.exception()


def _pool(trial: Trial) -> ConnectionPool:
    assert trial.pool is not None
    return trial.pool


OPERATIONS: dict[str, Operation] = {
    "first": Operation(Trial.make, lambda t: _pool(t).get(t.server.url("/it"))),
    "warm": Operation(Trial.warm, lambda t: _pool(t).get(t.server.url("/it"))),
    "warm-post": Operation(
        Trial.warm, lambda t: _pool(t).post(t.server.url("/it"), b"body", headers={"A": "b"})
    ),
    "submit": Operation(Trial.make, _submit),
    "submit-warm": Operation(Trial.warm, _submit),
    "submit-deadline": Operation(Trial.warm, lambda t: _submit(t, deadline=PATIENCE)),
    "map": Operation(Trial.make, lambda t: _consume(t, "map")),
    "as-completed": Operation(Trial.make, lambda t: _consume(t, "as_completed")),
    "stream": Operation(Trial.warm, lambda t: _stream(t, "/it", -1)),
    "stream-long": Operation(Trial.warm, lambda t: _stream(t, "/long", -1)),
    "stream-left": Operation(Trial.warm, lambda t: _stream(t, "/long", 1000)),
    "upload": Operation(
        Trial.warm, lambda t: _pool(t).put(t.server.url("/it"), iter([b"some", b"body"]))
    ),
    "cancel-queued": Operation(_hold, lambda t: t.futures[1].cancel()),
    "cancel-in-flight": Operation(_hold, lambda t: t.futures[0].cancel()),
    "callback": Operation(Trial.warm, _add_callback_and_wait),
    "statistics": Operation(_hold, lambda t: str(_pool(t).statistics())),
    "close": Operation(_begin_closing, lambda t: _pool(t).close()),
    "close-idle": Operation(
        lambda t: (t.warm(), setattr(t, "closing", True)), lambda t: _pool(t).close()
    ),
    "make": Operation(lambda t: None, lambda t: t.make(headers={"A": "b"}, proxy=None)),
}


def _reenter_submit(trial: Trial, pool: ConnectionPool) -> None:
    trial.futures.append(pool.submit("GET", trial.server.url("/again")))


def _reenter_cancel(trial: Trial, pool: ConnectionPool) -> None:
    future = pool.submit("GET", trial.server.url("/again"))
    future.cancel()
    trial.futures.append(future)


def _reenter_stream(trial: Trial, pool: ConnectionPool) -> None:
    with pool.stream("GET", trial.server.url("/again"), deadline=trial.deadline) as response:
        response.read()


def _reenter_as_completed(trial: Trial, pool: ConnectionPool) -> None:
    request = Request("GET", trial.server.url("/again"), deadline=trial.deadline)
    for future in pool.as_completed([request]):
        future.result(trial.patience)


#: What a finalizer may do with a pool, wherever it runs.
REENTRIES: dict[str, Callable[[Trial, ConnectionPool], object]] = {
    "submit": _reenter_submit,
    "cancel": _reenter_cancel,
    "get": lambda t, pool: pool.get(t.server.url("/again"), deadline=t.deadline),
    "stream": _reenter_stream,
    "as-completed": _reenter_as_completed,
    "statistics": lambda t, pool: str(pool.statistics()),
}


# --- all of them ----------------------------------------------------------------------------------


class Stuck(BaseException):
    """The main thread did not come back."""


@contextlib.contextmanager
def _within(seconds: float, what: str) -> Iterator[None]:
    def give_up(number: int, frame: FrameType | None) -> None:
        raise Stuck(f"{what} hangs at {where(frame)}")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again, if it is raised in a finalizer
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _threads() -> set[threading.Thread]:
    # One that was interrupted before it began stays listed for ever: it is no thread.
    listed = (t for t in threading.enumerate() if t.name.startswith("dugong"))
    return {thread for thread in listed if thread.native_id is not None}


def attempt(
    operation: Operation,
    server: Server,
    options: dict[str, Any],
    patience: float = PATIENCE,
    at: int | None = None,
    what: BaseException | str | None = None,
) -> tuple[Interrupter, str | None]:
    """Run *operation* once; at its point number *at*, raise *what*, or do that of `REENTRIES`.

    Return what is known of its points, and what is broken afterwards, if anything is.
    """
    server.released.clear()
    before = _threads()
    trial = Trial(server, options, patience)
    reenters = isinstance(what, str)
    act = trial.reenter(what) if isinstance(what, str) else functools.partial(_raise, what)
    interrupter = Interrupter(at, act, everywhere=reenters)
    try:
        operation.prepare(trial)
        raised: BaseException | None = None
        gc.collect()
        gc.disable()  # or the finalizers of earlier trials, which swallow what is raised, may run
        with _within(LIMIT, "the operation"):
            try:
                with interrupter:
                    operation.run(trial)
            except BaseException as exc:
                raised = exc
        gc.enable()
        if isinstance(raised, Stuck):
            raise raised
        if reenters and raised is not None:
            raise Broken(f"an innocent call has failed: {raised!r}")
        if isinstance(what, KeyboardInterrupt) and interrupter.acted_in and raised is not what:
            raise Broken("the interrupt is swallowed")
        raised = None
        if isinstance(what, BaseException):
            what.__traceback__ = None  # whose frames have the stream that was not left
        with _within(4 * patience + LIMIT, "what follows"):
            trial.check()
        left = _threads() - before
        for thread in left:
            thread.join(patience)
        if left := {thread for thread in left if thread.is_alive()}:
            raise Broken(f"threads are left: {left}")
    except (Broken, Stuck) as exc:
        return interrupter, str(exc)
    except Exception as exc:
        at_last = traceback.extract_tb(exc.__traceback__)[-1]
        file = os.path.basename(at_last.filename)
        return interrupter, f"{exc!r:.150} at {file}:{at_last.lineno}"
    finally:
        gc.enable()
        server.released.set()
    return interrupter, None


def _raise(exc: BaseException) -> None:
    raise exc


def _sample(points: list[Point], samples: int | None) -> list[int]:
    """Return the numbers of *samples* of *points*, none twice and evenly spread; or of all."""
    if samples is None:
        return list(range(len(points)))
    first: dict[Point, int] = {}
    for number, point in enumerate(points):
        first.setdefault(point, number)
    distinct = list(first.values())
    if len(distinct) <= samples:
        return distinct
    return [distinct[i * len(distinct) // samples] for i in range(samples)]


def _tls() -> tuple[Any, Any]:
    import ssl

    import trustme

    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    return server_context, client_context


def main(arguments: list[str] | None = None) -> int:
    """Do what the module is for; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.pool_interrupts")
    parser.add_argument("operations", nargs="*", metavar="OPERATION")
    parser.add_argument("--samples", type=int, help="of the points of each operation; default: all")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after this long")
    parser.add_argument("--broken", type=int, default=10**9, help="stop after so many are found")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds for what follows")
    parser.add_argument("--at", type=int, help="only at this point")
    parser.add_argument("--reenter", choices=REENTRIES, help="call the pool, and raise nothing")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--list", action="store_true", help="list the points, and do nothing")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.operations if name not in OPERATIONS]:
        parser.error(f"no such operation: {', '.join(unknown)} (but: {', '.join(OPERATIONS)})")
    end = time.monotonic() + options.seconds
    server_context, client_context = _tls() if options.tls else (None, None)
    server = Server("https" if options.tls else "http", server_context)
    pool_options: dict[str, Any] = {"retry": RetryPolicy(backoff=0.01)}
    pool_options["ssl_context"] = client_context
    broken = tried = 0
    for name in options.operations or OPERATIONS:
        run = functools.partial(attempt, OPERATIONS[name], server, pool_options, options.patience)
        run()  # imports, and what is made once
        interrupter, why = run()
        if why is not None:
            print(f"{name}: not even without an interrupt: {why}")
            return 1
        numbers = _sample(interrupter.points, options.samples)
        if options.list:
            for number, point in enumerate(interrupter.points):
                print(f"{name} {number} {point}")
            continue
        tried_here = broken_here = 0
        for number in numbers if options.at is None else [options.at]:
            acts: list[BaseException | str] = [KeyboardInterrupt(), TimeoutError("alarm")]
            if options.samples is not None:
                del acts[number % 2]
            for act in [options.reenter] if options.reenter else acts:
                if time.monotonic() > end or broken + broken_here >= options.broken:
                    break
                interrupter, why = run(number, act)
                tried_here += 1
                if why is not None:
                    broken_here += 1
                    kind = act if isinstance(act, str) else type(act).__name__
                    place = interrupter.points[number] if interrupter.acted_in else "nowhere"
                    print(f"{name} {number} {kind} {place} ({interrupter.acted_in}): {why}")
                    sys.stdout.flush()
        if options.samples is None:
            print(f"# {name}: {len(numbers)} points, {tried_here} tried, {broken_here} broken")
            sys.stdout.flush()
        tried += tried_here
        broken += broken_here
    print(f"# {tried} tried, {broken} broken")
    return 1 if broken else 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # whatever is left of pools that are stuck
