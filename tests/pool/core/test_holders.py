"""What holds the connections of a host, in words."""

from __future__ import annotations

from dugong.pool.core.holders import describe_holders
from tests.support.parts import hold, make_connection, make_host

NOW = 100.0


def test_without_a_connection_nothing_holds_one() -> None:
    assert describe_holders(make_host(), NOW) == "no connection is open"


def test_the_oldest_requests_of_each_connection_are_named() -> None:
    host = make_host()
    make_connection(host, in_flight=5)
    make_connection(host)
    make_connection(host, is_open=False)
    assert describe_holders(host, NOW) == (
        "held by host:80-1 (busy): GET http://host/flying0 for 100.0 s, "
        "GET http://host/flying1 for 100.0 s, GET http://host/flying2 for 100.0 s and 2 more; "
        "host:80-2 (idle): nothing; host:80-3 (connecting): nothing"
    )


def test_a_server_that_asked_to_be_left_alone_holds_all() -> None:
    host = make_host()
    hold(host, NOW + 7)
    words = "held by its server, which has asked to be left alone for 7.0 s more"
    assert describe_holders(host, NOW) == words
