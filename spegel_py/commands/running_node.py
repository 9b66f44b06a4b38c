"""A running node, asked over HTTP at its metrics address.

A failure becomes a one-line error with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode, urlsplit

from spegel_py import settings, values
from spegel_py.commands.config_file_flag import add_config_flag, other_settings
from spegel_py.commands.output import add_output_flags
from spegel_py.errors import ConfigError, NodeError
from spegel_py.settings import Setting
from spegel_py.tools.addresses import is_http_url, local_url

TIMEOUT = 10.0
"""Seconds to wait for a response; a lookup takes three at most."""

_REFUSALS = (400, 403, 409)
"""Statuses of responses in which a node explains why it refuses a request."""

SETTINGS = (
    Setting("metrics_addr", values.address, ":9090", "the node's metrics address, on this machine"),
)


def add_node_flags(parser: argparse.ArgumentParser) -> None:
    """Give the parser the flags that choose a node, `--json` and `--wide`."""
    add_address_flags(parser)
    add_output_flags(parser)


def add_address_flags(parser: argparse.ArgumentParser) -> None:
    """Give the parser the flags that choose a node."""
    settings.add_flags(parser, SETTINGS)
    add_config_flag(parser)
    parser.add_argument(
        "--node", metavar="URL", help="a node anywhere, as in http://10.0.0.1:9090 or 10.0.0.1:9090"
    )


class RunningNode:
    """A running node, asked at the `url` of its metrics port."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __repr__(self) -> str:
        return f"<RunningNode {self.url}>"

    @classmethod
    def of(cls, options: argparse.Namespace) -> RunningNode:
        """Return the node that the flags or the environment name. Raises ConfigError."""
        if options.node is not None:
            return cls(_url(options.node))
        given = settings.resolve(
            SETTINGS,
            flags=vars(options),
            environment=os.environ,
            file=options.config,
            others=other_settings(),
        )
        return cls(local_url(given["metrics_addr"]))

    def ask(self, path: str, **query: object) -> dict[str, Any]:
        """Return the JSON object at `path`.

        Raises NodeError if there is no response, or not a node's.
        """
        target = f"{path}?{urlencode(query)}" if query else path
        status, server, body = self._get(target)
        answer = _json(body)
        if status != 200 or not isinstance(answer, dict):
            raise self._refused(path, status, server, answer)
        return answer

    def follow(self, path: str, **query: object) -> Iterator[dict[str, Any]]:
        """Start an action of the node, and yield its progress as JSON objects, to the end.

        Raises NodeError as `ask` does, and if the node breaks off.
        """
        with self._asked(
            "POST", f"{path}?{urlencode(query)}", Accept="application/x-ndjson"
        ) as answer:
            if answer.status != 200:
                raise self._refused(
                    path, answer.status, answer.getheader("Server", ""), _json(answer.read())
                )
            for line in answer:
                yield json.loads(line)

    def _refused(self, path: str, status: int, server: str, answer: object) -> NodeError:
        """Return the error for a response that is not the requested one."""
        if status in _REFUSALS and isinstance(answer, dict) and answer.get("errors"):
            return NodeError(f"{self.url}: {answer['errors'][0]['message']}")
        return NodeError(
            f"{self.url}{path} answers {status} and no state of a node: "
            f"{self._guess_program(server)}"
        )

    def _guess_program(self, server: str) -> str:
        """Return a guess at the program that answered, and advice."""
        status, _, page = self._get("/metrics")
        if status == 200 and b"go_info" in page:
            return "that is Spegel (Go), which tells its metrics only; ask a node of spegel-py"
        if status != 200 and server.startswith("spegel-py"):
            return "that is another of its addresses; give its metrics address (:9090 by default)"
        return (
            "that is another program, an older spegel-py, or not its metrics address (:9090 by "
            "default)"
        )

    def _get(self, target: str) -> tuple[int, str, bytes]:
        """Return a response's status, its Server header and its body.

        Raises NodeError if there is none.
        """
        with self._asked("GET", target) as answer:
            return answer.status, answer.getheader("Server", ""), answer.read()

    @contextlib.contextmanager
    def _asked(
        self, method: str, target: str, **headers: str
    ) -> Iterator[http.client.HTTPResponse]:
        """Give a response while the block lasts. Raises NodeError without a complete one."""
        parts = urlsplit(self.url)
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        try:
            with contextlib.closing(
                kind(parts.hostname or "", parts.port, timeout=TIMEOUT)
            ) as connection:
                connection.request(method, parts.path.rstrip("/") + target, headers=headers)
                yield connection.getresponse()
        except http.client.BadStatusLine as error:
            raise NodeError(
                f"what answers at {self.url} speaks no HTTP, as a node's router address does not: "
                "give its metrics "
                "address (:9090 by default)"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise NodeError(
                f"no node answers at {self.url} ({reason}): start spegel-py registry, or say with "
                "--metrics-addr or "
                "--node where its metrics address is"
            ) from error


def at_most(most: int) -> Callable[[str], int]:
    """Return a parser for the number of items shown, for argparse."""

    def parse(text: str) -> int:
        try:
            return int(values.integer(1, most)(text))
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse


def _json(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError:
        return None


def _url(text: str) -> str:
    url = text if "://" in text else f"http://{text}"
    if not is_http_url(url):
        raise ConfigError(f"--node: {text!r} is no URL of a node: write http://10.0.0.1:9090")
    return url.rstrip("/")
