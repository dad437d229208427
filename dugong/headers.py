"""Header containers: `Headers`, for what a server sent, and `CaseInsensitiveDict`.

Guarantees: no bytes of any peer can make these raise. Touches nothing but its arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import TypeVar, overload

__all__ = ["CaseInsensitiveDict", "Headers"]

T = TypeVar("T")
V = TypeVar("V")

_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PARAMETER = re.compile(
    r"""[ \t]*;[ \t]*(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*
        (?:"((?:[^"\\]|\\.)*)"|([^;"]*)))?[^;"]*""",
    re.VERBOSE | re.DOTALL,
)

_MAY_BE_SECRET = (
    "auth cookie token secret password passphrase credential signature session key".split()
)
_URLS = frozenset(("location", "content-location", "referer", "refresh"))


def _shown(name: str, value: V) -> V | str:
    """Return what a repr shows for the *value* of the field *name*: no credentials, no query."""
    lower = name.lower()
    if any(word in lower for word in _MAY_BE_SECRET):
        return "..."
    if isinstance(value, str) and lower in _URLS:
        base, query, _ = value.partition("?")
        return f"{base}?..." if query else base
    return value


class Headers:
    """The header fields of one message: an ordered, case-insensitive, immutable multimap.

    Reads like `email.message.Message`: ``headers["missing"]`` is None, ``headers[name]`` is the
    first of several fields, `get_all` gives them all, and `keys`, `values`, `items` and iteration
    give every field in the order it was sent. Being immutable, it may be shared by threads. Its
    repr, and its text, hide what may be secret: credentials, cookies, keys and the like.

    Parameters: *fields* is a mapping or an iterable of (name, value) pairs. Raises TypeError if it
    is neither.
    """

    __slots__ = ("_defects", "_fields")

    _fields: Sequence[tuple[str, str, str]]  # (lower-case name, name as sent, value)

    def __init__(
        self, fields: Mapping[str, str] | Headers | Iterable[tuple[str, str]] = ()
    ) -> None:
        pairs = fields.items() if isinstance(fields, (Mapping, Headers)) else fields
        self._defects: tuple[str, ...] = ()
        try:
            self._fields = tuple((name.lower(), name, value) for name, value in pairs)
        except (AttributeError, TypeError, ValueError) as exc:
            raise TypeError("fields must be a mapping or (name, value) pairs of strs") from exc

    @classmethod
    def _from_parsed(
        cls, fields: Sequence[tuple[str, str, str]], defects: tuple[str, ...] = ()
    ) -> Headers:
        """Wrap (lower-case name, name, value) triples, which must not be changed after this."""
        self = cls.__new__(cls)
        self._fields = fields
        self._defects = defects
        return self

    @property
    def defects(self) -> tuple[str, ...]:
        """A text about each field line that the server sent malformed, and that was dropped.

        Empty in nearly all cases. Which lines are dropped, and which make the response invalid, is
        said in "Wire rules". The texts name the start of the line, and no values; headers that
        differ in nothing else are equal.
        """
        return self._defects

    @property
    def fields(self) -> Sequence[tuple[str, str, str]]:
        """Every field as (name in lower case, name as it was sent, value), in their order."""
        return self._fields

    def __getitem__(self, name: str) -> str | None:
        return self.get(name)

    @overload
    def get(self, name: str) -> str | None: ...
    @overload
    def get(self, name: str, failobj: T) -> str | T: ...
    def get(self, name: str, failobj: T | None = None) -> str | T | None:
        """Return the value of the first field called *name*, or *failobj* if there is none."""
        key = name.lower()
        for lower, _, value in self._fields:
            if lower == key:
                return value
        return failobj

    @overload
    def get_all(self, name: str) -> list[str] | None: ...
    @overload
    def get_all(self, name: str, failobj: T) -> list[str] | T: ...
    def get_all(self, name: str, failobj: T | None = None) -> list[str] | T | None:
        """Return the values of all fields called *name*, or *failobj* if there are none."""
        key = name.lower()
        return [value for lower, _, value in self._fields if lower == key] or failobj

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self._fields)

    def keys(self) -> list[str]:
        """Return the name of every field, as it was sent, repeats included."""
        return [name for _, name, _ in self._fields]

    def values(self) -> list[str]:
        """Return the value of every field."""
        return [value for _, _, value in self._fields]

    def items(self) -> list[tuple[str, str]]:
        """Return (name, value) of every field."""
        return [(name, value) for _, name, value in self._fields]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Headers):
            return NotImplemented
        return [(f[0], f[2]) for f in self._fields] == [(f[0], f[2]) for f in other._fields]

    def __hash__(self) -> int:
        return hash(tuple((f[0], f[2]) for f in self._fields))

    def __getstate__(self) -> object:
        return super().__getstate__()  # defined, or the oldest protocols of pickle refuse slots

    def __repr__(self) -> str:
        return f"Headers({[(name, _shown(name, value)) for name, value in self.items()]!r})"

    def get_content_type(self) -> str:
        """Return the media type, in lower case and without parameters (RFC 9110 §8.3).

        As in `email.message.Message`, ``text/plain`` stands for a missing or malformed one.
        """
        media_type = self.get("content-type", "").partition(";")[0].strip(" \t")
        return media_type.lower() if _MEDIA_TYPE.fullmatch(media_type) else "text/plain"

    @overload
    def get_content_charset(self) -> str | None: ...
    @overload
    def get_content_charset(self, failobj: T) -> str | T: ...
    def get_content_charset(self, failobj: T | None = None) -> str | T | None:
        """Return the charset of Content-Type in lower case, or *failobj* if it has none."""
        content_type = self.get("content-type", "")
        position = content_type.find(";")
        while position >= 0 and (match := _PARAMETER.match(content_type, position)):
            name, quoted, plain = match.groups()
            if name is not None and name.lower() == "charset":
                if quoted is not None:
                    value = re.sub(r"\\(.)", r"\1", quoted)
                else:
                    value = plain.strip(" \t")
                return value.lower() or failobj
            position = match.end()
        return failobj


class CaseInsensitiveDict(MutableMapping[str, V]):
    """A dict with string keys that ignores their case but remembers how each was last set.

    Not locked: one thread at a time.
    """

    __slots__ = ("_store",)

    def __init__(
        self, data: Mapping[str, V] | Iterable[tuple[str, V]] | None = None, **kwargs: V
    ) -> None:
        self._store: dict[str, tuple[str, V]] = {}
        self.update(() if data is None else data, **kwargs)

    def __setitem__(self, key: str, value: V) -> None:
        self._store[key.lower()] = (key, value)

    def __getitem__(self, key: str) -> V:
        return self._store[key.lower()][1]

    def __delitem__(self, key: str) -> None:
        del self._store[key.lower()]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key.lower() in self._store

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self._store.values())

    def __len__(self) -> int:
        return len(self._store)

    def lower_items(self) -> Iterator[tuple[str, V]]:
        """Iterate over (key in lower case, value)."""
        return ((lower, value) for lower, (_, value) in self._store.items())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        if not all(isinstance(key, str) for key in other):
            return False
        return dict(self.lower_items()) == dict(CaseInsensitiveDict(other).lower_items())

    __hash__ = None  # type: ignore[assignment]  # mutable; this is how Python spells "unhashable"

    def copy(self) -> CaseInsensitiveDict[V]:
        """Return a shallow copy."""
        return CaseInsensitiveDict(self._store.values())

    def __getstate__(self) -> object:
        return super().__getstate__()  # as in Headers

    def __repr__(self) -> str:
        shown = {key: _shown(key, value) for key, value in self.items()}
        return f"CaseInsensitiveDict({shown!r})"
