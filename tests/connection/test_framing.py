"""Which body follows a head, and does the connection live on? RFC 9112 §6.3 and §9.3 as a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dugong import Headers, InvalidResponse, UnsupportedResponse
from dugong.connection.framing import (
    MAX_LENGTH,
    BodyKind,
    framing_field,
    keep_alive_timeout,
    list_members,
    parse_content_length,
    response_framing,
)
from tests.support.transport import cpu_limit

CHUNKED = ("Transfer-Encoding", "chunked")
FIVE = ("Content-Length", "5")
CLOSE = ("Connection", "close")
KEEP_ALIVE = ("Connection", "keep-alive")


def framing(
    *fields: tuple[str, str], method: str = "GET", status: int = 200, minor_version: int = 1
) -> tuple[BodyKind, int | None, bool]:
    said = [framing_field(name.lower(), value) for name, value in fields]
    return response_framing(method, minor_version, status, said)[:3]


# --- list_members --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "members"),
    [
        ("", []),
        (" \t", []),
        (",", []),
        ("close", ["close"]),
        (" Close\t", ["close"]),
        ("foo, Close", ["foo", "close"]),
        ("foo,,\t,bar ,", ["foo", "bar"]),
        ("a b", ["a b"]),
        ("\xa0close", ["\xa0close"]),
    ],
)
def test_a_list_is_split_into_its_members(value: str, members: list[str]) -> None:
    assert list_members(value) == members


# --- Content-Length ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "length"),
    [
        ("0", 0),
        ("5", 5),
        ("007", 7),
        ("0" * 100 + "7", 7),
        ("5,5", 5),
        ("5, 5", 5),
        ("5 \t,\t 5,05", 5),
        ("999999999999999999", 999999999999999999),
        (str(MAX_LENGTH), MAX_LENGTH),
        (f"{MAX_LENGTH}, {MAX_LENGTH}", MAX_LENGTH),
    ],
)
def test_a_content_length_is_one_number(value: str, length: int) -> None:
    assert parse_content_length(value) == length


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", ",", "5,", ",5", "5,,5", "5;5", "+5", "-5", "-0", "1_0", "1 0", "0x5", "5.0"),
        *(
            "1e1",
            "five",
            "\xb2",
            "\xb9",
            "\u0665",
            "\uff15",
            "\xa05",
            "5\xa0",
            "5\x0b",
            "5\n",
            " 5",
        ),
        *("5, 6", "5,50", "0,00,1", str(MAX_LENGTH + 1), "1" * 20, "9" * 5000),
    ],
)
def test_anything_else_is_no_content_length(value: str) -> None:
    with pytest.raises(ValueError, match="Content-Length"):
        parse_content_length(value)


def test_the_message_about_a_content_length_is_short() -> None:
    with pytest.raises(ValueError, match="Content-Length") as caught:
        parse_content_length("x" * 60000)
    assert len(str(caught.value)) < 200


@given(st.text(st.sampled_from("0159+-_, \t\xa0\xb2x."), max_size=12))
def test_a_content_length_is_plain_digits_or_nothing(value: str) -> None:
    members = [member.strip(" \t") for member in value.split(",")]
    plain = all(member and set(member) <= set("0123456789") for member in members)
    valid = plain and value == value.strip(" \t") and len({int(member) for member in members}) == 1
    if valid:
        assert parse_content_length(value) == int(members[0])
    else:
        with pytest.raises(ValueError, match="Content-Length"):
            parse_content_length(value)


@pytest.mark.parametrize(
    "value",
    ["9" * 65000, "0" * 65000, "5," * 32000, "5, " * 20000 + "6", "5" + " " * 65000, " ," * 30000],
    ids=lambda value: value[:8],
)
def test_a_hostile_content_length_takes_no_long_time(value: str) -> None:
    with cpu_limit(1):
        try:
            parse_content_length(value)
        except ValueError:
            pass


# --- which body ----------------------------------------------------------------------------------


def test_a_length() -> None:
    assert framing(FIVE) == (BodyKind.LENGTH, 5, True)
    assert framing(FIVE, FIVE) == (BodyKind.LENGTH, 5, True)


def test_a_length_of_zero_is_no_body() -> None:
    assert framing(("Content-Length", "0")) == (BodyKind.NONE, 0, True)


def test_lengths_that_disagree_are_invalid() -> None:
    with pytest.raises(InvalidResponse, match="contradictory"):
        framing(FIVE, ("Content-Length", "6"))
    with pytest.raises(InvalidResponse, match="contradictory"):
        framing(("Content-Length", "5, 6"))


@pytest.mark.parametrize(
    "field",
    [
        ("Content-Length", "secret"),
        ("Content-Length", "5, secret"),
        ("Transfer-Encoding", "secret"),
        ("Transfer-Encoding", "secret, chunked"),
        ("Transfer-Encoding", "chunked, secret, chunked"),
    ],
)
def test_no_message_quotes_what_a_field_has_in_place_of_its_framing(field: tuple[str, str]) -> None:
    with pytest.raises((InvalidResponse, UnsupportedResponse), match=field[0]) as caught:
        framing(field)
    assert "secret" not in str(caught.value)


def test_a_coding_that_is_not_supported_is_named() -> None:
    with pytest.raises(UnsupportedResponse, match="'gzip, chunked'"):
        framing(("Transfer-Encoding", "gzip, chunked"))


def test_a_malformed_length_is_invalid_whatever_else_there_is() -> None:
    for method, status in (("GET", 200), ("HEAD", 200), ("GET", 304)):
        for fields in ([("Content-Length", "+5")], [CHUNKED, ("Content-Length", "+5")]):
            with pytest.raises(InvalidResponse, match="malformed"):
                framing(*fields, method=method, status=status)


def test_chunks() -> None:
    assert framing(CHUNKED) == (BodyKind.CHUNKED, None, True)
    assert framing(("transfer-encoding", ", Chunked\t,")) == (BodyKind.CHUNKED, None, True)


@pytest.mark.parametrize("fields", [(CHUNKED, FIVE), (FIVE, CHUNKED)])
def test_chunks_win_over_a_length_but_nothing_is_believed_after_them(
    fields: tuple[tuple[str, str], ...],
) -> None:
    assert framing(*fields) == (BodyKind.CHUNKED, None, False)


def test_chunks_from_an_old_server_are_not_trusted_either() -> None:
    assert framing(CHUNKED, KEEP_ALIVE, minor_version=0) == (BodyKind.CHUNKED, None, False)


@pytest.mark.parametrize(
    "codings",
    [("gzip",), ("gzip, chunked",), ("gzip", "chunked"), ("chunked;q=1",), ("x-chunked",)],
)
def test_an_unknown_transfer_coding_is_unsupported(codings: tuple[str, ...]) -> None:
    with pytest.raises(UnsupportedResponse):
        framing(*(("Transfer-Encoding", coding) for coding in codings))


@pytest.mark.parametrize(
    "codings",
    [("",), (",",), ("chunked, chunked",), ("chunked", "chunked"), ("chunked,gzip,chunked",)],
)
def test_a_malformed_transfer_encoding_is_invalid(codings: tuple[str, ...]) -> None:
    with pytest.raises(InvalidResponse):
        framing(*(("Transfer-Encoding", coding) for coding in codings))


@pytest.mark.parametrize("coding", ["\x1b[31m\x9b" * 10000, "x, " * 20000 + "chunked, chunked"])
def test_the_message_about_a_transfer_coding_is_short_and_printable(coding: str) -> None:
    with pytest.raises((InvalidResponse, UnsupportedResponse)) as caught:
        framing(("Transfer-Encoding", coding))
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def test_without_a_length_the_connection_is_the_body() -> None:
    assert framing() == (BodyKind.UNTIL_CLOSE, None, False)
    assert framing(KEEP_ALIVE) == (BodyKind.UNTIL_CLOSE, None, False)
    assert framing(minor_version=0) == (BodyKind.UNTIL_CLOSE, None, False)


@pytest.mark.parametrize("fields", [(), (FIVE,), (CHUNKED,)])
@pytest.mark.parametrize(
    ("method", "status"),
    [
        ("HEAD", 200),
        ("HEAD", 404),
        ("GET", 100),
        ("GET", 101),
        ("GET", 199),
        ("GET", 204),
        ("GET", 304),
    ],
)
def test_there_is_no_body(method: str, status: int, fields: tuple[tuple[str, str], ...]) -> None:
    assert framing(*fields, method=method, status=status) == (BodyKind.NONE, 0, True)


@pytest.mark.parametrize("fields", [(), (FIVE,), (CHUNKED,), (FIVE, CHUNKED)])
@pytest.mark.parametrize("status", [200, 204, 299])
def test_a_tunnel_has_no_body(status: int, fields: tuple[tuple[str, str], ...]) -> None:
    assert framing(*fields, method="CONNECT", status=status) == (BodyKind.NONE, 0, True)


def test_a_refused_tunnel_has_a_body() -> None:
    assert framing(FIVE, method="CONNECT", status=407) == (BodyKind.LENGTH, 5, True)


def test_methods_are_case_sensitive() -> None:
    assert framing(FIVE, method="head")[0] is BodyKind.LENGTH


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304), ("GET", 204)])
def test_an_ambiguous_head_ends_the_connection_though_there_is_no_body(
    method: str, status: int
) -> None:
    assert framing(FIVE, CHUNKED, method=method, status=status)[2] is False


# --- Keep-Alive ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        (["timeout=5"], 5.0),
        (["timeout=5, max=100"], 5.0),
        (["max=100,Timeout = 15"], 15.0),
        (['timeout="5"'], 5.0),
        (["timeout=0"], 0.0),
        (["timeout=30", "timeout=5"], 5.0),
        (["max=100"], None),
        (["timeout"], None),
        (["timeout="], None),
        (["timeout=-1"], None),
        (["timeout=five, timeout=7"], 7.0),
        (["timeout=\xb2"], None),
        (["timeout=" + "9" * 60000], None),
        ([""], None),
        ([], None),
    ],
)
def test_how_long_an_idle_connection_is_kept(values: list[str], seconds: float | None) -> None:
    fields = [("Keep-Alive", value) for value in values]
    assert keep_alive_timeout(Headers(fields)) == seconds
    said = [framing_field("keep-alive", value) for value in values]
    assert response_framing("GET", 1, 200, said)[3] == seconds


# --- the connection ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minor_version", "connection", "persistent"),
    [
        (1, [], True),
        (1, ["close"], False),
        (1, ["CLOSE"], False),
        (1, ["foo, Close"], False),
        (1, ["foo", "bar , close"], False),
        (1, ["keep-alive, close"], False),
        (1, ["closed", "enclose", "close d"], True),
        (1, ["keep-alive"], True),
        (9, [], True),
        (0, [], False),
        (0, ["Keep-Alive"], True),
        (0, ["foo,keep-alive"], True),
        (0, ["keep-alive", "close"], False),
        (0, ["keep-alives"], False),
    ],
)
def test_the_connection_lives_on(
    minor_version: int, connection: list[str], persistent: bool
) -> None:
    fields = [("Connection", value) for value in connection]
    assert framing(FIVE, *fields, minor_version=minor_version)[2] is persistent
