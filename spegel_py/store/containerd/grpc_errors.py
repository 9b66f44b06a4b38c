"""The errors of containerd's gRPC API as errors of this package."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import grpc
import grpc.aio

from spegel_py.errors import ContentNotFound, StoreError, StoreFull, StoreUnavailable
from spegel_py.wording import containerd_away

LATE = "no answer in time"
"""The cause of a failed call where the daemon was silent."""

_CAUSES = tuple(map(os.strerror, (errno.ENOENT, errno.ECONNREFUSED, errno.EACCES)))
"""Errors of the operating system that stand somewhere in a text of gRPC."""


class AlreadyExists(StoreUnavailable):
    """The daemon has such a thing already."""


class Locked(StoreUnavailable):
    """Another client writes the same ingest."""


class ContentRefused(StoreUnavailable):
    """The daemon found another length or digest than was expected."""


def translate(error: grpc.aio.AioRpcError, socket: Path) -> StoreError:
    """Return the error of this package for a failed call."""
    details = error.details() or ""
    match error.code():
        case grpc.StatusCode.NOT_FOUND:
            return ContentNotFound(f"containerd: {details}")
        case grpc.StatusCode.ALREADY_EXISTS:
            return AlreadyExists(explain(error, socket))
        case grpc.StatusCode.FAILED_PRECONDITION | grpc.StatusCode.OUT_OF_RANGE:
            return ContentRefused(explain(error, socket))
        case grpc.StatusCode.UNAVAILABLE if " locked" in details:
            return Locked(f"containerd: {details}")
    if os.strerror(errno.ENOSPC).lower() in details.lower():
        return StoreFull(f"the disk of containerd is full: {details}")
    return StoreUnavailable(explain(error, socket))


def _cause(details: str) -> str:
    if "timed out" in details:
        return LATE
    return next((cause for cause in _CAUSES if cause in details), "the connection broke")


def explain(error: grpc.aio.AioRpcError, socket: Path) -> str:
    """Return the reason of a failed call in words, without the texts of the gRPC library."""
    match error.code():
        case grpc.StatusCode.UNAVAILABLE:
            return containerd_away(socket, _cause(error.details() or ""))
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return containerd_away(socket, LATE)
        case code:
            return f"containerd: {code.name.lower().replace('_', ' ')}: {error.details()}"
