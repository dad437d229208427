"""The display of the progress: what it says, and that it leaves a terminal as it was."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dugong.cli import progress
from dugong.cli.progress import Display, can_display, size_text, time_text
from dugong.cli.settings import Settings
from dugong.cli.tally import Tally
from tests.support.server import Peer, ScriptedServer

TIMEOUT = 30


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def picture(display: Display) -> list[str]:
    """Return the lines that are displayed now."""
    console = pytest.importorskip("rich.console")
    out = io.StringIO()
    console.Console(file=out, width=100).print(display.picture())
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_it_says_how_much_is_done_and_how_fast() -> None:
    clock = Clock()
    tally = Tally(5000)
    display = Display(tally, clock)
    tally.succeeded, tally.failed, tally.size = 1234, 2, 3 * 1024**2
    clock.now += 2
    assert picture(display) == ["1,234 of 5,000 done, 2 failed  3.0 MiB  1.5 MiB/s  0:02"]
    clock.now += 60
    picture(display)
    tally.size += 3 * 1024
    clock.now += 3
    assert picture(display) == ["1,234 of 5,000 done, 2 failed  3.0 MiB  1.0 KiB/s  1:05"]


def test_it_shows_what_takes_long() -> None:
    tally = Tally(None)
    for number in range(10):
        transfer = tally.begin(f"http://h/{number}/{'x' * 100}\x1b")
        transfer.done, transfer.size = 512, 1024
    tally.begin("not shown").size = None
    head, *transfers, rest = picture(Display(tally, Clock()))
    assert head == "0 done  5.0 KiB  0 bytes/s  0:00"
    assert len(transfers) == 8
    assert transfers[0].startswith("http://h/0/xxxxxxx...xxxxxxxxxxxxxx\\x1b  ")
    assert transfers[0].endswith("  512 bytes of 1.0 KiB")
    assert rest == "and 3 more"


def test_a_transfer_of_unknown_size_is_shown() -> None:
    tally = Tally(1)
    tally.begin("a").done = 2048
    assert picture(Display(tally, Clock()))[1].endswith("  2.0 KiB")


def test_the_summary_says_what_was_done() -> None:
    clock = Clock()
    tally = Tally(3)
    display = Display(tally, clock)
    tally.succeeded, tally.size = 3, 10
    clock.now += 1.25
    assert display.summary() == "3 done: 10 bytes in 1.2 s"
    tally.failed = 1
    assert display.summary() == "3 done, 1 failed: 10 bytes in 1.2 s"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1536 * 1024, "1.5 MiB"),
        (5 * 1024**3, "5.0 GiB"),
        (3 * 1024**5, "3072.0 TiB"),
    ],
)
def test_a_size_is_written_as_people_read_it(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.9, "0:00"), (61, "1:01"), (3600, "1:00:00"), (86461, "24:01:01")]
)
def test_a_time_is_written_as_people_read_it(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


@pytest.mark.parametrize(
    "settings", [Settings(quiet=True), Settings(verbose=True)], ids=["quiet", "verbose"]
)
def test_nothing_is_displayed_that_the_user_does_not_want(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert not can_display(settings)


@pytest.mark.parametrize("stderr", [None, io.StringIO()])
def test_nothing_is_displayed_without_a_terminal(
    stderr: io.StringIO | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    assert not can_display(Settings())


def test_what_is_done_soon_needs_no_display() -> None:
    before = threading.active_count()
    with Display(Tally(1)):
        pass
    assert threading.active_count() == before


def test_a_display_that_fails_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    failed = threading.Event()

    def fail(self: Display) -> None:
        failed.set()
        raise OSError("no terminal")

    monkeypatch.setattr(Display, "picture", fail)
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    with Display(Tally(1)):
        assert failed.wait(TIMEOUT)


def test_a_terminal_shows_the_progress_and_then_what_was_done(tmp_path: Path) -> None:
    pytest.importorskip("rich")
    seen = threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4096\r\n\r\n" + bytes(2048))
        assert seen.wait(TIMEOUT)
        peer.send(bytes(2048))

    master, terminal = pty.openpty()
    with ScriptedServer(script) as server:
        url = "http://{}:{}/a".format(*server.address)
        command = [sys.executable, "-m", "dugong", "get", url, "gopher://h/", "-o", str(tmp_path)]
        command += ["--limit-rate", "1G"]  # so that the body is streamed, though it is small
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
        with subprocess.Popen(
            command, stdout=terminal, stderr=terminal, env=environment
        ) as process:
            os.close(terminal)
            output = b""
            while b" of 4.0 KiB" not in output:
                output += os.read(master, 4096)
            seen.set()
            try:
                while data := os.read(master, 4096):
                    output += data
            except OSError:
                pass  # no process has the terminal open any more
    os.close(master)
    assert process.returncode == 1
    assert b"dugong: gopher://h/: a URL must begin with" in output
    assert output.endswith(b"1 done, 1 failed: 4.0 KiB in " + output[-7:])
    assert output.rindex(b"\x1b[?25h") > output.rindex(b"\x1b[?25l")  # the cursor is back
    assert (tmp_path / "a").stat().st_size == 4096
