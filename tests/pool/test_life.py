"""A pool's end, in all the ways there are: closed, forgotten, exited, forked, interrupted."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import FrameType
from typing import Any, NoReturn

import pytest

import dugong
from dugong import ConnectionPool, Headers
from dugong.connection import dial
from dugong.errors import ConnectionClosed, Delivery, PoolClosed
from dugong.pool.core import cancellation, dispatch, shutdown, traffic
from dugong.pool.core.connection import PooledConnection
from dugong.pool.core.host import Host
from dugong.pool.core.job import Job
from dugong.pool.core.progress import Progress
from dugong.pool.future import ResponseFuture
from tests.support.points import Interrupt
from tests.support.pool import (
    Held,
    discard_rest,
    each,
    get_and_be_idle,
    lose_connection,
    name_target,
    url,
    wait_for,
)
from tests.support.server import TIMEOUT, Peer, ReceivedRequest, ScriptedServer


def serve(peer: Peer) -> None:
    """Response each request with its target, for as long as the client wants."""
    with contextlib.suppress(ConnectionError):
        each(name_target)(peer)


class Mute:
    """A script that receives and never responds; `arrived` tells of the first request."""

    def __init__(self) -> None:
        self.arrived = threading.Event()

    def __call__(self, peer: Peer) -> None:
        with contextlib.suppress(ConnectionError, EOFError):
            peer.head()
            self.arrived.set()
            discard_rest(peer)


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("dugong")]


def delivery_of(future: ResponseFuture) -> Delivery | None:
    """Return how far the request of *future*, which the pool's end has ended, had got."""
    error = future.exception(timeout=0)
    assert isinstance(error, PoolClosed)
    return error.delivery


# --- close ----------------------------------------------------------------------------------------


@pytest.mark.timeout(300)  # for a machine that has much else to do
def test_close_ends_50000_requests_to_a_server_that_never_responds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutdown, "CLOSE_TIME", 240.0)
    mute = Mute()
    with ScriptedServer(mute, repeat=True) as server:
        pool = ConnectionPool()
        futures = [pool.submit("GET", url(server)) for _ in range(50_000)]
        wait_for(mute.arrived)
        began = time.process_time()
        pool.close()
        assert time.process_time() - began < 5  # what others do meanwhile does not count
        assert all(future.done() for future in futures)
        assert {delivery_of(future) for future in futures} == {Delivery.UNSENT, Delivery.SENT}
        assert own_threads() == []
        statistics = pool.statistics()
        assert (statistics.queued, statistics.in_flight, statistics.connections) == (0, 0, 0)


def test_leaving_the_block_closes_also_if_it_fails() -> None:
    mute = Mute()
    with ScriptedServer(mute) as server:
        pool = ConnectionPool()
        future = pool.submit("GET", url(server))
        wait_for(mute.arrived)
        with contextlib.suppress(ZeroDivisionError), pool:
            raise ZeroDivisionError
        assert delivery_of(future) is Delivery.SENT
        assert own_threads() == []


def test_close_ends_idle_connections_at_once() -> None:
    with ScriptedServer(serve) as server:
        pool = ConnectionPool()
        pool.get(url(server))
        pool.close()
        assert own_threads() == []
        assert pool.statistics().connections == 0


def test_close_waits_also_for_threads_that_are_about_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = threading.Thread.run
    leaving = threading.Semaphore(0)

    def slow_run(thread: threading.Thread) -> None:
        run(thread)
        if thread.name.endswith(("-send", "-recv")):
            leaving.release()
            threading.Event().wait(0.1)  # which is how long the thread has still to live

    def last(peer: Peer, request: ReceivedRequest) -> None:
        peer.respond(headers="Connection: close\r\n")

    monkeypatch.setattr(threading.Thread, "run", slow_run)
    with ScriptedServer(each(last)) as server:
        pool = ConnectionPool()
        pool.get(url(server))
        assert leaving.acquire(timeout=5)
        pool.close()
        left = own_threads()
        for thread in left:
            thread.join()
        assert left == []


def test_close_may_be_called_twice() -> None:
    with ScriptedServer(serve) as server:
        pool = ConnectionPool()
        pool.get(url(server))
        pool.close()
        pool.close()
        with pool:
            pass


def test_close_may_be_called_by_several_threads() -> None:
    mute = Mute()
    with ScriptedServer(mute, repeat=True) as server:
        pool = ConnectionPool()
        futures = [pool.submit("GET", url(server)) for _ in range(100)]
        wait_for(mute.arrived)
        closers = [threading.Thread(target=pool.close) for _ in range(4)]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join()
        assert all(future.done() for future in futures)
        assert own_threads() == []


def test_close_ends_a_blocking_request() -> None:
    held = Held(warm=1)
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            pool.get(url(server))
        except Exception as exc:
            errors.append(exc)

    def script(peer: Peer) -> None:
        name_target(peer, peer.request())
        peer.request()
        held.arrived.set()
        discard_rest(peer)

    with ScriptedServer(script) as server:
        pool = ConnectionPool()
        pool.get(url(server))
        asker = threading.Thread(target=ask)  # this one has the idle connection to itself
        asker.start()
        wait_for(held.arrived)
        pool.close()
        asker.join()
        assert [type(error) for error in errors] == [PoolClosed]
        assert errors[0].delivery is Delivery.SENT  # type: ignore[attr-defined]
        assert pool.statistics().connections == 0


def test_close_while_shaking_hands(client_context: ssl.SSLContext) -> None:
    accepted = threading.Event()

    def script(peer: Peer) -> None:
        peer.exactly(1)
        accepted.set()
        discard_rest(peer)

    with ScriptedServer(script) as server:
        pool = ConnectionPool(ssl_context=client_context, max_connections_per_host=1)
        future = pool.submit("GET", url(server, scheme="https"))
        wait_for(accepted)
        assert pool.statistics().hosts[f"https://127.0.0.1:{server.port}"].connections[0].state == (
            "connecting"
        )
        pool.close()
        assert delivery_of(future) is Delivery.UNSENT
        assert own_threads() == []


def test_close_does_not_wait_long_for_name_resolution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "CLOSE_TIME", 0.02)
    resolving, resolved = threading.Event(), threading.Event()

    def resolve(host: str, port: int, **options: Any) -> NoReturn:
        resolving.set()
        wait_for(resolved)
        raise dugong.HostnameNotResolvable(host)

    monkeypatch.setattr(dial, "resolve", resolve)
    pool = ConnectionPool(max_connections_per_host=1)
    future = pool.submit("GET", "http://server.test/")
    wait_for(resolving)
    pool.close()
    assert delivery_of(future) is Delivery.UNSENT
    (thread,) = own_threads()
    resolved.set()
    thread.join()
    assert pool.statistics().connections == 0


def test_close_while_a_body_is_sent_that_the_server_does_not_read() -> None:
    mute = threading.Event()
    closed = threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        mute.set()
        wait_for(closed)

    with ScriptedServer(script) as server:
        pool = ConnectionPool()
        future = pool.submit("PUT", url(server), body=bytes(50_000_000))
        wait_for(mute)
        pool.close()
        closed.set()
        assert delivery_of(future) in (Delivery.PARTLY_SENT, Delivery.SENT)
        assert own_threads() == []


class SlowBody:
    """A body that gives a piece, and then holds the sender up until it is told to `go_on`."""

    def __init__(self) -> None:
        self.stuck = threading.Event()
        self.go_on = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        yield b"first"
        self.stuck.set()
        wait_for(self.go_on)
        yield b"second"


def test_close_does_not_wait_long_for_a_body_that_does_not_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutdown, "CLOSE_TIME", 0.02)
    body = SlowBody()
    with ScriptedServer(discard_rest) as server:
        pool = ConnectionPool()
        future = pool.submit("PUT", url(server), body=body)
        wait_for(body.stuck)
        threads = own_threads()
        pool.close()
        assert delivery_of(future) in (Delivery.PARTLY_SENT, Delivery.SENT)
        body.go_on.set()
        for thread in threads:
            thread.join()
        assert pool.statistics().connections == 0


def test_close_resolves_what_was_answered_though_its_body_does_not_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutdown, "CLOSE_TIME", 0.02)
    body = SlowBody()
    answered = threading.Event()
    learn = Progress.learn_locked

    def signalling_learn(*args: Any) -> None:
        learn(*args)
        answered.set()

    monkeypatch.setattr(Progress, "learn_locked", signalling_learn)

    def script(peer: Peer) -> None:
        peer.head()
        wait_for(body.stuck)
        peer.respond(b"early")
        discard_rest(peer)

    with ScriptedServer(script) as server:
        pool = ConnectionPool()
        future = pool.submit("PUT", url(server), body=body)
        wait_for(answered)
        threads = own_threads()
        pool.close()
        try:
            assert future.done()
        finally:
            body.go_on.set()
            for thread in threads:
                thread.join()


def test_close_ends_what_waits_to_be_sent_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A POST that a connection has reserved for when it is empty is not sent after the end."""
    held = Mute()
    reserved = threading.Event()

    def take(host: Host, pipeline: PooledConnection) -> list[Job]:
        batch = dispatch.take(host, pipeline)
        if pipeline.reserved is not None:
            reserved.set()
        return batch

    monkeypatch.setattr(traffic, "take", take)

    def script(peer: Peer) -> None:
        name_target(peer, peer.request())
        name_target(peer, peer.request())
        held(peer)

    with ScriptedServer(script, discard_rest) as server:
        pool = ConnectionPool(max_connections_per_host=1)
        pool.get(url(server))
        pool.get(url(server))
        get = pool.submit("GET", url(server))
        wait_for(held.arrived)
        post = pool.submit("POST", url(server), body=b"once")
        wait_for(reserved)
        behind = pool.submit("GET", url(server))
        pool.close()
        try:
            assert delivery_of(post) is Delivery.UNSENT
            assert delivery_of(behind) is Delivery.UNSENT
            assert delivery_of(get) is Delivery.SENT
            assert own_threads() == []
            assert pool.statistics().opened == 1
            assert pool.statistics().queued == 0
        finally:
            pool.close()


def test_close_ends_what_has_lost_a_connection_and_waits_for_another() -> None:
    with lose_connection() as (pool, lost):
        pool.close()
        assert delivery_of(lost) is Delivery.SENT
        error = lost.exception()
        assert isinstance(error, PoolClosed)
        assert len(error.attempts) == 1
        assert pool.statistics().queued == 0


def test_close_in_a_callback() -> None:
    arrived, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        request = peer.request()
        arrived.set()
        wait_for(go_on)
        name_target(peer, request)
        discard_rest(peer)

    def close(_: object) -> None:
        pool.close()
        closed.set()

    with ScriptedServer(script) as server:
        pool = ConnectionPool(max_connections_per_host=1, pipeline_depth=1)
        future = pool.submit("GET", url(server))
        queued = [pool.submit("GET", url(server)) for _ in range(10)]
        wait_for(arrived)
        threads = own_threads()
        future.add_done_callback(close)
        go_on.set()
        wait_for(closed)
        assert future.result().status == 200
        assert all(isinstance(f.exception(timeout=5), PoolClosed) for f in queued)
        for thread in threads:
            thread.join()


def test_callbacks_of_several_connections_that_close_do_not_wait_for_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutdown, "CLOSE_TIME", 60.0)
    held = [Held() for _ in range(3)]
    both = threading.Barrier(3)
    closed = threading.Semaphore(0)

    def close(_: object) -> None:
        both.wait(timeout=5)
        pool.close()
        closed.release()

    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(ScriptedServer(script)) for script in held]
        pool = ConnectionPool()
        futures = [pool.submit("GET", url(server)) for server in servers]
        threads = []
        for script, future in zip(held, futures, strict=True):
            script.wait()
            future.add_done_callback(close)
        threads = own_threads()
        for script in held:
            script.release()
        for _ in held:
            assert closed.acquire(timeout=5)
        for thread in threads:
            thread.join()


def test_a_callback_may_close_the_pool_that_is_being_closed() -> None:
    mute = Mute()
    with ScriptedServer(mute, repeat=True) as server:
        pool = ConnectionPool()
        futures = [pool.submit("GET", url(server)) for _ in range(100)]
        called: list[object] = []

        def close(future: object) -> None:
            called.append(future)
            pool.close()

        for future in futures:
            future.add_done_callback(close)
        wait_for(mute.arrived)
        pool.close()
        assert len(called) == 100
        assert own_threads() == []


# --- forgotten ------------------------------------------------------------------------------------


def forgotten(pool: weakref.ref[ConnectionPool], threads: list[threading.Thread]) -> bool:
    """Return True if *pool* is collected, and its *threads* end."""
    gc.collect()
    for thread in threads:
        thread.join(5)
    return pool() is None and not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("how", ["submit", "request", "stream", "map", "upload"])
def test_a_pool_that_is_forgotten_ends(how: str) -> None:
    with ScriptedServer(serve) as server:
        pool = ConnectionPool(max_connections_per_host=1)
        for _ in range(2):
            if how == "submit":
                pool.submit("GET", url(server)).result()
            elif how == "request":
                pool.get(url(server))
            elif how == "map":
                list(pool.map([url(server), url(server)]))
            elif how == "upload":
                pool.put(url(server), iter([b"body"]))
            else:
                with pool.stream("GET", url(server)) as response:
                    response.read()
        threads = own_threads()
        ref = weakref.ref(pool)
        del pool
        assert forgotten(ref, threads)


def test_a_result_does_not_keep_its_pool() -> None:
    with ScriptedServer(serve) as server:
        pool = ConnectionPool()
        future = pool.submit("GET", url(server))
        future.result()
        threads = own_threads()
        ref = weakref.ref(pool)
        del pool
        assert forgotten(ref, threads)
        assert future.result().body == b"/"
        assert not future.cancel()


def test_a_streamed_response_does_not_keep_its_pool() -> None:
    large = b"x" * 1_000_000  # more than comes with the head

    with ScriptedServer(each(lambda peer, request: peer.respond(large))) as server:
        pool = ConnectionPool()
        with pool.stream("GET", url(server)) as response:
            assert response.read() == large
        threads = own_threads()
        ref = weakref.ref(pool)
        del pool
        assert forgotten(ref, threads)
        assert response.trailers == Headers()


def test_a_failure_does_not_keep_its_pool() -> None:
    def refuse(peer: Peer) -> None:
        peer.request()
        peer.reset()

    with ScriptedServer(refuse) as server:
        pool = ConnectionPool(max_connections_per_host=1)
        future = pool.submit("POST", url(server))
        error = future.exception()
        assert error is not None
        threads = own_threads()
        ref = weakref.ref(pool)
        del pool
        assert forgotten(ref, threads)


def test_a_future_that_is_not_done_keeps_its_pool() -> None:
    held = Held()
    with ScriptedServer(held) as server:
        pool = ConnectionPool(max_connections_per_host=1, pipeline_depth=1)
        first = pool.submit("GET", url(server, "/1"))
        held.wait()
        second = pool.submit("GET", url(server, "/2"))
        threads = own_threads()
        ref = weakref.ref(pool)
        del pool
        gc.collect()
        assert ref() is not None
        held.release()
        assert first.result().body == b"/1"
        assert second.result().body == b"/2"
        assert forgotten(ref, threads)


def test_a_pool_that_is_forgotten_in_a_cycle_ends() -> None:
    with ScriptedServer(serve) as server:
        pool = ConnectionPool()
        pool.get(url(server))
        cycle: list[object] = [pool]
        cycle.append(cycle)
        threads = own_threads()
        ref = weakref.ref(pool)
        del pool, cycle
        assert forgotten(ref, threads)


# --- the end of the interpreter -------------------------------------------------------------------


def run(code: str, *urls: str) -> tuple[str, str]:
    """Run *code* in another interpreter; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", f"import dugong, sys\nurls = sys.argv[1:]\n{code}", *urls],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "pool = dugong.ConnectionPool()",
        "pool = dugong.ConnectionPool(); pool.get(urls[0])",
        "dugong.ConnectionPool().submit('GET', urls[0]).result()",
        "pool = dugong.ConnectionPool(); f = pool.submit('GET', urls[1])",
        "pool = dugong.ConnectionPool(); f = [pool.submit('GET', urls[1]) for _ in range(9999)]",
        "pool = dugong.ConnectionPool(); f = pool.submit('PUT', urls[1], body=bytes(10**8))",
        "pool = dugong.ConnectionPool(); s = pool.stream('GET', urls[0]); s.__enter__()",
        "pool = dugong.ConnectionPool(); pool.get(urls[0]); sys.exit(0)",
        "dugong.pool = dugong.ConnectionPool(); dugong.pool.get(urls[0])",
    ],
)
def test_the_interpreter_exits_in_silence_though_a_pool_is_open(code: str) -> None:
    with (
        ScriptedServer(serve, repeat=True) as server,
        ScriptedServer(Mute(), repeat=True) as mute,
    ):
        assert run(code, url(server), url(mute)) == ("", "")


def test_no_callback_is_called_when_the_interpreter_exits() -> None:
    code = """if True:
    pool = dugong.ConnectionPool(max_connections_per_host=1)
    pool.get(urls[0])
    future = pool.submit('GET', urls[1])
    future.add_done_callback(lambda future: future.result())
    """
    with ScriptedServer(serve) as server, ScriptedServer(Mute(), repeat=True) as mute:
        assert run(code, url(server), url(mute)) == ("", "")


def test_a_pool_may_be_used_until_the_very_end() -> None:
    code = """if True:
    import atexit
    atexit.register(lambda: [print(pool.get(urls[0]).status) for _ in range(20)])
    pool = dugong.ConnectionPool()
    pool.get(urls[0])
    """
    with ScriptedServer(serve, repeat=True) as server:
        assert run(code, url(server)) == (20 * "200\n", "")


# --- fork -----------------------------------------------------------------------------------------

# What Python says of it is true, and what the tests are about.
forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def in_child(function: Callable[[], object]) -> str:
    """Call *function* in a forked child; return the repr of what it returned or raised."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(15)
        try:
            outcome = repr(function())
        except BaseException as exc:
            outcome = repr(exc)
        os.write(write, outcome.encode()[:60_000])
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(pid, 0)
    return text


@forks
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_child_has_a_working_pool_and_leaves_its_parents_alone(
    scheme: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    targets = []

    def parents(peer: Peer) -> None:
        for _ in range(3):
            request = peer.request()
            targets.append(request.target)
            name_target(peer, request)
        peer.until_eof()

    tls = server_context if scheme == "https" else None
    with (
        ScriptedServer(parents, serve, context=tls) as server,
        ConnectionPool(max_connections_per_host=1, ssl_context=client_context) as pool,
    ):
        pool.get(url(server, "/before", scheme))
        pool.get(url(server, "/before", scheme))

        def child() -> object:
            body = pool.get(url(server, "/child", scheme)).body
            futures = [pool.submit("GET", url(server, f"/{i}", scheme)) for i in range(5)]
            bodies = [future.result().body for future in futures]
            pool.close()
            return body, bodies

        assert in_child(child) == repr((b"/child", [b"/0", b"/1", b"/2", b"/3", b"/4"]))
        assert pool.get(url(server, "/after", scheme)).body == b"/after"
        assert server.connections == 2
    assert targets == ["/before", "/before", "/after"]


@forks
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_is_under_way_goes_on_in_the_parent_and_is_over_in_the_child(
    scheme: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    held = Held()
    tls = server_context if scheme == "https" else None
    with (
        ScriptedServer(held, context=tls) as server,
        ConnectionPool(max_connections_per_host=1, ssl_context=client_context) as pool,
    ):
        in_flight = pool.submit("GET", url(server, "/1", scheme))
        held.wait()
        queued = pool.submit("GET", url(server, "/2", scheme))
        called: list[Future[Any]] = []
        in_flight.add_done_callback(called.append)

        def child() -> object:
            return [type(f.exception(timeout=5)) for f in (in_flight, queued)], called

        assert in_child(child) == repr(([PoolClosed, PoolClosed], []))
        held.release()
        assert in_flight.result().body == b"/1"
        assert queued.result().body == b"/2"
        assert called == [in_flight]
        assert server.connections == 1


@forks
def test_what_has_lost_a_connection_is_over_in_the_child_too() -> None:
    with lose_connection() as (pool, lost):
        child = in_child(lambda: (type(lost.exception(timeout=5)), pool.statistics().queued))
        assert child == repr((PoolClosed, 0))
        assert not lost.done()
        assert pool.statistics().queued == 1


@forks
@pytest.mark.parametrize("size", [3, 9])
def test_a_child_may_leave_the_block_of_its_parents_stream(size: int) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def parents(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nall")
        wait_for(begun)
        peer.send(b" of it"[: size - 3])
        wait_for(go_on)
        peer.send(b" of it"[size - 3 :])
        each(name_target)(peer)

    with (
        ScriptedServer(parents, serve) as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        with contextlib.ExitStack() as stack:
            response = stack.enter_context(pool.stream("GET", url(server)))
            begun.set()
            body = b""
            while len(body) < size:
                body += response.read(size - len(body))

            def child() -> object:
                with contextlib.suppress(dugong.DugongError):
                    stack.close()
                get_and_be_idle(pool, url(server, "/child"))
                return repr(pool)

            outcome = in_child(child)
            go_on.set()
            assert "1 hosts, 1 connections (1 idle), 0 queued, 0 in flight" in outcome
            assert body + response.read() == b"all of it"
        assert pool.get(url(server, "/after")).body == b"/after"
        assert pool.statistics().opened == 1


@forks
def test_a_child_of_a_child_has_a_working_pool() -> None:
    with ScriptedServer(serve, repeat=True) as server, ConnectionPool() as pool:
        pool.get(url(server))

        def child() -> object:
            pool.get(url(server))
            return in_child(lambda: pool.get(url(server, "/grandchild")).body)

        assert "/grandchild" in in_child(child)


@forks
def test_a_child_of_a_closed_pool_has_none() -> None:
    pool = ConnectionPool()
    pool.close()
    assert "PoolClosed" in in_child(lambda: pool.get("http://127.0.0.1:9/"))


# --- Ctrl-C ---------------------------------------------------------------------------------------


@pytest.fixture
def interrupt() -> Iterator[Callable[[], None]]:
    """What interrupts the main thread, as Ctrl-C does, and returns when it has."""
    heard = threading.Event()

    def handler(number: int, frame: FrameType | None) -> None:
        if not heard.is_set():
            heard.set()
            raise Interrupt

    before = signal.signal(signal.SIGINT, handler)
    main = threading.main_thread().ident
    assert main is not None

    def press() -> None:
        heard.clear()
        while not heard.is_set():
            # One that comes just before a call that blocks is not heard before that is over.
            signal.pthread_kill(main, signal.SIGINT)
            heard.wait(0.1)

    yield press
    signal.signal(signal.SIGINT, before)


def only(target: str) -> Callable[[Peer], None]:
    """Return a script that expects one request, for *target*, and no others."""

    def script(peer: Peer) -> None:
        request = peer.request()
        assert request.target == target
        name_target(peer, request)
        assert discard(peer) == b""

    return script


def discard(peer: Peer) -> bytes:
    try:
        return peer.until_eof()
    except ConnectionResetError:
        return b""


@pytest.fixture
def while_waiting(
    interrupt: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """A block in which each thread that waits for a future is interrupted."""
    check = Job.check_may_wait

    def interrupted(self: Job) -> None:
        check(self)
        threading.Thread(target=interrupt).start()

    @contextlib.contextmanager
    def block() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(Job, "check_may_wait", interrupted)
            with pytest.raises(Interrupt):
                yield

    return block


def test_an_interrupted_result_may_be_waited_for_again(
    while_waiting: Callable[[], contextlib.AbstractContextManager[None]],
) -> None:
    held = Held()
    with ScriptedServer(held) as server, ConnectionPool(max_connections_per_host=1) as pool:
        future = pool.submit("GET", url(server, "/a"))
        held.wait()
        with while_waiting():
            future.result()
        held.release()
        assert future.result().body == b"/a"
        assert pool.get(url(server, "/b")).body == b"/b"
        assert server.connections == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("warm", [0, 1, 2])
def test_an_interrupted_request_is_given_up_and_not_sent_again(
    interrupt: Callable[[], None], method: str, warm: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first goes through the threads of the connection, the others are the caller's work."""
    monkeypatch.setattr(cancellation, "DRAIN_TIME", 0.01)

    def script(peer: Peer) -> None:
        for _ in range(warm):
            name_target(peer, peer.request())
        assert peer.request().target == "/interrupted"
        interrupt()
        assert discard(peer) == b""

    with (
        ScriptedServer(script, only("/next")) as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        for _ in range(warm):
            get_and_be_idle(pool, url(server, "/warm"))
        with pytest.raises(Interrupt):
            pool.request(method, url(server, "/interrupted"))
        assert pool.get(url(server, "/next")).body == b"/next"
        assert pool.statistics().resent == 0


def test_an_interrupted_submit_costs_no_other_request_its_response(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C between two steps of queueing: the request is in the queue, and not counted yet."""

    def append(self: Host, job: Job) -> None:
        self.queue.append(job)
        raise Interrupt

    held = Held()
    with ScriptedServer(held) as server, ConnectionPool(max_connections_per_host=1) as pool:
        first = pool.submit("GET", url(server, "/1"))
        held.wait()
        with monkeypatch.context() as patch:
            patch.setattr(Host, "append", append)
            with pytest.raises(Interrupt):
                pool.submit("GET", url(server, "/interrupted"))
        second = pool.submit("GET", url(server, "/2"))
        held.release()
        assert [future.result(TIMEOUT).body for future in (first, second)] == [b"/1", b"/2"]
        assert pool.statistics().queued == 0


def test_an_interrupted_upload_is_cancelled(interrupt: Callable[[], None]) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        interrupt()
        discard(peer)

    def body() -> Iterator[bytes]:
        while True:
            yield bytes(100_000)

    with (
        ScriptedServer(script, only("/next")) as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        with pytest.raises(Interrupt):
            pool.put(url(server), body())
        assert pool.get(url(server, "/next")).body == b"/next"


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegin"])
def test_an_interrupted_stream_leaves_the_pool_usable(
    interrupt: Callable[[], None], sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancellation, "DRAIN_TIME", 0.01)
    reading = threading.Event()

    def script(peer: Peer) -> None:
        assert peer.request().target == "/interrupted"
        peer.send(sent)
        if sent:
            wait_for(reading)
        interrupt()
        assert discard(peer) == b""

    with (
        ScriptedServer(script, only("/next")) as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        with contextlib.ExitStack() as stack:
            stack.enter_context(pytest.raises(Interrupt))
            response = stack.enter_context(pool.stream("GET", url(server, "/interrupted")))
            reading.set()
            response.read()
        assert pool.get(url(server, "/next")).body == b"/next"


def test_an_interrupted_map_cancels_the_rest(
    while_waiting: Callable[[], contextlib.AbstractContextManager[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cancellation, "DRAIN_TIME", 0.01)

    def respond(peer: Peer, request: ReceivedRequest) -> None:
        if request.target == "/next":
            name_target(peer, request)

    with (
        ScriptedServer(each(respond), repeat=True) as server,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        with while_waiting():
            list(pool.map([url(server)] * 100))
        assert pool.get(url(server, "/next")).body == b"/next"


def test_closing_may_be_interrupted_and_done_again(
    interrupt: Callable[[], None],
) -> None:
    body = SlowBody()

    def script(peer: Peer) -> None:
        peer.head()
        wait_for(body.stuck)
        discard(peer)  # until the pool begins to close
        interrupt()

    with ScriptedServer(script) as server:
        pool = ConnectionPool(max_connections_per_host=1)
        future = pool.submit("PUT", url(server), body=body)
        wait_for(body.stuck)
        with pytest.raises(Interrupt):
            pool.close()
        body.go_on.set()
        pool.close()
        assert isinstance(future.exception(timeout=5), PoolClosed)
        # Not by join(): Python takes a thread for ended when waiting for it was interrupted.
        end = time.monotonic() + 5
        while own_threads() and time.monotonic() < end:
            os.sched_yield()
        assert own_threads() == []


def test_an_error_that_is_kept_does_not_keep_what_it_passed_through() -> None:
    """No exception refers to the bodies of others, nor to the pool, by its traceback."""

    def reset(peer: Peer) -> None:
        peer.request()
        peer.reset()

    with ScriptedServer(reset) as server, ConnectionPool(max_connections_per_host=1) as pool:
        error = pool.submit("POST", url(server), body=b"body").exception()
        assert isinstance(error, ConnectionClosed)
        assert error.__traceback__ is None
        assert error.__context__ is None
