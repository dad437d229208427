"""A bug of dugong in a thread of the pool: what was in hand fails, and the pool goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import wait
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from dugong import (
    Auth,
    Client,
    ConnectionPool,
    ConnectionTimedOut,
    Delivery,
    InternalError,
    Request,
    RetryPolicy,
)
from dugong.client.drivers import FutureFlow
from dugong.pool.core import traffic
from dugong.pool.core.cancellation import Cancellation
from dugong.pool.core.connection import PooledConnection
from dugong.pool.core.connections import ConnectionManager
from dugong.pool.core.faults import Faults
from dugong.pool.core.job import Job, Upload
from dugong.pool.core.lending import Lending
from dugong.pool.core.progress import Progress
from dugong.pool.core.retries import RetryEngine
from dugong.pool.core.timers import Timers
from dugong.pool.core.traffic import Traffic
from dugong.pool.io import receiver
from dugong.pool.io.http1 import Http1Engine
from tests.support.pool import (
    GONE,
    Held,
    connections_of,
    discard_rest,
    each,
    name_target,
    open_site,
)
from tests.support.server import TIMEOUT, Peer, ReceivedRequest

#: Sent one by one, each with its own body.
PATHS = [f"/{number}" for number in range(20)]


class Bug:
    """Has *owner*'s *name* raise a NameError instead of the call number *first*, and *count* more.

    Calls count that a thread of the pool makes, and that *is_meant*.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        owner: object,
        name: str,
        first: int = 1,
        count: int = 1,
        is_meant: Callable[..., bool] = lambda *args, **kwargs: True,
    ) -> None:
        self.raised: list[NameError] = []
        self._calls = 0
        self._lock = threading.Lock()
        real: Callable[..., object] = getattr(owner, name)

        def buggy(*args: Any, **kwargs: Any) -> object:
            is_own = threading.current_thread().name.startswith("dugong-")
            if is_own and is_meant(*args, **kwargs):
                with self._lock:
                    self._calls += 1
                    is_hit = first <= self._calls < first + count
                if is_hit:
                    error = NameError(f"a bug in {name}")
                    self.raised.append(error)
                    raise error
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, buggy)

    def is_why(self, error: BaseException | None) -> bool:
        """Return True if *error* says that it is internal, and that this is why."""
        return isinstance(error, InternalError) and error.__cause__ in self.raised


def respond(peer: Peer, request: ReceivedRequest) -> None:
    """Respond to /refused that it is to be asked again, and to all else with its target."""
    with suppress(*GONE):  # what fails ends its connection
        if request.target == "/refused":
            peer.respond(b"no", status="503 Service Unavailable")
        elif request.target == "/large":
            peer.respond(bytes(1_000_000))
        else:
            name_target(peer, request)


def each_step(*steps: tuple[object, str]) -> pytest.MarkDecorator:
    """Have a test called with each of *steps*: the *name* of a function, and its *owner*."""
    return pytest.mark.parametrize(("owner", "name"), steps, ids=[name for _, name in steps])


@pytest.mark.parametrize("first", [1, 4])
# What threads of the pool do for each request.
@each_step(
    (RetryEngine, "complete_locked"),
    (RetryEngine, "_settle_locked"),
    (RetryEngine, "_schedule_locked"),
    (RetryEngine, "_wait_locked"),
    (RetryEngine, "_resume_locked"),
    (RetryEngine, "requeue_locked"),
    (Traffic, "begin_sending"),
    (Traffic, "connected"),
    (Traffic, "next_batch"),
    (Traffic, "_take_batch_locked"),
    (Traffic, "await_responses"),
    (Traffic, "responded"),
    (Traffic, "ensure_receiver"),
    (Traffic, "wake_receiver"),
    (traffic, "take"),
    (Progress, "mark_in_flight_locked"),
    (Progress, "count_responses_locked"),
    (Progress, "note_time_locked"),
    (Progress, "learn_locked"),
    (Job, "dispatch"),
    (Job, "finish"),
    (Http1Engine, "connect"),
    (Http1Engine, "send"),
    (Http1Engine, "receive"),
    (ConnectionManager, "opened"),
    (Timers, "pop_due"),
    (Timers, "next"),
    (receiver, "Response"),
    (receiver, "handle"),
)
def test_whatever_step_fails_each_request_ends_and_the_pool_goes_on(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, first: int
) -> None:
    bug = Bug(monkeypatch, owner, name, first)
    retry = RetryPolicy(attempts=2, backoff=0.001)
    with open_site(each(respond), repeat=True, max_connections_per_host=2, retry=retry) as site:
        paths = [*PATHS, "/refused"]
        futures = [site.pool.submit("GET", site.url(path)) for path in paths]
        assert not wait(futures, TIMEOUT).not_done
        for path, future in zip(paths, futures, strict=True):
            error = future.exception()
            if error is None:
                assert future.result().text == ("no" if path == "/refused" else path)
            else:
                assert bug.is_why(error)
        assert bug.raised or first > 1
        assert site.pool.submit("GET", site.url("/next")).result(TIMEOUT).text == "/next"


@each_step(
    (RetryEngine, "complete_locked"),
    (Traffic, "responded"),
    (Traffic, "connected"),
    (traffic, "take"),
    (receiver, "Response"),
)
def test_a_step_that_always_fails_leaves_no_future(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    bug = Bug(monkeypatch, owner, name, count=10**6)
    with open_site(each(respond), repeat=True, max_connections_per_host=2) as site:
        futures = [site.pool.submit("GET", site.url("/refused")) for _ in PATHS]
        assert all(bug.is_why(future.exception(TIMEOUT)) for future in futures)


def test_a_response_that_cannot_be_made_is_that_of_its_own_request_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bug = Bug(monkeypatch, receiver, "Response", count=10**6, is_meant=_is_of("/7"))
    with open_site(each(respond), repeat=True, max_connections_per_host=1) as site:
        futures = {path: site.pool.submit("GET", site.url(path)) for path in PATHS}
        error = futures.pop("/7").exception(TIMEOUT)
        assert bug.is_why(error)
        assert isinstance(error, InternalError)
        assert error.delivery is Delivery.ANSWER_STARTED
        assert error.request is not None
        assert error.request.target == "/7"
        assert [future.result(TIMEOUT).text for future in futures.values()] == list(futures)


def _is_of(target: str) -> Callable[..., bool]:
    """Return what says of the arguments of a `Response` whether it is to a request for *target*."""
    return lambda *args, **kwargs: any(
        isinstance(arg, Request) and arg.target == target for arg in args
    )


def test_what_a_flow_does_wrong_in_accepting_fails_its_request_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bug = Bug(monkeypatch, FutureFlow, "accepts", first=3)
    with open_site(each(respond), repeat=True, max_connections_per_host=1) as site:
        client = Client(pool=site.pool)
        futures = [client.submit("GET", site.url(path)) for path in PATHS]
        assert not wait(futures, TIMEOUT).not_done
        errors = [error for future in futures if (error := future.exception()) is not None]
        assert len(errors) == 1
        assert bug.is_why(errors[0])


@pytest.mark.parametrize("name", ["enqueue_locked", "end_wait_locked"])
def test_a_flow_that_cannot_be_gone_on_with_fails(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with open_site(each(respond), repeat=True) as site:
        client = Client(pool=site.pool, event_hooks={"response": [lambda response: None]})
        retries = site.pool._scheduler._retries
        if name == "enqueue_locked":
            client = Client(pool=site.pool, auth=_TwoRequests())
        bug = Bug(monkeypatch, retries, name)
        error = client.submit("GET", site.url("/a")).exception(TIMEOUT)
        assert bug.is_why(error)
        assert site.goes_on()


class _TwoRequests(Auth):
    """Sends each request twice."""

    def flow(self, request: Request) -> Generator[Request, Any, None]:
        yield request
        yield request


def test_a_hook_of_a_policy_that_cannot_be_asked_fails_the_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bug = Bug(monkeypatch, RetryEngine, "_ask")
    policy = RetryPolicy(should_retry=lambda attempt: True)
    with open_site(each(respond), repeat=True) as site:
        future = site.pool.submit("GET", site.url("/refused"), retry=policy)
        assert bug.is_why(future.exception(TIMEOUT))
        assert site.goes_on()


def test_a_deadline_that_cannot_be_dealt_with_fails_the_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bug = Bug(monkeypatch, Cancellation, "expire_locked")
    with open_site(discard_rest, repeat=True) as site:
        future = site.pool.submit("GET", site.url("/a"), deadline=0.05)
        assert bug.is_why(future.exception(TIMEOUT))
        again = site.pool.submit("GET", site.url("/a"), deadline=0.05)
        assert isinstance(again.exception(TIMEOUT), ConnectionTimedOut)  # timers go on


def test_a_timer_of_all_that_fails_fails_all_and_the_pool_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = Held()
    with open_site(held, each(respond)) as site:
        future = site.pool.submit("GET", site.url("/held"))
        held.wait()
        error = NameError("a bug")

        def fail() -> None:
            raise error

        core = site.pool._scheduler._core
        with core.transaction():
            site.pool._scheduler._maintenance.at_locked(0.0, fail)
        failed = future.exception(TIMEOUT)
        assert isinstance(failed, InternalError)
        assert failed.__cause__ is error
        held.release()
        assert site.goes_on()


def test_a_request_that_was_being_taken_back_from_its_connection_fails_too() -> None:
    held = Held()
    with open_site(held, each(respond)) as site:
        future = site.pool.submit("GET", site.url("/held"))
        held.wait()
        [connection] = connections_of(site.pool)

        def rescue() -> None:
            connection.oldest.take_back()
            raise NameError("a bug")

        with site.pool._scheduler._core.transaction():
            site.pool._scheduler._maintenance.at_locked(0.0, rescue)
        assert isinstance(future.exception(TIMEOUT), InternalError)
        held.release()
        assert site.goes_on()


@each_step(
    (Http1Engine, "send_body"),
    (RetryEngine, "complete_locked"),
    (Traffic, "_sent_locked"),
    (Traffic, "_end_upload_locked"),
    (Traffic, "responded"),
    (Upload, "end"),
)
def test_an_upload_whose_step_fails_ends_and_its_body_is_let_go_of(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    bug = Bug(monkeypatch, owner, name)
    body = bytearray(1_000_000)
    with open_site(each(respond), repeat=True) as site:
        future = site.pool.submit("PUT", site.url("/a"), body=body, retry=None)
        error = future.exception(TIMEOUT)
        assert error is None or bug.is_why(error)
        body.clear()  # which is refused while a view of it is held
        assert site.goes_on()


@pytest.mark.parametrize(
    ("owner", "name", "target"),
    [(Lending, "hand_over", "/large"), (Traffic, "responded", "/small")],
    ids=["large", "small"],
)
def test_a_stream_whose_step_fails_says_so(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, target: str
) -> None:
    with open_site(each(respond), repeat=True) as site:
        bug = Bug(monkeypatch, owner, name)
        # With a deadline, threads of the pool send and receive.
        stream = site.pool.stream("GET", site.url(target), deadline=TIMEOUT)
        with pytest.raises(InternalError) as caught, stream:
            pass
        assert bug.is_why(caught.value)
        assert site.goes_on()


@pytest.mark.parametrize(
    ("owner", "name"),
    [(RetryEngine, "_settle_locked"), (Progress, "mark_in_flight_locked")],
    ids=["receiver", "sender"],
)
def test_a_connection_takes_nothing_more_once_a_step_of_it_has_failed(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    """The request would be blamed for that step."""
    crashed, draining = Faults.crashed, []

    def crash(self: Faults, connection: PooledConnection, exc: Any, is_sender: bool) -> None:
        draining.append(connection.is_draining)
        crashed(self, connection, exc, is_sender)

    monkeypatch.setattr(Faults, "crashed", crash)
    bug = Bug(monkeypatch, owner, name)
    with open_site(each(respond), repeat=True, retry=None) as site:
        assert bug.is_why(site.pool.submit("GET", site.url("/refused")).exception(TIMEOUT))
        assert site.goes_on()
    assert draining == [True]


def test_what_follows_a_change_is_done_though_something_of_it_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []

    def fail() -> None:
        raise NameError("a bug")

    with ConnectionPool() as pool:
        core = pool._scheduler._core

        def change() -> None:
            with core.transaction():
                core.follow_up(partial(done.append, "before"))
                core.follow_up(fail)
                core.follow_up(partial(done.append, "behind"))

        over = threading.Event()
        core.threads.start(lambda: (change(), over.set()), "dugong-test", pytest.fail)
        assert over.wait(TIMEOUT)
        assert set(done) == {"before", "behind"}  # which may be done again


def test_a_pool_that_cannot_be_closed_in_good_order_leaves_no_future(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = Held()
    with open_site(held, max_connections_per_host=1) as site:
        futures = [site.pool.submit("GET", site.url(path)) for path in PATHS]
        held.wait()
        bug = Bug(monkeypatch, RetryEngine, "close_locked", count=10**6)
        site.pool.close()
        held.release()
        assert all(future.exception(TIMEOUT) is not None for future in futures)
        assert any(bug.is_why(future.exception()) for future in futures)


def test_a_bug_is_logged_once_and_says_nothing_of_the_request(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Bug(monkeypatch, Traffic, "responded")
    with open_site(each(respond), repeat=True) as site:
        error = site.pool.submit("GET", site.url("/a?secret")).exception(TIMEOUT)
    assert str(error).endswith("/a: internal error (NameError): please report this bug of dugong")
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert "secret" not in caplog.text
