"""From a `Request` to a `Job`: what is sent is what was checked, whatever the caller does since."""

from __future__ import annotations

from typing import Any

import pytest

from dugong import ConnectionClosed, ConnectionPool, Request
from tests.support.pool import Held, name_target, open_site
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
