"""`map` and `as_completed`: how much they take, what comes when, and how they end."""

from __future__ import annotations

import contextlib
import gc
import itertools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pytest

from dugong import (
    ConnectionPool,
    Delivery,
    DugongError,
    Headers,
    HostPolicy,
    Request,
    Response,
    ResponseFuture,
)
from dugong.pool import many
from dugong.pool.many import Supply, as_completed, each_of, in_order, request_of
from dugong.pool.url import Origin
from tests.support.pool import Held, discard_rest, each, name_target, url
from tests.support.server import TIMEOUT, Peer, ReceivedRequest, ScriptedServer

NOWHERE = "http://127.0.0.1:9/"  # a URL that no test asks for


@pytest.fixture(autouse=True)
def a_machine_that_is_busy_is_no_slow_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "PATIENCE", 60.0)


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


def test_what_is_wrong_with_a_request_is_in_its_future_and_the_others_go_on() -> None:
    with ScriptedServer(serve, repeat=True) as server, ConnectionPool() as pool:
        wrong = Request("CONNECT", url(server, "/wrong"))
        requests = [url(server, "/a"), wrong, url(server, "/b")]
        done = {future.request.target: future for future in pool.as_completed(requests)}
        error = done.pop("/wrong").exception()
        assert isinstance(error, ValueError)
        assert (error.delivery, error.request) == (Delivery.UNSENT, wrong)  # type: ignore[attr-defined]  # set by the pool
        assert {target: future.result().text for target, future in done.items()} == {
            "/a": "/a",
            "/b": "/b",
        }
        assert pool.statistics().queued == 0


def test_what_is_wrong_with_a_request_is_raised_by_map_when_it_is_its_turn() -> None:
    with ScriptedServer(serve, repeat=True) as server, ConnectionPool() as pool:
        responses = pool.map([url(server, "/a"), Request("CONNECT", url(server)), url(server)])
        assert next(responses).text == "/a"
        with pytest.raises(ValueError, match="tunnel"):
            next(responses)


def test_a_policy_that_raises_fails_the_requests_to_that_host_alone() -> None:
    def policy(origin: Origin) -> None:
        if origin.host == "localhost":
            raise LookupError("no policy")

    with (
        ScriptedServer(serve, repeat=True) as server,
        ConnectionPool(host_policy=policy) as pool,
    ):
        other = url(server).replace("127.0.0.1", "localhost")
        urls = [other, url(server, "/a"), other, url(server, "/b")]
        done = [(f.request.url, f.exception()) for f in pool.as_completed(urls)]
        assert sorted(url for url, error in done if error is None) == urls[1::2]
        assert [str(error) for url, error in done if url == other] == ["no policy"] * 2


def test_an_invalid_url_is_raised_behind_all_that_came_before_and_no_item_is_lost() -> None:
    with ScriptedServer(serve, repeat=True) as server, ConnectionPool() as pool:
        urls = iter([url(server, "/a"), "no URL", url(server, "/b")])
        done = pool.as_completed(urls)
        assert next(done).result().text == "/a"
        with pytest.raises(ValueError, match="no URL"):
            next(done)
        assert [future.result().text for future in pool.as_completed(urls)] == ["/b"]


@pytest.mark.parametrize("is_told", [True, False])
def test_a_signal_handler_that_raises_leaves_no_future_that_is_waited_for_in_vain(
    monkeypatch: pytest.MonkeyPatch, is_told: bool
) -> None:
    add = ResponseFuture.add_done_callback
    calls = itertools.count()

    def interrupted(future: ResponseFuture, callback: Callable[[Any], object]) -> None:
        at = next(calls)
        if at != 1 or is_told:
            add(future, callback)
        if at == 1:
            raise TimeoutError

    monkeypatch.setattr(ResponseFuture, "add_done_callback", interrupted)
    with ScriptedServer(serve, repeat=True) as server, ConnectionPool() as pool:
        done = pool.as_completed(url(server, f"/{i}") for i in range(4))
        assert {next(done).result().text for _ in range(2)} == {"/0", "/1"}
        with pytest.raises(TimeoutError):
            next(done)


def test_the_same_request_twice_is_two_futures() -> None:
    with ScriptedServer(serve, repeat=True) as server, ConnectionPool() as pool:
        request = Request("GET", url(server))
        done = list(pool.as_completed([request, request]))
        assert len(set(done)) == 2
        assert [future.request for future in done] == [request, request]


def test_what_is_no_iterable_is_refused_without_being_quoted() -> None:
    with pytest.raises(TypeError, match="not str") as caught:
        each_of("http://h/?secret", request_of)
    assert "secret" not in str(caught.value)


# --- how much is under way, and when more is submitted: without a pool, and without a clock -------


class WouldWait(Exception):
    """A future is waited for that is not done."""


class Owner:
    """Of futures that no pool has."""

    def abandon(self, future: ResponseFuture) -> bool:
        if future.done():
            return False
        future._cancel()
        return True

    def is_running(self, future: ResponseFuture) -> bool:
        return False

    def check_may_wait(self) -> None:
        raise WouldWait

    def exclusively(self, action: Callable[[], Any]) -> Any:
        return action()

    def is_nested(self) -> bool:
        return False

    def call_later(self, call: Callable[[], object]) -> None: ...


class Network:
    """Takes requests, and gives each a body of *size* bytes: at once, or when it is told to."""

    def __init__(self, size: int = 10, *, at_once: bool = True, room: int = 1000) -> None:
        self.size = size
        self.room = room  # how many requests it takes at a time
        self.at_once = at_once
        self.submitted: list[ResponseFuture] = []

    def submit(self, requests: list[Request]) -> list[ResponseFuture]:
        futures = [ResponseFuture(request, Owner()) for request in requests[: self.room]]
        del requests[: self.room]
        self.submitted += futures
        if self.at_once:
            for future in futures:
                self.respond(future)
        return futures

    def respond(self, future: ResponseFuture) -> None:
        request = future.request
        future._resolve(Response(200, "OK", Headers(), bytes(self.size), request))

    def may_wait(self) -> None:
        """Be in a thread that may wait."""


Many = Callable[..., Iterator[Any]]
both = pytest.mark.parametrize("many_of", [in_order, as_completed])


def endless() -> Iterator[Request]:
    return (Request("GET", NOWHERE) for _ in itertools.count())


def start(many_of: Many, network: Network, source: Iterable[Request], **options: Any) -> Any:
    return many_of(iter(source), network.submit, network.may_wait, **options)


def submitted_by_each(responses: Iterator[Any], network: Network, count: int) -> list[int]:
    """Take *count* responses; return how many requests were submitted in each step."""
    counts = []
    for _ in range(count):
        before = len(network.submitted)
        next(responses)
        counts.append(len(network.submitted) - before)
    return counts


@both
def test_requests_are_submitted_in_batches_though_each_response_is_there(many_of: Many) -> None:
    network = Network()
    responses = start(many_of, network, endless())
    submitted_by_each(responses, network, 500)  # until it is known that bodies are small
    counts = submitted_by_each(responses, network, 5000)
    batches = [count for count in counts if count]
    assert len(batches) <= 5000 // (many.AHEAD // 2) + 1
    assert set(batches) == {many.AHEAD // 2}


@both
def test_what_there_is_no_room_for_is_submitted_when_there_is(many_of: Many) -> None:
    network = Network(room=3)
    requests = [Request("GET", NOWHERE) for _ in range(200)]
    responses = list(start(many_of, network, requests, batch=64))
    assert len(responses) == 200
    assert [future.request for future in network.submitted] == requests


def test_what_there_is_no_room_for_does_not_delay_a_response() -> None:
    source = Slow(0)
    supply = Supply(source, 10**9, 1000, source.clock, batch=64)
    begun: list[int] = []
    for batch in supply.more(0, list, lambda: len(begun) >= 2):
        source.now += many.PATIENCE  # in which there was no room
        begun.append(batch.pop(0))
    assert begun == [1, 2]
    for batch in supply.more(2, list, lambda: False):
        begun += batch
        batch.clear()
    assert begun == list(range(1, many.AHEAD + 1))


@both
def test_futures_that_were_given_are_not_kept(many_of: Many) -> None:
    network = Network()
    responses = start(many_of, network, [Request("GET", NOWHERE) for _ in range(64)], batch=64)
    for _ in range(60):
        next(responses)
    alive = [weakref.ref(future) for future in network.submitted]
    network.submitted.clear()
    gc.collect()
    assert sum(future() is not None for future in alive) <= 5


@both
def test_what_comes_before_a_failure_of_the_source_is_submitted(many_of: Many) -> None:
    def requests() -> Iterator[Request]:
        yield Request("GET", NOWHERE)
        yield Request("GET", NOWHERE)
        raise ZeroDivisionError

    network = Network()
    responses = start(many_of, network, requests(), batch=64)
    next(responses)
    next(responses)
    with pytest.raises(ZeroDivisionError):
        next(responses)


@pytest.mark.parametrize("name", ["map", "as_completed"])
@pytest.mark.parametrize("collection", [list, tuple, set, dict.fromkeys, iter])
def test_urls_come_in_any_collection(name: str, collection: Callable[[Any], Any]) -> None:
    with ScriptedServer(serve, repeat=True) as server, ConnectionPool() as pool:
        urls = collection([url(server, f"/{number}") for number in range(200)])
        responses = getattr(pool, name)(urls)
        got = {(r if name == "map" else r.result()).text for r in responses}
    assert got == {f"/{number}" for number in range(200)}


def test_a_source_that_may_wait_gives_one_request_at_a_time() -> None:
    """Or what has been taken from it would not be sent while it waits."""
    with ScriptedServer(serve, repeat=True) as server, ConnectionPool() as pool:

        def urls() -> Iterator[str]:
            yield url(server, "/1")
            assert pool.get(url(server, "/2")).text == "/2"  # which is sent behind the first
            assert pool.statistics().queued == 0
            yield url(server, "/3")

        assert [response.text for response in pool.map(urls())] == ["/1", "/3"]


@both
def test_what_is_under_way_never_runs_out(many_of: Many) -> None:
    network = Network()
    responses = start(many_of, network, endless())
    for given in range(1, 5000):
        next(responses)
        under_way = len(network.submitted) - given
        assert under_way <= many.AHEAD
        if given > 500:
            assert under_way >= many.AHEAD // 2 - 1


@both
def test_bodies_that_were_not_taken_bound_how_much_is_under_way(many_of: Many) -> None:
    network = Network(size=5000)
    responses = start(many_of, network, endless(), max_size=50_000)
    most = 0
    for given in range(300):
        next(responses)
        most = max(most, len(network.submitted) - given)
    assert 5 <= most <= 10


@both
def test_a_body_that_is_larger_than_the_bound_comes_alone(many_of: Many) -> None:
    network = Network(size=5000)
    responses = start(many_of, network, endless(), max_size=1)
    assert submitted_by_each(responses, network, 20) == 20 * [1]


@both
def test_bodies_that_have_come_and_are_large_are_counted_as_they_are(many_of: Many) -> None:
    network = Network(size=10)
    responses = start(many_of, network, endless(), max_size=1_000_000)
    submitted_by_each(responses, network, 2000)
    network.size = 10_000
    submitted_by_each(responses, network, 2 * many.AHEAD)  # of which some were a surprise
    taken = 2000 + 2 * many.AHEAD
    for given in range(taken, taken + 500):
        waiting = [len(future.result().body) for future in network.submitted[given:]]
        assert 900_000 <= sum(waiting) <= 1_000_000
        next(responses)


@both
def test_before_a_body_has_come_it_may_be_large(many_of: Many) -> None:
    network = Network(at_once=False)
    responses = start(many_of, network, endless())
    with pytest.raises(WouldWait):
        next(responses)
    assert len(network.submitted) == many.AHEAD_SIZE // many.EXPECTED_SIZE


def begin(batches: Iterator[list[Any]]) -> None:
    for batch in batches:
        batch.clear()


class Slow:
    """A source that takes *seconds* for each request, by its own clock."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.asked = 0

    def clock(self) -> float:
        return self.now

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self.asked += 1
        self.now += self.seconds
        return self.asked


def test_a_source_that_is_slow_delays_a_response_that_is_there_by_one_item_at_most() -> None:
    source = Slow(many.PATIENCE * 2)
    supply = Supply(source, 10**9, 1000, source.clock)
    begin(supply.more(0, list, lambda: source.asked >= 5))
    assert source.asked == 5  # until there was one
    assert supply.low >= 5  # and it goes on in the next step


def test_a_source_that_is_slow_is_left_alone_while_there_are_responses() -> None:
    source = Slow(many.PATIENCE * 2)
    supply = Supply(source, 10**9, 1000, source.clock)
    begin(supply.more(0, list, lambda: True))
    assert source.asked == 1
    source.now += source.seconds * 0.9
    begin(supply.more(1, list, lambda: True))
    assert source.asked == 1
    begin(supply.more(1, list, lambda: source.asked == 2))  # there is none
    assert source.asked == 2
    source.now += source.seconds * 1.1
    begin(supply.more(2, list, lambda: True))
    assert source.asked == 3


def test_a_source_that_is_quick_is_read_though_there_are_responses() -> None:
    source = Slow(many.PATIENCE / many.AHEAD / 2)
    supply = Supply(source, 10**9, 1000, source.clock)
    begin(supply.more(0, list, lambda: True))
    assert source.asked == many.AHEAD
    assert supply.low == many.AHEAD // 2


def test_a_source_that_has_nothing_is_asked_again_when_half_is_left_or_few_are() -> None:
    supply = Supply(iter(range(1000)), 10**9, 1000)
    lows = [0]
    for under_way in (0, 500, 250, 125, 124):
        begin(supply.more(under_way, list, lambda: True))
        lows.append(supply.low)
    assert lows == [0, 500, 250, 125, 124, 123]


@both
def test_a_source_that_has_nothing_for_a_while_is_asked_again(many_of: Many) -> None:
    class Grows:
        def __init__(self) -> None:
            self.left = 1

        def __iter__(self) -> Iterator[Request]:
            return self

        def __next__(self) -> Request:
            if not self.left:
                raise StopIteration
            self.left -= 1
            return Request("GET", NOWHERE)

    source = Grows()
    count = 0
    for _ in start(many_of, Network(), source):
        count += 1
        source.left = 3 if count < 1000 else 0
    assert count > 1000


@both
def test_what_the_source_raises_comes_after_all_that_came_before(many_of: Many) -> None:
    def requests() -> Iterator[Request]:
        for _ in range(many.AHEAD + many.AHEAD // 2):
            yield Request("GET", NOWHERE)
        raise ZeroDivisionError

    responses = start(many_of, Network(), requests())
    for _ in range(many.AHEAD + many.AHEAD // 2):
        next(responses)
    with pytest.raises(ZeroDivisionError):
        next(responses)


@both
def test_to_close_it_cancels_all_that_is_under_way(many_of: Many) -> None:
    network = Network()
    responses = start(many_of, network, endless())
    submitted_by_each(responses, network, 600)
    network.at_once = False
    submitted_by_each(responses, network, 600)
    waiting = [future for future in network.submitted if not future.done()]
    assert waiting
    responses.close()
    assert all(future.cancelled() for future in waiting)


def test_a_failure_does_not_say_how_large_a_body_will_be() -> None:
    class Unreachable(Network):
        def respond(self, future: ResponseFuture) -> None:
            future._reject(DugongError())

    network = Unreachable()
    futures = start(as_completed, network, endless())
    submitted_by_each(futures, network, 500)
    network.at_once = False
    with contextlib.suppress(WouldWait):
        submitted_by_each(futures, network, 5000)
    not_done = [future for future in network.submitted if future.cancelled()]
    assert len(not_done) == many.AHEAD_SIZE // many.EXPECTED_SIZE


def test_an_empty_body_says_that_bodies_are_small() -> None:
    network = Network(size=0)
    responses = start(as_completed, network, endless())
    submitted_by_each(responses, network, 500)
    assert len(network.submitted) - 500 >= many.AHEAD // 2


def test_what_is_at_hand_is_submitted_in_batches_and_what_may_have_to_wait_is_not() -> None:
    requests = [Request("GET", NOWHERE) for _ in range(5)]
    assert list(many.AtHand(iter(requests), 3)) == requests
    assert many.batch_of(many.AtHand(iter(requests), 3)) == 3
    assert many.batch_of(iter(requests)) == 1
    assert many.batch_of(requests) > 1


def test_responses_keep_their_order_over_many_batches() -> None:
    network = Network()
    requests = [Request("GET", NOWHERE) for _ in range(3 * many.AHEAD + 7)]
    assert [r.request for r in start(in_order, network, requests)] == requests


@pytest.mark.parametrize("name", ["map", "as_completed"])
@pytest.mark.parametrize("value", [0, -1, 1.5, None, True])
def test_the_bound_is_a_number_of_bytes(name: str, value: Any) -> None:
    with ConnectionPool() as pool, pytest.raises((TypeError, ValueError), match="max_ahead_size"):
        getattr(pool, name)([], max_ahead_size=value)


@pytest.mark.parametrize("name", ["map", "as_completed"])
def test_the_bound_may_be_given(name: str) -> None:
    numbers = itertools.count()
    with ScriptedServer(serve, repeat=True) as server, ConnectionPool() as pool:
        requests = (url(server, f"/{number}") for number in numbers)
        responses = getattr(pool, name)(requests, max_ahead_size=1)
        for given in range(20):
            next(responses)
            assert int(repr(numbers)[6:-1]) == given + 1
        responses.close()


class Growing:
    """A source that has what was put into it, and is over when it is told so."""

    def __init__(self, *urls: str) -> None:
        self.urls = list(urls)
        self.is_over = False
        self.failure: Exception | None = None
        self.call: Callable[[], object] | None = None
        self.waited_for = threading.Event()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.failure is not None:
            raise self.failure
        if not self.urls:
            raise StopIteration
        return self.urls.pop(0)

    def call_when_more(self, call: Callable[[], object], /) -> bool:
        if self.is_over:
            return False
        self.call = call
        self.waited_for.set()
        return True

    def change(self, *urls: str, is_over: bool = False) -> None:
        self.urls += urls
        self.is_over = is_over
        assert self.call is not None
        self.call()


def texts(results: Any) -> Iterator[str]:
    """Yield the texts of responses, or of the futures of responses."""
    for result in results:
        yield result.text if isinstance(result, Response) else result.result().text


def later(source: Growing, change: Callable[[], object]) -> threading.Thread:
    """Make *change* in a thread, when *source* is waited for."""

    def run() -> None:
        assert source.waited_for.wait(TIMEOUT)
        change()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("name", ["map", "as_completed"])
def test_a_source_that_may_have_more_is_waited_for(name: str) -> None:
    with ScriptedServer(serve, repeat=True) as server, ConnectionPool() as pool:
        source = Growing(url(server, "/1"))
        found = texts(getattr(pool, name)(source))
        assert next(found) == "/1"
        thread = later(source, lambda: source.change(url(server, "/2")))
        assert next(found) == "/2"
        thread.join()
        source.waited_for.clear()
        thread = later(source, lambda: source.change(is_over=True))
        assert list(found) == []
        thread.join()


@pytest.mark.parametrize("name", ["map", "as_completed"])
def test_a_source_that_is_over_is_not_waited_for(name: str) -> None:
    with ScriptedServer(serve, repeat=True) as server, ConnectionPool() as pool:
        source = Growing(url(server, "/1"), url(server, "/2"))
        source.is_over = True
        assert sorted(texts(getattr(pool, name)(source))) == ["/1", "/2"]


@pytest.mark.parametrize("name", ["map", "as_completed"])
def test_what_a_source_raises_ends_the_wait_for_it(name: str) -> None:
    with ScriptedServer(serve, repeat=True) as server, ConnectionPool() as pool:
        source = Growing(url(server, "/1"))
        found = texts(getattr(pool, name)(source))
        assert next(found) == "/1"

        def fail() -> None:
            source.failure = ZeroDivisionError()
            source.change()

        thread = later(source, fail)
        with pytest.raises(ZeroDivisionError):
            next(found)
        thread.join()


def test_what_a_source_has_is_sent_though_others_are_waited_for() -> None:
    is_over = threading.Event()

    def wait(peer: Peer) -> None:
        peer.request()
        assert is_over.wait(TIMEOUT)

    with (
        ScriptedServer(wait, repeat=True) as slow,
        ScriptedServer(serve, repeat=True) as quick,
        ConnectionPool() as pool,
    ):
        source = Growing(*(url(slow, f"/slow/{n}") for n in range(30)), url(quick, "/1"))
        done = pool.as_completed(source)
        assert next(done).result().text == "/1"
        for n in range(20):  # of 31, more than half are under way all the time
            thread = later(source, partial(source.change, url(quick, f"/{n}")))
            assert next(done).result().text == f"/{n}"
            thread.join()
        is_over.set()


@pytest.mark.parametrize("name", ["map", "as_completed"])
def test_a_source_may_call_at_once_and_too_often(name: str) -> None:
    class Hasty(Growing):
        calls = 0

        def call_when_more(self, call: Callable[[], object], /) -> bool:
            self.calls += 1
            call()
            call()
            return self.calls < 9

    with ScriptedServer(serve, repeat=True) as server, ConnectionPool() as pool:
        source = Hasty(url(server, "/1"))
        assert list(texts(getattr(pool, name)(source))) == ["/1"]
        assert source.calls >= 9


def test_a_source_that_may_have_more_is_waited_for_though_a_host_lets_few_start() -> None:
    with ScriptedServer(serve, repeat=True) as server, ConnectionPool() as pool:
        pool.set_host_policy(url(server), HostPolicy(min_interval=0.01))
        source = Growing(*(url(server, f"/{n}") for n in range(40)))
        found = texts(pool.as_completed(source))
        assert sorted(next(found) for _ in range(40)) == sorted(f"/{n}" for n in range(40))
        source.waited_for.clear()
        thread = later(source, lambda: source.change(url(server, "/last"), is_over=True))
        assert list(found) == ["/last"]
        thread.join()


@pytest.mark.parametrize(("tells", "low"), [(False, 9), (True, 5)])
def test_a_source_that_tells_of_more_is_left_alone_until_half_is_left(
    tells: bool, low: int
) -> None:
    supply = Supply(iter(range(10)), 2**30, tells=tells)
    for items in supply.more(0, list, lambda: False):
        items.clear()
    assert supply.exhausted
    assert supply.low == low
