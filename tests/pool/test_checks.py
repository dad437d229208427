"""Checks of numbers, switches and callables: what is refused, and in which words."""

from __future__ import annotations

import math
import re
import sys
from threading import TIMEOUT_MAX
from typing import Any

import pytest

from dugong.pool.checks import (
    check_bool,
    check_call,
    check_counts,
    check_int,
    check_not_negative,
    check_positive,
    check_seconds,
)


def test_what_makes_sense_is_accepted() -> None:
    check_counts(a=1, b=sys.maxsize)
    check_int("a", -7)
    check_int("a", 0, 0)
    check_seconds("a", 1)
    check_seconds("a", TIMEOUT_MAX)
    check_positive("a", 0.5, "bytes")
    check_not_negative("a", 0, "seconds")
    check_bool("a", False)
    check_call("a", print)
    check_call("a", type)


@pytest.mark.parametrize("value", ["1", None, 1.0, True])
def test_a_count_is_an_int(value: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(f"b must be an int, not {value!r}")):
        check_counts(a=1, b=value)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "at least 1, not 0"), (sys.maxsize + 1, "at most")], ids=str
)
def test_a_count_is_positive_and_can_be_a_size(value: int, text: str) -> None:
    with pytest.raises(ValueError, match=f"a must be {text}"):
        check_counts(a=value)


@pytest.mark.parametrize("value", ["1", None, True, [1]])
def test_a_number_is_an_int_or_a_float(value: Any) -> None:
    text = re.escape(f", not {value!r}")
    with pytest.raises(TypeError, match=f"a must be a number of seconds or None{text}"):
        check_seconds("a", value)
    with pytest.raises(TypeError, match=f"a must be a number of bytes{text}"):
        check_positive("a", value, "bytes")


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan, TIMEOUT_MAX + 1])
def test_a_time_is_positive_and_can_be_waited(value: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"positive and finite, not {value!r}")):
        check_seconds("a", value)


@pytest.mark.parametrize("value", [-1, math.inf, math.nan, 8])
def test_what_may_be_nothing_is_not_negative(value: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"finite and not negative, not {value!r}")):
        check_not_negative("a", value, "seconds", 7)


@pytest.mark.parametrize("value", [0, 1, None, "yes"])
def test_a_switch_is_a_bool(value: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(f"a must be a bool, not {value!r}")):
        check_bool("a", value)


async def _coroutine() -> None: ...


def test_what_is_called_is_callable_and_need_not_be_awaited() -> None:
    with pytest.raises(TypeError, match="a must be callable, not 5"):
        check_call("a", 5)
    with pytest.raises(TypeError, match="a must not be a coroutine function"):
        check_call("a", _coroutine)
