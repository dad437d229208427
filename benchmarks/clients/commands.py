"""Commands that fetch small files: `dugong get`, curl, wget and aria2c. A round runs one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from clients.worker import HOST, ROUND_FILES, SMALL_SIZE, Round, Server, main

#: Makes the command for a list of URLs and a directory, both of which are in the first argument.
Maker = Callable[[Path, list[str]], list[str]]


class Command:
    """A round: runs a command that fetches so many files into an empty directory."""

    def __init__(self, server: Server, name: str, make: Maker) -> None:
        self._place = Path(server.scratch) / name
        self._urls = [f"http://{HOST}:{server.port}{ROUND_FILES}{n}" for n in range(5000)]
        self._make = make
        self._arguments: list[str] = []

    def prepare(self, count: int) -> None:
        """Make the directory and the list, which no clock is to see."""
        shutil.rmtree(self._place, ignore_errors=True)
        out = self._place / "out"
        out.mkdir(parents=True)
        urls = self._urls[:count]
        (self._place / "urls").write_text("".join(f"{url}\n" for url in urls))
        self._arguments = self._make(self._place, urls)

    def __call__(self, count: int) -> None:
        silence = subprocess.DEVNULL  # curl tells its progress even if it is to be silent
        subprocess.run(self._arguments, check=True, stdout=silence, stderr=silence, cwd=self._place)
        sizes = [entry.stat().st_size for entry in os.scandir(self._place / "out")]
        if sizes != [SMALL_SIZE] * count:
            raise AssertionError(f"expected {count} files of {SMALL_SIZE} bytes, not {len(sizes)}")


def dugong(place: Path, urls: list[str]) -> list[str]:
    return [sys.executable, "-m", "dugong", "get", "-q", "-o", "out", "-i", "urls"]


def curl(place: Path, urls: list[str]) -> list[str]:
    names = [url.rpartition("/")[2] for url in urls]
    lines = [
        f'url = "{url}"\noutput = "out/{name}"\n' for url, name in zip(urls, names, strict=True)
    ]
    (place / "config").write_text("".join(lines))
    return ["curl", "--parallel", "--silent", "--fail", "--config", "config"]


def wget(place: Path, urls: list[str]) -> list[str]:
    return ["wget", "--quiet", "--input-file=urls", "--directory-prefix=out"]


def aria2c(place: Path, urls: list[str]) -> list[str]:
    return ["aria2c", "--quiet", "--input-file=urls", "--dir=out", "-x6", "-j16"]


def command(make: Maker) -> Callable[[Server], Round]:
    return lambda server: Command(server, make.__name__, make)


main({f"command-{make.__name__}": command(make) for make in (dugong, curl, wget, aria2c)})
