"""Whether each miss of a pull has a record, and whether its reason is right: possible under the fault, and borne out by
what else is in the record. The judging is pure.

The reason is not taken from the code under test again: `_EVIDENCE` says in its own words what a record has to show.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from tests.lab import Node

Record = Mapping[str, Any]
"""A decision as `/debug/decisions` has it."""


def _gave_up(record: Record) -> bool:
    return bool(record["attempts"]) and all(one["outcome"] != "ok" for one in record["attempts"])


def _is_short(record: Record) -> bool:
    return record["status"] in (200, 206) and sum(record["bytes"].values()) < record["length"]


_EVIDENCE: Mapping[str, Callable[[Record], bool]] = {
    "not_found": lambda record: (
        not record["peers_found"] and not record["attempts"] and record["status"] == 404
    ),
    "lookup_timeout": lambda record: not record["peers_found"] and not record["attempts"],
    "shunned": lambda record: (
        record["peers_found"] > 0 and not record["attempts"] and record["status"] == 404
    ),
    "failed": lambda record: (
        _gave_up(record) and record["source"] is None and record["status"] == 404
    ),
    "cut": lambda record: _is_short(record) and bool(record["attempts"]),
    "client_gone": lambda record: record["source"] is None or _is_short(record),
    "store_away": lambda record: record["local"] == "away" and not record["attempts"],
}
"""By reason: whether a record shows what its reason says. A reason that is not here no row makes possible."""


def judge(
    decisions: Sequence[Record],
    *,
    allowed: Collection[str],
    fetched: Collection[str],
    was_away: bool,
) -> list[str]:
    """Return what is wrong with the misses of a pull, in words.

    `allowed` are the reasons that the fault makes possible; `fetched` are the paths that containerd got from the
    registry, each of which must have been a miss, unless the node itself `was_away`.
    """
    misses = [one for one in decisions if one["verdict"] == "miss"]
    wrong = [complaint for one in misses if (complaint := _complaint(one, allowed))]
    missed = {part for one in misses for part in (one["key"], one["digest"]) if part}
    unexplained = [] if was_away else [path for path in fetched if not _is_explained(path, missed)]
    return wrong + [f"no miss explains {path}" for path in dict.fromkeys(unexplained)]


def _complaint(miss: Record, allowed: Collection[str]) -> str:
    reason = miss["reason"]
    if reason not in allowed:
        return f"{reason} is no reason here: {miss['text']}"
    return "" if _EVIDENCE[reason](miss) else f"{reason} does not fit its record: {miss['text']}"


def _is_explained(path: str, missed: Collection[str]) -> bool:
    """Say whether something that was missed is what a path of the registry ends in: a digest, or a tag."""
    last = path.partition("?")[0].rsplit("/", 1)[-1]
    return any(one == last or one.endswith(f":{last}") for one in missed)


# Reading them


async def decisions_of(node: Node, *, log_from: int) -> tuple[list[Record], bool]:
    """Return the decisions of a node since it was started, and whether it has ended: then they are its log's, from a
    character on."""
    try:
        answer = await node.get("/debug/decisions?limit=1000", port=9090)
        return json.loads(answer.body)["decisions"], False
    except (OSError, http.client.HTTPException):
        return _logged(node.spegel.output[log_from:] if node.spegel else ""), True


def _logged(log: str) -> list[Record]:
    lines = [
        json.loads(line) for line in log.splitlines() if line.startswith("{") and line.endswith("}")
    ]
    return [line for line in lines if line.get("event") == "pull decided"]
