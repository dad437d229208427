"""What the crawl soak reads of a crawler's files: a WARC file, and the state of a frontier.

Guarantees: reads WARC files by itself, with `zlib` alone. Each record is to be a gzip member of its
own. Writes nothing.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

__all__ = ["Record", "cut_problems", "digest_of", "left_in", "members", "record_of", "records_in"]

_PIECE = 16 * 1024
_FIELD = re.compile(rb"\r\n([A-Za-z-]+): *([^\r\n]*)")


class Record(NamedTuple):
    """A record: where it begins in the file, its type, its URL, and its block.

    *line* is the first line of the block, *digest* that of all of it: see `digest_of`.
    """

    at: int
    kind: str
    url: str
    line: bytes
    digest: bytes


def digest_of(block: bytes) -> bytes:
    """Return what stands for *block* in a `Record`."""
    return blake2b(block, digest_size=16).digest()


def members(path: Path, at: int = 0) -> Iterator[tuple[int, int, bytes]]:
    """Yield where each whole gzip member of the file begins and ends, and what it holds.

    The first one begins *at* a place. What is not whole at the end is left out. Raises `zlib.error`
    for all else.
    """
    with path.open("rb") as file:
        while True:
            member, parts, end = zlib.decompressobj(31), [], at
            file.seek(at)
            while not member.eof:
                piece = file.read(_PIECE)
                if not piece:
                    return
                parts.append(member.decompress(piece))
                end += len(piece)
            end -= len(member.unused_data)
            yield at, end, b"".join(parts)
            at = end


def cut_problems(whole: Path, cut: Path) -> list[str]:
    """Return what is wrong with the WARC file *whole*, which was *cut* when its writer was killed.

    What was complete in it by then must be as it was. Then the next run begins, and nothing is left
    of a record that was not complete.
    """
    end = max((end for _, end, _ in members(cut)), default=0)
    with whole.open("rb") as file, cut.open("rb") as before:
        left = end
        while left:
            piece = before.read(min(left, 2**20))
            if file.read(len(piece)) != piece:
                return ["what was in the archive before a kill has changed"]
            left -= len(piece)
    try:
        following = next(members(whole, end), None)
        if following is not None and record_of(end, following[2]).kind == "warcinfo":
            return []
    except (ValueError, zlib.error):
        pass
    return [f"the archive does not go on at {end}, behind its last whole record"]


def record_of(at: int, member: bytes) -> Record:
    """Return the record that is all of *member*. Raises ValueError if there is none, or more."""
    head, mark, rest = member.partition(b"\r\n\r\n")
    fields = {name.lower(): value for name, value in _FIELD.findall(head)}
    length = int(fields.get(b"content-length", b"-1"))
    block = rest[:length]
    if not (head.startswith(b"WARC/1.1\r\n") and mark and rest[length:] == b"\r\n\r\n"):
        raise ValueError(f"there is no record at {at}")
    return Record(
        at,
        fields[b"warc-type"].decode(),
        fields.get(b"warc-target-uri", b"").decode(),
        block.partition(b"\r\n")[0],
        digest_of(block),
    )


def records_in(path: Path) -> Iterator[Record]:
    """Yield the records of a WARC file, which must be whole. Raises ValueError if it is not."""
    end = 0
    try:
        for at, end, member in members(path):  # noqa: B007  # it is used below
            yield record_of(at, member)
    except zlib.error as exc:
        raise ValueError(f"behind {end}: {exc}") from exc
    if end != path.stat().st_size:
        raise ValueError(f"behind {end} there is no record")


def left_in(path: Path) -> set[str]:
    """Return the URLs that a frontier has not done. Looks at a copy of its database."""
    with tempfile.TemporaryDirectory() as directory:
        for each in path.parent.glob(f"{path.name}*"):
            shutil.copy(each, directory)
        database = sqlite3.connect(Path(directory) / path.name)
        try:
            query = "SELECT origin || target FROM page JOIN host ON host.id = page.host"
            return {url for (url,) in database.execute(query)}
        finally:
            database.close()
