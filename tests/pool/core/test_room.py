"""Room: how many connections there may be, and who gets the next."""

from __future__ import annotations

import errno
import os

import pytest

from dugong.errors import ConnectError, ConnectionClosed, Delivery, DugongError
from dugong.pool.core import room
from dugong.pool.core.connection import Phase
from dugong.pool.core.job import Place
from dugong.pool.core.room import MIN_PAUSE, NO_THREAD_TIME, PROMPT_TIME, RISE_TIME, TURN_TIME
from dugong.pool.failure import Abandoned
from tests.support.clock import throw
from tests.support.parts import Rig, WouldWait


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    throw(monkeypatch, 1.0)
    return Rig(monkeypatch, max_connections_per_host=3)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A rig that may have one connection."""
    return Rig(monkeypatch, max_connections=1)


# --- room for the connections of other hosts ------------------------------------------------------


def test_the_longest_idle_connection_makes_room_for_that_of_another_host(small: Rig) -> None:
    first, second = small.host(name="first"), small.host(name="second")
    idle = small.idle(first)
    small.submit(second, "/b")
    assert idle.phase is Phase.CLOSED
    assert small.engines[0].is_aborted
    assert len(second.connections) == 1
    assert small.heard("closed") == ["it made room for another host"]


def test_a_host_without_room_gets_a_connection_when_another_is_closed(small: Rig) -> None:
    first, second = small.host(name="first"), small.host(name="second")
    connection, _ = small.send(first, "/a")
    small.submit(second, "/b")
    assert not second.connections
    small.lose(connection, Abandoned())
    assert len(second.connections) == 1


def test_a_connection_that_becomes_idle_makes_room_if_a_host_waits_for_some(small: Rig) -> None:
    first, second = small.host(name="first"), small.host(name="second")
    connection, (job,) = small.send(first, "/a")
    small.submit(second, "/b")
    small.respond(connection, job)
    assert connection.is_closing
    assert len(second.connections) == 1


def test_a_connection_that_has_had_its_turn_makes_room_between_responses(small: Rig) -> None:
    first, second = small.host(name="first"), small.host(name="second")
    connection, jobs = small.send(first, "/a")
    small.submit(second, "/b")
    small.submit(first, "/c")  # or else it would make room when it is idle
    small.forward(TURN_TIME)
    assert connection.phase is Phase.DRAINING
    small.respond(connection, *jobs)
    assert small.look_for_work(connection) == []
    assert connection.phase is Phase.CLOSED
    assert len(second.connections) == 1


def test_turns_are_taken_only_as_long_as_a_host_has_no_connection(small: Rig) -> None:
    first, second = small.host(name="first"), small.host(name="second")
    connection, _ = small.send(first, "/a")
    (job,) = small.submit(second, "/b")
    with small.core.transaction():
        second.pop_all()
        small.core.unqueue_locked(1)
        small.retries.complete_locked(job, None)
    small.core.awaiting_connection.clear()
    small.forward(TURN_TIME)
    assert connection.phase is Phase.OPEN
    assert len(small.maintenance.timers) == 0


def test_a_host_with_several_requests_does_not_take_the_room_of_one_that_waits(small: Rig) -> None:
    first, second = small.host(name="first"), small.host(name="second")
    small.submit(first, "/a", "/b")
    small.submit(second, "/c")
    small.connections.connect_failed(small.latest(first), ConnectionClosed())
    assert len(second.connections) == 1


# --- dials ----------------------------------------------------------------------------------------


def test_a_dial_that_is_not_prompt_keeps_no_room_from_others(small: Rig) -> None:
    silent, other = small.host(name="silent"), small.host(name="other")
    small.submit(silent, "/a")
    small.submit(other, "/b")
    small.forward(PROMPT_TIME - 0.01)
    assert not other.connections
    small.forward(0.01)
    assert len(other.connections) == 1
    assert len(silent.connections) == 1


def test_a_host_that_takes_long_to_be_reached_is_not_dialled_again_meanwhile(rig: Rig) -> None:
    host = rig.host()
    rig.submit(host, "/a")
    rig.forward(PROMPT_TIME)
    rig.submit(rig.host(name="other"), "/b")  # which looks at the dials
    rig.submit(host, "/c")
    assert len(host.connections) == 1
    connection = rig.connect(host)
    assert len(host.connections) == 2
    assert rig.look_for_work(connection)


def test_of_those_that_wait_behind_silent_hosts_the_last_is_served_before_long(small: Rig) -> None:
    hosts = [small.host(name=f"host{i}") for i in range(10)]
    for host in hosts:
        small.submit(host, "/")
    small.forward(PROMPT_TIME)
    small.forward(PROMPT_TIME)
    assert [bool(host.connections) for host in hosts] == [True, True, *[False] * 7, True]


def test_a_dial_that_was_not_prompt_waits_for_a_place(small: Rig) -> None:
    silent, other = small.host(name="silent"), small.host(name="other")
    (late,) = small.submit(silent, "/a")
    slow = small.latest(silent)
    assert small.traffic.begin_sending(slow)
    small.submit(other, "/b")
    small.forward(PROMPT_TIME)
    connection = small.connect(other)
    assert small.look_for_work(connection)
    small.park(other)
    with pytest.raises(WouldWait):
        small.traffic.connected(slow)
    assert slow.phase is Phase.CONNECTING
    small.lose(connection, Abandoned())
    small.traffic.connected(slow)
    assert slow.phase is Phase.OPEN
    assert small.look_for_work(slow) == [late]


def test_an_idle_connection_makes_room_for_a_dial_that_was_not_prompt(small: Rig) -> None:
    silent, other = small.host(name="silent"), small.host(name="other")
    small.submit(silent, "/a")
    slow = small.latest(silent)
    assert small.traffic.begin_sending(slow)
    small.forward(PROMPT_TIME)
    connection = small.idle(other)
    small.traffic.connected(slow)
    assert connection.phase is Phase.CLOSED
    assert slow.phase is Phase.OPEN


def test_there_are_only_so_many_dials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_DIALS", 2)
    rig = Rig(monkeypatch)
    hosts = [rig.host(name=f"host{i}") for i in range(3)]
    for host in hosts:
        rig.submit(host, "/")
        rig.forward(PROMPT_TIME)
    assert [len(host.connections) for host in hosts] == [1, 1, 0]
    rig.connect(hosts[1])
    assert len(hosts[2].connections) == 1


# --- the system refuses ---------------------------------------------------------------------------

NO_DESCRIPTOR = ConnectError("connecting", errno.EMFILE)


def test_a_refused_descriptor_costs_a_pause_and_no_attempt(rig: Rig) -> None:
    host = rig.host()
    (job,) = rig.submit(host, "/")
    rig.connections.connect_failed(rig.latest(host), NO_DESCRIPTOR)
    assert job.place is Place.QUEUED
    assert job.attempts == ()
    assert not host.connections
    assert rig.heard("limited") == [os.strerror(errno.EMFILE)]
    rig.forward(MIN_PAUSE)
    assert len(host.connections) == 1
    assert rig.look_for_work(rig.connect(host)) == [job]


def test_pauses_grow_as_long_as_the_system_refuses(rig: Rig) -> None:
    host = rig.host()
    rig.submit(host, "/")
    for pause in (0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0, 1.0):
        rig.connections.connect_failed(rig.latest(host), NO_DESCRIPTOR)
        rig.forward(pause - 0.005)
        assert not host.connections
        rig.forward(0.01)
        assert host.connections
    assert len(rig.heard("limited")) == 3  # once a second


def test_after_a_refusal_fewer_connections_are_opened_for_a_while(rig: Rig) -> None:
    hosts = [rig.host(name=f"host{i}") for i in range(12)]
    for host in hosts[:4]:
        rig.send(host, "/a")
    for host in hosts[4:]:
        rig.submit(host, "/b")
    for host in hosts[4:]:
        rig.connections.connect_failed(rig.latest(host), NO_DESCRIPTOR)
    rig.forward(MIN_PAUSE)
    assert sum(len(host.connections) for host in hosts) == 4
    rig.forward(RISE_TIME)
    assert sum(len(host.connections) for host in hosts) == 5


def test_an_idle_connection_makes_room_when_the_system_refuses(rig: Rig) -> None:
    connection = rig.idle(rig.host(name="idle"))
    host = rig.host()
    rig.submit(host, "/")
    rig.connections.connect_failed(rig.latest(host), NO_DESCRIPTOR)
    assert connection.phase is Phase.CLOSED
    rig.forward(MIN_PAUSE)
    assert len(host.connections) == 1


def test_without_any_thread_requests_fail_after_some_time(rig: Rig) -> None:
    rig.maintenance.is_running = rig.started.refused = True
    host = rig.host()
    (job,) = rig.submit(host, "/")
    assert not job.is_decided
    while not job.is_decided:
        rig.forward(MIN_PAUSE)
    assert rig.clock.now - 1000 >= NO_THREAD_TIME
    error = job.future.exception()
    assert type(error) is DugongError
    assert "thread" in str(error)
    assert error.delivery is Delivery.UNSENT


def test_as_long_as_a_connection_is_left_requests_wait_for_its_threads(rig: Rig) -> None:
    rig.maintenance.is_running = True
    rig.send(rig.host(name="busy"), "/busy")
    rig.started.refused = True
    (job,) = rig.submit(rig.host(), "/")
    for _ in range(10):
        rig.forward(1.0)
    assert job.place is Place.QUEUED


def test_without_timers_requests_fail_at_once(rig: Rig) -> None:
    rig.started.refused = True
    (job,) = rig.submit(rig.host(), "/")
    assert type(job.future.exception()) is DugongError
