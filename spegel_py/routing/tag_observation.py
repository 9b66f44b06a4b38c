"""A node's signed word that a tag had a digest at its registry at some time. Pure.

The node whose runtime pulled the tag from its registry signs it with its libp2p key. Every node
that passes the tag on passes the same words on. So nobody can make a tag younger than its observer
said, or give it another digest in the observer's name.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature

from spegel_py.oci.digest import Digest
from spegel_py.routing.libp2p.identity import MAX_PEER_ID, public_key

PASSED_ON = "0"
"""The value of TAG_SEEN_HEADER where a node got the tag from a peer, without an observation."""

MAX_HEADER = 300
"""Characters of the longest header that is looked at; a real one has 152."""

Sign = Callable[[bytes], bytes]
"""Returns the 64 bytes of an Ed25519 signature with this node's own key."""

_VERSION = "1"
_PURPOSE = "spegel-py tag seen 1"
_SIGNATURE_SIZE = 64


class ObservationInvalid(ValueError):
    """The text of an observation is not one, or its signature is not that of the observer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TagObservation:
    """One observation.

    Args:
        name: the tag's full name in the canonical spelling, `registry/repository:tag`.
        digest: the digest that the tag had.
        seen: Unix time in whole seconds, by the observer's clock.
        observer: peer id of the node that saw it.
        signature: the observer's Ed25519 signature over the other fields.
    """

    name: str
    digest: Digest
    seen: int
    observer: str
    signature: bytes = field(repr=False)

    @classmethod
    def made(
        cls, name: str, digest: Digest, *, seen: int, observer: str, sign: Sign
    ) -> TagObservation:
        """Return a new observation of this node, signed."""
        signature = sign(_message(name, digest, seen, observer))
        return cls(name=name, digest=digest, seen=seen, observer=observer, signature=signature)

    @classmethod
    def parse(
        cls, header: str, *, name: str, digest: Digest, is_verified: bool = False
    ) -> TagObservation:
        """Return the observation that came with the answer of a tag. Raises ObservationInvalid.

        The name is that of the request and the digest that of the answer, so an observation of
        another tag or of another digest has the wrong signature. With `is_verified` the signature
        is not verified again.
        """
        parts = header.split(";")
        if len(header) > MAX_HEADER or len(parts) != 4 or parts[0] != _VERSION:
            raise ObservationInvalid("the observation is malformed")
        _, seen, observer, signature = parts
        is_number = seen.isascii() and seen.isdigit() and len(seen) <= 11
        if not is_number or len(observer) > MAX_PEER_ID:
            raise ObservationInvalid("the observation is malformed")
        found = cls(
            name=name,
            digest=digest,
            seen=int(seen),
            observer=observer,
            signature=_decoded(signature),
        )
        if found.header != header:
            raise ObservationInvalid("the observation has another spelling than its own")
        if not is_verified:
            found._check()
        return found

    @property
    def header(self) -> str:
        """The value of TAG_SEEN_HEADER."""
        signature = base64.urlsafe_b64encode(self.signature).decode().rstrip("=")
        return f"{_VERSION};{self.seen};{self.observer};{signature}"

    def _check(self) -> None:
        message = _message(self.name, self.digest, self.seen, self.observer)
        try:
            public_key(self.observer).verify(self.signature, message)
        except (ValueError, InvalidSignature):
            raise ObservationInvalid("the observation is not signed by its observer") from None


def _message(name: str, digest: Digest, seen: int, observer: str) -> bytes:
    """Return the bytes that are signed. No field has a line break."""
    return "\n".join((_PURPOSE, name, str(digest), str(seen), observer)).encode()


def _decoded(text: str) -> bytes:
    try:
        found = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (ValueError, binascii.Error):
        raise ObservationInvalid("the observation is malformed") from None
    if len(found) != _SIGNATURE_SIZE:
        raise ObservationInvalid("the observation is malformed")
    return found
