"""containerd's content as the store: read over gRPC, or from its folder where that is mounted."""

from spegel_py.store.containerd.containerd_store import (
    ContainerdIngests,
    ContainerdStore,
)
from spegel_py.store.containerd.containerd_watcher import ContainerdWatcher, ContentAccess
from spegel_py.store.containerd.content_folder import ContentFolder, FolderState, choose, look
from spegel_py.store.containerd.cri import CriStatus, ImageSettings, content_root, cri_status
from spegel_py.store.containerd.cri_images import CriImages
from spegel_py.store.containerd.daemon_paths import check_content_path, check_socket
from spegel_py.store.containerd.grpc_client import Client
from spegel_py.store.containerd.leases import Leases
from spegel_py.store.containerd.other_namespaces import OtherNamespaces

__all__ = [
    "Client",
    "ContainerdIngests",
    "ContainerdStore",
    "ContainerdWatcher",
    "ContentAccess",
    "ContentFolder",
    "CriImages",
    "CriStatus",
    "FolderState",
    "ImageSettings",
    "Leases",
    "OtherNamespaces",
    "check_content_path",
    "check_socket",
    "choose",
    "content_root",
    "cri_status",
    "look",
]
