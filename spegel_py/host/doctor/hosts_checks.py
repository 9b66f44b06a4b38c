"""Checks of the hosts.toml files: containerd asks this node first, and the node answers. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from spegel_py.host.doctor.facts import DEFAULT, Facts, HostsFile, MirrorHost, Unknown
from spegel_py.host.doctor.findings import Finding, Level, error, ok, warning

CHECK = "hosts.toml"


def check_hosts(facts: Facts) -> list[Finding]:
    """Check that every mirrored registry has a hosts.toml with this node as its mirror.

    Folders of other registries must not bypass the node.
    """
    write = _write(facts)
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
        case Unknown(reason, _):
            return [error(CHECK, reason, write)]
        case files:
            found = [_finding(file, write) for file in files if file.is_asked]
            bypassed = [file.registry for file in files if not file.is_asked and not _ours(file)]
            has_default = all(
                one.level is not Level.ERROR for one in found
            )  # otherwise the same command repairs both
            return (
                found
                + _silent(files)
                + ([_bypassed(bypassed, write)] if bypassed and has_default else [])
            )


def check_set_aside(facts: Facts) -> list[Finding]:
    """Check that earlier settings of registries are used; name the registries that lost theirs."""
    if not isinstance(facts.set_aside, tuple) or not facts.set_aside:
        return []
    text = (
        "set aside until cleanup, and not used by containerd: what was set up for "
        f"{', '.join(facts.set_aside)} "
        f"(in {facts.subject.certs or 'the folder'}/_backup)"
    )
    more = [name if name == DEFAULT else f"https://{name}" for name in facts.set_aside]
    named = dict.fromkeys([*(_urls(facts) or [DEFAULT]), *more])
    keep = f"{_command(facts)} --prepend-existing --mirrored-registries {' '.join(named)}"
    return [
        warning(
            "set_aside", text, f"nothing, if that is meant; to keep it, after the mirror: {keep}"
        )
    ]


def _finding(file: HostsFile, write: str) -> Finding:
    name = "all registries" if file.registry == DEFAULT else file.registry
    if file.path is None:
        return error(CHECK, f"none for {name}: containerd goes upstream at once", write)
    if file.problem:
        text = (
            f"{file.path} cannot be read: {file.problem}; where containerd cannot either, pulls "
            f"of {name} fail"
        )
        return error(CHECK, text, write)
    ours = _ours(file)
    if ours is None:
        answers = (
            ", ".join(f"{mirror.url} ({mirror.answer})" for mirror in file.mirrors)
            or "it names no host"
        )
        text = f"no host of {file.path} answers as spegel-py: {answers}"
        return error(
            CHECK, text, f"see that spegel-py registry runs; if it listens elsewhere: {write}"
        )
    if "pull" not in ours.capabilities:
        return error(
            CHECK,
            f"{file.path} does not let {ours.url} pull",
            f'add "pull" to its capabilities, or: {write}',
        )
    if ours is not file.mirrors[0]:
        text = f"{file.path} has {file.mirrors[0].url} asked before {ours.url}"
        return warning(CHECK, text, f"put [host.'{ours.url}'] first, or: {write}")
    tags = "" if "resolve" in ours.capabilities else "; tags are resolved upstream"
    return ok(CHECK, f"{file.path} points at {ours.url}, which answers{tags}")


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
            "1.6 for minutes, 2.x "
            "for 30 s",
            f"see what listens there and why it hangs, or take [host.'{url}'] out of that file",
        )
        for url, (path, mirror) in sorted(found.items())
    ]


def _ours(file: HostsFile) -> MirrorHost | None:
    return next((mirror for mirror in file.mirrors if mirror.is_spegel), None)


def _bypassed(registries: list[str], write: str) -> Finding:
    names = ", ".join(registries)
    return warning(
        CHECK, f"a folder of its own without this node in it has {names}: it is not mirrored", write
    )


def _write(facts: Facts) -> str:
    urls = _urls(facts)
    return _command(facts) + (f" --mirrored-registries {' '.join(urls)}" if urls else "")


def _command(facts: Facts) -> str:
    folder = (
        f" --containerd-registry-config-path {facts.subject.certs}" if facts.subject.certs else ""
    )
    return f"spegel-py configuration --mirror-targets {facts.subject.registry}{folder}"


def _urls(facts: Facts) -> list[str]:
    return [one if "://" in one else f"https://{one}" for one in facts.subject.registries]
