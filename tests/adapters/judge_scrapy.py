"""Runs Scrapy's own tests of download handlers with that of dugong, and tells what fails.

    python tests/adapters/judge_scrapy.py [VERSION]

Makes virtual environments in a temporary directory, and downloads Scrapy with its tests, mitmproxy,
and what they need, from PyPI. Takes some minutes. Exits with 1 if a test fails that is not named
here and passes with Scrapy's own handler, or if one that is named here passes.
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
VERSION = "2.19.0"

#: It is about a setting for Twisted. docs/adapters-scrapy.rst has the same.
EXPECTED = {"TestHttps::test_verify_certs_deprecated"}

#: The tests of Scrapy's own handler, to see what fails for other reasons.
PLAIN = "tests/test_downloader_handler_twisted_http11.py"
#: What has Scrapy's base classes test that of dugong. It says of the handler what they ask for.
ADAPTED = "tests/test_dugong.py"
TESTS = """
import pytest

from dugong.adapters.scrapy import DugongDownloadHandler
from tests.utils.bases import download_handlers_http as bases


class Dugong:
    always_present_req_headers = frozenset(["Accept-Encoding"])
    download_handler_cls = DugongDownloadHandler
    expected_http_proxy_request_body = b"http://example.com/"
    handler_supports_socks = True
    settings_dict = {
        "DOWNLOAD_HANDLERS": dict.fromkeys(
            ("http", "https"), "dugong.adapters.scrapy.DugongDownloadHandler"
        )
    }
    tls_log_message = "SSL connection to 127.0.0.1 using protocol TLSv1.3, cipher"


class TestHttp(Dugong, bases.TestHttpBase):
    pass


class TestHttps(Dugong, bases.TestHttpsBase):
    pass


class TestSimpleHttps(Dugong, bases.TestSimpleHttpsBase):
    pass


class TestHttpsWrongHostname(Dugong, bases.TestHttpsWrongHostnameBase):
    pass


class TestHttpsInvalidDNSId(Dugong, bases.TestHttpsInvalidDNSIdBase):
    pass


class TestHttpsInvalidDNSPattern(Dugong, bases.TestHttpsInvalidDNSPatternBase):
    pass


class TestHttpsCustomCiphers(Dugong, bases.TestHttpsCustomCiphersBase):
    pass


class TestHttpsDefaultCiphers(Dugong, bases.TestHttpsDefaultCiphersBase):
    pass


class TestHttpsTLSVersion(Dugong, bases.TestHttpsTLSVersionBase):
    pass


class TestHttpWithCrawler(Dugong, bases.TestHttpWithCrawlerBase):
    pass


class TestHttpsWithCrawler(Dugong, bases.TestHttpWithCrawlerBase):
    is_secure = True


class TestHttpProxy(Dugong, bases.TestHttpProxyBase):
    pass


class TestHttpsProxy(Dugong, bases.TestHttpProxyBase):
    is_secure = True


@pytest.mark.requires_mitmproxy
class TestMitmProxy(Dugong, bases.TestMitmProxyBase):
    pass
"""


def run(source: Path, tests: str) -> dict[str, str]:
    """Run *tests* in *source*, and return the outcome of each: passed, failed or skipped."""
    directory = source.parent
    report = directory / f"{Path(tests).stem}.xml"
    command = [directory / "venv/bin/python", "-m", "pytest", "-q", "--tb=short", tests]
    options = ["-m", "not requires_internet", "--timeout=120", f"--junitxml={report}"]
    # Newer versions of pytest say of what Scrapy's tests do that they will not support it.
    options += ["-W", "ignore::pytest.PytestRemovedIn10Warning"]
    mitmdump = str(directory / "mitmproxy/bin/mitmdump")
    with open(directory / f"{Path(tests).stem}.txt", "wb") as output:
        subprocess.run(
            [*command, *options],
            check=False,
            cwd=source,
            env={**os.environ, "PYTHONPATH": str(ROOT), "MITMDUMP": mitmdump},
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


def install(directory: Path, *packages: str) -> list[str]:
    """Make a virtual environment with *packages*; return the command of its pip."""
    venv.create(directory, with_pip=True)
    pip = [str(directory / "bin/python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", *packages], check=True)
    return pip


def prepare(directory: Path, version: str) -> Path:
    """Fetch what is needed into *directory*; return where Scrapy and its tests are."""
    install(directory / "mitmproxy", "mitmproxy")
    needs = "pytest pytest-rerunfailures pytest-timeout pytest-twisted".split()
    pip = install(directory / "venv", f"scrapy=={version}", *needs)
    source = [f"scrapy=={version}", "--no-deps", "--no-binary", "scrapy"]
    subprocess.run([*pip, "download", *source, "--dest", directory], check=True)
    with tarfile.open(directory / f"scrapy-{version}.tar.gz") as archive:
        archive.extractall(directory, filter="data")
    (directory / f"scrapy-{version}" / ADAPTED).write_text(TESTS)
    return directory / f"scrapy-{version}"


def judge(directory: Path, version: str) -> int:
    source = prepare(directory, version)
    plain = run(source, PLAIN)
    adapted = run(source, ADAPTED)
    for name, outcomes in (("Scrapy's own handler", plain), ("that of dugong", adapted)):
        found = list(outcomes.values())
        counts = ", ".join(
            f"{found.count(kind)} {kind}" for kind in ("passed", "failed", "skipped")
        )
        print(f"{name}: {counts}")
    failed = {name for name, outcome in adapted.items() if outcome == "failed"}
    in_vain = {name for name in failed if plain.get(name) == "failed"}
    for title, names in (
        ("fails with Scrapy's own handler, too", in_vain),
        ("fails, as expected", failed & EXPECTED),
        ("FAILS", failed - in_vain - EXPECTED),
        ("PASSES, though it is named as failing", EXPECTED - failed),
    ):
        for name in sorted(names):
            print(f"{title}: {name}")
    wrong = (failed - in_vain - EXPECTED) | (EXPECTED - failed)
    if wrong or not adapted:
        print(f"see {directory}")
    return 1 if wrong or not adapted else 0


def main() -> int:
    version = sys.argv[1] if len(sys.argv) > 1 else VERSION
    directory = Path(tempfile.mkdtemp(prefix="judge-scrapy-"))
    status = judge(directory, version)
    if status == 0:
        shutil.rmtree(directory)
    return status


if __name__ == "__main__":
    sys.exit(main())
