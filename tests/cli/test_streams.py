"""Standard streams that are closed, full or gone: a line and a status, never a traceback."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dugong.cli import streams
from tests.support.server import Peer, ScriptedServer

TIMEOUT = 30

needs_dev_full = pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="only Linux and some others have /dev/full"
)

CLOSED = "dugong: standard output is closed\n"
FULL = "dugong: cannot write to standard output: No space left on device\n"


def respond(peer: Peer) -> None:
    try:
        while True:
            peer.respond(peer.head().target.encode())
    except (EOFError, ConnectionError):
        pass  # the client has gone


def url(server: ScriptedServer, path: str) -> str:
    return "http://{}:{}{}".format(*server.address, path)


class Writes(io.StringIO):
    """A stream that keeps what it is given at a time."""

    encoding = "utf-8"

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def write(self, text: str) -> int:
        self.seen.append(text)
        return len(text)


def test_a_line_is_written_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = Writes(), Writes()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    streams.write_output("a page")
    streams.report("an error")
    assert out.seen == ["a page\n"]
    assert err.seen == ["an error\n"]


def run(arguments: str, redirections: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command with *redirections* that the shell applies, such as ``>&-``."""
    command = f'exec "$0" -X dev -m dugong {arguments} {redirections}'
    return subprocess.run(
        ["/bin/sh", "-c", command, sys.executable],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def run_without_reader(arguments: str) -> tuple[int, str]:
    """Run the command with a standard output that has no reader; return its status and stderr."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = subprocess.run(
            [sys.executable, "-X", "dev", "-m", "dugong", *arguments.split()],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    finally:
        os.close(writing)
    return result.returncode, result.stderr


# --- standard output ----------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", ["--help", "--version", "get --help", "demo --help", "demo"])
@pytest.mark.parametrize(
    ("redirection", "message"),
    [(">&-", CLOSED), pytest.param(">/dev/full", FULL, marks=needs_dev_full)],
)
def test_output_that_cannot_be_written_is_a_line_and_status_1(
    arguments: str, redirection: str, message: str
) -> None:
    result = run(arguments, redirection)
    assert (result.returncode, result.stdout, result.stderr) == (1, "", message)


@pytest.mark.parametrize(
    ("redirection", "message"),
    [(">&-", CLOSED), pytest.param(">/dev/full", FULL, marks=needs_dev_full)],
)
@pytest.mark.parametrize("to_files", [False, True])
def test_get_without_a_usable_output_is_a_line_and_status_1(
    redirection: str, message: str, to_files: bool, tmp_path: Path
) -> None:
    with ScriptedServer(respond, repeat=True) as server:
        directory = f"-o {tmp_path}" if to_files else ""
        result = run(f"get {url(server, '/a')} {url(server, '/b')} {directory}", redirection)
    assert (result.returncode, result.stdout, result.stderr) == (1, "", message)


@pytest.mark.parametrize("arguments", ["--help", "--version", "get --help", "demo --help", "demo"])
def test_output_without_a_reader_is_status_141_and_no_message(arguments: str) -> None:
    assert run_without_reader(arguments) == (141, "")


@pytest.mark.parametrize("to_files", [False, True])
def test_get_without_a_reader_is_status_141_and_no_message(to_files: bool, tmp_path: Path) -> None:
    with ScriptedServer(respond, repeat=True) as server:
        directory = f"-o {tmp_path}" if to_files else ""
        result = run_without_reader(f"get {url(server, '/a')} {url(server, '/b')} {directory}")
    assert result == (141, "")


def test_a_reader_that_goes_in_the_middle_is_status_141_and_no_message() -> None:
    size = 1024 * 1024  # more than a pipe holds, so that the command is writing when it breaks

    def large(peer: Peer) -> None:
        try:
            while peer.head():
                peer.respond(bytes(size))
        except (EOFError, ConnectionError):
            pass

    with ScriptedServer(large, repeat=True) as server:
        command = [sys.executable, "-m", "dugong", "get", url(server, "/a"), url(server, "/b")]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe) as process:
            assert process.stdout is not None
            assert process.stdout.read(1000) == bytes(1000)
            process.stdout.close()
            assert process.stderr is not None
            assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize("arguments", ["", "get", "got", "get http://h/ --timeout 0"])
@pytest.mark.parametrize("redirection", [">&-", pytest.param(">/dev/full", marks=needs_dev_full)])
def test_a_wrong_command_line_needs_no_output(arguments: str, redirection: str) -> None:
    result = run(arguments, redirection)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("usage: dugong")
    assert "Traceback" not in result.stderr


# --- standard error -----------------------------------------------------------------------------


@pytest.mark.parametrize("redirection", ["2>&-", pytest.param("2>/dev/full", marks=needs_dev_full)])
@pytest.mark.parametrize(
    ("arguments", "status"),
    [("", 2), ("got", 2), ("get", 2), ("get gopher://h/", 1)],
)
def test_messages_that_standard_error_cannot_take_are_lost_and_the_status_stays(
    redirection: str, arguments: str, status: int
) -> None:
    result = run(arguments, redirection)
    assert result.returncode == status
    assert "dugong: " not in result.stdout
    assert "usage" not in result.stdout


def test_bodies_and_messages_do_not_mix_when_standard_error_is_closed() -> None:
    with ScriptedServer(respond, repeat=True) as server:
        result = run(f"get gopher://h/ {url(server, '/a')}", "2>&-")
    assert (result.returncode, result.stdout) == (1, "/a")


def test_messages_without_a_reader_are_lost_and_the_rest_is_done() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with ScriptedServer(respond, repeat=True) as server:
            urls = ["gopher://h/", url(server, "/a")]
            result = subprocess.run(
                [sys.executable, "-X", "dev", "-m", "dugong", "get", *urls],
                stdout=subprocess.PIPE,
                stderr=writing,
                timeout=TIMEOUT,
                check=False,
            )
    finally:
        os.close(writing)
    assert (result.returncode, result.stdout) == (1, b"/a")


@pytest.mark.parametrize("arguments", ["--help", "get gopher://h/", "demo"])
def test_with_neither_output_nor_error_the_status_is_1(arguments: str) -> None:
    assert run(arguments, ">&- 2>&-").returncode == 1


# --- standard input -----------------------------------------------------------------------------


def test_urls_from_a_closed_standard_input_are_a_line_and_status_1() -> None:
    result = run("get -", "<&-")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "dugong: standard input is closed\n"


def test_urls_from_a_standard_input_that_cannot_be_read_are_a_line_and_status_1() -> None:
    result = run("get -", "0>/dev/null")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "dugong: cannot read standard input: Bad file descriptor\n"


@pytest.mark.parametrize(
    ("arguments", "output"),
    [("--help", "usage: "), ("--version", "dugong ")],
)
def test_a_closed_standard_input_does_no_harm_where_it_is_not_read(
    arguments: str, output: str
) -> None:
    result = run(arguments, "<&-")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(output)


def test_the_demo_needs_neither_standard_input_nor_standard_error() -> None:
    # The whole command fetches 500 objects, which takes ten seconds.
    program = (
        "import sys\n"
        "from dugong.cli.demo import demo\n"
        "from dugong.cli.streams import reserve_descriptors\n"
        "reserve_descriptors()\n"
        "sys.exit(demo(2))\n"
    )
    result = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -c "$1" <&- 2>&-', sys.executable, program],
        stdout=subprocess.PIPE,
        timeout=TIMEOUT,
        check=False,
    )
    assert (result.returncode, b"FAILED" in result.stdout) == (0, False)


def test_get_with_a_closed_standard_input_fetches_urls_that_are_arguments() -> None:
    with ScriptedServer(respond) as server:
        result = run(f"get {url(server, '/a')}", "<&-")
    assert (result.returncode, result.stdout, result.stderr) == (0, "/a", "")


# --- descriptors --------------------------------------------------------------------------------


def test_no_socket_gets_the_number_of_a_standard_stream() -> None:
    # What writes to descriptor 2 without Python, as a C library may, must not reach a server.
    program = (
        "import os, socket\n"
        "from dugong.cli.streams import reserve_descriptors\n"
        "reserve_descriptors()\n"
        "a, b = socket.socketpair()\n"
        "os.write(2, b'noise')\n"
        "os.write(1, b'noise')\n"
        "os._exit(min(a.fileno(), b.fileno()) > 2)\n"
    )
    command = ["/bin/sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, program]
    assert subprocess.run(command, timeout=TIMEOUT, check=False).returncode == 1
