"""`spegel-py why`: the decisions about pulls, each with its reason."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from spegel_py.commands.output import moment, print_json, print_line, print_table, size
from spegel_py.commands.running_node import RunningNode, add_node_flags, at_most
from spegel_py.errors import NodeError

SHOWN = 20
"""Number of requests shown, the latest."""

Decision = Mapping[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the arguments of `why`."""
    parser.epilog = "Exit status: 0 if something is recorded, 1 if nothing is, or no node answers."
    parser.add_argument(
        "what",
        nargs="?",
        metavar="REF|DIGEST",
        help="an image reference, a digest, or a part of either (registry.example/app for all of "
        "an image); "
        "without one, all requests",
    )
    parser.add_argument(
        "--limit",
        type=at_most(1000),
        default=SHOWN,
        help=f"requests shown at most (default: {SHOWN})",
    )
    add_node_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Print the decisions, the latest last; returns the exit status. Raises NodeError."""
    node = RunningNode.of(options)
    key = {"key": options.what} if options.what else {}
    answer = node.ask("/debug/decisions", limit=options.limit, **key)
    if options.json:
        print_json(answer)
        return 0 if answer["decisions"] else 1
    if not answer["decisions"]:
        raise NodeError(_nothing(options.what, answer["kept"], node.url))
    for decision in reversed(answer["decisions"]):
        _print_decision(decision)
    return 0


def _nothing(what: str | None, kept: int, url: str) -> str:
    if not kept:
        return (
            f"{url} has recorded nothing: no client has asked it since it started (see spegel-py "
            "doctor)"
        )
    return (
        f"{url} has recorded nothing of {what}: no client has asked it for that among its last "
        f"{kept} requests; "
        "the runtime may have had it, or asked another mirror (spegel-py why shows what it was "
        "asked for)"
    )


def _print_decision(one: Decision) -> None:
    is_hit = one["verdict"] == "hit"
    part = f" {one['range']}" if one["range"] else ""
    print_line(f"{moment(one['at'])}  {one['method']} {one['reference']}{part}", style="bold")
    print_line(
        f"  {one['verdict']}, {one['source'] if is_hit else one['reason']}: {one['text']}",
        style="green" if is_hit else "yellow",
    )
    print_line(f"  {', '.join(_facts(one))}")
    if one["attempts"]:
        _print_attempts(one["attempts"])


def _facts(one: Decision) -> Iterator[str]:
    yield f"status {one['status']}" if one["status"] else "no status"
    yield f"{one['ms']:.1f} ms"
    yield f"{size(sum(one['bytes'].values()))} of {size(one['length'])}"
    yield f"here {one['local'].replace('_', ' ')}"
    if one["peers_found"] is not None:
        after = "" if one["lookup_ms"] is None else f", the first after {one['lookup_ms']:.1f} ms"
        yield f"peers found {one['peers_found']}{after}"


def _print_attempts(attempts: Iterable[Mapping[str, Any]]) -> None:
    print_table(
        ("asked peer", "outcome", "took", "from byte", "bytes", ""),
        [
            (
                each["addr"],
                str(each["outcome"]),
                f"{each['ms']:.1f} ms",
                str(each["offset"]),
                size(each["bytes"]),
                "since others were slow" if each["hedge"] else "",
            )
            for each in attempts
        ],
        indent=4,
    )
