"""A request on its way: what it gives the sender, and how its future reaches the pool."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from dugong.connection.encode import RequestBuilder
from dugong.connection.exchange import RequestSide
from dugong.connection.writers import ChunkedWriter, LengthWriter
from dugong.errors import Delivery
from dugong.pool.body import request_body
from dugong.pool.job import Job
from dugong.pool.response import Attempt
from tests.support.parts import make_host, make_job, make_pipeline


def job_with_body(body: object, expect100: bool = False) -> Job:
    job = make_job(make_host(), "/a")
    job.upload = request_body(body)  # type: ignore[arg-type]
    job.expect100 = expect100
    return job


def test_a_request_without_an_upload_is_sent_when_its_head_is() -> None:
    exchange, _ = make_job(make_host(), "/a").begin()
    assert (exchange.method, exchange.path) == ("GET", "http://host/a")
    assert exchange.request_side is RequestSide.SENT
    assert exchange.writer is None
    assert not exchange.close


def test_the_head_that_was_made_is_what_is_sent() -> None:
    _, head = make_job(make_host(), "/a").begin()
    assert head == b"head of /a"


def test_a_plain_head_is_made_when_it_is_sent() -> None:
    job = make_job(make_host(), "/a")
    job.head = None
    job.host.plain_builder = RequestBuilder("host", omit_legacy_headers=True)
    for _ in range(2):
        _, head = job.begin()
        assert (
            head
            == RequestBuilder("host", omit_legacy_headers=True)
            .build("GET", "/a", None, None, False)
            .head
        )
    assert job.head is None


def test_each_sending_has_an_exchange_of_its_own() -> None:
    job = make_job(make_host())
    first, _ = job.begin()
    first.delivery = Delivery.PARTLY_SENT
    second, _ = job.begin()
    assert job.exchange is second
    assert second.delivery is Delivery.SENT


def test_a_body_of_known_length_is_written_by_its_length() -> None:
    exchange, _ = job_with_body(b"12345").begin()
    assert exchange.request_side is RequestSide.BODY
    assert isinstance(exchange.writer, LengthWriter)
    assert exchange.writer.remaining == 5


def test_a_body_of_unknown_length_is_written_in_chunks() -> None:
    exchange, _ = job_with_body(iter([b"12345"])).begin()
    assert exchange.request_side is RequestSide.BODY
    assert isinstance(exchange.writer, ChunkedWriter)


def test_a_body_that_is_to_be_asked_for_waits() -> None:
    exchange, _ = job_with_body(b"12345", expect100=True).begin()
    assert exchange.request_side is RequestSide.CONTINUE


@pytest.mark.parametrize("expect100", [False, True])
def test_a_body_of_no_bytes_is_neither_written_nor_waited_for(expect100: bool) -> None:
    exchange, _ = job_with_body(b"", expect100).begin()
    assert exchange.request_side is RequestSide.SENT
    assert exchange.writer is None


def test_a_request_that_asks_to_close_says_so_to_the_connection() -> None:
    job = make_job(make_host())
    job.close = True
    assert job.begin()[0].close


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
    ("earlier", "now", "furthest"),
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
    earlier: list[Delivery | None], now: Delivery, furthest: Delivery
) -> None:
    job = make_job(make_host())
    job.attempts = tuple(map(attempt, earlier))
    assert job.furthest(now) is furthest


def test_a_request_without_an_upload_can_be_sent_again() -> None:
    assert make_job(make_host()).rewindable


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
    assert job.rewindable
    assert job.upload is not None
    job.upload.rewind()
    assert b"".join(map(bytes, job.upload.pieces())) == b"12345"
    assert job.rewindable is again


# --- its future -----------------------------------------------------------------------------------


class RecordingScheduler:
    """What a future asks of its pool, instead of that pool's scheduler."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Job | None]] = []

    def abandon(self, job: Job) -> bool:
        self.asked.append(("abandon", job))
        return True

    def is_running(self, job: Job) -> bool:
        self.asked.append(("is_running", job))
        return True

    def check_may_wait(self) -> None:
        self.asked.append(("check_may_wait", None))


def test_its_future_asks_the_scheduler_of_its_pool() -> None:
    scheduler = RecordingScheduler()
    job = make_job(make_host(), pool=SimpleNamespace(_scheduler=scheduler))
    assert job.future.running()
    assert job.future.cancel()
    with pytest.raises(TimeoutError):
        job.future.result(timeout=1e-6)
    names = ["is_running", "abandon", "check_may_wait"]
    assert [name for name, _ in scheduler.asked][:3] == names
    assert {who for _, who in scheduler.asked} == {job, None}


def test_a_future_that_is_done_keeps_neither_the_job_nor_the_pool() -> None:
    job = make_job(make_host(), pool=object())
    job.future._cancel()
    assert job.future._owner is None


def test_the_repr_says_where_it_is() -> None:
    host = make_host()
    job = make_job(host, "/a")
    states = [repr(job)]
    job.pipeline = make_pipeline(host)
    states.append(repr(job))
    job.done = True
    states.append(repr(job))
    assert states == [
        "<Job GET http://host/a queued>",
        "<Job GET http://host/a on <Pipeline host:80-1 idle, 0 in flight, 0 answered>>",
        "<Job GET http://host/a done>",
    ]
