"""The chart as a real Helm renders it: manifests as values, and what their command lines come
to.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from spegel_py import cli, settings
from spegel_py.config import Config
from spegel_py.host import cleanup, cleanup_wait, configuration

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "spegel-py"
EVERY_OPTION = Path(__file__).parent / "every_option.yaml"
SPEGEL_DEFAULTS = Path(__file__).parent / "spegel_defaults.yaml"

VERSIONS = ("1.25", "1.28", "1.31", "1.34", "1.37")
"""Versions of Kubernetes that the manifests are checked against: the oldest, the newest, and some
between.
"""

APIS = ("monitoring.coreos.com/v1", "grafana.integreatly.org/v1beta1", "autoscaling.k8s.io/v1")
"""What operators bring; Kubernetes' own schemas know none of them."""

NODE_IP = "192.0.2.7"
NODE_NAME = "worker-7"
ZONE = "eu-1b"

Manifest = Mapping[str, Any]
Values = Mapping[str, Any]

_SETTINGS = {
    "configuration": configuration.SETTINGS,
    "cleanup": cleanup.SETTINGS,
    "cleanup-wait": cleanup_wait.SETTINGS,
}


class HelmError(Exception):
    """Helm refused, with what it said."""


@dataclass(frozen=True, slots=True)
class Helm:
    """A Helm binary, used on the chart."""

    program: Path

    def lint(self, values: Values) -> str:
        """Return what `helm lint` says. Raises HelmError."""
        return self._run("lint", "--strict", str(CHART), values=values)

    def template(
        self,
        values: Values,
        *,
        version: str = VERSIONS[-1],
        release: str = "mirror",
        apis: Sequence[str] = APIS,
    ) -> list[Manifest]:
        """Return the manifests, hooks too, for a cluster of this version. Raises HelmError."""
        arguments = [f"--api-versions={api}" for api in apis]
        text = self._run(
            "template",
            release,
            str(CHART),
            "--namespace=spegel",
            f"--kube-version={version}",
            *arguments,
            values=values,
        )
        return [manifest for manifest in yaml.safe_load_all(text) if manifest]

    def _run(self, *arguments: str, values: Values) -> str:
        done = subprocess.run(
            [self.program, *arguments, "--values=-"],
            input=yaml.safe_dump(dict(values)),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise HelmError(done.stdout + done.stderr)
        return done.stdout


def load(file: Path) -> dict[str, Any]:
    """Return a values file."""
    values = yaml.safe_load(file.read_text())
    assert isinstance(values, dict)
    return values


def merged(below: Values, above: Values) -> dict[str, Any]:
    """Return the one values file laid over the other, as Helm does it."""
    both = dict(below)
    for key, value in above.items():
        before = both.get(key)
        both[key] = (
            merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
        )
    return both


def nested(path: Sequence[str], value: object) -> dict[str, Any]:
    """Return values that hold this one alone."""
    for key in reversed(path):
        value = {key: value}
    assert isinstance(value, dict)
    return value


def find(manifests: Sequence[Manifest], kind: str, name: str) -> Manifest:
    """Return the one manifest of this kind and name."""
    (found,) = [
        each for each in manifests if each["kind"] == kind and each["metadata"]["name"] == name
    ]
    return found


def pod(manifest: Manifest) -> Manifest:
    """Return the pod spec of a DaemonSet or a Job."""
    spec = manifest["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


def containers(manifests: Sequence[Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    """Yield all containers of the program with their pod specs; those of the values file are named
    `extra`.
    """
    for manifest in manifests:
        if manifest["kind"] in ("DaemonSet", "Job"):
            spec = pod(manifest)
            for container in [*spec.get("initContainers", []), *spec["containers"]]:
                if container["name"] != "extra":
                    yield spec, container


def named(manifests: Sequence[Manifest], name: str) -> Manifest:
    """Return the one container of this name."""
    (container,) = [each for _, each in containers(manifests) if each["name"] == name]
    return container


def arguments(container: Manifest) -> list[str]:
    """Return a container's arguments as the kubelet passes them."""
    return [
        each.replace("$(NODE_IP)", NODE_IP)
        .replace("$(NODE_NAME)", NODE_NAME)
        .replace("$(ZONE)", ZONE)
        for each in container["args"]
    ]


def parsed(container: Manifest) -> dict[str, Any]:
    """Return what the program makes of a container's arguments: every setting. Raises
    ConfigError.
    """
    given = arguments(container)
    flags = vars(cli._parser(given).parse_args(given))
    if given[0] == "registry":
        config = Config.load(flags=flags, environment={}, file=None)
        return {name: getattr(config, name) for name in Config.__slots__}
    return settings.resolve(_SETTINGS[given[0]], flags=flags, environment={}, file=None)
