"""`Frontier`: which URLs a crawl knows, which it has still to fetch, and which one is next.

Guarantees: a URL that was added is given once, and again only if the program ended, or a loop was
left, while it was under way. `add` and `done` are written to the database when they return, so a
program that is killed loses nothing; only a machine that loses its power may lose the last ones,
and has the pages of those fetched again. Any thread may call any method, but not in a forked child.
Starts no threads. Memory: some hundred bytes for each host that has URLs waiting.

The queue is `dugong.crawl.store`, on disk. What is here is whose turn it is, under one lock.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from heapq import heappop, heappush
from itertools import count
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from dugong.crawl.store import HostIsFull, Store
from dugong.crawl.urls import host_and_target
from dugong.errors import StateError
from dugong.pool.checks import check_bool, check_counts, check_int
from dugong.pool.many import AHEAD
from dugong.pool.request import Request

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import TracebackType

    from dugong.crawl.robots import Robots, Rules

__all__ = ["Frontier", "Visit"]


_RECENT = 10_000  # URLs that are remembered as they were given
_FEW = 8  # requests of a host that are under way before one is done


class Visit(NamedTuple):
    """What the requests of a frontier have as their *context*.

    *depth* is how many links led to the URL, *redirects* how many redirects in a row, and
    *redirects_left* how many more of these are followed: with 0, `done` leaves out where the page
    redirects to. *key* is the frontier's own.
    """

    url: str
    depth: int
    priority: int
    key: int
    redirects: int
    redirects_left: int


class _Host:
    """An origin that has URLs in the frontier. Guarded by the lock of that."""

    __slots__ = ("done", "has_turn", "is_held", "key", "origin", "rules", "taken", "waiting")

    def __init__(self, key: int, origin: str, waiting: int, taken: int) -> None:
        self.key = key  # never changes
        self.origin = origin  # never changes
        self.waiting = waiting  # URLs that were not taken
        self.taken = taken  # URLs that were taken, and are not done
        self.done = 0
        self.has_turn = False  # whether it is in the line of hosts
        self.is_held = False  # whether its robots.txt is waited for
        self.rules: Rules | None = None  # the last ones that have come


class Frontier:
    """The URLs of a crawl: URLs in, requests out::

        with Frontier("crawl.db", max_depth=5) as frontier:
            frontier.add("https://www.example.com/")
            for future in client.as_completed(frontier):
                ...
                frontier.done(future.request, links)

    Iterating over it gives a GET `Request` for each URL, with a `Visit` as its *context*. The hosts
    take turns; of one host, URLs of a higher priority come first, and else those that were added
    first. `as_completed` and `map` of a pool or a client wait while there are no URLs to give, and
    end when all that was given is `done`: so each request must be marked `done`, or the loop never
    ends. A host that is slow holds up no others: only some of its requests are under way at a time,
    and more when it responds.

    URLs are compared, and requested, in their `normalized` form; each is given once.

    Parameters:

    * *path*: the file of a SQLite database, which is made if it is not there. If it is, the crawl
      goes on: with the URLs that were not done. One frontier at a time can use it. None: what is in
      the frontier is forgotten with it.
    * *max_depth*: how many links may lead from a URL that was added to one that is followed; None:
      any number.
    * *max_redirects*: how many redirects in a row are followed, if `done` is told which they are.
    * *max_per_host*: how many URLs of a host (a scheme, a name and a port) are taken in; None: any
      number.
    * *max_length*, *max_segments*: how many characters a URL may have, and how many segments its
      path. A site that makes up links without an end is left by these.
    * *max_exact*: for how many URLs the frontier remembers exactly that they were added; None: for
      all. For the others it uses a Bloom filter, which takes 4 bytes for each instead of some 30,
      but takes about one new URL in a million for a known one, which is then not fetched.
    * *robots*: a `Robots`, which says by the robots.txt of each host which URLs are allowed; None:
      all are. While the robots.txt of a host is requested, the other hosts go on. If it cannot be
      fetched, the URLs of the host stay in the frontier, for a later loop. URLs that are not
      allowed are dropped.

    Raises TypeError and ValueError if these make no sense, or *path* is something else;
    `StateError` if another frontier uses it; OSError if it cannot be opened. All methods and loops
    raise OSError if it cannot be read or written, as on a full disk, and then have done nothing.

    A frontier is a context manager, which closes it at the end. Any thread may call any method, but
    not in a forked child.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        max_depth: int | None = None,
        max_redirects: int = 20,
        max_per_host: int | None = None,
        max_length: int = 2000,
        max_segments: int = 30,
        max_exact: int | None = 1_000_000,
        robots: Robots | None = None,
    ) -> None:
        check_counts(max_length=max_length, max_segments=max_segments)
        if max_per_host is not None:
            check_counts(max_per_host=max_per_host)
        if max_exact is not None:
            check_counts(max_exact=max_exact)
        if max_depth is not None:
            check_int("max_depth", max_depth, 0)
        check_int("max_redirects", max_redirects, 0)
        if robots is not None and not callable(getattr(robots, "rules", None)):
            raise TypeError(f"robots must be a Robots or None, not {type(robots).__name__}")
        # None of these changes.
        self._max_depth = max_depth
        self._max_redirects = max_redirects
        self._max_length = max_length
        self._max_segments = max_segments
        self._robots = robots
        self._pid = os.getpid()
        self._lock = Lock()
        # All of these are guarded by the lock, but for what is said.
        self._store = Store(path, max_per_host, max_exact)
        self._is_closed = False
        self._is_stale = True  # whether what follows may not be what the database says
        self._hosts: dict[int, _Host] = {}  # by their keys
        self._line: deque[_Host] = deque()  # hosts, of which the first has its turn
        self._taken: dict[int, int] = {}  # the key of a visit -> that of the loop that has taken it
        self._asking: set[int] = set()  # the keys of hosts whose robots.txt has not come
        # Hosts whose robots.txt could not be had: when to ask again, and their keys. A heap.
        self._parked: list[tuple[float, int]] = []
        self._unasked: list[_Host] = []  # of these, hosts that it was not asked for
        self._forbidden = 0
        self._failure: BaseException | None = None  # what is to be raised by the next loop
        self._postponed: set[int] = set()  # the keys of visits that are for a later run
        # Told when there is more. Read without the lock by finalizers, which is one operation.
        self._calls: tuple[Callable[[], object], ...] = ()
        # URLs as they were given that are known: most links of a page are those of the last one.
        # Changed with the lock; looked up without it, which is atomic.
        self._recent: set[str] = set()
        self._fresh: list[str] = []  # of these, what is known when the transaction is over
        self._loops = count()  # without the lock: next() of it is atomic
        # Loops that have ended. Finalizers append to it without the lock, which is atomic.
        self._left: deque[int] = deque()

    # --- URLs in ----------------------------------------------------------------------------------

    def add(self, urls: str | Iterable[str], *, depth: int = 0, priority: int = 0) -> int:
        """Add a URL, or several; return how many of them were not known.

        A URL that is too long, too deep or one too many for its host is not added. Of several, none
        is added if one is invalid. Raises ValueError and TypeError for what is no URL that can be
        requested, and `StateError` if the frontier is closed.
        """
        check_int("depth", depth)
        check_int("priority", priority)
        given = [urls] if isinstance(urls, str) else urls
        split = [(url, *host_and_target(url)) for url in given]
        with self._change():
            return self._add_locked(split, depth, priority, 0)

    def done(
        self,
        request: Request,
        links: Iterable[str] = (),
        *,
        depth: int | None = None,
        priority: int | None = None,
        is_redirect: bool = False,
    ) -> int:
        """Mark *request* as done, and add the *links* of its page; return how many are new.

        Both or none are in the database, whatever kills the program. Links that are no http or
        https URLs are left out, as are those that `add` would not add. *depth* is that of the
        links, by default one more than that of *request*; *priority* is by default the same. With
        *is_redirect*, the page redirects to the link: the depth is by default the same, and the
        link is left out if *max_redirects* in a row have led to *request*. Its `Visit` says that
        before, as *redirects_left*.

        A request may be marked again, which does nothing but add the links. Raises ValueError if
        *request* is not of a frontier, and `StateError` if the frontier is closed.
        """
        visit = _visit_of(request)
        check_bool("is_redirect", is_redirect)
        if isinstance(links, (str, bytes)):
            raise TypeError("links must be an iterable of URLs, not one URL: give [url]")
        depth = visit.depth + (not is_redirect) if depth is None else depth
        priority = visit.priority if priority is None else priority
        check_int("depth", depth)
        check_int("priority", priority)
        redirects = visit.redirects + 1 if is_redirect else 0
        if is_redirect and not visit.redirects_left:
            links = ()
        new = dict.fromkeys(map(_without_fragment, links))
        split = list(_valid(link for link in new if link not in self._recent))
        with self._change():
            added = self._add_locked(split, depth, priority, redirects)
            key = self._store.remove(visit.key, visit.url)
            host = None if key is None else self._hosts.get(key)
            if visit.key in self._postponed:
                self._postponed.remove(visit.key)
            elif host is not None:
                host.done += 1
                if self._taken.pop(visit.key, None) is not None:
                    host.taken -= 1
                else:  # it was put back
                    host.waiting -= 1
                self._settle_locked(host)
            return added

    def postpone(self, request: Request) -> None:
        """Leave *request*, which has been taken, for the next `Frontier` of the same file.

        For one that has failed, and may succeed in a later run. Here it is not given again, and no
        loop waits for it; but `len` counts it. Raises what `done` raises.
        """
        visit = _visit_of(request)
        with self._change():
            if self._taken.pop(visit.key, None) is not None:
                self._postponed.add(visit.key)
                host = self._hosts[self._store.host_of(visit.key)]
                host.taken -= 1
                self._settle_locked(host)

    def _add_locked(
        self, split: list[tuple[str, str, str]], depth: int, priority: int, redirects: int
    ) -> int:
        if self._max_depth is not None and depth > self._max_depth:
            return 0
        count = 0
        for url, origin, target in split:
            if len(origin) + len(target) > self._max_length:
                continue
            if target.partition("?")[0].count("/") > self._max_segments:
                continue
            try:
                key = self._store.insert(origin, target, depth, priority, redirects)
            except HostIsFull:
                continue
            self._fresh.append(url)
            if key is None:
                continue
            count += 1
            host = self._hosts.get(key)
            if host is None:
                host = self._hosts[key] = _Host(key, origin, 0, 0)
            host.waiting += 1
            self._settle_locked(host)
        return count

    # --- requests out -----------------------------------------------------------------------------

    def __iter__(self) -> _Loop:
        """Begin a loop. When that is left, what it has taken and is not done is given again."""
        return _Loop(self)

    # What a loop calls.

    def _take(self, loop: int) -> Request | None:
        """Return the next request, for *loop*; None: there is none at the moment."""
        while True:
            with self._change(fails=False) as is_open:
                request = self._next_locked(loop) if is_open else None
                new, self._unasked = self._unasked, []
            if new:
                self._ask(new)
            if request is not None or not new:
                return request
            # Some of the rules may be there by now.

    def _next_locked(self, loop: int) -> Request | None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        while self._parked and self._parked[0][0] <= monotonic():
            if (parked := self._hosts.get(heappop(self._parked)[1])) is not None:
                parked.is_held = False
                self._settle_locked(parked)
        while self._line:
            host = self._line.popleft()
            host.has_turn = False
            if not self._may_give_locked(host):
                continue  # until one of its requests is done
            if self._robots is not None and (host.rules is None or host.rules.is_expired):
                host.is_held = True
                self._asking.add(host.key)
                self._unasked.append(host)
                continue
            key, target, depth, priority, redirects = self._store.take(host.key)
            host.waiting -= 1
            url = host.origin + target
            if host.rules is not None and not host.rules.allows(url):
                self._store.remove(key, url)
                self._forbidden += 1
                self._settle_locked(host)
                continue
            host.taken += 1
            self._taken[key] = loop
            self._settle_locked(host)
            left = max(0, self._max_redirects - redirects)
            visit = Visit(url, depth, priority, key, redirects, left)
            return Request("GET", url, context=visit)
        return None

    def _ask(self, hosts: list[_Host]) -> None:
        """Have the rules of *hosts* come."""
        assert self._robots is not None
        try:
            for host in hosts:
                rules = self._robots.rules(host.origin)
                rules.add_done_callback(partial(self._learn, host.key))
        except BaseException:
            with self._lock:
                self._is_stale = True  # so that those that were not asked for are asked for later
            raise

    def _learn(self, key: int, outcome: Future[Rules]) -> None:
        """Let a host have its turn by the rules that have come. Called in any thread."""
        with self._change(fails=False) as is_open:
            self._asking.discard(key)
            host = self._hosts.get(key)
            if not is_open or host is None:
                return
            failure = outcome.exception()
            if failure is not None:  # one that is to be raised is not replaced by what comes later
                self._failure = failure
            else:
                host.rules = outcome.result()
                if not host.rules.is_known:
                    heappush(self._parked, (host.rules.expires, key))
                    return
            host.is_held = False
            self._settle_locked(host)

    def _call_when_more(self, call: Callable[[], object]) -> bool:
        with self._change(fails=False) as is_open:
            if not is_open or self._is_over_locked():
                return False
            if call not in self._calls:
                self._calls += (call,)
        return True

    def _leave(self, loop: int) -> None:
        """Have what *loop* has taken given again. Called by finalizers: takes no lock."""
        self._left.append(loop)
        for call in self._calls:
            call()

    def _may_give_locked(self, host: _Host) -> bool:
        if not host.waiting or host.is_held:
            return False
        # A host that does not respond would soon have all that is under way, and keep it from the
        # others. So each begins with a few, has two more for each that is done, and never so many
        # that all hosts together would have more than half of what `as_completed` takes ahead.
        share = max(2, AHEAD // 2 // len(self._hosts))
        return host.taken < min(share, _FEW + 2 * host.done)

    def _settle_locked(self, host: _Host) -> None:
        """Put *host* into the line if it has something to give; forget it if it has nothing."""
        if not host.has_turn and self._may_give_locked(host):
            host.has_turn = True
            self._line.append(host)
        elif not host.waiting and not host.taken:
            self._hosts.pop(host.key, None)

    def _is_over_locked(self) -> bool:
        return not self._taken and not self._asking and not self._line

    # --- the frontier itself ----------------------------------------------------------------------

    def __len__(self) -> int:
        """Return how many URLs there are that are not done."""
        with self._change():
            under_way = sum(host.waiting + host.taken for host in self._hosts.values())
            return under_way + len(self._postponed)

    @property
    def robots(self) -> Robots | None:
        """What says which URLs are given."""
        return self._robots

    @property
    def under_way(self) -> int:
        """How many of these were taken."""
        with self._change():
            return len(self._taken)

    @property
    def known(self) -> int:
        """How many URLs were ever added."""
        with self._change():
            return self._store.known

    @property
    def forbidden(self) -> int:
        """How many URLs this object has dropped because a robots.txt does not allow them."""
        with self._change():
            return self._forbidden

    @property
    def held(self) -> dict[str, str]:
        """The origins of which nothing is given now, each with why its robots.txt cannot be had."""
        with self._change():
            return {
                host.origin: host.rules.failure
                for host in self._hosts.values()
                if host.rules is not None and not host.rules.is_known
            }

    def close(self) -> None:
        """Close the database; loops end. What is not done is given by the next frontier there.

        May be called more than once. Does nothing in a forked child.
        """
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._is_closed = True
            self._store.close()
            calls, self._calls = self._calls, ()
        for call in calls:
            call()

    def __enter__(self) -> Frontier:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def _change(self, fails: bool = True) -> Iterator[bool]:
        """Hold the lock in a transaction; tell those that wait behind it.

        If the frontier is closed, gives False, or with *fails*, raises `StateError`.
        """
        calls: tuple[Callable[[], object], ...] = ()
        if os.getpid() != self._pid:
            raise StateError("a Frontier cannot be used in a forked child")
        with self._lock:
            if self._is_closed and fails:
                raise StateError("the frontier is closed")
            if self._is_closed:
                yield False
                return
            with self._store:
                if self._is_stale:
                    self._load_locked()
                self._is_stale = True
                self._put_back_locked()
                yield True
            self._is_stale = False
            if len(self._recent) > _RECENT:
                self._recent.clear()
            self._recent.update(self._fresh)
            self._fresh.clear()
            if self._line or self._is_over_locked():
                calls, self._calls = self._calls, ()
        for call in calls:
            call()

    def _load_locked(self) -> None:
        """Have in memory what the database says."""
        in_database = set(self._store.taken())
        here = self._taken.keys() | self._postponed
        for key in in_database - here:  # an interrupt came before it was given
            self._store.put_back(key)
        for key in here - in_database:  # what failed has taken that back
            if not self._store.take_again(key):
                self._taken.pop(key, None)
                self._postponed.discard(key)
        self._hosts = {row[0]: _Host(*row) for row in self._store.load()}
        for key in self._postponed:
            self._hosts[self._store.host_of(key)].taken -= 1
        self._line.clear()
        self._asking.clear()
        self._unasked.clear()
        self._fresh.clear()
        self._parked.clear()
        for host in list(self._hosts.values()):
            self._settle_locked(host)

    def _put_back_locked(self) -> None:
        """Have given again what loops that were left have taken."""
        while self._left:
            for key in [key for key, loop in self._taken.items() if loop == self._left[0]]:
                host = self._hosts[self._store.put_back(key)]
                del self._taken[key]
                host.taken -= 1
                host.waiting += 1
                self._settle_locked(host)
            self._left.popleft()  # only now: after an interrupt it is all done again


class _Loop:
    """One loop over a *frontier*: a `dugong.pool.many.RequestSource`. For one thread at a time."""

    def __init__(self, frontier: Frontier) -> None:
        self._frontier = frontier  # never changes
        self._key = next(frontier._loops)  # never changes

    def __iter__(self) -> _Loop:
        return self

    def __next__(self) -> Request:
        request = self._frontier._take(self._key)
        if request is None:
            raise StopIteration
        return request

    def call_when_more(self, call: Callable[[], object], /) -> bool:
        return self._frontier._call_when_more(call)

    def __del__(self) -> None:
        self._frontier._leave(self._key)


def _visit_of(request: Request) -> Visit:
    if not isinstance(request, Request):
        raise TypeError(f"request must be a Request, not {type(request).__name__}")
    if not isinstance(request.context, Visit):
        raise ValueError(f"{request!r} is not a request of a Frontier")
    return request.context


def _valid(links: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    for link in links:
        try:
            yield link, *host_and_target(link)
        except ValueError:
            pass  # pages have links of all kinds


def _without_fragment(link: str) -> str:
    if isinstance(link, str) and "#" in link:
        return link.partition("#")[0]
    return link
