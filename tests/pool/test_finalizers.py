"""What the garbage collector finalizes may use a pool, wherever the collector runs.

That is wherever memory is allocated: in the midst of any call of the pool, also of one that has its
lock, and in the pool's own threads. `submit`, `cancel` and `statistics` do what they always do, at
once or a little later; what would wait raises `StateError` where it would wait for itself.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from dugong import ConnectionPool, ResponseFuture, StateError
from tests.support.pool import OpenSite, each, name_target, open_site
from tests.support.pool_interrupts import REENTRIES
from tests.support.server import TIMEOUT

ALL = os.environ.get("DUGONG_ALL_POINTS") == "1"

OPERATIONS = [
    "first",
    "warm",
    "submit-warm",
    "map",
    "stream-left",
    "cancel-in-flight",
    "close-idle",
]


@pytest.mark.timeout(1900 if ALL else 60)
@pytest.mark.parametrize("call", REENTRIES)
def test_a_finalizer_may_call_a_pool_at_any_point_of_any_call(call: str) -> None:
    """The call is made at points of those calls, as if the collector ran there."""
    amount = [] if ALL else ["--samples=5", "--seconds=30", "--broken=3", "--patience=2"]
    command = [sys.executable, "-m", "tests.support.pool_interrupts", *amount]
    done = subprocess.run(
        [*command, "--reenter", call, *OPERATIONS],
        capture_output=True,
        text=True,
        timeout=1800 if ALL else 55,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Garbage:
    """Does *what* when the collector finds it, for it is in a cycle; notes what that gives."""

    def __init__(self, what: Callable[[], object], outcomes: list[object]) -> None:
        self._what = what
        self._outcomes = outcomes
        self._itself = self

    def __del__(self) -> None:
        try:
            self._outcomes.append(self._what())
        except Exception as exc:
            self._outcomes.append(exc)


def litter(call: str, threads: int) -> str:
    """Have *threads* make requests, and leave garbage that does *call*; return what is wrong."""
    outcomes: list[object] = []
    wrong: list[object] = []

    def stream() -> object:
        with here.pool.stream("GET", here.url("/garbage"), deadline=5) as response:
            return response.read()

    calls: dict[str, Callable[[], object]] = {
        "get": lambda: here.pool.get(here.url("/garbage"), deadline=5).body,
        "submit": lambda: here.pool.submit("GET", here.url("/garbage")),
        "cancel": lambda: here.pool.submit("GET", here.url("/garbage")).cancel(),
        "stream": stream,
    }

    def use(name: str) -> None:
        try:
            for number in range(15):
                for _ in range(2):
                    Garbage(calls[call], outcomes)
                target = f"/{name}/{number}"
                bodies = [
                    here.pool.get(here.url(target), deadline=8).body,
                    here.pool.submit("GET", here.url(target), deadline=8).result(9).body,
                    *(response.body for response in here.pool.map([here.url(target)] * 2)),
                ]
                if set(bodies) != {target.encode()}:
                    wrong.append(bodies)
        except BaseException as exc:
            wrong.append(repr(exc))

    gc.set_threshold(5, 2, 2)  # so that the collector runs nearly wherever it may
    with open_site(each(name_target), repeat=True, max_connections_per_host=2) as here:
        users = [threading.Thread(target=use, args=(str(i),), daemon=True) for i in range(threads)]
        for user in users:
            user.start()
        for user in users:
            user.join(15)
            if user.is_alive():
                return "a request is never done"
        gc.collect()
        for outcome in outcomes:
            result = outcome
            if isinstance(outcome, ResponseFuture):
                result = outcome.result(TIMEOUT).body
            if result not in (b"/garbage", True) and not isinstance(result, StateError):
                wrong.append(result)
        rest = here.pool.statistics()
        if rest.queued or rest.connections > 2 or not here.goes_on():
            wrong.append(rest)
    return repr(wrong) if wrong else ""


@pytest.mark.parametrize("call", ["get", "submit", "cancel", "stream"])
@pytest.mark.parametrize("threads", [1, 3])
def test_garbage_may_call_the_pool_that_is_being_used(call: str, threads: int) -> None:
    """Each thread makes requests, and litters; everybody gets his own response."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, call, str(threads)],
            capture_output=True,
            text=True,
            timeout=25,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.fail("it hangs")
    assert done.stdout + done.stderr == ""


def test_a_pool_that_is_garbage_may_be_closed_by_a_finalizer_in_the_midst_of_another(
    site: OpenSite,
) -> None:
    outcomes: list[object] = []
    with site(each(name_target), repeat=True) as here:
        for _ in range(5):
            pool = ConnectionPool(ssl_context=None)
            garbage = Garbage(pool.close, outcomes)
            del garbage, pool
            gc.collect()
            assert here.goes_on()
    assert outcomes == [None] * 5


if __name__ == "__main__":
    sys.stdout.write(litter(sys.argv[1], int(sys.argv[2])))
    sys.stdout.flush()
    os._exit(0)  # whatever hangs
