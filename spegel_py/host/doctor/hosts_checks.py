"""Checks of the hosts.toml files: containerd asks this node first, and the node answers. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from spegel_py.host.doctor.containerd_checks import hosts_folder
from spegel_py.host.doctor.facts import DEFAULT, Facts, HostsFile, Unknown
from spegel_py.host.doctor.findings import Finding, Level, error, ok, warning
from spegel_py.host.doctor.hosts_command import command, keeps_others
from spegel_py.host.doctor.rights import AS_ROOT, user

CHECK = "hosts.toml"


def check_hosts(facts: Facts) -> list[Finding]:
    """Check that every mirrored registry has a hosts.toml with this node as its mirror.

    All files of the folder count: those of named registries, and the one for all others.
    """
    match facts.hosts:
        case None:
            return []
        case Unknown(reason, _) if facts.subject.is_in_pod:
            return [
                warning(
                    CHECK,
                    f"not seen from this pod: {reason}",
                    "mount the folder, or run this on the machine, where containerd's proxies "
                    "are seen too",
                )
            ]
        case Unknown(reason, remedy):
            return [error(CHECK, reason, remedy or command(facts))]
        case files:
            return [*_findings(facts, files), *_silent(files)]


def check_set_aside(facts: Facts) -> list[Finding]:
    """Check that earlier settings of registries are used; name the registries that lost theirs."""
    if not isinstance(facts.set_aside, tuple) or not facts.set_aside:
        return []
    text = (
        "set aside until cleanup, and not used by containerd: what was set up for "
        f"{', '.join(facts.set_aside)} (in {hosts_folder(facts)}/_backup)"
    )
    more = [name if name == DEFAULT else f"https://{name}" for name in facts.set_aside]
    keep = command(facts, more=more, keep=True)
    return [
        warning(
            "set_aside", text, f"nothing, if that is meant; to keep it, after the mirror: {keep}"
        )
    ]


def _findings(facts: Facts, files: Sequence[HostsFile]) -> list[Finding]:
    asked = [file for file in files if file.is_asked]
    beside = [file for file in files if not file.is_asked]
    mirrored = [file.registry for file in beside if file.ours]
    # Case 1: only registries with a file of their own are mirrored, which was somebody's choice.
    if [file.registry for file in asked] == [DEFAULT] and asked[0].path is None and mirrored:
        found = [_finding(facts, file) for file in beside if file.ours]
        only = f"only {', '.join(mirrored)}: containerd asks no mirror for other registries"
        return [*found, ok(CHECK, only)]
    found = [_finding(facts, file) for file in asked]
    if any(one.level is Level.ERROR for one in found):
        return found  # the same command repairs the others
    # Case 2: a registry's own file goes before the one for all registries.
    passed_by = [file for file in beside if file.path is not None and not file.ours]
    unread = [_denied(file) for file in passed_by if file.is_denied]
    names = [file.registry for file in beside if not file.ours and not file.is_denied]
    names = [] if facts.subject.registries else names
    return [*found, *unread, *([_bypassed(facts, names)] if names else [])]


def _finding(facts: Facts, file: HostsFile) -> Finding:
    name = "all registries" if file.registry == DEFAULT else file.registry
    if file.path is None:
        return error(CHECK, f"none for {name}: containerd goes upstream at once", command(facts))
    if file.is_denied:
        return _denied(file)
    if file.problem:
        text = (
            f"{file.path} cannot be read: {file.problem}; where containerd cannot either, pulls "
            f"of {name} fail"
        )
        repair = command(facts)
        if keeps_others(facts):  # the command refuses a file that it cannot keep
            repair = shlex.join(["mv", str(file.path), f"{file.path}.broken"]) + f" && {repair}"
        return error(CHECK, text, repair)
    ours = file.ours
    if ours is None or not ours.is_spegel:
        return _no_answer(facts, file)
    if "pull" not in ours.capabilities:
        return error(CHECK, f"{file.path} does not let {ours.url} pull", command(facts))
    first = file.mirrors[0]
    if not (first.is_spegel or first.node is not None):
        text = f"{file.path} has {first.url} asked before {ours.url}"
        return warning(CHECK, text, f"put [host.'{ours.url}'] first")
    tags = "" if "resolve" in ours.capabilities else "; tags are resolved upstream"
    return ok(CHECK, f"{file.path} points at {ours.url}, which answers{tags}")


def _no_answer(facts: Facts, file: HostsFile) -> Finding:
    answers = (
        ", ".join(f"{mirror.url} ({mirror.answer})" for mirror in file.mirrors)
        or "it names no host"
    )
    text = f"no host of {file.path} answers as spegel-py: {answers}"
    look = "see that spegel-py registry runs"
    # A command would only write the same file again.
    if facts.subject.registry in {mirror.url for mirror in file.mirrors}:
        return error(CHECK, text, f"{look} and listens there")
    return error(CHECK, text, f"{look}; if it listens elsewhere: {command(facts)}")


def _denied(file: HostsFile) -> Finding:
    text = f"{file.path} may not be read by {user()}: it may hold a password"
    return warning(CHECK, text, AS_ROOT)


def _silent(files: Sequence[HostsFile]) -> list[Finding]:
    """Return a finding for each mirror that makes containerd wait, with its first file."""
    found = {
        mirror.url: (file.path, mirror)
        for file in reversed(files)
        for mirror in file.mirrors
        if mirror.is_silent
    }
    return [
        error(
            CHECK,
            f"{path} names {url}, which {mirror.answer}: containerd waits there with each pull, "
            "1.6 for minutes, 2.x for 30 s",
            f"see what listens there and why it hangs, or take [host.'{url}'] out of that file",
        )
        for url, (path, mirror) in sorted(found.items())
    ]


def _bypassed(facts: Facts, registries: Sequence[str]) -> Finding:
    names = ", ".join(registries)
    return warning(
        CHECK,
        f"a folder of its own without this node in it has {names}: it is not mirrored",
        command(facts, more=registries, keep=True),
    )
