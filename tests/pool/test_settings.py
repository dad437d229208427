"""Settings that never change, by a class that has two."""

from __future__ import annotations

import copy
import pickle

import pytest

from dugong.pool.settings import Settings


class Two(Settings):
    __slots__ = ("first", "second")
    _names = __slots__

    first: int
    second: int

    def __init__(self, *, first: int = 1, second: int = 2) -> None:
        self._set(first=first, second=second)


class Others(Two):
    """Another class, with the same values."""

    __slots__ = ()


def test_no_value_can_be_changed_or_deleted() -> None:
    two = Two()
    with pytest.raises(AttributeError, match=r"a Two never changes: replace\(first=\.\.\.\)"):
        two.first = 5
    with pytest.raises(AttributeError, match="a Two never changes"):
        del two.first
    assert two.first == 1


def test_replacing_makes_another_one_of_the_same_class() -> None:
    others = Others(first=7)
    changed = others.replace(second=8)
    assert type(changed) is Others
    assert (others.second, changed.first, changed.second) == (2, 7, 8)
    with pytest.raises(TypeError):
        others.replace(third=9)


def test_those_with_the_same_values_are_equal_if_they_are_of_one_class() -> None:
    assert Two(first=3) == Two(first=3)
    assert hash(Two(first=3)) == hash(Two(first=3))
    assert Two(first=3) != Two(first=4)
    assert Two() != Others()
    assert Two() != 1


def test_they_can_be_copied_and_pickled() -> None:
    two = Two(second=9)
    assert copy.deepcopy(two) == copy.copy(two) == pickle.loads(pickle.dumps(two)) == two


def test_the_repr_is_what_makes_it() -> None:
    assert repr(Two(second=9)) == "Two(first=1, second=9)"
