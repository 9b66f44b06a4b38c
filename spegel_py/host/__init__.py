"""The machine that a node runs on: containerd's hosts.toml files, and the doctor's checks."""
