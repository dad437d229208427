"""Ctrl-C, or a signal handler that raises, at any point of any operation: the pool goes on.

By default at some points of each operation, always the same; with ``DUGONG_ALL_POINTS=1`` at all of
them, which takes minutes. ``python -m tests.support.pool_interrupts`` does it for one operation.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.pool_interrupts import OPERATIONS

ALL = os.environ.get("DUGONG_ALL_POINTS") == "1"


def interrupt(*arguments: str) -> None:
    """Run the script in a process of its own, where a pool that is stuck harms nothing else."""
    amount = [] if ALL else ["--samples=15", "--seconds=20", "--broken=3"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.pool_interrupts", *amount, *arguments],
        capture_output=True,
        text=True,
        timeout=1800 if ALL else 55,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(1900 if ALL else 60)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_pool_goes_on_after_an_interrupt_at_any_point_of(operation: str) -> None:
    interrupt(operation)


@pytest.mark.timeout(1900 if ALL else 60)
@pytest.mark.parametrize("operation", ["warm", "stream-left"])
def test_a_pool_goes_on_after_an_interrupt_with_tls_at_any_point_of(operation: str) -> None:
    interrupt("--tls", operation)
