"""Runs requests' own tests, with and without the adapter on every session; compares what fails.

    python tests/adapters/judge_requests.py [VERSION]

Makes a virtual environment in a temporary directory, and downloads requests with its tests, and
what they need, from PyPI. Takes some minutes. Exits with 1 if a test fails with the adapter that
passes without it and is not named here, or if one that is named here passes.
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
#: The version that the documentation is about.
VERSION = "2.34.2"

#: What is not there to be looked at: the pools of urllib3. docs/adapters-requests.rst has the same.
EXPECTED = {
    "TestRequests::test_session_close_proxy_clear",
    "TestPreparingURLs::test_different_connection_pool_for_tls_settings_verify_True",
    "TestPreparingURLs::test_different_connection_pool_for_tls_settings_verify_bundle_expired_cert",
    "TestPreparingURLs::test_different_connection_pool_for_tls_settings_verify_bundle_unexpired_cert",
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
        outcomes[f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"] = outcome
    return outcomes


def prepare(directory: Path, version: str) -> Path:
    """Fetch what is needed into *directory*; return the interpreter to run the tests with."""
    venv.create(directory / "venv", with_pip=True)
    python = directory / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    needs = "pytest pytest-mock pytest-httpbin httpbin trustme".split()
    subprocess.run([*pip, "install", f"requests[socks]=={version}", *needs], check=True)
    source = [f"requests=={version}", "--no-deps", "--no-binary", "requests"]
    subprocess.run([*pip, "download", *source, "--dest", directory], check=True)
    with tarfile.open(directory / f"requests-{version}.tar.gz") as archive:
        archive.extractall(directory, filter="data")
    (directory / "dugong_mounted.py").write_text(PLUGIN)
    return python


def judge(directory: Path, version: str) -> int:
    python = prepare(directory, version)
    source = directory / f"requests-{version}"
    without = run(source, python, "without")
    adapted = run(source, python, "with", "-p", "dugong_mounted")
    for name, outcomes in (("without", without), ("with", adapted)):
        counts = {kind: list(outcomes.values()).count(kind) for kind in ("passed", "failed")}
        print(f"{name} the adapter: {counts['passed']} passed, {counts['failed']} failed")
    failed = {name for name, outcome in adapted.items() if outcome == "failed"}
    in_vain = {name for name in failed if without.get(name) == "failed"}
    named = {name for name in without if name in EXPECTED}
    for title, names in (
        ("fails without the adapter, too", in_vain),
        ("fails, as expected", failed & named),
        ("FAILS", failed - in_vain - named),
        ("PASSES, though it is named as failing", named - failed),
    ):
        for name in sorted(names):
            print(f"{title}: {name}")
    wrong = (failed - in_vain - named) | (named - failed)
    if wrong:
        print(f"see {directory}")
    return 1 if wrong else 0


def main() -> int:
    version = sys.argv[1] if len(sys.argv) > 1 else VERSION
    directory = Path(tempfile.mkdtemp(prefix="judge-requests-"))
    status = judge(directory, version)
    if status == 0:
        shutil.rmtree(directory)
    return status


if __name__ == "__main__":
    sys.exit(main())
