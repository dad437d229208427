"""Fetch URLs with asyncio: all hosts at the same time, one connection to each host.

    python examples/coroutines.py URL...

Prints the status and the size of each response, or the error, as soon as it is known, and in the
end how many there were. The exit status is 0 if none has failed.
"""

import asyncio
import sys
from collections import defaultdict
from collections.abc import Generator, Sequence

from urls import connection_to, origin, target

from dugong import AioFuture, DugongError, HTTPConnection, PollNeeded


def co_get(conn: HTTPConnection, path: str) -> Generator[PollNeeded, None, tuple[int, bytes]]:
    yield from conn.co_send_request("GET", path)
    resp = yield from conn.co_read_response()
    body = yield from conn.co_readall()
    return resp.status, body


async def crawl_host(urls: Sequence[str], timeout: float = 30) -> int:
    """Fetch *urls*, all of one host, one after the other; return the number of failures."""
    failed = 0
    with connection_to(urls[0]) as conn:
        for url in urls:
            try:
                get = AioFuture(co_get(conn, target(url)))
                status, body = await asyncio.wait_for(get, timeout)
                print(status, len(body), url)
            except (DugongError, OSError, TimeoutError) as exc:
                conn.disconnect()
                print("failed", url, repr(exc))
                failed += 1
    return failed


async def main(urls: Sequence[str]) -> int:
    by_host = defaultdict(list)
    for url in urls:
        by_host[origin(url)].append(url)
    failed = sum(await asyncio.gather(*map(crawl_host, by_host.values())))
    print(f"{len(urls) - failed} fetched from {len(by_host)} hosts, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: coroutines.py URL...")
    try:
        sys.exit(asyncio.run(main(sys.argv[1:])))
    except ValueError as error:  # one of these is no URL
        sys.exit(f"coroutines.py: {error}")
