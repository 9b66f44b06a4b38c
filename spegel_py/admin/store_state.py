"""The member `store` of `/debug/state`: how the node reads its content, in words too. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from spegel_py import wording

if TYPE_CHECKING:
    from spegel_py.store.containerd import ContentAccess


def containerd_state(
    access: ContentAccess, *, shared: Collection[str], others: Mapping[str, int], now: float
) -> Mapping[str, object]:
    """Return the state of containerd's content as JSON.

    `reads` is the folder in use, null for the socket. `reason` tells why it is not `content_path`.
    `text` is for people, and `is_well` is false if an operator should read it.

    Args:
        shared: the namespaces whose images are shared.
        others: the number of images in each other namespace.
        now: monotonic time.
    """
    away = None if access.away is None else round(now - access.away, 1)
    return {
        "kind": "containerd",
        "socket": str(access.socket),
        "namespace": access.namespace,
        "namespaces": list(shared),
        "content_path": _text(access.given),
        "reads": _text(access.path),
        "reason": access.reason or None,
        "away_seconds": away,
        "error": access.error or None,
        "other_namespaces": others,
        "others": wording.other_images(others, shared=shared),
        "text": _sentence(access),
        "is_well": away is None and not access.reason,
    }


def layout_state(root: Path | None) -> Mapping[str, object]:
    """Return the state of an OCI image layout's content as JSON."""
    return {
        "kind": "layout",
        "reads": _text(root),
        "other_namespaces": {},
        "others": "",
        "text": f"{root}, an OCI image layout",
        "is_well": True,
    }


def _sentence(access: ContentAccess) -> str:
    if access.away is None:
        return wording.content_read(access.path, reason=access.reason)
    if access.has_followed and access.path is not None:
        return wording.known_content_shared(access.error)
    return wording.nothing_shared(access.error)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
