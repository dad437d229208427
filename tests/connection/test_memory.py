"""What was worked out before is looked up, and never wrong or without bounds."""

from __future__ import annotations

import pytest

from dugong.connection.memory import Memory


class Counting:
    """Doubles a text, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, text: str) -> str:
        self.calls += 1
        return text * 2


def test_what_was_worked_out_is_not_worked_out_again() -> None:
    double = Counting()
    memory = Memory(double)
    assert [memory["a"], memory["b"], memory["a"]] == ["aa", "bb", "aa"]
    assert double.calls == 2


def test_what_cannot_be_worked_out_is_tried_again() -> None:
    memory = Memory(lambda text: int(text))
    for _ in range(2):
        with pytest.raises(ValueError, match="no number"):
            memory["no number"]
    assert not memory


def test_a_result_of_none_is_remembered() -> None:
    calls: list[str] = []
    memory = Memory(calls.append)
    assert memory["a"] is memory["a"] is None
    assert calls == ["a"]


def test_so_many_are_remembered_and_no_more() -> None:
    double = Counting()
    memory = Memory(double, most=3)
    for text in "abcabc":
        assert memory[text] == text * 2
    assert (len(memory), double.calls) == (3, 3)
    assert memory["d"] == "dd"
    assert len(memory) <= 3


def test_what_is_long_is_worked_out_each_time() -> None:
    double = Counting()
    memory = Memory(double)
    for _ in range(2):
        assert memory["a" * 257] == "a" * 514
    assert double.calls == 2
    assert not memory
