"""Fixtures for the proof."""

from __future__ import annotations

import ssl

import pytest

from tests.faults.site import Contexts


@pytest.fixture
def tls_contexts(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> Contexts:
    """TLS, for the proxy and for the pool."""
    return server_context, client_context


@pytest.fixture(params=["plain", "tls"])
def contexts(request: pytest.FixtureRequest, tls_contexts: Contexts) -> Contexts:
    """Without and with TLS."""
    return None if request.param == "plain" else tls_contexts
