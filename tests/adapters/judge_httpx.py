"""Runs httpx' own tests, with and without the transports as the default ones; compares what fails.

    python tests/adapters/judge_httpx.py [VERSION]

Makes a virtual environment in a temporary directory, and downloads httpx with its tests, and what
they need, from PyPI. Then runs the same tests for httpx2, whose distribution has none: there,
``httpx2.alias_httpx`` has ``import httpx`` mean httpx2. Takes some minutes. Exits with 1 if a test
fails with the transports that passes without them and is not named here, or if one that is named
here passes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
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


def run(source: Path, python: Path, name: str, *options: str) -> dict[str, str]:
    """Run the tests in *source*, and return the outcome of each: passed, failed or skipped."""
    directory = source.parent
    report = directory / f"{name}.xml"
    path = os.pathsep.join((str(ROOT), str(directory)))
    command = [python, "-m", "pytest", "-q", "--tb=short", f"--junitxml={report}", *options]
    with open(directory / f"{name}.txt", "wb") as output:
        subprocess.run(
            [*command, "tests"],
            check=False,
            cwd=source,
            env={**os.environ, "PYTHONPATH": path},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        failed = kinds & {"failure", "error"}
        outcome = "failed" if failed else "skipped" if "skipped" in kinds else "passed"
        module = case.get("classname", "").removeprefix("tests.")
        outcomes[f"{module}::{case.get('name')}"] = outcome
    return outcomes


def prepare(directory: Path, version: str) -> Path:
    """Fetch what is needed into *directory*; return the interpreter to run the tests with."""
    venv.create(directory / "venv", with_pip=True)
    python = directory / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    needs = "pytest trio uvicorn trustme cryptography chardet brotli zstandard".split()
    extras = "cli,http2,socks"
    packages = [f"httpx[{extras}]=={version}", f"httpx2[{extras}]=={VERSION_2}"]
    # Those of two extras go together only in part.
    for package in packages:
        subprocess.run([*pip, "install", package, *needs], check=True)
    source = [f"httpx=={version}", "--no-deps", "--no-binary", "httpx"]
    subprocess.run([*pip, "download", *source, "--dest", directory], check=True)
    with tarfile.open(directory / f"httpx-{version}.tar.gz") as archive:
        archive.extractall(directory, filter="data")
    # As it would be found before the one that is installed, and the alias has to be.
    shutil.rmtree(directory / f"httpx-{version}" / "httpx")
    (directory / "httpx_is_httpx2.py").write_text(ALIAS)
    (directory / "dugong_transports.py").write_text(PLUGIN)
    return python


def compare(title: str, without: dict[str, str], adapted: dict[str, str]) -> bool:
    """Say what fails, and return whether that is as it should be."""
    for name, outcomes in (("without", without), ("with", adapted)):
        counts = {kind: list(outcomes.values()).count(kind) for kind in ("passed", "failed")}
        print(
            f"{title}, {name} the transports: {counts['passed']} passed, {counts['failed']} failed"
        )
    failed = {name for name, outcome in adapted.items() if outcome == "failed"}
    in_vain = {name for name in failed if without.get(name) == "failed"}
    wrong = {name for name in failed - in_vain if function_of(name) not in EXPECTED}
    # Some of these pass with some of their parameters.
    in_order = EXPECTED - {function_of(name) for name in failed}
    for heading, names in (
        ("fails without the transports, too", in_vain),
        ("fails, as expected", failed - in_vain - wrong),
        ("FAILS", wrong),
        ("PASSES, though it is named as failing", in_order),
    ):
        for name in sorted(names):
            print(f"{heading}: {name}")
    return not wrong and not in_order


def function_of(name: str) -> str:
    """Return *name* without the parameters of the test."""
    return name.partition("[")[0]


def judge(directory: Path, version: str) -> int:
    python = prepare(directory, version)
    source = directory / f"httpx-{version}"
    is_right = True
    for title, alias in (("httpx", ()), ("httpx2", ("-p", "httpx_is_httpx2"))):
        without = run(source, python, f"{title}-without", *alias)
        adapted = run(source, python, f"{title}-with", *alias, "-p", "dugong_transports")
        is_right = compare(title, without, adapted) and is_right
    if not is_right:
        print(f"see {directory}")
    return 0 if is_right else 1


def main() -> int:
    version = sys.argv[1] if len(sys.argv) > 1 else VERSION
    directory = Path(tempfile.mkdtemp(prefix="judge-httpx-"))
    status = judge(directory, version)
    if status == 0:
        shutil.rmtree(directory)
    return status


if __name__ == "__main__":
    sys.exit(main())
