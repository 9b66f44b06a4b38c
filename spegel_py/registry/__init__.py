"""The HTTP face: the pull half of the OCI distribution API, the probes, and the metrics page."""
