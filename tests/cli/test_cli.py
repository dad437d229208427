"""The command line itself: arguments, exit status, signals, pipes."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dugong.cli import main
from tests.support.server import Peer, ScriptedServer

TIMEOUT = 20


def echo(peer: Peer) -> None:
    try:
        while True:
            peer.respond(peer.head().target.encode())
    except (EOFError, ConnectionError):
        pass  # the client has gone


def until_end(peer: Peer) -> None:
    try:
        peer.until_eof()
    except ConnectionResetError:
        pass  # the client has not read all


def url(server: ScriptedServer, path: str) -> str:
    return "http://{}:{}{}".format(*server.address, path)


def test_import_dugong_does_not_import_it() -> None:
    check = "import sys, dugong; sys.exit(any(m.startswith('dugong.cli') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_it_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "dugong", "--help"]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "demo" in result.stdout
    assert "get" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "got",
        "get",
        "demo x",
        "get http://h/ --timeout 0",
        "get http://h/ --timeout -1",
        "get http://h/ --timeout inf",
        "get http://h/ --timeout nan",
        "get http://h/ --timeout soon",
    ],
)
def test_a_wrong_command_line_is_status_2(
    arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as info:
        main(arguments.split())
    assert info.value.code == 2
    assert "usage: python -m dugong" in capsys.readouterr().err


def test_the_help_of_get_says_what_is_not_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info:
        main(["get", "--help"])
    assert info.value.code == 0
    out = capsys.readouterr().out
    assert "Redirects are not followed" in out
    assert "user name or password are refused" in out


def test_get_writes_to_standard_output(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    with ScriptedServer(echo, repeat=True) as server:
        assert main(["get", url(server, "/a"), url(server, "/b")]) == 0
    assert capsysbinary.readouterr() == (b"/a/b", b"")


def test_get_writes_to_a_directory(tmp_path: Path) -> None:
    with ScriptedServer(echo) as server:
        assert main(["get", url(server, "/a"), "-o", str(tmp_path)]) == 0
    assert (tmp_path / "a").read_bytes() == b"/a"


def test_a_name_that_standard_output_cannot_show_is_escaped(tmp_path: Path) -> None:
    with ScriptedServer(echo) as server:
        command = [sys.executable, "-m", "dugong", "get", url(server, "/ä"), "-o", str(tmp_path)]
        environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
        result = subprocess.run(
            command, env=environment, capture_output=True, timeout=TIMEOUT, check=True
        )
    assert result.stdout.endswith(b"/\\xe4 (7 bytes)\n")
    assert os.listdir(tmp_path) == ["ä"]


def test_a_dash_reads_urls_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    with ScriptedServer(echo, repeat=True) as server:
        lines = f"{url(server, '/b')}\n\n  {url(server, '/c')}  \r\n{url(server, '/d')}".encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
        assert main(["get", url(server, "/a"), "-", url(server, "/e")]) == 0
    assert capsysbinary.readouterr().out == b"/a/b/c/d/e"


def test_a_line_of_standard_input_that_is_no_text_fails_alone(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    with ScriptedServer(echo) as server:
        lines = b"\xff\n" + os.fsencode(url(server, "/")) + b"\xff\n"
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
        assert main(["get", "-"]) == 1
    out, err = capsysbinary.readouterr()
    assert out == b"/%FF"
    assert (
        err
        == b"dugong: \\udcff: a URL must begin with http:// or https://, as in http://host/path\n"
    )


def test_the_timeout_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    def silence(peer: Peer) -> None:
        peer.until_eof()

    with ScriptedServer(silence) as server:
        assert main(["get", url(server, "/a"), "--timeout", "0.1"]) == 1
    assert capsys.readouterr().err.endswith(
        "/a: nothing received for 0.1 s (waiting for the response)\n"
    )


def test_a_directory_that_cannot_be_made_is_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["get", "http://127.0.0.1:9/", "-o", str(tmp_path / "file")]) == 1
    assert "File exists" in capsys.readouterr().err


# A shell that runs the tests in the background has them ignore the signal.
HEEDING_CTRL_C = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from dugong.cli import main; sys.exit(main())"
)


def test_ctrl_c_is_status_130_and_leaves_no_half_file(tmp_path: Path) -> None:
    processes: list[subprocess.Popen[bytes]] = []

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        processes[0].send_signal(signal.SIGINT)
        until_end(peer)

    with ScriptedServer(script) as server:
        command = [sys.executable, "-c", HEEDING_CTRL_C, "get", "-", "-o", str(tmp_path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            processes.append(process)  # before it can know what to connect to
            _, err = process.communicate(url(server, "/a").encode(), TIMEOUT)
        assert process.returncode == 130
        assert err == b""
    assert os.listdir(tmp_path) == []


def test_ctrl_c_ends_the_demo_and_its_server_without_a_word() -> None:
    command = [sys.executable, "-c", HEEDING_CTRL_C, "demo"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, process_group=0) as process:
        assert process.stdout is not None
        for _ in range(3):
            process.stdout.readline()  # until the first step has begun
        while True:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            try:
                _, err = process.communicate(timeout=3)  # until the server has closed its end, too
                break
            except subprocess.TimeoutExpired:
                pass  # the interpreter loses one that comes in the middle of an import
    assert (process.returncode, err) == (130, b"")


def test_a_reader_of_standard_output_that_goes_away_is_status_141() -> None:
    with ScriptedServer(echo, repeat=True) as server:
        reading, writing = os.pipe()
        os.close(reading)
        try:
            command = [sys.executable, "-m", "dugong", "get", url(server, "/a"), url(server, "/b")]
            result = subprocess.run(
                command, stdout=writing, stderr=subprocess.PIPE, timeout=TIMEOUT, check=False
            )
        finally:
            os.close(writing)
    assert result.returncode == 141
    assert result.stderr == b""
