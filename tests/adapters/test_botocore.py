"""Clients of botocore that send through a pool."""

from __future__ import annotations

import base64
import gc
import io
import re
import socket
import ssl
import threading
import weakref
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from dugong import (
    ConnectError,
    ConnectionClosed,
    ConnectionPool,
    ConnectionTimedOut,
    HostnameNotResolvable,
    InvalidResponse,
    ProxyError,
    TLSError,
)
from tests.support.fork import holds_in_child
from tests.support.proxies import HttpProxy
from tests.support.server import Peer, ReceivedRequest, Script, ScriptedServer

boto3 = pytest.importorskip("boto3")
botocore = pytest.importorskip("botocore")
errors = pytest.importorskip("botocore.exceptions")
module = pytest.importorskip("dugong.adapters.botocore")
Config = pytest.importorskip("botocore.config").Config
use_dugong = module.use_dugong

ONCE = {"mode": "standard", "total_max_attempts": 1}
MakeClient = Callable[..., Any]


@pytest.fixture(scope="module")
def session() -> Any:
    return boto3.Session(
        aws_access_key_id="key", aws_secret_access_key="secret", region_name="us-east-1"
    )


@pytest.fixture
def make_client(session: Any) -> Iterator[MakeClient]:
    """Return what makes a client for a server; its further arguments are of its `Config`."""
    clients = []

    def make(url: str, service: str = "s3", verify: str | bool | None = None, **config: Any) -> Any:
        made = session.client(
            service, endpoint_url=url, verify=verify, config=Config(**{"retries": ONCE} | config)
        )
        clients.append(made)
        return made

    yield make
    for client in clients:
        client.close()


class Recorder:
    """A script: keeps the requests, and responds with *status*, and to *methods* with *body*."""

    def __init__(
        self,
        body: bytes = b"",
        status: str = "200 OK",
        headers: str = "",
        methods: tuple[str, ...] = ("GET",),
    ) -> None:
        self._response = (body, status, headers)
        self._methods = methods
        self.requests: list[ReceivedRequest] = []

    def __call__(self, peer: Peer) -> None:
        try:
            while True:
                self._respond(peer)
        except (EOFError, OSError):
            pass  # the client has gone, as it may at any time

    def _respond(self, peer: Peer) -> None:
        request = peer.head()
        if "expect" in request.headers:
            peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        size = int(request.headers.get("content-length", 0))
        self.requests.append(request._replace(body=peer.exactly(size)))
        body, status, headers = self._response
        if request.method == "HEAD":
            peer.send(f"HTTP/1.1 {status}\r\nContent-Length: 5\r\n{headers}\r\n".encode())
        else:
            peer.respond(body if request.method in self._methods else b"", status, headers)


KEYS = ("a", "a b", "a+b", "a%20b", "a/../b", "..", "./a//b", "ä€🐘", "a?b#c&d=e", "~'!()*\"<>|\\^")


def test_what_is_sent_is_what_botocore_would_have_sent(make_client: MakeClient) -> None:
    """But for the order of the header fields, and what changes with the time."""

    def calls(client: Any) -> None:
        for key in KEYS:
            client.put_object(Bucket="bucket", Key=key, Body=b"hello", Metadata={"a": "b c"})
            client.get_object(Bucket="bucket", Key=key, Range="bytes=1-2")["Body"].read()
            client.head_object(Bucket="bucket", Key=key)
            client.delete_object(Bucket="bucket", Key=key)
        client.put_object(Bucket="bucket", Key="empty")
        client.put_object(Bucket="bucket", Key="file", Body=io.BytesIO(b"hello"))
        client.put_object(Bucket="bucket", Key="none", Body=io.BytesIO(b""))
        client.create_multipart_upload(Bucket="bucket", Key="file")

    recorder = Recorder(b"")
    with ScriptedServer(recorder, repeat=True) as server:
        client = make_client(server.url(""))
        calls(client)
        client.close()
        expected = [comparable(request) for request in recorder.requests]
        recorder.requests.clear()
        with use_dugong(client):
            calls(client)
    got = [comparable(request) for request in recorder.requests]
    for have, want in zip(got, expected, strict=True):
        assert have == want


def comparable(request: ReceivedRequest) -> tuple[str, str, dict[str, str], bytes]:
    headers = dict(request.headers)
    for name in ("x-amz-date", "amz-sdk-invocation-id"):
        headers.pop(name, None)
    headers["authorization"] = re.sub("Signature=.*", "", headers["authorization"])
    if request.headers.get("content-length") == "0":
        headers.pop("expect", None)  # there is nothing to wait with
    return request.method, request.target, headers, request.body


def test_a_body_that_is_streamed_is_read_as_it_comes(make_client: MakeClient) -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        assert go_on.wait(10)
        peer.send(b"later")

    with ScriptedServer(script) as server:
        client = make_client(server.url(""))
        with use_dugong(client):
            body = client.get_object(Bucket="bucket", Key="key")["Body"]
            assert body.readable()
            assert body.read(5) == b"first"
            go_on.set()
            assert body.read() == b"later"
            assert body.read() == b""


@pytest.mark.parametrize("most", [1, 2])
def test_any_number_of_bodies_may_be_open(make_client: MakeClient, most: int) -> None:
    with ScriptedServer(Recorder(bytes(5_000_000)), repeat=True) as server:
        client = make_client(server.url(""), max_pool_connections=most)
        with use_dugong(client) as adapter:
            bodies = [client.get_object(Bucket="bucket", Key="key")["Body"] for _ in range(5)]
            client.delete_object(Bucket="bucket", Key="key")
            assert [body.read(3) for body in bodies] == [bytes(3)] * 5
            assert adapter.pool.statistics().connections == most
            for body in bodies:
                body.close()
            body = client.get_object(Bucket="bucket", Key="key")["Body"]
            assert len(body.read()) == 5_000_000


def test_a_body_does_not_take_the_connection_that_another_request_waits_for(
    make_client: MakeClient,
) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        for request in peer.requests():
            if request.method == "DELETE":
                asked.set()
                assert go_on.wait(10)
            peer.respond(b"hello" if request.method == "GET" else b"")

    with ScriptedServer(script, repeat=True) as server:
        client = make_client(server.url(""), max_pool_connections=1)
        with use_dugong(client) as adapter:
            thread = threading.Thread(
                target=client.delete_object, kwargs={"Bucket": "bucket", "Key": "key"}
            )
            thread.start()
            assert asked.wait(10)
            body = client.get_object(Bucket="bucket", Key="key")["Body"]
            go_on.set()
            thread.join()
            assert body.read() == b"hello"
            assert adapter.pool.statistics().sent == 1
            client.get_object(Bucket="bucket", Key="key")["Body"].read()
            assert adapter.pool.statistics().sent == 2


def test_no_more_connections_are_kept_than_the_configuration_says(make_client: MakeClient) -> None:
    with ScriptedServer(Recorder(b"hello"), repeat=True) as server:
        client = make_client(server.url(""), max_pool_connections=3)

        def ask() -> None:
            for _ in range(5):
                client.head_object(Bucket="bucket", Key="key")

        with use_dugong(client) as adapter:
            threads = [threading.Thread(target=ask) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for _ in range(20):  # each gives back what it has taken
                client.get_object(Bucket="bucket", Key="key")["Body"].read()
            assert adapter.pool.statistics().connections <= 3
        assert server.connections <= 3


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_goes_on_whatever_other_threads_were_doing(make_client: MakeClient) -> None:
    with ScriptedServer(Recorder(b"hello"), repeat=True) as server:
        client = make_client(server.url(""), max_pool_connections=1)

        def uses_the_same_pool(adapter: Any) -> bool:
            body = client.get_object(Bucket="bucket", Key="key")["Body"].read()
            return body == b"hello" and adapter.pool.statistics().connections == 1

        with use_dugong(client) as adapter:
            slots = module._Slot(), module._Slot()
            assert adapter._room.enter(slots[0], False)
            assert not uses_the_same_pool(adapter)
            with adapter._room._lock:
                assert holds_in_child(lambda: uses_the_same_pool(adapter))
            slots[0].give_back()
            assert adapter._room.enter(slots[1], True)
            slots[1].give_back()


def test_responses_without_a_body_have_none(make_client: MakeClient) -> None:
    with ScriptedServer(Recorder(headers='ETag: "tag"\r\n'), repeat=True) as server:
        client = make_client(server.url(""))
        with use_dugong(client):
            head = client.head_object(Bucket="bucket", Key="key")
            assert (head["ContentLength"], head["ETag"]) == (5, '"tag"')
    for status in ("204 No Content", "304 Not Modified"):

        def script(peer: Peer, status: str = status) -> None:
            for _ in peer.requests():
                peer.send(f"HTTP/1.1 {status}\r\nx-amz-request-id: id\r\n\r\n".encode())

        with ScriptedServer(script) as server:
            client = make_client(server.url(""))
            with use_dugong(client):
                if status.startswith("204"):
                    reply = client.delete_object(Bucket="bucket", Key="key")
                    assert reply["ResponseMetadata"]["HTTPStatusCode"] == 204
                    assert reply["ResponseMetadata"]["RequestId"] == "id"
                else:
                    with pytest.raises(errors.ClientError, match="304"):
                        client.get_object(Bucket="bucket", Key="key", IfNoneMatch="*")


# --- failures -----------------------------------------------------------------------------------


def close(peer: Peer) -> None:
    peer.request()


def be_silent(peer: Peer) -> None:
    peer.until_eof()


def say_nonsense(peer: Peer) -> None:
    peer.request()
    peer.send(b"nonsense\r\n\r\n")


@pytest.mark.parametrize(
    ("script", "error", "cause"),
    [
        (close, "ConnectionClosedError", ConnectionClosed),
        (say_nonsense, "ConnectionClosedError", InvalidResponse),
        (be_silent, "ReadTimeoutError", ConnectionTimedOut),
    ],
)
@pytest.mark.parametrize("operation", ["get_object", "delete_object"])
def test_what_fails_on_a_connection_is_an_exception_of_botocore(
    make_client: MakeClient, script: Script, error: str, cause: type[Exception], operation: str
) -> None:
    with ScriptedServer(script) as server:
        client = make_client(server.url(""), read_timeout=0.1)
        with use_dugong(client), pytest.raises(getattr(errors, error)) as caught:
            getattr(client, operation)(Bucket="bucket", Key="key")
    assert type(caught.value) is getattr(errors, error)
    assert isinstance(caught.value.__cause__, cause)
    assert caught.value.kwargs["endpoint_url"] == server.url("/bucket/key")


def refusing_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def test_a_connection_that_is_refused_is_an_endpoint_that_cannot_be_reached(
    make_client: MakeClient,
) -> None:
    client = make_client(f"http://127.0.0.1:{refusing_port()}")
    with use_dugong(client), pytest.raises(errors.EndpointConnectionError) as caught:
        client.list_buckets()
    assert isinstance(caught.value.__cause__, ConnectError)


def test_a_name_without_an_address_is_an_endpoint_that_cannot_be_reached(
    make_client: MakeClient,
) -> None:
    def resolve(_host: str, _port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    client = make_client("http://s3.example.com")
    with (
        use_dugong(client, resolver=resolve),
        pytest.raises(errors.EndpointConnectionError) as caught,
    ):
        client.list_buckets()
    assert isinstance(caught.value.__cause__, HostnameNotResolvable)


def test_a_connection_that_takes_too_long_to_open_is_a_connect_timeout(
    make_client: MakeClient,
) -> None:
    with ScriptedServer(be_silent) as server:  # which does not shake hands
        client = make_client(server.url("").replace("http", "https"), connect_timeout=0.1)
        with use_dugong(client), pytest.raises(errors.ConnectTimeoutError) as caught:
            client.list_buckets()
    assert isinstance(caught.value.__cause__, ConnectionTimedOut)


def test_the_time_to_connect_is_not_the_time_to_read(
    make_client: MakeClient, server_context: ssl.SSLContext
) -> None:
    """A read_timeout below the connect_timeout does not bound the handshake."""
    late = threading.Event()

    def script(peer: Peer) -> None:
        assert not late.wait(0.3)
        sock = server_context.wrap_socket(peer.sock, server_side=True)
        Recorder()(Peer(sock))
        sock.close()

    with ScriptedServer(script) as server:
        client = make_client(
            server.url("").replace("http", "https"), verify=False, read_timeout=0.1
        )
        with use_dugong(client):
            client.head_object(Bucket="bucket", Key="key")


def test_a_request_may_have_its_own_read_timeout(make_client: MakeClient) -> None:
    with ScriptedServer(be_silent) as server:
        client = make_client(server.url(""))
        client.meta.events.register(
            "before-call", lambda context, **_: context.update(read_timeout=0.05)
        )
        with use_dugong(client), pytest.raises(errors.ReadTimeoutError):
            client.head_object(Bucket="bucket", Key="key")


@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
def test_a_body_that_is_cut_short_is_not_an_end(make_client: MakeClient, framing: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        data = b"first" if "Length" in framing else b"5\r\nfirst\r\n"
        peer.send(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode() + data)

    with ScriptedServer(script, script) as server:
        client = make_client(server.url(""))
        with use_dugong(client):
            body = client.get_object(Bucket="bucket", Key="key")["Body"]
            assert body.read(5) == b"first"
            with pytest.raises(errors.ResponseStreamingError):
                body.read(5)
            with pytest.raises(errors.ConnectionClosedError):
                client.list_objects_v2(Bucket="bucket")


def test_a_body_that_stops_coming_is_a_read_timeout(make_client: MakeClient) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        peer.until_eof()

    with ScriptedServer(script) as server:
        client = make_client(server.url(""), read_timeout=0.1)
        with use_dugong(client):
            body = client.get_object(Bucket="bucket", Key="key")["Body"]
            with pytest.raises(errors.ReadTimeoutError):
                body.read()


def test_the_pool_does_not_retry_but_botocore_does(make_client: MakeClient) -> None:
    recorder = Recorder(status="503 Service Unavailable")
    with ScriptedServer(close, recorder) as server:
        client = make_client(server.url(""), retries={"mode": "standard", "total_max_attempts": 3})
        with use_dugong(client), pytest.raises(errors.ClientError) as caught:
            client.delete_object(Bucket="bucket", Key="key")
    assert caught.value.response["ResponseMetadata"]["RetryAttempts"] == 2
    assert [request.headers["amz-sdk-request"] for request in recorder.requests] == [
        "attempt=2; max=3",
        "attempt=3; max=3",
    ]


@pytest.mark.parametrize("mode", ["legacy", "standard"])
def test_a_body_is_sent_again_by_a_retry(make_client: MakeClient, mode: str) -> None:
    recorder = Recorder()

    def refuse(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        peer.exactly(3)

    with ScriptedServer(refuse, recorder) as server:
        client = make_client(server.url(""), retries={"mode": mode, "total_max_attempts": 2})
        with use_dugong(client):
            client.put_object(Bucket="bucket", Key="key", Body=io.BytesIO(b"hello"))
    assert [request.body for request in recorder.requests] == [b"hello"]


def test_what_else_fails_is_an_error_of_the_http_client(make_client: MakeClient) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if threading.current_thread() is threading.main_thread():
                return super().read(size)  # to be signed
            raise ArithmeticError("broken")

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        peer.until_eof()

    with ScriptedServer(script) as server:
        client = make_client(server.url(""))
        with use_dugong(client):
            with pytest.raises(errors.HTTPClientError, match="broken") as caught:
                client.put_object(Bucket="bucket", Key="key", Body=Broken(b"hello"))
            assert isinstance(caught.value.__cause__, ArithmeticError)
    pool = ConnectionPool()
    pool.close()
    client = make_client(server.url(""))
    with use_dugong(client, pool), pytest.raises(errors.HTTPClientError, match="closed"):
        client.list_buckets()


def test_a_body_that_is_cancelled_is_cancelled(make_client: MakeClient) -> None:
    from concurrent.futures import CancelledError

    class Cancelled(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if threading.current_thread() is threading.main_thread():
                return super().read(size)
            raise CancelledError

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        peer.until_eof()

    with ScriptedServer(script) as server:
        client = make_client(server.url(""))
        with use_dugong(client), pytest.raises(CancelledError):
            client.put_object(Bucket="bucket", Key="key", Body=Cancelled(b"hello"))


# --- bodies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("accepted", [True, False])
def test_a_file_is_sent_when_the_server_wants_it(make_client: MakeClient, accepted: bool) -> None:
    got = []

    def script(peer: Peer) -> None:
        request = peer.head()
        got.append(request.headers["expect"])
        if accepted:
            peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            got.append(peer.exactly(5).decode())
            peer.respond()
        else:
            peer.respond(status="403 Forbidden", headers="Connection: close\r\n")
            got.append(peer.until_eof().decode())

    with ScriptedServer(script) as server:
        client = make_client(server.url(""))
        with use_dugong(client):
            if accepted:
                client.put_object(Bucket="bucket", Key="key", Body=io.BytesIO(b"hello"))
            else:
                with pytest.raises(errors.ClientError, match="403"):
                    client.put_object(Bucket="bucket", Key="key", Body=io.BytesIO(b"hello"))
    assert got == ["100-continue", "hello" if accepted else ""]


def test_a_file_is_sent_from_where_it_stands(make_client: MakeClient, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    recorder = Recorder()
    with ScriptedServer(recorder) as server, open(path, "rb") as file:
        client = make_client(server.url(""))
        file.seek(4)
        with use_dugong(client):
            client.put_object(Bucket="bucket", Key="key", Body=file)
        assert file.read() == b""
    assert recorder.requests[0].body == b"456789"


def test_a_checksum_behind_the_body_is_sent(
    make_client: MakeClient, server_context: ssl.SSLContext
) -> None:
    """Which botocore does over https, in chunks of its own inside of those of HTTP."""
    requests = []

    def script(peer: Peer) -> None:
        request = peer.head()
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert request.headers["transfer-encoding"] == "chunked"
        requests.append((request.headers, dechunked(peer)))
        peer.respond()

    data = bytes(range(256)) * 10_000
    with ScriptedServer(script, context=server_context) as server:
        client = make_client(server.url(""), verify=False)
        with use_dugong(client):
            client.put_object(Bucket="bucket", Key="key", Body=io.BytesIO(data))
    headers, body = requests[0]
    assert headers["content-encoding"] == "aws-chunked"
    assert headers["x-amz-trailer"] == "x-amz-checksum-crc32"
    assert headers["x-amz-decoded-content-length"] == str(len(data))
    checksum = base64.b64encode(zlib.crc32(data).to_bytes(4, "big"))
    assert body.endswith(b"\r\n0\r\nx-amz-checksum-crc32:%s\r\n\r\n" % checksum)
    assert body.startswith(b"100000\r\n" + data[: 2**20])


def dechunked(peer: Peer) -> bytes:
    body = b""
    while True:
        line = b""
        while not line.endswith(b"\r\n"):
            line += peer.exactly(1)
        size = int(line, 16)
        body += peer.exactly(size)
        assert peer.exactly(2) == b"\r\n"
        if size == 0:
            return body


def test_the_progress_of_an_upload_is_told_once(make_client: MakeClient, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(600_000))
    steps: list[int] = []
    recorder = Recorder()
    with ScriptedServer(recorder) as server:
        client = make_client(server.url(""))
        with use_dugong(client):
            client.upload_file(str(path), "bucket", "key", Callback=steps.append)
    assert sum(steps) == 600_000
    assert min(steps) > 0
    assert len(recorder.requests[0].body) == 600_000


def test_a_form_is_sent_as_utf_8(make_client: MakeClient) -> None:
    body = b"<Response><GetCallerIdentityResult/></Response>"
    recorder = Recorder(body, headers="Content-Type: text/xml\r\n", methods=("POST",))
    with ScriptedServer(recorder) as server:
        client = make_client(server.url(""), service="sts")
        with use_dugong(client):
            client.get_caller_identity()
    assert b"Action=GetCallerIdentity" in recorder.requests[0].body


def test_a_body_may_be_read_by_means_of_the_client(make_client: MakeClient) -> None:
    class Remote(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            client.get_object(Bucket="bucket", Key="other")["Body"].read()
            client.head_object(Bucket="bucket", Key="other")
            return super().read(size)

    recorder = Recorder(b"other")
    with ScriptedServer(recorder, repeat=True) as server:
        client = make_client(server.url(""), max_pool_connections=2)
        with use_dugong(client):
            client.put_object(Bucket="bucket", Key="key", Body=Remote(b"hello"))
            body = client.get_object(Bucket="bucket", Key="other")["Body"]
            client.put_object(Bucket="bucket", Key="key", Body=Remote(b"hello"))
            assert body.read() == b"other"
    assert [each.body for each in recorder.requests if each.method == "PUT"] == [b"hello"] * 2


# --- the configuration --------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_requests_go_through_the_proxy_of_the_configuration(
    make_client: MakeClient, server_context: ssl.SSLContext, scheme: str
) -> None:
    context = server_context if scheme == "https" else None
    with ScriptedServer(Recorder(), repeat=True, context=context) as server:
        script = HttpProxy(server.address)
        with ScriptedServer(script, repeat=True) as proxy:
            client = make_client(
                server.url(""),
                verify=False,
                proxies={scheme: f"user:pass@{proxy.host}:{proxy.port}", "ftp": "ftp://other"},
            )
            with use_dugong(client):
                client.head_object(Bucket="bucket", Key="key")
    asked = script.requests[0]
    assert asked.method == ("CONNECT" if scheme == "https" else "HEAD")
    assert asked.headers["proxy-authorization"] == "Basic dXNlcjpwYXNz"


def test_an_https_proxy_is_verified_as_the_configuration_says(
    make_client: MakeClient, server_context: ssl.SSLContext, authority: trustme.CA, tmp_path: Path
) -> None:
    path = str(tmp_path / "authority.pem")
    authority.cert_pem.write_to_path(path)
    cert = str(tmp_path / "client.pem")
    authority.issue_cert("me@example.com").private_key_and_cert_chain_pem.write_to_path(cert)
    script = HttpProxy(("127.0.0.1", 1))
    with ScriptedServer(script, context=server_context, repeat=True) as proxy:
        for settings in ({}, {"proxy_ca_bundle": path, "proxy_client_cert": cert}):
            client = make_client(
                "http://s3.example.com",
                proxies={"http": proxy.url("")},
                proxies_config=settings,
            )
            with use_dugong(client):
                if settings:
                    client.get_object(Bucket="bucket", Key="key")["Body"].read()
                else:
                    with pytest.raises(errors.SSLError):
                        client.get_object(Bucket="bucket", Key="key")
    assert [each.target for each in script.requests] == ["http://s3.example.com/bucket/key"]


def test_requests_go_through_the_proxy_of_the_environment(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = HttpProxy(("127.0.0.1", 1))
    with ScriptedServer(script) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url(""))
        client = make_client("http://s3.example.com")
        with use_dugong(client):
            client.get_object(Bucket="bucket", Key="key")["Body"].read()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with ScriptedServer(Recorder()) as server:
            client = make_client(server.url(""))
            with use_dugong(client):
                client.delete_object(Bucket="bucket", Key="key")
    assert [each.target for each in script.requests] == ["http://s3.example.com/bucket/key"]


def test_a_proxy_that_cannot_be_reached_or_refuses_is_named(make_client: MakeClient) -> None:
    def refuse(peer: Peer) -> None:
        peer.request()
        peer.respond(status="407 Proxy Authentication Required")

    with ScriptedServer(refuse) as proxy:
        for url, cause in (
            (f"http://user:pass@127.0.0.1:{refusing_port()}", ConnectError),
            (f"http://user:pass@127.0.0.1:{proxy.port}", ProxyError),
        ):
            client = make_client("https://s3.example.com", proxies={"https": url})
            with use_dugong(client), pytest.raises(errors.ProxyConnectionError) as caught:
                client.list_buckets()
            assert isinstance(caught.value.__cause__, cause)
            assert "127.0.0.1" in str(caught.value)
            assert "pass" not in str(caught.value)


@pytest.mark.parametrize("trust", ["path", "environment", "no", None])
def test_the_certificate_is_verified_as_the_client_says(
    make_client: MakeClient,
    server_context: ssl.SSLContext,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trust: str | None,
) -> None:
    path = str(tmp_path / "authority.pem")
    authority.cert_pem.write_to_path(path)
    if trust == "environment":
        monkeypatch.setenv("AWS_CA_BUNDLE", path)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", path)
    verify = {"path": path, "no": False}.get(trust or "")
    with ScriptedServer(Recorder(), context=server_context) as server:
        client = make_client(server.url(""), verify=verify)
        with use_dugong(client):
            if trust is None:
                with pytest.raises(errors.SSLError) as caught:
                    client.delete_object(Bucket="bucket", Key="key")
                assert isinstance(caught.value.__cause__, TLSError)
            else:
                client.delete_object(Bucket="bucket", Key="key")


@pytest.mark.parametrize("together", [True, False])
def test_the_certificate_of_the_client_is_shown(
    make_client: MakeClient, authority: trustme.CA, tmp_path: Path, together: bool
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    mine = authority.issue_cert("client@example.com")
    paths = [str(tmp_path / name) for name in ("both", "cert", "key")]
    mine.private_key_and_cert_chain_pem.write_to_path(paths[0])
    mine.cert_chain_pems[0].write_to_path(paths[1])
    mine.private_key_pem.write_to_path(paths[2])
    with ScriptedServer(Recorder(), context=context) as server:
        client = make_client(
            server.url(""), verify=False, client_cert=paths[0] if together else tuple(paths[1:])
        )
        with use_dugong(client):
            client.delete_object(Bucket="bucket", Key="key")


def test_options_of_the_pool_come_before_the_configuration(make_client: MakeClient) -> None:
    events: list[object] = []
    with ScriptedServer(Recorder(), repeat=True) as server:
        client = make_client(server.url(""))
        with use_dugong(client, max_connections_per_host=1, on_event=events.append):
            body = client.get_object(Bucket="bucket", Key="key")["Body"]
            client.delete_object(Bucket="bucket", Key="key")
            body.close()
    assert events


@pytest.mark.parametrize("keepalive", [True, False])
def test_tcp_keepalive_is_honoured(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, keepalive: bool
) -> None:
    seen = []
    connect = socket.socket.connect

    def noting(sock: socket.socket, address: Any) -> None:
        seen.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        connect(sock, address)

    monkeypatch.setattr(socket.socket, "connect", noting)
    with ScriptedServer(Recorder(), repeat=True) as server:
        client = make_client(server.url(""), tcp_keepalive=keepalive)
        with use_dugong(client):
            client.delete_object(Bucket="bucket", Key="key")
    assert seen == [int(keepalive)]


def test_several_clients_may_share_a_pool(make_client: MakeClient) -> None:
    with ScriptedServer(Recorder(b"hello")) as server, ConnectionPool() as pool:
        for _ in range(2):
            client = make_client(server.url(""))
            adapter = use_dugong(client, pool)
            assert adapter.pool is pool
            assert client.get_object(Bucket="bucket", Key="key")["Body"].read() == b"hello"
            adapter.close()
        assert pool.get(server.url()).body == b"hello"  # it is not closed with the adapters


def test_a_second_adapter_replaces_the_first_and_closing_it_leaves_none(
    make_client: MakeClient,
) -> None:
    with ScriptedServer(Recorder(), repeat=True) as server:
        client = make_client(server.url(""))
        first = use_dugong(client)
        second = use_dugong(client)
        client.delete_object(Bucket="bucket", Key="key")
        assert first.pool.statistics().sent == 0
        assert second.pool.statistics().sent == 1
        first.close()
        client.delete_object(Bucket="bucket", Key="key")
        assert second.pool.statistics().sent == 2
        second.close()
        client.delete_object(Bucket="bucket", Key="key")
        assert second.pool.statistics().sent == 2
        client.close()


def test_an_adapter_that_is_forgotten_ends_with_its_client(session: Any) -> None:
    with ScriptedServer(Recorder()) as server:
        client = session.client("s3", endpoint_url=server.url(""))
        pool = weakref.ref(use_dugong(client).pool)
        client.delete_object(Bucket="bucket", Key="key")
        del client
        gc.collect()
        assert pool() is None
    for thread in threading.enumerate():
        if thread.name.startswith("dugong"):
            thread.join(10)


def test_calls_that_make_no_sense_are_refused(make_client: MakeClient) -> None:
    client = make_client("http://127.0.0.1")
    with pytest.raises(TypeError, match=r"meta\.client"):
        use_dugong(object())
    with ConnectionPool() as pool, pytest.raises(TypeError, match="pool_options"):
        use_dugong(client, pool, timeout=3)
    with pytest.raises(TypeError, match="nonsense"):
        use_dugong(client, nonsense=3)
    client = make_client(
        "http://127.0.0.1", proxies_config={"proxy_use_forwarding_for_https": True}
    )
    with pytest.raises(ValueError, match="forwarding"):
        use_dugong(client)
