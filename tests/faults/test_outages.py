"""The network, or the server, goes away under load, and comes back: nothing is lost by default."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from dugong import ConnectionPool, Event, RetryPolicy
from dugong.pool.core import connections
from tests.faults.faults import Fault, Kind, OneFault, Phase, Where
from tests.faults.server import Server
from tests.faults.site import Contexts, is_right, make_request, open_site
from tests.support.clock import Listener, StoppedClock, no_luck
from tests.support.pool import dials, wait_for

TIMEOUT = 0.5  # seconds; all else is as it is by default
THREADS = 8
HANG = 10.0  # seconds
OUTAGE = 2.0  # seconds
IDLE = 0.05  # of a CPU


@contextmanager
def under_load(pool: ConnectionPool, base: str) -> Iterator[None]:
    """Let threads make one request after another; every response has to be right in the end."""
    over = threading.Event()

    def keep_asking(number: int) -> bool:
        asked = 0
        while not over.is_set():
            asked += 1
            body = b"body" if number % 2 else None
            method = "PUT" if number % 2 else "GET"
            if not is_right(
                pool.request(make_request(base, f"{number}-{asked}", method, body=body))
            ):
                return False
        return True

    with ThreadPoolExecutor(THREADS) as executor:
        ends = [executor.submit(keep_asking, number) for number in range(THREADS)]
        try:
            yield
        finally:
            over.set()
    assert all(end.result() for end in ends)


@pytest.mark.parametrize("silently", [False, True], ids=["refusing", "silently"])
def test_the_network_goes_away_for_two_seconds(silently: bool, contexts: Contexts) -> None:
    with (
        open_site(contexts=contexts, timeout=TIMEOUT) as site,
        under_load(site.pool, site.base),
    ):
        site.book.wait_for_more(100)
        if silently:
            site.proxy.fall_silent()
        else:
            site.proxy.go_away()
        before = time.process_time()
        time.sleep(OUTAGE)  # the duration of the outage is what is tested
        busy = time.process_time() - before
        site.proxy.come_back()
        site.book.wait_for_more(100)
    assert busy < IDLE * OUTAGE


class Refusals:
    """A listener for the events of a pool, which waits for a connection that is refused."""

    def __init__(self) -> None:
        self._refused = threading.Event()

    def __call__(self, event: Event) -> None:
        if event.kind == "closed" and "could not be connected" in event.reason:
            self._refused.set()

    def forget(self) -> None:
        """Forget those that there have been."""
        self._refused.clear()

    def wait(self) -> None:
        """Wait for one, if there has been none."""
        wait_for(self._refused)


def test_a_server_restarts_20_times() -> None:
    refusals = Refusals()
    with (
        Server() as server,
        ConnectionPool(timeout=TIMEOUT, on_event=refusals) as pool,
        under_load(pool, f"http://127.0.0.1:{server.port}"),
    ):
        for number in range(20):
            server.book.wait_for_more(30)
            refusals.forget()
            server.stop()
            if number % 4 == 0:
                refusals.wait()
            server.start()
        server.book.wait_for_more(30)


def test_a_restart_that_is_over_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    # For so long no other connection is opened, as long as there are some: not if all have ended.
    monkeypatch.setattr(connections, "REOPEN_TIME", 3600.0)
    refusals = Refusals()
    policy = RetryPolicy(backoff=0.05)
    with open_site(on_event=refusals, max_connections_per_host=2, retry=policy) as site:
        site.proxy.fall_silent()
        first = site.pool.submit(site.request("first"))
        site.proxy.wait_until_silent()
        site.proxy.gate.bar()
        second = site.pool.submit(site.request("second"))
        refusals.wait()
        site.proxy.come_back()
        assert is_right(first.result(HANG))
        assert is_right(second.result(HANG))


def test_it_is_as_patient_with_one_that_had_failed_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that broke when the network went away has cost it an attempt, but no time."""
    no_luck(monkeypatch)
    clock = StoppedClock(monkeypatch)
    events = Listener()
    policy = RetryPolicy(backoff=10, max_backoff=100)  # and so three quarters of 10, 20, ...
    plan = OneFault(Fault(Kind.RESET, Phase.STATUS_LINE, Where.BEFORE), "/first/length")
    with open_site(plan, on_event=events, retry=policy) as site:
        future = site.pool.submit(site.request("first"))
        events.wait_for("closed")
        site.proxy.go_away()
        clock.forward(site.pool, 10)
        events.wait_for("closed")
        site.proxy.come_back()
        clock.forward(site.pool, 14.9)
        assert dials(site.pool) == 2
        clock.forward(site.pool, 0.1)
        assert is_right(future.result(HANG))
