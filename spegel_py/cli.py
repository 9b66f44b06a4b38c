"""The command line. Wrong input ends in one line on stderr and exit status 2, never in a traceback."""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from spegel_py import __version__, settings
from spegel_py.errors import ConfigError, HostError, SpegelError
from spegel_py.settings import Parser

YOUNG = 5000
"""Objects made, beyond those that went, between two looks for garbage in a node; Python's 700 come 25 times a pull."""

Add = Callable[[argparse.ArgumentParser], None]
Run = Callable[[argparse.Namespace], int]


@dataclass(frozen=True, slots=True)
class Command:
    """One command; its code is loaded only when it is called, since libp2p alone takes a second to import."""

    name: str
    text: str
    load: Callable[[], tuple[Add, Run]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options = _parser(given).parse_args(given)
        return _flushed(int(options.run(options)))
    except ConfigError as error:
        return _fail(error, 2)
    except SpegelError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return 130


def _flushed(status: int) -> int:
    """Return the exit status of a command whose output is written: a full disk is an error, a closed pipe the end."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # what could not be written stays in a buffer that Python would try to write once more at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 128 + signal.SIGPIPE
        return _fail(HostError(f"the output cannot be written: {error.strerror}"), 1)
    return status


def _fail(error: Exception, status: int) -> int:
    from spegel_py.telemetry.logging import Stderr

    Stderr().write(f"spegel-py: {' '.join(str(error).split())}\n")
    return status


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    parser = Parser(
        prog="spegel-py",
        description="A peer-to-peer container image cache for containerd.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(
        title="commands", required=True, metavar="COMMAND", parser_class=Parser
    )
    for command in COMMANDS:
        description = f"{command.text[0].upper()}{command.text[1:]}."
        sub = commands.add_parser(
            command.name, help=command.text, description=description, allow_abbrev=False
        )
        if command.name in given:
            add, run = command.load()
            add(sub)
            sub.set_defaults(run=run)
    return parser


def _load_registry() -> tuple[Add, Run]:
    from spegel_py.config import REGISTRY

    def add(parser: argparse.ArgumentParser) -> None:
        parser.epilog = (
            "Settings come from flags, then environment variables, then --config, then defaults."
        )
        parser.add_argument(
            "--config", type=Path, help="YAML file of settings: the flags' names with underscores"
        )
        settings.add_flags(parser, REGISTRY)

    return add, _registry


def _registry(options: argparse.Namespace) -> int:
    import uvloop

    from spegel_py import node
    from spegel_py.config import Config, from_environment
    from spegel_py.telemetry import logging

    config = Config.load(flags=vars(options), environment=from_environment(), file=options.config)
    logging.configure(level=config.log_level, log_format=config.log_format)
    gc.freeze()  # what was imported stays: each full collection would go through it for 70 ms
    gc.set_threshold(YOUNG)
    try:
        uvloop.run(node.run(config))
    except* SpegelError as group:
        raise _first(group) from None
    return 0


def _load_doctor() -> tuple[Add, Run]:
    from spegel_py.config import REGISTRY
    from spegel_py.host.doctor import command

    def add(parser: argparse.ArgumentParser) -> None:
        parser.epilog = (
            "Give it the settings of the node: as flags, environment variables or its --config."
        )
        parser.add_argument("--config", type=Path, help="YAML file of the node's settings")
        command.add_arguments(parser, REGISTRY)

    return add, _doctor


def _doctor(options: argparse.Namespace) -> int:
    from spegel_py.config import Config, from_environment
    from spegel_py.host.doctor import Subject, command, local_url
    from spegel_py.tools.basic_auth import Credentials

    flags, environment = vars(options), from_environment()
    config = Config.load(flags=flags, environment=environment, file=options.config)
    own = settings.resolve(command.OWN, flags=flags, environment=environment, file=None)
    credentials = Credentials.read()
    subject = Subject(
        socket=config.containerd_sock,
        namespace=config.containerd_namespace,
        content_path=config.containerd_content_path,
        containerd_config=own["containerd_config"],
        certs=own["containerd_registry_config_path"],
        registry=local_url(config.registry_addr),
        metrics=local_url(config.metrics_addr),
        registries=config.registries,
        filters=config.filters,
        is_in_pod="KUBERNETES_SERVICE_HOST" in environment,
        authorization=credentials.header if credentials else None,
    )
    return command.run(subject, is_json=options.json)


def _load_alerts() -> tuple[Add, Run]:
    from spegel_py.inspection import alerts as asked
    from spegel_py.inspection.node import add_address_flags
    from spegel_py.supervision import command as kept

    def add(parser: argparse.ArgumentParser) -> None:
        parser.epilog = "With --data-dir what is kept there, closed alerts too; else a running node's open ones."
        kept.add_arguments(parser)
        add_address_flags(parser)

    def run(options: argparse.Namespace) -> int:
        return (
            kept.run(options)
            if options.node is None and kept.folder_of(options)
            else asked.run(options)
        )

    return add, run


def _load_completion() -> tuple[Add, Run]:
    from spegel_py import completion

    def run(options: argparse.Namespace) -> int:
        print(completion.script(_parser([command.name for command in COMMANDS]), options.shell))
        return 0

    return completion.add_arguments, run


def _first(group: BaseExceptionGroup[SpegelError]) -> SpegelError:
    for error in group.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError("an empty exception group")


def _load_module(name: str) -> Callable[[], tuple[Add, Run]]:
    def load() -> tuple[Add, Run]:
        module = import_module(name)
        return module.add_arguments, module.run

    return load


def _load_version() -> tuple[Add, Run]:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--format", choices=("text", "json"), default="text")
        parser.add_argument(
            "--json",
            action="store_const",
            const="json",
            dest="format",
            help="the same as --format json",
        )

    def run(options: argparse.Namespace) -> int:
        print(json.dumps({"version": __version__}) if options.format == "json" else __version__)
        return 0

    return add, run


COMMANDS = (
    Command(
        "registry", "run a node: the registry mirror that containerd is pointed at", _load_registry
    ),
    Command("doctor", "say whether this node will work, and what to do if not", _load_doctor),
    Command(
        "why",
        "say why pulls were answered by a peer, from here, or left to the registry",
        _load_module("spegel_py.inspection.why"),
    ),
    Command("status", "show how a running node is", _load_module("spegel_py.inspection.status")),
    Command(
        "peers", "show the peers of a running node", _load_module("spegel_py.inspection.peers")
    ),
    Command(
        "images",
        "show the images that a node has, and on how many peers",
        _load_module("spegel_py.inspection.holdings"),
    ),
    Command(
        "measure",
        "have a node pull an image to nowhere, and say how fast and from whom",
        _load_module("spegel_py.inspection.measuring"),
    ),
    Command(
        "resolve", "show who has an image or a digest", _load_module("spegel_py.inspection.resolve")
    ),
    Command(
        "alerts",
        "show what is or was wrong with a node, and what it did about it",
        _load_alerts,
    ),
    Command(
        "pull",
        "pull an image through a mirror into an image-layout folder",
        _load_module("spegel_py.pull.command"),
    ),
    Command(
        "demo",
        "show it at work: nodes on this machine, one of them killed",
        _load_module("spegel_py.demo.command"),
    ),
    Command(
        "configuration",
        "have containerd ask mirrors first, by hosts.toml files",
        _load_module("spegel_py.host.configuration"),
    ),
    Command(
        "cleanup",
        "put containerd's hosts.toml files back as they were",
        _load_module("spegel_py.host.cleanup"),
    ),
    Command(
        "cleanup-wait",
        "wait until the clean-up of every node has ended",
        _load_module("spegel_py.host.cleanup_wait"),
    ),
    Command(
        "completion",
        "print what lets a shell complete commands, flags and values",
        _load_completion,
    ),
    Command("version", "print the version", _load_version),
)
