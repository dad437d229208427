"""What a client sends for *json*, *data*, *files* and *body*; and forms with files (RFC 7578).

Guarantees: a file is not read before it is sent, and never as a whole; no name, file name or header
of a part can end its line; what cannot be sent is refused at the call. No file is closed. What is
made here does not change, so any thread may use it, as far as its files allow that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any, TypeVar, cast

from dugong.client.urls import Pairs, form, form_pairs, named
from dugong.connection.encode import HeadersLike
from dugong.connection.head import field_line
from dugong.pool.body import BodyLike, BytesLike, ReadableBinary, request_body
from dugong.pool.bodybase import BodyMaker, CountedBody, RequestBody
from dugong.pool.filepart import FilePart
from dugong.pool.options import checked_headers

__all__ = ["Content", "Files", "Multipart", "Part", "encode_body"]

_Binary = BytesLike | ReadableBinary | BodyMaker
#: What a part may consist of.
Content = str | _Binary
Part = (
    Content
    | tuple[str | None, Content]
    | tuple[str | None, Content, str | None]
    | tuple[str | None, Content, str | None, HeadersLike | None]
)
Files = Mapping[str, Part] | Iterable[tuple[str, Part]]
T = TypeVar("T")

_SMALL = 64 * 1024  # bytes; what is copied, to be sent in one piece with what stands around it
_BOUNDARY = re.compile(r"[0-9A-Za-z_-]{1,70}")  # of what RFC 2046 §5.1.1 allows, without quotes
_ESCAPES = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A"})
_UNKNOWN_TYPE = "application/octet-stream"


def encode_body(
    json: object = None,
    data: Pairs | None = None,
    files: Files | None = None,
    body: BodyLike | None = None,
) -> tuple[BodyLike | None, list[tuple[str, str]]]:
    """Return what is to be the body of a request, and the header fields that belong to it.

    *json* is any value that `json.dumps` takes, sent as UTF-8; None is no body: give ``b"null"`` as
    *body* for that. *data* is a form, a mapping or an iterable of pairs as for
    `dugong.client.urls.form`; with *files* it gives fields of a `Multipart`. *body* is what a pool
    takes, and has no fields. Empty *data* and *files* are as none, as they are in httpx.

    Raises ValueError for more than one of *json*, *body*, and *data* or *files*, and for numbers
    that JSON does not have; TypeError and ValueError for what cannot be encoded; and OSError for a
    file.
    """
    if isinstance(data, (str, bytes, bytearray, memoryview)) or hasattr(data, "read"):
        kind = type(data).__name__
        raise TypeError(
            f"data must be a mapping or (name, value) pairs, not {kind}: give it as body"
        )
    data, files = _unless_empty(data), _unless_empty(files)
    if (json is not None) + (body is not None) + (data is not None or files is not None) > 1:
        raise ValueError("a request has one body: give json, body, or data and files")
    if json is not None:
        return _json(json), [("Content-Type", "application/json")]
    if files is not None:
        parts = Multipart(files, data)
        return parts, [("Content-Type", parts.content_type)]
    if data is not None:
        return form(data), [("Content-Type", "application/x-www-form-urlencoded")]
    return body, []


def _unless_empty(given: T) -> T | None:
    """Return *given*; None if it is a collection without items."""
    is_empty = isinstance(given, Sized) and not isinstance(given, (str, bytes)) and not len(given)
    return None if is_empty else given


def _json(value: object) -> bytes:
    from json import dumps

    text = dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _encoded("json", text)


class Multipart(BodyMaker):
    """A form with files as a body: multipart/form-data (RFC 7578).

    *files* is a mapping or an iterable of (name, part) pairs, several of which may have one name. A
    part is a binary file, a `FilePart`, bytes or a str; or a tuple of a file name, one of these,
    and maybe its media type, and the header fields that it has besides. By default, the file name
    is that of the file, or else ``upload``, and the media type is what the file name suggests, or
    else application/octet-stream. With None as its file name a part is a plain field. *data* has
    the fields that go before the files, as for `dugong.client.urls.form`. The *boundary* between
    the parts is made at random.

    A file is sent from where it stands when a request is made, and is not closed. The body has a
    length if all of its parts have one, and can be sent again if all of them can.

    Raises TypeError and ValueError for what cannot be sent, such as a file in text mode; and
    OSError.

    Attributes: *content_type*, the value of the Content-Type field that the request must have.
    """

    __slots__ = ("_items", "content_type")

    def __init__(
        self, files: Files, data: Pairs | None = None, *, boundary: str | None = None
    ) -> None:
        if boundary is None:
            boundary = os.urandom(16).hex()
        elif not _BOUNDARY.fullmatch(boundary):
            raise ValueError("the boundary must be up to 70 ASCII letters, digits, '-' and '_'")
        self.content_type: str = f"multipart/form-data; boundary={boundary}"  # never changes
        delimiter = f"--{boundary}\r\n".encode()
        # Few pieces, for each is sent by a system call: those in memory go with what is between.
        items: list[BodyLike] = []
        pending = bytearray()
        for head, content in _parts(files, data or ()):
            pending += delimiter + head
            if type(content) is bytes and len(content) <= _SMALL:
                pending += content
            else:
                items += (bytes(pending), content)
                pending.clear()
            pending += b"\r\n"
        pending += f"--{boundary}--\r\n".encode()
        self._items = (*items, bytes(pending))  # never changes
        self.make_body(None)  # raises now what a request would raise

    def make_body(self, content_length: int | None) -> RequestBody:
        """Return the body of one request: see `BodyMaker`."""
        segments = [cast(RequestBody, request_body(item)) for item in self._items]
        return segments[0] if len(segments) == 1 else _MultipartBody(segments, content_length)


class _MultipartBody(CountedBody):
    """Several bodies, one after the other."""

    __slots__ = ("_segments",)

    def __init__(self, segments: list[RequestBody], content_length: int | None) -> None:
        lengths = [segment.length for segment in segments]
        known = [length for length in lengths if length is not None]
        super().__init__(sum(known) if len(known) == len(lengths) else content_length)
        self._segments = segments

    @property
    def rewindable(self) -> bool:
        return all(segment.rewindable for segment in self._segments)

    @property
    def is_repeatable(self) -> bool:
        return all(segment.is_repeatable for segment in self._segments)

    def segments(self) -> Iterable[RequestBody]:
        if any(segment.length is None for segment in self._segments):
            return (self,)  # it goes in chunks, or has to be counted
        return self._rewound()

    def _rewound(self) -> Iterator[RequestBody]:
        for segment in self._segments:
            segment.rewind()  # only now, for a file may be in several of them
            yield segment

    def _items(self) -> Iterator[object]:
        for segment in self._rewound():
            yield from segment.pieces()

    def end_sending(self) -> None:
        for segment in self._segments:
            segment.end_sending()

    def release(self) -> None:
        for segment in self._segments:
            segment.release()


def _parts(files: Files, data: Pairs) -> Iterator[tuple[bytes, _Binary]]:
    """Yield the head of each part, and what follows."""
    for name, value in form_pairs("data", data):
        yield _disposition(name) + b"\r\n", _encoded("data", value)
    for name, part in named("files", files):
        yield _file_part(name, part)


def _file_part(name: str, part: object) -> tuple[bytes, _Binary]:
    content: Any
    if isinstance(part, tuple):
        if not 2 <= len(part) <= 4:
            raise ValueError(
                "a part of files must be (file name, content), (file name, content, type) or "
                "(file name, content, type, headers)"
            )
        filename, content, media_type, headers = (*part, None, None)[:4]
        if filename is not None and not isinstance(filename, str):
            raise TypeError(f"a file name must be a str or None, not {type(filename).__name__}")
    else:
        content, media_type, headers = part, None, None
        filename = _name_of(content)
    fields = [] if headers is None else list(checked_headers(headers))
    names = {field.lower() for field, _ in fields}
    if "content-disposition" in names:
        raise ValueError("a part has its Content-Disposition already, which is made of its names")
    if "content-type" in names:
        if media_type is not None:
            raise ValueError("the type of a part is given twice: also as its Content-Type")
    elif media_type is not None or filename is not None:
        fields.insert(0, ("Content-Type", media_type or _guessed_type(filename)))
    lines = b"".join([field_line(*field) for field in fields])
    return _disposition(name, filename) + lines + b"\r\n", _checked_content(content)


def _checked_content(content: object) -> _Binary:
    if isinstance(content, str):
        return _encoded("files", content)
    if isinstance(content, (bytes, bytearray, memoryview, BodyMaker)):
        return content
    if callable(getattr(content, "read", None)):
        return cast(ReadableBinary, content)
    kind = type(content).__name__
    raise TypeError(f"a part of files must be a binary file, a FilePart, bytes or str, not {kind}")


def _encoded(what: str, text: str, errors: str = "strict") -> bytes:
    try:
        return text.encode("utf-8", errors)
    except UnicodeEncodeError:
        raise ValueError(f"{what} has a lone surrogate, which UTF-8 cannot encode") from None


def _disposition(name: str, filename: str | None = None) -> bytes:
    """Return the Content-Disposition line of a part, its names escaped as WHATWG HTML says."""
    line = f'Content-Disposition: form-data; name="{name.translate(_ESCAPES)}"'
    if filename is not None:
        line += f'; filename="{filename.translate(_ESCAPES)}"'
    # The name of a file on disk has a surrogate for each byte that is not UTF-8.
    return _encoded("a name of a part", f"{line}\r\n", "surrogateescape")


def _name_of(content: object) -> str:
    """Return the name of the file that *content* is, or is a part of; ``upload`` if it has none."""
    file = content.file if isinstance(content, FilePart) else content
    name = getattr(file, "name", None)  # an int if it has no path
    if isinstance(name, (str, bytes, os.PathLike)):
        return os.path.basename(os.fsdecode(name)) or "upload"
    return "upload"


def _guessed_type(filename: str) -> str:
    from mimetypes import guess_type

    # Of the extension alone, for the whole would be read as a URL.
    media_type, coding = guess_type(f"file{os.path.splitext(filename)[1]}")
    return media_type if media_type is not None and coding is None else _UNKNOWN_TYPE
