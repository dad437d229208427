"""AioFuture: dugong's coroutines on an asyncio event loop."""

from __future__ import annotations

import asyncio
import gc
import select
import socket
import subprocess
import sys
import weakref
from collections.abc import Coroutine as Awaitable_
from collections.abc import Iterator
from typing import Any

import pytest

from dugong import AioFuture, BodyFollowing, ConnectionClosed, HTTPConnection, PollNeeded
from dugong.connection import aio, dial
from dugong.connection.polling import Coroutine, co_sleep
from tests.support.server import Peer, ScriptedServer

IN, OUT = select.POLLIN, select.POLLOUT


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def run(main: Awaitable_[Any, Any, Any]) -> None:
    """Run *main* in debug mode; no error may go to the loop's exception handler."""
    errors: list[dict[str, Any]] = []

    async def watched() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: errors.append(context))
        await main

    asyncio.run(watched(), debug=True)
    gc.collect()
    assert not errors


async def a_turn() -> None:
    """Let the loop run everything that is ready."""
    for _ in range(3):
        await asyncio.sleep(0)


def waiting(
    sock: socket.socket, mask: int = IN, log: list[str] | None = None, name: str = "it"
) -> Coroutine[str]:
    """A coroutine that waits once."""
    log = [] if log is None else log
    try:
        yield PollNeeded(sock.fileno(), mask)
        log.append(f"{name} resumed")
        return f"{name} done"
    finally:
        log.append(f"{name} closed")


def is_watched(fd: int) -> bool:
    """Whether the loop watches *fd*, of which nothing is left afterwards."""
    loop = asyncio.get_running_loop()
    return bool(loop.remove_reader(fd)) | bool(loop.remove_writer(fd))


def failing(error: BaseException) -> Coroutine[None]:
    raise error
    yield


# --- results --------------------------------------------------------------------------------------


def test_the_result_of_the_coroutine_is_that_of_the_future(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    async def main() -> None:
        future = AioFuture(waiting(pair[0]))
        await a_turn()
        assert not future.done()
        pair[1].send(b"x")
        assert await future == "it done"
        assert future.result() == "it done"
        assert not is_watched(pair[0].fileno())

    run(main())


def test_nothing_runs_before_the_loop_does() -> None:
    async def main() -> None:
        log: list[str] = []

        def crt() -> Coroutine[None]:
            log.append("begun")
            return
            yield

        future = AioFuture(crt())
        assert log == []
        await future
        assert log == ["begun"]

    run(main())


def test_the_exception_of_the_coroutine_is_that_of_the_future() -> None:
    async def main() -> None:
        with pytest.raises(LookupError, match="within"):
            await AioFuture(failing(LookupError("within")))

    run(main())


def test_an_exception_that_is_not_looked_at_is_reported_by_the_loop() -> None:
    async def main() -> None:
        reported: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: reported.append(str(context["exception"])))
        future: AioFuture[None] | None = AioFuture(failing(LookupError("within")))
        await a_turn()
        future = None  # noqa: F841
        gc.collect()
        assert reported == ["within"]

    run(main())


def test_either_of_two_events_resumes(pair: tuple[socket.socket, socket.socket]) -> None:
    async def main() -> None:
        assert await AioFuture(waiting(pair[0], IN | OUT)) == "it done"
        assert not is_watched(pair[0].fileno())

    run(main())


def test_a_coroutine_is_resumed_when_it_asked_to_be_though_nothing_happens(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    def crt() -> Coroutine[str]:
        yield PollNeeded(pair[0].fileno(), IN, 0.01)
        return "resumed"

    async def main() -> None:
        assert await AioFuture(crt()) == "resumed"
        assert not is_watched(pair[0].fileno())

    run(main())


@pytest.mark.parametrize("which", [0, 1])
def test_any_of_several_descriptors_resumes_and_none_stays_watched(
    pair: tuple[socket.socket, socket.socket], which: int
) -> None:
    async def main() -> None:
        second, second_peer = socket.socketpair()
        with second, second_peer:
            fds = pair[0].fileno(), second.fileno()

            def either() -> Coroutine[None]:
                yield PollNeeded(fds[0], IN, None, ((fds[1], IN),))

            future = AioFuture(either())
            await a_turn()
            assert not future.done()
            (pair[1], second_peer)[which].send(b"x")
            await asyncio.wait_for(future, 10)
            assert not any(is_watched(fd) for fd in fds)

    run(main())


def test_a_race_of_addresses_is_run_on_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        ScriptedServer(lambda peer: peer.until_eof()) as server,
        socket.socket() as deaf,
        socket.socket() as first,
        socket.socket() as second,
    ):
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for filler in (first, second):  # now the backlog is full, and nothing is answered any more
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        kind = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
        found = [(*kind, deaf.getsockname()), (*kind, deaf.getsockname()), (*kind, server.address)]
        monkeypatch.setattr(dial, "resolve", lambda *args, **kwargs: found)
        monkeypatch.setattr(dial, "CONNECTION_ATTEMPT_DELAY", 0.01)

        async def main() -> None:
            with HTTPConnection("server.test") as conn:
                await asyncio.wait_for(AioFuture(conn.co_connect()), 10)

        run(main())


def test_a_descriptor_that_cannot_be_watched_is_an_exception_not_a_hang() -> None:
    async def main() -> None:
        with socket.socket() as sock:
            fd = sock.fileno()
        closed = False

        def crt() -> Coroutine[None]:
            nonlocal closed
            try:
                yield PollNeeded(fd, IN)
            finally:
                closed = True

        with pytest.raises(OSError, match="Bad file descriptor"):
            await AioFuture(crt())
        assert closed

    run(main())


# --- loops ----------------------------------------------------------------------------------------


def test_without_a_running_loop_one_must_be_given() -> None:
    crt = failing(LookupError())
    with pytest.raises(RuntimeError, match="no running event loop"):
        AioFuture(crt)
    crt.close()


def test_a_loop_may_be_given(pair: tuple[socket.socket, socket.socket]) -> None:
    loop = asyncio.new_event_loop()
    try:
        future = AioFuture(waiting(pair[0], OUT), loop=loop)
        assert future.get_loop() is loop
        assert loop.run_until_complete(future) == "it done"
    finally:
        loop.close()


def test_a_closed_loop_keeps_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    log: list[str] = []
    loop = asyncio.new_event_loop()
    future: AioFuture[str] | None = AioFuture(waiting(pair[0], log=log), loop=loop)
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()
    assert not log
    loop.close()
    gone = weakref.ref(loop)
    del loop
    future = None  # noqa: F841
    gc.collect()
    assert gone() is None
    assert log == ["it closed"]
    assert len(aio._watched_by_loop) == 0


def test_a_future_may_be_cancelled_after_its_loop_was_closed(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    log: list[str] = []
    loop = asyncio.new_event_loop()
    future = AioFuture(waiting(pair[0], log=log), loop=loop)
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()
    loop.close()
    assert future.cancel()
    assert log == ["it closed"]


def test_a_descriptor_can_be_watched_again_on_another_loop(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    for _ in range(2):
        loop = asyncio.new_event_loop()
        forgotten = AioFuture(waiting(pair[0]), loop=loop)
        loop.call_soon(loop.call_soon, loop.stop)
        loop.run_forever()
        assert not forgotten.done()
        loop.close()

    async def main() -> None:
        pair[1].send(b"x")
        assert await AioFuture(waiting(pair[0])) == "it done"

    run(main())


# --- cancelling -----------------------------------------------------------------------------------


def test_cancelling_closes_the_coroutine_and_leaves_nothing_watched(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    async def main() -> None:
        for mask in (IN, IN | OUT):
            log: list[str] = []
            fill(pair[0])
            future = AioFuture(waiting(pair[0], mask, log))
            await a_turn()
            assert future.cancel()
            assert log == ["it closed"]
            assert not is_watched(pair[0].fileno())
            assert not future.cancel()
            with pytest.raises(asyncio.CancelledError):
                await future

    run(main())


def fill(sock: socket.socket) -> None:
    sock.setblocking(False)
    try:
        while True:
            sock.send(bytes(65536))
    except BlockingIOError:
        pass


def test_a_future_that_is_cancelled_at_once_never_begins() -> None:
    async def main() -> None:
        future = AioFuture(failing(LookupError()))
        future.cancel("enough")
        await a_turn()
        assert future.cancelled()

    run(main())


def test_a_time_limit_of_asyncio_cancels(pair: tuple[socket.socket, socket.socket]) -> None:
    async def main() -> None:
        log: list[str] = []
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(AioFuture(waiting(pair[0], log=log)), 0.01)
        assert log == ["it closed"]
        assert not is_watched(pair[0].fileno())

    run(main())


def test_a_cancelled_task_cancels_what_it_awaits(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    async def main() -> None:
        log: list[str] = []

        async def wait() -> None:
            await AioFuture(waiting(pair[0], log=log))

        task = asyncio.ensure_future(wait())
        await a_turn()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == ["it closed"]
        assert not is_watched(pair[0].fileno())

    run(main())


def test_a_future_that_is_resumed_and_cancelled_in_one_turn_is_cancelled(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    async def main() -> None:
        log: list[str] = []

        def canceller() -> Coroutine[None]:
            yield PollNeeded(pair[0].fileno(), IN)
            other.cancel()

        first = AioFuture(canceller())
        await a_turn()
        other = AioFuture(waiting(pair[0], IN, log))
        await a_turn()
        pair[1].send(b"x")  # resumes both, the canceller first
        await first
        await a_turn()
        assert other.cancelled()
        assert log == ["it closed"]
        assert not is_watched(pair[0].fileno())

    run(main())


def test_a_cancelled_connect_leaves_no_descriptor() -> None:
    # A TLS server that never responds; what is left open is found by the fixture for leaks.
    import ssl

    async def main() -> None:
        with ScriptedServer(lambda peer: peer.until_eof()) as server:
            conn = HTTPConnection(*server.address, ssl_context=ssl.create_default_context())
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(AioFuture(conn.co_send_request("GET", "/")), 0.05)
            assert not conn.response_pending()

    run(main())


def test_the_timeout_of_the_connection_covers_connecting_in_coroutines() -> None:
    import ssl

    from dugong import ConnectionTimedOut

    async def main() -> None:
        with ScriptedServer(lambda peer: peer.until_eof()) as server:
            conn = HTTPConnection(*server.address, ssl_context=ssl.create_default_context())
            conn.timeout = 0.05
            with pytest.raises(ConnectionTimedOut):
                await AioFuture(conn.co_connect())

    run(main())


def test_disconnecting_ends_a_connect_on_the_same_loop() -> None:
    import ssl

    async def main() -> None:
        with ScriptedServer(lambda peer: peer.until_eof()) as server:
            conn = HTTPConnection(*server.address, ssl_context=ssl.create_default_context())
            future = AioFuture(conn.co_connect())
            await a_turn()
            conn.disconnect()
            with pytest.raises(ConnectionClosed):
                await future

    run(main())


# --- several futures --------------------------------------------------------------------------


def test_two_futures_may_wait_for_the_same(pair: tuple[socket.socket, socket.socket]) -> None:
    async def main() -> None:
        futures = [AioFuture(waiting(pair[0], name=str(i))) for i in range(3)]
        await a_turn()
        pair[1].send(b"x")
        assert await asyncio.gather(*futures) == ["0 done", "1 done", "2 done"]
        assert not is_watched(pair[0].fileno())

    run(main())


def test_cancelling_one_does_not_take_the_watch_from_the_other(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    async def main() -> None:
        first = AioFuture(waiting(pair[0], name="first"))
        second = AioFuture(waiting(pair[0], name="second"))
        await a_turn()
        first.cancel()
        pair[1].send(b"x")
        assert await second == "second done"

    run(main())


def test_both_directions_of_a_descriptor_are_told_apart(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    async def main() -> None:
        reader = AioFuture(waiting(pair[0], IN))
        await a_turn()
        await AioFuture(waiting(pair[0], OUT))
        assert not reader.done()
        pair[1].send(b"x")
        await reader

    run(main())


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_hundreds_of_requests_are_pipelined_by_two_coroutines(
    tls: bool, server_context: Any, client_context: Any
) -> None:
    count = 500
    body = b"x" * 3000

    def script(peer: Peer) -> None:
        for _ in range(count):
            request = peer.request()
            assert request.body == body
            peer.respond(request.target.encode() * 100)

    contexts = (server_context, client_context) if tls else (None, None)

    async def main() -> None:
        under_way = asyncio.Semaphore(0)

        async def send() -> None:
            for i in range(count):
                await AioFuture(conn.co_send_request("PUT", f"/{i}", body=BodyFollowing(3000)))
                under_way.release()
                await AioFuture(conn.co_write(body))

        async def receive() -> None:
            for i in range(count):
                await under_way.acquire()
                response = await AioFuture(conn.co_read_response())
                assert response.path == f"/{i}"
                assert await AioFuture(conn.co_readall()) == b"/%d" % i * 100

        await asyncio.gather(receive(), send())
        fd = conn._session.state.transport.sock.fileno()  # type: ignore[union-attr]
        assert not is_watched(fd)

    with (
        ScriptedServer(script, context=contexts[0]) as server,
        HTTPConnection(*server.address, ssl_context=contexts[1]) as conn,
    ):
        run(main())


# --- sleeping -------------------------------------------------------------------------------------


def watched_descriptors() -> int:
    """How many descriptors the loop watches, its own included."""
    loop: Any = asyncio.get_running_loop()
    return len(loop._selector.get_map())


def test_a_coroutine_that_sleeps_does_not_hold_the_loop_up() -> None:
    async def main() -> None:
        before = watched_descriptors()
        future = AioFuture(co_sleep(0.01))
        await a_turn()
        assert not future.done()
        await future
        assert watched_descriptors() == before

    run(main())


def test_a_sleep_that_is_cancelled_leaves_nothing_watched() -> None:
    async def main() -> None:
        before = watched_descriptors()
        future = AioFuture(co_sleep(1e6))
        await a_turn()
        assert watched_descriptors() == before + 1
        assert future.cancel()
        assert watched_descriptors() == before

    run(main())


def test_asyncio_is_imported_when_it_is_first_needed() -> None:
    program = (
        "import sys, dugong; assert 'asyncio' not in sys.modules; "
        "dugong.AioFuture; assert 'asyncio' in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
