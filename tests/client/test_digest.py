"""Digest: what is sent, what is remembered, and that no challenge raises."""

from __future__ import annotations

import copy
import hashlib
import io
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dugong import ConnectionPool, Headers, Request, Response
from dugong.client import digest as digest_module
from dugong.client.auth import Auth
from dugong.client.digest import DigestAuth
from dugong.connection.head import field_line
from dugong.pool.body import BodyLike
from dugong.pool.oneshot import mark_used
from tests.support.auth import SECRET, URL, authorization
from tests.support.fork import holds_in_child
from tests.support.pool import wait_for
from tests.support.server import Peer, ScriptedServer

HASHES: dict[str, Callable[[bytes], Any]] = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}
ALGORITHMS = [None, "MD5", "SHA-256", "SHA-512-256", "MD5-sess", "SHA-256-sess", "SHA-512-256-sess"]


def run(auth: Auth, request: Request, send: Callable[[Request, str | None], Response]) -> Response:
    """Drive the flow of *auth* as a client does; return the result."""
    flow = auth.flow(request)
    sent = next(flow)
    while True:
        response = send(sent, authorization(auth, sent))
        try:
            sent = flow.send(response)
        except StopIteration:
            return response


def response_to(request: Request, status: int, *fields: tuple[str, str]) -> Response:
    return Response(status, "", Headers(fields), b"", request)


def challenged(request: Request, *challenges: str) -> Response:
    return response_to(request, 401, *(("WWW-Authenticate", value) for value in challenges))


def hexdigest(algorithm: str, text: str) -> str:
    base = algorithm.removesuffix("-sess")
    if base == "SHA-512-256":
        return hashlib.new("sha512_256", text.encode()).hexdigest()
    digest: str = HASHES[base](text.encode()).hexdigest()
    return digest


def parameters_of(value: str) -> dict[str, str]:
    """Return the parameters of an Authorization field with Digest, unquoted."""
    assert value.startswith("Digest ")
    rest = value.removeprefix("Digest ")
    parts = re.findall(r'([a-z*]+)=(?:"((?:[^"\\]|\\.)*)"|([^",]*))(?:, |$)', rest)
    found = {name: re.sub(r"\\(.)", r"\1", quoted) or plain for name, quoted, plain in parts}
    assert len(found) == len(parts)
    return found


def quoted_string(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class DigestServer:
    """A server that wants Digest, and computes for itself what the response has to be.

    `nonce` is what it challenges with; each request must have it, and a count it has not had.
    """

    def __init__(self, algorithm: str | None = None, qop: str | None = "auth", **more: str) -> None:
        self.user = "Mufasa"
        self.password = "Circle of Life"
        self.realm = "r"
        self.nonce = "n1"
        self.next_nonce: str | None = None
        self.stale = False
        self.algorithm = algorithm
        self.qop = qop
        self.more = more
        self.lock = threading.Lock()
        self.counts: list[tuple[str, int]] = []
        self.sent: list[str | None] = []
        self.keys: dict[str, str] = {}

    def challenge(self) -> str:
        fields = {"realm": self.realm, "nonce": self.nonce, **self.more}
        if self.qop is not None:
            fields["qop"] = self.qop
        quoted = [f"{name}={quoted_string(text)}" for name, text in fields.items()]
        if self.algorithm is not None:
            quoted.append(f"algorithm={self.algorithm}")
        if self.stale:
            quoted.append("stale=TRUE")
        return "Digest " + ", ".join(quoted)

    def __call__(self, request: Request, value: str | None) -> Response:
        with self.lock:
            self.sent.append(value)
            if value is None or not self.accepts(request, parameters_of(value)):
                return challenged(request, 'Basic realm="other"', self.challenge())
            if self.next_nonce is None:
                return response_to(request, 200)
            self.nonce = self.next_nonce
            return response_to(request, 200, ("Authentication-Info", f'nextnonce="{self.nonce}"'))

    def accepts(self, request: Request, sent: dict[str, str]) -> bool:
        algorithm = self.algorithm or "MD5"
        assert sent.get("algorithm") == self.algorithm
        assert sent["realm"] == self.realm
        assert sent.get("opaque") == self.more.get("opaque")
        assert sent["uri"] == request.target
        if "username*" in sent:
            charset, _, encoded = sent["username*"].partition("''")
            assert charset == "UTF-8"
            assert unquote(encoded) == self.user
        elif sent.get("userhash") == "true":
            assert sent["username"] == hexdigest(algorithm, f"{self.user}:{self.realm}")
        else:
            assert sent["username"] == self.user
        if sent["nonce"] != self.nonce:
            return False
        key = hexdigest(algorithm, f"{self.user}:{self.realm}:{self.password}")
        if algorithm.endswith("-sess"):
            made = hexdigest(algorithm, f"{key}:{self.nonce}:{sent['cnonce']}")
            key = self.keys.setdefault("session", made)
        a2 = f"{request.method}:{request.target}"
        if sent.get("qop") == "auth-int":
            assert request.body is None or isinstance(request.body, (bytes, bytearray, memoryview))
            a2 += ":" + hexdigest(algorithm, bytes(request.body or b"").decode())
        middle = ""
        if self.qop:
            assert sent["qop"] in self.qop.split(",")
            assert re.fullmatch("[0-9a-f]{8}", sent["nc"])
            use = self.nonce, int(sent["nc"], 16)
            if use in self.counts:
                return False
            self.counts.append(use)
            middle = f"{sent['nc']}:{sent['cnonce']}:{sent['qop']}:"
        else:
            assert not {"qop", "nc", "cnonce"} & sent.keys()
        expected = f"{key}:{self.nonce}:{middle}{hexdigest(algorithm, a2)}"
        return sent["response"] == hexdigest(algorithm, expected)


def digest() -> DigestAuth:
    return DigestAuth("Mufasa", "Circle of Life")


def needs_hash(algorithm: str | None) -> None:
    if (algorithm or "").startswith("SHA-512") and "sha512_256" not in hashlib.algorithms_available:
        pytest.skip("this Python has no SHA-512/256")


@pytest.mark.parametrize(
    ("user", "password", "problem"),
    [(None, "p", TypeError), ("u", b"sesame", TypeError), ("u", "sesame\n", ValueError)],
)
def test_credentials_that_cannot_be_hashed_are_refused_without_being_quoted(
    user: Any, password: Any, problem: type[Exception]
) -> None:
    with pytest.raises(problem, match="must") as caught:
        DigestAuth(user, password)
    assert SECRET not in str(caught.value)


def test_digest_is_not_static_and_its_repr_tells_the_class_alone() -> None:
    auth = DigestAuth("u", SECRET)
    assert not auth.is_static
    assert repr(auth) == "<DigestAuth>"


@pytest.mark.parametrize("duplicate", [copy.copy, lambda auth: pickle.loads(pickle.dumps(auth))])
def test_one_that_is_copied_or_pickled_begins_anew(duplicate: Any) -> None:
    server, request, auth = DigestServer(), Request("GET", URL), digest()
    assert run(auth, request, server).status == 200
    assert authorization(auth) is not None
    other = duplicate(auth)
    assert authorization(other) is None
    server.nonce = "n2"
    assert run(other, request, server).status == 200
    assert authorization(other) is not None


def test_one_in_a_forked_child_begins_anew_though_another_thread_was_using_it() -> None:
    server, request, auth = DigestServer(), Request("GET", URL), digest()
    assert run(auth, request, server).status == 200
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with auth._lock:
            held.set()
            wait_for(done)

    thread = threading.Thread(target=hold)
    thread.start()
    wait_for(held)
    try:
        # The count of a nonce is the parent's: what the child sent with it would be a replay.
        assert holds_in_child(lambda: authorization(auth) is None)
    finally:
        done.set()
        thread.join()
    assert authorization(auth) is not None


RFC_MD5_AND_SHA256 = """Digest
    realm="http-auth@example.org", qop="auth, auth-int", algorithm={},
    nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
    opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"
    """.replace("\n   ", "").rstrip()


@pytest.mark.parametrize(
    ("algorithms", "expected"),
    [
        (["MD5"], "8ca523f5e9506fed4657c9700eebdbec"),
        (
            ["SHA-256", "MD5"],
            "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
        ),
    ],
)
def test_the_first_example_of_the_rfc(
    monkeypatch: pytest.MonkeyPatch, algorithms: list[str], expected: str
) -> None:
    cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    monkeypatch.setattr(digest_module, "make_cnonce", lambda: cnonce)
    auth = digest()
    request = Request("GET", "http://www.example.org/dir/index.html")
    challenges = [RFC_MD5_AND_SHA256.format(algorithm) for algorithm in algorithms]

    def send(request: Request, value: str | None) -> Response:
        return challenged(request, *challenges) if value is None else response_to(request, 200)

    flow = auth.flow(request)
    flow.send(send(next(flow), None))
    value = authorization(auth, request)
    assert value is not None
    assert parameters_of(value) == {
        "username": "Mufasa",
        "realm": "http-auth@example.org",
        "uri": "/dir/index.html",
        "algorithm": algorithms[0],
        "nonce": "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
        "nc": "00000001",
        "cnonce": cnonce,
        "qop": "auth",
        "response": expected,
        "opaque": "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS",
    }


def test_the_second_example_of_the_rfc(monkeypatch: pytest.MonkeyPatch) -> None:
    # With the hashes of its erratum 4897: those in the text are not SHA-512/256.
    needs_hash("SHA-512-256")
    cnonce = "NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v"
    monkeypatch.setattr(digest_module, "make_cnonce", lambda: cnonce)
    auth = DigestAuth("J\u00e4s\u00f8n Doe", "Secret, or not?")
    request = Request("GET", "http://api.example.org/doe.json")
    flow = auth.flow(request)
    next(flow)
    flow.send(
        challenged(
            request,
            'Digest realm="api@example.org", qop="auth", algorithm=SHA-512-256, '
            'nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", '
            'opaque="HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDnsOS", charset=UTF-8, userhash=true',
        )
    )
    value = authorization(auth, request)
    assert value is not None
    sent = parameters_of(value)
    assert sent["username"] == "793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b"
    assert sent["response"] == "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5"
    assert sent["userhash"] == "true"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_challenge_is_met_and_later_requests_are_authenticated_at_once(
    algorithm: str | None,
) -> None:
    needs_hash(algorithm)
    server = DigestServer(algorithm, opaque="o")
    auth = digest()
    results = [run(auth, Request(method, URL), server) for method in ("GET", "PUT", "GET")]
    assert [result.status for result in results] == [200, 200, 200]
    assert server.counts == [("n1", 1), ("n1", 2), ("n1", 3)]
    assert [value is None for value in server.sent] == [True, False, False, False]


@pytest.mark.parametrize("algorithm", [None, "MD5", "SHA-256"])
def test_a_server_that_knows_no_qop_gets_what_rfc_2069_says(algorithm: str | None) -> None:
    server = DigestServer(algorithm, qop=None)
    auth = digest()
    assert run(auth, Request("GET", URL), server).status == 200
    assert run(auth, Request("GET", URL), server).status == 200


@pytest.mark.parametrize("user", ["J\u00e4s\u00f8n Doe", 'a"b\\c', "a:b", "%41, x=y"])
@pytest.mark.parametrize("userhash", ["true", "false"])
def test_any_user_name_arrives(user: str, userhash: str) -> None:
    server = DigestServer("SHA-256", userhash=userhash)
    server.user = user
    assert run(DigestAuth(user, server.password), Request("GET", URL), server).status == 200


def test_quotes_and_backslashes_arrive_as_they_were_sent() -> None:
    server = DigestServer(opaque='"\\"')
    server.realm, server.nonce = 'a "b" \\c', '\\"\\'
    assert run(digest(), Request("GET", 'http://h/"\\"'), server).status == 200


def test_a_realm_is_sent_back_and_hashed_byte_by_byte() -> None:
    # A field value is ISO-8859-1 for dugong, whatever the server has encoded.
    realm = "caf\u00e9".encode().decode("latin-1")
    request = Request("GET", URL)
    auth = digest()
    flow = auth.flow(request)
    next(flow)
    flow.send(challenged(request, f'Digest realm="{realm}", nonce="n"'))
    value = authorization(auth, request)
    assert value is not None
    key = hexdigest("MD5", "Mufasa:caf\u00e9:Circle of Life")
    expected = hexdigest("MD5", f"{key}:n:{hexdigest('MD5', 'GET:/path?query')}")
    assert parameters_of(value)["response"] == expected
    assert field_line("Authorization", value).count("caf\u00e9".encode()) == 1


@pytest.mark.parametrize("body", [None, b"", b"data", bytearray(b"data"), memoryview(b"data")])
def test_auth_int_covers_a_body_in_memory(body: BodyLike | None) -> None:
    server = DigestServer("SHA-256", qop="auth-int")
    assert run(digest(), Request("PUT", URL, body=body), server).status == 200
    assert "qop=auth-int" in (server.sent[-1] or "")


def test_auth_is_preferred_to_auth_int() -> None:
    server = DigestServer(qop="auth-int,auth")
    assert run(digest(), Request("PUT", URL, body=b"data"), server).status == 200
    assert "qop=auth," in (server.sent[-1] or "")


@pytest.mark.parametrize("body", [lambda: b"data", [b"data"], io.BytesIO(b"data")])
def test_auth_int_of_another_body_is_not_tried(body: Any) -> None:
    server = DigestServer(qop="auth-int")
    auth = digest()
    assert run(auth, Request("GET", URL), server).status == 200
    server.sent.clear()
    assert run(auth, Request("PUT", URL, body=body), server).status == 401
    assert server.sent == [None]


def test_the_strongest_algorithm_is_taken_and_the_first_of_two_that_are_equal() -> None:
    request = Request("GET", URL)
    auth = digest()
    flow = auth.flow(request)
    next(flow)
    flow.send(
        challenged(
            request,
            'Basic realm="b", Digest realm="r", nonce="weak", qop="auth"',
            'Digest realm="r", nonce="strong", qop="auth", algorithm="sha-256"',
            'Digest realm="r", nonce="second", qop="auth", algorithm=SHA-256-sess, Negotiate',
            'Digest realm="r", nonce="unknown", qop="auth", algorithm=SHA-3',
        )
    )
    value = authorization(auth, request)
    assert value is not None
    assert parameters_of(value)["nonce"] == "strong"


def test_an_algorithm_that_python_lacks_is_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    def new(name: str, data: bytes = b"") -> Any:
        if name == "sha512_256":
            raise ValueError("unsupported hash type")
        return {"md5": hashlib.md5}[name](data)

    monkeypatch.setattr(hashlib, "new", new)
    request = Request("GET", URL)
    auth = digest()
    flow = auth.flow(request)
    next(flow)
    flow.send(
        challenged(
            request,
            'Digest realm="r", nonce="strong", algorithm=SHA-512-256',
            'Digest realm="r", nonce="weak"',
        )
    )
    assert 'nonce="weak"' in (authorization(auth, request) or "")


def test_a_wrong_password_is_sent_once_for_each_request() -> None:
    server = DigestServer()
    auth = DigestAuth("Mufasa", "wrong")
    for _ in range(2):
        server.sent.clear()
        assert run(auth, Request("GET", URL), server).status == 401
        assert [value is None for value in server.sent] == [True, False]


def test_a_nonce_that_the_server_has_forgotten_is_replaced() -> None:
    server = DigestServer()
    auth = digest()
    run(auth, Request("GET", URL), server)
    server.nonce = "n2"
    assert run(auth, Request("GET", URL), server).status == 200
    assert server.counts == [("n1", 1), ("n2", 1)]


def test_a_request_whose_new_nonce_is_stale_is_sent_once_more() -> None:
    server = DigestServer()
    server.stale = True
    nonces = iter(["n1", "n2", "n2"])

    def send(request: Request, value: str | None) -> Response:
        server.nonce = next(nonces)
        # The challenge of the second request names the nonce that the third has to use.
        return server(request, value)

    assert run(digest(), Request("GET", URL), send).status == 200
    assert server.counts == [("n2", 1)]


def test_a_server_whose_every_nonce_is_stale_is_not_asked_for_ever() -> None:
    sent = []

    def send(request: Request, value: str | None) -> Response:
        sent.append(value)
        return challenged(request, f'Digest realm="r", nonce="n{len(sent)}", stale=true')

    assert run(digest(), Request("GET", URL), send).status == 401
    assert len(sent) == 3


def test_the_next_nonce_that_a_server_names_is_used() -> None:
    server = DigestServer("MD5-sess")
    auth = digest()
    run(auth, Request("GET", URL), server)
    server.next_nonce = "n2"
    run(auth, Request("GET", URL), server)
    # For -sess, the first nonce stays part of the key; the server of this test remembers that.
    assert run(auth, Request("GET", URL), server).status == 200
    assert server.counts == [("n1", 1), ("n1", 2), ("n2", 1)]


def test_a_next_nonce_without_a_session_is_ignored() -> None:
    request = Request("GET", URL)
    info = ("Authentication-Info", 'nextnonce="n"')
    auth = digest()
    run(auth, request, lambda request, _: response_to(request, 200, info))
    assert authorization(auth, request) is None


def test_counts_go_on_when_a_nonce_comes_again() -> None:
    server = DigestServer()
    auth = digest()
    for nonce in ("n1", "n2", "n1"):
        server.nonce = nonce
        assert run(auth, Request("GET", URL), server).status == 200
    # The second of n1 was the first sending of the second request, which was refused.
    assert server.counts == [("n1", 1), ("n2", 1), ("n1", 3)]


def test_each_sending_has_its_own_count_and_cnonce() -> None:
    auth = digest()
    request = Request("GET", URL)
    run(auth, request, DigestServer())
    sent = [parameters_of(authorization(auth, request) or "") for _ in range(3)]
    assert [parameters["nc"] for parameters in sent] == ["00000002", "00000003", "00000004"]
    assert len({parameters["cnonce"] for parameters in sent}) == 3


def test_requests_that_get_the_same_nonce_share_a_session() -> None:
    # The server of this test keeps the key that the first of them has made.
    server = DigestServer("MD5-sess")
    auth = digest()
    request = Request("GET", URL)
    flows = [auth.flow(request), auth.flow(request)]
    for flow in flows:
        next(flow)
    for flow in flows:
        flow.send(challenged(request, server.challenge()))
        assert server(request, authorization(auth, request)).status == 200


def test_threads_never_use_a_count_twice() -> None:
    server = DigestServer("SHA-256")
    auth = digest()
    start = threading.Barrier(8)

    def work(_: int) -> list[int]:
        start.wait(10)
        return [run(auth, Request("GET", URL), server).status for _ in range(50)]

    with ThreadPoolExecutor(8) as threads:
        statuses = [status for found in threads.map(work, range(8)) for status in found]
    assert statuses == [200] * 400
    assert sorted(server.counts) == [("n1", count) for count in range(1, 401)]


def test_a_challenge_is_remembered_for_its_origin_alone() -> None:
    auth = digest()
    run(auth, Request("GET", URL), DigestServer())
    assert authorization(auth, Request("GET", "http://h/other")) is not None
    assert authorization(auth, Request("GET", "https://h/")) is None
    assert authorization(auth, Request("GET", "http://h:81/")) is None
    assert authorization(auth, Request("GET", "http://other/")) is None


def test_the_oldest_of_many_origins_is_forgotten() -> None:
    auth = digest()
    server = DigestServer()
    for number in range(257):
        server.nonce = str(number)
        run(auth, Request("GET", f"http://h{number}/"), server)
    assert authorization(auth, Request("GET", "http://h0/")) is None
    assert authorization(auth, Request("GET", "http://h1/")) is not None
    assert authorization(auth, Request("GET", "http://h256/")) is not None


def generator() -> Iterator[bytes]:
    yield b"data"


class Pipe(io.BytesIO):
    """A file that cannot be sought."""

    def seekable(self) -> bool:
        return False


def used(body: Any) -> Any:
    """Return *body* as it is after a request has sent it."""
    mark_used(body)
    return body


@pytest.mark.parametrize("body", [used(generator()), map(bytes, []), Pipe(b"data")])
def test_a_body_that_can_be_read_once_is_not_sent_twice_but_the_next_is_authenticated(
    body: Any,
) -> None:
    server = DigestServer()
    auth = digest()
    assert run(auth, Request("PUT", URL, body=body), server).status == 401
    assert run(auth, Request("PUT", URL, body=used(generator())), server).status == 200
    assert [value is None for value in server.sent] == [True, False]


@pytest.mark.parametrize(
    "body", [b"data", lambda: generator(), [b"data"], io.BytesIO(b"data"), generator()]
)
def test_a_body_that_can_be_sent_again_is_or_one_that_the_server_has_not_let_begin(
    body: Any,
) -> None:
    assert run(digest(), Request("PUT", URL, body=body), DigestServer()).status == 200


def upload(server: ScriptedServer, auth: Auth, expect100: bool) -> Response:
    """PUT a generator to *server* through a pool; return the result."""
    url = f"http://{server.host}:{server.port}/"
    request = Request("PUT", url, body=generator(), expect100=expect100)
    with ConnectionPool() as pool:

        def send(request: Request, value: str | None) -> Response:
            headers = None if value is None else {"Authorization": value}
            return pool.submit(request.replace(headers=headers)).result(10)

        return run(auth, request, send)


CHALLENGE = 'WWW-Authenticate: Digest realm="r", nonce="n"\r\n'


def test_a_generator_that_a_pool_has_sent_is_not_sent_again() -> None:
    def script(peer: Peer) -> None:
        assert peer.request().body == b"data"
        peer.respond(status="401 Unauthorized", headers=CHALLENGE)
        assert peer.until_eof() == b""

    with ScriptedServer(script) as server:
        assert upload(server, digest(), expect100=False).status == 401


def test_a_generator_that_waits_for_100_continue_is_sent_once_authenticated() -> None:
    def refuse(peer: Peer) -> None:
        assert "authorization" not in peer.head().headers
        peer.respond(status="401 Unauthorized", headers=CHALLENGE + "Connection: close\r\n")
        assert peer.until_eof() == b""

    def accept(peer: Peer) -> None:
        assert peer.head().headers["authorization"].startswith("Digest ")
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert peer.exactly(14) == b"4\r\ndata\r\n0\r\n\r\n"
        peer.respond()

    with ScriptedServer(refuse, accept) as server:
        assert upload(server, digest(), expect100=True).status == 200


@pytest.mark.parametrize(
    "challenge",
    [
        "",
        "Basic realm=x",
        "Digest",
        "Digest abc==",
        'Digest realm="r"',
        'Digest nonce="n"',
        'Digest realm="r", nonce="n", qop="other"',
        'Digest realm="r", nonce="n", algorithm=MD5-sess',
        'Digest realm="r", nonce="n", algorithm=""',
        'Digest realm="r", nonce="n", algorithm="MD5, SHA-256"',
        'Digest realm="r", nonce="n\x00"',
        'Digest realm="r\x7f", nonce="n"',
        'Digest realm="r", nonce="n\r\nX-Smuggled: yes"',
        'Digest realm="r", nonce="n", opaque="\r\n"',
        'Digest realm="\u20ac", nonce="n"',
        f'Digest realm="r", nonce="{"n" * 60_000}"',
    ],
)
def test_a_challenge_that_cannot_be_met_is_the_result(challenge: str) -> None:
    server_said = []

    def send(request: Request, value: str | None) -> Response:
        server_said.append(value)
        return challenged(request, challenge)

    assert run(digest(), Request("GET", URL), send).status == 401
    assert server_said == [None]


FRAGMENTS = st.sampled_from(
    "Digest |realm=|nonce=|opaque=|qop=|algorithm=|userhash=|stale=|true|auth|auth-int|MD5|SHA-256|"
    '-sess|"|"r"|\\|,|, | |=|x|\u00e9|\u20ac|\r\n|\x00'.split("|")
)


@given(st.lists(FRAGMENTS, max_size=40).map("".join), st.text())
def test_nothing_that_a_server_says_raises_or_cannot_be_sent(fragments: str, text: str) -> None:
    values = [text, f'Digest realm="r", nonce="n", {fragments}', fragments, fragments + text]

    def send(request: Request, value: str | None) -> Response:
        if value is not None:
            field_line("Authorization", value)
        infos = [("Authentication-Info", value) for value in values]
        challenges = [("WWW-Authenticate", value) for value in values]
        return response_to(request, 200 if "int" in fragments else 401, *infos, *challenges)

    auth = DigestAuth("J\u00e4s", SECRET)
    for body in (b"data", generator()):
        run(auth, Request("PUT", URL, body=body), send)
