"""`S3Auth`: requests are signed by botocore (AWS Signature Version 4), each attempt by itself.

Guarantees: no signature is older than its attempt. No repr quotes a credential. Reads what botocore
reads to find credentials, and asks the services that it asks for temporary ones.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NamedTuple

from dugong.client.auth import Auth
from dugong.pool.checks import check_str

try:
    from botocore.auth import S3SigV4Auth
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
            if region is None:
                region = session.get_config_variable("region") or _DEFAULT_REGION
            if credentials is None and (credentials := session.get_credentials()) is None:
                raise ValueError(
                    "there are no credentials: give credentials=(key, secret), or set "
                    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for example"
                )
        check_str("region", region)
        if isinstance(credentials, tuple) and len(credentials) in (2, 3):
            for name, value in zip(("key", "secret", "token"), credentials, strict=False):
                if value is not None or name != "token":
                    check_str(f"the {name} of credentials", value)
            credentials = Credentials(*credentials)
        if not callable(getattr(credentials, "get_frozen_credentials", None)):
            raise TypeError(
                "credentials must be (key, secret), (key, secret, token) or an object of botocore, "
                f"not {type(credentials).__name__}"
            )
        # Neither changes; botocore has a lock for what it renews.
        self._credentials = credentials
        self.region: str = region
        # Of the last signature. Any thread replaces it as a whole, which is one atomic operation.
        self._key = _SigningKey("", "", b"")

    def flow(self, request: Request) -> Generator[Request, Response | StreamedResponse, None]:
        """Have the credentials renewed if that is due, in the thread of the call; yield *request*.

        Raises what botocore raises.
        """
        self._credentials.get_frozen_credentials()
        yield request

    def headers(self, request: Request) -> HeadersLike:
        """Return the signature of *request* as of now, and the fields that belong to it."""
        given = () if callable(request.headers) else request.headers or ()
        fields: dict[str, str] = {}
        for name, value in given:
            lower = name.lower()
            fields[lower] = f"{fields[lower]},{value}" if lower in fields else value
        signed = {
            name: value
            for name, value in fields.items()
            if name.startswith("x-amz-") or name in _SIGNED
        }
        signed["host"] = fields.get("host", request.origin.netloc)
        made = _ToSign(request.method, request.url.partition("#")[0], signed)
        digest = fields.get(_HASH) or _hash_of(request.body)
        signer = _Signer(self._credentials.get_frozen_credentials(), self.region, digest, self._key)
        signer.add_auth(made)
        self._key = signer.key
        return [(name, made.headers[name]) for name in _MADE if name in made.headers]


class _ToSign:
    """What a signer of botocore uses of an AWSRequest, whose headers are slow.

    The names of *headers* are in lower case; the signer adds those of `_MADE`.
    """

    __slots__ = ("context", "headers", "method", "params", "url")

    def __init__(self, method: str, url: str, headers: dict[str, str]) -> None:
        self.method = method
        self.url = url
        self.headers = headers
        self.params: None = None
        self.context: dict[str, Any] = {}


class _SigningKey(NamedTuple):
    """What signs all requests of one *day*, derived from the *secret* of the credentials."""

    secret: str
    day: str
    key: bytes


class _Signer(S3SigV4Auth):  # type: ignore[misc]  # botocore has no types
    """The signer of one request, the hash of whose body is *digest*.

    *key* is that of an earlier request, and that of this one once it is signed.
    """

    def __init__(self, credentials: Any, region: str, digest: str, key: _SigningKey) -> None:
        super().__init__(credentials, "s3", region)
        self._digest = digest
        self.key = key

    def payload(self, request: Any) -> str:
        return self._digest

    # These do the same as those of botocore, in a fraction of the time.

    def headers_to_sign(self, request: Any) -> dict[str, str]:
        return {name.lower(): value for name, value in request.headers.items()}

    def canonical_headers(self, headers_to_sign: dict[str, str]) -> str:
        return "\n".join(
            f"{name}:{' '.join(value.split())}" for name, value in sorted(headers_to_sign.items())
        )

    def signature(self, string_to_sign: str, request: Any) -> str:
        secret, day = self.credentials.secret_key, request.context["timestamp"][:8]
        if (secret, day) != self.key[:2]:
            key = f"AWS4{secret}".encode()
            for part in (day, self._region_name, "s3", "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self.key = _SigningKey(secret, day, key)
        return hmac.digest(self.key.key, string_to_sign.encode(), "sha256").hex()


def _hash_of(body: object) -> str:
    if body is None:
        return hashlib.sha256().hexdigest()
    if isinstance(body, (bytes, bytearray, memoryview)):
        return hashlib.sha256(body).hexdigest()
    return UNSIGNED_PAYLOAD
