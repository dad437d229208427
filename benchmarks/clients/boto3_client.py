"""The client of boto3 that `clients.boto3` and `clients.s3` measure."""

from __future__ import annotations

from typing import Any

import boto3
from botocore.config import Config

from clients.worker import HOST, S3_KEY, S3_REGION, S3_SECRET


def make_client(port: int, connections: int) -> Any:
    """Return a client of the server at *port*, with so many *connections* at most."""
    return boto3.client(
        "s3",
        endpoint_url=f"http://{HOST}:{port}",
        region_name=S3_REGION,
        aws_access_key_id=S3_KEY,
        aws_secret_access_key=S3_SECRET,
        config=Config(max_pool_connections=connections),
    )
