"""Rigs for the tests of the core: see `tests.support.parts`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dugong.pool.core.core import PoolCore
from tests.support.clock import throw
from tests.support.parts import Rig, finish, make_core


@pytest.fixture
def core() -> Iterator[PoolCore]:
    core = make_core()
    yield core
    finish(core)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A rig with three connections to each host; other modules have others."""
    throw(monkeypatch, 1.0)
    return Rig(monkeypatch, max_connections_per_host=3)


@pytest.fixture
def single(monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A rig with one connection to each host."""
    throw(monkeypatch, 1.0)
    return Rig(monkeypatch, max_connections_per_host=1)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A rig that may have one connection."""
    return Rig(monkeypatch, max_connections=1)
