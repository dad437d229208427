"""A mock pool: what it is asked, and that it is a pool in every other way."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from dugong import Client, Event, RetryPolicy
from dugong.deadline import Deadline
from dugong.testing import MockPool, MockRequest, MockResponse

URL = "https://host/path"


def test_requests_are_listed_in_order_with_each_attempt() -> None:
    def respond(request: MockRequest) -> int:
        return 503 if len(pool.requests) == 1 else 200

    with MockPool(respond, retry=RetryPolicy(attempts=2, backoff=0)) as pool:
        pool.get(f"{URL}/1")
        pool.put(f"{URL}/2", b"abc")
    asked = [(request.method, request.target, request.body) for request in pool.requests]
    assert asked == [
        ("GET", "/path/1", b""),
        ("GET", "/path/1", b""),
        ("PUT", "/path/2", b"abc"),
    ]


def test_the_list_of_requests_is_the_callers() -> None:
    with MockPool(lambda request: 200) as pool:
        pool.get(URL)
        pool.requests.clear()
        assert len(pool.requests) == 1


def test_a_request_is_that_which_was_made() -> None:
    context = object()
    with MockPool(lambda request: 200) as pool:
        response = pool.get(URL, context=context)
    assert pool.requests[0].request is response.request
    assert pool.requests[0].request.context is context


def test_no_request_of_many_threads_is_lost() -> None:
    with MockPool(lambda request: request.target) as pool:

        def ask(number: int) -> None:
            for index in range(50):
                url = f"https://host/{number}/{index}"
                assert pool.get(url).text == f"/{number}/{index}"

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(ask, range(8)))
    assert len({request.target for request in pool.requests}) == 8 * 50


def test_a_client_stands_on_it() -> None:
    def respond(request: MockRequest) -> MockResponse | str:
        if request.target == "/old":
            return MockResponse(302, {"Location": "/new", "Set-Cookie": "name=value"})
        return request.headers["cookie"] or "none"

    with MockPool(respond) as pool, Client(pool=pool, trust_env=False) as client:
        response = client.get("https://host/old")
    assert (response.url, response.text) == ("https://host/new", "name=value")
    assert [request.target for request in pool.requests] == ["/old", "/new"]


def test_events_and_statistics_are_those_of_a_pool() -> None:
    heard: list[Event] = []
    with MockPool(lambda request: 404, on_event=heard.append) as pool:
        pool.get(URL)
        (host,) = pool.statistics().hosts.values()
        assert host.answered == 1
    kinds = [event.kind for event in sorted(heard, key=lambda event: event.when)]
    assert kinds == ["opened", "sent", "answered", "closed"]


def test_a_mock_pool_that_is_forgotten_is_collected() -> None:
    pool = MockPool(lambda request: 200)
    pool.get(URL)
    forgotten = weakref.ref(pool)
    threads = pool._scheduler._core.threads
    del pool
    gc.collect()
    assert forgotten() is None
    threads.join(Deadline(10))


def test_what_cannot_respond_is_refused() -> None:
    with pytest.raises(TypeError, match="respond must be callable"):
        MockPool(b"abc")


def test_options_are_those_of_a_pool() -> None:
    with pytest.raises(TypeError, match="max_connections"):
        MockPool(lambda request: 200, max_connections="1")
    with pytest.raises(TypeError, match="nonsense"):
        MockPool(lambda request: 200, nonsense=1)


def test_the_trailers_of_a_request_come_with_it() -> None:
    with MockPool(lambda request: 200, retry=None) as pool:
        pool.put("http://host/", [b"body"], trailers=lambda request: {"X-Sum": "1"})
        pool.put("http://host/", [b"body"])
        with pytest.raises(LookupError):
            pool.put("http://host/", [b"body"], trailers=_fails)
    first, second = pool.requests
    assert (first.body, dict(first.trailers.items())) == (b"body", {"X-Sum": "1"})
    assert not list(second.trailers)


def _fails(request: object) -> None:
    raise LookupError("no sum")


def test_nothing_of_a_mock_pool_can_be_recorded() -> None:
    with pytest.raises(ValueError, match="nothing to record"):
        MockPool(lambda request: 200, record=print)
