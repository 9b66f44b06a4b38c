"""`spegel-py status`: a node's state, and its answers to this machine's pulls."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from spegel_py.commands.output import (
    plural,
    print_fields,
    print_json,
    short_id,
    shortened,
    size,
    span,
)
from spegel_py.commands.running_node import RunningNode, add_node_flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the flags of `status`."""
    parser.epilog = "Exit status: 0 if the node is ready, 1 if it is not, or does not answer."
    add_node_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Print the node's state; returns the exit status. Raises NodeError."""
    node = RunningNode.of(options)
    state = node.ask("/debug/state")
    if options.json:
        print_json(state)
    else:
        print_fields([("node", node.url), *_rows(state, wide=options.wide)])
    return 0 if state["ready"] else 1


def _rows(state: Mapping[str, Any], *, wide: bool) -> Iterator[tuple[str, str]]:
    pulls, advertised = state["pulls"], state["advertised"]
    yield "version", f"{state['version']}, up {span(state['uptime_seconds'])}"
    yield "id", short_id(state["id"], wide=wide)
    yield "ready", "yes" if state["ready"] else f"no: {state['reason']}"
    if store := state.get("store"):  # not there in older nodes
        yield "content", store["text"]
        if store["others"]:
            yield "not shared", store["others"]
    if drain := state.get("draining"):  # not there in older nodes
        yield "draining", "; ".join(f"{cause}: {why}" for cause, why in drain.items())
    yield "peers", _counts(Counter(peer["health"] for peer in state["peers"])) or "none"
    tags, digests = plural(advertised["tags"], "tag"), plural(advertised["digests"], "digest")
    yield "advertises", f"{tags}, {digests}"
    yield "requests", f"{pulls['total']}, {_rate(pulls['hit_rate'])}"
    yield "answered from", _counts(pulls["answers"])
    yield (
        "bytes from",
        ", ".join(f"{source} {size(count)}" for source, count in pulls["bytes"].items()),
    )
    yield "misses", _counts(pulls["misses"]) or "none"
    # null without --share-in-flight, not there in older nodes
    if (parts := state.get("in_flight")) is not None:
        roles = Counter(part["role"] for part in parts)
        yield "in flight", _in_flight(roles) if parts else "nothing"
    if measured := pulls.get("measured", {}).get("total"):  # not there in older nodes
        yield "measured", f"{plural(measured, 'request')} by people, not counted above"
    for alert in state["supervision"]["alerts"]:
        parts = (alert["tier"], alert["condition"], alert["subject"], alert["detail"])
        text = " ".join(str(part) for part in parts if part)
        yield "alert", shortened(text, wide=wide)


def _in_flight(roles: Counter[str]) -> str:
    return (
        f"{plural(roles.total(), 'part')}: {roles['lead']} fetched here from the registry for "
        f"other nodes, {roles['follow']} taken from a node that is still fetching them"
    )


def _rate(rate: float | None) -> str:
    return (
        "no client has asked yet" if rate is None else f"{rate:.1%} answered without the registry"
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
