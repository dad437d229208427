"""boto3: one client for sixteen threads, as it is or with the adapter of dugong."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from boto3.s3.transfer import TransferConfig

from clients.boto3_client import make_client
from clients.worker import (
    BUCKET,
    LARGE,
    LARGE_SIZE,
    SMALL,
    THREADS,
    Round,
    Server,
    check,
    in_threads,
    main,
    near_and_far,
)
from dugong.adapters.botocore import use_dugong


def plain(port: int) -> Any:
    return make_client(port, THREADS)


def adapted(port: int) -> Any:
    client = plain(port)
    use_dugong(client)
    return client


def small(make: Callable[[int], Any], port: int) -> Round:
    s3 = make(port)

    def get(key: str) -> None:
        reply = s3.get_object(Bucket=BUCKET, Key=key)
        check(reply["ResponseMetadata"]["HTTPStatusCode"], len(reply["Body"].read()))

    return lambda count: in_threads(get, [SMALL.strip("/")] * count, THREADS)


def down(make: Callable[[int], Any], server: Server) -> Round:
    s3 = make(server.port)
    config = TransferConfig(max_concurrency=THREADS)
    path = os.path.join(server.scratch, f"down-{make.__name__}")

    def perform(count: int) -> None:
        for _ in range(count):
            s3.download_file(BUCKET, LARGE.strip("/"), path, Config=config)
            check(200, os.path.getsize(path), LARGE_SIZE)
            os.remove(path)

    return perform


main(
    {
        **near_and_far("boto3", lambda: plain, lambda: adapted, small),
        "boto3-down": partial(down, plain),
        "boto3-down-dugong": partial(down, adapted),
    }
)
