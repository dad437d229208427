"""One connection, as far as its state goes; the two loops have their own tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dugong.errors import ConnectionClosed
from dugong.pool.core.connection import Phase, PooledConnection
from tests.support.parts import (
    CLOSED_TO_MORE,
    engine_of,
    make_connection,
    make_host,
    make_job,
)

# --- the phases -----------------------------------------------------------------------------------

#: How a new connection gets to a phase.
WAYS: dict[Phase, list[Callable[[PooledConnection], object]]] = {
    Phase.CONNECTING: [],
    Phase.OPEN: [PooledConnection.open],
    Phase.DRAINING: [PooledConnection.open, PooledConnection.drain],
    Phase.WRITE_FAILED: [PooledConnection.open, PooledConnection.fail_writing],
    Phase.CLOSING: [lambda connection: connection.begin_closing("why", None)],
    Phase.CLOSED: [
        lambda connection: connection.begin_closing("why", None),
        PooledConnection.finish_closing,
    ],
}

#: Where each transition leads to; what is not here is refused.
TRANSITIONS: dict[str, dict[Phase, Phase]] = {
    "open": {Phase.CONNECTING: Phase.OPEN},
    "drain": {
        Phase.CONNECTING: Phase.CONNECTING,
        Phase.OPEN: Phase.DRAINING,
        Phase.DRAINING: Phase.DRAINING,
        Phase.WRITE_FAILED: Phase.WRITE_FAILED,
        Phase.CLOSING: Phase.CLOSING,
        Phase.CLOSED: Phase.CLOSED,
    },
    "fail_writing": {
        Phase.CONNECTING: Phase.CONNECTING,
        Phase.OPEN: Phase.WRITE_FAILED,
        Phase.DRAINING: Phase.WRITE_FAILED,
        Phase.WRITE_FAILED: Phase.WRITE_FAILED,
        Phase.CLOSING: Phase.CLOSING,
        Phase.CLOSED: Phase.CLOSED,
    },
    "begin_closing": {
        Phase.CONNECTING: Phase.CLOSING,
        Phase.OPEN: Phase.CLOSING,
        Phase.DRAINING: Phase.CLOSING,
        Phase.WRITE_FAILED: Phase.CLOSING,
        Phase.CLOSING: Phase.CLOSING,
        Phase.CLOSED: Phase.CLOSED,
    },
    "finish_closing": {Phase.CLOSING: Phase.CLOSED},
}


def connection_in(phase: Phase) -> PooledConnection:
    """Return a connection that is in *phase*."""
    connection = make_connection(make_host(), is_open=False)
    for step in WAYS[phase]:
        step(connection)
    assert connection.phase is phase
    return connection


@pytest.mark.parametrize("name", TRANSITIONS)
@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.value)
def test_each_transition_leads_to_its_phase_or_is_refused(phase: Phase, name: str) -> None:
    connection = connection_in(phase)
    args = ("another reason", None) if name == "begin_closing" else ()
    transition = getattr(connection, name)
    target = TRANSITIONS[name].get(phase)
    if target is None:
        with pytest.raises(AssertionError, match=f"host:80-1 cannot go from .*{phase.name}"):
            transition(*args)
        assert connection.phase is phase
    else:
        transition(*args)
        assert connection.phase is target


def test_a_connection_that_is_to_drain_while_it_connects_drains_once_it_is_open() -> None:
    connection = make_connection(make_host(), is_open=False)
    connection.drain()
    assert connection.is_draining
    connection.open()
    assert connection.phase is Phase.DRAINING


def test_it_was_open_only_if_it_was_established() -> None:
    never, once = (make_connection(make_host(), is_open=False) for _ in range(2))
    once.open()
    for connection in (never, once):
        connection.begin_closing("why", None)
    assert (never.was_open, once.was_open) == (False, True)


def test_the_first_reason_to_close_is_the_one_that_counts() -> None:
    connection = make_connection(make_host())
    error = ConnectionClosed("first")
    assert connection.begin_closing("first", error)
    assert not connection.begin_closing("second", None)
    assert (connection.close_reason, connection.failure) == ("first", error)


def test_it_is_closing_from_the_shutdown_on() -> None:
    closing = [phase for phase in Phase if connection_in(phase).is_closing]
    assert closing == [Phase.CLOSING, Phase.CLOSED]


# --- what it can take -----------------------------------------------------------------------------


def test_the_connections_of_a_host_are_numbered() -> None:
    host = make_host()
    assert [make_connection(host).name, make_connection(host).name] == ["host:80-1", "host:80-2"]


def test_a_new_connection_belongs_to_its_sender() -> None:
    connection = make_connection(make_host(), is_open=False)
    assert connection.sending
    assert connection.at_work


@pytest.mark.parametrize("flag", ["sending", "receiving", "borrower", "streaming"])
def test_a_thread_is_at_work_on_it_if_it_sends_receives_borrows_or_streams(flag: str) -> None:
    connection = make_connection(make_host())
    connection.sending = False
    assert not connection.at_work
    setattr(connection, flag, make_job(make_host()) if flag == "borrower" else True)
    assert connection.at_work


@pytest.mark.parametrize("reason", CLOSED_TO_MORE)
def test_it_is_closed_to_more_requests_for_many_reasons(reason: str) -> None:
    connection = make_connection(make_host())
    assert not connection.closed_to_more
    CLOSED_TO_MORE[reason](connection)
    assert connection.closed_to_more


@pytest.mark.parametrize(
    ("phase", "takes"),
    [
        (Phase.CONNECTING, True),
        (Phase.OPEN, True),
        (Phase.DRAINING, False),
        (Phase.WRITE_FAILED, False),
        (Phase.CLOSING, False),
        (Phase.CLOSED, False),
    ],
    ids=lambda value: getattr(value, "value", None),
)
def test_it_takes_requests_until_it_drains(phase: Phase, takes: bool) -> None:
    assert connection_in(phase).closed_to_more is not takes


def test_it_is_used_up_when_it_has_had_as_many_requests_as_the_caller_wants() -> None:
    host = make_host()
    assert not make_connection(host, in_flight=100).used_up
    assert not make_connection(host, in_flight=1, max_requests=3).used_up
    assert make_connection(host, in_flight=2, max_requests=3).used_up


@pytest.mark.parametrize("is_open", [True, False])
def test_it_is_used_up_when_it_is_to_drain(is_open: bool) -> None:
    connection = make_connection(make_host(), is_open=is_open)
    connection.drain()
    assert connection.used_up


@pytest.mark.parametrize(
    ("announced", "idle_for", "stale"),
    [(None, 1e6, False), (5.0, 3.9, False), (5.0, 4.0, True), (1.0, 0.0, True)],
)
def test_it_is_stale_a_second_before_the_server_closes_it(
    announced: float | None, idle_for: float, stale: bool
) -> None:
    connection = make_connection(make_host())
    engine_of(connection).keep_alive_timeout = announced
    connection.idle_since = 100.0
    assert connection.is_stale(100.0 + idle_for) is stale


def test_the_oldest_request_is_the_one_that_was_sent_first() -> None:
    connection = make_connection(make_host(), in_flight=3)
    assert connection.oldest.request.target == "/flying0"


def test_a_request_that_has_its_response_lets_go_of_the_record_of_its_sending() -> None:
    connection = make_connection(make_host(), in_flight=2)
    oldest, next_one = connection.in_flight
    oldest.exchange = exchange = object()
    assert connection.take_off(oldest) is exchange
    assert oldest.exchange is None
    assert connection.oldest is next_one


def test_it_is_wanted_until_the_outcome_of_all_its_requests_is_decided() -> None:
    connection = make_connection(make_host(), in_flight=2)
    for job in list(connection.in_flight):
        assert connection.is_wanted
        job.finish()
    assert not connection.is_wanted
    connection.streaming = True
    assert connection.is_wanted


# --- in words -------------------------------------------------------------------------------------


def test_its_state_is_a_word() -> None:
    host = make_host()
    connecting, idle = make_connection(host, is_open=False), make_connection(host)
    busy, streaming = (make_connection(host, in_flight=1) for _ in range(2))
    streaming.streaming = True
    closing = connection_in(Phase.CLOSING)
    states = [connection.state for connection in (connecting, idle, busy, streaming, closing)]
    assert states == ["connecting", "idle", "busy", "streaming", "closing"]


def test_the_repr_says_what_it_is_doing() -> None:
    connection = make_connection(make_host(), in_flight=2)
    connection.dispatched = 9
    assert repr(connection) == "<PooledConnection host:80-1 busy, 2 in flight, 7 answered>"
