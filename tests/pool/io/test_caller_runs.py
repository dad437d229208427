"""A request in the thread of its caller, on a connection that it has borrowed."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from dugong import Headers, RetryPolicy
from dugong.errors import ConnectionClosed, ConnectionTimedOut, InvalidResponse, ResponseTooLarge
from dugong.pool.core.connection import Phase, PooledConnection
from dugong.pool.core.job import Job, Place
from dugong.pool.io import caller_runs
from dugong.pool.response import Response
from tests.support.clock import throw
from tests.support.parts import NO_RETRY, FakeEngine, Rig, SchedulerRig
from tests.support.points import Interrupt

TRAILERS = Headers({"X-Checksum": "1"})


class Borrowed:
    """A request whose caller has borrowed a connection for it."""

    def __init__(self, rig: Rig, **options: Any) -> None:
        self.rig = rig
        self.host = rig.host()
        self.connection: PooledConnection = rig.idle(self.host)
        engine = self.connection.engine
        assert isinstance(engine, FakeEngine)
        self.engine = engine
        self.job: Job = rig.job(self.host, "/borrowed", **options)
        assert rig.lending.borrow(self.job) is self.connection

    def responds(
        self,
        status: int = 200,
        body: bytes | None = b"body",
        error: Exception | None = None,
        length: int | None = None,
        persistent: bool = True,
    ) -> None:
        """Have the engine receive a response next, and then *error*."""
        exchange: Any = SimpleNamespace(
            key=self.job, persistent=persistent, minor_version=0, trailers=TRAILERS
        )
        self.job.exchange = exchange
        self.engine.received.append(([(exchange, status, "Reason", b"", length, body)], error))

    def fails(self, error: Exception) -> None:
        """Have the engine receive nothing but *error* next."""
        self.engine.received.append(([], error))

    def perform(self) -> Response | None:
        """Make the request; the connection is given back."""
        response = caller_runs.perform(self.rig.traffic, self.connection, self.job)
        assert self.connection.borrower is None
        assert self.connection.phase in (Phase.OPEN, Phase.CLOSED)
        return response

    @property
    def is_idle(self) -> bool:
        """Whether the connection may be borrowed again."""
        return self.connection in self.host.idle


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    throw(monkeypatch, 1.0)
    return Rig(monkeypatch, max_body_size=1000)


POLICY = RetryPolicy(backoff=1.0)


@pytest.mark.parametrize("status", [200, 204, 301, 404])
def test_the_caller_gets_the_response_and_gives_the_connection_back(rig: Rig, status: int) -> None:
    borrowed = Borrowed(rig)
    borrowed.responds(status)
    response = borrowed.perform()
    assert response is not None
    assert (response.status, response.reason, response.body) == (status, "Reason", b"body")
    assert response.request is borrowed.job.request
    assert (response.http_version, response.trailers) == ("HTTP/1.0", TRAILERS)
    assert response.elapsed >= timedelta(0)
    assert borrowed.job.place is Place.DONE
    assert borrowed.is_idle
    assert borrowed.engine.sent == [[borrowed.job]]


def test_the_last_response_of_a_connection_ends_that(rig: Rig) -> None:
    borrowed = Borrowed(rig)
    borrowed.responds(persistent=False)
    assert borrowed.perform() is not None
    assert borrowed.connection.phase is Phase.CLOSED


def test_a_response_that_comes_too_late_is_not_returned(rig: Rig) -> None:
    borrowed = Borrowed(rig)
    borrowed.responds()

    def cancel() -> None:
        with rig.core.transaction():
            rig.retries.complete_locked(borrowed.job, None)

    borrowed.engine.sending = cancel
    assert borrowed.perform() is None
    assert borrowed.job.future.cancelled()
    assert borrowed.is_idle


def test_a_status_that_is_worth_another_attempt_is_followed_by_one(rig: Rig) -> None:
    borrowed = Borrowed(rig, retry=POLICY)
    borrowed.responds(503)
    assert borrowed.perform() is None
    assert borrowed.job.place is Place.WAITING
    assert borrowed.is_idle


def test_the_same_status_is_returned_if_the_policy_allows_one_attempt(rig: Rig) -> None:
    borrowed = Borrowed(rig, retry=NO_RETRY)
    borrowed.responds(503)
    response = borrowed.perform()
    assert response is not None
    assert response.status == 503


def test_a_body_that_has_not_come_yet_is_read_by_the_caller(rig: Rig) -> None:
    borrowed = Borrowed(rig)
    borrowed.engine.body = bytes(250)
    borrowed.responds(body=None, length=250)
    assert borrowed.perform() is None  # the future has it
    assert borrowed.job.future.result().body == bytes(250)
    assert borrowed.is_idle


@pytest.mark.parametrize("buffered", [True, False])
def test_a_body_that_is_too_large_ends_the_connection(rig: Rig, buffered: bool) -> None:
    borrowed = Borrowed(rig)
    borrowed.responds(body=bytes(1001) if buffered else None, length=1001)
    assert borrowed.perform() is None
    assert isinstance(borrowed.job.future.exception(), ResponseTooLarge)
    assert borrowed.connection.phase is Phase.CLOSED


# --- what fails -----------------------------------------------------------------------------------


def test_a_request_whose_connection_was_found_closed_goes_back_to_the_queue(rig: Rig) -> None:
    borrowed = Borrowed(rig, retry=POLICY)
    borrowed.fails(ConnectionClosed())
    assert borrowed.perform() is None
    assert borrowed.job.place is Place.QUEUED
    assert borrowed.job.needs_fresh_connection
    assert borrowed.connection.phase is Phase.CLOSED


@pytest.mark.parametrize(
    "error",
    [ConnectionTimedOut("slow"), InvalidResponse("bad"), OSError("broken")],
    ids=lambda error: type(error).__name__,
)
def test_what_fails_while_receiving_is_the_outcome(rig: Rig, error: Exception) -> None:
    borrowed = Borrowed(rig, retry=NO_RETRY)
    borrowed.fails(error)
    assert borrowed.perform() is None
    assert type(borrowed.job.future.exception()) is type(error)
    assert borrowed.connection.phase is Phase.CLOSED


def raising(error: BaseException) -> Any:
    def send() -> None:
        raise error

    return send


def test_what_fails_while_sending_is_the_outcome(rig: Rig) -> None:
    borrowed = Borrowed(rig, retry=NO_RETRY)
    borrowed.engine.sending = raising(ConnectionTimedOut("nothing sent"))
    assert borrowed.perform() is None
    assert isinstance(borrowed.job.future.exception(), ConnectionTimedOut)
    assert "receive" not in borrowed.engine.calls


def test_a_connection_that_is_closed_while_sending_may_have_responded(rig: Rig) -> None:
    borrowed = Borrowed(rig)
    borrowed.engine.sending = raising(ConnectionClosed())
    borrowed.engine.has_unread = True
    borrowed.responds(400, persistent=False)
    assert borrowed.perform() is None
    assert borrowed.job.future.result().status == 400
    assert borrowed.connection.phase is Phase.CLOSED


def test_a_connection_that_is_closed_while_sending_may_have_nothing_to_say(rig: Rig) -> None:
    borrowed = Borrowed(rig, retry=POLICY)
    borrowed.engine.sending = raising(ConnectionClosed())
    assert borrowed.perform() is None
    assert "receive" not in borrowed.engine.calls
    assert borrowed.job.place is Place.QUEUED
    assert borrowed.connection.phase is Phase.CLOSED


def test_a_caller_that_is_interrupted_ends_the_connection_and_the_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = SchedulerRig(monkeypatch)
    borrowed = Borrowed(rig, retry=POLICY)
    borrowed.engine.sending = raising(Interrupt())
    with pytest.raises(Interrupt):
        borrowed.perform()
    rig.scheduler.abandon(borrowed.job)
    assert borrowed.connection.phase is Phase.CLOSED
    assert borrowed.job.future.cancelled()  # it is not sent again, for no caller waits for it


def test_the_pool_goes_on_after_each_of_them(rig: Rig) -> None:
    borrowed = Borrowed(rig, retry=NO_RETRY)
    borrowed.fails(ConnectionTimedOut("slow"))
    borrowed.perform()
    (job,) = rig.submit(borrowed.host, "/next")
    connection = rig.connect(borrowed.host)
    assert rig.look_for_work(connection) == [job]
    rig.respond(connection, job)
    assert job.future.result().status == 200
