"""`RetryPolicy.should_retry`: what it is asked about, what it may do, and what it decides."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any

import pytest

from dugong import (
    Attempt,
    ConnectionClosed,
    ConnectionPool,
    ConnectionTimedOut,
    Delivery,
    PoolClosed,
    Request,
    Response,
    RetryPolicy,
    StateError,
)
from tests.support.byhand import HandServer, settle, submit_first, warm_up
from tests.support.clock import StoppedClock
from tests.support.fork import holds_in_child
from tests.support.pool import each, get_and_be_idle, name_target, open_site, wait_for
from tests.support.refusing import (
    UNAVAILABLE,
    Refusing,
    dies,
    error_of,
    one_connection,
    text_of,
)
from tests.support.server import TIMEOUT


class Hook:
    """A `RetryPolicy.should_retry` that takes as long as the test wants, then says *verdict*."""

    def __init__(self, verdict: bool = True) -> None:
        self.asked = threading.Event()
        self.go_on = threading.Event()
        self.attempts: list[Attempt] = []
        self._verdict = verdict

    def __call__(self, attempt: Attempt) -> bool:
        self.attempts.append(attempt)
        self.asked.set()
        wait_for(self.go_on)
        return self._verdict


def submit_and_wait(pool: ConnectionPool, url: str) -> Response:
    return pool.submit("GET", url).result(TIMEOUT)


def test_the_hook_is_shown_what_has_failed() -> None:
    shown: list[Attempt] = []

    def should_retry(attempt: Attempt) -> bool:
        shown.append(attempt)
        return True

    script = Refusing(UNAVAILABLE)
    with open_site(script, retry=RetryPolicy(backoff=0, should_retry=should_retry)) as here:
        request = Request("GET", here.url("/a"))
        response = here.pool.request(request)
    (attempt,) = shown
    assert attempt.request is request
    assert attempt.response is not None
    assert (attempt.response.status, attempt.response.body) == (503, b"refused")
    assert (attempt.status, attempt.number, attempt.exception) == (503, 1, None)
    assert response.attempts == (attempt._replace(request=None, response=None),)


def test_the_hook_is_shown_the_exception() -> None:
    shown: list[Attempt] = []

    def should_retry(attempt: Attempt) -> bool:
        shown.append(attempt)
        return False

    with open_site(dies, retry=RetryPolicy(should_retry=should_retry)) as here:
        request = Request("GET", here.url("/a"))
        with pytest.raises(ConnectionClosed) as caught:
            here.pool.request(request)
    (attempt,) = shown
    assert attempt.exception is caught.value
    assert attempt.request is request
    assert attempt.response is None
    assert caught.value.attempts == ()


def test_the_hook_has_the_last_word_against_another_attempt() -> None:
    script = Refusing(UNAVAILABLE, UNAVAILABLE, UNAVAILABLE)
    policy = RetryPolicy(backoff=0, should_retry=lambda attempt: attempt.number < 2)
    with open_site(script, retry=policy) as here:
        response = here.pool.get(here.url("/a"))
    assert response.status == 503
    assert [attempt.number for attempt in response.attempts] == [1]
    assert len(script.requests) == 2


@pytest.mark.parametrize(
    ("method", "status", "attempts"),
    [("POST", UNAVAILABLE, 6), ("GET", "404 Not Found", 6), ("GET", UNAVAILABLE, 1)],
)
def test_the_hook_is_not_asked_about_what_would_not_be_tried_again_anyway(
    method: str, status: str, attempts: int
) -> None:
    asked: list[Attempt] = []

    def should_retry(attempt: Attempt) -> bool:
        asked.append(attempt)
        return True

    script = Refusing(status)
    policy = RetryPolicy(attempts=attempts, backoff=0, should_retry=should_retry)
    with open_site(script, retry=policy) as here:
        assert here.pool.request(method, here.url()).status == int(status[:3])
    assert asked == []


def test_the_hook_is_not_asked_about_those_that_stood_behind(server: HandServer) -> None:
    asked: list[str] = []

    def should_retry(attempt: Attempt) -> bool:
        assert attempt.request is not None
        asked.append(attempt.request.target)
        return False

    with one_connection(RetryPolicy(should_retry=should_retry)) as pool:
        peer = warm_up(pool, server)
        first, second = [pool.submit("GET", server.url(target)) for target in ("/a", "/b")]
        assert peer.targets(2) == ["/a", "/b"]
        peer.close()
        assert isinstance(error_of(first), ConnectionClosed)
        peer = server.accept()
        assert peer.burst() == ["/b"]
        peer.responds("/b")
        assert text_of(second) == "/b"
    assert asked == ["/a"]


@pytest.mark.parametrize("error", [ValueError("no"), ConnectionClosed("no"), OSError("no")])
@pytest.mark.parametrize("how", ["get", "submit"])
def test_what_the_hook_raises_is_what_the_caller_gets(error: Exception, how: str) -> None:
    def should_retry(attempt: Attempt) -> bool:
        raise error

    script = Refusing(UNAVAILABLE)
    with open_site(script, retry=RetryPolicy(should_retry=should_retry)) as here:
        assert here.pool.get(here.url("/a"), retry=None).status == 503
        script.refuse(UNAVAILABLE)
        ask = here.pool.get if how == "get" else partial(submit_and_wait, here.pool)
        with pytest.raises(type(error), match="no") as caught:
            ask(here.url("/a"))
        assert caught.value.attempts == ()  # type: ignore[attr-defined]
        assert caught.value.delivery is Delivery.ANSWER_STARTED  # type: ignore[attr-defined]
        assert here.goes_on()


def test_a_hook_that_raises_what_ends_a_thread_leaves_no_future_unresolved() -> None:
    def should_retry(attempt: Attempt) -> bool:
        raise SystemExit

    with open_site(Refusing(UNAVAILABLE), retry=RetryPolicy(should_retry=should_retry)) as here:
        future = here.pool.submit("GET", here.url("/a"))
        assert isinstance(future.exception(TIMEOUT), RuntimeError)
        assert here.goes_on()


def test_what_the_hook_raises_does_not_keep_the_pool() -> None:
    def should_retry(attempt: Attempt) -> bool:
        raise ValueError("no")

    script = Refusing(UNAVAILABLE)
    with open_site(script, retry=RetryPolicy(should_retry=should_retry)) as here:
        error = here.pool.submit("GET", here.url("/a")).exception(TIMEOUT)
        assert error is not None
        frames = error.__traceback__
        assert frames is not None
        assert frames.tb_frame.f_code is should_retry.__code__
        assert frames.tb_next is None


def test_a_hook_may_submit_but_not_wait() -> None:
    others: list[Future[Response]] = []

    def should_retry(attempt: Attempt) -> bool:
        others.append(here.pool.submit("GET", here.url("/other")))
        here.pool.get(here.url("/waits"))
        return True

    script = Refusing(UNAVAILABLE)
    with open_site(script, retry=RetryPolicy(backoff=0, should_retry=should_retry)) as here:
        error = error_of(here.pool.submit("GET", here.url("/a")))
        assert isinstance(error, StateError)
        assert text_of(others[0]) == "/other"


def test_a_hook_is_asked_in_a_thread_of_the_pool_also_for_a_blocking_request() -> None:
    threads: list[threading.Thread] = []

    def should_retry(attempt: Attempt) -> bool:
        threads.append(threading.current_thread())
        return True

    policy = RetryPolicy(backoff=0, should_retry=should_retry)
    with open_site(
        Refusing("200 OK", UNAVAILABLE), max_connections_per_host=1, retry=policy
    ) as here:
        get_and_be_idle(here.pool, here.url("/warm"))
        assert here.pool.get(here.url("/a")).text == "/a"
        assert here.pool.statistics().opened == 1
    (thread,) = threads
    assert thread.name.startswith("dugong-")


def test_a_hook_may_close_the_pool() -> None:
    def should_retry(attempt: Attempt) -> bool:
        here.pool.close()
        return True

    script = Refusing(UNAVAILABLE)
    with open_site(script, retry=RetryPolicy(backoff=0, should_retry=should_retry)) as here:
        assert isinstance(error_of(here.pool.submit("GET", here.url("/a"))), PoolClosed)


def test_a_hook_may_cancel_what_it_is_asked_about(server: HandServer) -> None:
    futures: list[Future[Response]] = []

    def should_retry(attempt: Attempt) -> bool:
        assert futures[0].cancel()
        return True

    with one_connection(RetryPolicy(backoff=0, should_retry=should_retry)) as pool:
        futures.append(pool.submit("GET", server.url("/a")))
        peer = server.accept()
        assert peer.burst() == ["/a"]
        peer.respond(b"", UNAVAILABLE)
        with pytest.raises(CancelledError):
            futures[0].result(TIMEOUT)
        other = pool.submit("GET", server.url("/b"))
        assert peer.burst() == ["/b"]
        peer.responds("/b")
        assert text_of(other) == "/b"


def ask_about(
    pool: ConnectionPool, server: HandServer, hook: Hook, **options: Any
) -> Future[Response]:
    """Return the future of a request that *hook* is being asked about."""
    peer, future = submit_first(pool, server, "GET", "/a", **options)
    peer.respond(b"", UNAVAILABLE)
    wait_for(hook.asked)
    return future


def test_others_go_on_while_the_hook_is_asked(server: HandServer) -> None:
    hook = Hook()
    policy = RetryPolicy(backoff=0, should_retry=hook)
    with open_site(each(name_target)) as there, one_connection(policy) as pool:
        future = ask_about(pool, server, hook)
        assert pool.statistics().waiting == 1
        assert pool.get(there.url("/b")).text == "/b"
        assert not future.done()
        hook.go_on.set()
        peer = server._peers[0]
        assert peer.burst() == ["/a"]
        peer.responds("/a")
        assert text_of(future) == "/a"


@pytest.mark.parametrize("verdict", [True, False])
def test_cancel_ends_it_while_the_hook_is_asked(server: HandServer, verdict: bool) -> None:
    hook = Hook(verdict)
    with one_connection(RetryPolicy(backoff=0, should_retry=hook)) as pool:
        future = ask_about(pool, server, hook)
        assert future.cancel()
        assert future.cancelled()
        assert pool.statistics().waiting == 0
        hook.go_on.set()
        settle(pool)
        assert pool.statistics().queued == 0


@pytest.mark.parametrize("verdict", [True, False])
def test_close_ends_it_while_the_hook_is_asked(server: HandServer, verdict: bool) -> None:
    """And says that it has been sent: the response in question counts."""
    hook = Hook(verdict)
    pool = one_connection(RetryPolicy(backoff=0, should_retry=hook))
    future = ask_about(pool, server, hook)
    future.add_done_callback(lambda future: hook.go_on.set())
    pool.close()
    error = error_of(future)
    assert isinstance(error, PoolClosed)
    assert error.delivery is Delivery.ANSWER_STARTED
    assert [attempt.status for attempt in error.attempts] == [503]


@pytest.mark.parametrize("verdict", [True, False])
def test_the_deadline_ends_it_while_the_hook_is_asked(
    server: HandServer, clock: StoppedClock, verdict: bool
) -> None:
    hook = Hook(verdict)
    with one_connection(RetryPolicy(backoff=0, should_retry=hook)) as pool:
        future = ask_about(pool, server, hook, deadline=5)
        clock.forward(pool, 5)
        error = error_of(future)
        hook.go_on.set()
        assert pool.statistics().waiting == 0
    assert isinstance(error, ConnectionTimedOut)
    assert error.delivery is Delivery.ANSWER_STARTED
    assert [attempt.status for attempt in error.attempts] == [503]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_what_the_hook_is_asked_about_is_over_in_a_forked_child(server: HandServer) -> None:
    hook = Hook()
    with one_connection(RetryPolicy(backoff=0, should_retry=hook)) as pool:
        future = ask_about(pool, server, hook)
        assert holds_in_child(lambda: isinstance(future.exception(5), PoolClosed))
        hook.go_on.set()
        assert not future.done()
