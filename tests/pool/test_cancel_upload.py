"""`cancel` of an upload does not wait for what the caller has given, and lets go of it later."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import io
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from dugong import ResponseFuture
from dugong.pool.body import BodyLike
from dugong.pool.core import shutdown
from tests.support.pool import OpenSite, Site, discard_rest, each, name_target, open_site, wait_for
from tests.support.server import TIMEOUT, Peer

AT_ONCE = 1.0  # seconds; much more than anything takes that waits for nothing


class Waiting:
    """A body that says that it is `stuck`, and waits until it may `go_on`; `ended` after that."""

    def __init__(self) -> None:
        self.stuck, self.go_on, self.ended = (threading.Event() for _ in range(3))

    def wait(self) -> None:
        self.stuck.set()
        wait_for(self.go_on)
        self.ended.set()

    def iterator(self) -> Iterator[bytes]:
        """Give a piece, and wait before the next."""
        yield b"first"
        self.wait()
        yield b"second"

    def late_iterator(self) -> Iterator[bytes]:
        """Wait before the first piece."""
        self.wait()
        yield b"first"

    def callable(self) -> bytes:
        """Wait before there is a body at all."""
        self.wait()
        return bytes(100_000)

    def file(self) -> io.RawIOBase:
        """Return a file that waits when it is read."""
        waiting = self

        class File(io.RawIOBase):
            def readable(self) -> bool:
                return True

            def readinto(self, buffer: object) -> int:
                if not waiting.ended.is_set():
                    waiting.wait()
                return 0

        return File()


#: Bodies that wait.
BODIES: dict[str, Callable[[Waiting], BodyLike]] = {
    "iterator": Waiting.iterator,
    "iterator that has given nothing": Waiting.late_iterator,
    "callable": lambda waiting: waiting.callable,
    "file": Waiting.file,
}


@contextlib.contextmanager
def uploading(site: OpenSite, kind: str) -> Iterator[tuple[Site, ResponseFuture, Waiting]]:
    """Yield an upload whose body waits; it goes on in the end, whatever happens."""
    waiting = Waiting()
    with site(discard_rest, each(name_target), repeat=True) as here:
        future = here.pool.submit("PUT", here.url("/put"), body=BODIES[kind](waiting))
        wait_for(waiting.stuck)
        try:
            yield here, future, waiting
        finally:
            waiting.go_on.set()


def in_time(function: Callable[[], object]) -> bool:
    """Call *function* in a thread; return whether it is back at once."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(AT_ONCE)
    return not thread.is_alive()


@pytest.mark.parametrize("kind", BODIES)
def test_cancel_does_not_wait_for_the_body(site: OpenSite, kind: str) -> None:
    with uploading(site, kind) as (here, future, waiting):
        assert in_time(future.cancel)
        assert not waiting.ended.is_set()
        assert in_time(here.pool.statistics)
        assert here.pool.get(here.url("/next"), deadline=5).body == b"/next"
        waiting.go_on.set()
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(TIMEOUT)
        assert future.cancelled()


@pytest.mark.parametrize("kind", BODIES)
def test_it_is_cancelled_when_the_body_is_let_go_of(site: OpenSite, kind: str) -> None:
    seen: list[bool] = []
    called = threading.Event()
    with uploading(site, kind) as (_, future, waiting):

        def look(future: object) -> None:
            seen.append(waiting.ended.is_set())
            called.set()

        future.add_done_callback(look)
        assert in_time(future.cancel)
        assert not future.done()
        waiting.go_on.set()
        wait_for(called)
        assert seen == [True]


def test_cancel_says_what_it_says_of_any_other(site: OpenSite) -> None:
    with uploading(site, "iterator") as (_, future, waiting):
        said: list[bool] = []
        for _ in range(2):
            assert in_time(lambda: said.append(future.cancel()))
        assert said == [True, True]
        waiting.go_on.set()
        with contextlib.suppress(concurrent.futures.CancelledError):
            future.result(TIMEOUT)
        assert future.cancel()


def test_a_bytearray_is_the_callers_again_when_the_future_is_cancelled(site: OpenSite) -> None:
    """The server does not read it, and what it does not take is not waited for."""
    body = bytearray(50_000_000)
    taken = threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        taken.set()
        discard_rest(peer)

    with site(script) as here:
        future = here.pool.submit("PUT", here.url(), body=body)
        wait_for(taken)
        assert in_time(future.cancel)
        with contextlib.suppress(concurrent.futures.CancelledError):
            future.result(TIMEOUT)
        body += b"x"  # a BufferError, if there were still a view of it


@pytest.mark.parametrize("how", ["future", "task", "time-out"])
@pytest.mark.parametrize("kind", BODIES)
def test_a_loop_goes_on_when_an_upload_is_cancelled(site: OpenSite, kind: str, how: str) -> None:
    async def cancel(future: ResponseFuture) -> tuple[float, bool]:
        wrapped = asyncio.wrap_future(future)
        began = time.monotonic()
        if how == "future":
            future.cancel()
        elif how == "task":
            wrapped.cancel()
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wrapped, 0.05)
        await asyncio.sleep(0)
        took = time.monotonic() - began
        waited = waiting.ended.is_set()
        waiting.go_on.set()
        with contextlib.suppress(asyncio.CancelledError):
            await wrapped
        return took, waited

    with uploading(site, kind) as (_, future, waiting):
        late = threading.Timer(2 * AT_ONCE, waiting.go_on.set)  # for a loop that does wait
        late.start()
        took, waited = asyncio.run(cancel(future))
        late.cancel()
        late.join()
        assert took < AT_ONCE
        assert not waited
        with contextlib.suppress(concurrent.futures.CancelledError):
            future.result(TIMEOUT)
        assert future.cancelled()


def test_close_waits_for_such_a_body_no_longer_than_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutdown, "CLOSE_TIME", 0.5)
    with uploading(open_site, "iterator") as (here, future, _):
        assert in_time(future.cancel)
        began = time.monotonic()
        here.pool.close()
        assert time.monotonic() - began < TIMEOUT
