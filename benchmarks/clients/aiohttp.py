"""aiohttp: a task for each connection, which is a little faster than one for each request."""

from __future__ import annotations

import asyncio

import aiohttp

from clients.worker import Round, Server, check, main, small_urls


def by_tasks(urls: list[str], connections: int) -> Round:
    runner = asyncio.Runner()

    async def connect() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections))

    session = runner.run(connect())

    async def perform(count: int) -> None:
        waiting = iter(urls[:count])

        async def task() -> None:
            for url in waiting:
                async with session.get(url) as response:
                    check(response.status, len(await response.read()))

        await asyncio.gather(*(task() for _ in range(connections)))

    return lambda count: runner.run(perform(count))


def submit(server: Server) -> Round:
    return by_tasks(small_urls(server.port), 8)


def far(server: Server) -> Round:
    return by_tasks(small_urls(server.far_port), 6)


main({"submit": submit, "far": far})
