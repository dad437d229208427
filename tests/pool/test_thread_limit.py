"""No more threads are to be had, as under RLIMIT_NPROC: idle connections make room for others, and
what cannot be served at all fails as anything else of a pool fails.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from dugong import ConnectionPool, ConnectionTimedOut, Delivery, DugongError, PoolClosed
from dugong.pool.core import threads as module
from tests.support.loopback import ManyHosts
from tests.support.pool import Held, each, name_target, url, wait_for
from tests.support.server import ScriptedServer

SOON = 0.3  # seconds
HOSTS = 40


class Threads:
    """Has no thread start for pools that have `limit` threads already.

    Those that a pool begins only to start others count, too.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.limit: float = float("inf")
        self.refused = threading.Event()
        self._lock = threading.Lock()  # so that two do not take the last one
        self._starters = 0
        start, begin = threading.Thread.start, module.start_new_thread

        def limited(thread: threading.Thread) -> None:
            if not thread.name.startswith("dugong-"):
                start(thread)
                return
            with self._lock:
                if self.count() >= self.limit:
                    self.refused.set()
                    raise RuntimeError("can't start new thread")
                start(thread)

        def begin_limited(function: Callable[..., object], arguments: tuple[Any, ...]) -> int:
            def run() -> None:
                try:
                    function(*arguments)
                finally:
                    with self._lock:
                        self._starters -= 1

            with self._lock:
                if self.count() >= self.limit:
                    self.refused.set()
                    raise RuntimeError("can't start new thread")
                self._starters += 1
                return begin(run, ())

        monkeypatch.setattr(threading.Thread, "start", limited)
        monkeypatch.setattr(module, "start_new_thread", begin_limited)

    def count(self) -> int:
        """Return how many threads all pools have."""
        names = [thread.name for thread in threading.enumerate()]
        return self._starters + sum(name.startswith("dugong-") for name in names)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Threads:
    return Threads(monkeypatch)


@pytest.mark.parametrize("limit", [3, 4, 8, 17])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_many_hosts_are_served_with_few_threads(threads: Threads, limit: int, method: str) -> None:
    threads.limit = limit
    with ManyHosts(each(name_target)) as hosts, ConnectionPool(retry=None) as pool:
        futures = [pool.submit(method, hosts.url(i, f"/{i}")) for i in range(HOSTS)]
        assert [future.result(10).text for future in futures] == [f"/{i}" for i in range(HOSTS)]
        assert all(future.result().attempts == () for future in futures)
        assert threads.count() <= limit
    assert threads.refused.is_set()


def test_an_idle_connection_makes_room_at_once(threads: Threads) -> None:
    with ManyHosts(each(name_target)) as hosts, ConnectionPool(retry=None) as pool:
        for i in range(8):
            pool.get(hosts.url(i))
        threads.limit = threads.count()
        for i in range(8, 16):
            assert pool.submit("GET", hosts.url(i, "/a")).result(3).text == "/a"
        assert threads.refused.is_set()


def test_idle_connections_do_not_make_room_for_more_than_is_needed(threads: Threads) -> None:
    with ManyHosts(each(name_target)) as hosts, ConnectionPool(retry=None) as pool:
        for i in range(8):
            pool.get(hosts.url(i))
        threads.limit = threads.count()
        pool.get(hosts.url(8))
        assert pool.statistics().connections >= 7


def test_a_request_waits_until_a_connection_is_idle(threads: Threads) -> None:
    held = Held()
    with (
        ScriptedServer(held) as busy,
        ScriptedServer(each(name_target)) as server,
        ConnectionPool(retry=None) as pool,
    ):
        first = pool.submit("GET", url(busy, "/busy"))
        held.wait()
        threads.limit = threads.count()
        second = pool.submit("GET", url(server, "/a"))
        wait_for(threads.refused)
        with pytest.raises(TimeoutError):
            second.result(SOON)
        held.release()
        assert first.result(3).text == "/busy"
        assert second.result(3).text == "/a"
        assert second.result().attempts == ()


def test_a_host_goes_on_with_the_connections_that_it_has(threads: Threads) -> None:
    held = Held()
    with ScriptedServer(held) as server, ConnectionPool(retry=None) as pool:
        first = pool.submit("GET", url(server, "/first"))
        held.wait()
        threads.limit = threads.count()
        others = [pool.submit("GET", url(server, f"/{i}")) for i in range(5)]
        wait_for(threads.refused)
        held.release()
        assert first.result(3).text == "/first"
        assert [other.result(3).text for other in others] == [f"/{i}" for i in range(5)]


@pytest.mark.parametrize("limit", [0, 1, 2])
@pytest.mark.parametrize("how", ["get", "submit", "stream", "put"])
def test_what_cannot_be_served_at_all_fails_with_an_error_of_ours(
    threads: Threads, limit: int, how: str
) -> None:
    """With so few threads, it may also be served, if the pool can do with them."""

    def make(pool: ConnectionPool, where: str) -> str:
        if how == "get":
            return pool.get(where).text
        if how == "submit":
            return pool.submit("GET", where).result(5).text
        if how == "put":
            return pool.put(where, iter([b"body"])).text
        with pool.stream("GET", where) as response:
            return response.read().decode()

    threads.limit = limit
    with (
        ScriptedServer(each(name_target), repeat=True) as server,
        ConnectionPool(retry=None, timeout=5) as pool,
    ):
        where = url(server, "/a")
        began = time.monotonic()
        error: DugongError | None = None
        try:
            assert make(pool, where) == "/a"
        except DugongError as exc:
            error = exc
        if limit == 0:
            assert error is not None
        if error is not None:
            assert "thread" in str(error)
            assert error.delivery is Delivery.UNSENT
        assert time.monotonic() - began < 3
        # Once there are threads, whatever is missing is started.
        threads.limit = float("inf")
        assert make(pool, where) == "/a"
        assert pool.statistics().queued == 0
        assert pool.statistics().in_flight == 0


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_many_that_cannot_be_served_all_fail_with_an_error_of_ours(
    threads: Threads, limit: int
) -> None:
    threads.limit = limit
    with ManyHosts(each(name_target)) as hosts, ConnectionPool(retry=None) as pool:
        futures = [pool.submit("GET", hosts.url(i, "/a")) for i in range(HOSTS)]
        for future in futures:
            error = future.exception(5)
            assert error is None or isinstance(error, DugongError)


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_a_deadline_holds_though_there_are_hardly_any_threads(threads: Threads, limit: int) -> None:
    with (
        ScriptedServer(each(name_target), repeat=True) as server,
        ConnectionPool(timeout=5) as pool,
    ):
        threads.limit = limit
        began = time.monotonic()
        future = pool.submit("GET", url(server), deadline=SOON)
        error = future.exception(5)
        assert time.monotonic() - began < SOON + 0.5
        assert error is None or isinstance(error, DugongError)
        threads.limit = float("inf")
        assert pool.get(url(server, "/next")).text == "/next"


def test_a_deadline_passes_while_all_threads_are_at_work(threads: Threads) -> None:
    held = Held()
    with (
        ScriptedServer(held) as busy,
        ScriptedServer(each(name_target)) as server,
        ConnectionPool() as pool,
    ):
        first = pool.submit("GET", url(busy, "/busy"))
        held.wait()
        threads.limit = threads.count()
        began = time.monotonic()
        future = pool.submit("GET", url(server), deadline=SOON)
        error: Any = future.exception(5)
        assert time.monotonic() - began < SOON + 0.5
        assert isinstance(error, ConnectionTimedOut)
        assert error.delivery is Delivery.UNSENT
        held.release()
        assert first.result(3).text == "/busy"


def test_a_pool_without_threads_can_be_closed(threads: Threads) -> None:
    held = Held()
    with (
        ScriptedServer(held) as busy,
        ScriptedServer(each(name_target)) as server,
        ConnectionPool() as pool,
    ):
        pool.submit("GET", url(busy, "/busy"))
        held.wait()
        threads.limit = threads.count()
        future = pool.submit("GET", url(server))
        wait_for(threads.refused)
        pool.close()
        assert isinstance(future.exception(3), PoolClosed)
        held.release()
