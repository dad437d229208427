"""What comes through pipes: as it comes, to its end, and not for longer than it may."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from dugong.cli.pipes import Pipes
from dugong.cli.settings import TimeLimit
from dugong.errors import ConnectionTimedOut

NEVER = TimeLimit(None)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        with suppress(OSError):
            os.close(descriptor)


def test_what_has_come_is_given_at_once_and_the_end_is_that_of_the_writer(
    pipe: tuple[int, int],
) -> None:
    reading, writing = pipe
    with Pipes(NEVER) as pipes:
        pieces = pipes.pieces(reading)
        for data in (b"one", b"two"):
            os.write(writing, data)
            assert next(pieces) == data
        os.close(writing)
        assert list(pieces) == []


def test_a_named_pipe_waits_for_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with Pipes(NEVER) as pipes, ThreadPoolExecutor(1) as executor:
        received = executor.submit(b"".join, pipes.pieces(str(path)))
        path.write_bytes(b"data")  # which waits until it is open
        assert received.result() == b"data"


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with Pipes(NEVER) as pipes, pytest.raises(FileNotFoundError):
        next(pipes.pieces(str(tmp_path / "nothing")))


def test_what_is_stopped_is_no_end(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    with Pipes(NEVER) as pipes, ThreadPoolExecutor(1) as executor:
        os.write(writing, b"half")
        pieces = pipes.pieces(reading)
        assert next(pieces) == b"half"
        waiting = executor.submit(next, pieces)
        pipes.stop()
        with pytest.raises(InterruptedError):
            waiting.result()
        with pytest.raises(InterruptedError):
            next(pipes.pieces(reading))


def test_nothing_is_waited_for_after_the_time_limit(pipe: tuple[int, int]) -> None:
    with Pipes(TimeLimit(0.05)) as pipes, pytest.raises(ConnectionTimedOut):
        next(pipes.pieces(pipe[0]))


def test_another_process_may_read_there_too(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = pipe
    read = os.read
    outcomes = iter([BlockingIOError, None])

    def faster(descriptor: int, size: int) -> bytes:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome
        return read(descriptor, size)

    monkeypatch.setattr(os, "read", faster)
    os.write(writing, b"data")
    with Pipes(NEVER) as pipes:
        assert next(pipes.pieces(reading)) == b"data"
