"""Runs httpx' own tests, with and without the transports as the default ones; compares what fails.

    python tests/adapters/judge_httpx.py [VERSION]

Makes a virtual environment in a temporary directory, and downloads httpx with its tests, and what
they need, from PyPI. Then runs the same tests for httpx2, whose distribution has none: there,
``httpx2.alias_httpx`` has ``import httpx`` mean httpx2. Takes some minutes. Exits with 1 if a test
fails with the transports that passes without them and is not named here, or if one that is named
here passes.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from judging import compare, environment, main, run, source_of

#: The versions that the documentation is about.
VERSION = "0.28.1"
VERSION_2 = "2.16.2"

#: What is not there to be looked at: httpcore. docs/adapters-httpx.rst has the same.
EXPECTED = {
    "client.test_proxies::test_proxies_environ",
    "client.test_proxies::test_socks_proxy",
    "client.test_proxies::test_transport_for_request",
    "test_api::test_httpcore_lazy_loading",
    "test_main::test_auth",
    "test_main::test_binary",
    "test_main::test_follow_redirects",
    "test_main::test_get",
    "test_main::test_json",
    "test_main::test_post",
    "test_main::test_redirects",
    "test_main::test_verbose",
}
#: What depends on whether something comes in time: a small body, whose connection is free then, or
#: the response to an upload that is still under way.
CHANCY = {"test_timeouts::test_pool_timeout", "test_timeouts::test_write_timeout"}
#: What all tests begin with that are for httpx2.
ALIAS = """
import httpx2

httpx2.alias_httpx()
"""
#: What the tests with the transports begin with, after that.
PLUGIN = """
from urllib.parse import quote

import httpx
from httpx import _api, _client, _transports
from dugong.adapters.httpx import AsyncDugongTransport, DugongTransport

def options(verify=True, cert=None, trust_env=True, limits=None, proxy=None, **others):
    context = httpx.create_ssl_context(verify=verify, cert=cert, trust_env=trust_env)
    made = {"ssl_context": context}
    if limits is not None and limits.max_connections is not None:
        made["max_connections"] = made["max_connections_per_host"] = limits.max_connections
    if proxy is not None:
        if not isinstance(proxy, httpx.Proxy):
            proxy = httpx.Proxy(url=proxy)
        url = proxy.url
        if proxy.raw_auth is not None:
            username, password = (part.decode() for part in proxy.raw_auth)
            url = url.copy_with(username=username, password=password)
        made["proxy"] = str(url)
        made["proxy_headers"] = dict(proxy.headers)
    return made

class Transport(DugongTransport):
    def __init__(self, **given):
        super().__init__(**options(**given))

class AsyncTransport(AsyncDugongTransport):
    def __init__(self, **given):
        super().__init__(**options(**given))

for module in (httpx, _client, _transports):
    module.HTTPTransport, module.AsyncHTTPTransport = Transport, AsyncTransport
"""


def judge(directory: Path, version: str) -> bool:
    needs = "pytest trio uvicorn trustme cryptography chardet brotli zstandard".split()
    extras = "cli,http2,socks"
    python = environment(
        directory / "venv",
        [f"httpx[{extras}]=={version}", *needs],
        [f"httpx2[{extras}]=={VERSION_2}", *needs],  # these go together with the others in part
    )
    source = source_of("httpx", version, directory, python)
    # As it would be found before the one that is installed, and the alias has to be.
    shutil.rmtree(source / "httpx")
    (directory / "httpx_is_httpx2.py").write_text(ALIAS)
    (directory / "dugong_transports.py").write_text(PLUGIN)
    is_right = True
    for title, alias in (("httpx", ()), ("httpx2", ("-p", "httpx_is_httpx2"))):
        without = run(python, source, f"{title}-without", *alias)
        adapted = run(python, source, f"{title}-with", *alias, "-p", "dugong_transports")
        is_right &= compare(
            (f"{title}, without the transports", without),
            (f"{title}, with the transports", adapted),
            EXPECTED,
            CHANCY,
        )
    return is_right


if __name__ == "__main__":
    sys.exit(main("httpx", VERSION, judge))
