"""The HTTP face: the OCI distribution spec's pull category for containerd and the peers."""
