"""Fixtures for all tests. A test that leaks threads or descriptors fails."""

from __future__ import annotations

import gc
import os
import shutil
import ssl
from collections.abc import Iterator

import pytest
import trustme

from tests.support.leaks import no_leaks


def pytest_collection_finish(session: pytest.Session) -> None:
    # What exists by now is no test's leak; not looking at it makes each gc.collect() cheap.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _no_proxies_of_the_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
            environment.delenv(name, raising=False)
            environment.delenv(name.lower(), raising=False)
        yield


@pytest.fixture(autouse=True)
def _leaks_nothing() -> Iterator[None]:
    with no_leaks():
        yield


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority that only the tests trust."""
    return trustme.CA()


@pytest.fixture(scope="session")
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    """TLS for a server called localhost, 127.0.0.1 and ::1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1", "::1").configure_cert(context)
    return context


@pytest.fixture(scope="session")
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    """TLS for a client that trusts the authority of the tests, and checks host names."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def _installed(name: str, package: str) -> str:
    """Return where *name* is; skip the test if it is not there, or fail if servers are required."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        message = f"{name} is not installed (Debian: {package})"
        if os.environ.get("DUGONG_REQUIRE_SERVERS") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture(scope="session")
def nginx_path() -> str:
    """Where nginx is."""
    return _installed("nginx", "nginx-light")


@pytest.fixture(scope="session")
def tinyproxy_path() -> str:
    """Where tinyproxy is."""
    return _installed("tinyproxy", "tinyproxy-bin")
