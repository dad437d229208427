"""The XML documents of S3: what is read, and what is refused."""

from __future__ import annotations

import pytest

from dugong import Request, Response
from dugong.errors import InvalidResponse
from dugong.s3 import documents
from dugong.s3.documents import completion, document, number_in, parse, text_of


def response(body: bytes) -> Response:
    return Response(200, "OK", b"", body, Request("GET", "http://h/bucket?list-type=2"))


def test_names_have_no_namespaces() -> None:
    root = parse(b'<?xml version="1.0"?><a xmlns="http://s3/"><b>1</b><b>2</b></a>')
    assert root.tag == "a"
    assert [each.text for each in root.iter("b")] == ["1", "2"]


def test_spaces_before_a_document_are_left_out() -> None:
    assert parse(b'  \n\n<?xml version="1.0"?><a/>\n').tag == "a"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<a>",
        b"<a></b>",
        b"<a/><a/>",
        b"text",
        b"<a>&unknown;</a>",
        b"<a>\xff</a>",
        b"<?xml version='1.0' encoding='no-such'?><a/>",
        b"{}",
    ],
)
def test_what_is_not_well_formed_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not well-formed"):
        parse(data)


@pytest.mark.parametrize(
    "data",
    [
        b'<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><a>&c;</a>',
        b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        b'<!DOCTYPE a SYSTEM "http://h/a.dtd"><a/>',
        b"<!DOCTYPE a><a/>",
    ],
)
def test_a_document_type_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="document type"):
        parse(data)


def test_what_is_too_deep_or_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    depth = documents.MAX_DEPTH
    assert parse(b"<a>" * depth + b"</a>" * depth).tag == "a"
    with pytest.raises(ValueError, match="too deeply"):
        parse(b"<a>" * (depth + 1) + b"</a>" * (depth + 1))
    monkeypatch.setattr(documents, "MAX_SIZE", 10)
    with pytest.raises(ValueError, match="too large"):
        parse(b"<a>12345</a>")


def test_another_document_is_an_invalid_response() -> None:
    for name in ("ListResult", "ListResponse", "List"):
        assert document(response(f"<{name}/>".encode()), "ListResult").tag == name
    for body in (b"<html/>", b"<a", b"<!DOCTYPE html><ListResult/>"):
        with pytest.raises(InvalidResponse) as caught:
            document(response(body), "ListResult")
        assert caught.value.request is not None
        assert "list-type" not in str(caught.value)


def test_text_is_decoded_if_it_is_coded() -> None:
    root = parse(b"<a><b>a%2Bb+c</b><d/></a>")
    assert text_of(root, "b") == "a%2Bb+c"
    assert text_of(root, "b", "url") == "a+b c"
    assert text_of(root, "d") == text_of(root, "nothing") == ""


def test_a_number_is_one_or_the_response_is_invalid() -> None:
    root = parse(b"<a><b>12</b><c>-1</c><d>1.5</d><e/><g>%s</g></a>" % (b"9" * 5000))
    assert number_in(response(b""), root, "b") == 12
    for name in "cdefg":
        with pytest.raises(InvalidResponse, match=name):
            number_in(response(b""), root, name)


def test_a_completion_names_the_parts() -> None:
    root = parse(completion([(1, '"a<&>"', None), (2, "b", "AAAA==")]))
    assert root.tag == "CompleteMultipartUpload"
    found = [[(each.tag, each.text) for each in part] for part in root]
    assert found == [
        [("PartNumber", "1"), ("ETag", '"a<&>"')],
        [("PartNumber", "2"), ("ETag", "b"), ("ChecksumCRC32", "AAAA==")],
    ]
