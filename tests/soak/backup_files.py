"""The files of the backup soak: made by a seed, and changed later; what is in each is kept.

Guarantees: the same seed, number and size make the same files. No two of them have the same
content, but for the empty ones, nor has any of their parts. Touches only what is below `Tree.root`.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

__all__ = ["PART_SIZE", "File", "Tree", "contents"]

#: Bytes of a part: the least that S3 allows. What is larger than one part is *large*.
PART_SIZE = 5 * 2**20

_POOL = 32 * 2**20  # random bytes, of which each content is a piece, and 32 bytes of its own
_LARGE_SHARE = 0.6  # of all bytes
#: But for the backslash, which SeaweedFS takes for a slash, and what XML does not have, which it
#: replaces by something else in its lists of uploads.
_ODD = (
    *("a b", "a+b", "a%20b", "a%2Fb", "ä€🐘", "a?b#c&d=e;f", "~'!()*,:@$", 'q"<>|^`{}', "a..b"),
    *(" spaces ", "-rf", ".hidden", "...", "file.part", "tab\tnew\nline\r", "\x7f", "&amp;"),
    *("e\u0301", "\u00e9"),
)
_LONGEST = 255  # bytes of a name


class File(NamedTuple):
    """What is in a file: `etag` is what S3 calls it, stored in parts of `PART_SIZE` if large."""

    size: int
    sha256: str
    etag: str


class Tree:
    """Files below *root*: `files` has what is in each, by its name, with slashes."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.files: dict[str, File] = {}
        self._shrinks = False  # the next large file that is changed
        self._dice = random.Random(seed)
        self._pool = memoryview(self._dice.randbytes(_POOL))

    @property
    def size(self) -> int:
        """Bytes in all files together."""
        return sum(file.size for file in self.files.values())

    def make(self, count: int, size: int) -> None:
        """Make *count* files, of *size* bytes together."""
        sizes = _sizes(self._dice, count, size)
        names = [self._name(number) for number in range(count)]
        offsets = [self._dice.randrange(_POOL) for _ in range(count)]
        for folder in {os.path.dirname(name) for name in names}:
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        with (
            ThreadPoolExecutor(os.cpu_count()) as executor,
            closing(executor.map(self._write, names, sizes, offsets)) as made,  # type: ignore[type-var]  # it is a generator
        ):
            self.files.update(made)

    def change(self, count: int, also: str = "") -> list[str]:
        """Change *count* small files, and the large file *also*; add one.

        Of the first large file a piece of the second part changes, the next one becomes small, and
        so on. Returns the names of those that have changed.
        """
        small = [name for name, file in self.files.items() if file.size <= PART_SIZE]
        chosen = self._dice.sample(small, min(count, len(small)))
        for name in chosen:
            size = self.files[name].size
            size = self._dice.choice((size, size // 2, size + 1000, 0 if size else 1))
            self._write_one(name, size)
        new = f"new/{len(self.files)}"
        (self.root / new).parent.mkdir(exist_ok=True)
        self._write_one(new, self._dice.randrange(100_000))
        if not also:
            return [*chosen, new]
        if self._shrinks:
            self._write_one(also, 1000)
        else:
            with open(self.root / also, "r+b") as file:
                file.seek(PART_SIZE)
                file.write(self._dice.randbytes(64))
            self.files[also] = contents(self.root / also)
        self._shrinks = not self._shrinks
        return [*chosen, new, also]

    def _write_one(self, name: str, size: int) -> None:
        self.files[name] = self._write(name, size, self._dice.randrange(_POOL))[1]

    def _write(self, name: str, size: int, offset: int) -> tuple[str, File]:
        """Write *size* bytes of the pool from *offset* on, in a circle, after some of its own."""
        path = self.root / name
        own = hashlib.sha256(f"{name} {size} {offset}".encode()).digest()[:size]
        with open(path, "wb") as file:
            file.write(own)
            left = size - len(own)
            while left:
                piece = self._pool[offset : offset + left]
                file.write(piece)
                left -= len(piece)
                offset = 0
        return name, contents(path)

    def _name(self, number: int) -> str:
        """Return a name of up to four components, some of which are odd."""
        dice = self._dice
        folders = [f"{dice.choice('abc')}{dice.randrange(8)}" for _ in range(dice.randrange(4))]
        if folders and not number % 7:
            folders[-1] = _ODD[number % len(_ODD)]
        name = f"{number}"
        if not number % 5:
            name = f"{_ODD[number // 5 % len(_ODD)]}{number}{_ODD[number // 5 % len(_ODD)]}"
        if not number % 50:
            name += "ü" * ((_LONGEST - len(name.encode())) // 2)
            name += "x" * (_LONGEST - len(name.encode()))
        return "/".join([*folders, name])


def _sizes(dice: random.Random, count: int, size: int) -> Iterator[int]:
    """Yield *count* sizes: a hundredth is large, a fiftieth is empty; *size* together."""
    large, empty = max(1, count // 100), max(1, count // 50)
    weights = [dice.uniform(0.5, 1.5) for _ in range(large)]
    unit = size * _LARGE_SHARE / sum(weights)
    sizes = [max(PART_SIZE + 1, int(weight * unit)) for weight in weights]
    left = max(0, size - sum(sizes))
    weights = [math.exp(dice.gauss(0, 1.5)) for _ in range(count - large - empty)]
    unit = left / sum(weights)
    sizes += [min(PART_SIZE, max(1, int(weight * unit))) for weight in weights]
    sizes += [0] * empty
    sizes[0] += max(0, size - sum(sizes))
    dice.shuffle(sizes)
    return iter(sizes)


def contents(path: Path) -> File:
    """Return what is in the file *path*."""
    sha256 = hashlib.sha256()
    parts = []
    size = 0
    with open(path, "rb") as file:
        while part := file.read(PART_SIZE):
            size += len(part)
            sha256.update(part)
            parts.append(hashlib.md5(part, usedforsecurity=False).digest())
    if len(parts) == 1:
        etag = parts[0].hex()
    else:
        etag = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
        etag += f"-{len(parts)}" if parts else ""
    return File(size, sha256.hexdigest(), etag)
