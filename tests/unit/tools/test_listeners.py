"""The process that has a port is named where it can be known."""

from __future__ import annotations

import errno
import os
import socket

from spegel_py.tools.listeners import explain_listening


def test_the_process_at_a_port_is_named() -> None:
    """By its name and its id; a port without a process is another process's."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = explain_listening(OSError(errno.EADDRINUSE, "in use"), port)
    assert said.startswith("the port is in use by ")
    assert said.endswith(f", process {os.getpid()}")
    gone = explain_listening(OSError(errno.EADDRINUSE, "in use"), port)
    assert gone == "the port is in use by another process"
