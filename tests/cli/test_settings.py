"""The client that obeys the options."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import pytest
import trustme

from dugong import (
    ConnectError,
    ConnectionTimedOut,
    DugongError,
    Headers,
    HTTPStatusError,
    Request,
    Response,
)
from dugong.cli.errors import UsageError
from dugong.cli.settings import Settings, TimeLimit, describe, make_client
from tests.support.server import Peer, ReceivedRequest, ScriptedServer

SIZE = 1000


def asked(settings: Settings, url: str = "", path: str = "/a") -> ReceivedRequest:
    """Return the request that a client sends."""
    requests: list[ReceivedRequest] = []

    def script(peer: Peer) -> None:
        requests.append(peer.head())
        peer.respond()

    with ScriptedServer(script) as server:
        address = "{}:{}".format(*server.address)
        settings = settings._replace(
            timeout=10, proxy=settings.proxy and settings.proxy.replace("PROXY", address)
        )
        with make_client(settings, SIZE) as client:
            client.get((url or f"http://{address}") + path)
    return requests[0]


def test_bodies_are_asked_for_as_they_are() -> None:
    headers = asked(Settings()).headers
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"].startswith("dugong/")


def test_headers_and_credentials_are_sent() -> None:
    settings = Settings(headers=(("X-A", "1"), ("User-Agent", "me")), auth=("ada", "sesame"))
    headers = asked(settings).headers
    assert (headers["x-a"], headers["user-agent"]) == ("1", "me")
    assert headers["authorization"] == "Basic YWRhOnNlc2FtZQ=="


def test_a_rate_limits_both_directions() -> None:
    size, rate = 20_000, 100_000.0

    def script(peer: Peer) -> None:
        peer.request()
        peer.respond(bytes(size))

    with (
        ScriptedServer(script) as server,
        make_client(Settings(rate=rate, timeout=10), 2 * size) as client,
    ):
        began = time.monotonic()
        client.post(server.url("/a"), body=bytes(size))
        # What may be ahead of its time in each direction is less than 0.1 s.
        assert time.monotonic() - began > 2 * size / rate - 0.2


@pytest.mark.parametrize("proxy", ["PROXY", "http://PROXY"])
def test_a_proxy_is_used(proxy: str) -> None:
    request = asked(Settings(proxy=proxy), "http://nowhere.invalid")
    assert request.target == "http://nowhere.invalid/a"


def test_no_proxy_is_used_if_the_user_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://nowhere.invalid")
    assert asked(Settings(proxy="")).target == "/a"


@pytest.mark.parametrize(
    "settings",
    [
        Settings(proxy="ftp://h"),
        Settings(headers=(("a b", "c"),)),
        Settings(headers=(("a", "b\nc"),)),
        Settings(auth=("a", "b\nc")),
        Settings(verify="/nonexistent"),
    ],
)
def test_options_that_make_no_sense_are_refused(settings: Settings) -> None:
    with pytest.raises(UsageError) as info:
        make_client(settings, SIZE)
    assert "b\nc" not in str(info.value)


def respond(peer: Peer) -> None:
    peer.head()
    peer.respond(b"x")


def test_the_authorities_of_a_file_are_trusted(
    server_context: ssl.SSLContext, authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "pem"))
    with ScriptedServer(respond, context=server_context) as server:
        settings = Settings(verify=str(tmp_path / "pem"), timeout=10)
        with make_client(settings, SIZE) as client:
            assert client.get("https://{}:{}/".format(*server.address)).body == b"x"


def test_every_server_is_trusted_if_the_user_says_so(server_context: ssl.SSLContext) -> None:
    with (
        ScriptedServer(respond, context=server_context) as server,
        make_client(Settings(verify=False, timeout=10), SIZE) as client,
    ):
        assert client.get("https://{}:{}/".format(*server.address)).body == b"x"


def test_what_happens_is_told_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.respond(headers="Set-Cookie: secret\r\nX-A: \x1bb\r\n")

    with ScriptedServer(script) as server:
        url = "http://{}:{}/a?secret".format(*server.address)
        settings = Settings(verbose=True, auth=("ada", "secret"), timeout=10)
        with make_client(settings, SIZE) as client:
            client.get(url)
    err = capsys.readouterr().err
    assert "* opened http://" in err
    assert "* sent GET http://" in err
    assert "< Set-Cookie: ...\n" in err
    assert "secret" not in err
    assert "\x1b" not in err


def test_the_number_of_retries_is_one_less_than_that_of_attempts() -> None:
    assert Settings(retries=0).policy.attempts == 1
    assert Settings().policy.attempts == 3


def test_a_limit_on_the_time_is_that_of_all_requests() -> None:
    assert TimeLimit(None).options() == {}
    assert 0 < TimeLimit(10.0).options()["deadline"] <= 10
    with pytest.raises(ConnectionTimedOut):
        TimeLimit(1e-9).options()


def response(status: int, **headers: str) -> Response:
    request = Request("GET", "http://h/")
    return Response(status, "Whatever", Headers(headers.items()), b"", request)


@pytest.mark.parametrize(
    ("exc", "text"),
    [
        (ConnectError("the proxy h:1 (no way)", 111), "the proxy h:1 (no way)"),
        (DugongError("what happened"), "what happened"),
        (OSError(2, "No such file"), "No such file"),
        (ValueError("wrong"), "wrong"),
        (ValueError(), "ValueError"),
        (HTTPStatusError(response(404)), "404 Whatever"),
        (HTTPStatusError(response(500, Location="/b")), "500 Whatever"),
        (HTTPStatusError(response(304)), "304 Whatever"),
        (
            HTTPStatusError(response(301, Location="/b")),
            "301 Whatever, see /b (redirects are not followed)",
        ),
        (
            HTTPStatusError(response(301, Location="http://ada:sesame@h/b")),
            "301 Whatever, see http://...@h/b (redirects are not followed)",
        ),
    ],
)
def test_an_error_is_described_in_a_line(exc: Exception, text: str) -> None:
    assert describe(exc) == text
