"""Credentials that come with a URL, or from the netrc file of the user.

Guarantees: no message and no log quotes a user name, a password or a URL. Touches nothing but, for
`read_netrc`, the environment and the netrc file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from dugong.client.auth import BasicAuth
from dugong.connection.cache import BoundedCache

__all__ = ["has_userinfo", "read_netrc", "split_userinfo"]

_USERINFO = re.compile(r"(https?://)([^/?#]*)@", re.IGNORECASE)


def has_userinfo(url: str) -> bool:
    """Return True if *url*, an absolute http or https URL, has a user name or password in it."""
    return _USERINFO.match(url) is not None


def split_userinfo(url: str) -> tuple[str, BasicAuth | None]:
    """Return *url* without user name and password, and these, percent-decoded (RFC 3986 §3.2.1).

    An absolute http or https URL can have them, before the last ``@`` of its authority; a password
    that is missing is empty. Everything else is returned as it is, with None. Raises ValueError if
    they are not UTF-8, or not what `BasicAuth` takes. May be called from any thread.
    """
    match = _USERINFO.match(url)
    if match is None:
        return url, None
    from urllib.parse import unquote_to_bytes

    scheme, userinfo = match.groups()
    bare = scheme + url[match.end() :]
    if not userinfo:
        return bare, None
    user, _, password = userinfo.partition(":")
    try:
        return bare, BasicAuth(unquote_to_bytes(user).decode(), unquote_to_bytes(password).decode())
    except UnicodeError:
        raise ValueError(
            "the user name and password of a URL must be percent-encoded UTF-8"
        ) from None


def read_netrc() -> Callable[[str], BasicAuth | None] | None:
    """Return what finds credentials by the name of a host in the netrc file, as that is now.

    The file is the one that ``NETRC`` names, else ``~/.netrc``, else ``~/_netrc``. A file that
    cannot be read is as good as none, and logged, without what is in it; so is a ``~/.netrc`` that
    other users may read, as the `netrc` module requires. The ``default`` entry holds for hosts
    without one of their own; an entry without a password is none. Returns None if there is no file.
    Any thread may call it, and what it returns.
    """
    given = os.environ.get("NETRC")
    for name in (given,) if given else ("~/.netrc", "~/_netrc"):
        path = os.path.expanduser(name)
        if os.path.exists(path):
            return _read(name, path)
    return None


def _read(name: str, path: str) -> Callable[[str], BasicAuth | None] | None:
    from netrc import NetrcParseError, netrc

    try:
        # The module checks who may read a file only if it is the one that it looks for itself.
        entries = netrc(None if name == "~/.netrc" else path)
    except (OSError, UnicodeError, NetrcParseError) as exc:
        _log(exc)
        return None

    def auth_for(host: str) -> BasicAuth | None:
        entry = entries.authenticators(host)
        if entry is None or not entry[2]:
            return None
        try:
            return BasicAuth(entry[0] or entry[1] or "", entry[2])
        except ValueError as exc:
            _log(exc)
            return None

    return BoundedCache(auth_for).__getitem__


def _log(exc: Exception) -> None:
    import logging

    # Not what the exception says, which may quote the file.
    logging.getLogger(__name__).warning("the netrc file is not used: %s", type(exc).__name__)
