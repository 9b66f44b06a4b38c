"""The command line. Wrong input ends in one line on stderr and exit status 2, never in a traceback."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from spegel_py import __version__, settings
from spegel_py.errors import ConfigError, SpegelError
from spegel_py.settings import Parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    try:
        options = _parser().parse_args(arguments)
        return int(options.run(options))
    except ConfigError as error:
        return _fail(error, 2)
    except SpegelError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return 130


def _fail(error: Exception, status: int) -> int:
    print(f"spegel-py: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="spegel-py", description="A peer-to-peer container image cache for containerd.", allow_abbrev=False
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=Parser)
    _add_registry(commands)
    _add_pull(commands)
    _add_demo(commands)
    version = commands.add_parser("version", help="print the version", allow_abbrev=False)
    version.add_argument("--format", choices=("text", "json"), default="text")
    version.set_defaults(run=_version)
    return parser


def _add_registry(commands: argparse._SubParsersAction[Parser]) -> None:
    from spegel_py.config import REGISTRY

    command = commands.add_parser(
        "registry",
        help="run a node: the registry mirror that containerd is pointed at",
        description="Settings come from flags, then environment variables, then --config, then defaults.",
        allow_abbrev=False,
    )
    command.add_argument("--config", type=Path, help="YAML file of settings: the flags' names with underscores")
    settings.add_flags(command, REGISTRY)
    command.set_defaults(run=_registry)


def _add_pull(commands: argparse._SubParsersAction[Parser]) -> None:
    from spegel_py.pull import command as pull

    text = "Pull an image through a mirror into an OCI image-layout folder, verified; goes on where it was cut."
    command = commands.add_parser("pull", help="pull an image through a mirror", description=text, allow_abbrev=False)
    pull.add_arguments(command)
    command.set_defaults(run=pull.run)


def _add_demo(commands: argparse._SubParsersAction[Parser]) -> None:
    from spegel_py.demo import command as demo

    text = "Show it at work: some nodes on this machine, one image, one of them killed while it serves."
    command = commands.add_parser("demo", help="show it at work on this machine", description=text, allow_abbrev=False)
    demo.add_arguments(command)
    command.set_defaults(run=demo.run)


def _registry(options: argparse.Namespace) -> int:
    import uvloop

    from spegel_py import node
    from spegel_py.config import Config, from_environment
    from spegel_py.telemetry import logging

    config = Config.load(flags=vars(options), environment=from_environment(), file=options.config)
    logging.configure(level=config.log_level, log_format=config.log_format)
    try:
        uvloop.run(node.run(config))
    except* SpegelError as group:
        raise _first(group) from None
    return 0


def _first(group: BaseExceptionGroup[SpegelError]) -> SpegelError:
    for error in group.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError("an empty exception group")


def _version(options: argparse.Namespace) -> int:
    print(json.dumps({"version": __version__}) if options.format == "json" else __version__)
    return 0
