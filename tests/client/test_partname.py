"""What the files of a part are called, and which files are some."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dugong.client.part import Part
from dugong.client.partname import (
    check_is_no_part,
    hidden_for,
    is_left,
    may_be_part,
    read_state,
    visible_for,
)

STATE = {"url": "", "validator": "", "size": None, "ranges": []}


def test_a_hidden_name_follows_from_the_path_alone() -> None:
    assert hidden_for("a/b") == hidden_for("a/b")
    assert hidden_for("a/b").startswith("a/.b.")
    assert hidden_for("a/b")[2:] == hidden_for("b")


def test_hidden_names_of_different_files_differ() -> None:
    paths = ["a", "b", "n" * 200, "n" * 201, "ü", "\udcff", ".a", "a.part"]
    assert len({hidden_for(path) for path in paths}) == len(paths)


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127, "🐘" * 63, "a" + "🐘" * 63, "\udcff" * 255])
def test_a_hidden_name_is_short_and_text(name: str) -> None:
    hidden = hidden_for(f"folder/{name}").removeprefix("folder/")
    assert len(os.fsencode(hidden)) <= 80
    assert hidden.isprintable()


@pytest.mark.parametrize("make", [visible_for, hidden_for])
def test_what_has_a_state_is_a_part(tmp_path: Path, make: object) -> None:
    path = str(tmp_path / "file")
    name = make(path)  # type: ignore[operator]  # it is one of two functions
    Path(name).write_bytes(b"")
    assert read_state(name) is None
    assert not is_left(path)
    check_is_no_part(name)
    Path(f"{name}.state").write_text(json.dumps(STATE))
    assert read_state(name) == STATE
    assert is_left(path)
    for each in (name, f"{name}.state"):
        with pytest.raises(FileExistsError, match="partial file of another download"):
            check_is_no_part(each)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"url": ""}', "[" * 100_000, "\xff"])
def test_what_is_no_state_makes_no_part(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.part.state").write_bytes(text.encode("latin-1"))
    assert read_state(str(tmp_path / "a.part")) is None
    check_is_no_part(str(tmp_path / "a.part"))


def test_what_is_no_plain_file_is_no_state(tmp_path: Path) -> None:
    (tmp_path / "state").write_text(json.dumps(STATE))
    (tmp_path / "a.part.state").symlink_to("state")
    (tmp_path / "b.part.state").mkdir()
    os.mkfifo(tmp_path / "c.part.state")  # which is not waited for
    assert [read_state(str(tmp_path / f"{name}.part")) for name in "abc"] == [None] * 3


def test_only_some_names_can_be_parts() -> None:
    assert [may_be_part(path) for path in ("a.part", "a.part.state", "a.par", "a.state")] == [
        True,
        True,
        False,
        False,
    ]


def test_what_is_under_way_is_left(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    with Part(path, "http://host/file"):
        assert is_left(path)
    assert not is_left(path)
