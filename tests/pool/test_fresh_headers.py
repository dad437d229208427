"""Headers that are made before each sending."""

from __future__ import annotations

import io
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dugong import Delivery, Request
from dugong.pool.options import ElaborateHeaders
from tests.support.byhand import HandServer, settle, warm_up
from tests.support.pool import discard_rest, each, name_target, open_site
from tests.support.refusing import AT_ONCE, TOO_MANY, UNAVAILABLE, Refusing, one_connection
from tests.support.server import TIMEOUT


class Numbering:
    """Makes headers: the number of the call. `threads` are those it was called in."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.requests: list[Request] = []
        self._numbers: Iterator[int] = itertools.count(1)

    def __call__(self, request: Request) -> dict[str, str]:
        self.threads.append(threading.current_thread().name)
        self.requests.append(request)
        return {"X-Number": str(next(self._numbers))}


def numbers_of(script: Refusing) -> list[str]:
    return [request.headers["x-number"] for request in script.requests]


BODIES: dict[str, Any] = {
    "none": lambda: None,
    "small": lambda: b"small",
    "a file": lambda: io.BytesIO(b"x" * 200_000),
    "chunks": lambda: lambda: iter([b"a", b"b"]),
}


@pytest.mark.parametrize("body", BODIES)
def test_they_are_made_anew_for_each_attempt(body: str) -> None:
    script, make = Refusing(UNAVAILABLE, TOO_MANY), Numbering()
    with open_site(script, repeat=True, retry=AT_ONCE) as here:
        here.pool.put(here.url("/a"), BODIES[body](), headers=make)
    assert numbers_of(script) == ["1", "2", "3"]


def test_they_are_made_in_a_thread_of_the_pool_that_is_told_the_request() -> None:
    script, make = Refusing(), Numbering()
    with open_site(script) as here:
        request = Request("GET", here.url("/a"), headers=make)
        here.pool.request(request)
    assert make.requests == [request]
    assert make.threads[0].startswith("dugong-")
    assert request.headers is make


def test_they_are_made_when_the_request_is_sent_and_not_when_it_is_queued() -> None:
    script, make = Refusing(), Numbering()
    with open_site(script, max_connections_per_host=1) as here:
        with here.pool.stream("GET", here.url("/first")):
            future = here.pool.submit("GET", here.url("/second"), headers=make)
            assert make.requests == []
        future.result(TIMEOUT)
    assert len(make.requests) == 1


@pytest.mark.parametrize("method", ["request", "submit", "stream"])
def test_each_way_of_sending_makes_them(method: str) -> None:
    script, make = Refusing(), Numbering()
    with open_site(script) as here:
        result = getattr(here.pool, method)("GET", here.url("/a"), headers=make)
        if method == "stream":
            with result as response:
                response.read()
        elif method == "submit":
            result.result(TIMEOUT)
    assert numbers_of(script) == ["1"]


def test_they_replace_fixed_ones_and_those_of_the_pool() -> None:
    script = Refusing()
    fixed = (("X-A", "fixed"), ("X-B", "fixed"))
    headers = ElaborateHeaders(fixed, lambda request: {"x-a": "fresh"})
    with open_site(script, headers={"X-B": "pool", "X-C": "pool"}) as here:
        request = Request("GET", here.url("/a"), headers=headers)
        here.pool.request(request)
    received = script.requests[0].headers
    assert (received["x-a"], received["x-b"], received["x-c"]) == ("fresh", "fixed", "pool")
    assert request.headers == fixed


def test_default_headers_of_the_pool_can_be_left_out() -> None:
    script = Refusing()
    with open_site(script, headers={"X-B": "pool", "X-C": "pool"}) as here:
        headers = ElaborateHeaders((), without=frozenset(("x-b", "user-agent")))
        here.pool.get(here.url("/a"), headers=headers)
    assert {"x-b", "user-agent", "x-c"} & set(script.requests[0].headers) == {"x-c"}


def test_all_default_headers_can_be_left_out() -> None:
    script = Refusing()
    with open_site(script, headers={"X-B": "pool"}) as here:
        headers = ElaborateHeaders((), without=frozenset(("x-b", "user-agent")))
        here.pool.get(here.url("/a"), headers=headers)
    assert set(script.requests[0].headers) == {"host", "accept-encoding"}


def test_none_is_no_headers() -> None:
    with open_site(each(name_target)) as here:
        assert here.pool.get(here.url("/a"), headers=lambda request: None).body == b"/a"


@pytest.mark.parametrize(
    "headers",
    [{"X": "a\r\nb"}, {"Connection": "close"}, {"Upgrade": "x"}, {"Content-Length": "7"}],
)
def test_what_cannot_be_sent_fails_the_request_before_a_byte_of_it_is_sent(
    headers: dict[str, str],
) -> None:
    script = Refusing()
    with open_site(script, repeat=True, retry=AT_ONCE) as here:
        with pytest.raises(ValueError, match=r"header|made anew|contradicts") as caught:
            here.pool.post(here.url("/a"), b"body", headers=lambda request: headers)
        assert caught.value.delivery is Delivery.UNSENT  # type: ignore[attr-defined]  # as of each
        assert here.goes_on()
    assert [request.target for request in script.requests] == ["/next"]


# --- the length of a body that nothing else knows -------------------------------------------------


UNKNOWN: dict[str, Any] = {
    "a callable": lambda: lambda: iter([b"abc", b"de"]),
    "an iterator": lambda: iter([b"abc", b"de"]),
    "an iterable": lambda: [b"abc", b"de"],
}


@pytest.mark.parametrize("body", UNKNOWN)
def test_a_length_that_is_made_frames_a_body_that_has_none(body: str) -> None:
    script = Refusing()
    with open_site(script, repeat=True) as here:
        made = {"Content-Length": "5"}
        here.pool.post(here.url("/a"), UNKNOWN[body](), headers=lambda request: made)
        assert here.goes_on()  # on the same connection
    request = script.requests[0]
    assert request.headers["content-length"] == "5"
    assert "transfer-encoding" not in request.headers
    assert request.body == b"abcde"


@pytest.mark.parametrize("length", [4, 6, 100])
@pytest.mark.parametrize("body", UNKNOWN)
def test_a_body_of_another_length_than_was_made_fails_the_request(body: str, length: int) -> None:
    with open_site(discard_rest, each(name_target), repeat=True) as here:
        made = {"Content-Length": str(length)}
        with pytest.raises(ValueError, match=r"longer than its length|short of its length"):
            here.pool.put(here.url("/a"), UNKNOWN[body](), headers=lambda request: made)


def test_each_sending_has_the_length_that_was_made_for_it() -> None:
    contents = iter([b"first", b"the second", b"3rd"])
    sizes: list[int] = []
    script = Refusing(UNAVAILABLE, TOO_MANY)

    def make(request: Request) -> dict[str, str]:
        sizes.append(len(data := next(contents)))
        bodies.append(data)
        return {"Content-Length": str(len(data))} if len(sizes) != 2 else {}

    bodies: list[bytes] = []
    with open_site(script, repeat=True, retry=AT_ONCE) as here:
        here.pool.put(here.url("/a"), lambda: iter([bodies[-1]]), headers=make)
    assert [request.body for request in script.requests] == [b"first", b"the second", b"3rd"]
    lengths = [request.headers.get("content-length") for request in script.requests]
    assert lengths == ["5", None, "3"]


@pytest.mark.parametrize("length", ["five", "-1", "1, 1", ""])
def test_a_length_that_is_none_fails_the_request_before_a_byte_of_it_is_sent(length: str) -> None:
    script = Refusing()
    with open_site(script, repeat=True) as here:
        with pytest.raises(ValueError, match="Content-Length") as caught:
            here.pool.put(
                here.url("/a"),
                lambda: iter([b"a"]),
                headers=lambda request: {"Content-Length": length},
            )
        assert caught.value.delivery is Delivery.UNSENT  # type: ignore[attr-defined]  # as of each
        assert here.goes_on()
    assert [request.target for request in script.requests] == ["/next"]


def test_a_length_that_is_made_leaves_no_room_for_trailers() -> None:
    with open_site(Refusing(), repeat=True) as here, pytest.raises(ValueError, match="trailers"):
        here.pool.put(
            here.url("/a"),
            lambda: iter([b"a"]),
            headers=lambda request: {"Content-Length": "1"},
            trailers={"X-Sum": "1"},
        )


@pytest.mark.parametrize(
    ("error", "raised"), [(LookupError("no key"), LookupError), (KeyboardInterrupt(), RuntimeError)]
)
def test_what_the_callable_raises_fails_its_request_alone_and_is_not_tried_again(
    error: BaseException, raised: type[Exception]
) -> None:
    calls: list[object] = []

    def make(request: Request) -> dict[str, str]:
        calls.append(request)
        raise error

    with open_site(each(name_target), repeat=True, retry=AT_ONCE) as here:
        with pytest.raises(raised) as caught:
            here.pool.get(here.url("/a"), headers=make)
        assert error in (caught.value, caught.value.__cause__)
        assert here.goes_on()
    assert len(calls) == 1


def test_requests_with_such_headers_are_pipelined() -> None:
    with one_connection(None) as pool, HandServer() as server:
        peer = warm_up(pool, server)
        targets = ["/a", "/b", "/plain", "/c"]
        futures = [
            pool.submit(
                "GET",
                server.url(target),
                headers=None if target == "/plain" else lambda request: {},
            )
            for target in targets
        ]
        assert peer.targets(4) == targets
        peer.responds(*targets)
        assert [future.result(TIMEOUT).text for future in futures] == targets


def test_one_that_is_not_idempotent_is_alone_on_its_connection() -> None:
    with one_connection(None) as pool, HandServer() as server:
        peer = warm_up(pool, server)
        posted = pool.submit("POST", server.url("/post"), headers=lambda request: {})
        other = pool.submit("GET", server.url("/a"), headers=lambda request: {})
        assert peer.burst() == ["/post"]
        settle(pool)
        assert peer.is_silent()
        peer.responds("/post")
        assert posted.result(TIMEOUT).body == b"/post"
        assert peer.burst() == ["/a"]
        peer.responds("/a")
        assert other.result(TIMEOUT).text == "/a"


def test_a_callable_that_raises_harms_no_request_that_is_sent_together_with_its_own() -> None:
    def make(request: Request) -> dict[str, str]:
        if request.target == "/bad":
            raise LookupError("no key")
        return {"X-Made": "yes"}

    with one_connection(None) as pool, HandServer() as server:
        peer = warm_up(pool, server)
        before = pool.submit("GET", server.url("/before"))
        assert peer.burst() == ["/before"]
        requests = [
            Request("GET", server.url(target), headers=make) for target in ("/a", "/bad", "/b")
        ]
        futures = pool.as_completed(requests)
        bad = next(futures)
        with pytest.raises(LookupError, match="no key") as caught:
            bad.result()
        assert bad.request is requests[1]
        assert caught.value.delivery is Delivery.UNSENT  # type: ignore[attr-defined]  # as of each
        assert peer.targets(2) == ["/a", "/b"]
        peer.responds("/before", "/a", "/b")
        assert before.result(TIMEOUT).text == "/before"
        assert [future.result().text for future in futures] == ["/a", "/b"]
        assert server.is_left_alone()
        statistics = pool.statistics()
        assert (statistics.in_flight, statistics.queued, statistics.resent) == (0, 0, 0)


def test_if_no_callable_of_what_is_sent_together_succeeds_the_connection_can_be_used() -> None:
    def make(request: Request) -> dict[str, str]:
        raise LookupError("no key")

    with one_connection(None) as pool, HandServer() as server:
        peer = warm_up(pool, server)
        requests = [Request("GET", server.url("/bad"), headers=make) for _ in range(3)]
        errors = [type(future.exception()) for future in pool.as_completed(requests)]
        assert errors == [LookupError] * 3
        future = pool.submit("GET", server.url("/next"))
        assert peer.burst() == ["/next"]
        peer.responds("/next")
        assert future.result(TIMEOUT).text == "/next"
        assert server.is_left_alone()
