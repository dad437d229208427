"""What other HTTP clients call things, and what to write here instead.

Guarantees: touches nothing; only what has failed already comes here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NoReturn

__all__ = ["no_attribute", "refuse_options", "stream_hint"]

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


def no_attribute(owner: object, name: str, streamed: bool = False) -> AttributeError:
    """Return the error for the attribute *name* that *owner*, a response, does not have."""
    hint = (_STREAMED.get(name) if streamed else None) or _ATTRIBUTES.get(name)
    text = f"{type(owner).__name__!r} object has no attribute {name!r}"
    if hint is None:
        return AttributeError(text, name=name, obj=owner)
    return AttributeError(f"{text}: {hint}")
