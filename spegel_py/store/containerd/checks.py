"""What is looked at before the node starts: each check raises in one line that says what to do.

ConfigError for what waiting does not mend; StoreUnavailable for what is not there yet: containerd may come later.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from spegel_py.errors import ConfigError, StoreUnavailable

_METADATA = "io.containerd.metadata.v1.bolt"
"""The folder that every containerd makes, at its first start, beside its content."""


def check_socket(socket: Path) -> None:
    """Raise unless `socket` is a Unix socket that may be connected to."""
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
            f"{socket} may not be used by user {os.geteuid()}; run as root or change its group"
        )


def check_content_path(content_path: Path | None) -> None:
    """Raise unless `content_path` is containerd's content store; None, not mounted, is right too.

    A daemon that never pulled has nothing there: an empty folder is right, and none in a folder of containerd's.
    """
    if content_path is None or (
        not content_path.exists() and (content_path.parent / _METADATA).is_dir()
    ):
        return
    advice = "mount containerd's io.containerd.content.v1.content there, or set it empty to read over the socket"
    if not content_path.exists():
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
