"""The peer that relayed content comes from:
`python -m tests.benchmarks.dataplane.peer HOST FOLDER`.

A plain file server with blocking sendfile, the same for all candidates, that answers as a registry
does; beside it a member of the DHT tells the candidates that look there who has the blobs. It
prints its peer id.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from spegel_py.oci.distribution import PullRequest
from spegel_py.routing.libp2p.bootstrap import StaticBootstrap
from spegel_py.routing.libp2p.router import Libp2pRouter
from spegel_py.routing.libp2p.router_settings import RouterSettings
from spegel_py.telemetry import logging

REGISTRY_PORT, ROUTER_PORT = 5000, 5001
"""The registry's is that of all candidates: Spegel asks every peer at the port that is its own."""


class Handler(BaseHTTPRequestHandler):
    """Answers with the file that has the digest's name."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    folder: Path

    def do_GET(self) -> None:
        pull = PullRequest.parse(
            method=self.command, target=self.path, headers=self.headers.items()
        )
        assert pull.digest is not None, "only blobs are asked for"
        with (self.folder / pull.digest.hex).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start, length = pull.range.resolve(size) if pull.range else (0, size)
            self.send_response(HTTPStatus.PARTIAL_CONTENT if pull.range else HTTPStatus.OK)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(length))
            self.send_header("Docker-Content-Digest", str(pull.digest))
            if pull.range:
                self.send_header("Content-Range", f"bytes {start}-{start + length - 1}/{size}")
            self.end_headers()
            while length:
                sent = os.sendfile(self.connection.fileno(), file.fileno(), start, length)
                start, length = start + sent, length - sent

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        """Log no request."""


class Server(ThreadingHTTPServer):
    """Holds as many connections as 16 clients of a candidate may make at once."""

    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a candidate that hangs up, as each does when its own client was cut
        off.
        """


async def _tell(host: str, digests: list[str]) -> None:
    settings = RouterSettings(
        key=Ed25519PrivateKey.generate(),
        host=host,
        port=ROUTER_PORT,
        registry_host=host,
        registry_port=REGISTRY_PORT,
        interval=4.0,
        mesh_limit=128,
        replication=20,
        agent="bench",
    )
    bootstrap = StaticBootstrap([f"/ip4/{host}/tcp/{ROUTER_PORT}"], router_port=ROUTER_PORT)
    router = Libp2pRouter(settings=settings, bootstrap=bootstrap)
    async with router.running():
        await router.advertise(digests)
        print(router.id, flush=True)
        await asyncio.Event().wait()


def main(host: str, folder: Path) -> None:
    """Serve the files of a folder, each of which is named by its sha256, until killed."""
    logging.configure(level="WARNING", log_format="console")
    Handler.folder = folder
    server = Server((host, REGISTRY_PORT), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    asyncio.run(_tell(host, [f"sha256:{path.name}" for path in folder.iterdir()]))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
