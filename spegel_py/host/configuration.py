"""`spegel-py configuration`: write hosts.toml files, so that containerd asks the mirror first."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from spegel_py import settings, values
from spegel_py.errors import ConfigError
from spegel_py.host import original
from spegel_py.host.disk_steps import Disk
from spegel_py.host.file_tree import Entry, Folder
from spegel_py.host.host_files import read
from spegel_py.host.http_probe import MirrorAnswer, ask_mirror
from spegel_py.host.mirroring import Mirroring
from spegel_py.host.registries import parse_registries, parse_targets
from spegel_py.node_name import NODE_NAME, node_name
from spegel_py.settings import Setting
from spegel_py.telemetry import logging
from spegel_py.telemetry.logging import LOGGING
from spegel_py.tools.basic_auth import Credentials

log = structlog.get_logger(__name__)

START = (
    "start spegel-py registry, unless it starts after this by itself; pulls go upstream at once "
    "until then"
)

WAITS = (
    "see what listens there, and whether a firewall drops its packets: until then pulls may wait "
    "there, "
    "with containerd 1.6 for minutes; spegel-py cleanup --addr '' takes the mirror out"
)


def config_path(given: Any) -> Path:
    """Return a folder's path with links followed. Raises ValueError for empty text."""
    if found := values.path(given):
        return Path(os.path.realpath(found))
    raise ValueError("it is empty: name the folder of containerd's config_path")


CONFIG_PATH = Setting(
    "containerd_registry_config_path",
    config_path,
    Path("/etc/containerd/certs.d"),
    "the folder that is config_path in containerd's configuration",
)

SETTINGS = (
    *LOGGING,
    CONFIG_PATH,
    Setting(
        "mirrored_registries",
        lambda given: parse_registries(values.texts(given)),
        (),
        "registries to mirror, such as https://docker.io; _default, * or none means all",
        many=True,
    ),
    Setting(
        "mirror_targets",
        lambda given: parse_targets(values.texts(given)),
        (),
        "mirrors to ask, in this order, such as http://127.0.0.1:5000",
        many=True,
    ),
    NODE_NAME,
    Setting(
        "resolve_tags",
        values.boolean,
        True,
        "ask the mirror for tags too; if false, for digests only",
    ),
    Setting(
        "prepend_existing",
        values.boolean,
        False,
        (
            "keep the previous hosts of the named registries, after the mirror; all other "
            "files are set aside until cleanup"
        ),
    ),
    Setting(
        "containerd_sock",
        values.path,
        None,
        (
            "containerd's socket, to fail if containerd reports that it does not read the "
            "folder; none: no check"
        ),
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the arguments of `configuration`."""
    parser.epilog = "The previous files are kept in _backup; `spegel-py cleanup` puts them back."
    settings.add_flags(parser, SETTINGS)


def run(args: argparse.Namespace) -> int:
    """Write the files; returns 0. Raises ConfigError, HostError."""
    if os.getpid() == 1:
        # The first process of a container gets only signals that it handles. Without a handler, a
        # Pod that is deleted while this waits for a clean-up would configure its node afterwards.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    values = settings.resolve(SETTINGS, flags=vars(args), environment=os.environ, file=None)
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
    if values["containerd_sock"]:
        # Imported here because gRPC takes longer to load than everything else together.
        from spegel_py.host.config_path_check import check_searched

        asyncio.run(check_searched(values["containerd_sock"], root))
    configure(root, mirroring, Disk())
    asyncio.run(log_answers(mirroring.targets))
    return 0


def configure(root: Path, mirroring: Mirroring, disk: Disk) -> None:
    """Write the mirrors' files to `root`, and keep the original; a second run changes nothing."""

    def plan(before: Folder) -> Mapping[str, Entry]:
        wanted = mirroring.plan(before, root=root, outside=read)
        for name in mirroring.set_aside(before, wanted):
            log.warning(
                "set aside until cleanup", path=str(root / name), remedy=mirroring.keeping(name)
            )
        return wanted

    changed = original.change(root, plan, disk)
    log.info("containerd is configured", path=str(root), changed=changed)


async def log_answers(targets: Sequence[str]) -> None:
    """Ask each mirror once, for 2 s at most, and log its answer; never raises.

    The files are written already, and stay: the registry may start only after this command ends.
    """
    answers = await asyncio.gather(*map(ask_mirror, targets))
    for target, answer in zip(targets, answers, strict=True):
        log_answer(target, answer)


def log_answer(mirror: str, answer: MirrorAnswer) -> None:
    """Log a mirror's answer; a warning means that pulls are slow until somebody acts."""
    if answer.is_up:
        log.info("the mirror answers", mirror=mirror, answer=answer.text)
    elif answer.is_refused:
        # This ran as an init container, or before a service's start: the registry starts later.
        log.info("no mirror listens there yet", mirror=mirror, remedy=START)
    else:
        log.warning("the mirror does not answer", mirror=mirror, answer=answer.text, remedy=WAITS)
