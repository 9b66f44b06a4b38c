"""`spegel-py demo`: a cluster on this machine, a pull, a node killed in its middle, and a new image for all at once; no
root, no containerd."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import uvloop
from rich.console import Console

from spegel_py.demo import content, source
from spegel_py.demo.board import Board
from spegel_py.demo.cluster import Fill
from spegel_py.demo.outcome import Outcome, problems
from spegel_py.demo.report import as_json, as_table
from spegel_py.demo.scenario import play
from spegel_py.errors import ConfigError, SpegelError
from spegel_py.store.layout import LayoutWriter

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 and the number of SIGINT, as shells have it."""

NODES, SIZES, LAYERS = range(2, 17), range(20, 513), range(1, 101)
"""What is allowed. A node takes 100 MB of memory; the image, in MB, is made in memory and takes twice its size."""

RATE = 30.0
"""MB/s that pulls of phase 1 are held to: a slow network's, so that there is something to see, and time for nodes to
serve each other what they have just got. Two cores do five times as much."""


PIPE_WIDTH = 110
"""Columns of what is printed where there is no terminal."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the arguments of `demo`."""
    parser.add_argument(
        "--nodes",
        type=int,
        default=3,
        metavar="N",
        help="nodes, before one more joins (default: 3)",
    )
    parser.add_argument(
        "--image",
        type=Path,
        metavar="PATH",
        help="OCI layout or archive to share; that of phase 3 is always made (default: one is made)",
    )
    parser.add_argument(
        "--size",
        type=int,
        default=96,
        metavar="MB",
        help="size of the image that is made (default: 96)",
    )
    parser.add_argument(
        "--layers",
        type=int,
        default=6,
        metavar="N",
        help="layers of the image that is made (default: 6)",
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=RATE,
        metavar="MB/S",
        help=f"hold each pull of phase 1 to this, 0 for as fast as it goes (default: {RATE:g})",
    )
    parser.add_argument(
        "--dir",
        type=Path,
        metavar="DIR",
        help="where to put the nodes' folders (default: a temporary one)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object at the end and nothing else"
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave the nodes' folders and logs where they are"
    )


def run(args: argparse.Namespace) -> int:
    """Run the demonstration; return 0 if all was right, 1 if not, 2 for wrong arguments, 130 after Ctrl-C."""
    try:
        _check(args)
        with (
            _folder(args.dir, is_kept=args.keep) as folder,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            outcome = runner.run(_play(args, folder))
    except SpegelError as error:
        return _fail(str(error), 2 if isinstance(error, ConfigError) else 1)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return _fail("stopped; all nodes have ended", INTERRUPTED)
    wrong = problems(outcome)
    _print(args, outcome, folder)
    return 1 if wrong else 0


async def _play(args: argparse.Namespace, folder: Path) -> Outcome:
    task = asyncio.current_task()
    if task is not None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    board = Board(console=_console(), is_silent=args.json)
    return await play(
        nodes=args.nodes, fill=_fill(args, folder), folder=folder, rate=args.rate, board=board
    )


def _fill(args: argparse.Namespace, folder: Path) -> Fill:
    if args.image is None:
        return partial(content.make, size=args.size * content.MB, layers=args.layers)

    def bring(writer: LayoutWriter) -> content.Content:
        scratch = folder / "unpacked"
        scratch.mkdir()
        brought = source.bring(args.image, writer, scratch)
        shutil.rmtree(scratch)
        brought.check()
        return brought

    return bring


def _check(args: argparse.Namespace) -> None:
    for name, allowed in (("nodes", NODES), ("size", SIZES), ("layers", LAYERS)):
        if getattr(args, name) not in allowed:
            raise ConfigError(
                f"--{name} is {allowed[0]} to {allowed[-1]}, not {getattr(args, name)}"
            )
    if not 0 <= args.rate < float("inf"):
        raise ConfigError(f"--rate is MB per second, 0 for no limit, not {args.rate}")
    if args.image is not None and not args.image.exists():
        raise ConfigError(f"--image {args.image}: there is no such file or folder")


@contextmanager
def _folder(parent: Path | None, *, is_kept: bool) -> Iterator[Path]:
    """Give a new folder, and remove it at the end unless it is to be kept."""
    try:
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="spegel-py-demo-", dir=parent))
    except OSError as error:
        raise ConfigError(f"--dir {parent or tempfile.gettempdir()}: {error.strerror}") from error
    try:
        yield folder
    finally:
        if not is_kept:
            shutil.rmtree(folder, ignore_errors=True)


def _print(args: argparse.Namespace, outcome: Outcome, folder: Path) -> None:
    if args.json:
        sys.stdout.write(json.dumps(as_json(outcome)) + "\n")
        return
    console = _console()
    console.print(as_table(outcome))
    if args.keep:
        console.print(f"Layouts and logs are in {folder}", markup=False, soft_wrap=True)
    console.print("All was right." if not problems(outcome) else "Not all was right.")


def _console() -> Console:
    """Return stdout; a pipe has no width, so it gets one that the last table fits into."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def _fail(text: str, status: int) -> int:
    sys.stderr.write(f"spegel-py: {' '.join(text.split())}\n")
    return status
