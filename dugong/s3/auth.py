"""`S3Auth`: requests are signed by botocore (AWS Signature Version 4), each attempt by itself.

Guarantees: no signature is older than its attempt. No repr quotes a credential. Reads what botocore
reads to find credentials, and asks the services that it asks for temporary ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from dugong.client.auth import Auth

try:
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials
except ImportError as exc:
    raise ImportError(
        "dugong.s3 needs the package botocore: pip install dugong[s3]", name=exc.name
    ) from exc

if TYPE_CHECKING:
    from dugong.connection.encode import HeadersLike
    from dugong.pool.request import Request
    from dugong.pool.response import Response, StreamedResponse

__all__ = ["UNSIGNED_PAYLOAD", "S3Auth"]

#: What stands for the hash of a body that is not signed.
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"

_HASH = "x-amz-content-sha256"
_DEFAULT_REGION = "us-east-1"
#: What a proxy does not change, and a server wants signed, beside Host and all of x-amz-.
_SIGNED = frozenset(("content-md5", "content-type"))
_MADE = ("Authorization", "X-Amz-Date", "X-Amz-Content-SHA256", "X-Amz-Security-Token")


class S3Auth(Auth):
    """Signs requests for S3: the *auth* of a `Client` or of a call.

    Parameters: *credentials* are ``(key, secret)``, ``(key, secret, token)``, or an object of
    botocore; default: those that botocore finds, as the AWS command line does. Temporary ones are
    renewed by botocore when they are about to expire. *region* is that of the bucket; default: what
    the configuration of botocore says, or else us-east-1.

    The SHA-256 of the body is signed if the request has it in a header x-amz-content-sha256, and if
    the body is bytes; the body of other requests is not signed (UNSIGNED-PAYLOAD).

    Raises TypeError for credentials that are none of these, ValueError if there are none, and what
    botocore raises when it looks for them. Any thread may use it.

    Attributes: `region`.
    """

    def __init__(self, credentials: Any = None, region: str | None = None) -> None:
        if credentials is None or region is None:
            import botocore.session

            session = botocore.session.get_session()
            region = region or session.get_config_variable("region") or _DEFAULT_REGION
            if credentials is None and (credentials := session.get_credentials()) is None:
                raise ValueError(
                    "there are no credentials: give credentials=(key, secret), or set "
                    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for example"
                )
        if isinstance(credentials, tuple) and len(credentials) in (2, 3):
            credentials = Credentials(*credentials)
        if not callable(getattr(credentials, "get_frozen_credentials", None)):
            raise TypeError(
                "credentials must be (key, secret), (key, secret, token) or an object of botocore, "
                f"not {type(credentials).__name__}"
            )
        # Neither changes; botocore has a lock for what it renews.
        self._credentials = credentials
        self.region: str = region

    def flow(self, request: Request) -> Generator[Request, Response | StreamedResponse, None]:
        """Have the credentials renewed if that is due, in the thread of the call; yield *request*.

        Raises what botocore raises.
        """
        self._credentials.get_frozen_credentials()
        yield request

    def headers(self, request: Request) -> HeadersLike:
        """Return the signature of *request* as of now, and the fields that belong to it."""
        given = () if callable(request.headers) else request.headers or ()
        fields = {name.lower(): value for name, value in given}
        signed = {
            name: value
            for name, value in fields.items()
            if name.startswith("x-amz-") or name in _SIGNED
        }
        signed["host"] = fields.get("host", request.origin.netloc)
        url = request.url.partition("#")[0]
        made = AWSRequest(request.method, url, signed)
        digest = fields.get(_HASH) or _hash_of(request.body)
        _Signer(self._credentials.get_frozen_credentials(), self.region, digest).add_auth(made)
        return [(name, str(made.headers[name])) for name in _MADE if name in made.headers]


class _Signer(S3SigV4Auth):  # type: ignore[misc]  # botocore has no types
    """The signer of one request, the hash of whose body is *digest*."""

    def __init__(self, credentials: Any, region: str, digest: str) -> None:
        super().__init__(credentials, "s3", region)
        self._digest = digest

    def payload(self, request: Any) -> str:
        return self._digest


def _hash_of(body: object) -> str:
    if body is None:
        return hashlib.sha256().hexdigest()
    if isinstance(body, (bytes, bytearray, memoryview)):
        return hashlib.sha256(body).hexdigest()
    return UNSIGNED_PAYLOAD
