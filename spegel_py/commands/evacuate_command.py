"""`spegel-py evacuate`: let this node drain, and bring the images that only it has to others."""

from __future__ import annotations

import argparse

from spegel_py.commands.control_client import ControlClient
from spegel_py.commands.output import print_json, print_line
from spegel_py.commands.preheat_command import add_job_flags, begun, job_fields

PATH = "/control/evacuate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the arguments of `evacuate`."""
    parser.epilog = (
        "The node drains until `evacuate --undo`, also after a restart: its replicas do not count, "
        "and no node asks it to keep images. It serves its content as before. The images are "
        "brought by a job as those of `preheat` are: `preheat ls`, `status` and `cancel` know it."
    )
    parser.add_argument(
        "--undo",
        action="store_true",
        help="end the drain; images that are with other nodes stay there",
    )
    add_job_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Begin the job; returns the exit status, as `preheat` does. Raises ConfigError, NodeError."""
    client = ControlClient.of(options)
    if options.undo:
        return _undo(client, options)
    return begun(client, client.ask("POST", PATH, job_fields(options)), options)


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
