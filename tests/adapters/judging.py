"""What the judges of this directory share: they run the tests of a project with and without dugong.

Each makes virtual environments in a temporary directory, and downloads a project with its tests
from PyPI. The directory is removed if the outcome is as expected, and named otherwise.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Callable, Collection
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]

#: The outcome of each test: passed, failed or skipped.
Outcomes = dict[str, str]


def environment(directory: Path, *requirements: Collection[str]) -> Path:
    """Make a virtual environment; return its interpreter.

    Each of *requirements* is installed after those before it, whose versions it may change.
    """
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python"
    for packages in requirements:
        _pip(python, "install", *packages)
    return python


def source_of(project: str, version: str, directory: Path, python: Path) -> Path:
    """Download the source distribution of *project* into *directory*; return where it is."""
    options = ("--no-deps", "--no-binary", project, "--dest", str(directory))
    _pip(python, "download", f"{project}=={version}", *options)
    with tarfile.open(directory / f"{project}-{version}.tar.gz") as archive:
        archive.extractall(directory, filter="data")
    return directory / f"{project}-{version}"


def _pip(python: Path, *arguments: str) -> None:
    command = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    subprocess.run(command, check=True)


def run(
    python: Path, source: Path, name: str, *options: str, tests: str = "tests", **environ: str
) -> Outcomes:
    """Run *tests* in *source* with this dugong; return the outcomes.

    What pytest prints goes to NAME.txt beside *source*, and plugins are found there. A test is
    named by its module in ``tests``, its class if it has one, ``::``, and its function.
    """
    directory = source.parent
    report = directory / f"{name}.xml"
    path = os.pathsep.join((str(ROOT), str(directory)))
    command = [python, "-m", "pytest", "-q", "--tb=short", f"--junitxml={report}", *options, tests]
    with open(directory / f"{name}.txt", "wb") as output:
        subprocess.run(
            command,
            check=False,
            cwd=source,
            env={**os.environ, "PYTHONPATH": path, **environ},
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


def compare(
    without: tuple[str, Outcomes],
    adapted: tuple[str, Outcomes],
    expected: Collection[str],
    chancy: Collection[str] = (),
) -> bool:
    """Print how many pass *without* dugong and *adapted* to it, and what fails.

    Each comes with its title. *expected* fail with dugong, with some of their parameters at least;
    *chancy* may. Return whether the outcome is that.
    """
    for title, outcomes in (without, adapted):
        found = list(outcomes.values())
        counts = (f"{found.count(kind)} {kind}" for kind in ("passed", "failed", "skipped"))
        print(f"{title}: {', '.join(counts)}")
    failed = {name for name, outcome in adapted[1].items() if outcome == "failed"}
    in_vain = {name for name in failed if without[1].get(name) == "failed"}
    by_chance = {name for name in failed - in_vain if _function_of(name) in chancy}
    wrong = {name for name in failed - in_vain - by_chance if _function_of(name) not in expected}
    # Another version of the project may not have all of them.
    named = {_function_of(name) for name in adapted[1]} & set(expected)
    in_order = named - {_function_of(name) for name in failed}
    for heading, names in (
        ("fails without dugong, too", in_vain),
        ("fails, as it may", by_chance),
        ("fails, as expected", failed - in_vain - by_chance - wrong),
        ("FAILS", wrong),
        ("PASSES, though it is named as failing", in_order),
    ):
        for name in sorted(names):
            print(f"{heading}: {name}")
    return bool(adapted[1]) and not wrong and not in_order


def _function_of(name: str) -> str:
    """Return *name* without the parameters of the test."""
    return name.partition("[")[0]


def main(project: str, version: str, judge: Callable[[Path, str], bool]) -> int:
    """Have *judge* judge *version* of *project*, or that on the command line, in a directory."""
    directory = Path(tempfile.mkdtemp(prefix=f"judge-{project}-"))
    is_right = judge(directory, sys.argv[1] if len(sys.argv) > 1 else version)
    if is_right:
        shutil.rmtree(directory)
    else:
        print(f"see {directory}")
    return 0 if is_right else 1
