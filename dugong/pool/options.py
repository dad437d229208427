"""The options of a request: what callers may give, and what of it has been checked.

Guarantees: options that are checked can be sent, and make sense; whatever is wrong with one is a
ValueError or a TypeError. No message quotes a header value. Touches nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Never, TypedDict

from dugong.connection.encode import HeaderPairs, HeadersLike
from dugong.connection.head import field_line, is_token
from dugong.connection.trailers import check_trailer_name
from dugong.headers import Headers
from dugong.pool.body import BodyLike
from dugong.pool.checks import check_bool, check_seconds, refuse_coroutine_function
from dugong.pool.hints import refuse_options
from dugong.pool.oneshot import rememberable
from dugong.pool.progress import Progress, ProgressCall, progress_of
from dugong.pool.retry.policy import RetryPolicy

if TYPE_CHECKING:
    from typing_extensions import TypeIs  # of typing itself from Python 3.13 on

    from dugong.pool.request import Request

__all__ = [
    "IDENTITY",
    "PLAIN_OPTIONS",
    "POOL_DEFAULT",
    "CheckedOptions",
    "ElaborateHeaders",
    "HeadersMaker",
    "Options",
    "OptionsAndBody",
    "PoolDefault",
    "check_retry",
    "checked_headers",
    "checked_options",
    "checked_trailers",
    "default_headers",
    "is_maker",
    "made_headers",
    "said_idempotent",
]


class PoolDefault(Enum):
    """The type of `POOL_DEFAULT`."""

    POOL_DEFAULT = "what the pool was made with"

    def __repr__(self) -> str:
        return self.name


#: As *timeout* or *retry*: that of the pool.
POOL_DEFAULT: Final = PoolDefault.POOL_DEFAULT

_FRAMING = frozenset(
    ("connection", "content-length", "expect", "host", "transfer-encoding", "upgrade")
)

#: Makes header fields for each sending of a request, of which it is told.
HeadersMaker = Callable[["Request"], HeadersLike | None]


class Options(TypedDict, total=False):
    """The options of a request besides its method, URL and body: see `Request`."""

    headers: HeadersLike | HeadersMaker | None
    timeout: float | PoolDefault | None
    deadline: float | None
    expect100: bool
    idempotent: bool | None
    retry: RetryPolicy | PoolDefault | None
    context: object
    trailers: HeadersLike | HeadersMaker | None
    progress: Progress | ProgressCall | None
    hedge: float | PoolDefault | None


class OptionsAndBody(Options, total=False):
    """The same, and a body."""

    body: BodyLike | None


#: What asks for a body without a coding.
IDENTITY: HeaderPairs = (("Accept-Encoding", "identity"),)


class ElaborateHeaders(NamedTuple):
    """Header fields of which some are made before each sending, or that leave default ones out.

    What *make* returns replaces *fixed* ones of the same name. *without* are the names, in lower
    case, of default headers of the pool that are not sent.
    """

    fixed: HeaderPairs
    make: HeadersMaker | None = None
    without: frozenset[str] = frozenset()

    @classmethod
    def given(cls, headers: HeadersLike | Mapping[str, str | None] | None) -> ElaborateHeaders:
        """Return what *headers* say; in a mapping, a value of None leaves a default header out.

        Raises what `checked_headers` raises.
        """
        without = []
        if isinstance(headers, Mapping):
            without = [name for name, value in headers.items() if value is None]
            headers = {name: value for name, value in headers.items() if value is not None}
        checked_headers((name, "") for name in without)
        fixed = () if headers is None else checked_headers(headers)
        return cls(fixed, None, frozenset(name.lower() for name in without))

    @classmethod
    def of(cls, request: Request) -> ElaborateHeaders:
        """Return those of *request*."""
        headers = request._options.headers
        return headers if isinstance(headers, ElaborateHeaders) else cls(headers or ())

    @property
    def decided(self) -> frozenset[str]:
        """The names, in lower case, of which it is known that they are sent, or not sent."""
        return self.without.union([name.lower() for name, _ in self.fixed])

    def with_defaults(self, defaults: HeaderPairs) -> ElaborateHeaders:
        """Return these and those of *defaults* whose names are not `decided`."""
        if not defaults:
            return self
        decided = self.decided
        added = tuple([field for field in defaults if field[0].lower() not in decided])
        return ElaborateHeaders(self.fixed + added, self.make, self.without)

    def with_fresh(self, fresh: HeaderPairs) -> ElaborateHeaders:
        """Return these with *fresh* in place of the fixed ones of the same names."""
        names = {name.lower() for name, _ in fresh}
        kept = tuple(field for field in self.fixed if field[0].lower() not in names)
        return self._replace(fixed=kept + fresh)


class CheckedOptions(NamedTuple):
    """The options of one request, checked and copied. Most requests share `PLAIN_OPTIONS`."""

    headers: HeaderPairs | ElaborateHeaders | None
    body: BodyLike | None
    timeout: float | PoolDefault | None
    deadline: float | None
    expect100: bool
    idempotent: bool | None
    retry: RetryPolicy | PoolDefault | None
    context: Any
    trailers: HeaderPairs | HeadersMaker | None
    progress: Progress | None
    hedge: float | PoolDefault | None
    says_idempotent: bool | None
    source: Any  # the body, or what stands for it so that it can be remembered as used


#: The options of a request that has none.
PLAIN_OPTIONS: Final = CheckedOptions(
    None,
    None,
    POOL_DEFAULT,
    None,
    False,
    None,
    POOL_DEFAULT,
    None,
    None,
    None,
    POOL_DEFAULT,
    None,
    None,
)


def checked_options(
    *,
    headers: HeadersLike | HeadersMaker | None = None,
    body: BodyLike | None = None,
    timeout: float | PoolDefault | None = POOL_DEFAULT,
    deadline: float | None = None,
    expect100: bool = False,
    idempotent: bool | None = None,
    retry: RetryPolicy | PoolDefault | None = POOL_DEFAULT,
    context: object = None,
    trailers: HeadersLike | HeadersMaker | None = None,
    progress: Progress | ProgressCall | None = None,
    hedge: float | PoolDefault | None = POOL_DEFAULT,
    **unknown: Never,
) -> CheckedOptions:
    """Return the options of a request, checked: `PLAIN_OPTIONS` if all are the defaults."""
    if unknown:
        refuse_options(unknown, OptionsAndBody.__annotations__)
    given = (headers, body, deadline, idempotent, context, trailers, progress)
    of_the_pool = timeout is retry is hedge is POOL_DEFAULT
    if of_the_pool and expect100 is False and all(option is None for option in given):
        return PLAIN_OPTIONS
    if timeout is not POOL_DEFAULT and timeout is not None:
        check_seconds("timeout", timeout)
    if deadline is not None:
        check_seconds("deadline", deadline)
    if hedge is not POOL_DEFAULT and hedge is not None:
        check_seconds("hedge", hedge)
    if expect100 is not False:
        check_bool("expect100", expect100)
        if body is None:
            raise ValueError("expect100 is only allowed with a body")
    behind: HeaderPairs | HeadersMaker | None = None
    if trailers is not None:
        if body is None:
            raise ValueError("trailers are only allowed with a body")
        behind = trailers if is_maker(trailers, "trailers") else checked_trailers(trailers)
    if idempotent is not None:
        check_bool("idempotent", idempotent)
    if retry is not POOL_DEFAULT:
        check_retry(retry)
    checked: HeaderPairs | ElaborateHeaders | None = None
    pairs: HeaderPairs = ()
    if isinstance(headers, ElaborateHeaders):
        pairs = checked_headers(headers.fixed)
        checked = headers._replace(fixed=pairs)
    elif is_maker(headers, "headers"):
        checked = ElaborateHeaders((), headers)
    elif headers is not None:
        checked = pairs = checked_headers(headers)
    said = said_idempotent(idempotent, pairs)
    source = body if body is None or type(body) is bytes else rememberable(body)
    return CheckedOptions(
        checked,
        body,
        timeout,
        deadline,
        expect100,
        idempotent,
        retry,
        context,
        behind,
        progress_of(progress, body is not None),
        hedge,
        said,
        source,
    )


def is_maker(given: object, name: str) -> TypeIs[HeadersMaker]:
    """Return True if *given*, the fields called *name*, make those for each sending.

    Raises TypeError for a coroutine function.
    """
    if not callable(given) or isinstance(given, Iterable):  # fields of a class may be callable, too
        return False
    refuse_coroutine_function(name, given)
    return True


def said_idempotent(idempotent: bool | None, pairs: HeaderPairs) -> bool | None:
    if idempotent is None and "idempotency-key" in [name.lower() for name, _ in pairs]:
        return True
    return idempotent


def checked_headers(headers: HeadersLike) -> HeaderPairs:
    """Return *headers* as a tuple of (name, value) pairs that can be sent; an int as its digits.

    *headers* are read once. Raises TypeError if they are no headers, ValueError if one could not be
    sent, and what reading them raises. No message quotes a value.
    """
    items: Iterable[object]
    if type(headers) is dict or isinstance(headers, (Mapping, Headers)):
        items = headers.items()
    elif isinstance(headers, (str, bytes)) or not isinstance(headers, Iterable):
        raise TypeError(
            f"headers must be a mapping or (name, value) pairs, not {type(headers).__name__}"
        )
    else:
        items = headers
    pairs = []
    for item in items:
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise TypeError(
                f"headers must be a mapping or (name, value) pairs, not of {type(item).__name__}"
            )
        name, value = item
        if type(name) is not str or type(value) is not str:
            name, value = _header_strs(name, value)
        field_line(name, value)
        pairs.append((name, value))
    return tuple(pairs)


def default_headers(headers: HeadersLike | ElaborateHeaders | None) -> ElaborateHeaders:
    """Return *headers*, which can be sent with every request; raise ValueError if not."""
    made = headers
    if not isinstance(made, ElaborateHeaders):
        made = ElaborateHeaders(() if made is None else checked_headers(made))
    if bad := _FRAMING.intersection(made.decided):
        raise ValueError(f"{', '.join(sorted(bad))} cannot be the same for every request")
    return made


def checked_trailers(trailers: HeadersLike) -> HeaderPairs:
    """Return *trailers* as `checked_headers` does.

    Raises ValueError, too, if one of them must not stand behind a body.
    """
    pairs = checked_headers(trailers)
    for name, _ in pairs:
        check_trailer_name(name)
    return pairs


def made_headers(make: HeadersMaker, request: Request) -> HeaderPairs:
    """Return what *make*, which is code of the caller's, makes for *request* now, checked."""
    made = make(request)
    return () if made is None else checked_headers(made)


def _header_strs(name: object, value: object) -> tuple[str, str]:
    if not isinstance(name, str):
        raise TypeError(f"the name of a header must be a str, not {type(name).__name__}")
    # What is checked is what is sent: an Enum that is a str is formatted as something else.
    name = str.__str__(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return name, str(int(value))
    if not isinstance(value, str):
        shown = f" {name!r}" if is_token(name) else ""
        raise TypeError(f"the value of header{shown} must be a str, not {type(value).__name__}")
    return name, str.__str__(value)


def check_retry(value: object) -> None:
    """Raise TypeError unless *value* is None or a `RetryPolicy`."""
    if value is not None and not isinstance(value, RetryPolicy):
        raise TypeError(f"retry must be a RetryPolicy or None, not {value!r}")
