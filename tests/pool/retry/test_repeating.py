"""`retrying` and `RetryPolicy.call`: what is called again, and after how long."""

from __future__ import annotations

import asyncio
import gc
import inspect
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from dugong import (
    AioFuture,
    Attempt,
    ConnectionClosed,
    ConnectionTimedOut,
    Delivery,
    DNSUnavailable,
    HostnameNotResolvable,
    HTTPConnection,
    InvalidResponse,
    RetryPolicy,
    eval_coroutine,
    retrying,
)
from dugong.connection.polling import Coroutine
from dugong.pool.retry import repeating as module
from tests.support.clock import throw
from tests.support.server import Peer, ScriptedServer


class Scripted:
    """What the decorated functions do: the next *outcome*, which is returned, or else raised.

    `calls` has the arguments of each call.
    """

    def __init__(self, *outcomes: object) -> None:
        self._outcomes = list(outcomes)
        self.calls: list[tuple[tuple[object, ...], dict[str, object]]] = []

    def __call__(self, *args: object, **kwargs: object) -> Any:
        self.calls.append((args, kwargs))
        if isinstance(self._outcomes[0], BaseException):
            raise self._outcomes.pop(0)  # type: ignore[misc]  # no variable, which would keep it
        return self._outcomes.pop(0)


class Way:
    """A kind of function, and how it is run: `of` makes one from a script."""

    def __init__(
        self, of: Callable[[Scripted], Callable[..., Any]], run: Callable[[Any], Any]
    ) -> None:
        self.of = of
        self._run = run

    def run(self, fn: Callable[..., Any], *args: object, **kwargs: object) -> Any:
        """Call *fn*, and have it run to its end."""
        return self._run(lambda: fn(*args, **kwargs))


def plain_function(script: Scripted) -> Callable[..., Any]:
    def fn(*args: object, **kwargs: object) -> Any:
        return script(*args, **kwargs)

    return fn


def generator_function(script: Scripted) -> Callable[..., Any]:
    def fn(*args: object, **kwargs: object) -> Coroutine[Any]:
        return script(*args, **kwargs)
        yield

    return fn


def function_of_generator(script: Scripted) -> Callable[..., Any]:
    return lambda *args, **kwargs: generator_function(script)(*args, **kwargs)


def async_function(script: Scripted) -> Callable[..., Any]:
    async def fn(*args: object, **kwargs: object) -> Any:
        return script(*args, **kwargs)

    return fn


def run_plainly(call: Callable[[], Any]) -> Any:
    return call()


def run_blocking(call: Callable[[], Coroutine[Any]]) -> Any:
    return eval_coroutine(call())


def run_on_loop(call: Callable[[], Coroutine[Any]]) -> Any:
    async def main() -> Any:
        return await AioFuture(call())

    return asyncio.run(main())


def run_async(call: Callable[[], Any]) -> Any:
    async def main() -> Any:
        return await call()

    return asyncio.run(main())


WAYS = {
    "function": Way(plain_function, run_plainly),
    "generator": Way(generator_function, run_blocking),
    "function that returns a generator": Way(function_of_generator, run_blocking),
    "generator on a loop": Way(generator_function, run_on_loop),
    "async": Way(async_function, run_async),
}


@pytest.fixture(params=WAYS.values(), ids=list(WAYS))
def way(request: pytest.FixtureRequest) -> Way:
    way = request.param
    assert isinstance(way, Way)
    return way


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits, by any way of waiting: none takes time, and a random one is half of its limit."""
    waits: list[float] = []

    def co_sleep(seconds: float) -> Coroutine[None]:
        waits.append(seconds)
        return
        yield

    async def aio_sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(module, "time", SimpleNamespace(time=time.time, sleep=waits.append))
    monkeypatch.setattr(module, "co_sleep", co_sleep)
    monkeypatch.setattr(asyncio, "sleep", aio_sleep)
    throw(monkeypatch, 0.5)
    return waits


def test_a_call_that_succeeds_is_not_repeated(way: Way, waits: list[float]) -> None:
    script = Scripted("result")
    fn = retrying(RetryPolicy())(way.of(script))
    assert way.run(fn, 1, two=2) == "result"
    assert script.calls == [((1,), {"two": 2})]
    assert waits == []


def test_a_call_is_repeated_with_its_arguments_until_it_succeeds(
    way: Way, waits: list[float]
) -> None:
    script = Scripted(ConnectionClosed(), TimeoutError(), DNSUnavailable("host"), "result")
    fn = retrying(RetryPolicy())(way.of(script))
    assert way.run(fn, 1, two=2) == "result"
    assert script.calls == [((1,), {"two": 2})] * 4


def test_before_each_repetition_there_is_a_longer_wait(way: Way, waits: list[float]) -> None:
    script = Scripted(*[ConnectionClosed()] * 4, "result")
    policy = RetryPolicy(backoff=4, max_backoff=20)
    way.run(retrying(policy)(way.of(script)))
    assert waits == [2, 4, 8, 10]


def test_a_decorated_function_may_be_called_again_from_the_beginning(
    way: Way, waits: list[float]
) -> None:
    script = Scripted(ConnectionClosed(), "one", ConnectionClosed(), "two")
    fn = retrying(RetryPolicy(attempts=2, backoff=2))(way.of(script))
    assert way.run(fn) == "one"
    assert way.run(fn) == "two"
    assert waits == [1, 1]


def test_the_policy_itself_can_make_the_call(way: Way, waits: list[float]) -> None:
    script = Scripted(ConnectionClosed(), "result")
    assert way.run(RetryPolicy().call, way.of(script), 1, two=2) == "result"
    assert script.calls == [((1,), {"two": 2})] * 2


def test_when_the_attempts_are_over_the_last_exception_tells_of_the_earlier_ones(
    way: Way, waits: list[float]
) -> None:
    errors = [ConnectionClosed("first"), TimeoutError(), ConnectionResetError("third")]
    fn = retrying(RetryPolicy(attempts=3))(way.of(Scripted(*errors, "too late")))
    begun = time.time()
    with pytest.raises(ConnectionResetError) as caught:
        way.run(fn)
    assert caught.value is errors[2]
    first, second = caught.value.attempts  # type: ignore[attr-defined]
    assert begun <= first.when <= second.when <= time.time()
    assert (first.number, first.outcome, first.exception) == (1, "first", errors[0])
    assert (second.number, second.outcome, second.exception) == (2, "TimeoutError", errors[1])
    assert first.delivery is first.status is first.request is first.response is None
    assert first.charged


def test_an_attempt_has_the_verdict_of_its_exception(way: Way, waits: list[float]) -> None:
    error = ConnectionClosed()
    error.delivery = Delivery.SENT
    fn = retrying(RetryPolicy(attempts=2))(way.of(Scripted(error, ConnectionClosed())))
    with pytest.raises(ConnectionClosed) as caught:
        way.run(fn)
    assert caught.value.attempts[0].delivery is Delivery.SENT


def test_a_policy_of_one_attempt_makes_one_call(way: Way, waits: list[float]) -> None:
    script = Scripted(ConnectionClosed(), "too late")
    with pytest.raises(ConnectionClosed) as caught:
        way.run(retrying(RetryPolicy.never)(way.of(script)))
    assert caught.value.attempts == ()
    assert len(script.calls) == 1
    assert waits == []


def test_no_call_begins_after_the_deadline(way: Way, waits: list[float]) -> None:
    script = Scripted(*[ConnectionClosed() for _ in range(4)], "too late")
    fn = retrying(RetryPolicy(backoff=4000, max_backoff=20_000), deadline=3000)(way.of(script))
    for count in (1, 2):  # each has the time for itself
        with pytest.raises(ConnectionClosed) as caught:
            way.run(fn)
        assert len(caught.value.attempts) == 1
        assert len(script.calls) == 2 * count
        assert waits == [2000] * count  # the next would be 4000


@pytest.mark.parametrize(
    "error", [ValueError("bad"), HostnameNotResolvable("host"), InvalidResponse()], ids=repr
)
def test_what_is_no_passing_fault_is_raised_at_once(
    way: Way, waits: list[float], error: Exception
) -> None:
    script = Scripted(ConnectionClosed(), error, "too late")
    with pytest.raises(type(error)) as caught:
        way.run(retrying(RetryPolicy())(way.of(script)))
    assert caught.value is error
    assert len(error.attempts) == 1  # type: ignore[attr-defined]
    assert len(script.calls) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), asyncio.CancelledError()])
def test_what_is_to_end_the_program_ends_the_call(
    way: Way, waits: list[float], error: BaseException
) -> None:
    # Not through a loop, which has its own ways with these.
    script = Scripted(error, "too late")
    fn = retrying(RetryPolicy())(way.of(script))
    with pytest.raises(type(error)):
        step_through(fn())
    assert len(script.calls) == 1


def step_through(crt: Any) -> None:
    """Run *crt*, which does not wait."""
    if inspect.iscoroutine(crt):
        crt.send(None)
    else:
        next(crt)


# --- the veto -------------------------------------------------------------------------------------


def test_should_retry_is_asked_with_what_has_failed(way: Way, waits: list[float]) -> None:
    asked: list[Attempt] = []

    def should_retry(attempt: Attempt) -> bool:
        asked.append(attempt)
        return True

    error = ConnectionClosed("gone")
    script = Scripted(error, ConnectionTimedOut(), "result")
    fn = retrying(RetryPolicy(should_retry=should_retry))(way.of(script))
    conn = HTTPConnection("host", 8080)
    assert way.run(fn, conn) == "result"
    first, second = asked
    assert (first.number, first.outcome, first.exception) == (1, "gone", error)
    assert first.connection == "host:8080"
    assert second.number == 2


def test_what_should_retry_is_against_is_raised(way: Way, waits: list[float]) -> None:
    policy = RetryPolicy(should_retry=lambda attempt: attempt.number < 2)
    script = Scripted(ConnectionClosed("first"), ConnectionClosed("second"), "too late")
    with pytest.raises(ConnectionClosed, match="second") as caught:
        way.run(retrying(policy)(way.of(script)))
    assert [attempt.outcome for attempt in caught.value.attempts] == ["first"]
    assert len(script.calls) == 2


def test_what_should_retry_raises_is_the_outcome(way: Way, waits: list[float]) -> None:
    def should_retry(attempt: Attempt) -> bool:
        raise LookupError("of the hook")

    script = Scripted(ConnectionClosed(), "too late")
    with pytest.raises(LookupError, match="of the hook") as caught:
        way.run(retrying(RetryPolicy(should_retry=should_retry))(way.of(script)))
    assert isinstance(caught.value.__context__, ConnectionClosed)
    assert len(script.calls) == 1


@pytest.mark.parametrize("outcomes", [[ValueError()], [ConnectionClosed(), ConnectionClosed()]])
def test_should_retry_is_not_asked_for_what_is_not_tried_again_anyway(
    way: Way, waits: list[float], outcomes: list[Exception]
) -> None:
    asked: list[Attempt] = []

    def should_retry(attempt: Attempt) -> bool:
        asked.append(attempt)
        return True

    fn = retrying(RetryPolicy(attempts=2, should_retry=should_retry))(way.of(Scripted(*outcomes)))
    with pytest.raises(type(outcomes[-1])):
        way.run(fn)
    assert len(asked) == len(outcomes) - 1


# --- the connections of a call --------------------------------------------------------------------


class Watched(HTTPConnection):
    """A connection that counts how often it is disconnected."""

    def __init__(self) -> None:
        super().__init__("host")
        self.disconnected = 0
        self.script = Scripted(ConnectionClosed(), "result")

    def disconnect(self) -> None:
        self.disconnected += 1
        super().disconnect()

    def fetch(self) -> Any:
        return self.script()

    @retrying(RetryPolicy(backoff=0))
    def decorated(self) -> Any:
        return self.script()


def test_the_connections_among_the_arguments_are_disconnected_after_a_fault(
    way: Way, waits: list[float]
) -> None:
    first, second, third = Watched(), Watched(), Watched()
    counts: list[tuple[int, ...]] = []

    class Counting(Scripted):
        def __call__(self, *args: object, **kwargs: object) -> Any:
            counts.append((first.disconnected, second.disconnected, third.disconnected))
            return super().__call__(*args, **kwargs)

    fn = retrying(RetryPolicy())(way.of(Counting(ConnectionClosed(), TimeoutError(), "result")))
    assert way.run(fn, first, "text", second, conn=third, other=None) == "result"
    assert counts == [(0, 0, 0), (1, 1, 1), (2, 2, 2)]


def test_the_connections_are_disconnected_after_the_last_attempt_too(
    way: Way, waits: list[float]
) -> None:
    conn = Watched()
    with pytest.raises(ConnectionClosed):
        way.run(retrying(RetryPolicy.never)(way.of(Scripted(ConnectionClosed()))), conn)
    assert conn.disconnected == 1


def test_after_what_is_no_passing_fault_the_connections_are_left_as_they_are(
    way: Way, waits: list[float]
) -> None:
    conn = Watched()
    with pytest.raises(ValueError, match="bad"):
        way.run(retrying(RetryPolicy())(way.of(Scripted(ValueError("bad")))), conn)
    assert conn.disconnected == 0


def test_a_connection_whose_method_is_called_is_disconnected(waits: list[float]) -> None:
    conn = Watched()
    assert RetryPolicy().call(conn.fetch) == "result"
    assert conn.disconnected == 1


def test_a_connection_whose_method_is_decorated_is_disconnected() -> None:
    conn = Watched()
    assert conn.decorated() == "result"
    assert conn.disconnected == 1


class Owner:
    """Has a connection, and a method that uses it."""

    def __init__(self) -> None:
        self.conn = Watched()

    @retrying(RetryPolicy(backoff=0))
    def fetch(self) -> Any:
        return self.conn.script()


OF_THE_MODULE = Watched()  # which no function here names to `retrying`


def by_attribute() -> Watched:
    owner = Owner()
    assert owner.fetch() == "result"
    return owner.conn


def by_closure() -> Watched:
    conn = Watched()
    assert RetryPolicy(backoff=0).call(lambda: conn.script()) == "result"
    return conn


def by_partial() -> Watched:
    conn = Watched()
    assert RetryPolicy(backoff=0).call(partial(Watched.fetch, conn)) == "result"
    return conn


def by_name() -> Watched:
    conn = Watched()
    connections = iter([conn])

    @retrying(RetryPolicy(backoff=0), connections=connections)
    def fetch(script: Callable[[], Any]) -> Any:
        return script()

    assert fetch(conn.script) == "result"
    return conn


@pytest.mark.parametrize("use", [by_attribute, by_closure, by_partial, by_name])
def test_a_connection_that_is_no_argument_is_disconnected(use: Callable[[], Watched]) -> None:
    assert use().disconnected == 1


def test_global_variables_are_left_alone() -> None:
    assert RetryPolicy(backoff=0).call(lambda: OF_THE_MODULE.script()) == "result"
    assert OF_THE_MODULE.disconnected == 0


def test_an_attempt_names_the_connections(waits: list[float]) -> None:
    script = Scripted(ConnectionClosed(), ConnectionClosed())
    with pytest.raises(ConnectionClosed) as caught:
        RetryPolicy(attempts=2).call(script, HTTPConnection("one"), HTTPConnection("two", 8080))
    assert caught.value.attempts[0].connection == "one:80, two:8080"


# --- what decorating leaves as it is --------------------------------------------------------------


def test_a_decorated_async_function_is_one() -> None:
    @retrying(RetryPolicy())
    async def fetch() -> None: ...

    assert inspect.iscoroutinefunction(fetch)


def test_a_function_that_returns_a_coroutine_is_repeated_as_one(waits: list[float]) -> None:
    script = Scripted(ConnectionClosed(), "result")

    async def fetch(number: int) -> Any:
        return script(number)

    assert asyncio.run(RetryPolicy().call(lambda: fetch(7))) == "result"
    assert script.calls == [((7,), {})] * 2
    assert len(waits) == 1


def test_a_coroutine_of_dugong_does_nothing_before_it_is_driven() -> None:
    script = Scripted()
    crt = retrying(RetryPolicy())(generator_function(script))()
    crt.close()
    assert script.calls == []


def test_what_a_generator_has_given_away_is_not_given_again() -> None:
    @retrying(RetryPolicy())
    def lines() -> Iterator[str]:
        yield "first line"
        raise ConnectionClosed

    with pytest.raises(TypeError, match="'first line'"):
        list(lines())


class Held:
    """Something that is held by the frames of a call."""


class Holding(Scripted):
    """Fails in a frame that holds something, for which `held` has weak references."""

    def __init__(self, *outcomes: object) -> None:
        super().__init__(*outcomes)
        self.held: list[weakref.ref[Held]] = []

    def __call__(self, *args: object, **kwargs: object) -> Any:
        mine = Held()
        self.held.append(weakref.ref(mine))
        try:
            return super().__call__(*args, **kwargs)
        except ConnectionResetError as exc:
            raise ConnectionClosed from exc


@pytest.fixture
def _without_gc() -> Iterator[None]:
    """Have what is in a cycle stay."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_without_gc")
def test_a_call_that_has_succeeded_holds_nothing(way: Way, waits: list[float]) -> None:
    script = Holding(ConnectionResetError(), ConnectionResetError(), "result")
    assert way.run(retrying(RetryPolicy())(way.of(script))) == "result"
    assert [ref() for ref in script.held] == [None] * 3


@pytest.mark.usefixtures("_without_gc")
def test_a_call_that_has_failed_holds_only_what_the_last_exception_does(
    way: Way, waits: list[float]
) -> None:
    script = Holding(*(ConnectionResetError() for _ in range(3)))
    with pytest.raises(ConnectionClosed) as caught:
        way.run(retrying(RetryPolicy(attempts=3))(way.of(script)))
    assert len(caught.value.attempts) == 2
    first, second, _ = script.held
    assert first() is second() is None


# Not on a loop, where exceptions are in cycles anyway.
@pytest.mark.usefixtures("_without_gc")
@pytest.mark.parametrize("way", [WAYS["function"], WAYS["generator"]])
def test_the_last_exception_is_in_no_cycle(way: Way, waits: list[float]) -> None:
    script = Holding(ConnectionResetError(), ConnectionResetError())
    with pytest.raises(ConnectionClosed) as caught:
        way.run(retrying(RetryPolicy(attempts=2))(way.of(script)))
    assert script.held[-1]() is not None
    del caught
    assert script.held[-1]() is None


# --- against a server -----------------------------------------------------------------------------


def fetch(conn: HTTPConnection, path: str) -> bytes:
    conn.send_request("GET", path)
    assert conn.read_response().status == 200
    return conn.readall()


def co_fetch(conn: HTTPConnection, path: str) -> Coroutine[bytes]:
    yield from conn.co_send_request("GET", path)
    response = yield from conn.co_read_response()
    assert response.status == 200
    return (yield from conn.co_readall())


async def aio_fetch(conn: HTTPConnection, path: str) -> bytes:
    return await AioFuture(co_fetch(conn, path))


FETCHES: dict[str, tuple[Callable[..., Any], Callable[[Any], Any]]] = {
    "blocking": (fetch, run_plainly),
    "coroutine": (co_fetch, run_blocking),
    "coroutine on a loop": (co_fetch, run_on_loop),
    "async": (aio_fetch, run_async),
}

each_fetch = pytest.mark.parametrize(("fetch", "run"), FETCHES.values(), ids=list(FETCHES))

AT_ONCE = RetryPolicy(attempts=4, backoff=0)


def drop(peer: Peer) -> None:
    assert peer.request().target == "/it"


def drop_within_the_response(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")


def reset(peer: Peer) -> None:
    peer.request()
    peer.reset()


def serve(peer: Peer) -> None:
    peer.request()
    peer.respond(b"the body")
    peer.until_eof()


@each_fetch
def test_a_request_is_made_until_the_server_stops_dropping_it(
    fetch: Callable[..., Any], run: Callable[[Any], Any]
) -> None:
    with (
        ScriptedServer(drop, drop_within_the_response, reset, serve) as server,
        HTTPConnection(*server.address) as conn,
    ):
        assert run(lambda: retrying(AT_ONCE)(fetch)(conn, "/it")) == b"the body"
        assert server.connections == 4


@each_fetch
def test_a_server_that_always_drops_is_given_up(
    fetch: Callable[..., Any], run: Callable[[Any], Any]
) -> None:
    with (
        ScriptedServer(drop, repeat=True) as server,
        HTTPConnection(*server.address) as conn,
    ):
        with pytest.raises(ConnectionClosed) as caught:
            run(lambda: AT_ONCE.call(fetch, conn, "/it"))
        assert server.connections == 4
        where = f"{server.host}:{server.port}"
        assert [attempt.connection for attempt in caught.value.attempts] == [where] * 3


@each_fetch
def test_a_server_that_cannot_be_reached_is_tried_again(
    fetch: Callable[..., Any], run: Callable[[Any], Any]
) -> None:
    with ScriptedServer() as server:
        address = server.address
    with HTTPConnection(*address) as conn, pytest.raises(ConnectionRefusedError) as caught:
        run(lambda: AT_ONCE.call(fetch, conn, "/it"))
    assert len(caught.value.attempts) == 3  # type: ignore[attr-defined]


def test_the_methods_of_a_connection_can_be_called_as_they_are() -> None:
    with ScriptedServer() as server:
        address = server.address
    for run, name in ((run_plainly, "connect"), (run_blocking, "co_connect")):
        with HTTPConnection(*address) as conn, pytest.raises(ConnectionRefusedError) as caught:
            run(lambda: AT_ONCE.call(getattr(conn, name)))  # noqa: B023
        assert len(caught.value.attempts) == 3  # type: ignore[attr-defined]


def test_a_wait_on_a_loop_can_be_cancelled() -> None:
    async def main() -> None:
        asked = asyncio.Event()

        def should_retry(attempt: Attempt) -> bool:
            asked.set()
            return True

        policy = RetryPolicy(backoff=1e6, max_backoff=1e6, should_retry=should_retry)
        future = AioFuture(policy.call(generator_function(Scripted(ConnectionClosed()))))
        await asked.wait()
        assert not future.done()
        assert future.cancel()

    asyncio.run(main())
