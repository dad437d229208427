"""What makes no sense is refused: everywhere, at the call, by name, and other requests go on.

This goes over all entry points; what is good and what is bad in detail is in the tests of the
modules. A refusal is a TypeError or a ValueError that names the parameter, and raised before a
connection is opened or a byte is sent.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dugong import (
    AioFuture,
    BodyFollowing,
    Client,
    ConnectionPool,
    Headers,
    HTTPConnection,
    PoolClosed,
    Request,
    ResponseFuture,
    RetryPolicy,
    eval_coroutine,
    retrying,
)
from dugong.crawl import Frontier, WarcWriter
from dugong.s3 import Bucket
from tests.support.pool import Held, Site, discard_rest, each, name_target, open_site, url
from tests.support.server import Peer, ReceivedRequest, ScriptedServer

NOWHERE = "http://127.0.0.1:9/"  # a URL that no test asks for

LONG = b"0123456789" * 50_000  # a body that is streamed, for it is too long for anything else


async def coroutine(_: object) -> None:
    """Is called where nothing awaits it."""


class Bad(NamedTuple):
    """A value for the parameter *name* that is refused with *error*, whose text has *message*."""

    name: str
    error: type[Exception]
    message: str
    value: Any

    def __str__(self) -> str:
        value = repr(self.value).partition(" object at ")[0].partition(" at 0x")[0]
        return f"{self.name}={value[:40]}"


def several(name: str, error: type[Exception], message: str, *values: Any) -> list[Bad]:
    """Return *values* that are refused alike."""
    return [Bad(name, error, message, value) for value in values]


def each_of(bad: list[Bad]) -> pytest.MarkDecorator:
    """Have a test run with each of *bad*."""
    return pytest.mark.parametrize("bad", bad, ids=str)


def refused(bad: Bad, call: Callable[[], object]) -> None:
    """Have *call* refuse *bad*."""
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert type(caught.value) is bad.error
    assert bad.message in str(caught.value)


def bad_seconds(name: str) -> list[Bad]:
    """Return what is no time-out, nor any other length of time."""
    never = (0, -1, -0.5, math.nan, math.inf, -math.inf, 10**400)
    return [
        *several(name, TypeError, f"{name} must be a number", "1", True, 1j),
        *several(name, ValueError, f"{name} must be positive", *never),
    ]


def bad_counts(name: str, *values: Any) -> list[Bad]:
    """Return what is no number of things; *values* are some more of the wrong type."""
    return [
        *several(name, TypeError, f"{name} must be an int", *values, "1", 1.0),
        *several(name, ValueError, f"{name} must be at least 1", 0, -1),
    ]


def bad_headers(default: bool) -> list[Bad]:
    """Return what are no headers, of one request or the *default* ones of a pool."""
    pairs = "headers must be a mapping or (name, value) pairs"
    own = "cannot be the same for every request" if default else ""
    texts = "str, not "
    wrong_pairs: list[Any] = [[5], [None], ["ab"], [("A",)], [("A", "b", "c")]]
    wrong_texts: list[Any] = [{"A": None}, {"A": b"b"}, {5: "b"}, [("A", "b"), (b"A", "b")]]
    return [
        *several("headers", TypeError, pairs, "A: b", b"A: b", 5, *wrong_pairs),
        *several("headers", TypeError, texts, *wrong_texts),
        *several("headers", ValueError, "invalid header name", {"": "b"}, {"A b": "c"}),
        *several("headers", ValueError, "control character", {"A": "b\r\nC: d"}, {"A": "\0"}),
        *several("headers", ValueError, "not ISO-8859-1", {"A": "\N{EURO SIGN}"}),
        *several("headers", ValueError, own or "Content-Length", {"Content-Length": "x"}),
        *several(
            "headers", ValueError, own or "Transfer-Encoding", {"Transfer-Encoding": "chunked"}
        ),
        *several("headers", ValueError, own or "expect100", {"Expect": "100-continue"}),
        *several("headers", ValueError, own or "change protocols", {"Upgrade": "h2c"}),
    ]


_bad_proxy_urls = (
    "proxy:80",
    "socks://proxy",
    "http://proxy:99999",
    "http://proxy/path",
    " http://proxy",
    "http://:80",
    "http://user:secret\r\n@proxy",
)
_pair = "proxy must be a (host, port) pair or a URL"

BAD_PROXIES = [
    *several("proxy", TypeError, _pair, 8080, b"http://proxy:1", ("proxy",)),
    *several("proxy", TypeError, "port must be an int", ("proxy", "80")),
    *several("proxy", ValueError, "port must be between 1 and 65535", ("proxy", 99999)),
    *several("proxy", ValueError, "invalid host name", ("", 80)),
    *several("proxy", ValueError, "a proxy URL must look like", *_bad_proxy_urls),
]

BAD_CONTEXTS = several("ssl_context", TypeError, "ssl_context must be an", True, "certificates")

BAD_POLICIES = several("retry", TypeError, "retry must be a RetryPolicy", 3, True, "a", RetryPolicy)


# --- a pool, and what is asked of it --------------------------------------------------------------

BAD_LIMITS = [
    *bad_counts("max_connections_per_host", None, True),
    *bad_counts("max_connections", None),
    *bad_counts("pipeline_depth", True),
    *bad_counts("max_queued", None),
    *bad_counts("max_body_size", None),
    *bad_counts("max_requests", True),
    *bad_seconds("timeout"),
    *bad_seconds("connect_timeout"),
    *several("upload_rate", TypeError, "upload_rate must be a number of bytes a second", "1", True),
    *several("host_download_rate", ValueError, "host_download_rate must be positive", 0, math.inf),
    *several("min_rate", TypeError, "min_rate must be a number of bytes a second", "1", True, 1j),
    *several(
        "min_rate", ValueError, "min_rate must be positive", 0, -1, math.nan, math.inf, 10**400
    ),
    *bad_seconds("idle_timeout"),
    *several("idle_timeout", TypeError, "idle_timeout must be a number of seconds", None),
    *bad_seconds("max_age"),
    *bad_headers(default=True),
    *BAD_PROXIES,
    *BAD_CONTEXTS,
    *BAD_POLICIES,
    *several("on_event", TypeError, "on_event must be callable", True, "log"),
    *several("on_event", TypeError, "on_event must not be a coroutine", coroutine),
    *several("host_policy", TypeError, "host_policy must not be a coroutine", coroutine),
    *several("record", TypeError, "record must not be a coroutine", coroutine),
    *several("socket_options", TypeError, "socket_options must be a sequence", 1, "keepalive"),
]

_no_urls = ("", "GET", "/path", "h/path", "//h/", "http:/h/", "ftp://h/", " http://h/")
_bad_ports = ("http://h:99999/", "http://h:0/", "http://h:-1/", "http://h:http/")
_bad_hosts = ("http://a b/", "http://h\r\n/", "http://h\0/", "http://a..b/")
_bad_targets = ("http://h/a b", "http://h/\r\nHost: g", "http://h/\0", "http://h/\N{EURO SIGN}")
_no_bodies: Any = ("text", 5, 1.5, True, {}, object(), io.StringIO(), memoryview(b"abcd")[::2])

BAD_REQUESTS = [
    *several("method", TypeError, "method must be a str", None, b"GET", 5),
    *several("method", ValueError, "invalid method", "", "G ET", "GET\r\n", NOWHERE),
    *several("method", ValueError, "a pool cannot CONNECT", "CONNECT"),
    *several("url", TypeError, "URL", None, b"http://h/", 5, [NOWHERE]),
    *several("url", ValueError, "a URL must begin with http:// or https://", *_no_urls),
    *several("url", ValueError, "the URL names no host", "http://", "http:///path", "http://:80/"),
    *several("url", ValueError, "the port of a URL", *_bad_ports),
    *several("url", ValueError, "invalid host name", *_bad_hosts),
    *several("url", ValueError, "IPv6 in brackets", "http://[::1/"),
    *several("url", ValueError, "user name or password", "http://user:secret@h/"),
    *several("url", ValueError, "must be percent-encoded", *_bad_targets),
    *bad_headers(default=False),
    *several("body", TypeError, "the body ", *_no_bodies),
    *bad_seconds("timeout"),
    *bad_seconds("deadline"),
    *several("expect100", TypeError, "expect100 must be a bool", 1, None, "yes"),
    *several("expect100", ValueError, "expect100 is only allowed with a body", True),
    *several("idempotent", TypeError, "idempotent must be a bool", 0, "yes"),
    *BAD_POLICIES,
]

#: What takes the parameters of a request, each as it is called with *arguments*.
Entry = Callable[[ConnectionPool, dict[str, Any]], object]


def verb(name: str) -> Entry:
    """Return how the method *name* of a pool is called, which is that of the request."""

    def entry(pool: ConnectionPool, arguments: dict[str, Any]) -> object:
        del arguments["method"]
        return getattr(pool, name)(**arguments)

    return entry


BAD_BLOCKS = several("block", TypeError, "block must be a bool", "x", 1, 0, None, math.nan, [])

VERBS = ("get", "head", "put", "post", "delete")
ENTRIES: dict[str, Entry] = {
    "request": lambda pool, arguments: pool.request(**arguments),
    "submit": lambda pool, arguments: pool.submit(**arguments),
    "stream": lambda pool, arguments: pool.stream(**arguments),  # before its block is entered
    "Request": lambda pool, arguments: pool.submit(Request(**arguments)),
    "map": lambda pool, arguments: next(pool.map([Request(**arguments)])),
    "as_completed": lambda pool, arguments: next(
        pool.as_completed([Request(**arguments)])
    ).result(),
    **{name: verb(name) for name in VERBS},
}


@each_of(BAD_LIMITS)
def test_a_pool_is_not_made_of_what_makes_no_sense(bad: Bad) -> None:
    arguments = {bad.name: bad.value}
    refused(bad, lambda: ConnectionPool(**arguments))


@pytest.mark.parametrize(
    ("bad", "entry"),
    [
        pytest.param(bad, entry, id=f"{name}-{bad}")
        for bad in BAD_REQUESTS
        for name, entry in ENTRIES.items()
        if bad.name != "method" or name not in VERBS
    ],
)
def test_a_request_that_makes_no_sense_is_refused_however_it_is_made(
    bad: Bad, entry: Entry
) -> None:
    with ConnectionPool() as pool:
        arguments = {"method": "GET", "url": NOWHERE, bad.name: bad.value}
        refused(bad, lambda: entry(pool, arguments))
        statistics = pool.statistics()
        assert (statistics.queued, statistics.opened) == (0, 0)


@pytest.mark.parametrize("name", ["map", "as_completed"])
@pytest.mark.parametrize("value", [None, 5, NOWHERE, b"http://h/", Request("GET", NOWHERE)])
def test_what_is_no_iterable_of_requests_is_refused_at_the_call(name: str, value: Any) -> None:
    with (
        ConnectionPool() as pool,
        pytest.raises(TypeError, match="requests must be an iterable of URLs and Requests"),
    ):
        getattr(pool, name)(value)


def test_what_is_refused_is_not_sent_and_harms_no_other_request() -> None:
    held = Held()
    with ScriptedServer() as untouched, open_site(held, max_connections_per_host=1) as site:
        in_flight = site.pool.submit("GET", site.url("/in-flight"))
        held.wait()
        behind = site.pool.submit("GET", site.url("/behind"))
        for bad in BAD_REQUESTS:
            for host in (untouched, site.server):
                arguments = {"method": "GET", "url": url(host), bad.name: bad.value}
                with pytest.raises((TypeError, ValueError)):
                    site.pool.request(**arguments)
        assert (site.pool.statistics().queued, site.pool.statistics().sent) == (1, 1)
        held.release()
        assert in_flight.result().body == b"/in-flight"
        assert behind.result().body == b"/behind"
        assert site.goes_on()
        assert site.pool.statistics().sent == 3
        assert untouched.connections == 0


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_nothing_is_sent_for_a_pool_that_is_closed(entry: Entry) -> None:
    def enter(arguments: dict[str, Any]) -> None:
        begun = entry(pool, arguments)
        begun.__enter__()  # type: ignore[attr-defined]  # a stream begins with its block

    with ScriptedServer() as untouched, ConnectionPool() as pool:
        pool.close()
        with pytest.raises(PoolClosed):
            enter({"method": "GET", "url": url(untouched)})
        assert untouched.connections == 0


def test_a_closed_pool_can_be_looked_at_and_closed_again() -> None:
    pool = ConnectionPool()
    pool.close()
    pool.close()
    assert "closed" in repr(pool)
    assert pool.statistics().connections == 0


@each_of(BAD_REQUESTS)
def test_in_a_closed_pool_too_it_is_said_what_makes_no_sense(bad: Bad) -> None:
    pool = ConnectionPool()
    pool.close()
    arguments = {"method": "GET", "url": NOWHERE, bad.name: bad.value}
    refused(bad, lambda: pool.submit(**arguments))


@each_of(BAD_BLOCKS)
@pytest.mark.parametrize("make", [ConnectionPool, Client])
@pytest.mark.parametrize("arguments", [("GET", NOWHERE), (Request("GET", NOWHERE),)], ids=repr)
def test_a_request_is_not_queued_if_it_is_not_known_whether_to_wait(
    bad: Bad, make: Any, arguments: tuple[Any, ...]
) -> None:
    with make() as sender:
        refused(bad, lambda: sender.submit(*arguments, block=bad.value))
        statistics = sender.statistics()
        assert (statistics.queued, statistics.opened) == (0, 0)


# --- a client, and files --------------------------------------------------------------------------

_no_pairs: Any = (5, 0, 0.0, True, False, "", b"", ["x"], [("A", "b", "c")], object())

BAD_CLIENTS = [
    *several("base_url", TypeError, "URL must be a str", None, 5, b"http://h/"),
    *several("base_url", ValueError, "a URL must begin with http:// or https://", "h", "ftp://h"),
    *(bad for bad in bad_headers(default=True) if bad.value != {"A": None}),  # leaves it out
    *several("params", TypeError, "params must be a mapping", 5, False, b"a=b", ["x"]),
    *several("cookies", TypeError, "cookies must be", 5, False, "a=b", ["x"]),
    *several("auth", TypeError, "auth must be a (user, password)", 5, False, "user", (), ("u",)),
    *several("auth", TypeError, "the user must be a str", (1, "password")),
    *several("follow_redirects", TypeError, "follow_redirects must be a bool", 1, None, "no"),
    *several("max_redirects", TypeError, "max_redirects must be an int", "1", 1.0, True, None),
    *several("max_redirects", ValueError, "max_redirects must", -1),
    *several("decode", TypeError, "decode must be a bool", 1, None, "no"),
    *several("trust_env", TypeError, "trust_env must be a bool", 1, None, "no"),
    *several("verify", TypeError, "verify must be", None, 1, 0, [], 1.5),
    *several("event_hooks", TypeError, "event_hooks must be a mapping", 5, [], "request"),
    *several("event_hooks", ValueError, "event_hooks are for", {"error": []}),
    *several("pool", TypeError, "pool must be a ConnectionPool", 5, False, "pool", Client),
    *BAD_PROXIES,
    *bad_seconds("timeout"),
    *bad_counts("max_connections", None),
]

BAD_CALLS = [
    *(bad for bad in BAD_REQUESTS if bad.name not in ("method", "url", "headers")),
    *several("method", TypeError, "method must be a str", None, 5),
    *several("url", TypeError, "URL", None, b"http://h/", 5, [NOWHERE]),
    *several("url", ValueError, "give an absolute one", "h", "/path"),
    *several("params", TypeError, "params must be a mapping", 5, False, b"a=b", ["x"]),
    *several("cookies", TypeError, "cookies must be", 5, False, "a=b", ["x"]),
    *several("auth", TypeError, "auth must be a (user, password)", 5, False, "user", (), ("u",)),
    *several("follow_redirects", TypeError, "follow_redirects must be a bool", 1, None, "no"),
    *several("data", TypeError, "data must be a mapping or (name, value) pairs", *_no_pairs),
    *several("files", TypeError, "files must be a mapping or (name, value) pairs", *_no_pairs),
    *several("json", ValueError, "JSON", math.nan, math.inf, [-math.inf]),
    *several("json", TypeError, "JSON", b"x", object()),
    *several("progress", TypeError, "progress must be a callable", True, 0, "tell", []),
    *several("progress", TypeError, "progress must not be a coroutine", coroutine),
    *several("trailers", ValueError, "trailers are only allowed with a body", {"A": "b"}),
    *bad_seconds("hedge"),
    *several("no_such_option", TypeError, "no_such_option", 1),
]

_OF_TRANSFERS = ("params", "cookies", "auth", "follow_redirects", "timeout", "deadline", "retry")
BAD_TRANSFERS = [
    *(bad for bad in BAD_CALLS if bad.name in _OF_TRANSFERS),
    *several("url", TypeError, "URL", b"http://h/", 5, [NOWHERE]),
    *several("path", TypeError, "expected str, bytes or os.PathLike object", 5, 0, None, True, []),
    *several("progress", TypeError, "progress must be a callable", True, 0, "tell", []),
    *several("no_such_option", TypeError, "no_such_option", 1),
]
BAD_DOWNLOADS = [
    *BAD_TRANSFERS,
    *several("resume", TypeError, "resume must be a bool", 1, 0, None, "no"),
    *bad_counts("connections", None, True),
    *several("digest", TypeError, "digest must be a str", 5, b"sha256:00", True, []),
    *several("digest", ValueError, "digest", "", "sha256", "sha256:xyz", "nonsense:00"),
]
BAD_UPLOADS = [
    *BAD_TRANSFERS,
    *several("method", ValueError, "invalid method", "", "P UT"),
    *several("digest", ValueError, "digest must be sha-256 or sha-512", "", "md5"),
    *several("digest", TypeError, "digest must be a str", 5, True, []),
    *several("expect100", TypeError, "expect100 must be a bool", 1, None, "yes"),
    *several("idempotent", TypeError, "idempotent must be a bool", 0, "yes"),
]


@each_of(BAD_CLIENTS)
def test_a_client_is_not_made_of_what_makes_no_sense(bad: Bad) -> None:
    arguments = {bad.name: bad.value}
    refused(bad, lambda: Client(**arguments))


@pytest.mark.parametrize("name", ["request", "submit", "stream"])
@each_of(BAD_CALLS)
def test_a_call_of_a_client_that_makes_no_sense_is_refused(bad: Bad, name: str) -> None:
    with Client(trust_env=False) as client:
        arguments = {"method": "GET", "url": NOWHERE, bad.name: bad.value}
        refused(bad, lambda: getattr(client, name)(**arguments))
        statistics = client.statistics()
        assert (statistics.queued, statistics.opened) == (0, 0)


@pytest.mark.parametrize("name", ["map", "as_completed"])
@each_of(bad_counts("max_ahead_size", None, True))
def test_what_is_ahead_has_a_size(bad: Bad, name: str) -> None:
    with ConnectionPool() as pool:
        refused(bad, lambda: getattr(pool, name)([], max_ahead_size=bad.value))


@pytest.mark.parametrize(
    ("bad", "name"),
    [
        pytest.param(bad, name, id=f"{name}-{bad}")
        for name, table in (("download", BAD_DOWNLOADS), ("upload", BAD_UPLOADS))
        for bad in table
    ],
)
def test_a_transfer_that_makes_no_sense_is_refused_and_leaves_no_file(
    bad: Bad, name: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    arguments = {"url": NOWHERE, "path": tmp_path / "file", bad.name: bad.value}
    with Client(trust_env=False) as client:
        refused(bad, lambda: getattr(client, name)(**arguments))
        assert client.statistics().opened == 0
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"content"


# --- a bucket, and a crawl ------------------------------------------------------------------------

BAD_BUCKETS = [
    *several("name", TypeError, "the name of a bucket must be a str", None, 5, b"b", ["b"]),
    *several("name", ValueError, "the name of a bucket", "", "a/b", "a b"),
    *several("endpoint", TypeError, "endpoint must be a str", 5, 0, False, b"http://h", []),
    *several("region", TypeError, "region must be a str", 5, 0, False, b"r", []),
    *several("credentials", TypeError, "credentials must be", "key", 5, False, ("key",), []),
    *several("credentials", TypeError, "the key of credentials must be a str", (1, "s")),
    *several("credentials", TypeError, "the secret of credentials must", ("k", b"s"), ("k", None)),
    *several("credentials", TypeError, "the token of credentials must be a str", ("k", "s", 1)),
    *bad_counts("part_size", None, True),
    *bad_seconds("timeout"),
]

_prefixes: Any = (None, 5, 0, False, b"a", ["a"])
_progress = ("progress must be callable", True, 0, "tell", [])
BAD_OPERATIONS: list[tuple[str, dict[str, Any], Bad]] = [
    *(
        (name, {}, bad)
        for name in ("list", "uploads")
        for bad in several("prefix", TypeError, "prefix must be a str", *_prefixes)
    ),
    *(
        ("sync", {"directory": "/nonexistent"}, bad)
        for bad in several("prefix", TypeError, "prefix must be a str", *_prefixes)
    ),
    *(
        ("abort", {}, bad)
        for bad in several("upload", TypeError, "upload must be an OpenUpload", None, "id", 5)
    ),
    *(
        (name, {"key": "k"} | more, bad)
        for name, more in (("put", {"body": b""}), ("download", {"path": "/nonexistent"}))
        for bad in several("progress", TypeError, *_progress)
    ),
    *(
        (name, more, bad)
        for name, more in (
            ("put", {"body": b""}),
            ("get", {}),
            ("head", {}),
            ("delete", {}),
            ("download", {"path": "/nonexistent"}),
        )
        for bad in several("key", TypeError, "a key must be a str", None, 5, False, b"k")
    ),
]


@each_of(BAD_BUCKETS)
def test_a_bucket_is_not_made_of_what_makes_no_sense(bad: Bad) -> None:
    arguments: dict[str, Any] = {"name": "b", "region": "r", "credentials": ("key", "secret")}
    arguments[bad.name] = bad.value
    refused(bad, lambda: Bucket(**arguments))


@pytest.mark.parametrize(
    ("name", "others", "bad"),
    [pytest.param(*row, id=f"{row[0]}-{row[2]}") for row in BAD_OPERATIONS],
)
def test_an_operation_on_a_bucket_that_makes_no_sense_is_refused(
    name: str, others: dict[str, Any], bad: Bad
) -> None:
    with Bucket("http://127.0.0.1:9/b", region="r", credentials=("key", "secret")) as bucket:
        refused(bad, lambda: getattr(bucket, name)(**others, **{bad.name: bad.value}))
        assert bucket.statistics().opened == 0


def no_more_than_0(name: str) -> list[Bad]:
    """Return what is no number from 0 on."""
    return [
        *several(name, TypeError, f"{name} must be an int", "1", 1.0, True, math.nan),
        *several(name, ValueError, f"{name} must be at least 0", -1),
    ]


BAD_FRONTIERS = [
    *several("path", TypeError, "expected str, bytes or os.PathLike object", 5, False, []),
    *no_more_than_0("max_depth"),
    *no_more_than_0("max_redirects"),
    *several("max_redirects", TypeError, "max_redirects must be an int", None),
    *bad_counts("max_per_host", True),
    *bad_counts("max_length", None, True),
    *bad_counts("max_segments", None, True),
    *bad_counts("max_exact", True),
    *several("robots", TypeError, "robots must be a Robots or None", 5, False, "robots.txt", []),
]

_int = "must be an int"
BAD_DONE = [
    *several("request", TypeError, "request must be a Request", None, NOWHERE, 5),
    *several("request", ValueError, "is not a request of a Frontier", Request("GET", NOWHERE)),
    *several("links", TypeError, "links must be an iterable of URLs", NOWHERE, "", b"http://h/"),
    *several("links", TypeError, "not iterable", None, 5, True),
    *several("depth", TypeError, f"depth {_int}", "1", 1.0, True, math.nan),
    *several("priority", TypeError, f"priority {_int}", "1", 1.0, True, math.nan),
    *several("is_redirect", TypeError, "is_redirect must be a bool", 1, 0, None, "no"),
]

BAD_ARCHIVES = [
    *several("path", TypeError, "expected str, bytes or os.PathLike object", 5, None, []),
    *several("append", TypeError, "append must be a bool", 1, 0, None, "no"),
    *several("info", TypeError, "info must be a mapping", 5, 0, False, "", "a: b", [], ["a"]),
]


@each_of(BAD_FRONTIERS)
def test_a_frontier_is_not_made_of_what_makes_no_sense(bad: Bad) -> None:
    arguments = {bad.name: bad.value}
    refused(bad, lambda: Frontier(**arguments))


@each_of(BAD_DONE)
def test_what_makes_no_sense_does_not_mark_a_request_of_a_frontier(bad: Bad) -> None:
    with Frontier() as frontier:
        frontier.add("http://h/")
        arguments: dict[str, Any] = {"request": next(iter(frontier)), bad.name: bad.value}
        refused(bad, lambda: frontier.done(**arguments))
        assert len(frontier) == 1


@each_of(BAD_ARCHIVES)
def test_a_warc_file_is_not_made_of_what_makes_no_sense(bad: Bad, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"path": tmp_path / "file", bad.name: bad.value}
    refused(bad, lambda: WarcWriter(**arguments))
    assert list(tmp_path.iterdir()) == []


# --- one bad item among good ones -----------------------------------------------------------------


def test_map_gives_all_responses_that_come_before_an_item_that_makes_no_sense() -> None:
    with open_site(each(name_target), repeat=True) as site:
        urls = [site.url("/1"), site.url("/2"), "ftp://h/", site.url("/never")]
        responses = site.pool.map(urls)
        assert [next(responses).body, next(responses).body] == [b"/1", b"/2"]
        with pytest.raises(ValueError, match="begin with http"):
            next(responses)
        assert list(responses) == []
        assert site.pool.statistics().sent == 2
        assert site.goes_on()


def test_as_completed_gives_all_futures_that_come_before_an_item_that_makes_no_sense() -> None:
    with open_site(each(name_target), repeat=True) as site:
        urls: list[Any] = [site.url("/1"), site.url("/2"), None, site.url("/never")]
        futures = site.pool.as_completed(urls)
        assert {next(futures).result().body, next(futures).result().body} == {b"/1", b"/2"}
        with pytest.raises(TypeError, match="URL must be a str"):
            next(futures)
        assert list(futures) == []
        assert site.pool.statistics().sent == 2
        assert site.goes_on()


@pytest.mark.parametrize("name", ["map", "as_completed"])
def test_what_came_before_is_given_though_it_takes_longer(name: str) -> None:
    held = Held()

    def items(site: Site) -> Iterator[str]:
        yield site.url("/held")
        held.wait()
        held.release()
        yield "http://h:99999/"

    with open_site(held) as site:
        given = getattr(site.pool, name)(items(site))
        first = next(given)
        response = first.result() if isinstance(first, ResponseFuture) else first
        assert response.body == b"/held"
        with pytest.raises(ValueError, match="port"):
            next(given)


def test_who_leaves_before_a_bad_item_does_not_hear_of_it() -> None:
    with open_site(each(name_target)) as site:
        responses = site.pool.map([site.url("/1"), "ftp://h/"])
        assert next(responses).body == b"/1"
        responses.close()  # type: ignore[attr-defined]  # it is a generator
        assert site.goes_on()


def test_what_a_body_gives_can_only_be_refused_when_it_is_sent() -> None:
    """And then it is the end of that request, but of no other."""

    def script(peer: Peer) -> None:
        name_target(peer, peer.request())
        peer.head()
        discard_rest(peer)

    bad: Any = [b"good", "bad"]
    with open_site(script, each(name_target)) as site:
        assert site.pool.get(site.url("/1")).body == b"/1"
        with pytest.raises(TypeError, match="the body gave str"):
            site.pool.put(site.url("/2"), body=bad)
        assert site.goes_on()


# --- what has been answered, or will be -----------------------------------------------------------

HOUR = 3600.0  # seconds

BAD_PATIENCE = [
    *several("timeout", TypeError, "timeout must be a number of seconds", "1", True, [], 1j),
    *several("timeout", ValueError, "timeout must be finite", math.nan, math.inf, 10**400),
]


@pytest.mark.parametrize("method", ["result", "exception"])
def test_a_future_cannot_be_waited_for_as_long_as_makes_no_sense(method: str) -> None:
    held = Held()
    with open_site(held) as site:
        future = site.pool.submit("GET", site.url("/1"))
        wait = getattr(future, method)
        for bad in BAD_PATIENCE:
            refused(bad, lambda bad=bad: wait(bad.value))  # type: ignore[misc]
        held.release()
        assert future.result().body == b"/1"
        for bad in BAD_PATIENCE:  # though there is nothing to wait for any more
            refused(bad, lambda bad=bad: wait(bad.value))  # type: ignore[misc]


@pytest.mark.parametrize("timeout", [0, -1, -math.inf])
def test_time_that_has_run_out_is_a_time_out_as_of_any_future(timeout: float) -> None:
    held = Held()
    with open_site(held) as site:
        future = site.pool.submit("GET", site.url("/1"))
        with pytest.raises(TimeoutError):
            future.result(timeout)
        held.release()
        assert future.result(HOUR).body == b"/1"
        assert future.result(timeout).body == b"/1"


def test_a_callback_that_cannot_be_called_is_refused() -> None:
    held = Held()
    nothing: Any = None
    with open_site(held) as site:
        future = site.pool.submit("GET", site.url("/1"))
        with pytest.raises(TypeError, match="fn must be callable"):
            future.add_done_callback(nothing)
        held.release()
        assert future.result().body == b"/1"


BAD_SIZES: list[Any] = ["1", 1.5, math.nan, b"1", []]
BAD_BUFFERS: list[Any] = [None, 5, "text", b"text", []]
BAD_READS: list[tuple[str, Any, str]] = [
    *(("read", value, "n must be an int or None") for value in BAD_SIZES),
    *(("readinto", value, "buf must be") for value in BAD_BUFFERS),
    ("readinto", memoryview(bytearray(4))[::2], "buf must be"),
]


@pytest.mark.parametrize("body", [b"short", LONG], ids=["short", "long"])
@pytest.mark.parametrize(("method", "value", "message"), BAD_READS, ids=str)
def test_a_stream_that_was_read_wrongly_can_still_be_read(
    method: str, value: Any, message: str, body: bytes
) -> None:
    def respond(peer: Peer, request: ReceivedRequest) -> None:
        peer.respond(body)

    with open_site(each(respond)) as site, site.pool.stream("GET", site.url()) as streamed:
        with pytest.raises(TypeError, match=message):
            getattr(streamed, method)(value)
        assert streamed.read() == body


def test_a_body_that_is_no_json_is_a_value_error() -> None:
    with open_site(each(name_target)) as site:
        response = site.pool.get(site.url())
        with pytest.raises(ValueError, match="Expecting value"):
            response.json()
        with pytest.raises(TypeError, match="nonsense"):
            response.json(nonsense=True)
        assert response.body == b"/"


# --- retries --------------------------------------------------------------------------------------


def bad_amounts(name: str) -> list[Bad]:
    """Return what is no length of a wait, which may also be none, nor a share."""
    never = (-1, math.nan, math.inf, -math.inf, 10**400)
    return [
        *several(name, TypeError, f"{name} must be a number", "1", True),
        *several(name, ValueError, f"{name} must be finite and not negative", *never),
    ]


BAD_RULES = [
    *several("attempts", TypeError, "attempts must be an int", None, 1.0, "3", True),
    *several("attempts", ValueError, "attempts must be at least 1", 0, -1),
    *bad_amounts("backoff"),
    *bad_amounts("max_backoff"),
    *bad_amounts("max_retry_after"),
    *bad_amounts("budget"),
    *several("statuses", TypeError, "statuses must be a collection", None, 503, "503"),
    *several("statuses", TypeError, "statuses must consist of ints", ["503"], [True], [[]]),
    *several("statuses", ValueError, "statuses must be between", {100}, {200}, {503, 600}),
    *several("methods", TypeError, "methods must be a collection", None, 5, "GET"),
    *several("methods", TypeError, "methods must consist of strs", [b"GET"], [5], [[]]),
    *several("methods", ValueError, "invalid method", {""}, {"G ET"}, {"GET", "PUT\r\n"}),
    *several("retry_after", TypeError, "retry_after must be a bool", 1, None, "yes"),
    *several("should_retry", TypeError, "should_retry must be callable", True, "no"),
    *several("should_retry", TypeError, "should_retry must not be a coroutine", coroutine),
]


@each_of(BAD_RULES)
def test_a_policy_is_not_made_of_what_makes_no_sense(bad: Bad) -> None:
    arguments = {bad.name: bad.value}
    refused(bad, lambda: RetryPolicy(**arguments))


@pytest.mark.parametrize("value", [None, 3, RetryPolicy, print])
def test_only_a_policy_says_how_to_retry(value: Any) -> None:
    with pytest.raises(TypeError, match="retrying takes a RetryPolicy"):
        retrying(value)


@pytest.mark.parametrize("value", [None, 3, "function"])
def test_what_cannot_be_called_cannot_be_called_again(value: Any) -> None:
    with pytest.raises(TypeError, match="fn must be callable"):
        retrying(RetryPolicy())(value)
    with pytest.raises(TypeError, match="fn must be callable"):
        RetryPolicy().call(value)


# --- a connection ---------------------------------------------------------------------------------

_bad_names = ("", "a b", "h\r\n", "\0", "http://h/", "h/path", "user@h", "h:80", "[::1]")
_no_pieces: Any = ("text", 5, [b"x"], {}, io.BytesIO(), BodyFollowing, memoryview(b"abcd")[::2])
_bad_paths = ("", "path", "/a b", "/\r\n", "/\0", "/\N{EURO SIGN}")

BAD_CONNECTIONS = [
    *several("hostname", TypeError, "host name must be a str", None, b"h", 5),
    *several("hostname", ValueError, "invalid host name", *_bad_names),
    *several("port", TypeError, "port must be an int", "80", 80.0, True),
    *several("port", ValueError, "port must be between 1 and 65535", 0, -1, 99999),
    *BAD_CONTEXTS,
    *BAD_PROXIES,
]

BAD_SENDINGS = [
    *several("method", TypeError, "method and path must be str", None, b"GET"),
    *several("method", ValueError, "invalid method", "", "G ET", "GET\r\n"),
    *several("path", TypeError, "method and path must be str", None, b"/", 5),
    *several("path", ValueError, "invalid request target", *_bad_paths),
    *(bad for bad in bad_headers(default=False) if "Upgrade" not in str(bad)),
    *several("body", TypeError, "body must be None, a BodyFollowing or a contiguous", *_no_pieces),
    *several("expect100", ValueError, "expect100 is only allowed with a body", True),
]


@each_of(BAD_CONNECTIONS)
def test_a_connection_is_not_made_of_what_makes_no_sense(bad: Bad) -> None:
    arguments = {"hostname": "h", bad.name: bad.value}
    refused(bad, lambda: HTTPConnection(**arguments))


@each_of(bad_seconds("timeout"))
def test_a_connection_keeps_its_timeout_if_another_makes_no_sense(bad: Bad) -> None:
    connection = HTTPConnection("127.0.0.1", 9)
    connection.timeout = 1.5
    refused(bad, lambda: setattr(connection, bad.name, bad.value))
    assert connection.timeout == 1.5


@pytest.mark.parametrize("method", ["send_request", "co_send_request"])
@each_of(BAD_SENDINGS)
def test_what_a_connection_cannot_send_is_refused_at_the_call(bad: Bad, method: str) -> None:
    connection = HTTPConnection("127.0.0.1", 9)
    arguments = {"method": "PUT", "path": "/", bad.name: bad.value}
    refused(bad, lambda: getattr(connection, method)(**arguments))
    assert not connection.response_pending()


def test_what_a_connection_refuses_is_not_sent_and_leaves_it_as_it_was() -> None:
    with (
        ScriptedServer(each(name_target)) as server,
        HTTPConnection(*server.address) as connection,
    ):
        for bad in BAD_SENDINGS:
            arguments = {"method": "PUT", "path": "/", bad.name: bad.value}
            with pytest.raises((TypeError, ValueError)):
                connection.send_request(**arguments)
        assert server.connections == 0
        connection.send_request("GET", "/good")
        assert connection.read_response().status == 200
        assert connection.readall() == b"/good"


@pytest.mark.parametrize("method", ["write", "co_write"])
@pytest.mark.parametrize("value", [None, 5, "text", [], memoryview(b"abcd")[::2]])
def test_a_body_that_was_written_wrongly_can_still_be_written(method: str, value: Any) -> None:
    def script(peer: Peer) -> None:
        peer.respond(peer.request().body)

    with ScriptedServer(script) as server, HTTPConnection(*server.address) as connection:
        connection.send_request("PUT", "/", body=BodyFollowing(4))
        with pytest.raises(TypeError, match="buf must be a contiguous bytes-like object"):
            getattr(connection, method)(value)
        connection.write(b"good")
        connection.read_response()
        assert connection.readall() == b"good"


@pytest.mark.parametrize("prefix", ["", "co_"])
@pytest.mark.parametrize(("method", "value", "message"), BAD_READS, ids=str)
def test_a_body_that_was_read_wrongly_can_still_be_read(
    prefix: str, method: str, value: Any, message: str
) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.respond(LONG)

    with ScriptedServer(script) as server, HTTPConnection(*server.address) as connection:
        connection.send_request("GET", "/")
        connection.read_response()
        with pytest.raises(TypeError, match=message.replace("n must", "len_ must")):
            getattr(connection, prefix + method)(value)
        assert connection.readall() == LONG


@each_of(
    [
        *several("length", TypeError, "length must be an int or None", "3", 3.0, True, b"abc"),
        *several("length", ValueError, "length must not be negative", -1),
    ]
)
def test_a_body_does_not_follow_with_a_length_that_makes_no_sense(bad: Bad) -> None:
    refused(bad, lambda: BodyFollowing(bad.value))


# --- coroutines and headers -----------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 5, print, [1]])
def test_what_is_no_coroutine_is_not_run(value: Any) -> None:
    with pytest.raises(TypeError):
        eval_coroutine(value)
    with pytest.raises(TypeError, match="crt must be a coroutine of dugong"):
        AioFuture(value)


@pytest.mark.parametrize("timeout", [-1, math.nan, -math.inf])
def test_a_coroutine_is_not_begun_with_a_timeout_that_makes_no_sense(timeout: float) -> None:
    coroutine: Any = (pytest.fail("it has begun") for _ in [None])
    with pytest.raises(ValueError, match="timeout must be"):
        eval_coroutine(coroutine, timeout)


@pytest.mark.parametrize("fields", [None, 5, "A: b", [5], [("A",)], [("A", "b", "c")], {5: "b"}])
def test_headers_are_made_of_pairs(fields: Any) -> None:
    with pytest.raises(TypeError, match=r"fields must be a mapping or \(name, value\) pairs"):
        Headers(fields)
