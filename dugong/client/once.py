"""One request with a client of its own: ``dugong.get(url)`` and its kin.

For scripts that make few requests: nothing is kept, neither connections nor cookies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from dugong.client.calls import ClientOptions
from dugong.client.client import Client

if TYPE_CHECKING:
    from dugong.pool.response import Response

__all__ = ["delete", "get", "head", "options", "patch", "post", "put", "request"]


def request(method: str, url: str, **options: Unpack[ClientOptions]) -> Response:
    """Send one request, and return its final response: see `Client.request`."""
    with Client() as client:
        return client.request(method, url, **options)


def get(url: str, **options: Unpack[ClientOptions]) -> Response:
    """Send one GET: see `Client.request`."""
    return request("GET", url, **options)


def head(url: str, **options: Unpack[ClientOptions]) -> Response:
    """Send one HEAD: see `Client.request`."""
    return request("HEAD", url, **options)


def options(url: str, **options: Unpack[ClientOptions]) -> Response:
    """Send one OPTIONS: see `Client.request`."""
    return request("OPTIONS", url, **options)


def post(url: str, **options: Unpack[ClientOptions]) -> Response:
    """Send one POST: see `Client.request`."""
    return request("POST", url, **options)


def put(url: str, **options: Unpack[ClientOptions]) -> Response:
    """Send one PUT: see `Client.request`."""
    return request("PUT", url, **options)


def patch(url: str, **options: Unpack[ClientOptions]) -> Response:
    """Send one PATCH: see `Client.request`."""
    return request("PATCH", url, **options)


def delete(url: str, **options: Unpack[ClientOptions]) -> Response:
    """Send one DELETE: see `Client.request`."""
    return request("DELETE", url, **options)
