"""The frontier: what it takes in, what it gives and when, and what is left of it after a crash."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from protego import Protego

from dugong import AsyncClient, Client, ConnectionPool, Request, StateError
from dugong.crawl import Frontier, Robots, Visit
from dugong.crawl import frontier as module
from dugong.crawl import robots as robots_module
from dugong.testing import MockPool
from tests.support.pool import GONE
from tests.support.server import Peer, ScriptedServer

A, B = "http://a.example/", "http://b.example/"


@pytest.fixture
def frontier() -> Iterator[Frontier]:
    with Frontier() as made:
        yield made


def given(requests: Iterator[Request]) -> list[str]:
    """Return the URLs of what there is at the moment."""
    return [request.url for request in requests]


# --- URLs in --------------------------------------------------------------------------------------


def test_a_url_is_given_once(frontier: Frontier) -> None:
    assert frontier.add([A, "HTTP://A.example:80/#top", f"{A}x", f"{A}y/../x"]) == 2
    assert frontier.add(A) == 0
    requests = iter(frontier)
    assert given(requests) == [A, f"{A}x"]
    assert frontier.add(A) == 0
    assert given(requests) == []


def test_a_url_that_is_done_is_not_given_again(frontier: Frontier) -> None:
    frontier.add(A)
    requests = iter(frontier)
    frontier.done(next(requests), [A])
    assert given(requests) == []
    assert (len(frontier), frontier.known) == (0, 1)


def test_a_request_says_how_deep_it_is(frontier: Frontier) -> None:
    frontier.add(A, priority=3)
    requests = iter(frontier)
    first = next(requests)
    assert (first.method, first.context.url) == ("GET", A)
    assert (first.context.depth, first.context.priority) == (0, 3)
    frontier.done(first, [f"{A}x"])
    second = next(requests)
    assert (second.context.depth, second.context.priority) == (1, 3)
    frontier.done(second, [f"{A}y"], depth=7, priority=-1)
    visit: Visit = next(requests).context
    assert (visit.url, visit.depth, visit.priority) == (f"{A}y", 7, -1)


def test_links_that_are_no_urls_are_left_out(frontier: Frontier) -> None:
    frontier.add(A)
    request = next(iter(frontier))
    assert frontier.done(request, ["mailto:me@a.example", "http://[", "x", f"{A}x"]) == 1


def test_what_is_no_url_cannot_be_added(frontier: Frontier) -> None:
    with pytest.raises(ValueError, match="invalid URL 'x'"):
        frontier.add([A, "x"])
    with pytest.raises(TypeError):
        frontier.add(None)  # type: ignore[arg-type]  # on purpose
    assert frontier.known == 0


@pytest.mark.parametrize("options", [{"depth": "1"}, {"priority": 1.5}, {"depth": True}])
def test_depths_and_priorities_are_ints(frontier: Frontier, options: Any) -> None:
    frontier.add(A)
    request = next(iter(frontier))
    with pytest.raises(TypeError):
        frontier.add(B, **options)
    with pytest.raises(TypeError):
        frontier.done(request, [B], **options)


def test_links_beyond_the_depth_are_left_out() -> None:
    with Frontier(max_depth=1) as frontier:
        frontier.add(A)
        requests = iter(frontier)
        assert frontier.done(next(requests), [f"{A}1"]) == 1
        assert frontier.done(next(requests), [f"{A}2"]) == 0
        assert frontier.add(f"{A}2") == 1


def test_a_redirect_leads_no_deeper(frontier: Frontier) -> None:
    frontier.add(A, depth=3)
    requests = iter(frontier)
    frontier.done(next(requests), [f"{A}x"], is_redirect=True)
    visit = next(requests).context
    assert (visit.depth, visit.redirects) == (3, 1)


def test_redirects_in_a_row_are_followed_up_to_a_limit(tmp_path: Path) -> None:
    """Whatever becomes of the loop and the frontier meanwhile."""
    path = tmp_path / "crawl.db"
    for number in range(4):
        with Frontier(path, max_redirects=3) as frontier:
            frontier.add(f"{A}0")
            next(iter(frontier))  # and it is given again
            (request,) = frontier
            visit = request.context
            assert (visit.redirects, visit.redirects_left) == (number, 3 - number)
            added = frontier.done(request, [f"{A}{number + 1}"], is_redirect=True)
            assert added == (number < 3)
            assert len(frontier) == added


def test_a_link_ends_a_row_of_redirects(frontier: Frontier) -> None:
    frontier.add(A)
    requests = iter(frontier)
    frontier.done(next(requests), [f"{A}1"], is_redirect=True)
    frontier.done(next(requests), [f"{A}2"])
    frontier.done(next(requests), [f"{A}3"], is_redirect=True)
    visit = next(requests).context
    assert (visit.depth, visit.redirects) == (1, 1)


def test_no_redirects_are_followed_if_that_is_the_limit() -> None:
    with Frontier(max_redirects=0) as frontier:
        frontier.add([A, f"{A}1"])
        requests = iter(frontier)
        request = next(requests)
        assert request.context.redirects_left == 0
        assert frontier.done(request, [f"{A}x"], is_redirect=True) == 0
        assert frontier.done(next(requests), [f"{A}x"]) == 1


def test_a_limit_that_was_lowered_leaves_no_redirect(tmp_path: Path) -> None:
    with Frontier(tmp_path / "crawl.db") as frontier:
        frontier.add(A)
        requests = iter(frontier)
        for number in range(2):
            frontier.done(next(requests), [f"{A}{number}"], is_redirect=True)
    with Frontier(tmp_path / "crawl.db", max_redirects=1) as frontier:
        (request,) = frontier
        assert request.context[-2:] == (2, 0)
        assert frontier.done(request, [f"{A}x"], is_redirect=True) == 0


def test_a_host_has_only_so_many_urls() -> None:
    with Frontier(max_per_host=2) as frontier:
        assert frontier.add(f"{A}{n}" for n in range(5)) == 2
        assert frontier.add([f"{B}{n}" for n in range(5)]) == 2
        assert frontier.add([f"{A}0", f"{A}6"]) == 0


def test_urls_that_a_trap_makes_up_are_left_out() -> None:
    with Frontier(max_length=40, max_segments=3) as frontier:
        assert frontier.add([f"{A}1/2/3", f"{A}1/2/3/4", f"{A}{'x' * 40}"]) == 1
        assert frontier.add(f"{A}?a/b/c/d/e") == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_depth": -1}, ValueError),
        ({"max_depth": "1"}, TypeError),
        ({"max_redirects": -1}, ValueError),
        ({"max_redirects": None}, TypeError),
        ({"max_per_host": 0}, ValueError),
        ({"max_length": 0}, ValueError),
        ({"max_segments": None}, TypeError),
        ({"max_exact": 0}, ValueError),
    ],
)
def test_limits_that_make_no_sense_are_refused(options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Frontier(**options)


# --- requests out ---------------------------------------------------------------------------------


def test_urls_of_a_host_come_by_priority_and_then_in_their_order(frontier: Frontier) -> None:
    frontier.add([f"{A}1", f"{A}2"])
    frontier.add([f"{A}3", f"{A}4"], priority=1)
    frontier.add(f"{A}5", priority=-1)
    requests = iter(frontier)
    assert next(requests).url == f"{A}3"
    frontier.add(f"{A}6", priority=2)
    assert given(requests) == [f"{A}6", f"{A}4", f"{A}1", f"{A}2", f"{A}5"]


def test_hosts_take_turns(frontier: Frontier) -> None:
    frontier.add(f"{A}{n}" for n in range(3))
    frontier.add(f"{B}{n}" for n in range(2))
    assert given(iter(frontier)) == [f"{A}0", f"{B}0", f"{A}1", f"{B}1", f"{A}2"]


def test_one_host_leaves_room_for_others(
    frontier: Frontier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AHEAD", 8)
    frontier.add(f"{A}{n}" for n in range(9))
    requests = iter(frontier)
    taken = [next(requests) for _ in range(4)]
    assert given(requests) == []
    frontier.add(f"{B}{n}" for n in range(9))
    assert given(requests) == [f"{B}0", f"{B}1"]
    frontier.done(taken[0])
    assert given(requests) == []  # it still has more than its share
    frontier.done(taken[1])
    frontier.done(taken[2])
    assert given(requests) == [f"{A}4"]


def test_there_may_be_more_after_there_was_none(frontier: Frontier) -> None:
    requests = iter(frontier)
    assert given(requests) == []
    frontier.add(A)
    assert given(requests) == [A]


def test_what_a_loop_has_not_done_is_given_again(frontier: Frontier) -> None:
    frontier.add([A, f"{A}x"])
    requests = iter(frontier)
    first, second = requests
    frontier.done(first)
    assert (len(frontier), frontier.under_way) == (1, 1)
    del requests
    gc.collect()
    assert frontier.under_way == 0
    again = next(iter(frontier))
    assert again.url == second.url
    frontier.done(again)
    assert len(frontier) == 0


def test_a_request_may_be_marked_twice(frontier: Frontier) -> None:
    frontier.add([A, f"{A}x"])
    requests = iter(frontier)
    request = next(requests)
    assert frontier.done(request, [B]) == 1
    assert frontier.done(request, [B, f"{B}x"]) == 1
    assert (len(frontier), frontier.under_way) == (3, 0)


def test_a_request_may_be_marked_when_its_loop_was_left(frontier: Frontier) -> None:
    frontier.add(A)
    request = next(iter(frontier))
    gc.collect()
    frontier.done(request)
    assert len(frontier) == 0
    assert given(iter(frontier)) == []


def test_only_requests_of_a_frontier_can_be_marked(frontier: Frontier) -> None:
    for mark in (frontier.done, frontier.postpone):
        with pytest.raises(ValueError, match="not a request of a Frontier"):
            mark(Request("GET", A))


def test_a_request_of_another_frontier_removes_nothing(frontier: Frontier) -> None:
    with Frontier() as other:
        other.add(B)
        frontier.add(A)
        frontier.done(next(iter(other)))
    assert given(iter(frontier)) == [A]


def test_what_is_postponed_is_for_the_next_frontier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "crawl.db"
    with Frontier(path) as frontier:
        frontier.add([A, B])
        requests: Any = iter(frontier)
        first, second = requests
        frontier.postpone(first)
        frontier.postpone(first)
        assert (len(frontier), frontier.under_way) == (2, 1)
        with monkeypatch.context() as patch:
            patch.setattr(frontier._store, "remove", interrupted)
            with pytest.raises(KeyboardInterrupt):
                frontier.done(second)
        frontier.done(second)
        assert (len(frontier), frontier.under_way) == (1, 0)
        assert not requests.call_when_more(lambda: None)
        assert given(iter(frontier)) == []
    with Frontier(path) as frontier:
        assert given(iter(frontier)) == [first.url]


def test_what_is_postponed_may_be_done_all_the_same(frontier: Frontier) -> None:
    frontier.add(A)
    requests = iter(frontier)
    request = next(requests)
    frontier.postpone(request)
    assert given(requests) == []
    assert frontier.done(request, [f"{A}x"]) == 1
    assert len(frontier) == 1
    frontier.postpone(request)
    assert len(frontier) == 1


# --- waiting --------------------------------------------------------------------------------------


class Calls:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def test_a_loop_is_told_when_there_is_more(frontier: Frontier) -> None:
    frontier.add(A)
    requests: Any = iter(frontier)
    request = next(requests)
    call = Calls()
    assert requests.call_when_more(call)
    assert requests.call_when_more(call)
    assert call.count == 0
    frontier.done(request, [f"{A}x"])
    assert call.count == 1


def test_a_loop_is_told_at_once_if_there_is_more_by_then(frontier: Frontier) -> None:
    frontier.add(A)
    call = Calls()
    requests: Any = iter(frontier)
    assert requests.call_when_more(call)
    assert call.count == 1


def test_a_loop_is_told_that_the_last_one_is_done(frontier: Frontier) -> None:
    frontier.add(A)
    requests: Any = iter(frontier)
    request = next(requests)
    call = Calls()
    requests.call_when_more(call)
    frontier.done(request)
    assert call.count == 1
    assert not requests.call_when_more(call)


def test_a_loop_is_told_that_the_frontier_is_closed(frontier: Frontier) -> None:
    frontier.add([A, B])
    requests: Any = iter(frontier)
    next(requests)
    next(requests)
    call = Calls()
    requests.call_when_more(call)
    frontier.close()
    assert call.count == 1
    assert given(requests) == []
    assert not requests.call_when_more(call)


def test_a_loop_is_told_that_another_was_left(frontier: Frontier) -> None:
    frontier.add(A)
    left, stays = iter(frontier), iter(frontier)
    next(left)
    call = Calls()
    stays.call_when_more(call)  # type: ignore[attr-defined]  # which a loop has
    del left
    gc.collect()
    assert call.count == 1
    assert given(stays) == [A]


def names(request: Any) -> str:
    return str(request.target)


def test_as_completed_waits_for_what_another_thread_adds(frontier: Frontier) -> None:
    frontier.add(A)
    requests: list[Request] = []
    with MockPool(names) as pool:
        futures = pool.as_completed(frontier)
        requests.append(next(futures).request)

        def add() -> None:
            frontier.done(requests[0], [f"{A}x"])

        thread = threading.Thread(target=add)
        thread.start()
        request = next(futures).request  # waits for the thread
        thread.join()
        frontier.done(request)
        assert list(futures) == []
    assert request.url == f"{A}x"


def test_a_crawl_follows_all_links_and_ends(frontier: Frontier) -> None:
    frontier.add(f"{A}0")
    seen: Counter[str] = Counter()
    with Client(pool=MockPool(names)) as client:
        for future in client.as_completed(frontier):
            response = future.result()
            seen[response.text] += 1
            number = int(response.text[1:])
            links = [f"{host}{number * 2 + n}" for host in (A, B) for n in (1, 2)]
            frontier.done(future.request, [link for link in links if number < 100])
        client._pool.close()
    assert seen["/0"] == 1
    assert all(count <= 2 for count in seen.values())
    assert len(seen) == 201
    assert len(frontier) == 0


def test_map_waits_for_a_frontier(frontier: Frontier) -> None:
    frontier.add(f"{A}0")
    texts = []
    with MockPool(names) as pool:
        for response in pool.map(frontier):
            texts.append(response.text)
            number = int(response.text[1:])
            frontier.done(response.request, [f"{A}{number + 1}"] if number < 9 else [])
    assert texts == [f"/{n}" for n in range(10)]


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_an_async_client_waits_for_a_frontier(frontier: Frontier, library: str) -> None:
    async def main() -> None:
        async with AsyncClient(pool=pool) as client:
            async for future in client.as_completed(frontier):
                number = int(future.result().text[1:])
                links = [f"{A}{2 * number + n}" for n in (1, 2)]
                frontier.done(future.request, links if number < 100 else [])

    frontier.add(f"{A}0")
    with MockPool(names) as pool:
        asyncio.run(main()) if library == "asyncio" else pytest.importorskip(library).run(main)
    assert (frontier.known, len(frontier)) == (201, 0)


def test_a_slow_host_holds_up_no_other(frontier: Frontier, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slow one fills its share at once, and responds to nothing until the other is done."""
    quick_is_done = threading.Event()

    def slow(peer: Peer) -> None:
        for _ in peer.requests():
            assert quick_is_done.wait(10)
            peer.respond(b"")

    def quick(peer: Peer) -> None:
        for request in peer.requests():
            peer.respond(request.target.encode())

    with (
        ScriptedServer(slow, repeat=True) as first,
        ScriptedServer(quick, repeat=True) as second,
        ConnectionPool() as pool,
    ):
        frontier.add(first.url(f"/{n}") for n in range(1000))
        frontier.add(second.url("/0"))
        count = 0
        for future in pool.as_completed(frontier):
            text = future.result().text
            links = []
            if text:
                count = int(text[1:])
                links = [second.url(f"/{count + 1}")] if count < 300 else []
                if not links:
                    quick_is_done.set()
            frontier.done(future.request, links)
    assert count == 300
    assert frontier.known == 1301


# --- robots.txt -----------------------------------------------------------------------------------


def crawled(frontier: Frontier, pool: ConnectionPool) -> list[str]:
    """Fetch all that there is; return the URLs, sorted."""
    urls = []
    for future in pool.as_completed(frontier):
        urls.append(future.request.url)
        frontier.done(future.request)
    return sorted(urls)


def test_what_robots_txt_does_not_allow_is_not_given() -> None:
    def respond(request: Any) -> Any:
        if request.target == "/robots.txt":
            return "User-agent: *\nDisallow: /x" if request.url.startswith(A) else 404
        return b""

    with MockPool(respond) as pool, Frontier(robots=Robots(pool)) as frontier:
        frontier.add([A, f"{A}x1", f"{A}x2", B, f"{B}x1"])
        assert crawled(frontier, pool) == [A, B, f"{B}x1"]
        assert (frontier.forbidden, len(frontier), frontier.known) == (2, 0, 5)
        assert frontier.add(f"{A}x3") == 1
        assert crawled(frontier, pool) == []
        assert frontier.forbidden == 3
        assert [request.target for request in pool.requests].count("/robots.txt") == 2


def test_a_host_whose_robots_txt_is_slow_holds_up_no_other() -> None:
    others_are_done = threading.Event()

    def slow(peer: Peer) -> None:
        for request in peer.requests():
            if request.target == "/robots.txt":
                assert others_are_done.wait(10)
            peer.respond(b"")

    def quick(peer: Peer) -> None:
        for _ in peer.requests():
            peer.respond(b"")

    with (
        ScriptedServer(slow, repeat=True) as first,
        ScriptedServer(quick, repeat=True) as second,
        ConnectionPool() as pool,
        Frontier(robots=Robots(pool)) as frontier,
    ):
        frontier.add(first.url(f"/{n}") for n in range(3))
        frontier.add(second.url(f"/{n}") for n in range(50))
        hosts = []
        for future in pool.as_completed(frontier):
            hosts.append(future.request.origin.port)
            if hosts.count(second.port) == 50:
                others_are_done.set()
            frontier.done(future.request)
    assert hosts == [second.port] * 50 + [first.port] * 3


def test_urls_of_a_host_whose_robots_txt_cannot_be_had_wait_for_a_later_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = 503

    def respond(request: Any) -> Any:
        return status if request.url == f"{A}robots.txt" else b""

    path = tmp_path / "crawl.db"
    now = 1000.0
    for each in (module, robots_module):
        monkeypatch.setattr(each, "monotonic", lambda: now)
    with MockPool(respond, retry=None) as pool:
        robots = Robots(pool)
        with Frontier(path, robots=robots) as frontier:
            frontier.add([A, B])
            assert frontier.held == {}
            assert crawled(frontier, pool) == [B]
            assert len(frontier) == 1
            assert frontier.held == {A.rstrip("/"): "503 Service Unavailable"}
            now += 200
            assert crawled(frontier, pool) == []
            assert len(pool.requests) == 3
            now += 200
            assert crawled(frontier, pool) == []
            assert len(pool.requests) == 4
        status = 404
        now += 400
        with Frontier(path, robots=robots) as frontier:
            assert crawled(frontier, pool) == [A]
            assert frontier.held == {}


def test_what_goes_wrong_while_a_robots_txt_is_read_is_raised() -> None:
    calls = count()

    def policy(_: Any) -> None:
        if next(calls):  # not when the host is first used
            raise ZeroDivisionError

    with (
        MockPool(lambda _: "User-agent: *\nCrawl-delay: 1\n", host_policy=policy) as pool,
        Frontier(robots=Robots(pool)) as frontier,
    ):
        frontier.add(A)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                crawled(frontier, pool)
        assert len(frontier) == 1


def test_what_goes_wrong_is_raised_though_another_robots_txt_comes_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with MockPool(lambda _: b"") as pool, Frontier(robots=Robots(pool)) as frontier:
        frontier.add([A, B])
        rules: dict[str, Future[Any]] = {"http://a.example": Future(), "http://b.example": Future()}
        monkeypatch.setattr(frontier._robots, "rules", rules.get)
        requests = iter(frontier)
        assert given(requests) == []
        rules["http://a.example"].set_exception(ZeroDivisionError())
        rules["http://b.example"].set_result(robots_module.Rules(Protego.parse(""), "dugong"))
        with pytest.raises(ZeroDivisionError):
            next(requests)
        rules["http://a.example"] = rules["http://b.example"]
        assert sorted(given(requests)) == [A, B]


def test_an_interrupt_before_robots_txt_is_asked_for_harms_no_later_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with MockPool(lambda _: b"") as pool, Frontier(robots=Robots(pool)) as frontier:
        frontier.add(A)
        with monkeypatch.context() as patch:
            patch.setattr(frontier._robots, "rules", interrupted)
            with pytest.raises(KeyboardInterrupt):
                crawled(frontier, pool)
        assert crawled(frontier, pool) == [A]


# --- on disk --------------------------------------------------------------------------------------


def test_a_crawl_goes_on_where_it_stood(tmp_path: Path) -> None:
    path = tmp_path / "crawl.db"
    with Frontier(path) as frontier:
        frontier.add([A, f"{A}x", B])
        requests = iter(frontier)
        frontier.done(next(requests), [f"{A}y"])
        next(requests)
    with Frontier(path) as frontier:
        assert (len(frontier), frontier.under_way, frontier.known) == (3, 0, 4)
        assert frontier.add([A, B, f"{A}y"]) == 0
        assert sorted(given(iter(frontier))) == [f"{A}x", f"{A}y", B]


def test_the_limit_of_a_host_holds_across_runs(tmp_path: Path) -> None:
    path = tmp_path / "crawl.db"
    with Frontier(path, max_per_host=2) as frontier:
        frontier.add([f"{A}1", f"{A}2"])
        for request in iter(frontier):
            frontier.done(request)
    with Frontier(path, max_per_host=2) as frontier:
        assert frontier.add(f"{A}3") == 0


@pytest.mark.parametrize("max_exact", [1, 50, None])
def test_each_url_is_given_once_however_it_is_remembered(
    tmp_path: Path, max_exact: int | None
) -> None:
    path = tmp_path / "crawl.db"
    urls = [f"{A}{n}" for n in range(100)]
    with Frontier(path, max_exact=max_exact) as frontier:
        assert frontier.add(urls) == 100
        assert frontier.add(urls) == 0
    with Frontier(path) as frontier:
        assert frontier.add(urls) == 0
        assert frontier.known == 100
        assert frontier.add(B) == 1


def test_a_closed_frontier_says_so(frontier: Frontier) -> None:
    frontier.add(A)
    request = next(iter(frontier))
    frontier.close()
    frontier.close()
    for call in (lambda: frontier.add(B), lambda: frontier.done(request), lambda: len(frontier)):
        with pytest.raises(StateError, match="closed"):
            call()


def test_what_fails_in_the_middle_has_done_nothing(
    frontier: Frontier, monkeypatch: pytest.MonkeyPatch
) -> None:
    frontier.add([A, f"{A}x"])
    requests = iter(frontier)
    request = next(requests)
    with monkeypatch.context() as patch:
        patch.setattr(frontier._store, "remove", interrupted)
        with pytest.raises(KeyboardInterrupt):
            frontier.done(request, [B])
        patch.setattr(frontier._store, "take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(requests)
    assert (len(frontier), frontier.under_way, frontier.known) == (2, 1, 2)
    assert given(requests) == [f"{A}x"]
    assert frontier.done(request, [B]) == 1
    assert given(requests) == [B]


def test_what_fails_gives_nothing_a_second_time(
    frontier: Frontier, monkeypatch: pytest.MonkeyPatch
) -> None:
    frontier.add([A, f"{A}x", f"{A}y"])
    requests = iter(frontier)
    taken = [next(requests), next(requests)]
    with monkeypatch.context() as patch:
        patch.setattr(frontier._store, "remove", interrupted)
        with pytest.raises(KeyboardInterrupt):
            frontier.done(taken[0])
    assert frontier.under_way == 2
    assert given(requests) == [f"{A}y"]


def interrupted(*_: Any) -> Any:
    raise KeyboardInterrupt


def test_a_full_disk_is_an_os_error_and_nothing_is_done(tmp_path: Path) -> None:
    path = tmp_path / "crawl.db"
    with Frontier(path) as frontier:
        frontier.add(A)
        requests = iter(frontier)
        request = next(requests)
        limit = frontier._store._database.execute
        (size,) = limit("PRAGMA page_count").fetchone()
        limit(f"PRAGMA max_page_count = {size}")
        many = [f"{B}{number}/{'x' * 500}" for number in range(100)]
        with pytest.raises(OSError, match=r"cannot use .*crawl\.db: database or disk is full"):
            frontier.add(many)
        with pytest.raises(OSError, match="full"):
            frontier.done(request, many)
        assert (len(frontier), frontier.under_way, frontier.known) == (1, 1, 1)
        limit("PRAGMA max_page_count = 100000")
        assert frontier.done(request, many) == 100
        assert len(given(requests)) > 0


def test_a_forked_child_cannot_use_it(frontier: Frontier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(StateError, match="forked"):
        frontier.add(A)


FORKING = """
import gc, os, sys
from dugong.crawl import Frontier

frontier = Frontier(sys.argv[1])
frontier.add("http://a.example/")
if (pid := os.fork()) == 0:
    if sys.argv[2] == "closes it":
        frontier.close()
        os._exit(0)
    if sys.argv[2] == "forgets it":
        del frontier
        gc.collect()
        os._exit(0)
    sys.exit()
assert os.waitpid(pid, 0)[1] == 0
frontier.add("http://b.example/")
os._exit(0)  # as if it was killed
"""


@pytest.mark.parametrize("way", ["closes it", "forgets it", "ends with it"])
def test_a_forked_child_takes_nothing_from_its_parent(way: str, tmp_path: Path) -> None:
    path = tmp_path / "crawl.db"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", FORKING, path, way], env=env, check=True, timeout=30)
    with Frontier(path) as frontier:
        assert sorted(given(iter(frontier))) == [A, B]


def test_threads_share_a_frontier(frontier: Frontier) -> None:
    """Each of them takes, and adds what the next ones take."""
    counts: Counter[str] = Counter()
    failures = []

    def work() -> None:
        try:
            requests: Any = iter(frontier)
            more = threading.Event()
            while True:
                more.clear()
                for request in requests:
                    counts[request.url] += 1
                    number = int(request.target[1:])
                    links = [f"{A}{2 * number + n}" for n in (1, 2)]
                    frontier.done(request, links if number < 100 else [])
                if not requests.call_when_more(more.set):
                    return
                assert more.wait(10)
        except BaseException as exc:
            failures.append(exc)

    frontier.add(f"{A}0")
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(counts) == sorted(f"{A}{n}" for n in range(201))
    assert set(counts.values()) == {1}


CRAWLER = """
import sys
from dugong import ConnectionPool
from dugong.crawl import Frontier

path, url, log = sys.argv[1:]
with open(log, "a", 1) as file, Frontier(path) as frontier, ConnectionPool() as pool:
    frontier.add(url)
    for future in pool.as_completed(frontier):
        response = future.result()
        print("come", future.request.target, file=file)
        frontier.done(future.request, response.text.split())
        print("done", future.request.target, file=file)
"""


def test_a_crawl_that_is_killed_loses_nothing_and_repeats_only_what_was_under_way(
    tmp_path: Path,
) -> None:
    """It is killed when every hundredth request has come, until there are no more."""
    pages = 300
    children: list[subprocess.Popen[bytes]] = []
    asked: list[set[str]] = []
    lock = threading.Lock()

    def serve(peer: Peer) -> None:
        with contextlib.suppress(*GONE):
            for request in peer.requests():
                with lock:
                    run = asked[-1]
                    run.add(request.target)
                    if len(run) == 100:
                        children[-1].kill()
                number = int(request.target[1:])
                numbers = [2 * number + 1, 2 * number + 2, number // 2]
                links = [server.url(f"/{n}") for n in numbers if n < pages]
                peer.respond(" ".join(links).encode())

    path, log = tmp_path / "crawl.db", tmp_path / "log"
    done: list[set[str]] = []  # after each run
    with ScriptedServer(serve, repeat=True) as server:
        for _ in range(50):
            with lock:
                asked.append(set())
                child = subprocess.Popen(
                    [sys.executable, "-c", CRAWLER, path, server.url("/0"), log],
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                )
                children.append(child)
            status = child.wait(30)
            lines = [line.split() for line in log.read_text().splitlines()]
            done.append({target for what, target in lines if what == "done"})
            if status == 0:
                break
        else:
            pytest.fail("it does not come to its end")
    assert len(children) >= 3
    came = Counter(target for what, target in lines if what == "come")
    assert came.keys() == {f"/{n}" for n in range(pages)}
    # At each end one may have come that was not marked as done yet.
    assert came.total() <= pages + len(children) - 1
    for before, again in zip(done, asked[1:], strict=False):
        assert before & again == set()
