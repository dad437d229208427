"""robots.txt: how it is asked for, what it allows, and the delay that it names."""

from __future__ import annotations

import os
import sys
import threading
import tracemalloc
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from dugong import (
    AsyncClient,
    Client,
    ConnectionClosed,
    ConnectionPool,
    HostPolicy,
    RetryPolicy,
    StateError,
)
from dugong.crawl import Robots
from dugong.crawl import robots as module
from dugong.crawl.delays import MAX_DELAY
from dugong.testing import MockPool, MockRequest, MockResponse
from tests.support.fork import holds_in_child
from tests.support.server import TIMEOUT

SITE = "http://site.example"
RULES = "User-agent: *\nDisallow: /private\n\nUser-agent: fishbot\nDisallow: /fish\n"


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module, "monotonic", lambda: self.now)


def responding(*responses: Any) -> Callable[[Any], Any]:
    """Return a function that gives each of *responses*, and then the last one again."""
    left = list(responses)

    def respond(_: Any) -> Any:
        response = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(response, Exception):
            raise response
        return response

    return respond


def open_pool(*responses: Any, **options: Any) -> MockPool:
    options.setdefault("retry", None)
    return MockPool(responding(*responses), **options)


def asked(pool: MockPool) -> list[str]:
    return [request.url for request in pool.requests]


def test_the_rules_of_a_site_are_kept_to() -> None:
    with open_pool(RULES) as pool:
        robots = Robots(pool)
        assert robots.allows(f"{SITE}/open?private")
        assert not robots.allows(f"{SITE}/private/1")
        assert robots.allows(f"{SITE}/fish")


@pytest.mark.parametrize("agent", ["fishbot", "FishBot/1.0 (+http://site.example/bot)"])
def test_the_rules_for_this_robot_count(agent: str) -> None:
    with open_pool(RULES) as pool:
        robots = Robots(pool, agent)
        assert robots.allows(f"{SITE}/private/1")
        assert not robots.allows(f"{SITE}/fish")


def test_a_site_is_asked_once_and_each_origin_by_itself() -> None:
    with open_pool(RULES) as pool:
        robots = Robots(pool)
        for path in ("/a", "/b"):
            robots.allows(f"{SITE}{path}")
            robots.allows(f"{SITE}:8080{path}")
        assert asked(pool) == [f"{SITE}/robots.txt", f"{SITE}:8080/robots.txt"]


def test_many_that_ask_at_once_wait_for_one_response() -> None:
    with open_pool(MockResponse(body=RULES, delay=0.05)) as pool:
        robots = Robots(pool)
        futures = [robots.rules(f"{SITE}/{n}") for n in range(9)]
        assert {future.result(TIMEOUT).is_known for future in futures} == {True}
        assert len(pool.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_site_without_a_robots_txt_allows_everything(status: int) -> None:
    with open_pool(status) as pool:
        assert Robots(pool).allows(f"{SITE}/private")


@pytest.mark.parametrize(
    ("problem", "failure"),
    [(429, "429"), (500, "500"), (503, "503"), (ConnectionClosed("it is gone"), "it is gone")],
)
def test_while_it_cannot_be_had_nothing_is_allowed(
    problem: Any, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    with open_pool(problem, RULES) as pool:
        robots = Robots(pool)
        assert not robots.allows(f"{SITE}/a")
        assert not robots.rules(SITE).result().is_known
        assert robots.rules(SITE).result().failure.startswith(failure)
        clock.now += module.LATER - 1
        assert not robots.allows(f"{SITE}/a")
        assert len(pool.requests) == 1
        clock.now += 2
        assert robots.allows(f"{SITE}/a")


def test_the_retry_policy_counts_before_it_is_given_up() -> None:
    with open_pool(503, RULES, retry=RetryPolicy(backoff=0.0)) as pool:
        assert Robots(pool).allows(f"{SITE}/a")


def test_it_is_asked_for_again_after_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    with open_pool(404, RULES) as pool:
        robots = Robots(pool)
        assert robots.allows(f"{SITE}/private")
        clock.now += module.LIFETIME - 1
        assert robots.allows(f"{SITE}/private")
        clock.now += 2
        assert not robots.allows(f"{SITE}/private")


def redirecting(most: int) -> Callable[[Any], Any]:
    def respond(request: Any) -> Any:
        number = int(request.url.partition("?")[2] or 0)
        if number == most:
            return RULES
        return MockResponse(302, headers={"Location": f"http://h{number}.example/r?{number + 1}"})

    return respond


def test_five_redirects_are_followed_to_other_hosts_too() -> None:
    with MockPool(redirecting(5)) as pool:
        assert not Robots(pool).allows(f"{SITE}/private")
        assert len(pool.requests) == 6


def test_more_redirects_are_as_none() -> None:
    with MockPool(redirecting(6)) as pool:
        assert Robots(pool).allows(f"{SITE}/private")
        assert len(pool.requests) == 6


@pytest.mark.parametrize("location", ["ftp://host/", "http://user:secret@host/", "http://["])
def test_a_redirect_that_leads_nowhere_is_as_none(location: str) -> None:
    with open_pool(MockResponse(301, headers={"Location": location})) as pool:
        assert Robots(pool).allows(f"{SITE}/private")


def test_what_is_behind_the_limit_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SIZE", len(RULES))
    with open_pool(f"{RULES}Disallow: /late\n") as pool:
        robots = Robots(pool, "fishbot")
        assert robots.allows(f"{SITE}/late")
        assert not robots.allows(f"{SITE}/fish")


def test_any_bytes_are_read() -> None:
    with open_pool(b"\xef\xbb\xbfUser-agent: *\n\xff\xfe\0\nDisallow: /private") as pool:
        assert not Robots(pool).allows(f"{SITE}/private")


def test_only_so_many_sites_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HOSTS", 2)
    with open_pool(RULES) as pool:
        robots = Robots(pool)
        for host in "abac":
            robots.allows(f"http://{host}/")
        assert len(pool.requests) == 3
        robots.allows("http://a/")
        assert len(pool.requests) == 3
        robots.allows("http://b/")
        assert len(pool.requests) == 4


# --- the crawl delay ------------------------------------------------------------------------------


def policy_set(delay: str, **options: Any) -> HostPolicy | None:
    """Return the policy that a robots.txt with this delay has set."""
    found = []
    with open_pool(f"User-agent: *\nCrawl-delay: {delay}\n", **options) as pool:
        pool.set_host_policy = lambda origin, policy: found.append((str(origin), policy))  # type: ignore[method-assign]  # to see it
        Robots(pool).allows(f"{SITE}/a")
    assert [origin for origin, _ in found] in ([], [SITE])
    return found[0][1] if found else None


def test_a_crawl_delay_becomes_the_interval_of_the_host() -> None:
    assert policy_set("2.5") == HostPolicy(min_interval=2.5)


@pytest.mark.parametrize("delay", ["0", "-1", "often", ""])
def test_what_is_no_delay_changes_nothing(delay: str) -> None:
    assert policy_set(delay) is None


def test_a_delay_is_bounded() -> None:
    assert policy_set("86400") == HostPolicy(min_interval=MAX_DELAY)


def test_the_rest_of_the_policy_of_a_host_stays() -> None:
    own = HostPolicy(min_interval=1, max_connections=2)
    assert policy_set("2", host_policy=lambda origin: own) == own.replace(min_interval=2)
    assert policy_set("0.5", host_policy=lambda origin: own) is None


def test_what_host_policy_raises_is_raised() -> None:
    calls = count()

    def policy(_: Any) -> None:
        if next(calls):  # not when the host is first used
            raise ZeroDivisionError

    pool = open_pool("User-agent: *\nCrawl-delay: 1\n", host_policy=policy)
    with pool, pytest.raises(ZeroDivisionError):
        Robots(pool).allows(f"{SITE}/a")


# --- clients --------------------------------------------------------------------------------------


def test_a_client_asks_without_credentials_and_follows_by_the_same_rules() -> None:
    with (
        MockPool(redirecting(2)) as pool,
        Client(pool=pool, auth=("me", "secret"), follow_redirects=True) as client,
    ):
        assert not Robots(client).allows(f"{SITE}/private")
        assert [request.headers["Authorization"] for request in pool.requests] == 3 * [None]


def test_an_async_client_will_do() -> None:
    with open_pool(RULES) as pool:
        robots = Robots(AsyncClient(pool=pool))
        assert not robots.rules(SITE).result(TIMEOUT).allows(f"{SITE}/private")


@pytest.mark.parametrize("arguments", [(None,), ("http://host",), (ConnectionPool(), 1)])
def test_arguments_that_make_no_sense_are_refused(arguments: Any) -> None:
    with pytest.raises(TypeError):
        Robots(*arguments)


@pytest.mark.parametrize("url", ["/a", "ftp://host/", "http://"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with open_pool(RULES) as pool, pytest.raises(ValueError, match="invalid URL"):
        Robots(pool).allows(url)


def test_a_closed_pool_allows_nothing() -> None:
    pool = open_pool(RULES)
    pool.close()
    assert not Robots(pool).rules(SITE).result().is_known


def test_a_callback_of_the_pool_cannot_wait_for_it() -> None:
    failures = []
    told = threading.Event()

    def ask(_: Any) -> None:
        try:
            robots.allows(f"{SITE}/a")
        except StateError as exc:
            failures.append(exc)
        told.set()

    with open_pool(MockResponse(body=RULES, delay=0.01)) as pool:
        robots = Robots(pool)
        pool.submit("GET", f"{SITE}/b").add_done_callback(ask)
        assert told.wait(TIMEOUT)
    assert len(failures) == 1


@pytest.mark.parametrize(("status", "is_allowed"), [(404, True), (503, False)])
def test_a_hook_that_raises_for_a_status_changes_nothing(status: int, is_allowed: bool) -> None:
    hooks = {"response": [lambda response: response.raise_for_status()]}
    with open_pool(status) as pool, Client(pool=pool, event_hooks=hooks) as client:
        robots = Robots(client)
        assert robots.allows(f"{SITE}/a") is is_allowed
        assert robots.rules(SITE).result().failure.startswith("" if is_allowed else "503")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_asks_for_what_its_parent_is_waiting_for() -> None:
    parent = os.getpid()

    def respond(request: MockRequest) -> MockResponse:
        is_late = os.getpid() == parent and request.url != f"{SITE}/robots.txt"
        return MockResponse(body=RULES, delay=60.0 if is_late else 0.0)

    def goes_on() -> bool:
        return robots.rules(SITE).result() is known and not robots.allows("http://b/private")

    with MockPool(respond) as pool:
        robots = Robots(pool)
        known = robots.rules(SITE).result(TIMEOUT)
        robots.rules("http://b/")
        with robots._lock:
            assert holds_in_child(goes_on)


def test_a_line_that_is_cut_is_no_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "User-agent: *\nDisallow: /private\nDisallow: /secret\n"
    monkeypatch.setattr(module, "MAX_SIZE", text.index("secret"))
    with open_pool(text) as pool:
        robots = Robots(pool)
        assert robots.allows(f"{SITE}/open")
        assert not robots.allows(f"{SITE}/private")


@pytest.mark.parametrize("name", ["whale{}", "dugong{:*<1000}", "*{}"])
def test_the_memory_for_rules_does_not_grow_with_the_names_that_they_are_for(name: str) -> None:
    names = "".join(f"User-agent: {name.format(n)}\n" for n in range(400))
    with open_pool(names + "Allow: /a\n" * 2000 + RULES) as pool:
        tracemalloc.start()
        try:
            assert not Robots(pool).allows(f"{SITE}/private")
            assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    "group",
    [
        "User-agent: fishbot\nUser-agent: dugong\nUser-agent: whale\n",
        "User-agent: *\nDisallow: /open\nuser agent DUG* # of the sea\n",
        "User-agent: ong\nDisallow: /open\nuseragent:dugong\n",
        "User-agent: whale\nDisallow: /open\nUser-agent:\nUser-agent: dugong\n",
    ],
)
def test_what_is_for_others_does_not_change_what_is_for_this_robot(group: str) -> None:
    with open_pool(f"{group}Disallow: /private\nCrawl-delay: 7\n") as pool:
        robots = Robots(pool, "Dugong/4 (+http://site.example/bot)")
        assert robots.allows(f"{SITE}/open")
        assert not robots.allows(f"{SITE}/private")
        assert robots.rules(SITE).result().crawl_delay == 7


def test_what_is_for_others_only_forbids_nothing() -> None:
    with open_pool("User-agent: fishbot\nUser-agent: whale\nDisallow: /\n") as pool:
        assert Robots(pool).allows(f"{SITE}/open")


def test_without_protego_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "protego", None)
    monkeypatch.delitem(sys.modules, "dugong.crawl.robots")
    monkeypatch.delattr("dugong.crawl.Robots")
    with pytest.raises(ImportError, match=r"pip install dugong\[crawl\]"):
        from dugong.crawl import Robots  # noqa: F401
