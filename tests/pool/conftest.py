"""Fixtures for the tests of the pool."""

from __future__ import annotations

import functools
import ssl

import pytest

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
