"""Pages of `tests.support.site` for a client: forms, a login, redirects, codings, an API.

Each is a function from a request, with its body, to the response. Touches nothing.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Callable
from email.parser import BytesParser
from urllib.parse import parse_qs, parse_qsl

from tests.support.client import Page, moved
from tests.support.server import ReceivedRequest

__all__ = ["PAGE_MAKERS"]

_USER, _PASSWORD, _TOKEN, _SESSION = "ada", "sesame", "t0ken", "k2X9"
_REALM, _NONCE = "harbour", "7c2f"
_STORY = "Once upon a time there was a fish.\n" * 1000
_IMAGE = bytes(range(250)) * 4000
_FISH = ("cod", "eel", "hake", "ling")
_PAGE_SIZE = 2


def _json(value: object, headers: str = "") -> Page:
    headers = f"Content-Type: application/json\r\n{headers}"
    return Page(json.dumps(value).encode(), headers=headers)


def _echo(request: ReceivedRequest) -> Page:
    return _json(
        {
            "method": request.method,
            "target": request.target,
            "headers": request.headers,
            "body": request.body.decode("utf-8", "replace"),
        }
    )


def _form(request: ReceivedRequest) -> Page:
    """Tell what the fields of a form and its files are."""
    content_type = request.headers.get("content-type", "")
    if not content_type.startswith("multipart/"):
        return _json(dict(parse_qsl(request.body.decode())))
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    fields = {}
    for part in BytesParser().parsebytes(head + request.body).get_payload():
        content = part.get_payload(decode=True)
        name = part.get_param("name", header="content-disposition")
        filename = part.get_filename()
        fields[name] = (
            content.decode()
            if filename is None
            else f"{filename}, {part.get_content_type()}, {len(content)} bytes"
        )
    return _json(fields)


def _story(request: ReceivedRequest) -> Page:
    headers = "Content-Type: text/plain\r\n"
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Page(_STORY.encode(), headers=headers)
    return Page(gzip.compress(_STORY.encode()), headers=f"{headers}Content-Encoding: gzip\r\n")


def _login(request: ReceivedRequest) -> Page:
    if dict(parse_qsl(request.body.decode())) != {"user": _USER, "password": _PASSWORD}:
        return Page(b"wrong password\n", "403 Forbidden")
    cookie = f"Set-Cookie: session={_SESSION}; Path=/; HttpOnly\r\n"
    return moved("/account", "303 See Other", cookie)


def _account(request: ReceivedRequest) -> Page:
    if f"session={_SESSION}" not in request.headers.get("cookie", "").split("; "):
        return Page(b"please log in\n", "403 Forbidden")
    return Page(b"Hello, Ada!\n")


def _private(request: ReceivedRequest) -> Page:
    credentials = base64.b64encode(f"{_USER}:{_PASSWORD}".encode()).decode()
    if request.headers.get("authorization") != f"Basic {credentials}":
        return _challenge(f'Basic realm="{_REALM}"')
    return Page(b"Hello, Ada!\n")


def _digest(request: ReceivedRequest) -> Page:
    """Require Digest authentication with SHA-256 (RFC 7616 §3.4.1)."""
    given = dict(re.findall(r'(\w+)="?([^",]*)', request.headers.get("authorization", "")))
    expected = _sha256(
        _sha256(_USER, _REALM, _PASSWORD),
        _NONCE,
        given.get("nc", ""),
        given.get("cnonce", ""),
        "auth",
        _sha256(request.method, request.target),
    )
    if given.get("response") != expected:
        return _challenge(
            f'Digest realm="{_REALM}", nonce="{_NONCE}", qop="auth", algorithm=SHA-256'
        )
    return Page(b"Hello, Ada!\n")


def _sha256(*parts: str) -> str:
    return hashlib.sha256(":".join(parts).encode()).hexdigest()


def _challenge(challenge: str) -> Page:
    return Page(b"who are you?\n", "401 Unauthorized", f"WWW-Authenticate: {challenge}\r\n")


def _fish(request: ReceivedRequest) -> Page:
    """List fish, a few on each page, each of which names the next one in a Link field."""
    if request.headers.get("authorization") != f"Bearer {_TOKEN}":
        return _challenge("Bearer")
    path, _, query = request.target.partition("?")
    number = int(parse_qs(query).get("page", ["1"])[0])
    end = number * _PAGE_SIZE
    link = f'Link: <{path}?page={number + 1}>; rel="next"\r\n' if end < len(_FISH) else ""
    return _json(_FISH[end - _PAGE_SIZE : end], link)


def _image(request: ReceivedRequest) -> Page:
    """A large file, with its digest, of which a range may be asked for."""
    digest = base64.b64encode(hashlib.sha256(_IMAGE).digest()).decode()
    headers = f'ETag: "v1"\r\nRepr-Digest: sha-256=:{digest}:\r\n'
    asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
    if asked is None or request.headers.get("if-range", '"v1"') != '"v1"':
        return Page(_IMAGE, headers=headers)
    first, last = int(asked[1]), min(int(asked[2]), len(_IMAGE) - 1)
    headers += f"Content-Range: bytes {first}-{last}/{len(_IMAGE)}\r\n"
    return Page(_IMAGE[first : last + 1], "206 Partial Content", headers)


def _at(page: Page) -> Callable[[ReceivedRequest], Page]:
    return lambda _request: page


#: What makes the page of a path, from a request for it with its body.
PAGE_MAKERS: dict[str, Callable[[ReceivedRequest], Page]] = {
    "/account": _account,
    "/api/fish": _fish,
    "/away": _at(moved("https://www.example.com/echo")),
    "/cut": _at(Page(gzip.compress(_STORY.encode())[:-8], headers="Content-Encoding: gzip\r\n")),
    "/digest": _digest,
    "/echo": _echo,
    "/form": _form,
    "/image.iso": _image,
    "/unreliable.iso": _image,
    "/login": _login,
    "/loop": _at(moved("/loop")),
    "/mail": _at(moved("mailto:ada@example.com")),
    "/moved": _at(moved("/hello", "301 Moved Permanently")),
    "/private": _private,
    "/robots.txt": _at(Page(b"User-agent: *\nDisallow: /birds/dodo\n")),
    "/story": _story,
}
