"""`spegel-py measure`: the speed and the sources of an image through a node's mirror.

The image's bytes are thrown away.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console

from spegel_py.commands.output import (
    plural,
    print_json,
    print_line,
    print_table,
    short_digest,
    short_id,
    size,
)
from spegel_py.commands.running_node import RunningNode, add_node_flags
from spegel_py.errors import NodeError

Measurement = Mapping[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the arguments of `measure`."""
    parser.epilog = (
        "Exit status: 0 if the whole image came without the registry, 1 if not, or if no "
        "node answers."
    )
    parser.add_argument("image", metavar="REF", help="as in registry.example/app:1")
    add_node_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Let the node measure, and print the result; returns the exit status. Raises NodeError."""
    node, measurement = RunningNode.of(options), None
    with Console(stderr=True).status(f"measuring {options.image}") as status:
        for measurement in node.follow("/debug/measure", image=options.image):
            status.update(
                f"{options.image}: {size(measurement['bytes'])} of {size(measurement['size'])}"
            )
    if measurement is None or not measurement["over"]:
        raise NodeError(f"{node.url} went away while it measured")
    if options.json:
        print_json(measurement)
    else:
        _print(measurement, wide=options.wide)
    return 1 if measurement["error"] or measurement["missing"] else 0


def _print(measurement: Measurement, *, wide: bool) -> None:
    if measurement["parts"]:
        print_table(
            ("part", "digest", "size", "from", "first byte", "took"),
            [_row(part, wide=wide) for part in measurement["parts"]],
            notes=[part["error"] or "" for part in measurement["parts"]],
            wide=wide,
        )
    print_line(", ".join(_sums(measurement)))
    if measurement["error"]:
        print_line(f"it ended before its time: {measurement['error']}", style="yellow")


def _row(part: Mapping[str, Any], *, wide: bool) -> tuple[str, ...]:
    where = {
        "local": "this node",
        "peer": f"peer {short_id(part['peer'] or '', wide=wide)}",
        "none": "nobody",
        None: "-",
    }
    return (
        part["kind"],
        short_digest(part["digest"] or "-", wide=wide),
        size(part["size"]),
        where[part["source"]],
        _ms(part["first_byte_ms"]),
        _ms(part["ms"]),
    )


def _sums(measurement: Measurement) -> Iterator[str]:
    seconds, sources = measurement["seconds"], measurement["sources"]
    speed = f" ({size(measurement['bytes'] / seconds)}/s)" if seconds else ""
    yield f"{size(measurement['bytes'])} in {seconds:.2f} s{speed}"
    yield f"{size(sources['peer'])} from peers"
    yield f"{size(sources['local'])} from this node"
    if measurement["missing"]:
        number = plural(measurement["missing"], "part")
        yield f"{number} that a runtime would get from the registry"


def _ms(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.1f} ms"
