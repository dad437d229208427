"""The pools of an adapter: one for each combination of certificates and proxy, and not too many."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from dugong import ConnectError, ConnectionPool, PoolClosed, Request
from dugong.adapters import pools as module
from dugong.adapters.pools import MAX_POOLS, OwnPools, PoolKey, Trust, Use, trust_of
from tests.support.fork import holds_in_child
from tests.support.server import Peer, ScriptedServer

PLAIN = PoolKey(None, None)


@pytest.fixture
def pools() -> Iterator[OwnPools]:
    """Pools that are closed at the end."""
    own = OwnPools({}, "/missing")
    yield own
    own.close()


def proxied(number: int) -> PoolKey:
    return PoolKey(None, f"http://127.0.0.1:{number + 1}")


def is_closed(pool: ConnectionPool) -> bool:
    """Return True if *pool* takes no requests."""
    try:
        pool.submit("GET", "http://127.0.0.1:1/").cancel()
    except PoolClosed:
        return True
    return False


def respond(peer: Peer) -> None:
    for _ in peer.requests():
        peer.respond(b"body")


def test_each_combination_has_a_pool(pools: OwnPools) -> None:
    with ScriptedServer(respond, repeat=True) as server:
        first = pools.use(PLAIN)
        again = pools.use(PLAIN)
        other = pools.use(proxied(0))
        assert first.pool is again.pool
        assert first.pool is not other.pool
        assert first.pool.get(server.url()).body == b"body"
        for use in (first, again, other):
            use.end()
            use.end()
        pools.close()


def test_a_pool_that_is_closed_while_its_use_begins_is_not_used(
    pools: OwnPools, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def begin(pool: ConnectionPool, own: Any) -> Use:
        begun.append(pool)
        if len(begun) == 1:
            pools.close()
        return Use(pool, own)

    monkeypatch.setattr(module, "Use", begin)
    use = pools.use(PLAIN)
    assert not is_closed(use.pool)
    assert is_closed(begun[0])
    assert len(begun) == 2
    use.end()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_goes_on_whatever_other_threads_were_doing(pools: OwnPools) -> None:
    def goes_on() -> bool:
        pools.use(proxied(0)).end()
        pools.close()
        return is_closed(use.pool)

    use = pools.use(PLAIN)
    with pools._lock:
        assert holds_in_child(goes_on)
    assert not is_closed(use.pool)
    use.end()


def test_options_of_a_key_are_those_of_its_pool() -> None:
    own = OwnPools({"headers": {"X-A": "all"}, "max_connections": 1})
    seen: list[str] = []

    def note(peer: Peer) -> None:
        for request in peer.requests():
            seen.append(request.headers["x-a"])
            peer.respond()

    with ScriptedServer(note, repeat=True) as server:
        for key in (PLAIN, PoolKey(None, None, (("headers", (("X-A", "one"),)),))):
            use = own.use(key)
            use.pool.get(server.url())
            use.end()
        own.close()
    assert seen == ["all", "one"]


def test_the_oldest_pool_is_closed_when_there_are_too_many(pools: OwnPools) -> None:
    first = pools.use(proxied(0))
    second = pools.use(proxied(1))
    oldest, next_to_it = first.pool, second.pool
    first.end()
    for number in range(2, MAX_POOLS + 2):
        pools.use(proxied(number)).end()
    assert is_closed(oldest)
    assert not is_closed(next_to_it)  # for it is in use
    second.end()
    assert is_closed(next_to_it)
    next_to_it.close()


def test_a_pool_in_use_is_closed_when_it_is_not_any_more(pools: OwnPools) -> None:
    one, two = pools.use(PLAIN), pools.use(PLAIN)
    pool = one.pool
    pools.close()
    assert not is_closed(pool)
    one.end()
    assert not is_closed(pool)
    two.end()
    assert is_closed(pool)
    pool.close()


def test_closed_pools_are_replaced(pools: OwnPools) -> None:
    use = pools.use(PLAIN)
    first = use.pool
    use.end()
    pools.close()
    assert is_closed(first)
    use = pools.use(PLAIN)
    assert not is_closed(use.pool)
    use.end()


def test_a_stream_is_a_use(pools: OwnPools) -> None:
    with ScriptedServer(respond) as server:
        use = pools.use(PLAIN)
        pool = use.pool
        use.stream = pool._stream(Request("GET", server.url()))
        with use as response:
            pools.close()
            assert response.read() == b"body"
        assert is_closed(pool)
        pool.close()


def test_a_stream_that_cannot_be_entered_is_no_use_any_more(pools: OwnPools) -> None:
    with ScriptedServer() as server:
        url = server.url()
    use = pools.use(PLAIN)
    pool = use.pool
    use.stream = pool._stream(Request("GET", url, retry=None))
    with pytest.raises(ConnectError), use:
        pass
    pools.close()
    assert is_closed(pool)


def test_a_context_of_the_options_is_for_what_is_trusted_by_default(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    pools = OwnPools({"ssl_context": client_context}, "/missing")
    with ScriptedServer(respond, repeat=True, context=server_context) as server:
        use = pools.use(PoolKey(trust_of(True, None), None))
        assert use.pool.get(server.url()).body == b"body"
        use.end()
        pools.close()


def test_files_are_told_from_those_that_replace_them(authority: trustme.CA, tmp_path: Path) -> None:
    path, other = tmp_path / "ca.pem", tmp_path / "other"
    authority.cert_pem.write_to_path(path)
    before = trust_of(path, None)
    assert before == trust_of(str(path), ())
    authority.cert_pem.write_to_path(other)
    os.replace(other, path)
    assert trust_of(path, None) != before


@pytest.mark.parametrize("cert", [None, (), ""])
def test_nothing_is_trusted_by_a_false_value(cert: object) -> None:
    assert trust_of(False, cert) == trust_of(None, cert) == trust_of("", cert) == Trust(False, ())
    assert trust_of(True, cert) == Trust(True, ())


def test_a_certificate_may_have_its_key_in_a_file_of_its_own() -> None:
    [both] = trust_of(True, __file__).cert
    assert trust_of(True, (__file__, None)).cert == (both,)
    assert trust_of(True, (__file__, __file__)).cert == (both, both)


@pytest.mark.parametrize(
    ("verify", "cert"), [("/missing", None), (True, "/missing"), (True, (__file__, "/missing"))]
)
def test_a_missing_file_is_an_error_at_once(verify: object, cert: object) -> None:
    with pytest.raises(OSError, match="invalid path: /missing"):
        trust_of(verify, cert)


def test_files_that_cannot_be_used_are_an_error_of_the_use(pools: OwnPools) -> None:
    with pytest.raises(ssl.SSLError):
        pools.use(PoolKey(trust_of(__file__, None), None))
