"""Runs fsspec's tests of its HTTP file system, and abstract ones, with `DugongFileSystem`.

    python -m tests.adapters.judge_fsspec [CHECKOUT]

CHECKOUT is one of fsspec's repository; by default it is cloned. Needs git, and pytest-asyncio,
aiohttp, requests and numpy beside what the tests of dugong need. The exit status is 0 if those
tests fail that are named in `EXPECTED`, and no others. `pytest -p tests.adapters.judge_fsspec` is
what it runs: as a plugin, this module puts the file system in its place.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import fsspec

REPOSITORY = "https://github.com/fsspec/filesystem_spec"
ROOT = Path(__file__).parents[2]

#: What fails, and why that is meant.
EXPECTED = {
    "test_exists_strict": "an exception of aiohttp is expected",
    "test_encoded": "a URL that is not quoted is refused with encoded=True; here it is quoted",
    "test_content_encoding_gzip": "the class of the file is expected to be one of fsspec",
    "test_cat_file_range": "the server sends a part with status 200 and no Content-Range",
    "test_cat_file_range_numpy": "the server sends a part with status 200 and no Content-Range",
    "test_async_this_thread": "the session of aiohttp is closed, which is not there",
    "test_async_file": "the session of aiohttp is closed, which is not there",
    "test_async_expand_path": "the session of aiohttp is closed, which is not there",
    "test_async_walk": "the session of aiohttp is closed, which is not there",
    "test_close[get_aiohttp]": "the session of aiohttp is closed, which is not there",
    "test_close[get_proxy]": "the session of aiohttp is closed, which is not there",
    "test_get_glob_edge_cases[fil?1-False-None-expected0]": "a question mark begins a query",
    "test_get_glob_edge_cases[fil?1-True-None-expected1]": "a question mark begins a query",
}


def pytest_configure() -> None:
    """Put the file system in its place. Called by pytest."""
    for protocol in ("http", "https"):
        name = "dugong.adapters.fsspec.DugongFileSystem"
        fsspec.register_implementation(protocol, name, clobber=True)


def main() -> int:
    """Run the tests, and return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        checkout = sys.argv[1] if len(sys.argv) > 1 else f"{folder}/filesystem_spec"
        if len(sys.argv) == 1:
            clone = ["git", "clone", "--quiet", "--depth=1", REPOSITORY, checkout]
            subprocess.run(clone, check=True, timeout=300)
        # From where they are, pytest would take the configuration and the fixtures of our tests.
        abstract = shutil.copy(Path(__file__).with_name("abstract_fsspec.py"), folder)
        tests = ["fsspec/implementations/tests/test_http.py", abstract]
        plugin = ["-p", "tests.adapters.judge_fsspec", "-p", "no:cacheprovider"]
        found = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-rfE", *plugin, *tests],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{checkout}"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    failed = set(re.findall(r"^(?:FAILED|ERROR) .*::(\S+)", found.stdout, re.MULTILINE))
    print(found.stdout.strip().rpartition("\n")[2])
    for name in sorted(failed - EXPECTED.keys()):
        print(f"fails, and should not: {name}")
    for name in sorted(EXPECTED.keys() - failed):
        print(f"should fail, and does not: {name}")
    for name in sorted(failed & EXPECTED.keys()):
        print(f"fails as expected: {name}: {EXPECTED[name]}")
    return int(failed != EXPECTED.keys())


if __name__ == "__main__":
    sys.exit(main())
