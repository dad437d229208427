"""What the package index shows and installs: the metadata in pyproject.toml, and README.

`make release` checks the distributions themselves.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
#: Of those who develop dugong.
DEVELOPMENT = {"test", "lint", "docs", "pages", "release"}
DOCUMENTATION = PROJECT["urls"]["Documentation"] + "en/latest/"


def extras_in(requirement: str) -> set[str]:
    """Return the extras of dugong that *requirement* names."""
    match = re.fullmatch(r"dugong\[(.*)\]", requirement)
    return set(match[1].split(",")) if match else set()


def test_the_extra_all_has_every_extra_for_users() -> None:
    found = {extra for requirement in EXTRAS["all"] for extra in extras_in(requirement)}
    adapters = extras_in(EXTRAS["http-adapters"][0])
    assert found == EXTRAS.keys() - adapters - DEVELOPMENT - {"all"}


def test_the_page_on_installing_describes_each_extra() -> None:
    page = (ROOT / "docs/install.rst").read_text(encoding="utf-8")
    described = re.findall(r"^   \* - ``([\w-]+)``$", page, re.MULTILINE)
    adapters = extras_in(EXTRAS["http-adapters"][0])
    assert set(described) == EXTRAS.keys() - adapters - DEVELOPMENT - {"all"}


def test_nothing_is_required_to_run() -> None:
    assert PROJECT["dependencies"] == []


def test_the_classifiers_name_each_python_that_is_supported() -> None:
    script = (ROOT / ".ci/test-pythons").read_text()
    tested = re.search(r"for version in ([\d. ]+);", script)
    assert tested
    named = [each.rpartition(" ")[2] for each in PROJECT["classifiers"] if ":: 3." in each]
    assert named == tested[1].split()


def links(page: str) -> list[str]:
    return re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize("link", links("README.md"))
def test_a_link_of_the_readme_leads_to_a_page_from_anywhere(link: str) -> None:
    url, _, anchor = link.partition("#")
    assert url.startswith(DOCUMENTATION)
    name = url.removeprefix(DOCUMENTATION) or "index.html"
    page = ROOT / "docs" / Path(name).with_suffix(".rst")
    assert page.is_file()
    assert not anchor


def test_each_link_of_the_metadata_leads_to_a_page() -> None:
    for url in PROJECT["urls"].values():
        path = url.removeprefix(PROJECT["urls"]["Documentation"]).removeprefix("en/latest/")
        assert (ROOT / "docs" / Path(path or "index.html").with_suffix(".rst")).is_file()
