"""Settings that never change: what `RetryPolicy` and `HostPolicy` have in common.

Guarantees: an object stays as it was made, so any thread may use it; it is equal to another with
the same values, and can be hashed, copied and pickled if these can. Touches nothing.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, NoReturn, Self

__all__ = ["Settings"]


class Settings:
    """Values by name: the keyword parameters of the class, which are its slots, in their order."""

    __slots__ = ()

    _names: ClassVar[tuple[str, ...]]

    def _set(self, **values: Any) -> None:
        """Set all *values*: once, when the object is made."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        kind = type(self).__name__
        raise AttributeError(f"a {kind} never changes: replace({name}=...) makes another")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a {type(self).__name__} never changes: replace() makes another")

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._names}

    def replace(self, **changes: Any) -> Self:
        """Return an object like this one but for *changes*, which are parameters of its class.

        Raises what the class raises. Any thread may call it.
        """
        return type(self)(**(self._fields() | changes))

    __replace__ = replace  # for `copy.replace`

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), **self._fields()), ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        assert isinstance(other, Settings)
        return self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(tuple(self._fields().values()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self._fields().items())
        return f"{type(self).__name__}({fields})"
