"""The retry engine: what becomes of every outcome of a request."""

from __future__ import annotations

import errno
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dugong import RetryPolicy
from dugong.errors import (
    ConnectError,
    ConnectionClosed,
    ConnectionTimedOut,
    Delivery,
    InvalidResponse,
    PoolClosed,
    ResponseTooLarge,
)
from dugong.pool.core.core import Outcome
from dugong.pool.core.host import FREE_REPEATS, Host
from dugong.pool.core.job import Job, Place
from dugong.pool.core.retries import make_attempt
from dugong.pool.core.timers import Timer
from dugong.pool.failure import describe, failure
from dugong.pool.response import Attempt, Response, StreamedResponse
from tests.support.clock import throw
from tests.support.parts import NO_RETRY, Rig, make_response
from tests.support.uploads import releases, upload


class Bench(Rig):
    """A rig, the outcomes of which the test makes itself. All waits are 1, 2, 4 ... seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **limits: Any) -> None:
        super().__init__(monkeypatch, **limits)
        throw(monkeypatch, 1.0)
        self.known = self.host()

    def in_flight(self, policy: RetryPolicy | None = None, **options: Any) -> Job:
        """Return a job that is on a connection of `known`."""
        policy = RetryPolicy(backoff=1.0) if policy is None else policy
        _, (job,) = self.send(self.known, "/a", retry=policy, **options)
        return job

    def complete(self, job: Job, outcome: Outcome, **options: Any) -> bool:
        """Complete *job*, which leaves its connection, with *outcome*."""
        connection = job.connection
        with self.core.transaction():
            if connection is not None:
                connection.in_flight.pop(job, None)
                self.known.in_flight -= 1
            return self.retries.complete_locked(job, outcome, **options)

    def fail(
        self,
        job: Job,
        error: Exception | None = None,
        delivery: Delivery = Delivery.SENT,
        charged: bool = True,
        delay: float = 1.0,
    ) -> bool:
        """Have an attempt of *job* fail, which another one may follow."""
        own = failure(error or ConnectionClosed(), delivery)
        attempt = make_attempt(job, "host:80-1", describe(own), delivery, charged)
        return self.complete(job, own, attempt=attempt._replace(exception=own), delay=delay)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


# --- outcomes that end a request ------------------------------------------------------------------


def test_a_response_ends_its_request(bench: Bench) -> None:
    job = bench.in_flight()
    response = make_response(job)
    assert bench.complete(job, response)
    assert job.future.result() is response
    assert job.place is Place.DONE


def test_an_exception_ends_its_request(bench: Bench) -> None:
    job = bench.in_flight()
    error = failure(ResponseTooLarge("too large"), Delivery.ANSWER_STARTED)
    assert bench.complete(job, error)
    assert job.future.exception() is error
    assert job.place is Place.DONE


def test_a_cancellation_ends_its_request(bench: Bench) -> None:
    job = bench.in_flight()
    assert bench.complete(job, None)
    assert job.future.cancelled()
    assert job.place is Place.DONE


def test_a_streamed_response_is_read_and_ends_later(bench: Bench) -> None:
    job = bench.in_flight()
    with bench.core.transaction():
        job.timer = bench.retries._maintenance.at_locked(2000.0, lambda: None)
    source = SimpleNamespace(close=lambda: None)
    response = StreamedResponse(200, "OK", b"", job.request, None, cast(Any, source), ())
    assert bench.complete(job, response)
    assert cast(object, job.future.result()) is response
    assert job.place is Place.STREAMING
    assert len(bench.maintenance.timers) > 0  # its deadline goes on


@pytest.mark.parametrize("status", [200, 204, 301, 400, 404, 501])
def test_a_status_that_is_worth_no_other_attempt_is_an_outcome(bench: Bench, status: int) -> None:
    job = bench.in_flight()
    assert bench.complete(job, make_response(job, status))
    assert job.future.result().status == status


def test_a_final_response_is_an_outcome_whatever_its_status(bench: Bench) -> None:
    job = bench.in_flight()
    assert bench.complete(job, make_response(job, 503), final=True)
    assert job.future.result().status == 503


def test_a_request_that_ends_gives_its_body_back(bench: Bench) -> None:
    job = bench.in_flight()
    job.own_extras().upload = upload()
    bench.complete(job, make_response(job))
    assert releases(job) == 1


def test_a_request_that_ends_has_no_deadline_any_more(bench: Bench) -> None:
    job = bench.in_flight()
    log: list[str] = []
    with bench.core.transaction():
        job.timer = bench.retries._maintenance.at_locked(
            bench.clock.now + 1, lambda: log.append("deadline")
        )
    bench.complete(job, make_response(job))
    bench.forward(1)
    assert log == []


def test_an_exception_says_how_far_the_request_has_ever_got(bench: Bench) -> None:
    job = bench.in_flight()
    job.attempts = (Attempt(0.0, "host:80-1", "lost", Delivery.SENT),)
    error = failure(ConnectionClosed(), Delivery.UNSENT)
    bench.complete(job, error)
    assert cast(Any, error).delivery is Delivery.SENT
    assert cast(Any, error).attempts == job.attempts


@pytest.mark.parametrize("outcome", ["response", "exception", "cancellation"])
def test_a_request_that_has_ended_is_not_ended_again(bench: Bench, outcome: str) -> None:
    job = bench.in_flight()
    first = make_response(job)
    bench.complete(job, first)
    outcomes: dict[str, Outcome] = {
        "response": make_response(job),
        "exception": failure(PoolClosed(), Delivery.SENT),
        "cancellation": None,
    }
    with bench.core.transaction(), pytest.raises(AssertionError, match="cannot become done"):
        bench.retries.complete_locked(job, outcomes[outcome])
    assert job.future.result() is first


# --- outcomes that another attempt follows --------------------------------------------------------


def test_a_failed_attempt_is_followed_by_another_after_a_wait(bench: Bench) -> None:
    job = bench.in_flight()
    assert not bench.fail(job)
    assert job.place is Place.WAITING
    assert bench.known.waiting == 1
    bench.forward(0.9)
    assert job.place is Place.WAITING
    bench.forward(0.1)
    assert job.place is Place.QUEUED
    assert (bench.known.waiting, bench.known.queued, bench.core.queued) == (0, 1, 1)
    assert bench.known.resent == 1


def test_without_a_delay_it_is_queued_at_once_before_the_others(bench: Bench) -> None:
    job = bench.in_flight()
    others = bench.submit(bench.known, "/b")
    assert not bench.fail(job, delay=0.0)
    assert bench.known.pop_all() == [job, *others]


def test_an_attempt_that_is_not_charged_waits_for_nothing(bench: Bench) -> None:
    job = bench.in_flight()
    assert not bench.fail(job, charged=False, delay=5.0)
    assert job.place is Place.QUEUED
    assert job.number == 1


def test_the_attempts_of_a_request_are_kept_without_what_they_refer_to(bench: Bench) -> None:
    job = bench.in_flight()
    bench.fail(job)
    (attempt,) = job.attempts
    assert (attempt.number, attempt.delivery) == (1, Delivery.SENT)
    assert (attempt.response, attempt.request) == (None, None)
    assert isinstance(attempt.exception, ConnectionClosed)
    assert job.number == 2


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_status_that_is_worth_another_attempt_is_followed_by_one(
    bench: Bench, status: int
) -> None:
    job = bench.in_flight(RetryPolicy(backoff=1.0, statuses={429, 500, 502, 503, 504}))
    assert not bench.complete(job, make_response(job, status))
    assert job.place is Place.WAITING
    (attempt,) = job.attempts
    assert (attempt.status, attempt.exception, attempt.response) == (status, None, None)
    bench.forward(1.0)
    assert job.place is Place.QUEUED


def test_the_response_that_counts_has_the_attempts_before_it(bench: Bench) -> None:
    job = bench.in_flight()
    bench.complete(job, make_response(job, 503))
    bench.forward(1.0)
    connection = bench.latest(bench.known)
    assert bench.look_for_work(connection) == [job]
    bench.respond(connection, job)
    assert [attempt.status for attempt in job.future.result().attempts] == [503]


REFUSALS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    # options of the request, those of the failed attempt, and why there is no other
    "one attempt": ({"retry": NO_RETRY}, {}, "the policy allows one attempt"),
    "no more attempts": ({"retry": RetryPolicy(attempts=2)}, {}, "2 attempts have failed"),
    "not idempotent": ({"method": "POST"}, {}, "the request is not idempotent"),
    "no passing fault": ({}, {"error": ResponseTooLarge("x")}, "it would not help"),
    "no budget": ({"retry": RetryPolicy(budget=0.0)}, {}, "the retry budget of host:80 is used up"),
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_an_attempt_that_none_may_follow_is_the_end(bench: Bench, reason: str) -> None:
    options, failed, words = REFUSALS[reason]
    policy = options.get("retry")
    job = bench.in_flight(policy, **{key: options[key] for key in options if key != "retry"})
    if reason == "no more attempts":
        job.attempts = (Attempt(0.0, "host:80-1", "lost", Delivery.SENT),)
    if reason == "no budget":
        bench.known.repeated = FREE_REPEATS
    bench.fail(job, **failed)
    error = cast(Any, job.future.exception())
    assert error.delivery is Delivery.SENT
    assert len(error.attempts) == len(job.attempts)
    assert job.place is Place.DONE
    (why,) = bench.heard("gave up")
    assert why.endswith(words)


@pytest.mark.parametrize("delivery", [Delivery.UNSENT, Delivery.DISCLAIMED])
def test_what_the_server_has_not_processed_is_sent_again_though_it_is_not_idempotent(
    bench: Bench, delivery: Delivery
) -> None:
    job = bench.in_flight(method="POST")
    assert not bench.fail(job, delivery=delivery)
    assert job.place is Place.WAITING


def test_a_deadline_that_comes_before_the_next_attempt_is_the_end(bench: Bench) -> None:
    job = bench.in_flight()
    with bench.core.transaction():
        job.timer = bench.retries._maintenance.at_locked(bench.clock.now + 1.0, lambda: None)
    bench.fail(job, delay=1.0)
    assert isinstance(job.future.exception(), ConnectionClosed)
    (why,) = bench.heard("gave up")
    assert why.endswith("the deadline would pass before the next attempt")


def test_a_body_that_cannot_be_sent_again_is_the_end_and_the_exception_says_so(
    bench: Bench,
) -> None:
    job = bench.in_flight(method="PUT")
    job.own_extras().upload = upload(rewindable=False)
    bench.fail(job)
    error = job.future.exception()
    assert error is not None
    assert error.__notes__ == ["the body of the request could not have been sent again"]


def test_nothing_is_tried_again_once_the_pool_is_closed(bench: Bench) -> None:
    job = bench.in_flight()
    bench.core.closed = True
    bench.fail(job)
    error = job.future.exception()
    assert isinstance(error, PoolClosed)
    assert error.delivery is Delivery.SENT
    assert isinstance(error.__cause__, ConnectionClosed)


def test_a_failure_that_nothing_may_follow_stays_when_the_pool_is_closed(bench: Bench) -> None:
    job = bench.in_flight(method="POST")
    bench.core.closed = True
    bench.fail(job)
    assert isinstance(job.future.exception(), ConnectionClosed)


def test_a_response_stays_when_the_pool_is_closed(bench: Bench) -> None:
    job = bench.in_flight()
    bench.core.closed = True
    bench.complete(job, make_response(job, 503))
    assert job.future.result().status == 503
    assert bench.heard("gave up") == ["503 Reason; the pool has been closed"]


def test_a_status_that_is_worth_another_attempt_counts_if_there_is_none(bench: Bench) -> None:
    job = bench.in_flight(method="POST")
    bench.complete(job, make_response(job, 503))
    assert job.future.result().status == 503
    assert bench.heard("gave up") == ["503 Reason; the request is not idempotent"]


def test_a_request_that_is_refused_for_its_expect_may_have_any_connection(bench: Bench) -> None:
    """One that it lost before says nothing any more, for this one has responded."""
    job = bench.in_flight()
    job.head = b"PUT / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n"
    job.own_extras().upload = upload(expect100=True)
    job.needs_fresh_connection = True
    assert not bench.complete(job, make_response(job, 417))
    assert not job.needs_fresh_connection
    assert list(job.host.queue) == [job]
    assert job.head == b"PUT / HTTP/1.1\r\n\r\n"


def test_a_request_with_a_fatal_error_is_not_tried_again_because_of_a_status(
    bench: Bench,
) -> None:
    job = bench.in_flight()
    job.fatal_error = ValueError("the body is cut short")
    assert bench.complete(job, make_response(job, 503))
    assert job.future.result().status == 503


def test_a_request_that_is_given_up_ends_whatever_its_policy_says(bench: Bench) -> None:
    job = bench.in_flight()
    error = failure(ConnectionClosed(), Delivery.UNSENT)
    with bench.core.transaction():
        bench.retries.give_up_locked(job, error, "host:80-1", "because")
    assert job.future.exception() is error
    assert bench.heard("gave up") == [f"{error}; because"]


def test_a_request_of_a_closing_pool_fails(bench: Bench) -> None:
    job = bench.in_flight()
    with bench.core.transaction():
        bench.retries.close_locked(job, Delivery.SENT)
    error = job.future.exception()
    assert isinstance(error, PoolClosed)
    assert error.delivery is Delivery.SENT


@pytest.mark.parametrize(
    ("policy", "status", "may"),
    [
        (RetryPolicy(), 503, True),
        (RetryPolicy(), 404, False),
        (RetryPolicy(statuses={404}), 404, True),
        (NO_RETRY, 503, False),
    ],
)
def test_the_policy_says_which_status_may_be_retried(
    bench: Bench, policy: RetryPolicy, status: int, may: bool
) -> None:
    assert bench.retries.may_be_retried(bench.job(bench.known, retry=policy), status) is may


# --- lost because of another request --------------------------------------------------------------


def lose_uncharged(bench: Bench, job: Job, delivery: Delivery) -> bool:
    """Have *job* be lost because of another request; return whether it may go back."""
    error = failure(ConnectionClosed("lost"), delivery)
    attempt = make_attempt(job, "host:80-1", "lost", delivery, charged=False)
    attempt = attempt._replace(exception=error)
    with bench.core.transaction():
        return bench.retries.requeues_uncharged_locked(job, error, attempt)


def test_a_request_that_was_lost_because_of_another_goes_back_uncharged(bench: Bench) -> None:
    job = bench.in_flight()
    assert lose_uncharged(bench, job, Delivery.SENT)
    assert (len(job.attempts), job.number) == (1, 1)
    assert bench.heard("resent") == ["lost"]


@pytest.mark.parametrize("delivery", [Delivery.SENT, Delivery.ANSWER_STARTED])
def test_a_request_that_may_not_go_back_ends(bench: Bench, delivery: Delivery) -> None:
    job = bench.in_flight(method="POST")
    assert not lose_uncharged(bench, job, delivery)
    assert isinstance(job.future.exception(), ConnectionClosed)


def test_no_request_goes_back_once_the_pool_is_closed(bench: Bench) -> None:
    job = bench.in_flight()
    bench.core.closed = True
    assert not lose_uncharged(bench, job, Delivery.UNSENT)
    error = job.future.exception()
    assert isinstance(error, PoolClosed)
    assert isinstance(error.__cause__, ConnectionClosed)


# --- the hook of the policy -----------------------------------------------------------------------


class Hook:
    """A should_retry that says *says*; `asked` are the attempts it was asked about."""

    def __init__(self, bench: Bench, says: bool | Exception) -> None:
        self.policy = RetryPolicy(backoff=1.0, should_retry=self)
        self.asked: list[Attempt] = []
        self._bench = bench
        self._says = says

    def __call__(self, attempt: Attempt) -> bool:
        assert not self._bench.core.is_locked_here()
        self.asked.append(attempt)
        if isinstance(self._says, Exception):
            raise self._says
        return self._says


def test_a_hook_is_asked_without_the_lock_about_the_attempt_and_what_it_got(bench: Bench) -> None:
    hook = Hook(bench, True)
    job = bench.in_flight(hook.policy)
    response = make_response(job, 503)
    assert not bench.complete(job, response)
    (attempt,) = hook.asked
    assert (attempt.response, attempt.request, attempt.status) == (response, job.request, 503)
    assert job.place is Place.WAITING
    bench.forward(1.0)
    assert job.place is Place.QUEUED


@pytest.mark.parametrize("kind", ["exception", "response"])
def test_a_hook_that_is_against_it_makes_the_attempt_the_outcome(bench: Bench, kind: str) -> None:
    job = bench.in_flight(Hook(bench, False).policy)
    if kind == "exception":
        bench.fail(job)
        assert isinstance(job.future.exception(), ConnectionClosed)
    else:
        bench.complete(job, make_response(job, 503))
        assert job.future.result().status == 503
    assert job.attempts == ()  # the only one is the outcome
    assert bench.known.waiting == 0
    (why,) = bench.heard("gave up")
    assert why.endswith("the policy's should_retry was against it")


def test_what_a_hook_raises_is_the_outcome(bench: Bench) -> None:
    raised = ValueError("no idea")
    job = bench.in_flight(Hook(bench, raised).policy)
    bench.fail(job)
    assert job.future.exception() is raised
    assert cast(Any, raised).delivery is Delivery.SENT
    assert bench.known.waiting == 0


def test_a_hook_is_not_asked_about_an_attempt_that_is_not_charged(bench: Bench) -> None:
    hook = Hook(bench, False)
    job = bench.in_flight(hook.policy)
    bench.fail(job, charged=False)
    assert hook.asked == []
    assert job.place is Place.QUEUED


def test_a_hook_is_not_asked_about_a_request_that_has_ended(bench: Bench) -> None:
    hook = Hook(bench, True)
    job = bench.in_flight(hook.policy)
    run, bench.core.callbacks.run = bench.core.callbacks.run, lambda: None  # type: ignore[method-assign]
    bench.fail(job)
    with bench.core.transaction():
        assert bench.retries.end_wait_locked(job)
        bench.retries.complete_locked(job, None)
    run()
    assert hook.asked == []
    assert job.future.cancelled()


def test_a_request_that_ends_while_its_hook_is_asked_has_ended(bench: Bench) -> None:
    def cancel(attempt: Attempt) -> bool:
        with bench.core.transaction():
            assert bench.retries.end_wait_locked(job)
            bench.retries.complete_locked(job, None)
        return True

    job = bench.in_flight(RetryPolicy(should_retry=cancel))
    bench.fail(job)
    assert job.future.cancelled()
    assert job.place is Place.DONE
    assert bench.known.waiting == 0


# --- waiting --------------------------------------------------------------------------------------


def test_a_wait_can_be_ended_once(bench: Bench) -> None:
    job = bench.in_flight()
    bench.fail(job)
    with bench.core.transaction():
        assert bench.retries.end_wait_locked(job)
        bench.retries.complete_locked(job, None)
        assert not bench.retries.end_wait_locked(job)
    bench.forward(10.0)
    assert job.place is Place.DONE


def test_all_that_waits_fails_when_the_pool_is_closed(bench: Bench) -> None:
    jobs = [bench.in_flight() for _ in range(3)]
    for job in jobs:
        bench.fail(job)
    with bench.core.transaction():
        bench.core.closed = True
        assert bench.retries.fail_some_waiting_locked(2)
        assert [job.is_decided for job in jobs] == [True, True, False]
        assert not bench.retries.fail_some_waiting_locked(2)
    assert all(isinstance(job.future.exception(), PoolClosed) for job in jobs)
    assert bench.known.waiting == 0


# --- a host that asks to be left alone ------------------------------------------------------------


def told_to_wait(bench: Bench, job: Job, seconds: int, status: int = 503) -> bool:
    """Have a response to *job* say that its server wants to be left alone for a while."""
    return bench.complete(job, make_response(job, status, {"Retry-After": str(seconds)}))


@pytest.mark.parametrize("status", [429, 503])
def test_a_host_is_held_for_as_long_as_it_asks(bench: Bench, status: int) -> None:
    job = bench.in_flight()
    assert not told_to_wait(bench, job, 7, status)
    assert bench.known.is_held(bench.clock.now)
    assert bench.heard("learned") == [f"{status} with Retry-After 7"]
    bench.forward(6.9)
    assert bench.known.is_held(bench.clock.now)
    bench.forward(0.1)
    assert not bench.known.is_held(bench.clock.now)
    assert job.place is Place.QUEUED


def test_other_statuses_with_retry_after_hold_only_their_request(bench: Bench) -> None:
    job = bench.in_flight()
    assert not told_to_wait(bench, job, 7, 502)
    assert not bench.known.is_held(bench.clock.now)
    bench.forward(6.9)
    assert job.place is Place.WAITING


def test_a_hold_is_made_longer_by_a_later_response(bench: Bench) -> None:
    first, second = bench.in_flight(), bench.in_flight()
    told_to_wait(bench, first, 5)
    bench.forward(3)
    told_to_wait(bench, second, 5)
    bench.forward(2)
    assert bench.known.is_held(bench.clock.now)
    bench.forward(3)
    assert not bench.known.is_held(bench.clock.now)


def test_what_was_under_way_beside_it_is_not_charged_if_the_host_accepts_requests(
    bench: Bench,
) -> None:
    first, second = bench.in_flight(), bench.in_flight()
    bench.known.has_progressed = True
    told_to_wait(bench, first, 5)
    told_to_wait(bench, second, 5)
    assert [first.number, second.number] == [2, 1]


def test_a_host_that_accepts_nothing_charges_every_request(bench: Bench) -> None:
    first, second = bench.in_flight(), bench.in_flight()
    told_to_wait(bench, first, 5)
    told_to_wait(bench, second, 5)
    assert [first.number, second.number] == [2, 2]


# --- a host that cannot be reached ----------------------------------------------------------------


def cannot_reach(bench: Bench, host: Host, error: Exception | None = None) -> None:
    with bench.core.transaction():
        bench.retries.cannot_reach_locked(
            host, "host:80-1", error or ConnectError("refused", errno.ECONNREFUSED)
        )


def test_a_host_that_cannot_be_reached_costs_each_queued_request_an_attempt(bench: Bench) -> None:
    jobs = bench.submit(bench.known, "/a", "/b", retry=RetryPolicy(backoff=1.0))
    cannot_reach(bench, bench.known)
    assert [job.number for job in jobs] == [2, 2]
    assert (bench.known.queued, bench.core.queued) == (2, 2)
    assert bench.known.connect_backoff_until > bench.clock.now


def test_each_failure_in_a_row_makes_the_wait_longer(bench: Bench) -> None:
    bench.submit(bench.known, "/a", retry=RetryPolicy(backoff=1.0))
    waits = []
    for _ in range(3):
        cannot_reach(bench, bench.known)
        waits.append(bench.known.connect_backoff_until - bench.clock.now)
    assert waits == sorted(waits)
    assert waits[1] == 2 * waits[0]
    assert waits[2] == 2 * waits[1]


def test_requests_without_another_attempt_fail_with_an_exception_of_their_own(
    bench: Bench,
) -> None:
    jobs = bench.submit(bench.known, "/a", "/b", retry=NO_RETRY)
    (patient,) = bench.submit(bench.known, "/c")
    cannot_reach(bench, bench.known, ConnectError("no route", errno.EHOSTUNREACH))
    errors = [cast(Any, job.future.exception()) for job in jobs]
    targets = ["GET http://host/a", "GET http://host/b"]
    assert [str(error) for error in errors] == [f"{target}: no route" for target in targets]
    assert errors[0] is not errors[1]
    assert {error.delivery for error in errors} == {Delivery.UNSENT}
    assert patient.place is Place.QUEUED


def test_a_host_that_no_request_wants_any_more_is_tried_at_once_again(bench: Bench) -> None:
    bench.submit(bench.known, "/a", retry=NO_RETRY)
    cannot_reach(bench, bench.known)
    assert (bench.known.connect_failures, bench.known.connect_backoff_until) == (0, 0.0)


def test_hooks_are_asked_about_a_host_that_cannot_be_reached(bench: Bench) -> None:
    willing, unwilling = Hook(bench, True), Hook(bench, False)
    (first,) = bench.submit(bench.known, "/a", retry=willing.policy)
    (second,) = bench.submit(bench.known, "/b", retry=unwilling.policy)
    cannot_reach(bench, bench.known)
    assert (len(willing.asked), len(unwilling.asked)) == (1, 1)
    assert first.place is Place.QUEUED
    assert isinstance(second.future.exception(), ConnectError)
    assert (bench.known.queued, bench.core.queued, bench.known.waiting) == (1, 1, 0)


Lose = Callable[[Bench, Job], object]
EVERY_WAY: dict[str, Lose] = {
    "response": lambda bench, job: bench.complete(job, make_response(job)),
    "status": lambda bench, job: bench.complete(job, make_response(job, 503)),
    "exception": lambda bench, job: bench.fail(job, InvalidResponse("x")),
    "time-out": lambda bench, job: bench.fail(job, ConnectionTimedOut("x")),
    "cancellation": lambda bench, job: bench.complete(job, None),
}


@pytest.mark.parametrize("way", EVERY_WAY)
@pytest.mark.parametrize("policy", ["never", "default", "hook for", "hook against"])
def test_after_every_outcome_a_request_is_done_waits_or_is_queued(
    bench: Bench, way: str, policy: str
) -> None:
    policies = {
        "never": NO_RETRY,
        "default": RetryPolicy(backoff=1.0),
        "hook for": Hook(bench, True).policy,
        "hook against": Hook(bench, False).policy,
    }
    job = bench.in_flight(policies[policy])
    EVERY_WAY[way](bench, job)
    if job.place is Place.WAITING:
        assert not job.future.done()
        bench.forward(1.0)
        assert job.place is Place.QUEUED
        assert bench.known.queued == 1
    else:
        assert job.place is Place.DONE
        assert job.future.done()
        assert bench.known.queued == 0
    assert bench.known.waiting == 0


# --- flows ----------------------------------------------------------------------------------------


class Following:
    """A flow with one more request, *job*. `asked` are the responses that it was asked about."""

    def __init__(self, job: Job) -> None:
        self.asked: list[Response] = []
        self._job = job

    def accepts(self, response: Response) -> bool:
        return False

    def advance(self, response: Response) -> Job:
        self.asked.append(response)
        return self._job

    def close(self) -> None: ...


def test_what_a_flow_sends_next_is_queued_with_the_future_of_the_first(bench: Bench) -> None:
    job = bench.in_flight()
    following = bench.job(bench.known, "/b")
    job.flow = flow = Following(following)
    response = make_response(job)
    assert bench.complete(job, response)
    assert flow.asked == [response]
    assert (job.place, following.place) == (Place.DONE, Place.QUEUED)
    assert following.future is job.future
    assert job.current is following
    bench.complete(following, None)
    assert job.future.cancelled()


def test_a_flow_sends_nothing_more_if_the_deadline_passed_while_the_response_came(
    bench: Bench,
) -> None:
    job = bench.in_flight()
    job.flow = Following(bench.job(bench.known, "/b"))
    job.timer = Timer(bench.clock.now, lambda: None)
    bench.complete(job, make_response(job))
    error = job.future.exception(0)
    assert isinstance(error, ConnectionTimedOut)
    assert error.delivery is Delivery.ANSWER_STARTED
    assert error.request is job.request


@pytest.mark.parametrize("is_accepted", [False, True])
def test_a_response_that_comes_when_the_pool_is_closed_is_the_outcome_if_the_flow_accepts_it(
    bench: Bench, is_accepted: bool
) -> None:
    job = bench.in_flight()
    job.flow = flow = Following(bench.job(bench.known, "/b"))
    job.is_accepted = is_accepted
    response = make_response(job)
    bench.core.closed = True
    bench.complete(job, response)
    assert flow.asked == []
    if is_accepted:
        assert job.future.result(0) is response
    else:
        error = job.future.exception(0)
        assert isinstance(error, PoolClosed)
        assert error.delivery is Delivery.ANSWER_STARTED


def test_a_request_that_waits_for_its_flow_has_been_answered(bench: Bench) -> None:
    job = bench.in_flight()
    job.flow = Following(bench.job(bench.known, "/b"))
    bench.core.callbacks.add = lambda call: None  # type: ignore[method-assign]  # it takes long
    bench.complete(job, make_response(job))
    assert job.place is Place.WAITING
    assert job.max_delivery(Delivery.UNSENT) is Delivery.ANSWER_STARTED
