"""The errors of containerd's gRPC API as errors of this package."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from spegel_py.errors import ContentNotFound, StoreError, StoreFull, StoreUnavailable
from spegel_py.store.containerd.grpc_channel import BROKEN
from spegel_py.wording import containerd_away

LATE = "no answer in time"
"""The cause of a failed call where the daemon was silent."""


class AlreadyExists(StoreUnavailable):
    """The daemon has such a thing already."""


class Locked(StoreUnavailable):
    """Another client writes the same ingest."""


class NotServed(StoreUnavailable):
    """The daemon does not serve this call."""


class CallFailed(StoreUnavailable):
    """The daemon carried the call out, and it failed."""


class ContentRefused(StoreUnavailable):
    """The daemon found another length or digest than was expected."""


_KINDS: Mapping[Status, type[StoreUnavailable]] = {
    Status.ALREADY_EXISTS: AlreadyExists,
    Status.FAILED_PRECONDITION: ContentRefused,
    Status.OUT_OF_RANGE: ContentRefused,
    Status.UNIMPLEMENTED: NotServed,
    Status.UNKNOWN: CallFailed,
    Status.INVALID_ARGUMENT: CallFailed,
}


def translate(error: GRPCError | OSError, socket: Path) -> StoreError:
    """Return the error of this package for a call that failed or found no connection."""
    if isinstance(error, OSError):
        return StoreUnavailable(containerd_away(socket, error.strerror or BROKEN))
    details = error.message or ""
    if os.strerror(errno.ENOSPC).lower() in details.lower():
        return StoreFull(f"the disk of containerd is full: {details}")
    match error.status:
        case Status.NOT_FOUND:
            return ContentNotFound(f"containerd: {details}")
        case Status.UNAVAILABLE if " locked" in details:
            return Locked(f"containerd: {details}")
        case Status.UNAVAILABLE | Status.DEADLINE_EXCEEDED as status:
            is_late = status is Status.DEADLINE_EXCEEDED
            return StoreUnavailable(containerd_away(socket, LATE if is_late else BROKEN))
        case status:
            kind = _KINDS.get(status, StoreUnavailable)
            return kind(f"containerd: {status.name.lower().replace('_', ' ')}: {details}")
