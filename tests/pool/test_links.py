"""Link fields: what they say of other pages."""

from __future__ import annotations

import random
import time

import pytest

from dugong.pool.links import links_of


def test_a_link_stands_at_its_relation_type() -> None:
    assert links_of(['<https://h/a?page=2>; rel="next"; title="Two"']) == {
        "next": {"url": "https://h/a?page=2", "rel": "next", "title": "Two"}
    }


def test_the_links_of_all_fields_and_members_are_there() -> None:
    links = links_of(["<a>; rel=next, <b>; rel=prev", "<c>; rel=last"])
    assert {rel: link["url"] for rel, link in links.items()} == {
        "next": "a",
        "prev": "b",
        "last": "c",
    }


def test_a_link_with_several_types_stands_at_each() -> None:
    links = links_of(['<a>; rel="next  LAST"'])
    assert list(links) == ["next", "last"]
    assert links["next"] == links["last"] == {"url": "a", "rel": "next  LAST"}


@pytest.mark.parametrize("value", ["<a>", "<a>;", '<a>; rel=""', "<a>; rel", "<a>; title=b"])
def test_a_link_without_a_type_stands_at_its_url(value: str) -> None:
    assert links_of([value])["a"]["url"] == "a"


def test_of_several_links_with_one_type_the_last_counts() -> None:
    assert links_of(["<a>; rel=next, <b>; rel=NEXT"])["next"]["url"] == "b"


def test_of_several_parameters_with_one_name_the_first_counts() -> None:
    assert links_of(["<a>; rel=next; REL=prev; url=b"]) == {"next": {"url": "a", "rel": "next"}}


@pytest.mark.parametrize(
    ("value", "title"),
    [
        ('title="a, <b>; rel=prev"', "a, <b>; rel=prev"),
        (r'title="a \"b\" \\ \c"', r'a "b" \ c'),
        ('TITLE = "a"', "a"),
        ("title=a b ", "a b"),
        ('title=""', ""),
        ("title=", ""),
        ("title", ""),
        ('title="a" b', "a"),
        ("; ;title=a", "a"),
    ],
)
def test_a_value_may_be_quoted_or_not_or_missing(value: str, title: str) -> None:
    links = links_of([f"<u>;{value};rel=next, <v>; rel=last"])
    assert links["next"] == {"url": "u", "title": title, "rel": "next"}
    assert links["last"] == {"url": "v", "rel": "last"}


@pytest.mark.parametrize("value", ["", ",", "a", "a; rel=next", "<a; rel=next", ">a<"])
def test_what_has_no_url_is_no_link(value: str) -> None:
    assert links_of([value]) == {}


def test_a_link_behind_what_is_none_is_found() -> None:
    assert links_of(["a; rel=prev, , < b >; rel=next"]) == {"next": {"url": "b", "rel": "next"}}


@pytest.mark.parametrize(
    "part",
    [
        "<",
        ">",
        "<>",
        ";",
        '"',
        "\\",
        '"\\',
        '<>;a="',
        '<>;a="\\',
        ";a=",
        ";a",
        " ",
        "<>;a ",
        "<>;rel=a",
    ],
)
def test_no_value_takes_a_long_time(part: str) -> None:
    began = time.process_time()
    for value in (part * 60_000, "<>" + part * 60_000, '<>;a="' + part * 60_000):
        links_of([value])
    assert time.process_time() - began < 5


def test_no_value_raises() -> None:
    dice = random.Random(8288)
    parts = ["<", ">", ";", ",", '"', "\\", "=", " ", "\t", "rel", "a", "*", "\x85", "\xff"]
    for _ in range(5000):
        links_of(["".join(dice.choices(parts, k=dice.randrange(20)))])
