"""XSalsa20, the stream cipher of libp2p's private networks (libp2p specification, pnet, PSK V1).

pycryptodome has Salsa20, whose nonce of 8 bytes is too short for a random one. XSalsa20 takes 24
bytes: the first 16 and the key make the key of Salsa20 (Bernstein, "Extending the Salsa20 nonce",
2011). No package of the project has it for data that comes in pieces.
"""

from __future__ import annotations

import struct
from typing import Protocol

NONCE_BYTES = 24
_HASHED_NONCE_BYTES = 16
_CONSTANTS = struct.unpack("<4I", b"expand 32-byte k")
_COLUMNS = ((0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11))
_ROWS = ((0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14))
_STEPS = ((1, 0, 3, 7), (2, 1, 0, 9), (3, 2, 1, 13), (0, 3, 2, 18))
"""Of the quarter round: the word that changes, the two that are added, and the rotation."""
_WORD = 0xFFFFFFFF


class StreamCipher(Protocol):
    """Encrypts or decrypts a stream piece by piece; both are the same operation."""

    def encrypt(self, data: bytes) -> bytes: ...


def xsalsa20(key: bytes, nonce: bytes) -> StreamCipher:
    """Return the cipher for one direction of one connection: it takes about 0.2 ms to make."""
    from Crypto.Cipher import Salsa20  # 1 MB that a node without keys does not need

    derived = hsalsa20(key, nonce[:_HASHED_NONCE_BYTES])
    cipher: StreamCipher = Salsa20.new(key=derived, nonce=nonce[_HASHED_NONCE_BYTES:])
    return cipher


def hsalsa20(key: bytes, nonce: bytes) -> bytes:
    """Return the 32 bytes that a key of 32 and a nonce of 16 bytes are hashed to."""
    a, b, c, d = _CONSTANTS
    low, high = struct.unpack("<4I", key[:16]), struct.unpack("<4I", key[16:])
    words = [a, *low, b, *struct.unpack("<4I", nonce), c, *high, d]
    for _ in range(10):
        for quarter in (*_COLUMNS, *_ROWS):
            for changed, first, second, bits in _STEPS:
                total = (words[quarter[first]] + words[quarter[second]]) & _WORD
                words[quarter[changed]] ^= (total << bits & _WORD) | total >> (32 - bits)
    return struct.pack("<8I", *(words[n] for n in (0, 5, 10, 15, 6, 7, 8, 9)))
