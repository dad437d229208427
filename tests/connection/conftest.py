"""Fixtures for the tests of one connection."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support.names import FakeNames
from tests.support.session import Line


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.close()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> FakeNames:
    """Makes a name resolve to some loopback addresses, or to an error; others stay as they are."""
    names = FakeNames()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    return names
