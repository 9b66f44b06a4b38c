"""A peer-to-peer cache of container images: every node is an OCI registry mirror for its peers."""

from spegel_py.tools.spared_imports import install

__version__ = "0.1.0"

install()
