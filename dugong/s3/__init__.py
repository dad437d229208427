"""Object storage that speaks the language of S3: `Bucket`.

Needs botocore, for credentials and signatures alone.
"""

from __future__ import annotations

from dugong.s3.auth import S3Auth
from dugong.s3.bucket import Bucket
from dugong.s3.errors import ChecksumError, S3Error, SyncError
from dugong.s3.service import Object
from dugong.s3.sync import Synced
from dugong.s3.upload import OpenUpload

__all__ = [
    "Bucket",
    "ChecksumError",
    "Object",
    "OpenUpload",
    "S3Auth",
    "S3Error",
    "SyncError",
    "Synced",
]
