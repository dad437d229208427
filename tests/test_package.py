"""The package from outside: what can be imported from it, and what importing it costs."""

from __future__ import annotations

import importlib.resources
import inspect
import logging
import subprocess
import sys
from pathlib import Path

import pytest

import dugong
from dugong import HTTPConnection
from tests.support.server import Peer, ScriptedServer

NAMES = """
    HTTPConnection HTTPResponse BodyFollowing CaseInsensitiveDict Headers AioFuture PollNeeded
    eval_coroutine is_temp_network_error
    MAX_LINE_SIZE MAX_HEADER_SIZE DNS_TEST_HOSTNAMES BUFFER_SIZE
    DugongError ConnectionClosed ConnectionTimedOut StateError ExcessBodyData InvalidResponse
    UnsupportedResponse HostnameNotResolvable DNSUnavailable ProxyError
    ConnectError TLSError InternalError
    ConnectionPool Request Response StreamedResponse ResponseFuture PeerInfo PoolStatistics
    RetryPolicy retrying Attempt Event FilePart Progress
    Delivery PoolClosed PoolFull ResponseTooLarge DecodingError HTTPStatusError
    RedirectError TooManyRedirects IntegrityError Downloaded
    Client AsyncClient AsyncStreamedResponse Cookies Auth BasicAuth BearerAuth DigestAuth
    get head options post put patch delete request
    BodyLike HeadersLike HeadersMaker Options ClientOptions TransferOptions UploadOptions
    POOL_DEFAULT PoolDefault HostPolicy RequestSource
    HostStatistics ConnectionStatistics Holding RecordedExchange
""".split()

METHODS = """
    connect send_request write write_eof read_response read readinto readall discard read_raw
    response_pending disconnect close reset get_ssl_peercert get_ssl_cipher
    readable writable seekable flush
    co_connect co_send_request co_write co_write_eof co_read_response co_read co_readinto co_readall
    co_discard
""".split()

#: What takes long to import, and is not needed before it is used.
EXPENSIVE = (
    "asyncio",
    "concurrent",
    "dataclasses",
    "ssl",
    "logging",
    "email",
    "http",
    "urllib",
    "hashlib",
    "tempfile",
)


def run_python(*lines: str) -> str:
    """Run a program in an interpreter of its own; return what it printed to either stream."""
    # Without the site packages, some of which load modules of their own when Python starts.
    find_dugong = f"import sys; sys.path.insert(0, {str(Path(dugong.__file__).parents[1])!r})"
    program = "\n".join((find_dugong, *lines))
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_can_be_imported(name: str) -> None:
    assert getattr(dugong, name) is not None


def test_all_names_what_is_public_and_nothing_else() -> None:
    assert sorted(dugong.__all__) == sorted(NAMES)


def test_everything_can_be_imported_with_an_asterisk() -> None:
    namespace: dict[str, object] = {}
    exec("from dugong import *", namespace)
    assert set(NAMES) <= set(namespace)


@pytest.mark.parametrize("name", METHODS)
def test_a_connection_has_this_method_and_says_what_it_does(name: str) -> None:
    method = getattr(HTTPConnection, name)
    assert callable(method)
    assert method.__doc__


def test_a_connection_has_its_attributes() -> None:
    conn = HTTPConnection("example.com", proxy=("proxy.example.com", 3128))
    assert (conn.hostname, conn.port) == ("example.com", 80)
    assert conn.ssl_context is None
    assert conn.proxy == ("proxy.example.com", 3128)
    assert conn.timeout is None
    assert conn.closed is False


def test_public_classes_and_functions_are_documented() -> None:
    public = [getattr(dugong, name) for name in dugong.__all__]
    documented = [item for item in public if inspect.isclass(item) or inspect.isfunction(item)]
    assert [item for item in documented if not item.__doc__] == []


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        dugong.nonsense  # noqa: B018


def test_the_package_says_that_it_is_typed() -> None:
    assert importlib.resources.files(dugong).joinpath("py.typed").is_file()


def test_the_package_has_a_version() -> None:
    assert dugong.__version__.split(".")[0].isdigit()


@pytest.mark.parametrize("module", EXPENSIVE)
def test_importing_dugong_does_not_load(module: str) -> None:
    run_python("import dugong", f"assert {module!r} not in sys.modules")


def test_a_connection_without_tls_does_not_load_expensive_modules_either() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.respond(b"body", headers="Content-Type: text/html; charset=utf-8\r\n")

    with ScriptedServer(script) as server:
        run_python(
            "import dugong",
            f"with dugong.HTTPConnection('127.0.0.1', {server.port}) as conn:",
            "    conn.send_request('GET', '/', headers={'Accept': 'text/html'})",
            "    response = conn.read_response()",
            "    assert response.headers.get_content_charset() == 'utf-8'",
            "    assert conn.readall() == b'body'",
            f"assert not sys.modules.keys() & set({EXPENSIVE!r})",
        )


@pytest.mark.parametrize(
    "module", ["dataclasses", "inspect", "ssl", "asyncio", "dugong.pool.statistics"]
)
def test_a_pool_without_tls_does_not_load(module: str) -> None:
    with ScriptedServer(lambda peer: peer.respond(peer.request().body)) as server:
        run_python(
            "import dugong",
            "with dugong.ConnectionPool() as pool:",
            f"    assert pool.get('http://127.0.0.1:{server.port}/').status == 200",
            f"assert {module!r} not in sys.modules",
        )


def test_importing_dugong_prints_nothing() -> None:
    assert run_python("import dugong", "dugong.AioFuture") == ""


def test_nothing_is_printed_or_logged(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def good(peer: Peer) -> None:
        peer.request()
        peer.respond(b"body")
        peer.request()
        peer.send(b"nonsense")

    def cut(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")

    caplog.set_level(logging.INFO + 1)
    with ScriptedServer(good, cut) as server, HTTPConnection(*server.address) as conn:
        conn.send_request("GET", "/")
        conn.read_response()
        conn.discard()
        conn.send_request("GET", "/")
        with pytest.raises(dugong.InvalidResponse):
            conn.read_response()
        conn.send_request("GET", "/")
        conn.read_response()
        with pytest.raises(dugong.ConnectionClosed):
            conn.readall()
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_dir_shows_what_is_not_imported_yet() -> None:
    shown = run_python("import dugong", "print(*dir(dugong))").split()
    assert set(NAMES) <= set(shown)
