"""What is made up for the stage: requests, attempts, alerts, parts of images and trees, as the
program writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spegel_py.admin.measurement import MeasuredPart
from spegel_py.inflight.messages import Role, TreeNode, TreeSnapshot
from spegel_py.inflight.tree_view import TreeView
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import PullRequest
from spegel_py.outcomes import AttemptOutcome, AttemptRecord, ContentSource
from spegel_py.routing.base import Peer


def descriptor(seed: str, media_type: str, size: int) -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(Digest.of(seed.encode())), "size": size}


def request(name: str, content: str, *, mirrored: bool = False) -> PullRequest:
    registry, _, rest = name.partition("/")
    repository = rest.partition(":")[0]
    return PullRequest.parse(
        method="GET",
        target=f"/v2/{repository}/blobs/{Digest.of(content.encode())}?ns={registry}",
        headers=[("X-Spegel-Mirrored", "true")] if mirrored else [],
    )


def attempt(
    peer: Peer, count: int, ms: float, outcome: AttemptOutcome = AttemptOutcome.OK
) -> AttemptRecord:
    return AttemptRecord(
        peer=peer.id,
        address=peer.authority,
        bytes=count,
        milliseconds=round(ms, 1),
        outcome=outcome,
    )


def alert(
    number: int,
    tier: str,
    condition: str,
    subject: str,
    detail: str,
    opened: float,
    recovery: float | None,
) -> dict[str, Any]:
    return {
        "id": f"ALERT-20251124-{number:03}",
        "tier": tier,
        "condition": condition,
        "subject": subject,
        "source": "supervision",
        "detail": detail,
        "opened": opened,
        "detection_seconds": 1.2,
        "closed": None if recovery is None else opened + recovery,
        "recovery_seconds": recovery,
        "escalated": False,
        "flaps": 0,
    }


def part(
    kind: Any, size: int, source: ContentSource, peer: str | None, seconds: float
) -> MeasuredPart:
    return MeasuredPart(
        kind=kind,
        digest=str(Digest.of(f"{kind} {size}".encode())),
        size=size,
        moved=0 if source is ContentSource.NONE else size,
        source=source,
        peer=peer,
        first_byte=0.0021,
        seconds=seconds,
    )


def shape(names: Sequence[str], parents: Sequence[int | None], *, far: int) -> TreeSnapshot:
    """Return a tree whose first node leads and has `far` bytes, and whose others follow, each a
    little behind.
    """
    return TreeSnapshot(
        tuple(
            TreeNode(
                name,
                parent,
                Role.LEADER if parent is None else Role.FOLLOWER,
                max(0, far - 3_000_000 * number),
            )
            for number, (name, parent) in enumerate(zip(names, parents, strict=True))
        )
    )


def sight(
    content: str, total: int | None, role: Role, shape: TreeSnapshot, *, is_told: bool = True
) -> TreeView:
    return TreeView(
        digest=Digest.of(content.encode()), total=total, role=role, snapshot=shape, is_told=is_told
    )


def parts(sights: Sequence[TreeView]) -> list[dict[str, object]]:
    """Return what `/debug/state` tells of a node's parts, as far as the page reads it."""
    return [{"digest": str(each.digest), "role": each.role.value} for each in sights]


NO_REPLICAS: dict[str, Any] = {
    "floor": 0,
    "ceiling": 0,
    "draining": None,
    "images": [],
    "taking": [],
}
"""The answer of `/debug/replicas` at a node that keeps none."""


def replica(name: str, **given: object) -> dict[str, Any]:
    """Return an image of `/debug/replicas`: kept here and elsewhere, as often as it is wanted."""
    usual = {
        "manifest": str(Digest.of(name.encode())),
        "names": [name],
        "size": 12_000_000,
        "runtime": True,
        "replica": True,
        "replicas": 2,
        "target": 2,
        "holders": 3,
        "zones": ["eu-1a", "eu-1b"],
        "heat": 1.5,
        "selected": True,
        "kept_since": 1_790_000_000.0,
        "reason": "floor",
    }
    return usual | given
