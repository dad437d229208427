"""What the settings of Scrapy mean for a pool: `options_of`.

Guarantees: as `DOWNLOAD_VERIFY_CERTIFICATES` of Scrapy is False by default, so are certificates not
verified. Touches the file that SSLKEYLOGFILE names. Any thread may call it.
"""

from __future__ import annotations

import logging
import os
import ssl
import sys
from typing import TYPE_CHECKING, Any

from dugong.adapters.pools import ONLY_LOST

if TYPE_CHECKING:
    from scrapy.settings import BaseSettings

__all__ = ["local_address", "options_of"]

_logger = logging.getLogger(__name__)

_TLS_VERSIONS = {
    "TLSv1.0": ssl.TLSVersion.TLSv1,
    "TLSv1.1": ssl.TLSVersion.TLSv1_1,
    "TLSv1.2": ssl.TLSVersion.TLSv1_2,
    "TLSv1.3": ssl.TLSVersion.TLSv1_3,
}


def local_address(given: Any) -> str | tuple[str, int]:
    """Return what ``bindaddress`` or DOWNLOAD_BIND_ADDRESS names, as a pool takes it."""
    return given if isinstance(given, str) else tuple(given)


def options_of(settings: BaseSettings) -> dict[str, Any]:
    """Return the parameters of a pool that does what *settings* say."""
    limit = settings.getint("CONCURRENT_REQUESTS_PER_DOMAIN")
    address = settings.get("DOWNLOAD_BIND_ADDRESS")
    options = {
        "timeout": None,  # each request has a deadline
        "connect_timeout": None,
        "min_rate": None,
        "retry": ONLY_LOST,
        "max_body_size": settings.getint("DOWNLOAD_MAXSIZE") or sys.maxsize,
        "max_connections_per_host": limit or 256,
        "max_connections": max(256, limit, settings.getint("CONCURRENT_REQUESTS")),
        "local_address": local_address(address) if address else None,
        **settings.getdict("DUGONG_POOL"),
    }
    if "ssl_context" not in options:
        options["ssl_context"] = _context(settings)
    return options


def _context(settings: BaseSettings) -> ssl.SSLContext:
    """Return the context for TLS that *settings* describe."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if settings.getbool("DOWNLOAD_VERIFY_CERTIFICATES"):
        context.load_default_certs()
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    lowest = _tls_version(settings, "DOWNLOAD_TLS_MIN_VERSION")
    if lowest is not None:
        context.minimum_version = lowest
    highest = _tls_version(settings, "DOWNLOAD_TLS_MAX_VERSION")
    if highest is not None:
        context.maximum_version = highest
    ciphers = settings.get("DOWNLOADER_CLIENT_TLS_CIPHERS")
    if ciphers:
        context.set_ciphers(ciphers)
    context.set_alpn_protocols(["http/1.1"])
    path = None if sys.flags.ignore_environment else os.environ.get("SSLKEYLOGFILE")
    if path:
        try:
            context.keylog_filename = path
        except OSError as exc:
            _logger.warning("Cannot write TLS session keys to %s: %s", path, exc)
    return context


def _tls_version(settings: BaseSettings, name: str) -> ssl.TLSVersion | None:
    value = settings.get(name)
    if value is None:
        return None
    if value not in _TLS_VERSIONS:
        raise ValueError(f"Unknown {name} value: {value}; use one of {', '.join(_TLS_VERSIONS)}")
    return _TLS_VERSIONS[value]
