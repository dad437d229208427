"""`retrying`: what it takes, and what it makes of a function."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from dugong import HTTPConnection, RetryPolicy, retrying


def test_a_decorated_function_keeps_its_name_and_its_text() -> None:
    @retrying(RetryPolicy())
    def fetch(conn: HTTPConnection, path: str = "/") -> bytes:
        """Fetch it."""
        return b""

    assert (fetch.__name__, fetch.__doc__) == ("fetch", "Fetch it.")
    assert list(inspect.signature(fetch).parameters) == ["conn", "path"]


@pytest.mark.parametrize("policy", [None, 3, RetryPolicy])
def test_only_a_policy_decorates(policy: Any) -> None:
    with pytest.raises(TypeError, match="RetryPolicy"):
        retrying(policy)


@pytest.mark.parametrize("connections", [5, HTTPConnection("h"), ["h"], [None]])
def test_what_are_no_connections_is_a_type_error(connections: Any) -> None:
    with pytest.raises(TypeError, match="connections must"):
        retrying(RetryPolicy(), connections=connections)


@pytest.mark.parametrize(("deadline", "error"), [("1", TypeError), (0, ValueError)])
def test_a_deadline_that_makes_no_sense_is_an_error(deadline: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="deadline"):
        retrying(RetryPolicy(), deadline=deadline)
