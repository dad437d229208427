"""What was worked out before is looked up, and never wrong or without bounds."""

from __future__ import annotations

import pytest

from dugong.connection.cache import BoundedCache


class Counting:
    """Doubles a text, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, text: str) -> str:
        self.calls += 1
        return text * 2


def test_what_was_worked_out_is_not_worked_out_again() -> None:
    double = Counting()
    cache = BoundedCache(double)
    assert [cache["a"], cache["b"], cache["a"]] == ["aa", "bb", "aa"]
    assert double.calls == 2


def test_what_cannot_be_worked_out_is_tried_again() -> None:
    cache = BoundedCache(lambda text: int(text))
    for _ in range(2):
        with pytest.raises(ValueError, match="no number"):
            cache["no number"]
    assert not cache


def test_a_result_of_none_is_remembered() -> None:
    calls: list[str] = []
    cache = BoundedCache(calls.append)
    assert cache["a"] is cache["a"] is None
    assert calls == ["a"]


def test_so_many_are_remembered_and_no_more() -> None:
    double = Counting()
    cache = BoundedCache(double, max_entries=3)
    for text in "abcabc":
        assert cache[text] == text * 2
    assert (len(cache), double.calls) == (3, 3)
    assert cache["d"] == "dd"
    assert len(cache) <= 3


def test_what_is_long_is_worked_out_each_time() -> None:
    double = Counting()
    cache = BoundedCache(double)
    for _ in range(2):
        assert cache["a" * 257] == "a" * 514
    assert double.calls == 2
    assert not cache
