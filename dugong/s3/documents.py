"""The XML documents of S3.

Guarantees: what a server sends is read in bounded time and memory, and with no document type, so
that nothing is expanded or fetched. What is no such document is an `InvalidResponse`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote_plus
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat
from xml.sax.saxutils import escape

from dugong.errors import Delivery, InvalidResponse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dugong.pool.response import Response

__all__ = ["completion", "document", "invalid", "number_in", "parse", "text_of"]

MAX_SIZE = 16 * 2**20  #: bytes of a document; the longest page of a list has about 4 MiB
MAX_DEPTH = 16  #: elements within each other
_MAX_DIGITS = 18  # of a number; Python refuses to read some thousands


def parse(data: bytes) -> Element:
    """Return the root of the document *data*; names have no namespaces.

    Raises ValueError if it is not well-formed, has a document type, or is too large.
    """
    if len(data) > MAX_SIZE:
        raise ValueError("the document is too large")
    builder = TreeBuilder()
    depth = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError("the document is nested too deeply")
        builder.start(_local(name), attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(_local(name))

    def refuse(*_: object) -> None:
        raise ValueError("the document has a document type")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data.strip(), True)  # S3 sends spaces first while it is busy
    except (expat.ExpatError, LookupError) as exc:  # an encoding that is not known
        raise ValueError(f"the document is not well-formed: {exc}") from None
    root: Element = builder.close()
    return root


def _local(name: str) -> str:
    return name.rpartition(" ")[2]


def document(response: Response, name: str) -> Element:
    """Return the root of the body of *response*, which is called *name*.

    Some servers have another word at its end than Result, or none. Raises `InvalidResponse` if it
    is something else.
    """
    try:
        root = parse(response.body)
    except ValueError as exc:
        raise invalid(response, str(exc)) from None
    if not root.tag.startswith(name.removesuffix("Result")):
        raise invalid(response, f"the document of the server is not a {name}")
    return root


def invalid(response: Response, text: str) -> InvalidResponse:
    """Return the exception for *response*, which makes no sense."""
    error = InvalidResponse(text)
    error.request, error.attempts = response.request, response.attempts
    error.delivery = Delivery.ANSWER_STARTED
    return error


def text_of(element: Element, name: str, coding: str = "") -> str:
    """Return the text of the child *name* of *element*, or "".

    *coding* is the EncodingType of the document: with ``url``, the text is decoded.
    """
    text = element.findtext(name) or ""
    return unquote_plus(text) if coding == "url" else text


def number_in(response: Response, element: Element, name: str) -> int:
    """Return the number in the child *name* of *element*, which is of *response*.

    Raises `InvalidResponse` if that is none.
    """
    text = text_of(element, name)
    if not text.isdecimal() or len(text) > _MAX_DIGITS:
        raise invalid(response, f"the document of the server has no number as {name}")
    return int(text)


def completion(parts: Iterable[tuple[int, str, str | None]]) -> bytes:
    """Return the body of a CompleteMultipartUpload.

    *parts* are their numbers, their ETags, and their CRC32 if the server keeps that.
    """
    lines = ['<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">']
    for number, etag, crc32 in parts:
        checksum = "" if crc32 is None else f"<ChecksumCRC32>{escape(crc32)}</ChecksumCRC32>"
        lines.append(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag>{checksum}</Part>"
        )
    return "".join([*lines, "</CompleteMultipartUpload>"]).encode()
