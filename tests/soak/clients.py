"""The threads of a soak: each asks for one thing after another, in all the ways that a pool has.

Guarantees: each request that the pool gets is entered in the ledger, with its outcome; each
response is compared with the one right response to that request.
"""

from __future__ import annotations

import http.client
import io
import itertools
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, as_completed, wait
from typing import Any

from dugong import (
    Attempt,
    ConnectionPool,
    Delivery,
    DugongError,
    PoolClosed,
    Request,
    Response,
    ResponseFuture,
    RetryPolicy,
    StateError,
    StreamedResponse,
)
from tests.soak.conversation import digest
from tests.soak.events import Listener
from tests.soak.ledger import Ask, Ledger
from tests.soak.questions import HANG, POLICIES, BodyFailed, Made, Place, Question, Vetoed

__all__ = ["Client", "LateClient"]

SMALL = 64 * 1024  # bytes that a pool sends in one piece with the head, if they are at hand

_numbers = itertools.count(1)


class Client:
    """One thread that asks, until `stop` is set."""

    def __init__(
        self,
        pool: ConnectionPool,
        policy: RetryPolicy,
        places: list[Place],
        ledger: Ledger,
        listener: Listener,
        max_body_size: int,
        depth: int | None,
        connections: int,
        seed: int,
    ) -> None:
        self.pool = pool
        self.policy = policy
        self.places = places
        self.ledger = ledger
        self.listener = listener
        self.max_body_size = max_body_size
        self.depth = depth
        self.connections = connections  # that a host may have
        self.dice = random.Random(seed)
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"client-{seed}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self) -> bool:
        """Wait for the thread; return False if it hangs."""
        self._thread.join(HANG)
        return not self._thread.is_alive()

    def _run(self) -> None:
        ways: list[Callable[[], None]] = [
            self._request,
            self._request,
            self._submit,
            self._submit,
            self._map,
            self._as_completed,
            self._stream,
            self._upload,
            self._chain,
            self._look,
        ]
        while not self.stop.is_set():
            self.dice.choice(ways)()

    # --- what is asked ----------------------------------------------------------------------------

    def _question(
        self, method: str | None = None, *, upload: bool = False, deadlines: bool = True
    ) -> Question:
        dice = self.dice
        place = dice.choice(self.places)
        size = dice.choice((0, 1, 100, 100, 100, 1000, 1000, 10_000, 100_000, 400_000))
        body: Any = None
        data = b""
        error = None
        if method is None:
            method = "PUT" if upload else dice.choice(("GET", "GET", "GET", "HEAD", "PUT", "POST"))
        if upload and dice.random() < 0.3:
            method = "POST"
        if upload:
            data, body, error = self._big_body()
        elif method in ("PUT", "POST"):
            data = body = dice.randbytes(dice.choice((0, 10, 1000)))
        idempotent = dice.choice((None,) * 8 + (True, False))
        options: dict[str, Any] = {}
        if deadlines and dice.random() < 0.1:
            options["deadline"] = dice.choice((0.001, 0.01, 0.1, 1.0))
        if body is not None and dice.random() < 0.3:
            options["expect100"] = True
        headers = {}
        if dice.random() < 0.05:
            headers["Connection"] = "close"
        elif upload and (isinstance(body, (Iterator, Made))) and dice.random() < 0.5:
            headers["Content-Length"] = str(len(data))
        number = str(next(_numbers))
        if dice.random() < 0.1:
            headers["Idempotency-Key"] = number
        if headers:
            options["headers"] = headers
        policy = self.policy
        if dice.random() < 0.2:
            policy = options["retry"] = dice.choice(list(POLICIES.values()))
            if policy is RetryPolicy.never and dice.random() < 0.5:
                options["retry"] = None
        keyed = "Idempotency-Key" in headers if idempotent is None else idempotent
        alone = method == "POST" if not keyed and idempotent is None else not keyed
        # A small body goes with its head, and others may be pipelined behind it.
        alone = alone or len(data) > SMALL or self.depth == 1 or "Connection" in headers
        target = f"/{number}/{size}{'?alone' if alone else ''}"
        request = Request(
            method,
            place.base + target,
            body=body,
            idempotent=idempotent,
            timeout=place.timeout,
            **options,
        )
        once = policy.attempts == 1 or not policy.repeats(request)
        ask = Ask(number, f"{method} {place.kind}", once)
        resendable = not isinstance(body, Iterator)
        return Question(ask, request, place, size, digest(data), resendable, error, policy)

    def _big_body(self) -> tuple[bytes, Any, BodyFailed | None]:
        dice = self.dice
        data = dice.randbytes(dice.choice((1, 70_000, 70_000, 300_000, 1_000_000)))
        pieces = [data[start : start + 50_000] for start in range(0, len(data), 50_000)]
        error = BodyFailed() if dice.random() < 0.05 else None

        def failing() -> Iterator[bytes]:
            yield from pieces
            if error is not None:
                raise error

        if error is not None:
            return data, failing(), error
        body: Any = dice.choice(
            (data, bytearray(data), pieces, io.BytesIO(data), failing(), failing(), Made(data))
        )
        return data, body, None

    # --- what comes of it -------------------------------------------------------------------------

    def _check(
        self, question: Question, response: Response | StreamedResponse, body: bytes, whole: bool
    ) -> None:
        complaint = question.complaint(response, body, whole)
        if complaint:
            self.ledger.problem(complaint)
        refused = response.headers["Refused"] is not None
        self._end(question, "refused" if refused else "answered" if whole else "left")
        self.listener.ended(question.request, question.fate(response))
        self._look_at(question, response.attempts, response.attempts)

    def _end(self, question: Question, outcome: str, why: str = "") -> None:
        self.ledger.end(question.ask, outcome, why)
        body = question.request.body
        if isinstance(body, Made) and not body.all_closed:
            self.ledger.problem(f"{question.ask}, {outcome}, has left what it was made of open")

    def _look_at(self, question: Question, attempts: tuple[Attempt, ...], said: object) -> None:
        """See whether the earlier *attempts* can have been so."""
        policy = question.policy
        charged = [attempt.number for attempt in attempts if attempt.charged]
        kept = any(attempt.response or attempt.request for attempt in attempts)
        late = [a for a in attempts if a.status is not None and a.status not in policy.statuses]
        if charged != list(range(1, len(charged) + 1)) or kept or late:
            self.ledger.problem(f"{question.ask} had attempts that do not add up: {said}")
        if len(charged) >= policy.attempts:
            self.ledger.problem(f"{question.ask} had more attempts than {policy.attempts}: {said}")

    def _fail(self, question: Question, exc: BaseException, streamed: bool = False) -> None:
        ask = question.ask
        why = type(exc).__name__
        if isinstance(exc, CancelledError):
            self._end(question, "cancelled")
            return
        documented = exc is question.error or isinstance(exc, (DugongError, OSError, Vetoed))
        if not documented or type(exc) is DugongError or isinstance(exc, StateError):
            self.ledger.problem(f"{ask} has failed with {exc!r}")
        elif not question.excuses(exc, self.max_body_size, streamed):
            self.ledger.problem(
                f"{ask} should have got its response, but: {exc!r} "
                f"({getattr(exc, 'delivery', None)}) after {getattr(exc, 'attempts', None)}"
            )
        delivery = getattr(exc, "delivery", None)
        if delivery is None:
            self.ledger.problem(f"{ask} has failed without a verdict: {exc!r}")
        self._end(question, "unsent" if delivery is Delivery.UNSENT else "failed", why)
        if not streamed:
            self.listener.ended(question.request, question.fate(exc))
        attempts = getattr(exc, "attempts", ())
        self._look_at(question, attempts, (attempts, exc))
        if isinstance(exc, PoolClosed):
            # It refuses at once: to go on asking would only take the processor from who closes it.
            self.stop.wait(0.01)

    def _settle(self, question: Question, future: ResponseFuture) -> None:
        """Wait for *future*, and see what it is."""
        try:
            response = future.result(HANG)
        except BaseException as exc:
            if not future.done():
                self.ledger.problem(f"{question.ask} hangs: {self.pool!r}")
                self.stop.set()
                return
            self._fail(question, exc)
        else:
            self._check(question, response, response.body, True)

    # --- in which way -----------------------------------------------------------------------------

    def _request(self) -> None:
        self._do(self._question())

    def _upload(self) -> None:
        self._do(self._question(upload=True))

    def _do(self, question: Question, within: Question | None = None) -> None:
        """Ask *question*, in the block of the stream of *within* if that is given."""
        self.ledger.submit(question.ask)
        try:
            response = self.pool.request(question.request)
        except StateError as exc:
            if not self._may_wait_for_itself(question, within):
                self.ledger.problem(f"{question.ask} has failed with {exc!r}")
            self._end(question, "unsent", "StateError")
        except BaseException as exc:
            self._fail(question, exc)
        else:
            self._check(question, response, response.body, True)

    def _may_wait_for_itself(self, question: Question, within: Question | None) -> bool:
        """Return True if the stream of *within* may have the only connection for *question*."""
        return within is not None and self.connections == 1 and question.place == within.place

    def _begin(self, question: Question, block: bool = True) -> ResponseFuture | None:
        self.ledger.submit(question.ask)
        try:
            return self.pool.submit(question.request, block=block)
        except BaseException as exc:
            self._fail(question, exc)
            return None

    def _submit(self) -> None:
        dice = self.dice
        asked: dict[Any, Question] = {}
        cancelling = dice.choice((0.0, 0.0, 0.1, 1.0))
        for _ in range(dice.choice((1, 10, 100))):
            if self.stop.is_set():
                break
            question = self._question(upload=dice.random() < 0.05)
            future = self._begin(question, block=dice.random() < 0.9)
            if future is None:
                continue
            asked[future] = question
            if dice.random() < cancelling / 2:
                self._cancel(dice.choice(list(asked)))
        futures = list(asked)
        if dice.random() < 0.3:
            futures = list(as_completed(futures, HANG))
        elif dice.random() < 0.5:
            dice.shuffle(futures)
        for future in futures:
            if dice.random() < cancelling:
                self._cancel(future)
            self._settle(asked[future], future)

    def _cancel(self, future: Any) -> None:
        # That of an upload is cancelled once the sender has let go of the body.
        said = future.cancel()
        if said:
            wait([future], HANG)
        if said != future.cancelled():
            self.ledger.problem(f"cancel() of {future!r} did not say what it did")

    def _pull(self, pulled: deque[Question]) -> Iterator[Request]:
        for _ in range(self.dice.choice((3, 30, 300))):
            if self.stop.is_set():
                break
            # A deadline that passes before there is room in the queue would be raised by `next`.
            method = "GET" if self.dice.random() < 0.9 else None
            question = self._question(method, deadlines=False)
            self.ledger.submit(question.ask)
            pulled.append(question)
            yield question.request

    def _map(self) -> None:
        pulled: deque[Question] = deque()
        leave = self.dice.choice((1000, 1000, 5, 50))
        responses = self.pool.map(self._pull(pulled))
        try:
            for response in itertools.islice(responses, leave):
                self._check(pulled.popleft(), response, response.body, True)
        except PoolClosed:
            pass  # it may be of the first request, or of the last one that was to be submitted
        except BaseException as exc:
            self._fail(pulled.popleft(), exc)
        responses.close()  # type: ignore[attr-defined]
        for question in pulled:
            self.ledger.end(question.ask, "dropped")

    def _as_completed(self) -> None:
        pulled: deque[Question] = deque()
        leave = self.dice.choice((1000, 1000, 5, 50))
        futures = self.pool.as_completed(self._pull(pulled))
        done = set()
        try:
            for future in itertools.islice(futures, leave):
                question = next(each for each in pulled if each.request is future.request)
                pulled.remove(question)
                done.add(question)
                self._settle(question, future)
        except PoolClosed as exc:
            self._fail(pulled.pop(), exc)
        futures.close()  # type: ignore[attr-defined]
        for question in pulled:
            self.ledger.end(question.ask, "dropped")

    def _stream(self) -> None:
        dice = self.dice
        question = self._question(upload=dice.random() < 0.2)
        limit = dice.choice((10**9, 10**9, 0, 1000))
        self.ledger.submit(question.ask)
        try:
            with self.pool.stream(question.request) as response:
                if dice.random() < 0.1:
                    nested = self._question("GET")
                    request = nested.request.replace(deadline=0.5)
                    self._do(nested._replace(request=request), within=question)
                body = self._read(response, limit)
                whole = len(body) < limit
        except BaseException as exc:
            self._fail(question, exc, streamed=True)
        else:
            self._check(question, response, body, whole)

    def _read(self, response: StreamedResponse, limit: int) -> bytes:
        way = self.dice.randrange(3)
        if way == 0 and limit > 10**6:
            return response.read()
        received = bytearray()
        buffer = bytearray(self.dice.choice((10, 4096, 300_000)))
        while len(received) < limit:
            if way == 1:
                got = response.readinto(buffer)
                received += buffer[:got]
            else:
                piece = response.read(len(buffer))
                got = len(piece)
                received += piece
            if not got:
                break
        return bytes(received)

    def _chain(self) -> None:
        """Have a callback submit the next request, and so on."""
        over = threading.Semaphore(0)
        chains = self.dice.choice((1, 5))

        def go_on(left: int) -> None:
            question = self._question()
            future = self._begin(question, block=self.dice.random() < 0.5)
            if future is None:
                over.release()
                return

            def call(done: Any) -> None:
                self._settle(question, done)
                if left and not self.stop.is_set():
                    go_on(left - 1)
                else:
                    over.release()

            future.add_done_callback(call)

        for _ in range(chains):
            go_on(self.dice.randrange(10))
        for _ in range(chains):
            if not over.acquire(timeout=HANG):
                self.ledger.problem(f"a chain of callbacks hangs: {self.pool!r}")
                self.stop.set()

    def _look(self) -> None:
        repr(self.pool)
        str(self.pool.statistics())


class LateClient(Client):
    """A client with a host of its own, which sends bytes when no request is outstanding."""

    def __init__(self, *args: Any, control: int) -> None:
        super().__init__(*args)
        self._control = control

    def _run(self) -> None:
        place = self.places[0]
        while not self.stop.is_set():
            number = str(next(_numbers))
            request = Request("GET", f"{place.base}/{number}/100?late", timeout=place.timeout)
            ask = Ask(number, "GET late", self.policy.attempts == 1)
            self._do(Question(ask, request, place, 100, digest(b""), True, None, self.policy))
            control = http.client.HTTPConnection("127.0.0.1", self._control, timeout=HANG)
            control.request("GET", f"/after/{number}")
            control.getresponse().read()
            control.close()
            self._request()
