"""Challenges: what a server wants to have for authentication (RFC 9110 §11.3).

Guarantees: nothing here raises, whatever a server sends, and the time is linear in its length. No
repr quotes a parameter. Touches nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Challenge", "parse_challenges"]

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_QUOTED = r'"(?:[^"\\]|\\.)*+"'
_END = r"(?=[\ \t]*+(?:,|\Z))"
# One of these matches wherever the one before it has ended, and nothing is tried again with fewer
# characters. So the time is linear in the length, whatever the text is.
_ELEMENT = re.compile(
    rf"""[\ \t,]++
    | (?P<name>{_TOKEN})[\ \t]*+=[\ \t]*+(?P<value>{_TOKEN}|{_QUOTED}){_END}
    | (?P<scheme>{_TOKEN})(?:[\ \t]++(?P<token68>[A-Za-z0-9._~+/-]++=*+){_END}|(?=[\ \t,]|\Z))
    | (?:[^,"]|{_QUOTED})++  # is malformed, up to the next comma
    | ".*+  # has no end
    """,
    re.VERBOSE | re.DOTALL,
)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)


class Challenge(NamedTuple):
    """One challenge of a server (RFC 9110 §11.3).

    `scheme` and the names of the `parameters` are in lower case; `token68` is what some schemes
    have in place of parameters, else None.
    """

    scheme: str
    token68: str | None
    parameters: dict[str, str]

    def __repr__(self) -> str:
        return f"<Challenge {self.scheme}>"


def parse_challenges(values: Sequence[str]) -> list[Challenge]:
    """Return the challenges of all WWW-Authenticate fields of a response (RFC 9110 §11.6.1).

    *values* are those of the fields, in their order; together they are one list (§5.3). Never
    raises: what is malformed is left out, up to the next comma, and of a parameter that is there
    twice the first is taken. The time it takes is linear in the length. May be called from any
    thread.
    """
    found: list[Challenge] = []
    for value in values:
        for match in _ELEMENT.finditer(value):
            if match["scheme"]:
                found.append(Challenge(match["scheme"].lower(), match["token68"], {}))
            elif match["name"] and found:
                text = match["value"]
                if text[0] == '"':
                    text = _QUOTED_PAIR.sub(r"\1", text[1:-1])
                found[-1].parameters.setdefault(match["name"].lower(), text)
    return found
