"""However many requests end at the same time, no other caller waits for that.

Each test has very many end at once, and another thread use the pool meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from dugong import ConnectionPool, ConnectionTimedOut, DugongError, ResponseFuture, RetryPolicy
from tests.support.byhand import HandServer, settle, warm_up
from tests.support.clock import StoppedClock
from tests.support.loopback import BlackHole

MANY = 50_000
TOLERANCE = 0.1  # seconds that any other caller may have to wait
DEADLINE = 10.0  # seconds, by a clock that stands still

#: What may be tried again is, after such a wait that nothing happens in the meantime.
FOR_EVER = RetryPolicy(backoff=10_000, max_backoff=10_000)


class Watch:
    """Another caller, who does something again and again; `longest` is the most that it took."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.longest = 0.0
        self.count = 0
        self._action = action
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._over.wait(0.001):
            began = time.monotonic()
            self._action()
            self.longest = max(self.longest, time.monotonic() - began)
            self.count += 1

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()


def asks(pool: ConnectionPool) -> Callable[[], object]:
    return pool.statistics


def submits(pool: ConnectionPool) -> Callable[[], object]:
    def submit() -> None:
        pool.submit("GET", "http://127.0.0.1:9/other").cancel()

    return submit


def all_have(futures: list[ResponseFuture], kind: type[BaseException]) -> bool:
    return all(isinstance(future.exception(10), kind) for future in futures)


@pytest.mark.parametrize("caller", [asks, submits])
@pytest.mark.parametrize("hosts", [1, 100])
def test_many_deadlines_in_a_queue_hold_nobody_up(
    clock: StoppedClock, hosts: int, caller: Callable[[ConnectionPool], Callable[[], object]]
) -> None:
    with BlackHole() as hole, ConnectionPool(timeout=None) as pool:
        futures = [
            pool.submit("GET", hole.url(i % hosts, f"/{i}"), deadline=DEADLINE) for i in range(MANY)
        ]
        with Watch(caller(pool)) as watch:
            clock.forward(pool, DEADLINE + 1)
            assert all_have(futures, ConnectionTimedOut)
        assert watch.count
        assert watch.longest < TOLERANCE
        assert not pool.statistics().queued
        text = str(futures[-1].exception())
        assert "deadline" in text
        assert len(text) < 2000


def test_many_deadlines_behind_many_that_are_under_way_hold_nobody_up(
    clock: StoppedClock, server: HandServer
) -> None:
    """What the error tells of those who hold the connection is not made anew for each."""
    window = 64
    with ConnectionPool(max_connections_per_host=1, retry=FOR_EVER) as pool:
        peer = warm_up(pool, server, window)
        settle(pool)
        for i in range(window):
            pool.submit("GET", server.url(f"/busy{i}"))
        peer.targets(window)
        futures = [pool.submit("GET", server.url(f"/{i}"), deadline=DEADLINE) for i in range(MANY)]
        with Watch(asks(pool)) as watch:
            clock.forward(pool, DEADLINE + 1)
            assert all_have(futures, ConnectionTimedOut)
        assert watch.longest < TOLERANCE
        assert "held by" in str(futures[0].exception())
        assert "/busy" in str(futures[-1].exception())


def test_many_deadlines_are_all_kept(clock: StoppedClock) -> None:
    """Though others are let in between, it does not take for ever."""
    with BlackHole() as hole, ConnectionPool(timeout=None) as pool:
        futures = [pool.submit("GET", hole.url(0, f"/{i}"), deadline=DEADLINE) for i in range(MANY)]
        later = pool.submit("GET", hole.url(0, "/later"), deadline=10 * DEADLINE)
        began = time.monotonic()
        clock.now += DEADLINE + 1
        clock.forward(pool, 0)
        assert all_have(futures, ConnectionTimedOut)
        assert time.monotonic() - began < 5
        assert not later.done()


def test_callbacks_of_many_deadlines_may_use_the_pool(clock: StoppedClock) -> None:
    calls = []

    def call(_: object) -> None:
        pool.statistics()
        calls.append(1)

    with BlackHole() as hole, ConnectionPool(timeout=None) as pool:
        futures = [pool.submit("GET", hole.url(0, f"/{i}"), deadline=DEADLINE) for i in range(1000)]
        for future in futures:
            future.add_done_callback(call)
        clock.forward(pool, DEADLINE + 1)
        assert all_have(futures, ConnectionTimedOut)
        pool.submit("GET", hole.url(1)).cancel()
    assert len(calls) == 1000


def test_a_host_that_cannot_be_reached_fails_many_and_holds_nobody_up() -> None:
    with BlackHole() as hole, ConnectionPool(timeout=0.8, retry=None) as pool:
        futures = [pool.submit("GET", hole.url(0, f"/{i}")) for i in range(MANY // 10)]
        with Watch(asks(pool)) as watch:
            assert all_have(futures, ConnectionTimedOut)
        assert watch.longest < TOLERANCE


def test_closing_a_pool_of_many_requests_holds_nobody_up() -> None:
    with BlackHole() as hole, ConnectionPool(timeout=None) as pool:
        futures = [pool.submit("GET", hole.url(0, f"/{i}")) for i in range(MANY // 2)]
        with Watch(asks(pool)) as watch:
            pool.close()
            assert all_have(futures, DugongError)
        assert watch.longest < TOLERANCE
