"""One connection, as far as its state goes; the two loops have their own tests."""

from __future__ import annotations

import threading

import pytest

from tests.support.parts import make_host, make_pipeline, queue
from tests.support.server import TIMEOUT


def test_the_connections_of_a_host_are_numbered() -> None:
    host = make_host()
    assert [make_pipeline(host).name, make_pipeline(host).name] == ["host:80-1", "host:80-2"]


def test_a_new_connection_is_its_senders() -> None:
    pipeline = make_pipeline(make_host())
    assert pipeline.sending
    assert not pipeline.unused


@pytest.mark.parametrize("flag", ["sending", "receiving", "borrower", "streaming"])
def test_it_is_unused_only_if_nobody_is_at_work_on_it(flag: str) -> None:
    pipeline = make_pipeline(make_host())
    pipeline.sending = False
    assert pipeline.unused
    setattr(pipeline, flag, True)
    assert not pipeline.unused


@pytest.mark.parametrize(
    "flag", ["ending", "broken", "retiring", "exclusive", "blocked", "borrower", "streaming"]
)
def test_whatever_closes_it_to_more_requests_does(flag: str) -> None:
    pipeline = make_pipeline(make_host())
    assert not pipeline.closed_to_more
    setattr(pipeline, flag, True)
    assert pipeline.closed_to_more


def test_it_is_used_up_when_it_has_had_as_many_requests_as_the_caller_wants() -> None:
    host = make_host()
    assert not make_pipeline(host, in_flight=100).used_up
    assert not make_pipeline(host, in_flight=2, max_requests=3).used_up
    assert make_pipeline(host, in_flight=3, max_requests=3).used_up


def test_it_is_used_up_when_it_is_too_old() -> None:
    pipeline = make_pipeline(make_host())
    pipeline.retiring = True
    assert pipeline.used_up


def test_its_state_is_a_word() -> None:
    pipeline = make_pipeline(make_host())
    pipeline.connected = False
    states = [pipeline.state]
    pipeline.connected = True
    states.append(pipeline.state)
    busy = make_pipeline(make_host(), in_flight=1)
    states.append(busy.state)
    busy.streaming = True
    states.append(busy.state)
    busy.ending = True
    states.append(busy.state)
    assert states == ["connecting", "idle", "busy", "streaming", "ending"]


def test_the_repr_says_what_it_is_doing() -> None:
    pipeline = make_pipeline(make_host(), in_flight=2)
    pipeline.answered = 7
    assert repr(pipeline) == "<Pipeline host:80-1 busy, 2 in flight, 7 answered>"


def test_a_receiver_that_is_parked_is_woken() -> None:
    pipeline = make_pipeline(make_host())
    woken: list[bool] = []

    def wait() -> None:
        with pipeline.arrivals:
            pipeline.receiver_parked = True
            parked.set()
            woken.append(pipeline.arrivals.wait(TIMEOUT))

    parked = threading.Event()
    thread = threading.Thread(target=wait)
    thread.start()
    assert parked.wait(TIMEOUT)
    pipeline.wake_receiver()
    thread.join()
    assert woken == [True]


@pytest.mark.parametrize(("parked", "borrowed"), [(False, False), (True, True)])
def test_a_receiver_that_has_nothing_to_wait_for_costs_no_lock(
    parked: bool, borrowed: bool
) -> None:
    host = make_host()
    pipeline = make_pipeline(host)
    pipeline.receiver_parked = parked
    pipeline.borrower = queue(host, "/a")[0] if borrowed else None
    with pipeline.arrivals:  # which a second taking of the lock would wait for
        pipeline.wake_receiver()
