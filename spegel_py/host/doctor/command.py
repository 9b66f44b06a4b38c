"""`spegel-py doctor`: its flags, its output and its exit status (0, 1 if anything must be mended)."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from spegel_py import settings
from spegel_py.host.configuration import CONFIG_PATH
from spegel_py.host.doctor.examination import examine
from spegel_py.host.doctor.facts import Subject
from spegel_py.host.doctor.report import as_json, as_lines, status
from spegel_py.settings import Setting

OF_NODE = (
    "registry_addr",
    "metrics_addr",
    "containerd_sock",
    "containerd_namespace",
    "containerd_content_path",
    "mirrored_registries",
    "registry_filters",
)
"""The node's settings that are flags here too; the rest comes from its environment and its --config as well."""

OWN = (
    CONFIG_PATH,
    Setting(
        "containerd_config",
        lambda given: Path(settings.text(given)),
        Path("/etc/containerd/config.toml"),
        "containerd's configuration, read where the daemon does not tell how it runs",
    ),
)


def add_arguments(parser: argparse.ArgumentParser, of_registry: Sequence[Setting]) -> None:
    """Give the parser the flags of `doctor`, of which it shares some with the registry's settings."""
    settings.add_flags(parser, [*(one for one in of_registry if one.name in OF_NODE), *OWN])
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object and nothing else"
    )


def run(subject: Subject, *, is_json: bool) -> int:
    """Examine the node and print what was found; returns the exit status."""
    findings = asyncio.run(examine(subject))
    if is_json:
        sys.stdout.write(json.dumps(as_json(findings)) + "\n")
        return status(findings)
    console = Console(highlight=False)
    for line in as_lines(findings, encoding=console.encoding):
        console.print(line, soft_wrap=True)
    return status(findings)
