"""The command line, `python -m dugong`: its arguments, and the meaning of its exit status.

The status is 0 if everything that was asked for has been done; 1 if something has not (a line on
standard error says what), or if standard output or standard input is needed and cannot be used;
2 for a wrong command line; 130 after Ctrl-C; 141 if the reader of standard output has gone away.

Guarantees: there is no traceback, whichever of the standard streams are closed or full. Never
imported by `import dugong`.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import dugong
from dugong.cli import streams

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

__all__ = ["main"]

_GET = """\
Fetch http and https URLs, from many hosts at once. There are at most six connections to each
host. The requests to a host are pipelined.

Without -o the bodies go to standard output, in the order of the URLs, each of them once it is
complete. With -o each body goes to a file in DIR. The file is named after the last segment of the
URL's path, or index.html if that is empty, and gets this name once it is complete. If several
URLs give the same name, the second file gets .1 appended, the third .2, and so on. Files that
earlier runs have left are replaced.

Redirects are not followed: a 3xx response is a failure, and the message names its Location.
URLs with a user name or password are refused. Proxies named in the environment are not used.
A temporary network error, and a busy server (429, 503 and the like), is retried up to two times.
A Retry-After of the server is respected, up to a minute at a time. A time-out (--timeout) is not
retried. A response that is larger than 256 KiB is requested a second time, and streamed to its
file.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv*, by default the program's; return the exit status.

    Raises SystemExit after --help and --version (status 0) and for a wrong command line (2).
    """
    streams.reserve_descriptors()
    try:
        arguments = _parser().parse_args(argv)
        streams.require_output()
        status: int = arguments.run(arguments)
        return status
    except KeyboardInterrupt:
        with suppress(streams.StreamError):
            streams.flush_output()
        return 130
    except streams.ReaderGone:
        return 141
    except (streams.StreamError, OSError) as exc:
        streams.report(f"dugong: {exc}")
        return 1


class _Parser(argparse.ArgumentParser):
    """A parser whose messages go to the right stream, or fail."""

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        if file is not None:
            super().print_help(file)
        else:
            streams.write_output(self.format_help().rstrip("\n"))

    def error(self, message: str) -> NoReturn:
        streams.report(f"{self.format_usage()}{self.prog}: error: {message}")
        raise SystemExit(2)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        streams.write_output(f"dugong {dugong.__version__}")
        raise SystemExit(0)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m dugong", description="An HTTP/1.1 client.")
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="show the version of dugong and exit"
    )
    commands = parser.add_subparsers(required=True, metavar="demo|get")
    demo = commands.add_parser(
        "demo",
        help="show what pipelining gains, against a server of its own",
        description="Start a server on this machine that responds with a delay of 20 ms. Fetch "
        "objects from it one at a time, pipelined, and with a pool; upload to it with "
        "100-continue; check everything.",
    )
    demo.set_defaults(run=_demo)
    get = commands.add_parser(
        "get",
        help="fetch URLs to files or to standard output",
        description=_GET,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    get.add_argument(
        "urls", nargs="+", metavar="URL", help="what to fetch; - reads URLs from standard input"
    )
    get.add_argument("-o", metavar="DIR", dest="directory", help="save to files in DIR")
    get.add_argument(
        "--timeout",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="fail after so many seconds without progress (default: 30)",
    )
    get.set_defaults(run=_get)
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number of seconds, not {text!r}")
    return seconds


def _demo(arguments: argparse.Namespace) -> int:
    from dugong.cli.demo import demo

    return demo()


def _get(arguments: argparse.Namespace) -> int:
    from dugong.cli.get import get

    return get(_with_standard_input(arguments.urls), arguments.directory, arguments.timeout)


def _with_standard_input(urls: Sequence[str]) -> Iterator[str]:
    for url in urls:
        if url == "-":
            lines = (os.fsdecode(line).strip() for line in streams.input_lines())
            yield from (line for line in lines if line)
        else:
            yield url
