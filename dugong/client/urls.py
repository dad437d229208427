"""What a client makes of a URL before it becomes a `Request`; and forms, which are quoted alike.

Guarantees: what is legal in a URL stays as it is, so nothing is quoted twice; no CR, LF or NUL gets
into a URL; the host is not changed, as `Request` checks it; no message quotes any part of a URL but
its scheme. Touches nothing, so any thread may call anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from dugong.pool.checks import check_str
from dugong.pool.url import split_url

__all__ = [
    "Pairs",
    "Params",
    "Scalar",
    "form",
    "form_pairs",
    "join",
    "named",
    "quoted",
    "resolve",
    "with_params",
    "without_dots",
]

#: The value of a parameter, or of a field of a form.
Scalar = str | int | float | None
Pairs = Mapping[str, Scalar | Sequence[Scalar]] | Iterable[tuple[str, Scalar | Sequence[Scalar]]]
Params = Pairs | str

_LEGAL = r"!#-;=?-\[\]_a-z~"  # what RFC 3986 §2 allows: unreserved, reserved, and "%"
_is_plain = re.compile(f"[{_LEGAL}]*").fullmatch
_ILLEGAL = re.compile(f"[^{_LEGAL}]+")
_LINE_BREAK = re.compile(r"[\r\n\0]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BEFORE_PATH = re.compile(r"(?:(?:[A-Za-z][A-Za-z0-9+.-]*:)?//[^/?#]*)?")
_CONTROLS_AND_SPACE = "".join(map(chr, range(0x21)))


def join(base_url: str, url: str) -> str:
    """Return *url* if it is absolute, and else what it is below *base_url*.

    ``items`` and ``/items`` both are ``https://h/v1/items`` below ``https://h/v1`` and
    ``https://h/v1/``; ``?a=1`` and the empty URL follow what *base_url* says as they are. Dot
    segments are left alone. Raises TypeError for what is no str; ValueError for a relative URL
    without a *base_url*, for one that begins with ``//``, and below a *base_url* that has a query
    or a fragment.
    """
    check_str("a URL", url)
    if _ABSOLUTE.match(url):
        return url
    if not base_url:
        raise ValueError(
            "the URL is relative: give an absolute one, as in http://host/path, or the client a "
            "base_url"
        )
    if "?" in base_url or "#" in base_url:
        raise ValueError("a base_url must have neither a query nor a fragment")
    if url.startswith("//"):
        raise ValueError("a URL that begins with // would leave the base_url: give its scheme, too")
    if url[:1] in ("", "?", "#"):
        return base_url + url
    return f"{base_url.removesuffix('/')}/{url.removeprefix('/')}"


def resolve(url: str, location: str) -> str:
    """Return the URL that the Location field *location* of the response from *url* names.

    It is resolved by RFC 3986 §5, and read as browsers do (WHATWG URL §4.4): spaces and controls
    around it and tabs within it do not count, a backslash before the query is a slash, and
    ``http:path`` is relative. Bytes that are not legal in a URL are percent-encoded as the server
    has sent them, in UTF-8 or not. The fragment of *url* is inherited (RFC 9110 §10.2.2).

    *url* is an absolute http or https URL, *location* any str, of which a header field consists: a
    character for each byte. Raises ValueError if a CR, LF or NUL is within it, or something that
    cannot be printed within its host. What comes may have another scheme, user information or an
    invalid host, which the caller has to check.
    """
    prefix, target = split_url(url)
    base_scheme = prefix.partition(":")[0].lower()
    base_path, base_mark, base_query = target.partition("?")
    location = _as_sent(location.strip(_CONTROLS_AND_SPACE).replace("\t", ""))
    _check_lines(location)

    rest, fragment_mark, fragment = location.partition("#")
    if not fragment_mark:
        _, fragment_mark, fragment = url.partition("#")
    path, query_mark, query = rest.partition("?")
    path = path.replace("\\", "/")
    scheme = base_scheme
    if match := _SCHEME.match(path):
        scheme = match[1].lower()
        if scheme not in ("http", "https"):
            return f"{scheme}:{_escaped(location[match.end() :])}"
        path = path[match.end() :]
        if scheme != base_scheme and not path.startswith("//"):
            path = f"//{path}"
    if path.startswith("//"):
        authority, _, path = path.lstrip("/").partition("/")
        if not authority.isprintable():  # it is quoted in messages
            raise ValueError("the host of the URL has characters that cannot be printed")
        prefix = f"{scheme}://{authority}"
        path = f"/{path}"
    elif not path:
        path = base_path
        if not query_mark:
            query_mark, query = base_mark, base_query
    elif path[0] != "/":
        path = f"{base_path[: base_path.rfind('/') + 1]}{path}"
    rest = f"{without_dots(path)}{query_mark}{query}{fragment_mark}{fragment}"
    return f"{prefix}{_escaped(rest)}"


def quoted(url: str) -> str:
    """Return *url* with what is not legal in a URL percent-encoded, in UTF-8 (RFC 3986 §2).

    A ``%`` stays as it is, as it does in browsers, even if no two digits follow: so what has been
    quoted is not quoted again. The host stays as it is, too. A URL that needs nothing is returned
    itself. Raises TypeError for what is no str; ValueError for CR, LF and NUL, which can only be a
    mistake or an attack, and for a lone surrogate.
    """
    if isinstance(url, str) and _is_plain(url):
        return url
    check_str("a URL", url)
    _check_lines(url)
    before = _BEFORE_PATH.match(url)
    assert before is not None
    return f"{before[0]}{_escaped(url[before.end() :])}"


def with_params(url: str, params: Params) -> str:
    """Return *url* with *params* behind the query that it has, and before its fragment.

    *params* is a mapping or an iterable of (name, value) pairs, which are encoded as a form is
    (application/x-www-form-urlencoded: a space is ``+``). A value is a str, an int, a float, a bool
    (``true`` or ``false``), None (nothing behind the ``=``), or a list or tuple of these, for
    several parameters of one name. A str is taken as encoded: only what is not legal in a query is
    percent-encoded. Raises TypeError for anything else, and ValueError for text that is not
    Unicode, and for a CR, LF or NUL in a str.
    """
    check_str("a URL", url)
    if isinstance(params, str):
        _check_lines(params)
        query = _escaped(params).replace("#", "%23")
    else:
        query = _urlencoded("params", params)
    if not query:
        return url
    before, mark, fragment = url.partition("#")
    separator = "?" if "?" not in before else "" if before[-1] in "?&" else "&"
    return f"{before}{separator}{query}{mark}{fragment}"


def form(data: Pairs) -> bytes:
    """Return *data* as the body of a form (application/x-www-form-urlencoded).

    It is a mapping or an iterable of pairs as for `with_params`, which says what is raised.
    """
    return _urlencoded("data", data).encode("ascii")


def form_pairs(what: str, given: Pairs) -> list[tuple[str, str]]:
    """Return the (name, value) pairs of *given*, which is called *what*: one for each value.

    Raises TypeError if it is not what `with_params` takes. The message quotes no value.
    """
    pairs = []
    for name, value in named(what, given):
        values = value if isinstance(value, (list, tuple)) else (value,)
        pairs += [(name, _text(what, each)) for each in values]
    return pairs


def named(what: str, given: object) -> Iterator[tuple[str, object]]:
    """Yield the (name, value) pairs of *given*, a mapping or an iterable that is called *what*.

    Raises TypeError for anything else. The message quotes no value.
    """
    items: Iterable[object]
    if isinstance(given, Mapping):
        items = given.items()
    elif isinstance(given, Iterable) and not isinstance(given, (str, bytes, bytearray, memoryview)):
        items = given
    else:
        kind = type(given).__name__
        raise TypeError(f"{what} must be a mapping or (name, value) pairs, not {kind}")
    for item in items:
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            kind = type(item).__name__
            raise TypeError(f"{what} must be a mapping or (name, value) pairs, not of {kind}")
        name, value = item
        if not isinstance(name, str):
            raise TypeError(f"a name in {what} must be a str, not {type(name).__name__}")
        yield str.__str__(name), value


def _text(what: str, value: object) -> str:
    if isinstance(value, str):
        return str.__str__(value)  # an Enum is formatted as something else, here and below
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return repr(float(value))
    kind = type(value).__name__
    raise TypeError(f"a value in {what} must be a str, a number, a bool or None, not {kind}")


def _urlencoded(what: str, given: Pairs) -> str:
    from urllib.parse import urlencode

    try:
        return urlencode(form_pairs(what, given))
    except UnicodeEncodeError:
        raise ValueError(f"{what} has a lone surrogate, which UTF-8 cannot encode") from None


def _check_lines(url: str) -> None:
    if _LINE_BREAK.search(url):
        raise ValueError("a URL must not hold a CR, LF or NUL")


def _as_sent(value: str) -> str:
    """Return the text of a header field that is UTF-8; a byte that is not becomes a surrogate."""
    try:
        return value.encode("latin-1").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return value  # no parser has made it


def _escaped(text: str) -> str:
    try:
        return _ILLEGAL.sub(_percent_encoded, text)
    except UnicodeEncodeError:
        raise ValueError("the URL has a lone surrogate, which UTF-8 cannot encode") from None


def _percent_encoded(match: re.Match[str]) -> str:
    return f"%{match[0].encode('utf-8', 'surrogateescape').hex('%').upper()}"


def without_dots(path: str) -> str:
    """Return *path*, which begins with a slash, without dot segments (RFC 3986 §5.2.4)."""
    kept: list[str] = []
    for segment in path.split("/")[1:]:
        plain = segment.replace("%2e", ".").replace("%2E", ".")
        if plain == "..":
            del kept[-1:]
        elif plain != ".":
            kept.append(segment)
    if plain in (".", ".."):
        kept.append("")  # what they name is a directory
    return "/" + "/".join(kept)
