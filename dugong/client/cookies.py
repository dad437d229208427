"""Cookies: `Cookies`, what servers and callers have set, and which of them go with a request.

They are kept here, not in an `http.cookiejar.CookieJar`, whose policies are not those of RFC 6265.
They can be taken from one and given as one.

Guarantees: nothing that a server sends raises, is kept without bound, or makes a request invalid. A
cookie goes to the host that has set it, to those below the domain that it named, and nowhere else;
one that a caller has set without a domain does not follow a redirect to another origin. No message
and no repr quotes a value. Touches files in `load` and `save` only.
"""

from __future__ import annotations

import os
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from itertools import count
from threading import RLock
from time import time
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, overload

from dugong.client.cookie import (
    Cookie,
    Key,
    cookies_of_line,
    domains_of,
    file_line,
    flaw,
    loaded,
    parse_domain,
    parse_set_cookie,
    path_matches,
    stands_alone,
)
from dugong.client.forking import begin_anew_in_child
from dugong.headers import Headers
from dugong.pool.url import PLAIN_URL, Origin, known_origins, split_url

if TYPE_CHECKING:
    from http.cookiejar import CookieJar

__all__ = ["Cookies", "CookiesLike"]

T = TypeVar("T")

CookiesLike: TypeAlias = "Cookies | CookieJar | Mapping[str, str] | Iterable[tuple[str, str]]"

_MAX_OF_DOMAIN = 180
_MAX_COOKIES = 3000
_MAX_FIELD = 32 * 1024  # characters of a Cookie field
_MAX_SHOWN = 20  # cookies in a repr

_KINDS = "Cookies, a CookieJar, a mapping or (name, value) pairs"
_FILE_HEAD = "# Netscape HTTP Cookie File\n"


class Cookies(MutableMapping[str, str]):
    """The cookies of a client, or of one call. Any thread may use them.

    Parameters: *cookies* is a mapping of names to values, an iterable of (name, value) pairs,
    another `Cookies` or an `http.cookiejar.CookieJar`; all are copied. Raises TypeError if it is
    something else, ValueError if a cookie could not be sent.

    It is a mapping of names to values. Several cookies may have one name, for different domains and
    paths; iteration yields that name so many times. To look such a name up without saying which is
    a ValueError.

    Kept are at most 180 cookies a domain, of which the oldest give way, and 3000 in all, of which
    those of the domain that was not used for the longest time give way. A cookie of more than 4096
    characters is refused.
    """

    def __init__(self, cookies: CookiesLike | None = None) -> None:
        # Reentrant, for a signal handler or a finalizer may send a request while its thread does.
        self._lock = RLock()  # a forked child has a new one
        # All under _lock. The domain that was used last is the last one; the cookies of a domain
        # stand in the order in which they were created.
        self._domains: OrderedDict[str, dict[Key, Cookie]] = OrderedDict()
        self._created = count()
        # Of cookies, some of which may have expired. Written under _lock, never too small; read
        # without, which is one atomic operation.
        self._count = 0
        begin_anew_in_child(self)
        if cookies is not None:
            self.update(cookies)

    def _begin_in_child(self) -> None:
        # A thread of the parent's may have had the old one. It left nothing half done, as each
        # change is one operation of a dict.
        self._lock = RLock()

    # --- for callers ------------------------------------------------------------------------------

    def set(self, name: str, value: str, domain: str = "", path: str = "/") -> None:
        """Set the cookie *name* to *value*, for the session.

        It is sent to the host *domain* and those below it; to that host alone if *domain* is an
        address, a single label as ``localhost``, or a public suffix. Without a domain, it is sent
        to each origin that the caller asks for, and to no other that a redirect leads to. *path* is
        the path below which it is sent (RFC 6265 §5.1.4).

        Raises ValueError if such a cookie could not be sent: a name must not be empty or hold "=",
        and neither name, value nor path may hold ";", control characters, characters beyond
        ISO-8859-1, or spaces at their ends. Raises TypeError if one of them is no str.
        """
        self._put([_given(name, value, domain, path)])

    @overload
    def get(
        self, name: str, default: None = None, domain: str | None = None, path: str | None = None
    ) -> str | None: ...
    @overload
    def get(
        self, name: str, default: str | T, domain: str | None = None, path: str | None = None
    ) -> str | T: ...
    def get(
        self,
        name: str,
        default: T | None = None,
        domain: str | None = None,
        path: str | None = None,
    ) -> str | T | None:
        """Return the value of the cookie *name*, or *default* if there is none.

        *domain* and *path* say which, if several cookies have this name; a ``""`` as *domain* is
        one that was set without. Raises ValueError if there still are several.
        """
        found = self._find(name, domain, path)
        if len(found) > 1:
            raise ValueError(f"several cookies are called {name!r}: say of which domain and path")
        return found[0].value if found else default

    def delete(self, name: str, domain: str | None = None, path: str | None = None) -> None:
        """Remove all cookies called *name*, or those of them with this *domain* and *path*."""
        self._remove(self._find(name, domain, path))

    def clear(self, domain: str | None = None, path: str | None = None) -> None:
        """Remove all cookies, or those with this *domain* and *path*."""
        self._remove(self._find(None, domain, path))

    def update(self, cookies: CookiesLike) -> None:  # type: ignore[override]  # as httpx has it
        """Set *cookies*, which are what the class takes. Raises what that raises, then sets none.

        Those of a mapping, and pairs, have no domain. Of a `CookieJar`, those are left out that
        could not be sent.
        """
        self._put(_cookies_of(cookies))

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __setitem__(self, name: str, value: str) -> None:
        self.set(name, value)

    def __delitem__(self, name: str) -> None:
        if not self._remove(self._find(name)):
            raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return any(cookie.name == name for cookie in self._find())

    def __iter__(self) -> Iterator[str]:
        return iter([cookie.name for cookie in self._find()])

    def __len__(self) -> int:
        return len(self._find())

    def __repr__(self) -> str:
        cookies = self._find()
        more = len(cookies) - _MAX_SHOWN
        return f"<Cookies {cookies[:_MAX_SHOWN]}{f' and {more} more' if more > 0 else ''}>"

    @property
    def jar(self) -> CookieJar:
        """A new `http.cookiejar.CookieJar` with these cookies. To change it changes nothing here.

        Its own policies treat single labels, ``localhost`` among them, in another way.
        """
        from http import cookiejar

        jar = cookiejar.CookieJar()
        for c in self._find():
            jar.set_cookie(
                cookiejar.Cookie(
                    version=0,
                    name=c.name,
                    value=c.value,
                    port=None,
                    port_specified=False,
                    domain=c.scope,
                    domain_specified=not c.host_only,
                    domain_initial_dot=not c.host_only,
                    path=c.path,
                    path_specified=True,
                    secure=c.secure,
                    expires=None if c.expires is None else int(c.expires),
                    discard=c.expires is None,
                    comment=None,
                    comment_url=None,
                    rest={"HttpOnly": ""} if c.http_only else {},
                )
            )
        return jar

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all cookies to the file *path*, those of the session and without a domain, too.

        The format is that of `http.cookiejar.MozillaCookieJar` and of curl. Only its owner may read
        the file. It takes the place of an older one, or of a symbolic link, at once and as a whole.
        Raises OSError.
        """
        from tempfile import mkstemp

        # mkstemp opens with O_EXCL, which follows no link, and with the mode 0600.
        descriptor, temporary = mkstemp(prefix=".cookies-", dir=os.path.dirname(path) or ".")
        try:
            with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
                file.write(_FILE_HEAD)
                file.writelines(map(file_line, self._find()))
                file.flush()
                os.fsync(descriptor)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise

    def load(self, path: str | os.PathLike[str]) -> None:
        """Add the cookies of the file *path*, which is in the format that `save` writes.

        Those are left out that have expired, or that could not be sent. Raises OSError, and
        ValueError if a line is in no such format; then none is added.
        """
        found = []
        with open(path, encoding="utf-8", errors="replace") as file:  # what is replaced is left out
            for number, line in enumerate(file, 1):
                try:
                    found += cookies_of_line(line)
                except (ValueError, OverflowError):
                    raise ValueError(
                        f"line {number} of {os.fspath(path)!r} is not in the format of cookies.txt"
                    ) from None
        self._put(found)

    # --- for the client ---------------------------------------------------------------------------

    def header_for(
        self, url: str, *, cross_origin: bool, extra: Cookies | None = None
    ) -> str | None:
        """Return the value of the Cookie field of a request for *url*; None if it has none.

        *cross_origin* says that a redirect has led from the origin that the caller asked for to
        that of *url*, which is another: then cookies without a domain are left out. *extra* are the
        cookies of this call, if they may go there; they come first, and replace others of their
        names. So do cookies
        with a domain replace those without: the server's own may be newer than the caller's.

        Those with the longest path come first, then those that were set first (RFC 6265 §5.4). What
        would make the field longer than 32 KiB is left out. Raises ValueError if *url* is no
        absolute http or https URL. Any thread may call it.
        """
        if not self._count and extra is None:
            return None
        origin, path = _place_of(url)
        found = self._matching(origin, path, cross_origin)
        if extra is not None:
            found = _first_of_name(extra._matching(origin, path, False), found)
        if not found:
            return None
        pairs, size = [], 0
        for cookie in found:
            pair = f"{cookie.name}={cookie.value}"
            size += len(pair) + 2
            if size > _MAX_FIELD:
                break
            pairs.append(pair)
        return "; ".join(pairs)

    def forget(self, headers: Headers) -> None:
        """Forget the cookies whose names are those of cookies that a response sets."""
        set_now = {
            value.partition("=")[0].strip(" \t") for value in headers.get_all("set-cookie", [])
        }
        self._remove([cookie for cookie in self._find() if cookie.name in set_now])

    def store(self, url: str, headers: Headers) -> None:
        """Keep the cookies that a response to *url* sets, by its last 180 Set-Cookie fields.

        Those that RFC 6265 refuses are left out, and so are those without a name. A single label is
        a public suffix; so is what the package ``publicsuffixlist`` knows, if it is installed.
        Raises ValueError if *url* is no absolute http or https URL. Any thread may call it.
        """
        values = headers.get_all("set-cookie")
        if not values:
            return
        origin, path = _place_of(url)
        now = time()
        # More of them would not be kept, but take time.
        last = values[-_MAX_OF_DOMAIN:]
        cookies = [parse_set_cookie(value, origin, path, now) for value in last]
        with self._lock:
            for cookie in cookies:
                if cookie is not None and (
                    origin.scheme == "https" or not self._hides_secure_locked(cookie, now)
                ):
                    self._put_locked(cookie, now)

    # --- what is kept -----------------------------------------------------------------------------

    def _matching(self, origin: Origin, path: str, cross_origin: bool) -> list[Cookie]:
        """Return the cookies for *path* at *origin*, in the order of RFC 6265 §5.4."""
        if not self._count:
            return []
        host, domains = origin.host, self._domains
        found: list[Cookie] = []
        own: list[Cookie] = []
        with self._lock:
            for domain in domains_of(host):
                if domain in domains:
                    domains.move_to_end(domain)
                    cookies = list(domains[domain].values())
                    found += [c for c in cookies if domain == host or not c.host_only]
            if not cross_origin and "" in domains:
                own = list(domains[""].values())
        if not found and not own:
            return []
        is_secure, now = origin.scheme == "https", time()

        def fitting(cookies: list[Cookie]) -> list[Cookie]:
            return sorted(
                (
                    cookie
                    for cookie in cookies
                    if (is_secure or not cookie.secure)
                    and path_matches(path, cookie.path)
                    and cookie.is_live(now)
                ),
                key=lambda cookie: (-len(cookie.path), cookie.created),
            )

        return _first_of_name(fitting(found), fitting(own))

    def _find(
        self, name: str | None = None, domain: str | None = None, path: str | None = None
    ) -> list[Cookie]:
        """Return what has not expired and is so called, in the order of creation. None: any."""
        now = time()
        if domain is not None:
            domain = domain.removeprefix(".").lower()
        with self._lock:
            cookies = [c for kept in list(self._domains.values()) for c in list(kept.values())]
        return sorted(
            (
                cookie
                for cookie in cookies
                if (name is None or cookie.name == name)
                and (domain is None or cookie.domain == domain)
                and (path is None or cookie.path == path)
                and cookie.is_live(now)
            ),
            key=lambda cookie: cookie.created,
        )

    def _put(self, cookies: list[Cookie]) -> None:
        now = time()
        with self._lock:
            for cookie in cookies:
                self._put_locked(cookie, now)

    def _put_locked(self, cookie: Cookie, now: float) -> None:
        """Keep *cookie* instead of an older one like it; if it has expired, keep neither."""
        kept = self._domains.get(cookie.domain, {})
        old = kept.get(cookie.key)
        if not cookie.is_live(now):
            if old is not None:
                self._drop_locked(old)
            return
        self._count += old is None  # before it is there: see __init__
        kept[cookie.key] = cookie._replace(
            created=next(self._created) if old is None else old.created
        )
        self._domains[cookie.domain] = kept
        self._domains.move_to_end(cookie.domain)
        if len(kept) > _MAX_OF_DOMAIN:
            expired = [c for c in list(kept.values()) if not c.is_live(now)]
            for other in expired or [_first(kept)]:
                self._drop_locked(other)
        if self._count > _MAX_COOKIES:
            # The caller's own, without a domain, stay as long as there are others.
            domain = next(filter(None, self._domains), "")
            self._drop_locked(_first(self._domains[domain]))

    def _drop_locked(self, cookie: Cookie) -> None:
        kept = self._domains[cookie.domain]
        if len(kept) > 1:
            del kept[cookie.key]
        else:
            del self._domains[cookie.domain]
        self._count -= 1  # after it has gone: see __init__

    def _remove(self, cookies: list[Cookie]) -> int:
        """Remove *cookies*, unless they have changed; return how many that were."""
        with self._lock:
            there = [c for c in cookies if self._domains.get(c.domain, {}).get(c.key) is c]
            for cookie in there:
                self._drop_locked(cookie)
        return len(there)

    def _hides_secure_locked(self, cookie: Cookie, now: float) -> bool:
        """Whether *cookie*, which came without TLS, would stand for a secure one (6265bis §5.7)."""
        domains = domains_of(cookie.domain)
        if not cookie.host_only:
            below = f".{cookie.domain}"
            domains += [domain for domain in list(self._domains) if domain.endswith(below)]
        return any(
            other.secure
            and other.name == cookie.name
            and path_matches(cookie.path, other.path)
            and other.is_live(now)
            for domain in domains
            for other in list(self._domains.get(domain, {}).values())
        )

    def __getstate__(self) -> tuple[list[Cookie]]:
        return (self._find(),)  # in a tuple, for the oldest protocols of pickle skip what is empty

    def __setstate__(self, state: tuple[list[Cookie]]) -> None:
        Cookies.__init__(self)
        self._put(*state)


# --- what callers give ----------------------------------------------------------------------------


def _cookies_of(cookies: CookiesLike) -> list[Cookie]:
    if isinstance(cookies, Cookies):
        return cookies._find()
    # A jar exists only if the module has been loaded, so there is no need to load it to ask.
    cookiejar = sys.modules.get("http.cookiejar")
    if cookiejar is not None and isinstance(cookies, cookiejar.CookieJar):
        return _cookies_of_jar(cookies)
    pairs: Any = cookies.items() if isinstance(cookies, Mapping) else cookies
    if isinstance(pairs, (str, bytes)) or not isinstance(pairs, Iterable):
        raise TypeError(f"cookies must be {_KINDS}, not {type(pairs).__name__}")
    found = []
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"cookies must be {_KINDS}, not of {type(pair).__name__}")
        found.append(_given(pair[0], pair[1], "", "/"))
    return found


def _cookies_of_jar(jar: CookieJar) -> list[Cookie]:
    found = []
    for c in jar:
        if c.value is not None:  # which stands for a cookie without a name
            http_only = c.has_nonstandard_attr("HttpOnly")
            host_only = not c.domain_specified
            found += loaded(
                c.name, c.value, c.domain, c.path, host_only, c.secure, http_only, c.expires
            )
    return found


def _given(name: object, value: object, domain: object, path: object) -> Cookie:
    """Return the cookie that a caller sets. Raises what `Cookies.set` raises."""
    for kind, text in (("name", name), ("value", value), ("domain", domain), ("path", path)):
        if not isinstance(text, str):
            raise TypeError(f"the {kind} of a cookie must be a str, not {type(text).__name__}")
    # What is checked is what is sent: an Enum that is a str is formatted as something else.
    name, value, domain, path = map(str.__str__, (name, value, domain, path))
    wrong = flaw(name, value, path)
    if wrong is not None:
        raise ValueError(wrong)
    host = parse_domain(domain)
    return Cookie(name, value, host, path, host_only=not host or stands_alone(host))


def _place_of(url: str) -> tuple[Origin, str]:
    """Return the origin and the path of *url*. Raises what `split_url` and `parse_origin` raise."""
    plain = PLAIN_URL.fullmatch(url)
    prefix, target = split_url(url) if plain is None else (plain[1], url[plain.end(1) :])
    return known_origins[prefix], target.partition("?")[0]


def _first_of_name(first: list[Cookie], then: list[Cookie]) -> list[Cookie]:
    """Return the cookies *first*, and of those of *then* what has none of their names."""
    names = {cookie.name for cookie in first}
    return first + [cookie for cookie in then if cookie.name not in names]


def _first(kept: dict[Key, Cookie]) -> Cookie:
    return next(iter(kept.values()))
