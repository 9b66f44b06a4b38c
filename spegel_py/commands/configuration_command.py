"""`spegel-py configuration`: write hosts.toml files, so that containerd asks the mirror first."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

from spegel_py import settings
from spegel_py.commands.config_file_flag import add_config_flag, other_settings
from spegel_py.commands.output import print_line
from spegel_py.errors import ConfigError
from spegel_py.host.changes import ChangeKind, RegistryChange
from spegel_py.host.configuration import SETTINGS, configure, log_answers, preview
from spegel_py.host.disk_steps import Disk
from spegel_py.host.folder_check import why_foreign
from spegel_py.host.mirroring import Mirroring
from spegel_py.host.registries import parse_registries
from spegel_py.node_name import node_name
from spegel_py.telemetry import logging
from spegel_py.tools.basic_auth import Credentials


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the arguments of `configuration`."""
    parser.epilog = (
        "The previous files are kept in _backup; `spegel-py cleanup` puts them back. Registries "
        "that are not named lose the mirror: name _default beside one registry to have both."
    )
    add_config_flag(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="show the changes of each registry and of each file, and change nothing",
    )
    settings.add_flags(parser, SETTINGS)


def run(args: argparse.Namespace) -> int:
    """Write the files; returns 0. Raises ConfigError, HostError."""
    if os.getpid() == 1:
        # The first process of a container gets only signals that it handles. Without a handler, a
        # Pod that is deleted while this waits for a clean-up would configure its node afterwards.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    values = settings.resolve(
        SETTINGS,
        flags=vars(args),
        environment=os.environ,
        file=args.config,
        others=other_settings(),
    )
    logging.configure(level=values["log_level"], log_format=values["log_format"])
    if not values["mirror_targets"]:
        raise ConfigError(
            "--mirror-targets (or MIRROR_TARGETS) is missing: give http://127.0.0.1:5000 or the "
            "like"
        )
    mirroring = Mirroring(
        registries=values["mirrored_registries"] or parse_registries(()),
        targets=values["mirror_targets"],
        node=node_name(values["node_name"]),
        resolves_tags=values["resolve_tags"],
        keeps_existing=values["prepend_existing"],
        credentials=Credentials.read(),
    )
    root = values["containerd_registry_config_path"]
    if (reason := why_foreign(root)) is not None:
        raise ConfigError(f"--containerd-registry-config-path: {reason}; nothing was changed")
    if values["containerd_sock"]:
        # Imported here because gRPC takes longer to load than everything else together.
        from spegel_py.host.config_path_check import check_searched

        asyncio.run(check_searched(values["containerd_sock"], root))
    if args.dry_run:
        _show(root, mirroring)
        return 0
    configure(root, mirroring, Disk())
    asyncio.run(log_answers(mirroring.targets))
    return 0


def _show(root: Path, mirroring: Mirroring) -> None:
    found, lines = preview(root, mirroring)
    print_line(f"{root}, if this is run without --dry-run:")
    for one in found:
        print_line(f"  {one.kind.value:9}  {one.registry}{_effect(one, mirroring)}")
    for line in lines:
        print_line(line)


def _effect(one: RegistryChange, mirroring: Mirroring) -> str:
    if one.kind is ChangeKind.REMOVED:
        return ": containerd asks the mirror for it no longer"
    if one.kind is ChangeKind.SET_ASIDE:
        return f" until cleanup; {mirroring.keeping(one.name)}"
    return ""
