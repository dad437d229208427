"""What a client is made of begins anew in a forked child."""

from __future__ import annotations

import gc

import pytest

from dugong.client.forking import begin_anew_in_child
from tests.support.fork import holds_in_child

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


class Renewable:
    def __init__(self) -> None:
        self.begun = 0
        begin_anew_in_child(self)

    def _begin_in_child(self) -> None:
        self.begun += 1


def test_each_begins_anew_in_the_child_and_none_in_the_parent() -> None:
    first, second = Renewable(), Renewable()
    assert holds_in_child(lambda: (first.begun, second.begun) == (1, 1))
    assert (first.begun, second.begun) == (0, 0)


def test_one_that_is_not_used_any_more_is_not_kept() -> None:
    from dugong.client.forking import _known

    gc.collect()
    before = len(_known)
    renewable = Renewable()
    assert len(_known) == before + 1
    del renewable
    assert len(_known) == before
