"""Challenges: what is read of them, whatever a server sends."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dugong.client.challenges import parse_challenges
from tests.support.auth import SECRET


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        (["", " , ,"], []),
        (["Basic"], [("basic", None, {})]),
        (["Basic realm=a"], [("basic", None, {"realm": "a"})]),
        (['BASIC ReAlM="a b"'], [("basic", None, {"realm": "a b"})]),
        (
            ['Basic realm = "a" ,charset\t=\tUTF-8'],
            [("basic", None, {"realm": "a", "charset": "UTF-8"})],
        ),
        ([r'X a="\"\\\c, b=c"'], [("x", None, {"a": '"\\c, b=c'})]),
        (["NTLM TlRMTVM="], [("ntlm", "TlRMTVM=", {})]),
        (["Negotiate abc", "NTLM"], [("negotiate", "abc", {}), ("ntlm", None, {})]),
        (
            ['Basic, Negotiate a==, Digest realm="r", qop="a,b", Bearer'],
            [
                ("basic", None, {}),
                ("negotiate", "a==", {}),
                ("digest", None, {"realm": "r", "qop": "a,b"}),
                ("bearer", None, {}),
            ],
        ),
        (['Digest realm="r"', 'nonce="n"'], [("digest", None, {"realm": "r", "nonce": "n"})]),
        (["Basic realm=a, realm=b"], [("basic", None, {"realm": "a"})]),
        (["Basic ,,realm=a"], [("basic", None, {"realm": "a"})]),
    ],
)
def test_challenges_are_read_from_one_field_or_several(
    values: list[str], expected: list[tuple[str, str | None, dict[str, str]]]
) -> None:
    assert parse_challenges(values) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (['realm="no scheme"', "Basic"], [("basic", None, {})]),
        (["Basic a=1, realm=, x=1"], [("basic", None, {"a": "1", "x": "1"})]),
        (['Basic realm="a"b, x=1'], [("basic", None, {"x": "1"})]),
        (['Basic x=1, realm="a, Digest y=2'], [("basic", None, {"x": "1"})]),
        (['Basic x=1, realm="a\\"', "NTLM"], [("basic", None, {"x": "1"}), ("ntlm", None, {})]),
        (['@ "Digest, x", Basic'], [("basic", None, {})]),
        (["B\u00e4sic realm=a, Basic"], [("basic", None, {})]),
        (["Basic\r\nX: y"], []),
    ],
)
def test_what_is_malformed_is_left_out_and_what_surrounds_it_is_kept(
    values: list[str], expected: list[tuple[str, str | None, dict[str, str]]]
) -> None:
    assert parse_challenges(values) == expected


@given(st.lists(st.text(alphabet='ab=", \\\t\n\u00e4\u20ac')))
def test_no_text_makes_the_parser_raise(values: list[str]) -> None:
    for challenge in parse_challenges(values):
        assert "=" not in challenge.scheme


@pytest.mark.parametrize(
    "piece", ['a="', 'a=\\"', "a ", "a=", "a  ", ",", '"', "a=b ", '"\\', "a, ", "=", "\\", "a"]
)
def test_the_time_of_parsing_is_linear(piece: str) -> None:
    # With the square of the length, this would take an hour.
    started = time.process_time()
    parse_challenges([piece * 300_000, 'Basic realm="' + piece * 300_000])
    assert time.process_time() - started < 20


def test_the_repr_of_a_challenge_has_no_parameters() -> None:
    (challenge,) = parse_challenges([f'Basic realm="{SECRET}"'])
    assert repr(challenge) == "<Challenge basic>"
