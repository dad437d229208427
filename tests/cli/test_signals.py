"""Signals that end the command while it starts, whichever module it is importing."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

TIMEOUT = 20

# Sends the signal in the middle of the import of a module. Whatever has begun the tests may have
# the signals ignored.
STARTS = """
import importlib.abc, os, runpy, signal, sys

module, number = sys.argv.pop(1), int(sys.argv.pop(1))
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)

class Interrupting(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == module:
            signal.raise_signal(number)

sys.meta_path.insert(0, Interrupting())
runpy.run_module("dugong", run_name="__main__")
"""
DURING_START = ["resource", "argparse", "dugong.cli.arguments", "dugong.cli.errors"]
LATER = ["dugong.cli.get", "dugong.cli.names", "dugong.client.client", "dugong.pool.pool"]


def started(module: str, number: int) -> subprocess.CompletedProcess[bytes]:
    """Run the command, and send it the signal when it imports *module*."""
    command = [sys.executable, "-S", "-c", STARTS, module, str(int(number))]
    command += ["get", "http://127.0.0.1:9/"]
    return subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", DURING_START + LATER)
def test_a_signal_ends_the_command_without_a_word_while_it_imports(
    module: str, number: signal.Signals
) -> None:
    result = started(module, number)
    assert (result.returncode, result.stdout, result.stderr) == (128 + number, b"", b"")


def test_next_to_nothing_is_imported_before_signals_are_understood() -> None:
    program = (
        "import sys, dugong.cli; names = [m for m in sys.modules if m.startswith('dugong')];"
        "print(*sorted(names), 'typing' in sys.modules)"
    )
    command = [sys.executable, "-S", "-c", program]
    printed = subprocess.check_output(command, text=True, timeout=TIMEOUT)
    names = ["dugong", "dugong.cli", "dugong.cli.signals", "dugong.cli.streams"]
    assert printed.split() == [*names, "False"]


@pytest.mark.parametrize("command", ["demo", "get", "put", "sync", "crawl"])
def test_what_a_command_needs_is_imported_before_an_exception_ends_it(command: str) -> None:
    """For one that is raised in the middle of an import may be lost."""
    program = """
import sys
from dugong.cli import main, signals

def stop():
    print(*sorted(sys.modules))
    raise KeyboardInterrupt

signals.raised = stop
sys.exit(main())
"""
    urls = {"demo": [], "put": ["x", "http://h/"], "sync": ["x", "http://h/"]}
    arguments = urls.get(command, ["http://h/"])
    result = subprocess.run(
        [sys.executable, "-c", program, command, *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (result.returncode, result.stderr) == (130, "")
    needed = {
        f"dugong.cli.{command}",
        "dugong.pool.pool" if command == "demo" else "dugong.client.client",
    }
    assert needed <= set(result.stdout.split())


def test_an_ignored_signal_stays_ignored() -> None:
    program = (
        "import signal; from dugong.cli import signals;"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); signals.end_at_once();"
        "signal.raise_signal(signal.SIGHUP)\n"
        "with signals.raised(): signal.raise_signal(signal.SIGHUP)\n"
        "signal.raise_signal(signal.SIGHUP); print('goes on')"
    )
    printed = subprocess.check_output([sys.executable, "-c", program], text=True, timeout=TIMEOUT)
    assert printed == "goes on\n"


def test_ctrl_c_behind_all_that_was_asked_for_ends_the_command_at_once() -> None:
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from dugong import cli; cli.main = lambda: signal.raise_signal(signal.SIGINT); cli.run()"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (130, b"", b"")
