"""Methods that want the lock held say so, and assert it in dev mode."""

from __future__ import annotations

import inspect
import sys
from types import SimpleNamespace

import pytest

from dugong.pool.core.connections import ConnectionManager
from dugong.pool.core.core import PoolCore
from dugong.pool.core.locked import locked
from dugong.pool.core.maintenance import Maintenance
from dugong.pool.core.retries import RetryEngine
from dugong.pool.core.scheduler import Scheduler
from dugong.pool.core.traffic import Traffic
from tests.support.parts import in_thread


class Part:
    """Has a method that wants the lock held."""

    def __init__(self, core: PoolCore) -> None:
        self._core = core

    def change_locked(self, value: int) -> int:
        """Return twice *value*."""
        return 2 * value


def test_a_locked_method_asserts_in_dev_mode_that_the_lock_is_held(
    core: PoolCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "flags", SimpleNamespace(dev_mode=True))
    checked = locked(Part.change_locked)
    monkeypatch.undo()
    part = Part(core)
    with core.transaction():
        assert checked(part, 21) == 42
    with pytest.raises(AssertionError, match="change_locked was called without the lock"):
        checked(part, 21)


def test_the_lock_of_another_thread_is_not_the_lock_held(
    core: PoolCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "flags", SimpleNamespace(dev_mode=True))
    checked = locked(Part.change_locked)
    monkeypatch.undo()

    def call() -> None:
        with pytest.raises(AssertionError):
            checked(Part(core), 1)

    with core.transaction():
        in_thread(call)


def test_a_locked_method_costs_nothing_without_dev_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "flags", SimpleNamespace(dev_mode=False))
    method = locked(Part.change_locked)
    monkeypatch.undo()
    assert method is Part.change_locked


@pytest.mark.parametrize(
    "part",
    [Maintenance, RetryEngine, ConnectionManager, Traffic, Scheduler],
    ids=lambda c: c.__name__,
)
def test_every_method_that_says_locked_asserts_it(part: type) -> None:
    if not sys.flags.dev_mode:
        pytest.skip("only python -X dev asserts it")
    unchecked = [
        name
        for name, method in inspect.getmembers(part, inspect.isfunction)
        if name.endswith("_locked") and not hasattr(method, "__wrapped__")
    ]
    assert unchecked == []
