"""`spegel-py evacuate`: bring the images that only this node has to other nodes."""

from __future__ import annotations

import argparse

from spegel_py.commands.control_client import ControlClient, add_control_flags
from spegel_py.commands.output import add_output_flags
from spegel_py.commands.preheat_command import begun

PATH = "/control/evacuate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the arguments of `evacuate`."""
    parser.epilog = (
        "It is a job, as those of `preheat` are: `preheat ls`, `status` and `cancel` know it too."
    )
    parser.add_argument(
        "--keep",
        metavar="TIME",
        help="time for which the other nodes keep the images (default: 24h)",
    )
    parser.add_argument(
        "--timeout", metavar="TIME", help="longest time for the whole job (default: 30m)"
    )
    parser.add_argument(
        "--wait", action="store_true", help="show the progress, and end with the job"
    )
    add_output_flags(parser)
    add_control_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Begin the job; returns the exit status, as `preheat` does. Raises ConfigError, NodeError."""
    client = ControlClient.of(options)
    given = {name: getattr(options, name) for name in ("keep", "timeout")}
    body = {name: one for name, one in given.items() if one is not None}
    return begun(client, client.ask("POST", PATH, body), options)
