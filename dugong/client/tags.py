"""The tags of a page of HTML that lead somewhere, found in one pass of a regular expression.

Guarantees: any text is taken, in time and memory that are linear in its length. Touches nothing;
any thread may call it.

Tags, attributes and comments are told apart as browsers do (WHATWG HTML §13.2.5), but no tree is
built: what is cut off by the end of the text is no tag, and what looks like one in a script, a
style, a comment or an attribute is none.

There are libraries that parse HTML. `html.parser` takes ten times as long for a page, and minutes
for one of 400 KiB that is made for that (100,000 times ``<!--``). Those in C take as long as this.
But they build a tree: selectolax takes minutes for 100,000 elements that are nested, and lxml
leaves out what is nested in more than 256.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from html.entities import html5

__all__ = ["tags"]

_WANTED = "a|area|base|meta"
# Elements that have text, in which nothing but their end tag counts.
_TEXT = "script|style|textarea|title|xmp|iframe"

# Nothing here can match in two ways, so that what does not match has failed in linear time.
_SPACE = r"[\t\n\f\r ]"
_VALUE = r"""(?:"[^"]*+"|'[^']*+'|[^\t\n\f\r "'>][^\t\n\f\r >]*+|(?=>))"""
_NAME = r"[^\t\n\f\r />][^\t\n\f\r />=]*+"
_EQUALS = rf"{_SPACE}*+={_SPACE}*+"
_ATTRIBUTES = rf"(?:[\t\n\f\r /]*+{_NAME}(?:{_EQUALS}{_VALUE}|(?!{_SPACE}*+=)))*[\t\n\f\r /]*+>"
_END_OF_NAME = r"(?=[\t\n\f\r />])"
_TOKEN = re.compile(
    "<(?:"
    # First what most tags are, for they begin with none of the letters of the next two.
    rf"(?:[c-hj-ln-ru-wyz]|/[a-z])[^\t\n\f\r />]*+{_ATTRIBUTES}"
    rf"|(?P<wanted>{_WANTED}){_END_OF_NAME}(?P<attributes>{_ATTRIBUTES})"
    # A tag that ends with /> has no text: such ones are there in XHTML and SVG.
    rf"|(?P<text>{_TEXT}){_END_OF_NAME}{_ATTRIBUTES}"
    rf"(?:(?<=/>)|[^<]*+(?:<(?!/(?P=text){_END_OF_NAME})[^<]*+)*</(?P=text){_END_OF_NAME}{_ATTRIBUTES})"
    rf"|(?!(?:{_TEXT}){_END_OF_NAME})[abimstx][^\t\n\f\r />]*+{_ATTRIBUTES}"
    r"|!--(?:-?>|.*?--!?>)"
    r"|(?:[?]|!(?!--)|/(?![a-z]))[^>]*+>"
    r"|(?P<cut>[a-z!?/])"
    ")",
    re.ASCII | re.DOTALL | re.IGNORECASE,
)
# The value is what one of the last three groups has.
_ATTRIBUTE = re.compile(
    rf"""({_NAME})(?:{_EQUALS}(?:"([^"]*+)"|'([^']*+)'|([^\t\n\f\r "'>][^\t\n\f\r >]*+)|\Z))?"""
)
_REFERENCE = re.compile("&(?:#(?:[0-9]+|x[0-9a-f]+);?|([a-z][a-z0-9]*+;?))", re.IGNORECASE)


def tags(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the tags ``a``, ``area``, ``base`` and ``meta`` of *text*: names and attributes.

    Names are in lower case. An attribute without a value has an empty one; of several with the same
    name, the first one counts. Character references are replaced.
    """
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if kind == "attributes":
            found = _ATTRIBUTE.findall(token["attributes"][:-1])
            found.reverse()
            yield (
                token["wanted"].lower(),
                {name.lower(): _text(a or b or c) for name, a, b, c in found},
            )
        elif kind == "cut":
            return


def _text(value: str) -> str:
    return _REFERENCE.sub(_character, value) if "&" in value else value


def _character(reference: re.Match[str]) -> str:
    # Without a semicolon only what is all of a name counts: "?a&copying=b" is three words.
    name = reference[1]
    if name is None:
        try:
            return unescape(reference[0])
        except ValueError:  # too many digits for an int
            return "\ufffd"
    end = reference.end()
    if name[-1] != ";" and reference.string[end : end + 1] == "=":
        return reference[0]
    return html5.get(name, reference[0])
