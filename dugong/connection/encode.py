"""Request heads, out: from the arguments of a call to the bytes, and the `Exchange` for them.

Guarantees: everything a caller can get wrong raises ValueError or TypeError here, before a byte
is sent or any state is changed; the framing that is announced is the one that will be sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from dugong.connection.exchange import Exchange, RequestSide, Special
from dugong.connection.framing import list_members, parse_content_length
from dugong.connection.head import check_host, check_method, check_target, field_line
from dugong.connection.writers import BodyFollowing, ChunkedWriter, LengthWriter
from dugong.headers import Headers

__all__ = ["Body", "EncodedRequest", "HeaderPairs", "HeadersLike", "RequestBuilder"]

HeadersLike = Mapping[str, str] | Headers | Iterable[tuple[str, str]]
HeaderPairs = tuple[tuple[str, str], ...]
Body = bytes | bytearray | memoryview | BodyFollowing

_MEANT_FOR_A_BODY = frozenset(("POST", "PUT", "PATCH"))
_NO_BODY = b"Content-Length: 0\r\n"
_IDENTITY = b"Accept-Encoding: identity\r\n"
#: Header fields of so many kinds are remembered, which requests have one after the other.
_KINDS = 16


class EncodedRequest(NamedTuple):
    """`head` is ready to be sent, followed by `body`."""

    exchange: Exchange
    head: bytes
    body: memoryview | None


class RequestBuilder:
    """Builds the requests of one connection. Any thread may use it.

    Parameters: *netloc* is the value of Host; *prefix* goes before each origin-form target (the
    absolute form, for a proxy); *fixed* are header lines that every request carries, instead of
    those of the same names that are given, and *defaults* are those that a request carries for
    which no header fields are given. *omitted* are names, in lower case, of no line that is sent.
    *omit_legacy_headers* leaves out what only the API of dugong 3.8 promises: Content-MD5, and a
    Content-Length where there is no body and the method does not suggest one (RFC 9110 §8.6).
    """

    __slots__ = (
        "_fixed",
        "_host_line",
        "_left_out",
        "_omit_legacy_headers",
        "_plain_rest",
        "_prefix",
        "_rests",
    )

    def __init__(
        self,
        netloc: str,
        prefix: str = "",
        fixed: bytes = b"",
        defaults: bytes = b"",
        omit_legacy_headers: bool = False,
        omitted: frozenset[str] = frozenset(),
    ) -> None:
        # None of these changes, but for the last.
        self._prefix = prefix
        self._host_line = field_line("Host", netloc)
        self._fixed = fixed
        self._omit_legacy_headers = omit_legacy_headers
        no_body = b"" if omit_legacy_headers else _NO_BODY
        # What follows the target in a plain head: all of it can then be encoded at once.
        self._left_out = omitted.union(map(_name, _lines(fixed)))
        kept = [line for line in _lines(defaults) if _name(line) not in self._left_out]
        names = {*map(_name, kept), *self._left_out}
        identity = b"" if "accept-encoding" in names else _IDENTITY
        lines = (b" HTTP/1.1\r\n", self._host_line, no_body, identity, fixed, *kept, b"\r\n")
        self._plain_rest = b"".join(lines).decode("latin-1")
        # What follows the target, by the header fields. Single operations of a dict are atomic, in
        # free-threaded CPython, too; several threads may add one more for a while.
        self._rests: dict[HeaderPairs, bytes] = {}

    def build(
        self,
        method: str,
        path: str,
        headers: HeadersLike | None,
        body: Body | None,
        expect100: bool,
    ) -> EncodedRequest:
        """Return the request for these arguments of `HTTPConnection.send_request`."""
        if not isinstance(method, str) or not isinstance(path, str):
            kinds = f"{type(method).__name__} and {type(path).__name__}"
            raise TypeError(f"method and path must be str, not {kinds}")
        # What is checked is what is sent: an Enum that is a str is formatted as something else.
        if type(method) is not str:
            method = str.__str__(method)
        if type(path) is not str:
            path = str.__str__(path)
        check_method(method)
        check_target(method, path)
        target = path
        if self._prefix and path[0] in "/*":
            target = self._prefix + path if path != "*" else self._prefix  # RFC 9112 §3.2.4
        no_length = body is None and self._omit_legacy_headers and method not in _MEANT_FOR_A_BODY
        if (
            body is None
            and not headers
            and not expect100
            and self._omit_legacy_headers == no_length
        ):
            head = f"{method} {target}{self._plain_rest}".encode("latin-1")
            exchange = Exchange(method, path)
            if method == "CONNECT":
                exchange.special = Special()
            # The class itself would go through a function in Python, at twice the cost.
            return tuple.__new__(EncodedRequest, (exchange, head, None))

        following = isinstance(body, BodyFollowing)
        if expect100 and not following:
            raise ValueError("expect100 is only allowed with a body that is a BodyFollowing")
        view = None
        length: int | None
        if isinstance(body, BodyFollowing):
            length = body.length
        elif body is None:
            length = 0
        else:
            view = byte_view(body, "body must be None, a BodyFollowing or")
            length = view.nbytes

        given = _check_fields(headers, length, self._left_out)
        lines = [f"{method} {target} HTTP/1.1\r\n".encode("ascii")]
        if "host" not in given.names:
            lines.append(self._host_line)
        lines += given.lines
        if length is None:
            lines.append(b"Transfer-Encoding: chunked\r\n")
        elif "content-length" not in given.names and not no_length:
            lines.append(b"Content-Length: %d\r\n" % length)
        if view is not None and "content-md5" not in given.names and not self._omit_legacy_headers:
            lines.append(_content_md5(view))
        if expect100 and length != 0:
            lines.append(b"Expect: 100-continue\r\n")
        if "accept-encoding" not in given.names and "accept-encoding" not in self._left_out:
            lines.append(_IDENTITY)
        lines += (self._fixed, b"\r\n")

        exchange = Exchange(method, path)
        exchange.special = Special("close" in given.connection, "upgrade" in given.names)
        if following and length != 0:
            exchange.writer = ChunkedWriter() if length is None else LengthWriter(length)
            exchange.request_side = RequestSide.CONTINUE if expect100 else RequestSide.BODY
        elif expect100:
            # A server has nothing to wait for if there is no body, so it is not asked.
            exchange.request_side = RequestSide.SELF_CONTINUE
        return EncodedRequest(exchange, b"".join(lines), view)

    def plain_head(self, method: str, path: str) -> bytes:
        """Return the head of a request that has nothing but a *method* and a *path*.

        For builders with *omit_legacy_headers*, for arguments that have been checked, and for
        methods that are not meant for a body.
        """
        return f"{method} {self._prefix}{path}{self._plain_rest}".encode("latin-1")

    def bodiless_head(self, method: str, path: str, headers: HeaderPairs) -> bytes:
        """Return the head that `build` makes of a request with *headers* and without a body.

        For the same builders and arguments as `plain_head`. Raises ValueError for *headers* that
        cannot be sent. Programs send the same ones again and again, so they are looked at once.
        """
        rest = self._rests.get(headers)
        if rest is None:
            head = self.build("GET", "/", headers, None, False).head
            rest = head[head.index(b" HTTP/1.1\r\n") :]
            if len(self._rests) >= _KINDS:
                self._rests.clear()
            self._rests[headers] = rest
        return f"{method} {self._prefix}{path}".encode("ascii") + rest


def _lines(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def _name(line: bytes) -> str:
    """Return the name in the header field *line*, in lower case."""
    return line.partition(b":")[0].lower().decode("ascii")


def header_pairs(headers: HeadersLike) -> Iterable[tuple[str, str]]:
    """Return the (name, value) pairs of *headers*, as often as one likes.

    Raises TypeError if it is neither a mapping nor consists of pairs. The message quotes nothing of
    it, as it may hold a secret.
    """
    if isinstance(headers, (Mapping, Headers)):
        return headers.items()
    if isinstance(headers, (str, bytes)) or not isinstance(headers, Iterable):
        raise TypeError(
            f"headers must be a mapping or (name, value) pairs, not {type(headers).__name__}"
        )
    pairs = list(headers)
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(
                f"headers must be a mapping or (name, value) pairs, not of {type(pair).__name__}"
            )
    return pairs


class _Given(NamedTuple):
    names: set[str]
    lines: list[bytes]
    connection: list[str]


def _check_fields(
    headers: HeadersLike | None, length: int | None, left_out: frozenset[str]
) -> _Given:
    """Check the caller's header fields against a body of *length* bytes (None: chunked).

    *left_out* are names of fields that are not sent.
    """
    given = _Given(set(), [], [])
    if headers is None:
        return given
    for name, text in header_pairs(headers):
        line = field_line(name, text)
        value = str(text)
        lower = name.lower()
        if lower == "transfer-encoding":
            raise ValueError("Transfer-Encoding is set by dugong: use BodyFollowing() for chunks")
        if lower == "expect":
            raise ValueError("Expect is set by dugong: use expect100=True")
        if lower in ("content-length", "host") and lower in given.names:
            raise ValueError(f"more than one {name} header")
        if lower == "content-length" and (
            # A list of equal lengths is something to be understood, but not to be sent.
            "," in value or parse_content_length(value.strip(" \t")) != length
        ):
            raise ValueError("Content-Length contradicts the body")
        if lower == "host":
            try:
                check_host(value)
            except ValueError:
                raise ValueError("the value of header Host is no host name") from None
        if lower == "connection":
            given.connection.extend(list_members(value))
        if lower in left_out:
            continue
        given.names.add(lower)
        given.lines.append(line)
    return given


def byte_view(data: bytes | bytearray | memoryview, rule: str = "buf must be") -> memoryview:
    """Return the bytes of *data*.

    Raises TypeError if it is not bytes-like and contiguous; *rule* begins the message.
    """
    try:
        return memoryview(data).cast("B")
    except TypeError:
        raise TypeError(
            f"{rule} a contiguous bytes-like object, not {type(data).__name__}"
        ) from None


def writable_view(buf: bytearray | memoryview) -> memoryview:
    """Return the bytes of *buf*. Raises TypeError as `byte_view`, and if *buf* is read-only."""
    view = byte_view(buf)
    if view.readonly:
        raise TypeError(f"buf must be writable, not {type(buf).__name__}")
    return view


def check_size(name: str, size: object) -> None:
    """Raise TypeError unless *size* is a number of bytes. *name* is that of the parameter."""
    if not isinstance(size, int):
        raise TypeError(f"{name} must be an int or None, not {size!r}")


def _content_md5(view: memoryview) -> bytes:
    from base64 import b64encode
    from hashlib import md5

    digest = md5(view, usedforsecurity=False).digest()
    return b"Content-MD5: " + b64encode(digest) + b"\r\n"
