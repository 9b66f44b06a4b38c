"""The command line: parse the arguments, load one command's module, and run it.

Wrong input ends in one line on stderr and exit status 2, never in a traceback.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module

from spegel_py import __version__
from spegel_py.errors import ConfigError, HostError, SpegelError
from spegel_py.settings import Parser


@dataclass(frozen=True, slots=True)
class Command:
    """A command's name, help and module; one without a module is implemented here.

    The module is imported only when the command is called: libp2p alone takes a second to import.
    """

    name: str
    help: str
    module: str | None = None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Give the parser the command's arguments, and its `run` as a default."""
        if self.module is None:
            _add_version_arguments(parser)
        else:
            module = import_module(self.module)
            module.add_arguments(parser)
            parser.set_defaults(run=module.run)


COMMANDS = (
    Command(
        "registry",
        "run a node: a registry mirror for containerd",
        "spegel_py.commands.registry_command",
    ),
    Command(
        "doctor",
        "check whether this node will work, and name the remedies",
        "spegel_py.commands.doctor_command",
    ),
    Command(
        "why",
        "show why pulls were answered by a peer, from here, or left to the registry",
        "spegel_py.commands.why_command",
    ),
    Command("status", "show the state of a running node", "spegel_py.commands.status_command"),
    Command("peers", "show the peers of a running node", "spegel_py.commands.peers_command"),
    Command(
        "images",
        "show the images of a node, and the number of peers with each",
        "spegel_py.commands.images_command",
    ),
    Command(
        "replicas",
        "show the images of a node, and the number of nodes that keep each",
        "spegel_py.commands.replicas_command",
    ),
    Command(
        "preheat",
        "bring images to nodes before a container needs them",
        "spegel_py.commands.preheat_command",
    ),
    Command(
        "evacuate",
        "bring the images that only this node has to other nodes, before it goes away",
        "spegel_py.commands.evacuate_command",
    ),
    Command(
        "measure",
        "measure a pull through a node, and the source of each part",
        "spegel_py.commands.measure_command",
    ),
    Command(
        "resolve",
        "show the peers that have an image or a digest",
        "spegel_py.commands.resolve_command",
    ),
    Command(
        "alerts",
        "show a node's alerts and repairs",
        "spegel_py.commands.alerts_command",
    ),
    Command(
        "pull",
        "pull an image through a mirror into an image-layout folder",
        "spegel_py.commands.pull_command",
    ),
    Command(
        "demo",
        "show a cluster at work: nodes on this machine, one is killed",
        "spegel_py.commands.demo_command",
    ),
    Command(
        "configuration",
        "put mirrors first in containerd's hosts.toml files",
        "spegel_py.commands.configuration_command",
    ),
    Command(
        "cleanup",
        "restore containerd's previous hosts.toml files",
        "spegel_py.commands.cleanup_command",
    ),
    Command(
        "cleanup-wait",
        "wait until the clean-up of every node has ended",
        "spegel_py.host.cleanup_wait",
    ),
    Command(
        "completion",
        "print a script for a shell to complete commands, flags and values",
        "spegel_py.commands.completion_command",
    ),
    Command("version", "print the version"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        gc.disable()  # it finds no garbage in modules, and takes a quarter of their loading
        try:
            parser = _parser(given)
            options, unknown = parser.parse_known_args(given)
        finally:
            gc.enable()
        if unknown:
            getattr(options, "parser", parser).refuse(unknown)
        return _flushed(int(options.run(options)))
    except ConfigError as error:
        return _fail(error, 2)
    except SpegelError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return 130


def _flushed(status: int) -> int:
    """Flush the output and return the exit status.

    A full disk is an error; a closed pipe ends the program as SIGPIPE would.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        # The unwritten rest stays in a buffer, and Python would try to write it again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 128 + signal.SIGPIPE
        return _fail(HostError(f"the output cannot be written: {error.strerror}"), 1)
    return status


def _fail(error: Exception, status: int) -> int:
    from spegel_py.telemetry.logging import Stderr

    Stderr().write(f"spegel-py: {' '.join(str(error).split())}\n")
    return status


def _parser(given: Sequence[str]) -> Parser:
    """Return the parser of all commands. Only the commands named in `given` get their arguments."""
    parser = Parser(
        prog="spegel-py",
        description="A peer-to-peer container image cache for containerd.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=__version__, help="print the version"
    )
    commands = parser.add_subparsers(
        title="commands", required=True, metavar="COMMAND", parser_class=Parser
    )
    for command in COMMANDS:
        description = f"{command.help[0].upper()}{command.help[1:]}."
        sub = commands.add_parser(
            command.name, help=command.help, description=description, allow_abbrev=False
        )
        if command.name in given:
            command.add_arguments(sub)
            sub.set_defaults(parser=sub)
            # `completion` describes the arguments of all commands.
            sub.set_defaults(parser_of_all=partial(_parser, [each.name for each in COMMANDS]))
    return parser


def _add_version_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument(
        "--json",
        action="store_const",
        const="json",
        dest="format",
        help="the same as --format json",
    )
    parser.set_defaults(run=_print_version)


def _print_version(options: argparse.Namespace) -> int:
    print(json.dumps({"version": __version__}) if options.format == "json" else __version__)
    return 0
