"""Fixtures for the tests of one connection."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.session import Line


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.close()
