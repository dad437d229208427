"""`DigestAuth`: Digest authentication (RFC 7616).

Guarantees: whatever a server sends as a challenge, nothing here raises; at worst, the 401 is the
result. What is made of a challenge can be sent. A body that can be read only once is not sent
twice. The password is not sent. No message and no repr quotes it or the user name. Touches nothing
but the random numbers of the system.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from threading import RLock
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from dugong.client.auth import Auth, encode_credential
from dugong.client.challenges import Challenge, parse_challenges
from dugong.client.forking import begin_anew_in_child
from dugong.pool.body import can_be_sent_again

if TYPE_CHECKING:
    from dugong.connection.encode import HeadersLike
    from dugong.pool.body import BodyLike
    from dugong.pool.request import Request
    from dugong.pool.response import Response, StreamedResponse
    from dugong.pool.url import Origin

__all__ = ["DigestAuth", "make_cnonce"]

K = TypeVar("K")
V = TypeVar("V")

# The hash functions of RFC 7616 §6.1, the weakest first, and what hashlib calls them.
_HASHES = {"md5": "md5", "sha-256": "sha256", "sha-512-256": "sha512_256"}
_TO_BE_QUOTED = re.compile(r'(["\\])')
_SENDABLE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_LONGEST_CHALLENGE = 4096  # characters of what is sent back of one
_MAX_REMEMBERED = 256  # origins, and nonces


class _Session(NamedTuple):
    """An authentication session (RFC 7616 §3.6): what is remembered of a challenge."""

    hash_name: str
    key: str  # H(A1), which stands for the password
    start: str  # of the value of Authorization: what does not change
    nonce: str
    cnonce: str | None  # that of A1, for -sess
    qops: frozenset[str]

    def __repr__(self) -> str:
        return "<_Session>"  # not the key

    def authorization(self, request: Request, count: int) -> str:
        """Return the value of Authorization for the *count*-th request with this nonce (§3.4)."""
        qop = _qop_for(self.qops, request.body)
        a2 = f"{request.method}:{request.target}"
        if qop == "auth-int":
            a2 += f":{_hashed(self.hash_name, cast(bytes, request.body or b''))}"
        middle, end = "", ""
        if qop:
            cnonce = self.cnonce or make_cnonce()
            middle = f"{count:08x}:{cnonce}:{qop}:"
            end = f', qop={qop}, nc={count:08x}, cnonce="{cnonce}"'
        hashed = f"{self.key}:{self.nonce}:{middle}{_hashed(self.hash_name, a2.encode('ascii'))}"
        response = _hashed(self.hash_name, hashed.encode("latin-1"))
        return (
            f"{self.start}, uri={_quoted(request.target)}, nonce={_quoted(self.nonce)}"
            f'{end}, response="{response}"'
        )


class DigestAuth(Auth):
    """A user name and a password that is not sent (RFC 7616).

    Supports MD5, SHA-256 and, where the `hashlib` of Python has it, SHA-512-256, each with -sess
    too; of several challenges it takes the one with the strongest. It supports the *qop* ``auth``,
    ``auth-int`` for a body that is None or bytes-like, and none at all (RFC 2069). What `rspauth`
    says is not checked.

    The last challenge of each origin is remembered, for up to 256 origins, so that later requests
    to it are authenticated at once. The first one is sent twice. If its body can be read only once
    and has been used, its result is the 401; but requests after it are authenticated.

    Raises ValueError if the *user* or the *password* has a control character. Any thread may use
    it, and it may be shared by clients. If it is pickled, the password is, and what is remembered
    is not, for each process has to count its own requests. So a forked child remembers nothing,
    either.
    """

    def __init__(self, user: str, password: str) -> None:
        # These two never change.
        self._user = encode_credential("user", user)
        self._password = encode_credential("password", password)
        self._begin_anew()

    def _begin_anew(self) -> None:
        # Guards the two below. Reentrant, for a signal handler may send a request while its thread
        # does; a forked child has a new one.
        self._lock = RLock()
        self._sessions: dict[Origin, _Session] = {}
        self._counts: dict[str, int] = {}  # how many requests were made with each nonce
        begin_anew_in_child(self)

    _begin_in_child = _begin_anew

    def __getstate__(self) -> dict[str, Any]:
        own = ("_lock", "_sessions", "_counts")
        return {name: value for name, value in vars(self).items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin_anew()

    def headers(self, request: Request) -> HeadersLike | None:
        """Return the Authorization field for the challenge that is remembered, if there is one."""
        with self._lock:
            session = self._sessions.get(request.origin)
            if session is None or _qop_for(session.qops, request.body) is None:
                return None
            count = self._counts.get(session.nonce, 0) + 1
            _remember(self._counts, session.nonce, count)
        return (("Authorization", session.authorization(request, count)),)

    def flow(self, request: Request) -> Generator[Request, Response | StreamedResponse, None]:
        """Send *request*; if it is challenged, once more; and again if the nonce was stale then."""
        response = yield request
        session = None
        for must_be_stale in (False, True):
            if response.status != 401:
                break
            values = response.headers.get_all("www-authenticate", [])
            challenge = _strongest(parse_challenges(values), request.body)
            if challenge is None or (must_be_stale and not _is_true(challenge, "stale")):
                break
            session = self._begin(request.origin, challenge)
            if not can_be_sent_again(request.body):
                return
            response = yield request
        if response.status != 401:
            self._take_next_nonce(request.origin, response)
        elif session is not None:
            self._forget(request.origin, session)

    def _begin(self, origin: Origin, challenge: Challenge) -> _Session:
        """Remember *challenge*, which is supported, for the requests to *origin*."""
        parameters = challenge.parameters
        realm, nonce = parameters["realm"], parameters["nonce"]
        hash_name, is_sess = _algorithm(challenge)
        user_and_realm = self._user + b":" + realm.encode("latin-1")
        key = _hashed(hash_name, user_and_realm + b":" + self._password)
        cnonce = None
        if is_sess:
            # The first cnonce stays part of the key (§3.4.2). There are servers that take that of
            # each request for it, so all requests of a session have the same.
            cnonce = make_cnonce()
            key = _hashed(hash_name, f"{key}:{nonce}:{cnonce}".encode("latin-1"))
        if _is_true(challenge, "userhash"):
            start = f'Digest username="{_hashed(hash_name, user_and_realm)}", userhash=true'
        elif self._user.isascii():
            start = f"Digest username={_quoted(self._user.decode())}"
        else:
            from urllib.parse import quote_from_bytes

            start = f"Digest username*=UTF-8''{quote_from_bytes(self._user, safe='')}"
        start += f", realm={_quoted(realm)}"
        if "algorithm" in parameters:
            start += f", algorithm={parameters['algorithm']}"
        if "opaque" in parameters:
            start += f", opaque={_quoted(parameters['opaque'])}"
        session = _Session(hash_name, key, start, nonce, cnonce, _qops(challenge))
        with self._lock:
            known = self._sessions.get(origin)
            if known is not None and (known.nonce, known.start) == (nonce, start):
                return known  # that of another thread: for -sess, there is one cnonce for a nonce
            _remember(self._sessions, origin, session)
        return session

    def _take_next_nonce(self, origin: Origin, response: Response | StreamedResponse) -> None:
        """Use the nonce that *response* wants to be used from now on, if any (§3.5)."""
        values = response.headers.get_all("authentication-info")
        if values is None:
            return
        # The field has the parameters of a challenge, without the scheme.
        nonce = parse_challenges(["Digest", *values])[0].parameters.get("nextnonce")
        if not nonce or not _is_sendable(nonce):
            return
        with self._lock:
            if origin in self._sessions:
                self._sessions[origin] = self._sessions[origin]._replace(nonce=nonce)

    def _forget(self, origin: Origin, session: _Session) -> None:
        """Forget *session*, whose credentials were refused, so that they are not sent unasked."""
        with self._lock:
            if self._sessions.get(origin) is session:
                del self._sessions[origin]


def _remember(table: dict[K, V], key: K, value: V) -> None:
    """Store *value* as the newest of *table*, and drop the oldest if there are too many."""
    table.pop(key, None)
    table[key] = value
    if len(table) > _MAX_REMEMBERED:
        del table[next(iter(table))]


def _strongest(challenges: list[Challenge], body: BodyLike | None) -> Challenge | None:
    """Return the first challenge with the strongest algorithm; None if none is supported."""
    names = list(_HASHES.values())
    return max(
        (challenge for challenge in challenges if _is_supported(challenge, body)),
        key=lambda challenge: names.index(_algorithm(challenge)[0]),
        default=None,
    )


def _is_supported(challenge: Challenge, body: BodyLike | None) -> bool:
    """Return True if a request with *body* can meet *challenge*."""
    parameters = challenge.parameters
    if challenge.scheme != "digest" or not {"realm", "nonce"} <= parameters.keys():
        return False
    hash_name, is_sess = _algorithm(challenge)
    qops = _qops(challenge)
    if _qop_for(qops, body) is None or (is_sess and not qops):  # for -sess needs a cnonce
        return False
    try:
        _hashed(hash_name, b"")
    except ValueError:  # the algorithm is unknown, or this Python does not have it
        return False
    return _is_sendable(parameters["realm"] + parameters["nonce"] + parameters.get("opaque", ""))


def _algorithm(challenge: Challenge) -> tuple[str, bool]:
    """Return what hashlib calls the hash, "" if it is unknown; and if it is a -sess algorithm."""
    name = challenge.parameters.get("algorithm", "MD5").lower()
    base = name.removesuffix("-sess")
    return _HASHES.get(base, ""), base != name


def _qops(challenge: Challenge) -> frozenset[str]:
    words = challenge.parameters.get("qop", "").lower().split(",")
    return frozenset(word.strip(" \t") for word in words) - {""}


def _qop_for(qops: frozenset[str], body: BodyLike | None) -> str | None:
    """Return which of *qops* suits *body*; "" if there are none at all, None if none suits it."""
    if not qops:
        return ""
    if "auth" in qops:
        return "auth"
    is_in_memory = body is None or isinstance(body, (bytes, bytearray, memoryview))
    return "auth-int" if "auth-int" in qops and is_in_memory else None


def _is_true(challenge: Challenge, name: str) -> bool:
    return challenge.parameters.get(name, "").lower() == "true"


def _is_sendable(text: str) -> bool:
    return len(text) <= _LONGEST_CHALLENGE and _SENDABLE.fullmatch(text) is not None


def _quoted(text: str) -> str:
    """Return *text* as a quoted-string (RFC 9110 §5.6.4)."""
    escaped = _TO_BE_QUOTED.sub(r"\\\1", text)
    return f'"{escaped}"'


def _hashed(hash_name: str, data: bytes | bytearray | memoryview) -> str:
    """Return the hash of *data* in hexadecimal. Raises ValueError if there is no such hash."""
    import hashlib

    return hashlib.new(hash_name, data).hexdigest()


def make_cnonce() -> str:
    """Return a client nonce, of 128 random bits (RFC 7616 §3.4)."""
    return os.urandom(16).hex()
