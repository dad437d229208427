"""What a client trusts, and shows of itself: *verify* and *cert* become an `ssl.SSLContext`.

Guarantees: nothing but ``verify=False`` turns verification off. Reads the files that it is told.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl

__all__ = ["context_of"]


def context_of(verify: Any, cert: Any) -> ssl.SSLContext:
    """Return the context for *verify* and *cert*, which are parameters of `Client`.

    Raises TypeError or ValueError if they make no sense, and OSError (`ssl.SSLError` is one) if the
    files cannot be used.
    """
    import ssl

    if isinstance(verify, ssl.SSLContext):
        if cert is not None:
            raise TypeError("load the certificate into the ssl_context with load_cert_chain()")
        return verify
    if isinstance(verify, bool):
        context = ssl.create_default_context()
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
    elif isinstance(verify, (str, os.PathLike)):
        path = os.fspath(verify)
        if os.path.isdir(path):
            context = ssl.create_default_context(capath=path)
        else:
            _check_readable(path)
            context = ssl.create_default_context(cafile=path)
    else:
        raise TypeError(f"verify must be a bool, a path or an SSLContext, not {verify!r}")
    context.set_alpn_protocols(["http/1.1"])
    if cert is not None:
        files = (cert,) if isinstance(cert, (str, os.PathLike)) else cert
        if not isinstance(files, tuple) or not 1 <= len(files) <= 3:
            raise TypeError("cert must be a path, or a tuple (certificate, key, password)")
        for file in filter(None, files[:2]):
            _check_readable(file)
        context.load_cert_chain(*files)
    return context


def _check_readable(path: str | os.PathLike[str]) -> None:
    """Raise the OSError of a file that cannot be read; that of `ssl` would not name it."""
    with open(os.fspath(path), "rb"):
        pass
