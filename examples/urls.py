"""URLs for the other examples: an `HTTPConnection` knows only hosts and request targets."""

import ssl
from urllib.parse import urlsplit

from dugong import HTTPConnection


def connection_to(url: str) -> HTTPConnection:
    """Return a connection, not connected yet, to the host of *url*."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"not an http or https URL: {url}")
    context = ssl.create_default_context() if parts.scheme == "https" else None
    conn = HTTPConnection(parts.hostname, parts.port, context)
    conn.timeout = 30
    return conn


def origin(url: str) -> str:
    """Return the part of *url* that one connection serves: scheme, host and port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def target(url: str) -> str:
    """Return the request target: path and query."""
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
