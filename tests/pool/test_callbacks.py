"""Callbacks and events run in the threads of the pool, one after the other, and cannot wait there.

No call of one caller runs what another caller has asked to be called: whatever lock he holds around
his own call, it is not taken by theirs.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dugong import ConnectionPool, Event, Request, ResponseFuture, RetryPolicy, StateError
from dugong.pool.core import shutdown
from tests.support.byhand import HandServer
from tests.support.pool import Held, OpenSite, each, name_target, open_site, url, wait_for
from tests.support.server import TIMEOUT, Peer, ReceivedRequest, ScriptedServer

Call = Callable[[ConnectionPool, str], object]


def a_stream(pool: ConnectionPool, where: str) -> None:
    with pool.stream("GET", where) as response:
        response.read()


#: What a caller may do, with a pool and a URL.
CALLS: dict[str, Call] = {
    "request": lambda pool, where: pool.get(where),
    "submit": lambda pool, where: pool.submit("GET", where).result(TIMEOUT),
    "map": lambda pool, where: list(pool.map([where, where])),
    "as_completed": lambda pool, where: list(pool.as_completed([where, where])),
    "stream": a_stream,
    "upload": lambda pool, where: pool.put(where, iter([b"body"])),
    "cancel": lambda pool, where: pool.submit("GET", where).cancel(),
    "statistics": lambda pool, where: pool.statistics(),
    "close": lambda pool, where: pool.close(),
}


class Threads:
    """Notes in which thread it is called, and for what."""

    def __init__(self) -> None:
        self.found: list[tuple[str, threading.Thread]] = []
        self.called = threading.Event()

    def __call__(self, what: object) -> None:
        name = str(what) if isinstance(what, Event) else repr(what)
        self.found.append((name, threading.current_thread()))
        self.called.set()

    def of_callers(self) -> list[str]:
        """Return what was called in threads that are none of the pool's."""
        return [name for name, thread in self.found if not thread.name.startswith("dugong")]


# --- the thread -----------------------------------------------------------------------------------


class FailTogether:
    """Three requests that fail at once; the callbacks of the first two are held up until `go_on`.

    These occupy the threads of their connection, so that the third has to wait for its turn.
    """

    def __init__(self, pool: ConnectionPool, server: HandServer, third: Callable[..., Any]) -> None:
        self.go_on = threading.Event()
        self._began = threading.Semaphore(0)
        for target in ("/1", "/2", "/3"):  # until so many may be in flight at once
            warm = pool.submit("GET", server.url(target))
            if target == "/1":
                self._peer = server.accept()
            assert self._peer.burst() == [target]
            self._peer.responds(target)
            warm.result(TIMEOUT)
        targets = ["/a", "/b", "/c"]
        futures = [pool.submit("GET", server.url("/a"), retry=None)]
        assert self._peer.burst() == ["/a"]
        futures += [pool.submit("GET", server.url(target), retry=None) for target in targets[1:]]
        assert self._peer.targets(2) == targets[1:]
        for future in futures[:2]:
            future.add_done_callback(self._hold_up)
        futures[2].add_done_callback(third)

    def fail(self) -> None:
        """Have them fail; return when no thread of their connection is left to call the third."""
        self._peer.close()
        assert self._began.acquire(timeout=TIMEOUT)
        self._began.acquire(timeout=0.2)  # or else one thread calls them all

    def _hold_up(self, future: object) -> None:
        self._began.release()
        wait_for(self.go_on)


@pytest.mark.parametrize("call", CALLS)
def test_no_call_runs_the_callbacks_of_others(call: str) -> None:
    third = Threads()
    with (
        ScriptedServer(each(name_target), repeat=True) as other,
        HandServer() as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        together = FailTogether(pool, server, third)
        together.fail()
        caller = threading.Thread(target=CALLS[call], args=(pool, url(other)), name="caller")
        caller.start()
        if call == "close":  # which waits for the threads that are held up
            third.called.wait(0.2)
            together.go_on.set()
        caller.join(TIMEOUT)
        together.go_on.set()
        wait_for(third.called)
        assert not caller.is_alive()
        assert third.of_callers() == []


@pytest.mark.parametrize("call", ["submit", "cancel", "statistics", "close"])
def test_a_caller_may_hold_a_lock_that_the_callbacks_of_others_take(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutdown, "CLOSE_TIME", 0.5)
    lock = threading.Lock()
    called = threading.Event()
    got: list[bool] = []

    def take(future: object) -> None:
        got.append(lock.acquire(timeout=8))  # longer than close() may take
        if got[0]:
            lock.release()
        called.set()

    calls = {**CALLS, "submit": lambda pool, where: pool.submit("GET", where)}
    with (
        ScriptedServer(each(name_target), repeat=True) as other,
        HandServer() as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        together = FailTogether(pool, server, take)
        together.fail()
        if call == "close":
            together.go_on.set()
        with lock:
            calls[call](pool, url(other))
        together.go_on.set()
        wait_for(called)
        assert got == [True]


def test_close_has_the_callbacks_run_in_the_threads_of_the_pool() -> None:
    held, threads = Held(), Threads()
    with ScriptedServer(held) as server:
        pool = ConnectionPool(max_connections_per_host=1, pipeline_depth=1)
        futures = [pool.submit("GET", url(server)) for _ in range(10)]
        held.wait()
        for future in futures:
            future.add_done_callback(threads)
        pool.close()
        assert all(future.done() for future in futures)
        held.release()
        assert len(threads.found) == 10
        assert threads.of_callers() == []


@pytest.mark.parametrize("number", [0, 1], ids=["in flight", "queued"])
def test_cancel_has_the_callbacks_run_in_the_threads_of_the_pool(number: int) -> None:
    held, threads = Held(), Threads()
    with (
        ScriptedServer(held) as server,
        ConnectionPool(max_connections_per_host=1, pipeline_depth=1) as pool,
    ):
        futures = [pool.submit("GET", url(server)) for _ in range(2)]
        held.wait()
        futures[number].add_done_callback(threads)
        assert futures[number].cancel()
        assert futures[number].cancelled()
        wait_for(threads.called)
        held.release()
        assert threads.of_callers() == []


def test_a_callback_that_comes_late_is_called_at_once_by_its_caller() -> None:
    threads = Threads()
    with open_site(each(name_target)) as site:
        future = site.pool.submit("GET", site.url())
        future.result(TIMEOUT)
        future.add_done_callback(threads)
        assert [thread for _, thread in threads.found] == [threading.current_thread()]


@pytest.mark.parametrize("call", [*CALLS, "make room"])
def test_events_are_told_of_in_the_threads_of_the_pool(call: str, site: OpenSite) -> None:
    threads = Threads()
    with (
        site(each(name_target), repeat=True, on_event=threads, max_connections=1) as here,
        ScriptedServer(each(name_target), repeat=True) as other,
    ):
        for _ in range(3):
            here.pool.get(here.url())
        if call == "make room":
            here.pool.get(url(other))  # for which the idle connection is closed
        else:
            CALLS[call](here.pool, here.url())
        here.pool.close()
        assert threads.found
        assert threads.of_callers() == []


def test_events_of_one_request_come_in_their_order() -> None:
    heard: list[Event] = []
    with open_site(each(name_target), repeat=True, on_event=heard.append) as site:
        for _ in range(50):
            site.pool.get(site.url())
        site.pool.close()
    kinds = [event.kind for event in heard]
    assert kinds == ["opened", *50 * ["sent", "answered"], "closed"]


# --- one after the other --------------------------------------------------------------------------


def refused_url() -> str:
    """Return a URL at a port where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/"


def all_done(futures: list[ResponseFuture]) -> bool:
    return not concurrent.futures.wait(futures, timeout=TIMEOUT).not_done


def queue_behind_one_in_flight(
    pool: ConnectionPool, server: HandServer, count: int
) -> list[ResponseFuture]:
    """Return *count* futures, the first of them in flight and the others in the queue."""
    first = pool.submit("GET", server.url("/0"), retry=None)
    server.accept().burst()
    return [first, *(pool.submit("GET", server.url("/"), retry=None) for _ in range(count - 1))]


@pytest.mark.parametrize("count", [1000, 10_000])
@pytest.mark.parametrize("ends", ["a server that dies", "close"])
def test_callbacks_of_many_that_fail_at_once_may_submit(count: int, ends: str) -> None:
    """To another host, and another pool, which fails them just as quickly or serves them."""
    nowhere = refused_url()
    with (
        HandServer() as server,
        ConnectionPool(max_connections_per_host=1, pipeline_depth=1) as pool,
        ConnectionPool(retry=None) as second,
    ):
        later: list[ResponseFuture] = []
        enough = threading.Semaphore(0)
        submitting = pool if ends != "close" else second

        def submit(future: object) -> None:
            later.append(submitting.submit("GET", nowhere, retry=None))
            enough.release()

        futures = queue_behind_one_in_flight(pool, server, count)
        for future in futures:
            future.add_done_callback(submit)
        if ends == "close":
            pool.close()
        else:
            server.__exit__(None, None, None)
        assert all_done(futures)
        for _ in futures:
            assert enough.acquire(timeout=TIMEOUT)
        assert all_done(later)
        assert len(later) == count


def test_a_callback_may_cancel_another_whose_callback_cancels_another() -> None:
    count = 3000
    with (
        HandServer() as server,
        ConnectionPool(max_connections_per_host=1, pipeline_depth=1) as pool,
    ):
        futures = queue_behind_one_in_flight(pool, server, count)
        for future, following in itertools.pairwise(futures):
            future.add_done_callback(lambda _, following=following: following.cancel())
        futures[0].cancel()
        assert all_done(futures)
        assert all(future.cancelled() for future in futures)


def test_a_listener_may_submit_whatever_it_hears_of() -> None:
    """Each event has one more request made, which fails at once, of which it hears, and so on."""
    nowhere = refused_url()
    submitted: list[ResponseFuture] = []
    enough = threading.Event()

    def listen(event: Event) -> None:
        if event.kind == "gave up" and len(submitted) < 2000:
            submitted.append(pool.submit("GET", nowhere, retry=None))
        elif event.kind == "gave up":
            enough.set()

    with ConnectionPool(on_event=listen) as pool:
        submitted += [pool.submit("GET", nowhere, retry=None) for _ in range(1000)]
        wait_for(enough)
        assert all_done(submitted)


# --- waiting --------------------------------------------------------------------------------------


class Contexts:
    """Where code of the caller runs in a thread of the pool: it does *what*, and notes the outcome.

    `run` makes a request that has it called in the context of that name.
    """

    def __init__(self, what: Callable[[], object]) -> None:
        self._what = what
        self.outcomes: list[object] = []
        self.done = threading.Event()

    def __call__(self, *_: object) -> None:
        if self.outcomes:
            return
        try:
            self.outcomes.append(self._what())
        except BaseException as exc:
            self.outcomes.append(type(exc))
        finally:
            self.done.set()

    def run(self, name: str, pool: ConnectionPool, where: str) -> ResponseFuture:
        if name == "should_retry":

            def ask(attempt: object) -> bool:
                self()
                return False

            policy = RetryPolicy(should_retry=ask)
            return pool.submit("GET", where + "fail", retry=policy)
        if name == "body":
            return pool.submit("PUT", where, body=self._body())
        future = pool.submit("GET", where + "slow")
        if name == "callback":
            future.add_done_callback(self)
        return future

    def _body(self) -> Iterator[bytes]:
        yield b"body"
        self()


@pytest.mark.parametrize("call", ["as_completed", "map", "request", "stream", "submit"])
@pytest.mark.parametrize("context", ["callback", "event", "should_retry", "body"])
def test_what_would_wait_in_a_thread_of_the_pool_says_so(context: str, call: str) -> None:
    go_on = threading.Event()

    def respond(peer: Peer, request: ReceivedRequest) -> None:
        if request.target == "/slow":
            wait_for(go_on)
        status = "503 Service Unavailable" if request.target == "/fail" else "200 OK"
        peer.respond(request.target.encode(), status=status)

    with ScriptedServer(each(respond), repeat=True) as server:
        inside = Contexts(lambda: CALLS[call](pool, url(server, "/inside")))
        listener = inside if context == "event" else None
        pool = ConnectionPool(max_connections_per_host=1, on_event=listener, retry=None)
        with pool:
            future = inside.run(context, pool, url(server))
            go_on.set()
            was_done = inside.done.wait(5)
            if not was_done:
                pool.close()  # which ends what it waits for
                future.cancel()
            assert was_done, "it waits for ever"
            assert inside.outcomes == [StateError]
            with contextlib.suppress(Exception):
                future.result(TIMEOUT)
            assert pool.get(url(server, "/next"), deadline=5).body == b"/next"


def test_as_completed_begins_nothing_in_a_callback() -> None:
    """It is refused before the first request is made, not afterwards."""
    outcomes: list[Any] = []
    done = threading.Event()

    def consume(future: object) -> None:
        try:
            next(pool.as_completed([Request("GET", url(server, "/inside"))]))
        except BaseException as exc:
            outcomes.append(type(exc))
        finally:
            done.set()

    held = Held()
    with (
        ScriptedServer(held) as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        future = pool.submit("GET", url(server))
        held.wait()
        future.add_done_callback(consume)
        held.release()
        if not done.wait(5):
            pool.close()
        assert outcomes == [StateError]
        assert pool.statistics().sent == 1
