"""The image as it is built, and a way to run it without an engine: root read-only, the first
process, no rights.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.deploy.chart import ROOT

_ENTER = """
root=$1 places=$2
mount --bind "$root" "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
for place in $places; do
    mount --bind "${place#*:}" "$root${place#*:}"
    mount -o "remount,bind,${place%%:*}" "$root${place#*:}"
done
mount -o remount,bind,ro "$root"
shift 2
exec "$@"
"""
"""Runs in namespaces of its own; places are `ro:/folder` or `rw:/folder`, at the same path
inside.
"""


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """What `.ci/image` has built, unpacked."""

    layout: Path
    root: Path
    config: Mapping[str, Any]
    size: int
    """Bytes of its layers as a registry has them."""

    @classmethod
    def build(cls, into: Path) -> BuiltImage:
        """Build it, if that was not done yet, and unpack it into a folder."""
        built = subprocess.run(
            [ROOT / ".ci" / "image"], stdout=subprocess.PIPE, text=True, check=True
        )
        layout = Path(built.stdout.strip())
        manifest = _read(layout, json.loads((layout / "index.json").read_text())["manifests"][0])
        for layer in manifest["layers"]:
            _unpack(_blob(layout, layer), into)
        into.chmod(0o755)  # it is what nobody has as /
        return cls(
            layout,
            into,
            _read(layout, manifest["config"]),
            sum(layer["size"] for layer in manifest["layers"]),
        )

    def command(self, *arguments: str, user: int, places: Sequence[str] = ()) -> list[str]:
        """Return the command that runs the image's with these arguments, as this user, without any
        capability.
        """
        for place in places:
            (self.root / place.partition(":")[2].lstrip("/")).mkdir(parents=True, exist_ok=True)
        enter = [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-euc",
            _ENTER,
            "enter",
        ]
        ids = [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        powerless = ["setpriv", *ids, "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
        image = self.config["config"]
        environment = ["env", "-i", *image["Env"]]
        return [
            *(*enter, str(self.root), " ".join(places)),
            *(*environment, "chroot", str(self.root), *powerless, *image["Entrypoint"], *arguments),
        ]


def first_process(runner: int) -> int:
    """Return the process that `command` runs as the first of its namespace, by the id of who
    started it.
    """
    (child,) = Path(f"/proc/{runner}/task/{runner}/children").read_text().split()
    return int(child)


def _blob(layout: Path, descriptor: Mapping[str, Any]) -> Path:
    return layout / "blobs" / str(descriptor["digest"]).replace(":", "/")


def _read(layout: Path, descriptor: Mapping[str, Any]) -> dict[str, Any]:
    found = json.loads(_blob(layout, descriptor).read_text())
    assert isinstance(found, dict)
    return found


def _unpack(layer: Path, into: Path) -> None:
    """Lay one layer over what is there; a file `.wh.NAME` says that NAME is gone."""
    subprocess.run(["tar", "-xf", layer, "-C", into], check=True)
    for mark in [*into.rglob(".wh.*")]:
        gone = mark.with_name(mark.name.removeprefix(".wh."))
        assert gone.name != ".wh..opq", "a folder that hides all below it is not unpacked here"
        mark.unlink()
        if gone.is_dir() and not gone.is_symlink():
            shutil.rmtree(gone)
        else:
            gone.unlink(missing_ok=True)
