"""Checks of numbers, switches and callables: each mistake is told in the same words.

Each raises TypeError or ValueError, which name the parameter. Touches nothing.
"""

from __future__ import annotations

import sys
from threading import TIMEOUT_MAX

__all__ = [
    "check_bool",
    "check_call",
    "check_counts",
    "check_int",
    "check_not_negative",
    "check_positive",
    "check_rates",
    "check_seconds",
    "check_str",
    "refuse_coroutine_function",
]

_MOST = sys.float_info.max
_IS_COROUTINE = 0x80  # `inspect.CO_COROUTINE`; that module is slow to import


def check_counts(**counts: object) -> None:
    """Raise unless all are positive integers. Their names are those of the parameters."""
    for name, count in counts.items():
        check_int(name, count, 1)


def check_int(
    name: str, value: object, least: int | None = None, most: float = sys.maxsize
) -> None:
    """Raise unless *value* is an int, of at least *least* and at most *most*."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    if value > most:
        raise ValueError(f"{name} must be at most {most}, not {value}")


def check_seconds(name: str, value: object) -> None:
    """Raise unless *value* is a positive number of seconds that can be waited."""
    check_positive(name, value, "seconds or None", TIMEOUT_MAX)


def check_rates(**rates: object) -> None:
    """Raise unless each is None or a rate. Their names are those of the parameters."""
    for name, rate in rates.items():
        if rate is not None:
            check_positive(name, rate, "bytes a second or None")


def check_positive(name: str, value: object, unit: str, most: float = _MOST) -> None:
    """Raise unless *value* is a positive number of *unit*, of at most *most*."""
    if not 0 < _number(name, value, unit) <= most:  # which no NaN passes
        raise ValueError(f"{name} must be positive and finite, not {value!r}")


def check_not_negative(name: str, value: object, unit: str, most: float = _MOST) -> None:
    """Raise unless *value* is a number of *unit* from 0 to *most*."""
    if not 0 <= _number(name, value, unit) <= most:  # which no NaN passes
        raise ValueError(f"{name} must be finite and not negative, not {value!r}")


def _number(name: str, value: object, unit: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of {unit}, not {value!r}")
    return value


def check_bool(name: str, value: object) -> None:
    """Raise unless *value* is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, not {value!r}")


def check_str(name: str, value: object) -> None:
    """Raise unless *value* is a str."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")


def check_call(name: str, value: object) -> None:
    """Raise unless *value* can be called, without being awaited."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {value!r}")
    refuse_coroutine_function(name, value)


def refuse_coroutine_function(name: str, value: object) -> None:
    """Raise if *value* is a coroutine function, whose call alone does nothing."""
    code = getattr(value, "__code__", None)
    if getattr(code, "co_flags", 0) & _IS_COROUTINE:
        raise TypeError(
            f"{name} must not be a coroutine function, for it is called, and not awaited"
        )
