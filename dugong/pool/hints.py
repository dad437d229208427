"""What other HTTP clients call things, and what to write here instead.

Guarantees: touches nothing; only what has failed already comes here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NoReturn

__all__ = ["hint_at_attributes", "refuse_options", "stream_hint"]

_BODY = "give the bytes as body=, and say what they are in a Content-Type header"
_REDIRECTS = "a pool follows no redirects: the response has a Location header"
_HEADER = "send a header, as in headers={%s: ...}"

_OPTIONS = {
    "allow_redirects": _REDIRECTS,
    "auth": _HEADER % '"Authorization"',
    "base_url": "give each request its whole URL",
    "cert": "give the pool an ssl_context= that has loaded it with load_cert_chain()",
    "content": _BODY,
    "cookies": _HEADER % '"Cookie"',
    "data": _BODY + "; urllib.parse.urlencode() encodes a form",
    "files": _BODY,
    "follow_redirects": _REDIRECTS,
    "json": "give json.dumps(...).encode() as body=, and headers={'Content-Type': ...}",
    "limits": "give the pool max_connections= and max_connections_per_host=",
    "max_redirects": _REDIRECTS,
    "max_retries": "give retry=RetryPolicy(attempts=...)",
    "params": "write the query into the URL; urllib.parse.urlencode() encodes it",
    "pool_connections": "give the pool max_connections=",
    "pool_maxsize": "give the pool max_connections_per_host=",
    "proxies": "give the pool proxy=",
    "retries": "give retry=RetryPolicy(attempts=...)",
    "stream": "use `with pool.stream(method, url) as response:`",
    "verify": "give the pool an ssl_context=",
}

stream_hint = "use `with pool.stream(method, url) as response:`"
_BODY_READ = "use read()"
_ATTRIBUTES = {
    "apparent_encoding": "use detected_text()",
    "body": _BODY_READ,
    "code": "use .status",
    "content": "use .body",
    "cookies": 'use .headers.get_all("Set-Cookie", [])',
    "data": "use .body",
    "encoding": "use .headers.get_content_charset()",
    "getheader": "use .headers[name]",
    "getheaders": "use .headers.items()",
    "is_error": "use .status >= 400",
    "is_redirect": "use .status",
    "is_success": "use .status < 400",
    "iter_bytes": stream_hint,
    "iter_content": stream_hint,
    "iter_raw": stream_hint,
    "json": "use json.load(response)",
    "ok": "use .status < 400",
    "raw": stream_hint,
    "read": "use .body",
    "reason_phrase": "use .reason",
    "status_code": "use .status",
    "stream": stream_hint,
    "text": "use iter_lines(), io.TextIOWrapper(response, encoding=...), or read()",
}
_STREAMED = {
    "aread": _BODY_READ,
    "content": _BODY_READ,
    "data": _BODY_READ,
    "iter_bytes": "iterate over the response itself, or use read(n)",
    "iter_content": "iterate over the response itself, or use read(n)",
    "iter_raw": "iterate over the response itself, or use read(n)",
    "raw": "the response itself is a binary file",
    "stream": "iterate over the response itself, or use read(n)",
}


def refuse_options(
    unknown: Iterable[str], known: Iterable[str], hints: Mapping[str, str] = _OPTIONS
) -> NoReturn:
    """Raise the TypeError for keywords that are *unknown*, where *known* ones are taken.

    *hints* say for what others call them what to write instead.
    """
    [name, *_] = unknown
    if name in known:
        hint = "it is no option of this call"
    else:
        hint = hints.get(name, f"the options are {', '.join(known)}")
    raise TypeError(f"there is no option {name!r}: {hint}")


class _Missing:
    """An attribute that a class does not have, for what it gives has another name here."""

    __slots__ = ("hint", "name")

    def __init__(self, name: str, hint: str) -> None:
        # Neither changes.
        self.name = name
        self.hint = hint

    def __get__(self, instance: object, owner: type) -> NoReturn:
        text = f"{owner.__name__!r} object has no attribute {self.name!r}"
        raise AttributeError(f"{text}: {self.hint}")


def hint_at_attributes(cls: type, streamed: bool = False) -> None:
    """Have *cls*, of responses, say what to write for the attributes of other clients' responses.

    It is as if it did not have them, but for the message. A ``__getattr__`` would do as well, and
    make each read of the attributes that there are take several times as long.
    """
    hints = {**_ATTRIBUTES, **_STREAMED} if streamed else _ATTRIBUTES
    missing = {name: _Missing(name, hint) for name, hint in hints.items() if not hasattr(cls, name)}
    for name, attribute in missing.items():
        setattr(cls, name, attribute)

    def there_are(self: object) -> list[str]:
        return [name for name in object.__dir__(self) if name not in missing]

    cls.__dir__ = there_are  # type: ignore[assignment]  # mypy takes it for one of an object
