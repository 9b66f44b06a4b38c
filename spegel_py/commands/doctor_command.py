"""`spegel-py doctor`: check that a node can work on this machine.

The exit status is 0, or 1 if anything must be repaired.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from spegel_py import settings, values
from spegel_py.commands.config_file_flag import add_config_flag
from spegel_py.commands.output import shortened
from spegel_py.config import REGISTRY, Config
from spegel_py.errors import ConfigError
from spegel_py.host.configuration import CONFIG_PATH
from spegel_py.host.doctor import node_queries
from spegel_py.host.doctor.examination import examine
from spegel_py.host.doctor.facts import Subject
from spegel_py.host.doctor.findings import as_json, as_lines, status
from spegel_py.host.doctor.gather import DEADLINE
from spegel_py.settings import Setting
from spegel_py.tools.addresses import is_http_url, local_url
from spegel_py.tools.basic_auth import Credentials
from spegel_py.tools.runtime_token import known_tokens

OF_NODE = (
    "registry_addr",
    "runtime_addr",
    "runtime_token",
    "metrics_addr",
    "containerd_sock",
    "containerd_namespace",
    "containerd_content_path",
    "mirrored_registries",
    "registry_filters",
)
"""The node's settings that are flags here too.

The others come from the node's environment and its --config file.
"""


def _folder(given: Any) -> Path | None:
    return CONFIG_PATH.parse(given) if values.path(given) else None


def _urls(given: Any) -> tuple[str, ...]:
    found = values.texts(given)
    for each in found:
        if not is_http_url(each):
            raise ValueError(f"{values.quoted(each)} should be a URL such as http://10.0.0.7:30020")
    return found


OWN = (
    replace(
        CONFIG_PATH,
        parse=_folder,
        default=None,
        help="the folder of hosts.toml files; none: the folder that containerd searches",
    ),
    Setting(
        "containerd_config",
        values.path,
        None,
        (
            "containerd's configuration, read if the daemon does not report its settings; none: "
            "the file that the running daemon was given"
        ),
    ),
    Setting(
        "runtime_closed_at",
        _urls,
        (),
        "URLs at which runtime-addr must not answer, such as http://NODE_ADDRESS:30020",
        many=True,
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the flags of `doctor`, some of which are settings of the node."""
    parser.epilog = (
        "It asks the running node for its settings. Flags go before those; environment variables "
        "and --config are for a node that does not run."
    )
    add_config_flag(parser)
    settings.add_flags(parser, [*(one for one in REGISTRY if one.name in OF_NODE), *OWN])
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object and nothing else"
    )


def run(options: argparse.Namespace) -> int:
    """Examine the node and print the findings; returns the exit status."""
    findings = asyncio.run(examine(_subject(options)))
    if options.json:
        sys.stdout.write(json.dumps(as_json(findings)) + "\n")
        return status(findings)
    console = Console(highlight=False)
    width = None
    if console.is_terminal:
        width = console.width
        findings = [replace(one, text=shortened(one.text)) for one in findings]
    for line in as_lines(findings, encoding=console.encoding, width=width):
        console.print(line, soft_wrap=True)
    return status(findings)


def _subject(options: argparse.Namespace) -> Subject:
    given, environment = vars(options), os.environ
    config = Config.load(flags=given, environment=environment, file=options.config)
    told = asyncio.run(node_queries.settings(local_url(config.metrics_addr), timeout=DEADLINE))
    flags = {**told, **{name: value for name, value in given.items() if value is not None}}
    config = Config.load(flags=flags, environment=environment, file=options.config)
    credentials = None
    own = settings.resolve(OWN, flags=given, environment=environment, file=None)
    with suppress(ConfigError):  # only root may read it: the pull then says what it lacks
        credentials = Credentials.read()
    return Subject(
        socket=config.containerd_sock,
        namespace=config.containerd_namespace,
        content_path=config.containerd_content_path,
        containerd_config=own["containerd_config"],
        certs=own["containerd_registry_config_path"],
        registry=local_url(config.own_addr),
        metrics=local_url(config.metrics_addr),
        registries=config.registries,
        filters=config.filters,
        is_layout=config.oci_layout is not None,
        is_in_pod="KUBERNETES_SERVICE_HOST" in environment,
        authorization=credentials.header if credentials else None,
        runtime_addr=config.runtime_addr,
        closed_at=own["runtime_closed_at"],
        runtime_token=next(iter(known_tokens(config.runtime_token)), "")
        if config.runtime_token
        else "",
    )
