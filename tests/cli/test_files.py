"""Files for bodies: whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dugong.cli.files import FileError, Partial, save

URL = "http://h/a"


def files(directory: Path) -> dict[str, bytes]:
    return {entry: (directory / entry).read_bytes() for entry in os.listdir(directory)}


# --- whole bodies ---------------------------------------------------------------------------------


def test_a_body_becomes_a_file(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    assert save(b"body", path) == path
    assert files(tmp_path) == {"a": b"body"}


def test_a_file_has_the_permissions_that_the_user_wants(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save(b"", str(tmp_path / "a"))
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "a").symlink_to("precious")
    save(b"body", str(tmp_path / "a"))
    assert files(tmp_path) == {"a": b"body", "precious": b"precious"}
    assert not (tmp_path / "a").is_symlink()


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(FileError, match="cannot write the file: Is a directory"):
        save(b"body", str(tmp_path / "a"))
    with pytest.raises(FileError, match="No such file or directory"):
        save(b"body", str(tmp_path / "b" / "c"))
    assert os.listdir(tmp_path) == ["a"]


def test_the_first_name_that_no_file_has_is_taken(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "a.1").symlink_to("nothing")
    path = save(b"body", str(tmp_path / "x"), iter(["a", "a.1", "a.2", "a.3"]))
    assert path == str(tmp_path / "a.2")
    assert sorted(os.listdir(tmp_path)) == ["a", "a.1", "a.2"]
    assert (tmp_path / "a").read_bytes() == b"old"


# --- bodies in pieces -----------------------------------------------------------------------------


def partial(directory: Path, keeps: bool = True, url: str = URL) -> Partial:
    return Partial(str(directory / "a"), url, keeps)


def write(directory: Path, etag: str, data: bytes, url: str = URL) -> None:
    """Write the beginning of a body, as a run that is interrupted does."""
    with partial(directory, url=url) as file:
        file.begin(etag)
        file.write(memoryview(data))


@pytest.mark.parametrize("keeps", [False, True])
def test_pieces_become_a_file_when_all_are_there(tmp_path: Path, keeps: bool) -> None:
    with partial(tmp_path, keeps) as file:
        file.begin('"1"')
        file.write(memoryview(b"ab"))
        file.write(memoryview(b"c"))
        assert "a" not in os.listdir(tmp_path)
        assert file.complete() == str(tmp_path / "a")
    assert files(tmp_path) == {"a": b"abc"}


def test_what_is_not_kept_is_removed(tmp_path: Path) -> None:
    with partial(tmp_path, keeps=False) as file:
        file.begin('"1"')
        file.write(memoryview(b"ab"))
    assert os.listdir(tmp_path) == []


def test_what_is_kept_goes_on_in_the_next_run(tmp_path: Path) -> None:
    write(tmp_path, '"1"', b"ab")
    assert "a" not in os.listdir(tmp_path)
    with partial(tmp_path) as file:
        version = file.version
        assert version is not None
        assert (version.size, version.etag) == (2, '"1"')
        file.go_on()
        file.write(memoryview(b"c"))
        file.complete()
    assert files(tmp_path) == {"a": b"abc"}


@pytest.mark.parametrize(
    ("etag", "data", "url"),
    [("", b"ab", URL), ('"1"', b"", URL), ('"1"', b"ab", "http://h/b")],
    ids=["of an unknown version", "nothing", "of another URL"],
)
def test_what_cannot_be_continued_is_not(tmp_path: Path, etag: str, data: bytes, url: str) -> None:
    write(tmp_path, etag, data, url)
    with partial(tmp_path) as file:
        assert file.version is None
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("note", [b"", b"nonsense", b"\xff\n", b"http://h/a\n"])
def test_a_note_that_says_nothing_is_of_no_use(tmp_path: Path, note: bytes) -> None:
    write(tmp_path, '"1"', b"ab")
    (tmp_path / "a.part.etag").write_bytes(note)
    with partial(tmp_path) as file:
        assert file.version is None


def test_beginning_again_forgets_what_was_there(tmp_path: Path) -> None:
    write(tmp_path, '"1"', b"abcd")
    with partial(tmp_path) as file:
        file.begin('"2"')
        file.write(memoryview(b"xy"))
    assert (tmp_path / "a.part").read_bytes() == b"xy"
    with partial(tmp_path) as file:
        assert file.version is not None
        assert file.version.etag == '"2"'


def test_two_processes_do_not_write_the_same_part(tmp_path: Path) -> None:
    with partial(tmp_path) as file:
        file.begin('"1"')
        file.write(memoryview(b"ab"))
        with pytest.raises(FileError, match="another process is writing it"):
            partial(tmp_path).__enter__()
        file.complete()
    assert files(tmp_path) == {"a": b"ab"}


def test_a_link_in_place_of_a_part_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "a.part").symlink_to("precious")
    with pytest.raises(FileError):
        partial(tmp_path).__enter__()
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_pieces_can_get_a_name_that_no_file_has(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"old")
    with partial(tmp_path, keeps=False) as file:
        file.begin("")
        file.write(memoryview(b"new"))
        assert file.complete(iter(["b", "b.1"])) == str(tmp_path / "b.1")
    assert files(tmp_path) == {"b": b"old", "b.1": b"new"}


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    file = partial(tmp_path, keeps=False)
    file.__enter__()
    file.begin("")
    file.write(memoryview(b"half"))
    file.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert files(tmp_path) == {}
