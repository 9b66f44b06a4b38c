"""The addresses of the cluster. They exist only in network namespaces that the test makes."""

CONTROL_PLANE = "10.97.0.1"
"""The Kubernetes API on port 6443 and the name service on port 53."""

REGISTRY = "10.97.0.2:5000"
"""The registry's host and port, as they stand in references: `10.97.0.2:5000/test/app:1`."""

PODS = "10.97.16.0/20"
SERVICES = "10.97.128.0/20"
FIRST_SERVICE = "10.97.128.1"
"""The Service `kubernetes`, by which pods reach the API."""


def node(number: int) -> str:
    """Return the address of a node; the first one has number 1."""
    return f"10.97.0.{10 + number}"


def pods(number: int) -> str:
    """Return the network of a node's pods."""
    return f"10.97.{16 + number}.0/24"
