"""What a caller asks a pool for: `Request`, and the origin and the target that its URL names.

Guarantees: a `Request` that exists has a method, an origin and a target that can be sent, and
limits that make sense; whatever is wrong with those is a ValueError or a TypeError of its
constructor, and no message quotes a password. Touches nothing; the only state is a bounded memory
of origins that were parsed before, which any thread may use.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator
from enum import Enum
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING, Final, NamedTuple, TypedDict

from dugong.connection.cache import BoundedCache
from dugong.connection.dial import ascii_host, netloc
from dugong.connection.encode import HeadersLike, header_pairs
from dugong.connection.head import check_method, check_target
from dugong.headers import Headers
from dugong.pool.body import BodyLike

if TYPE_CHECKING:
    from dugong.pool.retry import RetryPolicy

__all__ = [
    "IDEMPOTENT",
    "POOL_DEFAULT",
    "BodyLike",
    "Options",
    "OptionsAndBody",
    "Origin",
    "PoolDefault",
    "Request",
    "check_retry",
    "check_seconds",
    "header_pairs",
    "parse_origin",
    "split_url",
]


class PoolDefault(Enum):
    """The type of `POOL_DEFAULT`."""

    POOL_DEFAULT = "what the pool was made with"

    def __repr__(self) -> str:
        return self.name


#: As *timeout* or *retry*: that of the pool.
POOL_DEFAULT: Final = PoolDefault.POOL_DEFAULT

_DEFAULT_PORTS = {"http": 80, "https": 443}
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]@]*\]|[^\[\]:@]*)(?::(?P<port>[^:]*))?")
_PORT = re.compile(r"[0-9]{1,5}")
_NAME = re.compile(r"([a-z0-9_-]+\.)*[a-z0-9_-]+\.?")  # of the DNS, or an IPv4 address
_MAX_NAME = 254  # with a dot at the end

#: What names the origin, then a target that is good for any method, and nothing else.
_PLAIN_URL = re.compile(r"(https?://[^/?#]*)/[!-\"$-~]*")

#: Methods that promise it (RFC 9110 §9.2.2).
IDEMPOTENT = frozenset(("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"))
_COMMON = IDEMPOTENT | {"POST", "PATCH"}


class Origin(NamedTuple):
    """What connections are shared by (RFC 9110 §4.3.1). `host` is lower-case and ASCII."""

    scheme: str
    host: str
    port: int

    @property
    def netloc(self) -> str:
        """The host, and the port unless it is the default, as in a URL."""
        port = None if self.port == _DEFAULT_PORTS.get(self.scheme) else self.port
        return netloc(self.host, port)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"


def split_url(url: str) -> tuple[str, str]:
    """Split *url* into what names its origin and its target, which is without a fragment.

    ``http://host:81/path?query#part`` gives ``http://host:81`` and ``/path?query``. Neither is
    checked. Raises ValueError if it does not begin as an http or https URL, TypeError if it is no
    str.
    """
    if not isinstance(url, str):
        raise TypeError(f"a URL must be a str, not {type(url).__name__}")
    if url.startswith("http://"):
        start = 7
    elif url.startswith("https://"):
        start = 8
    else:
        start = url.find("://") + 3
        if url[: max(0, start - 3)].lower() not in _DEFAULT_PORTS:
            raise ValueError("a URL must begin with http:// or https://")
    url = url.partition("#")[0]
    end = min(i for i in (url.find("/", start), url.find("?", start), len(url)) if i >= 0)
    target = url[end:]
    return url[:end], target if target[:1] == "/" else "/" + target


def parse_origin(prefix: str) -> Origin:
    """Return the origin that *prefix* names, the first part of what `split_url` gave.

    Raises ValueError if it is not an http or https scheme, a host name or address, and maybe a
    port, or if it holds a user name.
    """
    scheme, separator, authority = prefix.partition("://")
    scheme = scheme.lower()
    if scheme not in _DEFAULT_PORTS or not separator:
        raise ValueError("a URL must begin with http:// or https://")
    if "@" in authority:
        raise ValueError("a URL must not hold a user name or password: use a header")
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise ValueError("a URL must have the form http://host[:port]/path, with IPv6 in brackets")
    # What looks like a port may be the beginning of a password, so it is not quoted.
    if match["port"] and not (_PORT.fullmatch(match["port"]) and 0 < int(match["port"]) < 65536):
        raise ValueError("the port of a URL must be a number between 1 and 65535")
    port = int(match["port"]) if match["port"] else _DEFAULT_PORTS[scheme]
    return Origin(scheme, _parse_host(match["host"]), port)


def _parse_host(host: str) -> str:
    if not host:
        raise ValueError("the URL names no host")
    if host[0] == "[":
        # One text for each address; no zone, which means nothing outside this machine.
        try:
            packed = socket.inet_pton(socket.AF_INET6, host[1:-1])
            return socket.inet_ntop(socket.AF_INET6, packed)
        except (OSError, ValueError):
            raise ValueError(f"invalid IPv6 address {host} in the URL") from None
    name = ascii_host(host).lower()
    if len(name) > _MAX_NAME or not _NAME.fullmatch(name):
        raise ValueError(f"invalid host name {host!r} in the URL")
    return name


_known_origins = BoundedCache(parse_origin, max_entries=4096)


class Options(TypedDict, total=False):
    """What a request may have besides its method, URL and body: see `Request`."""

    headers: HeadersLike | None
    timeout: float | PoolDefault | None
    deadline: float | None
    expect100: bool
    idempotent: bool | None
    retry: RetryPolicy | PoolDefault | None


class OptionsAndBody(Options, total=False):
    """The same, and a body."""

    body: BodyLike | None


class Request:
    """One request. Not to be changed once it is made; then it may be submitted by any thread.

    It may be submitted more than once, with a body that can be read more than once.

    Parameters: *url* is an absolute http or https URL, with what is not ASCII percent-encoded.
    *headers* is a mapping, `Headers` or an iterable of (name, value) pairs. *body* is bytes-like,
    a binary file, an iterable of bytes, or a callable that returns one of these, which is called
    before each sending. *timeout* is how many seconds may pass without any progress (None: no
    limit; default: that of the pool), *deadline* how many the whole call may take (default: no
    limit). With *expect100*, the body is sent only when the server wants it (RFC 9110 §10.1.1).
    *idempotent* says whether the request may be sent twice, if something else than its method
    decides that. *retry* is the `RetryPolicy` (None: one attempt only; default: that of the pool).

    Raises TypeError and ValueError if the request could not be sent as it is. The values of
    *headers* and *body* are looked at when it is submitted.

    Attributes: the parameters as they were given (a one-shot *headers* as a tuple); `origin`;
    `target`; `is_idempotent`. Requests are equal only to themselves.
    """

    __slots__ = (
        "_target",
        "body",
        "deadline",
        "expect100",
        "headers",
        "idempotent",
        "method",
        "origin",
        "retry",
        "timeout",
        "url",
    )

    def __init__(
        self,
        method: str,
        url: str,
        headers: HeadersLike | None = None,
        body: BodyLike | None = None,
        *,
        timeout: float | PoolDefault | None = POOL_DEFAULT,
        deadline: float | None = None,
        expect100: bool = False,
        idempotent: bool | None = None,
        retry: RetryPolicy | PoolDefault | None = POOL_DEFAULT,
    ) -> None:
        if method not in _COMMON:
            if not isinstance(method, str):
                raise TypeError(f"method must be a str, not {method!r}")
            check_method(method)
        plain = _PLAIN_URL.fullmatch(url) if isinstance(url, str) else None
        if plain is not None:
            prefix = plain[1]
            # Where the target begins costs no memory; a second copy of most of the URL would.
            self._target: int | str = len(prefix)
        else:
            prefix, self._target = split_url(url)
            check_target(method, self._target)
        self.method = method if type(method) is str else str.__str__(method)
        self.url = url
        self.origin = _known_origins[prefix]
        self.headers = headers if headers is None else _check_headers(headers)
        self.body = body
        if timeout is not POOL_DEFAULT and timeout is not None:
            check_seconds("timeout", timeout)
        self.timeout = timeout
        if deadline is not None:
            check_seconds("deadline", deadline)
        self.deadline = deadline
        if expect100 is not False:
            _check_bool("expect100", expect100)
            if body is None:
                raise ValueError("expect100 is only allowed with a body")
        self.expect100 = expect100
        if idempotent is not None:
            _check_bool("idempotent", idempotent)
        self.idempotent = idempotent
        if retry is not POOL_DEFAULT:
            check_retry(retry)
        self.retry = retry

    @property
    def target(self) -> str:
        """The request target: the path and the query of the URL, as they stand there."""
        target = self._target
        return self.url[target:] if isinstance(target, int) else target

    @property
    def is_idempotent(self) -> bool:
        """Whether sending the request twice does what sending it once does (RFC 9110 §9.2.2).

        What `says_idempotent` says; if that is nothing, whether the method promises it.
        """
        said = self.says_idempotent
        return self.method in IDEMPOTENT if said is None else said

    @property
    def says_idempotent(self) -> bool | None:
        """What `idempotent` says; else True if an Idempotency-Key header asks the server for it.

        None if neither says anything, so that the method decides.
        """
        if self.idempotent is not None or self.headers is None:
            return self.idempotent
        keyed = any(name.lower() == "idempotency-key" for name, _ in header_pairs(self.headers))
        return True if keyed else None

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.url}>"


def _check_headers(headers: HeadersLike) -> HeadersLike:
    if isinstance(headers, (dict, Headers, list, tuple)):
        return headers
    if isinstance(headers, Iterator):
        return tuple(headers)  # it is read more than once
    if isinstance(headers, (str, bytes)) or not isinstance(headers, Iterable):
        raise TypeError(f"headers must be a mapping or (name, value) pairs, not {headers!r}")
    return headers


def check_seconds(name: str, value: object) -> None:
    """Raise TypeError or ValueError unless *value* is a number of seconds that can be waited."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds or None, not {value!r}")
    if not 0 < value <= TIMEOUT_MAX:  # which no NaN passes
        raise ValueError(f"{name} must be a positive, finite number of seconds, not {value!r}")


def check_retry(value: object) -> None:
    """Raise TypeError unless *value* is None or a `RetryPolicy`."""
    from dugong.pool.retry import RetryPolicy

    if value is not None and not isinstance(value, RetryPolicy):
        raise TypeError(f"retry must be a RetryPolicy or None, not {value!r}")


def _check_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, not {value!r}")
