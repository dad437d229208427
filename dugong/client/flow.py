"""Flows: what a client does around an exchange. A flow is a generator: it yields a request, is sent
the response, and returns the final one.

`redirected` consists of `authenticated`, and that of `exchanged`. None of them waits; the drivers
(`dugong.client.drivers`) do, each in its way.

Guarantees: each response goes to the flow whose request it is for; what is a client's own
(its headers, its credentials, its cookies without a domain) goes to one origin, and to none after a
redirect has left that. Touches the cookies of the client, and calls the hooks of the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dugong.client.auth import Auth
from dugong.client.redirects import crosses, is_redirect, next_request, redirect_error
from dugong.connection.encode import HeaderPairs
from dugong.errors import TooManyRedirects
from dugong.pool.options import ElaborateHeaders, checked_headers, made_headers
from dugong.pool.request import Request, with_headers
from dugong.pool.response import Response, StreamedResponse

if TYPE_CHECKING:
    from dugong.client.cookies import Cookies
    from dugong.pool.options import HeadersMaker
    from dugong.pool.url import Origin

__all__ = ["Call", "Flow", "Hooks", "Settings", "has_credentials", "redirected"]

AnyResponse = Response | StreamedResponse
Flow = Generator[Request, AnyResponse, AnyResponse]
Hooks = Sequence[Callable[..., object]]


class Settings(NamedTuple):
    """What all calls of a client have in common; never changes."""

    cookies: Cookies
    headers: HeaderPairs  # of the client; for its own origin alone
    max_redirects: int
    request_hooks: Hooks
    response_hooks: Hooks
    find_auth: Callable[[str], Auth | None] | None  # for hosts without credentials: the netrc file


class Call:
    """One call of a client. For the one thread at a time that runs its flow."""

    __slots__ = (
        "auth",
        "auth_origin",
        "cookies",
        "crossed",
        "follows",
        "own_origin",
        "request",
        "settings",
    )

    def __init__(
        self,
        settings: Settings,
        request: Request,
        own_origin: Origin,
        follows: bool,
        auth: Auth | None = None,
        auth_origin: Origin | None = None,
        cookies: Cookies | None = None,
    ) -> None:
        # None of these changes.
        self.settings: Settings = settings
        self.request: Request = request  # the first one, as the caller has asked for it
        self.own_origin: Origin = own_origin  # has a right to the headers of the client
        self.follows: bool = follows  # it follows redirects
        self.auth: Auth | None = auth
        self.auth_origin: Origin | None = auth_origin  # what `auth` is for
        self.cookies: Cookies | None = cookies  # of this call alone
        self.crossed: bool = False  # a redirect has led to another origin; set once

    @property
    def calls_callers_code(self) -> bool:
        """Whether the flow calls what a caller has given."""
        settings, auth = self.settings, self.auth
        if auth is not None and not (auth.is_static and type(auth).flow is Auth.flow):
            return True
        return bool(settings.request_hooks or settings.response_hooks)


def redirected(call: Call) -> Flow:
    """Send the request of *call*, and follow redirects if it does.

    Raises `RedirectError`, and `TooManyRedirects` also if the same request comes once more.
    """
    request = call.request
    settings = call.settings
    seen = {_key(settings, request)} if call.follows else set()
    while True:
        response = yield from authenticated(call, request)
        if not call.follows or not is_redirect(response):
            return response
        following = next_request(request, response)
        if len(seen) > settings.max_redirects:
            text = f"more than {settings.max_redirects} redirects"
            raise redirect_error(TooManyRedirects, text, response)
        key = _key(settings, following)
        if key in seen:
            text = "the redirects lead back to where they have been"
            raise redirect_error(TooManyRedirects, text, response)
        seen.add(key)
        call.crossed = call.crossed or crosses(request, response, following)
        request = following


def _key(settings: Settings, request: Request) -> tuple[str, str, str | None]:
    """Return what tells two requests of one call apart: a server may count by cookies."""
    url = request.url.partition("#")[0]
    return request.method, url, settings.cookies.header_for(url, cross_origin=False)


def authenticated(call: Call, request: Request) -> Flow:
    """Send *request* with the credentials that are for its origin, if there are any.

    A flow of an `Auth` may send other requests, to another origin, too: those go without.
    """
    auth = None
    if not call.crossed:
        if request.origin == call.auth_origin:
            auth = call.auth
        if auth is None and call.settings.find_auth is not None and not has_credentials(request):
            auth = call.settings.find_auth(request.origin.host)
    if auth is None:
        return (yield from exchanged(call, request, None))
    flow = auth.flow(request)
    if not isinstance(flow, Generator):  # without a yield, it is no generator
        raise TypeError(f"the flow of {auth!r} must be a generator, not {type(flow).__name__}")
    try:
        sent: object = next(flow, None)
        while True:
            if not isinstance(sent, Request):
                raise TypeError(f"the flow of {auth!r} must yield a Request, not {sent!r}")
            own = auth if sent.origin == request.origin else None
            response = yield from exchanged(call, sent, own)
            try:
                sent = flow.send(response)
            except StopIteration:
                return response
    finally:
        flow.close()


def exchanged(call: Call, request: Request, auth: Auth | None) -> Flow:
    """Send *request* with what belongs to it, and keep the cookies of its response."""
    settings = call.settings
    sent = _complete(call, request, auth)
    for hook in settings.request_hooks:
        hook(sent)
    response = yield sent
    settings.cookies.store(request.url, response.headers)
    if call.cookies is not None:
        call.cookies.forget(response.headers)  # for those that the server has set now
    for hook in settings.response_hooks:
        hook(response)
    return response


def _complete(call: Call, request: Request, auth: Auth | None) -> Request:
    """Return *request* with the headers of the client, cookies and credentials."""
    settings, origin = call.settings, request.origin
    is_elsewhere = call.crossed or origin != call.request.origin
    cookie = settings.cookies.header_for(
        request.url,
        cross_origin=is_elsewhere or origin != call.own_origin,
        extra=None if is_elsewhere else call.cookies,
    )
    added: HeaderPairs = ()
    if not call.crossed and origin == call.own_origin:
        added = settings.headers
    if cookie:
        added += checked_headers((("Cookie", cookie),))
    if not added and auth is None:
        return request
    headers = ElaborateHeaders.of(request).with_defaults(added)
    if auth is not None and auth.is_static:
        headers = headers.with_fresh(made_headers(auth.headers, request))
    elif auth is not None:
        headers = headers._replace(make=_WithAuth(headers.make, auth))
    return with_headers(request, headers)


class _WithAuth:
    """Makes the header fields of the caller's *make*, if there is one, and those of *auth*.

    A request refers to it, and a response to the request. If these are pickled, *auth* is left out:
    it may have what is never sent, such as a password or a key to sign with. What is loaded is the
    caller's *make*.
    """

    __slots__ = ("_auth", "_make")

    def __init__(self, make: HeadersMaker | None, auth: Auth) -> None:
        # Neither changes.
        self._make = make
        self._auth = auth

    def __call__(self, request: Request) -> HeaderPairs:
        own = ElaborateHeaders(() if self._make is None else made_headers(self._make, request))
        return own.with_fresh(made_headers(self._auth.headers, request)).fixed

    def __reduce__(self) -> tuple[object, ...]:
        return _as_it_was, (self._make,)

    def __deepcopy__(self, memo: object) -> _WithAuth:
        return self  # it stays in this process


def _as_it_was(make: HeadersMaker | None) -> HeadersMaker | None:
    """Return *make*: what a pickled `_WithAuth` is loaded by."""
    return make


def has_credentials(request: Request) -> bool:
    """Return True if *request* has an Authorization of its own, or is to have none."""
    return "authorization" in ElaborateHeaders.of(request).decided
