"""A check that containerd searches the folder to which `configuration` writes hosts.toml files."""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from spegel_py.errors import ConfigError
from spegel_py.host.doctor.containerd_checks import check_config_path, ignored_folder, roots
from spegel_py.host.doctor.facts import Facts, Subject
from spegel_py.host.doctor.findings import Level
from spegel_py.host.doctor.gather import gather_told
from spegel_py.store.containerd import CriStatus

log = structlog.get_logger(__name__)


async def check_searched(socket: Path, folder: Path) -> None:
    """Check the folder; if the answer cannot be found out, log that and return.

    Raises:
        ConfigError: containerd says that it does not search the folder.
    """
    subject = Subject(
        socket=socket, namespace="k8s.io", content_path=None, registry="", metrics="", certs=folder
    )
    check(await gather_told(subject), folder)


def check(facts: Facts, folder: Path) -> None:
    """Decide from the facts, as `check_searched` does."""
    if _is_linked(facts, folder):
        return
    if problem := ignored_folder(facts):
        raise ConfigError(f"containerd's {problem.check} is {problem.text}; {problem.remedy}")
    for finding in check_config_path(facts):
        if finding.level is Level.ERROR:
            log.warning(
                "containerd may not read the folder", finding=finding.text, remedy=finding.remedy
            )
        elif finding.level is Level.WARNING:
            log.info("containerd may not read the folder", finding=finding.text)


def _is_linked(facts: Facts, folder: Path) -> bool:
    """Return True if containerd searches this folder through a symbolic link."""
    if not isinstance(facts.cri, CriStatus) or facts.cri.images is None:
        return False
    searched = {os.path.realpath(root) for root in roots(facts.cri.images) if root != folder}
    return os.path.realpath(folder) in searched
