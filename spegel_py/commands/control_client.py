"""A running node of this machine, asked over its control socket.

The socket's path comes from a flag, else the node itself is asked for it at its metrics address.
"""

from __future__ import annotations

import argparse
import errno
import http.client
import json
import os
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

from spegel_py import settings, values
from spegel_py.commands.config_file_flag import add_config_flag, other_settings
from spegel_py.commands.running_node import SETTINGS, RunningNode
from spegel_py.errors import ConfigError, NodeError
from spegel_py.settings import Setting

AUTO = "auto"
"""The value for the socket that the node itself names."""

_SOCKET = Setting(
    "control_socket",
    values.text,
    AUTO,
    "the node's control socket; auto: the one that the node at metrics-addr names",
)

TIMEOUT = 20.0
"""Seconds to wait for an answer. A cancellation waits for containerd."""


def add_control_flags(parser: argparse.ArgumentParser) -> None:
    """Give the parser the flags that choose a node of this machine."""
    settings.add_flags(parser, (_SOCKET, *SETTINGS))
    add_config_flag(parser)
    parser.set_defaults(node=None)


class ControlClient:
    """A client of one control socket."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"<ControlClient {self.path}>"

    @classmethod
    def of(cls, options: argparse.Namespace) -> ControlClient:
        """Return the client of the node that the flags name. Raises ConfigError, NodeError."""
        given = settings.resolve(
            (_SOCKET,),
            flags=vars(options),
            environment=os.environ,
            file=options.config,
            others=other_settings(),
        )["control_socket"]
        if given not in (AUTO, "", values.NONE):
            return cls(Path(given))
        node = RunningNode.of(options)
        path = node.ask("/debug/state")["settings"].get("control_socket")
        if not path:
            raise NodeError(
                f"{node.url} has no control socket: give that node --data-dir or --control-socket"
            )
        return cls(Path(path))

    def ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Return the JSON object that the node answers.

        Raises ConfigError if the node finds the request wrong, NodeError without an answer.
        """
        data = None if body is None else json.dumps(body).encode()
        with closing(_UnixConnection(self.path)) as connection:
            try:
                connection.request(method, path, body=data)
                response = connection.getresponse()
                answer = json.loads(response.read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise NodeError(f"{self.path}: {_reason(error)}") from error
        if response.status < 300 and isinstance(answer, dict):
            return answer
        message = answer["errors"][0]["message"]
        if response.status == 400:
            raise ConfigError(message)
        raise NodeError(message)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _reason(error: Exception) -> str:
    match error:
        case OSError(errno=errno.EACCES):
            return "only the node's user and root may use it; try sudo"
        case OSError(errno=errno.ENOENT):
            return (
                "it is not there: does the node run, and on this machine? In a container, run the "
                "command in it"
            )
        case OSError(errno=errno.ECONNREFUSED):
            return "no node listens there any more: start spegel-py registry"
        case OSError():
            return error.strerror or str(error) or type(error).__name__
        case _:
            return f"what answers is no node ({type(error).__name__})"
