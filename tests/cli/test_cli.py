"""The command line itself: arguments, exit status, signals, pipes."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
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
    assert "usage: dugong" in capsys.readouterr().err


def test_the_help_of_get_says_what_is_not_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info:
        main(["get", "--help"])
    assert info.value.code == 0
    out = capsys.readouterr().out
    assert "user name or password are refused" in out
    assert "A time-out (--timeout) is not retried" in out


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
    assert main(["get", *["http://127.0.0.1:9/"] * 2, "-o", str(tmp_path / "file")]) == 1
    assert "Not a directory" in capsys.readouterr().err


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


# Whatever has begun the tests may ignore these, as nohup does.
HEEDING = (
    "import runpy, signal; "
    "signal.signal(signal.SIGTERM, signal.SIG_DFL); signal.signal(signal.SIGHUP, signal.SIG_DFL); "
    "runpy.run_module('dugong', run_name='__main__')"
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("to", ["a directory", "standard output"])
def test_what_ends_the_process_leaves_no_half_file(
    number: signal.Signals, to: str, tmp_path: Path
) -> None:
    processes: list[subprocess.Popen[bytes]] = []
    seen: list[list[str]] = []

    def script(peer: Peer) -> None:
        peer.head()
        size = 1_000_000
        peer.send(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode() + bytes(size // 2))
        while not list(tmp_path.rglob("*.part")):
            threading.Event().wait(0.01)
        seen.append(os.listdir(tmp_path))
        processes[0].send_signal(number)
        until_end(peer)

    with ScriptedServer(script) as server:
        command = [sys.executable, "-c", HEEDING, "get", "-", "--limit-rate", "1G"]
        command += ["-o", str(tmp_path)] if to == "a directory" else []
        pipe = subprocess.PIPE
        environment = os.environ | {"TMPDIR": str(tmp_path)}
        with subprocess.Popen(command, stdin=pipe, stderr=pipe, env=environment) as process:
            processes.append(process)  # before it can know what to connect to
            _, err = process.communicate(url(server, "/a").encode(), TIMEOUT)
        assert (process.returncode, err) == (128 + number, b"")
    assert len(seen[0]) == 1
    assert os.listdir(tmp_path) == []


def test_ctrl_c_keeps_a_part_only_if_it_is_to_be_continued(tmp_path: Path) -> None:
    processes: list[subprocess.Popen[bytes]] = []
    body = bytes(range(256)) * 2048

    def interrupted(peer: Peer) -> None:
        peer.head()
        head = f'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: {len(body)}\r\n\r\n'
        peer.send(head.encode() + body[:1000])
        while not (part := tmp_path / "a.part").exists() or not part.stat().st_size:
            threading.Event().wait(0.01)
        processes[0].send_signal(signal.SIGINT)
        until_end(peer)

    def continued(peer: Peer) -> None:
        request = peer.head()
        first = int(request.headers["range"].removeprefix("bytes=").partition("-")[0])
        assert first > 0
        peer.respond(
            body[first:],
            status="206 Partial Content",
            headers=f'ETag: "1"\r\nContent-Range: bytes {first}-{len(body) - 1}/{len(body)}\r\n',
        )

    file = str(tmp_path / "a")
    with ScriptedServer(interrupted, continued) as server:
        command = [sys.executable, "-c", HEEDING_CTRL_C, "get", "-C", url(server, "/a"), "-o", file]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            processes.append(process)
            assert process.communicate(timeout=TIMEOUT)[1] == b""
        assert process.returncode == 130
        assert sorted(os.listdir(tmp_path)) == ["a.part", "a.part.state"]
        assert main(command[3:]) == 0
        assert os.listdir(tmp_path) == ["a"]
        assert (tmp_path / "a").read_bytes() == body
        assert main(command[3:]) == 0  # asks the server nothing


@pytest.mark.parametrize("what", ["for URLs", "for another attempt", "because of a limit"])
def test_ctrl_c_ends_what_waits(what: str, tmp_path: Path) -> None:
    waits = threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        if what == "for another attempt":
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            peer.cut()
        elif what == "because of a limit":
            peer.respond(bytes(100_000))
        else:
            peer.respond()
        waits.set()
        until_end(peer)

    policy = "from dugong.cli import settings as s; s.POLICY = s.POLICY.replace(backoff=1000);"
    with ScriptedServer(script, repeat=True) as server:
        options = ["-", "-o", str(tmp_path / "new"), "--limit-rate", "1K", "--retries", "9"]
        with subprocess.Popen(
            [sys.executable, "-c", policy + HEEDING_CTRL_C, "get", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdin is not None
            process.stdin.write(f"{url(server, '/a')}\n".encode())
            process.stdin.flush()
            assert waits.wait(TIMEOUT)
            threading.Event().wait(0.2)  # until it waits, most likely
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            process.wait(TIMEOUT)
            assert time.monotonic() - began < 5
            assert process.returncode == 130
            assert process.stderr is not None
            assert process.stderr.read() == b""
    assert [name for name in os.listdir(tmp_path / "new") if name != "a"] == []


def test_ctrl_c_ends_an_upload_of_what_does_not_come() -> None:
    received: list[bytes] = []
    has_come = threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        peer.exactly(len(b"4\r\nhalf\r\n"))
        has_come.set()
        try:
            received.append(peer.until_eof())
        except ConnectionResetError:
            received.append(b"")

    with ScriptedServer(script) as server:
        command = [sys.executable, "-c", HEEDING_CTRL_C, "put", "-", url(server, "/a")]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stderr=pipe) as process:
            assert process.stdin is not None
            process.stdin.write(b"half")
            process.stdin.flush()
            assert has_come.wait(TIMEOUT)
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            process.wait(TIMEOUT)
            assert time.monotonic() - began < 4
            assert process.returncode == 130
            assert process.stderr is not None
            assert process.stderr.read() == b""
    assert received == [b""]  # not even the last chunk: that would be an end


@pytest.mark.parametrize("options", ["", "-C", "-O"])
def test_names_need_no_characters_that_the_locale_lacks(tmp_path: Path, options: str) -> None:
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    def script(peer: Peer) -> None:
        try:
            while True:
                peer.head()
                field = "Content-Disposition: attachment; filename*=UTF-8''x%e4%b8%ad\r\n"
                peer.respond(b"body", headers=field)
        except (EOFError, ConnectionError):
            pass  # the client has gone

    name = os.fsencode(tmp_path) + b"/\xe4\xb8\xad"
    with ScriptedServer(script, repeat=True) as server:
        command = [sys.executable, "-m", "dugong", "get", "-q", url(server, "/%E4%B8%AD")]
        first = subprocess.run(
            [*command, url(server, "/b"), *options.split(), "-o", tmp_path],
            env=environment,
            timeout=TIMEOUT,
            check=False,
            stderr=subprocess.PIPE,
        )
        second = subprocess.run(
            [*command, *options.split(), "-o", name],
            env=environment,
            timeout=TIMEOUT,
            check=False,
            stderr=subprocess.PIPE,
        )
    assert (first.returncode, first.stderr) == (0, b"")
    assert (second.returncode, second.stderr) == (0, b"")
    names = {"x_", "x_.1"} if options == "-O" else {"_", "b"}
    assert set(os.listdir(tmp_path)) == names | {"\u4e2d"}


def test_urls_are_fetched_as_they_come(tmp_path: Path) -> None:
    with ScriptedServer(echo, repeat=True) as server:
        command = [sys.executable, "-m", "dugong", "get", "-i", "-", "-o", str(tmp_path)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for path in ("/a", "/b", "/c"):
                process.stdin.write(f"# a comment\n{url(server, path)}\n".encode())
                process.stdin.flush()
                line = process.stdout.readline().decode()
                assert line == f"{url(server, path)} -> {tmp_path}{path} (2 bytes)\n"
            process.stdin.close()
        assert process.returncode == 0


def test_the_deadline_is_that_of_the_whole_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def trickle(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        until_end(peer)

    with ScriptedServer(trickle, repeat=True) as server:
        urls = [url(server, f"/{n}") for n in range(3)]
        began = time.monotonic()
        arguments = ["get", *urls, "-j", "1", "-o", str(tmp_path), "--deadline", "0.3"]
        assert main(arguments) == 1
        assert time.monotonic() - began < 5
    err = capsys.readouterr().err
    assert err.count("\n") == 3
    assert err.count("deadline") == 3
    assert os.listdir(tmp_path) == []


def test_the_deadline_ends_a_wait_for_urls(tmp_path: Path) -> None:
    with ScriptedServer(echo, repeat=True) as server:
        command = [sys.executable, "-m", "dugong", "get", "-", "-o", str(tmp_path)]
        pipe = subprocess.PIPE
        with subprocess.Popen(
            [*command, "--deadline", "2"], stdin=pipe, stdout=pipe, stderr=pipe
        ) as process:
            assert process.stdin is not None
            assert process.stderr is not None
            process.stdin.write(f"{url(server, '/a')}\n".encode())
            process.stdin.flush()
            assert process.wait(TIMEOUT) == 1  # though the pipe is open
            assert process.stderr.read() == (
                b"dugong: the deadline has passed, and there was no end of the URLs\n"
            )
    assert os.listdir(tmp_path) == ["a"]


def test_standard_output_may_be_closed_if_nothing_is_to_be_written_there(tmp_path: Path) -> None:
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "dugong", "get"]
    with ScriptedServer(echo, repeat=True) as server:
        command = [*shell, url(server, "/a"), "-q"]
        got = subprocess.run([*command, "-o", tmp_path], timeout=TIMEOUT, check=False)
        shown = subprocess.run(command, timeout=TIMEOUT, check=False, stderr=subprocess.PIPE)
    assert got.returncode == 0
    assert os.listdir(tmp_path) == ["a"]
    assert (shown.returncode, shown.stderr) == (1, b"dugong: standard output is closed\n")


@pytest.mark.parametrize("name", ["/proc/self/fd/1", "/dev/fd/1"])
def test_the_name_of_a_descriptor_is_written_to_though_it_leads_to_a_file(
    tmp_path: Path, name: str
) -> None:
    if not os.path.exists(name):
        pytest.skip("the system has no such names")
    with ScriptedServer(echo) as server, open(tmp_path / "file", "wb") as file:
        command = [sys.executable, "-m", "dugong", "get", url(server, "/a"), "-o", name]
        assert subprocess.run(command, stdout=file, timeout=TIMEOUT, check=False).returncode == 0
    assert (tmp_path / "file").read_bytes() == b"/a"


@pytest.mark.parametrize("limit", ["-n 16", "-n 40", "-S -n 16"])
def test_connections_leave_descriptors_for_files(tmp_path: Path, limit: str) -> None:
    shell = ["sh", "-c", f'ulimit {limit} && exec "$@"', "sh", sys.executable, "-m", "dugong"]
    count = 100
    with ScriptedServer(echo, repeat=True) as server:
        urls = "".join(f"{url(server, f'/{n}')}\n" for n in range(count))
        command = [*shell, "get", "-", "-j", "60", "-q", "-o", str(tmp_path)]
        result = subprocess.run(
            command, input=urls.encode(), stderr=subprocess.PIPE, timeout=TIMEOUT, check=False
        )
    assert (result.returncode, result.stderr) == (0, b"")
    assert len(os.listdir(tmp_path)) == count


def test_no_password_is_read_from_standard_input(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "dugong", "get", "-", "-u", "ada"],
        input=b"http://127.0.0.1:9/not-a-password\n",
        stderr=subprocess.PIPE,
        timeout=TIMEOUT,
        check=False,
        start_new_session=True,  # without a terminal
    )
    assert result.returncode == 2
    error = b"dugong get: error: -u has no password, and there is no terminal to ask at\n"
    assert result.stderr.endswith(error)
    assert b"Warning" not in result.stderr


def test_the_deadline_ends_a_large_body(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def trickle(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\nhalf")
        until_end(peer)

    with ScriptedServer(trickle, repeat=True) as server:
        began = time.monotonic()
        target = url(server, "/a")
        assert main(["get", target, "-o", str(tmp_path / "a"), "--deadline", "0.3"]) == 1
        assert time.monotonic() - began < 5
    assert "deadline" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_a_server_that_is_busy_is_not_asked_again_without_retries(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def busy(peer: Peer) -> None:
        peer.head()
        peer.respond(status="503 Busy")

    with ScriptedServer(busy) as server:
        assert main(["get", url(server, "/a"), "--retries", "0"]) == 1
    assert capsys.readouterr().err.endswith("/a: 503 Busy\n")


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
