"""containerd's content as the store: read over gRPC, or from its folder where that is mounted."""

from spegel_py.store.containerd.client import Client
from spegel_py.store.containerd.cri import CriStatus, ImageSettings, content_root, cri_status
from spegel_py.store.containerd.store import (
    ContainerdIngests,
    ContainerdStore,
    check_content_path,
    check_socket,
)
from spegel_py.store.containerd.watcher import ContainerdWatcher

__all__ = [
    "Client",
    "ContainerdIngests",
    "ContainerdStore",
    "ContainerdWatcher",
    "CriStatus",
    "ImageSettings",
    "check_content_path",
    "check_socket",
    "content_root",
    "cri_status",
]
