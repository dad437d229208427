"""`map` and `as_completed`: how much they take, what comes when, and how they end."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import pytest

from dugong import ConnectionPool, DugongError, Request
from dugong.pool import many
from dugong.pool.many import requests_of
from tests.support.pool import Held, discard_rest, each, name_target, url
from tests.support.server import Peer, ReceivedRequest, ScriptedServer

NOWHERE = "http://127.0.0.1:9/"  # a URL that no test asks for


def method_and_body(peer: Peer, request: ReceivedRequest) -> None:
    peer.respond(f"{request.method} {request.target} ".encode() + request.body)


def serve(peer: Peer) -> None:
    """Response each request with its target, for as long as the client wants."""
    with contextlib.suppress(ConnectionError):
        each(name_target)(peer)


def crash(peer: Peer, request: ReceivedRequest) -> None:
    """Response, unless the request asks for something else."""
    if request.target == "/crash":
        peer.send(b"this is no answer\r\n\r\n")
    else:
        name_target(peer, request)


def test_map_gives_the_responses_in_the_order_of_the_requests() -> None:
    with ScriptedServer(serve, repeat=True) as server, ConnectionPool() as pool:
        targets = [f"/{i}" for i in range(300)]
        responses = pool.map(url(server, target) for target in targets)
        assert [response.body.decode() for response in responses] == targets


def test_map_waits_for_the_first_though_others_are_done() -> None:
    held = Held()

    def release(peer: Peer, request: ReceivedRequest) -> None:
        name_target(peer, request)
        held.release()

    with (
        ScriptedServer(held) as slow,
        ScriptedServer(each(release)) as quick,
        ConnectionPool() as pool,
    ):
        responses = pool.map([url(slow, "/slow"), url(quick, "/quick")])
        assert [response.body for response in responses] == [b"/slow", b"/quick"]


def test_map_takes_requests_of_all_kinds() -> None:
    with ScriptedServer(each(method_and_body), repeat=True) as server, ConnectionPool() as pool:
        requests: list[str | Request] = [
            url(server, "/a"),
            Request("PUT", url(server, "/b"), body=b"body"),
        ]
        assert [r.body for r in pool.map(requests)] == [b"GET /a ", b"PUT /b body"]


@pytest.mark.parametrize("name", ["map", "as_completed"])
def test_of_nothing_there_comes_nothing(name: str) -> None:
    with ConnectionPool() as pool:
        assert list(getattr(pool, name)([])) == []


@pytest.mark.parametrize("name", ["map", "as_completed"])
def test_nothing_is_sent_before_the_first_response_is_asked_for(name: str) -> None:
    with ConnectionPool() as pool:
        getattr(pool, name)([NOWHERE])
        assert pool.statistics().opened == 0


@pytest.mark.parametrize("name", ["map", "as_completed"])
def test_endless_requests_are_taken_as_they_are_needed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many, "AHEAD", 20)
    numbers = itertools.count()
    most = 0
    with ScriptedServer(serve, repeat=True) as server, ConnectionPool() as pool:
        responses = getattr(pool, name)(url(server, f"/{number}") for number in numbers)
        for given in range(200):
            next(responses)
            taken = int(repr(numbers)[6:-1])
            most = max(most, taken - given)
        responses.close()
    assert most <= 20


@pytest.mark.parametrize("name", ["map", "as_completed"])
def test_who_wants_no_more_responses_has_the_rest_cancelled(name: str) -> None:
    held = Held()
    with (
        ScriptedServer(held) as slow,
        ScriptedServer(serve) as quick,
        ConnectionPool(max_connections_per_host=1, pipeline_depth=1) as pool,
    ):
        responses = getattr(pool, name)([url(quick)] + 50 * [url(slow)])
        next(responses)
        held.wait()
        responses.close()
        assert pool.statistics().queued == 0
        held.release()


def test_a_failure_ends_a_map_and_cancels_what_comes_later() -> None:
    with (
        ScriptedServer(each(crash), serve) as server,
        ScriptedServer(discard_rest) as mute,
        ConnectionPool(max_connections_per_host=1, pipeline_depth=1, retry=None) as pool,
    ):
        responses = pool.map([url(server, "/a"), url(server, "/crash"), url(mute), url(mute)])
        assert next(responses).body == b"/a"
        with pytest.raises(DugongError):
            next(responses)
        assert pool.statistics().queued == 0
        assert pool.get(url(server, "/b")).body == b"/b"


@pytest.mark.parametrize("name", ["map", "as_completed"])
def test_what_the_iterable_raises_comes_through(name: str) -> None:
    def requests(server: ScriptedServer) -> Iterator[str]:
        yield url(server)
        raise ZeroDivisionError

    with ScriptedServer(serve) as server, ConnectionPool() as pool:
        with pytest.raises(ZeroDivisionError):
            list(getattr(pool, name)(requests(server)))
        assert pool.statistics().queued == 0
        assert pool.get(url(server, "/a")).body == b"/a"


def test_as_completed_gives_whatever_is_done_first() -> None:
    held = Held()
    with (
        ScriptedServer(held) as slow,
        ScriptedServer(serve, repeat=True) as quick,
        ConnectionPool() as pool,
    ):
        done = pool.as_completed([url(slow, "/slow"), url(quick, "/1"), url(quick, "/2")])
        first = {next(done).result().body, next(done).result().body}
        assert first == {b"/1", b"/2"}
        held.release()
        assert next(done).result().body == b"/slow"
        assert list(done) == []


def test_as_completed_goes_on_after_a_failure_and_says_whose_it_is() -> None:
    with (
        ScriptedServer(each(crash), serve, repeat=True) as server,
        ConnectionPool(max_connections_per_host=1, pipeline_depth=1, retry=None) as pool,
    ):
        requests = [Request("GET", url(server, target)) for target in ("/a", "/crash", "/b")]
        done = {future.request: future for future in pool.as_completed(requests)}
        assert list(done) == requests
        assert done[requests[0]].result().body == b"/a"
        assert isinstance(done[requests[1]].exception(), DugongError)
        assert done[requests[2]].result().body == b"/b"


def test_the_same_request_twice_is_two_futures() -> None:
    with ScriptedServer(serve, repeat=True) as server, ConnectionPool() as pool:
        request = Request("GET", url(server))
        done = list(pool.as_completed([request, request]))
        assert len(set(done)) == 2
        assert [future.request for future in done] == [request, request]


def test_what_is_no_iterable_is_refused_without_being_quoted() -> None:
    with pytest.raises(TypeError, match="not str") as caught:
        requests_of("http://h/?secret")
    assert "secret" not in str(caught.value)
