"""`spegel-py replicas`: a node's images, and the nodes that keep each of them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from spegel_py.commands.output import print_json, print_line, print_table, short_digest, size
from spegel_py.commands.running_node import RunningNode, add_node_flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the arguments of `replicas`."""
    parser.add_argument(
        "part", nargs="?", default="", metavar="PART", help="only images with this in their names"
    )
    parser.add_argument(
        "--low", action="store_true", help="only images with fewer replicas than the floor"
    )
    add_node_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Print the images; returns the exit status. Raises NodeError."""
    node = RunningNode.of(options)
    found = node.ask("/debug/replicas")
    floor = found["floor"]
    images = [
        image
        for image in found["images"]
        if any(options.part in name for name in image["names"] or [image["manifest"]])
        and not (options.low and (image["replicas"] >= floor or not image["selected"]))
    ]
    taking = [one for one in found["taking"] if any(options.part in name for name in one["names"])]
    if options.json:
        shown = {name: found.get(name) for name in ("floor", "ceiling", "draining")}
        print_json({**shown, "images": images, "taking": taking})
    elif floor == 0:
        print_line(f"{node.url} keeps no replicas: --replica-floor is 0")
    elif not images and not taking:
        print_line(f"{node.url} shows no such image; it looks at its images every 30 s")
    else:
        for cause, why in (found.get("draining") or {}).items():  # not there in older nodes
            print_line(f"the node drains ({cause}), so its replicas do not count: {why}")
        _print(images, taking, wide=options.wide)
    return 0


def _print(
    images: Sequence[Mapping[str, Any]],
    taking: Sequence[Mapping[str, Any]],
    *,
    wide: bool,
) -> None:
    if images:
        has_zones = any(any(image["zones"]) for image in images)
        zones = ["zones"] if has_zones else []
        print_table(
            ("image", "size", "replicas", *zones, "on nodes", "heat", "here", "manifest"),
            [_row(image, has_zones=has_zones, wide=wide) for image in images],
            shrinks=("image",),
            wide=wide,
        )
    if taking:
        print_table(
            ("being taken", "size", "here", "for", "asked by"),
            [_taking_row(one) for one in taking],
            shrinks=("being taken",),
            wide=wide,
        )


def _taking_row(one: Mapping[str, Any]) -> tuple[str, ...]:
    share = f"{100 * one['offset'] // max(1, one['total'])} %"
    return one["names"][0], size(one["total"]), share, one["reason"], one["peer"][-6:]


def _row(image: Mapping[str, Any], *, has_zones: bool, wide: bool) -> tuple[str, ...]:
    names = image["names"]
    more = f" +{len(names) - 1}" if len(names) > 1 else ""
    here = [
        *(["runtime"] if image["runtime"] else []),
        *(["replica"] if image["replica"] else []),
    ]
    return (
        f"{names[0]}{more}" if names else "-",
        size(image["size"]),
        f"{image['replicas']} of {image['target']}" if image["selected"] else "not selected",
        *([", ".join(zone or "-" for zone in image["zones"])] if has_zones else []),
        str(image["holders"]),
        f"{image['heat']:.1f}",
        ", ".join(here) or "-",
        short_digest(image["manifest"], wide=wide),
    )
