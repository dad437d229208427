"""Interleavings in which two threads could take the same thing for theirs, or nobody for his."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dugong.pool.pipeline import Pipeline
from dugong.pool.scheduler import Scheduler
from tests.support.pool import Held, Site, name_target, open_site, wait_for, wait_until_parked
from tests.support.server import Peer


def wait_until(site: Site, condition: Callable[[Pipeline], object]) -> None:
    """Wait until *condition* holds for the only connection."""
    scheduler = site.pool._scheduler
    while True:
        with scheduler.lock:
            (host,) = scheduler.hosts.values()
            (pipeline,) = host.pipelines
            if condition(pipeline):
                return


def when_parked(site: Site) -> Pipeline:
    """Return the only connection, which is idle, with both of its threads waiting for work."""
    wait_until_parked(site.pool)
    (pipeline,) = site.pool._scheduler.idle
    return pipeline


def test_a_receiver_that_comes_from_a_callback_leaves_the_connection_to_who_has_borrowed_it() -> (
    None
):
    asked, read_on = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        name_target(peer, peer.request())
        name_target(peer, peer.request())
        request = peer.request()
        asked.set()
        wait_for(read_on)
        name_target(peer, request)

    called, go_on = threading.Event(), threading.Event()

    def callback(future: object) -> None:
        called.set()
        wait_for(go_on)

    with open_site(script, max_connections_per_host=1) as site, ThreadPoolExecutor(1) as executor:
        site.pool.get(site.url("/1"))
        pipeline = when_parked(site)
        future = site.pool.submit("GET", site.url("/2"))
        future.add_done_callback(callback)
        wait_for(called)
        wait_until(site, lambda pipeline: pipeline in pipeline.host.idle)
        direct = executor.submit(site.pool.get, site.url("/3"))
        wait_for(asked)
        assert pipeline.borrower is not None
        go_on.set()
        wait_until(site, lambda pipeline: pipeline.receiver_parked or pipeline.ending)
        read_on.set()
        assert direct.result(10).body == b"/3"


def test_a_connection_is_given_back_by_the_caller_who_has_borrowed_it_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = Held(warm=2)
    given_back = Scheduler.answered_directly
    others: list[Any] = []

    def answered_directly(self: Scheduler, *args: Any) -> Any:
        outcome = given_back(self, *args)
        if not others:
            others.append(executor.submit(site.pool.get, site.url("/3")))
            held.wait()
        return outcome

    monkeypatch.setattr(Scheduler, "answered_directly", answered_directly)
    with open_site(held, max_connections_per_host=1) as site, ThreadPoolExecutor(1) as executor:
        site.pool.get(site.url("/1"))
        pipeline = when_parked(site)
        assert site.pool.get(site.url("/2")).body == b"/2"
        assert pipeline.borrower is not None
        late = site.pool.submit("GET", site.url("/4"))
        assert not late.running()
        held.release()
        assert (others[0].result(10).body, late.result(10).body) == (b"/3", b"/4")
