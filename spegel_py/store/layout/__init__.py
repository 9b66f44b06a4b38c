"""An OCI image-layout folder as the store: without containerd, and as the target of `pull`."""

from spegel_py.store.layout.blob import BlobWriter
from spegel_py.store.layout.folder import check_layout
from spegel_py.store.layout.layout_store import LayoutIngests, LayoutStore
from spegel_py.store.layout.layout_watcher import LayoutWatcher
from spegel_py.store.layout.writer import LayoutWriter

__all__ = [
    "BlobWriter",
    "LayoutIngests",
    "LayoutStore",
    "LayoutWatcher",
    "LayoutWriter",
    "check_layout",
]
