"""The process that listens on a port of this machine, for error texts."""

from __future__ import annotations

import errno
import socket


def listener(port: int) -> str:
    """Return a listening process in words, such as `spegel-py, process 4711`.

    It is "another process" if its name is hidden from this user, or it is in another container.
    """
    import psutil

    try:
        found = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):
        return "another process"
    for one in found:
        if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port and one.pid:
            try:
                return f"{psutil.Process(one.pid).name()}, process {one.pid}"
            except psutil.Error:
                return f"process {one.pid}"
    return "another process"


def explain_listening(error: OSError, port: int) -> str:
    """Return why a port cannot be listened on, in a few words."""
    match error:
        case socket.gaierror():
            return "there is no such host"
        case OSError(errno=errno.EADDRINUSE):
            return f"the port is in use by {listener(port)}"
        case OSError(errno=errno.EADDRNOTAVAIL):
            return "the address is not one of this machine"
        case OSError(errno=errno.EACCES):
            return "ports below 1024 need the capability NET_BIND_SERVICE"
        case _:
            return error.strerror or str(error)
