"""`Robots`: what the robots.txt of each site allows (RFC 9309), by `protego`.

Guarantees: the robots.txt of an origin is asked for once a day, or every few minutes while it
cannot be had, whatever asks for it; it comes through the same pool as the pages. Until it is known,
nothing is allowed. Memory is bounded. Starts no threads; what comes is read in a thread of the
pool. Any thread may call any method.
"""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import CancelledError, Future
from functools import partial
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any

from dugong.client.aio import AsyncClient
from dugong.client.client import Client
from dugong.client.forking import begin_anew_in_child
from dugong.client.urls import resolve
from dugong.crawl.delays import keep_to_delay
from dugong.errors import DugongError, HTTPStatusError, printable
from dugong.pool.failure import describe
from dugong.pool.pool import ConnectionPool
from dugong.pool.request import Request

try:
    from protego import Protego
except ImportError:
    raise ImportError(
        "dugong.crawl.Robots needs the package protego: pip install dugong[crawl]", name="protego"
    ) from None

if TYPE_CHECKING:
    from dugong.pool.response import Response
    from dugong.pool.url import Origin

__all__ = ["Robots", "Rules"]

#: Seconds for which a robots.txt counts that could be had.
LIFETIME = 24 * 3600.0
#: Seconds after which one is asked for again that could not.
LATER = 300.0
#: Bytes of a robots.txt that count.
MAX_SIZE = 500 * 1024
_REDIRECTS = 5
_HOSTS = 10_000  # origins that are remembered

_EVERYTHING = Protego.parse("")
_AGENT_FIELDS = frozenset(("user-agent", "useragent", "user agent"))  # as Protego takes them
_OTHERS = "\0"  # the name that stands for all robots but this one: no user agent has it


class Rules:
    """What the robots.txt of an origin says to one robot. It never changes.

    Attributes: *is_known*: whether the robots.txt could be had, or there is none; if not, nothing
    is allowed for the time being, and *failure* says why. *crawl_delay*: how many seconds there are
    to be between two requests, or None. *expires*: when it is to be asked for again, by
    `time.monotonic`.
    """

    __slots__ = ("_agent", "_parser", "crawl_delay", "expires", "failure", "is_known")

    def __init__(self, parser: Protego | None, agent: str, failure: str = "") -> None:
        self._parser = parser
        self.failure: str = failure
        self._agent = agent
        self.is_known: bool = parser is not None
        self.crawl_delay: float | None = None if parser is None else parser.crawl_delay(agent)
        self.expires: float = monotonic() + (LATER if parser is None else LIFETIME)

    @property
    def is_expired(self) -> bool:
        """Whether it is to be asked for again."""
        return monotonic() >= self.expires

    def allows(self, url: str) -> bool:
        """Return whether *url*, which is one of the origin's, may be requested."""
        return self._parser is not None and self._parser.can_fetch(url, self._agent)


class Robots:
    """Asks for the robots.txt of each site through *client*, and says what it allows.

    *client* is a `Client`, an `AsyncClient` or a `ConnectionPool`. *user_agent* is the name that
    robots.txt files know the robot by, or the text of its User-Agent field that begins with it.

    A response 2xx is read, up to 500 KiB. Up to five redirects are followed, to other hosts, too.
    With a response 4xx, or more redirects, everything is allowed. With 429, 5xx and what cannot be
    reached, nothing is, and after five minutes it is asked for again. The `RetryPolicy` of *client*
    counts before that. A robots.txt is remembered for a day, and those of up to 10,000 origins are.

    If a robots.txt names a crawl delay that is longer than the *min_interval* that *host_policy* of
    the pool gives the origin, the origin gets that policy with the delay (up to five minutes) as
    *min_interval*; it replaces one that `set_host_policy` has set.

    Raises TypeError if the arguments make no sense, and ImportError without the package protego
    (``pip install dugong[crawl]``). Any thread may call any method, in a forked child, too.
    """

    def __init__(
        self, client: Client | AsyncClient | ConnectionPool, user_agent: str = "dugong"
    ) -> None:
        if not isinstance(client, (Client, AsyncClient, ConnectionPool)):
            kind = type(client).__name__
            raise TypeError(f"client must be a client or a ConnectionPool, not {kind}")
        if not isinstance(user_agent, str):
            raise TypeError(f"user_agent must be a str, not {user_agent!r}")
        # None of these changes.
        self._agent = user_agent
        self._pool = client if isinstance(client, ConnectionPool) else client._pool
        options: dict[str, Any] = {}
        if not isinstance(client, ConnectionPool):
            options = {"follow_redirects": False, "auth": None}
        if not isinstance(client, AsyncClient):
            options["block"] = False
        self._submit = partial(client.submit, "GET", **options)
        self._lock = Lock()
        # Guarded by the lock. By origin; those that were used last are at the end.
        self._cache: OrderedDict[Origin, Future[Rules]] = OrderedDict()
        begin_anew_in_child(self)

    def _begin_in_child(self) -> None:
        self._lock = Lock()
        # What is under way is the parent's.
        done = ((origin, future) for origin, future in self._cache.items() if future.done())
        self._cache = OrderedDict(done)

    def allows(self, url: str) -> bool:
        """Return whether *url* may be requested; wait for its robots.txt if that is not known.

        Raises ValueError or TypeError for an invalid URL, `StateError` in a callback of the pool,
        and what *host_policy* raises.
        """
        self._pool._scheduler.check_may_wait()
        return self.rules(url).result().allows(url)

    def rules(self, url: str) -> Future[Rules]:
        """Return a future of the `Rules` for the origin of *url*; it is never cancelled.

        Does not wait. Raises ValueError or TypeError for an invalid URL. The future raises what
        *host_policy* raises.
        """
        origin = Request("GET", url).origin
        with self._lock:
            future = self._cache.get(origin)
            if future is not None and not (
                future.done() and (future.exception() is not None or future.result().is_expired)
            ):
                self._cache.move_to_end(origin)
                return future
            future = self._cache[origin] = Future()
            future.set_running_or_notify_cancel()
            self._cache.move_to_end(origin)
            if len(self._cache) > _HOSTS:
                self._cache.popitem(last=False)
        self._ask(origin, future, f"{origin}/robots.txt", _REDIRECTS)
        return future

    def _ask(self, origin: Origin, future: Future[Rules], url: str, redirects: int) -> None:
        """Ask for *url*, of which the rules of *origin* come; resolve *future* when it has come."""
        try:
            response = self._submit(url)
        except DugongError as exc:  # the pool is full, or closed
            self._learn(origin, future, None, describe(exc))
        except BaseException as exc:
            self._learn(origin, future, None, type(exc).__name__)
            raise
        else:
            response.add_done_callback(partial(self._came, origin, future, url, redirects))

    def _came(
        self,
        origin: Origin,
        future: Future[Rules],
        url: str,
        redirects: int,
        outcome: Future[Response],
    ) -> None:
        try:
            response = outcome.result()
        except HTTPStatusError as exc:  # of a hook of the client
            response = exc.response
        except (DugongError, CancelledError) as exc:
            self._learn(origin, future, None, describe(exc))
            return
        except BaseException as exc:  # of a function of the caller's, such as host_policy
            future.set_exception(exc)
            return
        status = response.status
        location = response.headers["Location"]
        if 300 <= status < 400 and location is not None and redirects:
            try:
                target = Request("GET", resolve(url, location)).url
            except ValueError:
                pass  # it leads nowhere
            else:
                self._ask(origin, future, target, redirects - 1)
                return
        if status == 429 or status >= 500:
            self._learn(origin, future, None, f"{status} {printable(response.reason)}".rstrip())
        elif 200 <= status < 300:
            self._learn(origin, future, _parsed(response.body, self._agent))
        else:
            self._learn(origin, future, _EVERYTHING)

    def _learn(
        self, origin: Origin, future: Future[Rules], parser: Protego | None, failure: str = ""
    ) -> None:
        try:
            rules = Rules(parser, self._agent, failure)
            if rules.crawl_delay:
                keep_to_delay(self._pool, origin, rules.crawl_delay)
        except BaseException as exc:  # of host_policy: or nothing would resolve the future
            future.set_exception(exc)
            return
        future.set_result(rules)


def _parsed(body: bytes, agent: str) -> Protego:
    """Return what *body*, a robots.txt, says to *agent*, in time and memory linear in its size.

    Protego has all rules of a group once for each name of the group: of 500 KiB, these are
    gigabytes. So it gets only the name that counts here as it is, and one for all others.
    """
    if len(body) > MAX_SIZE:  # what is left of a line that is cut would be another rule
        end = max(body.rfind(each, 0, MAX_SIZE) for each in (b"\n", b"\r"))
        body = body[: end + 1]
    lines = body.decode("utf-8-sig", "replace").splitlines()
    names = [_agent_in(line) for line in lines]
    known = [name for name in dict.fromkeys(names) if name]
    # Protego decides which one counts, too: each has its number as the crawl delay.
    numbered = (f"User-agent: {name}\nCrawl-delay: {n}" for n, name in enumerate(known))
    number = Protego.parse("\n".join(numbered)).crawl_delay(agent)
    if number is None:
        return _EVERYTHING
    own = known[int(number)]
    return Protego.parse(
        "\n".join(
            f"User-agent: {name if name == own else _OTHERS}" if name else line
            for name, line in zip(names, lines, strict=True)
        )
    )


def _agent_in(line: str) -> str | None:
    """Return the user agent that *line* names, as Protego reads it; None if it names none."""
    line = line.partition("#")[0].strip()
    field, colon, value = line.partition(":")
    if not colon or field.strip().lower() not in _AGENT_FIELDS:
        if colon and (not value or value[0].isspace()):
            return None  # it is of another kind
        words = line.split()
        count = next((n for n in (1, 2) if " ".join(words[:n]).lower() in _AGENT_FIELDS), None)
        if count is None:
            return None
        value = " ".join(words[count:])
    name = value.strip().lower()
    return name if name in ("", "*") else name.replace("*", "") or _OTHERS
