"""Flows: redirects, authentication, cookies, and what goes to which origin."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dugong import Request, Response, TooManyRedirects
from dugong.client.auth import Auth
from dugong.client.digest import DigestAuth
from tests.support.aio import open_async
from tests.support.auth import SECRET
from tests.support.client import Page, Place, moved, open_places
from tests.support.server import TIMEOUT, ReceivedRequest


def test_redirects_are_followed_and_told() -> None:
    pages = {"/a": moved("/b", "301 Moved"), "/b": moved("c"), "/c": Page(b"found")}
    with open_places(pages) as (client, [here]):
        response = client.get(here.url("/a"))
        assert response.body == b"found"
        assert response.url == here.url("/c")
        assert [(r.status, r.url) for r in response.history] == [
            (301, here.url("/a")),
            (302, here.url("/b")),
        ]


@pytest.mark.parametrize("options", [{}, {"follow_redirects": True}])
def test_a_call_may_say_that_redirects_are_not_followed(options: dict[str, Any]) -> None:
    with open_places({"/a": moved("/b")}, **options) as (client, [here]):
        response = client.get(here.url("/a"), follow_redirects=False)
        assert (response.status, response.history) == (302, ())


def test_a_client_may_say_it_for_all_calls() -> None:
    with open_places({"/a": moved("/b")}, follow_redirects=False) as (client, [here]):
        assert client.get(here.url("/a")).status == 302
        assert client.get(here.url("/a"), follow_redirects=True).body == b"/b"


def test_a_loop_is_an_error_when_it_closes() -> None:
    pages = {"/a": moved("/b"), "/b": moved("/a")}
    with open_places(pages) as (client, [here]):
        with pytest.raises(TooManyRedirects, match="lead back"):
            client.get(here.url("/a"))
        assert here.targets == ["GET /a", "GET /b"]


def test_a_redirect_to_itself_that_sets_a_cookie_is_no_loop() -> None:
    def serve(request: ReceivedRequest) -> Page:
        if "cookie" in request.headers:
            return Page(b"in")
        return moved(request.target, headers="Set-Cookie: seen=1\r\n")

    with open_places(serve) as (client, [here]):
        assert client.get(here.url("/a")).body == b"in"


def test_there_are_no_more_redirects_than_allowed() -> None:
    def serve(request: ReceivedRequest) -> Page:
        return moved(f"/{int(request.target[1:]) + 1}")

    with open_places(serve, max_redirects=3) as (client, [here]):
        with pytest.raises(TooManyRedirects, match="more than 3") as caught:
            client.get(here.url("/1"))
        assert here.targets == ["GET /1", "GET /2", "GET /3", "GET /4"]
        assert caught.value.response is not None
        assert caught.value.response.url == here.url("/4")


def test_a_body_goes_to_where_it_is_sent() -> None:
    received: list[bytes] = []

    def serve(request: ReceivedRequest) -> Page:
        received.append(request.body)
        return moved("/b", "308 Permanent Redirect") if request.target == "/a" else Page()

    with open_places(serve) as (client, [here]):
        client.put(here.url("/a"), body=b"body")
    assert received == [b"body", b"body"]


# --- what is the client's own ---------------------------------------------------------------------

OWN = {"X-Key": "secret", "User-Agent": "crawler"}


def seen(place: Place, *names: str) -> list[dict[str, str]]:
    """Return those of the header fields *names* that each request had."""
    return [
        {name: request.headers[name] for name in names if name in request.headers}
        for request in place.requests
    ]


def test_headers_of_the_client_go_to_the_origin_that_is_asked() -> None:
    with open_places({}, headers=OWN) as (client, [here]):
        client.get(here.url("/a"))
        assert seen(here, "x-key", "user-agent") == [{"x-key": "secret", "user-agent": "crawler"}]


def test_they_go_to_no_other_to_which_a_redirect_leads_but_the_user_agent_does() -> None:
    with open_places({}, {}, headers=OWN, auth=("u", "p")) as (client, [here, there]):
        here.pages["/a"] = moved(there.url("/b"))
        there.pages["/b"] = moved(here.url("/c"))
        client.get(here.url("/a"))
        assert seen(there, "x-key", "authorization", "user-agent") == [{"user-agent": "crawler"}]
        assert [len(fields) for fields in seen(here, "x-key", "authorization")] == [2, 0]


def test_with_a_base_url_they_go_to_its_origin_alone() -> None:
    options: dict[str, Any] = {"headers": OWN, "auth": ("u", "p"), "params": {"key": "secret"}}
    options.update(cookies={"a": "1"}, below="/v1/")
    with open_places({}, {}, **options) as (client, [here, there]):
        client.get("x")
        client.get(there.url("/y"))
        names = ("x-key", "authorization", "cookie")
        assert [len(fields) for fields in seen(here, *names)] == [3]
        assert here.targets == ["GET /v1/x?key=secret"]
        assert there.targets == ["GET /y"]
        assert "x-key" not in there.requests[0].headers
        assert "authorization" not in there.requests[0].headers


def test_credentials_of_a_call_go_to_the_origin_that_it_names() -> None:
    with open_places({}, {}, below="/") as (client, [_, there]):
        client.get(there.url("/a"), auth=("u", "p"))
        client.get(there.url("/b").replace("http://", "http://u:p@"))
        assert [len(fields) for fields in seen(there, "authorization")] == [1, 1]
        assert there.targets == ["GET /a", "GET /b"]


def test_a_call_may_have_no_credentials() -> None:
    with open_places({}, auth=("u", "p")) as (client, [here]):
        client.get(here.url("/a"), auth=None)
        assert seen(here, "authorization") == [{}]


def test_a_header_of_a_call_counts_more_and_none_leaves_one_out() -> None:
    with open_places({}, headers=OWN) as (client, [here]):
        client.get(here.url("/a"), headers={"x-key": "own", "user-agent": None})
        assert seen(here, "x-key", "user-agent") == [{"x-key": "own"}]


# --- cookies --------------------------------------------------------------------------------------


def test_cookies_of_a_redirect_go_with_the_next_request() -> None:
    pages = {"/login": moved("/home", headers="Set-Cookie: id=7; Path=/\r\n")}
    with open_places(pages) as (client, [here]):
        client.get(here.url("/login"))
        client.get(here.url("/later"))
        assert seen(here, "cookie") == [{}, {"cookie": "id=7"}, {"cookie": "id=7"}]
        assert client.cookies["id"] == "7"


def test_cookies_of_a_call_go_with_it_and_not_to_another_origin() -> None:
    with open_places({}, {}) as (client, [here, there]):
        here.pages["/a"] = moved("/b")
        here.pages["/b"] = moved(there.url("/c"))
        client.get(here.url("/a"), cookies={"a": "1"})
        client.get(here.url("/d"))
        assert seen(here, "cookie") == [{"cookie": "a=1"}, {"cookie": "a=1"}, {}]
        assert seen(there, "cookie") == [{}]


def test_cookies_of_a_client_with_a_base_url_are_for_its_origin_alone() -> None:
    options: dict[str, Any] = {"cookies": {"session": "secret"}, "below": "/"}
    with open_places({}, {}, **options) as (client, [here, there]):
        here.pages["/a"] = moved(there.url("/b"))
        client.get("/a")
        client.get(there.url("/c"), cookies={"own": "1"})
        assert seen(here, "cookie") == [{"cookie": "session=secret"}]
        assert seen(there, "cookie") == [{}, {"cookie": "own=1"}]


def test_a_cookie_that_is_set_counts_more_than_that_of_the_call() -> None:
    pages = {"/login": moved("/home", headers="Set-Cookie: sid=new\r\n")}
    with open_places(pages) as (client, [here]):
        client.get(here.url("/login"), cookies={"sid": "old", "lang": "de"})
        assert seen(here, "cookie") == [
            {"cookie": "sid=old; lang=de"},
            {"cookie": "lang=de; sid=new"},
        ]


# --- authentication -------------------------------------------------------------------------------


class Twice(Auth):
    """Asks for a token first."""

    def __init__(self, token_url: str) -> None:
        self._token_url = token_url
        self._token = ""

    def headers(self, request: Request) -> dict[str, str]:
        return {"Authorization": f"Token {self._token}"} if self._token else {}

    def flow(self, request: Request) -> Any:
        response = yield Request("POST", self._token_url)
        self._token = response.headers["X-Token"]
        yield request


def test_a_flow_of_ones_own_may_send_other_requests_first() -> None:
    pages = {"/token": Page(headers="X-Token: t1\r\n")}
    with open_places(pages) as (client, [here]):
        response = client.get(here.url("/a"), auth=Twice(here.url("/token")))
        assert response.body == b"/a"
        assert here.targets == ["POST /token", "GET /a"]
        assert seen(here, "authorization") == [{}, {"authorization": "Token t1"}]


def test_what_a_flow_sends_to_another_origin_goes_without_the_credentials() -> None:
    pages = {"/token": Page(headers="X-Token: t2\r\n")}
    options: dict[str, Any] = {"headers": {"X-Key": "k"}, "cookies": {"session": "secret"}}
    with open_places({}, pages, **options) as (client, [here, there]):
        auth = Twice(there.url("/token"))
        for _ in range(2):
            client.get(here.url("/a"), auth=auth, cookies={"own": "1"})
        assert seen(there, "authorization", "x-key", "cookie") == [{}, {}]
        assert all("authorization" in request.headers for request in here.requests)


async def _not_for_us() -> Any:
    yield None


@pytest.mark.parametrize("returned", [None, iter([]), _not_for_us()], ids=["none", "list", "async"])
@pytest.mark.parametrize("way", ["request", "submit", "stream"])
def test_a_flow_that_is_no_generator_is_an_error_at_the_call(returned: object, way: str) -> None:
    class Wrong(Auth):
        def flow(self, request: Request) -> Any:
            return returned

    with open_places({}) as (client, [here]):
        with pytest.raises(TypeError, match="the flow of <Wrong> must be a generator, not"):
            getattr(client, way)("GET", here.url("/a"), auth=Wrong())
        assert here.requests == []


@pytest.mark.parametrize("yielded", [[], ["http://h/"]])
@pytest.mark.parametrize("way", ["request", "submit", "stream"])
def test_a_flow_that_yields_no_request_is_an_error_at_the_call(
    yielded: list[Any], way: str
) -> None:
    class Wrong(Auth):
        def flow(self, request: Request) -> Any:
            yield from yielded

    with open_places({}) as (client, [here]):
        with pytest.raises(TypeError, match="must yield a Request"):
            getattr(client, way)("GET", here.url("/a"), auth=Wrong())
        assert here.requests == []


def test_a_redirect_is_from_where_the_flow_has_sent_the_request() -> None:
    class Elsewhere(Auth):
        def flow(self, request: Request) -> Any:
            yield request.replace(url=request.url.replace("/a", "/dir/signed"))

    with open_places({"/dir/signed": moved("next")}) as (client, [here]):
        assert client.get(here.url("/a"), auth=Elsewhere()).history[0].status == 302
        assert here.targets[0] == "GET /dir/signed"


def test_no_authorization_can_be_asked_for() -> None:
    with open_places({}, auth=("u", "p")) as (client, [here]):
        client.get(here.url("/a"), headers={"Authorization": None})
        client.get(here.url("/b"), headers={"Authorization": "own"})
        assert seen(here, "authorization") == [{}, {"authorization": "own"}]


def test_what_is_made_for_a_body_does_not_go_without_it() -> None:
    def make(request: Request) -> dict[str, str]:
        return {"Content-Type": "a/b", "X-Method": request.method}

    with open_places({"/a": moved("/b")}) as (client, [here]):
        client.post(here.url("/a"), body=b"body", headers=make)
        assert seen(here, "content-type", "x-method") == [
            {"content-type": "a/b", "x-method": "POST"},
            {"x-method": "GET"},
        ]


def test_digest_authenticates_each_request_of_a_redirect() -> None:
    challenge = 'WWW-Authenticate: Digest realm="r", nonce="n", qop="auth"\r\n'

    def serve(request: ReceivedRequest) -> Page:
        if "authorization" not in request.headers:
            return Page(b"", "401 Unauthorized", challenge)
        return moved("/b") if request.target == "/a" else Page(b"in")

    with open_places(serve) as (client, [here]):
        response = client.get(here.url("/a"), auth=DigestAuth("u", "p"))
        assert response.body == b"in"
        assert [r.status for r in response.history] == [401, 302]
        assert here.targets == ["GET /a", "GET /a", "GET /b"]


def test_a_callable_is_asked_before_each_sending() -> None:
    asked: list[Request] = []

    def sign(request: Request) -> dict[str, str]:
        asked.append(request)
        return {"Authorization": f"Signed {len(asked)}"}

    statuses = iter(["503 Service Unavailable", "302 Found", "200 OK"])

    def serve(request: ReceivedRequest) -> Page:
        return Page(b"", next(statuses), "Location: /b\r\n")

    with open_places(serve, auth=sign) as (client, [here]):
        assert client.get(here.url("/a")).status == 200
        assert [fields["authorization"] for fields in seen(here, "authorization")] == [
            "Signed 1",
            "Signed 2",
            "Signed 3",
        ]
        assert [request.url for request in asked] == [here.url("/a")] * 2 + [here.url("/b")]


class Signer(Auth):
    """Cannot be pickled, and has a secret that is not sent."""

    def __init__(self) -> None:
        self.secret = SECRET
        self.lock = threading.Lock()

    def headers(self, request: Request) -> dict[str, str]:
        return {"Authorization": "Signed"}


def own_headers(request: Request) -> dict[str, str]:
    return {"X-Own": "1"}


@pytest.mark.parametrize("auth", [Signer(), DigestAuth("u", SECRET)], ids=["own", "digest"])
@pytest.mark.parametrize("headers", [None, {"X-Own": "1"}, own_headers])
def test_a_pickled_response_has_nothing_of_what_makes_credentials(auth: Auth, headers: Any) -> None:
    with open_places({}) as (client, [here]):
        response = client.get(here.url("/a"), auth=auth, headers=headers)
        pickled = pickle.dumps(response)
        assert SECRET.encode() not in pickled
        loaded = pickle.loads(pickled)
        assert (loaded.body, loaded.request.url) == (b"/a", here.url("/a"))
        client.request(loaded.request)
        again = seen(here, "authorization", "x-own")[1]
        assert again == ({} if headers is None else {"x-own": "1"})


def test_a_copied_response_refers_to_the_same_credentials() -> None:
    with open_places({}) as (client, [here]):
        response = client.get(here.url("/a"), auth=Signer())
        for copied in (copy.copy(response), copy.deepcopy(response)):
            client.request(copied.request)
        assert seen(here, "authorization") == [{"authorization": "Signed"}] * 3


# --- hooks ----------------------------------------------------------------------------------------


def test_hooks_are_called_once_a_hop() -> None:
    told: list[str] = []

    def on_request(request: Request) -> None:
        told.append(request.target)

    def on_response(response: Response) -> None:
        told.append(str(response.status))

    hooks = {"request": [on_request], "response": [on_response]}
    with open_places({"/a": moved("/b")}, event_hooks=hooks) as (client, [here]):
        client.get(here.url("/a"))
        client.submit("GET", here.url("/a")).result()
    assert told == ["/a", "302", "/b", "200"] * 2


class Unlucky(Exception):
    pass


def _fail_for_one(told: Request | Response) -> None:
    request = told if isinstance(told, Request) else told.request
    if request.target == "/1":
        raise Unlucky


class _Failing(Auth):
    """Fails for one request: before its first step, or behind that."""

    def __init__(self, is_late: bool) -> None:
        self._is_late = is_late

    def flow(self, request: Request) -> Generator[Request, Any, None]:
        if self._is_late:
            yield request
        _fail_for_one(request)
        yield request


FAILING: dict[str, dict[str, Any]] = {
    "request hook": {"event_hooks": {"request": [_fail_for_one]}},
    "response hook": {"event_hooks": {"response": [_fail_for_one]}},
    "first step": {"auth": _Failing(is_late=False)},
    "second step": {"auth": _Failing(is_late=True)},
}


@pytest.mark.parametrize("what", FAILING)
def test_what_a_caller_does_wrong_for_one_request_is_in_its_future_alone(what: str) -> None:
    with open_places({}, **FAILING[what]) as (client, [here]):
        targets = [f"/{number}" for number in range(4)]
        done = {f.request.target: f for f in client.as_completed(map(here.url, targets))}
        assert isinstance(done.pop("/1").exception(), Unlucky)
        assert sorted(done) == ["/0", "/2", "/3"]
        assert {future.result().status for future in done.values()} == {200}


@pytest.mark.parametrize("what", FAILING)
def test_what_a_caller_does_wrong_is_raised_by_map_when_it_is_its_turn(what: str) -> None:
    with open_places({}, **FAILING[what]) as (client, [here]):
        responses = client.map([here.url(f"/{number}") for number in range(4)])
        assert next(responses).status == 200
        with pytest.raises(Unlucky):
            next(responses)


@pytest.mark.parametrize("what", FAILING)
def test_the_same_goes_for_an_event_loop(what: str) -> None:
    async def main() -> None:
        async with open_async({}, **FAILING[what]) as (client, [here]):
            urls = [here.url(f"/{number}") for number in range(4)]
            done = {f.request.target: f.exception() async for f in client.as_completed(urls)}
            assert sorted(done) == ["/0", "/1", "/2", "/3"]
            assert [t for t, error in done.items() if isinstance(error, Unlucky)] == ["/1"]
            responses = client.map(urls)
            assert (await anext(responses)).status == 200
            with pytest.raises(Unlucky):
                await anext(responses)

    asyncio.run(main())


def test_an_exception_that_cannot_be_changed_comes_as_it_is() -> None:
    class Frozen(Exception):
        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    def hook(response: Response) -> None:
        raise Frozen

    with open_places({}, event_hooks={"response": [hook]}) as (client, [here]):
        assert isinstance(client.submit("GET", here.url("/a")).exception(TIMEOUT), Frozen)


# --- no credential crosses an origin --------------------------------------------------------------

STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([301, 302, 303, 307, 308])), min_size=1, max_size=6
)


@settings(max_examples=40, deadline=None)
@given(STEPS, st.sampled_from(["GET", "POST"]), st.sampled_from(["blocking", "future", "stream"]))
def test_no_sequence_of_redirects_makes_a_credential_cross_an_origin(
    steps: list[tuple[int, int]], method: str, way: str
) -> None:
    with open_places({}, {}, {}, headers={"X-Key": "k"}, auth=("u", "p")) as (client, places):
        chain = [(0, 302), *steps]
        for number, (place, status) in enumerate(chain[:-1]):
            target = places[chain[number + 1][0]].url(f"/{number + 1}")
            places[place].pages[f"/{number}"] = moved(target, f"{status} Moved")
        url = places[0].url("/0")
        options: dict[str, Any] = {
            "headers": {"Proxy-Authorization": "pk"},
            "cookies": {"c": "1"},
        }
        if way == "stream":
            with client.stream(method, url, **options) as response:
                assert response.read().decode() == f"/{len(chain) - 1}"
        elif way == "future":
            client.submit(method, url, **options).result()
        else:
            client.request(method, url, **options)
        crossed = False
        for number, (place, _) in enumerate(chain):
            crossed = crossed or place != 0
            [request] = [r for r in places[place].requests if r.target == f"/{number}"]
            names = {"authorization", "cookie", "proxy-authorization", "x-key"}
            sent = names & set(request.headers)
            if crossed:
                assert not sent
