"""The values of a measured pull: source and duration of each manifest and blob. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from spegel_py.outcomes import ContentSource


@dataclass(slots=True, kw_only=True)
class MeasuredPart:
    """One manifest or blob of the image.

    `digest` is None for a tag that nobody has. `source` is None until the answer. `first_byte` and
    `seconds` count from the request. `peer` is the id of the peer whose bytes came first.
    """

    kind: Literal["manifest", "blob"]
    digest: str | None
    size: int = 0
    moved: int = 0
    source: ContentSource | None = None
    peer: str | None = None
    first_byte: float | None = None
    seconds: float | None = None
    error: str | None = None

    def as_json(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "digest": self.digest,
            "size": self.size,
            "bytes": self.moved,
            "source": self.source.value if self.source else None,
            "peer": self.peer,
            "first_byte_ms": _ms(self.first_byte),
            "ms": _ms(self.seconds),
            "error": self.error,
        }


@dataclass(slots=True, kw_only=True)
class Measurement:
    """A measurement, under way until `is_over`; `at` is Unix time.

    `error` is the reason if it ended early.
    """

    reference: str
    at: float
    parts: list[MeasuredPart] = field(default_factory=list)
    seconds: float = 0.0
    is_over: bool = False
    error: str | None = None

    @property
    def bytes(self) -> Counter[str]:
        """The bytes by source."""
        total: Counter[str] = Counter()
        for part in self.parts:
            total[part.source or ContentSource.NONE] += part.moved
        return total

    @property
    def size(self) -> int:
        """Bytes of all parts that are known so far."""
        return sum(part.size for part in self.parts)

    @property
    def missing(self) -> int:
        """The number of parts that a runtime would fetch from the registry, or that broke off."""
        return sum(
            part.source is ContentSource.NONE or part.error is not None for part in self.parts
        )

    def as_json(self) -> dict[str, object]:
        """Return the measurement as `/debug/measure` shows it."""
        moved = self.bytes
        return {
            "reference": self.reference,
            "at": round(self.at, 3),
            "over": self.is_over,
            "error": self.error,
            "seconds": round(self.seconds, 4),
            "bytes": moved.total(),
            "size": self.size,
            "sources": {
                source.value: moved[source] for source in (ContentSource.LOCAL, ContentSource.PEER)
            },
            "missing": self.missing,
            "parts": [part.as_json() for part in self.parts],
        }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
