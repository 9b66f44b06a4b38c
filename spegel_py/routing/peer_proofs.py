"""Proofs between peers: a request shows which peer asks, an answer which peer answers. Pure.

A node tells each connected peer a key, inside the encrypted connection of libp2p, and a new key
each hour. The peer's HTTP requests to this node carry a code made with the key (BLAKE2b with a key,
RFC 7693). So do the answers to them. Nobody else can make these codes, and no password has to
travel. Bodies stay plain, so that the kernel can move them.

The key is derived from secret bytes of the node, the peer's id and the hour. So a node keeps no
table of keys, and its restart makes all keys invalid.

Hours and the times of requests are on the telling node's own clock: seconds since its start. The
hello tells that clock together with the key. So the time of day of two nodes may differ by any
amount, and may jump.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from spegel_py.oci.distribution import CLIENT_HEADER, IN_FLIGHT_HEADER, SOURCE_HEADER

PROOF_HEADER = "X-Spegel-Proof"
"""Carries the proof of a request, and of an answer."""

ASKED = ("Range", IN_FLIGHT_HEADER, CLIENT_HEADER)
"""Headers of a request that its proof covers, besides method and target."""

BELIEVED = (
    "Content-Length",
    "Transfer-Encoding",
    "Content-Range",
    "Content-Type",
    "Content-Encoding",
    "Docker-Content-Digest",
    "Age",
    SOURCE_HEADER,
)
"""Headers of an answer that its proof covers, besides the status: all that are believed."""

KEY_SECONDS = 3600.0
"""Seconds after which a peer is told another key."""

KEPT_HOURS = 2
"""Hours for which a key stays valid after its own. A peer may hear of the next key as late as one
announce interval after the change, which is at most an hour."""

WINDOW = 60
"""Seconds by which the time of a request may differ from the answering node's clock. A hello may be
read some seconds after it was written. A request that somebody repeats is refused after that."""

SECRET_SIZE = 32
"""Bytes of a node's secret, and of a key."""

_VERSION = "1"
_NONCE_SIZE = 8
_MAC_SIZE = 16
_MAX_HEADER = 256
"""Characters of the longest proof that is looked at; a real one has about 130."""


class PeerProofs(StrEnum):
    """How proofs are used: the values of `--peer-proofs`."""

    OFF = "off"
    PREFER = "prefer"
    """Peers that tell no key, such as Spegel's own nodes, are asked and answered without proofs."""
    REQUIRE = "require"


class ProofResult(StrEnum):
    """The result of checking a request or an answer, as the metric names it."""

    RIGHT = "right"
    MISSING = "missing"
    WRONG = "wrong"
    LATE = "late"
    """The request is from another time, or was made with an old key."""
    UNKNOWN = "unknown"
    """The proof is right, but its peer is not connected, or lacks the password."""


class ProofInvalid(ValueError):
    """The proof of a request is not right; `result` says in which way."""

    def __init__(self, text: str, result: ProofResult) -> None:
        super().__init__(text)
        self.result = result


@dataclass(frozen=True, slots=True)
class ToldKey:
    """A key as the hello tells it.

    Args:
        hour: hours since the telling node's start.
        secret: SECRET_SIZE bytes.
        clock: seconds since the telling node's start, when it wrote the hello.
    """

    hour: int
    secret: bytes = field(repr=False)
    clock: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestProof:
    """The proof of one request. Both sides have it, and it ties the answer to the request.

    Args:
        peer: id of the asking peer.
        hour: hour of the key.
        time: seconds on the answering node's clock.
        nonce: hexadecimal digits that make the request unique.
        mac: the code over the request, as hexadecimal digits.
        key: the key that both sides know.
    """

    peer: str
    hour: int
    time: int
    nonce: str
    mac: str
    key: bytes = field(repr=False)

    @property
    def header(self) -> str:
        """The value of the request's PROOF_HEADER."""
        return f"{_VERSION};{self.peer};{self.hour};{self.time};{self.nonce};{self.mac}"

    def answer(self, status: int, headers: Mapping[str, str]) -> str:
        """Return the value of PROOF_HEADER for an answer; `headers` has names in any case."""
        believed = (headers.get(name, "") for name in BELIEVED)
        return f"{_VERSION};{_mac(self.key, ('answer', self.mac, str(status), *believed))}"

    def is_right(self, status: int, headers: Mapping[str, str]) -> bool:
        """Return True if an answer is the asked peer's own, and its headers are unchanged."""
        given = headers.get(PROOF_HEADER, "")
        return given.isascii() and hmac.compare_digest(given, self.answer(status, headers))


@dataclass(frozen=True, slots=True)
class PeerKey:
    """The key that a connected peer told this node.

    Args:
        hour: hour of the key, on the peer's clock.
        secret: the key.
        ahead: seconds by which the peer's clock is ahead of this node's monotonic clock.
    """

    hour: int
    secret: bytes = field(repr=False)
    ahead: float

    @classmethod
    def told(cls, key: ToldKey, *, now: float) -> PeerKey:
        """Return the key of a hello that came at `now`, on this node's monotonic clock."""
        return cls(key.hour, key.secret, key.clock - now)

    def prove(
        self, own_id: str, *, method: str, target: str, headers: Mapping[str, str], now: float
    ) -> RequestProof:
        """Return the proof of a request to the peer; `headers` are those in ASKED that it has."""
        at, nonce = int(now + self.ahead), secrets.token_hex(_NONCE_SIZE)
        mac = _request_mac(self.secret, method, target, at, nonce, headers)
        return RequestProof(
            peer=own_id, hour=self.hour, time=at, nonce=nonce, mac=mac, key=self.secret
        )


class NodeSecret:
    """The secret bytes of this node, from which the key of each peer is derived.

    It may be used in any thread.

    Args:
        clock: returns monotonic seconds.
    """

    def __init__(
        self, secret: bytes | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._secret = secret or secrets.token_bytes(SECRET_SIZE)
        self._clock = clock
        self._began = clock()

    def __repr__(self) -> str:
        return f"<NodeSecret in its hour {self.hour}>"

    @property
    def clock(self) -> float:
        """Seconds since this node's start."""
        return self._clock() - self._began

    @property
    def hour(self) -> int:
        """The hour whose keys are told now."""
        return int(self.clock / KEY_SECONDS)

    def tell(self, peer_id: str) -> ToldKey:
        """Return the key for a peer, to be told to it and to nobody else."""
        clock = self.clock
        hour = int(clock / KEY_SECONDS)
        return ToldKey(hour, self._key(peer_id, hour), clock)

    def check(
        self, proof: str, *, method: str, target: str, headers: Mapping[str, str]
    ) -> RequestProof:
        """Return the proof of a request, whose peer is then certain. Raises ProofInvalid.

        Args:
            proof: the value of PROOF_HEADER.
            target: the request target as it was sent.
            headers: the request's headers, by names in any case.
        """
        peer, hour, at, nonce, mac = _parse(proof)
        clock = self.clock
        if abs(at - clock) > WINDOW:
            text = f"the proof is {abs(at - clock):.0f} s away from this node's time"
            raise ProofInvalid(text, ProofResult.LATE)
        if not 0 <= int(clock / KEY_SECONDS) - hour <= KEPT_HOURS:
            raise ProofInvalid("the proof was made with the key of another hour", ProofResult.LATE)
        key = self._key(peer, hour)
        right = _request_mac(key, method, target, at, nonce, headers)
        if not hmac.compare_digest(mac, right):
            raise ProofInvalid("the proof is not that of the request", ProofResult.WRONG)
        return RequestProof(peer=peer, hour=hour, time=at, nonce=nonce, mac=mac, key=key)

    def _key(self, peer_id: str, hour: int) -> bytes:
        message = f"http proof 1\n{hour}\n{peer_id}".encode()
        return hashlib.blake2b(message, key=self._secret, digest_size=SECRET_SIZE).digest()


def _parse(proof: str) -> tuple[str, int, int, str, str]:
    """Return peer id, hour, time, nonce and code of a request's proof. Raises ProofInvalid."""
    parts = proof.split(";")
    if len(proof) > _MAX_HEADER or len(parts) != 6 or parts[0] != _VERSION or not proof.isascii():
        raise ProofInvalid("the proof is malformed", ProofResult.WRONG)
    _, peer, hour, at, nonce, mac = parts
    if not (_is_number(hour) and _is_number(at)):
        raise ProofInvalid("the proof is malformed", ProofResult.WRONG)
    return peer, int(hour), int(at), nonce, mac


def _is_number(text: str) -> bool:
    return text.isdigit() and len(text) <= 12 and str(int(text)) == text


def _request_mac(
    key: bytes, method: str, target: str, at: int, nonce: str, headers: Mapping[str, str]
) -> str:
    asked = (headers.get(name, "") for name in ASKED)
    return _mac(key, ("request", method, target, str(at), nonce, *asked))


def _mac(key: bytes, fields: Iterable[str]) -> str:
    """Return the code over fields, of which none has a line break, as hexadecimal digits."""
    message = "\n".join(fields).encode(errors="surrogatepass")  # bytes that are no text, too
    return hashlib.blake2b(message, key=key, digest_size=_MAC_SIZE).hexdigest()
