"""Fixtures for the tests of the pool."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Iterator

import pytest

from tests.support.byhand import HandServer
from tests.support.clock import Listener, StoppedClock, no_luck
from tests.support.pool import OpenSite, open_site


@pytest.fixture(params=["plain", "tls"])
def site(
    request: pytest.FixtureRequest,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
) -> OpenSite:
    """`open_site`, once without and once with TLS."""
    if request.param == "plain":
        return open_site
    return functools.partial(
        open_site, server_context=server_context, client_context=client_context
    )


@pytest.fixture
def server() -> Iterator[HandServer]:
    """A server that the test plays by hand."""
    with HandServer() as server:
        yield server


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StoppedClock:
    """The time of all pools, which stands still; and every wait is the longest it can be."""
    no_luck(monkeypatch)
    return StoppedClock(monkeypatch)


@pytest.fixture
def heard() -> Listener:
    """To be the *on_event* of a pool."""
    return Listener()
