"""Pulling an image through a registry mirror into an OCI image layout, as a runtime does."""

from spegel_py.pull.plan import Platform
from spegel_py.pull.pull_events import (
    BlobFinished,
    BlobInterrupted,
    BlobOpened,
    BytesFetched,
    OnProgress,
    PullEvent,
    PullPlanned,
)
from spegel_py.pull.session import PullReport, pull

__all__ = [
    "BlobFinished",
    "BlobInterrupted",
    "BlobOpened",
    "BytesFetched",
    "OnProgress",
    "Platform",
    "PullEvent",
    "PullPlanned",
    "PullReport",
    "pull",
]
