"""Flows: what goes on above a request, from its response to the next, behind one future."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest

from dugong import (
    ConnectionPool,
    ConnectionTimedOut,
    Delivery,
    PoolClosed,
    Request,
    Response,
    ResponseFuture,
)
from dugong.pool.core.job import Job
from tests.support.pool import GONE, Held, each, name_target, open_site, url, wait_for
from tests.support.refusing import AT_ONCE, UNAVAILABLE, Refusing
from tests.support.server import TIMEOUT, Peer, ScriptedServer


class Visiting:
    """A flow that visits one URL after the other; `threads` are those it was asked in."""

    def __init__(self, pool: ConnectionPool, *urls: str) -> None:
        self.threads: list[str] = []
        self.responses: list[Response] = []
        self.closed = threading.Event()
        self._pool = pool
        self._urls = iter(urls)

    def begin(self, method: str = "GET", deadline: float | None = None) -> ResponseFuture:
        """Submit the first request."""
        job = self._pool._prepare(Request(method, next(self._urls), deadline=deadline))
        job.flow = self
        return self._pool._submit(job, True)

    def accepts(self, response: Response) -> bool:
        return response.body == b"/accepted"

    def advance(self, response: Response) -> Response | Job:
        self.threads.append(threading.current_thread().name)
        self.responses.append(response)
        url = next(self._urls, None)
        if url is None:
            return response
        job = self._pool._prepare(Request("GET", url))
        job.flow = self
        return job

    def close(self) -> None:
        self.closed.set()


class Asked(Visiting):
    """A flow that calls *action* when it is asked."""

    def __init__(self, pool: ConnectionPool, action: Callable[[], object], *urls: str) -> None:
        super().__init__(pool, *urls)
        self._action = action

    def advance(self, response: Response) -> Response | Job:
        self._action()
        return super().advance(response)


def test_the_future_has_the_response_to_the_last_request() -> None:
    with ScriptedServer(each(name_target)) as other, open_site(each(name_target)) as here:
        flow = Visiting(here.pool, here.url("/1"), url(other, "/2"), here.url("/3"))
        future = flow.begin()
        assert future.result(TIMEOUT).body == b"/3"
        assert future.request.url == here.url("/1")
        assert [response.text for response in flow.responses] == ["/1", "/2", "/3"]


def test_a_response_that_is_accepted_is_the_outcome_and_nothing_is_asked() -> None:
    with open_site(each(name_target)) as here:
        flow = Visiting(here.pool, here.url("/accepted"), here.url("/2"))
        assert flow.begin().result(TIMEOUT).body == b"/accepted"
        assert flow.responses == []


def test_a_flow_is_asked_in_a_thread_of_the_pool() -> None:
    with open_site(each(name_target)) as here:
        flow = Visiting(here.pool, here.url("/1"))
        flow.begin().result(TIMEOUT)
    assert flow.threads[0].startswith("dugong-")


def test_as_many_requests_as_one_likes_may_follow_each_other() -> None:
    with open_site(each(name_target)) as here:
        flow = Visiting(here.pool, *(here.url(f"/{number}") for number in range(2000)))
        assert flow.begin().result(TIMEOUT).body == b"/1999"


def test_each_request_has_all_its_attempts() -> None:
    script = Refusing(UNAVAILABLE, UNAVAILABLE)
    with open_site(script, retry=AT_ONCE) as here:
        flow = Visiting(here.pool, here.url("/1"), here.url("/2"))
        future = flow.begin()
        assert future.result(TIMEOUT).body == b"/2"
        assert [len(response.attempts) for response in flow.responses] == [2, 0]


def test_what_a_flow_raises_is_the_outcome() -> None:
    def fail() -> None:
        raise LookupError("no more")

    with open_site(each(name_target)) as here:
        future = Asked(here.pool, fail, here.url("/1")).begin()
        with pytest.raises(LookupError) as caught:
            future.result(TIMEOUT)
        assert caught.value.delivery is Delivery.ANSWER_STARTED  # type: ignore[attr-defined]
        assert here.goes_on()


def test_what_would_end_the_program_ends_the_request() -> None:
    def fail() -> None:
        raise SystemExit

    with open_site(each(name_target)) as here:
        future = Asked(here.pool, fail, here.url("/1")).begin()
        with pytest.raises(RuntimeError) as caught:
            future.result(TIMEOUT)
        assert isinstance(caught.value.__cause__, SystemExit)
        assert here.goes_on()


def test_a_flow_whose_request_fails_is_closed_and_not_asked() -> None:
    with open_site(Peer.request) as here:
        flow = Visiting(here.pool, here.url("/1"))
        with pytest.raises(Exception, match="closed"):
            flow.begin("POST").result(TIMEOUT)
        wait_for(flow.closed)
        assert flow.responses == []


def test_cancelling_ends_the_request_that_is_under_way() -> None:
    held = Held()
    with ScriptedServer(held) as there, open_site(each(name_target)) as here:
        flow = Visiting(here.pool, here.url("/1"), url(there, "/2"), url(there, "/3"))
        future = flow.begin()
        held.wait()
        assert future.running()
        assert future.cancel()
        with pytest.raises(CancelledError):
            future.result(TIMEOUT)
        wait_for(flow.closed)
        held.release()
        assert len(flow.responses) == 1


def test_cancelling_while_the_flow_is_asked_counts() -> None:
    asked, go_on = threading.Event(), threading.Event()

    def ask() -> None:
        asked.set()
        wait_for(go_on)

    with open_site(each(name_target)) as here:
        future = Asked(here.pool, ask, here.url("/1"), here.url("/2")).begin()
        wait_for(asked)
        assert future.cancel()
        assert future.cancelled()
        go_on.set()
        assert here.goes_on()
        assert here.pool.statistics().sent == 2


def test_the_deadline_bounds_all_requests_together() -> None:
    def silent(peer: Peer) -> None:
        for _ in range(3):
            name_target(peer, peer.request())
        try:
            peer.until_eof()
        except GONE:
            pass

    with open_site(silent, max_connections_per_host=1, pipeline_depth=1) as here:
        flow = Visiting(here.pool, *(here.url(f"/{number}") for number in range(5)))
        future = flow.begin(deadline=0.2)
        with pytest.raises(ConnectionTimedOut, match="deadline"):
            future.result(TIMEOUT)
        assert len(flow.responses) == 3


def test_a_flow_goes_on_though_the_queues_are_full() -> None:
    held, go_on = Held(), threading.Event()
    options: dict[str, Any] = {"max_connections_per_host": 1, "pipeline_depth": 1, "max_queued": 1}
    with ScriptedServer(each(name_target)) as free, open_site(held, **options) as busy:
        flow = Asked(busy.pool, lambda: wait_for(go_on), url(free, "/1"), url(free, "/2"))
        future = flow.begin()
        futures = [busy.pool.submit("GET", busy.url("/first"))]
        held.wait()
        futures.append(busy.pool.submit("GET", busy.url("/second")))
        go_on.set()
        assert future.result(TIMEOUT).body == b"/2"
        assert not futures[1].running()
        held.release()
        for other in futures:
            other.result(TIMEOUT)


def test_closing_the_pool_ends_a_flow_that_is_asked() -> None:
    asked, go_on = threading.Event(), threading.Event()

    def ask() -> None:
        asked.set()
        wait_for(go_on)

    with open_site(each(name_target)) as here:
        future = Asked(here.pool, ask, here.url("/1"), here.url("/2")).begin()
        wait_for(asked)
        closing = threading.Thread(target=here.pool.close)
        closing.start()
        with pytest.raises(PoolClosed):
            future.result(TIMEOUT)
        go_on.set()
        closing.join(TIMEOUT)


def test_an_upload_is_released_before_the_flow_is_asked() -> None:
    body = bytearray(200_000)
    with open_site(each(name_target)) as here:
        flow = Asked(here.pool, body.clear, here.url("/1"))
        job = here.pool._prepare(Request("PUT", here.url("/1"), body=body))
        job.flow = flow
        assert here.pool._submit(job, True).result(TIMEOUT).status == 200
    assert not body
