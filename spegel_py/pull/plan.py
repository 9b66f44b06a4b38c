"""The content to fetch: the chosen manifests of an index, and the blobs below them. Pure.

Platforms are normalised and matched as in containerd's package `platforms`. `arm64` is `arm64/v8`,
`amd64` is `amd64/v1`, `arm` is `arm/v7`. A machine runs its own variant and lower ones; the highest
wins.
"""

from __future__ import annotations

import json
import platform as machine
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from spegel_py.errors import ConfigError, ManifestInvalid
from spegel_py.oci.manifest import INDEXES, MANIFESTS, Child, all_children

_ALIASES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv6l": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
}
_DEFAULT_VARIANTS = {"amd64": "v1", "arm64": "v8", "arm": "v7"}


_LEVEL = re.compile(r"v([0-9]{1,3})")
"""A variant with an order, such as v7. An image may contain any text there."""


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system and a processor, by Go's names.

    `variant` is explicit if the processor has any.
    """

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        shown = (
            ""
            if self.variant == _DEFAULT_VARIANTS.get(self.architecture, "")
            else f"/{self.variant}"
        )
        return f"{self.os}/{self.architecture}{shown}"

    @classmethod
    def of(cls, os: str, architecture: str, variant: str = "") -> Self:
        """Return the platform with these names, in normal form."""
        name, implied = _ALIASES.get(architecture.lower(), (architecture.lower(), ""))
        found = variant.lower() or implied or _DEFAULT_VARIANTS.get(name, "")
        return cls(os.lower(), name, f"v{found}" if found.isdigit() else found)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the platform written as `os/arch[/variant]`, or raise ConfigError."""
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(
            part and part.isascii() and part.isprintable() for part in parts
        ):
            raise ConfigError(
                f"{text[:80]!r} is not a platform; "
                "write os/arch or os/arch/variant, as in linux/arm64"
            )
        return cls.of(*parts)

    @classmethod
    def here(cls) -> Self:
        """Return Linux on this machine's processor, whatever the machine's own system is."""
        return cls.of("linux", machine.machine() or "amd64")

    def rank(self, other: Platform) -> int | None:
        """Return how well content for `other` runs here; a higher number is better, None means not
        at all.
        """
        if (self.os, self.architecture) != (other.os, other.architecture):
            return None
        if self.variant == other.variant:
            return 1000
        mine, others = _level(self.variant), _level(other.variant)
        return others if mine is not None and others is not None and others < mine else None


def _level(variant: str) -> int | None:
    found = _LEVEL.fullmatch(variant)
    return int(found[1]) if found else None


def select(index: bytes, platform: Platform | None) -> tuple[Child, ...]:
    """Return the manifests of an index to fetch: all without a platform, else the best match.

    A nested index is always included. An entry without a platform is taken if no other entry fits.
    Raises ManifestInvalid, and ConfigError if nothing fits the platform.
    """
    entries = platforms(index)
    if platform is None:
        return tuple(dict.fromkeys(child for child, _ in entries))
    nested = tuple(child for child, _ in entries if child.media_type in INDEXES)
    ranked = [
        (rank, child)
        for child, found in entries
        if child not in nested
        and (rank := -1 if found is None else platform.rank(found)) is not None
    ]
    # of several equally good ones, the first
    best = max(ranked, key=lambda pair: pair[0], default=None)
    if best is None and not nested:
        has = (
            ", ".join(
                sorted({str(found) for _, found in entries if found and found.os != "unknown"})
            )
            or "none"
        )
        raise ConfigError(
            f"the image is not there for {platform}; choose with --platform one of: {has}"
        )
    return nested + ((best[1],) if best else ())


def platforms(index: bytes) -> list[tuple[Child, Platform | None]]:
    """Return an index's entries with their platforms; None for an entry without one.

    Raises ManifestInvalid.
    """
    found = all_children(index)  # checks every used field but the platform
    entries = json.loads(index).get("manifests") or []
    return [
        (child, _platform(entry.get("platform")))
        for child, entry in zip(found, entries, strict=True)
    ]


def blobs(manifests: Iterable[bytes]) -> tuple[Child, ...]:
    """Return the configs and layers of image manifests in order, each digest once.

    Raises ManifestInvalid.
    """
    return unique(child for data in manifests for child in all_children(data))


def unique(found: Iterable[Child]) -> tuple[Child, ...]:
    """Return each digest once.

    Raises ManifestInvalid for a digest with two sizes, and for a manifest in place of a blob.
    """
    known: dict[str, Child] = {}
    for child in found:
        if known.setdefault(str(child.digest), child).size != child.size:
            raise ManifestInvalid(
                f"{child.digest} is said to have {child.size} bytes here and another size there"
            )
        if child.media_type in MANIFESTS:
            raise ManifestInvalid(f"{child.digest} is a manifest where a config or a layer belongs")
    return tuple(known.values())


def rotated(found: Sequence[Child], start: int) -> tuple[Child, ...]:
    """Return the same sequence from another start, so that nodes that pull together can exchange
    blobs.
    """
    return tuple(found[(start + at) % len(found)] for at in range(len(found)))


def _platform(entry: Any) -> Platform | None:
    if not isinstance(entry, dict):
        return None
    fields = [entry.get(name, "") for name in ("os", "architecture", "variant")]
    return Platform.of(*fields) if all(isinstance(value, str) for value in fields) else None
