"""`spegel-py pull`: pull an image through a mirror into an OCI image layout."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import signal
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import uvloop
from rich.console import Console

from spegel_py.commands.output import print_line, shortened
from spegel_py.errors import (
    BlobUnknown,
    ConfigError,
    DigestMismatch,
    ManifestUnknown,
    NameInvalid,
    OCIError,
    PeerError,
    PeerRefused,
    SpegelError,
    StoreError,
)
from spegel_py.oci.distribution import PullClient
from spegel_py.oci.reference import Reference
from spegel_py.pull.answers import parse_mirror
from spegel_py.pull.plan import Platform
from spegel_py.pull.progress import show_progress
from spegel_py.pull.session import PARALLEL, PullReport, pull
from spegel_py.store.layout import LayoutWriter
from spegel_py.tools.addresses import MirrorAddress
from spegel_py.tools.runtime_token import read_tokens

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 and the number of SIGINT, as in shells."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pull` to the parser."""
    parser.add_argument(
        "reference", metavar="REF", help="full reference: registry/repository:tag or @digest"
    )
    parser.add_argument(
        "--mirror", required=True, metavar="URL", help="the mirror, such as http://127.0.0.1:5000"
    )
    parser.add_argument(
        "--runtime-token",
        type=Path,
        metavar="FILE",
        help="the mirror's token file, if the node has one; only its user may read it",
    )
    parser.add_argument(
        "--upstream",
        metavar="URL",
        help=(
            "registry for content that the mirror does not have, such as "
            "https://registry.example or https://user:password@…"
        ),
    )
    parser.add_argument(
        "--into",
        required=True,
        type=Path,
        metavar="LAYOUT",
        help="OCI image layout; made if missing",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--platform", metavar="OS/ARCH[/VARIANT]", help="platform to pull (default: this machine's)"
    )
    which.add_argument(
        "--all-platforms", action="store_true", help="pull every platform of the image"
    )
    parser.add_argument(
        "--parallel",
        type=int,
        default=PARALLEL,
        metavar="N",
        help=f"blobs at the same time (default: {PARALLEL})",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object at the end and nothing else"
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")


def run(args: argparse.Namespace) -> int:
    """Pull, and print one line on stderr for an error.

    Return 0, 1 after a failure, 2 for wrong arguments, 130 after Ctrl-C.
    """
    try:
        reference = _reference(args.reference)
        if args.parallel < 1:
            raise ConfigError(f"--parallel is at least 1, not {args.parallel}")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            report = runner.run(_pull(args, reference))
    except SpegelError as error:
        return _fail(
            f"{error}{advice(error, upstream=args.upstream)}",
            2 if isinstance(error, ConfigError) else 1,
        )
    except (KeyboardInterrupt, asyncio.CancelledError):
        kept = "what is there is kept, and the same command goes on with it"
        return _fail(f"stopped; {kept} in {args.into}", INTERRUPTED)
    if args.json:
        sys.stdout.write(json.dumps({"reference": str(reference), **as_json(report)}) + "\n")
    elif not args.quiet:
        print_line(shortened(summary(reference, report, args.into)))
    return 0


async def _pull(args: argparse.Namespace, reference: Reference) -> PullReport:
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    platform = (
        None
        if args.all_platforms
        else Platform.parse(args.platform)
        if args.platform
        else Platform.here()
    )
    writer = await asyncio.to_thread(lambda: LayoutWriter.create(root=args.into))
    with ExitStack() as stack:
        is_silent = args.json or args.quiet
        show = None if is_silent else stack.enter_context(show_progress(Console(stderr=True)))
        stack.callback(writer.discard_unused)
        return await pull(
            reference,
            mirror=_mirror(args),
            upstream=args.upstream,
            writer=writer,
            platform=platform,
            parallel=args.parallel,
            on_progress=show,
            client=PullClient.PULL,
        )


def _mirror(args: argparse.Namespace) -> MirrorAddress:
    """Return the mirror, with its runtime's newest token. Raises ConfigError."""
    token = read_tokens(args.runtime_token)[0] if args.runtime_token else ""
    return replace(parse_mirror(args.mirror), runtime_token=token)


def advice(error: SpegelError, *, upstream: str | None = None) -> str:
    """Return advice to append to an error's text; empty if the text contains it."""
    match error:
        case ManifestUnknown() | BlobUnknown() if upstream is not None:
            return "; is the name right, and --upstream its registry?"
        case ManifestUnknown() | BlobUnknown():
            return (
                "; pull it from its own registry with --upstream URL, "
                "or wait until a node with the image is back"
            )
        case DigestMismatch():
            return (
                "; run it again. If the error stays, look for `peer failed` in the mirror's log: "
                "a copy is damaged"
            )
        case PeerRefused(status=403) if upstream is None:
            return "; give its file as --runtime-token"
        case PeerRefused(status=401 | 403):
            return (
                f"; give them as --{'mirror' if upstream is None else 'upstream'} "
                "http://user:password@host:port"
            )
        case PeerRefused() if upstream is None:
            return (
                "; is --mirror the address of a registry mirror, with the right http:// or "
                "https://?"
            )
        case PeerError() if upstream is not None:
            return (
                "; are mirror and registry running, and --mirror and --upstream right? "
                "The fetched part is kept"
            )
        case PeerError():
            return (
                "; is the mirror running, and --mirror its address? "
                "The fetched part is kept: run it again"
            )
        case StoreError() if "full" not in str(error):
            return "; give another --into, or change its owner or mode"
        case _:
            return ""


def as_json(report: PullReport) -> dict[str, object]:
    """Return the report as JSON values."""
    return dataclasses.asdict(report) | {
        "digest": str(report.digest),
        "seconds": round(report.seconds, 3),
    }


def summary(reference: Reference, report: PullReport, into: Path) -> str:
    """Return the last line of a successful pull."""
    rate = report.fetched / max(report.seconds, 0.001) / 1e6
    upstream = f", {report.upstream / 1e6:.1f} MB from upstream" if report.upstream else ""
    return (
        f"{reference} is in {into}: {report.digest}, {report.verified} digests verified, "
        f"{report.fetched / 1e6:.1f} of {report.bytes / 1e6:.1f} MB fetched "
        f"in {report.seconds:.1f} s ({rate:.0f} MB/s){upstream}"
    )


def _reference(text: str) -> Reference:
    try:
        return Reference.parse(text)
    except OCIError as error:
        hint = (
            "; write registry/repository:tag or registry/repository@sha256:…"
            if isinstance(error, NameInvalid)
            else ""
        )
        raise ConfigError(f"{error.message}{hint}") from error


def _fail(text: str, status: int) -> int:
    sys.stderr.write(f"spegel-py: {' '.join(text.split())}\n")
    return status
