"""From a `Request` to a `Job`: what is sent is what was checked, whatever the caller does since."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dugong import ConnectionClosed, ConnectionPool, PoolClosed, Request
from tests.support.pool import Held, each, name_target, open_site
from tests.support.refusing import AT_ONCE, dies
from tests.support.server import TIMEOUT, Peer


class Broken(dict[str, str]):
    """Headers that cannot be read."""

    def items(self) -> Any:
        raise ZeroDivisionError


@pytest.mark.parametrize("method", ["submit", "request", "stream"])
def test_headers_that_cannot_be_read_raise_at_the_call_and_nothing_is_queued(method: str) -> None:
    with ConnectionPool() as pool:
        with pytest.raises(ZeroDivisionError):
            getattr(pool, method)("GET", "http://127.0.0.1:9/", headers=Broken(A="b"))
        statistics = pool.statistics()
        assert (statistics.queued, statistics.sent, statistics.opened) == (0, 0, 0)


def test_a_dict_that_changes_while_the_request_waits_changes_nothing() -> None:
    received: list[dict[str, str]] = []

    def script(peer: Peer) -> None:
        request = peer.request()
        received.append(request.headers)
        name_target(peer, request)

    held = Held()
    with open_site(held, script, max_connections_per_host=1, pipeline_depth=1) as here:
        first = here.pool.submit("GET", here.url("/first"), headers={"Connection": "close"})
        held.wait()
        headers = {"X-A": "1"}
        second = here.pool.submit("GET", here.url("/second"), headers=headers)
        headers["X-A"] = "2\r\nX-Smuggled: yes"
        headers["X-B"] = "3"
        held.release()
        assert first.result(TIMEOUT).body == b"/first"
        assert second.result(TIMEOUT).body == b"/second"
    assert received[0]["x-a"] == "1"
    assert "x-b" not in received[0]


def test_a_key_that_is_put_into_the_dict_of_an_earlier_post_does_not_have_that_sent_again() -> None:
    headers: dict[str, str] = {}

    def script(peer: Peer) -> None:
        peer.request()
        headers["Idempotency-Key"] = "8e03978e"  # as for the next request

    with open_site(script, retry=AT_ONCE) as here:
        with pytest.raises(ConnectionClosed) as caught:
            here.pool.post(here.url("/pay"), b"100", headers=headers)
        assert caught.value.attempts == ()
        assert here.server.connections == 1


def test_a_key_decides_for_a_request_with_a_callable_for_its_body_too() -> None:
    with open_site(dies, name_target_once, retry=AT_ONCE) as here:
        request = Request("POST", here.url("/a"), {"Idempotency-Key": "1"}, lambda: b"body")
        assert here.pool.request(request).body == b"/a"


def name_target_once(peer: Peer) -> None:
    name_target(peer, peer.request())


@pytest.mark.parametrize("method", ["submit", "request"])
def test_a_generator_that_an_earlier_request_has_used_is_refused_at_the_call(method: str) -> None:
    with open_site(each(name_target)) as here:
        body = (piece for piece in [b"abc"])
        assert here.pool.put(here.url("/a"), body).body == b"/a"
        with pytest.raises(ValueError, match="an earlier request has used it"):
            getattr(here.pool, method)("PUT", here.url("/b"), body=body)
        assert here.goes_on()
        assert here.server.connections == 1


@pytest.mark.parametrize(
    "make", [lambda: (piece for piece in [b"abc"]), lambda: map(bytes, [b"abc"])]
)
def test_a_request_with_a_body_that_was_used_cannot_be_submitted_again(
    make: Callable[[], Any],
) -> None:
    with open_site(each(name_target)) as here:
        request = Request("PUT", here.url("/a"), body=make())
        assert here.pool.request(request).body == b"/a"
        with pytest.raises(ValueError, match="an earlier request has used it"):
            here.pool.submit(request)
        assert here.goes_on()


def test_a_body_that_was_used_while_the_request_waited_fails_it() -> None:
    held = Held()
    with open_site(held, max_connections_per_host=1, pipeline_depth=1) as here:
        first = here.pool.submit("GET", here.url("/first"))
        held.wait()
        body = map(bytes, [b"abc"])
        uploads = [here.pool.submit("PUT", here.url("/put"), body=body) for _ in range(2)]
        held.release()
        assert first.result(TIMEOUT).body == b"/first"
        assert uploads[0].result(TIMEOUT).body == b"/put"
        with pytest.raises(ValueError, match="an earlier request may have used it"):
            uploads[1].result(TIMEOUT)


@pytest.mark.parametrize("options", [{"block": False}, {}])
def test_a_body_that_was_refused_with_its_request_has_not_been_used(
    options: dict[str, Any],
) -> None:
    body = (piece for piece in [b"abc"])
    with open_site(each(name_target)) as here:
        closed = ConnectionPool()
        closed.close()
        with pytest.raises(PoolClosed):
            closed.submit("PUT", here.url("/a"), body=body, **options)
        assert here.pool.put(here.url("/a"), body).body == b"/a"
