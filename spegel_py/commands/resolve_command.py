"""`spegel-py resolve`: the holders of an image, a manifest or a layer, and the lookup's time."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from spegel_py.commands.output import print_json, print_line, print_table, short_id, shortened
from spegel_py.commands.running_node import RunningNode, add_node_flags

_HERE = {"held": "yes", "absent": "no", "away": "not known: the node's store does not answer"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the arguments of `resolve`."""
    parser.epilog = "Exit status: 0 if anybody has it, 1 if nobody has, or no node answers."
    parser.add_argument(
        "what", metavar="REF|DIGEST", help="as in registry.example/app:1 or sha256:…"
    )
    add_node_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Print the holders; returns the exit status.

    Raises NodeError, also for text that is neither a reference nor a digest.
    """
    answer = RunningNode.of(options).ask("/debug/resolve", key=options.what)
    if options.json:
        print_json(answer)
    else:
        _print(answer, wide=options.wide)
    return 0 if answer["peers"] or answer["local"] == "held" else 1


def _print(answer: Mapping[str, Any], *, wide: bool) -> None:
    is_other = answer["digest"] not in (None, answer["key"])
    digest = f", {shortened(answer['digest'], wide=wide)}" if is_other else ""
    print_line(shortened(answer["key"], wide=wide), wide=wide)
    note = f": {answer['note']}" if answer.get("note") else ""  # not there in older nodes
    print_line(f"on this node: {_HERE[answer['local']]}{digest}{note}", wide=wide)
    end = (
        "" if answer["ended"] else f", and the lookup {answer['error'] or 'had not ended by then'}"
    )
    print_line(f"on peers: {len(answer['peers'])}, in {answer['ms']:.1f} ms{end}")
    if answer["peers"]:
        print_table(
            ("peer", "health", "found after", "id"),
            [
                (
                    peer["address"],
                    f"{peer['health']}{', too old for --tag-ttl' if peer.get('too_old') else ''}",
                    f"{peer['ms']:.1f} ms",
                    short_id(peer["id"], wide=wide),
                )
                for peer in answer["peers"]
            ],
            shrinks=("peer",),
            wide=wide,
        )
