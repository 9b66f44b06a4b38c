"""Writing hosts.toml files, so that containerd asks the mirror first."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from spegel_py import values
from spegel_py.host import original
from spegel_py.host.changes import ChangeKind, RegistryChange, changes, diff
from spegel_py.host.disk_steps import Disk
from spegel_py.host.file_tree import Entry, Folder
from spegel_py.host.host_files import read
from spegel_py.host.http_probe import MirrorAnswer, ask_mirror
from spegel_py.host.mirroring import Mirroring, is_made
from spegel_py.host.registries import parse_registries, parse_targets
from spegel_py.node_name import NODE_NAME
from spegel_py.settings import Setting
from spegel_py.telemetry.logging import LOGGING

log = structlog.get_logger(__name__)

START = (
    "start spegel-py registry, unless it starts after this by itself; pulls go upstream at once "
    "until then"
)

WAITS = (
    "see what listens there, and whether a firewall drops its packets: until then pulls may wait "
    "there, "
    "with containerd 1.6 for minutes; spegel-py cleanup takes the mirror out"
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
        (
            "registries to mirror, such as docker.io, or http://10.0.0.9:5000 without TLS; "
            "_default, * or none means all, and may stand beside others"
        ),
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


def configure(root: Path, mirroring: Mirroring, disk: Disk) -> None:
    """Write the mirrors' files to `root`, and keep the original; a second run changes nothing."""
    found: list[RegistryChange] = []
    removed: dict[str, Entry] = {}

    def plan(before: Folder) -> Mapping[str, Entry]:
        wanted, present = mirroring.plan(before, root=root, outside=read), original.present(root)
        for name in mirroring.set_aside(before, wanted):
            log.warning(
                "set aside until cleanup", path=str(root / name), remedy=mirroring.keeping(name)
            )
        found.extend(changes(present, wanted, before.entries))
        kind = ChangeKind.REMOVED
        removed.update((one.name, present[one.name]) for one in found if one.kind is kind)
        return wanted

    changed = original.change(root, plan, disk, is_made=is_made)
    for one in found:
        _log_change(root, one, remedy=mirroring.with_registries(removed) if removed else "")
    log.info("containerd is configured", path=str(root), changed=changed)


def preview(root: Path, mirroring: Mirroring) -> tuple[list[RegistryChange], Iterator[str]]:
    """Return the changes that `configure` would make, and the lines of their diff."""
    before, present = original.look(root)
    wanted = mirroring.plan(before, root=root, outside=read)
    return changes(present, wanted, before.entries), diff(present, wanted, root=root)


def _log_change(root: Path, one: RegistryChange, *, remedy: str) -> None:
    path = str(root / one.name)
    match one.kind:
        case ChangeKind.ADDED:
            log.info("mirror added", registry=one.registry, path=path)
        case ChangeKind.KEPT:
            log.info("mirror kept", registry=one.registry, path=path)
        case ChangeKind.REMOVED:
            log.warning("mirror removed", registry=one.registry, path=path, remedy=remedy)
        case ChangeKind.SET_ASIDE:
            pass  # it has a warning of its own, with its remedy
        case _:
            log.info("mirror changed", registry=one.registry, path=path)


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
