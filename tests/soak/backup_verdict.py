"""The verdict of the backup soak: what does not balance. Touches nothing but a restored tree."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from dugong.s3.sync import LARGE_AT_ONCE
from tests.soak.backup_files import PART_SIZE, File, contents
from tests.soak.backup_relay import Tally
from tests.soak.backup_worker import AT_A_TIME

__all__ = ["Stored", "in_bucket", "in_tree", "listed", "passed", "process"]

_MANY = 20  # of a kind that are worth printing
#: What a process may need, with 20,000 files: dugong has two threads for a connection at most, one
#: for its timers and some for large files; a restore has its own threads, each with up to 8 parts
#: in memory. A thread that ends counts until the system has removed it.
MAX_THREADS = {"back-up": 2 * AT_A_TIME + LARGE_AT_ONCE + 8, "restore": 3 * AT_A_TIME + 8}
MAX_MEMORY = {"back-up": 200 * 2**20, "restore": 300 * 2**20}


class Stored(NamedTuple):
    """An object, as the server lists it; `etag` is without quotes."""

    key: str
    size: int
    etag: str


def in_bucket(
    expected: Mapping[str, File], objects: Iterable[Stored], uploads: Iterable[str]
) -> Iterator[str]:
    """Yield what is wrong with a bucket that should have *expected*, and no open *uploads*."""
    objects = list(objects)
    found = {each.key: each for each in objects}
    times = Counter(each.key for each in objects)
    yield from (f"the object {key!r} is doubled" for key, count in times.items() if count > 1)
    yield from (f"the object {key!r} is lost" for key in expected.keys() - found.keys())
    yield from (f"the object {key!r} is stray" for key in found.keys() - expected.keys())
    for key in expected.keys() & found.keys():
        file, each = expected[key], found[key]
        if (file.size, file.etag) != (each.size, each.etag):
            yield f"the object {key!r} is {each.size} {each.etag}, not {file.size} {file.etag}"
    yield from (f"an upload of {key!r} is left open" for key in uploads)


def in_tree(expected: Mapping[str, File], root: Path) -> Iterator[str]:
    """Yield what is wrong with the tree below *root*, which should be of the files *expected*."""
    found = {
        os.path.relpath(os.path.join(parent, name), root)
        for parent, _, names in os.walk(root)
        for name in names
    }
    yield from (f"the file {name!r} was not restored" for name in expected.keys() - found)
    yield from (f"the file {name!r} was left behind" for name in found - expected.keys())
    both = sorted(expected.keys() & found)
    with (
        ThreadPoolExecutor(os.cpu_count()) as executor,
        closing(executor.map(lambda name: contents(root / name), both)) as read,  # type: ignore[type-var]  # it is a generator
    ):
        for name, file in zip(both, read, strict=True):
            if file != expected[name]:
                yield f"the file {name!r} is restored as {file}, not {expected[name]}"


def passed(tally: Tally, needed: int, kills: Mapping[str, int], largest: int) -> Iterator[str]:
    """Yield what should not have passed, if *needed* bytes were restored, with *kills* by action.

    What is under way at a kill may pass once more: a part on each connection when it is stored, and
    all of a file, of which the largest has *largest* bytes, when it is fetched.
    """
    yield from (f"{key} was sent again, though it was stored" for key in tally.again)
    counts = tally.counts
    for done, total, action, unit in (
        ("sent", counts["stored"], "back-up", PART_SIZE),
        ("fetched", needed, "restore", max(PART_SIZE, largest)),
    ):
        most = total + kills[action] * AT_A_TIME * unit
        if not total <= counts[done] <= most:
            yield f"{counts[done]} bytes were {done}, for {total}; not more than {most} should be"


def process(action: str, status: int, wrote: str, memory: int, threads: int) -> Iterator[str]:
    """Yield what is wrong with a process: its exit *status*, what it *wrote* to stderr, its use."""
    if status:
        yield f"{action} has ended with the status {status}"
    if wrote:
        yield f"{action} wrote to stderr: {wrote[-2000:]}"
    if memory > MAX_MEMORY[action]:
        yield f"{action} had {memory >> 20} MiB of memory, more than {MAX_MEMORY[action] >> 20}"
    if threads > MAX_THREADS[action]:
        yield f"{action} had {threads} threads, more than {MAX_THREADS[action]}"


def listed(problems: list[str]) -> str:
    """Return the lines that say what the verdict is."""
    lines = [f"PROBLEM: {each}" for each in problems[:_MANY]]
    if len(problems) > _MANY:
        lines.append(f"and {len(problems) - _MANY} more")
    return "\n".join([*lines, "FAILED" if problems else "all is well: it balances"])
