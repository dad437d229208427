"""Files that are whole or not there: of what is in memory, and of a download, goes it on or not."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dugong.client import part as module
from dugong.client.part import Part, save
from tests.support.server import TIMEOUT

URL = "http://host/file?signature=secret"
TAG = '"v1"'


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "file")


def names_beside(path: str) -> list[str]:
    return sorted(os.listdir(os.path.dirname(path)))


def leave(path: str, *writes: tuple[int, bytes], size: int | None = 10, tag: str = TAG) -> None:
    """Leave a part with *writes* to a later run."""
    with Part(path, URL) as part:
        part.begin(tag, size)
        for offset, data in writes:
            part.write(offset, data)


def state_of(path: str) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(Path(f"{path}.part.state").read_text())
    return state


# --- what is in memory ----------------------------------------------------------------------------


def test_a_body_becomes_a_file(path: str) -> None:
    Path(path).write_bytes(b"an older one, which is longer")
    assert save(b"body", path) == path
    assert Path(path).read_bytes() == b"body"
    assert names_beside(path) == ["file"]


@pytest.mark.parametrize("mode", [0o600, 0o444, 0o755, 0o4750])
@pytest.mark.parametrize("url", [None, URL, "in memory"])
def test_a_file_keeps_the_permissions_of_the_one_that_it_replaces(
    path: str, url: str | None, mode: int
) -> None:
    Path(path).write_bytes(b"an older one")
    os.chmod(path, mode)
    if url == "in memory":
        save(b"body", path)
    else:
        with Part(path, url) as part:
            names = [name for name in names_beside(path) if name.endswith(".part")]
            kept = os.stat(os.path.join(os.path.dirname(path), names[0])).st_mode
            assert kept & 0o777 & ~0o600 == mode & 0o777 & ~0o600
            part.begin(TAG, 4)
            part.write(0, b"body")
            part.complete()
    assert stat.S_IMODE(os.stat(path).st_mode) == mode & 0o777  # not that of another user
    assert Path(path).read_bytes() == b"body"


def test_a_file_has_the_permissions_that_the_user_wants(path: str) -> None:
    before = os.umask(0o027)
    try:
        save(b"", path)
        write_part(f"{path}2", None)
    finally:
        os.umask(before)
    assert [os.stat(each).st_mode & 0o777 for each in (path, f"{path}2")] == [0o640] * 2


@pytest.mark.parametrize("url", [None, URL])
def test_a_link_is_replaced_and_not_followed(path: str, url: str | None) -> None:
    precious = Path(path).with_name("precious")
    for write in (lambda: save(b"body", path), lambda: write_part(path, url)):
        precious.write_bytes(b"precious")
        Path(path).unlink(missing_ok=True)
        Path(path).symlink_to("precious")
        write()
        assert Path(path).read_bytes() == b"body"
        assert precious.read_bytes() == b"precious"


def test_what_cannot_be_written_leaves_nothing(path: str) -> None:
    os.mkdir(path)
    with pytest.raises(IsADirectoryError):
        save(b"body", path)
    with pytest.raises(FileNotFoundError):
        save(b"body", f"{path}/b/c")
    assert (names_beside(path), os.listdir(path)) == (["file"], [])


def test_what_is_interrupted_leaves_nothing(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*names: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(b"body", path)
    with pytest.raises(KeyboardInterrupt):
        write_part(path, None)
    assert names_beside(path) == []


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_the_first_name_that_no_file_has_is_taken(
    path: str, in_memory: bool, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(f"{path}.a").write_bytes(b"old")
    Path(f"{path}.b").symlink_to("nothing")
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    names = iter(["file.a", "file.b", "file.c", "file.d"])
    assert (
        save(b"body", path, names) if in_memory else write_part(path, None, names)
    ) == path + ".c"
    assert names_beside(path) == ["file.a", "file.b", "file.c"]
    assert Path(f"{path}.a").read_bytes() == b"old"
    assert Path(f"{path}.c").read_bytes() == b"body"


def no_replace(source: str, target: str) -> None:
    """Stand for `os.replace` on a disk that fails."""
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def no_links(source: str, target: str) -> None:
    """Stand for `os.link` on a file system without links."""
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def test_without_a_name_that_no_file_has_there_is_no_file(path: str) -> None:
    Path(path).write_bytes(b"old")
    with pytest.raises(FileExistsError):
        save(b"body", path, iter(["file"]))
    assert names_beside(path) == ["file"]


# --- what comes bit by bit ------------------------------------------------------------------------


def write_part(path: str, url: str | None, names: Iterator[str] | None = None) -> str:
    """Write a file as a `Part`; return its path."""
    with Part(path, url) as part:
        part.begin("", 4)
        part.write(0, b"body")
        part.complete(names)
    return part.path


@pytest.mark.parametrize("url", [None, URL])
def test_a_file_gets_its_name_when_it_is_complete(path: str, url: str | None) -> None:
    Path(path).write_bytes(b"an older one")
    with Part(path, url) as part:
        part.begin(TAG, 4)
        part.write(0, b"ab")
        assert not part.is_whole
        assert Path(path).read_bytes() == b"an older one"
        part.write(2, b"cd")
        assert part.is_whole
        part.complete()
    assert Path(path).read_bytes() == b"abcd"
    assert names_beside(path) == ["file"]


def test_the_gaps_are_what_is_not_there(path: str) -> None:
    with Part(path) as part:
        part.begin(TAG, 10)
        assert part.gaps() == [(0, 10)]
        assert part.write(4, b"ef") == 2
        assert part.gaps() == [(0, 4), (6, 10)]
        part.write(8, b"ij")
        part.write(0, b"ab")
        assert part.gaps() == [(2, 4), (6, 8)]
        assert (part.received, part.end) == (6, 10)
        part.write(6, b"gh")
        part.write(2, b"cd")
        assert part.write(9, b"j") == 0
        assert part.gaps() == []
        assert b"".join(part.pieces(1, 10)) == b"bcdefghij"


def test_without_a_size_the_last_gap_has_no_end(path: str) -> None:
    with Part(path) as part:
        part.begin(TAG, None)
        part.write(0, b"ab")
        assert part.gaps() == [(2, None)]
        assert not part.is_whole
        part.size = 2
        assert part.is_whole


def test_an_empty_file_is_whole_at_once(path: str) -> None:
    with Part(path, URL) as part:
        part.begin("", 0)
        assert part.is_whole
        part.complete()
    assert Path(path).read_bytes() == b""


def test_what_is_left_goes_on_in_a_later_run(path: str) -> None:
    leave(path, (0, b"ab"), (6, b"gh"))
    with Part(path, URL) as part:
        assert (part.validator, part.size) == (TAG, 10)
        assert part.gaps() == [(2, 6), (8, 10)]
        assert b"".join(part.pieces(6, 8)) == b"gh"


def test_what_begins_anew_does_not_go_on(path: str) -> None:
    leave(path, (0, b"abcd"))
    with Part(path, URL) as part:
        part.begin('"v2"', 10)
        assert part.gaps() == [(0, 10)]
        assert os.path.getsize(f"{path}.part") == 0
        assert state_of(path)["ranges"] == []


@pytest.mark.parametrize(("tag", "data"), [("", b"ab"), (TAG, b"")])
def test_what_cannot_go_on_is_not_left(path: str, tag: str, data: bytes) -> None:
    leave(path, (0, b"abcd"))
    with Part(path, URL) as part:
        part.begin(tag, 4)
        part.write(0, data)
    assert names_beside(path) == []


def test_without_a_url_nothing_goes_on(path: str) -> None:
    leave(path, (0, b"abcd"))
    with Part(path) as part, Part(path) as other:
        assert part.received == other.received == 0
        part.begin(TAG, 4)
        part.write(0, b"xy")
        assert [name[:8] for name in names_beside(path)] == [".dugong-"] * 2 + ["file.par"] * 2
    assert names_beside(path) == ["file.part", "file.part.state"]
    assert Path(f"{path}.part").read_bytes() == b"abcd"


def test_a_part_of_another_url_is_not_taken(path: str) -> None:
    leave(path, (0, b"abcd"))
    with Part(path, "http://host/other") as part:
        assert part.received == 0


def test_no_url_is_written_down(path: str) -> None:
    leave(path, (0, b"abcd"))
    assert "secret" not in Path(f"{path}.part.state").read_text()
    assert oct(os.stat(f"{path}.part.state").st_mode & 0o777) == "0o600"


DAMAGES: dict[str, Any] = {
    "cut": lambda state: state[:-3],
    "empty": lambda state: "",
    "no object": lambda state: "[]",
    "nested": lambda state: "[" * 100_000,
    "no ranges": lambda state: state.replace('"ranges"', '"other"'),
    "backwards": lambda state: state.replace("[[0, 4]]", "[[4, 0]]"),
    "negative": lambda state: state.replace("[[0, 4]]", "[[-1, 4]]"),
    "overlapping": lambda state: state.replace("[[0, 4]]", "[[0, 3], [2, 4]]"),
    "beyond the file": lambda state: state.replace("[[0, 4]]", "[[0, 5]]"),
    "beyond the size": lambda state: state.replace('"size": 10', '"size": 3'),
    "no number": lambda state: state.replace('"size": 10', '"size": "ten"'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_state_that_cannot_be_true_is_as_if_there_was_none(path: str, damage: str) -> None:
    leave(path, (0, b"abcd"))
    state = Path(f"{path}.part.state")
    text = state.read_text()
    assert "[[0, 4]]" in text
    state.write_text(DAMAGES[damage](text))
    assert state.read_text() != text
    with Part(path, URL) as part:
        assert (part.received, part.validator, part.size) == (0, "", None)


def test_a_state_without_its_file_is_as_if_there_was_none(path: str) -> None:
    leave(path, (0, b"abcd"))
    os.unlink(f"{path}.part")
    with Part(path, URL) as part:
        assert part.received == 0


def test_what_is_noted_is_on_the_disk(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    sync, replace = module._sync, os.replace
    monkeypatch.setattr(module, "_sync", lambda fd: (steps.append("data"), sync(fd)))
    monkeypatch.setattr(os, "replace", lambda *names: (steps.append("state"), replace(*names)))
    monkeypatch.setattr(module, "CHECKPOINT", 0)
    with Part(path, URL) as part:
        part.begin(TAG, 10)
        steps.clear()
        part.write(0, b"ab")
        assert steps == ["data", "state"]
        assert state_of(path)["ranges"] == [[0, 2]]
        part.write(6, b"gh")
        assert state_of(path)["ranges"] == [[0, 2], [6, 8]]


def test_a_part_is_noted_now_and_then(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    with Part(path, URL) as part:
        part.begin(TAG, 10)
        part.write(0, b"ab")
        now += module.CHECKPOINT / 2
        part.write(2, b"cd")
        assert state_of(path)["ranges"] == []
        now += module.CHECKPOINT / 2
        part.write(4, b"ef")
        assert state_of(path)["ranges"] == [[0, 6]]


def test_one_download_at_a_time_writes_to_a_file(path: str) -> None:
    with Part(path, URL) as part:
        part.begin(TAG, 2)
        part.write(0, b"ab")
        with pytest.raises(BlockingIOError, match="another download") as caught:
            Part(path, URL).__enter__()
        assert caught.value.filename == path
        part.complete()
    assert Path(path).read_bytes() == b"ab"


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_child_does_not_keep_the_lock(path: str) -> None:
    reading, writing = os.pipe()
    with Part(path, URL) as part:
        part.begin(TAG, 4)
        part.write(0, b"ab")
        child = os.fork()
        if not child:
            os.close(writing)
            os.read(reading, 1)  # until the parent has closed its end
            os._exit(0)
    with Part(path, URL) as part:
        assert part.received == 2
    os.close(writing)
    os.close(reading)
    assert os.waitpid(child, 0)[1] == 0


def test_nothing_is_left_of_a_run_that_was_killed_while_it_noted(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(path, (0, b"ab"))
    before = names_beside(path)
    with monkeypatch.context() as patch, Part(path, URL) as part:
        part.write(2, b"cd")
        patch.setattr(os, "replace", no_replace)
        patch.setattr(module, "_remove", lambda name: None)  # as if it was killed before
    assert len(names_beside(path)) == len(before) + 1
    with Part(path, URL) as part:
        part.write(2, b"cdefghij")
        part.complete()
    assert names_beside(path) == ["file"]


def test_another_process_is_another_download(path: str) -> None:
    program = f"from dugong.client.part import Part\nPart({path!r}, {URL!r}).__enter__()"
    with Part(path, URL):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
    assert "BlockingIOError" in done.stderr


def test_what_ends_removes_nothing_of_what_begins(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another download to the path begins when the first one has its name, and notes something."""
    first, second = Part(path, URL), Part(path, URL)
    beginning = threading.Thread(target=second.__enter__)
    notes, has_ended = threading.Event(), threading.Event()
    place, replace = module._place, os.replace

    def place_and_begin(*arguments: Any) -> str:
        made = place(*arguments)
        monkeypatch.setattr(module, "_place", place)
        monkeypatch.setattr(os, "replace", replace_late)
        beginning.start()
        assert notes.wait(TIMEOUT)
        return made

    def replace_late(*names: str) -> None:
        notes.set()
        assert has_ended.wait(TIMEOUT)
        replace(*names)

    monkeypatch.setattr(module, "CHECKPOINT", 0)
    with first:
        first.begin(TAG, 2)
        first.write(0, b"ab")
        monkeypatch.setattr(module, "_place", place_and_begin)
        first.complete()
    has_ended.set()
    beginning.join()
    second.begin(TAG, 2)
    second.write(0, b"AB")
    assert state_of(path)["ranges"] == [[0, 2]]
    second.complete()
    second.__exit__(None, None, None)
    assert Path(path).read_bytes() == b"AB"
    assert names_beside(path) == ["file"]


@pytest.mark.parametrize("ending", ["gets its name", "is removed"])
def test_a_file_that_ended_before_it_was_locked_is_not_touched(
    path: str, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking, another download ends."""
    other = Part(path, URL)
    other.__enter__()
    other.begin(TAG, 2)
    other.write(0, b"ab")
    flock = module.fcntl.flock

    def late(fd: int, how: int) -> None:
        monkeypatch.undo()
        if ending == "gets its name":
            other.complete()
        else:
            other.begin("", None)
        other.__exit__(None, None, None)
        flock(fd, how)

    monkeypatch.setattr(module.fcntl, "flock", late)
    with Part(path, URL) as part:
        part.begin(TAG, 2)
        part.write(0, b"AB")
        if ending == "gets its name":
            assert Path(path).read_bytes() == b"ab"
        part.complete()
    assert Path(path).read_bytes() == b"AB"


def test_a_file_is_on_the_disk_before_it_gets_its_name(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append("data"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *names: (steps.append("name"), replace(*names)))
    with Part(path, URL) as part:
        part.begin("", 2)
        part.write(0, b"ab")
        steps.clear()
        part.complete()
    assert steps == ["data", "name"]


def test_a_file_need_not_be_on_the_disk(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", None)
    with Part(path, syncs=False) as part:
        part.begin("", 0)
        part.complete()
    assert Path(path).read_bytes() == b""


def test_a_write_may_take_less_than_it_is_given(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:3], offset))
    with Part(path, URL) as part:
        part.begin(TAG, 10)
        part.write(2, b"cdefghij")
        part.write(0, b"ab")
        part.complete()
    assert Path(path).read_bytes() == b"abcdefghij"


class FullDisk:
    """Stands for `os.pwrite` on a disk with room for *room* bytes."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._pwrite = os.pwrite

    def __call__(self, fd: int, data: memoryview, offset: int) -> int:
        written = min(self._room, len(data))
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._room -= written
        return self._pwrite(fd, data[:written], offset)


@pytest.fixture
def _full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", FullDisk(3))


@pytest.mark.usefixtures("_full_disk")
def test_an_error_of_the_disk_names_the_file(path: str) -> None:
    with pytest.raises(OSError, match="No space") as caught:
        leave(path, (0, b"ab"), (2, b"cd"))
    assert caught.value.filename == f"{path}.part"
    assert not os.path.exists(path)
    assert state_of(path)["ranges"] == [[0, 2]]


def test_what_cannot_be_noted_leaves_what_was_noted(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(path, (0, b"ab"))
    with monkeypatch.context() as patch, Part(path, URL) as part:
        part.write(2, b"cd")
        patch.setattr(os, "replace", no_replace)
    assert state_of(path)["ranges"] == [[0, 2]]
    assert names_beside(path) == ["file.part", "file.part.state"]


def test_a_file_that_is_cut_by_others_is_an_error(path: str) -> None:
    with Part(path, URL) as part:
        part.begin(TAG, 4)
        part.write(0, b"abcd")
        os.truncate(f"{path}.part", 2)
        with pytest.raises(OSError, match="cut"):
            list(part.pieces(0, 4))


def test_a_directory_is_no_file(path: str) -> None:
    os.mkdir(path)
    with pytest.raises(IsADirectoryError, match="file"):
        Part(path, URL).__enter__()


@pytest.mark.parametrize("is_link", [True, False])
@pytest.mark.parametrize("url", [None, URL])
def test_what_is_no_file_is_not_replaced(
    path: str, url: str | None, is_link: bool, tmp_path: Path
) -> None:
    """Such as a device, by a privileged process."""
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    if is_link:
        os.symlink("pipe", path)
    before = names_beside(path)
    place = path if is_link else pipe
    for write in (lambda: save(b"body", place), lambda: write_part(place, url)):
        with pytest.raises(OSError, match="a device, a pipe or a socket") as caught:
            write()
        assert caught.value.filename == place
    assert names_beside(path) == before
    assert stat.S_ISFIFO(os.stat(pipe).st_mode)


def test_a_link_in_place_of_the_part_is_not_followed(path: str, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    os.symlink("precious", f"{path}.part")
    write_part(path, URL)
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert os.readlink(f"{path}.part") == "precious"
    assert Path(path).read_bytes() == b"body"


@pytest.mark.parametrize("noted", [TAG, ""])
def test_another_file_that_has_the_name_of_the_part_is_not_taken_for_it(
    path: str, noted: str
) -> None:
    """So it is if another program moves a file there."""
    other = Path(f"{path}.other")
    with Part(path, URL) as part:
        part.begin(noted, 2)
        part.write(0, b"ab")
        other.write_bytes(b"another file")
        other.replace(f"{path}.part")
        with pytest.raises(OSError, match="another file has taken its place"):
            part.complete()
    assert Path(f"{path}.part").read_bytes() == b"another file"
    assert names_beside(path) == ["file.part"]  # and no state, which would be of that


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [True, False])
def test_what_is_left_of_a_process_that_was_killed_is_used_again(path: str, hidden: bool) -> None:
    program = f"""if True:
        import os
        from dugong.client.part import Part
        part = Part({path!r}, {URL!r}, hidden={hidden}).__enter__()
        part.write(0, b"left")
        os._exit(0)"""
    subprocess.run([sys.executable, "-c", program], check=True)
    left = names_beside(path)
    # A hidden name needs nothing beside it, until there is something to go on with.
    assert len(left) == (1 if hidden else 2)
    with Part(path, URL, hidden=hidden) as part:
        part.write(0, b"ab")
        assert names_beside(path) == left
        with pytest.raises(BlockingIOError, match="another download"):
            Part(path, URL, hidden=hidden).__enter__()
        part.complete()
    assert names_beside(path) == ["file"]
    assert Path(path).read_bytes() == b"ab"


@pytest.mark.parametrize("letter", ["n", "ü", "🐘", "\udcff"])
@pytest.mark.parametrize("length", range(228, 256))
def test_the_name_of_a_file_may_be_as_long_as_the_system_allows(
    tmp_path: Path, letter: str, length: int
) -> None:
    """A part goes on in a later run, whatever the length is."""
    size = len(os.fsencode(letter))
    path = str(tmp_path / (letter * (length // size) + "n" * (length % size)))
    assert len(os.fsencode(os.path.basename(path))) == length
    leave(path, (0, b"ab"))
    with Part(path, URL) as part:
        assert part.received == 2
        part.write(2, b"cdefghij")
        part.complete()
    assert Path(path).read_bytes() == b"abcdefghij"
    assert names_beside(path) == [os.path.basename(path)]
    with Part(path) as part:
        part.complete()


@pytest.mark.parametrize("url", [None, URL])
def test_a_name_that_is_too_long_is_an_error_at_once(tmp_path: Path, url: str | None) -> None:
    path = str(tmp_path / ("n" * 256))
    with pytest.raises(OSError, match="too long") as caught:
        Part(path, url).__enter__()
    assert caught.value.filename == path
    assert names_beside(path) == []


def test_names_that_begin_alike_have_parts_of_their_own(tmp_path: Path) -> None:
    paths = [str(tmp_path / ("n" * 250 + last)) for last in "ab"]
    with Part(paths[0], URL) as one, Part(paths[1], URL) as other:
        one.write(0, b"a")
        other.write(0, b"b")
        one.complete()
        other.complete()
    assert [Path(path).read_bytes() for path in paths] == [b"a", b"b"]


@pytest.mark.parametrize("suffix", [".part", ".part.state"])
def test_a_part_does_not_take_the_name_of_a_file_that_is_there(path: str, suffix: str) -> None:
    other = Path(path + suffix)
    other.write_bytes(b"precious")
    leave(path, (0, b"ab"))
    assert other.read_bytes() == b"precious"
    with Part(path, URL) as part:
        assert part.received == 2
        part.complete()
    assert other.read_bytes() == b"precious"
    assert names_beside(path) == ["file", f"file{suffix}"]


def test_a_hidden_part_goes_on_though_the_other_name_is_free_now(path: str) -> None:
    Path(f"{path}.part").write_bytes(b"precious")
    leave(path, (0, b"ab"))
    os.unlink(f"{path}.part")
    with Part(path, URL) as part:
        assert part.received == 2


@pytest.mark.parametrize("suffix", [".part", ".part.state"])
@pytest.mark.parametrize("is_left", [True, False])
@pytest.mark.parametrize("url", [None, URL])
def test_a_file_does_not_get_the_name_of_a_part(
    path: str, suffix: str, is_left: bool, url: str | None
) -> None:
    with Part(path, URL) as part:
        part.begin(TAG, 10)
        part.write(0, b"ab")
        if not is_left:
            check_that_no_file_gets(path + suffix, url)
    if is_left:
        check_that_no_file_gets(path + suffix, url)
    with Part(path, URL) as part:
        assert part.received == 2
        assert b"".join(part.pieces(0, 2)) == b"ab"
        part.complete()
    write_part(path + suffix, url)
    assert Path(path).read_bytes() == b"ab"
    assert names_beside(path) == ["file", f"file{suffix}"]


def check_that_no_file_gets(path: str, url: str | None) -> None:
    before = names_beside(path)
    with pytest.raises(FileExistsError, match="partial file of another download") as caught:
        Part(path, url).__enter__()
    assert caught.value.filename == path
    with pytest.raises(FileExistsError, match="partial file of another download"):
        save(b"body", path)
    assert names_beside(path) == before


@pytest.mark.parametrize("suffix", [".part", ".part.state"])
@pytest.mark.parametrize("url", [None, URL])
def test_a_part_does_not_take_the_name_of_a_file_that_is_under_way(
    path: str, suffix: str, url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(os.path.dirname(path))
    with Part(f"file{suffix}", url) as other, Part(path, URL) as part:
        part.write(0, b"ab")
        other.write(0, b"other")
        other.complete()
        part.complete()
    assert Path(path).read_bytes() == b"ab"
    assert Path(path + suffix).read_bytes() == b"other"
    assert names_beside(path) == ["file", f"file{suffix}"]


def test_a_part_does_not_take_the_name_of_a_file_that_another_process_receives(path: str) -> None:
    program = f"""if True:
        import os
        from dugong.client.part import Part
        Part({path + ".part"!r}, {URL!r}).__enter__()
        os._exit(0)"""
    subprocess.run([sys.executable, "-c", program], check=True)
    with Part(path, URL):
        assert "file.part" not in names_beside(path)
        write_part(f"{path}.part", URL)
    assert Path(f"{path}.part").read_bytes() == b"body"


@pytest.mark.parametrize("suffix", [".part", ".part.state"])
def test_a_part_does_not_take_a_name_that_is_wanted(path: str, suffix: str) -> None:
    with Part(path, URL, wanted={path + suffix}) as part:
        save(b"wanted", path + suffix)
        part.write(0, b"ab")
        part.complete()
    assert Path(path + suffix).read_bytes() == b"wanted"
    assert Path(path).read_bytes() == b"ab"


def test_a_file_that_comes_while_a_part_takes_its_name_stays(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lexists = os.path.lexists

    def late(name: str) -> bool:
        found = lexists(name)
        if name == f"{path}.part":
            monkeypatch.undo()
            save(b"other", name)
        return found

    monkeypatch.setattr(os.path, "lexists", late)
    with Part(path, URL) as part:
        part.write(0, b"ab")
        part.complete()
    assert Path(f"{path}.part").read_bytes() == b"other"
    assert names_beside(path) == ["file", "file.part"]


def test_a_part_that_comes_while_a_file_gets_its_name_stays(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link
    part = Part(path, URL)

    def late(source: str, target: str) -> None:
        if target == f"{path}.part":
            monkeypatch.undo()
            part.__enter__()
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(FileExistsError, match="partial file of another download"):
        save(b"body", f"{path}.part")
    part.write(0, b"ab")
    part.complete()
    part.__exit__(None, None, None)
    assert Path(path).read_bytes() == b"ab"
    assert names_beside(path) == ["file"]


def test_a_file_like_a_part_is_replaced_if_it_is_none(path: str) -> None:
    for body in (b"one", b"two"):
        save(body, f"{path}.part")
        write_part(f"{path}.part.state", URL)
    assert Path(f"{path}.part").read_bytes() == b"two"
    assert Path(f"{path}.part.state").read_bytes() == b"body"


def test_a_folder_that_cannot_be_written_is_an_error_that_names_the_part(path: str) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        Part(f"{path}/file", URL).__enter__()
    assert caught.value.filename == f"{path}/file.part"
