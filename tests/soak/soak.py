"""Rounds of pools with different limits and different ends, and the checks after each round.

    python -m tests.soak [--seconds 120] [--seed N]

Prints a ledger. Returns 1 if the ledger does not balance, if a request got a wrong response, or if
a thread or a descriptor was left over.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import http.client
import json
import random
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trustme

from dugong import ConnectionPool, ResponseFuture
from dugong.pool.core import cancellation, connections, pipelining, traffic
from dugong.pool.io import receiver
from tests.soak.clients import Client, LateClient
from tests.soak.events import Listener
from tests.soak.ledger import Ledger
from tests.soak.questions import HANG, POLICIES, Place
from tests.support.leaks import no_leaks

__all__ = ["main"]

ROUND = 3.0  # seconds
CLIENTS = 8
CLOSE_TIME = 4.0  # seconds that closing a pool may take, whatever the server does


def main(arguments: list[str]) -> int:
    """Run the soak; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long (default: 120)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}, {options.seconds:g} seconds", flush=True)
    dice = random.Random(options.seed)
    ledger = Ledger()
    _watch_for_accidents(ledger)
    _hurry()
    end = time.monotonic() + options.seconds
    with _server(options.seed) as (ports, context):
        while (left := end - time.monotonic()) > 0 and not ledger.problems:
            try:
                with no_leaks():
                    _round(ledger, dice, ports, context, min(ROUND, left))
            except AssertionError as exc:
                ledger.problem(str(exc))
            seen = _ask_control(ports["control"], "/ledger")
            if seen["talking"]:
                ledger.problem(f"{seen['talking']} connections are still open")
            ledger.balance(seen["seen"], seen["taken"])
    if ledger.submitted != ledger.outcomes.total():
        ledger.problem("the ledger does not balance")
    print(ledger)
    print("FAILED" if ledger.problems else "all is well")
    return 1 if ledger.problems else 0


def _round(
    ledger: Ledger,
    dice: random.Random,
    ports: dict[str, int],
    context: ssl.SSLContext,
    seconds: float,
) -> None:
    """Let clients loose on a pool, and end it."""
    limits: dict[str, Any] = {
        "max_connections_per_host": dice.choice((1, 2, 6, 6)),
        "max_connections": dice.choice((2, 5, 256, 256)),
        "pipeline_depth": dice.choice((1, 4, 64, None)),
        "max_queued": dice.choice((3, 100, 100_000)),
        "max_body_size": dice.choice((50_000, 2**20)),
        "idle_timeout": dice.choice((0.02, 60.0)),
        "max_age": dice.choice((None, None, 0.05)),
        "max_requests": dice.choice((None, None, 1, 7)),
    }
    traffic.MANY_THREADS = dice.choice((2, 384))
    ending = dice.choice(("close", "close at work", "forget"))
    retry = dice.choice(list(POLICIES))
    policy = POLICIES[retry]
    through = dice.random() < 0.3
    if through:
        limits["proxy"] = ("127.0.0.1", ports["proxy"])
    print(f"  {ending}, {retry}: {limits}", flush=True)
    listener = Listener()
    pool: ConnectionPool | None = ConnectionPool(
        timeout=HANG / 2, ssl_context=context, retry=policy, on_event=listener, **limits
    )
    assert pool is not None
    places = [
        Place(kind, f"http{'s' if tls else ''}://127.0.0.1:{port}", through)
        for name, port in ports.items()
        for kind, _, tls in [name.partition("+")]
        # Through a proxy the second copy of a response may arrive later than the first one, when it
        # cannot be told from the response to the next request.
        if kind not in (("control", "proxy", "double", "late") if through else ("control", "proxy"))
    ]
    mixed = [place for place in places if place.kind != "late"]
    late = [place for place in places if place.kind == "late"]
    names = ("max_body_size", "pipeline_depth", "max_connections_per_host")
    rest = (ledger, listener, *(limits[name] for name in names))
    clients = [Client(pool, policy, mixed, *rest, dice.randrange(10**9)) for _ in range(CLIENTS)]
    clients += [
        LateClient(pool, policy, [place], *rest, dice.randrange(10**9), control=ports["control"])
        for place in late
    ]
    for client in clients:
        client.start()
    time.sleep(seconds)
    if ending == "close at work":
        listener.closing = True
        _close(pool, ledger)
    for client in clients:
        client.stop.set()
    hanging = [client for client in clients if not client.join()]
    if hanging:
        ledger.problem(f"a client hangs: {pool!r}\n{pool.statistics()}")
        faulthandler.dump_traceback(all_threads=True)
    statistics = pool.statistics()
    if ending == "close":
        _close(pool, ledger)
        statistics = pool.statistics()
        left = statistics.queued + statistics.waiting + statistics.in_flight
        if left or statistics.connections:
            ledger.problem(f"a closed pool is not empty: {statistics}")
    del client, hanging
    clients.clear()
    pool = None
    end = time.monotonic() + CLOSE_TIME
    for thread in threading.enumerate():
        while thread.name.startswith("dugong-") and thread.is_alive() and time.monotonic() < end:
            gc.collect()  # again and again, for threads that end may leave cycles behind
            thread.join(0.05)
    gc.collect()
    unresolved = [
        thing for thing in gc.get_objects() if type(thing) is ResponseFuture and not thing.done()
    ]
    if unresolved:
        ledger.problem(f"unresolved futures: {unresolved}")
    for complaint in listener.complaints(statistics if ending == "close" else None):
        ledger.problem(complaint)
    ledger.events += listener.counts


def _close(pool: ConnectionPool, ledger: Ledger) -> None:
    begin = time.monotonic()
    pool.close()
    took = time.monotonic() - begin
    if took > CLOSE_TIME:
        ledger.problem(f"closing took {took:.1f} s")


def _hurry() -> None:
    """Have everything that is a matter of time happen often in a few seconds."""
    traffic.CONTINUE_TIME = 0.05
    traffic.THREAD_IDLE_TIME = 0.05
    cancellation.DRAIN_TIME = 0.1
    receiver.DRAIN_TIME = 0.1
    connections.REOPEN_TIME = 0.05
    connections.RELEASE_TIME = 0.05
    pipelining.PENALTY = 0.3
    pipelining.QUOTA_TIME = 0.3


def _watch_for_accidents(ledger: Ledger) -> None:
    """Have an exception in any thread, a warning and an object that leaks be a problem."""
    warnings.simplefilter("error")

    def thread_hook(args: threading.ExceptHookArgs) -> None:
        ledger.problem(f"{args.thread} has ended with {args.exc_value!r}")
        threading.__excepthook__(args)

    def unraisable_hook(args: sys.UnraisableHookArgs) -> None:
        ledger.problem(f"unraisable: {args.exc_value!r} in {args.object!r}")
        sys.__unraisablehook__(args)

    threading.excepthook = thread_hook
    sys.unraisablehook = unraisable_hook


@contextmanager
def _server(seed: int) -> Iterator[tuple[dict[str, int], ssl.SSLContext]]:
    """Run a server; yield its ports, and a context that trusts it."""
    authority = trustme.CA()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with tempfile.TemporaryDirectory() as directory:
        certificate = Path(directory) / "server.pem"
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
            str(certificate)
        )
        command = [sys.executable, "-m", "tests.soak.server", str(certificate), str(seed)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline()), context
            process.communicate()


def _ask_control(port: int, target: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG)
    connection.request("GET", target)
    response = json.loads(connection.getresponse().read())
    connection.close()
    return response
