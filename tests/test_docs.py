"""The documentation: every Python example in it runs, and prints what it says it prints.

The examples of one section run one after the other in one namespace, after those before the first
section of the page. Those of a table are in its second column. An example names its output in
comments that begin with ``#>``. Its ``www.example.com`` and ``proxy.example.com`` are
`tests.support.site` on the loopback interface, and so is what ``socks.example.com`` leads to.
"""

from __future__ import annotations

import gc
import inspect
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme
from fsspec.asyn import get_loop

import dugong
from dugong import RetryPolicy
from dugong.pool import many
from dugong.pool.core import (
    cancellation,
    connections,
    host,
    pipelining,
    room,
    shutdown,
    traffic,
)
from dugong.pool.io import receiver
from tests.support.client import Place
from tests.support.proxies import SocksProxy, UnixServer
from tests.support.s3 import S3Site
from tests.support.server import ScriptedServer
from tests.support.site import Site

ROOT = Path(__file__).parent.parent
TUTORIALS = (
    "docs/quickstart.rst",
    "docs/authentication.rst",
    "docs/cookies.rst",
    "docs/crawling.rst",
    "docs/crawler.rst",
    "docs/backup.rst",
    "docs/futures.rst",
    "docs/transfers.rst",
    "docs/uploads.rst",
    "docs/retries.rst",
    "docs/tutorial.rst",
)
get_loop()  # fsspec's thread stays for good

#: Side by side: only the second column, which is dugong's, is run.
#: Packages without which an example is skipped.
OPTIONAL = ("trio",)
COMPARISONS = ("docs/from-requests.rst", "docs/from-httpx.rst")
PAGES = (
    "README.md",
    "docs/index.rst",
    "docs/proxies.rst",
    "docs/pipelining.rst",
    "docs/politeness.rst",
    "docs/threads.rst",
    "docs/coroutines.rst",
    "docs/asyncio.rst",
    "docs/testing.rst",
    "docs/adapters-fsspec.rst",
    "docs/adapters-requests.rst",
    "docs/adapters-httpx.rst",
    "docs/adapters-botocore.rst",
    "docs/adapters-scrapy.rst",
    *COMPARISONS,
    *TUTORIALS,
)


class Example(NamedTuple):
    """One block of Python, and the line of *page* that it begins at."""

    page: str
    section: str
    line: int
    code: str

    def run(self, namespace: dict[str, object]) -> None:
        source = "\n" * (self.line - 1) + self.code
        exec(compile(source, str(ROOT / self.page), "exec"), namespace)

    @property
    def output(self) -> list[str]:
        return re.findall(r"#> ?(.*)", self.code)


def examples_of_markdown(page: str) -> Iterator[Example]:
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    section = ""
    start: int | None = None
    language = ""
    for number, line in enumerate(lines):
        if line.startswith("```"):
            if start is None:
                start, language = number + 1, line[3:]
                continue
            if language == "python":
                yield Example(page, section, start + 1, "\n".join(lines[start:number]))
            start = None
        elif start is None and line.startswith("##"):
            section = line.strip("# ")


def examples_of_rst(page: str) -> Iterator[Example]:
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    section = ""
    titles = 0
    for number, line in enumerate(lines):
        if re.fullmatch(r"[=\-~]{4,}", line):
            titles += 1
            section = lines[number - 1] if titles > 1 else ""  # the first is the page's own
        elif match := re.fullmatch(r"( *- )?\.\. code-block:: python", line):
            indent = len(match[1] or "") + 3
            end = number + 1
            while end < len(lines) and not lines[end][:indent].strip():
                end += 1
            code = "\n".join(text[indent:] for text in lines[number + 1 : end])
            yield Example(page, section, number + 2, code)


def examples_of(page: str) -> list[Example]:
    return list((examples_of_markdown if page.endswith(".md") else examples_of_rst)(page))


def sections() -> list[tuple[str, str]]:
    return [
        (page, section)
        for page in PAGES
        for section in dict.fromkeys(example.section for example in examples_of(page))
    ]


@pytest.fixture
def _example_com(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[None]:
    """Let the names of the examples lead to a local site, and trust its certificate."""
    context, of_storage = [ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2)]
    authority.issue_cert("www.example.com").configure_cert(context)
    authority.issue_cert("s3.example.com").configure_cert(of_storage)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    monkeypatch.setenv("DUGONG_TRACEFILE", "")
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    monkeypatch.chdir(tmp_path)
    site = Site(context)
    bucket = S3Site()
    bucket.scheme = "https"
    storage = Place(bucket, of_storage)
    with (
        socket.socket() as silent,
        ScriptedServer(site, repeat=True) as plain,
        ScriptedServer(site, repeat=True, context=context) as tls,
        ScriptedServer(SocksProxy(plain.address), repeat=True) as socks,
        UnixServer(tmp_path / "server.sock", site, repeat=True),
        storage.server,
    ):
        silent.bind(("127.0.0.1", 0))
        addresses = {
            ("www.example.com", 80): plain.address,
            ("www.example.com", 443): tls.address,
            ("www.example.com", 8080): silent.getsockname(),  # which refuses connections
            ("proxy.example.com", 3128): plain.address,
            ("socks.example.com", 1080): socks.address,
            ("s3.example.com", 443): storage.server.address,
        }
        getaddrinfo = socket.getaddrinfo
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda host, port, *args, **kwargs: getaddrinfo(
                *addresses.get((host, port), ("127.0.0.1", port)), *args, **kwargs
            ),
        )
        yield


@pytest.mark.usefixtures("_example_com")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # a pool may be forked
@pytest.mark.parametrize(("page", "section"), sections())
def test_the_examples_do_what_they_say(
    page: str, section: str, capsys: pytest.CaptureFixture[str]
) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    examples = examples_of(page)
    for name in OPTIONAL:
        if any(f"import {name}\n" in each.code for each in examples if each.section == section):
            pytest.importorskip(name)
    for example in examples:
        if example.section == "" and section:
            example.run(namespace)
    for example in examples:
        if example.section == section:
            capsys.readouterr()
            example.run(namespace)
            assert capsys.readouterr().out.splitlines() == example.output, f"line {example.line}"
    # A pool that an example has left open ends once it is forgotten.
    namespace.clear()
    gc.collect()
    for thread in threading.enumerate():
        if thread.name.startswith("dugong"):
            thread.join(10)


@pytest.mark.parametrize("page", TUTORIALS)
def test_every_section_of_a_tutorial_has_an_example(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    titles = re.findall(r"^(.+)\n-{4,}$", text, re.MULTILINE)
    assert titles
    assert set(titles) - {example.section for example in examples_of(page)} == set()


@pytest.mark.parametrize("page", COMPARISONS)
def test_every_row_of_a_comparison_has_an_example(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    rows = text.count("   * - .. code-block:: python\n")
    assert rows
    assert len(examples_of(page)) == rows


def test_the_reference_describes_every_public_name() -> None:
    text = (ROOT / "docs/reference.rst").read_text(encoding="utf-8")
    directive = r"^\.\. (?:autoclass|autoexception|autofunction|data):: dugong\.(\S+)"
    described = re.findall(directive, text, re.MULTILINE)
    assert sorted(described) == sorted(dugong.__all__)


def test_the_reference_gives_the_constants_their_values() -> None:
    text = (ROOT / "docs/reference.rst").read_text(encoding="utf-8")
    values = re.findall(r"^\.\. data:: dugong\.(\S+)\n   :value: (\d+)$", text, re.MULTILINE)
    assert values
    assert values == [(name, str(getattr(dugong, name))) for name, _ in values]


def test_the_reference_gives_the_numbers_of_the_pool() -> None:
    text = (ROOT / "docs/reference.rst").read_text(encoding="utf-8")
    rows = re.findall(
        r"^   \* - ``([A-Z_]+)``\n     - ([\d.]+)(?: (s|KiB|MiB))?$", text, re.MULTILINE
    )
    units = {"KiB": 2**10, "MiB": 2**20}
    described = {name: float(value) * units.get(unit, 1) for name, value, unit in rows}
    numbers = {
        name: value
        for module in (
            cancellation,
            connections,
            host,
            many,
            pipelining,
            receiver,
            room,
            shutdown,
            traffic,
        )
        for name, value in vars(module).items()
        if name[0] != "_" and type(value) in (int, float)
    }
    assert described == numbers


def test_the_page_on_retries_gives_the_defaults_of_a_policy() -> None:
    text = (ROOT / "docs/retries.rst").read_text(encoding="utf-8")
    described = re.findall(r"^   \* - \*(\w+)\*\n     - (.+)$", text, re.MULTILINE)
    parameters = inspect.signature(RetryPolicy).parameters.values()
    assert dict(described) == {each.name: in_words(each.default) for each in parameters}


def in_words(default: object) -> str:
    if isinstance(default, frozenset):
        order = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", *range(600)]
        return ", ".join(str(item) for item in order if item in default)
    return f"{default:g} s" if isinstance(default, float) else str(default)


def test_the_changelog_has_an_entry_for_this_version() -> None:
    version = dugong.__version__.partition(".dev")[0]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
