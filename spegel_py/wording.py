"""Sentences about a node's content that several outputs show: state, page, doctor, log, probes.

Each sentence is made here only, so that outputs cannot contradict each other. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from spegel_py.tools import human


def containerd_away(socket: Path, cause: str = "") -> str:
    """Return the sentence for a daemon that does not answer."""
    return f"containerd does not answer at {socket}{f': {cause}' if cause else ''}"


def nothing_shared(reason: str) -> str:
    """Return the reason why a node is not ready: it can share nothing."""
    return f"{reason}; this node shares nothing until then"


def known_content_shared(reason: str) -> str:
    """Return the sentence for a daemon that is away, while its files can be read."""
    return f"{reason}; content from before is still shared, and newer content is not"


def content_read(path: Path | None, *, reason: str = "") -> str:
    """Return the sentence about the place that blobs are read from.

    Args:
        path: the folder; None for the socket.
        reason: why it is not the given folder; empty if it is.
    """
    if path is not None:
        return f"{path}{f', as containerd says: {reason}' if reason else ''}"
    if reason:
        return f"over containerd's socket: {reason}; downloads under way are not shared"
    return "over containerd's socket, as set; downloads under way are not shared"


def in_namespaces(namespaces: Collection[str], *, shared: Collection[str]) -> str:
    """Return the sentence about content that only other namespaces of containerd hold."""
    names = ", ".join(sorted(namespaces))
    plural = "s" if len(namespaces) > 1 else ""
    where = f"containerd's namespace{plural} {names}"
    return f"it is in {where}, which is not shared (only {_namespaces(shared)})"


def _namespaces(shared: Collection[str]) -> str:
    names = ", ".join(shared)
    return f"namespaces {names} are" if len(shared) > 1 else f"namespace {names} is"


def other_images(images: Mapping[str, int], *, shared: Collection[str]) -> str:
    """Return the sentence about the images of other namespaces; empty if there are none."""
    found = [
        f"{human.plural(number, 'image')} in {name}" for name, number in sorted(images.items())
    ]
    if not found:
        return ""
    return f"{', '.join(found)}: not shared, only {_namespaces(shared)}"


def tag_too_old(seconds: float) -> str:
    """Return the reason why a tag of this node is not answered any more."""
    ago = f"{human.span(seconds)} ago"
    return f"the tag here was last seen at its registry {ago}, which is too long for --tag-ttl"


NOT_MIRRORED = "it is not mirrored: --mirrored-registries or --registry-filters exclude it"
"""The reason why a node neither answers a pull nor asks peers for it, by its own settings."""

STORE_AWAY = "this node's own store is away"
"""Words for a store that does not answer, where the cause is not at hand."""

PEER_HAS_NOT = "does not have it any more, or cannot read it now"
"""Words for a peer that answers 404 to a request for content that it announced."""
