"""`spegel-py images`: the images that a node holds and shares, and on how many peers they are."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

from spegel_py.commands.output import (
    moment,
    plural,
    print_json,
    print_line,
    print_table,
    short_digest,
    size,
    span,
)
from spegel_py.commands.running_node import RunningNode, add_node_flags, at_most
from spegel_py.errors import NodeError

SHOWN = 100
"""Number of images shown, in the order of their names."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the arguments of `images`."""
    parser.add_argument(
        "part", nargs="?", default="", metavar="PART", help="only images with this in their names"
    )
    parser.add_argument(
        "--limit",
        type=at_most(1000),
        default=SHOWN,
        help=f"images shown at most (default: {SHOWN})",
    )
    add_node_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Print the images; returns the exit status.

    Raises NodeError, also if the node's store does not answer.
    """
    node = RunningNode.of(options)
    listing = node.ask("/debug/images", part=options.part, limit=options.limit)
    if options.json:
        print_json(listing)
        return 1 if listing["error"] else 0
    if listing["error"]:
        raise NodeError(f"{node.url} cannot list its images: {listing['error']}")
    if not listing["images"]:
        held = f"{node.url} shares {plural(listing['held'], 'image')}"
        print_line(f"{held}, none with {options.part!r} in its name" if options.part else held)
        if others := node.ask("/debug/state").get("store", {}).get("others"):
            print_line(others)
        return 0
    print_table(
        ("image", "size", "blobs", "peers", "pulled", "digest"),
        [_row(image, wide=options.wide) for image in listing["images"]],
        shrinks=("image",),
        wide=options.wide,
    )
    if len(listing["images"]) < listing["total"]:
        print_line(f"{len(listing['images'])} of {listing['total']}: --limit shows more")
    return 0


def _row(image: Mapping[str, Any], *, wide: bool) -> tuple[str, ...]:
    missing = f", {image['missing']} missing" if image["missing"] else ""
    return (
        image["name"],
        size(image["size"]),
        f"{image['blobs']}{missing}",
        "-" if image["peers"] is None else str(len(image["peers"])),
        moment(image["pulled"])[:-4] if wide else f"{span(time.time() - image['pulled'])} ago",
        short_digest(image["digest"], wide=wide),
    )
