"""What a caller asks a pool for: `Request`.

Guarantees: a `Request` that exists has a method, an origin, a target and header fields that can be
sent, and limits that make sense; whatever is wrong with those is a ValueError or a TypeError when
it is made. It never changes, so what is sent is what was checked. No message and no repr of this
module quotes a header value, a query, a user name or a password. Touches nothing.
"""

from __future__ import annotations

from typing import Any, Never, NoReturn, Unpack

from dugong.connection.encode import HeaderPairs, HeadersLike
from dugong.connection.head import check_method, check_target
from dugong.pool.body import BodyLike
from dugong.pool.options import (
    PLAIN_OPTIONS,
    POOL_DEFAULT,
    CheckedOptions,
    ElaborateHeaders,
    HeadersMaker,
    OptionsAndBody,
    PoolDefault,
    checked_options,
    said_idempotent,
)
from dugong.pool.progress import Progress, ProgressCall
from dugong.pool.retry.policy import IDEMPOTENT, RetryPolicy
from dugong.pool.url import PLAIN_URL, Origin, known_origins, public_url, redacted_url, split_url

__all__ = ["Changes", "Request", "make_request", "with_headers"]


class Changes(OptionsAndBody, total=False):
    """What `Request.replace` takes."""

    method: str
    url: str


class _Fields:
    """What a `Request` consists of, while it is made. It becomes one, and is not changed again.

    To set each field of a class that refuses to be changed takes four times as long.
    """

    # There may be very many of them, waiting. So what most have in common is in one slot.
    __slots__ = ("_options", "_target", "method", "origin", "url")

    _options: CheckedOptions
    _target: int | str  # where it begins in the URL, or what it is
    method: str
    origin: Origin
    url: str


class Request(_Fields):
    """One request. It never changes; any thread may submit it.

    It may be submitted more than once, with a body that can be read more than once.

    Parameters (times are in seconds):

    * *method*: a token such as ``GET`` (RFC 9110 §9).
    * *url*: an absolute http or https URL, in which all but ASCII is percent-encoded. The zone of
      an IPv6 address stands behind ``%25``, as in ``http://[fe80::1%25eth0]/``.
    * *headers*: a mapping, `Headers`, an iterable of (name, value) pairs, or a callable. A thread
      of the pool calls that with the request before each sending, and it returns one of these, or
      None; requests that are sent together wait for all their callables. The Content-Length of a
      body that would be sent in chunks otherwise may be among them.
    * *body*: bytes-like, a binary file, an iterable of bytes, a `FilePart`, or a callable that
      returns one of these, which is called before each sending; default: none.
    * *timeout*: how long the request may go without any progress (None: no limit; default: that of
      the pool). *deadline*: how long the whole call may take, queue and retries included (default:
      no limit).
    * *expect100*: the body is sent only when the server asks for it (RFC 9110 §10.1.1).
    * *idempotent*: whether the request may be sent twice; None, the default: if it has a header
      Idempotency-Key, or if its method is idempotent.
    * *retry*: the `RetryPolicy` (None: one attempt only; default: that of the pool).
    * *context*: any object of the caller's, which the pool only keeps. ``response.request.context``
      and ``future.request.context`` are that object.
    * *trailers*: fields that are sent behind a *body* of unknown length (RFC 9110 §6.5): as
      *headers*, but a callable is called when all of the body has been sent, in each attempt. A
      Trailer header announces their names; if a callable makes them, give that header, too.
    * *progress*: a callable that is called with how many bytes of the *body* have been sent, and of
      how many; or of the response, if there is no *body*. Or a `Progress`, for both. A request with
      *progress* is not pipelined.
    * *hedge*: after how long without a response the request is sent once more, as of the pool
      (None: never; default: that of the pool).

    Raises TypeError and ValueError if the request could not be sent as it is. *headers* and
    *trailers* are read, checked and copied when the request is made: a change of them afterwards
    changes nothing. The *body* is not copied; it is looked at when the request is submitted. If
    that can be read only once, as a generator or a pipe can, and an earlier request has used it,
    submitting the request raises ValueError; so do *trailers* if the length of the body is known.

    Attributes: the parameters as they were given (*headers* and *trailers* as tuples of (name,
    value) pairs, or the callables; *progress* as a `Progress`); `origin`; `target`;
    `is_idempotent`; `public_url`. Setting or deleting one is an AttributeError: `replace` makes
    another request. Requests are equal only to themselves. They can be copied and pickled if their
    bodies and contexts can, and their callables.
    """

    __slots__ = ()

    def __new__(
        cls,
        method: str,
        url: str,
        headers: HeadersLike | HeadersMaker | None = None,
        body: BodyLike | None = None,
        *,
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
    ) -> Request:
        options = checked_options(
            headers=headers,
            body=body,
            timeout=timeout,
            deadline=deadline,
            expect100=expect100,
            idempotent=idempotent,
            retry=retry,
            context=context,
            trailers=trailers,
            progress=progress,
            hedge=hedge,
            **unknown,
        )
        # Not in __init__, which could be called again.
        return make_request(cls, method, url, options)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Request never changes: replace({name}=...) makes another")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Request never changes: replace() makes another")

    @property
    def headers(self) -> HeaderPairs | HeadersMaker | None:
        """The header fields as (name, value) pairs; None if none were given.

        If all of them are made before each sending, the callable that makes them.
        """
        headers = self._options.headers
        if isinstance(headers, ElaborateHeaders):
            return headers.fixed or headers.make
        return headers

    @property
    def body(self) -> BodyLike | None:
        """The body, as it was given."""
        return self._options.body

    @property
    def timeout(self) -> float | PoolDefault | None:
        """How many seconds may pass without any progress."""
        return self._options.timeout

    @property
    def deadline(self) -> float | None:
        """How many seconds the whole call may take."""
        return self._options.deadline

    @property
    def expect100(self) -> bool:
        """Whether the body is sent only when the server wants it."""
        return self._options.expect100

    @property
    def idempotent(self) -> bool | None:
        """What the caller has said of sending it twice."""
        return self._options.idempotent

    @property
    def retry(self) -> RetryPolicy | PoolDefault | None:
        """The policy of its own, if it has one."""
        return self._options.retry

    @property
    def context(self) -> Any:
        """The object that the caller has given."""
        return self._options.context

    @property
    def trailers(self) -> HeaderPairs | HeadersMaker | None:
        """The fields behind the body, as (name, value) pairs, or the callable that makes them."""
        return self._options.trailers

    @property
    def progress(self) -> Progress | None:
        """What is told of the progress of sending and receiving."""
        return self._options.progress

    @property
    def hedge(self) -> float | PoolDefault | None:
        """After how many seconds without a response it is sent once more."""
        return self._options.hedge

    @property
    def target(self) -> str:
        """The request target: the path and the query of the URL, as they stand there."""
        target = self._target
        return self.url[target:] if isinstance(target, int) else target

    @property
    def public_url(self) -> str:
        """The URL fit for messages and logs: ``?...`` for a query, and without a fragment."""
        return public_url(self.url)

    @property
    def is_idempotent(self) -> bool:
        """Whether sending the request twice does what sending it once does (RFC 9110 §9.2.2).

        `says_idempotent` if that is not None; otherwise, whether the method is idempotent.
        """
        said = self._options.says_idempotent
        return self.method in IDEMPOTENT if said is None else said

    @property
    def says_idempotent(self) -> bool | None:
        """What `idempotent` says; else True if an Idempotency-Key header asks the server for it.

        None if neither says anything, so that the method decides.
        """
        return self._options.says_idempotent

    def replace(self, **changes: Unpack[Changes]) -> Request:
        """Return a request like this one but for *changes*, which are parameters of `Request`.

        Raises what `Request` raises.
        """
        parameters: dict[str, Any] = dict(zip(_PARAMETERS, self._parameters(), strict=True))
        parameters.update(changes)
        made = type(self)(**parameters)
        source = self._options.source
        if "body" not in changes and made._options.source is not source:
            # What stands for the body knows whether that was used.
            object.__setattr__(made, "_options", made._options._replace(source=source))
        return made

    def _parameters(self) -> tuple[Any, ...]:
        return (self.method, self.url, *self._options[:-2])

    def __reduce__(self) -> tuple[Any, ...]:
        return _request_of, (type(self), *self._parameters())

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.public_url}>"


def make_request(
    cls: type[Request], method: object, url: object, options: CheckedOptions = PLAIN_OPTIONS
) -> Request:
    """Return a new *cls*, whose method and URL are checked here."""
    method = _known_method(method) or _checked_method(method)
    if type(url) is not str:
        url = _as_str(url)
    plain = _plain_url(url)
    target: int | str
    try:
        if plain is not None:
            prefix = plain[1]
            target = len(prefix)  # a second copy of most of the URL would cost memory
        else:
            prefix, target = split_url(url)
            _check_target(method, target)
        origin = known_origins[prefix]
    except ValueError as exc:
        raise ValueError(f"invalid URL '{redacted_url(url)}': {exc}") from None
    made: Any = _Fields()
    made.method = method
    made.url = url
    made.origin = origin
    made._target = target
    made._options = options
    made.__class__ = cls  # from now on, it refuses to be changed
    request: Request = made
    return request


def with_headers(request: Request, headers: ElaborateHeaders) -> Request:
    """Return a request like *request* but for *headers*, whose fields have been checked."""
    options = request._options
    made: Any = _Fields()
    made.method = request.method
    made.url = request.url
    made.origin = request.origin
    made._target = request._target
    made._options = options._replace(
        headers=headers, says_idempotent=said_idempotent(options.idempotent, headers.fixed)
    )
    made.__class__ = type(request)
    changed: Request = made
    return changed


# What is equal to one of these is replaced by it, so what is formatted is what was checked.
_METHODS: dict[object, str] = {method: method for method in (*IDEMPOTENT, "POST", "PATCH")}
_known_method = _METHODS.get
_plain_url = PLAIN_URL.fullmatch
_PARAMETERS = ("method", "url", *CheckedOptions._fields[:-2])


def _request_of(
    cls: type[Request], method: Any, url: Any, headers: Any, body: Any, *options: Any
) -> Request:
    """Make a request of its parameters, in their order: what a pickled one is made by."""
    keywords = dict(zip(_PARAMETERS[4:], options, strict=True))
    return cls(method, url, headers, body, **keywords)


def _checked_method(method: object) -> str:
    if isinstance(method, Request):
        raise TypeError("give either a Request or the parameters of one, not both")
    if not isinstance(method, str):
        raise TypeError(f"method must be a str, not {type(method).__name__}")
    method = str.__str__(method)
    if "://" in method:
        raise ValueError("invalid method: it is a URL; the method comes first, then the URL")
    check_method(method)
    return method


def _as_str(url: object) -> str:
    if not isinstance(url, str):
        raise TypeError(f"a URL must be a str, not {type(url).__name__}")
    return str.__str__(url)


def _check_target(method: str, target: str) -> None:
    try:
        check_target(method, target)
    except ValueError:
        raise ValueError(
            "spaces, control characters and non-ASCII characters must be percent-encoded, as "
            "urllib.parse.quote() does"
        ) from None
