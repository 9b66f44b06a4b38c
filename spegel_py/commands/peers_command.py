"""`spegel-py peers`: a node's peers, and their health."""

from __future__ import annotations

import argparse

from spegel_py.commands.output import print_json, print_line, print_table, short_id, span
from spegel_py.commands.running_node import RunningNode, add_node_flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the flags of `peers`."""
    add_node_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Print the peers, sorted by address; returns the exit status. Raises NodeError."""
    node = RunningNode.of(options)
    peers = sorted(node.ask("/debug/state")["peers"], key=lambda peer: str(peer["address"]))
    if options.json:
        print_json({"peers": peers})
    elif not peers:
        print_line(
            f"{node.url} has no peers: right for a single node; else spegel-py doctor says what "
            "to look at"
        )
    else:
        has_zones = any(peer["zone"] for peer in peers)
        zone_heading = ["zone"] if has_zones else []
        print_table(
            ("address", *zone_heading, "health", "heard", "clock", "keys", "agent", "id"),
            [
                (
                    peer["address"],
                    *([peer["zone"] or "-"] if has_zones else []),
                    peer["health"] + (", draining" if peer.get("draining") else ""),
                    "-" if peer["heard_seconds"] is None else f"{span(peer['heard_seconds'])} ago",
                    "-" if peer["skew_seconds"] is None else f"{peer['skew_seconds']:+.3f} s",
                    str(peer["keys"]),
                    peer["agent"],
                    short_id(peer["id"], wide=options.wide),
                )
                for peer in peers
            ],
            shrinks=("agent", "address"),
            wide=options.wide,
        )
    return 0
