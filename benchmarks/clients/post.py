"""One POST by one client, with its defaults, and what its caller learns: for `posts`.

Called as ``python -m clients.post NAME URL SIZE PRIMED``. With PRIMED, a GET comes before it, so
that the POST goes over a connection that has been used. Prints "ready" when it is about to begin;
then a line of JSON: the *status* of the response, or None and the name of the *error*, and what the
exception says of whether the server has the request (*verdict*), if it says that.
"""

from __future__ import annotations

import asyncio
import importlib
import io
import json
import sys
from collections.abc import Callable

#: Makes the requests, and returns the status of the POST.
Poster = Callable[[str, bytes, bool], int]

TIMEOUT = 10


def dugong(url: str, body: bytes, primed: bool) -> int:
    from dugong import Client

    with Client(timeout=TIMEOUT, trust_env=False) as client:
        if primed:
            client.get(url)
        return client.post(url, body=body).status


def requests(url: str, body: bytes, primed: bool) -> int:
    import requests

    with requests.Session() as session:
        if primed:
            session.get(url, timeout=TIMEOUT)
        return session.post(url, body, timeout=TIMEOUT).status_code


def httpx(url: str, body: bytes, primed: bool) -> int:
    import httpx

    with httpx.Client(timeout=TIMEOUT) as client:
        if primed:
            client.get(url)
        return client.post(url, content=body).status_code


def aiohttp(url: str, body: bytes, primed: bool) -> int:
    import aiohttp

    async def post() -> int:
        timeout = aiohttp.ClientTimeout(TIMEOUT)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            if primed:
                async with session.get(url) as response:
                    await response.read()
            async with session.post(url, data=body) as response:
                await response.read()
                return response.status

    return asyncio.run(post())


def pycurl(url: str, body: bytes, primed: bool) -> int:
    import pycurl

    curl = pycurl.Curl()
    curl.setopt(pycurl.URL, url)
    curl.setopt(pycurl.TIMEOUT, TIMEOUT)
    curl.setopt(pycurl.WRITEFUNCTION, len)
    if primed:
        curl.perform()
    upload = io.BytesIO(body)
    curl.setopt(pycurl.POST, 1)
    curl.setopt(pycurl.POSTFIELDSIZE_LARGE, len(body))
    curl.setopt(pycurl.READFUNCTION, upload.read)
    curl.setopt(pycurl.SEEKFUNCTION, lambda offset, origin: upload.seek(offset, origin) and 0)
    curl.perform()
    status: int = curl.getinfo(pycurl.RESPONSE_CODE)
    return status


POSTERS: dict[str, Poster] = {
    "dugong": dugong,
    "requests": requests,
    "httpx": httpx,
    "aiohttp": aiohttp,
    "pycurl": pycurl,
}


def main(name: str, url: str, size: str, primed: str) -> None:
    importlib.import_module(name)
    print("ready", flush=True)
    status = error = verdict = None
    try:
        status = POSTERS[name](url, bytes(int(size)), primed == "True")
    except Exception as exc:
        error = type(exc).__name__
        delivery = getattr(exc, "delivery", None)
        verdict = None if delivery is None else delivery.name
    print(json.dumps({"status": status, "error": error, "verdict": verdict}))


if __name__ == "__main__":
    main(*sys.argv[1:])
