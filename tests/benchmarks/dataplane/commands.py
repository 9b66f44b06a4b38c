"""What is run: the commands of the candidates and of their peer, and the addresses they stand on.

The addresses are private ones on the loopback interface of a network namespace, since Spegel tells
nobody of an address in 127.0.0.0/8; each has the same port, since Spegel asks every peer at the
port that is its own.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tests.benchmarks.dataplane.peer import REGISTRY_PORT, ROUTER_PORT
from tests.benchmarks.dataplane.plan import OURS, REFERENCE, VERIFIED, VERIFYING
from tests.support.containerd import Daemon
from tests.support.processes import run

SPEGEL = os.environ.get("SPEGEL_BIN", "")
"""Spegel's binary; without one its column, and what is wanted against it, is left out."""

PEER = "10.77.0.1"
NAMES = (OURS, REFERENCE, "Go", "nginx", "aiohttp", VERIFYING)
HOSTS = {name: f"10.77.0.{number}" for number, name in enumerate(NAMES, start=2)}
"""The candidates by name."""

_NGINX = """\
daemon off;
user root;
worker_processes auto;
pid nginx.pid;
events {{ worker_connections 256; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  default_type application/octet-stream;
  client_body_temp_path body;
  fastcgi_temp_path fastcgi;
  proxy_temp_path proxy;
  scgi_temp_path scgi;
  uwsgi_temp_path uwsgi;
  upstream peer {{ server {peer}; keepalive 16; }}
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_buffering on;
  proxy_buffer_size 256k;
  proxy_buffers 8 256k;
  proxy_busy_buffers_size 512k;
  proxy_max_temp_file_size 0;
  server {{
    listen {address};
    root {blobs};
    location ~ "sha256:(?<name>[0-9a-f]+)$" {{ try_files /$name @peer; }}
    location @peer {{ proxy_pass http://peer; }}
  }}
}}
"""


def missing() -> dict[str, str]:
    """Return which candidates cannot run here, and why."""
    found = {} if SPEGEL else {REFERENCE: "SPEGEL_BIN names no binary"}
    needed = {"Go": "go", "nginx": "nginx"}
    return found | {
        name: f"no {command} here"
        for name, command in needed.items()
        if shutil.which(command) is None
    }


async def prepare_network() -> None:
    """Give loopback the addresses; this process must be in a network namespace of its own."""
    await run("ip", "link", "set", "lo", "up")
    for host in (PEER, *HOSTS.values()):
        await run("ip", "addr", "add", f"{host}/32", "dev", "lo")


def peer_command(blobs: Path) -> list[str]:
    return _module("peer", PEER, str(blobs))


async def command(name: str, folder: Path, daemon: Daemon, peer_id: str) -> list[str]:
    """Return the command of a candidate, which may use `folder`; Go's is built first."""
    folder.mkdir()
    host, blobs, peer = (
        HOSTS[name],
        daemon.content_path / "blobs" / "sha256",
        f"{PEER}:{REGISTRY_PORT}",
    )
    match name:
        case "Go":
            source = Path(__file__).with_name("proxy.go")
            await run("go", "build", "-o", str(folder / "proxy"), str(source), deadline=300)
            return [str(folder / "proxy"), f"{host}:{REGISTRY_PORT}", str(blobs), f"http://{peer}"]
        case "nginx":
            config = _NGINX.format(peer=peer, address=f"{host}:{REGISTRY_PORT}", blobs=blobs)
            (folder / "nginx.conf").write_text(config)
            return ["nginx", "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]
        case "aiohttp":
            return _module("aiohttp_server", host, str(REGISTRY_PORT), str(blobs), f"http://{peer}")
        case _:
            program = [SPEGEL, "registry"]
            if name in VERIFIED:
                program = [
                    sys.executable,
                    "-m",
                    "spegel_py",
                    "registry",
                    "--verify-blobs",
                    VERIFIED[name],
                ]
            return [*program, *_flags(host, folder, daemon, peer_id)]


def _flags(host: str, folder: Path, daemon: Daemon, peer_id: str) -> list[str]:
    """Return the flags of a node, which are the same for ours and for Spegel."""
    flags = {
        "registry-addr": f"{host}:{REGISTRY_PORT}",
        "router-addr": f"{host}:{ROUTER_PORT}",
        "metrics-addr": f"{host}:9090",
        "containerd-sock": daemon.socket,
        "containerd-content-path": daemon.content_path,
        "bootstrap-kind": "static",
        "static-bootstrap-peers": f"/ip4/{PEER}/tcp/{ROUTER_PORT}/p2p/{peer_id}",
        "data-dir": folder,
    }
    return [text for name, value in flags.items() for text in (f"--{name}", str(value))]


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"tests.benchmarks.dataplane.{name}", *arguments]
