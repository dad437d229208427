"""What becomes of requests that have failed: what is sent again, how often, when, and what the
caller gets in the end. That a host is left alone is the matter of test_holding and test_outage.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import weakref
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

from dugong import (
    Attempt,
    ConnectError,
    ConnectionClosed,
    ConnectionPool,
    ConnectionTimedOut,
    Delivery,
    InvalidResponse,
    PoolClosed,
    Request,
    Response,
    RetryPolicy,
)
from tests.support.byhand import HandServer, settle, submit_first, warm_up
from tests.support.clock import Listener, StoppedClock, no_luck
from tests.support.fork import holds_in_child
from tests.support.pool import each, name_target, open_site
from tests.support.refusing import (
    AT_ONCE,
    FOR_EVER,
    SLOW,
    TOO_MANY,
    UNAVAILABLE,
    Refusing,
    dies,
    error_of,
    one_connection,
    text_of,
)
from tests.support.server import TIMEOUT, Peer, ReceivedRequest

# --- which responses are worth another attempt ----------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_get_is_tried_again_if_the_status_is_one_that_may_pass(status: int) -> None:
    script = Refusing(f"{status} For Now")
    with open_site(script, retry=AT_ONCE) as here:
        response = here.pool.get(here.url("/a"))
    assert (response.status, response.text) == (200, "/a")
    assert [attempt.status for attempt in response.attempts] == [status]
    assert len(script.requests) == 2


@pytest.mark.parametrize("status", [304, 400, 404, 501, 505, 507])
def test_a_get_is_not_tried_again_if_the_status_is_another(status: int) -> None:
    script = Refusing(f"{status} For Good")
    with open_site(script, retry=AT_ONCE) as here:
        response = here.pool.get(here.url("/a"))
    assert response.status == status
    assert response.attempts == ()
    assert len(script.requests) == 1


def test_the_policy_says_which_statuses_may_pass() -> None:
    script = Refusing("418 I Am A Teapot", UNAVAILABLE)
    with open_site(script, retry=RetryPolicy(backoff=0, statuses={418})) as here:
        response = here.pool.get(here.url("/a"))
    assert response.status == 503
    assert [attempt.status for attempt in response.attempts] == [418]


@pytest.mark.parametrize(
    ("method", "status", "options", "count"),
    [
        ("POST", UNAVAILABLE, {}, 1),
        ("POST", "500 Oh", {}, 1),
        ("POST", "408 Too Slow", {}, 1),
        ("POST", UNAVAILABLE, {"idempotent": True}, 2),
        ("POST", UNAVAILABLE, {"headers": {"Idempotency-Key": '"1"'}}, 2),
        ("POST", UNAVAILABLE, {"headers": [("IDEMPOTENCY-KEY", '"1"')]}, 2),
        ("POST", UNAVAILABLE, {"headers": {"idempotency-key": '"1"'}, "idempotent": False}, 1),
        ("POST", TOO_MANY, {}, 2),
        ("POST", "425 Too Early", {}, 2),
        ("PATCH", UNAVAILABLE, {}, 1),
        ("PUT", UNAVAILABLE, {}, 2),
        ("DELETE", UNAVAILABLE, {}, 2),
        ("OPTIONS", UNAVAILABLE, {}, 2),
        ("GET", UNAVAILABLE, {"idempotent": False}, 1),
        ("GET", TOO_MANY, {"idempotent": False}, 2),
        ("PROPFIND", UNAVAILABLE, {}, 1),
        ("PROPFIND", UNAVAILABLE, {"retry": RetryPolicy(backoff=0, methods={"PROPFIND"})}, 2),
        ("GET", UNAVAILABLE, {"retry": RetryPolicy(backoff=0, methods={"PROPFIND"})}, 1),
        ("POST", UNAVAILABLE, {"retry": RetryPolicy(backoff=0, methods={"POST"})}, 2),
        (
            "POST",
            UNAVAILABLE,
            {"retry": RetryPolicy(backoff=0, methods={"POST"}), "idempotent": False},
            1,
        ),
        ("GET", TOO_MANY, {"retry": RetryPolicy(backoff=0, methods=set())}, 2),
    ],
)
def test_what_may_have_been_processed_is_only_sent_again_if_that_does_no_harm(
    method: str, status: str, options: dict[str, Any], count: int
) -> None:
    script = Refusing(status)
    with open_site(script, retry=AT_ONCE) as here:
        response = here.pool.request(method, here.url("/a"), **options)
        assert here.goes_on()
    assert response.status == (200 if count == 2 else int(status[:3]))
    assert len(response.attempts) == count - 1
    assert [request.method for request in script.requests[:-1]] == [method] * count


@pytest.mark.parametrize("how", ["request", "submit", "stream"])
def test_when_the_attempts_have_been_made_the_last_response_is_what_the_caller_gets(
    how: str,
) -> None:
    script = Refusing("500 First", "502 Second", "503 Third", "504 Fourth")
    with open_site(script, retry=RetryPolicy(attempts=3, backoff=0)) as here:
        response: Any
        if how == "stream":
            with here.pool.stream("GET", here.url("/a")) as response:
                body = response.read()
        else:
            if how == "request":
                response = here.pool.get(here.url("/a"))
            else:
                response = here.pool.submit("GET", here.url("/a")).result(TIMEOUT)
            body = response.body
    assert (response.status, response.reason, body) == (503, "Third", b"refused")
    assert [(attempt.number, attempt.status) for attempt in response.attempts] == [
        (1, 500),
        (2, 502),
    ]
    assert len(script.requests) == 3


def test_there_are_six_attempts_by_default() -> None:
    script = Refusing(*[UNAVAILABLE] * 9)
    with open_site(script, retry=AT_ONCE) as here:
        assert here.pool.get(here.url("/a")).status == 503
    assert len(script.requests) == 6


# --- what attempts tell ---------------------------------------------------------------------------


def test_an_attempt_that_was_refused_says_by_what_and_where() -> None:
    with open_site(Refusing(UNAVAILABLE, TOO_MANY), retry=AT_ONCE) as here:
        response = here.pool.get(here.url("/a"))
        name = f"{here.server.host}:{here.server.port}-1"
    first, second = response.attempts
    assert first == Attempt(
        first.when, name, UNAVAILABLE, Delivery.ANSWER_STARTED, 1, True, 503, None, None, None
    )
    assert second == Attempt(
        second.when, name, TOO_MANY, Delivery.DISCLAIMED, 2, True, 429, None, None, None
    )
    assert first.when <= second.when


def test_an_attempt_that_has_failed_says_why_and_how_far_it_had_got() -> None:
    with open_site(dies, dies, each(name_target), retry=AT_ONCE) as here:
        response = here.pool.get(here.url("/a"))
        names = [f"{here.server.host}:{here.server.port}-{i}" for i in (1, 2)]
    assert [attempt.connection for attempt in response.attempts] == names
    for number, attempt in enumerate(response.attempts, start=1):
        assert isinstance(attempt.exception, ConnectionClosed)
        assert attempt.outcome == attempt.exception.msg
        assert (attempt.delivery, attempt.number, attempt.charged) == (Delivery.SENT, number, True)
        assert (attempt.status, attempt.response, attempt.request) == (None, None, None)


def test_an_exception_has_the_earlier_attempts_and_is_the_last_itself() -> None:
    def talks_nonsense(peer: Peer) -> None:
        peer.request()
        peer.send(b"SSH-2.0-server\r\n")
        peer.until_eof()

    refuses = Refusing(*[UNAVAILABLE] * 9)

    def refuses_and_dies(peer: Peer) -> None:
        refuses.respond(peer, peer.request())
        dies(peer)

    policy = RetryPolicy(attempts=3, backoff=0)
    with (
        open_site(refuses_and_dies, talks_nonsense, retry=policy) as here,
        pytest.raises(InvalidResponse) as caught,
    ):
        here.pool.get(here.url("/a"))
    attempts = caught.value.attempts
    assert [(attempt.number, attempt.status) for attempt in attempts] == [(1, 503), (2, None)]
    assert isinstance(attempts[1].exception, ConnectionClosed)
    assert caught.value.delivery is Delivery.ANSWER_STARTED


def test_attempts_are_no_others() -> None:
    """Each request has its own, also those that stood behind each other."""
    with one_connection(AT_ONCE) as pool, HandServer() as server:
        peer = warm_up(pool, server)
        futures = [pool.submit("GET", server.url(target)) for target in ("/a", "/b", "/c")]
        assert peer.targets(3) == ["/a", "/b", "/c"]
        peer.responds("/a")
        peer.close()
        peer = server.accept()
        for target in ("/b", "/c"):
            assert peer.burst() == [target]
            peer.responds(target)
        charged = [
            [attempt.charged for attempt in future.result(TIMEOUT).attempts] for future in futures
        ]
    assert charged == [[], [True], [False]]


def test_the_verdict_on_an_exception_is_that_of_all_attempts() -> None:
    """A later attempt that did not get far does not unsend the first."""

    def dies_later(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200")
        peer.reset()

    with (
        open_site(dies_later, dies, retry=RetryPolicy(attempts=2, backoff=0)) as here,
        pytest.raises(ConnectionClosed) as caught,
    ):
        here.pool.get(here.url())
    assert caught.value.delivery is Delivery.ANSWER_STARTED


def test_what_was_sent_once_and_refused_does_not_count_as_unsent() -> None:
    with HandServer() as server, one_connection(RetryPolicy(attempts=2, backoff=0)) as pool:
        future = pool.submit("POST", server.url())
        peer = server.accept()
        peer.request()
        server._listener.close()
        peer.respond(b"", TOO_MANY, headers="Connection: close\r\n")
        error = error_of(future)
    assert isinstance(error, ConnectError)
    assert error.delivery is Delivery.DISCLAIMED  # type: ignore[attr-defined]


# --- whose policy it is ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pools", "requests", "count"),
    [
        (AT_ONCE, None, 1),
        (None, AT_ONCE, 3),
        (AT_ONCE, RetryPolicy(attempts=2, backoff=0), 2),
        (RetryPolicy.never, AT_ONCE, 3),
        (AT_ONCE, RetryPolicy.never, 1),
    ],
)
@pytest.mark.parametrize("how", ["get", "submit", "stream", "Request"])
def test_the_policy_of_a_request_counts_and_not_that_of_the_pool(
    pools: RetryPolicy | None, requests: RetryPolicy | None, count: int, how: str
) -> None:
    script = Refusing(UNAVAILABLE, UNAVAILABLE)
    with open_site(script, retry=pools) as here:
        if how == "get":
            here.pool.get(here.url(), retry=requests)
        elif how == "submit":
            here.pool.submit("GET", here.url(), retry=requests).result(TIMEOUT)
        elif how == "Request":
            here.pool.request(Request("GET", here.url(), retry=requests))
        else:
            with here.pool.stream("GET", here.url(), retry=requests) as response:
                response.read()
    assert len(script.requests) == count


def test_without_a_policy_a_request_is_on_the_wire_once() -> None:
    with open_site(dies, each(name_target), retry=None) as here:
        with pytest.raises(ConnectionClosed) as caught:
            here.pool.get(here.url())
        assert caught.value.attempts == ()
        assert here.goes_on()


def test_without_a_policy_not_even_what_stood_behind_is_sent_again(server: HandServer) -> None:
    with one_connection(None) as pool:
        peer = warm_up(pool, server)
        futures = [pool.submit("GET", server.url(target)) for target in ("/a", "/b")]
        assert peer.targets(2) == ["/a", "/b"]
        peer.close()
        for future in futures:
            error = error_of(future)
            assert isinstance(error, ConnectionClosed)
            assert error.delivery is Delivery.SENT
        settle(pool)
        assert server.is_left_alone()


def test_without_a_policy_a_request_survives_an_idle_connection_that_was_closed(
    server: HandServer,
) -> None:
    with one_connection(None) as pool:
        peer = warm_up(pool, server)
        settle(pool)
        peer.close()
        peer, future = submit_first(pool, server, "POST", "/a")
        peer.responds("/a")
        assert text_of(future) == "/a"


def test_each_request_is_judged_by_its_own_policy(server: HandServer) -> None:
    with one_connection(AT_ONCE) as pool:
        peer = warm_up(pool, server, 5)
        policies = [AT_ONCE, None, AT_ONCE]
        futures = [
            pool.submit("GET", server.url(f"/{i}"), retry=policy)
            for i, policy in enumerate(policies)
        ]
        assert peer.targets(3) == ["/0", "/1", "/2"]
        peer.close()
        assert isinstance(error_of(futures[1]), ConnectionClosed)
        peer = server.accept()
        for target in ("/0", "/2"):
            assert peer.burst() == [target]
            peer.responds(target)
        assert [text_of(futures[i]) for i in (0, 2)] == ["/0", "/2"]


# --- who is charged, and who goes alone -----------------------------------------------------------


def test_the_first_that_was_not_answered_is_charged_and_those_behind_it_go_first(
    server: HandServer, clock: StoppedClock
) -> None:
    with one_connection(SLOW) as pool:
        peer = warm_up(pool, server, 5)
        futures = [pool.submit("GET", server.url(target)) for target in ("/a", "/b", "/c")]
        assert peer.targets(3) == ["/a", "/b", "/c"]
        peer.send(b"HTTP/1.1 200")
        peer.close()
        peer = server.accept()
        for target in ("/b", "/c"):
            assert peer.burst() == [target]  # each alone
            settle(pool)
            assert peer.is_silent()
            peer.responds(target)
        assert [text_of(future) for future in futures[1:]] == ["/b", "/c"]
        assert not futures[0].done()
        clock.forward(pool, 10)
        fresh = server.accept()  # alone, on a connection that has not been used
        assert peer.was_left()
        assert fresh.burst() == ["/a"]
        fresh.responds("/a")
        assert text_of(futures[0]) == "/a"


def test_one_that_was_answered_since_may_have_any_connection_again(server: HandServer) -> None:
    with one_connection(AT_ONCE) as pool:
        peer, future = submit_first(pool, server, "GET", "/a")
        peer.reset()
        peer = server.accept()
        for _ in range(2):
            assert peer.burst() == ["/a"]
            peer.respond(b"", "500 Not Now")
        assert peer.burst() == ["/a"]
        peer.responds("/a")
        assert text_of(future) == "/a"
        assert server.is_left_alone()


def test_a_used_connection_that_ends_without_a_byte_costs_no_wait(server: HandServer) -> None:
    """So it looks when a server closes an idle connection just when it is used."""
    with one_connection(FOR_EVER) as pool:
        peer = warm_up(pool, server)
        future = pool.submit("GET", server.url("/a"))
        assert peer.burst() == ["/a"]
        peer.close()
        peer = server.accept()
        assert peer.burst() == ["/a"]
        peer.responds("/a")
        response = future.result(TIMEOUT)
    assert [attempt.charged for attempt in response.attempts] == [True]


def test_a_request_that_ends_its_connection_each_time_fails_alone(server: HandServer) -> None:
    with one_connection(RetryPolicy(attempts=3, backoff=0)) as pool:
        peer = warm_up(pool, server, 9)
        targets = ["/deadly", "/a", "/b", "/c"]
        futures = [pool.submit("GET", server.url(target)) for target in targets]
        assert peer.targets(4) == targets
        peer.close()
        for _ in range(2):
            peer = server.accept()
            assert peer.burst() == ["/deadly"]
            peer.close()
        error = error_of(futures[0])
        assert isinstance(error, ConnectionClosed)
        assert [attempt.number for attempt in error.attempts] == [1, 2]
        peer = server.accept()
        for target in targets[1:]:
            assert peer.burst() == [target]
            peer.responds(target)
        for future in futures[1:]:
            response = future.result(TIMEOUT)
            assert [attempt.charged for attempt in response.attempts] == [False]


def test_behind_a_response_that_announces_the_end_any_request_is_sent_again(
    server: HandServer,
) -> None:
    """Whatever the method and uncharged: the server has not processed it (RFC 9112 §9.6)."""
    with one_connection(RetryPolicy(attempts=2, methods=set(), backoff=0)) as pool:
        peer = warm_up(pool, server, 5)
        futures = [pool.submit("GET", server.url(target)) for target in ("/a", "/b")]
        assert peer.targets(2) == ["/a", "/b"]
        peer.respond(b"/a", headers="Connection: close\r\n")
        peer.close()
        peer = server.accept()
        assert peer.burst() == ["/b"]
        peer.responds("/b")
        assert text_of(futures[0]) == "/a"
        (attempt,) = futures[1].result(TIMEOUT).attempts
    assert (attempt.delivery, attempt.charged) == (Delivery.DISCLAIMED, False)


# --- what waits, and for how long -----------------------------------------------------------------


def test_what_waits_holds_no_connection_and_no_place_in_the_queue(
    server: HandServer, clock: StoppedClock
) -> None:
    with one_connection(SLOW, max_queued=1, on_event=(heard := Listener())) as pool:
        peer, future = submit_first(pool, server, "GET", "/a")
        threads = threading.active_count()
        peer.respond(b"", "500 Not Now")
        heard.wait_for("resent")
        settle(pool)
        now = pool.statistics()
        (host,) = now.hosts.values()
        assert (now.waiting, now.queued, now.in_flight) == (1, 0, 0)
        assert (host.waiting, host.queued, host.in_flight) == (1, 0, 0)
        assert [line.state for line in host.connections] == ["idle"]
        assert threading.active_count() == threads
        assert not future.running()
        # Others go on, on the same connection.
        other = pool.submit("GET", server.url("/b"), block=False)
        assert peer.burst() == ["/b"]
        peer.responds("/b")
        assert text_of(other) == "/b"
        clock.forward(pool, 10)
        assert peer.burst() == ["/a"]
        peer.responds("/a")
        assert text_of(future) == "/a"
        assert pool.statistics().waiting == 0
        assert pool.statistics().resent == 1


def test_each_wait_may_be_twice_as_long_as_the_one_before_up_to_a_limit(
    server: HandServer, clock: StoppedClock
) -> None:
    policy = RetryPolicy(backoff=10, max_backoff=30)
    with one_connection(policy, on_event=(heard := Listener())) as pool:
        future = pool.submit("GET", server.url("/a"))
        peer = server.accept()
        for seconds in (10, 20, 30, 30):
            assert peer.burst() == ["/a"]
            peer.respond(b"", "500 Not Now")
            heard.wait_for("resent")
            clock.forward(pool, seconds - 0.1)
            settle(pool)
            assert peer.is_silent()
            clock.forward(pool, 0.1)
        assert peer.burst() == ["/a"]
        peer.responds("/a")
        assert text_of(future) == "/a"


@pytest.mark.parametrize(("retry_after", "wait"), [("3", 10), ("30", 30), ("300", 60)])
def test_a_wait_is_as_long_as_the_server_wants_within_limits(
    server: HandServer, clock: StoppedClock, retry_after: str, wait: float
) -> None:
    """Also where it says nothing of other requests, as with a 500."""
    with one_connection(SLOW, on_event=(heard := Listener())) as pool:
        peer, future = submit_first(pool, server, "GET", "/a")
        peer.respond(b"", "500 Not Now", headers=f"Retry-After: {retry_after}\r\n")
        heard.wait_for("resent")
        other = pool.submit("GET", server.url("/b"))
        assert peer.burst() == ["/b"]
        peer.responds("/b")
        assert text_of(other) == "/b"
        clock.forward(pool, wait - 0.1)
        settle(pool)
        assert peer.is_silent()
        clock.forward(pool, 0.1)
        assert peer.burst() == ["/a"]
        peer.responds("/a")
        assert text_of(future) == "/a"


def test_what_has_waited_goes_before_what_came_later(
    server: HandServer, clock: StoppedClock
) -> None:
    with one_connection(SLOW, pipeline_depth=1, on_event=(heard := Listener())) as pool:
        peer, first = submit_first(pool, server, "GET", "/first")
        peer.respond(b"", "500 Not Now")
        heard.wait_for("resent")
        others = [pool.submit("GET", server.url(target)) for target in ("/a", "/b")]
        assert peer.burst() == ["/a"]
        clock.forward(pool, 10)
        peer.responds("/a")
        for target in ("/first", "/b"):
            assert peer.burst() == [target]
            peer.responds(target)
        assert [text_of(future) for future in (*others, first)] == ["/a", "/b", "/first"]


# --- the end of waiting ---------------------------------------------------------------------------


def wait_in_vain(pool: ConnectionPool, server: HandServer, heard: Listener) -> Future[Response]:
    """Return the future of a request that waits to be tried again."""
    peer, future = submit_first(pool, server, "GET", "/a")
    peer.respond(b"refused", UNAVAILABLE)
    heard.wait_for("resent")
    return future


def test_it_gives_up_at_once_if_the_deadline_would_pass_before_the_next_attempt() -> None:
    def refuse(peer: Peer, request: ReceivedRequest) -> None:
        peer.respond(b"refused", "500 Not Now", headers="Retry-After: 60\r\n")

    with open_site(each(refuse), retry=AT_ONCE) as here:
        response = here.pool.get(here.url(), deadline=50)
        assert response.status == 500
        assert response.attempts == ()
        assert here.pool.statistics().waiting == 0


def test_a_deadline_that_is_far_away_hinders_no_request() -> None:
    with open_site(Refusing(UNAVAILABLE), retry=AT_ONCE) as here:
        assert here.pool.get(here.url(), deadline=60).status == 200


def test_the_last_exception_counts_if_the_deadline_would_pass_before_the_next_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_luck(monkeypatch)
    with open_site(dies, retry=FOR_EVER) as here, pytest.raises(ConnectionClosed) as caught:
        here.pool.get(here.url(), deadline=60)
    assert caught.value.attempts == ()
    assert caught.value.delivery is Delivery.SENT


def test_a_deadline_that_passes_in_a_later_attempt_has_the_earlier_ones(
    server: HandServer, clock: StoppedClock
) -> None:
    with one_connection(SLOW, on_event=(heard := Listener())) as pool:
        peer, future = submit_first(pool, server, "GET", "/a", deadline=15)
        peer.respond(b"refused", UNAVAILABLE)
        heard.wait_for("resent")
        clock.forward(pool, 10)
        assert peer.burst() == ["/a"]
        clock.forward(pool, 5)
        error = error_of(future)
    assert isinstance(error, ConnectionTimedOut)
    assert [attempt.status for attempt in error.attempts] == [503]
    assert error.delivery is Delivery.ANSWER_STARTED


def test_cancel_ends_a_wait(server: HandServer, monkeypatch: pytest.MonkeyPatch) -> None:
    no_luck(monkeypatch)
    with one_connection(FOR_EVER, on_event=(heard := Listener())) as pool:
        future = wait_in_vain(pool, server, heard)
        assert future.cancel()
        with pytest.raises(CancelledError):
            future.result(TIMEOUT)
        assert pool.statistics().waiting == 0
        (host,) = pool.statistics().hosts.values()
        assert host.waiting == 0


def test_close_ends_a_wait(server: HandServer, monkeypatch: pytest.MonkeyPatch) -> None:
    no_luck(monkeypatch)
    pool = one_connection(FOR_EVER, on_event=(heard := Listener()))
    future = wait_in_vain(pool, server, heard)
    pool.close()
    error = error_of(future)
    assert isinstance(error, PoolClosed)
    assert [attempt.status for attempt in error.attempts] == [503]
    assert error.delivery is Delivery.ANSWER_STARTED
    assert pool.statistics().waiting == 0


def test_an_interrupt_ends_the_wait_of_a_blocking_request(
    server: HandServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_luck(monkeypatch)
    heard = Listener()

    def interrupt() -> None:
        peer = server.accept()
        peer.request()
        peer.respond(b"refused", UNAVAILABLE)
        heard.wait_for("resent")
        os.kill(os.getpid(), signal.SIGINT)

    with one_connection(FOR_EVER, on_event=heard) as pool:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            pool.get(server.url("/a"))
        thread.join()
        assert pool.statistics().waiting == 0


def test_a_pool_that_is_forgotten_lives_until_what_waits_is_done(
    server: HandServer, clock: StoppedClock
) -> None:
    heard = Listener()
    pool = one_connection(SLOW, on_event=heard)
    peer, future = submit_first(pool, server, "GET", "/a")
    peer.respond(b"", UNAVAILABLE)
    heard.wait_for("resent")
    ref = weakref.ref(pool)
    del pool
    gc.collect()
    alive = ref()
    assert alive is not None
    clock.forward(alive, 10)
    del alive
    assert peer.burst() == ["/a"]
    peer.responds("/a")
    assert text_of(future) == "/a"
    gc.collect()
    while threads := [one for one in threading.enumerate() if one.name.startswith("dugong-")]:
        for thread in threads:  # each may start another before it ends
            thread.join(TIMEOUT)
            assert not thread.is_alive()
    assert ref() is None
    assert peer.was_left()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_what_waits_goes_on_in_the_parent_and_is_over_in_a_forked_child(
    server: HandServer, clock: StoppedClock
) -> None:
    with one_connection(SLOW, on_event=(heard := Listener())) as pool:
        peer, future = submit_first(pool, server, "GET", "/a")
        peer.respond(b"", UNAVAILABLE)
        heard.wait_for("resent")
        assert holds_in_child(lambda: isinstance(future.exception(5), PoolClosed))
        assert holds_in_child(lambda: pool.statistics().waiting == 0)
        clock.forward(pool, 10)
        assert peer.burst() == ["/a"]
        peer.responds("/a")
        assert text_of(future) == "/a"


# --- the budget -----------------------------------------------------------------------------------


def test_a_budget_limits_how_much_is_tried_again(clock: StoppedClock) -> None:
    script = Refusing(*["500 Not Now"] * 20)
    with open_site(script, retry=RetryPolicy(backoff=0, budget=0.0)) as here:
        assert here.pool.get(here.url()).status == 500
        assert len(script.requests) == 1 + 3  # a few are always allowed
        assert here.pool.get(here.url()).status == 500
        assert len(script.requests) == 4 + 1
        assert here.pool.get(here.url(), retry=AT_ONCE).status == 500
        assert len(script.requests) == 5 + 6  # which is not bound by it
        clock.forward(here.pool, 30)
        assert here.pool.get(here.url()).status == 500
        assert len(script.requests) == 11 + 4


def test_what_was_sent_recently_counts_for_the_budget(clock: StoppedClock) -> None:
    script = Refusing()
    with open_site(script, retry=RetryPolicy(backoff=0, attempts=100, budget=0.1)) as here:
        for _ in range(50):
            here.pool.get(here.url())
        script.refuse(*["500 Not Now"] * 20)
        assert here.pool.get(here.url()).status == 500
        # A tenth of those, and a few.
        assert len(script.requests) - 51 == 9


def test_those_that_stood_behind_do_not_count_for_the_budget(server: HandServer) -> None:
    targets = ["/a", "/b", "/c", "/d", "/e", "/f"]
    with one_connection(RetryPolicy(backoff=0, budget=0.0)) as pool:
        peer = warm_up(pool, server, 6)
        futures = [pool.submit("GET", server.url(target)) for target in targets]
        assert peer.targets(6) == targets
        peer.close()
        fresh = server.accept()
        assert fresh.burst() == ["/a"]
        fresh.responds("/a")
        for target in targets[1:]:
            assert fresh.burst() == [target]
            fresh.responds(target)
        assert [text_of(future) for future in futures] == targets
