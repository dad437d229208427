"""Values of arguments. What makes no sense is an `argparse.ArgumentTypeError`."""

from __future__ import annotations

import argparse
import math
import re

__all__ = [
    "count",
    "count_or_none",
    "header",
    "number",
    "positive",
    "rate",
    "seconds",
    "seconds_or_none",
]


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number of seconds, not {text!r}")
    return value


def seconds_or_none(text: str) -> float:
    return 0.0 if text == "0" else seconds(text)


def count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text) or not int(text):
        raise argparse.ArgumentTypeError(f"must be a number from 1 to 9999, not {text!r}")
    return int(text)


def count_or_none(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text):
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 9999, not {text!r}")
    return int(text)


def number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"must be a number of up to nine digits, not {text!r}")
    return int(text)


def positive(text: str) -> int:
    if not number(text):
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def rate(text: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kKmMgG]?)", text)
    value = float(match[1]) * 1024 ** " kmg".index(match[2].lower() or " ") if match else 0
    if not 1 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be bytes a second, as in 500K, not {text!r}")
    return value


def header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError("must be a field as in 'NAME: VALUE'")
    return name.strip(), value.strip()
