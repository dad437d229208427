"""From the arguments of a call to its first request: what `Client` takes becomes a `Call`.

Guarantees: what a caller got wrong is raised here, before anything is sent. Nothing here changes
once it has been made, so any thread may use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from dugong.client.auth import Auth, auth_of
from dugong.client.cookies import Cookies
from dugong.client.credentials import split_userinfo
from dugong.client.flow import Call, Settings, has_credentials
from dugong.client.multipart import encode_body
from dugong.client.urls import join, quoted, with_params
from dugong.pool.body import BodyLike
from dugong.pool.checks import check_bool
from dugong.pool.hints import refuse_options
from dugong.pool.options import IDENTITY, POOL_DEFAULT, ElaborateHeaders, PoolDefault, is_maker
from dugong.pool.request import Request, make_request, with_headers

if TYPE_CHECKING:
    from dugong.connection.encode import HeadersLike
    from dugong.pool.options import HeadersMaker
    from dugong.pool.progress import Progress, ProgressCall
    from dugong.pool.retry.policy import RetryPolicy
    from dugong.pool.url import Origin

__all__ = [
    "CallMaker",
    "ClientOptions",
    "TransferOptions",
    "UploadOptions",
    "check_options",
    "elaborate",
    "origin_of",
]


class TransferOptions(TypedDict, total=False):
    """The options of a download that a request has, too: see `Client.request`."""

    params: Any
    headers: Mapping[str, str | None] | HeadersLike | HeadersMaker | None
    cookies: Any
    auth: Any
    follow_redirects: bool
    timeout: float | PoolDefault | None
    deadline: float | None
    retry: RetryPolicy | PoolDefault | None
    context: Any


class UploadOptions(TransferOptions, total=False):
    """The options of an upload that a request has, too: see `Client.request`."""

    expect100: bool
    idempotent: bool | None


class ClientOptions(UploadOptions, total=False):
    """The options of a call of a client besides its method and URL: see `Client.request`."""

    json: Any
    data: Any
    files: Any
    body: BodyLike | None
    trailers: HeadersLike | HeadersMaker | None
    progress: Progress | ProgressCall | None
    hedge: float | PoolDefault | None


#: What a call may say though a `Request` says all else.
_BESIDE_A_REQUEST = frozenset(("auth", "cookies", "follow_redirects"))
#: What other clients call an option of a call, and what to write here instead.
_HINTS = {
    "allow_redirects": "use follow_redirects=",
    "cert": "give it to the Client",
    "content": "use body=",
    "proxies": "give the Client proxy=",
    "stream": "use `with client.stream(method, url) as response:`",
    "verify": "give it to the Client",
}


class CallMaker:
    """Makes the calls of a client.

    Parameters: *settings* are those of all calls; *base_url*, *params*, *auth* and *follows* are as
    of `Client`; *everywhere* are headers for every host that the pool does not see to by itself;
    *decodes* says whether responses are decoded.
    """

    def __init__(
        self,
        settings: Settings,
        base_url: str,
        params: Any,
        auth: Auth | None,
        follows: bool,
        everywhere: ElaborateHeaders,
        decodes: bool,
    ) -> None:
        # None of these changes.
        self._settings = settings
        self._cookies = settings.cookies
        self._base_url = base_url
        self._base_origin: Origin | None = origin_of(base_url)
        self._auth = auth
        self._follows = follows
        self._everywhere = everywhere if any(everywhere) else None
        self._decodes = decodes
        self._query = ""  # what *params* are, encoded
        if params is not None:
            self._query = with_params("http://host/", params).partition("?")[2]
        #: Whether a request is sent as it is, unless it is told more or there are cookies.
        self.adds_nothing: bool = not any(
            (
                base_url,
                self._query,
                auth,
                self._everywhere,
                settings.headers,
                settings.request_hooks,
                settings.response_hooks,
                settings.find_auth,
            )
        )

    def plain_request(
        self, method: str | Request, url: str | None, options: ClientOptions | None = None
    ) -> Request | None:
        """Return what is sent for these, if that is nothing else; None for all that is not plain.

        A URL that is to be quoted or has credentials in it is not, nor is what cannot be sent. Nor
        is a `Request` with headers, which may have to be completed, or with a deadline, which holds
        for the requests that follow it, too.
        """
        if options or not self.adds_nothing:
            return None
        if url is not None:
            try:
                request = make_request(Request, method, url)
            except ValueError:
                return None
        elif isinstance(method, Request) and method.headers is None and method.deadline is None:
            request = method
        else:
            return None
        cookies = self._cookies
        # The first as `header_for` does, once more for speed.
        if cookies._count and cookies.header_for(request.url, cross_origin=False) is not None:
            return None
        return request

    def call(self, method: str | Request, url: str | None, options: ClientOptions) -> Call:
        """Return what is to be done for the arguments of a call, once they have been checked."""
        check_options(options, ClientOptions)
        auth: Auth | None = None
        if url is not None:
            request, auth = self._request(method, url, options)
        elif not isinstance(method, Request):
            raise TypeError("a method and a URL are needed, or a Request")
        elif taken := options.keys() - _BESIDE_A_REQUEST:
            raise TypeError(f"a call with a Request does not take {', '.join(sorted(taken))}")
        else:
            url = self._with_query(method.url)
            request = method if url == method.url else method.replace(url=url)
            if request._options.headers is not None or self._everywhere is not None:
                headers = self._with_defaults(ElaborateHeaders.of(request))
                request = with_headers(request, headers)
        follows = options.get("follow_redirects", self._follows)
        check_bool("follow_redirects", follows)
        settings, origin = self._settings, request.origin
        own_origin = auth_origin = self._base_origin or origin
        if "auth" in options:
            auth = auth_of(options["auth"])
            settings = settings._replace(find_auth=None)
        if auth is not None:
            auth_origin = origin  # what a call names is for the origin that it names
        elif self._auth is not None and "auth" not in options and not has_credentials(request):
            auth = self._auth
        given = options.get("cookies")
        cookies = None if given is None else Cookies(given)
        return Call(settings, request, own_origin, follows, auth, auth_origin, cookies)

    def _request(
        self, method: Any, url: str, options: ClientOptions
    ) -> tuple[Request, Auth | None]:
        """Return the request for the arguments of a call, and the credentials of its URL."""
        if not isinstance(url, str):
            raise TypeError(f"a URL must be a str, not {type(url).__name__}")
        url, auth = split_userinfo(quoted(url))
        url = self._with_query(join(self._base_url, url))
        if not options and self._everywhere is None:
            return make_request(Request, method, url), auth
        if (params := options.get("params")) is not None:
            url = with_params(url, params)
        body, fields = encode_body(
            options.get("json"), options.get("data"), options.get("files"), options.get("body")
        )
        request = Request(
            method,
            url,
            body=body,
            timeout=options.get("timeout", POOL_DEFAULT),
            deadline=options.get("deadline"),
            expect100=options.get("expect100", False),
            idempotent=options.get("idempotent"),
            retry=options.get("retry", POOL_DEFAULT),
            context=options.get("context"),
            trailers=options.get("trailers"),
            progress=options.get("progress"),
            hedge=options.get("hedge", POOL_DEFAULT),
        )
        headers = options.get("headers")
        if headers is None and not fields and self._everywhere is None:
            return request, auth
        return with_headers(request, self._with_defaults(elaborate(headers, fields))), auth

    def _with_query(self, url: str) -> str:
        """Return *url* with the parameters of the client, if they are for that."""
        own = self._base_origin
        if self._query and (own is None or Request("GET", url).origin == own):
            return with_params(url, self._query)
        return url

    def _with_defaults(self, headers: ElaborateHeaders) -> ElaborateHeaders:
        """Return *headers* and those that the pool does not send by itself."""
        if self._decodes and "range" in headers.decided:
            # A part of a coded body could not be decoded.
            headers = headers.with_defaults(IDENTITY)
        if self._everywhere is not None:
            fixed, _, without = self._everywhere
            headers = headers.with_defaults(fixed)._replace(without=headers.without | without)
        return headers


def origin_of(base_url: str) -> Origin | None:
    """Return the origin of *base_url*; None if that is empty. Raises what `Request` raises."""
    return Request("GET", join(base_url, "")).origin if base_url else None


def check_options(options: Mapping[str, object], known: type) -> None:
    """Raise TypeError for an option that is none of *known*, a TypedDict."""
    names = known.__annotations__
    if unknown := options.keys() - names.keys():
        refuse_options(sorted(unknown), tuple(names), _HINTS)


def elaborate(headers: Any, fields: Sequence[tuple[str, str]]) -> ElaborateHeaders:
    """Return the *headers* of a call, with *fields* that it needs unless they say those."""
    if isinstance(headers, ElaborateHeaders):
        return headers.with_defaults(tuple(fields))
    if is_maker(headers, "headers"):
        return ElaborateHeaders(tuple(fields), headers)
    return ElaborateHeaders.given(headers).with_defaults(tuple(fields))
