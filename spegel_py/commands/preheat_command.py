"""`spegel-py preheat`: bring images to nodes before a container needs them, and follow that."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Console

from spegel_py.commands.control_client import ControlClient, add_control_flags
from spegel_py.commands.output import (
    add_output_flags,
    moment,
    plural,
    print_json,
    print_line,
    print_table,
    short_digest,
    short_id,
    shortened,
    size,
    span,
)
from spegel_py.commands.preheat_progress import PreheatBars, PreheatLines
from spegel_py.errors import ConfigError
from spegel_py.preheat.preheat_job import JobState
from spegel_py.preheat.preheat_request import PreheatDepth

POLL = 0.5
"""Seconds between two looks at a job."""

PATH = "/control/preheat"

RUNTIME_WARNING = """\
Images of depth runtime are the kubelet's: it removes images first that no pod has used, when the
disk is 85 % full or after imageMaximumGCAge; --pin keeps them. By its default policy
(NeverVerifyPreloadedImages) every pod of the node may use them without a pull secret, private ones
too. The depth unpacked has neither effect, and a pull of it takes milliseconds."""
"""The consequences of pulls by the runtime (Kubernetes, image_gc_manager.go and KEP-2535)."""

_VERBS = {"ls": 0, "status": 1, "cancel": 1}
"""Words with which the command looks at jobs, and how many words follow each."""

_OVER = tuple(
    state.value for state in JobState if state not in (JobState.PENDING, JobState.RUNNING)
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the arguments of `preheat`."""
    parser.epilog = (
        "`preheat ls` lists the jobs, `preheat status ID` shows one, `preheat cancel ID` ends one "
        "and drops its images."
    )
    parser.add_argument(
        "words",
        nargs="+",
        metavar="REF",
        help="full references: registry/repository:tag or @digest; or ls, status ID, cancel ID",
    )
    parser.add_argument(
        "--nodes",
        metavar="NODES",
        help=(
            "all, a number of nodes, zone=NAME, zone=each for one node in each zone, or addresses "
            "or ids of nodes with commas (default: this node)"
        ),
    )
    parser.add_argument(
        "--platform", metavar="OS/ARCH", help="platform of the images (default: each node's own)"
    )
    parser.add_argument(
        "--depth",
        metavar="DEPTH",
        help="content: fetched (default); unpacked, too; runtime: pulled by the nodes' containerd",
    )
    parser.add_argument(
        "--pin",
        action="store_true",
        default=None,
        help="with --depth runtime: the kubelet does not remove the images while they are kept",
    )
    parser.add_argument(
        "--rate", metavar="RATE", help="limit for each image on a node, as in 20MB/s"
    )
    parser.add_argument(
        "--credentials",
        metavar="NAME",
        help="a file below the nodes' --registry-credentials (default: config.json)",
    )
    add_job_flags(parser)


def add_job_flags(parser: argparse.ArgumentParser) -> None:
    """Give the parser the arguments of all commands that begin a job."""
    parser.add_argument(
        "--keep", metavar="TIME", help="time for which nodes keep the images (default: 24h)"
    )
    parser.add_argument(
        "--timeout", metavar="TIME", help="longest time for the whole job (default: 30m)"
    )
    parser.add_argument(
        "--wait", action="store_true", help="show the progress, and end with the job"
    )
    add_output_flags(parser)
    add_control_flags(parser)


def job_fields(options: argparse.Namespace) -> dict[str, object]:
    """Return the fields of a job's body that these arguments set."""
    given = {name: getattr(options, name) for name in ("keep", "timeout")}
    return {name: one for name, one in given.items() if one is not None}


def run(options: argparse.Namespace) -> int:
    """Begin a job, or look at jobs; returns the exit status.

    It is 0 if all nodes of a waited-for job have their images, 1 if some have not, 2 for wrong
    arguments. Raises ConfigError and NodeError.
    """
    verb, *rest = options.words
    if verb in _VERBS:
        if len(rest) != _VERBS[verb]:
            form = f"preheat {verb}{' ID' if _VERBS[verb] else ''}"
            raise ConfigError(f"write {form}, with nothing else")
        return _look(ControlClient.of(options), verb, rest, options)
    client = ControlClient.of(options)
    job = client.ask("POST", PATH, _request(options))
    if job["request"]["depth"] == PreheatDepth.RUNTIME:
        sys.stderr.write(f"{RUNTIME_WARNING}\n")
    return begun(client, job, options)


def begun(client: ControlClient, job: Mapping[str, Any], options: argparse.Namespace) -> int:
    """Show a new job, with `--wait` to its end; return the exit status."""
    if options.wait:
        return follow(client, job, options)
    if options.json:
        print_json(job)
    else:
        images = plural(len(job["images"]), "image")
        print_line(f"job {job['id']}: {images}; follow it with preheat status {job['id']} --wait")
    return 0


def _request(options: argparse.Namespace) -> dict[str, object]:
    names = ("nodes", "platform", "depth", "rate", "credentials", "pin")
    given = {name: getattr(options, name) for name in names}
    found = {name: one for name, one in given.items() if one is not None}
    return {"images": options.words} | found | job_fields(options)


def _look(client: ControlClient, verb: str, rest: list[str], options: argparse.Namespace) -> int:
    if verb == "ls":
        answer = client.ask("GET", PATH)
        if options.json:
            print_json(answer)
        else:
            _print_jobs(answer["jobs"])
            _print_list(answer["list"])
        return 0
    job = client.ask("DELETE" if verb == "cancel" else "GET", f"{PATH}/{rest[0]}")
    if options.wait and verb == "status":
        return follow(client, job, options)
    _print_job(job, options)
    return 0


def follow(client: ControlClient, job: Mapping[str, Any], options: argparse.Namespace) -> int:
    """Show a job until it is over; return the exit status."""
    display: AbstractContextManager[Any]
    if options.json:
        display = nullcontext()
    elif sys.stdout.isatty():
        display = PreheatBars(Console())
    else:
        display = PreheatLines(print_line)
    with display as show:
        while True:
            if show is not None:
                show(job)
            if job["state"] in _OVER:
                break
            time.sleep(POLL)
            job = client.ask("GET", f"{PATH}/{job['id']}")
    if options.json:
        print_json(job)
    else:
        print_line(f"job {job['id']}: {_summary(job)}")
    return 0 if job["state"] == JobState.SUCCEEDED else 1


def _summary(job: Mapping[str, Any]) -> str:
    """Return the state of a job in words, with the number of nodes that are ready."""
    nodes = [one for image in job["images"] for one in image["nodes"].values()]
    ready = sum(one["state"] in ("done", "here already") for one in nodes)
    ended = job["ended"] or time.time()
    text = f"{job['state']}, {ready} of {len(nodes)} ready after {span(ended - job['created'])}"
    unresolved = [image for image in job["images"] if image["why"]]
    return text + (f", {plural(len(unresolved), 'image')} without a digest" if unresolved else "")


def _print_jobs(jobs: list[dict[str, Any]]) -> None:
    if not jobs:
        print_line("this node was asked for no pre-heat")
        return
    print_table(
        ("job", "state", "began", "images", "nodes"),
        [
            (
                job["id"],
                _summary(job),
                moment(job["created"])[:-4],
                ", ".join(image["image"] for image in job["images"]),
                job["request"]["nodes"],
            )
            for job in jobs
        ],
        shrinks=("images",),
    )


def _print_list(found: Mapping[str, Any] | None) -> None:
    if found is None:
        return
    if found["fault"]:
        print_line(f"the old list is kept: {found['fault']}", style="bold")
    rows = [
        (
            one["image"],
            one["nodes"],
            "not meant" if one["meant"] is False else one["state"],
            one["why"] or "-",
        )
        for one in found["images"]
    ]
    if rows:
        notes = [shortened(one["error"]) for one in found["images"]]
        print_table(("listed", "nodes", "here", "why"), rows, shrinks=("listed",), notes=notes)
    else:
        print_line(f"the list {found['file']} has no image")


def _print_job(job: Mapping[str, Any], options: argparse.Namespace) -> None:
    if options.json:
        print_json(job)
        return
    print_line(f"job {job['id']}: {_summary(job)}")
    for image in job["images"]:
        digest = f" {short_digest(image['digest'], wide=options.wide)}" if image["digest"] else ""
        print_line(f"{image['image']}{digest}")
        if image["error"]:
            print_line(shortened(f"{image['why'] or 'waiting'}: {image['error']}"), indent=2)
        rows = [
            (
                job["nodes"].get(node) or "-",
                short_id(node, wide=options.wide),
                one["state"],
                f"{size(one['done'])} of {size(one['total'])}" if one["total"] else "-",
                one["why"] or "-",
            )
            for node, one in image["nodes"].items()
        ]
        notes = [shortened(one["error"], wide=options.wide) for one in image["nodes"].values()]
        if rows:
            titles = ("node", "id", "state", "bytes", "why")
            print_table(titles, rows, notes=notes, indent=2, wide=options.wide)
