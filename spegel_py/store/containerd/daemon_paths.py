"""Checks of containerd's socket and content path before they are used. They may block."""

from __future__ import annotations

import grp
import os
import stat
from pathlib import Path

from spegel_py.errors import ConfigError, StoreUnavailable

_METADATA = "io.containerd.metadata.v1.bolt"
"""The folder that every containerd creates beside its content folder, at its first start."""


def check_socket(socket: Path) -> None:
    """Raise unless `socket` is a Unix socket that this process may use.

    Raises StoreUnavailable for a socket that does not exist yet, ConfigError for other faults.
    """
    advice = "give containerd's socket, usually /run/containerd/containerd.sock"
    try:
        mode = socket.stat().st_mode
    except PermissionError as error:
        raise ConfigError(
            f"{socket} cannot be reached by user {os.geteuid()}; run as root"
        ) from error
    except FileNotFoundError as error:
        raise StoreUnavailable(
            f"there is no {socket} yet; start containerd, or {advice}"
        ) from error
    except OSError as error:
        raise ConfigError(f"{socket} cannot be reached: {error.strerror}; {advice}") from error
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{socket} is not a socket; {advice}")
    if not os.access(socket, os.R_OK | os.W_OK):
        raise ConfigError(
            f"{socket} may not be used by user {os.geteuid()}; run as root{_or_as_member(socket)}"
        )


def _or_as_member(socket: Path) -> str:
    """Return the advice to join the socket's group, if its members may use the socket."""
    found = socket.stat()
    if found.st_mode & 0o060 != 0o060:
        return ""
    try:
        return f", or as a member of the group {grp.getgrgid(found.st_gid).gr_name}"
    except KeyError:
        return f", or as a member of the group {found.st_gid}"


def check_content_path(content_path: Path | None) -> None:
    """Raise unless `content_path` is containerd's content store, or None (not mounted).

    Before the first pull the folder may be empty. It may also be missing, if its parent belongs to
    containerd.

    Raises StoreUnavailable for a folder that does not exist yet, ConfigError for other faults.
    """
    if content_path is None:
        return
    advice = (
        "mount containerd's io.containerd.content.v1.content there, "
        "or set it none to read over the socket"
    )
    try:
        is_there = content_path.exists()
        if not is_there and (content_path.parent / _METADATA).is_dir():
            return
    except PermissionError as error:
        raise ConfigError(
            f"the content path {content_path} cannot be reached by user {os.geteuid()}; run as root"
        ) from error
    if not is_there:
        raise StoreUnavailable(
            f"there is no content path {content_path} yet; start containerd, or {advice}"
        )
    if not content_path.is_dir():
        raise ConfigError(f"the content path {content_path} is not a folder; {advice}")
    if not os.access(content_path, os.R_OK | os.X_OK):
        raise ConfigError(
            f"the content path {content_path} cannot be read by user {os.geteuid()}; run as root"
        )
    names = {path.name for path in content_path.iterdir()}
    if names and not names & {"blobs", "ingest"}:
        raise ConfigError(
            f"the content path {content_path} holds neither blobs nor ingest; {advice}"
        )
