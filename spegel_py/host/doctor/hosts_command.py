"""The `spegel-py configuration` command that repairs hosts.toml files and keeps the rest. Pure.

`configuration` sets aside each registry that it is not given. So the command names every registry
of the folder, with the mirrors, the node's name and the settings that its file has now.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from spegel_py.host.doctor.containerd_checks import STANDARD_FOLDER, hosts_folder
from spegel_py.host.doctor.facts import DEFAULT, Facts, HostsFile, NodeState
from spegel_py.host.doctor.hosts_files import host_of
from spegel_py.node_name import node_name


def command(facts: Facts, *, more: Iterable[str] = (), keep: bool = False) -> str:
    """Return the command.

    Args:
        facts: the present files, and the settings of the node.
        more: registries that are mirrored besides.
        keep: True to keep previous hosts of the registries, though no present file has any.
    """
    files = facts.hosts if isinstance(facts.hosts, tuple) else ()
    present = [one for one in files if one.path is not None and not one.problem]
    ours = [one for one in present if one.ours is not None]
    registries = _registries(facts, [one for one in present if one.ours or one.has_more], more)
    words = ["spegel-py", "configuration", "--mirror-targets", *_targets(facts, ours)]
    if (folder := hosts_folder(facts)) != STANDARD_FOLDER:
        words += ["--containerd-registry-config-path", str(folder)]
    if registries != [DEFAULT]:
        words += ["--mirrored-registries", *registries]
    if keep or keeps_others(facts):
        words.append("--prepend-existing")
    if (mirrors := [one.ours for one in ours]) and all(
        mirror and "resolve" not in mirror.capabilities and "pull" in mirror.capabilities
        for mirror in mirrors
    ):
        words.append("--resolve-tags=false")
    nodes = {mirror.node for mirror in mirrors if mirror and mirror.node}
    if len(nodes) == 1 and nodes != {node_name("")}:
        words += ["--node-name", *nodes]
    if isinstance(facts.node, NodeState) and facts.node.token:
        words += ["--runtime-token", facts.node.token.file]
    return shlex.join(words)


def keeps_others(facts: Facts) -> bool:
    """Return True if present files have settings that `configuration` has to keep."""
    files = facts.hosts if isinstance(facts.hosts, tuple) else ()
    return any(one.has_more for one in files if not one.problem)


def _registries(facts: Facts, present: Iterable[HostsFile], more: Iterable[str]) -> list[str]:
    """Return all registries of the folder as flags have them, and each of them once."""
    written = {one.registry: _as_flag(one) for one in present}
    wanted = [*(facts.subject.registries or [DEFAULT]), *more]
    return list(({host_of(each): each for each in wanted} | written).values())


def _as_flag(file: HostsFile) -> str:
    """Return a file's registry: with the scheme of its server, else as containerd asks it."""
    scheme = (file.server or "").partition("://")[0]
    is_url = scheme in ("http", "https") and file.registry != DEFAULT
    return f"{scheme}://{file.registry}" if is_url else file.registry


def _targets(facts: Facts, ours: Iterable[HostsFile]) -> list[str]:
    """Return the mirrors of the files that name this node; without any, the node's own address."""
    for file in ours:
        if any(mirror.is_spegel for mirror in file.mirrors):
            return [one.url for one in file.mirrors if one.is_spegel or one.node is not None]
    return [facts.subject.registry]
