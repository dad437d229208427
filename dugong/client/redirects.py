"""Redirects: which request follows a response (RFC 9110 §15.4, and Fetch where that is silent).

Guarantees: no credentials cross an origin; a body is sent again whole, or not at all. Touches
nothing.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from dugong.client.credentials import has_userinfo
from dugong.client.urls import resolve
from dugong.errors import Delivery, RedirectError
from dugong.pool.body import can_be_sent_again
from dugong.pool.options import ElaborateHeaders, made_headers
from dugong.pool.request import Request, with_headers

if TYPE_CHECKING:
    from dugong.connection.encode import HeaderPairs
    from dugong.pool.options import HeadersMaker
    from dugong.pool.response import Response, StreamedResponse

__all__ = ["crosses", "is_redirect", "next_request", "redirect_error"]

_REDIRECTS = frozenset((301, 302, 303, 307, 308))
#: What is for one origin alone.
_OF_ORIGIN = frozenset(("authorization", "cookie", "host", "proxy-authorization"))
#: What says something of the body, beside all that begins with Content-.
_OF_BODY = frozenset(("digest", "repr-digest", "trailer", "transfer-encoding"))


def is_redirect(response: Response | StreamedResponse) -> bool:
    """Return True if *response* says where to go instead; a 3xx that names no place does not."""
    return response.status in _REDIRECTS and bool(response.headers.get("Location"))


def crosses(request: Request, response: Response | StreamedResponse, following: Request) -> bool:
    """Return True if *following* goes to another origin than *request*, or what was sent for it."""
    return not following.origin == request.origin == response.request.origin


def redirect_error(
    kind: type[RedirectError], text: str, response: Response | StreamedResponse
) -> RedirectError:
    """Return the exception for *response*, which is a redirect."""
    error = kind(text)
    error.response, error.request = response, response.request
    error.delivery, error.attempts = Delivery.ANSWER_STARTED, response.attempts
    return error


def next_request(request: Request, response: Response | StreamedResponse) -> Request:
    """Return the request that follows *request*, whose *response* is a redirect.

    301 and 302 make a GET of a POST, 303 of everything but a HEAD; the body goes with that, and so
    do the header fields about it. All others keep method and body. Across origins, Authorization,
    Cookie, Proxy-Authorization and Host are left out. A fragment is inherited.

    Raises `RedirectError` if the place is no URL, has another scheme than http and https, or has
    credentials in it, and if the body is to be sent again and cannot be.
    """
    method = request.method
    location = response.headers.get("Location") or ""
    try:
        url = resolve(response.request.url, location)
        if url[:7].lower() != "http://" and url[:8].lower() != "https://":
            raise ValueError(f"it leads to the scheme {url.partition(':')[0]!r}")
        if has_userinfo(url):
            raise ValueError("it has credentials in it")
        changes: dict[str, Any] = {"url": url}
        if (response.status == 303 and method != "HEAD") or (
            response.status in (301, 302) and method == "POST"
        ):
            changes["method"] = "GET"
            if request.body is not None or method != "GET":
                changes.update(body=None, expect100=False, idempotent=None, trailers=None)
        elif not can_be_sent_again(request.body):
            raise ValueError("the body would have to be sent again, and can be read only once")
        following = request.replace(**changes)
        is_elsewhere = crosses(request, response, following)
        return _with_fields_for(following, is_elsewhere, keeps_body="body" not in changes)
    except ValueError as exc:
        text = f"the redirect {response.status} cannot be followed: {exc}"
    raise redirect_error(RedirectError, text, response)


def _with_fields_for(request: Request, is_elsewhere: bool, keeps_body: bool) -> Request:
    """Return *request*, which follows another, with those of its header fields that may go there.

    *is_elsewhere* says that it goes to another origin.
    """
    if request._options.headers is None or (keeps_body and not is_elsewhere):
        return request
    headers = ElaborateHeaders.of(request)
    kept, make = headers.fixed, headers.make
    if not keeps_body:
        kept = _without_body(kept)
        if make is not None:
            make = partial(_made_without_body, make)
    if is_elsewhere:
        kept = tuple(field for field in kept if field[0].lower() not in _OF_ORIGIN)
        make = None  # what it makes may be credentials
    return with_headers(request, headers._replace(fixed=kept, make=make))


def _made_without_body(make: HeadersMaker, request: Request) -> HeaderPairs:
    return _without_body(made_headers(make, request))


def _without_body(fields: HeaderPairs) -> HeaderPairs:
    """Return those of *fields* that say nothing of a body."""
    return tuple(
        (name, value)
        for name, value in fields
        if not name.lower().startswith("content-") and name.lower() not in _OF_BODY
    )
