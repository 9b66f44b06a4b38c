"""`spegel-py evacuate`: let this node drain, and bring the images that only it has to others."""

from __future__ import annotations

import argparse

from spegel_py.commands.control_client import ControlClient, add_control_flags
from spegel_py.commands.output import add_output_flags, print_json, print_line
from spegel_py.commands.preheat_command import begun

PATH = "/control/evacuate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the arguments of `evacuate`."""
    parser.epilog = (
        "The node drains until `evacuate --undo`, also after a restart: its replicas do not count, "
        "and no node asks it to keep images. It serves its content as before. The images are "
        "brought by a job as those of `preheat` are: `preheat ls`, `status` and `cancel` know it."
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
    parser.add_argument(
        "--undo",
        action="store_true",
        help="end the drain; images that are with other nodes stay there",
    )
    add_output_flags(parser)
    add_control_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Begin the job; returns the exit status, as `preheat` does. Raises ConfigError, NodeError."""
    client = ControlClient.of(options)
    if options.undo:
        return _undo(client, options)
    given = {name: getattr(options, name) for name in ("keep", "timeout")}
    body = {name: one for name, one in given.items() if one is not None}
    return begun(client, client.ask("POST", PATH, body), options)


def _undo(client: ControlClient, options: argparse.Namespace) -> int:
    """End the drain that a person began; print the causes that are left."""
    found = client.ask("DELETE", PATH)
    if options.json:
        print_json(found)
    elif found["draining"]:
        for cause, why in found["draining"].items():
            print_line(f"the node still drains ({cause}): {why}")
    else:
        print_line("the node does not drain")
    return 0
