"""`spegel-py cleanup`: restore containerd's folder of hosts.toml files."""

from __future__ import annotations

import argparse
import asyncio
import os

import structlog

from spegel_py import settings
from spegel_py.commands.config_file_flag import add_config_flag, other_settings
from spegel_py.host.cleanup import SETTINGS, clean_up_and_serve
from spegel_py.host.folder_check import why_foreign
from spegel_py.host.replica_cleanup import release_replicas
from spegel_py.telemetry import logging

log = structlog.get_logger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the arguments of `cleanup`."""
    parser.epilog = (
        "Exit status: 0 if the folder is as it was, 1 if it is no folder of containerd's."
    )
    add_config_flag(parser)
    settings.add_flags(parser, SETTINGS)


def run(args: argparse.Namespace) -> int:
    """Restore the folder, then serve the probe if there is an address; returns the exit status.

    Raises ConfigError, HostError.
    """
    values = settings.resolve(
        SETTINGS,
        flags=vars(args),
        environment=os.environ,
        file=args.config,
        others=other_settings(),
    )
    logging.configure(level=values["log_level"], log_format=values["log_format"])
    root, address = values["containerd_registry_config_path"], values["addr"]
    reason = why_foreign(root)
    if reason is not None:
        log.warning("no folder of containerd's", path=str(root), reason=reason)
        if not address:
            return 1
    socket = values["containerd_sock"]
    if socket is not None and socket.exists():
        asyncio.run(release_replicas(socket, values["containerd_namespace"]))
    asyncio.run(clean_up_and_serve(root, address, linger=values["linger"]))
    return 0
