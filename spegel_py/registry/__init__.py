"""The OCI face: the pull half of the distribution API, and the probes."""
