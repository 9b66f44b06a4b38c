"""The OCI distribution and image specs as pure values and functions; standard library only."""
