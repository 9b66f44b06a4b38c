"""Judge the misses of a pull: each needs a record with a right reason.

A reason is right if the fault makes it possible and the other fields of the record confirm it.
`_EVIDENCE` defines that independently of the code under test. `judge` is pure.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from tests.integration.cluster import json_lines
from tests.support.lab import Node

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
"""By reason: whether the other fields of a record confirm it. No row allows any other reason."""


def judge(
    decisions: Sequence[Record],
    *,
    allowed: Collection[str],
    fetched: Collection[str],
    was_away: bool,
) -> list[str]:
    """Return the complaints about the misses of a pull, as text.

    Args:
        decisions: The records of the node.
        allowed: The reasons that the fault makes possible.
        fetched: The paths that containerd got from the registry. Each needs a miss.
        was_away: Whether the node itself had ended. Then a path needs no miss.
    """
    misses = [one for one in decisions if one["verdict"] == "miss"]
    wrong = [complaint for one in misses if (complaint := _complaint(one, allowed))]
    missed = {name for one in misses for name in (one["key"], one["digest"]) if name}
    unexplained = [] if was_away else [path for path in fetched if not _is_explained(path, missed)]
    return wrong + [f"no miss explains {path}" for path in dict.fromkeys(unexplained)]


def _complaint(miss: Record, allowed: Collection[str]) -> str:
    reason = miss["reason"]
    if reason not in allowed:
        return f"{reason} is no reason here: {miss['text']}"
    return "" if _EVIDENCE[reason](miss) else f"{reason} does not fit its record: {miss['text']}"


def _is_explained(path: str, missed: Collection[str]) -> bool:
    """Return True if a path of the registry ends in a digest or tag that was missed."""
    last = path.partition("?")[0].rsplit("/", 1)[-1]
    return any(one == last or one.endswith(f":{last}") for one in missed)


# Reading the records


async def decisions_of(node: Node, *, log_from: int) -> tuple[list[Record], bool]:
    """Return the decisions of a node since its start, and whether it has ended.

    The decisions of a node that has ended come from its log, from character `log_from` on.
    """
    try:
        answer = await node.get("/debug/decisions?limit=1000", port=9090)
        return json.loads(answer.body)["decisions"], False
    except (OSError, http.client.HTTPException):
        lines = json_lines(node.spegel.output[log_from:] if node.spegel else "")
        return [line for line in lines if line.get("event") == "pull decided"], True
