"""Names of files: those that URLs and servers give, made safe, and made different in a run.

Guarantees: a name is a single path component, never ``.`` or ``..``, so that the file stays in its
directory, and has only characters that the system can encode; one that a server has chosen does not
begin with a dot. No I/O.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import count
from threading import Lock

__all__ = ["Names", "disposition_name", "safe_name"]

_MAX_NAME = 200  # bytes; file systems take 255, and suffixes are added
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")

# RFC 6266 §4.1: a parameter is a token or a quoted string, and filename* one of RFC 8187.
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(
    rf';\s*(?P<name>{_TOKEN})\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<token>[^;"\s][^;]*))?'
)
_EXTENDED = re.compile(r"(?P<charset>[A-Za-z0-9_-]+)'[^']*'(?P<value>[!#$&+.^_`|~%0-9A-Za-z-]*)")
_ESCAPE = re.compile(r"\\(.)")
_DOTS = re.compile(r"\A[.\s]+")


def safe_name(text: str) -> str | None:
    """Return *text* as the name of a file; None if that is empty, ``.`` or ``..``."""
    if _PLAIN.fullmatch(text):
        return text
    if text in ("", ".", ".."):
        return None
    text = re.sub(r"[/\\]", "_", text)
    text = "".join(c if c.isprintable() and _has_code(c) else "_" for c in text)
    return text.encode()[:_MAX_NAME].decode(errors="ignore")


def _has_code(character: str) -> bool:
    """Return whether *character* can be in names of files: not all can, in some locales."""
    try:
        os.fsencode(character)
    except UnicodeEncodeError:
        return False
    return True


def disposition_name(field: str) -> str | None:
    """Return the file name in the Content-Disposition *field*, made safe (RFC 6266 §4.3).

    That is the last component of a path, as if a client had both ``/`` and ``\\``, without dots at
    its beginning. None if there is none that is of use. ``filename*`` (RFC 8187) counts before
    ``filename``.
    """
    names: dict[str, str] = {}
    for match in _PARAMETER.finditer(field, _end_of_type(field)):
        name = match["name"].lower()
        quoted = match["quoted"]
        value = _ESCAPE.sub(r"\1", quoted) if quoted is not None else (match["token"] or "").strip()
        names.setdefault(name, value)
    for value in (_decoded(names.get("filename*", "")), _as_utf_8(names.get("filename", ""))):
        last = re.split(r"[/\\]", value)[-1].strip()
        last = _DOTS.sub("", last)
        name_of_file = safe_name(last)
        if name_of_file is not None:
            return name_of_file
    return None


def _end_of_type(field: str) -> int:
    """Return where the parameters begin."""
    end = field.find(";")
    return len(field) if end < 0 else end


def _decoded(value: str) -> str:
    """Return what a value in the form of RFC 8187 stands for; "" if it is in no such form."""
    match = _EXTENDED.fullmatch(value)
    if match is None:
        return ""
    from urllib.parse import unquote_to_bytes

    charset = match["charset"].lower()
    if charset not in ("utf-8", "iso-8859-1"):
        return ""
    try:
        return unquote_to_bytes(match["value"]).decode(charset)
    except UnicodeDecodeError:
        return ""


def _as_utf_8(value: str) -> str:
    """Return *value*, a field value in which each byte is a character, as UTF-8 if it is that."""
    try:
        return value.encode("latin-1", "surrogateescape").decode()
    except UnicodeError:
        return value


def _folded(name: str) -> str:
    """Return what is the same for names that some file system takes for the same.

    There are some that ignore the case, or if a letter and its accent are one character.
    """
    if name.isascii():
        return name.lower()
    from unicodedata import normalize

    return normalize("NFD", normalize("NFD", name).casefold())


class Names:
    """Gives each file of a run a name of its own. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._taken: dict[str, int] = {}  # name, folded -> what to append next; `_lock`

    def claim(self, wanted: str) -> str:
        """Return *wanted*, with a number appended if that name was given before."""
        with self._lock:
            taken = self._taken
            name, key = wanted, _folded(wanted)
            folded = key
            while folded in taken:
                number = taken[key]
                taken[key] += 1
                name, folded = f"{wanted}.{number}", f"{key}.{number}"
            taken[folded] = 1
            return name

    def each(self, wanted: str) -> Iterator[str]:
        """Yield names to try for a file, as `claim` does."""
        for _ in count():
            yield self.claim(wanted)
