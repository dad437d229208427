"""What a client sends: JSON, forms, and forms with files, streamed and the same each time."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import threading
import tracemalloc
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dugong import FilePart, Request, RetryPolicy
from dugong.client.multipart import Multipart, encode_body
from dugong.pool.body import RequestBody, can_be_sent_again, request_body
from tests.support.pool import each, open_site
from tests.support.server import TIMEOUT, Peer, ReceivedRequest

DATA = Random(13).randbytes(600_000)


def made_of(body: Any, content_length: int | None = None) -> RequestBody:
    made = request_body(body, content_length)
    assert made is not None
    return made


def send(body: Any) -> bytes:
    """Do as the sender does with *body*, which is a `RequestBody` or what one is made of."""
    made = body if isinstance(body, RequestBody) else made_of(body)
    made.rewind()
    try:
        sent = b"".join(bytes(piece) for part in made.segments() for piece in part.pieces())
    finally:
        made.end_sending()
    assert made.length in (len(sent), None)
    return sent


def parsed(content_type: str, body: bytes) -> list[Message]:
    """Return the parts of *body*, as the email package reads them."""
    message = BytesParser().parsebytes(b"Content-Type: %s\r\n\r\n" % content_type.encode() + body)
    assert message.is_multipart()
    assert message.defects == []
    assert (message.preamble, message.epilogue) == (None, "")
    parts = message.get_payload()
    assert isinstance(parts, list)
    return [part for part in parts if isinstance(part, Message)]


def received(multipart: Multipart) -> list[tuple[object, object, str | None, bytes]]:
    """Return (name, file name, type, content) of each part, as it was received."""
    found = []
    for part in parsed(multipart.content_type, send(multipart)):
        name = part.get_param("name", header="Content-Disposition")
        content = part.get_payload(decode=True)
        assert part.get_content_disposition() == "form-data"
        assert isinstance(content, bytes)
        found.append((name, part.get_filename(), part["Content-Type"], content))
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that holds DATA."""
    path = tmp_path / "photo.png"
    path.write_bytes(DATA)
    return path


# --- encode_body ------------------------------------------------------------------------------


def test_json_is_compact_utf_8() -> None:
    value = {"a": [1, 2.5, None, True], "ä": "\N{SNOWMAN}"}
    body, fields = encode_body(json=value)
    assert body == '{"a":[1,2.5,null,true],"ä":"\N{SNOWMAN}"}'.encode()
    assert fields == [("Content-Type", "application/json")]


@pytest.mark.parametrize("value", [{}, [], "", 0, False])
def test_a_json_value_that_is_false_is_sent(value: object) -> None:
    assert encode_body(json=value)[0] == json.dumps(value).encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_what_is_no_json_is_a_value_error(value: object) -> None:
    with pytest.raises(ValueError, match=r"JSON|surrogate"):
        encode_body(json=[value])


def test_a_json_value_of_another_type_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        encode_body(json={"a": b"bytes"})


def test_data_is_a_form() -> None:
    body, fields = encode_body(data={"a": "b c", "d": [1, None]})
    assert body == b"a=b+c&d=1&d="
    assert fields == [("Content-Type", "application/x-www-form-urlencoded")]


@pytest.mark.parametrize("data", [b"a=1", "a=1", bytearray(b"a"), io.BytesIO(b"a"), b""])
def test_data_that_is_no_form_is_a_type_error_that_names_body(data: Any) -> None:
    with pytest.raises(TypeError, match=r"data must be a mapping .*: give it as body"):
        encode_body(data=data)
    with pytest.raises(TypeError, match=r"data must be a mapping .*: give it as body"):
        encode_body(data=data, files={"a": b""})


def test_files_are_multipart_with_the_fields_of_data_first() -> None:
    body, fields = encode_body(data={"b": ["1", True]}, files={"a": b"data"})
    assert isinstance(body, Multipart)
    assert fields == [("Content-Type", body.content_type)]
    assert received(body) == [
        ("b", None, None, b"1"),
        ("b", None, None, b"true"),
        ("a", "upload", "application/octet-stream", b"data"),
    ]


def test_a_body_is_sent_as_it_is() -> None:
    body = iter([b"data"])
    assert encode_body(body=body) == (body, [])


def test_empty_data_and_files_are_none() -> None:
    assert encode_body() == encode_body(data={}, files=[]) == (None, [])
    assert encode_body(json=1, data={}, files={})[0] == b"1"
    assert encode_body(body=b"") == (b"", [])


@pytest.mark.parametrize(
    "kinds",
    [("json", "data"), ("json", "files"), ("json", "body"), ("data", "body"), ("files", "body")],
)
def test_more_than_one_kind_of_body_is_refused(kinds: tuple[str, ...]) -> None:
    values: dict[str, Any] = {"json": 1, "data": {"a": 1}, "files": {"a": b"1"}, "body": b"1"}
    with pytest.raises(ValueError, match="one body: give json, body, or data and files"):
        encode_body(**{kind: values[kind] for kind in kinds})


# --- the parts --------------------------------------------------------------------------------


def test_the_bytes_of_a_form_are_these() -> None:
    form = Multipart({"a": ("x.txt", "text", None, {"X-A": "1"})}, {"b": "2"}, boundary="limit")
    assert form.content_type == "multipart/form-data; boundary=limit"
    assert send(form).split(b"\r\n") == [
        b"--limit",
        b'Content-Disposition: form-data; name="b"',
        b"",
        b"2",
        b"--limit",
        b'Content-Disposition: form-data; name="a"; filename="x.txt"',
        b"Content-Type: text/plain",
        b"X-A: 1",
        b"",
        b"text",
        b"--limit--",
        b"",
    ]


@pytest.mark.parametrize(
    ("part", "filename", "media_type", "content"),
    [
        (b"data", "upload", "application/octet-stream", b"data"),
        (bytearray(b"data"), "upload", "application/octet-stream", b"data"),
        (memoryview(b"data"), "upload", "application/octet-stream", b"data"),
        ("t\u00e4xt", "upload", "application/octet-stream", "t\u00e4xt".encode()),
        (io.BytesIO(b"data"), "upload", "application/octet-stream", b"data"),
        (("a.json", b"{}"), "a.json", "application/json", b"{}"),
        (("a.JSON", b"{}"), "a.JSON", "application/json", b"{}"),
        (("a.tar.gz", b""), "a.tar.gz", "application/octet-stream", b""),
        (("a", b""), "a", "application/octet-stream", b""),
        (("data:text/html,x", b""), "data:text/html,x", "application/octet-stream", b""),
        (("a.json", b"{}", "text/x"), "a.json", "text/x", b"{}"),
        (("a.json", b"{}", None), "a.json", "application/json", b"{}"),
        (("a.json", b"{}", None, {"content-type": "text/y"}), "a.json", "text/y", b"{}"),
        ((None, b"data"), None, None, b"data"),
        ((None, "{}", "application/json"), None, "application/json", b"{}"),
        (("", b""), "", "application/octet-stream", b""),
    ],
)
def test_a_part_may_be_given_so(part: Any, filename: str, media_type: str, content: bytes) -> None:
    expected = [("a", filename, media_type, content)]
    assert received(Multipart({"a": part})) == expected
    assert received(Multipart([("a", part), ("a", part)])) == expected * 2


def test_a_file_has_its_name_without_directories(path: Path) -> None:
    with path.open("rb") as file:
        expected = ("photo.png", "image/png", DATA)
        for part in (file, FilePart(file)):
            assert received(Multipart({"a": part})) == [("a", *expected)]
    with open(os.fsencode(path), "rb") as file:
        assert received(Multipart({"a": file}))[0][1] == "photo.png"
    with open(os.open(path, os.O_RDONLY), "rb") as file:  # whose name is its descriptor
        assert received(Multipart({"a": file}))[0][1] == "upload"


@pytest.mark.parametrize("bad", ["\r\n", '"', "\r\nX: y\r\n\r\n", '"; filename="x', "\n"])
def test_a_name_cannot_end_its_line_or_its_quotes(bad: str) -> None:
    form = Multipart({f"a{bad}b": (f"c{bad}d", b"")}, {f"e{bad}f": ""}, boundary="limit")
    escaped = bad.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A").encode()
    assert [line for line in send(form).split(b"\r\n") if line.startswith(b"Content-D")] == [
        b'Content-Disposition: form-data; name="e%sf"' % escaped,
        b'Content-Disposition: form-data; name="a%sb"; filename="c%sd"' % (escaped, escaped),
    ]


def test_names_are_utf_8_or_the_bytes_that_a_file_system_has() -> None:
    sent = send(Multipart({"\u00e4": ("\N{SNOWMAN}\udcff.png", b"")}))
    assert 'name="\u00e4"; filename="\N{SNOWMAN}'.encode() + b'\xff.png"\r\n' in sent
    with pytest.raises(ValueError, match="a name of a part has a lone surrogate"):
        Multipart({"a": ("\ud800", b"")})


@pytest.mark.parametrize(
    "headers", [{"X\r\n": "a"}, {"X": "a\r\nsecret"}, [("X y", "a")], {"X": "secret\N{SNOWMAN}"}]
)
def test_a_header_of_a_part_cannot_end_its_line(headers: Any) -> None:
    with pytest.raises(ValueError, match="header") as info:
        Multipart({"a": ("x", b"", None, headers)})
    assert "secret" not in str(info.value)
    with pytest.raises(ValueError, match="Content-Type"):
        Multipart({"a": ("x", b"", "text/plain\r\nX: secret")})


def test_a_header_of_a_part_is_not_given_twice() -> None:
    with pytest.raises(ValueError, match="its Content-Disposition already"):
        Multipart({"a": ("x", b"", None, {"content-disposition": "attachment"})})
    with pytest.raises(ValueError, match="given twice"):
        Multipart({"a": ("x", b"", "text/x", {"Content-Type": "text/y"})})


@pytest.mark.parametrize(
    "part",
    [None, 7, [b"data"], iter([b"data"]), {}, lambda: b"data", ("x", None), ("x", ("y", b"data"))],
)
def test_a_part_of_another_type_is_a_type_error(part: Any) -> None:
    with pytest.raises(TypeError, match="must be a binary file, a FilePart, bytes or str"):
        Multipart({"a": part})


@pytest.mark.parametrize("part", [(), (b"data",), ("x", b"", None, {}, 1)])
def test_a_tuple_of_another_length_is_refused(part: Any) -> None:
    with pytest.raises(ValueError, match=r"must be \(file name, content\)"):
        Multipart({"a": part})


@pytest.mark.parametrize("files", [b"data", 7, ["a"], [("a",)], {1: b""}, {"a": (1, b"")}])
def test_files_of_another_type_are_a_type_error(files: Any) -> None:
    with pytest.raises(TypeError, match="file"):
        Multipart(files)


def test_a_file_in_text_mode_is_a_type_error(path: Path) -> None:
    with path.open() as file, pytest.raises(TypeError, match="text mode"):
        Multipart({"a": file})  # type: ignore[dict-item]  # that is the mistake
    with pytest.raises(TypeError, match="text mode"):
        Multipart({"a": ("x", io.StringIO("text"))})  # type: ignore[dict-item]  # that, too


def test_a_closed_file_is_refused(path: Path) -> None:
    with path.open("rb") as file:
        pass
    with pytest.raises(ValueError, match="closed"):
        Multipart({"a": file})


@pytest.mark.parametrize("boundary", ["", "a b", 'a"', "a\r\n", "\u00e4", "a" * 71])
def test_a_boundary_that_would_need_quotes_is_refused(boundary: str) -> None:
    with pytest.raises(ValueError, match="boundary must be"):
        Multipart({"a": b""}, boundary=boundary)


def test_boundaries_are_made_at_random() -> None:
    types = {Multipart({"a": b""}).content_type for _ in range(100)}
    assert len(types) == 100
    assert {len(value.rpartition("=")[2]) for value in types} == {32}


def test_any_parts_are_received_as_they_were_given() -> None:
    random = Random(7)
    texts = ("", "\r\n", "--", "--limit", "\r\n--limi", "a" * 70_000, "\r", "\n\n", "\u00e4")
    for _ in range(200):
        contents = [
            "".join(random.choices(texts, k=random.randrange(4))).encode() for _ in range(5)
        ]
        form = Multipart(
            [
                (f"n{n}", (f"f{n}.bin", random.choice((bytes, bytearray, io.BytesIO))(content)))
                for n, content in enumerate(contents)
            ],
        )
        assert [content for *_, content in received(form)] == contents


# --- as a body --------------------------------------------------------------------------------


def test_a_small_form_is_in_memory_so_that_it_can_be_pipelined() -> None:
    body = made_of(Multipart({"a": b"1", "b": "2"}, {"c": 3}))
    assert body.data is not None
    assert bytes(body.data) == send(body)


def test_what_is_large_is_neither_copied_nor_read_before_it_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    data = bytes(20_000_000)
    with path.open("rb") as file:
        tracemalloc.start()
        try:
            body = made_of(Multipart({"a": file, "b": data, "c": FilePart(file, 7)}))
            body.rewind()
            sent = sum(len(piece) for part in body.segments() for piece in part.pieces())
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert sent == body.length
    assert sent > 200_000_000
    assert most < 2_000_000


def test_a_form_has_a_length_if_all_of_its_parts_have_one(path: Path) -> None:
    reads, writes = os.pipe()
    with path.open("rb") as file, open(reads, "rb") as pipe, open(writes, "wb") as end:
        assert made_of(Multipart({"a": file, "b": FilePart(file, 5, 6)})).length is not None
        form = Multipart({"a": file, "b": pipe})
        body = made_of(form)
        assert (body.length, body.rewindable) == (None, True)
        end.write(b"from the pipe")
        end.close()
        sent = send(body)
        assert [part.get_payload(decode=True) for part in parsed(form.content_type, sent)] == [
            DATA,
            b"from the pipe",
        ]
        assert not body.rewindable
        with pytest.raises(ValueError, match="cannot be rewound"):
            body.rewind()
        with pytest.raises(ValueError, match="an earlier request has used it"):
            request_body(form)


def test_the_length_of_a_form_without_one_may_be_declared() -> None:
    class OnlyReads:
        def __init__(self) -> None:
            self.read = io.BytesIO(b"data").read

    length = len(send(Multipart({"a": ("x", b"data")}, boundary="limit")))
    form = Multipart({"a": ("x", OnlyReads())}, boundary="limit")
    assert len(send(made_of(form, length))) == length
    form = Multipart({"a": ("x", OnlyReads())}, boundary="limit")
    with pytest.raises(ValueError, match="ended 1 bytes short"):
        send(made_of(form, length + 1))
    form = Multipart({"a": ("x", OnlyReads())}, boundary="limit")
    with pytest.raises(ValueError, match="longer than its length"):
        send(made_of(form, length - 1))
    with pytest.raises(ValueError, match="contradicts a body"):
        request_body(Multipart({"a": io.BytesIO(b"data")}), length - 1)


def test_a_form_is_the_same_each_time_it_is_sent(path: Path) -> None:
    memory = io.BytesIO(DATA)
    memory.seek(10)
    with path.open("rb") as file:
        file.seek(20)
        parts = [
            ("a", file),
            ("b", memory),
            ("c", memory),
            ("d", FilePart(memory, 3, 4)),
            ("e", file),
        ]
        form = Multipart(parts, {"f": "g"})
        body = made_of(form)
        assert send(body) == send(body) == send(form)
        assert [content for *_, content in received(form)] == [
            b"g", DATA[20:], DATA[10:], DATA[10:], DATA[3:7], DATA[20:],
        ]  # fmt: skip
        assert (file.tell(), memory.tell()) == (20, 10)


def test_a_bytearray_can_change_its_size_when_its_form_was_sent() -> None:
    data = bytearray(b"data")
    body = made_of(Multipart({"a": data}))
    with pytest.raises(BufferError):
        data.clear()
    send(body)
    body.release()
    data.clear()


def test_a_file_that_shrinks_is_not_a_whole_form(path: Path) -> None:
    with path.open("rb") as file:
        body = made_of(Multipart({"a": file}))
        os.truncate(path, 100)
        with pytest.raises(ValueError, match=f"ended {len(DATA) - 100} bytes short"):
            send(body)


def test_a_form_can_be_copied_and_pickled_if_its_parts_can() -> None:
    form = Multipart({"a": io.BytesIO(b"data")}, {"b": "c"})
    for again in (copy.copy(form), copy.deepcopy(form), pickle.loads(pickle.dumps(form))):
        assert again.content_type == form.content_type
        assert send(again) == send(form)


# --- from end to end --------------------------------------------------------------------------


def echo(peer: Peer, request: ReceivedRequest) -> None:
    peer.respond(request.body)


def test_the_files_of_a_form_are_sent_by_the_kernel(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sendfile = os.sendfile
    sent: list[tuple[int, int]] = []

    def noting(out: int, source: int, offset: int, count: int) -> int:
        done = sendfile(out, source, offset, count)
        sent.append((offset, done))
        return done

    monkeypatch.setattr(os, "sendfile", noting)
    with path.open("rb") as file, open_site(each(echo)) as site:
        form = Multipart(
            {"a": file, "b": FilePart(file, 7, 8), "c": b"", "d": FilePart(file, 9, 0)}
        )
        assert site.pool.post(site.url(), form).body == send(form)
        assert site.pool.put(site.url(), b"next").body == b"next"
    assert sum(done for _, done in sent) == len(DATA) + 8
    assert sent[-1] == (7, 8)


def test_a_form_of_unknown_length_goes_in_chunks() -> None:
    reads, writes = os.pipe()
    with open(reads, "rb") as pipe, open(writes, "wb") as end, open_site(each(echo)) as site:
        form = Multipart({"a": pipe, "b": b"data"}, boundary="limit")
        end.write(b"from the pipe")
        end.close()
        body = site.pool.post(site.url(), form).body
    assert [part.get_payload(decode=True) for part in parsed(form.content_type, body)] == [
        b"from the pipe",
        b"data",
    ]


def test_a_form_is_sent_again_when_the_connection_is_lost(path: Path) -> None:
    bodies = []

    def lose(peer: Peer) -> None:
        bodies.append(peer.request().body)

    def keep(peer: Peer) -> None:
        bodies.append(peer.request().body)
        peer.respond()

    retry = RetryPolicy(backoff=0)
    with path.open("rb") as file, open_site(lose, keep, retry=retry) as site:
        form = Multipart({"a": file, "b": io.BytesIO(b"data")})
        assert len(site.pool.put(site.url(), form).attempts) == 1
        assert bodies == [send(form)] * 2


def test_a_file_that_shrinks_fails_the_request_and_not_the_next(path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        os.truncate(path, 5)
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        peer.until_eof()

    with path.open("rb") as file, open_site(script, each(echo)) as site:
        form = Multipart({"a": file, "b": FilePart(file, 7, 8)})
        with pytest.raises(ValueError, match="bytes short of its length"):
            site.pool.put(site.url(), form, expect100=True)
        assert site.pool.put(site.url(), b"next").body == b"next"


def test_several_requests_may_send_one_form_at_once(path: Path) -> None:
    complete = threading.Barrier(4)

    def together(peer: Peer, request: ReceivedRequest) -> None:
        complete.wait(TIMEOUT)
        peer.respond(request.body)

    with path.open("rb") as file, open_site(*[each(together)] * 4) as site:
        form = Multipart({"a": file, "b": FilePart(file, 100_000, 100_000)}, {"c": "d"})
        responses = site.pool.map([Request("PUT", site.url(), body=form)] * 4)
        assert [resp.body for resp in responses] == [send(form)] * 4


class Once:
    """A file that can be read once."""

    __slots__ = ()

    def read(self, size: int) -> bytes:
        return b""


def test_a_form_can_be_sent_again_if_all_of_its_parts_can() -> None:
    assert can_be_sent_again(Multipart({"f": b"content", "g": io.BytesIO(b"content")}))
    assert not can_be_sent_again(Multipart({"f": b"content", "g": ("name", Once())}))
