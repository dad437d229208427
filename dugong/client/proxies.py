"""Which proxy leads where: a mapping, or what the environment names (HTTP_PROXY and its kin).

Guarantees: what makes no sense is raised when a client is made, and no message quotes the URL of a
proxy. Nothing here changes once it has been made, so any thread may use it. Only
`environment_proxies` touches anything: it reads environment variables.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dugong.connection.names import ascii_host, is_numeric
from dugong.connection.proxy import Proxy, ProxyLike
from dugong.pool.url import Origin, parse_origin

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

__all__ = ["NoProxy", "ProxyMap", "environment_proxies"]

_SEPARATORS = re.compile(r"[\s,]+")
_HOST_AND_PORT = re.compile(r"(?:\[(?P<ipv6>[^\]]*)\]|(?P<host>[^:]*)):(?P<port>[0-9]{1,5})")


class ProxyMap:
    """Says which proxy leads to an origin, as the *proxy* of a `ConnectionPool`.

    *proxies* has proxies, or None for no proxy, by ``http``, ``https`` or ``all``, which may be
    followed by ``://`` and a host. The first that is there of ``https://host``, ``https``,
    ``all://host`` and ``all`` counts, and None if there is none. *no_proxy* says for which origins
    there is no proxy at all. Raises TypeError or ValueError for anything else.
    """

    __slots__ = ("_no_proxy", "_proxies")

    def __init__(
        self, proxies: Mapping[str, ProxyLike | None], no_proxy: NoProxy | None = None
    ) -> None:
        self._proxies = {_checked_key(key): value for key, value in proxies.items()}
        self._no_proxy = no_proxy
        for proxy in self._proxies.values():
            if proxy is not None:
                Proxy(proxy)  # which checks it

    def __call__(self, origin: Origin) -> ProxyLike | None:
        """Return the proxy that leads to *origin*; None if there is none."""
        if self._no_proxy is not None and self._no_proxy(origin):
            return None
        scheme, host = origin.scheme, origin.host.removesuffix(".")
        for key in ((scheme, host), (scheme, None), ("all", host), ("all", None)):
            if key in self._proxies:
                return self._proxies[key]
        return None

    def __repr__(self) -> str:
        return f"<ProxyMap of {len(self._proxies)}>"  # the URLs may have credentials


def _checked_key(key: object) -> tuple[str, str | None]:
    """Return the scheme and the host that *key* of a mapping names."""
    if not isinstance(key, str):
        raise TypeError(f"proxy must have keys of str, not {type(key).__name__}")
    scheme, separator, host = key.lower().partition("://")
    if scheme not in ("http", "https", "all"):
        raise ValueError("the keys of proxy must be http, https or all, or as in http://host")
    if not separator:
        return scheme, None
    origin = parse_origin(f"http://{host}")
    if origin.port != 80 or host.endswith(":80"):
        raise ValueError("the keys of proxy must have no port: a proxy is for all ports of a host")
    return scheme, origin.host.removesuffix(".")


class NoProxy:
    """Says to which origins no proxy leads, by the *text* of NO_PROXY.

    It is a list of names, each for itself and all below it, with or without a dot or ``*.`` before
    it; of IP addresses and of networks as in ``10.0.0.0/8``; each with a port behind it or without;
    or ``*`` for all hosts. Commas or spaces are between them. What is none of these is ignored, as
    other programs read the variable, too.
    """

    __slots__ = ("_all", "_names", "_networks")

    def __init__(self, text: str) -> None:
        # A port of None is any port.
        self._names: set[tuple[str, int | None]] = set()
        self._networks: list[tuple[IPv4Network | IPv6Network, int | None]] = []
        entries = [entry for entry in _SEPARATORS.split(text.lower()) if entry]
        self._all = "*" in entries
        for entry in entries:
            self._add(entry)

    def _add(self, entry: str) -> None:
        from ipaddress import ip_network

        match = _HOST_AND_PORT.fullmatch(entry)
        host = entry if match is None else match["host"] or match["ipv6"] or ""
        port = None if match is None else int(match["port"])
        try:
            self._networks.append((ip_network(host.strip("[]"), strict=False), port))
        except ValueError:
            try:
                self._names.add((ascii_host(host.removeprefix("*.").strip(".")), port))
            except ValueError:
                pass  # it is no name of a host, so it is that of none

    def __call__(self, origin: Origin) -> bool:
        """Return True if no proxy leads to *origin*."""
        if self._all:
            return True
        host = origin.host.removesuffix(".")
        ports = (None, origin.port)
        if is_numeric(host):
            from ipaddress import ip_address

            address = ip_address(host)
            return any(port in ports and address in network for network, port in self._networks)
        while host:
            if any((host, port) in self._names for port in ports):
                return True
            host = host.partition(".")[2]
        return False


def environment_proxies() -> ProxyMap | None:
    """Return what the environment says of proxies now; None if it names none.

    HTTP_PROXY, HTTPS_PROXY and ALL_PROXY are URLs, in which ``http://`` may be left out; an empty
    one says that there is no proxy. NO_PROXY is as `NoProxy` says. Of each, the name in lower case
    counts before that in capitals. In a CGI program, HTTP_PROXY is the header field Proxy of a
    request, so the lower case alone counts there. Raises ValueError, which names the variable.
    """
    proxies: dict[str, ProxyLike | None] = {}
    for key in ("http", "https", "all"):
        name = f"{key.upper()}_PROXY"
        value = _variable(name)
        if value is not None:
            url = value.strip()
            proxies[key] = url if "://" in url else f"http://{url}" if url else None
            try:
                ProxyMap({key: proxies[key]})
            except ValueError as exc:
                raise ValueError(f"the environment variable {name}: {exc}") from None
    if not any(proxies.values()):
        return None
    return ProxyMap(proxies, NoProxy(_variable("NO_PROXY") or ""))


def _variable(name: str) -> str | None:
    value = os.environ.get(name.lower())
    if value is None and not (name == "HTTP_PROXY" and "REQUEST_METHOD" in os.environ):
        value = os.environ.get(name)
    return value
