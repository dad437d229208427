"""The links of a response: its Link fields (RFC 8288 §3).

Guarantees: no value makes anything here raise, or take more time than in proportion to its length.
Touches nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["links_of"]

# A semicolon, a name with or without a value, and whatever else there is before what follows.
_PARAMETER = re.compile(
    r"""[ \t]*+;[ \t]*+
        (?:([!#$%&'*+.^_`|~0-9A-Za-z-]++)[ \t]*+
            (?:=[ \t]*+(?:"((?:[^"\\]|\\.)*+)"|([^;,"]*+)))?
        )?[^;,"]*+""",
    re.VERBOSE | re.DOTALL,
)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)


def links_of(values: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the links that the *values* of Link fields have, by their relation types.

    Those are in lower case, in which they are compared (§2.1), and a link that has several stands
    at each; one that has none stands at its URL. Of several links with one type, the last counts.
    A link is a dict: the ``url`` is what stands between the angle brackets, and the rest are the
    parameters, their names in lower case. Of several with one name, the first counts (§3.3).
    """
    links: dict[str, dict[str, str]] = {}
    for value in values:
        position = 0
        while (start := value.find("<", position)) >= 0 and (stop := value.find(">", start)) >= 0:
            link = {"url": value[start + 1 : stop].strip()}
            position = stop + 1
            while match := _PARAMETER.match(value, position):
                position = match.end()
                name, quoted, plain = match.groups("")
                if name:
                    said = _QUOTED_PAIR.sub(r"\1", quoted) or plain.strip(" \t")
                    link.setdefault(name.lower(), said)
            for relation in link.get("rel", "").lower().split() or [link["url"]]:
                links[relation] = link
    return links
