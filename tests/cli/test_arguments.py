"""The arguments, and what they are taken for."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from dugong.cli import main
from dugong.cli.arguments import parse
from tests.support.server import Peer, ReceivedRequest, ScriptedServer

URL = "http://127.0.0.1:9/"


@pytest.mark.parametrize(
    "arguments",
    [
        "get http://h/ --unknown",
        "get http://h/ -j 0",
        "get http://h/ -j x",
        "get http://h/ --retries -1",
        "get http://h/ --retries many",
        "get http://h/ --limit-rate 0",
        "get http://h/ --limit-rate 1T",
        "get http://h/ --limit-rate .",
        "get http://h/ --deadline 0",
        "get http://h/ -H nothing",
        "get http://h/ -H :nothing",
        "get http://h/ -C",
        "get http://h/ -C -o -",
        "get http://h/ -k --cacert x",
        "get http://h/ --cacert /nonexistent",
        "get http://h/ -x ftp://h/",
        "get http://h/ -x socks5://:x",
        "get http://h/ -H x:\x01",
        "put",
        "put a",
        "put a b http://h/c",
        "put a ftp://h/",
        "put - http://h/",
        "sync",
        "sync .",
        "sync . ftp://h/",
    ],
)
def test_a_wrong_command_line_is_status_2(
    arguments: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as info:
        main(arguments.split(" "))
    assert info.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("usage: dugong ")
    assert f"\ndugong {arguments.partition(' ')[0]}: error: " in err


def test_the_number_of_retries_may_be_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["get", URL, "--retries", "many"])
    assert "must be a number from 0 to 9999, not 'many'" in capsys.readouterr().err


def test_a_directory_that_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", "missing", URL]) == 1
    assert capsys.readouterr().err == "dugong: missing: No such file or directory\n"


def test_a_url_with_a_password_says_what_to_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get", "http://user:secret@h/"]) == 1
    assert capsys.readouterr().err == (
        "dugong: http://...@h/: a URL must not hold a user name or password: use -u\n"
    )


def test_a_wrong_secret_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("-u", "-H"):
        with pytest.raises(SystemExit):
            main(["get", URL, option, "a: secret\x01"])
    assert "secret" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "rate"),
    [("1", 1.0), ("500", 500.0), ("1.5k", 1536.0), ("2M", 2.0 * 1024**2), ("1G", 1024.0**3)],
)
def test_a_rate_is_bytes_a_second(text: str, rate: float) -> None:
    assert parse(["get", URL, "--limit-rate", text]).limit_rate == rate


def test_redirects_are_followed_unless_the_user_says_otherwise() -> None:
    assert parse(["get", URL]).location
    assert parse(["get", URL, "-L"]).location
    assert not parse(["get", URL, "--no-location"]).location


def test_options_may_stand_between_urls_and_files() -> None:
    got = parse(["get", "-q", "http://a/", "-o", "dir", "http://b/", "-v", "http://c/"])
    assert (got.urls, got.output) == (["http://a/", "http://b/", "http://c/"], "dir")
    put = parse(["put", "a", "b", "-X", "POST", "c", "-q", "http://h/"])
    assert (put.files, put.url, put.request) == (["a", "b", "c"], "http://h/", "POST")


def test_no_option_comes_after_two_dashes() -> None:
    put = parse(["put", "-q", "--", "-a", "-b", "http://h/"])
    assert (put.files, put.url) == (["-a", "-b"], "http://h/")
    assert parse(["get", "--", "-a"]).urls == ["-a"]


def asked(*arguments: str) -> list[ReceivedRequest]:
    """Run `get` with *arguments*, where URL is that of a server; return what it was asked."""
    requests: list[ReceivedRequest] = []

    def script(peer: Peer) -> None:
        try:
            while True:
                request = peer.head()
                length = int(request.headers.get("content-length", 0))
                requests.append(request)
                body = peer.exactly(length)
                peer.respond(body or request.target.encode())
        except (EOFError, ConnectionError):
            pass

    with ScriptedServer(script, repeat=True) as server:
        url = "http://{}:{}/a".format(*server.address)
        assert (
            main(["get", *[url if argument == "URL" else argument for argument in arguments]]) == 0
        )
    return requests


def test_the_default_is_a_get_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    (request,) = asked("URL")
    assert (request.method, request.target) == ("GET", "/a")
    assert capsys.readouterr().out == "/a"


def test_data_is_posted_as_a_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").write_bytes(b"c=\n3")
    (request,) = asked("URL", "-d", "a=1", "-d", "b=2", "-d", f"@{tmp_path / 'data'}")
    assert request.method == "POST"
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert capsys.readouterr().out == "a=1&b=2&c=\n3"


def test_method_and_content_type_may_be_others(capsys: pytest.CaptureFixture[str]) -> None:
    (request,) = asked("URL", "-d", "{}", "-X", "PATCH", "-H", "Content-Type: application/json")
    assert request.method == "PATCH"
    assert request.headers["content-type"] == "application/json"


def test_credentials_and_headers_are_sent(capsys: pytest.CaptureFixture[str]) -> None:
    (request,) = asked("URL", "-u", "ada:sesa:me", "-H", "X-A:1", "-H", "x-b: 2 ")
    assert request.headers["authorization"] == "Basic YWRhOnNlc2E6bWU="
    assert (request.headers["x-a"], request.headers["x-b"]) == ("1", "2")


def test_a_host_is_sent_as_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    (request,) = asked("URL", "-H", "Host: www.example.com")
    assert request.headers["host"] == "www.example.com"


def test_a_host_that_makes_no_sense_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["get", URL, "-H", "Host:"])
    assert "the value of header Host is no host name" in capsys.readouterr().err


def test_a_password_that_is_missing_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("getpass.getpass", lambda prompt: "sesame")
    (request,) = asked("URL", "-u", "ada")
    assert request.headers["authorization"] == "Basic YWRhOnNlc2FtZQ=="


def test_data_that_cannot_be_read_is_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get", URL, "-d", "@/nonexistent"]) == 1
    assert capsys.readouterr().err == "dugong: /nonexistent: No such file or directory\n"


def test_one_url_goes_to_the_file_that_is_named(tmp_path: Path) -> None:
    asked("URL", "-o", str(tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == b"/a"


@pytest.mark.parametrize("name", ["new/", "old", "old/"])
def test_one_url_goes_to_the_directory_that_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "old").mkdir()
    asked("URL", "-o", f"{tmp_path}/{name}")
    assert (tmp_path / name / "a").read_bytes() == b"/a"


def test_more_urls_go_to_a_directory(tmp_path: Path) -> None:
    asked("URL", "URL", "-o", str(tmp_path / "new"))
    assert sorted(os.listdir(tmp_path / "new")) == ["a", "a.1"]


def test_urls_of_a_file_go_to_a_directory(tmp_path: Path) -> None:
    (tmp_path / "urls").touch()
    asked("URL", "-i", str(tmp_path / "urls"), "-o", str(tmp_path / "new"))
    assert os.listdir(tmp_path / "new") == ["a"]


def test_without_a_directory_the_names_of_servers_are_for_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    asked("URL", "-O")
    assert os.listdir(tmp_path) == ["a"]
    assert capsys.readouterr().out.endswith("/a -> a (2 bytes)\n")


def test_a_server_may_name_a_file_unless_it_is_to_be_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.respond(b"x", headers="Content-Disposition: attachment; filename=/tmp/.named\r\n")

    monkeypatch.chdir(tmp_path)
    with ScriptedServer(script, repeat=True) as server:
        url = "http://{}:{}/a".format(*server.address)
        assert main(["get", "-O", url]) == 0
        assert main(["get", "-O", url, url]) == 0  # and does not replace a file
        assert main(["get", "-O", "-C", url]) == 0
    assert sorted(os.listdir(tmp_path)) == ["a", "named", "named.1", "named.2"]


def test_a_dash_is_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    asked("URL", "-o", "-")
    assert capsys.readouterr().out == "/a"


def test_quiet_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked("URL", "-q", "-o", str(tmp_path / "a"))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("command", ["get", "put", "sync"])
def test_the_documentation_names_every_option(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "command.rst").read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        parse([command, "--help"])
    options = re.findall(r"^ {2}(-.+?)(?: {2}|$)", capsys.readouterr().out, re.MULTILINE)
    names = [word.strip("[],") for option in options for word in option.split()]
    names = [name for name in names if name.startswith("-") and name not in ("-h", "--help")]
    assert len(names) > 20
    assert [name for name in names if f"``{name}" not in page] == []
