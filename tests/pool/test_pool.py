"""The pool's face: what it takes and refuses, and what it does when there is too much."""

from __future__ import annotations

import contextlib
import inspect
import io
import select
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

import dugong
from dugong import ConnectionPool, Request, RetryPolicy
from dugong.errors import (
    ConnectionTimedOut,
    Delivery,
    PoolClosed,
    PoolFull,
    StateError,
)
from dugong.pool.core import dispatch, progress, traffic
from dugong.pool.core.connection import PooledConnection
from dugong.pool.core.host import BUDGET_TIME, FREE_REPEATS, Host
from dugong.pool.core.job import Job
from dugong.pool.future import ResponseFuture
from dugong.pool.options import Options, OptionsAndBody
from tests.support.byhand import HandServer, settle
from tests.support.pool import Held, discard_rest, each, name_target, url, wait_for
from tests.support.server import TIMEOUT, Peer, ReceivedRequest, ScriptedServer

NOWHERE = "http://127.0.0.1:9/"  # a URL that no test asks for


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


# --- what a pool is made with ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("max_connections_per_host", 0, ValueError),
        ("max_connections_per_host", "6", TypeError),
        ("max_connections", -1, ValueError),
        ("max_connections", 1.0, TypeError),
        ("pipeline_depth", 0, ValueError),
        ("pipeline_depth", True, TypeError),
        ("max_queued", 0, ValueError),
        ("max_queued", None, TypeError),
        ("max_body_size", 0, ValueError),
        ("max_requests", 0, ValueError),
        ("max_requests", "many", TypeError),
        ("timeout", 0, ValueError),
        ("timeout", -1, ValueError),
        ("timeout", float("nan"), ValueError),
        ("timeout", float("inf"), ValueError),
        ("timeout", "1", TypeError),
        ("timeout", True, TypeError),
        ("idle_timeout", None, TypeError),
        ("idle_timeout", float("nan"), ValueError),
        ("max_age", 0, ValueError),
        ("max_age", "old", TypeError),
        ("ssl_context", "certificates", TypeError),
        ("proxy", 8080, TypeError),
        ("proxy", "socks://proxy", ValueError),
        ("proxy", ("proxy", 0), ValueError),
        ("headers", "Accept: text/html", TypeError),
        ("headers", 5, TypeError),
        ("headers", {"Host": "example.com"}, ValueError),
        ("headers", {"Content-Length": "5"}, ValueError),
        ("headers", {"Accept": "text/html\r\nHost: example.com"}, ValueError),
        ("headers", {"Acc ept": "text/html"}, ValueError),
        ("retry", 3, TypeError),
        ("retry", RetryPolicy, TypeError),
        ("on_event", "print", TypeError),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_name(
    name: str, value: object, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        ConnectionPool(**{name: value})  # type: ignore[arg-type]
    assert type(caught.value) is error
    assert str(caught.value)


def test_the_arguments_have_names() -> None:
    with pytest.raises(TypeError):
        ConnectionPool(6)  # type: ignore[call-arg]


def test_none_is_no_limit() -> None:
    ConnectionPool(timeout=None, max_age=None, max_requests=None).close()


def test_a_pool_that_is_not_used_has_no_threads() -> None:
    threads = threading.active_count()
    with ConnectionPool():
        assert threading.active_count() == threads


# --- what a request is made of --------------------------------------------------------------------


def _request(pool: ConnectionPool, *args: Any, **kwargs: Any) -> None:
    pool.request(*args, **kwargs)


def _submit(pool: ConnectionPool, *args: Any, **kwargs: Any) -> None:
    pool.submit(*args, **kwargs)


def _stream(pool: ConnectionPool, *args: Any, **kwargs: Any) -> None:
    with pool.stream(*args, **kwargs):
        pass


each_entry = pytest.mark.parametrize("enter", [_request, _submit, _stream])

_GIVEN = Request("GET", NOWHERE)
_BAD_REQUESTS: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception]]] = [
    (("GET",), {}, TypeError),
    (("GET", None), {}, TypeError),
    (("GET", 5), {}, TypeError),
    (("GET", b"http://h/"), {}, TypeError),
    (("GET", "/path"), {}, ValueError),
    (("GET", "ftp://h/"), {}, ValueError),
    (("GET", "http://"), {}, ValueError),
    (("GET", "http:///path"), {}, ValueError),
    (("GET", "http://h:99999/"), {}, ValueError),
    (("GET", "http://h:port/"), {}, ValueError),
    (("GET", "http://user:password@h/"), {}, ValueError),
    (("GET", "http://h/a b"), {}, ValueError),
    (("GET", "http://h/\r\nHost: g"), {}, ValueError),
    (("GET", "http://h\r\n/"), {}, ValueError),
    (("GET", "http://h/\xe4"), {}, ValueError),
    ((5, NOWHERE), {}, TypeError),
    ((None, NOWHERE), {}, TypeError),
    (("", NOWHERE), {}, ValueError),
    (("GE T", NOWHERE), {}, ValueError),
    (("GET / HTTP/1.1\r\nHost: g\r\n\r\n", NOWHERE), {}, ValueError),
    (("CONNECT", NOWHERE), {}, ValueError),
    (("GET", NOWHERE), {"headers": "Accept: text/html"}, TypeError),
    (("GET", NOWHERE), {"headers": 5}, TypeError),
    (("GET", NOWHERE), {"headers": [5]}, TypeError),
    (("GET", NOWHERE), {"headers": ["Accept"]}, TypeError),
    (("GET", NOWHERE), {"headers": {5: "a"}}, TypeError),
    (("GET", NOWHERE), {"headers": {"Accept": None}}, TypeError),
    (("GET", NOWHERE), {"headers": {"Accept": "a\nb"}}, ValueError),
    (("GET", NOWHERE), {"headers": {"Upgrade": "h2c"}}, ValueError),
    (("PUT", NOWHERE), {"headers": {"Content-Length": "five"}, "body": b"12345"}, ValueError),
    (("PUT", NOWHERE), {"headers": {"Content-Length": "6"}, "body": b"12345"}, ValueError),
    (("PUT", NOWHERE), {"headers": {"Content-Length": "6"}}, ValueError),
    (("PUT", NOWHERE), {"body": "text"}, TypeError),
    (("PUT", NOWHERE), {"body": 5}, TypeError),
    (("PUT", NOWHERE), {"body": {"a": "b"}}, TypeError),
    (("PUT", NOWHERE), {"body": io.StringIO("text")}, TypeError),
    (("PUT", NOWHERE), {"expect100": True}, ValueError),
    (("PUT", NOWHERE), {"body": b"", "expect100": 1}, TypeError),
    (("GET", NOWHERE), {"timeout": 0}, ValueError),
    (("GET", NOWHERE), {"timeout": float("nan")}, ValueError),
    (("GET", NOWHERE), {"timeout": "1"}, TypeError),
    (("GET", NOWHERE), {"deadline": 0}, ValueError),
    (("GET", NOWHERE), {"deadline": float("nan")}, ValueError),
    (("GET", NOWHERE), {"deadline": float("inf")}, ValueError),
    (("GET", NOWHERE), {"deadline": "1"}, TypeError),
    (("GET", NOWHERE), {"idempotent": 1}, TypeError),
    (("GET", NOWHERE), {"retry": 3}, TypeError),
    (("GET", NOWHERE), {"retry": RetryPolicy}, TypeError),
    # parameters beside a Request would be lost
    ((_GIVEN, NOWHERE), {}, TypeError),
    ((_GIVEN,), {"headers": {"Accept": "text/html"}}, TypeError),
    ((_GIVEN,), {"body": b"body"}, TypeError),
    ((_GIVEN,), {"timeout": 1}, TypeError),
    ((_GIVEN,), {"timeout": None}, TypeError),
    ((_GIVEN,), {"deadline": 1}, TypeError),
    ((_GIVEN,), {"expect100": True}, TypeError),
    ((_GIVEN,), {"idempotent": True}, TypeError),
    ((_GIVEN,), {"retry": None}, TypeError),
    ((_GIVEN,), {"retry": RetryPolicy()}, TypeError),
]


@each_entry
@pytest.mark.parametrize(("args", "kwargs", "error"), _BAD_REQUESTS, ids=repr)
def test_a_request_that_makes_no_sense_is_refused_at_the_call(
    enter: Callable[..., None],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    error: type[Exception],
) -> None:
    with ConnectionPool() as pool:
        with pytest.raises(error) as caught:
            enter(pool, *args, **kwargs)
        assert type(caught.value) is error or not isinstance(caught.value, dugong.DugongError)
        assert str(caught.value)
        statistics = pool.statistics()
        assert (statistics.opened, statistics.queued, statistics.sent) == (0, 0, 0)


@each_entry
def test_a_request_that_is_refused_does_no_harm_to_others(enter: Callable[..., None]) -> None:
    held = Held(2, warm=2)
    with ScriptedServer(held) as server, ConnectionPool(max_connections_per_host=1) as pool:
        pool.get(url(server, "/1"))
        pool.get(url(server, "/2"))
        futures = [pool.submit("GET", url(server, target)) for target in ("/3", "/4")]
        held.wait()
        with pytest.raises(ValueError, match="header"):
            enter(pool, "GET", url(server), headers={"Accept": "a\nb"})
        held.release()
        assert [future.result().body for future in futures] == [b"/3", b"/4"]
        assert pool.get(url(server, "/5")).body == b"/5"


@pytest.mark.parametrize("name", ["map", "as_completed"])
@pytest.mark.parametrize("requests", [None, 5, NOWHERE, b"abc", Request("GET", NOWHERE)])
def test_what_is_not_many_requests_is_refused_at_the_call(name: str, requests: Any) -> None:
    with ConnectionPool() as pool, pytest.raises(TypeError, match="requests"):
        getattr(pool, name)(requests)


@pytest.mark.parametrize("name", ["map", "as_completed"])
@pytest.mark.parametrize("item", [None, 5, b"http://h/", ("GET", NOWHERE)])
def test_many_requests_are_urls_and_requests_only(name: str, item: Any) -> None:
    with ConnectionPool() as pool, pytest.raises(TypeError, match="must be a str"):
        next(getattr(pool, name)([item]))


@each_entry
def test_a_closed_pool_takes_no_requests(enter: Callable[..., None]) -> None:
    pool = ConnectionPool()
    pool.close()
    with pytest.raises(PoolClosed) as caught:
        enter(pool, "GET", f"{NOWHERE}?secret")
    assert caught.value.delivery is Delivery.UNSENT
    assert caught.value.request is not None
    assert caught.value.request.url == f"{NOWHERE}?secret"
    assert str(caught.value) == f"GET {NOWHERE}: the pool has been closed"
    assert pool.statistics().opened == 0


@pytest.mark.parametrize("name", ["map", "as_completed"])
def test_a_closed_pool_does_not_take_many_requests_either(name: str) -> None:
    pool = ConnectionPool()
    pool.close()
    with pytest.raises(PoolClosed):
        list(getattr(pool, name)([NOWHERE]))


# --- conveniences ---------------------------------------------------------------------------------


def method_and_body(peer: Peer, request: ReceivedRequest) -> None:
    body = f"{request.method} {request.target} ".encode() + request.body
    if request.method == "HEAD":
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    else:
        peer.respond(body)


def test_each_common_method_has_a_name() -> None:
    with ScriptedServer(each(method_and_body)) as server, ConnectionPool() as pool:
        where = url(server, "/a")
        assert pool.get(where).body == b"GET /a "
        assert pool.put(where, b"1").body == b"PUT /a 1"
        assert pool.post(where, body=b"2").body == b"POST /a 2"
        assert pool.patch(where, b"3").body == b"PATCH /a 3"
        assert pool.delete(where).body == b"DELETE /a "
        assert pool.options(where).body == b"OPTIONS /a "
        head = pool.head(where)
        assert head.body == b""
        assert head.headers["Content-Length"] == "100"


def test_a_convenience_takes_the_options_of_a_request() -> None:
    def header(peer: Peer, request: ReceivedRequest) -> None:
        peer.respond(request.headers["accept"].encode())

    with ScriptedServer(each(header)) as server, ConnectionPool() as pool:
        response = pool.get(url(server), headers={"Accept": "text/html"}, timeout=5, deadline=5)
        assert response.body == b"text/html"
        with pytest.raises(TypeError):
            pool.get(url(server), colour="red")


def test_what_the_caller_keeps_with_a_request_comes_back_with_all_that_it_leads_to() -> None:
    class Context:
        def __eq__(self, other: object) -> bool:
            raise AssertionError("it is only kept")

        __hash__ = None  # type: ignore[assignment]

    context = Context()
    with ScriptedServer(serve) as server, ConnectionPool() as pool:
        where = url(server)
        future = pool.submit("GET", where, context=context)
        assert future.request.context is future.result().request.context is context
        assert pool.get(where, context=context).request.context is context
        with pool.stream("GET", where, context=context) as stream:
            assert stream.request.context is context
        [response] = pool.map([Request("GET", where, context=context)])
        assert response.request.context is context
        with pytest.raises(TypeError, match="give either a Request or"):
            pool.request(Request("GET", where), context=context)


def test_a_type_checker_knows_the_options_of_a_convenience() -> None:
    parameters = inspect.signature(Request).parameters
    options = parameters.keys() - {"self", "method", "url", "unknown"}
    assert OptionsAndBody.__annotations__.keys() == options
    assert Options.__annotations__.keys() == options - {"body"}


def test_a_request_object_may_be_sent_as_often_as_one_likes() -> None:
    with ScriptedServer(serve) as server, ConnectionPool() as pool:
        request = Request("GET", url(server, "/a"))
        for response in (pool.request(request), pool.submit(request).result()):
            assert response.body == b"/a"
            assert response.request is request


@pytest.mark.parametrize("headers", [None, {"Accept": "text/html"}])
def test_a_request_has_its_own_policy_or_else_that_of_its_pool(
    headers: dict[str, str] | None,
) -> None:
    own, pools = RetryPolicy(attempts=2), RetryPolicy(attempts=3)

    def policy(pool: ConnectionPool, **options: Any) -> RetryPolicy:
        return pool._preparer.prepare(Request("GET", NOWHERE, headers, **options), pool).retry

    with ConnectionPool(retry=pools) as pool:
        assert policy(pool) is pools
        assert policy(pool, retry=own) is own
        assert policy(pool, retry=None) is RetryPolicy.never
    with ConnectionPool(retry=None) as pool:
        assert policy(pool) is RetryPolicy.never
        assert policy(pool, retry=own) is own
    with ConnectionPool() as pool:
        assert policy(pool) == RetryPolicy()


def test_the_repr_says_how_much_there_is_to_do() -> None:
    held = Held()
    with ScriptedServer(held) as server:
        with ConnectionPool(max_connections_per_host=1) as pool:
            assert repr(pool) == (
                "<ConnectionPool 0 hosts, 0 connections (0 idle), 0 queued, 0 in flight>"
            )
            first = pool.submit("GET", url(server))
            held.wait()
            second = pool.submit("GET", url(server))
            assert repr(pool) == (
                "<ConnectionPool 1 hosts, 1 connections (0 idle), 1 queued, 1 in flight>"
            )
            held.release()
            first.result()
            second.result()
        assert repr(pool) == (
            "<ConnectionPool closed, 1 hosts, 0 connections (0 idle), 0 queued, 0 in flight>"
        )


# --- too much -------------------------------------------------------------------------------------


class Full:
    """A pool with no room: a request is in flight, and another, `queued`, is all that may wait.

    `blocked` is set when a thread begins to wait for room.
    """

    def __init__(self, pool: ConnectionPool, server: ScriptedServer, held: Held) -> None:
        self.pool = pool
        self.server = server
        self.held = held
        self.in_flight = pool.submit("GET", url(server, "/in-flight"))
        held.wait()
        self.queued = pool.submit("GET", url(server, "/queued"))
        self.blocked = threading.Event()
        room = pool._scheduler._core.room
        wait = room.wait

        def signalling_wait(timeout: float | None = None) -> bool:
            self.blocked.set()
            return wait(timeout)

        room.wait = signalling_wait  # type: ignore[method-assign]


@pytest.fixture
def full() -> Iterator[Full]:
    held = Held()
    with (
        ScriptedServer(held) as server,
        ConnectionPool(max_connections_per_host=1, max_queued=1) as pool,
    ):
        yield Full(pool, server, held)
        held.release()


class Submitter(threading.Thread):
    """A thread that submits one request; `future` or `error` is what came of it."""

    def __init__(self, full: Full, **options: Any) -> None:
        super().__init__()
        self.future: ResponseFuture | None = None
        self.error: BaseException | None = None
        self._full = full
        self._options = options
        self.start()

    def run(self) -> None:
        try:
            where = url(self._full.server, "/blocked")
            self.future = self._full.pool.submit("GET", where, **self._options)
        except Exception as exc:
            self.error = exc


def test_who_does_not_want_to_wait_for_room_is_told_so(full: Full) -> None:
    with pytest.raises(PoolFull) as caught:
        full.pool.submit("GET", url(full.server), block=False)
    assert caught.value.delivery is Delivery.UNSENT
    assert str(caught.value) == f"GET {url(full.server)}: 1 requests are queued"
    full.held.release()
    assert full.in_flight.result().body == b"/in-flight"
    assert full.queued.result().body == b"/queued"


def test_submit_waits_for_room(full: Full) -> None:
    submitter = Submitter(full)
    wait_for(full.blocked)
    assert submitter.future is None
    full.held.release()
    submitter.join()
    assert submitter.future is not None
    assert submitter.future.result().body == b"/blocked"


def test_a_blocking_request_waits_for_room_too(full: Full) -> None:
    bodies = []
    asker = threading.Thread(
        target=lambda: bodies.append(full.pool.get(url(full.server, "/x")).body)
    )
    asker.start()
    wait_for(full.blocked)
    full.held.release()
    asker.join()
    assert bodies == [b"/x"]


def test_a_request_that_is_cancelled_makes_room(full: Full) -> None:
    submitter = Submitter(full)
    wait_for(full.blocked)
    assert full.queued.cancel()
    submitter.join()
    assert submitter.future is not None
    full.held.release()
    assert submitter.future.result().body == b"/blocked"


def test_a_deadline_bounds_the_wait_for_room(full: Full) -> None:
    with pytest.raises(ConnectionTimedOut, match="queued") as caught:
        full.pool.submit("GET", url(full.server), deadline=0.01)
    assert caught.value.delivery is Delivery.UNSENT
    assert full.pool.statistics().queued == 1


def test_the_wait_for_room_ends_when_the_pool_is_closed(full: Full) -> None:
    submitter = Submitter(full)
    wait_for(full.blocked)
    full.pool.close()
    submitter.join()
    assert isinstance(submitter.error, PoolClosed)
    assert submitter.error.request is not None
    assert submitter.error.delivery is Delivery.UNSENT


def test_a_host_that_fails_makes_room() -> None:
    """What waits for room is not forgotten when a whole queue is given up."""
    released = threading.Event()

    def refuse(peer: Peer) -> None:
        peer.exactly(1)  # it is shaking hands
        wait_for(released)
        peer.reset()

    with ScriptedServer(refuse, serve) as server:
        where = url(server, scheme="https")
        with ConnectionPool(max_connections_per_host=1, max_queued=1, retry=None) as pool:
            first = pool.submit("GET", where)
            blocked = threading.Event()
            wait = pool._scheduler._core.room.wait

            def signalling_wait(timeout: float | None = None) -> bool:
                blocked.set()
                return wait(timeout)

            pool._scheduler._core.room.wait = signalling_wait  # type: ignore[method-assign]
            bodies = []
            asker = threading.Thread(target=lambda: bodies.append(pool.get(url(server)).body))
            asker.start()
            wait_for(blocked)
            released.set()
            asker.join()
            assert bodies == [b"/"]
            error = first.exception(timeout=0)
            assert error is not None
            assert dugong.is_temp_network_error(error)


# --- callbacks ------------------------------------------------------------------------------------


def test_a_callback_may_submit_though_the_pool_is_full(full: Full) -> None:
    submitted: list[ResponseFuture] = []
    ready = threading.Event()

    def submit_more(_: object) -> None:
        targets = [f"/{i}" for i in range(5)]
        submitted.extend(full.pool.submit("GET", url(full.server, target)) for target in targets)
        ready.set()

    full.in_flight.add_done_callback(submit_more)
    full.held.release()
    wait_for(ready)
    assert [future.result().body for future in submitted] == [f"/{i}".encode() for i in range(5)]


def test_a_callback_may_not_wait_for_the_pool() -> None:
    held = Held()
    errors: list[type[BaseException]] = []
    finished = threading.Event()

    def ask(_: object) -> None:
        for wait in (
            lambda: pool.get(url(mute)),
            lambda: pool.stream("GET", url(mute)).__enter__(),
            lambda: pool.submit("GET", url(mute)).result(),
            lambda: pool.map([url(mute)]),
            lambda: pool.as_completed([url(mute)]),
            lambda: next(mapped),
            lambda: next(completed),
        ):
            try:
                wait()
            except Exception as exc:
                errors.append(type(exc))
        finished.set()

    with (
        ScriptedServer(held) as server,
        ScriptedServer(discard_rest) as mute,
        ConnectionPool(max_connections_per_host=1) as pool,
    ):
        mapped = pool.map([url(mute)])
        completed = pool.as_completed([url(mute)])
        future = pool.submit("GET", url(server))
        held.wait()
        future.add_done_callback(ask)
        held.release()
        wait_for(finished)
        # What was refused is over, and has cancelled what was under way.
        assert list(mapped) == list(completed) == []
    assert errors == [StateError] * 7


def test_a_callback_may_not_wait_even_if_a_connection_is_idle() -> None:
    held = Held()
    outcome: list[object] = []
    finished = threading.Event()

    def ask(_: object) -> None:
        try:
            outcome.append(pool.get(url(other)))
        except Exception as exc:
            outcome.append(type(exc))
        finished.set()

    with ScriptedServer(held) as server, ScriptedServer(serve) as other, ConnectionPool() as pool:
        pool.get(url(other))
        future = pool.submit("GET", url(server))
        held.wait()
        future.add_done_callback(ask)
        held.release()
        wait_for(finished)
    assert outcome == [StateError]


def test_a_callback_that_raises_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    held = Held(2, warm=2)

    def fail(_: object) -> None:
        raise ZeroDivisionError

    with ScriptedServer(held) as server, ConnectionPool(max_connections_per_host=1) as pool:
        pool.get(url(server))
        pool.get(url(server))
        first, second = (pool.submit("GET", url(server, target)) for target in ("/1", "/2"))
        held.wait()
        first.add_done_callback(fail)
        held.release()
        assert second.result().body == b"/2"
        assert pool.get(url(server, "/3")).body == b"/3"
    assert "ZeroDivisionError" in caplog.text


def test_a_callback_may_cancel_what_comes_behind() -> None:
    held = Held(3, warm=3)
    with ScriptedServer(held) as server, ConnectionPool(max_connections_per_host=1) as pool:
        for _ in range(3):
            pool.get(url(server))
        futures = [pool.submit("GET", url(server, f"/{i}")) for i in range(3)]
        held.wait()
        cancelled = []
        futures[0].add_done_callback(lambda _: cancelled.append(futures[2].cancel()))
        held.release()
        assert futures[1].result().body == b"/1"
        if cancelled[0]:
            with pytest.raises(CancelledError):
                futures[2].result()
        else:
            assert futures[2].result().body == b"/2"
        assert pool.get(url(server, "/next")).body == b"/next"


# --- retry budgets --------------------------------------------------------------------------------


def test_all_that_is_sent_counts_for_the_retry_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what was sent before anything failed."""
    now = 1e9
    monkeypatch.setattr(progress, "monotonic", lambda: now)
    with ScriptedServer(serve) as server, ConnectionPool() as pool:
        for _ in range(10):
            pool.get(url(server))
        (host,) = pool._scheduler._core.hosts.values()
        with pool._scheduler._core.lock:
            host.repeated = 9 + FREE_REPEATS
            assert host.may_repeat(1.0, now + BUDGET_TIME)
            host.repeated += 1
            assert not host.may_repeat(1.0, now + BUDGET_TIME)


# --- hosts that are held --------------------------------------------------------------------------


def test_the_statistics_say_what_waits_and_which_host_is_held() -> None:
    with HandServer() as server, ConnectionPool() as pool:
        future = pool.submit("GET", server.url("/told"))
        peer = server.accept()
        peer.burst()
        before = pool.statistics()
        assert (before.waiting, [host.held_for for host in before.hosts.values()]) == (0, [0.0])
        peer.respond(status="503 Busy", headers="Retry-After: 50\r\n")
        while not (statistics := pool.statistics()).waiting:
            pass
        (host,) = statistics.hosts.values()
        assert (statistics.waiting, statistics.queued, statistics.in_flight) == (1, 0, 0)
        assert (host.waiting, host.queued, host.in_flight) == (1, 0, 0)
        assert 40 < host.held_for <= 50
        assert future.cancel()
        (host,) = pool.statistics().hosts.values()
        assert host.waiting == 0
        assert 40 < host.held_for <= 50


def test_after_a_hold_no_connection_takes_a_request_while_it_counts_as_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or else it would be lent to another request while that one is under way there."""
    idle: list[bool] = []

    def take(host: Host, pipeline: PooledConnection) -> list[Job]:
        idle.append(pipeline in host.idle)
        return dispatch.take(host, pipeline)

    with HandServer() as server, ConnectionPool() as pool:
        futures = [pool.submit("GET", server.url(target)) for target in ("/1", "/2")]
        peers = [server.accept(), server.accept()]
        for peer, targets in [(peer, peer.burst()) for peer in peers]:
            peer.responds(*targets)
        for future in futures:
            future.result(TIMEOUT)
        settle(pool)
        scheduler = pool._scheduler
        (host,) = scheduler._core.hosts.values()
        assert len(host.idle) == 2
        with scheduler._core.transaction():
            scheduler._politeness.hold_locked(host, 60.0, "for this test")
        monkeypatch.setattr(traffic, "take", take)
        held = pool.submit("GET", server.url("/held"))
        with scheduler._core.transaction():
            assert host.gate is not None
            host.gate.held_until = 0.0
            scheduler._politeness._look_again_locked(host)
        (readable, *_), _, _ = select.select([peer.sock for peer in peers], [], [], TIMEOUT)
        (peer,) = (peer for peer in peers if peer.sock is readable)
        peer.responds(*peer.burst())
        assert held.result(TIMEOUT).text == "/held"
        settle(pool)
        assert idle
        assert not any(idle)


# --- threads --------------------------------------------------------------------------------------


def test_many_threads_may_use_a_pool_at_once() -> None:
    wrong: list[object] = []

    def ask(thread: int) -> None:
        for i in range(20):
            target = f"/{thread}/{i}"
            if i % 2:
                body = pool.get(url(server, target)).body
            else:
                body = pool.submit("GET", url(server, target)).result().body
            if body != target.encode():
                wrong.append((target, body))

    with ScriptedServer(serve, repeat=True) as server, ConnectionPool() as pool:
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert pool.statistics().answered == 160
    assert wrong == []


def test_threads_are_named_after_their_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "SMALL_HEAD", 0)  # so that it has two threads
    with ScriptedServer(serve) as server, ConnectionPool() as pool:
        pool.get(url(server))
        names = {thread.name for thread in threading.enumerate() if "dugong" in thread.name}
        connection = f"dugong-127.0.0.1:{server.port}-1"
        assert names == {f"{connection}-send", f"{connection}-recv", "dugong-maintenance"}
        assert all(t.daemon for t in threading.enumerate() if t.name in names)


@pytest.mark.parametrize("which", ["-send", "maintenance"])
def test_a_thread_that_cannot_be_started_fails_the_request_and_not_the_pool(
    which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("dugong") and thread.name.endswith(which):
            raise RuntimeError("can't start new thread")
        start(thread)

    with ScriptedServer(serve, repeat=True) as server, ConnectionPool() as pool:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(dugong.DugongError, match="start new thread"):
            pool.get(url(server))
        monkeypatch.setattr(threading.Thread, "start", start)
        assert pool.statistics().queued == 0
        assert pool.get(url(server, "/a"), deadline=5).body == b"/a"


def test_connecting_has_a_limit_of_its_own() -> None:
    with ConnectionPool() as pool:
        assert pool._scheduler.limits.connect_timeout == 10
    with ConnectionPool(connect_timeout=None) as pool:
        assert pool._scheduler.limits.connect_timeout is None
