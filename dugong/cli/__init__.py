"""The command line, `python -m dugong`: what it understands, and what its exit status means.

Guarantees: the status is 0 if everything asked for was done, 1 if something was not (and a line
on standard error says what), 2 for a wrong command line, 130 after Ctrl-C and 141 if the reader
of standard output has gone away. Never imported by `import dugong`.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterator, Sequence

__all__ = ["main"]

_GET = """\
Fetch URLs, http and https, from many hosts at once. There are at most six connections to each
host, over which the requests to it are pipelined.

Without -o the bodies go to standard output, in the order of the URLs, each only once it is
complete. With -o each goes to a file of DIR that is called like the last segment of its URL's
path (index.html if that is empty) and takes that name once it is complete; among files of one
run the second of a name gets .1 appended, and so on. Older files are replaced.

Redirects are not followed: an answer 3xx counts as a failure, and names where it leads. URLs
with a user name or password are refused. Proxies named in the environment are not used.
A fault of the network that may pass, or a server that is busy (429, 503 and the like), is tried
again, twice at most. A server that says how long to wait (Retry-After) is left alone for so long,
but never for more than a minute at a time. Silence (--timeout) is final. An answer that turns out
to be larger than 256 KiB is asked for again, to be streamed to its file.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv*, by default the program's; return the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Python flushes once more when it exits, and must not fail then.
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)
        return 141
    except OSError as exc:
        print(f"dugong: {exc}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dugong", description="An HTTP/1.1 client.")
    commands = parser.add_subparsers(required=True, metavar="demo|get")
    demo = commands.add_parser(
        "demo",
        help="show what pipelining gains, against a server of its own",
        description="Fetch objects from a server on this machine that is made to look 20 ms away, "
        "one by one, pipelined and by a pool; upload to it with 100-continue; check everything.",
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
        help="give up when nothing has happened for so long (default: 30)",
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
            lines = (os.fsdecode(line).strip() for line in sys.stdin.buffer)
            yield from (line for line in lines if line)
        else:
            yield url
