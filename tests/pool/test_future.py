"""Futures: all that `concurrent.futures` promises, and every race that may break it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import logging
import signal
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, InvalidStateError
from types import TracebackType
from typing import Any

import pytest

from dugong import Headers
from dugong.errors import ConnectionClosed, StateError
from dugong.pool import future as future_module
from dugong.pool.future import ResponseFuture
from dugong.pool.request import Request
from dugong.pool.response import Response
from tests.support.fork import holds_in_child

REQUEST = Request("GET", "http://h/a")
RESPONSE = Response(200, "OK", Headers(), b"body", REQUEST)

Future = concurrent.futures.Future[Any]


class Pool:
    """An owner that says what it is told to say. `asked` is set when a thread is about to wait."""

    def __init__(self, *, running: bool = False, own_thread: bool = False) -> None:
        self.running = running
        self.own_thread = own_thread
        self.resolved_elsewhere = False
        self.asked = threading.Event()
        self.lock: contextlib.AbstractContextManager[object] = threading.RLock()
        self.nested = False
        self.later: list[Callable[[], object]] = []

    def abandon(self, future: ResponseFuture) -> bool:
        if self.resolved_elsewhere:
            return False
        future._cancel()
        return True

    def is_running(self, future: ResponseFuture) -> bool:
        return self.running

    def check_may_wait(self) -> None:
        self.asked.set()
        if self.own_thread:
            raise StateError("a thread of the pool must not wait")

    def exclusively(self, action: Callable[[], Any]) -> Any:
        with self.lock:
            return action()

    def is_nested(self) -> bool:
        return self.nested

    def call_later(self, call: Callable[[], object]) -> None:
        self.later.append(call)


def new(**kwargs: bool) -> ResponseFuture:
    return ResponseFuture(REQUEST, Pool(**kwargs))


def answered() -> ResponseFuture:
    future = new()
    future._resolve(RESPONSE)
    return future


def failed(exc: BaseException) -> ResponseFuture:
    future = new()
    future._reject(exc)
    return future


def cancelled() -> ResponseFuture:
    future = new()
    future._cancel()
    return future


@contextlib.contextmanager
def meanwhile(*targets: Callable[[], object]) -> Iterator[None]:
    """Run *targets* in threads of their own, which have ended when the block is left."""
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def calls() -> list[Future]:
    """What callbacks were called with."""
    return []


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An event that is set when a thread waits, having told the future so."""
    event = threading.Event()
    wait = future_module._Waiter.wait

    def signalling_wait(self: Any, timeout: float | None) -> None:
        event.set()
        wait(self, timeout)

    monkeypatch.setattr(future_module._Waiter, "wait", signalling_wait)
    return event


class Before:
    """A lock that runs *action* before it is taken for the first time."""

    def __init__(self, lock: Any, action: Callable[[], object]) -> None:
        self.lock = lock
        self.action: Callable[[], object] | None = action

    def __enter__(self) -> None:
        action, self.action = self.action, None
        if action is not None:
            action()
        self.lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.lock.release()
        assert self.action is None, "the action has not been run"


def before_lock_of_owner(future: ResponseFuture, action: Callable[[], object]) -> None:
    owner: Any = future._owner
    owner.lock = Before(owner.lock, action)


def before_lock(future: ResponseFuture, action: Callable[[], object]) -> None:
    observers = future._observe()
    observers.lock = Before(observers.lock, action)  # type: ignore[assignment]


# --- what it says of itself --------------------------------------------------------------------


def test_it_is_a_future_of_the_standard_library() -> None:
    assert isinstance(new(), concurrent.futures.Future)


def test_it_says_which_request_it_is_for() -> None:
    assert new().request is REQUEST


def test_a_new_future_is_neither_done_nor_running() -> None:
    future = new()
    assert (future.done(), future.running(), future.cancelled()) == (False, False, False)


def test_a_future_whose_request_is_under_way_is_running() -> None:
    assert new(running=True).running()


@pytest.mark.parametrize("make", [answered, lambda: failed(ConnectionClosed()), cancelled])
def test_a_future_that_is_done_is_not_running(make: Callable[[], ResponseFuture]) -> None:
    future = make()
    assert future.done()
    assert not future.running()


def test_a_future_that_is_done_gives_its_response() -> None:
    future = answered()
    assert future.result() is future.result(0) is RESPONSE
    assert future.exception() is None
    assert not future.cancelled()


def test_a_failed_future_raises_what_the_request_failed_with() -> None:
    exc = ConnectionClosed("cut")
    future = failed(exc)
    for _ in range(2):
        with pytest.raises(ConnectionClosed) as caught:
            future.result()
        assert caught.value is exc
    assert future.exception(0) is exc
    assert not future.cancelled()


def test_a_cancelled_future_raises_that() -> None:
    future = cancelled()
    assert future.cancelled()
    with pytest.raises(CancelledError):
        future.result()
    with pytest.raises(CancelledError):
        future.exception(0)


@pytest.mark.parametrize(
    ("make", "state"),
    [
        (new, "pending"),
        (lambda: new(running=True), "running"),
        (answered, "finished"),
        (lambda: failed(ConnectionClosed()), "finished"),
        (cancelled, "cancelled"),
    ],
)
def test_the_repr_says_the_state(make: Callable[[], ResponseFuture], state: str) -> None:
    assert repr(make()) == f"<ResponseFuture GET http://h/a {state}>"


@pytest.mark.parametrize("make", [new, answered])
def test_only_the_pool_resolves_it(make: Callable[[], ResponseFuture]) -> None:
    future = make()
    was_done = future.done()
    with pytest.raises(InvalidStateError):
        future.set_result(RESPONSE)
    with pytest.raises(InvalidStateError):
        future.set_exception(ValueError())
    with pytest.raises(InvalidStateError):
        future.set_running_or_notify_cancel()
    assert future.done() == was_done


# --- waiting -----------------------------------------------------------------------------------


def test_a_thread_that_waits_gets_the_response(waiting: threading.Event) -> None:
    future = new()

    def resolve() -> None:
        waiting.wait(10)
        future._resolve(RESPONSE)

    with meanwhile(resolve):
        assert future.result() is RESPONSE


def test_a_thread_that_waits_gets_the_failure(waiting: threading.Event) -> None:
    future = new()

    def reject() -> None:
        waiting.wait(10)
        future._reject(ConnectionClosed("cut"))

    with meanwhile(reject), pytest.raises(ConnectionClosed, match="cut"):
        future.result(10)


@pytest.mark.parametrize("wait", [ResponseFuture.result, ResponseFuture.exception])
def test_a_thread_that_waits_learns_of_a_cancellation(
    waiting: threading.Event, wait: Callable[[ResponseFuture], object]
) -> None:
    future = new()

    def cancel() -> None:
        waiting.wait(10)
        future.cancel()

    with meanwhile(cancel), pytest.raises(CancelledError):
        wait(future)


def test_many_may_wait() -> None:
    future, got = new(), []
    all_here = threading.Barrier(5)

    def wait() -> None:
        all_here.wait(10)
        got.append(future.result(10))

    with meanwhile(wait, wait, wait, wait):
        all_here.wait(10)
        future._resolve(RESPONSE)
    assert got == [RESPONSE] * 4


@pytest.mark.parametrize("timeout", [0, -1, 0.001])
@pytest.mark.parametrize("wait", [ResponseFuture.result, ResponseFuture.exception])
def test_waiting_ends_with_its_time(
    wait: Callable[[ResponseFuture, float], object], timeout: float
) -> None:
    future = new()
    with pytest.raises(TimeoutError, match=r"GET http://h/a.* is not done"):
        wait(future, timeout)
    future._resolve(RESPONSE)
    assert future.result() is RESPONSE


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("wait", [ResponseFuture.result, ResponseFuture.exception])
@pytest.mark.parametrize(
    ("timeout", "error"),
    [
        ("1", TypeError),
        (True, TypeError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        (1e300, ValueError),
    ],
)
def test_a_time_that_cannot_be_waited_is_refused_even_if_there_is_nothing_to_wait_for(
    wait: Callable[[ResponseFuture, Any], object], timeout: Any, error: type[Exception], done: bool
) -> None:
    future = new()
    if done:
        future._resolve(RESPONSE)
    with pytest.raises(error, match="timeout must be"):
        wait(future, timeout)


def test_who_has_given_up_waiting_leaves_nothing_behind() -> None:
    future = new()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            future.result(0.001)
    assert future._waiters == []


def test_a_response_that_comes_as_the_time_ends_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    future = new()
    monkeypatch.setattr(
        future_module._Waiter, "wait", lambda self, timeout: future._resolve(RESPONSE)
    )
    assert future.result(0.001) is RESPONSE


def test_ctrl_c_ends_the_waiting_and_nothing_else(waiting: threading.Event) -> None:
    future = new()

    def interrupt() -> None:
        waiting.wait(10)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]

    with meanwhile(interrupt), pytest.raises(KeyboardInterrupt):
        future.result(10)
    assert future._waiters == []
    future._resolve(RESPONSE)
    assert future.result() is RESPONSE


def test_a_thread_of_the_pool_does_not_wait_for_itself() -> None:
    future = new(own_thread=True)
    with pytest.raises(StateError):
        future.result()
    with pytest.raises(StateError):
        future.exception(1)


def test_a_thread_of_the_pool_may_look() -> None:
    future = new(own_thread=True)
    with pytest.raises(TimeoutError):
        future.result(0)
    future._resolve(RESPONSE)
    assert future.result() is RESPONSE


# --- cancelling --------------------------------------------------------------------------------


@pytest.mark.parametrize("running", [False, True])
def test_cancelling_takes_the_request_out_of_the_pool(running: bool) -> None:
    future = new(running=running)
    assert future.cancel()
    assert future.cancelled()


def test_cancelling_twice_is_cancelling() -> None:
    future = new()
    assert future.cancel()
    assert future.cancel()


@pytest.mark.parametrize("make", [answered, lambda: failed(ConnectionClosed())])
def test_what_is_done_cannot_be_cancelled(make: Callable[[], ResponseFuture]) -> None:
    future = make()
    assert not future.cancel()
    assert not future.cancelled()


@pytest.mark.parametrize("fn", [None, "print", 5])
def test_what_cannot_be_called_back_is_refused_at_once(fn: Any) -> None:
    with pytest.raises(TypeError, match="fn must be callable"):
        new().add_done_callback(fn)


def test_what_is_about_to_be_resolved_cannot_be_cancelled() -> None:
    pool = Pool()
    pool.resolved_elsewhere = True
    future = ResponseFuture(REQUEST, pool)
    assert not future.cancel()
    future._resolve(RESPONSE)
    assert future.result() is RESPONSE


# --- settling, and then running the callbacks --------------------------------------------------

SETTLINGS: dict[str, Callable[[ResponseFuture], bool]] = {
    "response": lambda future: future._settle(RESPONSE),
    "exception": lambda future: future._settle(ConnectionClosed("late")),
    "cancelled": lambda future: future._settle(None),
}


def outcome_of(future: ResponseFuture) -> object:
    try:
        return future.result(0)
    except (ConnectionClosed, CancelledError) as exc:
        return exc if isinstance(exc, ConnectionClosed) else CancelledError


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("later", SETTLINGS.values(), ids=SETTLINGS)
@pytest.mark.parametrize("first", SETTLINGS.values(), ids=SETTLINGS)
def test_the_first_outcome_counts(
    first: Callable[[ResponseFuture], bool],
    later: Callable[[ResponseFuture], bool],
    observed: bool,
) -> None:
    future = new()
    if observed:
        future.add_done_callback(print)
    first(future)
    outcome = outcome_of(future)
    later(future)
    assert outcome_of(future) is outcome


@pytest.mark.parametrize("settle", SETTLINGS.values(), ids=SETTLINGS)
def test_settling_runs_no_callback_and_says_whether_there_are_any(
    settle: Callable[[ResponseFuture], bool], calls: list[Future]
) -> None:
    assert settle(new()) is False
    future = new()
    future.add_done_callback(calls.append)
    assert settle(future) is True
    assert future.done()
    assert calls == []
    assert settle(future) is True  # by a later one, that does not know of the first
    future._run_callbacks()
    future._run_callbacks()
    assert calls == [future]
    assert settle(future) is False


@pytest.mark.parametrize("settle", SETTLINGS.values(), ids=SETTLINGS)
def test_settling_tells_those_that_wait_before_the_callbacks_are_run(
    settle: Callable[[ResponseFuture], bool], waiting: threading.Event, calls: list[Future]
) -> None:
    future = new()
    future.add_done_callback(calls.append)
    got: list[object] = []

    def wait() -> None:
        with contextlib.suppress(CancelledError):
            future.exception(10)
        got.append(future.done())

    with meanwhile(wait):
        assert waiting.wait(10)
        settle(future)
    assert got == [True]
    assert calls == []


def test_a_callback_that_is_added_between_settling_and_running_is_called_at_once(
    calls: list[Future],
) -> None:
    future = new()
    order: list[int] = []
    future.add_done_callback(lambda _: order.append(1))
    future._settle(RESPONSE)
    future.add_done_callback(lambda _: order.append(2))
    assert order == [2]
    future._run_callbacks()
    assert order == [2, 1]


def test_two_threads_that_run_the_callbacks_run_each_of_them_once() -> None:
    future, counts = new(), list[int]()
    for number in range(2000):
        future.add_done_callback(lambda _, number=number: counts.append(number))  # type: ignore[misc]
    future._settle(RESPONSE)
    with meanwhile(future._run_callbacks, future._run_callbacks):
        pass
    assert sorted(counts) == list(range(2000))


def test_callbacks_that_settle_each_other_do_not_nest() -> None:
    futures = [new() for _ in range(5000)]
    ready = [futures[0]]
    for future, following in itertools.pairwise(futures):
        future.add_done_callback(lambda _, f=following: f._settle(RESPONSE) and ready.append(f))  # type: ignore[misc]
    futures[0]._settle(RESPONSE)
    while ready:
        ready.pop()._run_callbacks()
    assert all(future.done() for future in futures)


def test_settling_that_was_interrupted_is_finished_by_the_next(waiting: threading.Event) -> None:
    class Interrupting:
        """A waiter in whose midst Ctrl-C comes."""

        def __init__(self) -> None:
            self.told = 0

        def add_result(self, future: Future) -> None:
            self.told += 1
            if self.told == 1:
                raise KeyboardInterrupt

    future, waiter = new(), Interrupting()
    with meanwhile(lambda: future.result(10)):
        assert waiting.wait(10)
        with future._condition:
            future._waiters.append(waiter)  # type: ignore[arg-type]
        with pytest.raises(KeyboardInterrupt):
            future._settle(RESPONSE)
        future._settle(None)
    assert waiter.told == 2
    assert future.result() is RESPONSE


# --- callbacks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settle",
    [
        lambda future: future._resolve(RESPONSE),
        lambda future: future._reject(ConnectionClosed()),
        lambda future: future._cancel(),
        lambda future: future.cancel(),
    ],
)
def test_callbacks_are_called_in_order_once_it_is_done(
    settle: Callable[[ResponseFuture], object],
) -> None:
    future = new()
    seen: list[tuple[object, ...]] = []
    future.add_done_callback(lambda f: seen.append((1, f, f.done(), threading.get_ident())))
    future.add_done_callback(lambda f: seen.append((2, f, f.done(), threading.get_ident())))
    assert seen == []
    settle(future)
    here = threading.get_ident()
    assert seen == [(1, future, True, here), (2, future, True, here)]


def test_a_callback_that_comes_late_is_called_at_once(calls: list[Future]) -> None:
    future = answered()
    future.add_done_callback(calls.append)
    assert calls == [future]


def test_a_callback_may_add_another(calls: list[Future]) -> None:
    future = new()
    future.add_done_callback(lambda f: f.add_done_callback(calls.append))
    future._resolve(RESPONSE)
    assert calls == [future]


def test_a_callback_that_is_added_twice_is_called_twice(calls: list[Future]) -> None:
    future = new()
    future.add_done_callback(calls.append)
    future.add_done_callback(calls.append)
    future._resolve(RESPONSE)
    assert calls == [future, future]


def fail(future: Future) -> None:
    raise ZeroDivisionError


def test_what_a_callback_raises_is_logged_and_stops_nothing(
    caplog: pytest.LogCaptureFixture, calls: list[Future]
) -> None:
    future = new()
    future.add_done_callback(fail)
    future.add_done_callback(calls.append)
    future._resolve(RESPONSE)
    assert calls == [future]
    [record] = caplog.records
    assert (record.name, record.levelno) == ("concurrent.futures", logging.ERROR)
    assert "<ResponseFuture GET http://h/a finished>" in record.message
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_what_a_late_callback_raises_is_logged_too(caplog: pytest.LogCaptureFixture) -> None:
    answered().add_done_callback(fail)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("exc", [SystemExit, KeyboardInterrupt])
def test_a_callback_cannot_end_a_thread_of_the_pool(
    exc: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    future, survived = new(), threading.Event()

    def leave(_: Future) -> None:
        raise exc

    def resolve() -> None:
        future._resolve(RESPONSE)
        survived.set()

    future.add_done_callback(leave)
    with meanwhile(resolve):
        pass
    assert survived.is_set()
    assert len(caplog.records) == 1


def test_ctrl_c_within_a_callback_belongs_to_the_program() -> None:
    future = new()

    def interrupted(_: Future) -> None:
        raise KeyboardInterrupt

    future.add_done_callback(interrupted)
    with pytest.raises(KeyboardInterrupt):
        future.cancel()
    assert future.cancelled()


# --- the functions of concurrent.futures, and asyncio ------------------------------------------


def test_wait_knows_what_is_done_and_what_is_not() -> None:
    pending = new()
    done = {answered(), failed(ConnectionClosed()), cancelled()}
    result = concurrent.futures.wait({pending} | done, timeout=0)
    assert result.done == done
    assert result.not_done == {pending}
    assert pending._waiters == []


@pytest.mark.parametrize(
    ("when", "number"), [("FIRST_COMPLETED", 1), ("FIRST_EXCEPTION", 2), ("ALL_COMPLETED", 4)]
)
def test_wait_ends_when_it_should(when: str, number: int) -> None:
    futures = [new() for _ in range(4)]
    steps: list[Callable[[], object]] = [
        lambda: futures[0]._resolve(RESPONSE),
        lambda: futures[1]._reject(ConnectionClosed()),
        lambda: futures[2]._cancel(),
        lambda: futures[3]._resolve(RESPONSE),
    ]

    # wait() sleeps on an event that the waiter has; the next step is taken when it goes to sleep.
    def step(event: threading.Event, timeout: float | None = None) -> bool:
        while not event.is_set():
            steps.pop(0)()
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Event, "wait", step)
        done, not_done = concurrent.futures.wait(futures, return_when=when)
    assert done == set(futures[:number])
    assert not_done == set(futures[number:])
    assert len(steps) == 4 - number


def test_wait_does_not_wait_for_what_is_done() -> None:
    futures = [answered(), cancelled()]
    assert concurrent.futures.wait(futures).done == set(futures)


def test_as_completed_gives_them_as_they_are_done() -> None:
    futures = [new() for _ in range(4)]
    futures[2]._resolve(RESPONSE)
    order = concurrent.futures.as_completed(futures)
    assert next(order) is futures[2]
    futures[3]._cancel()
    assert next(order) is futures[3]
    futures[0]._reject(ConnectionClosed())
    assert next(order) is futures[0]
    futures[1]._resolve(RESPONSE)
    assert next(order) is futures[1]
    assert list(order) == []


def test_as_completed_can_be_given_up() -> None:
    future = new()
    with pytest.raises(TimeoutError):
        list(concurrent.futures.as_completed([future], timeout=0.001))
    assert future._waiters == []


def test_it_may_be_waited_for_together_with_other_futures() -> None:
    other: Future = concurrent.futures.Future()
    future = answered()
    other.set_result(None)
    assert concurrent.futures.wait([future, other]).done == {future, other}


@pytest.mark.parametrize("first", [False, True], ids=["later", "at once"])
def test_a_coroutine_can_await_it(first: bool) -> None:
    future = answered() if first else new()

    async def main() -> Response:
        wrapped = asyncio.wrap_future(future)
        if not first:
            threads.enter_context(meanwhile(lambda: future._resolve(RESPONSE)))
        return await wrapped

    with contextlib.ExitStack() as threads:
        assert asyncio.run(main()) is RESPONSE


def test_a_coroutine_gets_the_failure() -> None:
    async def main() -> None:
        await asyncio.wrap_future(failed(ConnectionClosed("cut")))

    with pytest.raises(ConnectionClosed, match="cut"):
        asyncio.run(main())


def test_cancelling_a_coroutine_cancels_the_request() -> None:
    future = new()

    async def main() -> None:
        async with asyncio.timeout(0):
            await asyncio.wrap_future(future)

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert future.cancelled()


def test_cancelling_the_request_cancels_the_coroutine() -> None:
    future = new()

    async def main() -> None:
        wrapped = asyncio.wrap_future(future)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wrapped

    asyncio.run(main())


# --- races -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settle",
    [
        lambda future: future._resolve(RESPONSE),
        lambda future: future._reject(ConnectionClosed()),
        lambda future: future._cancel(),
    ],
)
class TestAnInterleavingOf:
    """Each pair of steps that may meet, one of them in the midst of the other."""

    def test_adding_a_callback_just_before_the_future_settles_without_observers(
        self, settle: Callable[[ResponseFuture], object], calls: list[Future]
    ) -> None:
        future = new()
        before_lock_of_owner(future, lambda: future.add_done_callback(calls.append))
        settle(future)
        assert calls == [future]

    def test_settling_just_before_a_callback_brings_observers(
        self, settle: Callable[[ResponseFuture], object], calls: list[Future]
    ) -> None:
        future = new()
        before_lock_of_owner(future, lambda: settle(future))
        future.add_done_callback(calls.append)
        assert calls == [future]

    def test_adding_a_callback_just_before_the_observers_are_told(
        self, settle: Callable[[ResponseFuture], object], calls: list[Future]
    ) -> None:
        future = new()
        before_lock(future, lambda: future.add_done_callback(calls.append))
        settle(future)
        assert calls == [future]

    def test_settling_just_before_a_callback_is_listed(
        self, settle: Callable[[ResponseFuture], object], calls: list[Future]
    ) -> None:
        future = new()
        before_lock(future, lambda: settle(future))
        future.add_done_callback(calls.append)
        assert calls == [future]

    def test_settling_just_before_waiting_brings_observers(
        self, settle: Callable[[ResponseFuture], object]
    ) -> None:
        future = new()
        before_lock_of_owner(future, lambda: settle(future))
        with contextlib.suppress(CancelledError):
            assert isinstance(future.exception(), ConnectionClosed | None)
        assert future.done()

    @pytest.mark.parametrize("hook", [before_lock_of_owner, before_lock])
    def test_another_outcome_while_it_is_settled(
        self,
        settle: Callable[[ResponseFuture], object],
        hook: Callable[[ResponseFuture, Callable[[], object]], None],
        calls: list[Future],
    ) -> None:
        future = new()
        seen: list[object] = []

        def settle_otherwise() -> None:
            future._settle(RESPONSE)
            seen.append((future.done(), future.cancelled(), outcome_of(future)))

        hook(future, settle_otherwise)
        settle(future)
        # What the first of them has seen is so for ever.
        assert seen == [(True, future.cancelled(), outcome_of(future))]

    def test_settling_just_before_the_waiter_is_listed(
        self, settle: Callable[[ResponseFuture], object]
    ) -> None:
        future = new()
        before_lock(future, lambda: settle(future))
        with contextlib.suppress(CancelledError):
            assert isinstance(future.exception(), ConnectionClosed | None)
        assert future.done()

    def test_settling_while_the_caller_makes_up_its_mind_to_wait(
        self, settle: Callable[[ResponseFuture], object]
    ) -> None:
        pool = Pool()
        future = ResponseFuture(REQUEST, pool)
        pool.check_may_wait = lambda: settle(future)  # type: ignore[method-assign,assignment]
        with contextlib.suppress(CancelledError):
            assert isinstance(future.exception(), ConnectionClosed | None)
        assert future.done()

    def test_settling_while_wait_looks_at_the_state_twice(
        self, settle: Callable[[ResponseFuture], object]
    ) -> None:
        # If the state changed under the eyes of wait(), it would wait for ever.
        future, at_lock = new(), threading.Event()
        lock = future._condition
        before_lock(future, at_lock.set)
        lock.acquire()
        with meanwhile(lambda: settle(future)):
            assert at_lock.wait(10)
            done = future.done()
            lock.release()
        assert not done
        assert future.done()


def test_two_who_ask_first_share_the_observers() -> None:
    future, other = new(), []
    before_lock_of_owner(future, lambda: other.append(future._condition))
    assert [future._condition] == other


def test_a_callback_added_by_a_signal_handler_while_one_is_added_is_called(
    calls: list[Future],
) -> None:
    future = new()
    with future._condition:
        future.add_done_callback(calls.append)
    future._resolve(RESPONSE)
    assert calls == [future]


def test_a_callback_added_by_a_thread_that_has_the_lock_of_the_owner_is_added_later(
    calls: list[Future],
) -> None:
    pool = Pool()
    future = ResponseFuture(REQUEST, pool)
    pool.nested = True
    future.add_done_callback(calls.append)
    pool.nested = False
    assert future.__dict__ == {}  # the lock of no observers was taken
    future._resolve(RESPONSE)
    assert calls == []
    for call in pool.later:
        call()
    assert calls == [future]


def test_a_thread_that_has_the_lock_of_the_owner_cannot_take_hold_of_the_condition() -> None:
    pool = Pool()
    future = ResponseFuture(REQUEST, pool)
    pool.nested = True
    with pytest.raises(StateError, match="in the middle of a change"):
        concurrent.futures.wait([future], 10)
    future._settle(RESPONSE)
    assert concurrent.futures.wait([future], 10).done == {future}  # for which it needs no lock


def test_a_generator_of_the_standard_library_can_be_closed_by_a_thread_that_has_the_lock(
    calls: list[Future],
) -> None:
    pool = Pool()
    futures = [ResponseFuture(REQUEST, pool), ResponseFuture(REQUEST, pool)]
    order = concurrent.futures.as_completed(futures)
    futures[0]._resolve(RESPONSE)
    assert next(order) is futures[0]
    pool.nested = True
    order.close()  # type: ignore[attr-defined]  # it is a generator
    pool.nested = False
    assert futures[1]._waiters == []


def test_attributes_of_the_caller_do_no_harm_and_survive_a_fork() -> None:
    future: Any = new()
    future.observers = "mine"
    future.add_done_callback(print)
    future._forget_observers()
    assert future.observers == "mine"
    with pytest.raises(TimeoutError):
        future.result(0.001)


class Race(Pool):
    """An owner that one thread asks to cancel, while another one responds."""

    def __init__(self) -> None:
        super().__init__()
        self.future = ResponseFuture(REQUEST, self)
        self.start = threading.Barrier(3)
        self.turn = threading.Lock()
        self.was_cancelled: bool | None = None

    def abandon(self, future: ResponseFuture) -> bool:
        return self.turn.acquire(blocking=False) and super().abandon(future)

    def cancel(self) -> None:
        self.start.wait(10)
        self.was_cancelled = self.future.cancel()

    def respond(self) -> None:
        self.start.wait(10)
        if self.turn.acquire(blocking=False):
            self.future._resolve(RESPONSE)


def test_cancelling_and_responding_at_once_has_one_outcome() -> None:
    for _ in range(200):
        race, calls = Race(), list[Future]()
        with meanwhile(race.cancel, race.respond):
            race.start.wait(10)
            race.future.add_done_callback(calls.append)
            assert concurrent.futures.wait([race.future], 10).done == {race.future}
        assert race.was_cancelled is race.future.cancelled()
        assert calls == [race.future]


def test_everybody_asks_while_it_is_resolved() -> None:
    futures = [new() for _ in range(300)]
    results: list[Response] = []
    calls: list[Future] = []
    start = threading.Barrier(5)

    def resolve() -> None:
        start.wait(10)
        for future in futures:
            future._resolve(RESPONSE)

    def ask() -> None:
        start.wait(10)
        results.extend(future.result(10) for future in futures)

    def add() -> None:
        start.wait(10)
        for future in futures:
            future.add_done_callback(calls.append)

    def gather() -> None:
        start.wait(10)
        results.extend(f.result() for f in concurrent.futures.as_completed(futures, 10))

    with meanwhile(resolve, ask, add, gather):
        start.wait(10)
        assert concurrent.futures.wait(futures, 10).not_done == set()
    assert results == [RESPONSE] * 600
    assert sorted(map(id, calls)) == sorted(map(id, futures))


# --- life --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settle",
    [
        lambda future: future._resolve(RESPONSE),
        lambda future: future._reject(ConnectionClosed()),
        lambda future: future._cancel(),
    ],
)
def test_a_future_that_is_done_keeps_no_pool_alive(
    settle: Callable[[ResponseFuture], object],
) -> None:
    pool = Pool()
    future, alive = ResponseFuture(REQUEST, pool), weakref.ref(pool)
    settle(future)
    del pool
    assert alive() is None


def test_an_unresolved_future_may_be_forgotten() -> None:
    future = new()
    future.add_done_callback(print)
    alive = weakref.ref(future)
    del future
    assert alive() is None


def test_a_failure_that_was_raised_does_not_keep_its_future_alive() -> None:
    future = failed(ConnectionClosed())
    alive = weakref.ref(future)
    with contextlib.suppress(ConnectionClosed):
        future.result()
    del future
    assert alive() is None


def test_a_callback_that_was_called_is_forgotten() -> None:
    class Callback:
        def __call__(self, _: Future) -> None: ...

    callback, future = Callback(), new()
    alive = weakref.ref(callback)
    future.add_done_callback(callback)
    future._resolve(RESPONSE)
    del callback
    assert alive() is None


def test_in_a_forked_child_a_future_can_be_settled_whatever_the_parent_was_at() -> None:
    future, calls = new(), list[Future]()
    future.add_done_callback(calls.append)

    def settle() -> bool:
        future._forget_observers()
        return future._settle(RESPONSE) is False and future.result(0) is RESPONSE

    taken, release = threading.Event(), threading.Event()

    def hold() -> None:
        with future._condition:
            taken.set()
            release.wait(10)

    with meanwhile(hold):
        assert taken.wait(10)
        in_child = holds_in_child(settle)
        release.set()
    assert in_child
    assert not future.done()


def test_a_waiting_future_takes_little_memory() -> None:
    pool = Pool()
    futures = [ResponseFuture(REQUEST, pool) for _ in range(1000)]
    tracemalloc.start()
    try:
        futures = [ResponseFuture(REQUEST, pool) for _ in range(1000)]
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size / len(futures) < 250
