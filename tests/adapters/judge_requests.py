"""Runs requests' own tests, with and without the adapter on every session; compares what fails.

    python tests/adapters/judge_requests.py [VERSION]

Makes a virtual environment in a temporary directory, and downloads requests with its tests, and
what they need, from PyPI. Takes some minutes. Exits with 1 if a test fails with the adapter that
passes without it and is not named here, or if one that is named here passes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from judging import compare, environment, main, run, source_of

#: The version that the documentation is about.
VERSION = "2.34.2"

#: What is not there to be looked at: the pools of urllib3. docs/adapters-requests.rst has the same.
EXPECTED = {
    "test_requests.TestRequests::test_session_close_proxy_clear",
    "test_requests.TestPreparingURLs::test_different_connection_pool_for_tls_settings_verify_True",
    "test_requests.TestPreparingURLs::test_different_connection_pool_for_tls_settings_verify_bundle_expired_cert",
    "test_requests.TestPreparingURLs::test_different_connection_pool_for_tls_settings_verify_bundle_unexpired_cert",
}
#: What the tests with the adapter begin with. Some ask a SOCKS proxy for httpbin.org, which dugong
#: looks up before it connects to the proxy, and PySocks after: they are to pass without DNS, too.
PLUGIN = """
import socket

import requests
from dugong.adapters.requests import mount

plain_getaddrinfo = socket.getaddrinfo

def getaddrinfo(host, *args, **kwargs):
    return plain_getaddrinfo("192.0.2.1" if host == "httpbin.org" else host, *args, **kwargs)

socket.getaddrinfo = getaddrinfo

plain_init = requests.Session.__init__

def init(self):
    plain_init(self)
    mount(self)

requests.Session.__init__ = init
"""


def judge(directory: Path, version: str) -> bool:
    needs = "pytest pytest-mock pytest-httpbin httpbin trustme".split()
    python = environment(directory / "venv", [f"requests[socks]=={version}", *needs])
    source = source_of("requests", version, directory, python)
    (directory / "dugong_mounted.py").write_text(PLUGIN)
    without = run(python, source, "without")
    adapted = run(python, source, "with", "-p", "dugong_mounted")
    return compare(("without the adapter", without), ("with the adapter", adapted), EXPECTED)


if __name__ == "__main__":
    sys.exit(main("requests", VERSION, judge))
