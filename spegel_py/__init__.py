"""A peer-to-peer cache of container images: every node is an OCI registry mirror for its peers."""

__version__ = "0.1.0"
