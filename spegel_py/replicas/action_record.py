"""The records of a node's actions on its replicas, for the audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from spegel_py.oci.digest import Digest

OnAction = Callable[[Mapping[str, object]], None]
"""Is called with the record of an action."""

ACTOR = "spegel-py"
"""The actor in these records: this program."""


def ignore_action(record: Mapping[str, object]) -> None:
    """Drop a record."""


def action_record(
    action: str, manifest: Digest, *, at: float, why: str, outcome: str, count: int
) -> Mapping[str, object]:
    """Return the record of an action.

    Args:
        action: `hold`, `take` or `release`.
        at: Unix time.
        count: bytes of the image that were held, received or freed.
    """
    return {
        "time": round(at, 3),
        "actor": ACTOR,
        "action": action,
        "manifest": str(manifest),
        "why": why,
        "outcome": outcome,
        "bytes": count,
    }
