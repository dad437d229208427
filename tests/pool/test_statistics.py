"""Snapshots: they stay as they are, and say it in a line."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from dugong.pool.statistics import (
    ConnectionStatistics,
    Holding,
    HostStatistics,
    PoolStatistics,
)

HOLDING = Holding("GET", "http://h/a", 1.25, abandoned=False)
SIGNED = Holding("GET", "http://h/a?secret", 1.25, abandoned=False)
CONNECTION = ConnectionStatistics("h:80-1", "busy", 12.34, 5, 4, (HOLDING,))
HOST = HostStatistics(
    origin="http://h",
    queued=7,
    waiting=0,
    held_for=0.0,
    in_flight=1,
    window=4,
    pipelining="growing",
    lesson=None,
    quota=None,
    sent=5,
    answered=4,
    resent=0,
    connections=(CONNECTION,),
)
OLD_HOST = HostStatistics(
    origin="https://old.example:8443",
    queued=0,
    waiting=2,
    held_for=0.0,
    in_flight=0,
    window=1,
    pipelining="one at a time",
    lesson="responds as HTTP/1.0",
    quota=None,
    sent=120,
    answered=119,
    resent=1,
    connections=(),
)
POOL = PoolStatistics(
    queued=7,
    waiting=2,
    in_flight=1,
    connections=1,
    opened=3,
    closed=2,
    sent=125,
    answered=123,
    resent=1,
    hosts={"http://h": HOST},
)


@pytest.mark.parametrize(
    "snapshot", [HOLDING, CONNECTION, HOST, POOL], ids=lambda s: type(s).__name__
)
def test_a_snapshot_does_not_change(snapshot: Any) -> None:
    for field in dataclasses.fields(snapshot):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(snapshot, field.name, None)
    assert not hasattr(snapshot, "__dict__")


@pytest.mark.parametrize(
    "snapshot", [HOLDING, CONNECTION, HOST, POOL], ids=lambda s: type(s).__name__
)
def test_the_repr_of_a_snapshot_is_all_of_it(snapshot: Any) -> None:
    assert eval(repr(snapshot)) == snapshot


def test_a_holding_says_what_holds_and_for_how_long() -> None:
    assert str(HOLDING) == "GET http://h/a for 1.2 s"


def test_a_holding_says_that_its_response_is_not_wanted_any_more() -> None:
    assert str(dataclasses.replace(HOLDING, abandoned=True)).endswith("for 1.2 s (abandoned)")


def test_an_idle_connection_says_so() -> None:
    idle = ConnectionStatistics("h:80-1", "idle", 12.34, 5, 5, ())
    assert str(idle) == "h:80-1: idle, 12.3 s old, 5 sent, 5 answered"


def test_a_busy_connection_names_its_holders_oldest_first() -> None:
    later = Holding("HEAD", "http://h/b", 0.5, abandoned=True)
    busy = dataclasses.replace(CONNECTION, holding=(HOLDING, later))
    assert str(busy) == (
        "h:80-1: busy, 12.3 s old, 5 sent, 4 answered; "
        "held by GET http://h/a for 1.2 s, HEAD http://h/b for 0.5 s (abandoned)"
    )


def test_a_host_says_what_it_does_and_how_it_is_treated() -> None:
    assert str(HOST) == (
        "http://h: 7 queued, 1 in flight on 1 connection, "
        "pipelining growing, window 4; 5 sent, 4 answered, 0 resent"
    )


def test_a_host_that_has_taught_a_lesson_says_which() -> None:
    assert str(OLD_HOST) == (
        "https://old.example:8443: 0 queued, 2 waiting, 0 in flight on 0 connections, "
        "pipelining one at a time (responds as HTTP/1.0), window 1; "
        "120 sent, 119 answered, 1 resent"
    )


def test_a_host_that_closes_connections_after_so_many_responses_says_so() -> None:
    assert "window 4, closes after 100 responses; " in str(dataclasses.replace(HOST, quota=100))


def test_a_host_that_is_held_says_for_how_long() -> None:
    held = dataclasses.replace(HOST, held_for=29.97)
    assert "window 4, to be left alone for 30.0 s; " in str(held)


def test_requests_that_were_rescued_are_told_of_if_there_are_any() -> None:
    host = dataclasses.replace(HOST, resent=3, rescued=2)
    assert str(host).endswith("; 5 sent, 4 answered, 3 resent (2 rescued)")
    pool = dataclasses.replace(POOL, resent=4, rescued=2)
    assert str(pool).splitlines()[0].endswith("123 answered, 4 resent (2 rescued)")


def test_a_pool_is_a_table_of_its_hosts() -> None:
    pool = dataclasses.replace(POOL, hosts={"http://h": HOST, OLD_HOST.origin: OLD_HOST})
    assert str(pool).splitlines() == [
        "2 hosts, 1 connection (3 opened, 2 closed): 7 queued, 2 waiting, 1 in flight; "
        "125 sent, 123 answered, 1 resent",
        "host                      connections  queued  waiting  in-flight  window  sent  answered"
        "  resent  pipelining",
        "http://h                            1       7        0          1       4     5         4"
        "       0  growing",
        "https://old.example:8443            0       0        2          0       1   120       119"
        "       1  one at a time: responds as HTTP/1.0",
    ]


def test_a_pool_that_knows_no_host_is_one_line() -> None:
    assert str(PoolStatistics(0, 0, 0, 0, 0, 0, 0, 0, 0, {})) == (
        "0 hosts, 0 connections (0 opened, 0 closed): 0 queued, 0 waiting, 0 in flight; "
        "0 sent, 0 answered, 0 resent"
    )


def test_what_holds_a_connection_is_named_without_its_query() -> None:
    assert str(SIGNED) == "GET http://h/a?... for 1.2 s"
    assert repr(SIGNED).startswith("Holding(method='GET', url='http://h/a?...', since=1.25")
    assert SIGNED.url == "http://h/a?secret"
