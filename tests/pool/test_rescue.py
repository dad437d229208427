"""Head of line: what stands behind a slow response is taken back, and sent on a free connection.

A response is slow after four times what the host took before, but not before 100 ms. What stands
behind it is sent again once, and is not charged; the late responses are dropped with their
connection. The tests play the server, and the time of the pool stands still but for what they say.
"""

from __future__ import annotations

import inspect
import select
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from dugong import (
    ConnectionPool,
    ConnectionTimedOut,
    Delivery,
    PollNeeded,
    ResponseFuture,
    RetryPolicy,
)
from dugong.pool.core.rescue import GRACE_TIME
from dugong.pool.io.http1 import Http1Engine
from tests.support.byhand import HandPeer, HandServer, named, settle, warm_up
from tests.support.clock import StoppedClock
from tests.support.pool import OpenSite, connections_of, each, wait_for, wait_until
from tests.support.server import TIMEOUT, Peer, ReceivedRequest

SOON = 2.0  # seconds that the client is given for what it does at once
SLOW = 0.11  # seconds: a little more than a response may take before it is slow
NOT_YET = 0.09


class Scene(NamedTuple):
    """Two connections of a host: on one, requests wait behind the oldest, which has no response.

    `slow` is that connection, `first` the target of its oldest request, and `behind` those of the
    others; `free` is the other connection, whose own request is `held`.
    """

    slow: HandPeer
    first: str
    behind: list[str]
    free: HandPeer
    held: list[str]
    futures: dict[str, ResponseFuture]

    def text(self, target: str) -> str:
        return self.futures[target].result(SOON).text


def arrivals(peers: list[HandPeer], count: int) -> dict[HandPeer, list[str]]:
    """Receive *count* requests on whichever of *peers*; return the targets of each."""
    found: dict[HandPeer, list[str]] = {peer: [] for peer in peers}
    while sum(map(len, found.values())) < count:
        socks = {peer.sock: peer for peer in peers}
        ready = select.select(list(socks), [], [], TIMEOUT)[0]
        assert ready, f"not all requests have come: {found}"
        for sock in ready:
            found[socks[sock]] += socks[sock].burst()
    return found


def set_scene(pool: ConnectionPool, server: HandServer, count: int = 6, **options: Any) -> Scene:
    """Have *count* requests under way on two connections, of which the second is new."""
    first = warm_up(pool, server, window=8)
    settle(pool)
    futures = {"/0": pool.submit("GET", server.url("/0"), **options)}
    found = {first: first.burst()}
    futures["/1"] = pool.submit("GET", server.url("/1"), **options)
    second = server.accept()
    found[second] = second.burst()
    for i in range(2, count):
        futures[f"/{i}"] = pool.submit("GET", server.url(f"/{i}"), **options)
    for peer, targets in arrivals([first, second], count - 2).items():
        found[peer] += targets
    settle(pool)
    slow, free = sorted((first, second), key=lambda peer: -len(found[peer]))
    assert len(found[slow]) >= 2
    return Scene(slow, found[slow][0], found[slow][1:], free, found[free], futures)


def two_connections(**options: Any) -> ConnectionPool:
    return ConnectionPool(max_connections_per_host=2, **options)


def make_free(pool: ConnectionPool, scene: Scene) -> None:
    """Respond to all that the second connection has."""
    scene.free.responds(*scene.held)
    for target in scene.held:
        assert scene.text(target) == target
    settle(pool)


def comes_to(peer: HandPeer, count: int) -> list[str]:
    """Return the targets of *count* requests that come on *peer* soon; fewer if they do not."""
    peer.sock.settimeout(SOON)
    try:
        return peer.targets(count)
    except TimeoutError:
        return []
    finally:
        peer.sock.settimeout(TIMEOUT)


def is_closed(peer: HandPeer) -> bool:
    """Return True if the client closes *peer* soon."""
    peer.sock.settimeout(SOON)
    try:
        return peer.was_left()
    except TimeoutError:
        return False


def test_what_stands_behind_a_slow_response_is_sent_on_a_free_connection(
    server: HandServer, clock: StoppedClock
) -> None:
    with two_connections() as pool:
        scene = set_scene(pool, server)
        make_free(pool, scene)
        clock.forward(pool, SLOW)
        assert comes_to(scene.free, len(scene.behind)) == scene.behind
        scene.free.responds(*scene.behind)
        for target in scene.behind:
            assert scene.text(target) == target
            (attempt,) = scene.futures[target].result().attempts
            assert (attempt.charged, attempt.delivery) == (False, Delivery.SENT)
            assert attempt.outcome == "it has waited behind a slow response"
        assert not scene.futures[scene.first].done()
        assert pool.statistics().rescued == len(scene.behind)
        (host,) = pool.statistics().hosts.values()
        assert host.rescued == len(scene.behind)
        assert "rescued" in str(pool.statistics())
        scene.slow.responds(scene.first)
        assert scene.text(scene.first) == scene.first


def test_late_responses_are_dropped_with_their_connection(
    server: HandServer, clock: StoppedClock
) -> None:
    calls: list[str] = []
    with two_connections() as pool:
        scene = set_scene(pool, server)
        for future in scene.futures.values():
            future.add_done_callback(lambda future: calls.append(future.request.url))  # type: ignore[attr-defined]
        make_free(pool, scene)
        clock.forward(pool, SLOW)
        assert comes_to(scene.free, len(scene.behind)) == scene.behind
        # All of them late, and before any of the others.
        late = [named(target).replace(b"\r\n\r\n/", b"\r\n\r\n!") for target in scene.behind]
        scene.slow.send(named(scene.first) + b"".join(late))
        assert scene.text(scene.first) == scene.first
        assert is_closed(scene.slow)
        scene.free.responds(*scene.behind)
        for target in scene.behind:
            assert scene.text(target) == target
    assert sorted(calls) == sorted(server.url(f"/{i}") for i in range(6))


def test_a_late_response_that_never_comes_costs_its_own_request_only(
    server: HandServer, clock: StoppedClock
) -> None:
    with two_connections(retry=None) as pool:
        scene = set_scene(pool, server, retry=RetryPolicy(backoff=0))
        make_free(pool, scene)
        clock.forward(pool, SLOW)
        assert comes_to(scene.free, len(scene.behind)) == scene.behind
        scene.slow.reset()
        scene.free.responds(*scene.behind)
        for target in scene.behind:
            assert scene.text(target) == target
            (attempt,) = scene.futures[target].result().attempts
            assert not attempt.charged
        again = server.accept()
        assert again.burst() == [scene.first]
        again.responds(scene.first)
        assert scene.text(scene.first) == scene.first


def test_nothing_is_taken_back_before_a_response_is_slow(
    server: HandServer, clock: StoppedClock
) -> None:
    with two_connections() as pool:
        scene = set_scene(pool, server)
        make_free(pool, scene)
        clock.forward(pool, NOT_YET)
        settle(pool)
        assert scene.free.is_silent()
        assert pool.statistics().rescued == 0
        scene.slow.responds(scene.first, *scene.behind)
        for target in scene.behind:
            assert scene.text(target) == target


def test_what_is_slow_is_measured_by_what_the_host_took_before(
    server: HandServer, clock: StoppedClock
) -> None:
    with two_connections() as pool:
        peer = None
        for i in range(20):
            future = pool.submit("GET", server.url(f"/before{i}"))
            peer = peer or server.accept()
            peer.burst()
            clock.now += 1.0
            peer.responds(f"/before{i}")
            assert future.result(TIMEOUT)
            settle(pool)
        assert peer is not None
        futures = {"/0": pool.submit("GET", server.url("/0"))}
        assert peer.burst() == ["/0"]
        futures["/1"] = pool.submit("GET", server.url("/1"))
        second = server.accept()
        assert second.burst() == ["/1"]
        for i in range(2, 6):
            futures[f"/{i}"] = pool.submit("GET", server.url(f"/{i}"))
        found = arrivals([peer, second], 4)
        second.responds("/1", *found[second])
        for target in ("/1", *found[second]):
            assert futures[target].result(TIMEOUT).text == target
        settle(pool)
        assert found[peer]
        clock.forward(pool, 3.0)
        settle(pool)
        assert second.is_silent()
        clock.forward(pool, 2.0)
        assert comes_to(second, len(found[peer])) == found[peer]
        second.responds(*found[peer])
        for target in found[peer]:
            assert futures[target].result(SOON).text == target


def set_late_scene(
    pool: ConnectionPool, server: HandServer, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch
) -> tuple[Scene, threading.Event]:
    """Have a response arrive on the slow connection, whose receiver gets no time until the event.

    The other connection is free, and the response was slow to be received. The scene is that of the
    requests which have had no response by then.
    """
    scene = set_scene(pool, server)
    make_free(pool, scene)
    (slow,) = [connection for connection in connections_of(pool) if connection.in_flight]
    go_on = threading.Event()
    receive = Http1Engine.receive

    def receive_late(engine: Http1Engine) -> object:
        if engine is slow.engine:
            wait_for(go_on)
        return receive(engine)

    monkeypatch.setattr(Http1Engine, "receive", receive_late)
    scene.slow.responds(scene.first)  # which is waited for already
    assert scene.text(scene.first) == scene.first
    late, *behind = scene.behind
    scene.slow.responds(late)
    assert isinstance(slow.engine, Http1Engine)
    transport = slow.engine._state.transport
    assert transport is not None
    assert PollNeeded(transport.sock.fileno(), select.POLLIN).poll(TIMEOUT)
    clock.forward(pool, SLOW)
    return scene._replace(first=late, behind=behind), go_on


def test_nothing_is_taken_back_though_a_response_that_has_arrived_is_received_late(
    server: HandServer, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with two_connections() as pool:
        scene, go_on = set_late_scene(pool, server, clock, monkeypatch)
        settle(pool)
        assert scene.free.is_silent()
        assert pool.statistics().rescued == 0
        go_on.set()
        assert scene.text(scene.first) == scene.first
        scene.slow.responds(*scene.behind)
        for target in scene.behind:
            assert scene.text(target) == target


def test_a_response_that_is_received_far_too_late_holds_up_no_others(
    server: HandServer, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with two_connections() as pool:
        scene, go_on = set_late_scene(pool, server, clock, monkeypatch)
        clock.forward(pool, GRACE_TIME)
        assert comes_to(scene.free, len(scene.behind)) == scene.behind
        scene.free.responds(*scene.behind)
        for target in scene.behind:
            assert scene.text(target) == target
        go_on.set()
        assert scene.text(scene.first) == scene.first


def test_nothing_is_taken_back_while_no_connection_is_free(
    server: HandServer, clock: StoppedClock
) -> None:
    with two_connections() as pool:
        scene = set_scene(pool, server)
        clock.forward(pool, SLOW)
        settle(pool)
        assert scene.free.is_silent()
        assert pool.statistics().rescued == 0
        # Once it is, they are; for one is still slow.
        make_free(pool, scene)
        clock.forward(pool, SLOW)
        assert comes_to(scene.free, len(scene.behind)) == scene.behind
        scene.free.responds(*scene.behind)
        for target in scene.behind:
            assert scene.text(target) == target


def check_that_nothing_is_taken_back(
    pool: ConnectionPool, server: HandServer, clock: StoppedClock
) -> None:
    """Check that what waits behind a slow response of *pool* is left there, and gets its own."""
    scene = set_scene(pool, server)
    make_free(pool, scene)
    clock.forward(pool, 10 * SLOW)
    settle(pool)
    assert scene.free.is_silent()
    assert pool.statistics().rescued == 0
    scene.slow.responds(scene.first, *scene.behind)
    for target in scene.behind:
        assert scene.text(target) == target


def test_it_can_be_turned_off(server: HandServer, clock: StoppedClock) -> None:
    with two_connections(pipeline_rescue=False) as pool:
        check_that_nothing_is_taken_back(pool, server, clock)


def test_it_is_on_if_nothing_is_said() -> None:
    assert inspect.signature(ConnectionPool).parameters["pipeline_rescue"].default is True


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_it_is_on_or_off(value: Any) -> None:
    with pytest.raises(TypeError, match="pipeline_rescue"):
        ConnectionPool(pipeline_rescue=value)


def test_what_is_not_to_be_sent_twice_is_not_taken_back(
    server: HandServer, clock: StoppedClock
) -> None:
    """With a policy of one attempt, nothing that was on the wire is sent again."""
    with two_connections(retry=None) as pool:
        check_that_nothing_is_taken_back(pool, server, clock)


def test_what_was_cancelled_is_not_sent_again(server: HandServer, clock: StoppedClock) -> None:
    with two_connections() as pool:
        scene = set_scene(pool, server)
        make_free(pool, scene)
        cancelled = scene.behind[0]
        assert scene.futures[cancelled].cancel()
        rest = scene.behind[1:]
        clock.forward(pool, SLOW)
        assert comes_to(scene.free, len(rest)) == rest
        scene.free.responds(*rest)
        for target in rest:
            assert scene.text(target) == target
        assert scene.futures[cancelled].cancelled()


def test_what_has_been_taken_back_is_not_taken_back_again(
    server: HandServer, clock: StoppedClock
) -> None:
    with two_connections() as pool:
        scene = set_scene(pool, server)
        make_free(pool, scene)
        clock.forward(pool, SLOW)
        assert comes_to(scene.free, len(scene.behind)) == scene.behind
        scene.slow.responds(scene.first)
        assert scene.text(scene.first) == scene.first
        assert is_closed(scene.slow)
        # Now these are slow, too, and their host opens another connection for one more.
        more = pool.submit("GET", server.url("/more"))
        third = server.accept()
        assert third.burst() == ["/more"]
        third.responds("/more")
        assert more.result(SOON).text == "/more"
        settle(pool)
        clock.forward(pool, 10 * SLOW)
        settle(pool)
        assert third.is_silent()
        assert pool.statistics().rescued == len(scene.behind)
        scene.free.responds(*scene.behind)
        for target in scene.behind:
            assert scene.text(target) == target


def test_a_deadline_goes_on_for_what_was_taken_back(
    server: HandServer, clock: StoppedClock
) -> None:
    with two_connections() as pool:
        scene = set_scene(pool, server, deadline=5)
        make_free(pool, scene)
        clock.forward(pool, SLOW)
        assert comes_to(scene.free, len(scene.behind)) == scene.behind
        clock.forward(pool, 5)
        for target in scene.behind:
            assert scene.futures[target].exception(SOON) is not None


def test_a_response_that_has_begun_and_does_not_end_is_slow_as_well(
    server: HandServer, clock: StoppedClock
) -> None:
    with two_connections() as pool:
        scene = set_scene(pool, server)
        make_free(pool, scene)
        response = named(scene.first)
        (slow,) = [connection for connection in connections_of(pool) if connection.in_flight]
        scene.slow.send(response[:-1])
        wait_until(
            pool,
            lambda: slow.oldest.response_started and not slow.engine.has_arrivals(slow.oldest),
        )
        clock.forward(pool, NOT_YET)
        settle(pool)
        assert scene.free.is_silent()
        clock.forward(pool, SLOW - NOT_YET)
        assert comes_to(scene.free, len(scene.behind)) == scene.behind
        scene.slow.send(response[-1:])
        assert scene.text(scene.first) == scene.first
        assert is_closed(scene.slow)
        scene.free.responds(*scene.behind)
        for target in scene.behind:
            assert scene.text(target) == target


def test_a_late_response_that_does_not_end_holds_nothing_up(
    server: HandServer, clock: StoppedClock
) -> None:
    """The response before it reaches its caller, and the connection is closed."""
    with two_connections() as pool:
        scene = set_scene(pool, server)
        make_free(pool, scene)
        clock.forward(pool, SLOW)
        assert comes_to(scene.free, len(scene.behind)) == scene.behind
        late = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nonly a part"
        scene.slow.send(named(scene.first) + late)
        assert scene.text(scene.first) == scene.first
        assert is_closed(scene.slow)
        scene.free.responds(*scene.behind)
        for target in scene.behind:
            assert scene.text(target) == target


def test_a_late_response_that_is_too_large_is_no_failure(
    server: HandServer, clock: StoppedClock
) -> None:
    with two_connections(max_body_size=20) as pool:
        scene = set_scene(pool, server)
        make_free(pool, scene)
        clock.forward(pool, SLOW)
        assert comes_to(scene.free, len(scene.behind)) == scene.behind
        scene.slow.send(named(scene.first) + named("/" + 100 * "x"))
        assert scene.text(scene.first) == scene.first
        assert is_closed(scene.slow)
        scene.free.responds(*scene.behind)
        for target in scene.behind:
            assert scene.text(target) == target


def test_the_timeout_of_a_slow_request_concerns_it_alone(server: HandServer) -> None:
    """It is taken for slow long before that; the time of this test is the real one."""
    with two_connections(retry=RetryPolicy(should_retry=lambda attempt: False)) as pool:
        scene = set_scene(pool, server, timeout=1)
        make_free(pool, scene)
        assert comes_to(scene.free, len(scene.behind)) == scene.behind
        scene.free.responds(*scene.behind)
        for target in scene.behind:
            assert scene.text(target) == target
        assert isinstance(scene.futures[scene.first].exception(TIMEOUT), ConnectionTimedOut)
        assert is_closed(scene.slow)


# --- as users meet it -----------------------------------------------------------------------------


@pytest.mark.parametrize("submit", ["submit", "as_completed"])
def test_quick_requests_do_not_wait_for_a_slow_one(submit: str, site: OpenSite) -> None:
    """The response to the slow one comes when all the others have come."""
    quick_are_done = threading.Event()

    def respond(peer: Peer, request: ReceivedRequest) -> None:
        if request.target == "/slow":
            assert quick_are_done.wait(TIMEOUT)
        try:
            peer.respond(request.target.encode())
        except OSError:
            pass  # a late response that is not wanted any more

    make: Callable[[ConnectionPool, list[str]], list[ResponseFuture]] = (
        (lambda pool, urls: [pool.submit("GET", url) for url in urls])
        if submit == "submit"
        else (lambda pool, urls: list(pool.as_completed(urls)))
    )
    with site(each(respond), repeat=True, retry=RetryPolicy()) as here:
        for i in range(100):
            here.pool.get(here.url(f"/warm{i}"))
        warm = [here.pool.submit("GET", here.url(f"/warm{i}")) for i in range(300)]
        assert all(future.result(TIMEOUT).status == 200 for future in warm)
        slow = here.pool.submit("GET", here.url("/slow"))
        watchdog = threading.Timer(5, quick_are_done.set)  # bounds the test
        watchdog.start()
        try:
            futures = make(here.pool, [here.url(f"/{i}") for i in range(300)])
            texts = {future.result(TIMEOUT).text for future in futures}
            assert not quick_are_done.is_set(), "some have waited for the slow one"
            assert not slow.done()
        finally:
            quick_are_done.set()
            watchdog.cancel()
            watchdog.join()
        assert texts == {f"/{i}" for i in range(300)}
        assert slow.result(TIMEOUT).text == "/slow"
        assert here.pool.statistics().rescued > 0
