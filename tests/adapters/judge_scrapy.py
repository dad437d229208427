"""Runs Scrapy's own tests of download handlers with that of dugong, and tells what fails.

    python tests/adapters/judge_scrapy.py [VERSION]

Makes virtual environments in a temporary directory, and downloads Scrapy with its tests, mitmproxy,
and what they need, from PyPI. Takes some minutes. Exits with 1 if a test fails that is not named
here and passes with Scrapy's own handler, or if one that is named here passes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from judging import Outcomes, compare, environment, main, run, source_of

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


def judge(directory: Path, version: str) -> bool:
    mitmdump = environment(directory / "mitmproxy", ["mitmproxy"]).with_name("mitmdump")
    needs = "pytest pytest-rerunfailures pytest-timeout pytest-twisted".split()
    python = environment(directory / "venv", [f"scrapy=={version}", *needs])
    source = source_of("scrapy", version, directory, python)
    (source / ADAPTED).write_text(TESTS)
    options = ["-m", "not requires_internet", "--timeout=120"]
    # Newer versions of pytest say of what Scrapy's tests do that they will not support it.
    options += ["-W", "ignore::pytest.PytestRemovedIn10Warning"]

    def outcomes(name: str, tests: str) -> Outcomes:
        found = run(python, source, name, *options, tests=tests, MITMDUMP=str(mitmdump))
        # The same classes are in another module each.
        return {name.partition(".")[2]: outcome for name, outcome in found.items()}

    plain = outcomes("without", PLAIN)
    adapted = outcomes("with", ADAPTED)
    return compare(("Scrapy's own handler", plain), ("that of dugong", adapted), EXPECTED)


if __name__ == "__main__":
    sys.exit(main("scrapy", VERSION, judge))
