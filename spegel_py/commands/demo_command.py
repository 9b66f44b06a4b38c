"""`spegel-py demo`: a cluster on this machine that pulls, survives a kill, and gets a new image.

It needs neither root nor containerd.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import uvloop
from rich.console import Console

from spegel_py import values
from spegel_py.demo import demo_image, image_import
from spegel_py.demo.demo_cluster import Fill
from spegel_py.demo.demo_report import as_json, as_table
from spegel_py.demo.demo_result import DemoResult, problems
from spegel_py.demo.progress_table import ProgressTable
from spegel_py.demo.scenario import play
from spegel_py.errors import ConfigError, SpegelError
from spegel_py.store.layout import LayoutWriter

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 plus the number of SIGINT, as in shells."""

NODES, SIZES, LAYERS = range(2, 17), range(20, 513), range(1, 101)
"""Allowed numbers of nodes, MB and layers.

A node takes 100 MB of memory. The image is made in memory, and takes twice its size there.
"""

RATE = 30.0
"""MB/s that each pull of phase 1 is limited to, as in a slow network.

So the pulls can be watched, and nodes have time to serve each other what they just received. Two
cores could do five times as much.
"""

PIPE_WIDTH = 110
"""Columns of the output without a terminal."""


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
        help=(
            "OCI layout or archive to share (default: a generated image; phase 3 always "
            "generates its image)"
        ),
    )
    parser.add_argument(
        "--size",
        type=_megabytes(values.size(0, 10**12, plain=demo_image.MB)),
        default=96,
        metavar="SIZE",
        help="size of the image that is made; a plain number is MB (default: 96MB)",
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
        type=_megabytes(values.rate(0, 10**12, plain=demo_image.MB)),
        default=RATE,
        metavar="RATE",
        help=(
            "hold each pull of phase 1 to this, 0 for as fast as it goes; a plain number is MB/s "
            f"(default: {RATE:g}MB/s)"
        ),
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


def _megabytes(parse: values.Parse) -> Callable[[str], float]:
    """Return a parser of a size or a rate in MB, for argparse."""

    def parse_megabytes(text: str) -> float:
        try:
            return float(parse(text) / demo_image.MB)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse_megabytes


def run(args: argparse.Namespace) -> int:
    """Run the demonstration and print its result.

    Returns 0 if all was right, 1 if not, 2 for wrong arguments, 130 after Ctrl-C.
    """
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


async def _play(args: argparse.Namespace, folder: Path) -> DemoResult:
    task = asyncio.current_task()
    if task is not None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    table = ProgressTable(console=_console(), is_silent=args.json)
    return await play(
        nodes=args.nodes, fill=_fill(args, folder), folder=folder, rate=args.rate, table=table
    )


def _fill(args: argparse.Namespace, folder: Path) -> Fill:
    if args.image is None:
        return partial(demo_image.make, size=round(args.size * demo_image.MB), layers=args.layers)

    def import_image(writer: LayoutWriter) -> demo_image.DemoImage:
        scratch = folder / "unpacked"
        scratch.mkdir()
        imported = image_import.import_image(args.image, writer, scratch)
        shutil.rmtree(scratch)
        imported.check()
        return imported

    return import_image


def _check(args: argparse.Namespace) -> None:
    for name, allowed, unit in (
        ("nodes", NODES, ""),
        ("size", SIZES, "MB"),
        ("layers", LAYERS, ""),
    ):
        if not allowed[0] <= getattr(args, name) <= allowed[-1]:
            raise ConfigError(
                f"--{name} is {allowed[0]}{unit} to {allowed[-1]}{unit}, not "
                f"{getattr(args, name):g}{unit}"
            )
    if args.image is not None and not args.image.exists():
        raise ConfigError(f"--image {args.image}: there is no such file or folder")


@contextmanager
def _folder(parent: Path | None, *, is_kept: bool) -> Iterator[Path]:
    """Give a new folder, which is removed at the end unless it is kept."""
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


def _print(args: argparse.Namespace, outcome: DemoResult, folder: Path) -> None:
    if args.json:
        sys.stdout.write(json.dumps(as_json(outcome)) + "\n")
        return
    console = _console()
    console.print(as_table(outcome))
    if args.keep:
        console.print(f"Layouts and logs are in {folder}", markup=False, soft_wrap=True)
    console.print("All was right." if not problems(outcome) else "Not all was right.")


def _console() -> Console:
    """Return stdout; a pipe gets a width that the last table fits into."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def _fail(text: str, status: int) -> int:
    sys.stderr.write(f"spegel-py: {' '.join(text.split())}\n")
    return status
