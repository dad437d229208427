"""What is noted of responses, and what follows from it; the test plays the threads."""

from __future__ import annotations

import pytest

from dugong.pool.core.connection import Phase
from dugong.pool.core.pipelining import PENALTY
from tests.support.parts import Rig, engine_of, hold, release


@pytest.fixture
def rig(single: Rig) -> Rig:
    """A rig with one connection to each host."""
    return single


def test_good_responses_widen_the_window(rig: Rig) -> None:
    host = rig.host(window=1)
    connection, jobs = rig.send(host, "/a")
    rig.respond(connection, *jobs)
    assert host.pipelining.window == 2


def test_responses_as_http_1_0_teach_to_send_one_at_a_time(rig: Rig) -> None:
    host = rig.host()
    connection, jobs = rig.send(host, "/a")
    rig.respond(connection, *jobs, minor_version=0)
    assert host.pipelining.window == 1
    assert rig.heard("learned") == ["it responds as HTTP/1.0"]


def test_more_than_was_asked_for_ends_the_connection_and_the_pipelining(rig: Rig) -> None:
    host = rig.host()
    connection, jobs = rig.send(host, "/a")
    engine_of(connection).has_stray_bytes = True
    rig.respond(connection, *jobs)
    assert connection.phase is Phase.CLOSED
    assert rig.heard("closed") == ["it has sent more than it was asked for"]
    assert host.pipelining.state(rig.clock.now + PENALTY - 1) == "one at a time"


def test_a_sender_is_woken_when_half_a_window_is_free(rig: Rig) -> None:
    host = rig.host(window=8)  # a new connection takes half of it
    connection, jobs = rig.send(host, "/a", "/b", "/c", "/d")
    later = rig.submit(host, "/e", "/f")
    host.pipelining.window = 4
    rig.respond(connection, jobs[0], minor_version=1)
    assert connection.sender_parked
    rig.respond(connection, jobs[1])
    assert not connection.sender_parked
    assert rig.look_for_work(connection) == later


def test_a_sender_is_woken_for_its_reserved_request_when_all_else_has_come(rig: Rig) -> None:
    host = rig.host()
    connection, jobs = rig.send(host, "/a")
    reserved = rig.submit(host, "/exclusive", exclusive=True)
    assert rig.look_for_work(connection) == []
    assert connection.reserved is reserved[0]
    rig.respond(connection, *jobs)
    assert not connection.sender_parked
    assert rig.look_for_work(connection) == reserved
    assert rig.core.queued == 0


def test_a_sender_sends_nothing_on_a_connection_that_was_idle_for_too_long(rig: Rig) -> None:
    host = rig.host()
    connection, jobs = rig.send(host, "/a")
    reserved = rig.submit(host, "/exclusive", exclusive=True)
    assert rig.look_for_work(connection) == []
    assert connection.reserved is reserved[0]
    hold(host)
    engine = engine_of(connection)
    engine.keep_alive_timeout = 5.0
    rig.respond(connection, *jobs)
    assert rig.look_for_work(connection) == []
    rig.clock.now += 4.0
    release(host)
    with rig.core.transaction():
        rig.connections.ensure_all_served_locked(host)
    assert rig.look_for_work(connection) == []
    assert connection.phase is Phase.CLOSED
    assert rig.look_for_work(rig.connect(host)) == reserved


def test_nothing_is_sent_behind_a_long_response(rig: Rig) -> None:
    host = rig.host()
    connection, jobs = rig.send(host, "/a")
    rig.traffic.begin_body(connection, is_long=True)
    rig.submit(host, "/b")
    assert rig.look_for_work(connection) == []
    rig.respond(connection, *jobs)
    assert len(rig.look_for_work(connection)) == 1
