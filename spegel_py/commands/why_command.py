"""`spegel-py why`: pulls of images, and where their bytes came from; and each request's reason."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from spegel_py.commands.output import (
    add_output_flags,
    moment,
    plural,
    print_json,
    print_line,
    print_table,
    short_digest,
    shortened,
    size,
)
from spegel_py.commands.running_node import RunningNode, add_address_flags, at_most
from spegel_py.errors import NodeError

SHOWN = 20
"""Number of pulls or requests shown, the latest."""

Decision = Mapping[str, Any]
Pull = Mapping[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the arguments of `why`."""
    parser.epilog = "Exit status: 0 if something is recorded, 1 if nothing is, or no node answers."
    parser.add_argument(
        "what",
        nargs="?",
        metavar="REF|DIGEST",
        help="an image reference, a digest, or a part of either (registry.example/app for all of "
        "an image); without one, all pulls, without their parts",
    )
    parser.add_argument(
        "--requests",
        action="store_true",
        help="show each request, with its reason and the peers that were asked",
    )
    parser.add_argument(
        "--measured",
        action="store_true",
        help="show the pulls by people, with spegel-py measure or pull, not those by runtimes",
    )
    parser.add_argument(
        "--limit",
        type=at_most(1000),
        default=SHOWN,
        help=f"pulls or requests shown at most (default: {SHOWN})",
    )
    add_address_flags(parser)
    add_output_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Print the pulls, the latest last; returns the exit status. Raises NodeError."""
    node = RunningNode.of(options)
    key = {"key": options.what} if options.what else {}
    measured = {"measured": "true"} if options.measured else {}
    if options.json:
        answer = node.ask("/debug/decisions", limit=options.limit, **key)
        pulls = node.ask("/debug/pulls", limit=options.limit, **key, **measured)
        print_json({**answer, "pulls": pulls["pulls"]})
        return 0 if answer["decisions"] else 1
    if options.requests:
        return _print_requests(node, options, key)
    answer = node.ask("/debug/pulls", limit=options.limit, **key, **measured)
    if not answer["pulls"] and not answer["others"]:
        raise NodeError(_nothing(options.what, answer["kept"], node.url))
    for pull in reversed(answer["pulls"]):
        _print_pull(pull, has_parts=bool(options.what), wide=options.wide)
    for line in _closing(options, answer):
        print_line(line)
    return 0 if answer["pulls"] else 1


def _closing(options: argparse.Namespace, answer: Mapping[str, Any]) -> Iterator[str]:
    if answer["pulls"] and not options.what:
        yield "spegel-py why IMAGE shows the parts of one image"
    if answer["others"] and not options.measured:
        number = plural(answer["others"], "pull")
        yield f"{number} by people (spegel-py measure or pull) not shown: --measured shows them"
    if not answer["pulls"] and options.measured:
        yield "no person has pulled this with spegel-py measure or pull"


def _nothing(what: str | None, kept: int, url: str) -> str:
    if not kept:
        return (
            f"{url} has recorded nothing: no client has asked it since it started; an earlier "
            "pull, or one with ctr without --hosts-dir, went past it (see spegel-py doctor)"
        )
    return (
        f"{url} has recorded nothing of {what}: no client has asked it for that among its last "
        f"{kept} requests; "
        "the runtime may have had it, or asked another mirror (spegel-py why shows what it was "
        "asked for)"
    )


def _print_pull(pull: Pull, *, has_parts: bool, wide: bool) -> None:
    title = f"{moment(pull['at'])[:-4]}  {shortened(pull['image'], wide=wide)}{_client(pull)}"
    print_line(title, style="bold", wide=wide)
    print_line(f"{', '.join(_summary(pull))}", indent=2)
    for each in pull["advice"]:
        print_line(f"slower because {each}", indent=2, style="yellow")
    if has_parts and pull["parts"]:
        _print_parts(pull["parts"], _names(pull["sources"]), wide=wide)


def _client(asked: Mapping[str, Any]) -> str:
    """Return the words for a client that is not this node's own runtime."""
    client, node = asked.get("client", "runtime"), asked.get("node")  # not there in older nodes
    by = "" if client == "runtime" else f", by spegel-py {client}"
    return f"{by}, for node {node}" if node else by


def _summary(pull: Pull) -> Iterator[str]:
    """Yield the facts of a pull: its sources, its parts, and its time."""
    names = _names(pull["sources"])
    for source in pull["sources"]:
        match source["source"]:
            case "peer":
                while_pulling = " while it pulled it itself" if source["in_flight"] else ""
                yield f"{size(source['bytes'])} from {names[source['address']]}{while_pulling}"
            case "local":
                yield f"{size(source['bytes'])} from this node"
            case _:
                count = "the rest" if source["bytes"] is None else size(source["bytes"])
                yield f"{count} left to the registry"
    if pull.get("refused"):
        yield f"refused: {pull['refused']}"
        return
    if not pull["asked"]:
        yield "only the tag was asked for: the runtime had the image, or went to the registry"
        return
    yield f"{pull['answered']} of {plural(pull['asked'], 'part')}"
    if pull["total"] is not None and pull["total"] > pull["asked"]:
        yield f"{pull['total'] - pull['asked']} more not asked for"
    yield _took(pull["seconds"])


def _took(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{seconds * 1000:.0f} ms"


def _names(sources: Iterable[Mapping[str, Any]]) -> Mapping[str, str]:
    """Return the names of peers by their addresses: without the port where the host is enough."""
    addresses = [each["address"] for each in sources if each["address"]]
    hosts = Counter(address.rpartition(":")[0] for address in addresses)
    return {
        address: host if (host := address.rpartition(":")[0]) and hosts[host] == 1 else address
        for address in addresses
    }


def _print_parts(
    parts: Sequence[Mapping[str, Any]], names: Mapping[str, str], *, wide: bool
) -> None:
    print_table(
        ("part", "digest", "size", "took", "from"),
        [
            (
                part["kind"],
                short_digest(part["digest"], wide=wide),
                "?" if part["size"] is None else size(part["size"]),
                _took(part["seconds"]),
                ", ".join(_origins(part, names)),
            )
            for part in parts
        ],
        shrinks=("from",),
        indent=2,
        wide=wide,
    )


def _origins(part: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[str]:
    for address in part["peers"]:
        yield names.get(address, address)
    if part["local"]:
        yield "this node"
    if not part["answered"]:
        yield f"the registry ({(part['reason'] or 'cut').replace('_', ' ')})"


def _print_requests(
    node: RunningNode, options: argparse.Namespace, key: Mapping[str, object]
) -> int:
    answer = node.ask("/debug/decisions", limit=options.limit, **key)
    if not answer["decisions"]:
        raise NodeError(_nothing(options.what, answer["kept"], node.url))
    for decision in reversed(answer["decisions"]):
        _print_decision(decision, wide=options.wide)
    return 0


def _print_decision(one: Decision, *, wide: bool) -> None:
    is_hit = one["verdict"] == "hit"
    part = f" {one['range']}" if one["range"] else ""
    name = shortened(one["reference"], wide=wide)
    title = f"{moment(one['at'])}  {one['method']} {name}{part}{_client(one)}"
    print_line(title, style="bold", wide=wide)
    print_line(
        f"{one['verdict']}, {one['source'] if is_hit else one['reason']}: "
        f"{shortened(one['text'], wide=wide)}",
        style="green" if is_hit else "yellow",
        indent=2,
        wide=wide,
    )
    print_line(f"{', '.join(_facts(one))}", indent=2)
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
    listed = list(attempts)
    print_table(
        ("asked peer", "outcome", "took", "from byte", "bytes"),
        [
            (
                each["addr"],
                str(each["outcome"]),
                f"{each['ms']:.1f} ms",
                str(each["offset"]),
                size(each["bytes"]),
            )
            for each in listed
        ],
        notes=["since others were slow" if each["hedge"] else "" for each in listed],
        shrinks=("asked peer",),
        indent=4,
    )
