"""The configuration files of other runtimes than containerd, and the mirrors that they can have."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from spegel_py import values
from spegel_py.errors import ConfigError, HostError
from spegel_py.host import buildkitd_toml, daemon_json, registries_conf
from spegel_py.host.host_files import read_text
from spegel_py.host.registries import DEFAULT, Registry
from spegel_py.host.runtime_file import RuntimeFile
from spegel_py.oci.reference import DOCKER_HUB
from spegel_py.settings import Setting


class Runtime(StrEnum):
    """A program that pulls images, with a configuration of its own."""

    CONTAINERD = "containerd"
    CRIO = "crio"
    PODMAN = "podman"
    DOCKER = "docker"
    BUILDKIT = "buildkit"


_DROP_IN = Path("/etc/containers/registries.conf.d/spegel-py.conf")

FILES = {
    Runtime.CRIO: _DROP_IN,
    Runtime.PODMAN: _DROP_IN,
    Runtime.DOCKER: Path("/etc/docker/daemon.json"),
    Runtime.BUILDKIT: Path("/etc/buildkit/buildkitd.toml"),
}
"""The file of each runtime that `configuration` changes."""

NEXT = {
    Runtime.CRIO: "run: systemctl reload crio",
    Runtime.PODMAN: "the next pull reads it",
    Runtime.DOCKER: "run: systemctl reload docker; and start the node with --default-registry "
    "docker.io",
    Runtime.BUILDKIT: "start buildkitd again",
}
"""What makes a runtime read its file."""

OWN_HOSTS = (DOCKER_HUB, DEFAULT)
"""Registries that dockerd asks its mirrors for: Docker Hub, whatever is named."""


def _file(given: Any) -> Path | None:
    """Return a file's path with links followed, None for the runtime's usual one."""
    found = values.path(given)
    return Path(os.path.realpath(found)) if found else None


RUNTIME = Setting(
    "runtime",
    values.text,
    Runtime.CONTAINERD.value,
    (
        "the program that is to ask the mirror first; crio and podman: a file in "
        "registries.conf.d, which buildah and skopeo read too; docker: daemon.json; buildkit: "
        "buildkitd.toml"
    ),
    choices=tuple(each.value for each in Runtime),
)

RUNTIME_FILE = Setting(
    "runtime_file",
    _file,
    None,
    "the file of another runtime than containerd, if it is not at its usual place",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeMirrors:
    """The mirrors that a runtime is to ask, in the form of its file.

    `path` is the file if it is not at its usual place.
    """

    runtime: Runtime
    registries: tuple[Registry, ...]
    targets: tuple[str, ...]
    resolves_tags: bool = True
    has_password: bool = False
    path: Path | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The mirrors as the runtime's file names them."""
        match self.runtime:
            case Runtime.DOCKER:
                return self.targets
            case Runtime.BUILDKIT:
                return tuple(map(buildkitd_toml.mirror, self.targets))
            case _:
                return ()  # the file is this program's alone

    def edit(self, text: str) -> str:
        """Return the runtime's file with the mirrors. Raises ValueError."""
        match self.runtime:
            case Runtime.DOCKER:
                return daemon_json.add(text, self.targets)
            case Runtime.BUILDKIT:
                return buildkitd_toml.add(text, self.registries, self.targets)
            case _:
                return registries_conf.render(
                    self.registries, self.targets, can_resolve=self.resolves_tags
                )

    def check(self) -> None:
        """Raise ConfigError for settings that the runtime's file cannot express."""
        runtime = self.runtime.value
        if self.has_password:
            raise ConfigError(
                f"--runtime {runtime}: its file has no place for the mirror's password; run the "
                "node without /etc/secrets/basic-auth"
            )
        if self.runtime is Runtime.DOCKER:
            others = [each.text for each in self.registries if each.host not in OWN_HOSTS]
            if others:
                raise ConfigError(
                    f"--mirrored-registries: dockerd asks its mirrors for docker.io only, not for "
                    f"{others[0]}"
                )
        elif any(each.host == DEFAULT for each in self.registries):
            raise ConfigError(
                f"--mirrored-registries: name each registry; {runtime} has no mirror of all"
            )
        is_digest_only = not self.resolves_tags
        if is_digest_only and self.runtime in (Runtime.DOCKER, Runtime.BUILDKIT):
            raise ConfigError(
                f"--resolve-tags=false: {runtime} asks its mirrors for tags too; start the node "
                "with --tag-ttl 0 instead"
            )
        if self.runtime in (Runtime.CRIO, Runtime.PODMAN):
            self._check_claims()

    def _check_claims(self) -> None:
        """Raise ConfigError for a registry that another file of registries.conf has."""
        own = file_of(self.runtime, self.path).path
        files = [own.parent.parent / "registries.conf", *sorted(own.parent.glob("*.conf"))]
        texts = {str(each): _read(each) for each in files if each != own and each.is_file()}
        try:
            found = next(registries_conf.claimed(texts, self.registries), None)
        except ValueError as error:
            raise ConfigError(f"{error}; nothing was changed") from error
        if found is not None:
            registry, name = found
            raise ConfigError(
                f"{name} has a table of {registry}, which this one would replace: add the mirror "
                "there, or move the table away; nothing was changed"
            )


def file_of(runtime: Runtime, path: Path | None) -> RuntimeFile:
    """Return a runtime's file, at its usual place or at `path`."""
    place = path or Path(os.path.realpath(FILES[runtime]))
    removes: dict[Runtime, Callable[[str, Sequence[str]], str]] = {
        Runtime.DOCKER: daemon_json.remove,
        Runtime.BUILDKIT: buildkitd_toml.remove,
    }
    if runtime in removes:
        return RuntimeFile(place, removes[runtime])
    return RuntimeFile(place, lambda text, mirrors: "", head=registries_conf.HEAD)


def _read(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, ValueError) as error:
        raise HostError(f"cannot read {path}: {error}") from error
