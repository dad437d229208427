"""Which requests go where: decisions on hosts and pipelines that touch nothing."""

from __future__ import annotations

import pytest

from dugong.pool.dispatch import (
    has_room,
    needs_fresh,
    room,
    should_refill,
    take,
    wants_connection,
)
from dugong.pool.job import Job
from tests.support.parts import land, make_host, make_job, make_pipeline, queue, queue_suspects


def targets(jobs: list[Job]) -> list[str]:
    return [job.request.target for job in jobs]


# --- how many more --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "flying", "left"), [(1, 0, 1), (1, 1, 0), (4, 1, 3), (2, 5, -3)]
)
def test_there_is_room_for_what_the_host_allows_less_what_is_in_flight(
    window: int, flying: int, left: int
) -> None:
    host = make_host(window)
    pipeline = make_pipeline(host, in_flight=flying)
    assert room(host, pipeline) == left
    assert has_room(host, pipeline) == (left > 0)


def test_there_is_room_for_no_more_than_the_host_answers_on_a_connection() -> None:
    host = make_host()
    host.lessons.quota = 5
    assert room(host, make_pipeline(host, in_flight=3)) == 2
    assert room(host, make_pipeline(host, in_flight=5)) == 0


def test_there_is_room_for_no_more_than_the_caller_wants_on_a_connection() -> None:
    host = make_host()
    assert room(host, make_pipeline(host, in_flight=3, max_requests=5)) == 2


@pytest.mark.parametrize(
    "flag", ["ending", "broken", "retiring", "exclusive", "blocked", "borrower", "streaming"]
)
def test_there_is_no_room_on_a_connection_that_is_closed_to_more(flag: str) -> None:
    host = make_host()
    pipeline = make_pipeline(host)
    setattr(pipeline, flag, True)
    queue(host, "/a")
    assert room(host, pipeline) == 0
    assert take(host, pipeline) == []
    assert host.queued == 1


# --- taking ---------------------------------------------------------------------------------------


def test_nothing_is_taken_from_an_empty_queue() -> None:
    host = make_host()
    assert take(host, make_pipeline(host)) == []


def test_requests_are_taken_in_their_order_up_to_the_window() -> None:
    host = make_host(window=3)
    pipeline = make_pipeline(host, in_flight=1)
    queue(host, "/a", "/b", "/c")
    assert targets(take(host, pipeline)) == ["/a", "/b"]
    assert host.queued == 1


def test_those_that_were_withdrawn_are_passed_over() -> None:
    host = make_host(window=2)
    first, *_ = queue(host, "/a", "/b", "/c")
    first.done = True
    host.withdraw(first)
    assert targets(take(host, make_pipeline(host))) == ["/b", "/c"]
    assert host.queued == 0


def test_connections_share_what_there_is() -> None:
    host = make_host()
    pipelines = [make_pipeline(host) for _ in range(3)]
    queue(host, *[f"/{i}" for i in range(10)])
    batch = take(host, pipelines[0])
    assert targets(batch) == ["/0", "/1", "/2", "/3"]


def test_what_is_in_flight_counts_for_the_share_of_its_connection() -> None:
    host = make_host()
    busy, free = make_pipeline(host, in_flight=4), make_pipeline(host)
    queue(host, "/a", "/b")
    assert take(host, busy) == []
    assert targets(take(host, free)) == ["/a", "/b"]


def test_a_share_is_never_nothing_for_a_connection_that_is_free() -> None:
    host = make_host()
    pipelines = [make_pipeline(host) for _ in range(6)]
    queue(host, "/a")
    assert targets(take(host, pipelines[0])) == ["/a"]


# --- those that go alone --------------------------------------------------------------------------


def test_one_that_goes_alone_is_a_batch_of_its_own() -> None:
    host = make_host()
    queue(host, "/alone", "/a")
    assert targets(take(host, make_pipeline(host))) == ["/alone"]
    assert host.queued == 1


def test_one_that_goes_alone_ends_a_batch_and_keeps_its_place_before_the_rest() -> None:
    host = make_host()
    pipeline = make_pipeline(host)
    queue(host, "/a", "/b", "/alone", "/c")
    assert targets(take(host, pipeline)) == ["/a", "/b"]
    pipeline.in_flight.append(make_job(host))
    assert take(host, pipeline) == []
    pipeline.in_flight.clear()
    assert targets(take(host, pipeline)) == ["/alone"]
    assert targets(take(host, pipeline)) == ["/c"]


def test_one_that_waits_for_its_connection_to_be_empty_is_reserved_by_that() -> None:
    host = make_host()
    pipeline = make_pipeline(host, in_flight=1)
    (job,) = queue(host, "/alone")
    assert take(host, pipeline) == []
    assert pipeline.reserved is job
    assert job.pipeline is pipeline
    assert host.queued == 0
    pipeline.in_flight.clear()
    assert take(host, pipeline) == [job]
    assert pipeline.reserved is None


@pytest.mark.parametrize("flag", ["ending", "broken", "exclusive", "blocked"])
def test_one_that_waits_is_not_sent_on_a_connection_that_is_closed_to_more(flag: str) -> None:
    host = make_host()
    pipeline = make_pipeline(host, in_flight=1)
    queue(host, "/alone")
    take(host, pipeline)
    pipeline.in_flight.clear()
    setattr(pipeline, flag, True)
    assert take(host, pipeline) == []
    assert pipeline.reserved is not None


def test_one_that_waits_keeps_others_from_its_connection() -> None:
    host = make_host()
    pipeline = make_pipeline(host, in_flight=1)
    queue(host, "/alone", "/a")
    take(host, pipeline)
    assert take(host, pipeline) == []
    assert host.queued == 1


def test_others_do_not_wait_with_one_that_waits_for_another_connection() -> None:
    host = make_host()
    first, second = make_pipeline(host, in_flight=1), make_pipeline(host, in_flight=1)
    queue(host, "/alone", "/a")
    take(host, first)
    assert targets(take(host, second)) == ["/a"]


@pytest.mark.parametrize("idle", [True, False], ids=["idle", "just-woken"])
def test_one_that_goes_alone_is_left_to_a_connection_that_has_nothing_in_flight(idle: bool) -> None:
    host = make_host()
    busy, free = make_pipeline(host, in_flight=1), make_pipeline(host)
    if idle:
        host.idle[free] = None
    queue(host, "/alone", "/a")
    assert take(host, busy) == []
    assert busy.reserved is None
    assert host.queued == 2
    assert targets(take(host, free)) == ["/alone"]


@pytest.mark.parametrize("flag", ["ending", "exclusive", "borrower"])
def test_one_that_goes_alone_is_not_left_to_a_connection_that_cannot_have_it(flag: str) -> None:
    host = make_host()
    busy, closed = make_pipeline(host, in_flight=1), make_pipeline(host)
    setattr(closed, flag, True)
    job, *_ = queue(host, "/alone", "/a", "/b")
    assert take(host, busy) == []
    assert busy.reserved is job


def test_two_that_go_alone_do_not_wait_for_the_same_connection() -> None:
    host = make_host()
    busy, free = make_pipeline(host, in_flight=1), make_pipeline(host)
    free.reserved = make_job(host, "/other-alone", alone=True)
    job, *_ = queue(host, "/alone", "/a", "/b")
    assert take(host, busy) == []
    assert busy.reserved is job


# --- those that have lost a connection ------------------------------------------------------------


def test_one_that_has_lost_a_connection_goes_alone_on_one_that_was_not_used() -> None:
    host = make_host()
    used, fresh = make_pipeline(host, in_flight=1), make_pipeline(host)
    (suspect,) = queue_suspects(host, "/suspect")
    queue(host, "/a", "/b", "/c")
    assert not needs_fresh(host)
    assert targets(take(host, used)) == ["/a", "/b"]
    assert take(host, fresh) == [suspect]
    assert not used.retiring


def test_each_of_them_has_a_connection_of_its_own() -> None:
    host = make_host()
    first, second = queue_suspects(host, "/first", "/second")
    assert take(host, make_pipeline(host)) == [first]
    assert take(host, make_pipeline(host)) == [second]


def test_a_used_connection_that_is_empty_makes_room_for_one_that_was_not() -> None:
    host = make_host()
    used = make_pipeline(host, in_flight=1)
    land(used)
    queue_suspects(host, "/suspect")
    queue(host, "/a")
    assert needs_fresh(host)
    assert take(host, used) == []
    assert used.retiring
    assert host.queued == 2


def test_a_fresh_connection_is_wanted_though_used_ones_are_idle() -> None:
    host = make_host()
    for _ in range(2):
        land(make_pipeline(host, in_flight=1))
    queue_suspects(host, "/suspect")
    assert wants_connection(host, 3, now=0.0)
    assert not wants_connection(host, 2, now=0.0)
    make_pipeline(host)
    assert not wants_connection(host, 4, now=0.0)


def test_if_all_connections_are_in_use_one_takes_no_more_so_that_there_will_be_room() -> None:
    """Or else the one that has lost a connection would wait for as long as others are queued."""
    host = make_host()
    pipelines = [make_pipeline(host, in_flight=1) for _ in range(3)]
    queue_suspects(host, "/suspect")
    queue(host, "/a", "/b", "/c", "/d", "/e")
    batches = [targets(take(host, pipeline)) for pipeline in pipelines]
    assert batches[0] == []
    assert all(batches[1:])
    assert [pipeline.retiring for pipeline in pipelines] == [True, False, False]


def test_others_do_not_wait_with_one_that_waits_for_a_connection_to_be_opened() -> None:
    host = make_host()
    used, connecting = make_pipeline(host, in_flight=1), make_pipeline(host)
    land(used)
    connecting.connected = False
    queue_suspects(host, "/suspect")
    queue(host, "/a")
    assert targets(take(host, used)) == ["/a"]


def test_an_ordinary_request_needs_no_fresh_connection() -> None:
    host = make_host()
    make_pipeline(host, in_flight=1)
    assert not needs_fresh(host)
    queue(host, "/a")
    assert not needs_fresh(host)


# --- hosts that want to be left alone -------------------------------------------------------------


def test_nothing_is_taken_while_a_host_is_held() -> None:
    host = make_host()
    pipeline = make_pipeline(host)
    queue_suspects(host, "/suspect")
    queue(host, "/a")
    host.held = True
    assert take(host, pipeline) == []
    assert host.queued == 2
    assert not pipeline.retiring
    host.held = False
    assert targets(take(host, pipeline)) == ["/suspect"]


def test_one_that_is_reserved_is_not_sent_while_a_host_is_held() -> None:
    host = make_host()
    pipeline = make_pipeline(host, in_flight=1)
    (job,) = queue(host, "/alone")
    take(host, pipeline)
    land(pipeline)
    host.held = True
    assert take(host, pipeline) == []
    assert pipeline.reserved is job
    host.held = False
    assert take(host, pipeline) == [job]


def test_no_connection_is_opened_to_a_host_that_is_held() -> None:
    host = make_host()
    queue_suspects(host, "/suspect")
    queue(host, "/a")
    host.held = True
    assert not wants_connection(host, 3, now=0.0)
    host.held = False
    assert wants_connection(host, 3, now=0.0)


# --- when to wake, and when to open ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "flying", "queued", "refill"),
    [
        (1, 0, 1, True),
        (1, 1, 1, False),
        (8, 5, 9, False),
        (8, 4, 9, True),
        (8, 0, 1, True),
        (8, 0, 0, False),
    ],
)
def test_a_sender_is_woken_for_half_a_window_not_for_each_answer(
    window: int, flying: int, queued: int, refill: bool
) -> None:
    host = make_host(window)
    pipeline = make_pipeline(host, in_flight=flying)
    queue(host, *["/"] * queued)
    assert should_refill(host, pipeline) is refill


@pytest.mark.parametrize(
    ("connections", "flying", "queued", "wanted"),
    [
        (0, 0, 0, False),  # nobody asks
        (0, 0, 1, True),
        (1, 0, 1, False),  # there is one that is free, or will be
        (1, 1, 1, True),  # before any request is put behind another
        (2, 3, 1, True),
        (3, 9, 9, False),  # as many as there may be
    ],
)
def test_a_connection_is_wanted_for_each_request_up_to_the_limit(
    connections: int, flying: int, queued: int, wanted: bool
) -> None:
    host = make_host()
    for i in range(connections):
        make_pipeline(host, in_flight=flying if i == 0 else 0)
    queue(host, *["/"] * queued)
    assert wants_connection(host, 3, now=10.0) is wanted


def test_after_a_failure_to_connect_others_are_opened_later() -> None:
    host = make_host()
    make_pipeline(host, in_flight=1)
    queue(host, "/")
    host.unopenable_until = 10.0
    assert not wants_connection(host, 3, now=9.9)
    assert wants_connection(host, 3, now=10.0)


def test_a_host_that_could_not_be_reached_is_left_alone_for_a_while() -> None:
    host = make_host()
    queue(host, "/")
    host.unreachable = 1
    host.unopenable_until = 10.0
    assert not wants_connection(host, 3, now=9.9)
    assert wants_connection(host, 3, now=10.0)


def test_as_long_as_a_host_cannot_be_reached_one_connection_at_a_time_is_tried() -> None:
    host = make_host()
    queue(host, *["/"] * 5)
    host.unreachable = 1
    trial = make_pipeline(host)
    trial.connected = False
    assert not wants_connection(host, 3, now=0.0)
    trial.connected = True
    host.unreachable = 0
    assert wants_connection(host, 3, now=0.0)


def test_a_host_that_can_be_reached_is_connected_to_several_times_at_once() -> None:
    host = make_host()
    queue(host, *["/"] * 5)
    make_pipeline(host).connected = False
    assert wants_connection(host, 3, now=0.0)
