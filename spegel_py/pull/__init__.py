"""Pulling an image through a registry mirror into an OCI image layout, as a container runtime does."""

from spegel_py.pull.events import Event, Fetched, Finished, Interrupted, OnProgress, Opened, Planned
from spegel_py.pull.plan import Platform
from spegel_py.pull.session import PullReport, pull

__all__ = [
    "Event",
    "Fetched",
    "Finished",
    "Interrupted",
    "OnProgress",
    "Opened",
    "Planned",
    "Platform",
    "PullReport",
    "pull",
]
