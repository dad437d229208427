"""What the files of a part are called, and which files are some."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dugong.client import partname
from dugong.client.part import Part
from dugong.client.partname import (
    check_is_no_part,
    check_is_no_special,
    hidden_for,
    is_left,
    left_among,
    may_be_part,
    read_state,
    state_of,
    unique_beside,
    visible_for,
)
from tests.support.server import TIMEOUT

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


@pytest.mark.parametrize("directory", ["/proc/self/fd", "/dev/fd"])
def test_what_a_descriptor_leads_to_is_not_replaced(tmp_path: Path, directory: str) -> None:
    if not os.path.exists(directory):
        pytest.skip("the system has no such names")
    with open(tmp_path / "file", "wb") as file:
        with pytest.raises(OSError, match="descriptor"):
            check_is_no_special(f"{directory}/{file.fileno()}")
        check_is_no_special(str(tmp_path / "file"))


def test_what_is_under_way_is_left(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    with Part(path, "http://host/file"):
        assert is_left(path)
    assert not is_left(path)


# --- what is left in a directory ------------------------------------------------------------------

LONG = "ü" * 100


def left_in(folder: Path) -> list[str]:
    return sorted(left_among(os.listdir(folder), str(folder)))


@pytest.mark.parametrize("name", ["file", LONG])
@pytest.mark.parametrize("hidden", [False, True])
def test_what_a_download_leaves_is_known(tmp_path: Path, name: str, hidden: bool) -> None:
    with Part(str(tmp_path / name), "http://host/file", hidden=hidden) as part:
        part.begin('"1"', 10)
        part.write(0, b"12345")
    (tmp_path / "other").touch()
    assert left_in(tmp_path) == sorted({*os.listdir(tmp_path)} - {"other"})
    assert len(left_in(tmp_path)) == 2


@pytest.mark.parametrize("options", [{}, {"url": "http://host"}, {"url": "/", "hidden": True}])
def test_what_is_under_way_is_known(tmp_path: Path, options: dict[str, Any]) -> None:
    with Part(str(tmp_path / "file"), **options):
        assert left_in(tmp_path) == sorted(os.listdir(tmp_path)) != []


@pytest.mark.parametrize("name", ["file", LONG])
@pytest.mark.parametrize("make", [visible_for, hidden_for])
def test_a_state_that_was_not_written_to_its_end_is_known(
    tmp_path: Path, name: str, make: Callable[[str], str]
) -> None:
    (tmp_path / make(name)).touch()
    (tmp_path / state_of(make(name))).write_text(json.dumps(STATE))
    (tmp_path / hidden_for(state_of(make(name)))).write_text("{")
    assert left_in(tmp_path) == sorted(os.listdir(tmp_path))


def test_a_hidden_part_is_known_by_the_name_of_its_file(tmp_path: Path) -> None:
    """Before anything is noted of it: by its stem, which may be cut short, or beside the file."""
    for name in ("file", LONG):
        (tmp_path / hidden_for(name)).touch()
        (tmp_path / hidden_for(state_of(hidden_for(name)))).touch()
    not_cut = [hidden_for("file"), hidden_for(state_of(hidden_for("file")))]
    noted = hidden_for(state_of(hidden_for(LONG)))  # beside its part
    assert left_in(tmp_path) == sorted([*not_cut, noted])
    (tmp_path / LONG).touch()
    assert left_in(tmp_path) == sorted([*not_cut, noted, hidden_for(LONG)])


def test_no_other_file_is_taken_for_one(tmp_path: Path) -> None:
    digest = "0123456789abcdef"
    for name in (
        *("a.part", "b.part.state", ".part", ".part.state", "c.PART", ".dugong-1-2-3.part"),
        *(f".a.{digest}.part", f".a.{digest}.part.state", f".dugong-{digest}-1-1.part.bak"),
        *(f"{hidden_for('a')}.bak", hidden_for("a")[1:], f"x{unique_beside('')}"),
    ):
        (tmp_path / name).write_text(json.dumps({"url": "http://host", "size": 7}))
    (tmp_path / hidden_for("directory")).mkdir()
    (tmp_path / hidden_for("link")).symlink_to("a.part")
    os.mkfifo(tmp_path / hidden_for("pipe"))
    (tmp_path / "d.part.state").mkdir()
    assert left_in(tmp_path) == []


def test_a_name_that_a_part_takes_and_gives_back_at_once_is_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part of ``a`` notes its state before it looks if another file is to have that name."""
    other = str(tmp_path / "a.part.state")
    is_noted, was_seen = threading.Event(), threading.Event()

    def look(part: Part, name: str) -> bool:
        is_noted.set()
        assert was_seen.wait(TIMEOUT)
        return name == other

    def read(name: str) -> object:
        state = read_state(name)
        was_seen.set()
        return state

    def begin() -> None:
        with Part(str(tmp_path / "a"), "http://host/a"):
            pass

    monkeypatch.setattr(Part, "_is_wanted", look)
    with ThreadPoolExecutor(1) as executor:
        begun = executor.submit(begin)
        assert is_noted.wait(TIMEOUT)
        monkeypatch.setattr(partname, "read_state", read)
        check_is_no_part(other)
        begun.result(TIMEOUT)
