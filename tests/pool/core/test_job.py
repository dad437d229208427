"""A request on its way: its places, its attempts, and how its future reaches the pool."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from dugong.errors import Delivery
from dugong.pool.body import request_body
from dugong.pool.core.job import NO_EXTRAS, Job, Place, Upload
from dugong.pool.core.timers import Timer
from dugong.pool.response import Attempt
from tests.support.parts import make_connection, make_host, make_job, make_response
from tests.support.uploads import upload

# --- its place ------------------------------------------------------------------------------------

Step = Callable[[Job], object]


def reserve(job: Job) -> None:
    job.reserve(make_connection(job.host))


def dispatch(job: Job) -> None:
    Job.dispatch([job], make_connection(job.host), 5.0)


#: How a new request gets to a place.
WAYS: dict[Place, list[Step]] = {
    Place.NEW: [],
    Place.QUEUED: [Job.enter_queue],
    Place.RESERVED: [Job.enter_queue, reserve],
    Place.IN_FLIGHT: [Job.enter_queue, dispatch],
    Place.WAITING: [Job.enter_queue, dispatch, Job.wait],
    Place.STREAMING: [Job.enter_queue, dispatch, Job.begin_streaming],
    Place.DONE: [Job.enter_queue, dispatch, Job.finish],
}

UNDECIDED = {Place.NEW, Place.QUEUED, Place.RESERVED, Place.IN_FLIGHT, Place.WAITING}

#: Where each transition leads to, and from where it may be made.
TRANSITIONS: dict[str, tuple[Step, Place, set[Place]]] = {
    "enter_queue": (Job.enter_queue, Place.QUEUED, UNDECIDED),
    "reserve": (reserve, Place.RESERVED, {Place.QUEUED}),
    "dispatch": (dispatch, Place.IN_FLIGHT, {Place.NEW, Place.QUEUED, Place.RESERVED}),
    "wait": (Job.wait, Place.WAITING, UNDECIDED),
    "begin_streaming": (Job.begin_streaming, Place.STREAMING, {Place.IN_FLIGHT}),
    "end_streaming": (Job.end_streaming, Place.DONE, {Place.STREAMING}),
    "finish": (Job.finish, Place.DONE, UNDECIDED),
}


def job_in(place: Place) -> Job:
    """Return a job that is in *place*."""
    job = make_job(make_host())
    for step in WAYS[place]:
        step(job)
    assert job.place is place
    return job


@pytest.mark.parametrize("name", TRANSITIONS)
@pytest.mark.parametrize("place", Place, ids=lambda place: place.value)
def test_each_transition_leads_to_its_place_or_is_refused(place: Place, name: str) -> None:
    job = job_in(place)
    transition, target, sources = TRANSITIONS[name]
    if place in sources:
        transition(job)
        assert job.place is target
    else:
        connection = job.connection
        with pytest.raises(AssertionError, match="cannot become"):
            transition(job)
        assert (job.place, job.connection) == (place, connection)


def test_a_refusal_names_the_request_and_both_places() -> None:
    job = job_in(Place.WAITING)
    words = r"<Job <Request GET http://host/> waiting for a retry> cannot become streaming"
    with pytest.raises(AssertionError, match=words):
        job.begin_streaming()


def test_it_is_decided_from_its_outcome_on() -> None:
    assert {place for place in Place if job_in(place).is_decided} == {Place.STREAMING, Place.DONE}


@pytest.mark.parametrize("back", ["enter_queue", "wait"])
def test_a_request_that_leaves_its_connection_has_none(back: str) -> None:
    job = job_in(Place.IN_FLIGHT)
    TRANSITIONS[back][0](job)
    assert job.connection is None


def test_a_batch_is_dispatched_as_a_whole() -> None:
    host = make_host()
    connection, jobs = make_connection(host), [make_job(host) for _ in range(3)]
    Job.dispatch(jobs, connection, 7.0)
    assert {job.place for job in jobs} == {Place.IN_FLIGHT}
    assert {job.connection for job in jobs} == {connection}
    assert {job.dispatched_at for job in jobs} == {7.0}


def test_a_request_that_ends_keeps_its_connection_for_the_response_that_still_comes() -> None:
    job = job_in(Place.IN_FLIGHT)
    connection = job.connection
    job.finish()
    assert job.connection is connection is not None


def test_each_sending_begins_anew() -> None:
    job = job_in(Place.IN_FLIGHT)
    job.exchange, job.response_started = object(), True
    job.reenter_queue()
    dispatch(job)
    assert (job.exchange, job.response_started, job.dispatched_at) == (None, False, 5.0)


# --- taken back -----------------------------------------------------------------------------------


def test_a_request_that_is_taken_back_goes_on_as_another_job() -> None:
    job = job_in(Place.IN_FLIGHT)
    connection = job.connection
    job.exchange = exchange = object()
    assert job.current is job
    successor = job.take_back()
    assert (job.place, job.connection, job.exchange) == (Place.DONE, connection, exchange)
    assert job.current is successor.current is successor
    assert (successor.request, successor.future) == (job.request, job.future)
    successor.enter_queue()
    assert (successor.place, successor.connection, successor.exchange) == (
        Place.QUEUED,
        None,
        None,
    )


@pytest.mark.parametrize(
    "place",
    [place for place in Place if place is not Place.IN_FLIGHT],
    ids=lambda place: place.value,
)
def test_only_what_is_in_flight_can_be_taken_back(place: Place) -> None:
    job = job_in(place)
    with pytest.raises(AssertionError, match="cannot become queued"):
        job.take_back()
    assert (job.place, job.successor) == (place, None)


def test_a_request_is_taken_back_once() -> None:
    successor = job_in(Place.IN_FLIGHT).take_back()
    successor.enter_queue()
    dispatch(successor)
    with pytest.raises(AssertionError, match="cannot become queued"):
        successor.take_back()


def test_a_request_that_was_taken_back_had_been_sent() -> None:
    successor = job_in(Place.IN_FLIGHT).take_back()
    assert successor.max_delivery(Delivery.UNSENT) is Delivery.SENT
    assert successor.max_delivery(Delivery.ANSWER_STARTED) is Delivery.ANSWER_STARTED


def test_the_timer_of_its_deadline_is_that_of_the_job_that_goes_on() -> None:
    job = job_in(Place.IN_FLIGHT)
    job.timer = timer = Timer(1.0, lambda: None)
    assert job.take_back().timer is timer
    assert job.timer is None


# --- hedged ---------------------------------------------------------------------------------------

SLOW = Attempt(0.0, "a", "it is slow", Delivery.SENT, 1, charged=False)


def test_a_request_that_is_hedged_has_another_sending_for_its_future() -> None:
    job = job_in(Place.IN_FLIGHT)
    job.exchange = object()
    twin = job.hedge_with(SLOW)
    assert (twin.twin, job.twin) == (job, twin)
    assert (twin.place, twin.connection, twin.exchange) == (Place.QUEUED, None, None)
    assert (twin.request, twin.future) == (job.request, job.future)
    assert (job.place, job.attempts, twin.attempts) == (Place.IN_FLIGHT, (), (SLOW,))
    assert job.current is job


@pytest.mark.parametrize("is_first", [True, False])
def test_one_of_the_two_sendings_goes_on_with_the_future_and_its_deadline(is_first: bool) -> None:
    job = job_in(Place.IN_FLIGHT)
    job.timer = timer = Timer(1.0, lambda: None)
    twin = job.hedge_with(SLOW)
    left, lost = (job, twin) if is_first else (twin, job)
    left.lose_twin()
    assert (left.twin, lost.twin, lost.place) == (None, None, Place.DONE)
    assert (left.timer, lost.timer) == (timer, None)
    assert job.current is twin.current is left


@pytest.mark.parametrize(
    "place",
    [place for place in Place if place is not Place.IN_FLIGHT],
    ids=lambda place: place.value,
)
def test_only_what_is_in_flight_can_be_hedged(place: Place) -> None:
    with pytest.raises(AssertionError, match="cannot become queued"):
        job_in(place).hedge_with(SLOW)


def test_a_request_is_hedged_once() -> None:
    job = job_in(Place.IN_FLIGHT)
    twin = job.hedge_with(SLOW)
    job.lose_twin()
    with pytest.raises(AssertionError, match="cannot become queued"):
        job.hedge_with(SLOW)
    assert twin.was_hedged


# --- what few have --------------------------------------------------------------------------------


def test_what_most_requests_have_cannot_be_changed() -> None:
    assert make_job(make_host()).extras is NO_EXTRAS
    with pytest.raises(AttributeError, match="hedge of NO_EXTRAS never changes"):
        NO_EXTRAS.hedge = 1.0


def test_what_is_set_for_one_request_is_its_own() -> None:
    job, other = make_job(make_host()), make_job(make_host())
    job.own_extras().hedge = 1.0
    job.own_extras().close = True
    assert (job.extras.hedge, job.extras.close) == (1.0, True)
    assert (other.extras.hedge, other.extras.close) == (None, False)


def test_a_request_that_follows_another_is_noted_of_the_same_call() -> None:
    job, successor = job_in(Place.IN_FLIGHT), make_job(make_host())
    job.own_extras().trace = "call"
    job.wait()
    job.continue_with(successor)
    assert successor.extras.trace == "call"


# --- its body -------------------------------------------------------------------------------------


def job_with_body(body: object) -> Job:
    job = make_job(make_host(), "/a")
    job.own_extras().upload = Upload(request_body(body))  # type: ignore[arg-type]
    return job


def test_a_body_is_with_the_sender_from_the_beginning_to_the_end_of_its_sending() -> None:
    uploaded = upload()
    uploaded.begin()
    assert uploaded.is_sending
    uploaded.end(None)
    assert not uploaded.is_sending


def test_why_a_body_was_not_all_sent_is_forgotten_when_it_is_sent_again() -> None:
    uploaded, error = upload(), OSError()
    uploaded.end(error)
    assert uploaded.error is error
    uploaded.begin()
    assert uploaded.error is None


def test_an_expectation_is_forgotten_once() -> None:
    job = job_with_body([b"12345"])
    assert job.extras.upload is not None
    job.extras.upload.expect100 = True
    job.head = b"PUT / HTTP/1.1\r\nExpect: 100-continue\r\nHost: host\r\n\r\n"
    assert job.forget_expectation()
    assert job.head == b"PUT / HTTP/1.1\r\nHost: host\r\n\r\n"
    assert not job.forget_expectation()


def test_a_request_without_an_expectation_has_none_to_forget() -> None:
    job = job_with_body([b"12345"])
    job.head = b"PUT / HTTP/1.1\r\nHost: host\r\n\r\n"
    assert not job.forget_expectation()
    assert not make_job(make_host()).forget_expectation()
    assert job.head == b"PUT / HTTP/1.1\r\nHost: host\r\n\r\n"


# --- earlier attempts -----------------------------------------------------------------------------


def attempt(delivery: Delivery | None, charged: bool = True) -> Attempt:
    return Attempt(0.0, "host:80-1", "it ended", delivery, charged=charged)


def test_attempts_are_numbered_from_one() -> None:
    assert make_job(make_host()).number == 1


def test_an_attempt_that_is_not_charged_does_not_count() -> None:
    job = make_job(make_host())
    job.attempts = (attempt(Delivery.SENT), attempt(Delivery.SENT, charged=False))
    assert job.number == 2


@pytest.mark.parametrize(
    ("earlier", "now", "expected"),
    [
        ([], Delivery.UNSENT, Delivery.UNSENT),
        ([Delivery.SENT], Delivery.UNSENT, Delivery.SENT),
        ([Delivery.PARTLY_SENT, Delivery.ANSWER_STARTED], Delivery.SENT, Delivery.ANSWER_STARTED),
        ([Delivery.UNSENT], Delivery.PARTLY_SENT, Delivery.PARTLY_SENT),
        ([Delivery.DISCLAIMED], Delivery.UNSENT, Delivery.DISCLAIMED),
        ([Delivery.DISCLAIMED], Delivery.DISCLAIMED, Delivery.DISCLAIMED),
        ([Delivery.SENT], Delivery.DISCLAIMED, Delivery.SENT),
        ([None], Delivery.SENT, Delivery.SENT),
    ],
)
def test_how_far_a_request_has_got_is_how_far_it_has_ever_got(
    earlier: list[Delivery | None], now: Delivery, expected: Delivery
) -> None:
    job = make_job(make_host())
    job.attempts = tuple(map(attempt, earlier))
    assert job.max_delivery(now) is expected


def test_a_request_without_an_upload_can_be_sent_again() -> None:
    assert make_job(make_host()).is_rewindable


@pytest.mark.parametrize(
    ("make", "again"),
    [
        (lambda: b"12345", True),
        (lambda: [b"12345"], True),
        (lambda: lambda: iter([b"12345"]), True),
        (lambda: iter([b"12345"]), False),
    ],
    ids=["bytes", "list", "callable", "iterator"],
)
def test_an_upload_can_be_sent_again_if_its_body_can(
    make: Callable[[], object], again: bool
) -> None:
    job = job_with_body(make())
    assert job.is_rewindable
    assert job.extras.upload is not None
    job.extras.upload.body.rewind()
    assert b"".join(map(bytes, job.extras.upload.body.pieces())) == b"12345"
    assert job.is_rewindable is again


# --- its future -----------------------------------------------------------------------------------


class RecordingScheduler:
    """What a future asks of its pool, instead of that pool's scheduler."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Job | None]] = []

    def exclusively(self, action: Callable[[], Any]) -> Any:
        return action()

    def is_nested(self) -> bool:
        return False

    def abandon(self, job: Job) -> bool:
        self.asked.append(("abandon", job))
        return True

    def is_running(self, job: Job) -> bool:
        self.asked.append(("is_running", job))
        return True

    def check_may_wait_for(self, job: Job) -> None:
        self.asked.append(("check_may_wait_for", job))


def test_a_future_is_made_once() -> None:
    job = make_job(make_host())
    assert job.future is job.future
    assert job.future.request is job.request


def test_its_future_asks_the_scheduler_of_its_pool() -> None:
    scheduler = RecordingScheduler()
    job = make_job(make_host(), pool=SimpleNamespace(_scheduler=scheduler))
    assert job.future.running()
    assert job.future.cancel()
    with pytest.raises(TimeoutError):
        job.future.result(timeout=1e-6)
    names = ["is_running", "abandon", "check_may_wait_for"]
    assert [name for name, _ in scheduler.asked][:3] == names
    assert {about for _, about in scheduler.asked} == {job}


def test_a_future_that_is_done_does_not_ask_the_pool_any_more() -> None:
    scheduler = RecordingScheduler()
    job = make_job(make_host(), pool=SimpleNamespace(_scheduler=scheduler))
    response = make_response(job)
    job.future._settle(response)
    assert job.future.result() is response
    assert not job.future.running()
    assert not job.future.cancel()
    assert scheduler.asked == []


def test_the_repr_says_where_it_is() -> None:
    words = {place: repr(job_in(place)) for place in Place}
    assert words == {
        Place.NEW: "<Job <Request GET http://host/> new>",
        Place.QUEUED: "<Job <Request GET http://host/> queued>",
        Place.RESERVED: "<Job <Request GET http://host/> reserved on host:80-1>",
        Place.IN_FLIGHT: "<Job <Request GET http://host/> in flight on host:80-1>",
        Place.WAITING: "<Job <Request GET http://host/> waiting for a retry>",
        Place.STREAMING: "<Job <Request GET http://host/> streaming on host:80-1>",
        Place.DONE: "<Job <Request GET http://host/> done on host:80-1>",
    }
