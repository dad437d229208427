"""The fields behind a body in chunks, out (RFC 9110 §6.5, RFC 9112 §7.1.2).

Guarantees: no field is sent there that means something only in front of a body. Touches nothing.
"""

from __future__ import annotations

from dugong.connection.encode import HeadersLike, header_pairs
from dugong.connection.head import field_line

__all__ = ["check_trailer_name", "trailer_lines"]

#: What RFC 9110 §6.5.1 forbids: what is for framing, routing, authentication, controls and
#: conditions of the request, and for how its body is processed.
_FORBIDDEN = frozenset(
    (
        "age authorization cache-control connection content-encoding content-length content-range "
        "content-type cookie cookie2 date expect expires host http2-settings if-match "
        "if-modified-since if-none-match if-range if-unmodified-since keep-alive location "
        "max-forwards pragma proxy-authenticate proxy-authorization proxy-connection range "
        "retry-after set-cookie set-cookie2 te trailer transfer-encoding upgrade vary warning "
        "www-authenticate"
    ).split()
)


def check_trailer_name(name: str) -> None:
    """Raise ValueError if the field *name* must not stand behind a body."""
    if name.lower() in _FORBIDDEN:
        raise ValueError(f"{name} must not be sent behind the body: it is a header (RFC 9110 §6.5)")


def trailer_lines(fields: HeadersLike) -> bytes:
    """Return the lines for *fields*, a mapping or (name, value) pairs, without the blank line.

    Raises TypeError if they are something else, and ValueError for what cannot be sent or must not
    stand there. No message quotes a value.
    """
    lines = []
    for name, value in header_pairs(fields):
        line = field_line(name, value)
        check_trailer_name(name)
        lines.append(line)
    return b"".join(lines)
