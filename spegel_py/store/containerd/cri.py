"""The settings of a running daemon: 1.x reports them in the CRI's status, 2.4 as exports of its
plugins.

Versions 2.0 to 2.3 report neither. Their status has lost the image settings, and no plugin exports
them yet.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from spegel_py.store.containerd.api import cri_pb2, introspection_pb2
from spegel_py.store.containerd.grpc_client import Client
from spegel_py.store.containerd.grpc_errors import NotServed

_RUNTIME = "/runtime.v1.RuntimeService"
_INTROSPECTION = "/containerd.services.introspection.v1.Introspection"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSettings:
    """The image settings of a daemon's CRI. Unknown ones have their defaults."""

    config_path: str
    """Folders of hosts.toml files, with `:` between them, in the order of their search; "" for
    none.
    """
    discards_layers: bool
    has_mirrors: bool = False
    """Whether the older `registry.mirrors` is set. It excludes `config_path`."""
    pulls_locally: bool = False
    """Whether `use_local_image_pull` is set (2.1 and later)."""
    snapshotter: str = field(default="", compare=False)
    """The snapshotter of images; "" if it is not reported. A file's settings leave it out."""


@dataclass(frozen=True, slots=True)
class CriStatus:
    """Whether a daemon serves the CRI, and its image settings; None if it does not report them."""

    is_served: bool
    images: ImageSettings | None = None


async def cri_status(client: Client) -> CriStatus:
    """Return the daemon's status. Raises StoreUnavailable, also while the CRI is starting."""
    request = cri_pb2.StatusRequest(verbose=True)
    try:
        answer = await client.call(f"{_RUNTIME}/Status", request, cri_pb2.StatusResponse)
    except NotServed:
        return CriStatus(is_served=False)
    info = {entry.key: entry.value for entry in answer.info}
    exports = await _exports(client, "io.containerd.cri.v1", "images")
    return CriStatus(True, _from_exports(exports) or _from_status(info.get("config", "")))


async def content_root(client: Client) -> Path | None:
    """Return the folder of the daemon's content store, in the daemon's view; None if unknown."""
    root = (await _exports(client, "io.containerd.content.v1", "content")).get("root")
    return Path(root) if root else None


async def _exports(client: Client, kind: str, name: str) -> dict[str, str]:
    request = introspection_pb2.PluginsRequest(filters=[f'type=="{kind}",id=="{name}"'])
    answer = await client.call(
        f"{_INTROSPECTION}/Plugins", request, introspection_pb2.PluginsResponse
    )
    return {export.key: export.value for plugin in answer.plugins for export in plugin.exports}


def _from_exports(exports: dict[str, str]) -> ImageSettings | None:
    if "RegistryConfigPath" not in exports:
        return None
    return ImageSettings(
        config_path=exports["RegistryConfigPath"],
        discards_layers=exports.get("DiscardUnpackedLayers") == "true",
    )


def _from_status(config: str) -> ImageSettings | None:
    """Parse the status's `config`: containerd's own struct as JSON."""
    try:
        given = json.loads(config)
        registry, containerd = given["registry"], given["containerd"]
        return ImageSettings(
            config_path=registry["configPath"],
            discards_layers=containerd["discardUnpackedLayers"],
            snapshotter=str(containerd.get("snapshotter", "")),
            has_mirrors=bool(registry.get("mirrors")),
        )
    except (ValueError, KeyError, TypeError):
        return None
