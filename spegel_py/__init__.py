"""A peer-to-peer container image cache: every node is an OCI registry mirror for its neighbours."""

__version__ = "0.1.0"
