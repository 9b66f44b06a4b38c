"""`spegel-py doctor`: check that a node can work on this machine.

The exit status is 0, or 1 if anything must be repaired.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path

from rich.console import Console

from spegel_py import settings, values
from spegel_py.config import REGISTRY, Config
from spegel_py.host.configuration import CONFIG_PATH
from spegel_py.host.doctor.examination import examine
from spegel_py.host.doctor.facts import Subject
from spegel_py.host.doctor.findings import as_json, as_lines, status
from spegel_py.settings import Setting
from spegel_py.tools.addresses import local_url
from spegel_py.tools.basic_auth import Credentials

OF_NODE = (
    "registry_addr",
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

OWN = (
    CONFIG_PATH,
    Setting(
        "containerd_config",
        lambda given: Path(values.text(given)),
        Path("/etc/containerd/config.toml"),
        "containerd's configuration, read if the daemon does not report its settings",
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the flags of `doctor`, some of which are settings of the node."""
    parser.epilog = (
        "Give it the settings of the node: as flags, environment variables or its --config."
    )
    parser.add_argument("--config", type=Path, help="YAML file of the node's settings")
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
    for line in as_lines(findings, encoding=console.encoding):
        console.print(line, soft_wrap=True)
    return status(findings)


def _subject(options: argparse.Namespace) -> Subject:
    flags, environment = vars(options), os.environ
    config = Config.load(flags=flags, environment=environment, file=options.config)
    own = settings.resolve(OWN, flags=flags, environment=environment, file=None)
    credentials = Credentials.read()
    return Subject(
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
