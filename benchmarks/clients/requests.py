"""requests: one session for sixteen threads, with its own adapter or with that of dugong."""

from __future__ import annotations

import requests
from requests.adapters import HTTPAdapter

from clients.worker import (
    SMALL_SIZE,
    THREADS,
    Round,
    check,
    in_threads,
    main,
    near_and_far,
    small_urls,
)
from dugong.adapters.requests import mount


def threads(session: requests.Session, port: int) -> Round:
    urls = small_urls(port)

    def get(url: str) -> None:
        response = session.get(url)
        check(response.status_code, len(response.content), SMALL_SIZE)

    return lambda count: in_threads(get, urls[:count], THREADS)


def plain_session() -> requests.Session:
    session = requests.Session()
    # Or it would close most connections of the sixteen threads after each response.
    session.mount("http://", HTTPAdapter(pool_maxsize=THREADS))
    return session


def adapted_session() -> requests.Session:
    session = requests.Session()
    mount(session)
    return session


main(near_and_far("requests", plain_session, adapted_session, threads))
