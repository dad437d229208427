"""Authentication: `Auth`, and what the *auth* of a client may be (RFC 9110 §11).

Guarantees: no message and no repr quotes a user name, a password or a token. What an `Auth` of this
module gives can be sent. Touches nothing.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from dugong.connection.encode import HeadersLike
from dugong.pool.checks import refuse_coroutine_function
from dugong.pool.request import Request

if TYPE_CHECKING:
    from dugong.pool.response import Response, StreamedResponse

__all__ = ["Auth", "AuthLike", "BasicAuth", "BearerAuth", "auth_of", "encode_credential"]

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_B64TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class Auth:
    """What authenticates requests: the base class for schemes of one's own.

    A subclass overrides `headers`, `flow`, or both. Both may be called by several threads at once.

    `is_static` says whether `headers` gives the same for every request and at any time. A client
    asks only once then. A subclass that overrides `headers` of one that is static sets it to False.
    """

    is_static: bool = False

    def headers(self, request: Request) -> HeadersLike | None:
        """Return the header fields to add to *request*, or None for none.

        They replace fields of the same name. This is called before each sending, retries included,
        by a thread of the pool. So a signature is never older than its attempt; and this has to be
        quick, for other requests wait.
        """
        return None

    def flow(self, request: Request) -> Generator[Request, Response | StreamedResponse, None]:
        """Say what is sent for *request*: a generator that yields requests.

        It is sent the response to each, of which it may use the status and the headers. The
        response to the last one is the result. By default, *request* is all that is sent.
        """
        yield request

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


AuthLike = Auth | tuple[str, str] | Callable[[Request], HeadersLike | None]


class BasicAuth(Auth):
    """A user name and a password, sent as they are (RFC 7617), in UTF-8.

    Raises ValueError if the *user* has a colon, or either has a control character. It never
    changes; any thread may use it.
    """

    is_static = True

    def __init__(self, user: str, password: str) -> None:
        if ":" in (name := encode_credential("user", user)).decode():
            raise ValueError("the user must not have a colon (RFC 7617 §2)")
        credentials = name + b":" + encode_credential("password", password)
        encoded = binascii.b2a_base64(credentials, newline=False).decode("ascii")
        self._fields = (("Authorization", f"Basic {encoded}"),)

    def headers(self, request: Request) -> HeadersLike:
        """Return the Authorization field, which is always the same."""
        return self._fields


class BearerAuth(Auth):
    """A token, sent as it is (RFC 6750 §2.1).

    *token* is a str, or a callable that returns one, which is called before each sending, by a
    thread of the pool. Raises TypeError if it is neither, and ValueError if the str is no token;
    `headers` does the same for what the callable returns. Any thread may use it.
    """

    def __init__(self, token: str | Callable[[], str]) -> None:
        # Neither changes.
        self._token = token
        self.is_static: bool = not callable(token)
        if not callable(token):
            _check_token(token)

    def headers(self, request: Request) -> HeadersLike:
        """Return the Authorization field with the token. Raises what the callable raises."""
        token = self._token() if callable(self._token) else self._token
        _check_token(token)
        return (("Authorization", f"Bearer {token}"),)


class _CallableAuth(Auth):
    """A callable that returns header fields."""

    def __init__(self, make: Callable[[Request], HeadersLike | None]) -> None:
        self._make = make  # never changes

    def headers(self, request: Request) -> HeadersLike | None:
        return self._make(request)


def auth_of(value: AuthLike | None) -> Auth | None:
    """Return what stands for *value*, the *auth* of a client or a call; None for None.

    It may be an `Auth`, a (user, password) tuple, which is a `BasicAuth`, or a callable, which is
    given the `Request` before each sending and returns header fields. Raises TypeError for anything
    else, and what `BasicAuth` raises.
    """
    if value is None or isinstance(value, Auth):
        return value
    if isinstance(value, tuple) and len(value) == 2:
        return BasicAuth(*value)
    if callable(value) and not isinstance(value, type):
        refuse_coroutine_function("auth", value)
        return _CallableAuth(value)
    hint = "; for Basic, write (user, password)" if isinstance(value, str) else ""
    raise TypeError(
        "auth must be a (user, password) tuple, an Auth or a callable that returns headers, not "
        f"{type(value).__name__}{hint}"
    )


def encode_credential(what: str, text: object) -> bytes:
    """Return *text*, a part of the credentials, in UTF-8; *what* names it in messages."""
    if not isinstance(text, str):
        raise TypeError(f"the {what} must be a str, not {type(text).__name__}")
    if _CONTROL.search(text):
        raise ValueError(f"the {what} must not have control characters (RFC 7617 §2)")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the {what} has a lone surrogate, which UTF-8 cannot encode") from None


def _check_token(token: object) -> None:
    if not isinstance(token, str):
        raise TypeError(f"a token must be a str, not {type(token).__name__}")
    if not _B64TOKEN.fullmatch(token):
        raise ValueError(
            "a token consists of letters, digits and -._~+/, with = at its end (RFC 6750 §2.1)"
        )
