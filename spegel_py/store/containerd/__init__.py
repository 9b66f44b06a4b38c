"""containerd's content as the store: read over gRPC, or from its folder where that is mounted."""

from spegel_py.store.containerd.containerd_store import (
    ContainerdIngests,
    ContainerdStore,
    check_content_path,
    check_socket,
)
from spegel_py.store.containerd.containerd_watcher import ContainerdWatcher
from spegel_py.store.containerd.cri import CriStatus, ImageSettings, content_root, cri_status
from spegel_py.store.containerd.grpc_client import Client

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
