"""Measures dugong beside its peers and prints how they compare: see README.md.

In each round every client does the same work, in an order that is turned round each time; a ratio
is formed within each round, and the median of these is what counts. So whatever slows the machine
down for a while slows both sides of a ratio, or is an outlier.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median, quantiles
from types import MappingProxyType
from typing import NamedTuple

import figures
import posts
import pythons
from clients.worker import S3_LARGE_COUNT, S3_SMALL_COUNT, Cost
from rig import HERE, ROUND_LIMIT, Client, Rig, RigError

ROOT = HERE.parent
#: If nginx waits for others longer than this share of the time, it is worth saying: a client that
#: is limited by the server suffers, and one that is limited by itself does not.
DISTURBED = 0.08
OLD_PYTHON = HERE / ".venv-3.8" / "bin" / "python"


class Measure(NamedTuple):
    """What is made of a round: *value* of what it took and its number of requests."""

    name: str
    value: Callable[[Cost, int], float]
    text: Callable[[float], str]
    more_is_better: bool = False


RATE = Measure("rate", lambda cost, count: count / cost.wall, lambda x: f"{x:,.0f}/s", True)
CPU = Measure("CPU", lambda cost, count: cost.cpu / count, lambda x: f"{x * 1e6:.1f} us")
CPU_GIB = Measure("CPU a GiB", lambda cost, count: cost.cpu / count * 2, lambda x: f"{x:.3f} s")
CPU_S = Measure("CPU", lambda cost, _: cost.cpu, lambda x: f"{x:.3f} s")
WALL = Measure("time", lambda cost, _: cost.wall, lambda x: f"{x * 1e3:.2f} ms")
TIME = Measure("time each", lambda cost, count: cost.wall / count, lambda x: f"{x * 1e6:.1f} us")
PEAK = Measure("peak memory", lambda cost, _: cost.peak / 2**20, lambda x: f"{x:.1f} MiB")
MEMORY = Measure(
    "memory each", lambda cost, count: cost.memory / count / 2**10, lambda x: f"{x:.2f} KiB"
)


class Line(NamedTuple):
    """One line of the table.

    With a *peer*, *floor* and *target* are for the ratio, ours by the peer's; without, they are for
    our own value. None: there is nothing to hold.
    """

    measure: Measure
    peer: str | None
    floor: float | None = None
    target: float | None = None


class Work(NamedTuple):
    """Something that *ours* and the peers of the *lines* do: *count* requests in each of *rounds*.

    *fewer* says who does another number of them, so that a slow peer does not take all day.
    *fresh*: each round has a process of its own, since a process does not give back all its memory.
    *needs_seaweedfs*: it is left out without. *python* is the version that *ours* run in.
    """

    name: str
    title: str
    count: int
    rounds: int
    lines: list[Line]
    ours: str = "dugong"
    fewer: Mapping[str, int] = MappingProxyType({})
    fresh: bool = False
    needs_seaweedfs: bool = False
    python: str | None = None

    @property
    def clients(self) -> list[str]:
        peers = [line.peer for line in self.lines if line.peer is not None]
        return [self.ours, *dict.fromkeys(peers)]

    def count_of(self, client: str) -> int:
        return self.fewer.get(client, self.count)


#: Who uploads to S3, and the floor and the target for the time.
_S3_PEERS: dict[str, tuple[float | None, float | None]] = {
    "s3transfer": (1.0, None),
    "rclone": (None, 0.9),
    "obstore": (None, 0.9),
}

#: The CPU time that a newer Python may take, compared with `pythons.OLDEST`.
_PYTHONS: dict[str, float | None] = {"3.12": None, "3.13": 1.05, "3.14": None}
_OLDEST_PYTHON = f"Python {pythons.OLDEST}"

WORKS = [
    Work(
        "serial",
        "1 KiB GETs, one at a time",
        1000,
        21,
        [
            Line(RATE, "raw socket", None, 0.8),
            Line(RATE, "pycurl", 1.0),
            Line(RATE, "http.client", 1.5),
            Line(RATE, "urllib3"),
            Line(RATE, "httpx"),
            Line(RATE, "dugong 3.8.2"),
            Line(CPU, "pycurl", 0.9, 0.6),
            Line(CPU, "raw socket"),
            Line(CPU, "http.client"),
            Line(CPU, "urllib3"),
            Line(CPU, "httpx"),
            Line(CPU, "dugong 3.8.2"),
        ],
    ),
    Work(
        "pipelined",
        "1 KiB GETs, pipelined by two threads",
        4096,
        11,
        [
            Line(RATE, "dugong 3.8.2", 8.0),
            Line(RATE, "raw socket", None, 0.6),
            Line(RATE, "raw socket, 64 a call"),
            Line(CPU, "dugong 3.8.2"),
            Line(CPU, "raw socket"),
        ],
    ),
    Work("bulk", "512 MiB down by readinto", 1, 21, [Line(CPU_GIB, "raw socket", 1.1, 1.02)]),
    Work(
        "bulk-tls", "512 MiB down by readinto, TLS", 1, 15, [Line(CPU_GIB, "raw socket", 1.1, 1.02)]
    ),
    Work("import", "import", 1, 31, [Line(WALL, "http.client", 1.5, 1.0)]),
    Work(
        "submit",
        "pool: 1 KiB GETs by submit",
        8192,
        21,
        [
            Line(RATE, "CurlMulti, 8", 1.6, 1.9),
            Line(RATE, "CurlMulti, 32", 1.0, 1.3),
            Line(RATE, "raw socket", None, 0.8),
            Line(RATE, "raw socket, 64 a call"),
            Line(RATE, "pyreqwest"),
            Line(RATE, "aiohttp"),
            Line(RATE, "urllib3"),
            Line(RATE, "pool, retry=None", 0.97),
            Line(CPU, "CurlMulti, 32", 0.75, 0.6),
            Line(CPU, "CurlMulti, 8"),
            Line(CPU, "raw socket"),
            Line(CPU, "pyreqwest"),
            Line(CPU, "aiohttp"),
            Line(CPU, "urllib3"),
        ],
        ours="pool",
        fewer={"pyreqwest": 4096, "aiohttp": 2048, "urllib3": 1024},
    ),
    Work(
        "submit-threads",
        "pool: the same on all CPUs",
        8192,
        21,
        [Line(RATE, "pool, on one CPU", 0.75, 1.0), Line(CPU, "pool, on one CPU", 1.35, 1.0)],
        ours="pool",
    ),
    Work(
        "map",
        "pool: 1 KiB GETs by map",
        8192,
        21,
        [
            Line(RATE, "CurlMulti, 8", 1.7, 2.0),
            Line(RATE, "CurlMulti, 32", 1.0, 1.3),
            Line(RATE, "raw socket", None, 0.8),
            Line(CPU, "CurlMulti, 32", 0.70, 0.55),
        ],
        ours="pool",
    ),
    Work(
        "client-map",
        "client: 1 KiB GETs by map",
        8192,
        11,
        [
            Line(CPU, "pool", 1.1),
            Line(RATE, "httpx"),
            Line(RATE, "niquests"),
            Line(RATE, "urllib3"),
        ],
        ours="client",
        fewer={"httpx": 512, "niquests": 512, "urllib3": 1024},
    ),
    Work(
        "client-gzip",
        "client: 16 KiB by map, gzip",
        4096,
        11,
        [
            Line(CPU, "pool", 1.2),
            Line(RATE, "httpx"),
            Line(RATE, "niquests"),
            Line(RATE, "urllib3"),
        ],
        ours="client",
        fewer={"httpx": 512, "niquests": 512, "urllib3": 1024},
    ),
    Work(
        "client-get",
        "client: 1 KiB GETs by get",
        1000,
        11,
        [Line(RATE, "pool"), Line(RATE, "httpx"), Line(RATE, "urllib3")],
        ours="client",
    ),
    Work(
        "command",
        "command: 5000 files of 1 KiB",
        5000,
        11,
        [
            Line(WALL, "curl --parallel", None, 1.2),
            Line(WALL, "wget", 1.0),
            Line(WALL, "aria2c", 1.0),
            Line(CPU, "curl --parallel"),
            Line(CPU, "wget"),
            Line(CPU, "aria2c"),
        ],
        ours="dugong get",
    ),
    *(
        Work(name, f"pool: {title}", count, 21, [Line(TIME, "pool, apart", 1.3, 1.1)], ours="pool")
        for name, title, count in [
            ("map-files", "each body of a map to a file", 5000),
            ("completed-files", "the same by as_completed", 5000),
            ("map-html", "each page of a map parsed", 1000),
        ]
    ),
    Work(
        "request-threads",
        "pool: 1 KiB GETs by request, 8 threads",
        4096,
        11,
        [Line(RATE, "urllib3", 3.0), Line(CPU, "urllib3")],
        ours="pool",
        fewer={"urllib3": 1024},
    ),
    Work(
        "requests",
        "requests: 1 KiB GETs, 16 threads",
        2000,
        11,
        [Line(RATE, "requests", 1.0, 2.0), Line(CPU, "requests", 1.0)],
        ours="requests, dugong",
    ),
    Work(
        "requests-far",
        "requests: the same, 40 ms away",
        2000,
        5,
        [Line(RATE, "requests", 1.0, 5.0)],
        ours="requests, dugong",
    ),
    Work(
        "scrapy",
        "Scrapy: a crawl of 2000 pages of 1 KiB",
        2000,
        5,
        [Line(RATE, "scrapy", 1.0), Line(CPU, "scrapy", 1.0)],
        ours="scrapy, dugong",
    ),
    Work(
        "scrapy-far",
        "Scrapy: the same, 40 ms away",
        2000,
        5,
        [Line(RATE, "scrapy", 1.0)],
        ours="scrapy, dugong",
    ),
    Work(
        "crawl",
        "crawl: 2000 pages of 50 sites",
        2000,
        7,
        [
            Line(RATE, "scrapy", 1.0),
            Line(RATE, "aiohttp", 1.0),
            Line(CPU, "scrapy"),
            Line(CPU, "aiohttp"),
            Line(CPU, "crawl, in a file"),
        ],
        ours="crawl",
        fewer={"scrapy": 1000},
    ),
    Work(
        "crawl-far",
        "crawl: the same, 40 ms away",
        2000,
        5,
        [Line(RATE, "scrapy", 1.0), Line(RATE, "aiohttp", 1.0)],
        ours="crawl",
        fewer={"scrapy": 1000},
    ),
    Work(
        "httpx",
        "httpx: 1 KiB GETs, 16 threads",
        2000,
        11,
        [Line(RATE, "httpx", 1.0, 2.0), Line(CPU, "httpx", 1.0)],
        ours="httpx, dugong",
    ),
    Work(
        "httpx-far",
        "httpx: the same, 40 ms away",
        2000,
        5,
        [Line(RATE, "httpx", 1.0, 5.0)],
        ours="httpx, dugong",
    ),
    Work(
        "fsspec",
        "fsspec: cat_ranges, 2000 of 1 KiB",
        2000,
        11,
        [Line(RATE, "fsspec", 1.0), Line(CPU, "fsspec", 1.0)],
        ours="fsspec, dugong",
    ),
    Work(
        "fsspec-cat",
        "fsspec: cat, 2000 of 1 KiB",
        2000,
        11,
        [Line(RATE, "fsspec", 1.0), Line(CPU, "fsspec", 1.0)],
        ours="fsspec, dugong",
        fewer={"fsspec": 500},
    ),
    Work(
        "fsspec-far",
        "fsspec: the same, 40 ms away",
        2000,
        5,
        [Line(RATE, "fsspec", 1.0)],
        ours="fsspec, dugong",
    ),
    Work(
        "boto3",
        "boto3: 200 objects of 1 KiB, 16 threads",
        200,
        21,
        [Line(RATE, "boto3", 1.0, 2.0), Line(CPU, "boto3", 1.0)],
        ours="boto3, dugong",
    ),
    Work(
        "boto3-far",
        "boto3: the same, 40 ms away",
        200,
        5,
        [Line(RATE, "boto3", 1.0, 5.0)],
        ours="boto3, dugong",
    ),
    Work(
        "boto3-down",
        "boto3: 512 MiB by download_file, 16 threads",
        1,
        9,
        [Line(WALL, "boto3", 1.0), Line(CPU_GIB, "boto3", 1.0)],
        ours="boto3, dugong",
    ),
    *(
        Work(
            f"s3-{size}{sink}",
            f"s3: {title}, to {server}",
            count,
            rounds,
            [
                *(Line(WALL, peer, *limits) for peer, limits in _S3_PEERS.items()),
                *(Line(CPU_S, peer) for peer in _S3_PEERS),
            ],
            ours="Bucket.sync",
            needs_seaweedfs=not sink,
        )
        for size, title, count in [
            ("small", "2000 files of 4 KiB", S3_SMALL_COUNT),
            ("large", "4 files of 64 MiB", S3_LARGE_COUNT),
        ]
        for sink, server, rounds in [("", "SeaweedFS", 3), ("-sink", "a sink", 9)]
    ),
    Work(
        "far",
        "pool: 1 KiB GETs, 40 ms away",
        12000,
        5,
        [
            Line(RATE, "CurlMulti, h2", 1.0, 1.3),
            Line(RATE, "CurlMulti, 6", 10, 40),
            Line(RATE, "aiohttp"),
            Line(RATE, "niquests"),
        ],
        ours="pool",
        fewer={"CurlMulti, 6": 120, "aiohttp": 120, "niquests": 600},
    ),
    Work(
        "farther",
        "pool: 1 KiB GETs, 100 ms away",
        12000,
        3,
        [Line(RATE, "CurlMulti, h2", 1.0, 1.3), Line(RATE, "CurlMulti, 6")],
        ours="pool",
        fewer={"CurlMulti, 6": 60},
    ),
    Work(
        "line",
        "pool: 64 KiB GETs, a line of 25 MB/s",
        400,
        3,
        [Line(RATE, "raw socket", 0.9)],
        ours="pool",
    ),
    Work(
        "far-first",
        "pool: the first 2000 of them",
        2000,
        5,
        [Line(RATE, "CurlMulti, h2", 1.0, 1.3)],
        ours="pool",
    ),
    Work(
        "request",
        "pool: 1 KiB GETs by request",
        1000,
        21,
        [
            Line(RATE, "pycurl", 1.1),
            Line(RATE, "urllib3", 2.0),
            Line(RATE, "raw socket", None, 0.75),
            Line(RATE, "pool, retry=None", 0.97),
            Line(CPU, "pycurl"),
            Line(CPU, "raw socket"),
        ],
        ours="pool",
    ),
    Work(
        "request-tls",
        "pool: the same, TLS",
        1000,
        11,
        [Line(RATE, "pycurl", 1.0), Line(CPU, "pycurl", 1.0, 0.8)],
        ours="pool",
    ),
    Work(
        "submit-tls",
        "pool: 1 KiB GETs by submit, TLS",
        4096,
        11,
        [Line(RATE, "CurlMulti, 8", 1.4, 1.6), Line(CPU, "CurlMulti, 8")],
        ours="pool",
    ),
    *(
        Work(
            f"{way}{tls}",
            f"pool: 512 MiB {title}{', TLS' if tls else ''}",
            1,
            rounds,
            [Line(CPU_GIB, "raw socket", 1.1, 1.02), Line(PEAK, None, 48, 32), *lines],
            ours="pool",
        )
        for way, title, lines in [
            ("down", "down by stream", []),
            ("up", "up from a file", [Line(WALL, "pycurl", 1.0)]),
        ]
        for tls, rounds in [("", 41), ("-tls", 21)]
    ),
    Work(
        "queue",
        "pool: 100,000 queued",
        100_000,
        9,
        [Line(TIME, "pool, 1000 queued", 1.25, 1.05)],
        ours="pool",
        fewer={"pool, 1000 queued": 20_000},
    ),
    Work(
        "queue-memory",
        "pool: 50,000 queued",
        50_000,
        3,
        [Line(MEMORY, None, 2, 1)],
        ours="pool",
        fresh=True,
    ),
    Work(
        "hosts",
        "pool: 300 hosts kept alive",
        300,
        5,
        [Line(MEMORY, None, 25, 20)],
        ours="pool",
        fresh=True,
    ),
    *(
        Work(
            f"python-{version}",
            f"pool: submit in Python {version}",
            8192,
            11,
            [Line(CPU, _OLDEST_PYTHON, most), Line(RATE, _OLDEST_PYTHON)],
            ours=f"Python {version}",
            python=version,
        )
        for version, most in _PYTHONS.items()
    ),
]

#: Performs one round of a work.
Participant = Callable[[], Cost]

#: The program in clients/ that each is, and what it adds to the name of the work.
_PROGRAMS = {
    "dugong": ("dugong", ""),
    "dugong 3.8.2": ("dugong", ""),
    **{f"Python {version}": ("pool", "") for version in (pythons.OLDEST, *_PYTHONS)},
    "client": ("client", ""),
    "pool": ("pool", ""),
    "pool, 1000 queued": ("pool", "-by-1000"),
    "pool, retry=None": ("pool", "-once"),
    "pool, on one CPU": ("pool", "-pinned"),
    "pool, apart": ("pool", "-apart"),
    "raw socket": ("raw", ""),
    "raw socket, 64 a call": ("raw", "-in-batches"),
    "http.client": ("http_client", ""),
    "pycurl": ("pycurl", ""),
    "CurlMulti, 6": ("pycurl", "-6"),
    "CurlMulti, h2": ("pycurl", "-h2"),
    "CurlMulti, 8": ("pycurl", "-8"),
    "CurlMulti, 32": ("pycurl", "-32"),
    "urllib3": ("urllib3", ""),
    "httpx": ("httpx", ""),
    "aiohttp": ("aiohttp", ""),
    "niquests": ("niquests", ""),
    "pyreqwest": ("pyreqwest", ""),
    "requests": ("requests", ""),
    "requests, dugong": ("requests", "-dugong"),
    "httpx, dugong": ("httpx", "-dugong"),
    "dugong get": ("commands", "-dugong"),
    "curl --parallel": ("commands", "-curl"),
    "wget": ("commands", "-wget"),
    "aria2c": ("commands", "-aria2c"),
    "scrapy": ("scrapy", ""),
    "scrapy, dugong": ("scrapy", "-dugong"),
    "crawl": ("crawl", ""),
    "crawl, in a file": ("crawl", "-in-file"),
    "fsspec": ("fsspec", ""),
    "fsspec, dugong": ("fsspec", "-dugong"),
    "boto3": ("boto3", ""),
    "boto3, dugong": ("boto3", "-dugong"),
    "Bucket.sync": ("s3", "-dugong"),
    "s3transfer": ("s3", "-s3transfer"),
    "rclone": ("s3", "-rclone"),
    "obstore": ("s3", "-obstore"),
}


def participant(rig: Rig, work: Work, name: str) -> Participant:
    """Make the client called *name* ready for *work*; raise `RigError` if it does not work."""
    if work.name == "import":
        # A mere `import dugong` imports next to nothing.
        statement = "from dugong import HTTPConnection" if name == work.ours else f"import {name}"
        return lambda: time_of(statement)
    program, suffix = _PROGRAMS[name]
    count = work.count_of(name)

    def start() -> Client:
        if name == "dugong 3.8.2":
            return rig.client(program, OLD_PYTHON, PYTHONPATH="")
        if work.python is not None:
            newer, older = pythons.pair(work.python) or (None, None)
            python = older if name == _OLDEST_PYTHON else newer
            return rig.client(program, python, PYTHONPATH=str(ROOT))
        return rig.client(program, PYTHONPATH=str(ROOT))

    if work.fresh:

        def perform() -> Cost:
            try:
                return start().perform(work.name + suffix, count)
            finally:
                rig.end_clients()

        return perform
    client = start()
    # This round is not counted: it connects, and fills what caches there are.
    client.perform(work.name + suffix, count)
    return lambda: client.perform(work.name + suffix, count)


def time_of(statement: str) -> Cost:
    """Run *statement* in a fresh interpreter that knows nothing but the standard library and us."""
    program = (
        "import sys, time; sys.path.insert(0, sys.argv[1]);"
        "cpu, wall = time.process_time(), time.perf_counter();"
        f"{statement};"
        "print(time.perf_counter() - wall, time.process_time() - cpu)"
    )
    command = [sys.executable, "-I", "-c", program, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=ROUND_LIMIT)
    wall, cpu = map(float, done.stdout.split())
    return Cost(wall, cpu, memory=0, peak=0)


def what_is_missing(rig: Rig, work: Work) -> str | None:
    """Return what this machine lacks for *work*."""
    if work.needs_seaweedfs and not rig.has_seaweedfs:
        return "SeaweedFS"
    if work.python is not None and pythons.pair(work.python) is None:
        return f"Python {work.python} beside a {pythons.OLDEST} that was built in the same way"
    return None


def run(rig: Rig, work: Work, rounds: int) -> dict[str, list[Cost]]:
    """Perform *rounds* of *work*; return what each took, for each client that works."""
    ready: dict[str, Participant] = {}
    for name in work.clients:
        try:
            ready[name] = participant(rig, work, name)
        except RigError as exc:
            if name == work.ours:
                raise
            print(f"{exc}: left out", file=sys.stderr)
    took: dict[str, list[Cost]] = {name: [] for name in ready}
    order = list(ready)
    for _ in range(rounds):
        for name in order:
            took[name].append(ready[name]())
        order.reverse()
    rig.end_clients()
    return took


def verdict(line: Line, value: float) -> str:
    """Return what *value*, a ratio if there is a peer, means for the floor and target of *line*."""

    def holds(limit: float | None) -> bool:
        return limit is not None and (
            value >= limit if line.measure.more_is_better else value <= limit
        )

    if holds(line.target):
        return "target met"
    if holds(line.floor):
        return "floor met" if line.target else "met"
    if line.floor or line.target:
        return "below the floor" if line.floor else "below the target"
    return ""


def table(work: Work, took: dict[str, list[Cost]]) -> list[tuple[str, ...]]:
    """Return the lines of the table for *work*."""
    return [row(work, line, took) for line in work.lines if line.peer is None or line.peer in took]


def row(work: Work, line: Line, took: dict[str, list[Cost]]) -> tuple[str, ...]:
    measure = line.measure

    def values(name: str) -> list[float]:
        return [measure.value(cost, work.count_of(name)) for cost in took[name]]

    ours = values(work.ours)
    if line.peer is None:
        value, peer, limit_text = median(ours), ("", "", ""), measure.text
    else:
        theirs = values(line.peer)
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        value = median(ratios)
        low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else [value] * 3
        peer = line.peer, measure.text(median(theirs)), f"{value:.2f} ({low:.2f}-{high:.2f})"
        limit_text = str
    sign = ">=" if measure.more_is_better else "<="
    return (
        f"{work.title}: {measure.name}",
        measure.text(median(ours)),
        *peer,
        *(f"{sign} {limit_text(limit)}" if limit else "" for limit in (line.floor, line.target)),
        verdict(line, value),
    )


def medians(work: Work, took: dict[str, list[Cost]]) -> dict[str, dict[str, float]]:
    """Return the median of each measure of each client, in the units of `Measure.value`."""
    measures = {line.measure.name: line.measure for line in work.lines}
    return {
        client: {
            name: median(measure.value(cost, work.count_of(client)) for cost in costs)
            for name, measure in measures.items()
        }
        for client, costs in took.items()
    }


def build_of(python: Path | str) -> str:
    """Return the version of the interpreter *python*, and what it says of how it was built."""
    program = (
        "import platform, sysconfig;"
        "said = sysconfig.get_config_var('CONFIG_ARGS') or '';"
        "options = [o for o in ('--enable-optimizations', '--with-lto') if o in said];"
        "import ssl;"
        "build = [*options, sysconfig.get_config_var('OPT')];"
        "print(platform.python_version(), *build, ssl.OPENSSL_VERSION, sep=', ')"
    )
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def version_of_pycurl() -> str:
    """Return the version of pycurl, which has its own OpenSSL, and of what is in it."""
    program = "import pycurl; print(*pycurl.version.split()[:3], sep=', ')"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout.strip() or "no pycurl"


_HEAD = ("work", "ours", "peer", "the peer's", "ratio", "floor", "target", "verdict")
_WIDTHS = (47, 10, 21, 10, 18, 13, 12, 0)


def print_row(cells: tuple[str, ...]) -> None:
    print("  ".join(cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True)).rstrip())


def stop_once_told() -> None:
    """Have SIGTERM and SIGINT end the program by way of its clean-up, which is not disturbed."""

    def stop(*_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        sys.exit("stopped")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/run", description="Compare dugong's speed.")
    parser.add_argument(
        "--only",
        action="append",
        choices=[work.name for work in WORKS],
        help="measure this work only (may be repeated)",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of each work")
    parser.add_argument("--quick", action="store_true", help="a third of the rounds")
    parser.add_argument("--posts", action="store_true", help="only what happens to a POST")
    options = parser.parse_args()
    stop_once_told()

    if options.posts or not options.only:
        figures.record("posts", posts.outcomes())
    if options.posts:
        return 0
    works = [work for work in WORKS if not options.only or work.name in options.only]
    try:
        with Rig(any(work.name.startswith("s3-") for work in works)) as rig:
            print(f"{rig.cpus}; ratios are medians of paired rounds (with their quartiles)")
            print(f"Python {build_of(sys.executable)}; for dugong 3.8.2: {build_of(OLD_PYTHON)}")
            print(f"{version_of_pycurl()}\n")
            print_row(_HEAD)
            for work in works:
                if missing := what_is_missing(rig, work):
                    print(f"{work.name}: left out, for there is no {missing}", file=sys.stderr)
                    continue
                rounds = options.rounds or (work.rounds // 3 if options.quick else work.rounds)
                began, waited = time.monotonic(), rig.waited()
                took = run(rig, work, max(1, rounds))
                for row in table(work, took):
                    print_row(row)
                figures.record(work.name, medians(work, took))
                share = (rig.waited() - waited) / (time.monotonic() - began)
                if share > DISTURBED:
                    print(f"  ({work.name}: nginx waited for its CPU {share:.0%} of the time)")
                sys.stdout.flush()
    except RigError as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
