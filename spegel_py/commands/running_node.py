"""Asking a node on its metrics address, and saying in one line why it does not tell."""

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
from spegel_py.errors import ConfigError, NodeError
from spegel_py.settings import Setting
from spegel_py.tools.addresses import is_http_url, local_url

TIMEOUT = 10.0
"""Seconds to wait for an answer; a lookup takes three at most."""

_REFUSALS = (400, 403, 409)
"""Answers with which a node says why it does not do what it is asked for."""

SETTINGS = (
    Setting("metrics_addr", values.address, ":9090", "the node's metrics address, on this machine"),
)


def add_node_flags(parser: argparse.ArgumentParser) -> None:
    """Give the parser the flags that say which node is asked, and `--json`."""
    add_address_flags(parser)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object and nothing else"
    )


def add_address_flags(parser: argparse.ArgumentParser) -> None:
    """Give the parser the flags that say which node is asked."""
    settings.add_flags(parser, SETTINGS)
    parser.add_argument(
        "--node", metavar="URL", help="a node anywhere, as in http://10.0.0.1:9090 or 10.0.0.1:9090"
    )


class RunningNode:
    """A node that is asked at the `url` of its metrics page."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __repr__(self) -> str:
        return f"<RunningNode {self.url}>"

    @classmethod
    def of(cls, options: argparse.Namespace) -> RunningNode:
        """Return the node that the flags or the environment name. Raises ConfigError."""
        if options.node is not None:
            return cls(_url(options.node))
        given = settings.resolve(SETTINGS, flags=vars(options), environment=os.environ, file=None)
        return cls(local_url(given["metrics_addr"]))

    def ask(self, path: str, **query: object) -> dict[str, Any]:
        """Return the JSON object at `path`. Raises NodeError: nobody answers, or not what a node would."""
        target = f"{path}?{urlencode(query)}" if query else path
        status, server, body = self._get(target)
        answer = _json(body)
        if status != 200 or not isinstance(answer, dict):
            raise self._refused(path, status, server, answer)
        return answer

    def follow(self, path: str, **query: object) -> Iterator[dict[str, Any]]:
        """Have the node do something, and yield what it tells of that, one JSON object after the other, to its end.

        Raises NodeError as `ask` does, and when the node breaks off.
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
        """Return what to say of an answer that is not what was asked for."""
        if status in _REFUSALS and isinstance(answer, dict) and answer.get("errors"):
            return NodeError(f"{self.url}: {answer['errors'][0]['message']}")
        return NodeError(
            f"{self.url}{path} answers {status} and no state of a node: {self._stranger(server)}"
        )

    def _stranger(self, server: str) -> str:
        """Return what it may be that answered in a node's place, and what to do."""
        status, _, page = self._get("/metrics")
        if status == 200 and b"go_info" in page:
            return "that is Spegel (Go), which tells its metrics only; ask a node of spegel-py"
        if status != 200 and server.startswith("spegel-py"):
            return "that is another of its addresses; give its metrics address (:9090 by default)"
        return "that is another program, an older spegel-py, or not its metrics address (:9090 by default)"

    def _get(self, target: str) -> tuple[int, str, bytes]:
        """Return an answer's status, who says that he gave it, and its body. Raises NodeError: there is none."""
        with self._asked("GET", target) as answer:
            return answer.status, answer.getheader("Server", ""), answer.read()

    @contextlib.contextmanager
    def _asked(
        self, method: str, target: str, **headers: str
    ) -> Iterator[http.client.HTTPResponse]:
        """Give an answer while the block lasts. Raises NodeError: there is none, or not all of one."""
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
                f"what answers at {self.url} speaks no HTTP, as a node's router address does not: give its metrics "
                "address (:9090 by default)"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise NodeError(
                f"no node answers at {self.url} ({reason}): start spegel-py registry, or say with --metrics-addr or "
                "--node where its metrics address is"
            ) from error


def at_most(most: int) -> Callable[[str], int]:
    """Return what reads a number of things to be shown, as argparse wants it."""

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
