"""Which requests go to which connection: decisions that touch nothing."""

from __future__ import annotations

import pytest

from dugong import HostPolicy
from dugong.pool.core.dispatch import (
    capacity,
    connection_limit,
    has_capacity,
    holding_limit,
    needs_unused_connection,
    should_refill,
    take,
    wants_connection,
)
from dugong.pool.core.job import Job
from tests.support.parts import (
    CLOSED_TO_MORE,
    fly,
    hold,
    land,
    make_connection,
    make_host,
    make_job,
    queue,
    queue_needing_fresh,
    release,
)


def targets(jobs: list[Job]) -> list[str]:
    return [job.request.target for job in jobs]


# --- capacity -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "flying", "left"), [(1, 0, 1), (1, 1, 0), (4, 1, 3), (2, 5, -3)]
)
def test_the_capacity_is_what_the_host_allows_less_what_is_in_flight(
    window: int, flying: int, left: int
) -> None:
    host = make_host(window)
    connection = make_connection(host, in_flight=flying)
    assert capacity(host, connection) == left
    assert has_capacity(host, connection) == (left > 0)


@pytest.mark.parametrize(("window", "first"), [(1, 1), (2, 1), (3, 1), (64, 32)])
def test_a_connection_that_has_not_responded_takes_half_of_what_the_host_allows(
    window: int, first: int
) -> None:
    host = make_host(window)
    connection = make_connection(host)
    connection.dispatched = 0
    assert capacity(host, connection) == first
    connection.dispatched = 1
    assert capacity(host, connection) == window


def test_the_capacity_is_no_more_than_the_host_responds_to_on_a_connection() -> None:
    host = make_host()
    host.pipelining.quota = 5
    assert capacity(host, make_connection(host, in_flight=2)) == 2
    assert capacity(host, make_connection(host, in_flight=4)) == 0


def test_the_capacity_is_no_more_than_the_caller_wants_on_a_connection() -> None:
    host = make_host()
    assert capacity(host, make_connection(host, in_flight=2, max_requests=5)) == 2


@pytest.mark.parametrize("reason", CLOSED_TO_MORE)
def test_there_is_no_capacity_on_a_connection_that_is_closed_to_more(reason: str) -> None:
    host = make_host()
    connection = make_connection(host)
    CLOSED_TO_MORE[reason](connection)
    queue(host, "/a")
    assert capacity(host, connection) == 0
    assert take(host, connection) == []
    assert host.queued == 1


# --- taking ---------------------------------------------------------------------------------------


def test_nothing_is_taken_from_an_empty_queue() -> None:
    host = make_host()
    assert take(host, make_connection(host)) == []


def test_requests_are_taken_in_their_order_up_to_the_window() -> None:
    host = make_host(window=3)
    connection = make_connection(host, in_flight=1)
    queue(host, "/a", "/b", "/c")
    assert targets(take(host, connection)) == ["/a", "/b"]
    assert host.queued == 1


def test_requests_that_were_withdrawn_are_passed_over() -> None:
    host = make_host(window=2)
    first, *_ = queue(host, "/a", "/b", "/c")
    first.finish()
    host.withdraw(first)
    assert targets(take(host, make_connection(host))) == ["/b", "/c"]
    assert host.queued == 0


def test_connections_share_what_there_is() -> None:
    host = make_host()
    connections = [make_connection(host) for _ in range(3)]
    queue(host, *[f"/{i}" for i in range(10)])
    batch = take(host, connections[0])
    assert targets(batch) == ["/0", "/1", "/2", "/3"]


def test_what_is_in_flight_counts_for_the_share_of_its_connection() -> None:
    host = make_host()
    busy, free = make_connection(host, in_flight=4), make_connection(host)
    queue(host, "/a", "/b")
    assert take(host, busy) == []
    assert targets(take(host, free)) == ["/a", "/b"]


def test_a_share_is_never_nothing_for_a_connection_that_is_free() -> None:
    host = make_host()
    connections = [make_connection(host) for _ in range(6)]
    queue(host, "/a")
    assert targets(take(host, connections[0])) == ["/a"]


# --- exclusive requests ---------------------------------------------------------------------------


def test_an_exclusive_request_is_a_batch_of_its_own() -> None:
    host = make_host()
    queue(host, "/exclusive", "/a")
    assert targets(take(host, make_connection(host))) == ["/exclusive"]
    assert host.queued == 1


def test_an_exclusive_request_ends_a_batch_and_keeps_its_place_before_the_rest() -> None:
    host = make_host()
    connection = make_connection(host)
    queue(host, "/a", "/b", "/exclusive", "/c")
    assert targets(take(host, connection)) == ["/a", "/b"]
    fly(connection, make_job(host))
    assert take(host, connection) == []
    land(connection)
    assert targets(take(host, connection)) == ["/exclusive"]
    assert targets(take(host, connection)) == ["/c"]


def test_an_exclusive_request_is_reserved_by_a_connection_until_that_is_empty() -> None:
    host = make_host()
    connection = make_connection(host, in_flight=1)
    (job,) = queue(host, "/exclusive")
    assert take(host, connection) == []
    assert connection.reserved is job
    assert job.connection is connection
    assert host.queued == 0
    land(connection)
    assert take(host, connection) == [job]
    assert connection.reserved is None


@pytest.mark.parametrize("reason", ["closing", "write failed", "exclusive", "long response"])
def test_a_reserved_request_is_not_sent_on_a_connection_that_is_closed_to_more(reason: str) -> None:
    host = make_host()
    connection = make_connection(host, in_flight=1)
    queue(host, "/exclusive")
    take(host, connection)
    land(connection)
    CLOSED_TO_MORE[reason](connection)
    assert take(host, connection) == []
    assert connection.reserved is not None


def test_a_reserved_request_keeps_others_from_its_connection() -> None:
    host = make_host()
    connection = make_connection(host, in_flight=1)
    queue(host, "/exclusive", "/a")
    take(host, connection)
    assert take(host, connection) == []
    assert host.queued == 1


def test_a_reserved_request_keeps_no_request_from_other_connections() -> None:
    host = make_host()
    first, second = make_connection(host, in_flight=1), make_connection(host, in_flight=1)
    queue(host, "/exclusive", "/a")
    take(host, first)
    assert targets(take(host, second)) == ["/a"]


@pytest.mark.parametrize("idle", [True, False], ids=["idle", "just-woken"])
def test_an_exclusive_request_is_left_to_a_connection_with_nothing_in_flight(idle: bool) -> None:
    host = make_host()
    busy, free = make_connection(host, in_flight=1), make_connection(host)
    if idle:
        host.idle[free] = None
    queue(host, "/exclusive", "/a")
    assert take(host, busy) == []
    assert busy.reserved is None
    assert host.queued == 2
    assert targets(take(host, free)) == ["/exclusive"]


@pytest.mark.parametrize("reason", ["closing", "exclusive", "borrowed"])
def test_an_exclusive_request_is_not_left_to_a_connection_that_cannot_have_it(reason: str) -> None:
    host = make_host()
    busy, closed = make_connection(host, in_flight=1), make_connection(host)
    CLOSED_TO_MORE[reason](closed)
    job, *_ = queue(host, "/exclusive", "/a", "/b")
    assert take(host, busy) == []
    assert busy.reserved is job


def test_two_exclusive_requests_do_not_wait_for_the_same_connection() -> None:
    host = make_host()
    busy, free = make_connection(host, in_flight=1), make_connection(host)
    free.reserved = make_job(host, "/other-exclusive", exclusive=True)
    job, *_ = queue(host, "/exclusive", "/a", "/b")
    assert take(host, busy) == []
    assert busy.reserved is job


# --- requests that have lost a connection ---------------------------------------------------------


def test_a_request_that_has_lost_a_connection_goes_alone_on_an_unused_one() -> None:
    host = make_host()
    used, fresh = make_connection(host, in_flight=1), make_connection(host, answered=0)
    (needy,) = queue_needing_fresh(host, "/fresh")
    queue(host, "/a", "/b", "/c")
    assert not needs_unused_connection(host)
    assert targets(take(host, used)) == ["/a", "/b"]
    assert take(host, fresh) == [needy]
    assert not used.is_draining


def test_each_request_that_has_lost_a_connection_has_an_unused_one_of_its_own() -> None:
    host = make_host()
    first, second = queue_needing_fresh(host, "/first", "/second")
    assert take(host, make_connection(host, answered=0)) == [first]
    assert take(host, make_connection(host, answered=0)) == [second]


def test_a_used_connection_that_is_empty_makes_room_for_an_unused_one() -> None:
    host = make_host()
    used = make_connection(host, in_flight=1)
    land(used)
    queue_needing_fresh(host, "/fresh")
    queue(host, "/a")
    assert needs_unused_connection(host)
    assert take(host, used) == []
    assert used.is_draining
    assert host.queued == 2


def test_an_unused_connection_is_wanted_though_used_ones_are_idle() -> None:
    host = make_host()
    for _ in range(2):
        land(make_connection(host, in_flight=1))
    queue_needing_fresh(host, "/fresh")
    assert wants_connection(host, 3, now=0.0)
    assert not wants_connection(host, 2, now=0.0)
    make_connection(host, answered=0)
    assert not wants_connection(host, 4, now=0.0)


def test_if_all_connections_are_in_use_the_first_drains_to_make_room_for_an_unused_one() -> None:
    """Or else the request that has lost one would wait for as long as others are queued."""
    host = make_host()
    connections = [make_connection(host, in_flight=1) for _ in range(3)]
    queue_needing_fresh(host, "/fresh")
    queue(host, "/a", "/b", "/c", "/d", "/e")
    batches = [targets(take(host, connection)) for connection in connections]
    assert batches[0] == []
    assert all(batches[1:])
    assert [connection.is_draining for connection in connections] == [True, False, False]


def test_other_requests_are_sent_while_an_unused_connection_is_opened() -> None:
    host = make_host()
    used = make_connection(host, in_flight=1)
    make_connection(host, is_open=False)
    land(used)
    queue_needing_fresh(host, "/fresh")
    queue(host, "/a")
    assert targets(take(host, used)) == ["/a"]


def test_an_ordinary_request_needs_no_unused_connection() -> None:
    host = make_host()
    make_connection(host, in_flight=1)
    assert not needs_unused_connection(host)
    queue(host, "/a")
    assert not needs_unused_connection(host)


# --- hosts that want to be left alone -------------------------------------------------------------


def test_nothing_is_taken_while_a_host_is_held() -> None:
    host = make_host()
    connection = make_connection(host, answered=0)
    queue_needing_fresh(host, "/fresh")
    queue(host, "/a")
    hold(host)
    assert take(host, connection) == []
    assert host.queued == 2
    assert not connection.is_draining
    release(host)
    assert targets(take(host, connection)) == ["/fresh"]


def test_a_request_that_is_reserved_goes_back_to_the_queue_while_a_host_is_held() -> None:
    host = make_host()
    connection = make_connection(host, in_flight=1)
    (job,) = queue(host, "/exclusive")
    take(host, connection)
    hold(host)
    assert take(host, connection) == []
    assert connection.reserved is job  # it waits for the connection as well
    land(connection)
    queue(host, "/behind")
    assert take(host, connection) == []
    assert connection.reserved is None
    release(host)
    assert take(host, connection) == [job]


def test_no_connection_is_opened_to_a_host_that_is_held() -> None:
    host = make_host()
    queue_needing_fresh(host, "/fresh")
    queue(host, "/a")
    hold(host)
    assert not wants_connection(host, 3, now=0.0)
    release(host)
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
def test_a_sender_is_woken_for_half_a_window_not_for_each_response(
    window: int, flying: int, queued: int, refill: bool
) -> None:
    host = make_host(window)
    connection = make_connection(host, in_flight=flying)
    queue(host, *["/"] * queued)
    assert should_refill(host, connection) is refill


@pytest.mark.parametrize(
    ("connections", "flying", "queued", "wanted"),
    [
        (0, 0, 0, False),  # nothing is queued
        (0, 0, 1, True),
        (1, 0, 1, False),  # a connection is free, or will be
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
        make_connection(host, in_flight=flying if i == 0 else 0)
    queue(host, *["/"] * queued)
    assert wants_connection(host, 3, now=10.0) is wanted


def test_after_a_failure_to_connect_others_are_opened_later() -> None:
    host = make_host()
    make_connection(host, in_flight=1)
    queue(host, "/")
    host.connect_backoff_until = 10.0
    assert not wants_connection(host, 3, now=9.9)
    assert wants_connection(host, 3, now=10.0)


def test_a_host_that_could_not_be_reached_is_left_alone_for_a_while() -> None:
    host = make_host()
    queue(host, "/")
    host.connect_failures = 1
    host.connect_backoff_until = 10.0
    assert not wants_connection(host, 3, now=9.9)
    assert wants_connection(host, 3, now=10.0)


def test_as_long_as_a_host_cannot_be_reached_one_connection_at_a_time_is_tried() -> None:
    host = make_host()
    queue(host, *["/"] * 5)
    host.connect_failures = 1
    trial = make_connection(host, is_open=False)
    assert not wants_connection(host, 3, now=0.0)
    trial.open()
    host.connect_failures = 0
    assert wants_connection(host, 3, now=0.0)


def test_a_host_that_can_be_reached_is_connected_to_several_times_at_once() -> None:
    host = make_host()
    queue(host, *["/"] * 5)
    make_connection(host, is_open=False)
    assert wants_connection(host, 3, now=0.0)


# --- policies -------------------------------------------------------------------------------------


def test_a_policy_says_how_many_connections_there_are_and_how_many_requests_hold_one() -> None:
    host = make_host()
    assert (connection_limit(host, 6), holding_limit(host, 6)) == (6, 6)
    hold(host)
    assert (connection_limit(host, 6), holding_limit(host, 6)) == (6, 6)
    assert host.gate is not None
    host.gate.follow(HostPolicy(max_in_flight=2))
    assert (connection_limit(host, 6), holding_limit(host, 6)) == (6, 2)
    host.gate.follow(HostPolicy(max_in_flight=20, max_connections=9))
    assert (connection_limit(host, 6), holding_limit(host, 6)) == (9, 9)


def test_a_sender_is_not_woken_while_the_gate_is_shut() -> None:
    host = make_host()
    connection = make_connection(host)
    queue(host, "/a")
    assert should_refill(host, connection)
    hold(host)
    assert not should_refill(host, connection)
