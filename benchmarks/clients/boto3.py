"""boto3: one client for sixteen threads, as it is or with the adapter of dugong."""

from __future__ import annotations

import os
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from clients.worker import (
    BUCKET,
    HOST,
    LARGE,
    LARGE_SIZE,
    SMALL,
    Round,
    Server,
    check,
    in_threads,
    main,
)
from dugong.adapters.botocore import use_dugong

THREADS = 16


def client(port: int, adapted: bool) -> Any:
    made = boto3.client(
        "s3",
        endpoint_url=f"http://{HOST}:{port}",
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        config=Config(max_pool_connections=THREADS),
    )
    if adapted:
        use_dugong(made)
    return made


def small(port: int, adapted: bool) -> Round:
    s3 = client(port, adapted)

    def get(key: str) -> None:
        reply = s3.get_object(Bucket=BUCKET, Key=key)
        check(reply["ResponseMetadata"]["HTTPStatusCode"], len(reply["Body"].read()))

    return lambda count: in_threads(get, [SMALL.strip("/")] * count, THREADS)


def down(server: Server, adapted: bool) -> Round:
    s3 = client(server.port, adapted)
    config = TransferConfig(max_concurrency=THREADS)
    path = os.path.join(server.scratch, f"down-{adapted}")

    def perform(count: int) -> None:
        for _ in range(count):
            s3.download_file(BUCKET, LARGE.strip("/"), path, Config=config)
            check(200, os.path.getsize(path), LARGE_SIZE)
            os.remove(path)

    return perform


main(
    {
        "boto3": lambda server: small(server.port, False),
        "boto3-dugong": lambda server: small(server.port, True),
        "boto3-far": lambda server: small(server.far_port, False),
        "boto3-far-dugong": lambda server: small(server.far_port, True),
        "boto3-down": lambda server: down(server, False),
        "boto3-down-dugong": lambda server: down(server, True),
    }
)
