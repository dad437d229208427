"""A soak of two seconds, and whether a soak would notice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dugong import Headers, Request, Response
from tests.soak.clients import Place, Question
from tests.soak.ledger import Ask, Ledger
from tests.soak.server import answer_line, digest, filling

ROOT = Path(__file__).parent.parent.parent


def question(number: int, method: str = "GET", size: int = 100) -> Question:
    request = Request(method, f"http://127.0.0.1/{number}/{size}")
    ask = Ask(str(number), method, method == "POST")
    place = Place("honest", "http://127.0.0.1")
    return Question(ask, request, place, size, digest(b""), True, None)


def answer(asked: Question, request: Request | None = None, status: int = 200) -> Response:
    """Return the right answer to *asked*, given to *request*."""
    line = answer_line(asked.request.method, asked.request.target, asked.digest)
    headers = Headers([("Answers", line)])
    return Response(status, "", headers, filling(line, asked.size), request or asked.request)


def test_a_pool_does_well_in_a_soak_of_two_seconds() -> None:
    command = [sys.executable, "-X", "dev", "-m", "tests.soak", "--seconds", "2", "--seed", "565"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all is well\n")


def test_the_right_answer_is_right() -> None:
    asked = question(1)
    given = answer(asked)
    assert asked.complaint(given, given.body, True) == ""
    assert asked.complaint(given, given.body[:10], False) == ""


def test_the_answer_to_another_request_is_noticed() -> None:
    asked, other = question(1), question(2)
    given = answer(other, asked.request)
    assert "got the answer 'GET /2/100" in asked.complaint(given, given.body, True)
    assert "got the answer to" in asked.complaint(answer(other), b"", False)


@pytest.mark.parametrize("wrong", [b"", b"GET /1", filling("GET /2/100 x", 100)])
def test_a_wrong_body_is_noticed(wrong: bytes) -> None:
    asked = question(1)
    assert "got a wrong body" in asked.complaint(answer(asked), wrong, True)


@pytest.mark.parametrize(
    ("method", "outcome", "seen", "taken", "problem"),
    [
        ("GET", "answered", 2, 2, ""),
        ("GET", "failed", 0, 0, ""),
        ("POST", "answered", 1, 1, ""),
        ("POST", "failed", 1, 0, ""),
        ("POST", "failed", 2, 1, "was sent 2 times"),
        ("POST", "answered", 1, 0, "has succeeded without having come once, and whole"),
        ("GET", "unsent", 1, 0, "was said not to have been sent"),
        ("GET", "answered", 0, 0, "was never asked"),
    ],
)
def test_the_ledger_balances_or_says_what_does_not(
    method: str, outcome: str, seen: int, taken: int, problem: str
) -> None:
    ledger = Ledger()
    ask = question(1, method).ask
    ledger.submit(ask)
    ledger.end(ask, outcome)
    ledger.balance({"1": seen}, {"1": taken})
    assert len(ledger.problems) == bool(problem)
    assert all(problem in found for found in ledger.problems)


def test_the_ledger_says_what_nothing_has_become_of() -> None:
    ledger = Ledger()
    ledger.submit(question(1).ask)
    ledger.balance({}, {})
    assert "nothing has become of" in ledger.problems[0]


def test_the_ledger_says_what_nobody_has_asked_for() -> None:
    ledger = Ledger()
    ledger.balance({"1": 1}, {"1": 1})
    assert "1 requests came, and only 0 were made" in ledger.problems[0]


def test_the_ledger_says_what_has_ended_twice() -> None:
    ledger = Ledger()
    ask = question(1).ask
    ledger.submit(ask)
    ledger.end(ask, "answered")
    ledger.end(ask, "cancelled")
    assert "has ended twice" in ledger.problems[0]
