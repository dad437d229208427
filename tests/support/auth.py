"""What the tests of authentication have in common."""

from __future__ import annotations

import base64

from dugong import Request
from dugong.client.auth import Auth
from dugong.pool.options import checked_headers

__all__ = ["SECRET", "URL", "authorization", "basic"]

URL = "http://h/path?query"
SECRET = "sesame"


def authorization(auth: Auth, request: Request | None = None) -> str | None:
    """Return the value of Authorization that *auth* gives, as it would be sent."""
    fields = auth.headers(request or Request("GET", URL))
    if fields is None:
        return None
    ((name, value),) = checked_headers(fields)
    assert name == "Authorization"
    return value


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
