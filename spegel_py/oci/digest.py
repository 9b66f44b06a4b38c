"""Content digests: `algorithm:hex`, sha256 and sha512 (OCI image spec, "Digests")."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Protocol

from spegel_py.errors import DigestInvalid

_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_HEX = re.compile(r"[a-f0-9]+")


class Hasher(Protocol):
    """The methods of hashlib's objects that verify content."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A digest. `parse` checks it against the spec's grammar."""

    algorithm: str
    hex: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Return the digest written as `text`. Raises DigestInvalid with the reason."""
        algorithm, colon, hexa = text.partition(":")
        if not colon:
            raise DigestInvalid(f"a digest has the form algorithm:hex, not {text[:160]!r}")
        length = _HEX_LENGTH.get(algorithm)
        if length is None:
            raise DigestInvalid(
                f"the digest algorithm must be sha256 or sha512, not {algorithm[:32]!r}"
            )
        if len(hexa) != length or not _HEX.fullmatch(hexa):
            raise DigestInvalid(
                f"a {algorithm} digest has {length} lower-case hex digits: {text[:160]!r}"
            )
        return cls(algorithm, hexa)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """Return the digest of `data`."""
        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    def hasher(self) -> Hasher:
        """Return a fresh hash object of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def matches(self, data: bytes | bytearray | memoryview) -> bool:
        """Return True if `data` has this digest."""
        return hashlib.new(self.algorithm, data).hexdigest() == self.hex
