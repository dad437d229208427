"""Finds interpreters to compare: a newer one, and a 3.11 that was built in the same way.

The same Python code takes a quarter longer in a build without optimizations, so a ratio of two
builds of different kinds says nothing of the versions.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

__all__ = ["OLDEST", "pair"]

OLDEST = "3.11"

_PROGRAM = (
    "import sys, sysconfig;"
    "said = sysconfig.get_config_var('CONFIG_ARGS') or '';"
    "version = '%d.%d.%d' % sys.version_info[:3];"
    "options = [o in said for o in ('--enable-optimizations', '--with-lto')];"
    # 3.12 and later have this elsewhere.
    "flags = sysconfig.get_config_var('OPT').replace('-fwrapv ', '');"
    "print(sys.base_prefix.replace(version, ''), *options, flags)"
)


@cache
def pair(version: str) -> tuple[Path, Path] | None:
    """Return an interpreter of *version*, and one of `OLDEST` of the same build; None: no two are.

    Builds are the same if they say so, and are in the same place but for their version.
    """
    older = {_build(path): path for path in reversed(_interpreters(OLDEST))}
    for path in _interpreters(version):
        if (beside := older.get(_build(path))) is not None:
            return path, beside
    return None


def _interpreters(version: str) -> list[Path]:
    """Return the interpreters of *version* that are found, those of pyenv last."""
    root = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    name = f"python{version}"
    found = [shutil.which(name), f"/usr/bin/{name}", f"/usr/local/bin/{name}"]
    pyenv = sorted(root.glob(f"versions/{version}.*/bin/{name}"), reverse=True)
    paths = [*(Path(path) for path in found if path is not None), *pyenv]
    return [path for path in paths if _build(path) is not None]


@cache
def _build(path: Path) -> str | None:
    """Return how *path* was built, and where it is; None if it does not run."""
    try:
        done = subprocess.run(
            [path, "-I", "-c", _PROGRAM], capture_output=True, text=True, check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
