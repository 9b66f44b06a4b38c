"""`spegel-py cleanup`: restore containerd's `config_path`, then serve a probe until SIGTERM.

The folder is locked while the probe is served, so a Pod that starts while the release is being
deleted cannot configure its node again. If a program without the lock changes the folder, it is
restored again.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web

from spegel_py import settings, values
from spegel_py.errors import ConfigError
from spegel_py.host import original
from spegel_py.host.configuration import CONFIG_PATH
from spegel_py.host.disk_steps import Disk
from spegel_py.host.host_files import locked
from spegel_py.settings import Setting
from spegel_py.telemetry import logging
from spegel_py.telemetry.logging import LOGGING
from spegel_py.tools.addresses import split_host_port

log = structlog.get_logger(__name__)

CHECK_INTERVAL = 5.0
"""Seconds between two checks of a locked folder.

Only a program that ignores the lock, such as Spegel's, can have configured it again.
"""

LOCK_DEADLINE = 60.0
"""Seconds to wait for the lock: the clean-up of an earlier uninstallation may still hold it."""


def _address(given: Any) -> str:
    """Return an address to listen on; empty for none."""
    return values.address(given) if given else ""


SETTINGS = (
    *LOGGING,
    CONFIG_PATH,
    Setting(
        "addr",
        _address,
        None,
        ("address of the readiness probe, such as :8080; '': end once all files are put back"),
    ),
    Setting(
        "linger",
        values.seconds(0, 3600),
        0.0,
        "time after SIGTERM for which the folder stays locked against a new configuration",
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the arguments of `cleanup`."""
    settings.add_flags(parser, SETTINGS)


def run(args: argparse.Namespace) -> int:
    """Restore the folder, then serve the probe until SIGTERM; returns 0.

    Raises ConfigError, HostError.
    """
    values = settings.resolve(SETTINGS, flags=vars(args), environment=os.environ, file=None)
    logging.configure(level=values["log_level"], log_format=values["log_format"])
    if values["addr"] is None:
        raise ConfigError(
            "--addr (or ADDR) is missing: give :8080 to serve a readiness probe, or '' to serve "
            "none"
        )
    asyncio.run(
        _clean_up(
            values["containerd_registry_config_path"], values["addr"], linger=values["linger"]
        )
    )
    return 0


async def _clean_up(root: Path, address: str, *, linger: float) -> None:
    is_ended = asyncio.Event()
    # Set first, because a container's first process gets only signals that it handles.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, is_ended.set)
    if not address:
        await asyncio.to_thread(clean_up, root, Disk())
        return
    with ExitStack() as lock:
        if await asyncio.to_thread(root.is_dir):
            await asyncio.to_thread(lock.enter_context, locked(root, deadline=LOCK_DEADLINE))
        await asyncio.to_thread(clean_up, root, Disk(), is_locked=True)
        async with serve_probe(address):
            await _keep_clean(root, is_ended, linger=linger)


async def _keep_clean(root: Path, is_ended: asyncio.Event, *, linger: float) -> None:
    """Restore a locked folder whenever it was configured, until `linger` seconds after the end.

    The last check is at the very end.
    """
    loop = asyncio.get_running_loop()
    end = math.inf
    while True:
        is_last = loop.time() >= end
        if await asyncio.to_thread((root / original.BACKUP).is_dir):
            await asyncio.to_thread(clean_up, root, Disk(), is_locked=True)
        if is_last:
            return
        if end == math.inf:
            with suppress(TimeoutError):
                await asyncio.wait_for(is_ended.wait(), CHECK_INTERVAL)
            end = loop.time() + linger if is_ended.is_set() else end
        else:
            await asyncio.sleep(min(CHECK_INTERVAL, max(0.0, end - loop.time())))


def clean_up(root: Path, disk: Disk, *, is_locked: bool = False) -> None:
    """Restore the original content of `root`; a second run changes nothing.

    `is_locked` is True if the caller holds the folder's lock.
    """
    if original.restore(root, disk, is_locked=is_locked):
        log.info("containerd's configuration is put back", path=str(root))
    else:
        log.info("nothing to put back: there is no backup", path=str(root / original.BACKUP))


@asynccontextmanager
async def serve_probe(address: str) -> AsyncIterator[int]:
    """Serve Spegel's readiness probe; give the bound port. Raises ConfigError."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", _probe)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    listener = _listen(address)
    try:
        await runner.setup()
        await web.SockSite(runner, listener).start()
        port = int(listener.getsockname()[1])
        log.info("the probe is served until SIGTERM", port=port)
        yield port
    finally:
        await runner.cleanup()
        listener.close()


async def _probe(request: web.Request) -> web.Response:
    # Either condition is enough, as in Spegel.
    is_known = request.method == "GET" or request.path == "/readyz"
    return web.Response(status=200 if is_known else 404)


def _listen(address: str) -> socket.socket:
    host, port = split_host_port(address)
    try:
        if host in ("", "::") and socket.has_dualstack_ipv6():
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        raise ConfigError(
            f"--addr: cannot listen on {address}: {error.strerror}; all is put back already"
        ) from error
