"""What one cookie is, how a Set-Cookie field or a file says it, and where it may be sent.

RFC 6265 decides, and where browsers have moved on, its revision (draft-ietf-httpbis-rfc6265bis,
"6265bis" below).

Guarantees: nothing that a server sends raises. A `Cookie` can be sent, and is for the host that has
set it, or for those below a domain of that host's which is no public suffix. No message quotes a
value. Touches nothing.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

from dugong.connection.names import netloc
from dugong.errors import printable
from dugong.pool.url import Origin, known_origins

__all__ = [
    "Cookie",
    "Key",
    "cookies_of_line",
    "domains_of",
    "file_line",
    "flaw",
    "loaded",
    "parse_domain",
    "parse_set_cookie",
    "path_matches",
    "stands_alone",
]

_MAX_COOKIE = 4096  # characters of a name and its value
_MAX_ATTRIBUTE = 1024  # characters of the value of an attribute, and of a path
_MAX_LIFE = 400 * 86400  # seconds (6265bis §5.5)

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_CHARACTERS = re.compile(r"[ -:<-~\x80-\xff]*")  # no control characters, no semicolon
_ADDRESS = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?|.*:.*")  # IPv4 ends in a number
_MAX_AGE = re.compile(r"(-?)0*([0-9]+)")
# A date is a row of tokens, of which the first that fits a part is that part (RFC 6265 §5.1.1).
_DATE_TOKEN = re.compile(r"[^\t -/;-@\[-`{-~]+")
_DATE_PARTS = {
    "time": re.compile(r"([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})(?![0-9])"),
    "day": re.compile(r"([0-9]{1,2})(?![0-9])"),
    "month": re.compile(r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)", re.IGNORECASE),
    "year": re.compile(r"([0-9]{2,4})(?![0-9])"),
}
_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()

_HTTP_ONLY = "#HttpOnly_"

Key = tuple[str, str, bool]  # (path, name, host_only)


class Cookie(NamedTuple):
    """One cookie."""

    name: str
    value: str
    domain: str  # the host, or the domain it named; "" if a caller has named none
    path: str
    host_only: bool = True
    secure: bool = False
    http_only: bool = False  # of no meaning here, but for the programs that read the file
    expires: float | None = None  # in seconds, as `time.time` gives them; None: with the session
    created: int = 0  # its place among all cookies of one `Cookies`

    @property
    def key(self) -> Key:
        """What tells it from the other cookies of its domain (6265bis §5.7)."""
        return self.path, self.name, self.host_only

    @property
    def scope(self) -> str:
        """Its domain as files and jars have it: with a dot if it includes the hosts below."""
        return self.domain if self.host_only else f".{self.domain}"

    def is_live(self, now: float) -> bool:
        """Whether it has not expired."""
        return self.expires is None or self.expires > now

    def __repr__(self) -> str:
        return printable(f"<Cookie {self.name} for {self.scope}{self.path}>")


# --- what may be sent ----------------------------------------------------------------------------


def parse_domain(domain: str) -> str:
    """Return *domain* as `Origin.host` has it, and without a dot in front; none if it is empty.

    Raises ValueError if it is neither a host name nor an address.
    """
    domain = domain.removeprefix(".")
    try:
        return known_origins[f"http://{netloc(domain, None)}"].host if domain else ""
    except ValueError:
        raise ValueError("the domain of a cookie must be a host name or an address") from None


def flaw(name: str, value: str, path: str) -> str | None:
    """Return why a cookie of these could not be kept and sent; None if it can."""
    if not name or "=" in name:
        return "the name of a cookie must not be empty or hold '='"
    if len(name) + len(value) > _MAX_COOKIE:
        return f"a cookie must not be longer than {_MAX_COOKIE} characters"
    if path[:1] != "/" or len(path) > _MAX_ATTRIBUTE:
        return f"the path of a cookie must begin with '/', and be up to {_MAX_ATTRIBUTE} characters"
    for text in (name, value, path):
        if not _CHARACTERS.fullmatch(text) or text != text.strip(" "):
            return (
                "a cookie must not hold ';', control characters, characters beyond ISO-8859-1, or "
                "spaces at the ends of its name, value or path"
            )
    return None


# --- files ----------------------------------------------------------------------------------------


def file_line(cookie: Cookie) -> str:
    """Return the line of a file for *cookie*, as `http.cookiejar.MozillaCookieJar` writes it."""
    fields = (
        f"{_HTTP_ONLY if cookie.http_only else ''}{cookie.scope}",
        "FALSE" if cookie.host_only else "TRUE",
        cookie.path,
        "TRUE" if cookie.secure else "FALSE",
        "" if cookie.expires is None else str(int(cookie.expires)),
        cookie.name,
        cookie.value,
    )
    return "\t".join(fields) + "\n"


def cookies_of_line(line: str) -> list[Cookie]:
    """Return the cookie of a *line* of a file; none if it is a comment, or could not be sent.

    Raises ValueError or OverflowError if the line is in another format.
    """
    http_only = line.startswith(_HTTP_ONLY)
    line = line.removeprefix(_HTTP_ONLY).removesuffix("\n")
    if line.startswith("#") or not line.strip():
        return []
    domain, below, path, secure, expires, name, value = line.split("\t")
    until = int(float(expires or "0")) or None  # curl writes a 0 for the session
    return loaded(name, value, domain, path, below != "TRUE", secure == "TRUE", http_only, until)


def loaded(
    name: str,
    value: str,
    domain: str,
    path: str,
    host_only: bool,
    secure: bool,
    http_only: bool,
    expires: float | None,
) -> list[Cookie]:
    """Return a cookie that another program has kept; none if it could not be sent.

    Some keep, for example, what a server has set without a name.
    """
    if flaw(name, value, path) is not None:
        return []
    try:
        host = parse_domain(domain)
    except ValueError:
        return []
    return [Cookie(name, value, host, path, host_only or not host, secure, http_only, expires)]


# --- Set-Cookie -----------------------------------------------------------------------------------


def parse_set_cookie(text: str, origin: Origin, path: str, now: float) -> Cookie | None:
    """Return the cookie that a Set-Cookie of *text* sets; None if it is refused.

    The response has come from *origin*, for *path* (RFC 6265 §5.2 and §5.3).
    """
    if _CONTROL.search(text):
        return None
    pair, *rest = text.split(";")
    name, equals, value = (part.strip(" \t") for part in pair.partition("="))
    attributes: dict[str, str] = {}  # of several with one name, the last is that which counts
    for attribute in rest:
        key, _, setting = attribute.partition("=")
        if len(setting := setting.strip(" \t")) <= _MAX_ATTRIBUTE:
            attributes[key.strip(" \t").lower()] = setting
    if (below := attributes.get("path", ""))[:1] != "/":
        below = path.rpartition("/")[0] or "/"  # §5.1.4
    if not equals or flaw(name, value, below) is not None:
        return None

    host = origin.host
    named = attributes.get("domain", "").removeprefix(".").lower()
    domain = named or host
    if domain not in domains_of(host):
        return None
    host_only = not named or stands_alone(domain)
    if host_only and domain != host:
        return None

    secure = "secure" in attributes
    prefix = name.lower()
    if secure and origin.scheme != "https":
        return None
    if prefix.startswith(("__secure-", "__host-")) and not secure:
        return None
    if prefix.startswith("__host-") and not (host_only and attributes.get("path") == "/"):
        return None
    expires = _parse_expiry(attributes, now)
    return Cookie(name, value, domain, below, host_only, secure, "httponly" in attributes, expires)


def _parse_expiry(attributes: dict[str, str], now: float) -> float | None:
    """Return when a cookie expires; None if with the session. Max-Age decides, then Expires."""
    if age := _MAX_AGE.fullmatch(attributes.get("max-age", "")):
        minus, digits = age.groups()
        seconds = int(digits[:10])  # as many as it takes to be longer than any cookie lives
        return 0 if minus else now + min(seconds, _MAX_LIFE)
    expires = _parse_date(attributes.get("expires", ""))
    return None if expires is None else min(expires, now + _MAX_LIFE)


def _parse_date(text: str) -> float | None:
    """Return the point in time that *text* names (RFC 6265 §5.1.1); None if it is none."""
    from datetime import UTC, datetime

    parts: dict[str, re.Match[str]] = {}
    for token in _DATE_TOKEN.findall(text):
        for part, form in _DATE_PARTS.items():
            if part not in parts and (match := form.match(token)):
                parts[part] = match
                break
    if len(parts) < len(_DATE_PARTS):
        return None
    year = int(parts["year"][1])
    if year < 100:
        year += 1900 if year >= 70 else 2000
    if year < 1601:
        return None
    month = _MONTHS.index(parts["month"][1].lower()) + 1
    hour, minute, second = map(int, parts["time"].groups())
    try:
        then = datetime(year, month, int(parts["day"][1]), hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
    return then.timestamp()


# --- matching -------------------------------------------------------------------------------------


def path_matches(path: str, below: str) -> bool:
    """Whether a request for *path* gets cookies of the path *below* (RFC 6265 §5.1.4)."""
    return path.startswith(below) and (
        len(path) == len(below) or below[-1] == "/" or path[len(below)] == "/"
    )


def domains_of(host: str) -> list[str]:
    """Return the domains whose cookies may go to *host*: all that it domain-matches (§5.1.3)."""
    domains = [host]
    if not _ADDRESS.fullmatch(host):
        while host := host.partition(".")[2]:
            domains.append(host)
    return domains


def stands_alone(domain: str) -> bool:
    """Whether no cookie may be for the hosts below *domain*, but only for itself.

    So it is if it is an address, a single label, or a public suffix (RFC 6265 §5.3).
    """
    if "." not in domain.removesuffix(".") or _ADDRESS.fullmatch(domain):
        return True
    suffixes = _public_suffixes()
    return suffixes is not None and bool(suffixes.is_public(domain.removesuffix(".")))


@cache
def _public_suffixes() -> Any:
    """Return the list of public suffixes; None if its package, an extra, is not installed."""
    from importlib import import_module

    try:
        return import_module("publicsuffixlist").PublicSuffixList()
    except ImportError:
        return None
