"""The locks of the image's packages, read from the text that pip reads. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_PACKAGE = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>\S+)")
_HASH = re.compile(r"--hash=sha256:(?P<hash>[0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Locked:
    """One package of a lock."""

    version: str
    hashes: frozenset[str]
    """SHA-256 of each file that the version has, in hexadecimal."""


def packages(text: str) -> dict[str, Locked]:
    """Return the packages of a lock by name.

    Raises:
        ValueError: A line is not a package at one version with SHA-256 hashes, as an option is.
    """
    found: dict[str, Locked] = {}
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for entry in plain.replace("\\\n", " ").splitlines():
        requirement, *hashes = entry.split()
        package = _PACKAGE.fullmatch(requirement)
        matches = [_HASH.fullmatch(one) for one in hashes]
        if package is None or package["name"] in found or not all(matches):
            raise ValueError(f"no locked package: {entry[:100]}")
        digests = frozenset(match["hash"] for match in matches if match)
        found[package["name"]] = Locked(package["version"], digests)
    return found


def versions(text: str) -> dict[str, str]:
    """Return the versions of a constraints file, or of `name==version` lines, by name."""
    lines = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return dict(line[0].split("==") for line in lines)


def differences(lock: Mapping[str, Locked], wanted: Mapping[str, str]) -> list[str]:
    """Return a line for each locked package without hashes or at another version than wanted."""
    return [
        f"{name}=={package.version}: "
        + (f"{wanted.get(name, 'none')} is wanted" if package.hashes else "no hashes")
        for name, package in lock.items()
        if not package.hashes or wanted.get(name) != package.version
    ]
