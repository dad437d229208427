"""Send thousands of GETs, with a progress bar; write the outcome of each as a line of JSON.

    python examples/many.py FILE >outcomes.jsonl

FILE has a URL in each line; "-" is standard input. A line of the output has the *url*, and the
*status*, the *size* and the *seconds* of the response, or the *error* and its *delivery*, which
says how far the request had got. The lines come as the requests finish. The exit status is 0 if
each request had a response with a status below 400. Needs the package rich.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dugong import ConnectionPool, DugongError, Request, ResponseFuture


def requests(lines: list[str]) -> Iterator[Request]:
    for number, line in enumerate(lines, 1):
        try:
            yield Request("GET", line)
        except ValueError as exc:
            sys.exit(f"many.py: line {number}: {exc}")


def outcome(future: ResponseFuture) -> dict[str, Any]:
    try:
        resp = future.result()
    except DugongError as exc:
        delivery = None if exc.delivery is None else exc.delivery.name
        return {"url": future.request.url, "error": str(exc), "delivery": delivery}
    return {
        "url": resp.url,
        "status": resp.status,
        "size": len(resp.body),
        "seconds": round(resp.elapsed.total_seconds(), 4),
    }


def is_good(found: dict[str, Any]) -> bool:
    return found.get("status", 599) < 400


def main(file: TextIO) -> int:
    lines = [line.strip() for line in file if line.strip()]
    if not lines:
        sys.exit("many.py: there are no URLs in the file")
    good = 0
    console = Console(stderr=True)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[rate]:,.0f}/s"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("GET", total=len(lines), rate=0)
        with ConnectionPool(max_connections_per_host=8) as pool:
            for future in pool.as_completed(requests(lines)):
                found = outcome(future)
                good += is_good(found)
                print(json.dumps(found))
                progress.update(task, advance=1, rate=progress.tasks[task].speed or 0)
    print(f"{good} of {len(lines)} requests had a good response", file=sys.stderr)
    return 0 if good == len(lines) else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: many.py FILE")
    if sys.argv[1] == "-":
        sys.exit(main(sys.stdin))
    try:
        with open(sys.argv[1], encoding="utf-8-sig") as urls:
            sys.exit(main(urls))
    except (OSError, UnicodeError) as error:
        sys.exit(f"many.py: {error}")
