"""A soak of `dugong crawl`: many sites with traps and faults, a crawler that is killed, a balance.

    python -m tests.soak.crawl [--seed N] [--sites 50] [--pages 20000] [--kills 2]

The sites are 127.0.0.10 and those behind it (all of 127.0.0.0/8 has to be there, as on Linux). The
command runs as a process, with --state and --warc; it is killed by SIGKILL in the middle, and the
same command is given again, until it has ended; and then once more, when there is nothing more to
be done but what had failed. What the server saw, the lines of the crawler, its WARC file and its
state are compared by `tests.soak.crawl_verdict`, which says what has to hold.

To be killed in the middle of a record is rare. So behind the last kill the file is given the first
half of another record. Of what was whole when the crawler was killed nothing may change, and of the
rest nothing may be left.

Returns 1 if the crawl does not balance, and says what is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.soak.crawl_archive import cut_problems, left_in, members, records_in
from tests.soak.crawl_server import Seen
from tests.soak.crawl_sites import AGENT, DEPTH, INTERVAL, Web
from tests.soak.crawl_verdict import Evidence, Run, Verdict

__all__ = ["main"]

_MANY = 30  # problems that are worth printing
_LOOK = 0.1  # seconds between two looks at the crawler
_NEWS = 10.0  # seconds between two lines about it


class _Options(NamedTuple):
    seed: int
    sites: int
    pages: int
    kills: int
    slow: float
    timeout: float
    seconds: float
    keep: Path | None


def main(arguments: list[str]) -> int:
    """Run the soak; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.crawl", description=__doc__)
    add = parser.add_argument
    add("--seed", type=int, default=random.randrange(10**6))
    add("--sites", type=int, default=50)
    add("--pages", type=int, default=20_000, help="of all sites, about (default: 20000)")
    add("--kills", type=int, default=2)
    add("--slow", type=float, default=0.5, help="seconds: the longest crawl delay")
    add("--timeout", type=float, default=10.0, help="seconds without any progress")
    add("--seconds", type=float, default=600.0, help="how long a run may take (default: 600)")
    add("--keep", type=Path, metavar="DIRECTORY", help="leave all files there")
    options = _Options(**vars(parser.parse_args(arguments)))
    print(
        f"seed {options.seed}: {options.sites} sites, {options.pages} pages, {options.kills} kills",
        flush=True,
    )
    began = time.monotonic()
    with ExitStack() as stack:
        directory = options.keep
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            directory.mkdir()
        problems = _Soak(options, directory).run()
    times = os.times()
    busy = sum(times[:4])  # of this process and its children
    print(f"{time.monotonic() - began:9.1f} seconds, {busy:.1f} of processors")
    for problem in problems[:_MANY]:
        print(f"PROBLEM: {problem}")
    if len(problems) > _MANY:
        print(f"and {len(problems) - _MANY} more")
    print("FAILED" if problems else "the crawl balances")
    return 1 if problems else 0


class _Soak:
    """A crawl and its files in *directory*."""

    def __init__(self, options: _Options, directory: Path) -> None:
        self._options = options
        self._directory = directory
        self._warc = directory / "pages.warc.gz"
        self._state = directory / "state"
        self._dice = random.Random(options.seed)
        self._cuts: list[Path] = []  # copies of the WARC file after each kill

    def run(self) -> list[str]:
        """Crawl; return what is wrong."""
        options = self._options
        with _serving(options) as server:
            assert server.stdout is not None
            web = Web(*options[:3], int(server.stdout.readline()), options.slow)
            runs = self._runs(web)
            out, _ = server.communicate()
            (self._directory / "seen").write_text(out)
            late, *seen = map(json.loads, out.splitlines())
        with self._warcio_check() as checking:
            problems = [each for cut in self._cuts for each in cut_problems(self._warc, cut)]
            try:
                records = list(records_in(self._warc))
            except ValueError as exc:
                records = []
                problems.append(f"the archive is damaged: {exc}")
            left = left_in(self._state)
            verdict = Verdict(Evidence(web, [Seen(*s) for s in seen], runs, records, left, late))
            complaint, _ = checking.communicate()
        if checking.returncode or complaint:
            problems.append(f"warcio check: {checking.returncode} {complaint[:1000]!r}")
        if sum(run.was_killed for run in runs) != options.kills:
            problems.append("the crawl had come to its end before it was killed")
        counts = verdict.counts
        counts["requests"] = len(seen)
        for run in runs:
            end = "was killed" if run.was_killed else f"ended with {run.status}"
            print(
                f"run {run.number} {end} after {run.seconds:.1f} s: {len(run.lines)} pages, "
                f"up to {run.memory:.0f} MiB and {run.threads} threads"
            )
        for what, count in sorted(counts.items()):
            print(f"{count:9} {what}")
        print(f"{verdict.earliest:9.3f} seconds that a request came too early, at most")
        print(f"{late:9.3f} seconds that a timer of the server was late, at most")
        return problems + verdict.problems

    def _runs(self, web: Web) -> list[Run]:
        shares = [(n + self._dice.uniform(0.6, 1.4)) for n in range(self._options.kills)]
        pages = [int(self._options.pages * s / (self._options.kills + 1)) for s in shares]
        runs: list[Run] = []
        total = 0
        for at in [*pages, None, None]:
            number = len(runs) + 1
            runs.append(self._crawl(web, number, None if at is None else max(1, at - total)))
            total += len(runs[-1].lines)
            if runs[-1].was_killed:
                self._note_cut(number, tears=number == self._options.kills)
        return runs

    def _crawl(self, web: Web, number: int, pages: int | None) -> Run:
        """Run the crawler to its end, or until it has fetched so many *pages*, and kill it."""
        command = [sys.executable, "-m", "dugong", "crawl", "--state", str(self._state)]
        command += ["--warc", str(self._warc), "--depth", str(DEPTH), "--delay", str(INTERVAL)]
        command += ["--pages-per-host", str(web.limit), "-x", "", "-A", f"{AGENT}/{number}"]
        command += ["--timeout", str(self._options.timeout), *web.starts]
        out, err = self._directory / f"out{number}", self._directory / f"err{number}"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        began = time.monotonic()
        end = began + self._options.seconds
        with (
            out.open("wb") as out_file,
            err.open("wb") as err_file,
            subprocess.Popen(command, stdout=out_file, stderr=err_file, env=environment) as process,
        ):
            memory, threads = self._watch(process, number, out, pages, end)
            was_killed = process.poll() is None
            process.kill()
            status = process.wait()
        if was_killed and time.monotonic() > end:
            was_killed, status = False, -1  # it does not end
        seconds = time.monotonic() - began
        lines = [path.read_text().split("\n") for path in (out, err)]
        for text in lines:
            if not text[-1]:  # or the last line is not whole, which is to be noticed
                text.pop()
        return Run(number, was_killed, status, *lines, memory, threads, seconds)

    def _watch(
        self,
        process: subprocess.Popen[bytes],
        number: int,
        out: Path,
        pages: int | None,
        end: float,
    ) -> tuple[float, int]:
        """Wait for the end, or for *pages*; return how much memory and how many threads it had."""
        memory, threads, count, position = 0.0, 0, 0, 0
        next_news = time.monotonic() + _NEWS
        while process.poll() is None and (now := time.monotonic()) < end:
            time.sleep(_LOOK)
            with out.open("rb") as file:
                file.seek(position)
                new = file.read()
            position += len(new)
            count += new.count(b"\n")
            if pages is not None and count >= pages:
                time.sleep(self._dice.uniform(0, _LOOK))
                break
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
                fields = dict(line.split(":", 1) for line in status.splitlines())
                memory = max(memory, int(fields["VmHWM"].split()[0]) / 1024)
                threads = max(threads, int(fields["Threads"]))
            except (OSError, KeyError):
                pass  # it has ended
            if now > next_news:
                next_news += _NEWS
                print(f"  run {number}: {count} pages", flush=True)
        return memory, threads

    def _note_cut(self, number: int, tears: bool) -> None:
        """Keep the WARC file as it is after a kill; have half a record behind it if *tears*."""
        last, end = 0, 0
        for last, end, _ in members(self._warc):  # noqa: B007  # they are used below
            pass
        with self._warc.open("rb+") as file:
            torn = os.path.getsize(self._warc) - end
            print(f"  run {number} was killed; {torn} bytes of a record are in the archive")
            if tears and not torn:
                file.seek(last)
                half = file.read((end - last) // 2)
                file.seek(0, os.SEEK_END)
                file.write(half)
        copy = self._directory / f"killed{number}.warc.gz"
        shutil.copy(self._warc, copy)
        self._cuts.append(copy)

    def _warcio_check(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "import warcio.cli; warcio.cli.main()", "check"]
        return subprocess.Popen(
            [*command, str(self._warc)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )


@contextmanager
def _serving(options: _Options) -> Iterator[subprocess.Popen[str]]:
    """Run the server."""
    command = [sys.executable, "-m", "tests.soak.crawl_server"]
    command += [str(options.seed), str(options.sites), str(options.pages), str(options.slow)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
