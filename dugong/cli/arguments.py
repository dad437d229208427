"""The arguments of the command, and what they mean."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from dugong.cli import streams
from dugong.cli.crawl_arguments import CRAWL, add_crawl, crawl
from dugong.cli.errors import UsageError
from dugong.cli.values import count, count_or_none, header, rate, seconds

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

    from dugong.cli.settings import Settings

__all__ = ["parse"]

_GET = """\
Fetch http and https URLs, from many hosts at once. The requests to a host are pipelined.

Without -o and -O the bodies go to standard output, in the order of the URLs, each of them once it
is complete. With -o each body goes to a file in DIR, which is made if it is not there; or the body
of the only URL goes to FILE. A file in DIR is named after the last segment of the URL's path, or
index.html if that is empty. With -O a server may choose another name, and the file goes to the
working directory, if -o names no DIR. A file gets its name once it is complete. If several URLs
give the same name, the second file gets .1 appended, the third .2, and so on. Files that earlier
runs have left are replaced, but not by a name that a server has chosen.

Redirects are followed. URLs with a user name or password are refused: use -u. Proxies that the
environment names (such as HTTP_PROXY) are used, and so is the netrc file. A temporary network
error, and a busy server (429, 503 and the like), is retried. A Retry-After of the server is
respected, up to a minute at a time. A time-out (--timeout) is not retried. If one of several
responses is larger than 256 KiB, it is requested a second time, and streamed to its file.
"""
_PUT = """\
Upload files by PUT. If the path of URL ends with a slash, the name of each FILE is appended to it,
before the query. Otherwise there is one FILE, which goes to URL. With - the body is standard input.
"""
_SYNC = """\
Upload the files in DIR, and in the directories in it, that differ from what the server has.

The object of the file DIR/a/b is URL/a/b. The server has to respond to HEAD with 404 if there is
none, and else with its Content-Length and the MD5 of its content: as the ETag (32 hex digits, as
object stores do) or in Content-MD5. A file that has another size or another MD5
is uploaded by PUT. If the server sends no MD5, a file of the same size is uploaded, too,
unless --by-time is given and the object is newer (Last-Modified) than the file. Nothing is ever
deleted. Links to files are followed, links to directories are not. What a download by dugong has
left half-written in DIR is not uploaded, and the last line says how many files that are.
"""


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


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Leaves the lines of descriptions as they are.

    Finds out how wide the terminal is by itself: argparse imports a module for that which takes as
    long to import as all of argparse, and makes a formatter for each argument that is added.
    """

    def __init__(self, prog: str) -> None:
        try:
            columns = int(os.environ.get("COLUMNS", "0")) or os.get_terminal_size().columns
        except (OSError, ValueError):
            columns = 80
        super().__init__(prog, width=max(40, columns - 2))


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from dugong import __version__

        streams.write_output(f"dugong {__version__}")
        raise SystemExit(0)


def _parsers() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """Return the parser, and those of the commands.

    What they return has *run*, which does what was asked for, and *parser*, the one of the command.
    """
    made = _Parser(prog="dugong", description="An HTTP/1.1 client.", formatter_class=_Formatter)
    made.add_argument(
        "--version", action=_Version, nargs=0, help="show the version of dugong and exit"
    )
    commands = made.add_subparsers(required=True, metavar="demo|get|put|sync|crawl", prog="dugong")
    demo = commands.add_parser(
        "demo",
        help="show what pipelining gains, against a server of its own",
        description="Start a server on this machine that responds with a delay of 20 ms.\n"
        "Fetch objects from it one at a time, pipelined, and with a pool; upload to it with\n"
        "100-continue; check everything.",
        formatter_class=_Formatter,
    )
    demo.set_defaults(run=_demo, parser=demo, module="dugong.cli.demo")
    get = _add(commands, "get", "fetch URLs to files or to standard output", _GET, _get)
    _add_get(get)
    put = _add(commands, "put", "upload files", _PUT, _put)
    put.add_argument("files", nargs="+", metavar="FILE", help="what to upload")
    put.add_argument("url", metavar="URL", help="where to")
    put.add_argument("-X", "--request", metavar="METHOD", default="PUT", help="not PUT but METHOD")
    sync = _add(commands, "sync", "upload the files of a directory that differ", _SYNC, _sync)
    sync.add_argument("directory", metavar="DIR", help="what to upload")
    sync.add_argument("url", metavar="URL", help="where to")
    sync.add_argument(
        "--by-time", action="store_true", help="compare the times if there is no MD5 to compare"
    )
    description = "crawl web sites, politely, and go on where it was stopped"
    add_crawl(_add(commands, "crawl", description, CRAWL, _crawl, connections=2))
    for parser in (get, put, sync):
        _add_transfers(parser)
    return made, commands.choices


def _add(
    commands: Any,
    name: str,
    summary: str,
    description: str,
    run: Callable[[argparse.Namespace], int],
    connections: int = 6,
) -> argparse.ArgumentParser:
    """Add a command that sends requests, over *connections* to a host unless it is told."""
    made: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        formatter_class=_Formatter,
    )
    made.set_defaults(run=run, parser=made, module=f"dugong.cli.{name}")
    add = made.add_argument
    add(
        "-j",
        "--connections",
        type=count,
        default=connections,
        metavar="N",
        help=f"open up to N connections to a host (default: {connections})",
    )
    add(
        "-x",
        "--proxy",
        metavar="URL",
        help="use this proxy (http, https, socks4, socks4a, socks5, socks5h); '': none",
    )
    add("--cacert", metavar="FILE", help="trust the authorities in FILE, and no others")
    add(
        "-k",
        "--insecure",
        action="store_true",
        help="trust every server, even if it is an attacker's",
    )
    add(
        "--retries",
        type=count_or_none,
        default=2,
        metavar="N",
        help="retry a temporary failure up to N times (default: 2)",
    )
    add(
        "--timeout",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="fail after so many seconds without progress (default: 30)",
    )
    add("-q", "--quiet", action="store_true", help="say nothing but what has failed")
    add("-v", "--verbose", action="store_true", help="say what happens on each connection")
    return made


def _add_transfers(made: argparse.ArgumentParser) -> None:
    """Add what commands have that are for certain URLs."""
    add = made.add_argument
    add(
        "-H",
        "--header",
        type=header,
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="send this field, but not to other origins (may be repeated)",
    )
    add(
        "-u",
        "--user",
        metavar="USER[:PASSWORD]",
        help="authenticate; without PASSWORD, it is asked for",
    )
    add(
        "-L",
        "--location",
        dest="location",
        action="store_true",
        default=True,
        help="follow redirects (the default)",
    )
    add(
        "--no-location",
        dest="location",
        action="store_false",
        help="do not follow redirects: they are failures then",
    )
    add(
        "--deadline",
        type=seconds,
        metavar="SECONDS",
        help="fail what is not done so many seconds after the start",
    )
    add(
        "--limit-rate",
        type=rate,
        metavar="RATE",
        help="send and receive up to RATE bytes a second together; K, M or G may follow",
    )


def _add_get(get: argparse.ArgumentParser) -> None:
    add = get.add_argument
    add("urls", nargs="*", metavar="URL", help="what to fetch; - reads URLs from standard input")
    add(
        "-i",
        "--input",
        action="append",
        default=[],
        metavar="FILE",
        help="read URLs from FILE, one a line; - is standard input (may be repeated)",
    )
    add("-o", "--output", metavar="FILE|DIR", help="save to FILE, or to files in DIR")
    add(
        "-O",
        "--remote-name",
        action="store_true",
        help="save to files that are named as the server says (Content-Disposition)",
    )
    add(
        "-C",
        "--continue",
        action="store_true",
        dest="continues",
        help="take existing files for complete; keep and continue files that are not",
    )
    add("-X", "--request", metavar="METHOD", help="send METHOD instead of GET")
    add(
        "-d",
        "--data",
        action="append",
        metavar="DATA",
        help="send DATA by POST, as a form; @FILE sends what is in FILE (may be repeated)",
    )


# --- commands -------------------------------------------------------------------------------------


def _demo(arguments: argparse.Namespace) -> int:
    from dugong.cli.demo import demo

    return demo()


def _settings(arguments: argparse.Namespace) -> Settings:
    return _network(arguments)._replace(
        headers=tuple(arguments.header),
        auth=_credentials(arguments.user),
        follow_redirects=arguments.location,
        rate=arguments.limit_rate,
        deadline=arguments.deadline,
    )


def _network(arguments: argparse.Namespace) -> Settings:
    from dugong.cli.settings import Settings

    if arguments.insecure and arguments.cacert is not None:
        raise UsageError("--cacert makes no sense with --insecure")
    return Settings(
        connections=arguments.connections,
        timeout=arguments.timeout,
        retries=arguments.retries,
        proxy=arguments.proxy,
        verify=not arguments.insecure if arguments.cacert is None else arguments.cacert,
        verbose=arguments.verbose,
        quiet=arguments.quiet,
    )


def _credentials(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    user, colon, password = text.partition(":")
    if not colon:
        import warnings
        from getpass import GetPassWarning, getpass

        try:
            with warnings.catch_warnings():
                # Without a terminal, it would read standard input, where URLs or a body may be.
                warnings.simplefilter("error", GetPassWarning)
                password = getpass(f"Password of {user}: ")
        except (EOFError, GetPassWarning):
            raise UsageError("-u has no password, and there is no terminal to ask at") from None
    return user, password


def _get(arguments: argparse.Namespace) -> int:
    from dugong.cli.download import Fetching
    from dugong.cli.get import get
    from dugong.cli.names import Names
    from dugong.cli.sources import Urls
    from dugong.cli.tally import Tally

    output = arguments.output
    is_to_files = arguments.remote_name or output not in (None, "-")
    if arguments.continues and not is_to_files:
        raise UsageError("-C needs -o or -O: standard output cannot be continued")
    settings = _settings(arguments)
    options: dict[str, Any] = {}
    if arguments.data is not None:
        options["body"] = b"&".join(_data(each) for each in arguments.data)
        if not any(name.lower() == "content-type" for name, _ in settings.headers):
            options["headers"] = {"Content-Type": "application/x-www-form-urlencoded"}
    urls = Urls(arguments.urls, arguments.input)
    directory = file = None
    if is_to_files:
        output = "" if output in (None, "-") else output
        if urls.count == 1 and not arguments.remote_name and _is_file(output):
            file = output
        else:
            directory = output
    fetching = Fetching(
        settings,
        arguments.request or ("POST" if options else "GET"),
        options,
        keeps_parts=arguments.continues,
        # What is to be continued has to have its name before it is asked for.
        names=Names() if arguments.remote_name and not arguments.continues else None,
        streams_all=urls.count == 1,
        tally=Tally(urls.count),
    )
    return get(urls, fetching, directory, file)


def _is_file(path: str) -> bool:
    return not path.endswith("/") and not os.path.isdir(path)


def _data(text: str) -> bytes:
    if not text.startswith("@"):
        return os.fsencode(text)
    with open(text[1:], "rb") as file:
        return file.read()


def _put(arguments: argparse.Namespace) -> int:
    from dugong.cli.put import put

    return put(arguments.files, arguments.url, _settings(arguments), arguments.request)


def _sync(arguments: argparse.Namespace) -> int:
    from dugong.cli.sync import sync

    return sync(arguments.directory, arguments.url, _settings(arguments), arguments.by_time)


def _crawl(arguments: argparse.Namespace) -> int:
    return crawl(arguments, _network(arguments))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return what *argv* says. Raises SystemExit after --help and --version, and if it is wrong."""
    given = sys.argv[1:] if argv is None else list(argv)
    parser, commands = _parsers()
    unknown: list[str] = []
    if given and given[0] in commands and "--" not in given:
        # So that options may stand between two URLs. It cannot do with that mark of their end.
        arguments = commands[given[0]].parse_intermixed_args(given[1:])
    else:
        arguments, unknown = parser.parse_known_args(given)
    if unknown:  # of which `parse_args` would complain with the usage of all commands
        arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if arguments.run is _get and not arguments.urls and not arguments.input:
        arguments.parser.error("a URL is needed, or -i with a file of URLs")
    return arguments
