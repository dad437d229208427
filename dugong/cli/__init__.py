"""The command line, `dugong`: the meaning of its exit status.

The status is 0 if everything that was asked for has been done; 1 if something has not (a line on
standard error says what), or if standard output or standard input is needed and cannot be used;
2 for a wrong command line; 130 after Ctrl-C; 129 after a SIGHUP and 143 after a SIGTERM, which
leave as little behind; 141 if the reader of standard output has gone away.

Guarantees: there is no traceback, whichever of the standard streams are closed or full. Never
imported by `import dugong`.
"""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress

from dugong.cli import signals, streams

TYPE_CHECKING = False  # as in typing: what takes long to import waits for `signals.end_at_once`

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

__all__ = ["main", "run"]

# Allocations between two searches for garbage: what a command allocates for each file is freed soon
# and has no cycles.
_GARBAGE = 20_000
_DESCRIPTORS = 1024


def run() -> NoReturn:
    """Be the program: run its command line, and end with its exit status.

    The process ends at once. To take the interpreter apart takes as long as to fetch some hundred
    files, and nothing is left to be done.
    """
    signals.end_at_once()
    gc.set_threshold(_GARBAGE, 10, 10)
    _raise_limit()
    status = main()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.flush()
    os._exit(status)


def _raise_limit() -> None:
    """Let the process have enough descriptors: on some systems, it has 256 unless it asks."""
    import resource

    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if most == resource.RLIM_INFINITY else min(_DESCRIPTORS, most)
    if resource.RLIM_INFINITY != limit < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv*, by default the program's; return the exit status.

    Raises SystemExit after --help and --version (status 0) and for a wrong command line (2).
    """
    streams.reserve_descriptors()
    try:
        from importlib import import_module

        from dugong.cli.arguments import parse
        from dugong.cli.errors import UsageError  # here, where Ctrl-C is understood

        arguments = parse(argv)
        if not getattr(arguments, "quiet", False):
            streams.require_output()  # for what is said of each file
        import_module(arguments.module)  # before signals raise: an import may lose that
        try:
            with signals.raised():
                status: int = arguments.run(arguments)
        except UsageError as exc:
            arguments.parser.error(str(exc))
        return status
    except KeyboardInterrupt as exc:
        with suppress(streams.StreamError):
            streams.flush_output()
        return exc.args[0] if isinstance(exc, signals.Terminated) else 130
    except streams.ReaderGone:
        return 141
    except (streams.StreamError, OSError) as exc:
        name, reason = getattr(exc, "filename", None), getattr(exc, "strerror", None)
        streams.report(f"dugong: {streams.printable(f'{name}: {reason}') if name else exc}")
        return 1
